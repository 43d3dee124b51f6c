"""The kinds of file we read. A new kind is a reader and one line in KINDS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from imprint.documents.plain import CODE_SUFFIXES
from imprint.documents.reading import Reading, listed

Reader = Callable[[bytes, str], Reading]
"""Bytes of a file, and its name for errors -> what it says. Raises DocumentError, fetches nothing."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file: who reads it, and how it is recognised."""

    reader: str
    """'module:function'. A name, so that heavy parsers are imported where they run and nowhere else."""
    suffixes: tuple[str, ...]
    sandboxed: bool = False
    """True for parsers of what strangers write in formats that can hold far more than they seem to: they run in a
    child process."""


KINDS: Mapping[str, Kind] = {
    "text": Kind(
        "imprint.documents.plain:read_text", (".txt", ".text", ".rst", ".org", ".log", ".tex", ".adoc")
    ),
    "markdown": Kind("imprint.documents.plain:read_markdown", (".md", ".markdown", ".mdx", ".qmd")),
    "code": Kind("imprint.documents.plain:read_code", CODE_SUFFIXES),
    "table": Kind("imprint.documents.records:read_table", (".csv", ".tsv", ".tab"), sandboxed=True),
    "json": Kind("imprint.documents.records:read_json", (".json",), sandboxed=True),
    "json lines": Kind("imprint.documents.records:read_json_lines", (".jsonl", ".ndjson"), sandboxed=True),
    "html": Kind("imprint.documents.webpage:read_html", (".html", ".htm", ".xhtml"), sandboxed=True),
    "pdf": Kind("imprint.documents.pdf:read_pdf", (".pdf",), sandboxed=True),
    "word": Kind("imprint.documents.office:read_docx", (".docx",), sandboxed=True),
    "slides": Kind("imprint.documents.office:read_pptx", (".pptx",), sandboxed=True),
}

_TEXTS_WITHOUT_SUFFIX = listed("readme license licence copying notice authors changelog contributing")


def kind_of(name: str, kinds: Mapping[str, Kind] = KINDS) -> str | None:
    """The kind that a file's name tells; None for what we do not read."""
    low = name.lower()
    if low in _TEXTS_WITHOUT_SUFFIX:
        return "text"
    if low.endswith((".min.js", ".min.css")):
        return None  # made by a program from sources that are likely beside it
    return next((kind for kind, known in kinds.items() if low.endswith(known.suffixes)), None)


def reader_of(kind: Kind) -> Reader:
    module, _, function = kind.reader.partition(":")
    reader: Reader = getattr(import_module(module), function)
    return reader
