"""How the base reads as its prompt grows: the same questions after the passages they need alone, then padded.

After Chroma's report on context rot (Hong, Troynikov and Huber 2025): only the length changes, never what is to be
done. Focused, a question stands after the one passage that answers it. Padded, after texts of 1,024 tokens, twice
that, and so on to the window's limit: the passages that the questions need, in a drawn order among others of the
same documents, and where those do not suffice, of general prose. All questions of a length share the text, so that
it is read once; what one answer takes alone is timed apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imprint.adapters.feed_forward import general_prose
from imprint.evaluation.closed_book import Question, grade, normalised
from imprint.evaluation.forgetting import general_text
from imprint.evaluation.open_book import ANSWER_TOKENS, Search, with_text
from imprint.evaluation.systems import Desk
from imprint.types import Passage

FOCUSED = 0
"""The length of a row that was asked after the needed passage alone."""
SHORTEST = 1024
_QUESTIONS = 24
"""Questions asked at each length."""
_NEEDED = 0.8
"""Share of the shortest text that may be passages which the questions need."""
_BESIDE = 256
"""Tokens left for the question and the template."""


@dataclass(frozen=True, slots=True)
class Needle:
    """A question, and the passage that answers it."""

    question: Question
    passage: Passage


@dataclass(frozen=True, slots=True)
class Read:
    """How the questions were answered after a text of one length."""

    length: int
    """Tokens of the text; FOCUSED for the needed passage alone."""
    right: tuple[float, ...]
    prompt_tokens: float
    """Mean length of the prompts."""
    seconds_alone: float
    """Of one answer, asked by itself."""


def needles(
    questions: Sequence[Question], search: Search, count_tokens: Callable[[str], int], *, seed: int
) -> list[Needle]:
    """Questions whose passage is known, of as few passages as the shortest text holds."""
    by_passage: dict[str, list[Needle]] = {}
    for question in questions:
        passage = passage_of(question, search)
        if passage is not None:
            by_passage.setdefault(passage.id, []).append(Needle(question, passage))
    groups = list(by_passage.values())
    random.Random(seed).shuffle(groups)
    groups.sort(key=len, reverse=True)  # several questions about one passage share what is read
    found: list[Needle] = []
    room = _NEEDED * SHORTEST
    for group in groups:
        tokens = count_tokens(group[0].passage.text)
        if tokens <= room:
            found += group
            room -= tokens
    return found[:_QUESTIONS]


def passage_of(question: Question, search: Search) -> Passage | None:
    """The passage in which a right answer stands; None where no search finds it."""
    for answer in question.answers:
        wanted = f" {normalised(answer)} "
        for passage in search(f"{question.text} {answer}"):
            if wanted.strip() and wanted in f" {normalised(passage.text)} ":
                return passage
    return None


def lengths(window_tokens: int) -> list[int]:
    """Lengths to try: from 1,024 tokens, each twice the last, to what the window holds beside the question."""
    most = window_tokens - ANSWER_TOKENS - _BESIDE
    found = [length for length in (SHORTEST * 2**i for i in range(20)) if length < 0.9 * most]
    return [*found, most] if most > 0 else []


def padded(
    needed: Sequence[Passage], padding: Sequence[str], length: int, count_tokens: Callable[[str], int], *, seed: int
) -> str | None:
    """A text of about so many tokens that holds the needed passages in a drawn order.

    None where there is too little text for it, or no room for what is needed."""
    pieces = [passage.text for passage in needed]
    held = sum(count_tokens(piece) + 2 for piece in pieces)
    if held > length:
        return None
    for piece in padding:
        tokens = count_tokens(piece) + 2
        if held + tokens <= length:
            pieces.append(piece)
            held += tokens
    if held < 0.8 * length:
        return None
    random.Random(seed).shuffle(pieces)
    return "\n\n".join(pieces)


def padding_for(
    needed: Sequence[Passage], passages: Sequence[Passage], others: Sequence[str], *, seed: int
) -> list[str]:
    """What the needed passages are padded with: the documents' other passages, then general prose."""
    ids = {passage.id for passage in needed}
    own = [passage.text for passage in passages if passage.id not in ids]
    random.Random(seed).shuffle(own)
    prose = [p for text in (*others, general_text()) for p in text.split("\n\n") if len(p.split()) > 8]
    return [*own, *prose, *general_prose()]


def read(desk: Desk, found: Sequence[Needle], text: str | None, length: int, wears: str = "") -> Read:
    """The questions after this text; where it is None, each after its own passage."""
    prompts = [with_text(text if text is not None else n.passage.text, n.question.asked) for n in found]
    answers = desk.write(prompts, wears)
    alone = desk.write(prompts[:1], wears)
    right = tuple(grade(n.question, said.text).contains for n, said in zip(found, answers.said, strict=True))
    return Read(length, right, answers.prompt_tokens / len(prompts), alone.seconds)
