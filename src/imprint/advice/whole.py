"""The whole advice from measured and known figures."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from imprint.advice.prices import Prices
from imprint.advice.qualities import Measured, expected
from imprint.advice.recommendation import Recommendation, recommend
from imprint.advice.ways import WAYS, Pace, Size, Teaching, Use, Way, on_hosted, on_machine


@dataclass(frozen=True, slots=True)
class Advice:
    """What each way takes, and which to take."""

    use: Use
    size: Size
    pace: Pace
    teaching: Teaching
    ways: tuple[Way, ...]
    recommendation: Recommendation
    notes: tuple[str, ...] = ()
    """What a reader should know of the figures: old prices, a machine without one."""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        found: dict[str, Any] = asdict(self)
        for way, row in zip(self.ways, found["ways"], strict=True):
            row["usd_per_month"] = way.usd_per_month(self.use)
        return found


def advise(
    use: Use,
    size: Size,
    pace: Pace,
    teaching: Teaching,
    prices: Prices,
    known: Sequence[Measured],
    *,
    cores: int,
    corpus_hash: str = "",
    usd_per_hour: float | None = None,
    today: datetime.date,
) -> Advice:
    """Every way's row and the recommendation.

    `known`: the user's certificates and our measurements. `cores`: of a CPU; 0 where a GPU computes.
    `usd_per_hour`: of this machine, in place of the table's."""
    notes = prices.old(today)
    pace, said = _priced(pace, prices, cores, usd_per_hour)
    qualities = {
        way: expected(
            way,
            known,
            base=pace.base,
            corpus_hash=corpus_hash,
            times=teaching.times or None,
            taught=teaching.taught,
        )
        for way in WAYS
    }
    ways = on_machine(use, size, pace, teaching, qualities)
    if use.hosted:
        for name, hosted in prices.hosted.items():
            ways += on_hosted(use, size, name, hosted, pace.index_s, pace.usd_per_hour)
    return Advice(use, size, pace, teaching, tuple(ways), recommend(ways, use), (said, *notes))


def _priced(pace: Pace, prices: Prices, cores: int, usd_per_hour: float | None) -> tuple[Pace, str]:
    """The pace with the price of its hour, and where that is from."""
    if usd_per_hour is not None:
        return replace(pace, usd_per_hour=usd_per_hour), f"This machine's hour: {usd_per_hour:g} USD, as you said."
    found = prices.of_machine(pace.device, cores)
    if found is None:
        return pace, f"No price is known for an hour of {pace.device}: counted as 0. Say --usd-per-hour."
    name, hour = found
    told = f"This machine's hour: {hour.usd:.3g} USD, the table's for {name} of {hour.date}. Or say --usd-per-hour."
    return replace(pace, usd_per_hour=hour.usd), told
