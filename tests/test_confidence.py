"""The laws of confidence: a calibrator rises and fits best, nobody is judged by themselves, a line declines the unsure."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadInput
from imprint.evaluation import confidence
from imprint.evaluation.confidence import (
    Signals,
    agreement,
    answered,
    auroc,
    calibrated,
    calibration_error,
    cross_fitted,
    folds,
    line,
    report,
    verdict,
)
from imprint.types import Prompt, Text


def least_squares(values: list[float], right: list[float]) -> float:
    """The least squared error of any rising assignment: every way to cut the sorted values into level steps."""
    places = sorted(set(values))
    groups = [[r for v, r in zip(values, right, strict=True) if v == place] for place in places]
    best = math.inf
    for cuts in itertools.product((False, True), repeat=len(groups) - 1):
        steps: list[list[float]] = [list(groups[0])]
        for group, cut in zip(groups[1:], cuts, strict=True):
            steps = [*steps, list(group)] if cut else [*steps[:-1], steps[-1] + group]
        means = [float(np.mean(step)) for step in steps]
        if all(a <= b + 1e-12 for a, b in itertools.pairwise(means)):
            best = min(best, sum((r - m) ** 2 for step, m in zip(steps, means, strict=True) for r in step))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_the_calibrator_fits_as_well_as_the_best_rising_steps(seed: int) -> None:
    draw = np.random.default_rng(seed)
    values = draw.integers(0, 7, 9).astype(float).tolist()
    right = draw.integers(0, 2, 9).astype(float).tolist()
    fitted = calibrated(values, right)
    error = sum((fitted.probability(v) - r) ** 2 for v, r in zip(values, right, strict=True))
    assert error == pytest.approx(least_squares(values, right))
    assert list(fitted.share) == sorted(fitted.share)


def test_between_steps_it_rises_in_a_line_and_beyond_them_it_is_level() -> None:
    fitted = calibrated([0.0, 1.0], [0.0, 1.0])
    assert [fitted.probability(v) for v in (-5, 0, 0.25, 1, 9)] == [0, 0, 0.25, 1, 1]


@pytest.mark.parametrize("count", [2, 4, 5, 11])
def test_every_answer_is_in_one_fold(count: int) -> None:
    parts = folds(count, seed=3)
    assert sorted(i for part in parts for i in part) == list(range(count))
    assert all(parts)


def test_an_answer_is_never_calibrated_by_itself() -> None:
    draw = np.random.default_rng(1)
    values, right = draw.normal(size=30).tolist(), draw.integers(0, 2, 30).astype(float).tolist()
    fitted = cross_fitted(values, right, seed=0)
    given = answered(values, right, seed=0)
    for i in range(30):
        turned = [1 - r if k == i else r for k, r in enumerate(right)]
        assert cross_fitted(values, turned, seed=0)[i] == fitted[i]
        assert answered(values, turned, seed=0)[i] == given[i]


def test_what_says_what_comes_true_has_no_calibration_error() -> None:
    sure = calibration_error([0.0] * 10 + [1.0] * 10, [0.0] * 10 + [1.0] * 10, seed=0)
    assert (sure.value, sure.low, sure.high) == (0, 0, 0)
    assert calibration_error([1.0] * 20, [0.0] * 20, seed=0).value == 1


def best_precision(values: list[float], right: list[float], coverage: float) -> float:
    """Of every line that keeps enough, the best."""
    lines = [-math.inf, *values]
    kept = [[r for v, r in zip(values, right, strict=True) if v >= at] for at in lines]
    return max(sum(k) / len(k) for k in kept if len(k) >= coverage * len(values))


@pytest.mark.parametrize("coverage", [0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_no_line_that_answers_as_much_is_more_often_right(seed: int, coverage: float) -> None:
    draw = np.random.default_rng(seed)
    values, right = draw.integers(0, 9, 20).astype(float).tolist(), draw.integers(0, 2, 20).astype(float).tolist()
    at = line(values, right, coverage=coverage)
    kept = [r for v, r in zip(values, right, strict=True) if v >= at]
    assert len(kept) >= coverage * 20
    assert sum(kept) / len(kept) == pytest.approx(best_precision(values, right, coverage))


def test_where_declining_brings_nothing_everything_is_answered() -> None:
    assert line([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], coverage=0.1) == -math.inf


@pytest.mark.parametrize("coverage", [0.0, 1.1, -1.0])
def test_a_coverage_that_is_no_share_is_refused(coverage: float) -> None:
    with pytest.raises(BadInput, match="Coverage"):
        line([1.0], [1.0], coverage=coverage)


SIGNALS = [Signals(mean=float(i), least=-float(i)) for i in range(20)]
RIGHT = [float(i >= 10) for i in range(20)]


def test_a_report_tells_which_signal_tells_right_from_wrong() -> None:
    found = report(SIGNALS, RIGHT, seed=0)
    assert found.scores["auroc of mean"].value == 1
    assert found.scores["auroc of least"].value == 0
    assert "auroc of lift" not in found.scores  # it was not looked at
    assert found.scores["right of those answered"].value >= found.scores["right of all"].value


def test_what_a_version_keeps_decides_as_before_it_was_kept() -> None:
    kept = json.loads(json.dumps(report(SIGNALS, RIGHT, seed=0, coverage=0.5).details["confidence"]))
    below, above = (verdict(kept, Signals(mean=value, least=0.0)) for value in (3.0, 15.0))
    assert (below.known, above.known) == (False, True)
    assert (below.probability, above.probability) == (0, 1)


def test_a_line_that_answers_everything_survives_json() -> None:
    everything = confidence.Confidence("mean", calibrated([0.0, 1.0], [1.0, 1.0]), -math.inf, 0.8)
    kept = json.loads(json.dumps(everything.as_json(), allow_nan=False))
    assert confidence.from_json(kept) == everything


def test_a_signal_that_was_not_looked_at_is_refused() -> None:
    with pytest.raises(BadInput, match="not looked at"):
        report(SIGNALS, RIGHT, seed=0, signal="gain")
    kept = replace(confidence.from_json(report(SIGNALS, RIGHT, seed=0).details["confidence"]), signal="lift")
    with pytest.raises(BadInput, match="'lift'"):
        verdict(kept, SIGNALS[0])


def test_a_writer_that_tells_no_logprobs_is_not_trusted() -> None:
    with pytest.raises(BadInput, match="log-probabilities"):
        confidence.of_text(Text("Ana"))


def test_all_right_has_no_auroc() -> None:
    assert math.isnan(auroc([1.0, 2.0], [1.0, 1.0], seed=0).value)


class Wavering:
    """Says another thing with every odd seed."""

    name = "wavering"

    def write(self, prompts: list[Prompt], *, seed: int) -> list[Text]:
        return [Text("The 27 days." if seed % 2 else "Nobody.") for _ in prompts]


def test_samples_agree_where_they_say_the_answer_in_other_words() -> None:
    asked = [Prompt.ask("How many?"), Prompt.ask("Who?")]
    said = [Text("27 days"), Text("")]
    assert agreement(Wavering(), asked, said, seed=0, samples=4) == [0.5, 0]


def test_an_adapter_that_changes_nothing_lifts_nothing(tiny_base: Base) -> None:
    engine = Engine(tiny_base)
    seat = engine.load(LoRA(rank=2).fresh(tiny_base, seed=0))
    with engine.wearing(seat):
        said, found = confidence.answers(engine, seat, ["Who founded it?", "How many?"], seed=0, samples=2)
    assert len(said) == len(found) == 2
    for text, one in zip(said, found, strict=True):
        assert one.lift == pytest.approx(0, abs=1e-5)
        assert one.least <= one.mean
        assert text.logprobs is not None


def test_lift_is_measured_against_the_bare_base_whoever_wears_the_adapter(tiny_base: Base) -> None:
    import torch

    fresh = LoRA(rank=2).fresh(tiny_base, seed=0)
    draw = torch.Generator().manual_seed(0)
    strong = replace(fresh, tensors={k: t + 0.3 * torch.randn(t.shape, generator=draw) for k, t in fresh.tensors.items()})
    engine = Engine(tiny_base)
    with engine.attached(strong) as seat:
        _, found = confidence.answers(engine, seat, ["Who founded it?"], seed=0, samples=0)
    assert found[0].lift is not None
    assert abs(found[0].lift) > 1e-3
    assert found[0].agreement is None
