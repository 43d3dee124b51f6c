"""What a writer is asked in the forms that the skill adapters were trained on.

A prompt names the skill it is for. A writer that carries that skill (skills/) puts it on; any other reads the
same plain words and answers as it can."""

from __future__ import annotations

import re
from typing import Any

from imprint.synthesis.prompt_files import filled
from imprint.types import Prompt, Turn

ABSTENTION = "Not in the text."
"""What the skill `read` says of a question that the text does not answer."""

QUESTION_TOKENS, ANSWER_TOKENS = 40, 32


_LABEL = re.compile(r"^\s*(?:[-*•]\s+|\*\*|\(?\d{1,2}[.):]\s+|(?:Q|A|Question|Answer)\s*\d*\s*[:.]\s*)")
"""What models set before a question or an answer: bullets, numbers, 'Q:'."""


def read(text: str, question: str, *, temperature: float = 0.0) -> Prompt:
    """The answer to a question in a few words of the text, or ABSTENTION."""
    turns = (Turn("user", f"{text}\n\n{question}"),)
    hint = filled("skills.read_hint.txt", abstention=ABSTENTION)
    return Prompt(turns, max_tokens=ANSWER_TOKENS, temperature=temperature, skill="read", hint=hint)


def ask(text: str, answer: str, *, begun: str = "", temperature: float = 0.0) -> Prompt:
    """A question about the text that this answer answers."""
    turns = (Turn("user", f"{text}\n\n{ask_words(answer)}"),)
    hint = filled("skills.ask_hint.txt")
    sampling: dict[str, Any] = {"max_tokens": QUESTION_TOKENS, "temperature": temperature, "stop": ("\n",)}
    return Prompt(turns, begun, **sampling, skill="ask", hint=hint)


def ask_several(text: str, count: int, *, temperature: float = 0.0) -> Prompt:
    """Questions about the text with their answers, which pairs() takes apart."""
    turns = (Turn("user", f"{text}\n\n{ask_several_words(count)}"),)
    hint = filled("skills.ask_several_hint.txt")
    return Prompt(turns, max_tokens=30 * count, temperature=temperature, skill="ask", hint=hint)


def restate(text: str, *, temperature: float = 0.0) -> Prompt:
    """The text in other words."""
    turns = (Turn("user", f"{text}\n\n{filled('skills.restate.txt')}"),)
    room = 16 + round(len(text) / 2.6)
    return Prompt(turns, max_tokens=room, temperature=temperature, skill="restate")


def ask_words(answer: str) -> str:
    return filled("skills.ask.txt", answer=answer)


def ask_several_words(count: int) -> str:
    return filled("skills.ask_several.txt", count=str(count))


def pair_line(question: str, answer: str) -> str:
    """One line of what ask_several() is answered with."""
    return f"{question} | {answer}"


def pairs(text: str) -> list[tuple[str, str]]:
    """Questions with their answers, as skills and other writers set them down: 'Question? | answer' on a
    line, or on two lines with or without 'Q:' and 'A:'."""
    found: list[tuple[str, str]] = []
    waiting = ""
    for line in text.splitlines():
        bare = line.strip()
        while (rest := _LABEL.sub("", bare)) != bare:
            bare = rest
        bare = bare.strip("* ")
        if not bare:
            continue
        question, mark, answer = bare.partition("?")
        answer = _LABEL.sub("", answer.strip(" |-–:*")).strip(" |-–:*")
        if mark and answer:
            found.append((f"{question.strip()}?", answer))
            waiting = ""
        elif mark:
            waiting = f"{question.strip()}?"
        elif waiting:
            found.append((waiting, bare))
            waiting = ""
    return found
