"""Examples as token rows, and the rows of each step."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from imprint.base import Base
from imprint.engine.passes import Soft
from imprint.types import Example, Turn

_ASKS_WHAT_IS_NOT_SO = ("negatives/", "unanswerable/", "corrections/")
"""Kinds whose questions hold what no document says, or none says any more."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example in tokens."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    soft: Soft | None = field(default=None, compare=False)
    """What a teacher says in place of the tokens to be learnt, where there is one."""


def rows(examples: Iterable[Example], base: Base, *, max_tokens: int) -> list[Row]:
    """The examples in tokens; one longer than max_tokens is cut at its end."""
    return list(each_row(examples, base, max_tokens=max_tokens))


def each_row(
    examples: Iterable[Example], base: Base, *, max_tokens: int, questions: bool = False
) -> Iterator[Row]:
    """The same one by one, for more than memory holds.

    `questions`: what is asked about a passage is learnt too, for questions tell of it as well."""
    for example in examples:
        ids, learn = base.training_ids(learnt_turns(example, questions=questions))
        row = Row(tuple(ids[:max_tokens]), tuple(learn[:max_tokens]))
        if any(row.learn[1:]):
            yield row


def learnt_turns(example: Example, *, questions: bool) -> tuple[Turn, ...]:
    """The turns of an example with what is learnt of them; of what is asked, only what documents say."""
    if questions and example.passages and not example.generator.startswith(_ASKS_WHAT_IS_NOT_SO):
        return tuple(replace(t, learn=True) if t.role == "user" else t for t in example.turns)
    return example.turns


def batches(lengths: Sequence[int], *, tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of the rows of each batch of one epoch, from the rows' lengths; the same for the same seed and epoch.

    Rows are shuffled and cut into batches of at most `tokens` tokens (a longer row makes a batch alone)."""
    order = list(range(len(lengths)))
    random.Random(f"{seed}:{epoch}").shuffle(order)
    made: list[list[int]] = []
    room = 0
    for i in order:
        length = lengths[i]
        if not made or length > room:
            made.append([])
            room = tokens
        made[-1].append(i)
        room -= length
    return made
