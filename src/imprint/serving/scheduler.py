"""Whose tokens go next. No tensors here: only who waits, who is being written, and how far."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from imprint.errors import Overloaded
from imprint.serving.requests import Listener, Piece, Request


@dataclass(eq=False)
class Live:
    """A request on its way."""

    request: Request
    listener: Listener
    ids: list[int]
    """The prompt, and what was written."""
    done: int = 0
    """How many of `ids` have their keys and values in the cache."""
    row: int = -1
    """Its place in the cache, while it is running."""
    seats: tuple[Any, ...] = ()
    """Where its adapters are in memory."""
    worn: tuple[Hashable, ...] = ()
    """The keys of those, in the same order."""
    ready: bool = False
    """Whether its adapter is in memory."""
    problem: BaseException | None = None
    """Why its adapter cannot be."""
    cancelled: bool = False
    ended: bool = False
    began: float = field(default_factory=time.monotonic)
    state: Any = None
    """What the writer keeps with it: its text so far, its random numbers."""

    @property
    def written(self) -> int:
        return len(self.ids) - len(self.request.ids)

    @property
    def decoding(self) -> bool:
        """Whether only its newest token is not in the cache yet."""
        return self.written > 0 and self.done == len(self.ids) - 1

    def tell(self, piece: Piece) -> None:
        if not self.ended:
            self.ended = piece.finish is not None
            self.listener(piece)


class Ticket:
    """A request that was handed in."""

    def __init__(self, live: Live, wake: Callable[[], None]) -> None:
        self._live, self._wake = live, wake

    def cancel(self) -> None:
        """Takes the request out before its next step; its listener is told 'cancelled'."""
        self._live.cancelled = True
        self._wake()

    @property
    def ended(self) -> bool:
        return self._live.ended


@dataclass(frozen=True, slots=True)
class Share:
    """Part of a step: so many of a request's tokens from there on."""

    live: Live
    start: int
    count: int


class Scheduler:
    """Keeps the queue, and says what the next step computes.

    Rows that are being written come first, so that prompts never hold them up for more than one step; prompts
    are read in parts of what room is left. Among tenants, the one with the fewest rows comes next."""

    def __init__(self, *, max_rows: int, max_waiting: int, step_tokens: int, cache_tokens: int) -> None:
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self.step_tokens, self.cache_tokens = step_tokens, cache_tokens
        self.waiting: deque[Live] = deque()
        self.running: list[Live] = []
        """By row: those that are being written first, then those whose prompt is being read."""
        self._changed = threading.Condition()
        self._woken = False

    def add(self, live: Live) -> Ticket:
        """Takes a request in. Raises Overloaded where too many wait."""
        with self._changed:
            if len(self.waiting) >= self.max_waiting:
                raise Overloaded(
                    f"{len(self.waiting)} requests wait already, as many as may. Send this one again in a moment."
                )
            # One tenant may fill half of the queue, so that the others find room.
            tenant = live.request.tenant
            if tenant and 2 * sum(other.request.tenant == tenant for other in self.waiting) >= self.max_waiting:
                raise Overloaded("Too many of your requests wait already. Send this one again in a moment.")
            self.waiting.append(live)
        return Ticket(live, self.wake)

    def wake(self) -> None:
        """To be called when something has changed that the next step should see."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def wait(self, closing: Callable[[], bool]) -> None:
        """Sleeps until there is something to do."""
        with self._changed:
            self._changed.wait_for(lambda: closing() or self._woken, timeout=1.0)
            self._woken = False

    def gone(self) -> list[Live]:
        """Takes out and returns the waiting requests that were cancelled or cannot be served."""
        with self._changed:
            out = [live for live in self.waiting if live.cancelled or live.problem is not None]
            for live in out:
                self.waiting.remove(live)
        return out

    def unready(self) -> list[Live]:
        """The waiting requests whose adapter is not known to be in memory; more may come meanwhile."""
        with self._changed:
            return [live for live in self.waiting if not live.ready]

    def admit(self) -> list[Live]:
        """Moves requests whose adapter is in memory from the queue to free rows; returns those moved."""
        moved: list[Live] = []
        with self._changed:
            while len(self.running) < self.max_rows and (live := self._next()) is not None:
                self.waiting.remove(live)
                live.row = len(self.running)
                self.running.append(live)
                moved.append(live)
        return moved

    def plan(self) -> list[Share]:
        """What the next step computes: one token of every row being written, then parts of prompts."""
        shares = [Share(live, live.done, 1) for live in self.running if live.decoding]
        room = max(self.step_tokens - len(shares), 1)
        for live in self.running[len(shares) :]:
            count = min(room, len(live.ids) - live.done)
            if count > 0:
                shares.append(Share(live, live.done, count))
                room -= count
        return shares

    def leave(self, live: Live) -> list[tuple[int, int]]:
        """Frees a row. Returns the moves (from, to) that keep the rows together, to be made in that order."""
        moves: list[tuple[int, int]] = []
        hole, last = live.row, len(self.running) - 1
        last_writing = sum(other.decoding for other in self.running if other is not live)
        if hole < last_writing:
            hole = self._move(last_writing, hole, moves)
        if hole != last:
            self._move(last, hole, moves)
        self.running.pop()
        live.row = -1
        return moves

    def _move(self, source: int, target: int, moves: list[tuple[int, int]]) -> int:
        self.running[target] = self.running[source]
        self.running[target].row = target
        moves.append((source, target))
        return source

    def _next(self) -> Live | None:
        """The next request to be admitted: of the tenant with the fewest rows, the one that waits longest."""
        spent = sum(self._need(live) for live in self.running)
        rows: dict[str, int] = {}
        for live in self.running:
            rows[live.request.tenant] = rows.get(live.request.tenant, 0) + 1
        fit = [
            live
            for live in self.waiting
            if live.ready and (spent + self._need(live) <= self.cache_tokens or not self.running)
        ]
        return min(fit, key=lambda live: rows.get(live.request.tenant, 0), default=None)

    @staticmethod
    def _need(live: Live) -> int:
        return len(live.request.ids) + live.request.max_tokens
