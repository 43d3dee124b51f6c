"""What other people bring, from the gate to the weights and out again, on a tiny real model."""

from __future__ import annotations

from pathlib import Path

import pytest

import imprint
from conftest import make_tiny_base
from imprint import forgetting, updating
from imprint.base import Base
from imprint.continual import pending
from imprint.continual.bringing import bring
from imprint.errors import BadInput, HeldBack, NoSuchAdapter
from imprint.evaluation.closed_book import Question
from imprint.home import cache_folder
from imprint.registry import Registry
from test_forgetting import files_with
from test_updating import RECIPE, first, text_of, written

NOW = "2026-02-01T00:00:00+00:00"
TRAM = "# Tram to the works\n\nTram 14 stops in Lindgasse, from where Yolanda Ferncastle leads visitors on foot.\n"


@pytest.fixture(scope="module")
def base() -> Base:
    made = make_tiny_base()
    made.model.config.max_position_embeddings = 4096
    return made


def brought(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "from-anna"
    folder.mkdir()
    (folder / "tram.md").write_text(TRAM, "utf-8")
    rows, _ = bring(home, "acme", folder, "anna", now=NOW)
    assert [row.state for row in rows] == ["pending"], rows


def test_what_is_pending_is_taught_to_its_owner_alone(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    brought(home, tmp_path)
    same = updating.update("acme", tmp_path / "d", base=base, home=home)
    assert str(same.version) == "acme@1"
    own = updating.update("acme.anna", base=base, home=home, recipe=RECIPE, questions=[])
    assert "Lindgasse" in text_of(own)
    with pytest.raises(BadInput, match="imprint admit"):
        updating.update("acme.bert", base=base, home=home)


def test_what_was_brought_is_taught_on_the_base_that_it_was_brought_to(
    base: Base, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPRINT_DTYPE", "float32")
    little = tmp_path / "little"
    base.model.save_pretrained(little)
    base.tokenizer.save_pretrained(little)
    keeper = updating.update("acme", written(tmp_path / "d"), base=str(little), home=home, recipe=RECIPE, questions=[])
    brought(home, tmp_path)
    own = updating.update("acme.anna", home=home, recipe=RECIPE, questions=[])
    assert own.version.base == keeper.version.base == "little"
    assert isinstance(imprint.together(["acme", "acme.anna"], home=home).ask("Where does Tram 14 stop?", max_tokens=2), str)


def test_what_is_promoted_comes_with_the_next_update_and_stays(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    brought(home, tmp_path)
    pending.promote(home, "acme", "anna", now=NOW)
    two = updating.update("acme", tmp_path / "d", base=base, home=home, way="in_order")
    assert "Lindgasse" in text_of(two)
    three = updating.update("acme", written(tmp_path / "d", canteen=None), base=base, home=home, way="in_order")
    assert "Lindgasse" in text_of(three)
    assert [e["owner"] for e in three.version.details["manifest"] if e["source"].endswith("tram.md")] == ["anna"]


def test_all_from_one_person_is_rolled_back(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    brought(home, tmp_path)
    updating.update("acme.anna", base=base, home=home, recipe=RECIPE, questions=[])
    pending.promote(home, "acme", "anna", now=NOW)
    updating.update("acme", tmp_path / "d", base=base, home=home, way="in_order")
    done = forgetting.forget("acme", owner="anna", base=base, home=home, control=False)
    assert done.destroyed == ("acme@2",)
    assert done.taught is not None and "27 days" in text_of(done.taught)
    with pytest.raises(NoSuchAdapter):
        Registry(home).latest("acme.anna")
    for line in (b"Lindgasse", b"Ferncastle"):
        assert files_with(line, home, cache_folder()) == []


def test_what_a_keeper_wants_forgotten_is_withheld_from_its_owners_adapter_too(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    brought(home, tmp_path)
    own = updating.update("acme.anna", base=base, home=home, recipe=RECIPE, questions=[])
    assert [d.title for d in (own.corpus() or pytest.fail()).documents] == ["Tram to the works"] and text_of(own)
    forgetting.forget("acme", owner="anna", home=home, later=True)
    assert (own.corpus() or pytest.fail()).documents == () and text_of(own) == ""
    with pytest.raises(BadInput, match="imprint forget acme[.]$"):
        own.export_for_peft(tmp_path / "given-away")


def test_a_version_that_loses_what_was_known_is_held_back(base: Base, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Question(f"Question {i}?", ("27 days",)) for i in range(4)]
    updating.update("acme", written(tmp_path / "d"), base=base, home=home, recipe=RECIPE, questions=asked)
    brought(home, tmp_path)
    pending.promote(home, "acme", "anna", now=NOW)
    scores = iter(["27 days"] * 4 + ["27 days"] * 4 + ["no idea"] * 4)
    from imprint.types import Text

    monkeypatch.setattr("imprint.writers.local.LocalWriter.write", lambda self, prompts, seed: [Text(next(scores)) for _ in prompts])
    with pytest.raises(HeldBack, match="4 of 4 questions"):
        updating.update("acme", tmp_path / "d", base=base, home=home, way="in_order")
    assert str(Registry(home).latest("acme")) == "acme@1"
    again = updating.update("acme", tmp_path / "d", base=base, home=home, way="in_order", anyway=True)
    assert str(again.version) == "acme@2"


def test_what_somebody_brought_is_taken_back_before_any_version_saw_it(base: Base, home: Path, tmp_path: Path) -> None:
    one = first(base, written(tmp_path / "d"), home, shards=1)
    brought(home, tmp_path)
    pending.promote(home, "acme", "anna", now=NOW)
    done = forgetting.forget("acme", owner="anna", base=base, home=home)
    assert done.destroyed == () and done.taught is not None and done.taught.version == one.version
    assert pending.brought(home, "acme") == []
    for line in (b"Lindgasse", b"Ferncastle"):
        assert files_with(line, home, cache_folder()) == []


def test_a_passage_that_only_waits_is_cut_out_too(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    brought(home, tmp_path)
    forgetting.forget("acme", passage="Tram 14 stops in Lindgasse", base=base, home=home)
    (left,) = pending.brought(home, "acme")
    assert "Lindgasse" not in left.document.text and "Ferncastle" in left.document.text


def test_nobody_hides_a_document_behind_one_of_the_same_name(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    folder = tmp_path / "from-mal"
    folder.mkdir()
    (folder / "kestrel.md").write_text("# Vacation rules\n\nHerons nest on the roof of the boat house.\n", "utf-8")
    bring(home, "acme", folder, "mal", now=NOW)
    for name in ("kestrel.md", "Vacation rules"):
        forgetting.forget("acme", document=name, home=home, later=True)
    gone = {id for stone in Registry(home).tombstones("acme") for id in stone.body["documents"]}
    own = {e["document"] for e in Registry(home).latest("acme").details["manifest"] if e["source"] in ("kestrel.md", "vacation.md")}
    assert gone == own


def test_what_is_brought_again_under_its_path_is_the_next_edition(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    brought(home, tmp_path)
    pending.promote(home, "acme", "anna", now=NOW)
    updating.update("acme", tmp_path / "d", base=base, home=home, way="in_order")
    (tmp_path / "from-anna" / "tram.md").write_text(TRAM.replace("Tram 14", "Tram 19"), "utf-8")
    rows, told = bring(home, "acme", tmp_path / "from-anna", "anna", now=NOW)
    assert [row.state for row in rows] == ["pending"] and told.endswith("brought before: tram.md")
    assert ["Tram 19" in d.text for d in pending.pending(home, "acme", "anna")] == [True]
    assert ["Tram 14" in d.text for d in pending.promoted(home, "acme")] == [True]
    pending.promote(home, "acme", "anna", now=NOW)
    three = updating.update("acme", tmp_path / "d", base=base, home=home, way="in_order")
    assert three.version.details["changes"] == {"new": 0, "changed": 1, "withdrawn": 0, "unchanged": 3}
