"""10,000 hostile names against every door that takes one: each is refused in words of ours that can be shown on any
terminal, and nothing is made, found or changed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_names import hostile_names
from typer.testing import CliRunner

from conftest import make_tiny_base
from imprint.errors import BadInput, ImprintError
from imprint.hosting.host import Host
from imprint.hosting.jobs import Jobs
from imprint.hosting.keys import Keys
from imprint.hosting.material import gather, plain_name
from imprint.hosting.tenants import Tenants
from imprint.hosting.uploads import Uploads, shown
from imprint.interfaces.cli import app
from imprint.registry import Registry, check_name
from test_registry import NOW, adapter_folder, publish

NAMES = list(hostile_names(10_000, seed=7))
FEWER = NAMES[::40]
"""For doors behind which much stands."""

Door = Callable[[str], object]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(tmp_path / "home")
    publish(made, adapter_folder(tmp_path / "adapter"))
    return made


def tree(folder: Path) -> set[str]:
    # What SQLite keeps beside an open database comes and goes.
    return {str(path) for path in folder.rglob("*") if not path.name.endswith(("-wal", "-shm"))}


def all_refused(names: list[str], door: Door, folder: Path) -> None:
    before = tree(folder)
    for name in names:
        with pytest.raises(ImprintError) as caught:
            door(name)
        told = str(caught.value)
        assert all(c.isprintable() or c == "\n" for c in told), repr(name)
        assert len(told) < 1000, repr(name)
    assert tree(folder) == before


def test_there_are_as_many_as_promised_and_all_differ() -> None:
    assert len(set(NAMES)) == 10_000
    assert {"..", "con", ""} < set(NAMES)


def test_no_adapter_is_published_under_one(registry: Registry, tmp_path: Path) -> None:
    source = tmp_path / "adapter"
    all_refused(NAMES, check_name, tmp_path)
    all_refused(NAMES, lambda name: publish(registry, source, name), tmp_path)
    all_refused(NAMES, lambda name: registry.import_folder(source, name, now=NOW), tmp_path)
    all_refused(NAMES, lambda name: registry.bury(name, {}, now=NOW), tmp_path)
    assert [str(v) for v in registry.list()] == ["handbook@1"]


def test_none_finds_or_removes_anything(registry: Registry, tmp_path: Path) -> None:
    all_refused(NAMES[::2], registry.get, tmp_path)
    all_refused(NAMES[1::2], registry.remove, tmp_path)
    all_refused(FEWER, registry.versions, tmp_path)
    assert [str(v) for v in registry.list()] == ["handbook@1"]


def test_none_is_a_tenant_or_opens_anything(tmp_path: Path) -> None:
    tenants, keys = Tenants(tmp_path, max_uploaded_bytes=1), Keys(tmp_path)
    keys.add("anna", now=NOW)
    for door in (tenants.home, tenants.registry, tenants.uploads, tenants.jobs, lambda name: keys.add(name, now=NOW)):
        all_refused(NAMES, door, tmp_path)
    all_refused(NAMES, keys.revoke, tmp_path)
    assert {keys.tenant_of(name) for name in NAMES} == {None}


def test_none_is_a_file_or_a_job(tmp_path: Path) -> None:
    uploads, jobs = Uploads(tmp_path / "uploads", max_total_bytes=1), Jobs(tmp_path / "jobs")
    for door in (uploads.get, uploads.content, uploads.remove, jobs.get, jobs.events, jobs.clear):
        all_refused(NAMES, door, tmp_path)


def test_none_is_a_model_alone_or_joined_with_others(registry: Registry, tmp_path: Path) -> None:
    host = Host(make_tiny_base(), registry.home)
    all_refused(FEWER, lambda name: host.model("local", name), tmp_path)
    all_refused(FEWER, lambda name: host.model("local", f"handbook+{name}"), tmp_path)
    all_refused(FEWER, lambda name: host.remove("local", name), tmp_path)
    all_refused(FEWER, lambda name: host.model(name, "handbook"), tmp_path)
    all_refused(["handbook+" * 1_000_000 + "handbook"], lambda name: host.model("local", name), tmp_path)
    host.close()


def test_a_file_s_name_becomes_a_plain_one(tmp_path: Path) -> None:
    for name in NAMES:
        for plain in (plain_name(name), shown(name)):
            assert plain and "/" not in plain and "\\" not in plain
            assert all(c.isprintable() for c in plain)
        plain = plain_name(name)
        assert not plain.startswith(".") and len(plain.encode()) <= 140
        assert (tmp_path / plain).resolve().parent == tmp_path.resolve()


def test_an_archive_with_one_writes_nothing_outside(tmp_path: Path) -> None:
    for number, name in enumerate(FEWER):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(name[:60_000].encode("utf-8", "replace").decode()[:20_000] + ".md", b"text")
        (tmp_path / "a.zip").write_bytes(packed.getvalue())
        target = tmp_path / "inner" / str(number)
        try:
            gather([("a.zip", tmp_path / "a.zip")], target, max_bytes=100)
        except BadInput as error:
            assert str(error).isprintable(), repr(name)
            assert not target.exists()
        else:
            assert sum(path.is_file() for path in target.rglob("*")) <= 1
        assert {path.name for path in tmp_path.iterdir()} <= {"a.zip", "inner"}
        assert all(path.name.isdigit() for path in (tmp_path / "inner").iterdir())


@pytest.mark.parametrize(
    "words", [("teach", "DOCUMENTS", "--as", "NAME"), ("ask", "NAME", "Who?"), ("remove", "--yes", "NAME"), ("show", "NAME")]
)  # fmt: skip
def test_the_command_line_says_so_in_one_line(words: tuple[str, ...], home: Path, tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.md").write_text("Text.")
    put = {"DOCUMENTS": str(tmp_path / "documents")}
    for name in FEWER[::20]:
        done = CliRunner().invoke(app, [put.get(word, name if word == "NAME" else word) for word in words])
        # '--help' is a wish, and what begins with '-' an option that there is not.
        assert done.exit_code == 2 or (name.startswith("-") and done.exit_code == 0), (name, done.output)
        assert "Traceback" not in done.output
        assert done.exception is None or isinstance(done.exception, SystemExit), repr(name)
    assert not home.exists() or not list(home.glob("adapters/*"))
