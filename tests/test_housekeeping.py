"""The laws of a home: damage is found, a backup comes back as it was, and nobody's tar does harm."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from imprint.corpus import Corpus
from imprint.errors import BadInput, BrokenStore, ImprintError, NotFound
from imprint.housekeeping import backing_up, backup, restore, sweep, verify
from imprint.interfaces.cli import app
from imprint.registry import Registry, files
from imprint.run_folder import RunFolder
from imprint.types import Document, Example, Turn, Version
from test_registry import NOW, REPORT, adapter_folder

LATER = "2100-01-01T00:00:00+00:00"
KEY = "0123456789abcdef"


def taught(home: Path, name: str = "handbook", text: str = "Leave is paid.", fill: float = 1.0) -> Version:
    """A version as teaching leaves it: adapter, documents, training text and a report."""
    corpus = Corpus((Document(text, "a.md", "A"), Document("The shop opens at ten.", "b.md", "B")))
    corpus.keep(home)
    run = RunFolder(home / "runs" / KEY)
    ids = [f"{d.id}:0-{len(d.text)}" for d in corpus.documents]
    run.write_examples([Example((Turn("text", text, True),), (ids[0],), "raw_text")])
    (run.path / "checkpoint").mkdir(exist_ok=True)
    (run.path / "checkpoint" / "step.json").write_text("{}")
    version = Registry(home).publish(
        name, adapter_folder(home.parent / f"{name}-{fill}", fill), base="smol", corpus_hash=corpus.hash, recipe={},
        details={"run": KEY, "taught": ids}, now=NOW,
    )  # fmt: skip
    Registry(home).add_report(version, REPORT)
    return version


@pytest.fixture
def kept(home: Path) -> Path:
    """A home with a version, one of shards, and a tenant with a version of its own."""
    taught(home)
    registry = Registry(home)
    shards = [adapter_folder(home.parent / str(fill), fill) for fill in (2.0, 3.0)]
    registry.publish_shards("atlas", shards, base="smol", corpus_hash="", recipe={}, now=NOW)
    taught(home / "tenants" / "anna", text="Anna's own.")
    (home / "keys.json").write_text("[]\n")
    return home


# --- verify -----------------------------------------------------------------------------------


def test_a_sound_home_is_whole(kept: Path) -> None:
    found = verify(kept)
    assert (found.whole, found.left_over) == (True, ())
    assert found.counted == {"versions": 3, "adapters": 5, "corpora": 2, "runs": 2, "reports": 2}


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def _edit(file: Path) -> None:
    file.write_text(file.read_text().replace("paid", "free"))


def _row(kept: Path, sql: str) -> None:
    db = sqlite3.connect(kept / "registry.db")
    db.execute(sql)
    db.commit()
    db.close()


DAMAGE: dict[str, Callable[[Path, Registry, Version], Any]] = {
    "a weight": lambda home, r, v: _cut(r.folder(v) / "adapter_model.safetensors"),
    "a file": lambda home, r, v: (r.folder(v) / "adapter_config.json").unlink(),
    "a shard": lambda home, r, v: (r.folders(r.get("atlas"))[1] / "SHA256SUMS").unlink(),
    "a document": lambda home, r, v: _edit(Corpus.file(home, v.corpus_hash)),
    "half the documents": lambda home, r, v: _cut(Corpus.file(home, v.corpus_hash)),
    "all documents": lambda home, r, v: Corpus.file(home, v.corpus_hash).unlink(),
    "a tenant's documents": lambda home, r, v: next((home / "tenants/anna/corpora").iterdir()).unlink(),
    "a report": lambda home, r, v: _row(home, "INSERT INTO reports (name, number, body) VALUES ('handbook', 1, '{')"),
    "a reference": lambda home, r, v: _row(home, "INSERT INTO reports (name, number, body) VALUES ('nobody', 1, '{}')"),
    "the database": lambda home, r, v: (home / "registry.db").unlink(),
    "its pages": lambda home, r, v: (home / "registry.db").write_bytes(b"no database" * 1000),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_to_what_was_published_is_found(what: str, kept: Path) -> None:
    registry = Registry(kept)
    DAMAGE[what](kept, registry, registry.get("handbook"))
    found = verify(kept)
    assert len(found.damaged) == 1, found.damaged
    with pytest.raises(BrokenStore):
        backup(kept, kept.parent / "a.tar", now=NOW)
    assert not list(kept.parent.glob("*a.tar*"))


def test_what_a_crash_left_is_told_and_swept_and_harms_nothing(kept: Path) -> None:
    nobodys = files.put(kept, {"notes.md": b"nobody's"})
    for left in (".incoming-0", ".outgoing-0"):
        (kept / "adapters" / left).mkdir()
    half = kept / "corpora" / ".0123.jsonl-ab12cd_f"
    half.write_text("{")
    found = verify(kept)
    assert found.whole
    assert set(found.left_over) == {
        f"adapters/{nobodys}", "adapters/.incoming-0", "adapters/.outgoing-0", "corpora/.0123.jsonl-ab12cd_f",
    }  # fmt: skip
    sweep(kept, now=LATER)
    after = verify(kept)
    assert (after.left_over, after.counted) == ((), found.counted)


def test_a_sweep_leaves_what_may_be_being_written(kept: Path) -> None:
    half = kept / "corpora" / ".0123.jsonl-ab12cd_f"
    half.write_text("{")
    sweep(kept, now=NOW)
    assert half.exists()


def test_an_imported_version_without_its_documents_is_whole(kept: Path, tmp_path: Path) -> None:
    registry = Registry(kept)
    out = registry.export(registry.get("handbook"), tmp_path / "out")
    elsewhere = Registry(tmp_path / "elsewhere")
    elsewhere.import_folder(out, "handbook", now=NOW)
    found = verify(elsewhere.home)
    assert found.whole
    assert "documents they were taught with" in found.told[0]


def test_what_is_withheld_is_told(kept: Path) -> None:
    Registry(kept).bury("handbook", {"documents": ["x"]}, now=NOW)
    assert any("to be forgotten of handbook" in line for line in verify(kept).told)


def test_the_command_ends_with_1_where_something_is_damaged(kept: Path) -> None:
    assert CliRunner().invoke(app, ["verify"]).exit_code == 0
    next((kept / "corpora").iterdir()).unlink()
    found = CliRunner().invoke(app, ["verify", "--json", "--repair"])
    assert found.exit_code == 1
    assert json.loads(found.stdout)["whole"] is False


def test_what_an_import_says_of_folders_names_none_here(kept: Path, tmp_path: Path) -> None:
    registry = Registry(kept)
    out = registry.export(registry.get("handbook"), tmp_path / "out")
    record = out / "imprint.json"
    record.write_text(record.read_text().replace(KEY, "../../../etc"))
    details = registry.import_folder(out, "strange", now=NOW).details
    assert not {"run", "shards"} & set(details)


# --- backup and restore -----------------------------------------------------------------------


def test_a_backup_comes_back_as_it_was(kept: Path, tmp_path: Path) -> None:
    made = backup(kept, tmp_path / "a.tar", now=NOW)
    assert made.versions == 3
    found = restore(made.file, tmp_path / "back")
    assert found.counted == verify(kept).counted
    one, other = Registry(kept), Registry(tmp_path / "back")
    for version in (*one.list(), *Registry(kept / "tenants" / "anna").list()):
        assert version in (*other.list(), *Registry(tmp_path / "back/tenants/anna").list())
    assert other.reports(other.get("handbook")) == [REPORT]
    assert [*RunFolder(tmp_path / "back/runs" / KEY).examples()] == [*RunFolder(kept / "runs" / KEY).examples()]
    assert not (tmp_path / "back/runs" / KEY / "checkpoint").exists()
    assert (tmp_path / "back/keys.json").stat().st_mode & 0o777 == 0o600
    assert other.publish("handbook", tmp_path / "2.0", base="b", corpus_hash="", recipe={}, now=NOW).number == 2


def test_without_runs_a_backup_holds_no_training_text(kept: Path, tmp_path: Path) -> None:
    made = backup(kept, tmp_path / "a.tar", now=NOW, runs=False)
    with tarfile.open(made.file) as tar:
        assert not [name for name in tar.getnames() if "runs/" in name]
    assert restore(made.file, tmp_path / "back").whole


def test_what_is_published_or_removed_meanwhile_leaves_the_backup_of_one_moment(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, registry = backing_up._add, Registry(kept)

    def disturbed(tar: tarfile.TarFile, name: str, source: Path) -> dict[str, Any]:
        monkeypatch.setattr(backing_up, "_add", add)
        registry.publish("late", tmp_path / "2.0", base="b", corpus_hash="", recipe={}, now=NOW)
        registry.remove("handbook")
        return add(tar, name, source)

    monkeypatch.setattr(backing_up, "_add", disturbed)
    made = backup(kept, tmp_path / "a.tar", now=NOW)
    assert restore(made.file, tmp_path / "back").whole
    assert [v.name for v in Registry(tmp_path / "back").list()] == ["atlas", "late"]


def test_neither_overwrites(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("mine")
    with pytest.raises(BadInput, match="is there already"):
        backup(kept, tmp_path / "a.tar", now=NOW)
    made = backup(kept, tmp_path / "b.tar", now=NOW)
    with pytest.raises(BadInput, match="not empty"):
        restore(made.file, kept)
    assert (tmp_path / "a.tar").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.glob("*.tar*")) == ["a.tar", "b.tar"]
    with pytest.raises(NotFound):
        restore(tmp_path / "c.tar", tmp_path / "new")


def test_what_was_forgotten_since_does_not_come_back(kept: Path, tmp_path: Path) -> None:
    made = backup(kept, tmp_path / "a.tar", now=NOW)
    registry = Registry(kept)
    paid = Document("Leave is paid.", "a.md", "A").id
    registry.end_tombstone(
        registry.bury("handbook", {"documents": [paid]}, now=NOW), {"documents": [paid]}, now=LATER
    )
    registry.remove("handbook")
    found = restore(made.file, tmp_path / "back", tombstones=kept)
    assert found.whole
    assert any("handbook@1 was not brought back" in line for line in found.told)
    assert [v.name for v in Registry(tmp_path / "back").list()] == ["atlas"]
    assert Registry(tmp_path / "back").tombstones() == registry.tombstones()
    assert not [f for f in (tmp_path / "back").rglob("*") if f.is_file() and b"Leave is paid" in f.read_bytes()]
    with pytest.raises(NotFound):
        restore(made.file, tmp_path / "again", tombstones=tmp_path / "nowhere")
    assert not (tmp_path / "again").exists()


def test_the_commands_back_up_and_restore(kept: Path, tmp_path: Path) -> None:
    assert "3 versions" in CliRunner().invoke(app, ["backup", str(tmp_path / "a.tar")]).stdout
    done = CliRunner().invoke(app, ["restore", str(tmp_path / "a.tar"), "--into", str(tmp_path / "back")])
    assert (done.exit_code, "Whole." in done.stdout) == (0, True)


# --- tars of strangers ------------------------------------------------------------------------


def _changed(file: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], Any]) -> None:
    with tarfile.open(file) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar.getmembers()]  # type: ignore[union-attr]
    change(members)
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as tar:
        for header, data in members:
            tar.addfile(header, io.BytesIO(data))


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"x") -> Any:
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.size = kind, link, len(data)
    return header, data


STRANGE = {
    "a place above": lambda m: m.insert(0, _member("../up")),
    "a place above, deeper": lambda m: m.insert(0, _member("runs/../../up")),
    "an absolute place": lambda m: m.insert(0, _member("/tmp/up")),
    "a link": lambda m: m.insert(0, _member("adapters", tarfile.SYMTYPE, "/etc", b"")),
    "a hard link": lambda m: m.insert(0, _member("keys.json", tarfile.LNKTYPE, "/etc/passwd", b"")),
    "a device": lambda m: m.insert(0, _member("keys.json", tarfile.CHRTYPE, data=b"")),
    "a pipe": lambda m: m.insert(0, _member("curves/a.json", tarfile.FIFOTYPE, data=b"")),
    "what no home has": lambda m: m.insert(0, _member(".bashrc")),
    "a file twice": lambda m: m.append(m[0]),
    "a file of another case": lambda m: (
        m.insert(0, _member("curves/A.json")) or m.insert(0, _member("curves/a.json"))
    ),
    "a file more": lambda m: m.insert(0, _member("curves/a.json")),
    "a file fewer": lambda m: m.pop(0),
    "no list": lambda m: m.pop(),
    "a list of nothing": lambda m: m.append(_member("backup.json", data=b'{"format": 1}')) or m.pop(-2),
    "a list nested deeply": lambda m: m.append(_member("backup.json", data=b"[" * 10**6)) or m.pop(-2),
    "a newer format": lambda m: m.append(_member("backup.json", data=b'{"format": 9, "files": {}}')) or m.pop(-2),
    "other bytes": lambda m: m.insert(0, (m[0][0], bytes(len(m[0][1])))) or m.pop(1),
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_tar_that_no_backup_made_is_refused(what: str, kept: Path, tmp_path: Path) -> None:
    made = backup(kept, tmp_path / "a.tar", now=NOW)
    _changed(made.file, STRANGE[what])
    _refused(made.file, tmp_path)


def _refused(file: Path, tmp_path: Path) -> None:
    before = sorted(path for path in tmp_path.iterdir())
    with pytest.raises(ImprintError) as caught:
        restore(file, tmp_path / "back")
    assert ".restoring" not in str(caught.value)
    assert sorted(path for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "field", [b"77777777777\0", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"\xff" * 10 + b"\xfe\0"]
)
@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"S"])
def test_a_header_that_lies_about_its_size_is_refused(
    field: bytes, kind: bytes, kept: Path, tmp_path: Path
) -> None:
    made = backup(kept, tmp_path / "a.tar", now=NOW)
    data = bytearray(made.file.read_bytes())
    data[124:136], data[156:157] = field, kind
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    made.file.write_bytes(data)
    _refused(made.file, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.99])
def test_a_backup_that_was_cut_short_is_refused(share: float, kept: Path, tmp_path: Path) -> None:
    made = backup(kept, tmp_path / "a.tar", now=NOW)
    data = made.file.read_bytes()
    # The end of a tar is padding; what counts ends with the list.
    made.file.write_bytes(data[: int(share * data.rindex(b"}"))])
    _refused(made.file, tmp_path)


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    for n, data in enumerate((b"", b"\0" * 10240, b"\x1f\x8b" + b"x" * 600, b"PK\x03\x04" * 300)):
        (tmp_path / f"{n}.tar").write_bytes(data)
        _refused(tmp_path / f"{n}.tar", tmp_path)
