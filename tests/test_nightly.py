"""The laws of a night's work: who changed is updated, who did not is left, and a killed night goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from conftest import make_tiny_base
from imprint import base as bases
from imprint import nightly as nights
from imprint.base import Base
from imprint.errors import BadInput, BadName, Diverged
from imprint.forgetting import forget
from imprint.interfaces import cli, job_file
from imprint.locks import held
from imprint.nightly import MOST_AT_ONCE, Night, nightly, people_in, wave_of
from imprint.recipe import Recipe
from imprint.registry import Registry
from imprint.updating import Update, update_many
from test_updating import Killed

PEOPLE = 30
SMALL = Recipe(mix={"raw_text": 1.0}, rank=1, epochs=2.0, batch_tokens=64, store="bfloat16")
USUAL: dict[str, Any] = {"budget": "2k tokens", "recipe": SMALL}
EARLIER = "2026-01-01T00:00:00+00:00"

_NIGHT = """
import os, signal, sys
from pathlib import Path
from test_nightly import USUAL, people_in
from imprint import pipeline
from imprint.nightly import nightly

class Watch:
    left = int(sys.argv[3])

    def stage(self, text): ...

    def progress(self, unit, done, total, detail): ...

    def say(self, text):
        self.left -= text.startswith("Published")
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

night = nightly(people_in(Path(sys.argv[1]), **USUAL)[0], base=sys.argv[2], wave=2, watch=Watch())
print(night.summary())
"""


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    base = make_tiny_base()
    base.model.config.max_position_embeddings = 4096
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def base(base_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setenv("IMPRINT_DTYPE", "float32")
    return bases.load(str(base_folder), device="cpu")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return made(tmp_path / "people", range(PEOPLE))


def made(folder: Path, numbers: Sequence[int]) -> Path:
    for i in numbers:
        (folder / f"p{i:02}").mkdir(parents=True)
        write(folder, i, "The Kestrel weighs 3 kilograms.")
    return folder


def write(folder: Path, number: int, said: str) -> None:
    (folder / f"p{number:02}" / "notes.md").write_text(f"# Notes of person {number}\n\n{said}\n", "utf-8")


def names(night: Night, what: str) -> list[str]:
    return [outcome.name for outcome in night.of(what)]


def run(people: Path, base: Base, **more: Any) -> Night:
    return nightly(people_in(people, **USUAL)[0], base=base, **more)


def numbers(home: Path) -> list[int]:
    return [head.number for head in Registry(home).heads()]


def test_a_night_that_was_killed_goes_on_with_the_day_on_which_an_update_began(
    tmp_path: Path, base: Base, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = made(tmp_path / "people", [0])
    monkeypatch.setattr("imprint.clock.now", lambda: "2026-03-01T23:59:00+00:00")
    with pytest.raises(KeyboardInterrupt):
        run(people, base, watch=Killed())
    monkeypatch.setattr("imprint.clock.now", lambda: "2026-03-02T00:01:00+00:00")
    assert names(run(people, base), "updated") == ["p00"]
    assert Registry(home).latest("p00").details["as_of"] == "2026-03-01"


def test_thirty_are_taught_three_changed_and_a_killed_night_goes_on(
    people: Path, base: Base, base_folder: Path, home: Path
) -> None:
    assert run(people, base).summary() == "30 updated, 0 unchanged, 0 failed"
    changed = (4, 17, 23)
    for i in changed:
        write(people, i, "The Kestrel weighs 4 kilograms.")
    command = [sys.executable, "-c", _NIGHT, str(people), str(base_folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    killed = subprocess.run([*command, "2"], capture_output=True, text=True, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert numbers(home) == [2 if i in changed[:2] else 1 for i in range(PEOPLE)]
    resumed = subprocess.run([*command, "-1"], capture_output=True, text=True, env=environment)
    assert resumed.stdout.strip() == "3 updated, 27 unchanged, 0 failed", resumed.stderr
    assert numbers(home) == [2 if i in changed else 1 for i in range(PEOPLE)]
    assert run(people, base).summary() == "0 updated, 30 unchanged, 0 failed"


def test_who_did_not_change_costs_no_reading_and_no_base(
    tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = made(tmp_path / "people", range(3))
    run(people, base)
    for file in people.rglob("*.md"):  # as if written long ago
        os.utime(file, (1, 1))
    run(people, base)
    monkeypatch.setattr(nights.documents, "load", None)
    monkeypatch.setattr(nights.bases, "load", None)
    monkeypatch.setattr(nights, "update_many", None)
    assert nightly(people_in(people)[0]).summary() == "0 updated, 3 unchanged, 0 failed"


@pytest.mark.parametrize("change", ["touched", "moved elsewhere", "an ignored file", "the home forgets"])
def test_what_says_the_same_is_unchanged(change: str, tmp_path: Path, base: Base, home: Path) -> None:
    people = made(tmp_path / "people", range(2))
    run(people, base)
    if change == "touched":
        (people / "p00" / "notes.md").touch()
    elif change == "moved elsewhere":
        people = people.rename(tmp_path / "elsewhere")
    elif change == "an ignored file":
        (people / "p00" / "photo.jpg").write_bytes(b"\xff\xd8")
    else:
        for file in (home / "nightly" / "people").iterdir():
            file.unlink()
    assert run(people, base).summary() == "0 updated, 2 unchanged, 0 failed"


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, base: Base) -> None:
    people = made(tmp_path / "people", range(2))
    run(people, base)
    file = people / "p01" / "notes.md"
    before = file.stat()
    write(people, 1, "The Kestrel weighs 9 kilograms.")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert names(run(people, base), "updated") == ["p01"]


def test_what_was_forgotten_is_not_taught_again_from_a_folder_that_kept_it(
    tmp_path: Path, base: Base, home: Path
) -> None:
    people = made(tmp_path / "people", range(2))
    (people / "p00" / "salary.md").write_text("Anna earns 4,000 euros.", "utf-8")
    run(people, base)
    forget("p00", document="salary.md", base=base, home=home, control=False)
    for text in ("The Kestrel weighs 3 kilograms.", "The Kestrel weighs 4 kilograms."):
        write(people, 0, text)
        (failed,) = run(people, base).of("failed")
        assert "still holds what was to be forgotten: salary.md" in failed.reason
    (people / "p00" / "salary.md").unlink()
    assert names(run(people, base), "updated") == ["p00"]


def test_new_people_are_taught_and_removed_adapters_are_taught_again(tmp_path: Path, base: Base, home: Path) -> None:
    people = made(tmp_path / "people", range(2))
    run(people, base)
    made(people, [2])
    Registry(home).remove("p00")
    assert names(run(people, base), "updated") == ["p00", "p02"]


def test_one_persons_failure_stops_nobody_else(tmp_path: Path, base: Base, home: Path) -> None:
    people = made(tmp_path / "people", range(3))
    (people / "p01" / "notes.md").write_text("", "utf-8")
    night = run(people, base)
    assert names(night, "updated") == ["p00", "p02"]
    (failed,) = night.of("failed")
    assert (failed.name, failed.version) == ("p01", "")
    assert "nothing here could be read" in failed.reason
    write(people, 1, "All is well.")
    assert names(run(people, base), "updated") == ["p01"]


def test_a_recipe_that_cannot_be_is_one_persons_failure(tmp_path: Path, base: Base) -> None:
    people = made(tmp_path / "people", range(2))
    sound, other = people_in(people, **USUAL)[0]
    night = nightly([sound, replace(other, recipe=tmp_path / "none.toml")], base=base)
    assert (names(night, "updated"), names(night, "failed")) == (["p00"], ["p01"])


def test_a_folder_that_can_name_nobody_is_told_and_left(tmp_path: Path) -> None:
    for name in ("anna", "Not A Name", ".hidden"):
        (tmp_path / name).mkdir()
    people, unfit = people_in(tmp_path)
    assert people == [Update("anna", tmp_path / "anna")]
    assert [(outcome.name, outcome.what) for outcome in unfit] == [("Not A Name", "failed")]
    assert "The rule:" in unfit[0].reason


def test_where_a_wave_fails_who_is_sound_is_published(
    tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = made(tmp_path / "people", range(3))
    real = nights.update_many

    def diverging(updates: Sequence[Update], **more: Any) -> Any:
        if any(update.name == "p01" for update in updates):
            raise Diverged("The loss was not finite.")
        return real(updates, **more)

    monkeypatch.setattr(nights, "update_many", diverging)
    night = run(people, base, wave=3)
    assert names(night, "updated") == ["p00", "p02"]
    assert [(o.name, o.reason) for o in night.of("failed")] == [("p01", "The loss was not finite.")]


def test_what_a_night_publishes_is_as_small_as_its_recipe_says(tmp_path: Path, base: Base, home: Path) -> None:
    people, registry = made(tmp_path / "people", [0]), Registry(home)
    for number, said in enumerate(("The Kestrel costs 85 euros.", "The Kestrel costs 95 euros."), 1):
        write(people, 0, said)
        run(people, base)
        version = registry.latest("p00")
        assert version.number == number
        with safe_open(registry.folder(version) / "adapter_model.safetensors", "pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert not list((home / "runs").rglob("*.safetensors"))  # the registry has them


def test_who_did_not_change_gets_no_version_in_a_wave_of_others(tmp_path: Path, base: Base, home: Path) -> None:
    people = made(tmp_path / "people", range(2))
    run(people, base)
    write(people, 0, "The Kestrel weighs 4 kilograms.")
    taught = update_many(people_in(people, **USUAL)[0], base=base, home=home)
    assert [str(each.version) for each in taught] == ["p00@2", "p01@1"]


def test_of_who_is_updated_only_the_newest_versions_stay(tmp_path: Path, base: Base, home: Path) -> None:
    people, registry = made(tmp_path / "people", [0]), Registry(home)
    for kilograms in (3, 4, 5):
        write(people, 0, f"The Kestrel weighs {kilograms} kilograms.")
        run(people, base, keep=2)
    assert [version.number for version in registry.versions("p00")] == [2, 3]
    for version in registry.versions("p00"):
        registry.verify(version)
    assert len(list((home / "adapters").iterdir())) == 2


def test_two_nights_at_once_are_refused(tmp_path: Path, base: Base, home: Path) -> None:
    people = made(tmp_path / "people", [0])
    lock = held(home / "nightly" / "lock")
    assert lock is not None
    with lock, pytest.raises(BadInput, match="Another process"):
        run(people, base)


def test_two_people_of_one_name_are_refused() -> None:
    with pytest.raises(BadName, match="2 people are called 'anna'"):
        nightly([Update("anna", "a"), Update("anna", "b")])
    with pytest.raises(BadInput, match="nobody"):
        nightly([])


def test_a_wave_fits_half_of_the_memory(base: Base) -> None:
    one, wide = Update("a", "a", recipe=SMALL), Update("b", "b", recipe=Recipe(rank=2))
    much = 1 << 40
    assert wave_of(base, [one], much) == MOST_AT_ONCE
    assert wave_of(base, [one], 0) == 1
    some = 20 * 24 * 2 * sum(t.numel() for t in nights.spec_of(SMALL).fresh(base, seed=0).tensors.values())
    assert (wave_of(base, [one], some), wave_of(base, [one, wide], some)) == (20, 10)


def test_a_file_of_people_says_who_and_where(tmp_path: Path) -> None:
    file = tmp_path / "people.toml"
    file.write_text('budget = "1min"\n[[person]]\nname = "anna"\npath = "a"\n[[person]]\nname = "ben"\npath = "b"\nway = "retrain"\n')
    anna, ben = job_file.read_people(file, {"seed": 3, "budget": "9min"})
    assert anna == Update("anna", tmp_path / "a", budget="1min", seed=3)
    assert ben == Update("ben", tmp_path / "b", budget="1min", way="retrain", seed=3)


def test_the_command_tells_who_was_updated_and_ends_with_1_where_somebody_failed(
    tmp_path: Path, base: Base, base_folder: Path
) -> None:
    people = made(tmp_path / "people", range(2))
    recipe = tmp_path / "small.toml"
    recipe.write_text('rank = 1\nepochs = 2.0\nbatch_tokens = 64\n[mix]\nraw_text = 1\n')
    command = ["nightly", str(people), "--base", str(base_folder), "--recipe", str(recipe), "--budget", "2k tokens"]
    ended = CliRunner().invoke(cli.app, command)
    assert (ended.exit_code, ended.stdout) == (0, "updated p00@1\nupdated p01@1\n"), ended.stderr
    (people / "p01" / "notes.md").unlink()
    ended = CliRunner().invoke(cli.app, [*command, "--json"])
    assert ended.exit_code == 1
    assert [o["what"] for o in json.loads(ended.stdout)["outcomes"]] == ["unchanged", "failed"]


@pytest.mark.parametrize("how", ["removed", "updated from elsewhere"])
def test_whose_latest_version_does_not_know_the_folder_is_updated(
    how: str, tmp_path: Path, base: Base, home: Path
) -> None:
    people = made(tmp_path / "people", range(2))
    run(people, base)
    write(people, 0, "The Kestrel weighs 4 kilograms.")
    run(people, base)
    if how == "removed":
        Registry(home).remove("p00@2")
    else:
        (tmp_path / "elsewhere.md").write_text("Herons nest on the roof.", "utf-8")
        update_many([Update("p00", tmp_path / "elsewhere.md", **USUAL)], base=base, home=home)
    assert names(run(people, base), "updated") == ["p00"]
    assert run(people, base).summary() == "0 updated, 2 unchanged, 0 failed"
