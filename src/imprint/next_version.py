"""A version on its way: from the one before, and documents as they are now."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from imprint import base as bases
from imprint import clock
from imprint.adapters import folder as adapter_folder
from imprint.base import Base
from imprint.continual import lessons, manifest, ways
from imprint.continual.changes import Carried, Changes, carry
from imprint.continual.corrections import by_history
from imprint.continual.entries import base_of, entries_of, parts_told, rank_of, told_and_met
from imprint.continual.fact_changes import fact_changes
from imprint.continual.histories import History
from imprint.continual.ledger import Ledger
from imprint.continual.lessons import Amount, Shard
from imprint.continual.predecessor import Predecessor
from imprint.continual.verdicts import verdicts
from imprint.corpus import Corpus, to_teach
from imprint.engine import Engine, choice
from imprint.errors import BadInput, BadSetting, NothingToTeach
from imprint.evaluation.closed_book import Question, normalised
from imprint.pipeline import latest_of, train_and_publish
from imprint.recipe import Recipe, recipe_of
from imprint.registry import Registry
from imprint.run_folder import RunFolder, questions_from_json
from imprint.stages import training_progress, with_rank
from imprint.taught import Taught
from imprint.training.service import Service, Ticket
from imprint.types import Document, Version, content_hash
from imprint.watch import Watch
from imprint.writers.local import LocalWriter


@dataclass
class Part:
    """One adapter of the next version: taken over as it is, or trained."""

    documents: tuple[Document, ...]
    entry: dict[str, Any]
    """What details["shards"] tells of it; complete once it is trained."""
    address: str = ""
    """Where it lies, if it is taken over."""
    run: RunFolder | None = None
    job: Any = None
    ticket: Ticket | None = None


class Next:
    """A version on its way: from the one before, and documents as they are now."""

    taught: Taught
    way = ""

    def __init__(self, name: str, home: Path, watch: Watch, seed: int) -> None:
        self.name, self.home, self.watch, self.seed = name, home, watch, seed
        self.registry = Registry(home)
        self.parent: Version | None = latest_of(self.registry, name)
        self.old = Corpus(())
        if self.parent is not None:
            kept = Corpus.kept(home, self.parent.corpus_hash)
            if kept is None:
                raise BadInput(
                    f"The documents of {self.parent} are not kept here, so that nothing can be compared with them: "
                    f"it was imported. Teach them as a name of their own: imprint teach PATH --as {name}-2."
                )
            self.old = kept
        self.parts: list[Part] = []

    # What kinds of next versions differ in.
    recipe: Recipe
    now: Corpus
    changes: Changes
    date: str
    replay: float

    def choose_way(self, base: Base) -> str:
        raise NotImplementedError

    def begin(self) -> None:
        """Keeps what a call that goes on after a kill must find: nothing was written so far."""

    def extra(self) -> dict[str, Any]:
        """What else stands in the version's details."""
        return {}

    def check(self, engine: Engine, folders: Sequence[Path]) -> None:
        """Raises HeldBack where what lies in these folders is not to be published."""

    def unchanged(self) -> bool:
        """Whether the version before is the next one."""
        if self.parent is None or self.changes.any:
            return False
        self.watch.say(f"Nothing changed since {self.parent}.")
        self.taught = Taught(self.parent, self.registry, self.home)
        return True

    def open_base(self, named: str | None) -> Base:
        """The base that was asked for, or that of the version before."""
        if named is None and self.parent is not None:
            named = base_of(self.parent)
        return bases.load(named)

    # --- preparing ----------------------------------------------------------------------------

    def prepare(self, engine: Engine) -> None:
        """Chooses the way, and writes what is to be trained."""
        if hasattr(self, "taught"):
            return
        base, parent = engine.base, self.parent
        assert parent is not None
        self._still_follows()
        if parent.base != base.name:
            raise BadSetting(
                f"{parent} was taught on {parent.base}, and the base in memory is {base.name}. To move a name to "
                f"another base: imprint rebase {self.name} --base {base.name}."
            )
        self.begin()
        self.now.keep(self.home)
        self.look(base)
        self.settled.tell(self.watch)
        self.way = self.choose_way(base)
        self.asked = self._questions()
        self.run = RunFolder(self.home / "runs" / self._key(base))
        self._write_parts(engine)

    def _write_parts(self, engine: Engine) -> None:
        """Each shard as it was, or written. Raises NothingToTeach where none is left."""
        amount = self.amount()
        for shard in self.divided(self.way):
            run = RunFolder(self.run.path / f"shard-{shard.place}")
            try:
                self.parts.append(self._part(shard, run, amount, engine))
            except NothingToTeach as error:
                nothing = error
                self.leave_out(shard.documents, run)
        with contextlib.suppress(OSError):
            self.run.path.rmdir()  # empty where all of what was to be trained was left out
        if not self.parts:
            raise nothing

    def leave_out(self, some: Sequence[Document], run: RunFolder) -> None:
        """Tells of documents of which nothing can be taught: the manifest has them, and no adapter."""
        shutil.rmtree(run.path, ignore_errors=True)
        if some:
            named = ", ".join(d.source for d in some[:5]) + (" ..." if len(some) > 5 else "")
            self.watch.say(f"Nothing is taught of {named}: no sentence stands there, or none that is to be told.")

    def look(self, base: Base) -> None:
        """Compares passages."""
        assert self.parent is not None
        self.passages, _ = to_teach(self.now, self.recipe, base)
        self.before, _ = to_teach(self.old, recipe_of(self.parent), base)
        self.carried: Carried = carry(self.before, self.passages, self.changes)
        self.entries = entries_of(self.parent, self.old.documents)
        self.old_manifest = manifest.of_version(self.parent, self.old.documents)
        self.ledger = Ledger.of(self.parent.details.get("ledger", ()))
        self.note_changes()
        self.histories = self.ledger.histories(manifest.begun(self.old_manifest))
        self.settled = verdicts(
            self.passages, self.now.documents, self.since(), self.recipe, LocalWriter(base), seed=self.seed
        )
        self.corrections = by_history(self.histories, seed=self.seed, said=self.passages)
        self.settled_corrections = self.settled.by_history(self.passages, seed=self.seed)
        self._write_again_what_was_silent()
        if not all(RunFolder(self.home / "runs" / e["run"]).has_examples for e in self.entries):
            self.watch.say(f"The training text of {self.parent} is not kept here: all is written about anew.")
            self.carried = Carried({}, tuple(self.passages))
        self.predecessor = Predecessor(
            self.home / "runs", self.entries, self.old_manifest, self.now.documents, self.changes, self.carried,
            self.settled.silent,
        )  # fmt: skip

    def _write_again_what_was_silent(self) -> None:
        """Passages of which something was silent and is not, or the other way round, count as fresh."""
        assert self.parent is not None
        carried, now = self.carried, {id for id, _ in self.settled.silent}
        before = {carried.now[id].id for id in self.parent.details.get("silent", ()) if id in carried.now}
        other = now ^ before
        kept = {id: p for id, p in carried.now.items() if p.id not in other}
        again = [p for p in carried.now.values() if p.id in other]
        self.carried = Carried(kept, (*carried.fresh, *again))

    def manifest_with(self, shard_of: Mapping[str, int]) -> list[manifest.Entry]:
        """The manifest of the next version."""
        return manifest.following(self.old_manifest, self.changes, self.date, shard_of)

    def note_changes(self) -> None:
        """Puts into the ledger what changed since the version before."""
        changed = fact_changes(self.before, self.passages)
        self.ledger = self.ledger.moved(self.carried.now).with_changes(changed, self.since(), self.date)

    def amount(self) -> Amount:
        """As much text and training as the version before had."""
        assert self.parent is not None
        times, visits = told_and_met(self.parent)
        return Amount(times, self.recipe.epochs or visits, self.replay)

    def since(self) -> dict[str, str]:
        """By document id the day from which it holds."""
        places = {d.id: 0 for d in self.now.documents}
        return {e.document: e.since for e in manifest.current(self.manifest_with(places))}

    def divided(self, way: str) -> list[Shard]:
        """The shards of the next version, made in this way."""
        shard_of = self.shard_of(way)
        heirs = self.predecessor.heirs(shard_of)
        return [self._shard(place, way, shard_of, heirs.get(place)) for place in sorted(set(shard_of.values()))]

    def shard_of(self, way: str) -> dict[str, int]:
        """By document id its shard in the next version."""
        return self.predecessor.shard_of(way)

    def foresee(self, way: str, base: Base) -> ways.Estimate:
        """What the next version would take, made in this way."""
        amount = self.amount()
        counts = {p.id: base.count_tokens(p.text) for p in self.carried.fresh}
        shards = self.divided(way)
        text = [ways.of_shard(s, counts, amount, way, trained=self.trains(s, way)) for s in shards]
        return ways.total(way, text)

    def _shard(self, place: int, way: str, shard_of: Mapping[str, int], mine: int | None) -> Shard:
        here = tuple(d for d in self.now.documents if shard_of[d.id] == place)
        ids = {d.id for d in here}
        passages = tuple(p for p in self.passages if p.document_id in ids)
        told = [h for h in self.histories if self.predecessor.place_of(h, shard_of) == place]
        settled = [e for h in self.settled.histories(passages) for e in self.settled_corrections[h]]
        fresh = {p.id for p in self.carried.fresh}
        shard = Shard(
            place, here, passages,
            fresh=tuple(p for p in self.carried.fresh if p.document_id in ids),
            gone=mine is None or self.predecessor.lost(mine, ids),
            kept=partial(self.predecessor.kept, place, shard_of),
            corrections=(*(e for h in told for e in self.corrections[h]), *settled),
            news=(
                *(e for h in filter(self._is_news, told) for e in self.corrections[h]),
                *(e for e in settled if set(e.passages) & fresh),
            ),
            heir=mine,
            told_of=documents_of(told) | documents_of(self.settled.histories(passages)),
        )  # fmt: skip
        if way == "in_order" and mine is not None and self.parent is not None:
            return replace(shard, begun=self.registry.folders(self.parent)[mine])
        return shard

    def _is_news(self, history: History) -> bool:
        """Whether what is said now was never said before: the adapters were taught what was said then."""
        said = history.held[-1].said.passage_id
        fresh = {p.id for p in self.carried.fresh}
        if history.withdrawn:
            return said in {p.id for p in self.before} and said not in self.carried.now
        return said in fresh

    def _part(self, shard: Shard, run: RunFolder, amount: Amount, engine: Engine) -> Part:
        """A shard as it was, or its lesson. Raises NothingToTeach."""
        recipe = self._sized()
        if self.trains(shard, self.way):
            shard = lessons.write(
                run, shard, amount, engine, recipe, self.seed, self.asked, self.watch, since=self.since(),
                silent=self.settled.silent,
            )  # fmt: skip
        if shard.heir is not None and not self.trains(shard, self.way):
            return self._as_it_was(shard, shard.heir, run)
        lesson = lessons.prepare(run, shard, amount, engine, recipe, self.seed, self.watch)
        old = self.entries[shard.heir] if shard.heir is not None else {}
        documents_now = [d.id for d in shard.documents]
        in_order = old.get("in_order", 0) + 1 if shard.begun is not None else 0
        entry = {
            "documents": documents_now,
            "saw": sorted({*documents_now, *shard.told_of, *(old["saw"] if shard.begun is not None else ())}),
            "run": run.path.relative_to(self.home / "runs").as_posix(),
            "taught": [p.id for p in shard.passages],
            "in_order": in_order,
            "text_tokens": lesson.text_tokens,
            "written_tokens": lesson.written_tokens,
            "examples": lesson.examples,
            "audit": lesson.audit,
        }
        return Part(shard.documents, entry, run=run, job=lesson.job)

    def _as_it_was(self, shard: Shard, heir: int, run: RunFolder) -> Part:
        """The adapter before, which has nothing to learn: documents that came to it are not among its own."""
        old, old_of = self.entries[heir], self.changes.old_of
        taught = [self.carried.now[id].id for id in old["taught"] if id in self.carried.now]
        known = {*old["documents"], *(id.rpartition(":")[0] for id in taught)}
        here = tuple(d for d in shard.documents if d.id in known or old_of.get(d.id) in known)
        self.leave_out([d for d in shard.documents if d not in here], run)
        entry = {**old, "documents": [d.id for d in here], "taught": taught}
        return Part(here, entry, self._addresses()[heir])

    def trains(self, shard: Shard, way: str) -> bool:
        """Whether there is anything to train in a shard. Adapters that go on learning unlearn nothing, so that what
        was only taken away leaves them as they are."""
        if shard.begun is not None:
            return bool(shard.fresh or shard.news)
        return way == "retrain" or shard.touched

    def _addresses(self) -> list[str]:
        assert self.parent is not None
        return self.registry.shards(self.parent) or [self.parent.adapter_hash]

    def _sized(self) -> Recipe:
        assert self.parent is not None
        return with_rank(self.recipe, rank_of(self.parent))

    def _questions(self) -> list[Question]:
        """The held-out questions that still have an answer."""
        assert self.parent is not None
        return still_true(questions_from_json(self.parent.details.get("questions", ())), self.now.documents)

    def _key(self, base: Base) -> str:
        parent = self.parent.adapter_hash if self.parent else ""
        said = (str(self.parent), parent, self.now.hash, self.way, self.date, repr(self.recipe), str(self.amount()))
        divided = repr(sorted(self.shard_of(self.way).items()))
        more = (type(self).__name__, divided, str(self.seed), base.revision, str(base.device.dtype))
        return content_hash(*said, *more, repr(self.asked))

    # --- training and publishing --------------------------------------------------------------

    def hand_in(self, service: Service) -> bool:
        """Hands the trainings in; False where nothing is left to do."""
        if hasattr(self, "taught"):
            return False
        for i, part in enumerate(self.parts):
            if part.job is not None and part.run is not None:
                which = "" if len(self.parts) == 1 else f" shard {i + 1}"
                told = training_progress(self.watch, f"{self.name}{which}")
                part.ticket = service.submit(part.job, checkpoint=part.run.checkpoint, progress=told)
        return True

    @property
    def ended(self) -> bool:
        return all(part.ticket is None or part.ticket.ended for part in self.parts)

    def stop(self) -> None:
        """Takes the trainings out of a service that others use too."""
        for part in self.parts:
            if part.ticket is not None:
                part.ticket.cancel()

    def publish(self, engine: Engine) -> None:
        """Publishes the version. Raises what ended one of its trainings otherwise."""
        places: list[Path | str] = [self._place(part, engine) for part in self.parts]
        folders = [place if isinstance(place, Path) else self.registry.folder_at(place) for place in places]
        self.check(engine, folders)
        told: dict[str, Any] = {
            "base": engine.base.name,
            "corpus_hash": self.now.hash,
            "recipe": self.recipe.as_json(),
            "parent": self.parent.number if self.parent else None,
            "follows": self.parent.number if self.parent else 0,
            "details": self.details(engine.base),
            "now": clock.now(),
        }
        if len(folders) == 1:
            version = self.registry.publish(self.name, folders[0], **told)
        else:
            version = self.registry.publish_shards(self.name, places, **told)
        for part in self.parts:
            if part.run is not None:
                part.run.drop_trained()
        self.watch.say(f"Published {version}.")
        self.taught = Taught(version, self.registry, self.home, engine.base)

    def _still_follows(self) -> None:
        """Raises BadInput where something else was published since this began, before anything is spent on what the
        registry would refuse."""
        latest = latest_of(self.registry, self.name)
        if (latest and latest.number) != (self.parent and self.parent.number):
            raise BadInput(f"Another version of {self.name} was published meanwhile. Give the command again.")

    def _place(self, part: Part, engine: Engine) -> Path | str:
        """Where a part's adapter lies; one that was trained is written into its run."""
        if part.ticket is None:
            return part.address
        assert part.run is not None
        trained = part.ticket.result()
        adapter = adapter_folder.rounded(trained.adapter, engine.base, self.recipe.store)
        with engine.attached(adapter) as seat:
            part.entry["router"] = {"threshold": choice.threshold(engine, seat)}
        part.entry |= {"tokens": trained.tokens, "steps": trained.steps, "seconds": round(trained.seconds, 1)}
        adapter_folder.write(adapter, part.run.adapter)
        return part.run.adapter

    def details(self, base: Base) -> dict[str, Any]:
        """What is published with the version."""
        assert self.parent is not None
        trained = [part.entry for part in self.parts if part.ticket is not None]
        shard_of = {d.id: i for i, part in enumerate(self.parts) for d in part.documents}
        before = {k: v for k, v in self.parent.details.items() if k in _CARRIED}
        amount = self.amount()
        entries = self.manifest_with(shard_of)
        made: dict[str, Any] = before | {
            "way": self.way,
            # What was rolled back held until that day, whatever the dates of what came after it.
            "as_of": max(manifest.held_since(entries), before.get("rolled_back_on", "")),
            "changes": self.changes.counts(),
            "manifest": manifest.as_json(entries),
            "ledger": self.ledger.as_json(),
            "trained": [e["run"] for e in trained],
            "silent": sorted({id for id, _ in self.settled.silent}),
            "times": amount.times,
            "visits": amount.visits,
            "questions": [asdict(q) for q in self.asked],
            "tokens": sum(e["tokens"] for e in trained),
            "steps": sum(e["steps"] for e in trained),
            "text_tokens": sum(e["text_tokens"] for e in trained),
            "written_tokens": sum(e["written_tokens"] for e in trained),
            "seconds": {"training": round(sum(e["seconds"] for e in trained), 1), "writing": self._writing_s()},
            "seed": self.seed,
            "base_source": base.source,
        }
        return made | parts_told([part.entry for part in self.parts]) | self.extra()

    def _writing_s(self) -> float:
        """Seconds that writing took, in all calls."""
        found = 0.0
        for part in self.parts:
            if part.run is not None:
                kept = RunFolder(part.run.path / "written").read("seconds") or {}
                found += float(kept.get("writing", {}).get("seconds", 0.0))
        return round(found, 1)


def make(started: Sequence[Next], base: str | Base | None, watch: Watch, service: Service | None) -> list[Taught]:
    """Prepares, trains and publishes what was started; where one fails, the others are published first."""
    if not started:
        return []
    unchanged = [each.unchanged() for each in started]
    if all(unchanged):
        return [each.taught for each in started]
    watch.stage("Opening the base model")
    model = service.engine.base if service else base if isinstance(base, Base) else started[0].open_base(base)
    engine = service.engine if service else Engine(model)
    ready: list[Next] = []
    failed: list[Exception] = []
    for each in started:
        try:
            each.prepare(engine)
            ready.append(each)
        except Exception as error:  # whatever it was, the others go on
            failed.append(error)
    train_and_publish(ready, service, engine, watch, failed)
    return [each.taught for each in started]


def documents_of(histories: Sequence[History]) -> frozenset[str]:
    """Ids of the documents that ever said what these tell of."""
    return frozenset(held.said.passage_id.partition(":")[0] for h in histories for held in h.held)


_CARRIED = ("questions_from", "plan", "budget", "personal", "rolled_back_on")
"""Details that a next version takes over."""


def still_true(questions: Sequence[Question], documents: Sequence[Document]) -> list[Question]:
    """Questions of which an answer stands in the documents; those that have none are kept."""
    text = normalised("\n".join(d.text for d in documents))
    return [q for q in questions if not q.answers or any(normalised(a) in text for a in q.answers)]
