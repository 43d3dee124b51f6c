"""A kill at any moment leaves a whole store, and the same command ends as it would have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import crash_kit
from imprint.base import Base

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

POINTS = {"publish": 12, "teach": 6, "update": 6, "forget": 6}


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads do not survive a fork
    yield crash_kit.roomy_base()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("command", POINTS)
def test_a_kill_at_any_moment_loses_nothing_and_the_same_command_completes(
    command: str, base: Base, home: Path, tmp_path: Path
) -> None:
    outcome = crash_kit.crash(crash_kit.trials(base, tmp_path)[command], tmp_path, POINTS[command], seed=0)
    assert outcome.clean, outcome
    assert outcome.killed > outcome.points / 2, outcome
