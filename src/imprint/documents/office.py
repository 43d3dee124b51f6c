"""Readers of Word and PowerPoint files. They run in the sandbox.

Both kinds are zip archives of XML, so the archive is weighed before it is opened and every XML part is
checked for entities before a parser that would expand them sees it.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any
from xml.sax import ContentHandler, SAXParseException

from imprint.documents.archives import open_archive
from imprint.documents.reading import Reading, iso_date, one_line, plain_heading, row, sane_title
from imprint.errors import DocumentError

MAX_UNPACKED_BYTES = 512 * 2**20
MAX_RATIO = 200
"""Honest XML shrinks 10 to 50 times."""
RATIO_MATTERS_FROM_BYTES = 16 * 2**20
MAX_PARTS = 20_000


# --- the archive ------------------------------------------------------------------------------


def check_archive(data: bytes, source: str) -> None:
    """Refuses archives that would unpack to far more than they seem, and XML that declares entities."""
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        reason = "it is locked with a password, or of the old Office format. Save it unlocked as .docx."
        raise DocumentError(source, reason)
    try:
        with open_archive(io.BytesIO(data)) as archive:
            _check_size(archive, len(data), source)
            for part in archive.infolist():
                if part.filename.endswith((".xml", ".rels")):
                    _check_xml(archive, part, source)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        reason = f"it is not a whole Office file ({error}). Open it in its program and save it again."
        raise DocumentError(source, reason) from None


def _check_size(archive: zipfile.ZipFile, packed_bytes: int, source: str) -> None:
    parts = archive.infolist()
    unpacked = sum(part.file_size for part in parts)
    swollen = unpacked > RATIO_MATTERS_FROM_BYTES and unpacked > MAX_RATIO * packed_bytes
    if unpacked > MAX_UNPACKED_BYTES or swollen or len(parts) > MAX_PARTS:
        found = f"{packed_bytes:,} bytes would unpack to {unpacked:,} bytes in {len(parts):,} parts"
        raise DocumentError(source, f"it looks like a zip bomb: {found}. It was not opened; leave it out.")


def _check_xml(archive: zipfile.ZipFile, part: zipfile.ZipInfo, source: str) -> None:
    from defusedxml import DefusedXmlException
    from defusedxml.sax import parse

    try:
        with archive.open(part) as stream:
            parse(stream, ContentHandler(), forbid_dtd=True)
    except DefusedXmlException:
        reason = f"its part {part.filename} declares XML entities, which can attack a reader. Leave it out."
        raise DocumentError(source, reason) from None
    except SAXParseException as error:
        reason = f"its part {part.filename} is broken XML ({error.getMessage()}). Save it again."
        raise DocumentError(source, reason) from None


# python-docx and python-pptx stamp these on every file made from their templates.
_TEMPLATE_DATES = ("2013-12-23", "2013-01-27")


def _date(properties: Any) -> str | None:
    dates = (iso_date(str(date)) for date in (properties.modified, properties.created) if date)
    return next((date for date in dates if date and date not in _TEMPLATE_DATES), None)


# --- Word -------------------------------------------------------------------------------------


def read_docx(data: bytes, source: str) -> Reading:
    """Paragraphs and tables in order; headings as '#' lines, list items as '-', tables as rows."""
    check_archive(data, source)
    import docx

    try:
        document = docx.Document(io.BytesIO(data))
    except (KeyError, ValueError) as error:
        reason = f"it is an Office file but not a Word one ({one_line(str(error))}). Save it as .docx."
        raise DocumentError(source, reason) from None
    lines = list(_docx_lines(document))
    title = sane_title(document.core_properties.title)
    heading = next((plain_heading(text) for kind, text in lines if kind == "heading"), "")
    return Reading(_joined(lines), title or heading, valid_from=_date(document.core_properties))


def _docx_lines(document: Any) -> Iterator[tuple[str, str]]:
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            for line in block.rows:
                if cells := row(_cells(line)):
                    yield "row", cells
            yield "end", ""
        elif text := block.text.strip():
            yield _docx_paragraph(block, text)


def _docx_paragraph(paragraph: Any, text: str) -> tuple[str, str]:
    style = (paragraph.style.name if paragraph.style is not None else "") or ""
    if level := re.fullmatch(r"(?i)heading (\d)", style):
        return "heading", f"{'#' * min(int(level.group(1)), 6)} {one_line(text)}"
    if style.lower() == "title":
        return "heading", f"# {one_line(text)}"
    properties = paragraph._p.pPr  # python-docx has no public name for a list's numbering
    if style.lower().startswith("list") or (properties is not None and properties.numPr is not None):
        return "item", f"- {one_line(text)}"
    return "text", text


def _cells(line: Any) -> list[str]:
    """The row's cells; one that spans columns is met once for each, and said once."""
    seen: list[Any] = []
    for cell in line.cells:
        if not seen or cell._tc is not seen[-1]._tc:
            seen.append(cell)
    return [cell.text for cell in seen]


def _joined(lines: list[tuple[str, str]]) -> str:
    """Blocks with blank lines between them; neighbouring items and rows stay together."""
    text, before = "", ""
    for kind, line in lines:
        if kind != "end":
            tight = kind == before and kind in ("item", "row")
            text += ("\n" if tight else "\n\n" if text else "") + line
        before = kind
    return text


# --- PowerPoint -------------------------------------------------------------------------------


def read_pptx(data: bytes, source: str) -> Reading:
    """Slides as pages: the title as a heading, bullets as items, tables as rows, then the notes."""
    check_archive(data, source)
    import pptx

    try:
        deck = pptx.Presentation(io.BytesIO(data))
    except (KeyError, ValueError) as error:
        reason = f"it is an Office file but not a PowerPoint one ({one_line(str(error))}). Save it as .pptx."
        raise DocumentError(source, reason) from None
    slides = [_joined(list(_slide_lines(slide))) for slide in deck.slides]
    text, starts = "", []
    for slide in slides:
        text += "\n\n" if text and slide else ""
        starts.append(len(text))
        text += slide
    heading = next((s.split("\n", 1)[0] for s in slides if s.startswith("# ")), "")
    title = sane_title(deck.core_properties.title) or plain_heading(heading)
    return Reading(text, title, tuple(starts), _date(deck.core_properties))


def _slide_lines(slide: Any) -> Iterator[tuple[str, str]]:
    title = slide.shapes.title
    if title is not None and (text := one_line(title.text_frame.text)):
        yield "heading", f"# {text}"
    for shape in slide.shapes:
        if title is None or shape.shape_id != title.shape_id:
            yield from _shape_lines(shape)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        for text in filter(None, map(one_line, slide.notes_slide.notes_text_frame.text.splitlines())):
            yield "text", text


def _shape_lines(shape: Any) -> Iterator[tuple[str, str]]:
    if hasattr(shape, "shapes"):
        for inner in shape.shapes:
            yield from _shape_lines(inner)
    elif getattr(shape, "has_table", False):
        for line in shape.table.rows:
            if cells := row([cell.text for cell in line.cells]):
                yield "row", cells
        yield "end", ""
    elif getattr(shape, "has_text_frame", False):
        paragraphs = [paragraph for paragraph in shape.text_frame.paragraphs if paragraph.text.strip()]
        # A box with one paragraph is a statement; several are bullets.
        kind, mark = ("item", "- ") if len(paragraphs) > 1 else ("text", "")
        for paragraph in paragraphs:
            yield kind, "  " * paragraph.level + mark + one_line(paragraph.text)
        yield "end", ""
