"""The next version of an adapter when its documents change: compare, choose a way, write, train, publish."""

from __future__ import annotations

import datetime
import functools
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from imprint import clock, documents
from imprint.adapters import folder as adapter_folder
from imprint.base import Base
from imprint.continual import lessons, manifest, ways
from imprint.continual import shards as sharding
from imprint.continual.changes import compare
from imprint.continual.entries import adapters_of, base_of, parts_told
from imprint.continual.lessons import Amount
from imprint.continual.pending import pending, promoted
from imprint.continual.probing import probe
from imprint.continual.tombstones import refuse_forgotten
from imprint.continual.verdicts import Verdicts, verdicts
from imprint.continual.ways import WAYS
from imprint.corpus import Corpus, to_teach
from imprint.documents import personal as personal_data
from imprint.documents.loaders import Loaded
from imprint.engine import Engine
from imprint.errors import BadInput, BadSetting, HeldBack, NothingToTeach
from imprint.evaluation.closed_book import Question
from imprint.evaluation.questions import given_questions
from imprint.home import home_folder
from imprint.next_version import Next, Part, documents_of, make
from imprint.pipeline import DEFAULT_BUDGET, latest_of
from imprint.planner import Budget, parse_budget
from imprint.recipe import Recipe, opened, recipe_of
from imprint.registry import check_name
from imprint.run_folder import RunFolder, questions_from_json
from imprint.stages import Prepared, began, began_on, prepare, run_of
from imprint.taught import Taught
from imprint.training.service import Service
from imprint.types import Document, Passage, Version, content_hash
from imprint.watch import SILENT, OfOne, Watch
from imprint.writers.local import LocalWriter
from imprint.writing import GIVEN, HELD_OUT_OF_TEXT

_RULES = ("conflicts", "source_order", "beliefs")
"""What of a recipe settles conflicts: where it is another, other things are taught of the same documents."""


@dataclass(frozen=True, slots=True)
class Update:
    """A name, and the folder that its next version is to know."""

    name: str
    path: str | Path | None = None
    """None is for 'handbook.anna': what anna brought to handbook and the gate let in (continual.pending)."""
    way: str | None = None
    """How the next version is made (continual.ways.WAYS); None takes what was measured to suit such changes."""
    date: str | None = None
    """ISO date from which the changes hold, where a document does not say its own; None is the day on which the
    update begins, today unless a call that was killed began it."""
    budget: str | None = None
    """What writing and training may take; None tells of the new what was told of the old, as often."""
    recipe: Recipe | str | Path | None = None
    """None is the recipe of the version before."""
    seed: int = 0
    questions: str | Path | Sequence[Question] | None = None
    """For the proof; None keeps those of the version before that still have an answer."""
    shards: int | None = None
    """Into how many adapters the documents are divided, at a first version or when all is retrained; None keeps
    what there is."""
    replay: float = lessons.REPLAY
    """Share of an adapter's further training that is of what it learnt before."""
    personal: str = "report"
    readmit: bool = False
    """Whether documents are taught again that were forgotten."""
    anyway: bool = False
    """Whether a version is published that loses too much by what others brought (continual.probing)."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.way is not None and self.way not in WAYS:
            raise BadSetting(f"No way '{self.way}' to make the next version. There are: {', '.join(WAYS)}.")
        if self.shards is not None and not 1 <= self.shards <= 1000:
            raise BadSetting(f"Documents are divided into 1 to 1,000 shards; got {self.shards}.")
        if not 0 <= self.replay < 0.95:
            raise BadSetting(f"replay is a share from 0 to 0.95; got {self.replay}.")
        if self.date is not None:
            _checked_date(self.date)


def update(
    name: str,
    path: str | Path | None = None,
    *,
    base: str | Base | None = None,
    home: Path | None = None,
    watch: Watch = SILENT,
    service: Service | None = None,
    **wishes: Any,
) -> Taught:
    """The next version of a name, which knows what the folder says now; the present one where nothing changed.

    Other arguments are those of Update. A name that is new is taught for the first time. The same call after a
    kill goes on where it stopped. Raises as teach() does."""
    return update_many([Update(name, path, **wishes)], base=base, home=home, watch=watch, service=service)[0]


def update_many(
    updates: Sequence[Update],
    *,
    base: str | Base | None = None,
    home: Path | None = None,
    watch: Watch = SILENT,
    service: Service | None = None,
) -> list[Taught]:
    """The next versions of several names: their training shares passes. Each is published as soon as it is
    trained; where one fails the others are published first."""
    names = Counter(u.name for u in updates)
    if twice := [name for name, n in names.items() if n > 1]:
        raise BadInput(f"'{twice[0]}' is to be updated twice at once. Put its documents into one folder.")
    watches = {u.name: watch if len(updates) == 1 else OfOne(u.name, watch) for u in updates}
    return make([_Updating(u, home or home_folder(), watches[u.name]) for u in updates], base, watch, service)


def estimate(
    update: Update, *, base: str | Base | None = None, home: Path | None = None, watch: Watch = SILENT
) -> list[ways.Estimate]:
    """What each way would write and train, told and returned, and which would be taken; nothing where nothing
    changed. Nothing is spent."""
    started = _Updating(update, home or home_folder(), watch)
    if started.parent is None:
        raise BadInput(f"'{update.name}' is new; imprint teach --estimate tells what a first version takes.")
    if started.unchanged():
        return []
    model = base if isinstance(base, Base) else started.open_base(base)
    started.look(model)
    started.choose_way(model)
    return started.all_foreseen


def _loaded(wanted: Update, home: Path, watch: Watch) -> Loaded:
    """The documents of a folder, or what somebody brought."""
    watch.stage("Reading the documents")
    if wanted.path is not None:
        return documents.load(wanted.path, progress=lambda done, n, _: watch.progress("files", done, n, ""))
    name, _, owner = wanted.name.rpartition(".")
    found = pending(home, name, owner) if name else []
    if not found:
        raise BadInput(
            f"Say where the documents of '{wanted.name}' are: imprint update {wanted.name} PATH. Without a path "
            "it is 'handbook.anna', of which anna brought something: imprint admit handbook PATH --from anna."
        )
    return Loaded(tuple(found))


class _Updating(Next):
    """An update on its way."""

    def __init__(self, wanted: Update, home: Path, watch: Watch) -> None:
        super().__init__(wanted.name, home, watch, wanted.seed)
        self.wanted, self.replay = wanted, wanted.replay
        self.recipe = opened(wanted.recipe) if wanted.recipe or not self.parent else recipe_of(self.parent)
        self.budget = parse_budget(wanted.budget) if wanted.budget else None
        self.foreseen: ways.Estimate | None = None
        self.all_foreseen: list[ways.Estimate] = []
        self.loaded = _loaded(wanted, home, watch)
        watch.say(self.loaded.summary())
        others = promoted(home, self.name) if wanted.path is not None else []  # they came through the gate
        self.now = Corpus((*self.loaded.documents, *others))
        self.date = _checked_date(wanted.date) if wanted.date else began_on(self._note) or clock.now()[:10]
        self.changes = compare(self.old.documents, self.now.documents)
        if not wanted.readmit:
            refuse_forgotten(self.registry, self.name, self.now.documents, taught=self.old.documents)
        there = len(adapters_of(self.parent)) if self.parent else wanted.shards
        if wanted.shards not in (None, there) and wanted.way != "retrain" and self.changes.any:
            raise BadSetting(f"To divide {self.parent} anew all of it is trained: say --way retrain too.")
        if self.parent is not None:
            for line in self.changes.lines():
                watch.say(line)
            _check_same_kind(self.parent, self.recipe, wanted.way)

    @functools.cached_property
    def _given(self) -> list[Question] | None:
        """The user's own questions, read once; None where there are none."""
        return given_questions(self.wanted.questions)

    @property
    def _note(self) -> RunFolder:
        """Where the day is kept on which this update began: of this version, to these documents. What is trained
        hangs on that day, so that it has no place in a run."""
        from_here = (self.name, str(self.parent), self.parent.adapter_hash if self.parent else "")
        return RunFolder(self.home / "runs" / content_hash("began", *from_here, self.now.hash))

    def open_base(self, named: str | None) -> Base:
        """As of any next version; what was brought to a name is first taught on the base of that name, so that both
        can be asked together."""
        keeper = latest_of(self.registry, self.name.rpartition(".")[0]) if self.wanted.path is None else None
        if named is None and self.parent is None and keeper is not None:
            named = base_of(keeper)
        return super().open_base(named)

    def begin(self) -> None:
        if self.wanted.date is None:
            self.date = began(self._note, self.date)

    def publish(self, engine: Engine) -> None:
        super().publish(engine)
        shutil.rmtree(self._note.path, ignore_errors=True)

    def choose_way(self, base: Base) -> str:
        found = self.estimates(base)
        chosen = ways.choose(found, most_in_order=max(e.get("in_order", 0) for e in self.entries))
        way = self.wanted.way or chosen.way
        self.watch.say(f"Way: {way}." if self.wanted.way else f"Way: {way}, {chosen.why}")
        self.foreseen = next(e for e in found if e.way == way)
        self.all_foreseen = found
        return way

    def extra(self) -> dict[str, Any]:
        told = {"foreseen": {e.way: asdict(e) for e in self.all_foreseen}, "read": self.loaded.summary()}
        return told | ({"questions_from": GIVEN} if self.wanted.questions else {})

    def estimates(self, base: Base) -> list[ways.Estimate]:
        """What each way would write and train."""
        assert self.parent is not None
        found = [self.foresee(way, base) for way in WAYS]
        for line in ways.lines(found, self.parent.details):
            self.watch.say(line)
        return found

    def unchanged(self) -> bool:
        if self.parent is None or self.changes.any or self.wanted.way == "retrain":
            return False
        before, given = recipe_of(self.parent), self._given
        for what, other in (
            ("rules for conflicts", any(getattr(before, key) != getattr(self.recipe, key) for key in _RULES)),
            ("questions", given not in (None, questions_from_json(self.parent.details.get("questions", ())))),
        ):
            if other:
                self.watch.say(f"The {what} are others than those of {self.parent}.")
                return False
        if before != self.recipe:
            self.watch.say("What else the recipe says is for what is written anew, or for all with --way retrain.")
        return super().unchanged()

    def _questions(self) -> list[Question]:
        return super()._questions() if self._given is None else self._given

    def amount(self) -> Amount:
        usual = super().amount()
        if self.budget is None or self.foreseen is None or self.parent is None:
            return usual
        return ways.within(usual, self.budget, self.foreseen, self.parent.details)

    def shard_of(self, way: str) -> dict[str, int]:
        if way == "retrain" and self.wanted.shards is not None:
            return sharding.divided(self.now.documents, self.wanted.shards)
        return super().shard_of(way)

    def prepare(self, engine: Engine) -> None:
        if self.parent is None:
            self._prepare_first(engine)
        else:
            come = [*self.changes.new, *(new for _, new in self.changes.changed)]
            personal_data.settle(come, self.wanted.personal, self.watch.say)
            super().prepare(engine)

    def check(self, engine: Engine, folders: Sequence[Path]) -> None:
        """Raises HeldBack where others' documents are new in it and it loses too much of what is known."""
        come = [*self.changes.new, *(new for _, new in self.changes.changed)]
        asked = [q for q in self.asked if q.answers]
        if self.wanted.anyway or not any(d.owner for d in come) or self.parent is None:
            return
        if not asked:
            self.watch.say("Others' documents come in, and nothing is there to probe with: give --questions.")
            return
        self.watch.stage("Probing what is known")
        before, after = (
            [adapter_folder.read(folder) for folder in some]
            for some in (self.registry.folders(self.parent), folders)
        )
        found = probe(engine, before, after, asked, seed=self.seed)
        if found.held:
            raise HeldBack(
                f"The next version of {self.name} is not published: {' '.join(found.reasons)} Take back what was "
                f"brought (imprint forget {self.name} --from OWNER), or publish it all the same with --anyway."
            )

    def _prepare_first(self, engine: Engine) -> None:
        """A first version: planned within its budget, each shard by itself."""
        wanted, model = self.wanted, engine.base
        self.way = "first"
        personal_data.settle(self.now.documents, wanted.personal, self.watch.say)
        self.begin()
        self.now.keep(self.home)
        self.asked = list(self._given or [])
        # Text of a size that was asked for is written whole, unless a budget was said too.
        sized = self.recipe.text_tokens is not None and self.budget is None
        limit = None if sized else self.budget or parse_budget(DEFAULT_BUDGET)
        shard_of = sharding.divided(self.now.documents, wanted.shards or 1)
        passages, _ = to_teach(self.now, self.recipe, model)
        whole = sum(len(p.text) for p in passages)
        held = {d.id: d.valid_from or self.date for d in self.now.documents}
        settled = verdicts(passages, self.now.documents, held, self.recipe, LocalWriter(model), seed=self.seed)
        settled.tell(self.watch)
        self.silent = sorted({id for id, _ in settled.silent})
        for place in sorted(set(shard_of.values())):
            here = tuple(d for d in self.now.documents if shard_of[d.id] == place)
            mine = [p for p in passages if shard_of[p.document_id] == place]
            share = sum(len(p.text) for p in mine) / max(whole, 1)
            within = ways.part_of(limit, share) if limit else None
            recipe = _part_of(self.recipe, share)
            run = run_of(
                self.home, Corpus(here).hash, recipe, within, model, self.seed,
                f"{self.name}#{place} {self.date}", self._given,
            )  # fmt: skip
            try:
                self.parts.append(self._first_part(run, here, mine, recipe, within, engine, held, settled))
            except NothingToTeach as error:
                nothing = error
                self.leave_out(here, run)
        if not self.parts:
            raise nothing

    def _first_part(
        self,
        run: RunFolder,
        here: tuple[Document, ...],
        passages: Sequence[Passage],
        recipe: Recipe,
        within: Budget | None,
        engine: Engine,
        held: Mapping[str, str],
        settled: Verdicts,
    ) -> Part:
        """A shard of a first version, written. `held`: by document id since when. Raises NothingToTeach."""
        if not passages:
            raise NothingToTeach(f"{here[0].source} holds no text, or none that other documents do not hold too.")
        prepared = prepare(
            run, passages, engine, recipe, within, self.seed, self._given, self.watch,
            since=held, silent=settled.silent, more=partial(settled.examples, passages, seed=self.seed),
        )  # fmt: skip
        self.asked += [] if self.wanted.questions else (run.read_questions() or ([], ""))[0]
        entry = _first_entry(prepared, here, documents_of(settled.histories(passages)))
        return Part(here, entry, run=run, job=prepared.job)

    def details(self, base: Base) -> dict[str, Any]:
        if self.parent is not None:
            return super().details(base)
        shard_of = {d.id: i for i, part in enumerate(self.parts) for d in part.documents}
        entries = [part.entry for part in self.parts]
        tokens, text = (sum(e[key] for e in entries) for key in ("tokens", "text_tokens"))
        taught = sum(e["passage_tokens"] for e in entries)
        editions = manifest.first(self.now.documents, self.date, shard_of)
        return {
            "way": "first",
            "as_of": manifest.held_since(editions),
            "manifest": manifest.as_json(editions),
            "times": text / max(taught, 1),
            "visits": tokens / max(text, 1),
            "questions": [asdict(q) for q in self.asked],
            "questions_from": GIVEN if self.wanted.questions else HELD_OUT_OF_TEXT,
            "tokens": tokens,
            "steps": sum(e["steps"] for e in entries),
            "text_tokens": text,
            "written_tokens": text,
            "silent": self.silent,
            "seconds": {
                "training": round(sum(e["seconds"] for e in entries), 1),
                "writing": round(sum(e["writing_s"] for e in entries), 1),
            },
            "read": self.loaded.summary(),
            "seed": self.seed,
            "budget": str(self.budget or parse_budget(DEFAULT_BUDGET)),
            "base_source": base.source,
        } | parts_told(entries)


def _part_of(recipe: Recipe, share: float) -> Recipe:
    """The recipe of a share of the documents: text of a size that was asked for is that of all of them."""
    if recipe.text_tokens is None:
        return recipe
    return replace(recipe, text_tokens=max(1, round(recipe.text_tokens * share)))


def _first_entry(prepared: Prepared, here: Sequence[Document], told_of: frozenset[str]) -> dict[str, Any]:
    plan = prepared.settled
    return {
        "documents": [d.id for d in here],
        "saw": sorted({*(d.id for d in here), *told_of}),
        "run": prepared.run.path.name,
        "taught": prepared.taught,
        "in_order": 0,
        "text_tokens": prepared.text_tokens,
        "passage_tokens": round(plan.text_tokens / plan.times),
        "examples": prepared.examples,
        "writing_s": (prepared.run.read("seconds") or {}).get("writing", {}).get("seconds", 0.0),
        "audit": prepared.run.read("audit"),
    }


def _checked_date(date: str) -> str:
    """An ISO date. Raises BadSetting."""
    try:
        return datetime.date.fromisoformat(date).isoformat()
    except ValueError:
        raise BadSetting(f"A date looks like 2026-03-01; got '{date}'.") from None


def _check_same_kind(parent: Version, recipe: Recipe, way: str | None) -> None:
    """Raises BadSetting where adapters of another kind cannot stand beside, or go on from, those that there are."""
    before = recipe_of(parent)
    same = all(
        getattr(before, key) == getattr(recipe, key) for key in ("adapter", "adapters", "rank", "top_layers")
    )
    if not same and way != "retrain":
        raise BadSetting(
            f"The recipe asks for another adapter than that of {parent}. Leave that out, or make all anew: "
            "--way retrain."
        )
