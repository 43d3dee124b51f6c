"""The laws of the registry: what is published stays as it was, whole, and findable."""

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from imprint.errors import BadInput, BadName, BrokenStore, NoSuchAdapter
from imprint.registry import Registry, check_name, database, files, names, records, rows, store
from imprint.types import Report, Score, Version

NOW = "2025-06-01T12:00:00+00:00"
REPORT = Report("closed_book", {"right": Score(0.8, 0.7, 0.9, 50)}, 7, {"judge": "exact"})


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "home")


def adapter_folder(folder: Path, fill: float = 1.0, base: str | None = "smol") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"w": np.full((2, 2), fill, np.float32)}, folder / "adapter_model.safetensors")
    return folder


def publish(registry: Registry, folder: Path, name: str = "handbook", **more: object) -> Version:
    settings = {"base": "smol", "corpus_hash": "c0", "recipe": {"rank": 16}, "now": NOW, **more}
    return registry.publish(name, folder, **settings)


# --- publishing and looking -------------------------------------------------------------------


def test_what_was_published_is_what_is_found(registry: Registry, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "a")
    version = publish(registry, source, details={"seed": 7, "plan": {"passes": 4}})
    assert str(version) == "handbook@1"
    assert registry.get("handbook") == registry.get("handbook@1") == registry.latest("handbook") == version
    for file in source.iterdir():
        assert (registry.folder(version) / file.name).read_bytes() == file.read_bytes()
    registry.verify(version)


def test_numbers_count_up_and_the_latest_of_each_name_is_listed(registry: Registry, tmp_path: Path) -> None:
    for fill in (1.0, 2.0):
        publish(registry, adapter_folder(tmp_path / "a", fill))
    publish(registry, tmp_path / "a", "atlas", recipe={})
    assert [str(version) for version in registry.versions("handbook")] == ["handbook@1", "handbook@2"]
    assert [str(version) for version in registry.list()] == ["atlas@1", "handbook@2"]


def test_heads_are_the_latest_versions_in_brief(registry: Registry, tmp_path: Path) -> None:
    for name, fill in (("handbook", 1.0), ("handbook", 2.0), ("atlas", 3.0)):
        publish(registry, adapter_folder(tmp_path / "a", fill), name, corpus_hash=f"c{fill}")
    heads, listed = registry.heads(), registry.list()
    assert list(map(str, heads)) == ["atlas@1", "handbook@2"]
    for head, version in zip(heads, listed, strict=True):
        assert (head.base, head.corpus_hash, head.created_at) == (version.base, version.corpus_hash, NOW)


def test_reports_of_all_names_are_those_of_their_latest_versions(registry: Registry, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "a")
    first, _, second = publish(registry, source), publish(registry, source, "atlas"), publish(registry, source)
    newer = Report("forgetting", {}, 1)
    for version, report in ((first, REPORT), (second, newer), (second, REPORT)):
        registry.add_report(version, report)
    assert registry.latest_reports() == {"handbook": [newer, REPORT]}


def test_the_latest_is_found_without_reading_those_before(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, read = adapter_folder(tmp_path / "a"), []
    for _ in range(5):
        publish(registry, source)
    real = rows._version
    monkeypatch.setattr(rows, "_version", lambda row: read.append(row) or real(row))
    assert str(registry.latest("handbook")) == "handbook@5"
    assert len(read) == 1


def test_among_thousands_an_unknown_name_still_brings_close_ones_soon(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, compared = adapter_folder(tmp_path / "a"), []
    monkeypatch.setattr(names, "NEARBY", 5)
    real = names.difflib.get_close_matches
    monkeypatch.setattr(
        names.difflib, "get_close_matches", lambda w, all, n: compared.extend(all) or real(w, all, n)
    )
    for name in (*(f"a{i:02}" for i in range(20)), "handbook", "handbag"):
        publish(registry, source, name)
    with pytest.raises(NoSuchAdapter, match="'handbock'. Did you mean 'handbook'.* a00, .*, a04 and 17 more"):
        registry.get("handbock")
    assert len(compared) <= 5


def test_a_parent_must_be_there(registry: Registry, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "a")
    publish(registry, source)
    assert publish(registry, source, parent=1).parent == 1
    with pytest.raises(NoSuchAdapter, match="no version 9. There are: handbook@1, handbook@2"):
        publish(registry, source, parent=9)


def test_an_unknown_name_brings_close_ones_and_all_there_are(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(NoSuchAdapter, match="holds none yet"):
        registry.get("handbook")
    publish(registry, adapter_folder(tmp_path / "a"))
    publish(registry, tmp_path / "a", "atlas")
    with pytest.raises(NoSuchAdapter, match="Did you mean 'handbook'[?] There are: atlas, handbook"):
        registry.get("Handbok")


def test_reports_come_back_as_they_were_added(registry: Registry, tmp_path: Path) -> None:
    version = publish(registry, adapter_folder(tmp_path / "a"))
    other = Report("forgetting", {}, 1)
    registry.add_report(version, REPORT)
    registry.add_report(version, other)
    assert registry.reports(version) == [REPORT, other]


def test_what_json_cannot_hold_is_refused_before_anything_is_written(
    registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="The recipe cannot be kept as JSON"):
        publish(registry, adapter_folder(tmp_path / "a"), recipe={"lr": float("nan")})
    assert files.addresses(registry.home) == []


def test_a_registry_opened_again_holds_the_same(registry: Registry, tmp_path: Path) -> None:
    version = publish(registry, adapter_folder(tmp_path / "a"))
    assert Registry(registry.home).list() == [version]


# --- names ------------------------------------------------------------------------------------

HOSTILE = [
    "", "../up", "a/b", "a\\b", "..", ".hidden", "a..b", "-flag", "Handbook", "a b", "a@1", "é", "a\n", "a\0",
    "x" * 65, "con", "nul.txt", "com1", "'; DROP TABLE versions; --", "\ud800", "%", "*", "~", "C:",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_and_finds_nothing(name: str, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BadName, match="The rule: 1 to 64 characters"):
        check_name(name)
    with pytest.raises(BadName):
        publish(registry, adapter_folder(tmp_path / "a"), name)
    for look in (registry.get, registry.versions, registry.latest, registry.remove):
        with pytest.raises((NoSuchAdapter, BadName)):
            look(name)
    assert files.addresses(registry.home) == []


@pytest.mark.parametrize("name", ["a", "7", "handbook", "hr-2025_v1.2", "x" * 64, "console", "com10"])
def test_a_plain_name_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("number", ["", "0", "-1", "1.5", "latest", "1@2", "9" * 30, "\u0661"])
def test_a_crooked_number_is_told_apart_from_an_unknown_one(number: str) -> None:
    with pytest.raises(BadName, match="as in 'handbook@3'"):
        names.parse(f"handbook@{number}")


# --- versions never change --------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE versions SET base = 'other'",
        "UPDATE versions SET number = 9",
        f"REPLACE INTO versions ({rows.COLUMNS}) SELECT {rows.COLUMNS} FROM versions",
        "UPDATE reports SET body = '{}'",
        "UPDATE names SET last_number = 0",
    ],
)
def test_not_even_sql_changes_what_was_published(change: str, registry: Registry, tmp_path: Path) -> None:
    version = publish(registry, adapter_folder(tmp_path / "a"))
    registry.add_report(version, REPORT)
    db = sqlite3.connect(registry.database)
    with pytest.raises(sqlite3.IntegrityError, match="never|only grow"):
        db.execute(change)
    db.close()
    assert registry.get("handbook") == version
    assert registry.reports(version) == [REPORT]


def test_the_source_has_no_statement_that_updates_a_version() -> None:
    assert all("UPDATE versions" not in Path(module.__file__).read_text() for module in (store, rows))


def test_a_number_once_given_is_never_given_again(registry: Registry, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "a")
    publish(registry, source)
    publish(registry, source)
    registry.remove("handbook@2")
    assert publish(registry, source).number == 3
    registry.remove("handbook")
    assert publish(registry, source).number == 4


# --- crashes and crowds -----------------------------------------------------------------------


@pytest.mark.parametrize("step", ["_write", "_fill", "_settle", "sync_folder", "put"])
def test_a_failure_before_the_row_leaves_no_version(
    step: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = getattr(files, step)

    def fail(*given: object) -> None:
        done(*given)
        raise KeyboardInterrupt

    source = adapter_folder(tmp_path / "a")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(files, step, fail)
        publish(registry, source)
    assert registry.list() == []
    assert publish(registry, source).number == 1


CRASH = """
import os, signal, sys
from pathlib import Path
from imprint.registry import Registry, files, rows
module, step, home, source = sys.argv[1:]
owner = {"files": files, "rows": rows}[module]
done = getattr(owner, step)
def die(*given, **more):
    done(*given, **more)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, step, die)
Registry(Path(home)).publish("handbook", Path(source), base="b", corpus_hash="c", recipe={}, now="2025-06-01")
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("step", ["files._write", "files._settle", "rows.insert_version"])
def test_a_kill_before_the_commit_leaves_no_version(step: str, registry: Registry, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "a")
    command = [sys.executable, "-c", CRASH, *step.split("."), str(registry.home), str(source)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert registry.list() == []
    registry.verify(publish(registry, source))
    registry.remove("handbook")
    registry.sweep(now="2100-01-01T00:00:00+00:00")
    assert list((registry.home / "adapters").iterdir()) == []


def test_a_sweep_leaves_what_is_used_and_what_is_being_written(registry: Registry, tmp_path: Path) -> None:
    version = publish(registry, adapter_folder(tmp_path / "a"))
    unused = files.put(registry.home, {"notes.md": b"nobody's"})
    writing = registry.home / "adapters" / ".incoming-0"
    writing.mkdir()
    registry.sweep(now=NOW)
    registry.verify(version)
    assert writing.is_dir()
    assert not files.path(registry.home, unused).exists()


def _open_at_once(homes: list[Path], gate: Barrier) -> None:
    for home in homes:
        gate.wait(timeout=30)
        Registry(home).list()


def test_a_new_registry_may_be_opened_by_many_processes_at_once(tmp_path: Path) -> None:
    crowd = multiprocessing.get_context("spawn")
    gate = crowd.Barrier(4)
    homes = [tmp_path / str(n) for n in range(30)]
    opening = [crowd.Process(target=_open_at_once, args=(homes, gate)) for _ in range(4)]
    for process in opening:
        process.start()
    for process in opening:
        process.join()
    assert [process.exitcode for process in opening] == [0, 0, 0, 0]


def _follow(home: Path, source: Path, gate: Barrier) -> None:
    gate.wait(timeout=60)
    try:
        publish(Registry(home), source, parent=1, follows=1)
    except BadInput as error:
        sys.exit(str(error))


def test_of_many_who_follow_one_version_at_once_one_is_published(registry: Registry, tmp_path: Path) -> None:
    publish(registry, adapter_folder(tmp_path / "a"))
    crowd = multiprocessing.get_context("spawn")
    gate = crowd.Barrier(4)
    sources = [adapter_folder(tmp_path / str(n), fill=float(n)) for n in range(4)]
    following = [crowd.Process(target=_follow, args=(registry.home, source, gate)) for source in sources]
    for process in following:
        process.start()
    for process in following:
        process.join()
    assert sorted(process.exitcode for process in following) == [0, 1, 1, 1]
    assert [v.number for v in registry.versions("handbook")] == [1, 2]


@pytest.mark.parametrize("follows", [0, 1, 3])
def test_what_does_not_follow_the_latest_version_is_refused(follows: int, registry: Registry, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "a")
    shards = [adapter_folder(tmp_path / str(n), fill=float(n)) for n in range(2)]
    told = {"base": "smol", "corpus_hash": "c0", "recipe": {}, "now": NOW}
    publish(registry, source)
    publish(registry, source)
    for refused in (lambda: publish(registry, source, follows=follows), lambda: registry.publish_shards("handbook", shards, follows=follows, **told)):
        with pytest.raises(BadInput, match="published meanwhile"):
            refused()
    assert files.addresses(registry.home) == [registry.latest("handbook").adapter_hash]  # nothing of it is left
    assert publish(registry, source, follows=2).number == 3
    assert publish(registry, source, "other", follows=0).number == 1


def _publish_some(home: Path, source: Path, n: int) -> list[int]:
    return [publish(Registry(home), source).number for _ in range(n)]


def test_publishers_in_many_processes_get_different_numbers(tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "a")
    crowd = multiprocessing.get_context("spawn")
    with crowd.Pool(4) as pool:
        given = pool.starmap(_publish_some, [(tmp_path / "home", source, 5)] * 4, chunksize=1)
    assert sorted(sum(given, [])) == list(range(1, 21))


def test_files_that_a_remover_took_meanwhile_are_put_again(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = adapter_folder(tmp_path / "a")
    put = files.put

    def put_and_lose(home: Path, given: object) -> str:
        address = put(home, given)
        monkeypatch.setattr(files, "put", put)
        registry.sweep(now=NOW)
        return address

    monkeypatch.setattr(files, "put", put_and_lose)
    registry.verify(publish(registry, source))


# --- files ------------------------------------------------------------------------------------


def test_the_address_follows_names_and_contents_only(tmp_path: Path) -> None:
    held = {"a.json": b"{}", "b.md": b"b"}
    address = files.put(tmp_path, held)
    assert files.put(tmp_path, dict(reversed(held.items()))) == address
    others = [{"a.json": b"{} ", "b.md": b"b"}, {"a.json": b"{}", "c.md": b"b"}, {"a.json": b"{}"}]
    assert len({address, *(files.put(tmp_path, other) for other in others)}) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="needs sha256sum")
def test_sha256sum_agrees(tmp_path: Path) -> None:
    address = files.put(tmp_path, {"b.json": b"{}", "A.md": b"text"})
    folder = files.path(tmp_path, address)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
    summed = subprocess.run(["sha256sum", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    assert summed.stdout.decode().split()[0] == address


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "SHA256SUMS"])
def test_a_tampered_file_is_named(file: str, registry: Registry, tmp_path: Path) -> None:
    version = publish(registry, adapter_folder(tmp_path / "a"))
    with open(registry.folder(version) / file, "r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"!")
    with pytest.raises(BrokenStore, match=file):
        registry.verify(version)
    with pytest.raises(BrokenStore, match=file):
        registry.export(version, tmp_path / "out")


def test_a_missing_or_added_file_is_named(registry: Registry, tmp_path: Path) -> None:
    version = publish(registry, adapter_folder(tmp_path / "a"))
    folder = registry.folder(version)
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(BrokenStore, match=r"adapter_model\.bin is not among"):
        registry.folder(version)
    (folder / "adapter_model.bin").unlink()
    (folder / "adapter_config.json").unlink()
    with pytest.raises(BrokenStore, match=r"adapter_config\.json is missing"):
        registry.folder(version)


@pytest.mark.parametrize("suffix", [".bin", ".pkl", ".pt", ".PT", ".pth", ".ckpt"])
def test_a_pickle_is_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="pickle"):
        files.put(tmp_path, {"adapter_config.json": b"{}", f"weights{suffix}": b""})


@pytest.mark.parametrize(
    "name",
    ["", "../a.json", "a/b.json", "a\\b.json", ".a.json", "con.json", "a.exe", "a", "é.json", "imprint.json"],
)
def test_a_harmful_file_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        files.put(tmp_path, {name: b"{}"})
    assert not (tmp_path / "adapters").exists()


def test_names_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="case only"):
        files.put(tmp_path, {"a.json": b"", "A.json": b""})


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_and_folders_are_refused(registry: Registry, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "a")
    (source / "notes.md").symlink_to("/etc/passwd")
    with pytest.raises(BadInput, match="is a link"):
        publish(registry, source)
    with pytest.raises(BadInput, match="is a link"):
        registry.import_folder(source, "handbook", now=NOW)
    (source / "notes.md").unlink()
    (source / "more").mkdir()
    with pytest.raises(BadInput, match="is a folder"):
        publish(registry, source)


@pytest.mark.parametrize("address", ["../../etc", "", "a" * 63, "A" * 64, "a" * 64 + "/.."])
def test_no_address_leads_out_of_the_home(address: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenStore):
        files.path(tmp_path, address)


# --- removing ---------------------------------------------------------------------------------


def test_removal_keeps_files_that_another_version_uses(registry: Registry, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "a")
    one, two = publish(registry, source), publish(registry, source, "atlas")
    registry.add_report(one, REPORT)
    assert one.adapter_hash == two.adapter_hash
    assert registry.remove("handbook") == [one]
    registry.verify(two)
    registry.remove("atlas@1")
    assert files.addresses(registry.home) == []
    assert registry.list() == []


def test_a_removed_version_takes_no_report(registry: Registry, tmp_path: Path) -> None:
    version = publish(registry, adapter_folder(tmp_path / "a"))
    registry.remove("handbook")
    with pytest.raises(NoSuchAdapter):
        registry.add_report(version, REPORT)


# --- out and in -------------------------------------------------------------------------------


def test_an_export_comes_back_with_all_it_had(registry: Registry, tmp_path: Path) -> None:
    version = publish(registry, adapter_folder(tmp_path / "a"), details={"seed": 7})
    registry.add_report(version, REPORT)
    out = registry.export(version, tmp_path / "out")
    elsewhere = Registry(tmp_path / "elsewhere")
    copy = elsewhere.import_folder(out, "copy", now=NOW)
    assert (copy.base, copy.recipe, copy.corpus_hash) == (version.base, version.recipe, version.corpus_hash)
    assert copy.adapter_hash == version.adapter_hash
    assert copy.details["seed"] == 7
    assert copy.details["imported"]["version"] == "handbook@1"
    assert elsewhere.reports(copy) == [REPORT]
    elsewhere.verify(copy)


def test_an_export_never_overwrites(registry: Registry, tmp_path: Path) -> None:
    version = publish(registry, adapter_folder(tmp_path / "a"))
    with pytest.raises(BadInput, match="not an empty folder"):
        registry.export(version, tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="not an empty folder"):
        registry.export(version, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert registry.export(version, tmp_path / "empty") == tmp_path / "empty"


def test_a_changed_export_is_refused(registry: Registry, tmp_path: Path) -> None:
    out = registry.export(publish(registry, adapter_folder(tmp_path / "a")), tmp_path / "out")
    adapter_folder(out, fill=9.0)
    with pytest.raises(BrokenStore, match=r"adapter_model\.safetensors was changed"):
        registry.import_folder(out, "copy", now=NOW)


@pytest.mark.parametrize(
    "record",
    [
        b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"format": 99, "version": {}, "reports": []}',
        b'{"format": true, "version": {}, "reports": []}',
        b'{"format": 1, "version": {"name": 1}, "reports": []}',
    ],
)  # fmt: skip
def test_a_crooked_record_is_refused(record: bytes, registry: Registry, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "a")
    (source / "imprint.json").write_bytes(record)
    with pytest.raises(BadInput):
        registry.import_folder(source, "copy", now=NOW)


def test_a_record_with_text_that_sqlite_cannot_hold_is_refused(registry: Registry, tmp_path: Path) -> None:
    out = registry.export(publish(registry, adapter_folder(tmp_path / "a")), tmp_path / "out")
    record = out / "imprint.json"
    record.write_text(record.read_text().replace('"smol"', '"\\ud800"'))
    with pytest.raises(BadInput, match="cannot be shown"):
        registry.import_folder(out, "copy", now=NOW)


def test_a_foreign_peft_folder_is_taken_and_what_is_no_part_of_it_stays(
    registry: Registry, tmp_path: Path
) -> None:
    source = adapter_folder(tmp_path / "a", base="org/model")
    (source / ".gitattributes").write_text("")
    (source / "checkpoint-10").mkdir()
    version = registry.import_folder(source, "foreign", now=NOW)
    assert version.base == "org/model"
    assert version.details["imported"]["left_behind"] == [".gitattributes", "checkpoint-10"]
    registry.verify(version)


def test_a_peft_folder_that_does_not_open_is_refused(registry: Registry, tmp_path: Path) -> None:
    def refused(folder: Path, why: str) -> None:
        with pytest.raises(BadInput, match=why):
            registry.import_folder(folder, "foreign", now=NOW)

    refused(tmp_path / "none", "no adapter_config.json")
    refused(adapter_folder(tmp_path / "a", base=None), "base_model_name_or_path")
    (adapter_folder(tmp_path / "b") / "adapter_config.json").write_text("{")
    refused(tmp_path / "b", "is not JSON")
    (adapter_folder(tmp_path / "c") / "adapter_model.safetensors").write_bytes(b"\x80\x04pickle")
    refused(tmp_path / "c", "does not open as safetensors")
    (adapter_folder(tmp_path / "d") / "adapter_model.bin").write_bytes(b"")
    refused(tmp_path / "d", "pickle")
    (adapter_folder(tmp_path / "e") / "adapter_model.safetensors").unlink()
    refused(tmp_path / "e", "no .safetensors")


def test_peft_opens_a_published_folder(registry: Registry, tmp_path: Path) -> None:
    config = pytest.importorskip("peft").LoraConfig(r=4, base_model_name_or_path="smol")
    config.save_pretrained(adapter_folder(tmp_path / "a"))
    folder = registry.folder(publish(registry, tmp_path / "a"))
    assert type(config).from_pretrained(str(folder)).r == 4


def test_records_survive_json(tmp_path: Path) -> None:
    version = Version("a", 3, "f" * 64, "b", "c", {"x": [1]}, 2, NOW, {"y": None})
    assert records.export_of(records.export_text(version, [REPORT])) == (version, [REPORT])


# --- the database -----------------------------------------------------------------------------


def test_an_empty_database_is_brought_to_the_newest_migration(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "registry.db").close()
    registry = Registry(tmp_path)
    db = sqlite3.connect(registry.database)
    assert db.execute("PRAGMA user_version").fetchone() == (len(database.migrations()),)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish(registry, adapter_folder(tmp_path / "a"))
    more = (*database.migrations(), "CREATE TABLE extra (x);\nDROP TABLE absent;\n")
    with monkeypatch.context() as patched, pytest.raises(Exception, match="absent"):
        patched.setattr(database, "migrations", lambda: more)
        Registry(registry.home)
    assert Registry(registry.home).list() == [version]


def test_a_newer_database_is_refused(registry: Registry) -> None:
    db = sqlite3.connect(registry.database)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(BrokenStore, match="migration 99.*Upgrade imprint"):
        Registry(registry.home)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(BrokenStore, match="does not read as one"):
        Registry(tmp_path)
