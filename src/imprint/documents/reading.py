"""What every reader of a file gives back, and the few things that readers share.

Standard library only, so that the sandboxed child starts quickly.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from imprint.errors import DocumentError


@dataclass(frozen=True, slots=True)
class Reading:
    """The text of one file, before it becomes a Document."""

    text: str
    title: str = ""
    """What the file calls itself; empty where it does not say."""
    page_starts: tuple[int, ...] = ()
    valid_from: str | None = None
    note: str = ""
    """Something the user should know though the file was read: 'pages 3, 4 have no text'."""


# --- bytes to text ----------------------------------------------------------------------------

_BOMS = (  # UTF-32 first: its mark begins with that of UTF-16.
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def decode(data: bytes, source: str, declared: str | None = None) -> str:
    """The text in these bytes, with newlines as '\\n'.

    Tried in order: the byte-order mark, the encoding that the file declares, UTF-8, and then what
    charset-normalizer makes of it.
    """
    marked = next((name for mark, name in _BOMS if data.startswith(mark)), None)
    if not declared and is_binary(data):
        raise DocumentError(source, "it is binary, though its name says text. Remove it or rename it.")
    for encoding in (marked, declared, "utf-8"):
        try:
            if encoding:
                return _newlines(data.decode(encoding))
        except (UnicodeDecodeError, LookupError):
            continue
    return _newlines(_guess(data, source))


def is_binary(data: bytes) -> bool:
    """True when the first bytes cannot be text in any encoding that we read."""
    head = data[:8192]
    return b"\0" in head and not any(head.startswith(mark) for mark, _ in _BOMS)


def _guess(data: bytes, source: str) -> str:
    # Only the head is weighed: the guess is slow, and a file has one encoding.
    from charset_normalizer import from_bytes

    best = from_bytes(data[:65536]).best()
    try:
        return data.decode(best.encoding if best else "cp1252")
    except UnicodeDecodeError:
        reason = "its character encoding was not recognised. Save it as UTF-8 and try again."
        raise DocumentError(source, reason) from None


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


# --- text to readable text --------------------------------------------------------------------

_KEPT_CONTROLS = "\n\t"
_ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u2028\u2029]")


def readable(text: str) -> str:
    """The text without characters that nobody can read, each replaced by one other.

    The length stays, so that offsets found before (page starts) still hold after.
    """
    return _ODD.sub(_stand_in, text)


def _stand_in(found: re.Match[str]) -> str:
    char = found.group()
    if char in "\r\x0b\x0c\x85\u2028\u2029":
        return "\n"
    return "\ufffd" if "\ud800" <= char <= "\udfff" else " "


def listed(words: str) -> tuple[str, ...]:
    """The words of a string, for lists that read better without quotes and commas."""
    return tuple(words.split())


def one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


def row(cells: list[str]) -> str:
    """A table's row as a line: 'Net sales | 32,765 | 31,657'. Empty cells keep their place inside."""
    return " | ".join(one_line(cell) for cell in cells).strip(" |")


# --- what a file says of itself ---------------------------------------------------------------

_NOT_A_TITLE = re.compile(
    r"^(untitled|document\d*|presentation\d*|slide \d+|title|word document|powerpoint presentation"
    r"|microsoft (word|powerpoint|excel)\b.*|.*\.(docx?|pptx?|xlsx?|pdf|indd|tex|dvi|html?|txt|qxd))$",
    re.IGNORECASE,
)


def sane_title(title: str | None) -> str:
    """The title, or '' where it is only what a program put there by default."""
    title = one_line(readable(title or ""))
    letters = sum(unicodedata.category(char).startswith("L") for char in title)
    if letters < 2 or len(title) > 200 or _NOT_A_TITLE.match(title):
        return ""
    return title


def plain_heading(heading: str) -> str:
    """A heading's words, without Markdown's marks: '## [Rules](x) {#r}' -> 'Rules'."""
    heading = re.sub(r"^\s*#{1,6}\s+|\s+#+\s*$", "", heading)
    heading = re.sub(r"\s*\{[^{}]*\}\s*$", "", heading)
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return one_line(re.sub(r"\*\*|__|`|(?<!\w)[*_]|[*_](?!\w)", "", heading))


def iso_date(text: str | None) -> str | None:
    """'2023-03-06' out of '2023-03-06T10:00', '2023/3/6' or 'D:20230306135720'; None for the rest."""
    found = re.match(r"\s*[\"']?(?:D:)?((?:19|20)\d\d)[-/.]?(\d\d?)[-/.]?(\d\d?)", text or "")
    if not found:
        return None
    year, month, day = (int(part) for part in found.groups())
    return f"{year:04}-{month:02}-{day:02}" if 1 <= month <= 12 and 1 <= day <= 31 else None
