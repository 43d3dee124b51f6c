"""A new version asked what the present one knows, before it is published.

Documents that passed the gate may still be false, and true ones may cost something that was known. So the new
version answers a probe set (questions with right answers, kept out of training) beside the present version and the
untouched base; it is held where more right answers become wrong than the limits allow, where a wrong value that is
known of comes in their place, or where it has come to speak worse in general."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imprint.chosen import speaking
from imprint.engine import Engine
from imprint.errors import BadInput, BadSetting
from imprint.evaluation.closed_book import Answered, Question, answer_all, interval
from imprint.evaluation.differences import Difference, difference
from imprint.evaluation.forgetting import Perplexity, general_text, perplexity, perplexity_ratio
from imprint.evaluation.open_book import closed
from imprint.types import Adapter, Score
from imprint.writers.local import LocalWriter


@dataclass(frozen=True, slots=True)
class Limits:
    """What a new adapter may cost."""

    lost: float = 0.05
    """Share of the questions that may be answered wrongly which the present version answers rightly."""
    spared: int = 1
    """Answers that may be lost however few the questions are: one alone tells nothing."""
    worse: float = 1.5
    """Perplexity of a general text, by that of the present version. An honest update in order made it up to 1.46
    times as high (docs/log.md, a simulated year)."""

    def __post_init__(self) -> None:
        if not 0 <= self.lost <= 1 or self.spared < 0 or self.worse < 1:
            raise BadSetting(f"lost is from 0 to 1, spared 0 or more, worse 1 or more; got {self}.")


@dataclass(frozen=True, slots=True)
class Probed:
    """A new adapter beside the present one."""

    before: Score
    """Share of the questions that the present version (the base, where there is none) answers rightly."""
    after: Score
    base: Score
    change: Difference
    """After less before, question by question."""
    lost: tuple[tuple[Answered, Answered], ...]
    """Answers that were right and are wrong now: before and after."""
    won: int
    """Answers that were wrong and are right now."""
    hostile: int
    """Of those lost, how many give one of the question's known wrong values."""
    general: Score
    """Perplexity of a general text after, by that before."""
    reasons: tuple[str, ...]
    """Why it is held; empty where it may be published."""

    @property
    def held(self) -> bool:
        return bool(self.reasons)


def probe(
    engine: Engine,
    before: Sequence[Adapter],
    after: Sequence[Adapter],
    questions: Sequence[Question],
    *,
    limits: Limits | None = None,
    seed: int = 0,
) -> Probed:
    """The new version on the probe set, beside the present one and the base; several adapters answer as one.

    `before`: empty where nothing is published yet; then the base takes its place. Raises BadInput where no question
    has a right answer."""
    asked = [q for q in questions if q.answers]
    if not asked:
        raise BadInput("Nothing can be probed: no question has a right answer. Give some with answers.")
    bare, bare_text = _measured(engine, (), asked, seed)
    old, old_text = _measured(engine, before, asked, seed) if before else (bare, bare_text)
    new, new_text = _measured(engine, after, asked, seed)
    lost = tuple((a, b) for a, b in zip(old, new, strict=True) if a.contains > b.contains)
    general = perplexity_ratio(old_text, new_text, seed=seed)
    return Probed(
        before=_share(old, seed),
        after=_share(new, seed),
        base=_share(bare, seed),
        change=difference([a.contains for a in new], [a.contains for a in old], seed=seed),
        lost=lost,
        won=sum(a.contains < b.contains for a, b in zip(old, new, strict=True)),
        hostile=sum(b.twin > 0 for _, b in lost),
        general=general,
        reasons=tuple(_reasons(lost, len(asked), general, limits or Limits())),
    )


def _measured(
    engine: Engine, adapters: Sequence[Adapter], questions: Sequence[Question], seed: int
) -> tuple[list[Answered], Perplexity]:
    """What the adapters answer, and how the one that reads a general text worst reads it; the base's where there
    are none."""
    base = engine.base
    if not adapters:
        with engine.wearing(None):
            return answer_all(LocalWriter(base), questions, closed, seed=seed)[0], perplexity(base, general_text())
    with speaking(engine, adapters, "probed") as writer:
        answered, _ = answer_all(writer, questions, closed, seed=seed)
        read = []
        for seat in writer.seats:
            with engine.wearing([seat]):
                read.append(perplexity(base, general_text()))
    return answered, max(read, key=lambda one: one.value)


def _share(answered: Sequence[Answered], seed: int) -> Score:
    return interval([a.contains for a in answered], seed=seed)


def _reasons(lost: Sequence[tuple[Answered, Answered]], asked: int, general: Score, limits: Limits) -> list[str]:
    found = []
    allowed = max(limits.spared, int(limits.lost * asked))
    if len(lost) > allowed:
        first = lost[0][1]
        found.append(
            f"{len(lost)} of {asked} questions are answered wrongly that were answered rightly; {allowed} may be. "
            f"The first: {first.question.text!r}, answered {first.text.strip()[:80]!r}."
        )
    hostile = [b for _, b in lost if b.twin]
    if len(hostile) > limits.spared:
        found.append(f"{len(hostile)} of them give a value that is known to be wrong.")
    if general.value > limits.worse:
        found.append(
            f"A general text is {general.value - 1:.1%} more surprising than to the present version; "
            f"{limits.worse - 1:.1%} may be."
        )
    return found
