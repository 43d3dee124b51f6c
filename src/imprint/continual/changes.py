"""A folder compared with a version's documents, and the passages that came through unchanged.

A document is its text: one whose text is the same is unchanged, wherever it lies now. Else the file of the same
name is its next edition, or a file that has most of its lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from imprint.types import Document, Example, Passage

_SAME_LINES = 0.5
"""Share of a withdrawn document's lines with which a new file of another name is its next edition."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of the documents."""

    new: tuple[Document, ...] = ()
    changed: tuple[tuple[Document, Document], ...] = ()
    """Each with its next edition."""
    withdrawn: tuple[Document, ...] = ()
    unchanged: tuple[Document, ...] = ()
    """As they are called now."""

    @property
    def any(self) -> bool:
        """Whether there is anything to teach or to take back."""
        return bool(self.new or self.changed or self.withdrawn)

    @property
    def old_of(self) -> dict[str, str]:
        """By the id of each document that is kept, the id of the edition before; its own where it is unchanged."""
        return {d.id: d.id for d in self.unchanged} | {new.id: old.id for old, new in self.changed}

    def counts(self) -> dict[str, int]:
        names = ("new", "changed", "withdrawn", "unchanged")
        return {name: len(getattr(self, name)) for name in names}

    def lines(self) -> list[str]:
        """The same for a person."""
        counts = ", ".join(f"{n} {name}" for name, n in self.counts().items())
        named = [("new", self.new), ("changed", [new for _, new in self.changed]), ("withdrawn", self.withdrawn)]
        return [f"Documents: {counts}.", *(f"  {word}: {_listed(some)}" for word, some in named if some)]


def compare(old: Sequence[Document], new: Sequence[Document]) -> Changes:
    """What is new, changed, withdrawn and unchanged."""
    before = {d.id: d for d in old}
    unchanged = [d for d in new if d.id in before]
    left = {d.id: d for d in old if d.id not in {u.id for u in unchanged}}
    come: list[Document] = []
    changed: list[tuple[Document, Document]] = []
    by_source = {(d.owner, d.source): d for d in left.values()}
    for document in new:
        if document.id in before:
            continue
        edition = by_source.get((document.owner, document.source))
        if edition is not None and edition.id in left:
            changed.append((left.pop(edition.id), document))
        else:
            come.append(document)
    for document in list(come):  # moved and edited
        likely = max(left.values(), key=lambda d: _shared(d, document), default=None)
        if likely is not None and likely.owner == document.owner and _shared(likely, document) >= _SAME_LINES:
            changed.append((left.pop(likely.id), document))
            come.remove(document)
    return Changes(tuple(come), tuple(changed), tuple(left.values()), tuple(unchanged))


@dataclass(frozen=True, slots=True)
class Carried:
    """Passages of two editions."""

    now: Mapping[str, Passage]
    """By the id of each old passage that still stands, what it is now."""
    fresh: tuple[Passage, ...]
    """Those that must be written about."""

    def examples(self, old: Iterable[Example]) -> Iterator[Example]:
        """The old training text of what still stands, with the ids that its passages have now.

        An example of which one passage is gone is gone with it."""
        for example in old:
            if all(id in self.now for id in example.passages):
                yield replace(example, passages=tuple(self.now[id].id for id in example.passages))


def carry(old: Sequence[Passage], new: Sequence[Passage], changes: Changes) -> Carried:
    """Which passages still stand: those whose words, title and headings are the same, in the same document or its
    next edition. A passage that stands several times in a document is carried as often."""
    standing: dict[tuple[str, str, str, str], list[Passage]] = defaultdict(list)
    for passage in new:
        edition = changes.old_of.get(passage.document_id)
        if edition is not None:
            standing[edition, passage.title, passage.heading, passage.text].append(passage)
    now: dict[str, Passage] = {}
    for passage in old:
        same = standing.get((passage.document_id, passage.title, passage.heading, passage.text))
        if same:
            now[passage.id] = same.pop(0)
    kept = {passage.id for passage in now.values()}
    return Carried(now, tuple(p for p in new if p.id not in kept))


def _shared(one: Document, other: Document) -> float:
    """Share of the first one's lines that the other has too."""
    lines = {line.strip() for line in one.text.splitlines() if line.strip()}
    theirs = {line.strip() for line in other.text.splitlines()}
    return len(lines & theirs) / len(lines) if lines else 0.0


def _listed(documents: Sequence[Document]) -> str:
    shown = ", ".join(d.source for d in documents[:6])
    return shown if len(documents) <= 6 else f"{shown} and {len(documents) - 6} more"
