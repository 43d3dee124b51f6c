"""Locks between processes. The system lets go of them when a process ends, however it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

from imprint.errors import BadInput

try:
    import fcntl
except ImportError:  # Windows: that two processes change the same file in the same moment is left to chance
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """One process at a time is inside; the others wait."""
    with _opened(file) as handle:
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def held(file: Path) -> IO[str] | None:
    """The lock, held until it is closed; None where another process holds it."""
    handle = _opened(file)
    try:
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


class Hold:
    """A lock that lasts as long as this is there."""

    def __init__(self, handle: IO[str]) -> None:
        self._handle = handle

    def __del__(self) -> None:
        self._handle.close()


_mine: WeakValueDictionary[Path, Hold] = WeakValueDictionary()


def hold(file: Path) -> Hold | None:
    """A hold on the lock, the same one where this process has one; None where another process holds it."""
    mine = _mine.get(file.absolute())
    if mine is not None:
        return mine
    handle = held(file)
    if handle is None:
        return None
    _mine[file.absolute()] = taken = Hold(handle)
    return taken


def _opened(file: Path) -> IO[str]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return open(file, "w")
    except OSError as error:
        raise BadInput(f"{file.parent} cannot be written: {error.strerror}. Set IMPRINT_HOME elsewhere.") from None
