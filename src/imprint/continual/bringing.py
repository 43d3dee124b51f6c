"""Documents brought to an adapter: held against its own, and kept where the gate puts them."""

from __future__ import annotations

from pathlib import Path

from imprint import documents
from imprint.continual import pending
from imprint.continual.admission import Gate, admit, owned
from imprint.continual.own_words import without_own_words
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
    again = {without_own_words(document)[0].id for document in theirs}
    earlier = [d for d in pending.pending(home, name, owner) if d.id not in again]
    admission = admit(theirs, trusted=trusted, settings=settings, earlier=earlier)
    return pending.keep(home, name, admission, now=now), loaded.summary()


def trusted_passages(home: Path, name: str, owner: str) -> list[Passage]:
    """The passages that what somebody brings is held against: of all that is the adapter's own, but for theirs."""
    kept = Corpus.kept(home, Registry(home).latest(name).corpus_hash)
    every = [*(kept.documents if kept else ()), *pending.promoted(home, name)]
    by_id = {d.id: d for d in every if d.owner != owner}
    return [passage for document in by_id.values() for passage in split(document)]
