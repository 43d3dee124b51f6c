"""The stages of a teaching: plan, write, audit, train. Each is taken up where an earlier call left it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from imprint import adapters, planner, synthesis
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadSetting, NothingToTeach
from imprint.evaluation.closed_book import Question
from imprint.evaluation.questions import hold_out, without_alike
from imprint.home import cache_folder
from imprint.planner import Budget, Cost, Plan, Speeds
from imprint.recipe import Recipe
from imprint.run_folder import RunFolder
from imprint.synthesis.audit import Audit
from imprint.synthesis.self_study import SelfStudy, passage_askings
from imprint.training.batches import Row
from imprint.training.batches import rows as token_rows
from imprint.training.loop import Loop, Settings
from imprint.training.sft import Job, Trained, train
from imprint.types import Example, Generator, Passage, Prompt, Turn, Writer
from imprint.watch import Watch
from imprint.writers.cache import CachedWriter
from imprint.writers.local import LocalWriter

HELD_OUT = 40
"""Questions kept for the proof where the user brings none."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A teaching whose text is written, ready to be trained."""

    run: RunFolder
    plan: Plan
    taught: list[str]
    """Ids of the passages that the plan teaches."""
    examples: int
    job: Job
    writing_s: float

    def details(self, trained: Trained) -> dict[str, Any]:
        """What to publish with the adapter."""
        held, source = self.run.read_questions() or ([], "")
        return {
            "plan": asdict(self.plan),
            "audit": self.run.read("audit"),
            "examples": self.examples,
            "tokens": trained.tokens,
            "steps": trained.steps,
            "seconds": {"writing": round(self.writing_s, 1), "training": round(trained.seconds, 1)},
            "questions": [asdict(q) for q in held],
            "questions_from": source,
            "taught": self.taught,
        }


def prepare(
    run: RunFolder,
    passages: Sequence[Passage],
    engine: Engine,
    recipe: Recipe,
    budget: Budget | None,
    seed: int,
    questions: Sequence[Question] | None,
    watch: Watch,
) -> Prepared:
    """Plans a teaching and writes its training text."""
    plan = _planned(run, passages, engine, recipe, budget, watch)
    taught = [passages[i] for i in plan.taught]
    _say_plan(plan, passages, watch)
    began = time.monotonic()
    examples = _written(run, taught, engine.base, replace(recipe, samples=plan.samples), seed, questions, watch)
    writing_s = time.monotonic() - began
    rows = token_rows(examples, engine.base, max_tokens=1024)
    job = Job(_spec(recipe), rows, plan.tokens, recipe.lr, recipe.batch_tokens, seed)
    return Prepared(run, plan, [p.id for p in taught], len(examples), job, writing_s)


def train_alone(prepared: Prepared, engine: Engine, watch: Watch) -> Trained:
    """Trains one adapter, from its checkpoint if there is one."""
    watch.stage("Training")
    return train(engine, prepared.job, checkpoint=prepared.run.checkpoint, progress=training_progress(watch))


def training_progress(watch: Watch, name: str = "") -> Callable[[int, int, float, float], None]:
    """Tells a watch how training goes."""
    unit = f"{name} steps" if name else "steps"
    return lambda step, n, loss, rate: watch.progress(unit, step, n, f"loss {loss:.3f} · {rate:.0f} tokens/s")


def _planned(
    run: RunFolder,
    passages: Sequence[Passage],
    engine: Engine,
    recipe: Recipe,
    budget: Budget | None,
    watch: Watch,
) -> Plan:
    """The plan of this run: read if there is one, else made and written down."""
    kept = run.read("plan")
    if kept is not None:
        return Plan(**{**kept, "taught": tuple(kept["taught"]), "left_out": tuple(kept["left_out"])})
    watch.stage("Planning")
    speeds = _speeds(passages, engine, recipe)
    values = [SelfStudy().value(p) or 0.01 for p in passages]
    # Fewer wordings come before fewer passages: what is left out cannot be known at all.
    for samples in range(recipe.samples, min(recipe.samples, 1) - 1, -1):
        plan = planner.plan(
            _costs(passages, replace(recipe, samples=samples)),
            values,
            budget,
            speeds,
            batch_tokens=recipe.batch_tokens,
            epochs=recipe.epochs,
        )
        if not plan.left_out:
            break
    plan = replace(plan, samples=samples)
    run.write("plan", asdict(plan))
    return plan


def _costs(passages: Sequence[Passage], recipe: Recipe) -> list[Cost]:
    """What each passage asks for under a recipe."""
    costs = []
    for passage in passages:
        each = [g.cost(passage) for g in _generators(recipe)]
        costs.append(Cost(sum(p for p, _ in each), sum(round(c / 3.6) for _, c in each)))
    return costs


def _speeds(passages: Sequence[Passage], engine: Engine, recipe: Recipe) -> Speeds:
    """Measured by writing and training a little, on this machine, now."""
    model = engine.base
    text = Example((Turn("text", passages[0].text, learn=True),), (), "speed")
    ids = token_rows([text], model, max_tokens=40)[0].ids
    learn = tuple(i >= 0.8 * len(ids) for i in range(len(ids)))  # answers are about a fifth of an item
    rows = [Row(ids, learn)] * max(1, recipe.batch_tokens // len(ids))
    spec = _spec(recipe)
    with engine.attached(spec.fresh(model, seed=0), trainable=True) as seat:
        loop = Loop(engine, seat, Settings(steps=4))
        fastest = math.inf
        for _ in range(4):  # the first is slow, and another program may disturb one
            began = time.monotonic()
            with model.turns.take():
                loop.forward_backward(rows)
                loop.step()
            fastest = min(fastest, time.monotonic() - began)
        # Real steps hold whole texts to learn: over minutes they ran a fifth slower.
        training = 0.78 * len(rows) * len(ids) / fastest
    writing = 1.0
    if "self_study" in recipe.generators:
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
        watch.say(f"Examples too like a held-out question, dropped: {before - len(made)}.")
        run.write_questions(list(questions), "of the user's file")
    if not made:
        raise NothingToTeach(
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
    return CachedWriter(local, cache_folder() / "writes" / f"{model.revision}-{model.device.name}.jsonl")


def _generators(recipe: Recipe) -> list[Generator]:
    made: list[Generator] = []
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


def _spec(recipe: Recipe) -> LoRA:
    kind = adapters.KINDS.get(recipe.adapter)
    if kind is None:
        raise BadSetting(f"No adapter '{recipe.adapter}'. There are: {', '.join(adapters.KINDS)}.")
    return kind(rank=recipe.rank, alpha=recipe.alpha, top_layers=recipe.top_layers)


def _say_plan(plan: Plan, passages: Sequence[Passage], watch: Watch) -> None:
    watch.say(
        f"Plan: teach {len(plan.taught)} of {len(passages)} passages; about {plan.prompts:,} texts to write "
        f"({plan.write_seconds:.0f} s) and {plan.tokens:,} tokens in {plan.steps:,} steps to train "
        f"({plan.train_seconds:.0f} s, each example about {plan.epochs:.1f} times; {1 + plan.samples} wordings "
        "of a question). Proof comes on top."
    )
    if plan.left_out:
        watch.say(f"Left out, for the budget: {len(plan.left_out)} passages: {_spans(plan, passages)}")


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
