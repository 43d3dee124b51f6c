"""Readers of files that already are text: plain text, Markdown, source code."""

from __future__ import annotations

import re

from imprint.documents.headings import headings
from imprint.documents.reading import Reading, decode, iso_date, listed, sane_title

CODE_SUFFIXES = listed(
    ".py .pyi .js .mjs .cjs .jsx .ts .tsx .go .rs .java .kt .scala .c .h .cc .cpp .hpp .cs .swift .rb .php"
    " .pl .lua .r .jl .sh .bash .zsh .ps1 .sql .toml .yaml .yml .ini .cfg .proto .tf .css .scss .vue .svelte"
)

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)


def read_text(data: bytes, source: str) -> Reading:
    """Plain text, as it is."""
    return Reading(decode(data, source))


def read_code(data: bytes, source: str) -> Reading:
    """Source code, as it is; its title is its path, which is how people name it."""
    return Reading(decode(data, source), title=source)


def read_markdown(data: bytes, source: str) -> Reading:
    """Markdown, as it is, without the front matter that says its title and date."""
    text = decode(data, source)
    front = _FRONT_MATTER.match(text)
    fields = _fields(front.group(1)) if front else {}
    if front:
        text = text[front.end() :]
    heading = next((heading.words for heading in headings(text) if heading.words), "")
    title = sane_title(fields.get("title")) or heading
    return Reading(text, title, valid_from=iso_date(fields.get("date")))


def _fields(front_matter: str) -> dict[str, str]:
    """The 'key: value' lines. The rest of YAML is not needed for a title and a date."""
    found = re.findall(r"^(\w+)[ \t]*:[ \t]*(.+?)[ \t]*$", front_matter, re.MULTILINE)
    return {key.lower(): value.strip("\"'") for key, value in found}
