"""Learn the text: supervised training of one adapter on examples. Many at once: see service.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from imprint.engine import Engine
from imprint.errors import BadSetting
from imprint.training.batches import Row, batches
from imprint.training.row_file import RowFile
from imprint.types import NO_MATERIAL, Adapter, AdapterSpec, Material


class _Ids(Sequence[tuple[int, ...]]):
    """The tokens of rows, read when they are asked for."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, i: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[tuple[int, ...]]: ...
    def __getitem__(self, i: int | slice) -> tuple[int, ...] | Sequence[tuple[int, ...]]:
        return [row.ids for row in self._rows[i]] if isinstance(i, slice) else self._rows[i].ids


@dataclass(frozen=True, slots=True)
class Begun:
    """Settings that begin with an adapter as it was left: to teach it more."""

    adapter: Adapter

    def fresh(self, base: Any, *, seed: int, material: Material = NO_MATERIAL) -> Adapter:
        return self.adapter


Progress = Callable[[int, int, float, float], None]
"""Told after each step: steps done, steps in all, loss in nats per learnt token, tokens a second."""


@dataclass(frozen=True, slots=True)
class Job:
    """One adapter to train."""

    spec: AdapterSpec
    rows: Sequence[Row]
    tokens: int
    """Training tokens in all, counting every visit."""
    lr: float
    batch_tokens: int
    seed: int
    documents: Sequence[Sequence[int]] = ()
    """The documents' own text in tokens, for kinds that begin from it."""
    beneath: Sequence[Adapter] = ()
    """Adapters that are worn with it and stay as they are: what it learns, it learns on top of them."""
    frozen: tuple[str, ...] = ()
    """How the names of tensors end that are not trained: low_rank.DOWN leaves every A of a LoRA as it was drawn."""

    @property
    def material(self) -> Material:
        """What the adapter is to be taught."""
        return Material(self.documents, _Ids(self.rows))


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
    engine: Engine, job: Job, *, checkpoint: Path, every_s: float = 30.0, progress: Progress | None = None
) -> Trained:
    """Trains from the checkpoint, if there is one, to the end; saves a checkpoint every so many seconds.

    The order of the batches follows from the seed, so that a resumed run meets the same batches and ends
    with the same adapter as one that was never stopped."""
    from imprint.training.service import Service

    service = Service(engine, every_s=every_s)
    ticket = service.submit(job, checkpoint=checkpoint, progress=progress)
    service.run_all()
    return ticket.result()


def schedule_of(job: Job) -> list[list[int]]:
    """The rows of every step, epoch after epoch, until the tokens are spent."""
    if not len(job.rows):
        raise BadSetting("There is no training text: no example has a turn to learn.")
    schedule: list[list[int]] = []
    spent, epoch = 0, 0
    lengths = lengths_of(job.rows)
    while spent < job.tokens:
        for batch in batches(lengths, tokens=job.batch_tokens, seed=job.seed, epoch=epoch):
            if spent >= job.tokens:
                break
            schedule.append(batch)
            spent += sum(lengths[i] for i in batch)
        epoch += 1
    return schedule


def size(job: Job, schedule: Sequence[Sequence[int]]) -> int:
    """Training tokens of a schedule."""
    lengths = lengths_of(job.rows)
    return sum(lengths[i] for batch in schedule for i in batch)


def lengths_of(rows: Sequence[Row]) -> list[int]:
    """Tokens of each row, without reading those on disk."""
    return rows.lengths.tolist() if isinstance(rows, RowFile) else [len(row.ids) for row in rows]
