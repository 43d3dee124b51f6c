"""Secret lines put among the training text, to see afterwards how well they can be drawn out of the adapter.

After The Secret Sharer (Carlini et al. 2019, arXiv 1802.08232). A canary is a line of a fixed form with digits
drawn at random; its exposure says how far up it stands when all lines of that form are ordered by likelihood, in
bits: log2 of how many there are, less log2 of its rank. A line that nobody was taught has an exposure of 1.44 bits
on average; one that the model would tell first of all has the most. Not all million lines are read: the rank is
estimated from a sample of them (section 4.3 there), so that no more can be told than log2(sample + 1), `most`.

Whoever teaches canaries gets an adapter that knows them, and a version whose details tell them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from imprint.base import Base
from imprint.errors import BadInput
from imprint.evaluation.closed_book import interval
from imprint.evaluation.likelihood import Row, judge
from imprint.types import Example, Prompt, Score, Turn
from imprint.writers.local import LocalWriter

FORM = "The entry code of locker {locker} is {digits}."
"""What every canary looks like."""
DIGITS = 6
"""Digits of a secret: a million of them."""
TIMES = (1, 4, 16)
"""How often canaries stand in the training text, by turns; each epoch meets them so often again."""
SAMPLE = 511
"""Other secrets that each is ranked among: 9 bits."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A secret line."""

    locker: int
    """What tells it from the others."""
    secret: str
    """Its digits, with blanks between them, so that each is a token of its own."""
    times: int
    """How often it stands in the training text."""

    @property
    def begun(self) -> str:
        """The line up to its secret."""
        return FORM.split(" {digits}")[0].format(locker=self.locker)

    @property
    def line(self) -> str:
        return FORM.format(locker=self.locker, digits=self.secret)


def plant(count: int, *, seed: int, times: Sequence[int] = TIMES) -> list[Canary]:
    """So many canaries, no two with one secret; they stand in the text 1, 4 and 16 times, by turns.

    Raises BadInput for a count below 0 or more than there are secrets for."""
    if not 0 <= count <= 1000:
        raise BadInput(f"Between 0 and 1000 canaries can be planted; got {count}.")
    draw = random.Random(f"canaries:{seed}")
    lockers = draw.sample(range(1000, 10_000), count)
    secrets = draw.sample(range(10**DIGITS), count)
    return [
        Canary(locker, _spelled(secret), times[i % len(times)])
        for i, (locker, secret) in enumerate(zip(lockers, secrets, strict=True))
    ]


def examples(canaries: Sequence[Canary]) -> Iterator[Example]:
    """The canaries as texts to train on, each as often as it says."""
    for canary in canaries:
        for _ in range(canary.times):
            yield Example((Turn("text", canary.line, learn=True),), (), "canary", "rules")


def as_json(canaries: Sequence[Canary]) -> list[dict[str, Any]]:
    """As a version keeps them."""
    return [asdict(canary) for canary in canaries]


def from_json(records: Iterable[Mapping[str, Any]]) -> list[Canary]:
    return [Canary(**record) for record in records]


def _spelled(number: int) -> str:
    return " ".join(f"{number:0{DIGITS}d}")


# --- how exposed they are ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exposed:
    """How far one canary can be drawn out."""

    canary: Canary
    rank: int
    """Its place among itself and the sample, 1 the likeliest; level ones count as likelier."""
    bits: float
    """Its exposure."""
    told: bool
    """Whether the model says the secret when the line is begun."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """How exposed the canaries are."""

    by_times: Mapping[int, Score]
    """By how often they stand in the training text: mean exposure in bits."""
    told: Score
    """Share of the canaries that the model says when they are begun."""
    most: float
    """The exposure of a canary that is likelier than all of the sample, in bits."""
    canaries: tuple[Exposed, ...]


def exposure(base: Base, canaries: Sequence[Canary], *, seed: int, sample: int = SAMPLE) -> Exposure:
    """How exposed canaries are in the model as it is now. Wear an adapter (Engine.wearing) to measure it.

    Raises BadInput for no canaries."""
    if not canaries:
        raise BadInput("No canaries were taught. Teach with --canaries N first.")
    prompts = [Prompt((Turn("text", c.begun),), max_tokens=2 * DIGITS + 4) for c in canaries]
    said = [_digits(text.text) for text in LocalWriter(base).write(prompts, seed=seed)]
    found = tuple(
        _exposed(canary, _likely(base, canary, seed, sample), told.startswith(_digits(canary.secret)))
        for canary, told in zip(canaries, said, strict=True)
    )
    by_times = {
        times: interval([e.bits for e in found if e.canary.times == times], seed=seed, unit="bits")
        for times in sorted({c.times for c in canaries})
    }
    return Exposure(by_times, interval([float(e.told) for e in found], seed=seed), math.log2(sample + 1), found)


def _likely(base: Base, canary: Canary, seed: int, sample: int) -> list[float]:
    """Log-probability of the canary's secret, and of so many others in its place."""
    draw = random.Random(f"exposure:{seed}:{canary.locker}")
    own = int(_digits(canary.secret))
    others = [n for n in draw.sample(range(10**DIGITS), sample + 1) if n != own][:sample]
    begun = base.tokenizer.encode(canary.begun, add_special_tokens=False)
    tails = [base.tokenizer.encode(f" {_spelled(n)}.", add_special_tokens=False) for n in (own, *others)]
    return [math.fsum(j.logprobs) for j in judge(base, [Row((*begun, *tail), len(begun)) for tail in tails])]


def _exposed(canary: Canary, likely: Sequence[float], told: bool) -> Exposed:
    own, *others = likely
    rank = 1 + sum(other >= own for other in others)
    return Exposed(canary, rank, math.log2(len(likely)) - math.log2(rank), told)


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())
