"""Two systems on the same questions: the paired difference, its interval, and how likely it is by chance alone.

Zeros and ones are tested exactly (McNemar 1947, doi 10.1007/BF02295996: of the questions that only one of both
answers rightly, a fair coin); anything else by flipping signs (Fisher's randomisation test). Where several
differences are shown together, p-values are those of Holm (1979): the chance that any of them is a false alarm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from imprint.evaluation.suites import paired

_DRAWS = 10_000
"""Ways to flip the signs that are tried where there are too many for all."""
_ALL = 13
"""Differences of which every way to flip them is tried."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What one system is ahead of another, on the same questions."""

    value: float
    low: float
    high: float
    """Ends of the 95 % paired bootstrap interval."""
    n: int
    p: float
    """How likely so large a difference, either way, is by chance alone."""
    p_holm: float
    """The same where the differences that it is shown with are counted too."""
    test: str
    """'McNemar' or 'sign flips'."""


def difference(ours: Sequence[float], theirs: Sequence[float], *, seed: int) -> Difference:
    """The mean of ours less theirs, question by question. Raises BadInput where they are not equally many."""
    change = paired(theirs, ours, seed=seed)
    exact = set(ours) | set(theirs) <= {0.0, 1.0}
    p = mcnemar(ours, theirs) if exact else sign_flips(ours, theirs, seed=seed)
    return Difference(change.value, change.low, change.high, change.n, p, p, "McNemar" if exact else "sign flips")


def corrected(found: Mapping[str, Difference]) -> dict[str, Difference]:
    """The same differences with p_holm for being shown together."""
    adjusted = holm([each.p for each in found.values()])
    return {name: replace(each, p_holm=p) for (name, each), p in zip(found.items(), adjusted, strict=True)}


def mcnemar(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The exact two-sided p-value of zeros and ones in pairs."""
    wins = sum(a > b for a, b in zip(ours, theirs, strict=True))
    losses = sum(a < b for a, b in zip(ours, theirs, strict=True))
    n, fewer = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)


def sign_flips(ours: Sequence[float], theirs: Sequence[float], *, seed: int) -> float:
    """The two-sided p-value of numbers in pairs: of all ways to swap pairs, the share that differs as much.

    Where there are too many ways, of 10,000 drawn ones and the one that was seen."""
    change = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    change = change[change != 0]
    seen = abs(change.sum()) * (1 - 1e-9)  # sums of the same numbers in another order differ in their last bits
    if len(change) <= _ALL:
        ways = np.array(np.meshgrid(*[[1.0, -1.0]] * len(change))).reshape(len(change), -1)
        return float((np.abs(change @ ways) >= seen).mean()) if len(change) else 1.0
    numbers = np.random.default_rng(seed)
    as_much = 1
    for _ in range(0, _DRAWS, 500):
        as_much += int((np.abs(numbers.choice([1.0, -1.0], (500, len(change))) @ change) >= seen).sum())
    return as_much / (_DRAWS + 1)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's p-values, in the order given."""
    found = [0.0] * len(values)
    reached = 0.0
    for place, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        reached = max(reached, min(1.0, (len(values) - place) * values[i]))
        found[i] = reached
    return found
