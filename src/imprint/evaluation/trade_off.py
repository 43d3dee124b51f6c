"""The rows of a map read: what each adapter learnt and lost against the untouched base, and which of them will do.

A row (JSON values, as learning_map.py writes them) holds of each suite and text what each item or window came to,
so that an adapter and the untouched base are compared on the same ones, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imprint.evaluation.forgetting import Perplexity, perplexity_ratio
from imprint.evaluation.suites import paired
from imprint.types import Score

Row = Mapping[str, Any]

UNTOUCHED = "untouched"
MOST_POINTS, MOST_PERPLEXITY, LEAST_LEARNT = 1.0, 0.02, 0.95
"""The goal: points lost on any suite, rise of perplexity on any text, and part of the best learnt score of all."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where one adapter stands on the map."""

    row: Row
    learnt: Score
    """Share of the answerable questions answered rightly, closed book."""
    rises: Mapping[str, Score]
    """By text: perplexity after by perplexity before, less 1."""
    lost: Mapping[str, Score]
    """By suite: points (hundredths) fewer than the untouched base; below 0 where it gained."""

    @property
    def name(self) -> str:
        return str(self.row["row"])

    @property
    def kind(self) -> str:
        return str(self.row["kind"])

    @property
    def size(self) -> str:
        return str(self.row["size"])

    @property
    def worst_rise(self) -> float:
        """The rise of perplexity on the text where it is largest."""
        return max((s.value for s in self.rises.values()), default=math.nan)

    @property
    def worst_loss(self) -> float:
        """Points lost on the suite where most are; NaN where none was measured."""
        return max((s.value for s in self.lost.values()), default=math.nan)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a map says."""

    placed: tuple[Placed, ...]
    best: Placed | None
    """That learnt most."""
    kept: Placed | None
    """That forgot least, of those that learnt at least half as much as the best."""
    good: tuple[Placed, ...]
    """That meet the goal, the fewest parameters first."""


def read(rows: Sequence[Row], *, seed: int = 0, routed: bool = False) -> Reading:
    """Places every adapter of these rows. Those that came to no result are left out; see `failed`.

    `routed`: as each is with a router before it (evaluation.routed), where that was measured."""
    if routed:
        rows = [{**r, **r.get("routed", {})} for r in rows if r["what"] != "adapter" or "routed" in r]
    base = next((r for r in rows if r["row"] == UNTOUCHED), None)
    placed = tuple(_placed(r, base, seed) for r in rows if r["what"] == "adapter" and "learnt" in r)
    if not placed:
        return Reading((), None, None, ())
    best = max(placed, key=lambda p: p.learnt.value)
    fair = [p for p in placed if p.learnt.value >= best.learnt.value / 2]
    good = [p for p in placed if meets_goal(p, best)]
    good.sort(key=lambda p: p.row["parameters"])
    return Reading(placed, best, min(fair, key=_forgotten), tuple(good))


def failed(rows: Sequence[Row]) -> list[Row]:
    """Rows of trainings that ended without an adapter."""
    return [r for r in rows if r["what"] == "adapter" and "error" in r]


def meets_goal(placed: Placed, best: Placed) -> bool:
    """Point estimates against the goal; what was not measured is not held against it."""
    return (
        placed.learnt.value > 0
        and placed.learnt.value >= LEAST_LEARNT * best.learnt.value
        and all(s.value <= MOST_PERPLEXITY for s in placed.rises.values())
        and all(s.value <= MOST_POINTS for s in placed.lost.values())
    )


def sentences(reading: Reading) -> list[str]:
    """The same in plain words."""
    best, kept = reading.best, reading.kept
    if best is None or kept is None:
        return ["No adapter has been measured yet."]
    if not best.learnt.value:
        return [f"None of {len(reading.placed)} adapters answered any of {best.learnt.n} questions rightly."]
    told = [
        f"{best.name} learnt most: {best.learnt.value:.1%} of the questions right, closed book "
        f"(95 % interval {best.learnt.low:.1%} to {best.learnt.high:.1%}, {best.learnt.n} questions).",
        f"Of those that learnt at least half as much, {kept.name} forgot least: {_losses(kept)}.",
    ]
    goal = f"at least {LEAST_LEARNT:.0%} of the best learnt score, at most {MOST_PERPLEXITY:.0%} perplexity more"
    if best.lost:
        goal += f", at most {MOST_POINTS:g} point lost on each suite"
    if reading.good:
        first = reading.good[0]
        others = f" So do {', '.join(p.name for p in reading.good[1:])}." if len(reading.good) > 1 else ""
        told.append(
            f"{first.name} meets the goal ({goal}) with the fewest trainable parameters, "
            f"{first.row['parameters']:,}: {first.learnt.value:.1%} right, {_losses(first)}.{others}"
        )
    else:
        told.append(f"None meets the goal ({goal}).")
    return told


def _losses(placed: Placed) -> str:
    parts = [f"perplexity of {name} {s.value:+.1%}" for name, s in placed.rises.items()]
    for name, score in placed.lost.items():
        went = "gained" if score.value < 0 else "lost"
        parts.append(f"{abs(score.value):.1f} points {went} on {name}")
    return ", ".join(parts) or "nothing of that was measured"


def _placed(row: Row, base: Row | None, seed: int) -> Placed:
    learnt = row["learnt"]
    score = Score(learnt["score"], learnt["low"], learnt["high"], learnt["n"])
    rises, lost = {}, {}
    if base is not None:
        for name, told in row["perplexity"].items():
            if name in base["perplexity"]:
                rises[name] = _less_one(
                    perplexity_ratio(windows(base["perplexity"][name]), windows(told), seed=seed)
                )
        for name, told in row["suites"].items():
            if name in base["suites"]:
                lost[name] = _points(base["suites"][name], told, seed)
    return Placed(row, score, rises, lost)


def windows(told: Mapping[str, Any]) -> Perplexity:
    """A perplexity as a row keeps it."""
    return Perplexity(tuple(told["nats"]), tuple(told["tokens"]))


def _less_one(ratio: Score) -> Score:
    return Score(ratio.value - 1, ratio.low - 1, ratio.high - 1, ratio.n)


def _points(before: Mapping[str, Any], after: Mapping[str, Any], seed: int) -> Score:
    change = paired(before["right"], after["right"], tasks=after["tasks"], seed=seed)
    # 0 in place of -0.0
    value, low, high = (0.0 - 100 * x for x in (change.value, change.high, change.low))
    return Score(value, low, high, change.n, "points")


def _forgotten(placed: Placed) -> float:
    """For the order only: the rise of perplexity and the points lost, each by what the goal allows."""
    loss = 0.0 if math.isnan(placed.worst_loss) else placed.worst_loss
    rise = 0.0 if math.isnan(placed.worst_rise) else placed.worst_rise
    return rise / MOST_PERPLEXITY + loss / MOST_POINTS
