"""Teaching on one screen: load, split, plan, write, audit, train, publish. What was taught is in taught.py."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imprint import base as bases
from imprint import clock, documents, learning_map, scaling
from imprint.adapters import folder as adapter_folder
from imprint.base import Base
from imprint.continual import manifest
from imprint.continual.tombstones import refuse_forgotten
from imprint.continual.verdicts import verdicts
from imprint.corpus import Corpus, to_teach
from imprint.documents import personal as personal_data
from imprint.engine import Engine, choice
from imprint.errors import BadInput, BadName, NoSuchAdapter
from imprint.evaluation.closed_book import Question
from imprint.evaluation.examination import Examination, read_by_name
from imprint.evaluation.forgetting import general_text
from imprint.evaluation.questions import given_questions, read_strangers
from imprint.home import home_folder
from imprint.learning_map import LearningMap, MapSettings
from imprint.planner import Plan, parse_budget
from imprint.recipe import Recipe, opened
from imprint.registry import Registry, check_name
from imprint.run_folder import RunFolder, Stopwatch
from imprint.scaling import Curve
from imprint.stages import Prepared, began, beside, planned, prepare, run_of, training_progress
from imprint.taught import Taught
from imprint.training.service import Service, Ticket
from imprint.training.sft import Progress
from imprint.types import Passage, Version, content_hash
from imprint.watch import SILENT, Watch
from imprint.writers.local import LocalWriter

DEFAULT_BUDGET = "10min"


@dataclass(frozen=True)
class Lesson:
    """Documents that are to become one adapter."""

    path: str | Path
    name: str
    budget: str | None = None
    """What writing and training may take: '10min', '2h', '500k tokens'. None is DEFAULT_BUDGET."""
    recipe: Recipe | str | Path | None = None
    seed: int = 0
    questions: str | Path | Sequence[Question] | None = None
    """Kept out of the training text with all that is too like them; None holds out some of the writer's."""
    personal: str = "report"
    """What to do about personal data in the documents: 'report' it, 'refuse' to teach any, or 'ignore' it."""


def teach(
    path: str | Path,
    *,
    name: str,
    base: str | Base | None = None,
    budget: str | None = None,
    recipe: Recipe | str | Path | None = None,
    seed: int = 0,
    questions: str | Path | Sequence[Question] | None = None,
    personal: str = "report",
    home: Path | None = None,
    watch: Watch = SILENT,
    service: Service | None = None,
) -> Taught:
    """Teaches documents to a new version of an adapter, and publishes it.

    `questions` (a file, or questions) are kept out of the training text together with all that is too like
    them; without any, some of the writer's own are. `personal`: what to do about personal data in the documents
    ('report', 'refuse', 'ignore'). The same call after a kill goes on where it stopped.
    Raises BadName, NothingToTeach, BadSetting, BadQuestions or NoSuchBase before anything is spent."""
    lesson = Lesson(path, name, budget, recipe, seed, questions, personal)
    return teach_many([lesson], base=base, home=home, watch=watch, service=service)[0]


def teach_many(
    lessons: Sequence[Lesson],
    *,
    base: str | Base | None = None,
    home: Path | None = None,
    watch: Watch = SILENT,
    service: Service | None = None,
) -> list[Taught]:
    """Teaches several adapters at once: their training shares passes over one base model.

    Each is published as soon as it is trained. With a `service` that works in its own thread, they share
    its passes with all that others handed to it; `base` is then the service's. Raises as teach() does; where
    the training of one fails, the others are published first."""
    alone = len(lessons) == 1
    started = [_Teaching(lesson, home or home_folder(), watch, alone=alone) for lesson in _checked(lessons)]
    for teaching in started:
        teaching.look_for_personal_data()
    watch.stage("Opening the base model")
    engine = service.engine if service else Engine(base if isinstance(base, Base) else bases.load(base))
    for teaching in started:
        teaching.prepare(engine)
    train_and_publish(started, service, engine, watch)
    return [teaching.taught for teaching in started]


class Underway(Protocol):
    """A version on its way: what it is to learn is written."""

    def hand_in(self, service: Service) -> bool: ...

    @property
    def ended(self) -> bool: ...

    def publish(self, engine: Engine) -> None: ...

    def stop(self) -> None: ...


def train_and_publish(
    started: Sequence[Underway],
    service: Service | None,
    engine: Engine,
    watch: Watch,
    failed: Sequence[Exception] = (),
) -> None:
    """Hands all of them in, and publishes each as soon as it is trained. A `service` works in its own thread, for
    others too; None is one for these alone.

    Where one fails, nothing of it stays in the service, and the others are published first; so they are where
    some `failed` before."""
    mine, errors = service or Service(engine), list(failed)
    try:
        left = [each for each in started if _handed_in(each, mine, errors)]
        if left:
            watch.stage("Training")
        while left:
            working = service is not None or mine.run_pass()
            for each in [one for one in left if one.ended or not working]:
                left.remove(each)
                try:
                    each.publish(engine)
                except Exception as error:  # whatever it was, the others go on
                    errors.append(error)
            if service is not None:
                time.sleep(0.02)
    except BaseException:
        for each in started:
            each.stop()
        if service is None:
            mine.close()  # keeps checkpoints
        raise
    if errors:
        raise errors[0]


def _handed_in(one: Underway, service: Service, errors: list[Exception]) -> bool:
    """Whether there is something to wait for. What goes wrong is noted, and what was handed in before that is taken
    out again."""
    try:
        return one.hand_in(service)
    except Exception as error:  # whatever it was, the others go on
        one.stop()
        errors.append(error)
        return False


def estimate(
    lessons: Sequence[Lesson],
    *,
    base: str | Base | None = None,
    home: Path | None = None,
    watch: Watch = SILENT,
) -> list[Plan]:
    """What teaching would take, in tokens, minutes and money, told and returned; only the machine's speed and the
    writer's are tried. A teaching of the same lesson keeps to this plan."""
    started = [_Teaching(lesson, home or home_folder(), watch) for lesson in _checked(lessons)]
    watch.stage("Opening the base model")
    engine = Engine(base if isinstance(base, Base) else bases.load(base))
    return [teaching.plan(engine) for teaching in started]


def curve(
    path: str | Path,
    *,
    base: str | Base | None = None,
    recipe: Recipe | str | Path | None = None,
    sample: int = 12,
    most_tokens: int = 200_000,
    seed: int = 0,
    questions: str | Path | Sequence[Question] | None = None,
    home: Path | None = None,
    watch: Watch = SILENT,
) -> Curve:
    """How much training text is enough for documents like these: a sample of their passages, taught with twice the
    text again and again until that gains little or `most_tokens` are reached. Nothing is published; audits of what
    is taught from the same documents with the same recipe tell of it."""
    teaching = _Teaching(Lesson(path, "curve", None, recipe, seed, questions), home or home_folder(), watch)
    watch.stage("Opening the base model")
    engine = Engine(base if isinstance(base, Base) else bases.load(base))
    name = f"curve of {sample} passages"
    run = run_of(
        teaching.home, teaching.corpus.hash, teaching.recipe, None, engine.base, seed, name, teaching.asked
    )
    found = scaling.curve(
        run,
        teaching.passages(engine.base),
        engine,
        teaching.recipe,
        sample=sample,
        most_tokens=most_tokens,
        seed=seed,
        questions=teaching.asked,
        watch=watch,
    )
    scaling.keep(found, teaching.home, teaching.corpus.hash, engine.base.name, teaching.recipe.as_json())
    return found


def draw_map(
    path: str | Path,
    *,
    settings: MapSettings | None = None,
    base: str | Base | None = None,
    budget: str | None = None,
    recipe: Recipe | str | Path | None = None,
    questions: str | Path | Sequence[Question] | None = None,
    strangers: str | Path | None = None,
    suites: Sequence[str | Path] = (),
    texts: Sequence[str | Path] = (),
    work: Path | None = None,
    home: Path | None = None,
    watch: Watch = SILENT,
) -> LearningMap:
    """What each kind of adapter learns of documents, forgets, and costs.

    The text is written once, every kind at every size is trained on it for as many tokens, and all are measured
    alike, beside the untouched base, full context and RAG. Nothing is published.

    `budget`: what writing and one training may take. `strangers`: a file of questions that the documents do not
    answer. `suites`: folders of items judged by log-likelihood. `texts`: files whose perplexity is taken besides
    that of a general text that comes along. `work`: the folder of the map; by default one in the home that these
    settings name. The same call after a kill goes on where it stopped."""
    settings = settings or MapSettings()
    lesson = Lesson(path, "map", budget, recipe, settings.seed, questions)
    teaching = _Teaching(lesson, home or home_folder(), watch)
    strange = read_strangers(Path(strangers)) if strangers is not None else []
    read, other = read_by_name(suites, texts)
    general = {"general": general_text()} | other
    watch.stage("Opening the base model")
    engine = Engine(base if isinstance(base, Base) else bases.load(base))
    asked_besides = content_hash(repr(strange), repr(read), repr(general), str(settings.tokens), str(settings.tune))
    # Text of a size that was asked for is written whole, unless a budget was said too.
    limit = None if budget is None and teaching.recipe.text_tokens else teaching.limit
    run = RunFolder(work) if work else run_of(
        teaching.home, teaching.corpus.hash, teaching.recipe, limit, engine.base, settings.seed,
        f"map {asked_besides}", teaching.asked,
    )  # fmt: skip
    passages = teaching.passages(engine.base)
    prepared = prepare(run, passages, engine, teaching.recipe, limit, settings.seed, teaching.asked, watch)
    held, _ = run.read_questions() or ([], "")
    examination = Examination(
        questions=teaching.asked if teaching.asked is not None else held,
        strangers=strange,
        documents=[d.text for d in teaching.corpus.documents],
        suites=read,
        texts=general,
        seed=settings.seed,
    )
    return learning_map.draw(
        prepared, teaching.corpus.documents, passages, engine, teaching.recipe, examination, settings, watch
    )


def _checked(lessons: Sequence[Lesson]) -> Sequence[Lesson]:
    names = [lesson.name for lesson in lessons]
    if not names:
        raise BadInput("There is nothing to teach: no documents were named.")
    for name in names:
        check_name(name)
        if names.count(name) > 1:
            raise BadName(f"Two adapters cannot both be called '{name}'. Give each its own name.")
    return lessons


class _Teaching:
    """One lesson on its way to a published version."""

    taught: Taught

    def __init__(self, lesson: Lesson, home: Path, watch: Watch, *, alone: bool = True) -> None:
        """`alone`: whether no other lesson is trained beside it, whose progress would have to be told apart."""
        self.lesson, self.home, self.watch, self.alone = lesson, home, watch, alone
        self.recipe = opened(lesson.recipe)
        self.limit = parse_budget(lesson.budget or DEFAULT_BUDGET)
        self.asked = given_questions(lesson.questions)
        watch.stage("Reading the documents")
        self.loaded = documents.load(lesson.path, progress=lambda done, n, _: watch.progress("files", done, n, ""))
        watch.say(self.loaded.summary())
        self.corpus = Corpus(self.loaded.documents)
        self.today = clock.now()[:10]
        self.registry = Registry(home)
        refuse_forgotten(self.registry, lesson.name, self.corpus.documents)
        self._prepared: Prepared | None = None
        self._ticket: Ticket | None = None

    def look_for_personal_data(self) -> None:
        """Tells of it, as the lesson wishes. Raises BadInput where the lesson refuses it."""
        self.watch.stage("Looking for personal data")
        self.personal = personal_data.settle(self.corpus.documents, self.lesson.personal, self.watch.say)

    def prepare(self, engine: Engine) -> None:
        """Plans and writes, unless an earlier call has already published."""
        model, lesson = engine.base, self.lesson
        self.corpus.keep(self.home)
        self.run = run_of(
            self.home, self.corpus.hash, self.recipe, self.limit, model, lesson.seed, lesson.name, self.asked
        )
        version = self._published()
        if version is not None:
            self.watch.say(f"{version} was already taught from these documents with these settings.")
            self.taught = Taught(version, self.registry, self.home, model)
            return
        passages = self.passages(model)
        settled = verdicts(
            passages, self.corpus.documents, self.since, self.recipe, LocalWriter(model), seed=lesson.seed
        )
        settled.tell(self.watch)
        self._prepared = prepare(
            self.run, passages, engine, self.recipe, self.limit, lesson.seed, self.asked, self.watch,
            since=self.since, silent=settled.silent,
            more=functools.partial(settled.examples, passages, seed=lesson.seed),
        )  # fmt: skip

    def _published(self) -> Version | None:
        """The version that this run became; None before, and where it was removed since.

        The registry is asked, for an earlier call may have been killed before it could note the version here."""
        of_name = self.registry.versions(self.lesson.name) if latest_of(self.registry, self.lesson.name) else []
        return next((v for v in of_name if v.details.get("run") == self.run.path.name), None)

    @property
    def since(self) -> dict[str, str]:
        """By document id the day from which it holds: its own, or that on which the run began."""
        return {d.id: d.valid_from or began(self.run, self.today) for d in self.corpus.documents}

    def plan(self, engine: Engine) -> Plan:
        """Only the plan."""
        model, lesson = engine.base, self.lesson
        run = run_of(
            self.home, self.corpus.hash, self.recipe, self.limit, model, lesson.seed, lesson.name, self.asked
        )
        return planned(run, self.passages(model), engine, self.recipe, self.limit, self.watch)

    def passages(self, model: Base) -> list[Passage]:
        """What there is to teach."""
        passages, repeated = to_teach(self.corpus, self.recipe, model)
        if repeated["lines_set_aside"]:
            self.watch.say(f"{repeated['lines_set_aside']} lines are repeated in other documents, and taught once.")
        return passages

    def hand_in(self, service: Service) -> bool:
        """Hands the training in; False where nothing is left to train."""
        if self._prepared is None:
            return False
        progress = training_progress(self.watch, "" if self.alone else self.lesson.name)
        timed = _timed(progress, Stopwatch(self.run, "training"))
        self._ticket = service.submit(self._prepared.job, checkpoint=self.run.checkpoint, progress=timed)
        return True

    @property
    def ended(self) -> bool:
        return self._ticket is not None and self._ticket.ended

    def stop(self) -> None:
        """Takes the training out of a service that others use too."""
        if self._ticket is not None:
            self._ticket.cancel()

    def publish(self, engine: Engine) -> None:
        """Publishes what was trained. Raises what ended the training otherwise."""
        assert self._ticket is not None and self._prepared is not None
        trained, lesson = self._ticket.result(), self.lesson
        adapter = adapter_folder.rounded(trained.adapter, engine.base, self.recipe.store)
        with engine.attached(adapter) as seat:
            threshold = choice.threshold(engine, seat)
        adapter_folder.write(adapter, self.run.adapter)
        before = latest_of(self.registry, lesson.name)
        editions = manifest.first(self.corpus.documents, began(self.run, self.today), dict.fromkeys(self.since, 0))
        version = self.registry.publish(
            lesson.name,
            self.run.adapter,
            base=engine.base.name,
            corpus_hash=self.corpus.hash,
            recipe=self.recipe.as_json(),
            parent=before.number if before else None,
            details=self._prepared.details(trained)
            | {
                "router": {"threshold": threshold},
                "base_source": engine.base.source,
                "read": self.loaded.summary(),
                "personal": self.personal,
                "seed": lesson.seed,
                "budget": str(self.limit),
                "as_of": manifest.held_since(editions),
                "manifest": manifest.as_json(editions),
            },
            now=clock.now(),
        )
        self.run.write("done", {"version": str(version)})
        self.run.drop_trained()
        self.watch.say(f"Published {version}.")
        self.watch.say(beside(version.details["plan_and_actual"]))
        self.taught = Taught(version, self.registry, self.home, engine.base)


def _timed(progress: Progress, stopwatch: Stopwatch) -> Progress:
    """The same, which also keeps the time that training takes."""

    def told(step: int, steps: int, loss: float, rate: float) -> None:
        stopwatch.tick() if step < steps else stopwatch.keep()
        progress(step, steps, loss, rate)

    return told


def latest_of(registry: Registry, name: str) -> Version | None:
    """The newest version of this name; None where there is none."""
    try:
        return registry.latest(name)
    except NoSuchAdapter:
        return None
