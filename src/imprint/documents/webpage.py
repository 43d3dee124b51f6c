"""A reader of HTML. It runs in the sandbox, and fetches nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from imprint.documents.reading import Reading, decode, iso_date, listed, one_line, row, sane_title

_UNSEEN = listed(
    "script style noscript template svg iframe object canvas head nav button select input textarea"
)
_BLOCKS = listed(
    "address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure"
    " footer form h1 h2 h3 h4 h5 h6 header hgroup hr html li main ol p pre section summary table ul"
)


def read_html(data: bytes, source: str) -> Reading:
    """The text that a reader of the page sees: headings as '#' lines, lists as '-', tables as rows."""
    from bs4 import BeautifulSoup
    from bs4.dammit import EncodingDetector

    declared = EncodingDetector.find_declared_encoding(data, is_html=True)
    page = BeautifulSoup(decode(data, source, declared), "lxml")
    title, date = _title(page), _date(page)
    for unseen in page.find_all(list(_UNSEEN)):
        unseen.decompose()
    for unseen in page.find_all(hidden=True):
        unseen.decompose()
    return Reading("\n".join(_spaced(_blocks(page))).strip(), title, valid_from=date)


def _title(page: Any) -> str:
    """The one main heading, else what the browser's tab shows."""
    main = page.find_all("h1")
    tab = page.title.get_text() if page.title else ""
    heading = main[0].get_text(" ") if main else ""
    return sane_title(heading if len(main) == 1 else tab) or sane_title(tab) or sane_title(heading)


def _date(page: Any) -> str | None:
    for name in ("article:modified_time", "article:published_time", "date", "dcterms.date", "DC.date"):
        meta = page.find("meta", attrs={"property": name}) or page.find("meta", attrs={"name": name})
        if meta and (date := iso_date(meta.get("content"))):
            return date
    return None


def _spaced(blocks: Iterator[tuple[str, str]]) -> Iterator[str]:
    """Blocks with a blank line between them; items of a list and rows of a table stay together."""
    before = ""
    for kind, text in blocks:
        if before and not (kind == before and kind in ("item", "row")):
            yield ""
        yield text
        before = kind


def _blocks(element: Any) -> Iterator[tuple[str, str]]:
    """(kind, text) of each block under the element, in reading order."""
    from bs4 import NavigableString, Tag
    from bs4.element import PreformattedString

    words: list[str] = []
    for child in element.children:
        if isinstance(child, Tag) and _holds_block(child):
            yield from _paragraph(words)
            words = []
            yield from _block(child)
        elif isinstance(child, Tag):
            words.append("\n" if child.name == "br" else _inline(child))
        elif isinstance(child, NavigableString) and not isinstance(child, PreformattedString):
            words.append(re.sub(r"\s+", " ", child))
    yield from _paragraph(words)


def _holds_block(tag: Any) -> bool:
    return tag.name in _BLOCKS or tag.find(list(_BLOCKS)) is not None


def _block(tag: Any) -> Iterator[tuple[str, str]]:
    if re.fullmatch(r"h[1-6]", tag.name):
        if heading := one_line(tag.get_text(" ")):
            yield "heading", f"{'#' * int(tag.name[1])} {heading}"
    elif tag.name == "table" and not tag.find("table"):
        for line in tag.find_all("tr"):
            if cells := row([cell.get_text(" ") for cell in line.find_all(["td", "th"])]):
                yield "row", cells
    elif tag.name == "pre":
        yield "code", "```\n" + tag.get_text().strip("\n") + "\n```"
    elif tag.name == "li":
        yield from _item(tag)
    else:
        yield from _blocks(tag)


def _item(tag: Any) -> Iterator[tuple[str, str]]:
    """A list's item: its first block carries the mark, what is nested in it follows."""
    for position, (kind, text) in enumerate(_blocks(tag)):
        if position == 0 and kind == "text":
            yield "item", "- " + one_line(text)
        else:
            yield kind, "  " + text if kind == "item" else text


def _paragraph(words: list[str]) -> Iterator[tuple[str, str]]:
    lines = [one_line(line) for line in "".join(words).split("\n")]
    if text := "\n".join(filter(None, lines)):
        yield "text", text


def _inline(tag: Any) -> str:
    for line_break in tag.find_all("br"):
        line_break.replace_with("\n")
    return re.sub(r"[^\S\n]+", " ", tag.get_text())
