"""The lines of a PDF's pages, with where each word lies. It runs in the sandbox."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

HYPHEN = "\x02"
"""What stands for a hyphen at the end of a line; whether the word keeps it is decided later."""

_CHARS = str.maketrans(
    {
        "\ufffe": HYPHEN, "\u00ad": HYPHEN, "\u00a0": " ", "\u200b": None, "\u200c": None, "\u2060": None,
        "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl",
        "\uf0b7": "•", "\uf0a7": "▪", "\uf0d8": "•", "\uf0fc": "•", "\uf02d": "-",
    }
)  # fmt: skip
BULLET = re.compile(r"^[•◦▪▫‣●○■□◆➢➤✓·*–—-]\s+(?=\S)|^o\s+(?=[A-Z])")
NUMBER = re.compile(r"^(?:\d{1,3}[.)]|\((?:\w|[ivx]{1,4}|\d{1,2})\)|[a-z][.)])\s+(?=\S)")
_WORD = re.compile(r"\S+(?:\xa0\S+)*")
"""What the author would not have broken over lines: a no-break space belongs to its word."""


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class Line:
    """One printed line. Lengths are in points, heights grow upwards."""

    words: tuple[Word, ...]
    bottom: float
    height: float
    weight: int
    page: int
    margin: float = 0.0
    """How far right lines that begin here reach on this page."""
    heading: int = 0
    """1 for the outermost heading, 0 for what is not one."""

    @property
    def left(self) -> float:
        return self.words[0].left

    @property
    def right(self) -> float:
        return self.words[-1].right

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)

    @property
    def gaps(self) -> list[float]:
        """White space after each word but the last, in line heights."""
        pairs = zip(self.words, self.words[1:], strict=False)
        return [(after.left - before.right) / self.height for before, after in pairs]

    @property
    def is_row(self) -> bool:
        """True for a table's row: white space wider than any between words of a sentence."""
        gaps = self.gaps[1:] if is_mark(self.words[0]) else self.gaps
        return any(gap > 1.6 for gap in gaps) or sum(gap > 0.9 for gap in gaps) > 1 or " | " in self.text

    @property
    def is_item(self) -> bool:
        return bool(BULLET.match(self.text) or NUMBER.match(self.text))


def is_mark(word: Word) -> bool:
    """True for a list's bullet or number, which white space may follow in any line."""
    return bool(re.fullmatch(r"[^\w\s]|\(?\w{1,3}[.)]|\d{1,2}(?:\.\d{1,2})+\.?", word.text))


class _Page:
    """pdfium's view of one page: characters and their boxes, upright whatever the page's rotation."""

    def __init__(self, page: Any) -> None:
        import pypdfium2.raw as pdfium

        self._pdfium = pdfium
        self._textpage = page.get_textpage()  # kept: pdfium frees the text with this object
        self._box = pdfium.FS_RECTF()
        self.rotation = page.get_rotation()
        self.count = pdfium.FPDFText_CountChars(self._textpage)

    def chars(self) -> str:
        get, text = self._pdfium.FPDFText_GetUnicode, self._textpage
        return "".join(chr(get(text, at)) for at in range(self.count))

    def weight(self, at: int) -> int:
        return int(self._pdfium.FPDFText_GetFontWeight(self._textpage, at))

    def box(self, at: int) -> tuple[float, float, float, float]:
        """Left, bottom, right and top of a character, as its font draws the tallest one."""
        box = self._box
        self._pdfium.FPDFText_GetLooseCharBox(self._textpage, at, box)
        if self.rotation == 90:
            return box.bottom, -box.right, box.top, -box.left
        if self.rotation == 180:
            return -box.right, -box.top, -box.left, -box.bottom
        if self.rotation == 270:
            return -box.top, box.left, -box.bottom, box.right
        return box.left, box.bottom, box.right, box.top


def page_lines(page: Any, number: int) -> list[Line]:
    """The page's visible lines, in the order in which the file draws them."""
    page = _Page(page)
    chars = page.chars()
    lines: list[Line] = []
    # A hyphen that pdfium marks swallows the line break after it.
    for found in re.finditer(r"[^\r\n\x02\ufffe]*[\x02\ufffe]|[^\r\n\x02\ufffe]+", chars):
        words: list[Word] = []
        spans = [word.span() for word in _WORD.finditer(found.group())]
        spans = [(found.start() + start, found.start() + end) for start, end in spans]
        begun = 0
        for at, (start, end) in enumerate(spans):
            left, right = page.box(start)[0], page.box(end - 1)[2]
            if words and left < words[-1].left:
                # Words that jump back to the left began a new line.
                lines += _line(page, spans[begun:at], words, number)
                words, begun = [], at
            words.append(Word(_tidy(chars[start:end]), left, right))
        lines += _line(page, spans[begun:], words, number)
    return _rows_rejoined(lines)


def _line(page: _Page, spans: list[tuple[int, int]], words: list[Word], number: int) -> list[Line]:
    """The line of these words; none when nobody could see it."""
    words = [word for word in words if word.text]
    if not words:
        return []
    start, end = max(spans, key=lambda span: span[1] - span[0])
    _, bottom, _, top = page.box(start)
    if top - bottom < 2.0:
        return []
    weight = min(page.weight(spans[0][0]), page.weight(spans[-1][1] - 1))
    return [Line(tuple(words), bottom, top - bottom, weight, number)]


def _tidy(word: str) -> str:
    # Characters beyond the first 65,536 arrive as two halves.
    whole = word.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    whole = re.sub(r"\.{4,}|…{2,}|_{4,}", "|", whole.translate(_CHARS))
    return re.sub(r"[\x00\x01\x03-\x1f\x7f-\x9f]", "", whole).strip()


def _rows_rejoined(lines: list[Line]) -> list[Line]:
    """Pieces of one printed row as one line."""
    joined: list[Line] = []
    for line in lines:
        before = joined[-1] if joined else None
        if (
            before
            and abs(before.bottom - line.bottom) < 0.2 * line.height
            and line.left >= before.right
            and not before.text.endswith(HYPHEN)
        ):
            joined[-1] = replace(before, words=before.words + line.words)
        else:
            joined.append(line)
    return joined
