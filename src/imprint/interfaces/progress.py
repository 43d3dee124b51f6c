"""A Watch for the terminal: headings, a bar and lines, all on stderr, so that stdout carries results only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from imprint.watch import Watch

LINE_EVERY_S = 10.0
"""Where there is no terminal, a stage tells of itself at most this often."""
_SPEED_OVER_S = 120.0


@contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """A watch that suits the console: a bar on a terminal, plain lines elsewhere. Ended with the block."""
    watch = RichWatch(console) if console.is_interactive else LineWatch(console)
    try:
        yield watch
    finally:
        watch.end()


class RichWatch:
    """Stages as headings, and under each a bar for each unit: done, total, detail, time passed and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}

    def stage(self, text: str) -> None:
        self.end()
        self._console.print(Text(text, style="bold"))

    def progress(self, unit: str, done: int, total: int, detail: str) -> None:
        if self._bars is None:
            self._bars = self._begun()
        if unit not in self._tasks:
            self._tasks[unit] = self._bars.add_task(unit, total=total, detail="")
        elif done < self._done[unit]:  # another round of the same stage: its speed and time are its own
            self._bars.reset(self._tasks[unit])
        self._done[unit] = done
        self._bars.update(self._tasks[unit], completed=done, total=total, detail=detail)

    def say(self, text: str) -> None:
        self._console.print(Text(text))

    def end(self) -> None:
        """Leaves the bars as they stand; the next progress begins others."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._tasks, self._done = {}, {}

    def _begun(self) -> Progress:
        bars = Progress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=2,
            speed_estimate_period=_SPEED_OVER_S,
        )
        bars.start()
        return bars


class LineWatch:
    """The same in plain lines, for logs: one now and then, and one where a stage ends."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._began = self._told = clock()
        self._pending: dict[str, tuple[int, int, str]] = {}

    def stage(self, text: str) -> None:
        self.end()
        self._began = self._told = self._clock()
        self._line(text)

    def progress(self, unit: str, done: int, total: int, detail: str) -> None:
        self._pending[unit] = (done, total, detail)
        if self._clock() - self._told >= LINE_EVERY_S:
            self.end()

    def say(self, text: str) -> None:
        self.end()
        self._line(text)

    def end(self) -> None:
        """Tells what was last heard, unless it was told already."""
        if not self._pending:
            return
        self._told = self._clock()
        passed = self._told - self._began
        for unit, (done, total, detail) in self._pending.items():
            parts = [f"{done:,}/{total:,} {unit}", detail, f"{duration(passed)} passed"]
            if 0 < done < total:
                parts.append(f"about {duration(passed * (total - done) / done)} left")
            self._line("  " + " · ".join(part for part in parts if part))
        self._pending = {}

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def duration(seconds: float) -> str:
    """'8 s', '3 min 20 s' or '2 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
