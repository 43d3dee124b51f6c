"""The whole product on one screen: load, split, plan, write, audit, train, publish; then ask and prove."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imprint import base as bases
from imprint import documents
from imprint.adapters import folder as adapter_folder
from imprint.base import Base
from imprint.corpus import Corpus
from imprint.errors import BadSetting, NoSuchAdapter
from imprint.evaluation import open_book
from imprint.evaluation import proof as proofs
from imprint.evaluation.closed_book import Question
from imprint.evaluation.forgetting import general_perplexity
from imprint.evaluation.proof import Proof
from imprint.evaluation.questions import read_questions
from imprint.home import home_folder
from imprint.planner import Budget, parse_budget
from imprint.recipe import RAW_TEXT, Recipe, from_mapping
from imprint.recipe import read as read_recipe
from imprint.registry import Registry, check_name
from imprint.retrieval import Index
from imprint.run_folder import RunFolder, questions_from_json
from imprint.stages import run_stages
from imprint.types import Adapter, Prompt, Text, Turn, Version, content_hash
from imprint.watch import SILENT, Watch
from imprint.writers.local import LocalWriter

DEFAULT_BUDGET = "10min"


def teach(
    path: str | Path,
    *,
    name: str,
    base: str | None = None,
    budget: str | None = None,
    recipe: Recipe | str | Path | None = None,
    seed: int = 0,
    questions: str | Path | Sequence[Question] | None = None,
    home: Path | None = None,
    watch: Watch = SILENT,
) -> Taught:
    """Teaches documents to a new version of an adapter, and publishes it.

    `questions` (a file, or questions) are kept out of the training text together with all that is too like
    them; without any, some of the writer's own are. The same call after a kill goes on where it stopped.
    Raises BadName, NothingToTeach, BadSetting, BadQuestions or NoSuchBase before anything is spent."""
    check_name(name)
    chosen = _recipe(recipe)
    limit = parse_budget(budget or DEFAULT_BUDGET)
    asked = _questions(questions)
    where = home or home_folder()
    watch.stage("Reading the documents")
    loaded = documents.load(path, progress=lambda done, n, _: watch.progress("files", done, n, ""))
    watch.say(loaded.summary())
    watch.stage("Opening the base model")
    model = bases.load(base)
    corpus = Corpus(loaded.documents)
    corpus.keep(where)
    run = _run_folder(where, corpus, chosen, limit, model, seed, name, asked)
    registry = Registry(where)
    published = run.read("done")
    if published is not None:
        try:
            version = registry.get(published["version"])
            watch.say(f"{version} was already taught from these documents with these settings.")
            return Taught(version, registry, where, model)
        except NoSuchAdapter:
            pass  # removed since; publish it again
    passages = corpus.split(chosen.passage_tokens, model.count_tokens)
    trained, details = run_stages(run, passages, model, chosen, limit, seed, asked, watch)
    adapter_folder.write(trained.adapter, run.adapter)
    version = registry.publish(
        name,
        run.adapter,
        base=model.name,
        corpus_hash=corpus.hash,
        recipe=chosen.as_json(),
        parent=_parent(registry, name),
        details=details
        | {"base_source": model.source, "read": loaded.summary(), "seed": seed, "budget": str(limit)},
        now=_now(),
    )
    run.write("done", {"version": str(version)})
    shutil.rmtree(run.checkpoint, ignore_errors=True)
    watch.say(f"Published {version}.")
    return Taught(version, registry, where, model)


def open(name: str, *, home: Path | None = None) -> Taught:  # noqa: A001 - the word a user says
    """The adapter of that name ('handbook' or 'handbook@2'). Raises NoSuchAdapter."""
    where = home or home_folder()
    registry = Registry(where)
    return Taught(registry.get(name), registry, where)


@dataclass
class Taught:
    """A published adapter, ready to be asked."""

    version: Version
    registry: Registry = field(repr=False)
    home: Path = field(repr=False)
    base: Base | None = field(default=None, repr=False)
    """Loaded when it is first needed."""

    def ask(self, question: str, *, max_tokens: int = 128, temperature: float = 0.0, seed: int = 0) -> str:
        """The answer from the weights alone: no prompt, no documents in the context."""
        prompt = Prompt.ask(question, max_tokens=max_tokens, temperature=temperature)
        return self.write([prompt], seed=seed)[0].text

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
        with adapter_folder.spec_of(adapter).attach(model, adapter):
            return LocalWriter(model, str(self.version)).write(prompts, seed=seed)

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
            with Index(corpus.split(self._recipe.passage_tokens, model.count_tokens)) as index:
                measure("rag", lambda q: open_book.rag(q, lambda q: index.search(q, k=4)), LocalWriter(model))
            if raw_text:
                rival = self._raw_text_rival(corpus, model, seed, watch)
                with adapter_folder.spec_of(rival).attach(model, rival):
                    measure("raw_text", open_book.closed, LocalWriter(model, "raw_text"))
        with adapter_folder.spec_of(adapter).attach(model, adapter):
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

    @property
    def _recipe(self) -> Recipe:
        settings = self.version.recipe
        return from_mapping(settings, source="the version's recipe") if settings else Recipe()

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
        """An adapter of the same size, trained on the raw passages for as many tokens."""
        taught = set(self.version.details["taught"])
        passages = corpus.split(self._recipe.passage_tokens, model.count_tokens)
        passages = [p for p in passages if p.id in taught]
        once = sum(model.count_tokens(p.text) for p in passages)
        epochs = self.version.details["tokens"] / once
        recipe = replace(self._recipe, generators=RAW_TEXT.generators, epochs=round(epochs, 2))
        run = _run_folder(self.home, corpus, recipe, None, model, seed, str(self.version), None)
        return run_stages(run, passages, model, recipe, None, seed, [], watch)[0].adapter

    def _model(self) -> Base:
        if self.base is None:
            named = self.version.details.get("base_source", self.version.base)
            self.base = bases.load(None if named == bases.BUNDLED else named)
        return self.base


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


def _recipe(recipe: Recipe | str | Path | None) -> Recipe:
    if recipe is None:
        return Recipe()
    return recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe))


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
