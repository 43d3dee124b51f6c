"""The laws of `imprint plan`: what is asked is handed on, every way is shown, and what is unknown is not made up."""

import datetime
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import imprint
from imprint.advice import Advice, Pace, Size, Teaching, Use, advise, prices, qualities
from imprint.errors import BadSetting
from imprint.interfaces import cli

PACE = Pace(
    base="SmolLM2-135M-Instruct", device="2 CPU cores", read_s=0.002, read_more_s=1e-7, write_s=0.07, write_more_s=1e-5,
    adapter_factor=1.2, index_s=0.01, window_tokens=8192, base_bytes=270_000_000, kv_bytes=23_040,
    adapter_bytes=20_000_000, index_bytes=100_000, free_bytes=8_000_000_000,
)  # fmt: skip


def advised(use: Use, **more: Any) -> Advice:
    size = more.pop("size", Size(tokens=3000, passages=20, facts=90, passage_tokens=150.0))
    teaching = more.pop("teaching", Teaching(200.0, 160.0, times=10.0))
    pace = replace(PACE, **more)
    today = datetime.date(2026, 11, 26)
    return advise(use, size, pace, teaching, prices.read(), qualities.packed(), cores=2, today=today)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command hands to imprint.advise, in whose place a fake stands: the real one would import torch."""
    found: list[dict[str, Any]] = []

    def fake(path: Path, *, use: Use, **given: Any) -> Advice:
        found.append({"path": path, "use": use, **given})
        return advised(use)

    monkeypatch.setitem(vars(imprint), "advise", fake)
    return found


def run(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["plan", *words])


def test_what_is_asked_is_handed_on(asked: list[dict[str, Any]]) -> None:
    ended = run(
        "docs", "--questions-per-day", "7", "--updates-per-month", "3", "--latency", "2", "--right", "0.7", "--local-only",
        "--budget", "1h", "--prices", "p.toml", "--usd-per-hour", "0.5", "--base", "b", "--adapter", "expert",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.stderr
    use = Use(questions_per_day=7, updates_per_month=3, latency_s=2, least_right=0.7, hosted=False)
    given = asked[0]
    assert (given["path"], given["use"], given["budget"], given["base"]) == (Path("docs"), use, "1h", "b")
    assert (given["price_file"], given["usd_per_hour"], given["recipe"].adapter) == (Path("p.toml"), 0.5, "expert")


def test_every_way_stands_in_the_table_and_the_advice_under_it(asked: list[dict[str, Any]]) -> None:
    told = run("docs").stdout
    for name in ("context", "cached context", "RAG", "weights", "weights + RAG", "RAG at gpt-6-luna"):
        assert re.search(rf"^ ?{re.escape(name)} ", told, re.MULTILINE), name
    assert "3,000 tokens in 20 passages, which give 90 firm facts" in told
    assert "not measured" in told and "SQuAD" in told
    assert advised(Use()).recommendation.words in told


def test_json_holds_the_same(asked: list[dict[str, Any]]) -> None:
    told = json.loads(run("docs", "--json").stdout)
    assert told == json.loads(json.dumps(advised(Use()).as_json()))
    assert told["recommendation"]["words"]


def test_documents_that_stay_here_have_no_hosted_rows(asked: list[dict[str, Any]]) -> None:
    assert "gpt" not in run("docs", "--local-only").stdout


def test_a_use_that_means_nothing_is_refused_in_one_line() -> None:
    ended = run("docs", "--questions-per-day", "0")
    assert ended.exit_code == 2 and "questions_per_day" in ended.stderr and "Traceback" not in ended.stderr


def test_a_budget_that_teaches_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Teaching(0, 0, impossible=str(BadSetting("A budget of 0.1 minutes is too small to teach even one passage.")))
    monkeypatch.setitem(vars(imprint), "advise", lambda path, *, use, **_: advised(use, teaching=small))
    told = run("docs").stdout
    assert "Teaching: A budget of 0.1 minutes is too small" in told and "cannot be" in told
