"""Where sentences begin and end.

Lines first: a list's item, a table's row and a heading end at their line's end, while the lines of a
paragraph that was wrapped at some width are one stretch of prose. Then punctuation, within each stretch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from imprint.documents.headings import fences, is_inside
from imprint.documents.reading import listed

Span = tuple[int, int]


def sentences(text: str) -> list[Span]:
    """Start and end of each sentence, in order; together they hold every character but white space."""
    return [sentence for stretch in _stretches(text) for sentence in _split_stretch(text, *stretch)]


# --- lines to stretches -----------------------------------------------------------------------

_ITEM = re.compile(
    r"[ \t>]*(?:[-*+•◦▪‣●–—][ \t]+|\(?\d{1,3}[.)][ \t]+|\(?[a-zA-Z][)][ \t]+|\([ivx]{1,4}\)[ \t]+)"
)
_HEADING = re.compile(r"[ \t]{0,3}#{1,6}[ \t]")
_ROW = re.compile(r".*(?:\t|[ ]\|[ ]|^\|)")
_RULE = re.compile(r"[ \t]*(?:[-=*_~+|:][ \t]*){3,}$|[ \t]*(?:```|~~~)")
_FIELD = re.compile(r"[ \t]*[\w\"'][\w .\"'()/-]{0,40}:[ \t]+\S")
_ENDED = re.compile(r".*[.!?:;。！？…][\"'”’»)\]*_`]*[ \t]*$")


def paragraphs(text: str) -> Iterator[list[Span]]:
    """The lines of each run of lines without a blank one between them."""
    lines: list[Span] = []
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        if not text[start:end].isspace() and start < end:
            lines.append((start, end))
        elif lines:
            yield lines
            lines = []
        start = end + 1
    if lines:
        yield lines


def _stretches(text: str) -> Iterator[Span]:
    """Runs of prose, each without the white space around it."""
    code = fences(text)
    for lines in paragraphs(text):
        start = lines[0][0]
        width = max(end - begin for begin, end in lines)
        for before, line in pairwise(lines):
            in_code = is_inside(line[0], code)
            if in_code or not _goes_on(text[slice(*before)], text[slice(*line)], width):
                yield trimmed(text, start, before[1])
                start = line[0]
        yield trimmed(text, start, lines[-1][1])


def _goes_on(before: str, line: str, width: int) -> bool:
    """True when the line is the rest of the one before, wrapped there for want of room."""
    alone = (_HEADING, _ROW, _RULE)
    if any(kind.match(before) or kind.match(line) for kind in alone) or _ITEM.match(line):
        return False
    if _FIELD.match(line) and _FIELD.match(before):
        return False
    words = line.split(None, 1)
    if words[0][0].islower():
        return True
    # A break is meant where the next word would have fitted well within the paragraph's width.
    length = len(words[0]) if words[0][0] < "\u2e80" else 1
    fits = len(before.rstrip()) + 1 + length <= 0.85 * width
    return not fits and not (before.endswith("  ") and _ENDED.match(before))


def trimmed(text: str, start: int, end: int) -> Span:
    """The span without the white space at its ends."""
    whole = text[start:end]
    return end - len(whole.lstrip()), start + len(whole.rstrip())


# --- stretches to sentences -------------------------------------------------------------------

_STOP = re.compile(
    # Possessive, and only from the head of a run: a page of dots costs one look at each.
    r"(?<![.!?…؟۔])(?P<mark>[.!?…؟۔]++|[।॥])(?P<close>[\"'”’»)\]*_`]*+(?:\[\d+\])*+[\"'”’»)*_`]*+)(?=\s)"
    r"|[。！？｡]+[」』”’）》\"']*"
)

_NEVER_LAST = frozenset(
    listed(
        "mr mrs ms mx dr prof rev hon st sen rep gov gen col capt lt sgt maj adm cmdr pres messrs mme mlle"
        " vs v e.g i.e eg ie cf al viz approx ca incl resp esp fig figs eq eqs vol vols ed eds mt ft"
        " z.b d.h u.a bzw nr abs hr hrn fr evtl ggf vgl s.o sra srta dra pág núm p.ej"
    )
)
"""After these the sentence goes on, whatever follows."""

_BEFORE_NUMBER = frozenset(listed("no nos p pp sec secs art arts para paras ch chap app ex tab pt rule §"))
"""These are abbreviations before a number only: 'No. 5', but 'He said no.'"""

_MAYBE_LAST = frozenset(
    listed(
        "inc ltd co corp llc plc bros gmbh ag kg etc jr sr esq ph.d m.d b.a m.a b.sc m.sc d.c u.s u.k"
        " u.n e.u u.s.a a.m p.m b.c a.d est dept div univ assn jan feb mar apr jun jul aug sept sep"
        " oct nov dec mon tue tues wed thu thur thurs fri sat usw usf op cit n.v s.a s.p.a l.p l.l.c"
        " n.a"
    )
)
"""After these a sentence ends only if the next word is one that sentences like to begin with."""

_BEGINNERS = frozenset(
    listed(
        "The This That These Those There Then Thus It Its He She We They You I His Her Our Their My"
        " Your In On At As An A And But Or So For From If When While Where Who What Why How However"
        " Although Though Because Since After Before During With Without To By Under Over Both Each"
        " Every All Any Some Most Many No Not Also Moreover Furthermore Additionally Meanwhile Other"
        " Another Such One Please See Is Are Was Were Do Does Did Has Have Can Could Will Would Should"
        " May Der Die Das Ein Eine Es Er Sie Wir Le La Les Il Elle El Los Las"
    )
)

_LABEL = re.compile(
    r"[\W_]*(?:(?:item|section|note|part|article|chapter|step|figure|table|appendix|exhibit|schedule|rule|question)"
    r"\s+)?(?:\d+(?:\.\d+)*[a-z]?|[a-z]|[ivxlc]+)$",
    re.IGNORECASE,
)
"""'3', '7A', 'Item 1A', 'IV': what numbers the sentence rather than being one."""

_GERMAN_MONTH = re.compile(
    r"(?:Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember)\b"
)


def _split_stretch(text: str, start: int, end: int) -> Iterator[Span]:
    begin = start
    for stop in _STOP.finditer(text, start, end):
        after = stop.end()
        if stop.start() < begin or not _ends_sentence(text, begin, stop, end):
            continue
        yield begin, after
        begin = after
        while begin < end and text[begin].isspace():
            begin += 1
    if begin < end:
        yield begin, end


def _ends_sentence(text: str, begin: int, stop: re.Match[str], end: int) -> bool:
    mark = stop.group("mark")
    if mark is None or mark in "।॥؟۔":
        return True
    following = re.compile(r"\s*[\"'“”‘’«»(\[*_`¿¡]*").match(text, stop.end(), end)
    at = following.end() if following else stop.end()
    if at >= end:
        return True
    if text[at].islower():
        return False
    return mark != "." or _dot_ends_sentence(text, begin, stop, at)


def _dot_ends_sentence(text: str, begin: int, stop: re.Match[str], at: int) -> bool:
    """Whether a single dot is a full stop; `at` is where the next word begins."""
    short = stop.start() - begin < 40
    if short and _LABEL.match(text[begin : stop.start()]) and not stop.group("close").strip("*_`"):
        return False
    found = re.search(r"[^\s\"'“”‘’«»(\[*_`/—–]+$", text[max(begin, stop.start() - 40) : stop.start()])
    word = found.group() if found else ""
    low = word.lower()
    if low in _NEVER_LAST and not stop.group("close"):
        return False
    if low in _BEFORE_NUMBER:
        return not text[at].isdigit()
    if word.isdigit() and len(word) <= 2:
        return not _GERMAN_MONTH.match(text, at)
    initial = len(word) == 1 and word.isupper() or bool(re.fullmatch(r"(?:[^\W\d_]\.)+[^\W\d_]", word))
    if initial or low in _MAYBE_LAST:
        next_word = re.compile(r"[^\W\d_]*").match(text, at)
        return bool(next_word and next_word.group() in _BEGINNERS)
    return True
