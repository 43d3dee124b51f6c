"""The rivals, on the same questions: full context and RAG. Documents first, question last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imprint.types import Document, Passage, Prompt

Search = Callable[[str], list[Passage]]

ANSWER_TOKENS = 32
"""Room for an answer, the same for every system."""


def closed(question: str) -> Prompt:
    """The question alone."""
    return Prompt.ask(question, max_tokens=ANSWER_TOKENS)


def with_text(text: str, question: str) -> Prompt:
    """The question after a text. The order matters: the other way round, models answer far worse."""
    return Prompt.ask(f"{text}\n\n{question}", max_tokens=ANSWER_TOKENS)


@dataclass(frozen=True, slots=True)
class FullContext:
    """All documents, as many tokens as the base's window takes."""

    text: str
    left_out: tuple[str, ...]
    """What did not fit: sources of documents, the first with the share of it that was cut."""

    def prompt(self, question: str) -> Prompt:
        return with_text(self.text, question)


def full_context(
    documents: Sequence[Document], *, window_tokens: int, count_tokens: Callable[[str], int]
) -> FullContext:
    """Documents in order until the window, less room for question and answer, is full."""
    room = window_tokens - ANSWER_TOKENS - 256
    parts: list[str] = []
    left_out: list[str] = []
    for document in documents:
        n_tokens = count_tokens(document.text) + 2
        if n_tokens <= room and not left_out:
            parts.append(document.text)
            room -= n_tokens
        elif not left_out and room > 64:
            kept = _first_tokens(document.text, room - 2, count_tokens)
            parts.append(kept)
            share = 1 - len(kept) / len(document.text)
            left_out.append(f"the last {share:.0%} of {document.source}")
        else:
            left_out.append(document.source)
    return FullContext("\n\n".join(parts), tuple(left_out))


def rag(question: str, search: Search) -> Prompt:
    """The question after the passages found for it."""
    found = [f"{p.title}. {p.heading.split(' > ')[-1]}\n{p.text}" for p in search(question)]
    return with_text("\n\n".join(found), question) if found else closed(question)


def _first_tokens(text: str, room: int, count_tokens: Callable[[str], int]) -> str:
    """The longest beginning, to the word, of at most so many tokens."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(text[:middle]) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low].rsplit(" ", 1)[0] if low < len(text) else text
