"""What a text is about, by likelihood: which of several adapters, or whether one of them at all.

Adapters learn the questions of their documents beside the answers, so that a question about them surprises the
right adapter less than the bare base, its names above all, and other text hardly less or more. A text's gain is the
mean over its tokens of how much likelier each became, and the mean over the few that gained most (docs/log.md has
what else was tried). Nothing is embedded, stored or searched.

Shape key: Q questions, R rows, A adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from imprint.adapters.feed_forward import general_questions, general_rows
from imprint.engine.multi_adapter import Engine, Seat
from imprint.engine.passes import PassRow, logprobs
from imprint.types import Turn

Opened = tuple[tuple[int, ...], int]
"""Tokens, and the first of them that counts."""

READ_TOKENS = 64
"""So much of a text says what it is about."""
END_TOKENS = 256
"""So much of a prompt's end says what it is about."""
_PASS_TOKENS = 2048
_NO_LIMIT = -1e6
_GENERAL = 0.85
"""Share of general questions, and of general prose, that the bare base keeps: the others are those that look most
like the documents' questions, and few (docs/log.md)."""
_MOST = 3
"""Tokens of a text that are looked at besides, those that gained most."""


def gains(engine: Engine, seats: Sequence[Seat], questions: Sequence[str]) -> torch.Tensor:
    """How much likelier each adapter finds each question than the bare base does, in nats: Q A."""
    return row_gains(engine, seats, [asked(engine, question) for question in questions])


def choose(engine: Engine, seats: Sequence[Seat], questions: Sequence[str]) -> list[int]:
    """For each question the place of the adapter that it is about."""
    return [int(i) for i in gains(engine, seats, questions).argmax(1)]


def row_gains(engine: Engine, seats: Sequence[Seat], rows: Sequence[Opened]) -> torch.Tensor:
    """The same for rows of tokens: R A. A row of which nothing can be predicted gains nothing."""
    found = torch.zeros(len(rows), len(seats))
    batch: list[tuple[int, PassRow]] = []
    held = 0
    for r, (ids, start) in enumerate(rows):
        learn = tuple(i >= max(1, start) for i in range(len(ids)))
        if any(learn):
            batch.append((r, PassRow(None, ids, learn)))
            held += (1 + len(seats)) * len(ids)
        if held >= _PASS_TOKENS:
            _read(engine, seats, batch, found)
            batch, held = [], 0
    _read(engine, seats, batch, found)
    return found


def threshold(engine: Engine, seat: Seat) -> float:
    """The gain above which a text is about the adapter's documents: more than most general prose and most general
    questions gain."""
    prose = [(tuple(ids[:READ_TOKENS]), 1) for ids in general_rows(engine.base)[0]]
    questions = [asked(engine, question) for question in general_questions()]
    return max(float(row_gains(engine, [seat], rows)[:, 0].quantile(_GENERAL)) for rows in (prose, questions))


def best_above(gains_A: torch.Tensor, limits: Sequence[float]) -> int | None:
    """The adapter that gained most above its limit; None where none did, and the bare base is to answer."""
    # Below any limit that is infinite the gains must still tell one from the other.
    beyond_A = gains_A.cpu().double() - torch.tensor(limits, dtype=torch.double).clamp(min=_NO_LIMIT)
    best = int(beyond_A.argmax())
    return best if beyond_A[best] > 0 else None


def asked(engine: Engine, question: str) -> Opened:
    """A question as a user's turn in tokens, and where its own words begin."""
    ids, learn = engine.base.training_ids((Turn("user", question, learn=True), Turn("assistant", "")))
    start = learn.index(True)
    end = len(learn) - learn[::-1].index(True)
    return tuple(ids[:end]), max(1, start)


def opened(engine: Engine, turns: Sequence[Turn]) -> Opened:
    """What of a prompt says what it is about: a single question's own words, else the end of all."""
    if len(turns) == 1 and turns[0].role == "user":
        return asked(engine, turns[0].text)
    return tuple(engine.base.prompt_ids(turns)[-END_TOKENS:]), 1


def _read(
    engine: Engine, seats: Sequence[Seat], batch: Sequence[tuple[int, PassRow]], found: torch.Tensor
) -> None:
    """The gains of these rows, each into its place."""
    if not batch:
        return
    rows = [replace(row, seat=seat) for seat in (None, *seats) for _, row in batch]
    with engine.base.turns.take():
        read = logprobs(engine, rows)
    for i, (r, _) in enumerate(batch):
        for a in range(len(seats)):
            gained_L = read[(a + 1) * len(batch) + i] - read[i]
            found[r, a] = (gained_L.mean() + gained_L.topk(min(_MOST, len(gained_L))).values.mean()).cpu()
