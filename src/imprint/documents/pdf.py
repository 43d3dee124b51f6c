"""A reader of PDF. It runs in the sandbox.

A PDF says where ink goes, not what is a paragraph. The reader works that out of the geometry of its lines:
which go on, which are headings, which are rows of a table, which repeat on every page.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from imprint.documents.pdf_lines import BULLET, HYPHEN, NUMBER, Line, Word, is_mark, page_lines
from imprint.documents.reading import Reading, iso_date, readable, sane_title
from imprint.errors import DocumentError

_STOP = re.compile(r"[.!?:;。！？…][\"'”’)\]]*$")


# --- what the pages have in common ------------------------------------------------------------


def _without_running_lines(pages: list[list[Line]]) -> list[list[Line]]:
    """Pages without the headers, footers and page numbers that more than half of them carry.

    Only lines that white space sets apart from the rest of their page can be such.
    """
    if len(pages) < 4:
        return pages
    for edge in (_head, _foot, _head, _foot):
        shapes = Counter(_shape(edge(page)) for page in pages if edge(page))
        running = {shape for shape, n in shapes.items() if n > len(pages) / 2}
        pages = [_without(page, edge(page)) if _shape(edge(page)) in running else page for page in pages]
    return pages


def _head(page: list[Line]) -> list[Line]:
    """The one to three lines that stand apart at the top; none where the text begins at once."""
    for n in range(1, min(4, len(page))):
        if page[n - 1].bottom - page[n].bottom > 1.8 * page[n].height:
            return page[:n]
    return page if len(page) == 1 else []


def _foot(page: list[Line]) -> list[Line]:
    for n in range(1, min(4, len(page))):
        if page[-n - 1].bottom - page[-n].bottom > 1.8 * page[-n].height:
            return page[-n:]
    return page if len(page) == 1 else []


def _without(page: list[Line], edge: list[Line]) -> list[Line]:
    return [line for line in page if not any(line is one for one in edge)]


def _shape(lines: list[Line]) -> str:
    """Their words with all numbers alike."""
    return re.sub(r"\d+|\b[ivxlc]+$", "#", "\n".join(line.text for line in lines))


@dataclass(frozen=True, slots=True)
class Style:
    """How most of the document is set; what differs from it is a heading."""

    height: float
    weight: int
    left: float
    leading: dict[float, float]
    """From a line's height to the usual distance down to the next."""

    def leading_of(self, line: Line) -> float:
        return self.leading.get(round(line.height, 1), 1.25 * line.height)


def _style(lines: Sequence[Line]) -> Style:
    heights: Counter[float] = Counter()
    weights: Counter[int] = Counter()
    lefts: Counter[int] = Counter()
    drops: dict[float, Counter[float]] = defaultdict(Counter)
    for before, line in zip([lines[0], *lines], lines, strict=False):
        heights[round(line.height, 1)] += len(line.text)
        weights[line.weight] += len(line.text)
        lefts[round(line.left)] += len(line.text)
        drop = round(before.bottom - line.bottom, 1)
        if 0 < drop < 3 * line.height and abs(before.height - line.height) < 0.5 and not line.is_row:
            drops[round(line.height, 1)][drop] += 1
    leading = {height: _usual(found) for height, found in drops.items()}
    most = (heights.most_common(1)[0][0], weights.most_common(1)[0][0], lefts.most_common(1)[0][0])
    return Style(*most, leading=leading)


def _usual(drops: Counter[float]) -> float:
    """The smallest distance that is nearly as common as the commonest: paragraphs only add to it."""
    most = max(drops.values())
    return min(drop for drop, n in drops.items() if n >= most / 3)


def _with_margins(page: list[Line]) -> list[Line]:
    prose = [line for line in page if not line.is_row]
    width = max((line.right for line in page), default=0) - min((line.left for line in page), default=0)
    near = 0.15 * width
    margins = (
        max((other.right for other in prose if abs(other.left - line.left) < near), default=line.right)
        for line in page
    )
    return [replace(line, margin=margin) for line, margin in zip(page, margins, strict=True)]


BOLD, ALONE = 0.2, 0.1
"""Kinds of heading that are told by weight and by looks; below every kind told by its size in points."""


# --- headings ---------------------------------------------------------------------------------


def _with_headings(lines: list[Line], style: Style) -> list[Line]:
    """Lines larger or bolder than the rest, and short ones that stand alone above a paragraph."""
    kinds = [_heading_kind(lines, at, style) for at in range(len(lines))]
    kinds = _without_captions(lines, kinds, style)
    sizes = sorted({kind for kind in kinds if kind}, reverse=True)
    levels = {kind: min(level, 6) for level, kind in enumerate(sizes, start=1)}
    return [replace(line, heading=levels.get(kind, 0)) for line, kind in zip(lines, kinds, strict=True)]


def _without_captions(lines: list[Line], kinds: list[float], style: Style) -> list[float]:
    """Kinds without the bold lines that head a table's columns rather than a section.

    Those stand right on the first row, or alone a little above it and in the same words elsewhere.
    """
    kinds = list(kinds)
    met = Counter(line.text for line in lines)
    group: list[int] = []
    for at in range(len(lines) - 1):
        line, after = lines[at], lines[at + 1]
        group = [*group, at] if kinds[at] == BOLD else []
        drop = (line.bottom - after.bottom) / style.leading_of(after) if line.page == after.page else 9.0
        if after.is_row and (drop < 1.25 or drop < 3 and len(group) == 1 and met[line.text] > 1):
            for caption in group:
                kinds[caption] = 0
        if drop > 1.25:
            group = []
    return kinds


def _heading_kind(lines: list[Line], at: int, style: Style) -> float:
    """A number that orders headings, larger for outer ones; 0 for what is no heading."""
    line = lines[at]
    text = line.text
    letters = sum(char.isalpha() for char in text)
    if line.is_row or len(text) > 150 or letters < 3 or BULLET.match(text) or text.endswith((",", ";")):
        return 0
    if line.height > 1.15 * style.height:
        return round(line.height)
    if not _at_margin_or_centred(line, style):
        return 0
    bold = line.weight > 1.4 * style.weight and line.height > 0.8 * style.height
    if bold and len(text) <= 100 and not text[0].islower() and text[0] != "(":
        return BOLD
    return ALONE if _stands_alone(lines, at, style) else 0


def _at_margin_or_centred(line: Line, style: Style) -> bool:
    centre = (line.left + line.right) / 2
    body_centre = (style.left + line.margin) / 2
    return line.left < style.left + 3 * style.height or abs(centre - body_centre) < style.height


def _stands_alone(lines: list[Line], at: int, style: Style) -> bool:
    """True for 'Training and Education' with white space around it and a paragraph below."""
    line = lines[at]
    after = lines[at + 1] if at + 1 < len(lines) else None
    words = re.findall(r"[^\W\d_]{4,}", line.text)
    if after is None or after.page != line.page or not 1 <= len(line.words) <= 8 or not words:
        return False
    if re.search(r"[.,;:!?\d…|]", line.text) or not line.text[0].isupper():
        return False
    if sum(word[0].isupper() for word in words) * 2 <= len(words):
        return False
    before = lines[at - 1] if at else None
    apart = 1.25 * style.leading_of(line)
    above = before is None or before.page != line.page or before.bottom - line.bottom > apart
    below = line.bottom - after.bottom > apart
    return above and below and len(after.text) > 60 and abs(after.left - line.left) < 2 and not after.is_row


# --- words broken by the printing -------------------------------------------------------------


class _Vocabulary:
    """The document's own words, which decide whether two halves are one."""

    def __init__(self, lines: Iterable[Line]) -> None:
        texts = [line.text for line in lines]
        pattern = r"(?<![’'])\b[^\W\d_]+(?:-[^\W\d_]+)*"  # not the 's' of "firm's"
        self.counts = Counter(word for text in texts for word in re.findall(pattern, text.lower()))

    def mended(self, line: Line) -> Line:
        """The line with words that were set too wide, or lost a ligature, made whole again."""
        words = [line.words[0]]
        for word in line.words[1:]:
            whole = self._whole(words[-1].text, word.text) if word.text[:1].isalpha() else None
            if whole is None:
                words.append(word)
            else:
                words[-1] = Word(whole, words[-1].left, word.right)
        return replace(line, words=tuple(words)) if len(words) < len(line.words) else line

    def _whole(self, first: str, second: str) -> str | None:
        """'Busines' + 's' -> 'Business', 'ef' + 'ective' -> 'effective'; None for two true words."""
        head, tail = re.search(r"[^\W\d_]+$", first), re.match(r"[^\W\d_]+", second)
        if not head or not tail:
            return None
        a, b = head.group().lower(), tail.group().lower()
        rare = any(self.counts[half] <= 2 or len(half) == 1 and half not in "aio" for half in (a, b))
        if rare and self.counts[a + b] >= 5:
            return first + second
        lost_ligature = a.endswith("f") and self.counts[a + "f" + b] >= max(5, self.counts[a])
        return first + "f" + second if lost_ligature else None

    def keeps_hyphen(self, first: str, second: str) -> bool:
        """True for 'cutting-' + 'edge', False for 'informa-' + 'tion'."""
        head, tail = re.search(r"[^\W\d_]+$", first), re.match(r"[^\W\d_]+", second)
        if not head or not tail or tail.group()[0].isupper():
            return True
        a, b = head.group().lower(), tail.group().lower()
        joined, hyphened = self.counts[a + b], self.counts[f"{a}-{b}"]
        if joined or hyphened:
            return hyphened > joined
        return len(a) > 1 and len(b) > 2 and bool(self.counts[a]) and bool(self.counts[b])


# --- lines to text ----------------------------------------------------------------------------


def _written(pages: list[list[Line]]) -> tuple[str, tuple[int, ...]]:
    """The text of all pages, and where each begins."""
    lines = [line for page in pages for line in _with_margins(page)]
    if not lines:
        return "", (0,) * len(pages)
    style, vocabulary = _style(lines), _Vocabulary(lines)
    lines = [vocabulary.mended(line) for line in _with_headings(lines, style)]
    parts: list[str] = []
    starts: list[int] = []
    length, before = 0, None
    for line in lines:
        joint = _joint(before, line, style, vocabulary) if before else ""
        # Pages without text begin where the next page with text does.
        starts += [length + len(joint)] * (line.page + 1 - len(starts))
        text = _line_text(line, goes_on=joint == " ")
        parts += [joint, text]
        length += len(joint) + len(text)
        before = line
    starts += [length] * (len(pages) - len(starts))
    return readable("".join(parts)), tuple(starts)


def _line_text(line: Line, goes_on: bool) -> str:
    text = _row_text(line) if line.is_row else line.text.rstrip(HYPHEN)
    if line.heading and not goes_on:
        text = f"{'#' * line.heading} {text}"
    return BULLET.sub("- ", text).replace(HYPHEN, "-")


def _row_text(line: Line) -> str:
    """'Net sales | $ 32,765 | 31,657': cells apart, signs with their numbers."""
    text = line.words[0].text
    for before, word, gap in zip(line.words, line.words[1:], line.gaps, strict=False):
        cut = gap > 0.9 and before.text not in ("$", "€", "£", "¥") and word.text not in ("%", ")", ")%")
        marked = before is line.words[0] and is_mark(before)
        text += (" | " if cut and not marked else " ") + word.text
    return re.sub(r"(?:\s*\|\s*)+", " | ", text).strip(" |")


def _joint(before: Line, line: Line, style: Style, vocabulary: _Vocabulary) -> str:
    """What stands between two lines: nothing, a hyphen, a space, a new line or a blank one."""
    drop = before.bottom - line.bottom if before.page == line.page else 0.0
    close = 0 < drop <= 1.25 * style.leading_of(line)
    if before.heading or line.heading:
        same = before.heading == line.heading and 0 < drop < 1.6 * line.height
        return " " if same else "\n\n"
    if _goes_on(before, line, drop, close):
        return _seam(before, line, vocabulary)
    if before.is_row and line.is_row:
        return "\n"
    in_block = line.is_row or before.is_row or line.is_item
    return "\n" if in_block and (close or before.page != line.page and line.is_item) else "\n\n"


def _goes_on(before: Line, line: Line, drop: float, close: bool) -> bool:
    """True when the line continues the sentence of the one before it."""
    if before.is_row or line.is_row or BULLET.match(line.text):
        return False
    ended = bool(_STOP.search(before.text))
    on_purpose = _broken_on_purpose(before, line)
    if NUMBER.match(line.text) and (ended or on_purpose):
        return False
    if drop > 0 and not close or abs(before.height - line.height) > 0.2 * line.height:
        return False
    if close and abs(before.left - line.left) > 6 * line.height and not line.text[0].islower():
        return False  # further in than any indent: another column
    if on_purpose:
        return not ended and line.text[0].islower()
    # Beyond the foot of a page or a column only an unfinished sentence goes on.
    return close or not ended


def _broken_on_purpose(before: Line, line: Line) -> bool:
    """True when the next word would have fitted: then the break was meant."""
    word = line.words[0]
    if before.right - before.left < 12 * before.height and not word.text[0].islower():
        return True  # lines this short are a stack of names or dates, whatever their column's width
    return before.right + 0.25 * before.height + (word.right - word.left) < before.margin


def _seam(before: Line, line: Line, vocabulary: _Vocabulary) -> str:
    last, first = before.text, line.text
    if last.endswith(HYPHEN):
        return "-" if vocabulary.keeps_hyphen(last.rstrip(HYPHEN), first) else ""
    wide = last[-1] >= "\u2e80" and first[0] >= "\u2e80"  # Chinese and Japanese lines join without a space
    return "" if wide or re.search(r"\w-$", last) else " "


# --- the file ---------------------------------------------------------------------------------


def read_pdf(data: bytes, source: str) -> Reading:
    """Whole paragraphs, headings as '#' lines, table rows as lines, and where each page begins."""
    import pypdfium2

    if b"%PDF-" not in data[:1024]:
        raise DocumentError(source, "it is named .pdf but is not a PDF. Export it again or rename it.")
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise DocumentError(source, _refusal(str(error))) from None
    pages = [page_lines(page, number) for number, page in enumerate(pdf)]
    empty = [number for number, page in enumerate(pages, start=1) if not page]
    if len(empty) == len(pages):
        found = f"its {len(pages)} pages have no text layer, so it is a scan"
        raise DocumentError(source, f"{found}. Run OCR on it first, for example with ocrmypdf.")
    text, starts = _written(_without_running_lines(pages))
    metadata = pdf.get_metadata_dict()
    return Reading(
        text,
        sane_title(metadata.get("Title")) or _first_heading(text),
        starts,
        iso_date(metadata.get("CreationDate")),
        note=_without_text(empty, len(pages)),
    )


def _refusal(error: str) -> str:
    if "assword" in error or "ecurity" in error:
        return "it is encrypted. Save a copy without a password and try again."
    return f"it is damaged ({error}). Open it in a viewer and save it again."


def _first_heading(text: str) -> str:
    """The first heading; with the next one where a title page sets both: 'Acme: Health Plan'."""
    found = re.search(r"^#+ (.+)(?:\n\n## (.+))?$", text, re.MULTILINE)
    return sane_title(": ".join(filter(None, found.groups()))) if found else ""


def _without_text(empty: list[int], total: int) -> str:
    if not empty:
        return ""
    shown = ", ".join(map(str, empty[:8])) + (", ..." if len(empty) > 8 else "")
    one = len(empty) == 1
    return f"{'page' if one else 'pages'} {shown} of {total} {'has' if one else 'have'} no text layer"
