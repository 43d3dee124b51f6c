"""Whose turn it is to compute: two busy threads slow each other far more than twofold."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator


class Turns:
    """One computes at a time. Who answers a person goes first, but nobody waits for ever."""

    def __init__(self, patience_s: float = 1.0) -> None:
        """`patience_s`: how long patient work lets others go first."""
        self.patience_s = patience_s
        self._changed = threading.Condition()
        self._busy = False
        self._urgent = 0

    @contextlib.contextmanager
    def take(self, *, urgent: bool = False) -> Iterator[None]:
        """Waits for its turn, holds it, hands it on. Not to be taken twice by one thread."""
        with self._changed:
            self._wait(urgent)
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _wait(self, urgent: bool) -> None:
        if urgent:
            self._urgent += 1
            self._changed.wait_for(lambda: not self._busy)
            self._urgent -= 1
            return
        until = time.monotonic() + self.patience_s
        while self._busy or (self._urgent and time.monotonic() < until):
            self._changed.wait(timeout=0.05)
