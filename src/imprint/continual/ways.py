"""Three ways to the next version, what each would take, and which one suits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imprint.continual.lessons import Amount, Shard, characters
from imprint.errors import BadSetting
from imprint.planner import FEWEST_TIMES, Budget
from imprint.writing import CHARACTERS_A_TOKEN

WAYS = {
    "in_order": "the adapter goes on learning: what is new, with what it learnt before met again",
    "shards": "only the adapters of documents that changed are trained anew; new documents get one of their own",
    "retrain": "every adapter is trained anew from the manifest: the truth that the other two are held to",
}
MOST_IN_ORDER = 4
"""Updates in order one after another, from which on an adapter is trained anew."""
WORTH = 0.6
"""A way that trains more than this part of what retraining does is not worth its losses."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a way would take."""

    way: str
    written_tokens: int
    """Of text about what is new."""
    trained_tokens: int
    adapters: int
    """That are trained."""


@dataclass(frozen=True, slots=True)
class Chosen:
    way: str
    why: str


def of_shard(
    shard: Shard, counts: Mapping[str, int], amount: Amount, way: str, *, trained: bool
) -> tuple[float, float]:
    """Tokens that are written about a shard, and tokens that are trained. `counts`: tokens of fresh passages."""
    written = amount.times * sum(counts[p.id] for p in shard.fresh)
    if not trained:
        return written, 0.0
    news = sum(map(characters, shard.news)) / CHARACTERS_A_TOKEN
    if shard.begun is not None:
        return written, amount.visits * (written + news) / (1 - amount.replay)
    before = sum(map(characters, shard.before())) / CHARACTERS_A_TOKEN
    return written, amount.visits * (written + news + before)


def total(way: str, shards: Sequence[tuple[float, float]]) -> Estimate:
    """The sums over all shards."""
    written, trained = (round(sum(part)) for part in zip(*shards, strict=True))
    return Estimate(way, written, trained, sum(t > 0 for _, t in shards))


def choose(estimates: Sequence[Estimate], *, most_in_order: int) -> Chosen:
    """The way that keeps most of what retraining would give at a part of its cost (docs/log.md).

    `most_in_order`: how often in order the adapter was updated that was updated so most often."""
    by_way = {e.way: e for e in estimates}
    whole = max(1, by_way["retrain"].trained_tokens)
    parts = {way: e.trained_tokens / whole for way, e in by_way.items()}
    if parts["shards"] <= WORTH:
        return Chosen("shards", f"which trains {parts['shards']:.0%} of what retraining all would.")
    if parts["in_order"] <= WORTH and most_in_order < MOST_IN_ORDER:
        return Chosen("in_order", f"which trains {parts['in_order']:.0%} of what retraining all would.")
    return Chosen("retrain", "for the other ways would train nearly as much, or too often the same adapter.")


def lines(estimates: Sequence[Estimate], details: Mapping[str, Any]) -> list[str]:
    """The same for a person. `details`: of the version before: what a second brings."""
    whole = max(1, next(e.trained_tokens for e in estimates if e.way == "retrain"))
    return [
        f"  {e.way}: {e.written_tokens:,} tokens of text to write, {e.trained_tokens:,} to train "
        f"({e.trained_tokens / whole:.0%} of retraining) in {e.adapters} adapter{'s' if e.adapters != 1 else ''}"
        f"{_time(seconds(e, details))}"
        for e in estimates
    ]


def _time(seconds: float) -> str:
    return f", about {seconds:,.0f} s at the pace of the version before" if seconds else ""


def within(usual: Amount, budget: Budget, foreseen: Estimate, details: Mapping[str, Any]) -> Amount:
    """The amount that a budget pays for, never more than is usual: text and visits shrink alike.

    `foreseen`: what the usual amount would take. `details`: of the version before: what a second brings."""
    if budget.usd is not None:
        raise BadSetting(
            "An update's budget is a time or tokens. What a paid writer may cost stands in the recipe."
        )
    if budget.tokens is not None:
        part = budget.tokens / max(1, foreseen.trained_tokens)
    else:
        part = (budget.seconds or 0.0) / max(seconds(foreseen, details), 1e-9)
    if part >= 1:
        return usual
    times = max(min(FEWEST_TIMES, usual.times), usual.times * part**0.5)
    return replace(usual, times=times, visits=max(1.0, usual.visits * part**0.5))


def seconds(foreseen: Estimate, details: Mapping[str, Any]) -> float:
    """About how long it takes at the pace of the version with these details; 0 where that is not known."""
    spent = details.get("seconds") or {}
    actual = (details.get("plan_and_actual") or {}).get("actual") or {}
    written = details.get("written_tokens") or actual.get("text_tokens") or 0
    trained = details.get("tokens") or 0
    a_written = spent.get("writing", 0.0) / written if written else 0.0
    a_trained = spent.get("training", 0.0) / trained if trained else 0.0
    return float(foreseen.written_tokens * a_written + foreseen.trained_tokens * a_trained)


def part_of(budget: Budget, share: float) -> Budget:
    """A share of a budget."""
    if budget.seconds is not None:
        return Budget(seconds=budget.seconds * share)
    if budget.tokens is not None:
        return Budget(tokens=max(1, round(budget.tokens * share)))
    return Budget(usd=(budget.usd or 0.0) * share)
