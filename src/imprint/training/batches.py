"""Examples as token rows, gathered so that little is padding.

Shape key: B rows, T tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from imprint.base import Base
from imprint.types import Example


@dataclass(frozen=True, slots=True)
class Row:
    """One example in tokens."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right, so that causal attention needs no mask."""

    tokens_BT: torch.Tensor
    learn_BT: torch.Tensor
    """Whether each token is to be predicted; False on padding and on each row's first token."""

    @property
    def n_tokens(self) -> int:
        return int(self.tokens_BT.numel())


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

    Rows are shuffled, sorted by length within windows of a few batches, cut into batches of about `tokens`
    tokens, and the batches shuffled: rows of like length meet, in another company each epoch."""
    draw = random.Random(f"{seed}:{epoch}")
    order = list(range(len(rows)))
    draw.shuffle(order)
    window = max(1, 8 * tokens // max(1, _mean_length(rows)))
    made: list[list[int]] = []
    for start in range(0, len(order), window):
        chunk = sorted(order[start : start + window], key=lambda i: len(rows[i].ids))
        made += _cut(chunk, rows, tokens)
    draw.shuffle(made)
    return made


def collate(rows: Sequence[Row], *, pad_id: int) -> Batch:
    """Token rows as tensors."""
    width = max(len(row.ids) for row in rows)
    tokens_BT = torch.full((len(rows), width), pad_id, dtype=torch.long)
    learn_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    for b, row in enumerate(rows):
        tokens_BT[b, : len(row.ids)] = torch.tensor(row.ids)
        learn_BT[b, 1 : len(row.ids)] = torch.tensor(row.learn[1:], dtype=torch.bool)
    return Batch(tokens_BT, learn_BT)


def _cut(order: list[int], rows: Sequence[Row], tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(rows[i].ids) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _mean_length(rows: Sequence[Row]) -> int:
    return sum(len(row.ids) for row in rows) // max(1, len(rows))
