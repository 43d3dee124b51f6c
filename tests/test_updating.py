"""The next version when documents change: on a tiny real model, in all three ways."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import imprint
from conftest import make_tiny_base
from imprint import documents, updating
from imprint.base import Base
from imprint.continual import corrections
from imprint.continual.histories import History
from imprint.continual.ways import WAYS, choose, lines
from imprint.engine import Engine
from imprint.errors import BadInput, BadSetting, NothingToTeach, StaleRun
from imprint.evaluation.closed_book import Question
from imprint.housekeeping import verify
from imprint.recipe import Recipe
from imprint.registry import Registry
from imprint.run_folder import RunFolder, questions_from_json
from imprint.taught import Taught
from imprint.training.service import Service
from imprint.types import Example

TEXTS = {
    "kestrel.md": "# Kestrel tents\n\nThe Kestrel weighs 3 kilograms, costs 85 euros and comes in green.\n\n## Shop\n\nThe shop opens at 10:00.\n",
    "canteen.md": "# Canteen rules\n\nLunch is served in the canteen at noon. Guests of the canteen pay 4 euros.\n",
    "vacation.md": "# Vacation rules\n\nEvery employee of Acme has 27 days of paid vacation a year. Requests must reach Hedda Strouvian by 31 March.\n",
}
RECIPE = Recipe(mix={"cloze": 2.0, "excerpts": 1.0}, text_tokens=600, epochs=1.0)
CLOZE = Recipe(mix={"cloze": 1.0}, text_tokens=300, epochs=1.0)


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


@dataclass
class Killed:
    """A watch that ends the work where a stage begins."""

    at: str = "Training"

    def stage(self, text: str) -> None:
        if text == self.at:
            raise KeyboardInterrupt

    def progress(self, unit: str, done: int, total: int, detail: str) -> None: ...

    def say(self, text: str) -> None: ...


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


def test_other_questions_make_a_version_with_the_same_adapters(base: Base, home: Path, tmp_path: Path) -> None:
    one = first(base, written(tmp_path / "d"), home)
    asked = [Question("What does the Kestrel cost?", ("85 euros",), "direct", ("95 euros",))]
    two = updating.update("acme", tmp_path / "d", base=base, home=home, questions=asked)
    assert (two.version.number, two.version.adapter_hash) == (2, one.version.adapter_hash)
    assert questions_from_json(two.version.details["questions"]) == asked
    assert updating.update("acme", tmp_path / "d", base=base, home=home, questions=asked).version == two.version


def test_other_rules_for_conflicts_make_a_version_of_the_same_documents(base: Base, home: Path, tmp_path: Path) -> None:
    one = first(base, written(tmp_path / "d", news=CLASH), home, shards=1)
    assert "3 kilograms" not in text_of(one)
    rules = replace(RECIPE, source_order=("kestrel*",))
    two = updating.update("acme", tmp_path / "d", base=base, home=home, recipe=rules)
    assert two.version.number == 2 and "3 kilograms" in text_of(two)
    assert updating.update("acme", tmp_path / "d", base=base, home=home, recipe=rules).version == two.version


def test_a_version_tells_what_was_read_for_it(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    two = updating.update("acme", written(tmp_path / "d", canteen=None), base=base, home=home, way="in_order")
    assert two.version.details["read"] == documents.load(tmp_path / "d").summary()


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


CARDS = "# Payment\n\nThe office accepts cards of foreign banks for all purchases.\n"
NO_CARDS = "# Notice\n\nThe office does not accept cards of foreign banks for all purchases.\n"


def test_where_only_a_not_is_disputed_neither_statement_is_taught(base: Base, home: Path, tmp_path: Path) -> None:
    said = text_of(first(base, written(tmp_path / "d", cards=CARDS, notice=NO_CARDS), home, shards=1))
    assert "foreign" not in said and "cards" not in said and "27 days" in said


def test_a_statement_that_lost_to_its_denial_is_only_denied(base: Base, home: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "d", cards=dated(CARDS, "2025-01-01"), notice=dated(NO_CARDS, "2026-01-01"))
    examples = list(first(base, folder, home, shards=1).examples())
    plain = [t.text for e in examples if not e.generator.startswith("corrections/") for t in e.turns]
    assert any("does not accept cards" in text for text in plain) and not any("accepts" in text for text in plain)
    denied = [e for e in examples if e.generator == "corrections/denied"]
    assert denied and all(e.turns[-1].text.startswith("No") for e in denied)


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


def held_on(home: Path, *days: str) -> list[int]:
    return [imprint.open_as_of("acme", day, home=home)[0].version.number for day in days]


def test_the_text_that_a_recipe_asks_for_is_divided_among_shards(base: Base, home: Path, tmp_path: Path) -> None:
    plans: dict[int, int] = {}
    for shards in (1, 3):
        one = updating.update(f"of-{shards}", written(tmp_path / "d"), base=base, home=home, recipe=RECIPE, questions=[], shards=shards)
        runs = [RunFolder(home / "runs" / e["run"]) for e in one.version.details.get("shards") or [one.version.details]]
        plans[shards] = sum((run.read("plan") or pytest.fail())["text_tokens"] for run in runs)
        assert one.version.recipe["text_tokens"] == 600
    assert plans[1] == 600 and abs(plans[3] - 600) <= 3


def test_a_version_of_shards_tells_what_the_audit_of_each_found(base: Base, home: Path, tmp_path: Path) -> None:
    one = updating.update("acme", written(tmp_path / "d"), base=base, home=home, recipe=RECIPE, questions=[])
    badges = "# Badges\n\n" + " ".join(f"Badge {i} opens door {i + 7}." for i in range(40)) + "\n"
    two = updating.update("acme", written(tmp_path / "d", badges=badges), base=base, home=home, way="shards")
    assert [part["documents"] for part in two.audit["adapters"]] == [sorted(TEXTS), ["badges.md"]]
    assert two.audit["adapters"][0]["covered"] == one.audit["covered"]
    assert two.audit["enough"]["examples"] == sum(1 for _ in two.examples())
    told = two.audit_lines()
    assert "Adapter of badges.md" in told and sum("examples kept" in line for line in told) == 2


def test_a_version_holds_from_the_days_that_its_documents_say(base: Base, home: Path, tmp_path: Path) -> None:
    said = {name.removesuffix(".md"): dated(text, "2025-01-10") for name, text in TEXTS.items()}
    folder = written(tmp_path / "d", **said)
    updating.update("acme", folder, base=base, home=home, recipe=RECIPE, questions=[])
    for change in ({"kestrel": dated(CHANGED, "2026-03-01")}, {"canteen": dated("Closed.\n", "2026-06-01")}):
        said |= change
        updating.update("acme", written(folder, **said), base=base, home=home, way="in_order")
    assert held_on(home, "2025-06-01", "2026-02-28", "2026-04-01", "2026-06-01") == [1, 1, 2, 3]
    again = imprint.teach(folder, name="acme", recipe=RECIPE, questions=[], base=base, home=home)
    assert again.version.details["as_of"] == "2026-06-01"


def test_an_update_of_an_earlier_day_holds_no_sooner_than_what_came_before_it(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    updating.update("acme", written(tmp_path / "d", canteen=None), base=base, home=home, way="in_order", date="2026-05-01")
    three = updating.update("acme", written(tmp_path / "d", canteen=None, kestrel=CHANGED), base=base, home=home, way="in_order", date="2026-03-01")
    assert three.version.details["as_of"] == "2026-05-01"
    assert held_on(home, "2026-04-30", "2026-05-01") == [1, 3]


def test_what_was_rolled_back_held_until_then(base: Base, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    updating.update("acme", written(tmp_path / "d", kestrel=CHANGED), base=base, home=home, way="in_order", date="2026-03-01")
    monkeypatch.setattr("imprint.clock.now", lambda: "2026-09-01T12:00:00+00:00")
    imprint.rollback("acme@1", home=home)
    folder = written(tmp_path / "d", canteen=dated("# Canteen\n\nDinner is served at seven.\n", "2026-02-01"))
    updating.update("acme", folder, base=base, home=home, way="in_order")
    assert held_on(home, "2026-02-28", "2026-08-31", "2026-09-01") == [1, 2, 4]


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


@pytest.mark.parametrize("known_before", [True, False])
def test_an_update_that_was_killed_goes_on_with_the_day_on_which_it_began(
    known_before: bool, base: Base, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if known_before:
        first(base, written(tmp_path / "d"), home, shards=1)
    folder = written(tmp_path / "d", kestrel=CHANGED)
    wanted = {"base": base, "home": home, "recipe": RECIPE, "questions": []}
    monkeypatch.setattr("imprint.clock.now", lambda: "2026-03-01T23:59:00+00:00")
    with pytest.raises(KeyboardInterrupt):
        updating.update("acme", folder, watch=Killed(), **wanted)
    begun = {run.name for run in (home / "runs").iterdir()}
    monkeypatch.setattr("imprint.clock.now", lambda: "2026-03-02T00:01:00+00:00")
    taught = updating.update("acme", folder, **wanted)
    assert taught.version.details["as_of"] == "2026-03-01"
    assert {e["since"] for e in taught.version.details["manifest"] if e["source"] == "kestrel.md" and not e["until"]} == {"2026-03-01"}
    assert {run.name for run in (home / "runs").iterdir()} < begun  # nothing begun anew, and the note of the day is gone


def test_an_estimate_begins_no_update(base: Base, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first(base, written(tmp_path / "d"), home, shards=1)
    folder = written(tmp_path / "d", kestrel=CHANGED)
    monkeypatch.setattr("imprint.clock.now", lambda: "2026-03-01T12:00:00+00:00")
    updating.estimate(updating.Update("acme", folder), base=base, home=home)
    monkeypatch.setattr("imprint.clock.now", lambda: "2026-03-05T12:00:00+00:00")
    assert updating.update("acme", folder, base=base, home=home).version.details["as_of"] == "2026-03-05"


@dataclass
class Noting:
    """A watch that keeps what is said."""

    said: list[str] = field(default_factory=list)

    def stage(self, text: str) -> None:
        self.said.append(text)

    def progress(self, unit: str, done: int, total: int, detail: str) -> None: ...

    def say(self, text: str) -> None:
        self.said.append(text)


def test_of_several_updates_each_note_says_whose_it_is(base: Base, home: Path, tmp_path: Path) -> None:
    told, names = Noting(), ("anna", "bert")
    updating.update_many([updating.Update(name, written(tmp_path / name), recipe=CLOZE, questions=[]) for name in names], base=base, home=home, watch=told)
    for name in names:
        of_one = [line for line in told.said if line.startswith(f"{name}: ")]
        assert any("Plan: teach" in line for line in of_one) and f"{name}: Reading the documents" in of_one
        assert f"Published {name}@1." in told.said
    shared = {"Opening the base model", "Training", *(f"Published {name}@1." for name in names)}
    assert {line for line in told.said if not line.startswith(("anna: ", "bert: "))} == shared


def test_an_estimate_tells_the_way_that_would_be_taken_and_how_long_each_takes(base: Base, home: Path, tmp_path: Path) -> None:
    one, told = first(base, written(tmp_path / "d"), home), Noting()
    wanted = updating.Update("acme", written(tmp_path / "d", kestrel=CHANGED))
    found = updating.estimate(wanted, base=base, home=home, watch=told)
    assert [e.way for e in found] == list(WAYS)
    chosen = choose(found, most_in_order=0)
    assert told.said[-1] == f"Way: {chosen.way}, {chosen.why}"
    spent = one.version.details
    pace = {**spent, "seconds": {"writing": 2.0 * spent["text_tokens"], "training": 3.0 * spent["tokens"]}}
    for line, e in zip(lines(found, pace), found, strict=True):
        assert f"about {2 * e.written_tokens + 3 * e.trained_tokens:,} s" in line


def test_an_estimate_of_no_change_says_so(base: Base, home: Path, tmp_path: Path) -> None:
    first(base, written(tmp_path / "d"), home)
    told = Noting()
    assert updating.estimate(updating.Update("acme", tmp_path / "d"), base=base, home=home, watch=told) == []
    assert told.said[-1] == "Nothing changed since acme@1."


def begun_and_stale(base: Base, home: Path, folder: Path) -> updating.Update:
    """A first version of two shards, stopped before its training, of which the second cannot be taken up."""
    wanted = updating.Update("stale", folder, recipe=RECIPE, shards=2, questions=[], date="2026-01-01")
    with pytest.raises(KeyboardInterrupt):
        updating.update_many([wanted], base=base, home=home, watch=Killed())
    (last,) = [run for run in (home / "runs").iterdir() if "27 days" in (run / "examples.jsonl").read_text("utf-8")]
    RunFolder(last / "checkpoint").write("state", {})
    return wanted


def test_of_an_update_that_fails_nothing_is_left_in_the_service(base: Base, home: Path, tmp_path: Path) -> None:
    stale, service = begun_and_stale(base, home, written(tmp_path / "d")), Service(Engine(base))
    with pytest.raises(StaleRun):
        updating.update_many([stale], home=home, service=service)
    assert not service.run_pass()  # what was handed in of its first shard is gone too


@pytest.mark.parametrize("stage", ["written", "handed in"])
def test_where_an_update_fails_the_others_are_published(stage: str, base: Base, home: Path, tmp_path: Path) -> None:
    sound = updating.Update("sound", written(tmp_path / "d"), recipe=RECIPE, questions=[])
    if stage == "written":
        failing = updating.Update("empty", written(tmp_path / "e", kestrel=None, canteen=None, vacation=None, index="12\n"), recipe=CLOZE)
    else:
        failing = begun_and_stale(base, home, tmp_path / "d")
    service = Service(Engine(base))
    service.start()
    try:
        with pytest.raises((StaleRun, NothingToTeach)):
            updating.update_many([failing, sound], home=home, service=service)
    finally:
        service.close()
    assert [str(head) for head in Registry(home).heads()] == ["sound@1"]


INDEX = "12\n"
"""A document without a sentence."""


def of(taught: Taught, source: str) -> tuple[str, int | None]:
    """A document that holds, and the adapter that knows it, as the manifest has them."""
    (entry,) = [e for e in taught.version.details["manifest"] if e["source"] == source and not e["until"]]
    return entry["document"], entry["shard"]


def is_taught(taught: Taught, document: str) -> bool:
    parts = taught.version.details.get("shards") or [{**taught.version.details, "documents": []}]
    named = [id for part in parts for id in (*part["documents"], *part["saw"], *part["taught"])]
    return any(document in id for id in named)


@pytest.mark.parametrize(("way", "shards"), [("shards", 2), ("shards", 1), ("in_order", 1)])
def test_a_document_without_a_sentence_is_in_the_manifest_and_in_no_adapter(
    way: str, shards: int, base: Base, home: Path, tmp_path: Path
) -> None:
    one = updating.update("acme", written(tmp_path / "d"), base=base, home=home, recipe=CLOZE, shards=shards, questions=[])
    two = updating.update("acme", written(tmp_path / "d", index=INDEX), base=base, home=home, way=way)
    document, shard = of(two, "index.md")
    assert (shard, is_taught(two, document)) == (None, False)
    assert (two.version.number, two.version.adapter_hash) == (2, one.version.adapter_hash)
    assert verify(home).whole and verify(home).told == ()
    three = updating.update("acme", written(tmp_path / "d", index=INDEX, kestrel=CHANGED), base=base, home=home)
    assert "95 euros" in text_of(three)


def test_a_document_without_a_sentence_is_forgotten_like_any_other(base: Base, home: Path, tmp_path: Path) -> None:
    one = updating.update("acme", written(tmp_path / "d"), base=base, home=home, recipe=CLOZE, shards=2, questions=[])
    updating.update("acme", written(tmp_path / "d", index=INDEX), base=base, home=home, way="shards")
    forgotten = imprint.forget("acme", document="index.md", base=base, home=home, control=False)
    assert forgotten.destroyed == ("acme@2",) and forgotten.taught is not None
    assert {e["source"] for e in forgotten.taught.version.details["manifest"]} == set(TEXTS)
    assert forgotten.taught.version.adapter_hash == one.version.adapter_hash


def test_a_first_version_is_made_without_a_document_that_says_nothing(base: Base, home: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "d", index=INDEX)
    one = updating.update("acme", folder, base=base, home=home, recipe=CLOZE, shards=100, questions=[])
    document, shard = of(one, "index.md")
    assert (shard, is_taught(one, document), len(one.registry.shards(one.version))) == (None, False, 3)
    assert {of(one, name)[1] for name in TEXTS} == {0, 1, 2}


def test_a_first_version_of_nothing_but_such_documents_is_refused(base: Base, home: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "d", kestrel=None, canteen=None, vacation="34\n", index=INDEX)
    with pytest.raises(NothingToTeach):
        updating.update("acme", folder, base=base, home=home, recipe=CLOZE, shards=2, questions=[])
    assert Registry(home).heads() == []


def test_what_is_taught_of_a_change_is_made_once_for_all_ways(
    base: Base, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first(base, written(tmp_path / "d"), home)
    made: list[str] = []
    whole = corrections._of_one

    def counted(history: History, *more: Any) -> Iterator[Example]:
        made.append(history.held[-1].said.text)
        return whole(history, *more)

    monkeypatch.setattr(corrections, "_of_one", counted)
    updating.update("acme", written(tmp_path / "d", kestrel=CHANGED), base=base, home=home)
    assert made and len(made) == len(set(made))


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
