"""A night's work for many people: whose documents changed gets a new version, in shared training passes.

Everybody's folder is looked at, cheapest first: the sizes and times of its files; the contents of those whose time
changed; what imprint reads in them, compared with what the latest version was taught. Whoever is left is updated in
waves that fit the memory, each of one shared training.

    <home>/nightly/night.json        the night that is not over: when it began
    <home>/nightly/people/NAME.json  the files of a person's folder as the latest version knows them

A killed night goes on with the same call: what was published is found in the registry, what was half trained in its
run folder."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imprint import base as bases
from imprint import clock, devices, documents, locks
from imprint.adapters.folder import layout_of
from imprint.base import Base
from imprint.continual.changes import compare
from imprint.continual.tombstones import Target
from imprint.corpus import Corpus
from imprint.errors import BadInput, BadName, ImprintError
from imprint.home import home_folder
from imprint.recipe import opened
from imprint.registry import Head, Registry
from imprint.run_folder import RunFolder
from imprint.stages import spec_of
from imprint.types import Document
from imprint.updating import Update, update_many
from imprint.watch import SILENT, Watch

log = logging.getLogger(__name__)

MOST_AT_ONCE = 64
"""People of a wave at most: more find no more room in a pass."""
_BYTES_A_NUMBER = 24
"""Of an adapter in training: itself, what passes use of it, its gradient, two moments, and where it began."""
_SETTLED_NS = 2_000_000_000
"""A file that changed so shortly before it was looked at may change again and keep its time."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the night brought for one person."""

    name: str
    what: str
    """'updated', 'unchanged' or 'failed'."""
    version: str = ""
    """The latest one, where there is any."""
    reason: str = ""
    """Why it failed."""


@dataclass(frozen=True, slots=True)
class Night:
    """What the night brought, in the order in which people were named."""

    began: str
    """ISO 8601, UTC: where a killed night went on, when that one began."""
    outcomes: tuple[Outcome, ...]

    def of(self, what: str) -> list[Outcome]:
        """Everybody with this outcome."""
        return [outcome for outcome in self.outcomes if outcome.what == what]

    def summary(self) -> str:
        """One line of counts."""
        counts = Counter(outcome.what for outcome in self.outcomes)
        return ", ".join(f"{counts[what]:,} {what}" for what in ("updated", "unchanged", "failed"))


def nightly(
    people: Sequence[Update],
    *,
    base: str | Base | None = None,
    wave: int | None = None,
    keep: int | None = None,
    home: Path | None = None,
    watch: Watch = SILENT,
    began: str | None = None,
) -> Night:
    """Updates everybody whose folder has new or changed documents, and teaches those who have no version yet.

    `wave`: people trained together; None takes as many as fit into half of the free memory. `keep`: versions that
    stay of who is updated, the newest ones; None keeps all. `began`: the time, UTC; None is now.

    One person's failure is told in the outcome and stops nobody else. Raises BadName where two have one name,
    BadInput where another process is at it, and NoSuchBase, before anything is spent."""
    _check(people)
    if keep is not None and keep < 1:
        raise BadInput(f"At least the newest version of everybody stays; got keep = {keep}.")
    home = home or home_folder()
    lock = locks.held(home / "nightly" / "lock")
    if lock is None:
        raise BadInput(f"Another process is at a night's work in {home}. Wait for its end.")
    with lock:
        return _night(people, base, wave, keep, home, watch, _Book(home, began or clock.now()))


def _night(
    people: Sequence[Update],
    base: str | Base | None,
    wave: int | None,
    keep: int | None,
    home: Path,
    watch: Watch,
    book: _Book,
) -> Night:
    registry = Registry(home)
    known = {head.name: head for head in registry.heads()}
    found: dict[str, Outcome] = {}
    changed: list[Update] = []
    watch.stage("Looking at everybody's documents")
    for done, person in enumerate(people, 1):
        try:
            if book.is_unchanged(person, known.get(person.name)):
                found[person.name] = book.standing(known[person.name])
            else:
                spec_of(opened(person.recipe))  # a recipe that cannot be is one person's failure
                changed.append(person)
        except Exception as error:  # whatever it was, it is this person's
            found[person.name] = _failure(person, known, error)
        watch.progress("people", done, len(people), f"{len(changed):,} to update")
    watch.say(f"{len(changed):,} of {len(people):,} people have new or changed documents.")
    if changed:
        watch.stage("Opening the base model")
        model = base if isinstance(base, Base) else bases.load(base)
        wave = wave or wave_of(model, changed, devices.free_bytes(model.device))
        for person, version, failed in _in_waves(changed, wave, model, home, watch):
            if failed is not None:
                found[person.name] = _failure(person, known, failed)
                continue
            book.note(person, registry.latest(person.name).corpus_hash)
            what = "unchanged" if version == str(known.get(person.name)) else "updated"
            found[person.name] = Outcome(person.name, what, version)
            if keep is not None:
                for old in registry.versions(person.name)[:-keep]:
                    registry.remove(str(old))
    book.close()
    return Night(book.began, tuple(found[person.name] for person in people))


def people_in(folder: Path, **usual: Any) -> tuple[list[Update], list[Outcome]]:
    """Everybody who has a folder in this one, by its name; and whose name cannot be. `usual` holds for all. Raises
    BadInput where there is no such folder, or nobody in it."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder. Name the folder that holds one folder for each person.")
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not inside:
        raise BadInput(
            f"{folder} holds no folders. Put each person's documents into one, which gives them their name."
        )
    people, unfit = [], []
    for person in inside:
        try:
            people.append(Update(person.name, person, **usual))
        except BadName as error:
            unfit.append(Outcome(person.name, "failed", reason=_said(error)))
    return people, unfit


def wave_of(model: Base, people: Sequence[Update], free_bytes: int) -> int:
    """How many can be trained side by side in half of so much memory."""
    recipes = {repr(recipe): recipe for recipe in (opened(person.recipe) for person in people)}
    sizes = [layout_of(model, spec_of(recipe).fresh(model, seed=0)).size for recipe in recipes.values()]
    return max(1, min(MOST_AT_ONCE, free_bytes // 2 // (_BYTES_A_NUMBER * max(sizes))))


def _check(people: Sequence[Update]) -> None:
    if not people:
        raise BadInput("There is nobody to update: no documents were named.")
    (name, times), *_ = Counter(person.name for person in people).most_common(1)
    if times > 1:
        raise BadName(f"{times} people are called '{name}'. Give each their own name.")


_Updated = tuple[Update, str, Exception | None]
"""With the version that is now the latest, or with what went wrong."""


def _in_waves(people: Sequence[Update], wave: int, model: Base, home: Path, watch: Watch) -> Iterator[_Updated]:
    """Everybody, wave after wave."""
    for start in range(0, len(people), wave):
        together = people[start : start + wave]
        alone = f"{together[0].name}, {start + 1:,} of {len(people):,} people"
        several = f"People {start + 1:,} to {start + len(together):,} of {len(people):,}"
        watch.stage(several if together[1:] else alone)
        yield from _updated(together, model, home, watch)


def _updated(people: Sequence[Update], model: Base, home: Path, watch: Watch) -> Iterator[_Updated]:
    """A wave. Where an update of several ends in an error, each is tried alone: what was published meanwhile is
    found, what was written and trained is taken up, and only who failed fails again."""
    try:
        taught = update_many(people, base=model, home=home, watch=watch)
    except Exception as error:  # whatever it was, it is one person's, and the others go on
        if len(people) == 1:
            yield people[0], "", error
            return
        watch.say(f"Each of these {len(people)} is tried alone: {_said(error)}")
        for person in people:
            watch.stage(person.name)
            yield from _updated([person], model, home, watch)
        return
    for person, each in zip(people, taught, strict=True):
        yield person, str(each.version), None


def _failure(person: Update, known: Mapping[str, Head], error: Exception) -> Outcome:
    if not isinstance(error, ImprintError):  # the log needs all of what nobody foresaw
        log.error("%s was not updated.", person.name, exc_info=error)
    return Outcome(person.name, "failed", str(known.get(person.name, "")), _said(error))


def _said(error: Exception) -> str:
    """What went wrong, in a line."""
    said = " ".join(str(error).split())
    return said if isinstance(error, ImprintError) else f"{type(error).__name__}: {said}"


# --- what changed -----------------------------------------------------------------------------

_Files = dict[str, list[Any]]
"""By source: size, time of change and of its entry in nanoseconds, SHA-256."""


class _Book:
    """What is known of everybody's folders, and of the night that is not over."""

    def __init__(self, home: Path, now: str) -> None:
        self._home, self._folder, self._registry = home, RunFolder(home / "nightly"), Registry(home)
        kept = self._folder.read("night")
        if kept is None:
            kept = {"began": now, "numbers": {head.name: head.number for head in self._registry.heads()}}
            self._folder.write("night", kept)
        self.began: str = kept["began"]
        self._numbers: dict[str, int] = kept["numbers"]
        self._looked: dict[str, _Files] = {}

    def is_unchanged(self, person: Update, latest: Head | None) -> bool:
        """Whether the latest version was taught what now lies in the folder. Raises what reading it raises."""
        kept = self._folder.read(f"people/{person.name}") or {}
        # Other versions may have been published, forgotten or taken away by day.
        same = latest is not None and (kept.get("path"), kept.get("corpus")) == (_place(person), latest.corpus_hash)
        known: _Files = kept.get("files", {}) if same else {}
        self._looked[person.name] = now = _looked_at(_path(person), known)
        if latest is not None and known and _contents(now) == _contents(known):
            if now != known:
                self.note(person, latest.corpus_hash)
            return True
        there = documents.load(_path(person)).documents
        self._refuse_forgotten(person.name, there)
        if latest is None or not self._says_the_same(there, latest):
            return False
        self.note(person, latest.corpus_hash)
        return True

    def _refuse_forgotten(self, name: str, there: Sequence[Document]) -> None:
        """Nobody watches at night: what was to be forgotten must not be taught again from a folder that kept it."""
        gone = {id for tombstone in self._registry.tombstones(name) for id in Target.of(tombstone.body).touched}
        if back := [document.source for document in there if document.id in gone]:
            raise BadInput(
                f"The folder of {name} still holds what was to be forgotten: {', '.join(back[:5])}. Take it out. "
                f"To teach it again all the same: imprint update {name} PATH --readmit."
            )

    def _says_the_same(self, now: Sequence[Document], latest: Head) -> bool:
        """Whether an update would find nothing to do: documents of other owners are in no folder."""
        kept = Corpus.kept(self._home, latest.corpus_hash)
        if kept is None:  # imported; the update tells what to do
            return False
        return not compare(kept.documents, [*now, *(d for d in kept.documents if d.owner)]).any

    def standing(self, latest: Head) -> Outcome:
        """Of somebody whose version is up to date: whether this night made it."""
        new = latest.number > self._numbers.get(latest.name, 0)
        return Outcome(latest.name, "updated" if new else "unchanged", str(latest))

    def note(self, person: Update, corpus_hash: str) -> None:
        """Keeps the files as they were looked at: a version that was taught these documents knows them."""
        kept = {"path": _place(person), "corpus": corpus_hash, "files": self._looked[person.name]}
        self._folder.write(f"people/{person.name}", kept)

    def close(self) -> None:
        """Ends the night."""
        (self._folder.path / "night.json").unlink()


def _place(person: Update) -> str:
    return str(_path(person).expanduser().absolute())


def _path(person: Update) -> Path:
    if person.path is None:
        raise BadInput(f"A night needs the folder of {person.name}. Say its path.")
    return Path(person.path)


def _looked_at(path: Path, known: _Files, *, clock_ns: Callable[[], int] = time.time_ns) -> _Files:
    """The files of a folder; what has kept its size and times is not read again."""
    found: _Files = {}
    settled_ns = clock_ns() - _SETTLED_NS
    for file, source in documents.listed(path):
        stat = os.stat(file)
        entry = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        before = known.get(source)
        if before is not None and before[:3] == entry:
            found[source] = before
            continue
        with open(file, "rb") as held:
            digest = hashlib.file_digest(held, "sha256").hexdigest()
        found[source] = [*(entry if max(entry[1:]) < settled_ns else (-1, -1, -1)), digest]
    return found


def _contents(files: _Files) -> dict[str, str]:
    return {source: entry[3] for source, entry in files.items()}
