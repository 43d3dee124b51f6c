"""Which of several adapters a question is about: the one to which the question itself has become likelier.

Adapters learn the questions of their documents beside the answers, so that a question about them surprises the
right adapter less than the bare base, and the wrong ones hardly less. Nothing is embedded, stored or searched.

Shape key: Q questions, A adapters."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from imprint.engine.multi_adapter import Engine, Seat
from imprint.engine.passes import PassRow, logprobs
from imprint.types import Turn

_PASS_TOKENS = 2048


def gains(engine: Engine, seats: Sequence[Seat], questions: Sequence[str]) -> torch.Tensor:
    """Nats a token by which each adapter finds each question likelier than the bare base does: Q A."""
    ids = [_opened(engine, question) for question in questions]
    jobs = [(q, seat) for q in range(len(questions)) for seat in (None, *seats)]
    means: list[float] = []
    batch: list[PassRow] = []
    for q, seat in jobs:
        row, start = ids[q]
        batch.append(PassRow(seat, row, tuple(i >= start for i in range(len(row)))))
        if sum(len(r.ids) for r in batch) >= _PASS_TOKENS:
            means += _means(engine, batch)
            batch = []
    means += _means(engine, batch)
    nats_QB = torch.tensor(means).view(len(questions), 1 + len(seats))
    return nats_QB[:, 1:] - nats_QB[:, :1]


def choose(engine: Engine, seats: Sequence[Seat], questions: Sequence[str]) -> list[int]:
    """For each question the place of the adapter that it is about."""
    return [int(i) for i in gains(engine, seats, questions).argmax(1)]


def _means(engine: Engine, batch: Sequence[PassRow]) -> list[float]:
    return [float(found.mean()) for found in logprobs(engine, batch)] if batch else []


def _opened(engine: Engine, question: str) -> tuple[tuple[int, ...], int]:
    """A question as a user's turn in tokens, and where its own words begin."""
    ids, learn = engine.base.training_ids((Turn("user", question, learn=True), Turn("assistant", "")))
    start = learn.index(True)
    end = len(learn) - learn[::-1].index(True)
    return tuple(ids[:end]), max(1, start)
