"""Held-out questions answered, and the grader.

The normalisation and the token F1 are those of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250)."""

from __future__ import annotations

import re
import string
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from imprint.types import Prompt, Score, Writer

UNANSWERABLE = "unanswerable"

_SOURCE = r"(?:documents?|texts?|passages?|context|handbook|article|sources?|information)"
_TELL = r"(?:say|tell|state|mention|specify|contain|provide|include|give|answer|indicate|explain|describe)"
_TOLD = r"(?:said|told|stated|mentioned|specified|provided|given|known|available|clear|described|indicated|sure)"
_ABSTAINS = re.compile(
    rf"\b{_SOURCE}\b[^.]{{0,30}}\b(?:do(?:es)? not|do(?:es)?n['’]t|did not|didn['’]t) {_TELL}"
    rf"|\b(?:it|this|that|which|answer|question)?\s*(?:is|are|was|were)(?: not|n['’]t) {_TOLD}\b"
    r"|\b(?:I|we)(?:['’]m| am| are|['’]re)? (?:do not|don['’]t|can ?not|can['’]t|not) "
    r"(?:know|tell|say|answer|sure|find)"
    r"|\bno (?:such )?information\b|\bnot in the text\b|\b(?:unknown|unanswerable)\b"
    r"|\bcan ?not be (?:answered|determined|said|told|found)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question kept out of training, and the answers that count as right."""

    text: str
    answers: tuple[str, ...]
    """Empty where the documents do not tell."""
    kind: str = "direct"
    wrong: tuple[str, ...] = ()
    """What a near-duplicate says in the answer's place, another plan or an older edition."""
    as_of: str | None = None
    """ISO date for which it is asked, where the answer changed."""

    @property
    def asked(self) -> str:
        """What every system is asked: of a dated question, the date is said in words."""
        return f"As of {self.as_of}: {self.text}" if self.as_of else self.text


@dataclass(frozen=True, slots=True)
class Answered:
    """What a system said, and how it was graded."""

    question: Question
    text: str
    exact: float
    f1: float
    contains: float
    """1 where a right answer stands in the text as whole words; for an unanswerable question, where the
    text says that the documents do not tell."""
    twin: float = 0.0
    """1 where one of the question's wrong values stands in the text, and no right one."""


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces: SQuAD's normalisation.

    Two departures: a hyphen parts words, and the point of 4.2 and the colon of 6:15 count."""
    text = re.sub(r"(?<=\d)([.:])(?=\d)", lambda m: "\0" if m.group() == "." else "\1", text.lower())
    text = "".join(c if c not in string.punctuation else " " if c == "-" else "" for c in text)
    text = text.replace("\0", ".").replace("\1", ":")
    return " ".join(w for w in text.split() if w not in ("a", "an", "the"))


def abstains(text: str) -> bool:
    """Whether an answer says that it is not known."""
    return bool(_ABSTAINS.search(text))


def grade(question: Question, text: str) -> Answered:
    """Exact match, token F1 and containment, each the best over the right answers; and whether it is the twin's."""
    said = _plain(text) or "-"
    twin = float(any(_stands_in(wrong, said) for wrong in question.wrong))
    if not question.answers:
        right = float(abstains(text))
        return Answered(question, text, right, right, right, 0.0 if right else twin)
    exact = f1 = contains = 0.0
    for answer in question.answers:
        wanted = _plain(answer)
        exact = max(exact, float(said == wanted))
        f1 = max(f1, _f1(said.split(), wanted.split()))
        contains = max(contains, float(_stands_in(answer, said)))
    return Answered(question, text, exact, f1, contains, 0.0 if contains else twin)


def _plain(text: str) -> str:
    """Normalised; what is nothing but articles and marks stays as it is."""
    return normalised(text) or text.lower().strip()


def _stands_in(value: str, said: str) -> bool:
    """Whether a value stands in a normalised text as whole words."""
    return f" {_plain(value)} " in f" {said} "


def _f1(said: list[str], wanted: list[str]) -> float:
    same = sum((Counter(said) & Counter(wanted)).values())
    return 2 * same / (len(said) + len(wanted)) if same else 0.0


def interval(values: Sequence[float], *, seed: int, draws: int = 2000, unit: str = "share") -> Score:
    """The mean and its 95 % percentile bootstrap interval over questions."""
    if not values:
        return Score(float("nan"), float("nan"), float("nan"), 0, unit)
    data = np.asarray(values, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(data), (draws, len(data)))
    means = data[picks].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Score(float(data.mean()), float(low), float(high), len(data), unit)


def answer_all(
    writer: Writer, questions: Sequence[Question], prompt: Callable[[str], Prompt], *, seed: int
) -> tuple[list[Answered], float]:
    """Every question put to a writer and graded; and the seconds that took."""
    began = time.monotonic()
    texts = writer.write([prompt(q.asked) for q in questions], seed=seed)
    seconds = time.monotonic() - began
    return [grade(q, t.text) for q, t in zip(questions, texts, strict=True)], seconds
