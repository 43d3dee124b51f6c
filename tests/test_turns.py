"""The laws of taking turns: answers go first, and teaching goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from imprint.turns import Turns


@pytest.fixture
def beside() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Does something again and again in a thread of its own, until the test ends."""
    ending, threads = threading.Event(), list[threading.Thread]()

    def begin(work: Callable[[], None]) -> None:
        def again() -> None:
            while not ending.is_set():
                work()

        threads.append(threading.Thread(target=again, daemon=True))
        threads[-1].start()

    yield begin
    ending.set()
    for thread in threads:
        thread.join(10)


def a_turn(turns: Turns, seconds: float, *, urgent: bool = False, then_s: float = 0.002) -> None:
    with turns.take(urgent=urgent):
        time.sleep(seconds)
    time.sleep(then_s)


def test_answers_have_half_of_the_time_beside_long_turns_of_others(beside: Callable[..., None]) -> None:
    turns, taken = Turns(patience_s=0.01), []

    def patient() -> None:
        a_turn(turns, 0.2)
        taken.append("patient")

    for _ in range(3):
        beside(patient)
    time.sleep(0.1)
    for _ in range(60):
        a_turn(turns, 0.01, urgent=True)
        taken.append("urgent")
    # As long as a patient turn took, others may compute after it: 20 turns, fewer where the machine is slow.
    assert taken.count("patient") < 20


def test_urgent_turns_without_a_pause_leave_turns_for_patient_work(beside: Callable[..., None]) -> None:
    turns = Turns(patience_s=0.1)
    beside(lambda: a_turn(turns, 0.01, urgent=True, then_s=0.0))
    began = time.monotonic()
    for _ in range(5):
        a_turn(turns, 0.001)
    assert time.monotonic() - began < 5


def test_patient_work_alone_waits_for_nobody() -> None:
    turns = Turns(patience_s=60.0, linger_s=0.01)
    a_turn(turns, 0.001, urgent=True, then_s=0.02)
    began = time.monotonic()
    for _ in range(20):
        a_turn(turns, 0.001)
    assert time.monotonic() - began < 2


def test_a_turn_that_fails_is_handed_on() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.take():
        raise ZeroDivisionError
    with turns.take(urgent=True):
        pass
