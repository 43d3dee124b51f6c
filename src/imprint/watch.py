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


class OfOne:
    """Tells whose work it is, where others' is told beside it."""

    def __init__(self, name: str, watch: Watch) -> None:
        self._name, self._watch = name, watch

    def stage(self, text: str) -> None:
        self._watch.stage(self._named(text))

    def progress(self, unit: str, done: int, total: int, detail: str) -> None:
        self._watch.progress(unit, done, total, detail)

    def say(self, text: str) -> None:
        self._watch.say(self._named(text))

    def _named(self, text: str) -> str:
        # A version tells its name itself: "Published anna@2."
        return text if f"{self._name}@" in text else f"{self._name}: {text}"


SILENT: Watch = _Silent()
