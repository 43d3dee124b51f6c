"""A site's part in a federation: its documents become training text and an adapter here, and only that adapter
leaves."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from imprint import base as bases
from imprint import documents
from imprint.base import Base
from imprint.continual import federated
from imprint.continual.merged import loss_on
from imprint.continual.shared_folder import SharedFolder
from imprint.corpus import Corpus, to_teach
from imprint.documents import personal
from imprint.engine import Engine
from imprint.errors import BadSetting, WrongBase
from imprint.planner import Budget
from imprint.recipe import Recipe
from imprint.stages import prepare, run_of, text_tokens_of, training_progress
from imprint.training.sft import Job, train
from imprint.types import Adapter
from imprint.watch import SILENT, Watch

_SAMPLE = 64
"""Rows of its own text that a site tells itself its loss on."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a site did in a round. Its losses are told here and handed to nobody."""

    number: int
    tokens: int
    """Of its training text."""
    loss_before: float
    """Nats for each learnt token of its own text, with what all had in common when the round began."""
    loss_after: float
    """The same with what the site learnt in this round besides."""


def take_part(
    shared: SharedFolder,
    site: str,
    path: Path,
    *,
    recipe: Recipe,
    budget: Budget,
    home: Path,
    base: Base | None = None,
    watch: Watch = SILENT,
) -> Part | None:
    """Trains a site's adapter for the running round and hands it in; None where it has been handed in already, or
    all rounds are done.

    The training text is written in the first round and kept in the home for the others. `budget`: what writing and
    the training of all rounds may take. The same call after a kill goes on where it stopped."""
    shared.refuse_stranger(site)
    standing = shared.standing()
    if standing.done or site in standing.handed_in:
        return None
    if recipe.adapter != "lora":
        raise BadSetting(f"Sites share LoRAs; the recipe asks for the adapter '{recipe.adapter}'. Leave it out.")
    federation, number = shared.federation, standing.number
    watch.stage("Reading the documents")
    loaded = documents.load(path)
    watch.say(loaded.summary())
    personal.settle(loaded.documents, "report", watch.say)
    watch.stage("Opening the base model")
    model = base or bases.load(federation.base)
    if model.revision != federation.revision:
        raise WrongBase(
            f"This federation is of {federation.base} ({federation.revision}), but the base here is {model.name} "
            f"({model.revision}). Name the right one with --base."
        )
    engine = Engine(model, slots=2)
    corpus = Corpus(tuple(loaded.documents))
    name = f"federation {federation.id} {site}"
    run = run_of(home, corpus.hash, recipe, budget, model, federation.seed, name, None)
    passages, _ = to_teach(corpus, recipe, model)
    prepared = prepare(run, passages, engine, recipe, budget, federation.seed, None, watch)
    job = shared.job(site, number, _of_a_round(prepared.job, federation.rounds))
    watch.stage(f"Training for round {number} of {federation.rounds}")
    checkpoint = run.path / f"round-{number}"
    trained = train(engine, job, checkpoint=checkpoint, progress=training_progress(watch))
    update = federated.update_of(federation, site, trained.adapter, job)
    before, after = _losses(engine, federation.method, shared.common(number), trained.adapter, job)
    shared.hand_in(number, update)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return Part(number, update.tokens, before, after)


def _of_a_round(job: Job, rounds: int) -> Job:
    """A job for one of so many rounds; each meets all of the text once at least."""
    return replace(job, tokens=max(job.tokens // rounds, text_tokens_of(job)))


def _losses(engine: Engine, method: str, common: Adapter | None, trained: Adapter, job: Job) -> tuple[float, float]:
    """The loss on the site's own text with what all have in common, and with what was trained here."""
    rows = [job.rows[i] for i in range(min(_SAMPLE, len(job.rows)))]
    shared = engine.load(common) if common else None
    mine = engine.load(trained)
    try:
        worn = (shared, mine) if shared and method == "flora" else mine
        return loss_on(engine, shared, rows), loss_on(engine, worn, rows)
    finally:
        for seat in (shared, mine):
            if seat is not None:
                engine.unload(seat)
