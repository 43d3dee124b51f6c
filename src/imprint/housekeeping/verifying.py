"""What was published is there and as it was: files, rows, documents and reports, of every tenant.

Three things are told apart. *Damaged* is what was published and is changed or lost. *Left over* is what a crash
left and no version speaks of; a sweep takes it away. *Told* is the rest that a keeper may want to know: run folders
of teachings that never ended, documents of an imported adapter that are not here."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from imprint.continual import manifest
from imprint.corpus import Corpus
from imprint.errors import BrokenStore, ImprintError, NotFound
from imprint.registry import Registry, files
from imprint.registry.names import fits
from imprint.registry.store import UNFINISHED_AFTER_S
from imprint.run_folder import RunFolder
from imprint.types import Version
from imprint.watch import SILENT, Watch

# A key leads nowhere but below runs/, whoever wrote the row.
_RUN = re.compile(r"[0-9a-f]{16}(?:/shard-[0-9]{1,4})?")
# As write_whole() names what it has not renamed yet.
_TEMPORARY = re.compile(r"\..+-[a-z0-9_]{8}")


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found in a home and in those of its tenants."""

    home: Path
    counted: dict[str, int]
    """How many versions, adapters, corpora, runs and reports were looked at."""
    damaged: tuple[str, ...] = ()
    """What was published and is changed or lost, each as a sentence."""
    left_over: tuple[str, ...] = ()
    """What no version speaks of and a sweep takes away, relative to the home."""
    told: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing that was published is damaged or lost."""
        return not self.damaged

    def as_json(self) -> dict[str, Any]:
        return {
            "whole": self.whole,
            "counted": self.counted,
            "damaged": list(self.damaged),
            "left_over": list(self.left_over),
            "told": list(self.told),
        }


def verify(home: Path, *, deep: bool = True, watch: Watch = SILENT) -> Verified:
    """Everything that this home's registry speaks of, looked at; the tenants' homes too.

    `deep` reads every byte again and compares hashes; else only what is there is looked at. Nothing is changed.
    Raises NotFound where there is no home."""
    home = Path(home).absolute()
    if not home.is_dir():
        raise NotFound(f"There is no home at {home}. Set IMPRINT_HOME, or teach something first.")
    found = _Findings(home, deep, watch)
    for each in homes(home):
        found.look_at(each)
    counted = {kind: found.counted[kind] for kind in ("versions", "adapters", "corpora", "runs", "reports")}
    return Verified(home, counted, tuple(found.damaged), tuple(found.left_over), tuple(found.told))


def sweep(home: Path, *, now: str) -> None:
    """Takes away what crashes left over, but for what is younger than a day: its writer may still be at it."""
    before_s = datetime.fromisoformat(now).timestamp() - UNFINISHED_AFTER_S
    for each in homes(Path(home).absolute()):
        if (each / "registry.db").exists():
            Registry(each).sweep(now=now)
        for file in _temporary(each):
            if file.stat().st_mtime < before_s:
                file.unlink(missing_ok=True)


def homes(home: Path) -> list[Path]:
    """The home itself, and those of its tenants."""
    tenants = home / "tenants"
    names = sorted(entry.name for entry in tenants.iterdir() if entry.is_dir()) if tenants.is_dir() else []
    return [home, *(tenants / name for name in names if fits(name))]


def versions(registry: Registry) -> list[Version]:
    """Every version of every name."""
    return [registry.get(reference) for reference in registry.references()]


def run_keys(version: Version) -> list[str]:
    """The run folders that a version speaks of: its own, or one for each of its shards."""
    parts = [version.details, *version.details.get("shards", [])]
    keys = {str(part.get("run")) for part in parts}
    return sorted(key for key in keys if _RUN.fullmatch(key))


@dataclass
class _Findings:
    """What is found, while it is looked for."""

    home: Path
    deep: bool
    watch: Watch
    damaged: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    def look_at(self, home: Path) -> None:
        """One home, without its tenants."""
        self.watch.stage(f"Looking at {self._named(home)}" if home != self.home else "Looking at the registry")
        rows = self._rows(home)
        addresses: dict[str, list[str]] = {}
        corpora: dict[str, list[Version]] = {}
        runs: set[str] = set()
        for version, shards in rows or []:
            for address in (version.adapter_hash, *shards):
                addresses.setdefault(address, []).append(str(version))
            if version.corpus_hash:
                corpora.setdefault(version.corpus_hash, []).append(version)
            runs |= set(run_keys(version))
        self._adapters(home, addresses)
        self._corpora(home, corpora)
        self._runs(home, runs)
        if rows is not None:  # without rows nothing can be called nobody's
            self._leftovers(home, set(addresses))

    # --- parts --------------------------------------------------------------------------------

    def _rows(self, home: Path) -> list[tuple[Version, list[str]]] | None:
        """The versions of a home with the addresses of their shards; None where its database does not tell."""
        database = home / "registry.db"
        if not database.exists():
            if files.addresses(home):
                self.damaged.append(
                    f"{database} is missing, though adapters are beside it. Restore it from a backup."
                )
                return None
            return []
        try:
            registry = Registry(home)
            registry.check()
            references = registry.references()
            pending = [stone for stone in registry.tombstones() if stone.ended is None]
        except ImprintError as error:
            self.damaged.append(str(error))
            return None
        for stone in pending:
            self.told.append(
                f"{self._named(database)}: what is to be forgotten of {stone.name} since {stone.since} is withheld "
                "and not gone yet. Give the same `imprint forget` again."
            )
        rows = []
        for reference in references:
            try:
                version = registry.get(reference)
                rows.append((version, registry.shards(version)))
                self.counted["versions"] += 1
                self.counted["reports"] += len(registry.reports(version))
            except ImprintError as error:
                self.damaged.append(f"{reference}: {error}")
        return rows

    def _adapters(self, home: Path, addresses: dict[str, list[str]]) -> None:
        for done, (address, wearers) in enumerate(sorted(addresses.items()), 1):
            try:
                if self.deep:
                    files.verify(home, address)
                else:
                    files.check_present(home, address)
            except ImprintError as error:
                self.damaged.append(f"{', '.join(wearers[:3])}: {error}")
            self.counted["adapters"] += 1
            self.watch.progress("adapters", done, len(addresses), "")

    def _corpora(self, home: Path, corpora: dict[str, list[Version]]) -> None:
        for done, (corpus_hash, taught) in enumerate(sorted(corpora.items()), 1):
            wearers = ", ".join(map(str, taught[:3]))
            if not Corpus.file(home, corpus_hash).exists():
                # What came from elsewhere brings its documents' hash and not the documents.
                lost = any(run_keys(version) and "imported" not in version.details for version in taught)
                said = f"{wearers}: the documents they were taught with ({corpus_hash}) are not here."
                (self.damaged if lost else self.told).append(said)
                continue
            self.counted["corpora"] += 1
            try:
                if self.deep:
                    ids = {document.id for document in _documents(home, corpus_hash)}
                    for version in taught:
                        _check_manifest(version, ids)
            except BrokenStore as error:
                self.damaged.append(f"{wearers}: {error}")
            self.watch.progress("corpora", done, len(corpora), "")

    def _runs(self, home: Path, wanted: set[str]) -> None:
        folder = home / "runs"
        gone = {key for key in wanted if not (folder / key).is_dir()}
        there = {entry.name for entry in folder.iterdir() if entry.is_dir()} if folder.is_dir() else set()
        if gone:
            self.told.append(
                f"{self._named(folder)}: the training text of {len(gone)} teachings is not here ({_some(gone)}). "
                "What was taught is served and asked as before; an update of it writes its text anew."
            )
        if others := there - {key.partition("/")[0] for key in wanted}:
            self.told.append(
                f"{self._named(folder)}: {len(others)} folders are of no version ({_some(others)}): teachings that "
                "were stopped go on with the same command, and versions that were removed leave theirs."
            )
        for key in sorted(wanted - gone):
            self.counted["runs"] += 1
            if self.deep and (broken := _broken_run(folder / key)):
                self.told.append(f"{self._named(folder / key)}: {broken}")

    def _leftovers(self, home: Path, addresses: set[str]) -> None:
        adapters = home / "adapters"
        nobodys = [adapters / address for address in files.addresses(home) if address not in addresses]
        unfinished = [*adapters.glob(".incoming-*"), *adapters.glob(".outgoing-*")]
        self.left_over += [self._named(path) for path in [*nobodys, *sorted(unfinished), *_temporary(home)]]

    def _named(self, path: Path) -> str:
        return path.relative_to(self.home).as_posix()


# --- inside -----------------------------------------------------------------------------------


def _documents(home: Path, corpus_hash: str) -> tuple[Any, ...]:
    """The documents of a corpus. Raises BrokenStore where they are not those of its hash."""
    file = Corpus.file(home, corpus_hash)
    try:
        kept = Corpus.kept(home, corpus_hash)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BrokenStore(
            f"{file} does not read as documents: {error}. Bring the file back from a backup."
        ) from error
    if kept is None or kept.hash != corpus_hash:
        raise BrokenStore(
            f"{file} was changed: its documents have another hash. Bring the file back from a backup."
        )
    return kept.documents


def _check_manifest(version: Version, ids: set[str]) -> None:
    """Raises BrokenStore where a version speaks of documents that are not among those it was taught with."""
    try:
        # A withdrawn document stays in the manifest with the day of its end.
        held = {entry.document for entry in manifest.current(manifest.of_version(version, []))}
        held |= {passage.partition(":")[0] for passage in version.details.get("taught", [])}
    except (TypeError, AttributeError) as error:
        raise BrokenStore(f"The manifest of {version} does not read: {error}. Teach it again.") from error
    if strange := held - ids:
        raise BrokenStore(
            f"{version} speaks of {len(strange)} documents that are not kept for it ({_some(strange)}). "
            "Bring corpora/ back from a backup."
        )


def _broken_run(folder: Path) -> str:
    """What of a run's records does not read; '' where all does."""
    run = RunFolder(folder)
    try:
        for file in folder.glob("*.json"):
            json.loads(file.read_text("utf-8"))
        for _ in run.examples():
            pass
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"its records do not read: {error}. The adapter is not touched by that."
    return ""


def _temporary(home: Path) -> Iterator[Path]:
    """Files that were being written beside their place when their writer ended."""
    skipped = {home / "tenants", home / "adapters"}
    for entry in sorted(home.iterdir()):
        found = [entry] if entry.is_file() else entry.rglob(".*") if entry not in skipped else []
        yield from (file for file in found if _TEMPORARY.fullmatch(file.name) and file.is_file())


def _some(things: set[str]) -> str:
    shown = ", ".join(sorted(things)[:3])
    return shown if len(things) <= 3 else f"{shown} ..."
