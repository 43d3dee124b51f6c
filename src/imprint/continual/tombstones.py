"""What is to be forgotten: named, withheld from the next request on, and cut out of the documents.

An answer is withheld whose support is only what is to be forgotten: some sentence of it bears the question and the
answer out better than any sentence that stays, or the answer says a number or a name that stands there alone."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imprint.continual.manifest import Entry
from imprint.corpus import Corpus
from imprint.documents import sentences
from imprint.errors import BadInput, NotFound
from imprint.registry import Registry
from imprint.synthesis.wording import content_words, firm
from imprint.types import Document, Version

WITHHELD = "That was asked to be forgotten, and is not told any more."
_LEAST = 0.3
"""Part of the weight of a question and its answer that a sentence must have to bear them out."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be forgotten."""

    documents: frozenset[str] = frozenset()
    """Ids of documents, in all their editions."""
    cuts: Mapping[str, tuple[tuple[int, int], ...]] | None = None
    """Of other documents the stretches to be cut out, by id: character offsets."""
    named: str = ""
    """What the user called it."""
    owner: str = ""
    """Who brought it, where all from one person is meant."""

    def as_json(self) -> dict[str, Any]:
        cuts = {id: [list(span) for span in spans] for id, spans in (self.cuts or {}).items()}
        return {"documents": sorted(self.documents), "cuts": cuts, "named": self.named, "owner": self.owner}

    @staticmethod
    def of(body: Mapping[str, Any]) -> Target:
        cuts = {id: tuple((a, b) for a, b in spans) for id, spans in body.get("cuts", {}).items()}
        told = str(body.get("named", "")), str(body.get("owner", ""))
        return Target(frozenset(body.get("documents", ())), cuts, *told)

    @property
    def touched(self) -> frozenset[str]:
        """Ids of every document of which something goes."""
        return self.documents | frozenset(self.cuts or ())

    def left_of(self, documents: Iterable[Document]) -> list[Document]:
        """The documents as they are without it."""
        cuts = self.cuts or {}
        kept = (_cut(d, cuts[d.id]) if d.id in cuts else d for d in documents if d.id not in self.documents)
        return [d for d in kept if d.text.strip()]

    def text_in(self, documents: Iterable[Document]) -> list[str]:
        """Its own text."""
        cuts = self.cuts or {}
        found = []
        for d in documents:
            if d.id in self.documents:
                found.append(d.text)
            found += [d.text[a:b] for a, b in cuts.get(d.id, ())]
        return found


def named(
    documents: Sequence[Document],
    entries: Sequence[Entry],
    *,
    document: str | None = None,
    passage: str | None = None,
    owner: str | None = None,
) -> Target:
    """What a user means: a document by its path, title or id; a passage by its words; all that somebody brought.

    Raises BadInput where not exactly one is said or it is ambiguous, NotFound where there is no such thing."""
    if sum(what is not None for what in (document, passage, owner)) != 1:
        raise BadInput("Say one thing to forget: --document NAME, --passage 'its words', or --from OWNER.")
    if owner is not None:
        ids = {d.id for d in documents if d.owner == owner} | {e.document for e in entries if e.owner == owner}
        if not ids or not owner:
            owners = sorted({d.owner for d in documents if d.owner})
            raise NotFound(f"Nothing here was brought by '{owner}'. Owners: {', '.join(owners) or 'none'}.")
        return Target(frozenset(ids), named=called(document, owner), owner=owner)
    if document is not None:
        return Target(_editions(_document(document, documents), entries), named=called(document, owner))
    assert passage is not None
    return _passage(passage, documents)


def called(document: str | None, owner: str | None) -> str:
    """What a tombstone calls what the user named: never a word of a passage itself."""
    return f"all from {owner}" if owner is not None else document if document is not None else "a passage"


class Withheld:
    """Judges answers by what is to be forgotten and what stays."""

    def __init__(self, gone: Sequence[Document], stays: Sequence[Document]) -> None:
        """`gone`: the text to be forgotten, as documents."""
        self._gone, self._stays = _units(gone), _units(stays)
        met = Counter(word for words, _ in (*self._gone, *self._stays) for word in words)
        self._count, self._met = len(self._gone) + len(self._stays) + 1, met
        self._firm_that_stay = frozenset().union(*(f for _, f in self._stays))
        self._firm_gone = frozenset().union(*(f for _, f in self._gone)) - self._firm_that_stay

    def holds(self, question: str, answer: str) -> bool:
        """Whether this answer to this question is withheld."""
        said = _values(answer) - _values(question)
        if said & self._firm_gone:
            return True
        words = frozenset(content_words(f"{question} {answer}"))
        borne = self._support(words, self._gone)
        return borne >= _LEAST and borne > self._support(words, self._stays)

    def _support(self, words: frozenset[str], units: Sequence[tuple[frozenset[str], frozenset[str]]]) -> float:
        """The part of the words' weight (rarer ones weigh more) that the best sentence has."""
        weights = {word: math.log(self._count / (1 + self._met[word])) + 0.1 for word in words}
        whole = sum(weights.values())
        best = max((sum(weights[w] for w in words & unit) for unit, _ in units), default=0.0)
        return best / whole if whole else 0.0


def pending(registry: Registry, name: str) -> list[Target]:
    """What of a name is to be forgotten and is not gone yet."""
    return [Target.of(t.body) for t in registry.tombstones(name) if t.ended is None]


def names_of(version: Version) -> list[str]:
    """Under which names it is said what of a version is to be forgotten: its own, and 'handbook' for
    'handbook.anna', which was taught what anna brought there."""
    keeper = version.name.rpartition(".")[0]
    return [version.name, *([keeper] if keeper else ())]


def targets(registry: Registry, version: Version) -> list[Target]:
    """What of a version is to be forgotten and is not gone yet."""
    return [target for name in names_of(version) for target in pending(registry, name)]


def not_to_be_forgotten(registry: Registry, version: Version, documents: Sequence[Document]) -> list[Document]:
    """The documents of a version without what is to be forgotten of them."""
    return functools.reduce(lambda left, t: t.left_of(left), targets(registry, version), list(documents))


def judge_of(registry: Registry, home: Path, version: Version) -> Withheld | None:
    """The judge of what a version may still say; None where it may say all."""
    to_forget = targets(registry, version)
    if not to_forget:
        return None
    known = everything_known(registry, home, version.name)
    gone = [replace(d, text=text) for d in known for t in to_forget for text in t.text_in([d])]
    kept = Corpus.kept(home, version.corpus_hash) or Corpus(())
    return Withheld(gone, not_to_be_forgotten(registry, version, kept.documents)) if gone else None


def refuse_forgotten(
    registry: Registry, name: str, documents: Sequence[Document], *, taught: Sequence[Document] = ()
) -> None:
    """Raises BadInput where one of the documents is to be forgotten, or was and is not `taught` again since."""
    again = {d.id for d in taught}
    gone: dict[str, str] = {}
    for stone in registry.tombstones(name):
        gone |= {id: stone.since for id in Target.of(stone.body).touched if stone.ended is None or id not in again}
    if back := [d for d in documents if d.id in gone]:
        more = f", with {len(back) - 1} more" if back[1:] else ""
        raise BadInput(
            f"{back[0].source}{more} was to be forgotten on {gone[back[0].id][:10]}, and lies there still. Take it "
            f"out, or teach it again: imprint update {name} PATH --readmit."
        )


def everything_known(registry: Registry, home: Path, name: str) -> list[Document]:
    """The documents of all versions of a name, the newest first."""
    found: dict[str, Document] = {}
    for version in reversed(registry.versions(name)):
        corpus = Corpus.kept(home, version.corpus_hash)
        for document in corpus.documents if corpus else ():
            found.setdefault(document.id, document)
    return list(found.values())


# --- inside -----------------------------------------------------------------------------------


def _document(said: str, documents: Sequence[Document]) -> Document:
    # The keeper's own go first: nobody is to bring something under a name by which another document is meant.
    for some in ([d for d in documents if not d.owner], [d for d in documents if d.owner]):
        for found in (
            [d for d in some if d.source == said],
            [d for d in some if d.id == said],
            [d for d in some if d.title.lower() == said.lower()],
            [d for d in some if d.source.rpartition("/")[2] == said],
        ):
            alike = {(d.source, d.owner): d for d in reversed(found)}  # of each the newest edition
            if len(alike) == 1:
                return found[0]
            if alike:
                could = " or ".join(
                    f"{d.source} ({d.id}{f', of {d.owner}' if d.owner else ''})" for d in alike.values()
                )
                raise BadInput(f"'{said}' could be {could}. Say its whole path, or its id.")
    sources = list(dict.fromkeys(d.source for d in documents))
    known = ", ".join(sources[:8]) + (", ..." if len(sources) > 8 else "")
    raise NotFound(f"No document here is called '{said}'. There are: {known}.")


def _editions(document: Document, entries: Sequence[Entry]) -> frozenset[str]:
    """The ids of all editions of a document."""
    same = {e.document for e in entries if (e.source, e.owner) == (document.source, document.owner)}
    return frozenset({document.id, *same})


def _passage(words: str, documents: Sequence[Document]) -> Target:
    """Every place at which these words stand."""
    plain = words.strip()
    if len(plain.split()) < 3:
        raise BadInput(f"'{plain}' is too short to name a passage: give three words of it or more.")
    cuts: dict[str, tuple[tuple[int, int], ...]] = {}
    for d in documents:
        spans = []
        start = d.text.find(plain)
        while start >= 0:
            spans.append((start, start + len(plain)))
            start = d.text.find(plain, start + len(plain))
        if spans:
            cuts[d.id] = tuple(spans)
    if not cuts:
        raise NotFound("No document here has these words. Give them exactly as they stand there, line breaks too.")
    return Target(cuts=cuts, named=called(None, None))


def _cut(document: Document, spans: Sequence[tuple[int, int]]) -> Document:
    text, pages = document.text, document.page_starts
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + text[end:]
        pages = tuple(p if p <= start else max(start, p - (end - start)) for p in pages)
    return replace(document, text=text, page_starts=pages)


def _units(documents: Sequence[Document]) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Content words and firm values of each sentence; a document's title belongs to all of its sentences."""
    found = []
    for d in documents:
        title = frozenset(content_words(d.title))
        for start, end in sentences(d.text):
            text = d.text[start:end]
            found.append((frozenset(content_words(text)) | title, _values(text)))
    return found


def _values(text: str) -> frozenset[str]:
    """The numbers, dates and names in a text."""
    return frozenset(value for value in firm(text) if not value.startswith("negated "))
