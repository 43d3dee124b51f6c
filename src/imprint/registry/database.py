"""The registry's database: opened, brought to the newest migration, read and written in transactions."""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from imprint.errors import BrokenStore, ImprintError

LOCK_TIMEOUT_S = 30.0
"""How long one process waits for another that is writing."""
_RETRY_S = 0.02


@contextmanager
def opened(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection, closed at the end. What SQLite complains of becomes ours."""
    try:
        db = sqlite3.connect(database, timeout=LOCK_TIMEOUT_S, isolation_level=None)
        try:
            db.execute("PRAGMA foreign_keys = ON")
            # What is removed is overwritten: forgetting reaches the bytes.
            db.execute("PRAGMA secure_delete = ON")
            # Each commit reaches the disk before the call returns.
            db.execute("PRAGMA synchronous = FULL")
            yield db
        finally:
            db.close()
    except sqlite3.OperationalError as error:
        raise ImprintError(
            f"The registry {database} cannot be used now: {error}. Check that no other process holds it, "
            f"that the disk has room, and that you may write there."
        ) from error
    except sqlite3.DatabaseError as error:
        raise BrokenStore(
            f"The registry {database} does not read as one: {error}. Restore it from a copy; the adapters' "
            f"files beside it are not touched."
        ) from error


@contextmanager
def transaction(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    """All that is written until the block ends is kept, or none of it. `begin`: the statement it begins with."""
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def prepare(db: sqlite3.Connection, database: Path) -> None:
    """Brings the database to the newest migration."""
    known = migrations()
    if _step(db) < len(known):
        use_wal(db)
        # The step is looked at again under the lock: another process may be doing the same.
        with transaction(db, "BEGIN IMMEDIATE"):
            for number in range(_step(db) + 1, len(known) + 1):
                for statement in _statements(known[number - 1]):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {number}")
    if _step(db) > len(known):
        raise BrokenStore(
            f"{database} is at migration {_step(db)}, and this imprint knows {len(known)}: a newer "
            f"imprint wrote it. Upgrade imprint, or choose another home."
        )


def _step(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def use_wal(db: sqlite3.Connection) -> None:
    """Lets readers read while one writes; the database file remembers it."""
    # SQLite does not wait for other connections here, as it does elsewhere: it fails at once.
    for tries_left in reversed(range(int(LOCK_TIMEOUT_S / _RETRY_S))):
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or not tries_left:
                raise
        time.sleep(_RETRY_S)


@functools.cache
def migrations() -> tuple[str, ...]:
    """The SQL of each migration, the first first."""
    folder = resources.files("imprint.registry") / "migrations"
    found = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    assert [int(name[:4]) for name in found] == list(range(1, len(found) + 1)), found
    return tuple((folder / name).read_text(encoding="utf-8") for name in found)


def _statements(sql: str) -> Iterator[str]:
    """The statements one by one: sqlite3's own executescript would end the transaction first."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
