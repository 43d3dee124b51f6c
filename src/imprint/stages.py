"""The stages of a teaching: plan, write, audit, train. Each is taken up where an earlier call left it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from imprint import adapters, planner, trials, writing
from imprint.adapters.folder import layout_of
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadSetting
from imprint.evaluation.closed_book import Question
from imprint.planner import Budget, Plan, Speeds, Work
from imprint.recipe import Recipe, filled
from imprint.run_folder import RunFolder, Stopwatch
from imprint.synthesis.facts import facts
from imprint.training.batches import each_row
from imprint.training.distill import Reading, read_by_teacher
from imprint.training.row_file import RowFile
from imprint.training.sft import Job, Trained, lengths_of
from imprint.types import AdapterSpec, Example, Passage, content_hash
from imprint.watch import Watch

RECITING = 100.0
"""Visits that raw text may be met with: it is there once, and whoever asks for it wants it learnt by heart."""

ROW_TOKENS = 1024
"""Longest row that is trained on; a longer one is cut at its end."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A teaching whose text is written, ready to be trained."""

    run: RunFolder
    plan: Plan
    """As it was made at the first start."""
    settled: Plan
    """As it stands now, with the text written."""
    text_tokens: int
    """Of the text that was written."""
    taught: list[str]
    """Ids of the passages that the plan teaches."""
    examples: int
    job: Job

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
            "seconds": {stage: round(row["seconds"], 1) for stage, row in self._seconds(trained).items()},
            "plan_and_actual": self._plan_and_actual(trained),
            "questions": [asdict(q) for q in held],
            "questions_from": source,
            "taught": self.taught,
            "run": self.run.path.name,
        } | ({"canaries": planted} if planted else {})

    def _seconds(self, trained: Trained) -> dict[str, dict[str, float]]:
        """Seconds and calls of each stage, those of earlier calls with them."""
        here = {"writing": {"seconds": 0.0, "calls": 1}, "training": {"seconds": trained.seconds, "calls": 1}}
        return here | (self.run.read("seconds") or {})

    def _plan_and_actual(self, trained: Trained) -> dict[str, Any]:
        """What was estimated, first and last, and what happened; seconds are those of all calls together."""
        seconds = self._seconds(trained)
        spent = (self.run.read("spent") or {}).get("usd", 0.0)
        actual = {
            "text_tokens": self.text_tokens,
            "times": self.text_tokens * self.plan.times / self.plan.text_tokens,
            "tokens": trained.tokens,
            "write_seconds": round(seconds["writing"]["seconds"], 1),
            "train_seconds": round(seconds["training"]["seconds"], 1),
            "usd": spent,
        }
        return {
            "estimate": {key: getattr(self.plan, key) for key in actual},
            "revised": {key: getattr(self.settled, key) for key in actual} if self.settled != self.plan else None,
            "actual": actual,
            "calls": {stage: int(row["calls"]) for stage, row in seconds.items()},
        }


_BESIDE = (
    ("text_tokens", "tokens of text"),
    ("tokens", "tokens trained"),
    ("write_seconds", "seconds of writing"),
    ("train_seconds", "seconds of training"),
    ("usd", "USD of a paid writer"),
)


def beside(kept: Mapping[str, Any]) -> str:
    """The estimate beside what happened, as a small table of plain text."""
    last = kept["revised"] or kept["estimate"]
    lines = [f"{'':<22}{'estimated':>12}{'at last':>12}{'happened':>12}"]
    for key, name in _BESIDE:
        cells = [row.get(key, 0) for row in (kept["estimate"], last, kept["actual"])]
        if any(cells):
            form = ",.2f" if key == "usd" else ",.0f"
            lines.append(f"{name:<22}" + "".join(f"{format(cell, form):>12}" for cell in cells))
    if any(calls > 1 for calls in kept["calls"].values()):
        lines.append("The run was stopped and went on: seconds are those of all its calls together.")
    return "\n".join(lines)


def run_of(
    home: Path,
    corpus_hash: str,
    recipe: Recipe,
    budget: Budget | None,
    base: Base,
    seed: int,
    name: str,
    questions: Sequence[Question] | None,
) -> RunFolder:
    """The folder of this very run: other documents, settings or questions make another."""
    key = content_hash(
        corpus_hash, repr(recipe), str(budget), base.revision, str(base.device.dtype), str(seed), name,
        repr(questions),
    )  # fmt: skip
    return RunFolder(home / "runs" / key)


def began(run: RunFolder, today: str) -> str:
    """The day on which a run began: a run that goes on the day after ends as it would have."""
    kept = began_on(run)
    if kept is None:
        run.write("began", {"on": today})
    return kept or today


def began_on(run: RunFolder) -> str | None:
    """The day on which a run began, where it has."""
    kept = run.read("began")
    return None if kept is None else str(kept["on"])


def prepare(
    run: RunFolder,
    passages: Sequence[Passage],
    engine: Engine,
    recipe: Recipe,
    budget: Budget | None,
    seed: int,
    questions: Sequence[Question] | None,
    watch: Watch,
    *,
    since: Mapping[str, str] | None = None,
    silent: Sequence[tuple[str, str]] = (),
    more: Callable[[], Iterable[Example]] = tuple,
) -> Prepared:
    """Plans a teaching and writes its training text. `since`, `silent` and `more` as in writing.write()."""
    run.claim()
    plan = planned(run, passages, engine, recipe, budget, watch)
    recipe = with_rank(recipe, plan.rank)
    writers = recipe if budget is None or budget.usd is None else writing.within(recipe, passages, budget.usd)
    taught = [passages[i] for i in plan.taught]
    text = writing.write(
        run, taught, engine, writers, plan.text_tokens, seed, questions, watch,
        revise=_revising(run, plan, recipe, budget, watch), since=since or {}, silent=silent, more=more,
    )  # fmt: skip
    job = job_of(run, engine.base, recipe, seed, taught, tokens=plan.tokens)
    job = taught_by_reader(job, run, engine, recipe, taught, watch)
    last, job = _settled(run, plan, job, engine, recipe, budget)
    if job.tokens < 0.8 * plan.tokens:
        watch.say(
            f"There was less to write than planned, or less time, so that training takes {job.tokens:,} tokens in "
            f"place of {plan.tokens:,}. More epochs in the recipe make it longer."
        )
    return Prepared(run, plan, last, text_tokens_of(job), [p.id for p in taught], text.count, job)


def _revising(
    run: RunFolder, plan: Plan, recipe: Recipe, budget: Budget | None, watch: Watch
) -> writing.Revise | None:
    """What looks at the plan once more when the first round of writing is done; a run that resumes keeps to it.

    None where no time is to be kept to, or where the recipe says how much text there is to be."""
    if budget is None or budget.seconds is None or recipe.text_tokens is not None:
        return None
    limit = budget

    def revise(told: int, worth: int, seconds: float) -> int:
        kept = run.read("revised")
        if kept is None:
            made = planner.revised(plan, limit, max(worth, 1) / max(seconds, 1e-3), told=told, epochs=recipe.epochs)
            run.write("revised", asdict(made))
            watch.say(
                f"After the first round: {told:,} tokens of text in {seconds:.0f} s, so that "
                f"{made.text_tokens:,} are written, in place of {plan.text_tokens:,}."
            )
            return made.text_tokens
        return int(kept["text_tokens"])

    return revise


def _settled(
    run: RunFolder, plan: Plan, job: Job, engine: Engine, recipe: Recipe, budget: Budget | None
) -> tuple[Plan, Job]:
    """The plan and the job with as much training as the time that is left allows, tried on the rows themselves and
    decided once; as they are where no time is to be kept to."""
    kept = run.read("settled")
    if kept is not None:
        last = _plan_of(kept)
        return last, replace(job, tokens=last.tokens)
    if budget is None or budget.seconds is None or run.checkpoint.exists():  # an earlier build began to train
        return plan, job
    text_tokens = text_tokens_of(job)
    last = planner.settled(
        _plan_of(run.read("revised") or asdict(plan)),
        budget,
        text_tokens=text_tokens,
        spent_s=sum(row["seconds"] for stage, row in (run.read("seconds") or {}).items() if stage != "training"),
        train_tokens_per_second=trials.training_speed(engine, job.spec, job.rows, job.batch_tokens),
        epochs=recipe.epochs,
        most_visits=_most_visits(recipe),
    )
    run.write("settled", asdict(last))
    return last, replace(job, tokens=last.tokens)


def text_tokens_of(job: Job) -> int:
    """Tokens of the text that a job trains on, each example once."""
    return sum(lengths_of(job.rows))


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
    most = math.ceil((recipe.epochs or _most_visits(recipe)) * int(rows.lengths.sum()))
    wanted = most if tokens is None else min(tokens, most)
    return Job(spec_of(recipe), rows, wanted, rate_of(recipe), recipe.batch_tokens, seed, documents)


def _most_visits(recipe: Recipe) -> float:
    return RECITING if set(recipe.shares) == {"raw_text"} else planner.MOST_EPOCHS


def taught_by_reader(
    job: Job, run: RunFolder, engine: Engine, recipe: Recipe, passages: Sequence[Passage], watch: Watch
) -> Job:
    """The training whose rows carry what the base says with the passages open, where the recipe distils; else as it
    is."""
    if recipe.objective != "distill":
        return job
    watch.stage("Reading the documents as a teacher")
    reading = Reading(run.examples, passages, ROW_TOKENS, recipe.learn_questions)
    stopwatch = Stopwatch(run, "reading")

    def progress(done: int, n: int, rate: float) -> None:
        stopwatch.tick()
        watch.progress("examples read", done, n, f"{rate:.0f} tokens/s")

    rows = read_by_teacher(
        engine, run.path / "rows", reading, run.path / "teacher", hard=recipe.hard_labels, progress=progress
    )
    stopwatch.keep()
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
        plan = _plan_of(kept)
    else:
        watch.stage("Planning")
        work = writing.work(recipe, passages)
        spec = spec_of(recipe)
        within_time = budget is not None and budget.seconds is not None
        tried = (trials.speeds if within_time else trials.speeds_once)(recipe, passages, engine, work, spec)
        plan = made_plan(passages, engine.base, recipe, budget, tried, work)
        run.write("plan", asdict(plan))
    _say_plan(plan, passages, watch)
    return plan


def made_plan(
    passages: Sequence[Passage], base: Base, recipe: Recipe, budget: Budget | None, speeds: Speeds, work: Work
) -> Plan:
    """The plan at these speeds. Raises BadSetting for a budget that no passage fits."""
    plan = planner.plan(
        [base.count_tokens(p.text) for p in passages],
        [writing.value(p) for p in passages],
        budget,
        speeds,
        work,
        batch_tokens=recipe.batch_tokens,
        epochs=recipe.epochs,
        text_tokens=recipe.text_tokens,
    )
    found = sum(len(facts(passages[i])) for i in plan.taught)
    return replace(plan, facts=found, rank=_rank(recipe, base, found))


def _rank(recipe: Recipe, base: Base, facts: int) -> int | None:
    """The rank that so many facts need; None where the recipe says one, or its kind of adapter has none."""
    said = recipe.rank is not None or "rank" in recipe.adapters.get("lora", {})
    if recipe.adapter != "lora" or said:
        return None
    narrow = spec_of(replace(recipe, rank=1)).fresh(base, seed=0)
    return planner.rank_for(facts, layout_of(base, narrow).trainable)[0]


def with_rank(recipe: Recipe, rank: int | None) -> Recipe:
    """The recipe with the rank that a plan chose, where it did; the update keeps its scale."""
    if rank is None:
        return recipe
    said = recipe.alpha is not None or "alpha" in recipe.adapters.get("lora", {})
    usual = adapters.KINDS["lora"]()
    return replace(recipe, rank=rank, alpha=recipe.alpha if said else usual.alpha / usual.rank * rank)


def _plan_of(kept: Mapping[str, Any]) -> Plan:
    return Plan(**{**kept, "taught": tuple(kept["taught"]), "left_out": tuple(kept["left_out"])})


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
    if plan.rank is not None:
        watch.say(
            f"{plan.facts:,} facts need about {plan.facts * planner.BITS_A_FACT / 1e6:.1f} million bits, more than "
            f"a LoRA of its usual rank holds: rank {plan.rank} is trained."
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
