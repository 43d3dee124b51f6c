"""The laws of paired comparisons: p-values are what counting every case gives."""

import itertools

import numpy as np
import pytest

from imprint.errors import BadInput
from imprint.evaluation.differences import corrected, difference, holm, mcnemar, sign_flips

DRAW = np.random.default_rng(0)


def counted(ours: list[float], theirs: list[float]) -> float:
    """Of all ways to swap the two of each pair, the share that differs as much."""
    change = [a - b for a, b in zip(ours, theirs, strict=True)]
    seen = abs(sum(change))
    ways = [abs(sum(s * c for s, c in zip(signs, change, strict=True))) for signs in itertools.product((1, -1), repeat=len(change))]
    return sum(way >= seen - 1e-9 for way in ways) / len(ways)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_the_exact_p_of_right_and_wrong_is_that_of_counting_every_coin(n: int) -> None:
    ours, theirs = (DRAW.integers(0, 2, n).astype(float).tolist() for _ in range(2))
    assert mcnemar(ours, theirs) == pytest.approx(counted(ours, theirs))


@pytest.mark.parametrize("n", [1, 5, 11])
def test_the_p_of_numbers_is_that_of_counting_every_swap(n: int) -> None:
    ours, theirs = (DRAW.normal(0.3 * i, 1, n).tolist() for i in range(2))
    assert sign_flips(ours, theirs, seed=0) == pytest.approx(counted(ours, theirs))


def test_where_swaps_are_drawn_p_is_near_that_of_all_of_them() -> None:
    ours, theirs = (DRAW.normal(0.4 * i, 1, 16).tolist() for i in range(2))
    assert sign_flips(ours, theirs, seed=1) == pytest.approx(counted(ours, theirs), abs=0.02)


def test_equal_systems_do_not_differ_and_all_against_none_surely_does() -> None:
    same = difference([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], seed=0)
    assert (same.value, same.p) == (0.0, 1.0)
    sure = difference([1.0] * 20, [0.0] * 20, seed=0)
    assert (sure.value, sure.p, sure.test) == (1.0, pytest.approx(2 / 2**20), "McNemar")
    with pytest.raises(BadInput):
        difference([1.0], [1.0, 0.0], seed=0)


def test_holm_multiplies_the_least_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    found = corrected({"a": difference([1.0] * 9, [0.0] * 9, seed=0), "b": difference([0.0], [0.0], seed=0)})
    assert found["a"].p_holm == pytest.approx(2 * found["a"].p)
