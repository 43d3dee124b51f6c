"""The laws of what joins a certificate's trust: who taught passages are told from, when a line is drawn, when asking
declines, and what is said of it in plain words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imprint.adapters import folder as adapter_folder
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.certifying import kept_confidence, trust
from imprint.certifying.examined import Examined
from imprint.certifying.hearing import Asked, Hearing, Kept
from imprint.engine import Engine
from imprint.evaluation import confidence, plain_words
from imprint.evaluation.certificate import jsonable
from imprint.evaluation.closed_book import Question
from imprint.evaluation.confidence import Calibrator, Confidence, Signals
from imprint.evaluation.systems import TAUGHT
from imprint.interfaces import certificate_plots
from imprint.registry import Registry
from imprint.run_folder import RunFolder
from imprint.taught import Answer, Taught
from imprint.types import Passage, Report
from imprint.watch import SILENT

PROSE = "The shop is open from Tuesday to Saturday, and nobody borrows the ninth lantern before spring. " * 3


def passage(i: int) -> Passage:
    text = f"{PROSE}Rule {i} of the house is told to every guest who comes by the green gate."
    return Passage("d", 1000 * i, 1000 * i + len(text), text, "House")


@pytest.fixture
def hearing(tiny_base: Base, tmp_path: Path) -> Hearing:
    """Of an adapter that changes nothing, on forty questions."""
    engine = Engine(tiny_base)
    seat = engine.load(LoRA(rank=2).fresh(tiny_base, seed=0))
    asked = Asked([Question(f"Which is rule {i}?", ("7",)) for i in range(40)], "of a test")
    return Hearing(engine, {TAUGHT: seat}, asked, Kept(), RunFolder(tmp_path), SILENT, None)


def told_apart(hearing: Hearing, left_out: int, **texts: str) -> dict[str, Any]:
    kept = Kept(taught=[passage(i) for i in range(3)], left_out=[passage(100 + i) for i in range(left_out)])
    return trust._membership(replace(hearing, kept=kept, asked=replace(hearing.asked, texts=texts)), kept.taught)


# --- leaks ------------------------------------------------------------------------------------


def test_taught_passages_are_told_from_those_that_the_plan_left_out_where_there_are_eight(hearing: Hearing) -> None:
    eight, seven = told_apart(hearing, 8), told_apart(hearing, 7, own=f"{PROSE}\n\n{PROSE}")
    assert (eight["others"], eight["same_documents"]) == (8, True)
    assert not seven["same_documents"] and "general prose" in seven["others_are"]


def test_general_prose_comes_in_pieces_as_long_as_the_passages(hearing: Hearing) -> None:
    count = hearing.base.count_tokens
    like = [passage(i).text for i in range(3)]
    for texts in ({}, {"own": f"{PROSE}\n\n{PROSE}\n\n{PROSE}\n\n{PROSE}"}):
        pieces = trust._prose(replace(hearing, asked=replace(hearing.asked, texts=texts)), like)
        assert pieces and all(abs(count(piece) - count(text)) <= 3 for piece, text in zip(pieces, like, strict=False))
        own = " ".join(texts.get("own", "").split())
        assert all(" ".join(piece.split()) in own for piece in pieces) if texts else len(pieces) == 3


def test_an_adapter_that_changes_nothing_gives_no_more_away_than_the_base(hearing: Hearing) -> None:
    kept = Kept(taught=[passage(i) for i in range(3)], left_out=[passage(100 + i) for i in range(8)])
    found = jsonable(trust.leaks(replace(hearing, kept=kept)))
    assert found["verbatim"]["more"]["value"] == 0
    assert found["membership"]["attacks"]["loss"] == found["membership"]["by_base"]["loss"]
    assert found["membership"]["attacks"]["ratio"]["auc"]["value"] == 0.5


# --- confidence -------------------------------------------------------------------------------


def surely(hearing: Hearing, said: list[str]) -> dict[str, Any]:
    """The part where these are the answers, each surer than the one before."""
    rows = [
        {"text": text, "signals": {"mean": float(i), "least": float(i), "lift": 0.0, "agreement": None, "gain": 0.0}}
        for i, text in enumerate(said)
    ]
    hearing.rows.write("signals-0", rows)
    questions = [Question(f"{i}?", ("7",)) for i in range(len(said))]
    asked = replace(hearing, asked=replace(hearing.asked, questions=questions))
    return jsonable(trust.confidence(asked))


def test_of_thirty_answers_a_line_is_drawn_and_kept_and_of_fewer_none(hearing: Hearing) -> None:
    few, enough = (surely(hearing, ["2"] * 10 + ["7"] * (n - 10)) for n in (29, 30))
    assert kept_confidence({"confidence": few}, seed=0) is None
    assert "too few" in plain_words.confidence(few)[0]
    report = kept_confidence({"confidence": enough}, seed=0)
    assert report is not None and report.scores["auroc of mean"].value == 1
    kept = confidence.kept([Report("certificate", {}, 0), report])
    assert kept is not None and not confidence.verdict(kept, Signals(0.0, 0.0)).known
    assert confidence.verdict(kept, Signals(25.0, 0.0)) == confidence.Verdict(True, 1.0)


def test_answers_that_abstain_need_no_line(hearing: Hearing) -> None:
    found = surely(hearing, ["7"] * 5 + ["I do not know.", ""])
    assert (found["answers"], found["left_out"]) == (5, 2)


def test_what_cannot_be_told_apart_is_kept_without_it(hearing: Hearing, home: Path) -> None:
    report = kept_confidence({"confidence": surely(hearing, ["7"] * 30)}, seed=0)
    assert report is not None and "auroc of mean" not in report.scores
    assert json.dumps([score.value for score in report.scores.values()], allow_nan=False)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_handful_of_answers_is_measured_as_far_as_it_goes(hearing: Hearing, count: int) -> None:
    found = surely(hearing, ["7"] * count)
    assert found["answers"] == count and plain_words.confidence(found)


def test_the_calibration_curve_stands_where_its_bins_say() -> None:
    right = {"value": 1.0, "low": 0.5, "high": 1.0, "n": 4}
    drawn = certificate_plots.calibration([{"said": 0.0, "right": {**right, "value": 0.0}}, {"said": 1.0, "right": right}])
    assert 'cx="58.0" cy="270.0"' in drawn and 'cx="478.0" cy="20.0"' in drawn


# --- asking -----------------------------------------------------------------------------------


@pytest.fixture
def taught(tiny_base: Base, home: Path, tmp_path: Path) -> Taught:
    """A version of an adapter that changes nothing."""
    adapter_folder.write(LoRA(rank=2).fresh(tiny_base, seed=0), tmp_path / "adapter")
    registry = Registry(home)
    settings = {"base": "tiny", "corpus_hash": "c", "recipe": {}, "now": "2025-06-01T12:00:00+00:00"}
    return Taught(registry.publish("tiny", tmp_path / "adapter", **settings), registry, home, tiny_base)


def draw(taught: Taught, line: float, share: float = 0.25) -> None:
    kept = Confidence("mean", Calibrator((-9.0, 0.0), (share, share)), line, 0.8)
    taught.registry.add_report(taught.version, Report(confidence.REPORT, {}, 0, {"confidence": kept.as_json()}))


def test_an_answer_below_the_line_is_not_given_unless_anyway(taught: Taught) -> None:
    before = taught.ask("What does the Kestrel weigh?", max_tokens=6)
    assert before and taught.answer("What does the Kestrel weigh?", max_tokens=6) == Answer(before)
    draw(taught, line=1.0)  # no mean log-probability reaches that
    assert taught.ask("What does the Kestrel weigh?", max_tokens=6) == confidence.DECLINED
    assert taught.ask("What does the Kestrel weigh?", max_tokens=6, anyway=True) == before
    found = taught.answer("What does the Kestrel weigh?", max_tokens=6)
    assert found.declined and found.verdict is not None and found.verdict.probability == 0.25


def test_an_answer_above_the_line_is_given_and_the_latest_line_counts(taught: Taught) -> None:
    draw(taught, line=1.0)
    draw(taught, line=-1e9)
    found = taught.answer("What does the Kestrel weigh?", max_tokens=6)
    assert not found.declined and found.given == found.text == taught.ask("What does the Kestrel weigh?", max_tokens=6)


def test_a_certificate_of_enough_answers_leaves_the_line_that_asking_goes_by(taught: Taught) -> None:
    texts = [f"What does the Kestrel number {i} weigh?" for i in range(36)]
    alone = Examined(systems=("weights",), parts=("confidence",))
    answers = [a["answer"] for a in taught.certify([Question(t, ("7",)) for t in texts], alone).systems["weights"].answers]
    questions = [Question(t, (a if i % 2 else "7",)) for i, (t, a) in enumerate(zip(texts, answers, strict=True)) if a]
    made = taught.certify(questions, alone)
    kept = confidence.kept(taught.registry.reports(taught.version))
    assert kept is not None and kept == confidence.from_json(made.parts["confidence"]["confidence"])
    first = made.systems["weights"].answers[0]
    found = taught.answer(questions[0].text, max_tokens=32)
    assert found.text == first["answer"] and found.verdict is not None
    assert found.verdict.probability == pytest.approx(kept.calibrator.probability(first["certainty"]), abs=0.05)


def test_what_is_drawn_at_a_temperature_was_not_measured(taught: Taught) -> None:
    draw(taught, line=1.0)
    assert taught.answer("What does the Kestrel weigh?", max_tokens=6, temperature=1.0).verdict is None


# --- in plain words ---------------------------------------------------------------------------


def share(value: float | None, n: int = 20) -> dict[str, Any]:
    return {"value": value, "low": value, "high": value, "n": n}


@pytest.mark.parametrize(
    ("memorised", "whole", "more", "told"),
    [(0.0, 0.0, 0.0, "none of 20 passages"), (0.0, 0.0, 0.3, "none of 20 passages"), (0.25, 0.1, 0.0, "25% of 20 passages"),
     (None, 0.5, 0.0, "50% of 20 passages")],
)  # fmt: skip
def test_text_that_can_be_drawn_out_is_called_what_it_is(memorised: float | None, whole: float, more: float, told: str) -> None:
    verbatim = {"memorised": share(memorised), "whole": share(whole), "longest": 60, "longest_of_base": 4, "more": share(more),
                "agreeing": share(0.75), "agreeing_of_base": share(0.125)}  # fmt: skip
    said = plain_words.leaks({"passages": 20, "verbatim": verbatim})[0]
    assert told in said and "75%" in said
    assert ("Treat the adapter like the documents" in said) == bool(whole or more)


@pytest.mark.parametrize(
    ("attack", "low", "high", "same", "told"),
    [("loss", 0.4, 0.7, True, "do not tell"), ("loss", 0.55, 0.9, True, "the untaught base does that too"),
     ("loss", 0.8, 0.9, True, "Who has the model can tell"), ("ratio", 0.55, 0.9, True, "Who has the model can tell"),
     ("ratio", 0.8, 0.9, False, "which of their passages is not measured")],
)  # fmt: skip
def test_a_leak_is_what_goes_beyond_the_base(attack: str, low: float, high: float, same: bool, told: str) -> None:
    auc = {"value": (low + high) / 2, "low": low, "high": high, "n": 30}
    base = {"loss": {"auc": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 30}}}
    part = {"attacks": {attack: {"auc": auc}}, "by_base": base, "others_are": "o", "same_documents": same, "taught": 9, "others": 9}
    assert told in plain_words.leaks({"passages": 0, "membership": part})[1]


@pytest.mark.parametrize(("low", "believed"), [(0.2, True), (-0.1, False)])
def test_a_judge_no_better_than_chance_is_not_to_be_believed(low: float, believed: bool) -> None:
    kappa = {"value": 0.4, "low": low, "high": 0.6, "n": 20}
    agreement = {"kappa": kappa, "swayed": share(0.1), "unreadable": share(0.0)}
    system = {"agreement": agreement, "right": share(0.5), "matched": share(0.4)}
    said = plain_words.judge({"judge": "big model", "systems": {"weights": system}})[0]
    assert ("do not believe" not in said) == believed and "50%" in said and "40%" in said
