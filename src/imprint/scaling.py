"""How much training text is enough: a sample of the passages taught with twice the text again and again.

Each size is written, trained and asked the same held-out questions; the curve is kept as it grows, so that a killed
run goes on where it stopped. The rule that ends it stands in synthesis/enough.py."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from imprint import planner, stages, writing
from imprint.engine import Engine
from imprint.errors import NothingToTeach
from imprint.evaluation.closed_book import Question, answer_all, interval
from imprint.evaluation.open_book import closed
from imprint.evaluation.questions import hold_out
from imprint.recipe import Recipe
from imprint.run_folder import RunFolder
from imprint.synthesis.audit import Audit
from imprint.synthesis.enough import Decision, Point, decide
from imprint.synthesis.questions import Questions
from imprint.synthesis.safety import instructions_in
from imprint.training.sft import train
from imprint.types import Passage, Score, content_hash
from imprint.watch import Watch
from imprint.writers.local import LocalWriter

QUESTIONS = 80
"""Asked at each size, where the user brings none."""
_OTHER_SEED = 5_000
"""The questions of the curve are written with seeds that no training text is written with."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Scores over doublings of the training text, and whether to double again."""

    points: tuple[Point, ...]
    decision: Decision
    passages: int
    """In the sample."""
    passage_tokens: int
    """Tokens of these passages."""
    n: int
    """Questions asked at each size."""


def keep(found: Curve, home: Path, corpus_hash: str, base: str, recipe: Mapping[str, Any]) -> None:
    """Keeps a curve for the audits of what is taught from the same documents, with the same base and recipe."""
    told = {"curve": [asdict(p) for p in found.points], "passages": found.passages, "questions": found.n}
    RunFolder(home / "curves").write(_key(corpus_hash, base, recipe), told | asdict(found.decision))


def kept(home: Path, corpus_hash: str, base: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What an audit's report tells of the latest curve that was kept; nothing where there is none."""
    found: dict[str, Any] | None = RunFolder(home / "curves").read(_key(corpus_hash, base, recipe))
    return found or {}


def _key(corpus_hash: str, base: str, recipe: Mapping[str, Any]) -> str:
    return content_hash(corpus_hash, base, json.dumps(recipe, sort_keys=True))


def curve(
    run: RunFolder,
    passages: Sequence[Passage],
    engine: Engine,
    recipe: Recipe,
    *,
    sample: int,
    most_tokens: int,
    seed: int,
    questions: Sequence[Question] | None,
    watch: Watch,
) -> Curve:
    """Doubles the text about a sample of passages from FEWEST_TIMES its length on, until it is enough.

    Ends at `most_tokens` of text at the latest. Raises NothingToTeach where nobody finds a question to ask."""
    count = min(sample, len(passages))
    chosen = [passages[i] for i in sorted(random.Random(seed).sample(range(len(passages)), count))]
    size = sum(engine.base.count_tokens(p.text) for p in chosen)
    asked = list(questions) if questions is not None else _questions(run, chosen, engine, recipe, seed, watch)
    points = [Point(**p) for p in run.read("curve") or []]
    decision = decide(points, budget_tokens=most_tokens)
    while not decision.stop:
        tokens = 2 * points[-1].tokens if points else round(planner.FEWEST_TIMES * size)
        watch.stage(f"Teaching {count} passages with {tokens:,} tokens of text")
        # One limit of money holds for the questions and all sizes together.
        beside = [run, *(RunFolder(run.path / str(p.tokens)) for p in points)]
        here = RunFolder(run.path / str(tokens))
        score = _measured(here, chosen, engine, recipe, tokens, seed, asked, watch, beside)
        points.append(Point(tokens, score.value, score.low, score.high))
        run.write("curve", [asdict(p) for p in points])
        decision = decide(points, budget_tokens=most_tokens)
        watch.say(f"{tokens:,} tokens: {score.value:.1%} [{score.low:.1%}, {score.high:.1%}]; {decision.reason}.")
    return Curve(tuple(points), decision, count, size, len(asked))


def _questions(
    run: RunFolder, passages: Sequence[Passage], engine: Engine, recipe: Recipe, seed: int, watch: Watch
) -> list[Question]:
    """Questions of the writer's own about the sample, that came back when they were read."""
    kept = run.read_questions()
    if kept is not None:
        return kept[0]
    watch.stage("Writing questions to ask")
    by_id = {p.id: p for p in passages}
    # Passages that read like orders to a model are shown to no writer here either.
    shown = [p for p in passages if not (recipe.audit and instructions_in(p))]
    with writing.at_work(run, recipe, engine, watch) as (writer, judge, noted):
        made = Questions(in_sentences=0).examples(shown, writer, seed=_OTHER_SEED + seed)
        found = list(noted(Audit(passages=passages).pass_through(made, by_id, reader=judge or writer)))
    asked = hold_out(found, QUESTIONS, seed=seed, most=1.0)
    if not asked:
        raise NothingToTeach(
            "No question could be written that the passages of the sample answer. Name some with --questions FILE."
        )
    run.write_questions(asked, "written for the curve")
    return asked


def _measured(
    run: RunFolder,
    passages: Sequence[Passage],
    engine: Engine,
    recipe: Recipe,
    tokens: int,
    seed: int,
    questions: Sequence[Question],
    watch: Watch,
    beside: Sequence[RunFolder],
) -> Score:
    """The share of the questions answered rightly after so much text."""
    writing.write(run, passages, engine, recipe, tokens, seed, questions, watch, beside=beside)
    sized = replace(recipe, epochs=recipe.epochs or planner.EPOCHS)
    job = stages.job_of(run, engine.base, sized, seed, passages)
    job = stages.taught_by_reader(job, run, engine, sized, passages, watch)
    watch.stage("Training")
    done = train(engine, job, checkpoint=run.checkpoint, progress=stages.training_progress(watch))
    with engine.attached(done.adapter):
        answered, _ = answer_all(LocalWriter(engine.base), [q for q in questions if q.answers], closed, seed=seed)
    return interval([a.contains for a in answered], seed=seed)
