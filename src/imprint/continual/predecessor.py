"""The version before, as the next one follows from it: which adapter knows what, and what of that still stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imprint.continual import shards as sharding
from imprint.continual.changes import Carried, Changes
from imprint.continual.histories import History
from imprint.continual.manifest import Entry
from imprint.run_folder import RunFolder
from imprint.types import Document, Example
from imprint.writing import is_silent


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A version's adapters, and what became of their documents."""

    runs: Path
    """The folder of the home's runs."""
    entries: Sequence[Mapping[str, Any]]
    """Of each adapter (entries.py)."""
    manifest: Sequence[Entry]
    documents: Sequence[Document]
    """Those of the next version."""
    changes: Changes
    carried: Carried
    silent: Sequence[tuple[str, str]]
    """What of its passages is not taught any more (writing.is_silent)."""

    def shard_of(self, way: str) -> dict[str, int]:
        """By document id its shard in the next version, made in this way."""
        before = {id: place for place, e in enumerate(self.entries) for id in e["documents"]}
        old_of = self.changes.old_of
        kept = [d for d in self.documents if old_of.get(d.id) in before]
        places = {d.id: before[old_of[d.id]] for d in kept}
        new = [d for d in self.documents if d.id not in places]
        if way == "shards" or not places:
            return sharding.numbered(sharding.joined(places, kept, new))
        sizes = Counter(dict.fromkeys(places.values(), 0))
        for d in kept:
            sizes[places[d.id]] += len(d.text)
        smallest = min(sizes, key=lambda place: (sizes[place], place))
        return sharding.numbered(places | {d.id: smallest for d in new})

    def heirs(self, shard_of: Mapping[str, int]) -> dict[int, int]:
        """By new shard the old one that most of its documents come from."""
        before = {id: place for place, e in enumerate(self.entries) for id in e["documents"]}
        old_of = self.changes.old_of
        found: dict[int, Counter[int]] = {}
        for document, place in shard_of.items():
            if (old := before.get(old_of.get(document, ""))) is not None:
                found.setdefault(place, Counter())[old] += 1
        return {place: counted.most_common(1)[0][0] for place, counted in found.items()}

    def place_of(self, history: History, shard_of: Mapping[str, int]) -> int | None:
        """The shard that is taught of a history: that of the document which says it now, or of its next edition, or
        whose adapter knew it; None where none of these is left, for then no adapter is that ever knew it."""
        document = history.held[-1].said.passage_id.partition(":")[0]
        if document in shard_of:
            return shard_of[document]
        source = next((e.source for e in self.manifest if e.document == document), None)
        edition = next((shard_of[d.id] for d in self.documents if d.source == source), None)
        knew = (new for new, old in self.heirs(shard_of).items() if document in self.entries[old]["saw"])
        return next(knew, None) if edition is None else edition

    def lost(self, old: int, ids: set[str]) -> bool:
        """Whether the adapter of an old shard was taught something that the shard with these documents has not."""
        now, taught = self.carried.now, self.entries[old]["taught"]
        return any(id not in now or now[id].document_id not in ids for id in taught)

    def kept(self, place: int, shard_of: Mapping[str, int]) -> Iterator[Example]:
        """The old text of what is in a new shard. Text of no passage stays with its shard's heir."""
        heirs = {old: new for new, old in self.heirs(shard_of).items()}
        for old, entry in enumerate(self.entries):
            run = RunFolder(self.runs / entry["run"])
            for example in self.carried.examples(run.examples()):
                if example.generator.startswith("corrections/") or is_silent(example, self.silent):
                    continue  # corrections are made anew from the ledger, and of what is settled
                places = {shard_of[id.rpartition(":")[0]] for id in example.passages}
                if places == {place} if places else heirs.get(old) == place:
                    yield example
