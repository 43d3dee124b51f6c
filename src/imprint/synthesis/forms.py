"""What every kind of synthesis needs: a passage as a writer is shown it, and what was written as an Example."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

from imprint.types import Example, Passage, Turn

TOGETHER = 64
"""Passages written about in one call: batches are full, and a kill loses little."""


T = TypeVar("T")


def groups(items: Sequence[T], size: int = TOGETHER) -> Iterator[Sequence[T]]:
    """The passages, or what was made of them, some at a time."""
    for first in range(0, len(items), size):
        yield items[first : first + size]


def place(passage: Passage) -> str:
    """Where a passage stands: its document's title, and the heading above it."""
    heading = passage.heading.split(" > ")[-1]
    return f"{passage.title}. {heading}." if heading and heading != passage.title else f"{passage.title}."


def shown(passage: Passage) -> str:
    """A passage as a writer is shown it, under its title and heading; it cannot end the place it is shown in."""
    return f"{place(passage)}\n{passage.text}".replace("</text>", "< /text>")


def reading(passages: Sequence[Passage], text: str, generator: str, writer: str) -> Example:
    """A text to read on its own, under the place of its first passage."""
    body = f"{place(passages[0])} {text.strip()}" if passages else text.strip()
    return Example((Turn("text", body, learn=True),), tuple(p.id for p in passages), generator, writer)


def exchange(passages: Sequence[Passage], asked: str, answer: str, generator: str, writer: str) -> Example:
    """A request and its answer, of which only the answer is learnt. The text it came from is never in it."""
    turns = (Turn("user", asked.strip()), Turn("assistant", answer.strip(), learn=True))
    return Example(turns, tuple(p.id for p in passages), generator, writer)


def listed(text: str) -> list[str]:
    """The items of a list as models write them: one a line, numbers and bullets taken off."""
    bare = (re.sub(r"^\s*(?:[-*•]|\(?\d{1,3}[.):])\s*", "", line) for line in text.splitlines())
    return list(dict.fromkeys(item for line in bare if (item := line.strip().strip("*").strip())))
