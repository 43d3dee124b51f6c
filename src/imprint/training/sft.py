"""Learn the text: supervised training of one adapter on examples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.errors import BadSetting
from imprint.training.batches import Row, batches, collate
from imprint.training.loop import Loop, Settings
from imprint.types import Adapter, content_hash

Progress = Callable[[int, int, float, float], None]
"""Told after each step: steps done, steps in all, loss in nats per learnt token, tokens a second."""


@dataclass(frozen=True, slots=True)
class Job:
    """One adapter to train."""

    spec: LoRA
    rows: Sequence[Row]
    tokens: int
    """Training tokens in all, counting every visit."""
    lr: float
    batch_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained adapter, and what its training took."""

    adapter: Adapter
    steps: int
    tokens: int
    seconds: float
    """Of this process: a resumed run counts only what it did itself."""
    last_loss: float


def train(
    base: Base, job: Job, *, checkpoint: Path, every_s: float = 30.0, progress: Progress | None = None
) -> Trained:
    """Trains from the checkpoint, if there is one, to the end; saves a checkpoint every so many seconds.

    The order of the batches follows from the seed, so that a resumed run meets the same batches and ends
    with the same adapter as one that was never stopped."""
    schedule = schedule_of(job)
    attached = job.spec.attach(base, job.spec.fresh(base, seed=job.seed))
    with attached:
        data = content_hash(repr(job.rows), repr(schedule))
        loop = Loop(base, attached.parameters(), Settings(lr=job.lr, steps=len(schedule)), data=data)
        loop.resume(checkpoint)
        began = saved = time.monotonic()
        done = 0
        while loop.step_number < len(schedule):
            rows = [job.rows[i] for i in schedule[loop.step_number]]
            batch = collate(rows, pad_id=base.tokenizer.pad_token_id)
            loop.forward_backward(batch)
            loop.step()
            done += sum(len(row.ids) for row in rows)
            if time.monotonic() - saved > every_s:
                loop.save(checkpoint)
                saved = time.monotonic()
            if progress:
                progress(loop.step_number, len(schedule), loop.last_loss, done / (time.monotonic() - began))
        loop.save(checkpoint)
        seconds = time.monotonic() - began
        return Trained(attached.snapshot(), len(schedule), _size(job, schedule), seconds, loop.last_loss)


def schedule_of(job: Job) -> list[list[int]]:
    """The rows of every step, epoch after epoch, until the tokens are spent."""
    if not job.rows:
        raise BadSetting("There is no training text: no example has a turn to learn.")
    schedule: list[list[int]] = []
    spent, epoch = 0, 0
    while spent < job.tokens:
        for batch in batches(job.rows, tokens=job.batch_tokens, seed=job.seed, epoch=epoch):
            if spent >= job.tokens:
                break
            schedule.append(batch)
            spent += sum(len(job.rows[i].ids) for i in batch)
        epoch += 1
    return schedule


def _size(job: Job, schedule: Sequence[Sequence[int]]) -> int:
    return sum(len(job.rows[i].ids) for batch in schedule for i in batch)
