"""Diversity that is designed, not hoped for: topic x form x voice x opening.

A model asked twice for the same thing says it twice in the same way. So each text is asked for in a cell of a grid:
what it speaks of, what kind of text it is, who speaks, and its first words. Cells are dealt out like cards,
every value as often as any other, before one comes again (after nanochat's synthetic identity data)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.synthesis.prompt_files import prompt_lines


@dataclass(frozen=True, slots=True)
class Cell:
    """How one text is to be."""

    form: str
    """'an encyclopedia entry', 'a letter'."""
    voice: str
    """'a patient teacher'."""
    opening: str
    """First words, put in the writer's mouth; '' leaves them to it."""


def cells(count: int, *, seed: int) -> list[Cell]:
    """So many cells, in which no value comes much more often than another."""
    draw = random.Random(f"design:{seed}")
    forms = _dealt(prompt_lines("design.forms.txt"), count, draw)
    voices = _dealt(prompt_lines("design.voices.txt"), count, draw)
    openings = _dealt(prompt_lines("design.openings.txt"), count, draw)
    return [Cell(f, v, "" if o == "-" else o) for f, v, o in zip(forms, voices, openings, strict=True)]


def _dealt(values: Sequence[str], count: int, draw: random.Random) -> list[str]:
    """Values drawn without putting back until all were drawn, then again."""
    return [value for _, value in zip(range(count), _deal(values, draw), strict=False)]


def _deal(values: Sequence[str], draw: random.Random) -> Iterator[str]:
    while True:
        yield from draw.sample(values, len(values))
