"""Versions, reports and shards as rows of the registry's database, and back."""

from __future__ import annotations

import sqlite3
from typing import Any

from imprint.errors import BadInput, NoSuchAdapter
from imprint.registry import names, records
from imprint.types import Report, Version

COLUMNS = "name, number, adapter_hash, base, corpus_hash, recipe, parent, created_at, details"
_SELECT = f"SELECT {COLUMNS} FROM versions"
IS_LATEST = "number = (SELECT max(number) FROM versions AS v WHERE v.name = versions.name)"


def _version(row: tuple[Any, ...]) -> Version:
    name, number, address, base, corpus_hash, recipe, parent, created_at, details = row
    return Version(
        name=name,
        number=number,
        adapter_hash=address,
        base=base,
        corpus_hash=corpus_hash,
        recipe=records.loads(recipe, f"The recipe of {name}@{number}"),
        parent=parent,
        created_at=created_at,
        details=records.loads(details, f"The details of {name}@{number}"),
    )


def select(db: sqlite3.Connection, which: str, *values: str | int) -> list[Version]:
    """The versions that a WHERE picks."""
    return [_version(row) for row in db.execute(f"{_SELECT} {which}", values)]


def _of_name(db: sqlite3.Connection, name: str, which: str, *values: int) -> list[Version]:
    # A name that the registry would not take may not even be text that SQLite can hold.
    return select(db, f"WHERE name = ? {which}", name, *values) if names.fits(name) else []


def versions(db: sqlite3.Connection, name: str) -> list[Version]:
    """Every version of this name, oldest first; there is at least one, or NoSuchAdapter."""
    if found := _of_name(db, name, "ORDER BY number"):
        return found
    raise _no_such_name(db, name)


def latest(db: sqlite3.Connection, name: str) -> Version:
    """The newest version of this name, or NoSuchAdapter."""
    if found := _of_name(db, name, "ORDER BY number DESC LIMIT 1"):
        return found[0]
    raise _no_such_name(db, name)


def check_latest(db: sqlite3.Connection, name: str, expected: int | None) -> None:
    """Raises BadInput where another version than the expected one is the latest: what follows would undo it."""
    (newest,) = db.execute("SELECT coalesce(max(number), 0) FROM versions WHERE name = ?", [name]).fetchone()
    if expected not in (None, newest):
        raise BadInput(f"Another version of {name} was published meanwhile. Give the command again.")


def _no_such_name(db: sqlite3.Connection, name: str) -> NoSuchAdapter:
    """The error for an unknown name. What it may have meant is looked for among those that begin like it, unless
    there are few."""
    (count,) = db.execute("SELECT count(DISTINCT name) FROM versions").fetchone()

    def since(start: str) -> list[str]:
        rows = "SELECT DISTINCT name FROM versions WHERE name >= ? ORDER BY name LIMIT ?"
        return [row[0] for row in db.execute(rows, [start, names.NEARBY])]

    first = since("")
    begun = next((begun for begun in (name[:3].lower(), name[:1].lower()) if names.fits(begun)), "")
    return names.no_such_name(name, first, first if count <= names.NEARBY else since(begun), count)


def find(db: sqlite3.Connection, name: str, number: int) -> Version:
    """The version of this name and number, or NoSuchAdapter."""
    if found := _of_name(db, name, "AND number = ?", number):
        return found[0]
    raise names.no_such_number(name, number, [version.number for version in versions(db, name)])


def shards(db: sqlite3.Connection, version: Version) -> list[str]:
    """The addresses of the adapters that a version is made of, in their order."""
    rows = db.execute(
        "SELECT adapter_hash FROM shards WHERE name = ? AND number = ? ORDER BY place",
        [version.name, version.number],
    )
    return [address for (address,) in rows]


def insert_version(
    db: sqlite3.Connection, draft: Version, address: str, recipe: str, details: str
) -> Version:
    """The draft as a version, with the name's next number."""
    db.execute("INSERT INTO names VALUES (?, 0) ON CONFLICT DO NOTHING", [draft.name])
    db.execute("UPDATE names SET last_number = last_number + 1 WHERE name = ?", [draft.name])
    (number,) = db.execute("SELECT last_number FROM names WHERE name = ?", [draft.name]).fetchone()
    db.execute(
        f"INSERT INTO versions ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [draft.name, number, address, draft.base, draft.corpus_hash]
        + [recipe, draft.parent, draft.created_at, details],
    )
    return find(db, draft.name, number)


def body(report: Report) -> str:
    """A report as its row holds it."""
    return records.dumps(records.report_record(report), f"Report '{report.name}'")


def insert_report(db: sqlite3.Connection, version: Version, body: str) -> None:
    """Adds what body() made of a report."""
    db.execute(
        "INSERT INTO reports (name, number, body) VALUES (?, ?, ?)", [version.name, version.number, body]
    )


def reports(db: sqlite3.Connection, version: Version) -> list[Report]:
    """The reports on a version, in the order in which they were added."""
    rows = db.execute(
        "SELECT body FROM reports WHERE name = ? AND number = ? ORDER BY id", [version.name, version.number]
    )
    return [records.report_of(records.loads(body, f"A report on {version}")) for (body,) in rows]
