"""A Document's Passages: by headings, then paragraphs, sentences and words, as small as the limit asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from imprint.documents.headings import Heading, headings
from imprint.documents.plain import CODE_SUFFIXES
from imprint.documents.sentences import Span, paragraphs, sentences, trimmed
from imprint.errors import BadSetting
from imprint.types import Document, Passage

CountTokens = Callable[[str], int]
Cutter = Callable[[str], list[Span]]

_WIDE_CHAR = r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uff60\U00020000-\U0003ffff]"
_WIDE = re.compile(_WIDE_CHAR + "+")


def split(
    document: Document, *, max_tokens: int = 256, count_tokens: CountTokens | None = None
) -> tuple[Passage, ...]:
    """The document's passages, in order, none longer than `max_tokens`.

    A passage lies under one heading, and `document.text[start:end]` is its text. Each character that is not
    white space and not of a heading's line lies in exactly one passage. A heading with nothing under it is
    text too. `count_tokens` is the base model's own where there is one; else the count is an estimate.
    """
    if max_tokens < 1:
        raise BadSetting(f"max_tokens is {max_tokens}, but a passage needs at least 1. 256 is usual.")
    count = count_tokens or estimated_tokens
    cutters: list[Cutter] = [_lines if _is_code(document) else sentences, _words]
    document_id = document.id
    return tuple(
        Passage(
            document_id=document_id,
            start=start,
            end=end,
            text=document.text[start:end],
            title=document.title,
            heading=section.heading,
            page=document.page_at(start),
            whole=document.text,
        )
        for section in _sections(document)
        for start, end in _spans(document.text, section, cutters, max_tokens, count)
    )


def estimated_tokens(text: str) -> int:
    """About how many tokens a text takes: 4 characters each, 1.5 in Chinese, Japanese and Korean."""
    wide = sum(len(run) for run in _WIDE.findall(text))
    return max(1, round((len(text) - wide) / 4 + wide / 1.5))


def _is_code(document: Document) -> bool:
    # A '#' line is a comment there, and a line is what a sentence is elsewhere.
    return document.source.lower().endswith(CODE_SUFFIXES)


# --- sections ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Section:
    """Text under one heading."""

    heading: str
    start: int
    end: int


def _sections(document: Document) -> Iterator[_Section]:
    """What stands under each heading; a heading above nothing at all stands under its parent."""
    text = document.text
    found = [] if _is_code(document) else list(headings(text))
    first = found[0].start if found else len(text)
    if text[:first].strip():
        yield _Section("", 0, first)
    path: list[Heading] = []
    bare: _Section | None = None
    for heading, following in pairwise([*found, None]):
        assert heading is not None
        path = [above for above in path if above.level < heading.level]
        end = following.start if following else len(text)
        has_text = bool(text[heading.end : end].strip())
        is_leaf = following is None or following.level <= heading.level
        if bare and (has_text or is_leaf and bare.heading != _joined(path)):
            yield bare
            bare = None
        if has_text:
            yield _Section(_joined([*path, heading]), heading.end, end)
        elif is_leaf:
            # Bare headings in a row are one list: a table of contents, or lines set large.
            bare = _Section(_joined(path), bare.start if bare else heading.start, end)
        path.append(heading)
    if bare:
        yield bare


def _joined(path: list[Heading]) -> str:
    return " > ".join(heading.words for heading in path if heading.words)


# --- sections to spans ------------------------------------------------------------------------


def _spans(
    text: str, section: _Section, cutters: list[Cutter], max_tokens: int, count: CountTokens
) -> Iterator[Span]:
    """Paragraphs merged up to the limit; longer ones cut into sentences, those into words."""

    def fits(span: Span) -> bool:
        return count(text[slice(*span)]) <= max_tokens

    def cut(span: Span, cutters: list[Cutter]) -> Iterator[Span]:
        if fits(span):
            yield span
        elif cutters:
            first, *finer = cutters
            pieces = _shifted(first(text[slice(*span)]), span[0])
            yield from _merged((part for piece in pieces for part in cut(piece, finer)), fits)
        else:
            yield from _halved(span, fits)

    whole = _shifted(_paragraphs(text[section.start : section.end]), section.start)
    yield from _merged((part for paragraph in whole for part in cut(paragraph, cutters)), fits)


def _merged(spans: Iterable[Span], fits: Callable[[Span], bool]) -> Iterator[Span]:
    """Neighbours joined while the whole still fits."""
    held: Span | None = None
    for span in spans:
        if held and fits((held[0], span[1])):
            held = (held[0], span[1])
            continue
        if held:
            yield held
        held = span
    if held:
        yield held


def _shifted(spans: list[Span], by: int) -> list[Span]:
    return [(start + by, end + by) for start, end in spans]


def _paragraphs(text: str) -> list[Span]:
    return [trimmed(text, lines[0][0], lines[-1][1]) for lines in paragraphs(text)]


def _lines(text: str) -> list[Span]:
    return [trimmed(text, *line) for lines in paragraphs(text) for line in lines]


def _words(text: str) -> list[Span]:
    """Words; in scripts without spaces between them, single characters."""
    return [found.span() for found in re.finditer(rf"{_WIDE_CHAR}|(?:(?!{_WIDE_CHAR})\S)+", text)]


def _halved(span: Span, fits: Callable[[Span], bool]) -> Iterator[Span]:
    """Pieces of what has no white space at all and is still too long: an encoded image, a key."""
    start, end = span
    if fits(span) or end - start < 2:
        yield span
        return
    middle = (start + end) // 2
    yield from _halved((start, middle), fits)
    yield from _halved((middle, end), fits)
