"""Examples as token rows, and the rows of each step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from imprint.base import Base
from imprint.types import Example


@dataclass(frozen=True, slots=True)
class Row:
    """One example in tokens."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]


def rows(examples: Sequence[Example], base: Base, *, max_tokens: int) -> list[Row]:
    """The examples in tokens; one longer than max_tokens is cut at its end."""
    made = []
    for example in examples:
        ids, learn = base.training_ids(example.turns)
        row = Row(tuple(ids[:max_tokens]), tuple(learn[:max_tokens]))
        if any(row.learn[1:]):
            made.append(row)
    return made


def batches(rows: Sequence[Row], *, tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of the rows of each batch of one epoch; the same for the same seed and epoch.

    Rows are shuffled and cut into batches of at most `tokens` tokens (a longer row makes a batch alone)."""
    order = list(range(len(rows)))
    random.Random(f"{seed}:{epoch}").shuffle(order)
    made: list[list[int]] = []
    room = 0
    for i in order:
        length = len(rows[i].ids)
        if not made or length > room:
            made.append([])
            room = tokens
        made[-1].append(i)
        room -= length
    return made
