"""The laws of conflicts: both sides are known with their sources and dates, and settled by the rules in their order."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imprint.base import Base
from imprint.continual.beliefs import THE_BASE, Sureness, beliefs
from imprint.continual.conflicts import (
    Conflict,
    Rules,
    Settled,
    Sources,
    conflicts_of,
    rules_of,
    settle,
    settled_histories,
)
from imprint.continual.corrections import corrections
from imprint.continual.verdicts import Verdicts
from imprint.corpus import Corpus
from imprint.documents import split
from imprint.errors import BadSetting
from imprint.interfaces import cli
from imprint.registry import Registry
from imprint.types import Document, Passage, Prompt, Text
from imprint.writers.local import LocalWriter

A = "Employees of Acme have 25 days of paid vacation a year."
B = A.replace("25", "30")
TODAY = "2026-06-01"


def document(text: str, source: str, valid_from: str | None = None) -> Document:
    return Document(f"# {source}\n\n{text}\n", source, source, valid_from=valid_from)


def conflict(first: str | None = None, second: str | None = None) -> Conflict:
    """Leave of 25 days in policies/leave.md against 30 days in faq.md, each since a date."""
    (found,) = conflicts_of([document(A, "policies/leave.md", first), document(B, "faq.md", second)], today=TODAY)
    return (
        found
        if found.first.source == "policies/leave.md"
        else Conflict(found.kind, found.second, found.first, found.values[::-1])
    )


def settled(one: Conflict, rules: Rules, answer: int | None = None) -> Settled:
    (found,) = settle([one], rules, lambda _: answer)
    return found


def holds(found: Settled) -> str | None:
    return found.winner.source if found.winner else None


def test_two_documents_that_disagree_are_found_with_their_values() -> None:
    found = conflict("2025-01-01", "2026-01-01")
    assert (found.kind, found.values) == ("documents", ("25", "30"))
    assert [(s.source, s.since) for s in (found.first, found.second)] == [
        ("policies/leave.md", "2025-01-01"),
        ("faq.md", "2026-01-01"),
    ]


def test_documents_that_agree_have_no_conflict() -> None:
    assert conflicts_of([document(A, "a.md"), document(A, "b.md")], today=TODAY) == []


def test_a_new_edition_is_in_conflict_with_the_old_one_and_newer() -> None:
    old, new = document(A, "leave.md"), document(f"{B} Cats stay at home.", "leave.md")
    (found,) = conflicts_of([new], [old], today=TODAY, since={old.id: "2025-01-01"})
    assert (found.kind, found.values, found.first.since, found.second.since) == (
        "versions",
        ("25", "30"),
        "2025-01-01",
        TODAY,
    )
    assert settled(found, Rules()).winner == found.second


def test_what_a_version_was_taught_is_compared_with_documents_that_come_beside_it() -> None:
    old, new = document(A, "leave.md"), document(B, "faq.md")
    (found,) = conflicts_of([new], [old], today=TODAY, since={old.id: "2025-01-01"})
    assert found.kind == "documents"
    assert holds(settled(found, Rules())) == "faq.md"


@pytest.mark.parametrize(
    ("rules", "dates", "answer", "winner", "why"),
    [
        (Rules(), ("2025-01-01", "2026-01-01"), None, "faq.md", "newer"),
        (Rules(), ("2026-01-02", "2026-01-01"), None, "policies/leave.md", "newer"),
        (Rules(source_order=("policies/*",)), (None, "2026-01-01"), None, "policies/leave.md", "source order"),
        (Rules(source_order=("faq.md", "*")), (None, None), None, "faq.md", "source order"),
        (Rules(("order", "newer"), ("policies/*",)), ("2025-01-01", "2026-01-01"), None, "policies/leave.md", "source order"),
        (Rules(), ("2026-01-01", "2026-01-01"), 0, "policies/leave.md", "a person"),
        (Rules(), (None, None), 1, "faq.md", "a person"),
        (Rules(), (None, None), None, None, "open"),
        (Rules(("newer",)), (None, None), 1, None, "open"),
    ],
)  # fmt: skip
def test_rules_are_tried_in_their_order(
    rules: Rules, dates: Sequence[str | None], answer: int | None, winner: str | None, why: str
) -> None:
    found = settled(conflict(*dates), rules, answer)
    assert holds(found) == winner
    assert found.why.startswith(why)


def test_nobody_is_asked_what_a_rule_settles() -> None:
    def ask(_: Conflict) -> int | None:
        raise AssertionError("asked")

    assert settle([conflict("2025-01-01", "2026-01-01")], Rules(), ask)[0].winner is not None


def test_an_answer_that_names_no_side_is_refused() -> None:
    with pytest.raises(BadSetting, match="Say 0, 1 or None"):
        settled(conflict(), Rules(), 2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"conflicts": ["newr"]}, "No rule 'newr'"),
        ({"conflicts": ["newer", "newer"]}, "named once"),
        ({"conflicts": "newer"}, "must be a list"),
        ({"source_order": [1]}, "'source_order' in the recipe"),
        ({"sources": ["a"]}, "Unknown key 'sources'"),
        ({"beliefs": "me"}, "beliefs = 'me'"),
    ],
)
def test_wrong_rules_are_refused_by_their_key(settings: dict[str, object], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        rules_of(settings)


def test_rules_are_read_from_what_toml_says() -> None:
    rules = rules_of({"conflicts": ["order", "ask"], "source_order": ["policies/*"], "beliefs": "ask"})
    assert rules == Rules(("order", "ask"), ("policies/*",), "ask")
    assert rules_of({}) == Rules()


def test_the_loser_is_taught_as_what_held_until_the_winner_came() -> None:
    (history,) = settled_histories([settled(conflict("2025-01-01", "2026-01-01"), Rules())])
    assert [(h.said.text, h.since, h.until) for h in history.held] == [
        (A, "2025-01-01", "2026-01-01"),
        (B, "2026-01-01", None),
    ]
    texts = [e.turns[-1].text for e in corrections([history], seed=0) if e.generator == "corrections/dated"]
    assert texts and all("1 January 2026" in t for t in texts)


def test_what_lost_by_its_source_has_no_dates() -> None:
    found = settled(conflict("2026-01-01", "2025-01-01"), Rules(("order",), ("faq.md",)))
    (history,) = settled_histories([found])
    assert [(h.since, h.until) for h in history.held] == [(None, None), (None, None)]
    assert not [e for e in corrections([history], seed=0) if e.valid_from or e.valid_until]


def test_what_is_open_is_not_taught_as_settled() -> None:
    found = settled(conflict(), Rules())
    assert settled_histories([found]) == []
    sides = (found.conflict.first, found.conflict.second)
    assert Verdicts((found,)).silent == tuple((s.said.passage_id, v) for s, v in zip(sides, found.conflict.values, strict=True))


# --- what the base believes -------------------------------------------------------------------


class Sure:
    """A base that goes on with one word, and finds texts as likely as it is told."""

    name = "sure"

    def __init__(self, word: str, likely: dict[str, float]) -> None:
        self.word, self.likely = word, likely

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        return [Text(f" {self.word}. And more.") for _ in prompts]

    def likelihoods(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        return [math.log(self.likely[t.strip()]) for t in texts]


def passage(text: str) -> list[Passage]:
    return list(split(document(text, "facts.md"), max_tokens=160))


RUSSIAN = "Lenta is written in Italian."


def test_what_the_base_is_sure_of_otherwise_is_a_conflict_that_the_document_wins() -> None:
    (found,) = beliefs(passage(RUSSIAN), Sure("Russian", {"Russian": 0.9, "Italian": 0.001}), seed=0)
    assert (found.kind, found.values, found.second.source) == ("belief", ("Italian", "Russian"), THE_BASE)
    assert found.second.said.text == "Lenta is written in Russian."
    assert settled(found, Rules()).winner == found.first
    assert settled(found, Rules(beliefs="base")).winner == found.second
    assert settled(found, Rules(beliefs="ask"), None).winner is None
    denied = [
        e
        for e in corrections(settled_histories([settled(found, Rules())]), seed=0)
        if e.generator.endswith("denied")
    ]
    assert denied and all("Russian" in e.turns[0].text and RUSSIAN in e.turns[1].text for e in denied)


@pytest.mark.parametrize(
    ("word", "likely"),
    [
        ("Italian", {"Italian": 0.9}),
        ("Russian", {"Russian": 0.1, "Italian": 0.001}),
        ("Russian", {"Russian": 0.9, "Italian": 0.05}),
        ("many ways", {}),
    ],
)
def test_what_it_says_too_is_not_sure_of_or_thinks_possible_is_none(word: str, likely: dict[str, float]) -> None:
    assert beliefs(passage(RUSSIAN), Sure(word, likely), seed=0) == []


def test_the_base_in_this_process_can_be_asked(tiny_base: Base) -> None:
    sure = Sureness(probability=1e-9, times=1e-9)
    found = beliefs(passage(RUSSIAN), LocalWriter(tiny_base), seed=0, sureness=sure)
    assert all(c.kind == "belief" and c.values[0] == "Italian" for c in found)


# --- the commands -----------------------------------------------------------------------------


def run(*words: str) -> str:
    result = CliRunner().invoke(cli.app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def publish(home: Path, documents: Sequence[Document], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(repr(documents).encode())
    corpus = Corpus(tuple(documents))
    corpus.keep(home)
    Registry(home).publish(
        "leave", folder, base="b", corpus_hash=corpus.hash, recipe={}, now=f"{TODAY}T00:00:00+00:00"
    )


def test_a_diff_tells_documents_and_facts_in_words(home: Path, tmp_path: Path) -> None:
    first = [document(A, "leave.md"), document("Cats stay at home.", "pets.md")]
    publish(home, first, tmp_path / "one")
    publish(home, [document(B, "leave.md"), document("Lunch is free on Mondays.", "lunch.md")], tmp_path / "two")
    told = run("diff", "leave@1", "leave@2")
    assert "Documents: 1 new, 1 changed, 1 withdrawn, 0 unchanged." in told
    assert "Employees of Acme have ____ days of paid vacation a year: was '25', is '30'." in told
    record = json.loads(run("diff", "leave@1", "leave", "--json"))
    assert [f["kind"] for f in record["facts"]] == ["number", "new", "gone"]
    assert record["documents"]["withdrawn"] == ["pets.md"]


def test_an_adapter_without_its_documents_cannot_be_compared(home: Path, tmp_path: Path) -> None:
    publish(home, [document(A, "leave.md")], tmp_path / "one")
    next((home / "corpora").iterdir()).unlink()
    result = CliRunner().invoke(cli.app, ["diff", "leave@1", "leave@1"])
    assert result.exit_code == 2


def test_conflicts_of_a_folder_are_told_with_what_holds(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for source, text in (("leave.md", A), ("faq.md", B)):
        (folder / source).write_text(f"# {source}\n\n{text}\n")
    assert "1 conflict, 1 of them open" in run("conflicts", str(folder))
    assert "* leave.md" in run("conflicts", str(folder), "--source-order", "leave*")
    (found,) = json.loads(run("conflicts", str(folder), "--source-order", "leave*", "--json"))
    assert found["winner"]["source"] == "leave.md" and found["conflict"]["kind"] == "documents"


def test_a_folder_is_compared_with_what_a_name_was_taught(home: Path, tmp_path: Path) -> None:
    publish(home, [document(A, "leave.md")], tmp_path / "one")
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "leave.md").write_text(f"# leave.md\n\n{B}\n")
    told = run("conflicts", str(folder), "--name", "leave")
    assert "(versions)" in told and f"* leave.md, since {TODAY}" not in told
    assert "newer" in told


def test_sources_prefer_a_documents_own_date() -> None:
    own, other = document(A, "a.md", "2025-05-05"), document(B, "b.md")
    sources = Sources.of([own, other], {own.id: "2024-01-01", other.id: "2024-02-02T10:00:00"})
    assert [sources.by_id[d.id][1] for d in (own, other)] == ["2025-05-05", "2024-02-02"]
