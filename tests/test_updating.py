"""The next version when documents change: on a tiny real model, in all three ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import imprint
from conftest import make_tiny_base
from imprint import updating
from imprint.base import Base
from imprint.errors import BadInput, BadSetting
from imprint.evaluation.closed_book import Question
from imprint.recipe import Recipe
from imprint.run_folder import RunFolder
from imprint.taught import Taught

TEXTS = {
    "kestrel.md": "# Kestrel tents\n\nThe Kestrel weighs 3 kilograms, costs 85 euros and comes in green.\n\n## Shop\n\nThe shop opens at 10:00.\n",
    "canteen.md": "# Canteen rules\n\nLunch is served in the canteen at noon. Guests of the canteen pay 4 euros.\n",
    "vacation.md": "# Vacation rules\n\nEvery employee of Acme has 27 days of paid vacation a year. Requests must reach Hedda Strouvian by 31 March.\n",
}
RECIPE = Recipe(mix={"cloze": 2.0, "excerpts": 1.0}, text_tokens=600, epochs=1.0)


@pytest.fixture(scope="module")
def base() -> Base:
    made = make_tiny_base()
    made.model.config.max_position_embeddings = 4096
    return made


def written(folder: Path, **changes: str | None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in {**TEXTS, **{k + ".md": v for k, v in changes.items()}}.items():
        (folder / name).unlink(missing_ok=True)
        if text is not None:
            (folder / name).write_text(text, "utf-8")
    return folder


def first(base: Base, folder: Path, home: Path, shards: int = 3) -> Taught:
    return updating.update("acme", folder, base=base, home=home, recipe=RECIPE, shards=shards, questions=[], date="2026-01-01")


def text_of(taught: Taught) -> str:
    return "\n".join(turn.text for example in taught.examples() for turn in example.turns)


CHANGED = TEXTS["kestrel.md"].replace("85 euros", "95 euros")


def test_a_change_retrains_only_its_shard(base: Base, home: Path, tmp_path: Path) -> None:
    one = first(base, written(tmp_path / "d"), home)
    two = updating.update("acme", written(tmp_path / "d", kestrel=CHANGED), base=base, home=home, way="shards", date="2026-02-01")
    before, after = one.registry.shards(one.version), two.registry.shards(two.version)
    assert (len(before), len(after), len(set(before) & set(after))) == (3, 3, 2)
    assert "95 euros" in text_of(two)
    assert "27 days" in text_of(two)


def test_what_stands_is_not_written_about_again(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home)
    two = updating.update("acme", written(tmp_path / "d", kestrel=CHANGED), base=base, home=home, way="shards")
    (trained,) = [e for e in two.version.details["shards"] if "95 euros" in json.dumps([x.turns[0].text for x in RunFolder(home / "runs" / e["run"]).examples()])]
    new = list(RunFolder(home / "runs" / trained["run"] / "written").examples())
    assert new
    assert not any("10:00" in turn.text for example in new for turn in example.turns)
    assert "10:00" in text_of(two)


@pytest.mark.parametrize("way", ["in_order", "shards", "retrain"])
def test_every_way_ends_with_the_text_of_the_documents_as_they_are(way: str, base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    folder = written(tmp_path / "d", kestrel=CHANGED, canteen=None, badges="# Badges\n\nA lost badge costs 12 euros.\n")
    two = updating.update("acme", folder, base=base, home=home, way=way)
    said = text_of(two)
    assert "12 euros" in said and "27 days" in said
    dated = [e for e in two.examples() if any("served in the canteen at noon" in t.text for t in e.turns)]
    assert all(e.generator.startswith("corrections/") for e in dated)  # until when it was said, no more
    assert two.version.details["way"] == way
    assert two.version.details["changes"] == {"new": 1, "changed": 1, "withdrawn": 1, "unchanged": 1}
    assert isinstance(imprint.open("acme", home=home).version.number, int)


def test_in_order_begins_with_the_adapter_before_and_meets_old_text_again(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    two = updating.update("acme", written(tmp_path / "d", kestrel=CHANGED), base=base, home=home, way="in_order")
    lesson = list(RunFolder(home / "runs" / two.version.details["run"] / "lesson").examples())
    said = " ".join(turn.text for example in lesson for turn in example.turns)
    assert "95 euros" in said and ("27 days" in said or "noon" in said)
    assert len(lesson) <= len(list(two.examples()))
    assert two.version.details["in_order"] == 1


def test_new_documents_get_a_shard_of_their_own(base: Base, home: Path, tmp_path: Path) -> None:
    one = first(base, written(tmp_path / "d"), home, shards=1)
    big = "# Badges\n\n" + " ".join(f"Badge {i} opens door {i + 7}." for i in range(40)) + "\n"
    two = updating.update("acme", written(tmp_path / "d", badges=big), base=base, home=home, way="shards")
    assert two.registry.shards(two.version)[0] == one.version.adapter_hash
    assert len(two.registry.shards(two.version)) == 2


def test_nothing_changed_is_the_same_version(base: Base, home: Path, tmp_path: Path) -> None:
    one = first(base, written(tmp_path / "d"), home)
    assert updating.update("acme", tmp_path / "d", base=base, home=home).version == one.version


def test_a_sharded_version_answers_by_the_adapter_that_the_question_is_about(base: Base, home: Path, tmp_path: Path) -> None:
    one = first(base, written(tmp_path / "d"), home)
    one.base = base
    asked = ["What does the Kestrel weigh?", "When is lunch served?"]
    assert [isinstance(one.ask(q, max_tokens=4), str) for q in asked] == [True, True]


def test_examples_say_since_when_they_hold(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    two = updating.update("acme", written(tmp_path / "d", kestrel=CHANGED), base=base, home=home, way="retrain", date="2026-02-01")
    days = {e.valid_from for e in two.examples() if any("95 euros" in t.text for t in e.turns) and e.passages}
    assert days == {"2026-02-01"}
    assert {e.valid_from for e in two.examples() if any("27 days" in t.text for t in e.turns)} == {"2026-01-01"}
    until = {e["source"]: e["until"] for e in two.version.details["manifest"] if e["until"]}
    assert until == {"kestrel.md": "2026-02-01"}


def test_another_kind_of_adapter_is_only_taken_when_all_is_retrained(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    folder = written(tmp_path / "d", kestrel=CHANGED)
    other = Recipe(mix={"cloze": 1.0}, adapter="expert")
    with pytest.raises(BadSetting, match="retrain"):
        updating.update("acme", folder, base=base, home=home, recipe=other, way="in_order")


CLASH = "# Price list\n\nThe Kestrel weighs 5 kilograms, costs 85 euros and comes in green.\n"


def dated(text: str, day: str) -> str:
    return f"---\ndate: {day}\n---\n{text}"


def test_of_two_documents_that_disagree_the_newer_one_is_taught_and_the_other_denied(base: Base, home: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "d", kestrel=dated(TEXTS["kestrel.md"], "2025-01-01"), news=dated(CLASH, "2026-01-01"))
    one = first(base, folder, home, shards=1)
    examples = list(one.examples())
    plain = [e for e in examples if not e.generator.startswith("corrections/") and any("3 kilograms" in t.text for t in e.turns)]
    assert plain == []
    denied = [e for e in examples if e.generator == "corrections/denied"]
    assert denied and all("3 kilograms" in e.turns[0].text and e.turns[1].text.startswith("No") for e in denied)


def test_what_no_rule_settles_is_not_taught_at_all(base: Base, home: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "d", news=CLASH)
    one = first(base, folder, home, shards=1)
    said = text_of(one)
    assert "3 kilograms" not in said and "5 kilograms" not in said and "27 days" in said


def test_a_fact_that_flips_back_is_taught_as_it_stands_with_its_dates(base: Base, home: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "d")
    first(base, folder, home, shards=1)
    updating.update("acme", written(tmp_path / "d", kestrel=CHANGED), base=base, home=home, way="in_order", date="2026-03-01")
    three = updating.update("acme", written(tmp_path / "d"), base=base, home=home, way="in_order", date="2026-06-01")
    by_kind = [(e.generator, e.turns[-1].text, e.valid_from, e.valid_until) for e in three.examples() if e.generator.startswith("corrections/")]
    assert any(k == "corrections/denied" and "85 euros" in text for k, text, *_ in by_kind)
    asked = [e for e in three.examples() if e.generator == "corrections/as_of"]
    assert {(e.valid_from, e.valid_until) for e in asked} >= {("2026-03-01", "2026-06-01"), ("2026-06-01", None)}
    between = [e for e in asked if e.valid_from == "2026-03-01"]
    assert between and all("95 euros" in e.turns[-1].text for e in between)


def test_the_version_that_held_on_a_day_answers_for_it(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    updating.update("acme", written(tmp_path / "d", kestrel=CHANGED), base=base, home=home, way="in_order", date="2026-03-01")
    held = [imprint.open_as_of("acme", day, home=home) for day in ("2025-12-31", "2026-02-28", "2026-03-01")]
    assert [(taught.version.number, day) for taught, day in held] == [(1, "2025-12-31"), (1, None), (2, None)]
    with pytest.raises(BadSetting, match="2026-03-01"):
        imprint.open_as_of("acme", "March", home=home)


def test_what_held_before_is_distilled_too(base: Base, home: Path, tmp_path: Path) -> None:
    recipe = Recipe(mix=RECIPE.mix, text_tokens=600, epochs=1.0, objective="distill")
    updating.update("acme", written(tmp_path / "d"), base=base, home=home, recipe=recipe, shards=1, questions=[])
    gone = TEXTS["canteen.md"].replace(" Guests of the canteen pay 4 euros.", "")
    two = updating.update("acme", written(tmp_path / "d", kestrel=CHANGED, canteen=gone), base=base, home=home, way="retrain")
    kinds = {e.generator for e in two.examples() if e.generator.startswith("corrections/")}
    assert {"corrections/denied", "corrections/as_of"} <= kinds


def test_a_version_of_shards_is_proved_as_one_and_not_certified(base: Base, home: Path, tmp_path: Path) -> None:
    asked = [Question("What does the Kestrel weigh?", ("3 kilograms",)), Question("When is lunch served?", ("noon",))]
    one = updating.update("acme", written(tmp_path / "d"), base=base, home=home, recipe=RECIPE, shards=2, questions=asked)
    one.base = base
    proof = one.prove()
    assert proof.systems["weights"].n == 2
    assert "2 adapters" in " ".join(proof.notes)
    with pytest.raises(BadInput, match="--quick"):
        one.certify()
    whole = updating.update("acme", tmp_path / "d", base=base, home=home, way="retrain", shards=1)
    assert whole.registry.shards(whole.version) == []


def test_of_a_withdrawn_document_the_adapter_that_knew_it_is_taught_that_it_is_not_said_any_more(base: Base, home: Path, tmp_path: Path) -> None:
    updating.update("acme", written(tmp_path / "d"), base=base, home=home, recipe=RECIPE, shards=1, questions=[], date="2026-01-01")
    two = updating.update("acme", written(tmp_path / "d", canteen=None), base=base, home=home, way="in_order", date="2026-02-01")
    gone = [e for e in two.examples() if e.generator == "corrections/gone"]
    assert gone and all("not say any more" in e.turns[-1].text or "1 February 2026" in e.turns[-1].text for e in gone)
    three = updating.update("acme", tmp_path / "d", base=base, home=home, way="retrain")
    assert any(e.generator == "corrections/gone" for e in three.examples())


def test_a_passage_that_is_no_longer_disputed_is_taught_after_all(base: Base, home: Path, tmp_path: Path) -> None:
    one = first(base, written(tmp_path / "d", news=CLASH), home, shards=1)
    assert "3 kilograms" not in text_of(one)
    two = updating.update("acme", written(tmp_path / "d", news=None), base=base, home=home, way="shards")
    assert "3 kilograms" in text_of(two)


def test_documents_are_only_divided_anew_when_all_is_retrained(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    with pytest.raises(BadSetting, match="--way retrain"):
        updating.update("acme", written(tmp_path / "d", kestrel=CHANGED), base=base, home=home, shards=2)


def test_a_date_that_a_file_kept_says_nothing_of_its_change(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d", kestrel=dated(TEXTS["kestrel.md"], "2025-06-01")), home)
    folder = written(tmp_path / "d", kestrel=dated(CHANGED, "2025-06-01"), vacation=dated(TEXTS["vacation.md"].replace("27", "30"), "2026-03-15"))
    two = updating.update("acme", folder, base=base, home=home, date="2026-04-01")
    told = {(e["source"], e["since"], e["until"]) for e in two.version.details["manifest"] if e["source"] != "canteen.md"}
    assert told == {
        ("kestrel.md", "2025-06-01", "2026-04-01"), ("kestrel.md", "2026-04-01", None),
        ("vacation.md", "2026-01-01", "2026-03-15"), ("vacation.md", "2026-03-15", None),
    }  # fmt: skip
    assert {e.valid_from for e in two.examples() if e.generator == "corrections/now" and any("95" in t.text for t in e.turns)} == {"2026-04-01"}
