"""The laws of telling groups apart: certainty is 1, sameness is a half, and a brute force agrees."""

import math

import numpy as np
import pytest

from imprint.evaluation.ranking import auc, caught, told_apart


def pairwise(positive: list[float], negative: list[float]) -> float:
    """The definition, pair by pair."""
    return float(np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative]))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_chance_that_one_is_above_the_other(seed: int) -> None:
    draw = np.random.default_rng(seed)
    positive, negative = (draw.integers(0, 8, n).astype(float).tolist() for n in (13, 21))
    assert auc(positive, negative) == pytest.approx(pairwise(positive, negative))


def test_what_is_apart_is_told_apart_and_what_is_alike_is_not() -> None:
    assert auc([3, 4], [1, 2]) == 1
    assert auc([1, 2], [3, 4]) == 0
    assert auc([5, 5], [5, 5, 5]) == 0.5


def test_equal_distributions_are_near_a_half_and_the_interval_holds_it() -> None:
    draw = np.random.default_rng(0)
    found = told_apart(draw.normal(size=200), draw.normal(size=200), seed=0)
    assert abs(found.value - 0.5) < 0.1
    assert found.low < 0.5 < found.high
    assert found.n == 400


def test_an_empty_group_tells_nothing() -> None:
    assert math.isnan(auc([], [1.0]))
    assert math.isnan(told_apart([1.0], [], seed=0).value)


@pytest.mark.parametrize(
    ("false_alarms", "share"),
    [(0.0, 0.25), (0.09, 0.25), (0.1, 0.5), (0.2, 0.75)],
)
def test_no_more_of_the_others_are_named_than_is_allowed(false_alarms: float, share: float) -> None:
    negative = [float(n) for n in range(10)]
    assert caught([9.5, 8.5, 7.5, 0.5], negative, false_alarms) == share


def test_of_few_others_none_may_be_named() -> None:
    assert caught([2.0, 0.5], [0.0, 1.0]) == 0.5
    assert caught([1.0, 1.0], [0.0, 1.0]) == 0  # level with the highest is not above it
