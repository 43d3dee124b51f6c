"""The whole product on one screen: load, split, plan, write, audit, train, publish; then ask and prove."""

from __future__ import annotations

import datetime
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import platformdirs

from imprint import adapters, documents, planner, synthesis
from imprint import base as bases
from imprint.adapters import folder as adapter_folder
from imprint.base import Base
from imprint.corpus import Corpus
from imprint.errors import BadSetting, ImprintError, NoSuchAdapter
from imprint.evaluation import open_book
from imprint.evaluation import proof as proofs
from imprint.evaluation.closed_book import Question
from imprint.evaluation.forgetting import general_perplexity
from imprint.evaluation.proof import Proof
from imprint.evaluation.questions import hold_out, read_questions, without_alike
from imprint.planner import Budget, Cost, Plan, Speeds, parse_budget
from imprint.recipe import RAW_TEXT, Recipe
from imprint.recipe import read as read_recipe
from imprint.registry import Registry, check_name
from imprint.retrieval import Index
from imprint.run_folder import RunFolder, questions_from_json
from imprint.synthesis.audit import Audit
from imprint.synthesis.self_study import SelfStudy, passage_askings
from imprint.training.batches import Row, collate
from imprint.training.batches import rows as token_rows
from imprint.training.loop import Loop, Settings
from imprint.training.sft import Job, Trained, train
from imprint.types import Example, Passage, Prompt, Text, Turn, Version, Writer, content_hash
from imprint.watch import SILENT, Watch
from imprint.writers.cache import CachedWriter
from imprint.writers.local import LocalWriter

DEFAULT_BUDGET = "10min"
HELD_OUT = 40
"""Questions kept for the proof where the user brings none."""


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
    trained, details = _train(run, passages, model, chosen, limit, seed, asked, watch)
    adapter_folder.write(trained.adapter, run.adapter)
    version = registry.publish(
        name,
        run.adapter,
        base=model.name,
        corpus_hash=corpus.hash,
        recipe=chosen.as_json(),
        parent=_parent(registry, name),
        details=details | {"read": loaded.summary(), "seed": seed, "budget": str(limit)},
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


def home_folder() -> Path:
    """Where adapters, runs and kept documents live: $IMPRINT_HOME, else the user's data folder."""
    return Path(os.environ.get("IMPRINT_HOME") or platformdirs.user_data_path("imprint"))


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
        """The next answer of a conversation."""
        return self.write([Prompt(tuple(turns), max_tokens=max_tokens)], seed=0)[0].text

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
        return read_mapping(self.version.recipe)

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

    def _raw_text_rival(self, corpus: Corpus, model: Base, seed: int, watch: Watch) -> Any:
        """An adapter of the same size, trained on the raw passages for as many tokens."""
        recipe = replace(self._recipe, generators=RAW_TEXT.generators)
        tokens = Budget(tokens=int(self.version.details["tokens"]))
        run = _run_folder(self.home, corpus, recipe, tokens, model, seed, "", None)
        passages = corpus.split(recipe.passage_tokens, model.count_tokens)
        taught = set(self.version.details["taught"])
        passages = [p for p in passages if p.id in taught]
        return _train(run, passages, model, recipe, tokens, seed, [], watch)[0].adapter

    def _model(self) -> Base:
        if self.base is None:
            named = self.version.base
            self.base = bases.load(None if named == bases.BUNDLED else named)
        return self.base


def _train(
    run: RunFolder,
    passages: Sequence[Passage],
    model: Base,
    recipe: Recipe,
    budget: Budget,
    seed: int,
    questions: Sequence[Question] | None,
    watch: Watch,
) -> tuple[Trained, dict[str, Any]]:
    """Plan, write, audit, train: each taken up where an earlier call left it."""
    plan = _planned(run, passages, model, recipe, budget, watch)
    taught = [passages[i] for i in plan.taught]
    _say_plan(plan, passages, watch)
    began = time.monotonic()
    examples = _written(run, taught, model, recipe, seed, questions, watch)
    writing_s = time.monotonic() - began
    watch.stage("Training")
    rows = token_rows(examples, model, max_tokens=1024)
    trained = train(
        model,
        Job(_spec(recipe), rows, plan.tokens, recipe.lr, recipe.batch_tokens, seed),
        checkpoint=run.checkpoint,
        progress=lambda step, n, loss, rate: watch.progress(
            "steps", step, n, f"loss {loss:.3f} · {rate:.0f} tokens/s"
        ),
    )
    held, source = run.read_questions() or ([], "")
    details = {
        "plan": asdict(plan),
        "audit": run.read("audit"),
        "examples": len(examples),
        "tokens": trained.tokens,
        "steps": trained.steps,
        "seconds": {"writing": round(writing_s, 1), "training": round(trained.seconds, 1)},
        "questions": [asdict(q) for q in held],
        "questions_from": source,
        "taught": [p.id for p in taught],
    }
    return trained, details


def _planned(
    run: RunFolder,
    passages: Sequence[Passage],
    model: Base,
    recipe: Recipe,
    budget: Budget,
    watch: Watch,
) -> Plan:
    """The plan of this run: read if there is one, else made and written down."""
    kept = run.read("plan")
    if kept is not None:
        return Plan(**{**kept, "taught": tuple(kept["taught"]), "left_out": tuple(kept["left_out"])})
    watch.stage("Planning")
    generators = _generators(recipe)
    costs, values = [], []
    for passage in passages:
        each = [g.cost(passage) for g in generators]
        costs.append(Cost(sum(p for p, _ in each), sum(round(c / 3.6) for _, c in each)))
        values.append(sum(g.value(passage) for g in generators if isinstance(g, SelfStudy)) or 0.01)
    speeds = _speeds(passages, model, recipe, costs)
    plan = planner.plan(costs, values, budget, speeds, batch_tokens=recipe.batch_tokens, epochs=recipe.epochs)
    run.write("plan", asdict(plan))
    return plan


def _speeds(passages: Sequence[Passage], model: Base, recipe: Recipe, costs: Sequence[Cost]) -> Speeds:
    """Measured by writing and training a little, on this machine, now."""
    text = Example((Turn("text", passages[0].text, learn=True),), (), "speed")
    row = token_rows([text], model, max_tokens=48)[0]
    batch = collate([Row(row.ids, row.learn)] * max(1, recipe.batch_tokens // len(row.ids)), pad_id=0)
    spec = _spec(recipe)
    with spec.attach(model, spec.fresh(model, seed=0)) as attached:
        loop = Loop(model, attached.parameters(), Settings(steps=4))
        loop.forward_backward(batch)
        began = time.monotonic()
        for _ in range(2):
            loop.forward_backward(batch)
            loop.step()
        training = 2 * batch.n_tokens / (time.monotonic() - began)
    writing = 1.0
    if any(c.prompts for c in costs):
        sample = _sample_prompts(passages, recipe)[:64]
        began = time.monotonic()
        LocalWriter(model).write(sample, seed=0)
        # Reading the questions back, and the last, half-empty batches, come on top of writing them.
        writing = 0.7 * len(sample) / (time.monotonic() - began)
    return Speeds(writing, training)


def _written(
    run: RunFolder,
    passages: Sequence[Passage],
    model: Base,
    recipe: Recipe,
    seed: int,
    questions: Sequence[Question] | None,
    watch: Watch,
) -> list[Example]:
    """The training text of this run: read if it is complete, else written, audited and kept."""
    kept = run.read_examples()
    if kept is not None:
        return kept
    watch.stage("Writing training text")
    writer = _local_writer(model, watch)
    audit = Audit()
    by_id = {p.id: p for p in passages}
    made: list[Example] = []
    for generator in _generators(recipe):
        made += audit.faithful(generator.examples(passages, writer, seed=seed), by_id)
    if questions is None and any(e.generator.startswith("self_study") for e in made):
        held, made = hold_out(made, HELD_OUT, seed=seed)
        run.write_questions(held, "held out from what the writer asked")
    elif questions:
        before = len(made)
        made = without_alike(made, questions)
        watch.say(f"{before - len(made)} examples too like a held-out question were dropped.")
        run.write_questions(list(questions), "of the user's file")
    if not made:
        raise ImprintError(
            "Nothing could be written about these documents: they hold no sentence to ask about. "
            "Teach longer texts, or use the recipe generators = ['raw_text']."
        )
    report = {"counts": audit.counts(), "dropped": audit.reasons, "untouched": len(by_id) - len(audit.passages_met)}
    run.write("audit", report)
    watch.say(
        f"{len(made):,} training examples; {sum(audit.dropped.values()):,} dropped by the audit "
        f"(numbers or names not in their passage); {report['untouched']} passages without any."
    )
    run.write_examples(made)
    return made


def _local_writer(model: Base, watch: Watch) -> Writer:
    local = LocalWriter(model)
    local.progress = lambda done, n, rate: watch.progress("texts", done, n, f"{rate:.0f} tokens/s")
    return CachedWriter(local, bases.cache_folder() / "writes" / f"{model.revision}-{model.device.name}.jsonl")


def _generators(recipe: Recipe) -> list[Any]:
    made = []
    for name in recipe.generators:
        kind = synthesis.KINDS.get(name)
        if kind is None:
            raise BadSetting(f"No generator '{name}'. There are: {', '.join(synthesis.KINDS)}.")
        made.append(kind(samples=recipe.samples) if name == "self_study" else kind())
    return made


def _sample_prompts(passages: Sequence[Passage], recipe: Recipe) -> list[Prompt]:
    study = SelfStudy(samples=recipe.samples)
    prompts = [q for p in passages[:40] for a in passage_askings(p) for q in study.prompts(a)]
    return prompts or [Prompt.ask("What is this about?", max_tokens=28)]


def _spec(recipe: Recipe) -> Any:
    kind = adapters.KINDS.get(recipe.adapter)
    if kind is None:
        raise BadSetting(f"No adapter '{recipe.adapter}'. There are: {', '.join(adapters.KINDS)}.")
    return kind(rank=recipe.rank, alpha=recipe.alpha, top_layers=recipe.top_layers)


def _say_plan(plan: Plan, passages: Sequence[Passage], watch: Watch) -> None:
    watch.say(
        f"Plan: teach {len(plan.taught)} of {len(passages)} passages; about {plan.prompts:,} texts to write "
        f"({plan.write_seconds:.0f} s) and {plan.tokens:,} tokens in {plan.steps:,} steps to train "
        f"({plan.train_seconds:.0f} s, each example about {plan.epochs:.1f} times). Proof comes on top."
    )
    if plan.left_out:
        watch.say(f"The budget leaves out {len(plan.left_out)} passages: {_spans(plan, passages)}")


def _spans(plan: Plan, passages: Sequence[Passage]) -> str:
    """Left-out passages in few words: by document, with pages where it has them."""
    by_title: dict[str, list[Passage]] = {}
    for i in plan.left_out:
        by_title.setdefault(passages[i].title, []).append(passages[i])
    said = []
    for title, left in list(by_title.items())[:20]:
        pages = sorted({p.page for p in left if p.page is not None})
        where = f" (on pages {_ranges(pages)})" if pages else ""
        said.append(f"{len(left)} of {title}{where}")
    more = f"; and of {len(by_title) - 20} more documents" if len(by_title) > 20 else ""
    return "; ".join(said) + more + ". All are listed in the run's plan.json."


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in runs)


def _run_folder(
    home: Path,
    corpus: Corpus,
    recipe: Recipe,
    budget: Budget,
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


def read_mapping(settings: Any) -> Recipe:
    """The recipe a version was made with."""
    from imprint.recipe import from_mapping

    return from_mapping(settings, source="the version's recipe") if settings else Recipe()
