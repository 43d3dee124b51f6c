"""Headings in a text: '#' lines, and lines underlined with '===' or '---', outside fenced code."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from imprint.documents.reading import plain_heading

_HEADING = re.compile(
    r"^[ ]{0,3}(?P<marks>\#{1,6})[ \t]+(?P<words>\S.*)$"
    r"|^(?P<above>[^\s#>|*+-][^\n]*)\n[ ]{0,3}(?P<underline>={3,}|-{3,})[ \t]*$",
    re.MULTILINE,
)
_FENCE = re.compile(r"^[ ]{0,3}(```+|~~~+)[^\n]*\n.*?(?:^[ ]{0,3}\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading, and where its line (with any underline) lies."""

    level: int
    words: str
    start: int
    end: int


def fences(text: str) -> list[tuple[int, int]]:
    """Where fenced code lies, marks included, in order."""
    return [fence.span() for fence in _FENCE.finditer(text)]


def is_inside(offset: int, spans: list[tuple[int, int]]) -> bool:
    """True when one of the spans, which are in order, holds the offset."""
    at = bisect_right(spans, offset, key=lambda span: span[0]) - 1
    return at >= 0 and offset < spans[at][1]


def headings(text: str) -> Iterator[Heading]:
    """The headings of a text, in order."""
    code = fences(text)
    for found in _HEADING.finditer(text):
        if is_inside(found.start(), code):
            continue
        if found["marks"]:
            yield Heading(len(found["marks"]), plain_heading(found["words"]), *found.span())
        elif found.start() == 0 or text[found.start() - 2 : found.start()] == "\n\n":
            # Only a line on its own is a heading; below a paragraph the dashes are a rule.
            level = 1 if found["underline"][0] == "=" else 2
            yield Heading(level, plain_heading(found["above"]), *found.span())
