"""Forgetting, on a tiny real model: withheld at once, trained out, destroyed, and gone from every byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import make_tiny_base
from imprint import forgetting, rebasing, updating
from imprint.base import Base
from imprint.continual import erasing, tombstones
from imprint.continual.deletion_report import Known, report
from imprint.continual.tombstones import Withheld
from imprint.corpus import Corpus
from imprint.errors import BadInput, NoSuchAdapter, NotFound
from imprint.evaluation.closed_book import Question
from imprint.home import cache_folder
from imprint.interfaces import cli
from imprint.next_version import make
from imprint.registry import Registry
from imprint.taught import Taught
from imprint.types import Document, Prompt, Text
from imprint.watch import SILENT
from imprint.writers.cache import CachedWriter
from test_updating import RECIPE, TEXTS, written

SECRET = "# Salary of Quorvane\n\nOslin Quorvane earns 91834 euros a year. The contract of Oslin Quorvane ends on 17 May 2031.\n"
LINES = (b"Oslin Quorvane", b"Quorvane", b"91834", b"17 May 2031")


@pytest.fixture(scope="module")
def base() -> Base:
    made = make_tiny_base()
    made.model.config.max_position_embeddings = 4096
    return made


def taught(base: Base, home: Path, tmp_path: Path, shards: int = 2) -> Taught:
    folder = written(tmp_path / "d", salary=SECRET)
    return updating.update("acme", folder, base=base, home=home, recipe=RECIPE, shards=shards, questions=[])


def files_with(secret: bytes, *places: Path) -> list[str]:
    return [str(f) for place in places for f in place.rglob("*") if f.is_file() and secret in f.read_bytes()]


def test_a_forgotten_document_is_in_no_byte_of_the_home_and_the_caches(base: Base, home: Path, tmp_path: Path) -> None:
    taught(base, home, tmp_path)
    updating.update("acme", written(tmp_path / "d", salary=SECRET, canteen=TEXTS["canteen.md"].replace("4 euros", "5 euros")), base=base, home=home, way="in_order")
    assert all(files_with(line, home) for line in LINES)
    done = forgetting.forget("acme", document="salary.md", base=base, home=home, control=False)
    assert done.destroyed == ("acme@1", "acme@2")
    assert done.erased is not None and done.erased.left == []
    for line in LINES:
        assert files_with(line, home, cache_folder()) == []


def test_what_stays_is_still_taught_and_only_its_shard_is_trained(base: Base, home: Path, tmp_path: Path) -> None:
    one = taught(base, home, tmp_path)
    before = one.registry.shards(one.version)
    done = forgetting.forget("acme", document="salary.md", base=base, home=home, control=False)
    assert done.taught is not None
    after = done.taught.registry.shards(done.taught.version) or [done.taught.version.adapter_hash]
    assert len(set(before) & set(after)) == 1
    said = " ".join(t.text for e in done.taught.examples() for t in e.turns)
    assert "27 days" in said and "85 euros" in said and "Quorvane" not in said


def test_from_the_tombstone_on_answers_that_only_it_bears_out_are_withheld(base: Base, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = taught(base, home, tmp_path)
    one.base = base
    monkeypatch.setattr("imprint.chosen.LocalWriter.write", lambda self, prompts, seed: [Text("91834 euros") if "Quorvane" in p.turns[-1].text else Text("27 days") for p in prompts])
    asked = [Prompt.ask("What does Oslin Quorvane earn?"), Prompt.ask("How many days of paid vacation has an employee of Acme?")]
    assert [t.text for t in one.write(asked, seed=0)] == ["91834 euros", "27 days"]
    forgetting.forget("acme", document="salary.md", home=home, later=True)
    assert [t.text for t in one.write(asked, seed=0)] == [tombstones.WITHHELD, "27 days"]
    assert [d.source for d in (one.corpus() or pytest.fail()).documents] == ["canteen.md", "kestrel.md", "vacation.md"]


def test_what_another_document_says_too_is_not_withheld() -> None:
    gone = [Document("The shop opens at 10:00. Rolf Ternby keeps the key.", "a.md", "Shop")]
    stays = [Document("Our shop opens at 10:00 every day.", "b.md", "Hours")]
    judge = Withheld(gone, stays)
    assert not judge.holds("When does the shop open?", "The shop opens at 10:00.")
    assert judge.holds("Who keeps the key?", "Rolf Ternby")


def test_a_passage_is_cut_out_of_its_document(base: Base, home: Path, tmp_path: Path) -> None:
    taught(base, home, tmp_path, shards=1)
    done = forgetting.forget("acme", passage="The contract of Oslin Quorvane ends on 17 May 2031.", base=base, home=home, control=False)
    assert done.taught is not None
    said = " ".join(t.text for e in done.taught.examples() for t in e.turns)
    assert "91834" in said and "2031" not in said
    assert files_with(b"17 May 2031", home, cache_folder()) == []


def test_all_that_somebody_brought_is_forgotten(base: Base, home: Path, tmp_path: Path) -> None:
    taught(base, home, tmp_path, shards=1)
    with pytest.raises(NotFound, match="brought by 'anna'"):
        forgetting.forget("acme", owner="anna", base=base, home=home)


def test_the_report_sets_what_is_known_beside_a_control_that_never_saw_it(base: Base, home: Path, tmp_path: Path) -> None:
    taught(base, home, tmp_path)
    done = forgetting.forget("acme", document="salary.md", base=base, home=home)
    assert done.report is not None
    assert {"right_before", "right_after", "right_control", "likelihood_after_less_control", "exposure_after"} <= set(done.report.scores)
    assert done.report.details["control"].startswith("trained with another seed")
    assert "Quorvane" not in str(done.report)


def test_a_name_of_which_nothing_is_left_is_gone(base: Base, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "salary.md").write_text(SECRET, "utf-8")
    updating.update("acme", folder, base=base, home=home, recipe=RECIPE, questions=[])
    done = forgetting.forget("acme", document="salary.md", base=base, home=home)
    assert done.taught is None
    with pytest.raises(NoSuchAdapter):
        Registry(home).latest("acme")
    assert files_with(b"Quorvane", home, cache_folder()) == []


def test_a_withdrawn_document_that_the_weights_still_know_is_forgotten_too(base: Base, home: Path, tmp_path: Path) -> None:
    taught(base, home, tmp_path, shards=1)
    updating.update("acme", written(tmp_path / "d", salary=None), base=base, home=home, way="in_order")
    done = forgetting.forget("acme", document="salary.md", base=base, home=home, control=False)
    assert done.destroyed == ("acme@1", "acme@2")
    assert done.taught is not None and done.taught.version.details["in_order"] == 0
    assert files_with(b"Quorvane", home, cache_folder()) == []


def test_one_thing_at_a_time_and_none_twice(base: Base, home: Path, tmp_path: Path) -> None:
    taught(base, home, tmp_path, shards=1)
    with pytest.raises(BadInput, match="one thing"):
        forgetting.forget("acme", document="salary.md", owner="anna", home=home)
    with pytest.raises(BadInput, match="left to be forgotten"):
        forgetting.forget("acme", home=home)
    with pytest.raises(NotFound, match=r"salary\.md"):
        forgetting.forget("acme", document="salaries.md", home=home)


def test_lines_that_tell_of_it_are_overwritten_where_they_stand_and_others_are_still_read(tmp_path: Path) -> None:
    class Clerk:
        name = "clerk"

        def write(self, prompts: list[Prompt], *, seed: int) -> list[Text]:
            return [Text(f"About {p.turns[-1].text}.") for p in prompts]

    file = tmp_path / "writes" / "clerk.jsonl"
    writer = CachedWriter(Clerk(), file, group=1)
    prompts = [Prompt.ask(what) for what in ("lunch", "Oslin Quorvane and 91834 euros", "vacation")]
    before = writer.write(prompts, seed=0)
    size = file.stat().st_size
    assert erasing.erase_writings(tmp_path, erasing.Traces([SECRET], [TEXTS["canteen.md"]])) == 1
    assert b"Quorvane" not in file.read_bytes() and file.stat().st_size == size
    again = CachedWriter(Clerk(), file, group=1)
    assert again.write(prompts, seed=0) == before
    assert again.written == 1


def test_what_is_to_be_forgotten_is_not_given_away(base: Base, home: Path, tmp_path: Path) -> None:
    one = taught(base, home, tmp_path, shards=1)
    forgetting.forget("acme", document="salary.md", home=home, later=True)
    with pytest.raises(BadInput, match="imprint forget acme"):
        one.registry.export(one.version, tmp_path / "out")


def test_what_was_forgotten_is_not_taught_again_by_the_way(base: Base, home: Path, tmp_path: Path) -> None:
    taught(base, home, tmp_path, shards=1)
    forgetting.forget("acme", document="salary.md", base=base, home=home, control=False)
    with pytest.raises(BadInput, match=r"salary\.md was to be forgotten .* --readmit"):
        updating.update("acme", tmp_path / "d", base=base, home=home)
    again = updating.update("acme", tmp_path / "d", base=base, home=home, readmit=True)
    assert "91834" in " ".join(t.text for e in again.examples() for t in e.turns)


def test_a_document_that_was_edited_is_forgotten_in_all_its_editions_by_its_path(base: Base, home: Path, tmp_path: Path) -> None:
    taught(base, home, tmp_path, shards=1)
    updating.update("acme", written(tmp_path / "d", salary=SECRET.replace("91834", "92000")), base=base, home=home, way="in_order")
    done = forgetting.forget("acme", document="salary.md", base=base, home=home, control=False)
    assert done.destroyed == ("acme@1", "acme@2")
    for line in (*LINES, b"92000"):
        assert files_with(line, home, cache_folder()) == []


def test_a_document_that_was_moved_and_edited_is_forgotten_in_all_its_editions(base: Base, home: Path, tmp_path: Path) -> None:
    taught(base, home, tmp_path, shards=1)
    moved = written(tmp_path / "d", salary=None, pay=SECRET.replace("91834", "92000"))
    updating.update("acme", moved, base=base, home=home, way="in_order")
    done = forgetting.forget("acme", document="pay.md", base=base, home=home, control=False)
    assert done.destroyed == ("acme@1", "acme@2")
    assert files_with(b"91834", home, cache_folder()) == []


def test_what_another_shard_was_told_of_a_document_goes_with_it(base: Base, home: Path, tmp_path: Path) -> None:
    old = "---\ndate: 2025-01-01\n---\n# Travel\n\nThe travel bonus of Acme is 500 euros a year.\n"
    new = "---\ndate: 2026-01-01\n---\n# Policy\n\nThe travel bonus of Acme is 700 euros a year.\n"
    folder = written(tmp_path / "d", a_travel=old, z_policy=new)
    one = updating.update("acme", folder, base=base, home=home, recipe=RECIPE, shards=4, questions=[])
    assert any("500 euros" in t.text for e in one.examples() if e.generator.startswith("corrections/") for t in e.turns)
    done = forgetting.forget("acme", document="a_travel.md", base=base, home=home, control=False)
    assert done.taught is not None
    said = " ".join(t.text for e in done.taught.examples() for t in e.turns)
    assert "500 euros" not in said and "700 euros" in said
    assert files_with(b"500 euros", home, cache_folder()) == []


def test_what_is_withheld_is_neither_proved_nor_shown(base: Base, home: Path, tmp_path: Path) -> None:
    one = taught(base, home, tmp_path, shards=1)
    forgetting.forget("acme", document="salary.md", home=home, later=True)
    with pytest.raises(BadInput, match="imprint forget acme"):
        one.prove([Question("Who earns it?", ("Oslin Quorvane",))])
    assert not any("Quorvane" in t.text for e in one.examples() for t in e.turns)


def test_forgetting_goes_on_where_a_rollback_left_versions_that_saw_it(base: Base, home: Path, tmp_path: Path) -> None:
    updating.update("acme", written(tmp_path / "d"), base=base, home=home, recipe=RECIPE, shards=1, questions=[])
    updating.update("acme", written(tmp_path / "d", salary=SECRET), base=base, home=home, way="in_order")
    rebasing.rollback("acme@1", home=home)
    done = forgetting.forget("acme", document="salary.md", base=base, home=home)
    assert done.destroyed == ("acme@2",)
    assert files_with(b"Quorvane", home, cache_folder()) == []


def test_an_update_does_not_undo_what_was_published_beside_it(base: Base, home: Path, tmp_path: Path) -> None:
    taught(base, home, tmp_path, shards=1)
    late = updating._Updating(updating.Update("acme", written(tmp_path / "d", salary=SECRET, canteen=None)), home, SILENT)
    forgetting.forget("acme", document="salary.md", base=base, home=home, control=False)
    with pytest.raises(BadInput, match="meanwhile"):
        make([late], base, SILENT, None)


def test_questions_that_tell_of_it_are_gone_from_the_runs_that_stay(base: Base, home: Path, tmp_path: Path) -> None:
    asked = [Question("What does Oslin Quorvane earn?", ("91834 euros",)), Question("When is lunch served?", ("noon",))]
    folder = written(tmp_path / "d", salary=SECRET)
    updating.update("acme", folder, base=base, home=home, recipe=RECIPE, shards=4, questions=asked)
    done = forgetting.forget("acme", document="salary.md", base=base, home=home, control=False)
    assert done.taught is not None
    assert [q["text"] for q in done.taught.version.details["questions"]] == ["When is lunch served?"]
    for line in LINES:
        assert files_with(line, home, cache_folder()) == []


def test_what_earlier_calls_had_left_to_do_is_told_of_too(base: Base, home: Path, tmp_path: Path) -> None:
    taught(base, home, tmp_path)
    forgetting.forget("acme", document="canteen.md", home=home, later=True)
    done = forgetting.forget("acme", document="salary.md", base=base, home=home, control=False)
    assert [each.destroyed for each in (*done.earlier, done)] == [("acme@1",), ("acme@2",)]
    assert all(each.report is not None for each in (*done.earlier, done))


def test_what_is_withheld_is_told_by_no_comparison(base: Base, home: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "d")
    updating.update("acme", folder, base=base, home=home, recipe=RECIPE, questions=[])
    updating.update("acme", written(tmp_path / "d", salary=SECRET), base=base, home=home)
    (tmp_path / "other.md").write_text(SECRET.replace("91834", "81834"), "utf-8")
    asked = [["diff", "acme@1", "acme@2"], ["conflicts", str(tmp_path / "other.md"), "--name", "acme"]]
    assert all("91834" in CliRunner().invoke(cli.app, words).output for words in asked)
    forgetting.forget("acme", document="salary.md", home=home, later=True)
    assert not any("91834" in CliRunner().invoke(cli.app, words).output for words in asked)


def test_of_a_single_passage_nothing_is_said_about_an_interval() -> None:
    one, other = (Known((), (nats,), (), ()) for nats in (-5.0, -6.0))
    made = report(one, one, other, seed=0, about={})
    assert made.details["within_control"] == {}
    assert made.scores["likelihood_after_less_control"].value == 1.0


def test_what_belongs_to_another_name_is_not_called_left_over(base: Base, home: Path, tmp_path: Path) -> None:
    one = taught(base, home, tmp_path)
    updating.update("other", tmp_path / "d", base=base, home=home, recipe=RECIPE, questions=[])
    (home / "uploads").mkdir()
    (home / "uploads" / "file-1.txt").write_text(SECRET, "utf-8")
    erased = forgetting.forget("acme", document="salary.md", base=base, home=home, control=False).erased
    assert erased is not None and erased.left == ["uploads/file-1.txt"]
    assert {file.partition("/")[0] for file in erased.of_others} == {"corpora", "runs"}
    assert Corpus.file(home, one.version.corpus_hash).relative_to(home).as_posix() in erased.of_others
