"""Context, RAG or weights, for these documents on this machine: measured, looked up, and advised."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from imprint import advice, documents, stages, trials, writing
from imprint import base as bases
from imprint.advice import Advice, Size, Teaching, Use, prices, qualities
from imprint.base import Base
from imprint.corpus import Corpus, to_teach
from imprint.engine import Engine
from imprint.errors import BadSetting, NothingToTeach
from imprint.home import home_folder
from imprint.pipeline import DEFAULT_BUDGET
from imprint.planner import Budget, Speeds, Work, parse_budget
from imprint.recipe import Recipe, opened
from imprint.registry import Registry
from imprint.synthesis.facts import facts
from imprint.types import Passage
from imprint.watch import SILENT, Watch


def advise(
    path: str | Path,
    *,
    use: Use | None = None,
    base: str | Base | None = None,
    budget: str | None = None,
    recipe: Recipe | str | Path | None = None,
    price_file: str | Path | None = None,
    usd_per_hour: float | None = None,
    home: Path | None = None,
    watch: Watch = SILENT,
    now: datetime.datetime | None = None,
) -> Advice:
    """What context, cached context, RAG, weights and weights + RAG would cost for these documents, how fast and how
    good they would be, and which to take. Nothing is taught; the machine's speeds are tried once a day.

    `budget`: what teaching one version may take. `price_file`: a TOML file whose prices stand above those that come
    along. `now`: the time by which prices and trials are old; None reads the clock. Raises NothingToTeach,
    BadSetting or NoSuchBase."""
    use, settings = use or Use(), opened(recipe)
    limit = parse_budget(budget or DEFAULT_BUDGET)
    table = prices.read(Path(price_file) if price_file is not None else None)
    moment = now or datetime.datetime.now(datetime.UTC)
    watch.stage("Reading the documents")
    loaded = documents.load(path)
    watch.say(loaded.summary())
    corpus = Corpus(loaded.documents)
    watch.stage("Opening the base model")
    engine = Engine(base if isinstance(base, Base) else bases.load(base))
    passages, _ = to_teach(corpus, settings, engine.base)
    if not passages:
        raise NothingToTeach("There is no passage to plan for: the documents hold no text.")
    watch.stage("Trying this machine's speeds; they are kept for a day")
    work = writing.work(settings, passages)
    found = trials.tried(settings, passages, engine, work, stages.spec_of(settings), now_s=moment.timestamp())
    registry = Registry(home or home_folder())
    told = registry.latest_reports()
    known = qualities.certificates((registry.get(name), reports) for name, reports in told.items())
    return advice.advise(
        use,
        size_of(passages, engine.base),
        trials.pace(found, engine.base, passages),
        _teaching(passages, engine.base, settings, limit, found.speeds, work),
        table,
        [*known, *qualities.packed()],
        cores=trials.cores(engine.base),
        corpus_hash=corpus.hash,
        usd_per_hour=usd_per_hour,
        today=moment.date(),
    )


def size_of(passages: Sequence[Passage], base: Base) -> Size:
    """How large these passages are, what they repeat of each other left out."""
    tokens = [base.count_tokens(p.text) for p in passages]
    return Size(sum(tokens), len(passages), sum(len(facts(p)) for p in passages), sum(tokens) / max(1, len(tokens)))


def _teaching(
    passages: Sequence[Passage], base: Base, recipe: Recipe, budget: Budget, speeds: Speeds, work: Work
) -> Teaching:
    """What a version would take; why none can be taught where the budget fits nothing."""
    try:
        plan = stages.made_plan(passages, base, recipe, budget, speeds, work)
    except BadSetting as error:
        return Teaching(0.0, 0.0, impossible=str(error))
    tokens = [base.count_tokens(p.text) for p in passages]
    taught = sum(tokens[i] for i in plan.taught) / max(1, sum(tokens))
    return Teaching(plan.write_seconds, plan.train_seconds, plan.usd, plan.times, taught)
