"""Documents brought to an adapter: held against its own, and kept where the gate puts them."""

from __future__ import annotations

from pathlib import Path

from imprint import documents
from imprint.continual import pending
from imprint.continual.admission import Gate, admit, owned
from imprint.continual.pending import Brought, own_adapter
from imprint.corpus import Corpus
from imprint.documents import split
from imprint.registry import Registry
from imprint.types import Passage


def bring(
    home: Path, name: str, path: Path, owner: str, *, now: str, settings: Gate | None = None
) -> tuple[list[Brought], str]:
    """What became of each document of a file or folder, and what was read, in words.

    Trusted is what the latest version of the adapter was taught and what was promoted since, but for what the same
    person brought. Raises NoSuchAdapter, BadName, NothingToTeach or DocumentError before anything is kept."""
    own_adapter(name, owner)
    trusted = trusted_passages(home, name, owner)
    loaded = documents.load(path)
    theirs = [owned(document, owner) for document in loaded.documents]
    again = {document.source for document in theirs}
    before = pending.pending(home, name, owner)
    admission = admit(
        theirs, trusted=trusted, settings=settings, earlier=[d for d in before if d.source not in again]
    )
    rows, summary = pending.keep(home, name, admission, now=now), loaded.summary()
    ids = {d.source: d.id for d in before}
    if newer := [r for r in rows if r.state == "pending" and ids.get(r.document.source, r.id) != r.id]:
        summary += f"\nNext editions of what {owner} brought before: {', '.join(r.document.source for r in newer)}"
    return rows, summary


def trusted_passages(home: Path, name: str, owner: str) -> list[Passage]:
    """The passages that what somebody brings is held against: of all that is the adapter's own, but for theirs."""
    kept = Corpus.kept(home, Registry(home).latest(name).corpus_hash)
    every = [*(kept.documents if kept else ()), *pending.promoted(home, name)]
    by_id = {d.id: d for d in every if d.owner != owner}
    return [passage for document in by_id.values() for passage in split(document)]
