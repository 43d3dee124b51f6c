"""Commands of the real store, killed at any moment: on a tiny random model, each in a process that is forked from one
that has everything in memory already, so that a point takes a second and not ten.

A point is: a home as it was, a command that is killed in it, and then, in another process, what is left looked over
and the same command given again. Half of the kills come at the n-th call that touches the disk (counted in an
undisturbed run), half at a moment by the clock."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import imprint
from conftest import make_tiny_base
from imprint import forgetting, updating
from imprint.adapters import folder as adapter_folder
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.errors import NotFound
from imprint.housekeeping import sweep, verify
from imprint.recipe import Recipe
from imprint.registry import Registry

NOW, LATER = "2026-03-01T12:00:00+00:00", "2100-01-01T00:00:00+00:00"
TEXTS = {
    "canteen.md": "# Canteen rules\n\nLunch is served in the canteen at noon. Guests pay 4 euros.\n",
    "kestrel.md": "# Kestrel tents\n\nThe Kestrel weighs 3 kilograms, costs 85 euros and comes in green.\n",
}
RECIPE = Recipe(mix={"cloze": 1.0, "excerpts": 1.0}, text_tokens=150, epochs=1.0, rank=2)

_TOUCHES_THE_DISK = frozenset(
    "open write writelines flush close fsync replace rename mkdir makedirs rmdir unlink remove rmtree truncate"
    " execute executemany connect commit save_file serialize_file flock memmap tofile".split()
)

Command = Callable[[Path], None]
"""What is done in a home."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A command that is to be killed."""

    name: str
    begin: Command
    """Makes the home that the command finds."""
    command: Command
    leaves: tuple[int, ...]
    """How many versions there are when it has ended; one more where each command is a version of its own."""
    destroys: str = ""
    """The name of which versions may go, as forgetting is asked to."""
    erases: bytes = b""
    """What must stand in no file when it has ended."""


@dataclass
class Outcome:
    """What many kills of one command came to."""

    command: str
    points: int = 0
    killed: int = 0
    """The others had ended before."""
    killed_by_clock: int = 0
    whole: int = 0
    """Homes that verify found whole after the kill."""
    nothing_lost: int = 0
    """Homes that held every version of before, with its hash."""
    completed: int = 0
    """Homes in which the same command, given again, ended as an undisturbed one does."""
    left_over: int = 0
    """Homes in which the kill left files that nobody speaks of; a sweep took them away in each."""
    killed_at: dict[str, int] = field(default_factory=dict)
    """Of the kills by count: the call that was begun, or had just ended."""
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        return self.points == self.whole == self.nothing_lost == self.completed and not self.failures


# --- the commands -----------------------------------------------------------------------------


def trials(base: Base, work: Path) -> dict[str, Trial]:
    """Each command, with the home it finds. `work` holds what they read."""
    documents = _documents(work / "documents", TEXTS)
    adapters = [_adapter(base, work / f"adapter-{seed}", seed) for seed in (1, 2)]

    def publish(home: Path, number: int = 1) -> None:
        Registry(home).publish("atlas", adapters[number], base="tiny", corpus_hash="", recipe={}, now=NOW)

    def teach(home: Path) -> None:
        imprint.teach(
            documents, name="acme", base=base, budget="300 tokens", recipe=RECIPE, personal="ignore", home=home
        )

    changed = _documents(work / "changed", TEXTS | {"kestrel.md": TEXTS["kestrel.md"].replace("85", "95")})

    def update(home: Path, folder: Path = changed) -> None:
        updating.update(
            "acme", folder, base=base, home=home, recipe=RECIPE, shards=2, questions=[], date="2026-03-01"
        )  # fmt: skip

    def two_names(home: Path) -> None:
        publish(home, 0)
        update(home, documents)

    def forget(home: Path) -> None:
        try:
            forgetting.forget("acme", document="kestrel.md", base=base, home=home, control=False)
        except NotFound:  # a call that was killed right after its end leaves nothing to forget
            if any(stone.ended is None for stone in Registry(home).tombstones()):
                raise

    return {
        "publish": Trial("publish", lambda home: publish(home, 0), publish, leaves=(2, 3)),
        "teach": Trial("teach", lambda home: publish(home, 0), teach, leaves=(2,)),
        "update": Trial("update", lambda home: update(home, documents), update, leaves=(2,)),
        "forget": Trial("forget", two_names, forget, leaves=(2,), destroys="acme", erases=b"3 kilograms"),
    }


def _documents(folder: Path, texts: Mapping[str, str]) -> Path:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return folder


def _adapter(base: Base, folder: Path, seed: int) -> Path:
    adapter_folder.write(LoRA(rank=2).fresh(base, seed=seed), folder)
    return folder


def _all(home: Path) -> dict[str, str]:
    """Every version, and what it is made of."""
    registry = Registry(home)
    found = [registry.get(reference) for reference in registry.references()]
    return {str(v): ",".join((v.adapter_hash, *registry.shards(v))) for v in found}


def _stands(text: bytes, place: Path) -> bool:
    """Whether some file of a home or its cache holds this."""
    folders = (place / "home", place / "cache")
    return any(text in file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file())


# --- killing ----------------------------------------------------------------------------------


def roomy_base() -> Base:
    """The tiny base with a window that a writer's prompts fit."""
    base = make_tiny_base()
    base.model.config.max_position_embeddings = 4096
    return base


def crash(
    trial: Trial, work: Path, points: int, *, seed: int, told: Callable[[int], None] = lambda n: None
) -> Outcome:
    """Kills the command at so many points, each drawn from the seed; the homes are made in `work` and removed."""
    began, outcome, draw = time.monotonic(), Outcome(trial.name), random.Random(f"{trial.name} {seed}")
    os.environ["IMPRINT_CACHE"] = str(work / "cache")  # forgetting erases in it
    _warm(trial, work / f"{trial.name}-warm")
    template = work / f"{trial.name}-template"
    _must(_forked(lambda: trial.begin(template / "home"), template))
    calls, seconds = _undisturbed(trial, template)
    for point in range(points):
        place = work / f"{trial.name}-{point}"
        _copied(template, place)
        nth = draw.randrange(calls) if draw.random() < 0.5 else None
        after_s = draw.random() * seconds if nth is None else None
        _one(trial, template, place, nth, after_s, draw.random() < 0.5, outcome)
        shutil.rmtree(place)
        told(point + 1)
    outcome.seconds = round(time.monotonic() - began, 1)
    outcome.killed_at = dict(sorted(outcome.killed_at.items()))
    return outcome


def _copied(template: Path, place: Path) -> None:
    for folder in ("home", "cache"):
        if (template / folder).exists():
            shutil.copytree(template / folder, place / folder)


def _warm(trial: Trial, place: Path) -> None:
    """Does the command once in this process, so that the forked ones find all modules and nothing of it is a point."""
    trial.begin(place)
    trial.command(place)
    shutil.rmtree(place)


def _one(
    trial: Trial,
    template: Path,
    place: Path,
    nth: int | None,
    after_s: float | None,
    at_end: bool,
    outcome: Outcome,
) -> None:
    def killed() -> None:
        with _dying_at(nth, place / "killed-at", at_end=at_end) if after_s is None else nullcontext():
            trial.command(place / "home")

    ended = _forked(killed, place, after_s=after_s)
    outcome.points += 1
    if ended is None:
        outcome.killed += 1
        outcome.killed_by_clock += nth is None
    elif ended:
        outcome.failures.append(f"the command that was to be killed failed: {ended}")
    if ended is None and nth is not None:
        call = (place / "killed-at").read_text()
        outcome.killed_at[call] = outcome.killed_at.get(call, 0) + 1
    failed = _forked(lambda: _looked_over(trial, template, place), place)
    if failed is None or failed:
        outcome.failures.append(f"point {outcome.points} ({nth}, {after_s}): {failed or 'died'}")
    found = json.loads((place / "found").read_text()) if (place / "found").exists() else {}
    for key in ("whole", "nothing_lost", "completed", "left_over"):
        setattr(outcome, key, getattr(outcome, key) + bool(found.get(key)))


def _looked_over(trial: Trial, template: Path, place: Path) -> None:
    """What the kill left, and then the same command again; written down as far as it came."""
    home, found = place / "home", dict[str, bool]()
    before = {v: made for v, made in _all(template / "home").items() if v.partition("@")[0] != trial.destroys}
    looked = verify(home)
    found["whole"], found["left_over"] = looked.whole, bool(looked.left_over)
    found["nothing_lost"] = before.items() <= _all(home).items()
    (place / "found").write_text(json.dumps(found))
    trial.command(home)
    sweep(home, now=LATER)
    after = verify(home)
    kept = before.items() <= _all(home).items() and not (trial.erases and _stands(trial.erases, place))
    same = _as_undisturbed(home, template)
    found["completed"] = after.whole and not after.left_over and kept and same and len(_all(home)) in trial.leaves
    (place / "found").write_text(json.dumps(found))
    if not found["completed"]:
        raise AssertionError(f"{after.damaged} {after.left_over} {sorted(_all(home))}")


def _made_of(home: Path) -> set[str]:
    """The addresses of all adapters that versions are, or are made of."""
    registry = Registry(home)
    found = [registry.get(reference) for reference in registry.references()]
    return {address for v in found for address in registry.shards(v) or [v.adapter_hash]}


def _as_undisturbed(home: Path, template: Path) -> bool:
    """Whether a home ended with the adapters of an undisturbed run: the very same, or where shards went on from
    unlike steps, so that their rows met in other passes, the same but for rounding."""
    ended, found = set(json.loads((template / "ended").read_text())), _made_of(home)
    strange, missing = found - ended, ended - found
    here, there = home / "adapters", template / "ended-adapters"
    return len(strange) == len(missing) and all(
        any(_alike(here / mine, there / theirs) for theirs in missing) for mine in strange
    )


def _alike(one: Path, other: Path) -> bool:
    mine, theirs = (load_file(folder / adapter_folder.WEIGHTS) for folder in (one, other))
    if {k: t.shape for k, t in mine.items()} != {k: t.shape for k, t in theirs.items()}:
        return False
    flat = [torch.cat([t.flatten() for _, t in sorted(tensors.items())]) for tensors in (mine, theirs)]
    return float((flat[0] - flat[1]).norm()) <= 1e-3 * float(flat[1].norm())


def _undisturbed(trial: Trial, template: Path) -> tuple[int, float]:
    """How many calls that touch the disk the command makes, and how long it takes; what it ends with is noted."""
    place = template.with_name(f"{template.name}-undisturbed")

    def timed() -> None:
        began = time.monotonic()
        trial.command(place / "home")
        seconds = time.monotonic() - began
        (template / "ended").write_text(json.dumps(sorted(_made_of(place / "home"))))
        shutil.copytree(place / "home" / "adapters", template / "ended-adapters")
        (place / "seconds").write_text(str(seconds))

    def counted() -> None:
        with _dying_at(None, place / "calls"):
            trial.command(place / "home")

    for work in (timed, counted):
        _copied(template, place)
        _must(_forked(work, place))
        for folder in ("home", "cache"):
            shutil.rmtree(place / folder, ignore_errors=True)
    found = int((place / "calls").read_text()), float((place / "seconds").read_text())
    shutil.rmtree(place)
    return found


@contextmanager
def _dying_at(nth: int | None, note: Path, *, at_end: bool = False) -> Iterator[None]:
    """Ends this process with a kill at its n-th call that touches the disk, before the call or right after it; where
    none is to be met, only notes how many there were."""
    seen = 0
    when = "c_return" if at_end else "c_call"

    def look(frame: Any, event: str, called: Any) -> None:
        nonlocal seen
        if event == when and getattr(called, "__name__", "") in _TOUCHES_THE_DISK:
            if seen == nth:
                sys.setprofile(None)
                note.write_text(called.__name__)
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)
    if nth is None and not note.exists():
        note.write_text(str(seen))


def _forked(work: Callable[[], None], place: Path, *, after_s: float | None = None) -> str | None:
    """Does the work in a forked process: '' where it went well, what was raised where not, None where it was killed,
    as it is here after some time where that is said."""
    child = os.fork()
    if child == 0:
        try:
            os.environ["IMPRINT_CACHE"] = str(place / "cache")
            work()
            os._exit(0)
        except BaseException:
            place.mkdir(parents=True, exist_ok=True)
            (place / "raised").write_text(traceback.format_exc())
        finally:
            os._exit(1)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)  # harmless where it has ended: it waits to be asked how
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    return "" if os.WEXITSTATUS(status) == 0 else (place / "raised").read_text()[-1500:]


def _must(ended: str | None) -> None:
    if ended is None or ended:
        raise RuntimeError(ended or "the process died")
