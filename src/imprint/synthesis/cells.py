"""What the cells of tables say, each under its column and its row: 'Deductible of Plus: $500'.

Loaders write a table as lines of cells ('Plus | $500 | $20') under its head, and a csv file as records of one line
each ('Plan: Plus; Deductible: $500'). Where it cannot be known what a cell belongs to, nothing is said of it."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_RULE = re.compile(r":?-+:?")
_YEAR = re.compile(r"(?:FY ?)?(?:19|20)\d\d")
_AMOUNT = re.compile(r"[-+(]*[$€£]? ?\d")
_NO_VALUE = re.compile(r"n/?a|none|nil|no|yes|free|included|unlimited|varies|tb[ad]|unknown", re.IGNORECASE)
"""What stands in a column of numbers in a number's place."""
_RECORD = re.compile(r"[^\s:;|][^:;|]{0,39}: [^;]+(?:; .+)+")
_RECORDS = 0.8
"""Share of a text's lines that are records where it comes from a csv file; elsewhere they are only like them."""
_NAME_LENGTH = 40
"""Characters up to which a cell may be the name of a column."""

Said = tuple[str, int]
"""A cell under its column and its row, and where in that its value begins."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table."""

    characters: int
    said: tuple[Said, ...]


@functools.lru_cache(maxsize=64)
def rows(text: str) -> Mapping[int, Row]:
    """The rows of a text's tables, by where they begin; a head says nothing."""
    found: dict[int, Row] = {}
    table: dict[int, str] = {}
    records: dict[int, str] = {}
    lines = [*_lines(text), (len(text), "")]
    for start, line in lines:
        if "|" in line:
            table[start] = line
        elif table:
            found |= _of_table(table)
            table = {}
        if _RECORD.fullmatch(line):
            records[start] = line
    are_records = len(records) >= _RECORDS * sum(bool(line) for _, line in lines)
    return found | _of_records(records) if are_records else found


def _lines(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for line in text.split("\n"):
        yield start + len(line) - len(line.lstrip()), line.strip()
        start += len(line) + 1


def _said(thing: str, fields: Mapping[str, str]) -> tuple[Said, ...]:
    """The fields that have a value, each with the thing whose it is."""
    labels = {name: f"{name} of {thing}: " if name[0].isalpha() else f"{thing}, {name}: " for name in fields}
    return tuple((labels[n] + value, len(labels[n])) for n, value in fields.items() if re.search(r"\w", value))


def _is_name(thing: str) -> bool:
    return re.search(r"[^\W\d_]", thing) is not None


# --- tables under a head ----------------------------------------------------------------------


def _of_table(table: Mapping[int, str]) -> dict[int, Row]:
    """The rows of a table. None where its first line may be no head, nor one that has not as many cells as the
    head; one that is called as another is says nothing."""
    cells = {start: _cells(line) for start, line in table.items()}
    head, *below = cells.values()
    if not _is_head(head, below):
        return {}
    things = Counter(row[0] for row in below)
    found: dict[int, Row] = {}
    for start, row in cells.items():
        if len(row) == len(head):
            is_told = row is not head and things[row[0]] == 1 and _is_name(row[0])
            fields = dict(zip(head[1:], row[1:], strict=True))
            found[start] = Row(len(table[start]), _said(row[0], fields) if is_told else ())
    return found


def _cells(line: str) -> list[str]:
    return [" ".join(cell.split()) for cell in line.removeprefix("|").removesuffix("|").split("|")]


def _is_head(head: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Whether a table's first line names its columns: a rule stands under it, it names years, or a column of
    numbers does not begin with one, and no other column begins as a row does."""
    columns = head[1:]
    if not below or not columns or not all(0 < len(c) <= _NAME_LENGTH for c in columns):
        return False
    if len(set(columns)) < len(columns):
        return False
    if all(_RULE.fullmatch(cell) for cell in below[0]):
        return True
    whole = [row for row in below if len(row) == len(head)]
    values = [[cell for cell in cells if cell] for cells in zip(*(row[1:] for row in whole), strict=True)]
    if all(_YEAR.fullmatch(c) for c in columns):
        return not all(_YEAR.fullmatch(cell) for cells in values for cell in cells)
    pairs = list(zip(columns, values, strict=False))  # there are none where no row is whole
    if any(_is_value(c) or c in cells for c, cells in pairs):
        return False
    return any(not _AMOUNT.match(c) and cells and all(map(_AMOUNT.match, cells)) for c, cells in pairs)


def _is_value(cell: str) -> bool:
    """Whether a cell is no name of a column: an amount, or what stands where there is none."""
    return (_AMOUNT.match(cell) and not _YEAR.match(cell)) or _NO_VALUE.fullmatch(cell) is not None


# --- records that name their columns ----------------------------------------------------------


def _of_records(records: Mapping[int, str]) -> dict[int, Row]:
    """The records that begin with a name of their own under the same word as another: 'Plan: Plus; ...'."""
    named = Counter(name for line in records.values() for name in _names(line))
    fields = {start: _fields(line, named) for start, line in records.items()}
    things = Counter(next(iter(own.items())) for own in fields.values())
    found: dict[int, Row] = {}
    for start, own in fields.items():
        (key, thing), *rest = own.items()
        if named[key] > 1 and rest:
            is_told = things[key, thing] == 1 and _is_name(thing)
            found[start] = Row(len(records[start]), _said(thing, dict(rest)) if is_told else ())
    return found


def _names(line: str) -> list[str]:
    return [part.partition(": ")[0] for part in line.split("; ") if ": " in part]


def _fields(line: str, named: Mapping[str, int]) -> dict[str, str]:
    """A record's values by their names; what no other record has as a name is part of a value."""
    found: dict[str, str] = {}
    last = ""
    for part in line.split("; "):
        name, _, value = part.partition(": ")
        if not last or (name and value and named[name] > 1 and name not in found):
            last = name
            found[name] = value
        else:
            found[last] += f"; {part}"
    return found
