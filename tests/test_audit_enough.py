"""The laws of enough: text is doubled while that pays and can be paid."""

import pytest

from imprint.errors import BadSetting
from imprint.synthesis.enough import Point, decide, extrapolated, gains_per_doubling


def curve(*scores: float, width: float = 0.1) -> list[Point]:
    return [Point(1_000 * 2**i, s, s - width / 2, s + width / 2) for i, s in enumerate(scores)]


def test_two_doublings_that_gain_too_little_are_the_end() -> None:
    assert decide(curve(0.2, 0.3, 0.305, 0.307)).stop
    assert "less than 0.01" in decide(curve(0.2, 0.3, 0.305, 0.307)).reason


def test_one_weak_doubling_is_not() -> None:
    assert not decide(curve(0.2, 0.3, 0.305)).stop
    assert not decide(curve(0.2, 0.205, 0.3, 0.305)).stop


def test_the_budget_is_hard() -> None:
    assert decide(curve(0.2, 0.4), budget_tokens=3_999).stop
    assert not decide(curve(0.2, 0.4), budget_tokens=4_000).stop


def test_nothing_and_one_point_go_on() -> None:
    assert decide([]) == decide([])
    assert not decide([]).stop
    assert decide(curve(0.3)).predicted is None


def test_a_full_score_is_enough() -> None:
    assert decide(curve(0.7, 1.0)).stop


def test_a_straight_line_is_foretold_exactly_and_never_above_the_best() -> None:
    assert decide(curve(0.2, 0.3, 0.4)).predicted == pytest.approx(0.5)
    assert decide(curve(0.2, 0.7)).predicted == 1.0
    assert extrapolated(curve(0.2, 0.3), 16_000) == pytest.approx(0.6)


def test_a_sure_point_counts_more_than_an_unsure_one() -> None:
    sure = [Point(1_000, 0.2, 0.19, 0.21), Point(2_000, 0.9, 0.4, 1.0), Point(4_000, 0.4, 0.39, 0.41)]
    assert extrapolated(sure, 8_000) == pytest.approx(0.5, abs=0.02)


def test_gains_are_those_of_a_doubling_whatever_the_step() -> None:
    points = [Point(4_000, 0.4, 0.3, 0.5), Point(1_000, 0.2, 0.1, 0.3)]
    assert gains_per_doubling(points) == pytest.approx([0.1])


def test_a_gain_below_nothing_is_refused() -> None:
    with pytest.raises(BadSetting, match="min_gain"):
        decide(curve(0.1), min_gain=-1)
