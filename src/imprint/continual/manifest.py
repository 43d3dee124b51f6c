"""The manifest of a version: which documents it was taught, since when each holds, who brought it, in which shard.

It is the truth that a version is held to: whatever way it was made, it should answer as one taught from the
manifest alone. Editions that hold no more stay in it, with the day on which they ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from imprint.continual.changes import Changes
from imprint.types import Document, Version


@dataclass(frozen=True, slots=True)
class Entry:
    """One edition of one document."""

    document: str
    """Its id."""
    source: str
    title: str
    since: str
    """ISO date from which it holds."""
    until: str | None = None
    """ISO date from which it does not; None while it does."""
    owner: str = ""
    shard: int | None = 0
    """None where nothing of it is taught, so that no adapter knows it."""


def of_version(version: Version, documents: Sequence[Document]) -> list[Entry]:
    """The manifest of a version; one that was taught before there were any is given that of its documents."""
    kept = version.details.get("manifest")
    if kept is not None:
        return [Entry(**row) for row in kept]
    return [_entry(d, version.created_at[:10], 0) for d in documents]


def first(documents: Sequence[Document], since: str, shard_of: Mapping[str, int]) -> list[Entry]:
    """The manifest of a first version. `shard_of`: by document id; what is not there is not taught."""
    return [_entry(d, since, shard_of.get(d.id)) for d in documents]


def following(entries: Sequence[Entry], changes: Changes, since: str, shard_of: Mapping[str, int]) -> list[Entry]:
    """The manifest after changes that hold from a day on: what was replaced or withdrawn ends there."""
    entries = _called_as_now(entries, changes)
    starts = {old.id: _began(old, new, since) for old, new in changes.changed}
    ended = starts | {d.id: since for d in changes.withdrawn}
    here = {d.id: d for d in changes.unchanged}
    kept = [_moved(e, here, shard_of) if e.until is None else e for e in entries]
    kept = [replace(e, until=ended[e.document]) if e.until is None and e.document in ended else e for e in kept]
    next_ones = (
        replace(_entry(new, since, shard_of.get(new.id)), since=starts[old.id]) for old, new in changes.changed
    )
    return [*kept, *next_ones, *(_entry(d, since, shard_of.get(d.id)) for d in changes.new)]


def _began(old: Document, new: Document, since: str) -> str:
    """From when the next edition of a document holds. A date that stood there before its text changed tells of the
    edition before."""
    return since if new.valid_from in (None, old.valid_from) else str(new.valid_from)


def _called_as_now(entries: Sequence[Entry], changes: Changes) -> list[Entry]:
    """All editions of a document by the path that it has now: what is forgotten by it is forgotten in all."""
    now = {d.id: d.source for d in changes.unchanged} | {old.id: new.source for old, new in changes.changed}
    paths = {(e.source, e.owner): now[e.document] for e in entries if e.until is None and e.document in now}
    return [replace(e, source=paths.get((e.source, e.owner), e.source)) for e in entries]


def current(entries: Sequence[Entry]) -> list[Entry]:
    """Those that hold now."""
    return [e for e in entries if e.until is None]


def held_since(entries: Sequence[Entry]) -> str:
    """The day from which all of it holds: that on which the last of its editions began or ended."""
    return max(e.until or e.since for e in entries)


def begun(entries: Sequence[Entry]) -> dict[str, str]:
    """By document id the day from which the first edition of that document holds."""
    first: dict[str, str] = {}
    for e in entries:
        first[e.source] = min(e.since, first.get(e.source, e.since))
    return {e.document: first[e.source] for e in entries}


def as_json(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [asdict(e) for e in entries]


def _entry(document: Document, since: str, shard: int | None) -> Entry:
    held = document.valid_from or since
    return Entry(document.id, document.source, document.title, held, None, document.owner, shard)


def _moved(entry: Entry, here: Mapping[str, Document], shard_of: Mapping[str, int]) -> Entry:
    """The entry of an unchanged document, by the name it has now."""
    document = here.get(entry.document)
    if document is None:
        return entry
    return replace(entry, source=document.source, title=document.title, shard=shard_of.get(document.id))
