"""What is new in each document of a family that shares its form: repeated lines are set aside and told once.

Plans, contracts and product pages are often one text with a few other values in it. Written about as they are, most
of the training text would say the same again, and what differs would drown. Boilerplate is found as in the
line-level deduplication of C4 (arXiv 1910.10683), by hashes alone, in one pass over the texts for each use.

A line (or a sentence, where a line has several) is set aside when it stands word for word in three documents, or in
half of a family of at least two. A line whose form is shared and whose numbers or names differ from document to
document ('Deductible: $500', 'Deductible: $2,000') is what the document says for itself, and stays everywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from imprint.documents import sentences
from imprint.synthesis.facts import by_document
from imprint.types import Document, Passage, content_hash

Span = tuple[int, int]

_OFTEN = 3
"""Documents in which a line stands from which on it counts as repeated, whatever else they are."""
_ALIKE = 0.5
"""Share of its lines' forms that a document has in common with another of its family."""
_LOOKED_AT = 50
"""Earlier documents with a form that are compared: a form that more have decides nothing."""
_LABEL = 40
"""Characters up to which a line without a full stop is the label of the next."""
_AROUND = 1000
"""Characters before and after a passage that are read along with it where they are not taught."""
_SLOT = re.compile(r"\d[\d.,:/-]*\d|\d|(?<=[\w,;:] )[^\W\d_a-z][\w'-]*(?: [^\W\d_a-z][\w'-]*)*")
_LEANS = re.compile(r"[\W_]*(?:It|They|He|She|This|These|That|Those|Such|Its|Their|His|Her)\b")


@dataclass(frozen=True, slots=True)
class NewParts:
    """Where a document says something of its own, and where it repeats others."""

    document_id: str
    new: tuple[Span, ...]
    shared: tuple[Span, ...]
    filled: tuple[Span, ...]
    """Those of the new ones whose form other documents share: their numbers or names are what is new."""


def new_parts(documents: Sequence[Document]) -> list[NewParts]:
    """For each document its new and its repeated lines, as character spans in order."""
    template = _template((d.id, _lines(d.text)) for d in documents)
    found = []
    for document in documents:
        new: list[Span] = []
        shared: list[Span] = []
        filled: list[Span] = []
        for start, end in sentences(document.text):
            line = document.text[start:end]
            repeated = template.repeats(line, document.id)
            (shared if repeated else new).append((start, end))
            if not repeated and template.fills(line):
                filled.append((start, end))
        found.append(NewParts(document.id, tuple(new), tuple(shared), tuple(filled)))
    return found


def without_repeats(passages: Sequence[Passage]) -> list[Passage]:
    """The passages with each repeated line in the first of them only; cut where lines were set aside.

    A passage that says nothing new is left out. A piece keeps its place: its offsets are those in its document."""
    template = _template((p.document_id, _lines(p.text)) for p in passages)
    met: set[str] = set()
    kept: list[Passage] = []
    for passage in passages:
        spans = sentences(passage.text)
        keep = []
        for start, end in spans:
            line = passage.text[start:end]
            key = _key(_plain(line))
            keep.append(key not in met or not template.repeats(line, passage.document_id))
            met.add(key)
        if all(keep):
            kept.append(passage)
        elif any(keep):
            kept += _pieces(passage, spans, keep)
    return kept


def set_aside(before: Sequence[Passage], after: Sequence[Passage]) -> dict[str, int]:
    """Counts of what without_repeats() set aside, for the audit's report."""
    stays = {p.id for p in after}
    pieces: dict[str, list[Passage]] = {}
    for piece in after:
        pieces.setdefault(piece.document_id, []).append(piece)
    touched = [p for p in before if p.id not in stays]
    cut = sum(any(p.start <= x.start < p.end for x in pieces.get(p.document_id, ())) for p in touched)
    lines = [sum(len(sentences(p.text)) for p in passages) for passages in (before, after)]
    characters = [sum(len(p.text) for p in passages) for passages in (before, after)]
    return {
        "passages_unchanged": len(before) - len(touched),
        "passages_cut": cut,
        "passages_left_out": len(touched) - cut,
        "lines_set_aside": lines[0] - lines[1],
        "characters_set_aside": characters[0] - characters[1],
    }


# --- what is not taught -----------------------------------------------------------------------


def widened(passages: Iterable[Passage]) -> dict[str, Passage]:
    """The passages by their ids, each with what its document says around it that none of them has."""
    found: dict[str, Passage] = {}
    for own, gaps in _with_gaps(passages):
        for passage, (before, _), (_, after) in zip(own, gaps, gaps[1:], strict=False):
            start = max(min(before, passage.start), passage.start - _AROUND)
            end = min(max(after, passage.end), passage.end + _AROUND)
            text = passage.whole[start:end]
            is_more = len("".join(text.split())) > len("".join(passage.text.split()))
            found[passage.id] = replace(passage, start=start, end=end, text=text) if is_more else passage
    return found


def further_off(passages: Iterable[Passage]) -> list[Passage]:
    """What the passages' documents say too, where widened() does not reach."""
    found: list[Passage] = []
    for own, gaps in _with_gaps(passages):
        whole = own[0].whole
        for before, after in gaps:
            # They overlap, so that each sentence stands in one of them.
            for start in range(before, after, _AROUND) if whole and after - before > _AROUND else ():
                end = min(start + 2 * _AROUND, len(whole))
                found.append(replace(own[0], start=start, end=end, text=whole[start:end], heading=""))
    return found


def _with_gaps(passages: Iterable[Passage]) -> Iterator[tuple[list[Passage], list[Span]]]:
    """Each document's passages in order, and the spans before, between and after them."""
    for found in by_document(passages):
        own = sorted(found, key=lambda p: p.start)
        yield own, list(zip([0, *(p.end for p in own)], [*(p.start for p in own), len(own[0].whole)], strict=True))


# --- the template -----------------------------------------------------------------------------


@dataclass
class _Template:
    """In how many documents each line and each form of a line stands."""

    documents: Counter[str] = field(default_factory=Counter)
    """By line: documents that have it."""
    wordings: dict[str, str] = field(default_factory=dict)
    """By form: the one wording met, or '' where there were several."""
    forms: Counter[str] = field(default_factory=Counter)
    """By form: documents that have it."""
    in_family: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By line and family: documents of it that have the line."""
    family: Mapping[str, str] = field(default_factory=dict)
    """By document: the first document of its family."""
    sizes: Counter[str] = field(default_factory=Counter)
    """By family: its documents."""

    def repeats(self, line: str, document_id: str) -> bool:
        """Whether a line is said word for word by enough documents, and no document fills its form otherwise."""
        if self.wordings.get(_key(_form(line))) == "":
            return False
        key, family = _key(_plain(line)), self.family.get(document_id, document_id)
        size = self.sizes[family]
        often = self.documents[key] >= _OFTEN
        return often or (size >= 2 and self.in_family[key, family] >= max(2, size / 2))

    def fills(self, line: str) -> bool:
        """Whether other documents have the line's form with other numbers or names."""
        form = _key(_form(line))
        return self.wordings.get(form) == "" and self.forms[form] >= 2


def _template(texts: Iterable[tuple[str, list[str]]]) -> _Template:
    """Counts over (document id, lines); several stretches may come from one document."""
    lines_of: dict[str, dict[str, str]] = {}
    found = _Template()
    for document_id, lines in texts:
        own = lines_of.setdefault(document_id, {})
        for line in lines:
            own[_key(_plain(line))] = _key(_form(line))
    found.family = _families({i: set(own.values()) for i, own in lines_of.items()})
    found.sizes = Counter(found.family.values())
    for document_id, own in lines_of.items():
        found.documents.update(own.keys())
        found.forms.update(set(own.values()))
        found.in_family.update((key, found.family[document_id]) for key in own)
        for key, form in own.items():
            if found.wordings.setdefault(form, key) != key:
                found.wordings[form] = ""
    return found


def _families(forms: Mapping[str, set[str]]) -> dict[str, str]:
    """For each document the first one that it is of a kind with: half of the shorter one's forms are in the other.

    Only documents that share a form are ever compared."""
    head = {i: i for i in forms}

    def first_of(i: str) -> str:
        while head[i] != i:
            head[i] = head[head[i]]
            i = head[i]
        return i

    holders: dict[str, list[str]] = {}
    for i, own in forms.items():
        shared = Counter(j for form in own for j in holders.get(form, ()))
        for j, count in shared.items():
            if count >= max(2, _ALIKE * min(len(own), len(forms[j]))):
                head[first_of(i)] = first_of(j)
        for form in own:
            among = holders.setdefault(form, [])
            if len(among) < _LOOKED_AT:
                among.append(i)
    return {i: first_of(i) for i in forms}


# --- lines ------------------------------------------------------------------------------------


def _lines(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


def _plain(line: str) -> str:
    """A line without what the eye passes over: case, white space, marks at its ends."""
    return " ".join(line.lower().split()).strip(" *_#>|-•.:")


def _form(line: str) -> str:
    """A line with its numbers and names masked."""
    return _plain(_SLOT.sub("§", " ".join(line.split())))


def _key(text: str) -> str:
    return content_hash(text)


# --- passages cut -----------------------------------------------------------------------------


def _pieces(passage: Passage, spans: Sequence[Span], keep: Sequence[bool]) -> Iterator[Passage]:
    """The stretches of kept lines; a label, and what a pronoun stands for, stay with what follows them."""
    keep = list(keep)
    for i in range(len(spans) - 2, -1, -1):
        line, after = (passage.text[slice(*span)] for span in (spans[i], spans[i + 1]))
        is_label = len(line) <= _LABEL and line.rstrip(" *_|")[-1:] not in (".", "!", "?", ";", "")
        keep[i] = keep[i] or (keep[i + 1] and (is_label or _LEANS.match(after) is not None))
    start = -1
    for i, (begin, end) in enumerate(spans):
        if keep[i] and start < 0:
            start = begin
        if keep[i] and (i + 1 == len(spans) or not keep[i + 1]):
            text = passage.text[start:end]
            if sum(c.isalpha() for c in text) >= 3:
                yield replace(passage, start=passage.start + start, end=passage.start + end, text=text)
            start = -1
