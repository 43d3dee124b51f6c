"""Whether more training text would pay: a curve of scores over doublings, and when to stop.

Gains are about linear in the logarithm of diverse tokens (EntiGraph, arXiv 2409.07431), so that the next
doubling can be foretold from those measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from imprint.errors import BadSetting


@dataclass(frozen=True, slots=True)
class Point:
    """A score measured after so much training text."""

    tokens: int
    score: float
    low: float
    high: float
    """Ends of its 95 % interval."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to stop, why, and what the next doubling would give."""

    stop: bool
    reason: str
    predicted: float | None
    """The score after twice the text; None where one point tells nothing of a slope."""


def decide(
    points: Sequence[Point], *, min_gain: float = 0.01, budget_tokens: int | None = None, best: float = 1.0
) -> Decision:
    """Stops when two doublings in a row gained less than `min_gain` each, when the next one would pass the budget,
    or when no higher score than `best` can be had."""
    if min_gain < 0:
        raise BadSetting(f"min_gain is {min_gain}. It is a difference of scores: give 0 or more.")
    curve = sorted(points, key=lambda p: p.tokens)
    if not curve:
        return Decision(False, "nothing is measured yet", None)
    last, following = curve[-1], 2 * curve[-1].tokens
    predicted = extrapolated(curve, following, best=best)
    if budget_tokens is not None and following > budget_tokens:
        return Decision(True, f"{following:,} tokens would pass the budget of {budget_tokens:,}", predicted)
    if last.score >= best:
        return Decision(True, f"the score is {last.score:.3f}, and {best:g} is the most there is", predicted)
    gains = gains_per_doubling(curve)
    if len(gains) >= 2 and all(g < min_gain for g in gains[-2:]):
        said = " and ".join(f"{g:+.3f}" for g in gains[-2:])
        return Decision(True, f"the last two doublings gained {said}, less than {min_gain:g} each", predicted)
    gained = f"the last doubling gained {gains[-1]:+.3f}" if gains else "one point tells nothing of a gain"
    return Decision(False, gained, predicted)


def gains_per_doubling(points: Sequence[Point]) -> list[float]:
    """What each step of the curve gained, scaled to one doubling of the text."""
    curve = sorted(points, key=lambda p: p.tokens)
    return [
        (b.score - a.score) / math.log2(b.tokens / a.tokens) for a, b in pairwise(curve) if b.tokens > a.tokens > 0
    ]


def extrapolated(points: Sequence[Point], tokens: int, *, best: float = 1.0) -> float | None:
    """The score at so many tokens by a straight line over log2(tokens), each point weighted by how sure it is.

    Least squares with weights 1/width² of the intervals, never above `best`."""
    known = [p for p in points if p.tokens > 0]
    if len({p.tokens for p in known}) < 2:
        return None
    weights = [1 / max(p.high - p.low, 1e-3) ** 2 for p in known]
    xs = [math.log2(p.tokens) for p in known]
    total = sum(weights)
    x = sum(w * v for w, v in zip(weights, xs, strict=True)) / total
    y = sum(w * p.score for w, p in zip(weights, known, strict=True)) / total
    spread = sum(w * (v - x) ** 2 for w, v in zip(weights, xs, strict=True))
    slope = sum(w * (v - x) * (p.score - y) for w, v, p in zip(weights, xs, known, strict=True)) / spread
    return min(best, y + slope * (math.log2(tokens) - x))
