"""How well a number tells two groups apart: who was taught from who was not, right answers from wrong ones.

Shape key: D draws, P positives, N negatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from imprint.types import Score

_Values = Sequence[float] | np.ndarray
_DRAWS = 2000


def auc(positive: _Values, negative: _Values) -> float:
    """The chance that one of the positives is above one of the negatives; equal ones count half. 0.5 is guessing.

    NaN where there is none of either."""
    above, level = np.asarray(positive, dtype=float), np.sort(np.asarray(negative, dtype=float))
    if not len(above) or not len(level):
        return float("nan")
    below = np.searchsorted(level, above, "left") + np.searchsorted(level, above, "right")
    return float(below.mean() / 2 / len(level))


def caught(positive: _Values, negative: _Values, false_alarms: float = 0.01) -> float:
    """The share of the positives above a line that at most this share of the negatives is above.

    What counts of an attack (Carlini et al. 2022, arXiv 2112.03570, section 3): whom it names with certainty. Of
    fewer than 1 / `false_alarms` negatives, none may be above the line."""
    above, level = np.asarray(positive, dtype=float), np.sort(np.asarray(negative, dtype=float))
    if not len(above) or not len(level):
        return float("nan")
    line = level[len(level) - 1 - int(false_alarms * len(level))]
    return float((above > line).mean())


def told_apart(
    positive: _Values,
    negative: _Values,
    *,
    seed: int,
    by: Callable[[_Values, _Values], float] = auc,
    unit: str = "AUC",
    draws: int = _DRAWS,
) -> Score:
    """auc(), or another such measure, with its 95 % bootstrap interval: either group is drawn anew by itself."""
    above, level = np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)
    if not len(above) or not len(level):
        return Score(float("nan"), float("nan"), float("nan"), len(above) + len(level), unit)
    random_numbers = np.random.default_rng(seed)
    above_DP = above[random_numbers.integers(0, len(above), (draws, len(above)))]
    level_DN = level[random_numbers.integers(0, len(level), (draws, len(level)))]
    found = [by(one, other) for one, other in zip(above_DP, level_DN, strict=True)]
    low, high = np.percentile(found, [2.5, 97.5])
    return Score(by(above, level), float(low), float(high), len(above) + len(level), unit)
