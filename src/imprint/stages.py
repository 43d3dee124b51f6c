"""The stages of a teaching: plan, write, audit, train. Each is taken up where an earlier call left it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from imprint import adapters, planner, writing
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadSetting
from imprint.evaluation.closed_book import Question
from imprint.planner import Budget, Plan, Speeds, Work
from imprint.recipe import Recipe, filled
from imprint.run_folder import RunFolder
from imprint.training.batches import Row, each_row
from imprint.training.batches import rows as token_rows
from imprint.training.distill import Reading, read_by_teacher
from imprint.training.loop import Loop, Settings
from imprint.training.row_file import RowFile
from imprint.training.sft import Job, Trained
from imprint.types import AdapterSpec, Example, Passage, Turn
from imprint.watch import Watch

RECITING = 100.0
"""Visits that raw text may be met with: it is there once, and whoever asks for it wants it learnt by heart."""

_READING = 0.6
"""What it takes a teacher to read a token of training text, with a share of the passage before it, in tokens of
training: on the bundled base it read twice as fast as it learns, and 1.2 tokens for one."""
ROW_TOKENS = 1024
"""Longest row that is trained on; a longer one is cut at its end."""


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
        planted = self.run.read("canaries")
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
            "run": self.run.path.name,
        } | ({"canaries": planted} if planted else {})


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
    plan = planned(run, passages, engine, recipe, budget, watch)
    if budget is not None and budget.usd is not None:
        recipe = writing.within(recipe, passages, budget.usd)
    taught = [passages[i] for i in plan.taught]
    began = time.monotonic()
    text = writing.write(run, taught, engine, recipe, plan.text_tokens, seed, questions, watch)
    writing_s = time.monotonic() - began
    job = job_of(run, engine.base, recipe, seed, taught, tokens=plan.tokens)
    job = taught_by_reader(job, run, engine, recipe, taught, watch)
    if job.tokens < 0.8 * plan.tokens:
        watch.say(
            f"There was less to write than planned, so that training takes {job.tokens:,} tokens in place of "
            f"{plan.tokens:,}. More epochs in the recipe make it longer."
        )
    return Prepared(run, plan, [p.id for p in taught], text.count, job, writing_s)


def job_of(
    run: RunFolder,
    base: Base,
    recipe: Recipe,
    seed: int,
    passages: Sequence[Passage],
    *,
    tokens: int | None = None,
) -> Job:
    """The training of a run's text about these passages: for so many epochs, but for no more than `tokens`, which
    were planned."""
    documents = [base.tokenizer.encode(p.text, add_special_tokens=False) for p in passages]
    rows = _rows(run, base, recipe)
    # The text may be shorter or longer than was planned.
    visits = recipe.epochs or (RECITING if set(recipe.shares) == {"raw_text"} else planner.MOST_EPOCHS)
    most = math.ceil(visits * int(rows.lengths.sum()))
    wanted = most if tokens is None else min(tokens, most)
    return Job(spec_of(recipe), rows, wanted, rate_of(recipe), recipe.batch_tokens, seed, documents)


def taught_by_reader(
    job: Job, run: RunFolder, engine: Engine, recipe: Recipe, passages: Sequence[Passage], watch: Watch
) -> Job:
    """The training whose rows carry what the base says with the passages open, where the recipe distils; else as it
    is."""
    if recipe.objective != "distill":
        return job
    watch.stage("Reading the documents as a teacher")
    reading = Reading(run.examples, passages, ROW_TOKENS, recipe.learn_questions)
    rows = read_by_teacher(
        engine,
        run.path / "rows",
        reading,
        run.path / "teacher",
        progress=lambda done, n, rate: watch.progress("examples read", done, n, f"{rate:.0f} tokens/s"),
    )
    return replace(job, rows=rows)


def _rows(run: RunFolder, base: Base, recipe: Recipe) -> RowFile:
    """The training text in tokens, on disk."""
    folder = run.path / "rows"
    if (folder / "done.json").exists():
        return RowFile(folder)
    made = each_row(run.examples(), base, max_tokens=ROW_TOKENS, questions=recipe.learn_questions)
    return RowFile.write(made, folder)


def training_progress(watch: Watch, name: str = "") -> Callable[[int, int, float, float], None]:
    """Tells a watch how training goes."""
    unit = f"{name} steps" if name else "steps"
    return lambda step, n, loss, rate: watch.progress(unit, step, n, f"loss {loss:.3f} · {rate:.0f} tokens/s")


def planned(
    run: RunFolder,
    passages: Sequence[Passage],
    engine: Engine,
    recipe: Recipe,
    budget: Budget | None,
    watch: Watch,
) -> Plan:
    """The plan of this run: read if there is one, else made, written down, and said before anything is spent."""
    kept = run.read("plan")
    if kept is not None:
        plan = Plan(**{**kept, "taught": tuple(kept["taught"]), "left_out": tuple(kept["left_out"])})
    else:
        watch.stage("Planning")
        work = writing.work(recipe, passages)
        plan = planner.plan(
            [engine.base.count_tokens(p.text) for p in passages],
            [writing.value(p) for p in passages],
            budget,
            _speeds(recipe, passages, engine, work),
            work,
            batch_tokens=recipe.batch_tokens,
            epochs=recipe.epochs,
            text_tokens=recipe.text_tokens,
        )
        run.write("plan", asdict(plan))
    _say_plan(plan, passages, watch)
    return plan


def _speeds(recipe: Recipe, passages: Sequence[Passage], engine: Engine, work: Work) -> Speeds:
    """How fast text is made and learnt here; where a recipe distils, its making holds the teacher's reading."""
    text = writing.text_speed(recipe, passages, engine, work)
    training = _training_speed(passages, engine, recipe)
    reading = _READING / training if recipe.objective == "distill" else 0.0
    return Speeds(1 / (1 / text + reading), training)


def _training_speed(passages: Sequence[Passage], engine: Engine, recipe: Recipe) -> float:
    """Tokens a second, measured by training a little, on this machine, now."""
    model = engine.base
    text = Example((Turn("text", passages[0].text, learn=True),), (), "speed")
    ids = token_rows([text], model, max_tokens=40)[0].ids
    learn = tuple(i >= 0.6 * len(ids) for i in range(len(ids)))
    some = [Row(ids, learn)] * max(1, recipe.batch_tokens // len(ids))
    with model.turns.take():  # a pass of others adds zeros to empty slots, which must not meet this slot's filling
        seat = engine.load(spec_of(recipe).fresh(model, seed=0), trainable=True)
    try:
        loop = Loop(engine, seat, Settings(steps=4))
        fastest = math.inf
        for _ in range(4):  # the first is slow, and another program may disturb one
            began = time.monotonic()
            with model.turns.take():
                loop.forward_backward(some)
                loop.step()
            fastest = min(fastest, time.monotonic() - began)
    finally:
        engine.unload(seat)
    # Real steps hold rows of all lengths, and more to learn: over minutes they ran a third slower.
    return 0.62 * len(some) * len(ids) / fastest


def spec_of(recipe: Recipe) -> AdapterSpec:
    """The adapter that a recipe asks for. Raises BadSetting for a kind or a setting that there is not."""
    for name in (recipe.adapter, *recipe.adapters):
        if name not in adapters.KINDS:
            raise BadSetting(f"No adapter '{name}'. There are: {', '.join(adapters.KINDS)}.")
    kind = adapters.KINDS[recipe.adapter]
    short = {"rank": recipe.rank, "alpha": recipe.alpha, "top_layers": recipe.top_layers}
    has = {f.name for f in fields(kind)}
    said = {key: value for key, value in short.items() if value is not None}
    for key in said:
        if key not in has:
            raise BadSetting(f"The recipe's {key} means nothing to the adapter '{recipe.adapter}'. Leave it out.")
    own = recipe.adapters.get(recipe.adapter, {})
    spec: AdapterSpec = filled(kind(**said), own, f"[adapters.{recipe.adapter}] of the recipe", fixed=("kind",))
    return spec


def rate_of(recipe: Recipe) -> float:
    """The highest learning rate that a recipe asks for, or that suits its kind of adapter."""
    return recipe.lr or float(adapters.KINDS[recipe.adapter].LR)


def _say_plan(plan: Plan, passages: Sequence[Passage], watch: Watch) -> None:
    price = f", {plan.usd:.2f} USD" if plan.usd else ""
    watch.say(
        f"Plan: teach {len(plan.taught)} of {len(passages)} passages with {plan.times:.0f} times their length in "
        f"training text, {plan.text_tokens:,} tokens: about {plan.prompts:,} texts to write "
        f"({plan.write_seconds:.0f} s{price}), then {plan.tokens:,} tokens in {plan.steps:,} steps to train "
        f"({plan.train_seconds:.0f} s, each example {plan.epochs:.1f} times). Proof comes on top."
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
