"""How long work tells what it is doing. Only interfaces print; everything else calls these three."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    """Somebody who is told."""

    def stage(self, text: str) -> None:
        """A new piece of work begins."""

    def progress(self, unit: str, done: int, total: int, detail: str) -> None:
        """So much of the present piece is done."""

    def say(self, text: str) -> None:
        """Something that a person should read."""


class _Silent:
    def stage(self, text: str) -> None: ...

    def progress(self, unit: str, done: int, total: int, detail: str) -> None: ...

    def say(self, text: str) -> None: ...


SILENT: Watch = _Silent()
