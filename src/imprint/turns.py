"""Whose turn it is to compute: two busy threads slow each other far more than twofold."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator


class Turns:
    """One computes at a time. Who answers a person goes first, but nobody waits for ever."""

    def __init__(self, patience_s: float = 0.2, linger_s: float = 0.05) -> None:
        """`patience_s`: how long others may compute urgently after each patient turn, or as long as that turn took
        where it took longer. `linger_s`: how long after an urgent turn the next one of that work is waited for."""
        self.patience_s, self.linger_s = patience_s, linger_s
        self._changed = threading.Condition()
        self._busy = False
        self._urgent = self._patient = 0
        # Time computed since the last patient turn, and not time waited: where patient turns are long, all who wait
        # for them would have lost their patience at once.
        self._urgent_s, self._allowed_s = 0.0, patience_s
        self._urgent_at = -math.inf

    @contextlib.contextmanager
    def take(self, *, urgent: bool = False) -> Iterator[None]:
        """Waits for its turn, holds it, hands it on. Not to be taken twice by one thread."""
        with self._changed:
            self._wait(urgent)
            self._busy = True
        began = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._busy, now = False, time.monotonic()
                if urgent:
                    self._urgent_at, self._urgent_s = now, self._urgent_s + now - began
                else:
                    self._urgent_s, self._allowed_s = 0.0, max(self.patience_s, now - began)
                self._changed.notify_all()

    def _wait(self, urgent: bool) -> None:
        if urgent:
            self._urgent += 1
            try:
                self._changed.wait_for(lambda: not self._busy and not (self._patient and self._out_of_patience))
            finally:
                self._urgent -= 1
            return
        self._patient += 1
        try:
            while self._busy or (self._is_urgent and not self._out_of_patience):
                self._changed.wait(timeout=self.linger_s)
        finally:
            self._patient -= 1

    def hurried(self, within_s: float = 5.0) -> bool:
        """Whether somebody computes urgently these seconds: then patient work does well to take short turns."""
        return self._urgent > 0 or time.monotonic() - self._urgent_at < within_s

    @property
    def _out_of_patience(self) -> bool:
        return self._urgent_s >= self._allowed_s

    @property
    def _is_urgent(self) -> bool:
        """Whether urgent work waits, or has just had a turn and is likely to want the next."""
        return self._urgent > 0 or time.monotonic() - self._urgent_at < self.linger_s
