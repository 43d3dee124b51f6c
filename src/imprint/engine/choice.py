"""What a text is about, by likelihood: which of several adapters, or whether one of them at all.

Adapters learn the questions of their documents beside the answers, so that a question about them surprises the
right adapter less than the bare base, and other text hardly less or more. Nothing is embedded, stored or searched.

Shape key: Q questions, R rows, A adapters."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from imprint.adapters.feed_forward import general_rows
from imprint.engine.multi_adapter import Engine, Seat
from imprint.engine.passes import PassRow, logprobs
from imprint.types import Turn

Opened = tuple[tuple[int, ...], int]
"""Tokens, and the first of them that counts."""

READ_TOKENS = 64
"""So much of a text says what it is about."""
_PASS_TOKENS = 2048
_GENERAL = 0.98
"""Share of general texts that the bare base keeps."""


def gains(engine: Engine, seats: Sequence[Seat], questions: Sequence[str]) -> torch.Tensor:
    """Nats a token by which each adapter finds each question likelier than the bare base does: Q A."""
    return row_gains(engine, seats, [asked(engine, question) for question in questions])


def choose(engine: Engine, seats: Sequence[Seat], questions: Sequence[str]) -> list[int]:
    """For each question the place of the adapter that it is about."""
    return [int(i) for i in gains(engine, seats, questions).argmax(1)]


def row_gains(engine: Engine, seats: Sequence[Seat], rows: Sequence[Opened]) -> torch.Tensor:
    """The same for rows of tokens: R A. A row of which nothing can be predicted gains nothing."""
    worn = (None, *seats)
    found = torch.zeros(len(rows), len(worn))
    batch: list[tuple[int, int, PassRow]] = []
    held = 0
    for r, (ids, start) in enumerate(rows):
        learn = tuple(i >= max(1, start) for i in range(len(ids)))
        if any(learn):
            batch += [(r, a, PassRow(seat, ids, learn)) for a, seat in enumerate(worn)]
            held += len(worn) * len(ids)
        if held >= _PASS_TOKENS:
            _read(engine, batch, found)
            batch, held = [], 0
    _read(engine, batch, found)
    return found[:, 1:] - found[:, :1]


def threshold(engine: Engine, seat: Seat) -> float:
    """The gain above which a text is about the adapter's documents: more than nearly all general prose and general
    questions gain, and more than nothing."""
    prose, talk = general_rows(engine.base)
    rows = [(tuple(ids[:READ_TOKENS]), 1) for ids in (*prose, *talk)]
    quantile = float(row_gains(engine, [seat], rows)[:, 0].quantile(_GENERAL))
    return max(0.0, quantile)


def best_above(gains_A: torch.Tensor, limits: Sequence[float]) -> int | None:
    """The adapter that gained most above its limit; None where none did, and the bare base is to answer."""
    beyond_A = gains_A.cpu() - torch.tensor(limits)
    best = int(beyond_A.argmax())
    return best if beyond_A[best] > 0 else None


def asked(engine: Engine, question: str) -> Opened:
    """A question as a user's turn in tokens, and where its own words begin."""
    ids, learn = engine.base.training_ids((Turn("user", question, learn=True), Turn("assistant", "")))
    start = learn.index(True)
    end = len(learn) - learn[::-1].index(True)
    return tuple(ids[:end]), max(1, start)


def _read(engine: Engine, batch: Sequence[tuple[int, int, PassRow]], found: torch.Tensor) -> None:
    """Mean log-probabilities of a pass, each into its place."""
    if batch:
        ordered = sorted(batch, key=lambda item: item[1])  # rows of one adapter stand together
        with engine.base.turns.take():
            read = logprobs(engine, [row for *_, row in ordered])
        for (r, a, _), logprobs_L in zip(ordered, read, strict=True):
            found[r, a] = logprobs_L.mean().cpu()
