"""Readers of records: tables (csv, tsv), JSON, lines of JSON, and exported conversations."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from imprint.documents.reading import Reading, decode, iso_date, one_line, sane_title
from imprint.errors import DocumentError

# --- tables -----------------------------------------------------------------------------------


def read_table(data: bytes, source: str) -> Reading:
    """Each row of a csv or tsv file as a paragraph: 'Name: Ada; Born: 1815'."""
    text = decode(data, source)
    # A cell may hold a whole article; the csv module's own limit is 128 KiB.
    csv.field_size_limit(2**31 - 1)
    try:
        rows = [cells for cells in csv.reader(io.StringIO(text), _dialect(text, source)) if any(cells)]
    except csv.Error as error:
        raise DocumentError(source, f"it is not a well-formed table: {error}. Export it again.") from None
    if not rows:
        return Reading("")
    names, rows = (rows[0], rows[1:]) if _is_header(rows) else ([], rows)
    return Reading("\n\n".join(filter(None, (_record(names, cells) for cells in rows))))


def _dialect(text: str, source: str) -> type[csv.Dialect]:
    class Tabbed(csv.excel):
        delimiter = "\t" if source.lower().endswith((".tsv", ".tab")) else ","

    if Tabbed.delimiter == "\t":
        return Tabbed
    first = text.lstrip().split("\n", 1)[0]
    # The header decides: commas within later cells would mislead a vote over the whole file.
    Tabbed.delimiter = max(",;\t|", key=first.count)
    return Tabbed


def _is_header(rows: list[list[str]]) -> bool:
    """True when the first row names columns: short, distinct, none of them a number."""
    names = [cell.strip() for cell in rows[0]]
    named = [name for name in names if name]
    distinct = len(set(named)) == len(named) > 0
    return len(rows) > 1 and distinct and all(len(name) < 80 and not _is_number(name) for name in named)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+$€£(]*[\d.,:/ -]*\d[%)]*", text))


def _record(names: list[str], cells: list[str]) -> str:
    parts = []
    for at, cell in enumerate(cells):
        name = one_line(names[at]) if at < len(names) else ""
        if value := one_line(cell):
            parts.append(f"{name}: {value}" if name else value)
    return "; ".join(parts)


# --- JSON -------------------------------------------------------------------------------------


def read_json(data: bytes, source: str) -> Reading:
    """JSON as 'key: value' lines, a paragraph per object; conversations as 'User: ...' paragraphs."""
    text = decode(data, source)
    if not text.strip():
        return Reading("")
    return _rendered(_parsed(text, source, where=""))


def read_json_lines(data: bytes, source: str) -> Reading:
    """Lines of JSON, rendered as a JSON list of them is."""
    lines = enumerate(decode(data, source).split("\n"), start=1)
    return _rendered([_parsed(line, source, f"line {n}, ") for n, line in lines if line.strip()])


def _parsed(text: str, source: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise DocumentError(source, "its JSON is nested too deeply to be read. Flatten it.") from None
    except ValueError as error:
        raise DocumentError(source, f"{where}it is not valid JSON: {error}. Mend it and try again.") from None


def _rendered(value: Any) -> Reading:
    fields = value if isinstance(value, dict) else {}
    title = fields.get("title") or fields.get("name")
    date = fields.get("date") or fields.get("valid_from")
    talks = _conversations(value)
    paragraphs = [line for talk in talks for line in _talk(talk)] if talks else list(_paragraphs(value))
    return Reading(
        "\n\n".join(paragraphs),
        title=sane_title(title) if isinstance(title, str) else "",
        valid_from=iso_date(date) if isinstance(date, str) else None,
    )


def _paragraphs(value: Any) -> Iterator[str]:
    """One paragraph for each object of a list, or for each long entry of an object."""
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for item in value:
            yield from _paragraphs(item)
        return
    lines = list(_lines(value, ""))
    if lines:
        yield "\n".join(lines)


def _lines(value: Any, name: str) -> Iterator[str]:
    """'owner.name: Ada' for each leaf; a list of plain values on one line."""
    name = name[-_LONGEST_NAME:]
    label = f"{name}: " if name else ""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _lines(inner, f"{name}.{one_line(str(key))}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value, start=1):
            yield from _lines(item, f"{name} {number}".strip())
    elif isinstance(value, list):
        texts = [_said(item) for item in value if _said(item)]
        # Lists of sentences read on as prose; lists of words are enumerated.
        mark = " " if any(text.endswith((".", "!", "?", "。")) for text in texts) else ", "
        if texts:
            yield label + mark.join(texts)
    elif _said(value):
        yield label + _said(value)


_LONGEST_NAME = 240
"""Characters of a leaf's name, the last ones: it is said before each leaf, and must not be most of the text."""


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else one_line(str(value))


# --- conversations ----------------------------------------------------------------------------

_SPEAKERS = {"human": "User", "gpt": "Assistant", "bot": "Assistant", "ai": "Assistant"}


def _conversations(value: Any) -> list[list[dict[str, Any]]]:
    """The conversations in a chat export; empty when it is not one.

    Known shapes: a list of messages, an object with 'messages' or 'conversations', a list of such.
    """
    if isinstance(value, dict):
        talk = value.get("messages") or value.get("conversations") or value.get("conversation")
        return [talk] if talk and _is_talk(talk) else []
    if _is_talk(value):
        return [value]
    if isinstance(value, list) and value:
        talks = [_conversations(item) if isinstance(item, dict) else [] for item in value]
        return [talk for found in talks for talk in found] if all(talks) else []
    return []


def _is_talk(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_message(item) for item in value)


def _is_message(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    return ("role" in item and "content" in item) or ("from" in item and "value" in item)


def _talk(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        role = str(message.get("role") or message.get("from") or "")
        text = _content(message.get("content", message.get("value")))
        if text:
            yield f"{_SPEAKERS.get(role.lower(), role.capitalize() or 'User')}: {text}"


def _content(content: Any) -> str:
    """A message's text: a string, or a list of parts of which only the texts can be read."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "\n".join(part for part in parts if isinstance(part, str))
    text = content if isinstance(content, str) else ""
    # A message is one paragraph, so blank lines inside it close up.
    return re.sub(r"\n\s*\n", "\n", text.replace("\r\n", "\n")).strip()
