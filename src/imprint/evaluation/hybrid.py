"""Weights and a reader joined: both answer, and one of the two answers is taken, without a look at the right one.

Where the weights say that they do not know, or both say the same, the reader's is taken. Else each answer is put
to both, to the weights closed book and to the reader with the text before it. The weights propose and the reader
decides: the weights' answer is taken where it stands in the text that was read and does not merely repeat the
question, where the weights hold to it against the reader's, and where the reader, too, finds it likelier than
what it said itself. Weights that were taught little are as sure of what they make up as others are of what they
know, so that their own opinion counts for little. That the text does not tell is a weaker thing to say than an
answer: there it is enough that the reader does not find the weights' answer much less likely.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from imprint.evaluation.closed_book import normalised
from imprint.evaluation.open_book import closed
from imprint.evaluation.systems import READ, TAUGHT, Answers, Desk, Said, same, told

HELD = 3.0
"""By how many nats a token the weights find their own answer likelier, at least; found with FOUND_NOTHING on
articles of squad_skill_train.json taught little and much (docs/log.md)."""
FOUND_NOTHING = 1.0
"""By how many nats a token a reader who found nothing may find the weights' answer less likely than saying so."""


@dataclass(frozen=True, slots=True)
class Either:
    """The weights' answer or a reader's."""

    name: str
    says: str
    way: str
    """How the reader is asked: RAG or FULL_CONTEXT."""

    @property
    def kept_as(self) -> str:
        """What its answers are kept under: another rule takes others."""
        return f"{self.name}-reader-decides"

    @property
    def means(self) -> str:
        return "the reader's answer, unless it finds that of the weights likelier than its own"

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
        alone = [settled(mine, theirs) for mine, theirs in pairs]
        unsettled = [i for i, side in enumerate(alone) if side is None]
        each = self._weighed([questions[i] for i in unsettled], [pairs[i] for i in unsettled], desk)
        weighed = dict(zip(unsettled, each, strict=True))
        taken = [side if side is not None else int(not weighed[i].for_the_weights) for i, side in enumerate(alone)]
        said = tuple(
            replace(
                pair[side],
                chosen=names[side],
                found=pair[1].found,
                weighed=weighed[i].likelier if i in weighed else None,
            )
            for i, (pair, side) in enumerate(zip(pairs, taken, strict=True))
        )
        both = replace(recalled, said=()) + replace(read, said=())
        return replace(both, said=said, seconds=both.seconds + time.monotonic() - began)

    def _weighed(
        self, questions: Sequence[str], pairs: Sequence[tuple[Said, Said]], desk: Desk
    ) -> Iterator[Weighed]:
        """What weights and reader think of each pair of answers."""
        if not pairs:
            return
        recalling = [closed(question) for question in questions]
        reading = [desk.prompt(self.way, question)[0] for question in questions]
        wears = READ if READ in desk.seats else ""
        texts = ([pair[side].text for pair in pairs] for side in (0, 1))
        likely = [(desk.likelihoods(recalling, t, TAUGHT), desk.likelihoods(reading, t, wears)) for t in texts]
        (mine, mine_read), (theirs, theirs_read) = likely
        for i, (recalled, read) in enumerate(pairs):
            likelier = (mine[i] - theirs[i], mine_read[i] - theirs_read[i])
            shown = reading[i].turns[-1].text.removesuffix(questions[i])
            yield Weighed(likelier, news(recalled.text, questions[i], shown), told(read.text))


@dataclass(frozen=True, slots=True)
class Weighed:
    """What speaks for the weights' answer, where the reader's is another."""

    likelier: tuple[float, float]
    """By how much the weights, and the reader, find it likelier than the reader's: nats a token."""
    news: bool
    """Whether it stands in what the reader was shown, and not in the question alone."""
    read: bool
    """Whether the reader gives an answer: else it says that the text does not tell."""

    @property
    def for_the_weights(self) -> bool:
        recalled, read = self.likelier
        return self.news and recalled > HELD and read > (0 if self.read else -FOUND_NOTHING)


def news(answer: str, question: str, shown: str) -> bool:
    """Whether an answer stands, word for word, in a text, and has a word that the question has not."""
    said = normalised(answer)
    return f" {said} " in f" {normalised(shown)} " and not set(said.split()) <= set(normalised(question).split())


def settled(recalled: Said, read: Said) -> int | None:
    """Whose answer is taken without weighing them: 0 the weights', 1 the reader's, None for neither."""
    if not told(recalled.text) or same(recalled.text, read.text):
        return 1
    return None if read.text.strip() else 0
