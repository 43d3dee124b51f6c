"""Forgetting: a document, a passage, or all that somebody brought. Withheld at once; then versions without it, the
versions that saw it destroyed, every trace erased, and a report on what is still known.

    tombstone -> what is asked is withheld from the next request on
    train     -> only the adapters that saw it, on text of which none came from it
    publish   -> the next version
    measure   -> it, and a control that never saw it
    destroy   -> older versions: the pair of old and new weights tells what was deleted
    erase     -> training text, kept documents, caches, rows of the registry; then all is searched

Killed anywhere, the same command goes on."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imprint import clock
from imprint.base import Base
from imprint.continual import deletion_report, erasing, manifest, pending, ways
from imprint.continual.changes import compare
from imprint.continual.entries import adapters_of, entries_of, rank_of
from imprint.continual.erasing import Erased, Traces
from imprint.continual.lessons import REPLAY, Shard
from imprint.continual.tombstones import Target, called, everything_known, named
from imprint.corpus import Corpus, to_teach
from imprint.engine import Engine
from imprint.errors import BadInput, NoSuchAdapter, NotFound
from imprint.evaluation.closed_book import Question
from imprint.home import cache_folder, home_folder
from imprint.next_version import Next, make
from imprint.recipe import recipe_of
from imprint.registry import Registry, Tombstone
from imprint.run_folder import RunFolder
from imprint.stages import job_of, taught_by_reader, with_rank
from imprint.taught import Taught
from imprint.training.service import Service
from imprint.training.sft import train
from imprint.types import Adapter, Document, Report, Version
from imprint.watch import SILENT, Watch

_CONTROL = "trained with another seed on text that never held it"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What came of it."""

    taught: Taught | None
    """The version without it; None where nothing was left to know, or where it is only withheld so far."""
    destroyed: tuple[str, ...] = ()
    erased: Erased | None = None
    report: Report | None = None
    seconds: float = 0.0
    """From the tombstone's writing to its end, in this call."""
    held_elsewhere: tuple[str, ...] = ()
    """Versions of other names that were taught it too."""
    earlier: tuple[Forgotten, ...] = ()
    """What came of that which earlier calls had left to do; versions that it made may be gone by now."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be forgotten of a name, and how."""

    name: str
    document: str | None = None
    passage: str | None = None
    owner: str | None = None
    later: bool = False
    """Whether it is only withheld now; the next call does the rest."""
    control: bool = True
    """Whether a control is trained for the report, which takes as long again; else it is the untouched base."""
    seed: int = 0

    @property
    def says_what(self) -> bool:
        return any(what is not None for what in (self.document, self.passage, self.owner))

    @property
    def called(self) -> str:
        """As its tombstone calls it."""
        return called(self.document, self.owner)


def forget(
    name: str,
    *,
    base: str | Base | None = None,
    home: Path | None = None,
    watch: Watch = SILENT,
    service: Service | None = None,
    **wishes: Any,
) -> Forgotten:
    """Forgets what is named (the arguments of Wish), and what earlier calls left to do. Raises NotFound for what is
    not there, and BadInput where nothing is named and nothing is left to do."""
    wish, where = Wish(name, **wishes), home or home_folder()
    registry = Registry(where)
    if wish.says_what:
        tombstone = _bury(registry, where, wish)
        watch.say(f"From now on withheld: {tombstone.body['named']}.")
    left = [t for t in registry.tombstones(name) if t.ended is None]
    if not left:
        raise BadInput(f"Nothing of '{name}' is left to be forgotten. Say what: --document, --passage or --from.")
    if wish.later:
        watch.say(f"It is trained out of the weights by: imprint forget {name}.")
        return Forgotten(None)
    done = [_Gone(wish, t, where, watch).done(base, service) for t in left]
    return replace(done[-1], earlier=tuple(done[:-1]))


def _bury(registry: Registry, home: Path, wish: Wish) -> Tombstone:
    """The tombstone; the one that is there already where the same is pending."""
    left = [t for t in registry.tombstones(wish.name) if t.ended is None]
    try:
        latest = registry.latest(wish.name)
        entries = manifest.of_version(latest, everything_known(registry, home, wish.name))
        found = _with_brought(registry, home, wish.name)
        target = named(found, entries, document=wish.document, passage=wish.passage, owner=wish.owner)
    except NotFound:
        # A call that was killed while it destroyed leaves nothing to know it by but its tombstone.
        begun = [t for t in left if t.body.get("named") == wish.called]
        if not begun:
            raise
        return begun[0]
    for tombstone in left:
        if Target.of(tombstone.body) == target:
            return tombstone
    return registry.bury(wish.name, target.as_json(), now=clock.now())


def _with_brought(registry: Registry, home: Path, name: str) -> list[Document]:
    """The documents of all versions of a name, then those that others brought to it and no version saw."""
    found = everything_known(registry, home, name)
    ids = {d.id for d in found}
    return [*found, *(b.document for b in pending.brought(home, name) if b.id not in ids)]


def runs_of(version: Version) -> list[str]:
    """The runs in which the training text of a version stands."""
    return [str(s["run"]) for s in adapters_of(version) if s.get("run")]


def saw(version: Version, documents: Sequence[Document], ids: frozenset[str]) -> bool:
    """Whether a version of these documents was ever trained on one of those, itself or what it went on from."""
    told = {e.document for e in manifest.of_version(version, documents)} | {d.id for d in documents}
    return bool(told & ids)


@dataclass
class _Gone:
    """One tombstone on its way to its end."""

    wish: Wish
    tombstone: Tombstone
    home: Path
    watch: Watch
    _began: float = field(default_factory=time.monotonic)

    def done(self, base: str | Base | None, service: Service | None) -> Forgotten:
        self.registry, self.target = Registry(self.home), Target.of(self.tombstone.body)
        try:
            latest = self.registry.latest(self.wish.name)
        except NoSuchAdapter:
            return self._end(None, [], None)
        corpus = Corpus.kept(self.home, latest.corpus_hash) or Corpus(())
        known = everything_known(self.registry, self.home, self.wish.name)
        old = self._versions_that_saw()
        model = service.engine.base if service else base if isinstance(base, Base) else None
        taught: Taught | None = Taught(latest, self.registry, self.home, model)
        if any(version.number == latest.number for version in old):
            if not corpus.documents:
                raise BadInput(
                    f"The documents of {latest} are not kept here, so that no version can be made without this. "
                    f"Take the whole away (imprint remove {self.wish.name}), or update it from its folder first."
                )
            left = self.target.left_of(corpus.documents)
            taught = None
            if left:
                started = _Without(self.wish.name, self.home, self.watch, self.wish.seed, self.target, left)
                (taught,) = make([started], base, self.watch, service)
        report = self._measured(taught, old[-1], known) if taught is not None and old else None
        return self._end(taught, old, report, known)

    def _versions_that_saw(self) -> list[Version]:
        found = []
        for version in self.registry.versions(self.wish.name):
            kept = Corpus.kept(self.home, version.corpus_hash) or Corpus(())
            if saw(version, kept.documents, self.target.touched):
                found.append(version)
        return found

    def _measured(self, taught: Taught, old: Version, known: Sequence[Document]) -> Report:
        """The new version beside a control, and the old one while it is there."""
        base, seed = taught.model(), self.wish.seed
        gone = [replace(d, text=t) for d in known for t in self.target.text_in([d])]
        split = Corpus(tuple(gone)).split(recipe_of(taught.version).passage_tokens, base.count_tokens)
        wanted = deletion_report.probes(split)
        self.watch.stage("Measuring what is still known")
        engine = Engine(base, slots=2)
        control = self._control(taught, engine) if self.wish.control else []
        destroyed = Taught(old, self.registry, self.home, base).adapters()
        before = deletion_report.known(engine, destroyed, wanted, seed=seed)
        after, theirs = (deletion_report.known(engine, a, wanted, seed=seed) for a in (taught.adapters(), control))
        about = {"control": _CONTROL if control else "the untouched base"} | wanted.counts()
        made = deletion_report.report(before, after, theirs, seed=seed, about=about)
        self.registry.add_report(taught.version, made)
        return made

    def _control(self, taught: Taught, engine: Engine) -> list[Adapter]:
        """What was trained anew for the version, trained once more with another seed."""
        version = taught.version
        recipe = with_rank(recipe_of(version), rank_of(version))
        corpus = Corpus.kept(self.home, version.corpus_hash) or Corpus(())
        passages, _ = to_teach(corpus, recipe, engine.base)
        found = []
        for entry in entries_of(version, corpus.documents):
            if entry["run"] not in version.details.get("trained", ()):
                continue
            run = RunFolder(self.home / "runs" / entry["run"])
            mine = [p for p in passages if p.document_id in entry["documents"]]
            job = job_of(run, engine.base, recipe, self.wish.seed + 1, mine)
            job = taught_by_reader(job, run, engine, recipe, mine, self.watch)
            job = replace(job, tokens=entry.get("tokens") or version.details["tokens"])
            found.append(train(engine, job, checkpoint=run.path / "control").adapter)
            shutil.rmtree(run.path / "control", ignore_errors=True)
        return found

    def _end(
        self, taught: Taught | None, old: Sequence[Version], report: Report | None, known: Sequence[Document] = ()
    ) -> Forgotten:
        """Destroys and erases. The documents' own text goes last: until then a killed call can begin anew."""
        self.watch.stage("Erasing")
        ids, cache = self.target.touched, cache_folder()
        known = known if self.target.text_in(known) else erasing.documents_kept(self.home, ids)
        brought = [one.document for one in pending.brought(self.home, self.wish.name)]
        gone = list(dict.fromkeys([*self.target.text_in(known), *self.target.text_in(brought)]))
        stays = [d.text for d in self.target.left_of(known)]
        traces = Traces(gone, stays)
        erased = Erased(
            written=erasing.erase_writings(cache, traces),
            cached=erasing.erase_vectors(cache) + erasing.erase_certificates(self.home),
        )
        self._withdraw(ids)
        elsewhere, runs, corpora, theirs_too = self._others(ids)
        for version in old:
            self.registry.remove(str(version))
            self.watch.say(f"Destroyed {version}: it saw what is forgotten.")
        theirs = [run for version in old for run in runs_of(version)]
        erased.runs = erasing.erase_runs(self.home, ids, runs, theirs)
        erasing.erase_questions(self.home, traces)
        erased.corpora = erasing.erase_corpora(self.home, ids, corpora)
        self.registry.compact()
        erased.searched, found = erasing.search([self.home, cache], traces.patterns())
        whose = {file: sorted({n for place, n in theirs_too if _is_in(file, place)}) for file in found}
        erased.left = [file for file in found if not whose[file]]
        erased.of_others = [file for file in found if whose[file]]
        if not traces.patterns():
            self.watch.say("Its words are not known any more, so that no file could be searched for them.")
        self.registry.end_tombstone(self.tombstone, {"documents": sorted(ids)}, now=clock.now())
        self.registry.compact()
        for file in erased.left:
            self.watch.say(f"Still stands in {file}, which is not imprint's to delete.")
        if erased.of_others:
            names = ", ".join(sorted({name for some in whose.values() for name in some}))
            self.watch.say(
                f"Its words stand in documents or training text of other names too, which stay: {names} "
                f"({len(erased.of_others)} files)."
            )
        seconds = time.monotonic() - self._began
        return Forgotten(taught, tuple(map(str, old)), erased, report, seconds, tuple(elsewhere))

    def _withdraw(self, ids: frozenset[str]) -> None:
        """Takes what was brought through the gate out of the home, and the owner's own adapter with it; of a
        document of which only a passage goes the rest stays."""
        name = self.wish.name
        gone = [one for id in ids for one in pending.withdraw(self.home, name, document_id=id)]
        for one in [one for one in gone if one.id not in self.target.documents]:
            for left in self.target.left_of([one.document]):
                pending.write(self.home, name, replace(one, document=left))
        if owner := self.target.owner:
            gone += pending.withdraw(self.home, name, owner=owner)
        for one in gone:
            self.watch.say(f"Taken out of what {one.document.owner} brought: {one.document.source}.")
        for mine in {pending.own_adapter(name, one.document.owner) for one in gone}:
            with contextlib.suppress(NoSuchAdapter):
                removed = self.registry.remove(mine)
                self.watch.say(f"Removed {', '.join(map(str, removed))}, which was taught what its owner brought.")

    def _others(self, ids: frozenset[str]) -> tuple[list[str], list[str], list[Path], list[tuple[str, str]]]:
        """Versions of other names that were taught it; runs and kept documents that other versions stand on; those
        of other names as places in the home, each with the name."""
        told, runs, corpora, places = [], [], [], []
        for latest in self.registry.heads():
            for version in self.registry.versions(latest.name):
                kept = Corpus.kept(self.home, version.corpus_hash) or Corpus(())
                mine = version.name == self.wish.name
                held = saw(version, kept.documents, ids)
                if held and not mine:
                    told.append(str(version))
                if not (mine and held):
                    runs += runs_of(version)
                    corpora.append(Corpus.file(self.home, version.corpus_hash))
                if not mine:
                    places += [(f"runs/{run}", version.name) for run in runs_of(version)]
                    places.append((corpora[-1].relative_to(self.home).as_posix(), version.name))
        return told, runs, corpora, places


def _is_in(file: str, place: str) -> bool:
    return file == place or file.startswith(f"{place}/")


class _Without(Next):
    """The next version without what is to be forgotten."""

    replay = REPLAY

    def __init__(
        self, name: str, home: Path, watch: Watch, seed: int, target: Target, left: Sequence[Document]
    ) -> None:
        super().__init__(name, home, watch, seed)
        assert self.parent is not None
        self.target, self.recipe = target, recipe_of(self.parent)
        self.now = Corpus(tuple(left))
        self.changes = compare(self.old.documents, self.now.documents)
        self.date = self.parent.details.get("as_of", self.parent.created_at[:10])

    def unchanged(self) -> bool:
        return False

    def _questions(self) -> list[Question]:
        """Those that do not tell of it."""
        known = self.old.documents
        traces = Traces(self.target.text_in(known), [d.text for d in self.target.left_of(known)])
        return [q for q in super()._questions() if not traces.in_text(" ".join([q.text, *q.answers]))]

    def choose_way(self, base: Base) -> str:
        foreseen, adapters = self.foresee("shards", base), len(set(self.shard_of("shards").values()))
        assert self.parent is not None
        seconds = ways.seconds(foreseen, self.parent.details)
        told = f", about {seconds:.0f} s at the pace of {self.parent}" if seconds else ""
        self.watch.say(
            f"{foreseen.adapters} of {adapters} adapters are trained anew: "
            f"{foreseen.trained_tokens:,} tokens{told}."
        )
        return "shards"

    def trains(self, shard: Shard, way: str) -> bool:
        seen = set() if shard.heir is None else set(self.entries[shard.heir]["saw"])
        return bool(seen & self.target.touched) or super().trains(shard, way)

    def note_changes(self) -> None:
        """Nothing of it stands in the ledger any more; that it was taken out is no change to be taught."""
        self.ledger = self.ledger.moved(self.carried.now).without(self.target.documents)
        self.ledger = self.ledger.without_text(self.target.text_in(self.old.documents))

    def manifest_with(self, shard_of: Mapping[str, int]) -> list[manifest.Entry]:
        """Without a word of it: what was cut takes the place of what it was cut from."""
        cut = {new.id: old.id for old, new in self.changes.changed}
        since = {e.document: e.since for e in self.old_manifest}
        kept = [e for e in self.old_manifest if e.document not in self.target.touched]
        kept = [e if e.until else replace(e, shard=shard_of.get(e.document)) for e in kept]
        new = {d.id: d for _, d in self.changes.changed}
        entries = manifest.first(list(new.values()), self.date, shard_of)
        return kept + [replace(e, since=since.get(cut[e.document], e.since)) for e in entries]

    def extra(self) -> dict[str, Any]:
        return {"way": "forgotten", "personal": None}
