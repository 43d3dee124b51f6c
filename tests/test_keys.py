"""The laws of keys: shown once, kept as hashes, and closed unless opened."""

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imprint.errors import BadName, BrokenStore, NotFound
from imprint.hosting import keys as module
from imprint.hosting.keys import PREFIX, Keys
from imprint.interfaces import cli

NOW = "2025-06-01T12:00:00+00:00"


def test_a_key_opens_its_tenant_and_nothing_else_does(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    _, anna = keys.add("anna", now=NOW)
    _, ben = keys.add("ben", now=NOW)
    assert (keys.tenant_of(anna), keys.tenant_of(ben)) == ("anna", "ben")
    for wrong in ("", PREFIX, anna[:-1], anna + "x", anna.upper(), keys.list()[0].sha256, keys.list()[0].id, "\udcff"):
        assert keys.tenant_of(wrong) is None, wrong


def test_without_keys_nothing_opens(tmp_path: Path) -> None:
    assert Keys(tmp_path).tenant_of("") is None
    assert Keys(tmp_path).list() == []


def test_the_secret_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    _, secret = Keys(tmp_path).add("anna", now=NOW)
    assert secret.startswith(PREFIX)
    assert len(secret) >= 40
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert secret.removeprefix(PREFIX).encode() not in written


def test_only_the_owner_may_read_the_keys(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    for _ in range(2):
        keys.add("anna", now=NOW)
        assert stat.S_IMODE(keys.file.stat().st_mode) == 0o600


def test_every_key_is_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(tmp_path)
    first = keys.add("anna", now=NOW)[1]
    for tenant in ("ben", "carl"):
        keys.add(tenant, now=NOW)
    compared: list[str] = []
    real = module.hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append(b) or real(a, b))
    assert keys.tenant_of(first) == "anna"
    assert len(compared) == 3


def test_what_another_process_changes_counts_at_once(tmp_path: Path) -> None:
    serving, shell = Keys(tmp_path), Keys(tmp_path)
    key, secret = shell.add("anna", now=NOW)
    assert serving.tenant_of(secret) == "anna"
    shell.revoke(key.id)
    assert serving.tenant_of(secret) is None


def test_an_unknown_id_cannot_be_revoked(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Keys(tmp_path).revoke("key-00000000")


@pytest.mark.parametrize("tenant", ["", "../anna", "Anna", "a/b", "con", "a" * 65])
def test_a_tenant_has_a_name_that_a_folder_may_have(tenant: str, tmp_path: Path) -> None:
    with pytest.raises(BadName):
        Keys(tmp_path).add(tenant, now=NOW)


def test_a_broken_file_opens_nothing_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("[{}]")
    with pytest.raises(BrokenStore):
        Keys(tmp_path).tenant_of("imp-x")


def test_a_key_is_made_listed_and_revoked_on_the_command_line(home: Path) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(cli.app, ["keys", *words])
        assert done.exit_code == 0, done.stderr
        return str(done.stdout)

    assert run("list") == ""
    secret = run("add", "anna").strip()
    assert Keys(home).tenant_of(secret) == "anna"
    id = json.loads((home / "keys.json").read_text())[0]["id"]
    listed = run("list")
    assert id in listed
    assert "anna" in listed
    assert secret not in listed
    assert run("revoke", id) == f"Revoked {id} of anna\n"
    assert Keys(home).list() == []
