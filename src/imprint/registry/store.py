"""The registry: names, versions, lineage and proofs in SQLite, beside the files they speak of.

    <home>/registry.db    database.py, rows.py; registry/migrations/ has the tables' definitions
    <home>/adapters/      files.py

A version's files are safe on the disk before its row is written, and its row is gone before its files are.
So a crash leaves at worst files that no version speaks of, which `sweep` takes away.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from imprint.errors import BadInput, BrokenStore
from imprint.registry import files, names, records, rows
from imprint.registry.database import opened, prepare, transaction, use_wal
from imprint.types import Report, Version

UNFINISHED_AFTER_S = 24 * 3600
"""A half-written folder older than this has no writer any more."""

_OF_ITS_HOME = ("run", "shards")
"""Details that name folders of the home where a version was made; they must not name any of another."""

# The method `list` hides the builtin from the annotations of its class.
Versions = list[Version]
Reports = list[Report]
Paths = list[Path]
Addresses = list[str]


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Something that is to be forgotten, or was."""

    id: int
    name: str
    """Of the adapter."""
    since: str
    """ISO 8601, UTC: when it was asked for."""
    ended: str | None
    """When nothing of it was left; None while it is only withheld."""
    body: Mapping[str, Any]
    """What it is (continual.tombstones); JSON values."""


Tombstones = list[Tombstone]
References = list[str]


@dataclass(frozen=True, slots=True)
class Head:
    """Of a name's latest version what can be told of thousands at once: no recipe, no details."""

    name: str
    number: int
    base: str
    corpus_hash: str
    created_at: str

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


Heads = list[Head]


class Registry:
    """The published adapters under one folder.

    Every call opens the database and closes it again, so one Registry may be used from many threads, and
    survives a fork."""

    def __init__(self, home: Path) -> None:
        self.home = Path(home).absolute()
        self.database = self.home / "registry.db"
        self.home.mkdir(parents=True, exist_ok=True)
        with opened(self.database) as db:
            prepare(db, self.database)

    # --- publishing ---------------------------------------------------------------------------

    def publish(
        self,
        name: str,
        folder: Path,
        *,
        base: str,
        corpus_hash: str,
        recipe: Mapping[str, Any],
        parent: int | None = None,
        follows: int | None = None,
        details: Mapping[str, Any] | None = None,
        now: str,
    ) -> Version:
        """The next version of this name, made of the folder's files.

        Visible as a whole or not at all. `now` is ISO 8601, UTC. `follows`: the number of the latest version as
        this one was made from it, 0 where there was none; BadInput where another is the latest by now. None
        follows whatever that is."""
        names.check_name(name)
        draft = Version(name, 0, "", base, corpus_hash, dict(recipe), parent, now, dict(details or {}))
        return self._publish(draft, _without_sums(files.plain_files(Path(folder))), follows=follows)

    def publish_shards(
        self,
        name: str,
        shards: Sequence[Path | str],
        *,
        base: str,
        corpus_hash: str,
        recipe: Mapping[str, Any],
        parent: int | None = None,
        follows: int | None = None,
        details: Mapping[str, Any] | None = None,
        now: str,
    ) -> Version:
        """The next version of this name, made of several adapters: folders, and addresses of such as are here
        already (of another version), which are not copied.

        Visible as a whole or not at all. `follows` as in publish()."""
        names.check_name(name)
        if len(shards) < 2:
            raise BadInput("A version of shards has two or more of them. Publish a single adapter by itself.")
        new = [s if isinstance(s, str) else _without_sums(files.plain_files(s)) for s in shards]
        put = [s if isinstance(s, str) else files.put(self.home, s) for s in new]
        listing = json.dumps({"shards": put}, indent=1) + "\n"
        draft = Version(name, 0, "", base, corpus_hash, dict(recipe), parent, now, dict(details or {}))
        return self._publish(draft, {files.SHARDS: listing.encode()}, shards=put, follows=follows)

    def again(self, version: Version, *, details: Mapping[str, Any], now: str) -> Version:
        """The next version of its name with the very files, documents and reports of this one, and its details with
        others put in. BadInput where another is published meanwhile."""
        with self._reading() as db:
            there = rows.find(db, version.name, version.number)
            reports, shards = rows.reports(db, there), rows.shards(db, there)
        latest = self.latest(version.name).number
        draft = replace(there, parent=latest, created_at=now, details={**there.details, **details})
        source = _without_sums(files.plain_files(files.path(self.home, there.adapter_hash)))
        return self._publish(draft, source, reports, shards, follows=latest)

    def add_report(self, version: Version, report: Report) -> None:
        """Keeps what was measured on this version. Reports are added, never changed."""
        body = rows.body(report)
        with self._writing() as db:
            rows.find(db, version.name, version.number)
            rows.insert_report(db, version, body)

    def import_folder(self, folder: Path, name: str, *, now: str) -> Version:
        """The next version of this name, from an exported folder or from any PEFT folder.

        An export brings its recipe, details and reports. Where it came from is under details['imported']."""
        folder = Path(folder)
        names.check_name(name)
        if (folder / files.EXPORT_RECORD).is_file():
            return self._import_export(folder, name, now)
        return self._import_peft(folder, name, now)

    # --- looking ------------------------------------------------------------------------------

    def get(self, reference: str) -> Version:
        """The version that 'handbook@3' names; 'handbook' names the latest."""
        name, number = names.parse(reference)
        with self._reading() as db:
            return rows.latest(db, name) if number is None else rows.find(db, name, number)

    def latest(self, name: str) -> Version:
        """The newest version of this name."""
        with self._reading() as db:
            return rows.latest(db, name)

    def versions(self, name: str) -> Versions:
        """Every version of this name, oldest first."""
        with self._reading() as db:
            return rows.versions(db, name)

    def list(self) -> Versions:
        """The latest version of each name, by name."""
        with self._reading() as db:
            return rows.select(db, f"WHERE {rows.IS_LATEST} ORDER BY name")

    def heads(self) -> Heads:
        """The latest version of each name, by name, in brief."""
        columns = ", ".join(field.name for field in fields(Head))
        with self._reading() as db:
            selected = db.execute(f"SELECT {columns} FROM versions WHERE {rows.IS_LATEST} ORDER BY name")
            return [Head(*row) for row in selected]

    def latest_reports(self) -> Mapping[str, Reports]:
        """What was measured on the latest version of each name, by name; a name without is left out."""
        found: dict[str, Reports] = {}
        with self._reading() as db:
            selected = db.execute(
                "SELECT name, number, body FROM reports JOIN versions USING (name, number)"
                f" WHERE {rows.IS_LATEST} ORDER BY id"
            )
            for name, number, body in selected:
                report = records.report_of(records.loads(body, f"A report on {name}@{number}"))
                found.setdefault(name, []).append(report)
        return found

    def reports(self, version: Version) -> Reports:
        """What was measured on this version, in the order it was added."""
        with self._reading() as db:
            rows.find(db, version.name, version.number)
            return rows.reports(db, version)

    def folder(self, version: Version) -> Path:
        """The folder of this version's adapter; BrokenStore where a file is missing, BadInput where it is made of
        several.

        Quick enough for every request. `verify` reads the contents too."""
        found = self.folders(version)
        if len(found) > 1:
            raise BadInput(
                f"{version} is made of {len(found)} adapters, each of some of the documents, and this needs one "
                f"(imprint prove --quick does not). Make one: imprint update {version.name} PATH --way retrain "
                "--shards 1."
            )
        return found[0]

    def folders(self, version: Version) -> Paths:
        """The folders of this version's adapters: one, or those of its shards in their order."""
        shards = self.shards(version)
        files.check_present(self.home, version.adapter_hash)
        return [self.folder_at(address) for address in shards or (version.adapter_hash,)]

    def folder_at(self, address: str) -> Path:
        """The folder of an adapter that some version is, or is made of; BrokenStore where a file is missing."""
        files.check_present(self.home, address)
        return files.path(self.home, address)

    def shards(self, version: Version) -> Addresses:
        """The addresses of the adapters that this version is made of; none where it is one itself."""
        with self._reading() as db:
            return rows.shards(db, version)

    def verify(self, version: Version) -> None:
        """Raises BrokenStore, naming the file, where this version's files are not as published."""
        for address in (version.adapter_hash, *self.shards(version)):
            files.verify(self.home, address)

    # --- what is to be forgotten --------------------------------------------------------------

    def bury(self, name: str, body: Mapping[str, Any], *, now: str) -> Tombstone:
        """Notes what is to be forgotten of this name; from this call on everybody can see it."""
        names.check_name(name)
        with self._writing() as db:
            cursor = db.execute(
                "INSERT INTO tombstones (name, since, body) VALUES (?, ?, ?)",
                [name, now, records.dumps(body, "A tombstone")],
            )
            return Tombstone(int(cursor.lastrowid or 0), name, now, None, dict(body))

    def tombstones(self, name: str | None = None) -> Tombstones:
        """What was to be forgotten, oldest first: of a name, or of all."""
        which, values = ("", []) if name is None else ("WHERE name = ?", [name])
        with self._reading() as db:
            columns = "id, name, since, ended, body"
            selected = db.execute(f"SELECT {columns} FROM tombstones {which} ORDER BY id", values)
            return [
                Tombstone(id, of, since, ended, records.loads(body, f"Tombstone {id}"))
                for id, of, since, ended, body in selected
            ]

    def end_tombstone(self, tombstone: Tombstone, body: Mapping[str, Any], *, now: str) -> None:
        """Notes that nothing is left of what it speaks of; the body is what may still be known of that."""
        with self._writing() as db:
            db.execute(
                "UPDATE tombstones SET ended = ?, body = ? WHERE id = ?",
                [now, records.dumps(body, "A tombstone"), tombstone.id],
            )

    def compact(self) -> None:
        """Rewrites the database, so that no byte of what was removed is left in it."""
        with opened(self.database) as db:
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # --- keeping house ------------------------------------------------------------------------

    def references(self) -> References:
        """'handbook@3' of every version, by name and number. Their rows are not read, so that a broken one can
        be told from its neighbours."""
        with self._reading() as db:
            selected = db.execute("SELECT name, number FROM versions ORDER BY name, number")
            return [f"{name}@{number}" for name, number in selected]

    def check(self) -> None:
        """Raises BrokenStore where the database's own pages, indexes or references do not agree."""
        with opened(self.database) as db:
            found = [row[0] for row in db.execute("PRAGMA integrity_check(10)") if row[0] != "ok"]
            broken = db.execute("PRAGMA foreign_key_check").fetchall()
            found += [f"{row[0]} row {row[1]} refers to no {row[2]}" for row in broken]
        if found:
            raise BrokenStore(
                f"The registry {self.database} is damaged: {'; '.join(found)[:500]}. Restore it from a backup; the "
                f"adapters' files beside it are not touched."
            )

    def snapshot(self, target: Path) -> None:
        """Writes the database as it is at this moment into a new file, whatever others write meanwhile.

        What was deleted is not in it: rows are copied, not pages."""
        with opened(self.database) as db:
            db.execute("VACUUM INTO ?", [str(target)])
        with opened(target) as db:
            use_wal(db)

    # --- taking away and out ------------------------------------------------------------------

    def remove(self, reference: str) -> Versions:
        """Removes one version ('handbook@3') or a name with all its versions; returns what was removed.

        Files that another version uses stay. The numbers are not given again."""
        name, number = names.parse(reference)
        with self._writing() as db:
            removed = rows.versions(db, name) if number is None else [rows.find(db, name, number)]
            addresses = {v.adapter_hash for v in removed} | {s for v in removed for s in rows.shards(db, v)}
            db.executemany(
                "DELETE FROM versions WHERE name = ? AND number = ?", [(v.name, v.number) for v in removed]
            )
        self._drop_unused(addresses)
        return removed

    def sweep(self, *, now: str) -> None:
        """Takes away what crashes left: files that no version speaks of, and folders half written."""
        self._drop_unused(files.addresses(self.home))
        files.drop_unfinished(
            self.home, before_s=datetime.fromisoformat(now).timestamp() - UNFINISHED_AFTER_S
        )

    def export(self, version: Version, target: Path) -> Path:
        """Copies the version's files and an imprint.json that tells of it into `target`, which it returns."""
        target = Path(target)
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise BadInput(f"{target} is there already and not an empty folder. Choose another place.")
        self.folder(version)
        if any(tombstone.ended is None for tombstone in self.tombstones(version.name)):
            raise BadInput(
                f"{version} holds what is to be forgotten, and is not given away. Finish that first: "
                f"imprint forget {version.name}."
            )
        with self._reading() as db:
            version = rows.find(db, version.name, version.number)
            reports = rows.reports(db, version)
        target.mkdir(parents=True, exist_ok=True)
        files.copy(self.home, version.adapter_hash, target)
        # The record comes last: an export without it is unfinished.
        (target / files.EXPORT_RECORD).write_text(records.export_text(version, reports), encoding="utf-8")
        return target

    # --- inside -------------------------------------------------------------------------------

    def _publish(
        self,
        draft: Version,
        source: files.Files,
        reports: Reports | None = None,
        shards: Sequence[str] = (),
        follows: int | None = None,
    ) -> Version:
        """Files first, then the rows; the number and the address are filled in here."""
        recipe = records.dumps(draft.recipe, "The recipe")
        details = records.dumps(draft.details, "The details")
        bodies = [rows.body(report) for report in reports or []]
        address = files.put(self.home, source)
        try:
            with self._writing() as db:
                # Under the lock, so that of two who both follow the same version only one can.
                rows.check_latest(db, draft.name, follows)
                if draft.parent is not None:
                    rows.find(db, draft.name, draft.parent)
                # Another process may have removed the last version with these files since they were put.
                if not files.path(self.home, address).is_dir():
                    files.put(self.home, source)
                for shard in shards:
                    if not files.path(self.home, shard).is_dir():
                        raise BrokenStore(
                            f"The shard {shard[:12]}... was removed meanwhile. Give the command again."
                        )
                version = rows.insert_version(db, draft, address, recipe, details)
                db.executemany(
                    "INSERT INTO shards VALUES (?, ?, ?, ?)",
                    [(version.name, version.number, place, shard) for place, shard in enumerate(shards)],
                )
                for body in bodies:
                    rows.insert_report(db, version, body)
        except BadInput:
            self._drop_unused([address, *shards])
            raise
        return version

    def _import_export(self, folder: Path, name: str, now: str) -> Version:
        told, reports = records.export_of(files.read_record(folder / files.EXPORT_RECORD))
        files.verify_folder(folder, told.adapter_hash, others=[files.EXPORT_RECORD])
        files.check_tensors(folder)
        source = files.plain_files(folder)
        del source[files.EXPORT_RECORD], source[files.SUMS]
        came_from = {"version": str(told), "parent": told.parent, "created_at": told.created_at}
        details = {key: value for key, value in told.details.items() if key not in _OF_ITS_HOME}
        details["imported"] = came_from
        draft = Version(name, 0, "", told.base, told.corpus_hash, told.recipe, None, now, details)
        return self._publish(draft, source, reports)

    def _import_peft(self, folder: Path, name: str, now: str) -> Version:
        config = files.check_peft(folder)
        base = config.get("base_model_name_or_path")
        if not isinstance(base, str) or not base or not base.isprintable():
            raise BadInput(
                f"{folder / 'adapter_config.json'} does not say which base model it belongs to: its "
                f"'base_model_name_or_path' is {base!r}. Write the model's name there."
            )
        source = files.peft_files(folder)
        left = sorted(entry.name for entry in folder.iterdir() if entry.name not in source)
        details = {"imported": {"peft_type": str(config.get("peft_type")), "left_behind": left}}
        return self._publish(Version(name, 0, "", base, "", {}, None, now, details), source)

    def _drop_unused(self, addresses: Iterable[str]) -> None:
        # The write lock is held, so that nobody publishes a version of these files meanwhile.
        with self._writing() as db:
            for address in addresses:
                if not any(
                    db.execute(f"SELECT 1 FROM {table} WHERE adapter_hash = ?", [address]).fetchone()
                    for table in ("versions", "shards")
                ):
                    files.drop(self.home, address)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One view of the database, whatever others write meanwhile."""
        with opened(self.database) as db, transaction(db, "BEGIN"):
            yield db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The only writer, until the block ends: all of it is kept, or none."""
        with opened(self.database) as db, transaction(db, "BEGIN IMMEDIATE"):
            yield db


def _without_sums(source: dict[str, bytes | Path]) -> dict[str, bytes | Path]:
    """Files that were published before, without the listing of them, which is made anew."""
    return {name: held for name, held in source.items() if name != files.SUMS}
