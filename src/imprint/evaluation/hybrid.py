"""Weights and a reader joined: both answer, and one of the two answers is taken, without a look at the right one.

Where the weights say that they do not know, or both say the same, the reader's is taken. Else each answer is put
to both, to the weights closed book and to the reader with the text before it, and the one that both together find
likelier is taken (the sum of its mean log-probability a token). So an answer that the weights made up fails before
the text, and one that was read from the wrong place fails before the weights. That the text does not tell is an
answer of the reader like any other: were it passed over, every question that cannot be answered would get what the
weights make up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from imprint.evaluation.open_book import closed
from imprint.evaluation.systems import READ, TAUGHT, Answers, Desk, Said, same, told


@dataclass(frozen=True, slots=True)
class Either:
    """The weights' answer or a reader's."""

    name: str
    says: str
    way: str
    """How the reader is asked: RAG or FULL_CONTEXT."""

    @property
    def means(self) -> str:
        return "of both answers the one that both together find likelier"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({TAUGHT, "documents"})

    def reader(self, desk: Desk) -> str:
        """The system whose answer stands beside the weights': with the skill where the base carries it."""
        return f"{self.way}_read" if READ in desk.seats else self.way

    def answers(self, questions: Sequence[str], desk: Desk) -> Answers:
        names = ("weights", self.reader(desk))
        recalled, read = (desk.earlier(name) for name in names)
        began = time.monotonic()
        pairs = list(zip(recalled.said, read.said, strict=True))
        taken = [settled(mine, theirs) for mine, theirs in pairs]
        unsettled = [i for i, side in enumerate(taken) if side is None]
        weighed = self._likelier([questions[i] for i in unsettled], [pairs[i] for i in unsettled], desk)
        for i, side in zip(unsettled, weighed, strict=True):
            taken[i] = side
        said = tuple(
            replace(pair[side or 0], chosen=names[side or 0], found=pair[1].found)
            for pair, side in zip(pairs, taken, strict=True)
        )
        both = replace(recalled, said=()) + replace(read, said=())
        return replace(both, said=said, seconds=both.seconds + time.monotonic() - began)

    def _likelier(self, questions: Sequence[str], pairs: Sequence[tuple[Said, Said]], desk: Desk) -> list[int]:
        """For each question 0 where the weights' answer is the likelier one to both together, else 1."""
        if not pairs:
            return []
        recalling = [closed(question) for question in questions]
        reading = [desk.prompt(self.way, question)[0] for question in questions]
        sums: list[list[float]] = []
        for side in (0, 1):
            texts = [pair[side].text for pair in pairs]
            ours = desk.likelihoods(recalling, texts, TAUGHT)
            theirs = desk.likelihoods(reading, texts, READ if READ in desk.seats else "")
            sums.append([a + b for a, b in zip(ours, theirs, strict=True)])
        return [int(read >= recalled) for recalled, read in zip(*sums, strict=True)]


def settled(recalled: Said, read: Said) -> int | None:
    """Whose answer is taken without weighing them: 0 the weights', 1 the reader's, None for neither."""
    if not told(recalled.text) or same(recalled.text, read.text):
        return 1
    return None if read.text.strip() else 0
