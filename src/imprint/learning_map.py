"""The learn-forget-capacity map: every kind of adapter at several sizes, taught the same text, measured alike.

All runs meet the same rows in the same order for the same number of training tokens. Each leaves one row (JSON)
when it ends; a row that is there is not made again, and a training that was killed goes on from its checkpoint.

    measured/untouched.json, full_context.json, rag.json  the rivals
    measured/tune-lora-0.002.json                         one learning rate tried on a sample of the text
    measured/lora-middle.json                             one adapter
    checkpoints/lora-middle/                              while it is trained
    adapters/lora-middle/                                 what was trained
    map.json                                              what all rows hang on

How learning rates are tuned: each kind at its middle size, on the text of some passages that holds a tenth of all
text, for a tenth of the tokens, with a third of the kind's usual rate, that rate and thrice it. Judged is what the
right answers to the held-out questions about these passages cost, in nats a token: far less noisy than right or
wrong. Where the best lies at the edge another is tried beyond it, twice at most; of rates as good as each other the
smaller is taken."""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imprint import adapters, devices
from imprint.adapters import folder as adapter_folder
from imprint.adapters.full import Full
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadSetting, Diverged, StaleRun
from imprint.evaluation import open_book, proof
from imprint.evaluation.closed_book import Question
from imprint.evaluation.examination import Examination, cost_of_reading, examine, learnt, nats
from imprint.evaluation.routed import routed
from imprint.evaluation.trade_off import UNTOUCHED
from imprint.recipe import Recipe
from imprint.retrieval import Index
from imprint.run_folder import RunFolder
from imprint.stages import ROW_TOKENS, Prepared, training_progress
from imprint.training.batches import Row, each_row
from imprint.training.service import Service, Ticket
from imprint.training.sft import Job, Trained
from imprint.types import Document, Passage, content_hash
from imprint.watch import Watch
from imprint.writers.local import LocalWriter

SIZES = ("small", "middle", "large")
"""Names of a kind's three settings (its SIZES)."""
RIVALS = (UNTOUCHED, "full_context", "rag")
TUNED_ON = 0.1
"""Share of the text and of the tokens on which a learning rate is tried."""
FACTORS, BEYOND = (1 / 3, 1.0, 3.0), 2
"""Rates tried, in multiples of the kind's own; and how many more where the best is the last of them."""
AS_GOOD = 0.01
"""Nats a token by which two learning rates may differ and count as equal."""
_FEWEST_QUESTIONS = 8
"""A learning rate is judged by at least so many, where there are as many."""
_BYTES_A_PARAMETER = 20
"""Of full fine-tuning: the value, its gradient, two moments, and the copy that passes use."""


@dataclass(frozen=True, slots=True)
class MapSettings:
    """What is to be on a map."""

    kinds: tuple[str, ...] | None = None
    """Kinds of adapters by name. None takes all; full fine-tuning only where half of the free memory holds it."""
    sizes: tuple[str, ...] = SIZES
    tokens: int | None = None
    """Training tokens of each run, visits counted; None takes what was planned."""
    tune: bool = True
    """Whether each kind's learning rate is tuned; otherwise it is the kind's usual one."""
    seed: int = 0

    def __post_init__(self) -> None:
        for word, given, known in (("kind", self.kinds or (), tuple(adapters.KINDS)), ("size", self.sizes, SIZES)):
            for name in given:
                if name not in known:
                    raise BadSetting(f"No {word} '{name}' of adapters. There are: {', '.join(known)}.")
        if self.kinds == () or not self.sizes:
            raise BadSetting("A map needs at least one kind and one size of adapters.")
        if self.tokens is not None and self.tokens < 1:
            raise BadSetting(f"Training tokens of a run must be 1 or more; got {self.tokens}.")


@dataclass(frozen=True, slots=True)
class LearningMap:
    """Rows that were measured alike, and what they hang on."""

    folder: Path
    about: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]

    @property
    def measured_on(self) -> dict[str, list[str]]:
        """Rows by the device and precision they were measured on: one, but where rows of several maps were put
        together by hand. A row that does not say counts as the map's."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            device, dtype = (row.get(key, self.about[key]) for key in ("device", "dtype"))
            found.setdefault(f"{device}, {dtype}", []).append(row["row"])
        return found


def kept(folder: Path) -> LearningMap:
    """The map in a folder as far as it is drawn. Raises BadSetting where there is none."""
    about = RunFolder(folder).read("map")
    if about is None:
        raise BadSetting(f"There is no map in {folder} yet. Draw it first: leave out --only-report.")
    rows = [json.loads(file.read_text("utf-8")) for file in (folder / "measured").glob("*.json")]
    return LearningMap(folder, about, tuple(sorted(rows, key=_order)))


def _order(row: Mapping[str, Any]) -> tuple[int, int, int, float]:
    """The rivals, the adapters by kind and size, the learning rates tried."""
    kinds = [*RIVALS, *adapters.KINDS]
    what = ("rival", "adapter", "tuning").index(row["what"])
    size = SIZES.index(row["size"]) if row["size"] in SIZES else 0
    return what, kinds.index(row["kind"]), size, row.get("lr", 0.0)


def draw(
    prepared: Prepared,
    documents: Sequence[Document],
    passages: Sequence[Passage],
    engine: Engine,
    recipe: Recipe,
    examination: Examination,
    settings: MapSettings,
    watch: Watch,
) -> LearningMap:
    """Makes what is missing of a map in the run's folder, row by row, and returns the whole.

    Raises StaleRun where the folder holds a map of other text, questions, suites or settings."""
    drawing = _Drawing(prepared, documents, passages, engine, recipe, examination, settings, watch)
    drawing.begin()
    for rival in RIVALS:
        drawing.rival(rival)
    drawing.adapters(drawing.rates() if settings.tune else {})
    return kept(prepared.run.path)


class _Drawing:
    """A map on its way."""

    def __init__(
        self,
        prepared: Prepared,
        documents: Sequence[Document],
        passages: Sequence[Passage],
        engine: Engine,
        recipe: Recipe,
        examination: Examination,
        settings: MapSettings,
        watch: Watch,
    ) -> None:
        self.prepared, self.documents, self.passages = prepared, documents, passages
        self.engine, self.base, self.recipe = engine, engine.base, recipe
        self.examination, self.settings, self.watch = examination, settings, watch
        self.folder = prepared.run.path
        self.rows = RunFolder(self.folder / "measured")
        self.job = replace(prepared.job, seed=settings.seed, tokens=settings.tokens or prepared.job.tokens)
        self.kinds = settings.kinds or _usual_kinds(engine, watch)
        self._all = each_spec(self.kinds, settings.sizes)

    def begin(self) -> None:
        """Writes down what all rows hang on, or finds it unchanged."""
        run = self.prepared.run
        about = {
            "base": f"{self.base.name} ({self.base.revision})",
            **_machine(self.base),
            "documents": [d.title for d in self.documents],
            "passages": len(self.passages),
            "questions": len(self.examination.answerable),
            "questions_from": (run.read_questions() or ([], ""))[1],
            "unanswerable": len(self.examination.questions) - len(self.examination.answerable),
            "strangers": len(self.examination.strangers),
            "suites": {name: len(items) for name, items in self.examination.suites.items()},
            "texts": {name: len(text) for name, text in self.examination.texts.items()},
            "asked": content_hash(repr(self.examination)),
            "examples": self.prepared.examples,
            "text": content_hash(repr(self.job.rows)),
            "text_tokens": int(sum(len(row.ids) for row in self.job.rows)),
            "tokens": self.job.tokens,
            "batch_tokens": self.job.batch_tokens,
            "tuned": self.settings.tune,
            "seed": self.settings.seed,
        }
        before = run.read("map")
        # What an older map does not tell is not held against it.
        if before is not None and (other := [k for k in about if before.get(k, about[k]) != about[k]]):
            raise StaleRun(
                f"The map in {self.folder} was drawn with other {', '.join(other)}. Go back to what it was drawn "
                "with, or name another folder with --work."
            )
        run.write("map", about)

    # --- rivals -------------------------------------------------------------------------------

    def rival(self, name: str) -> None:
        """The base without any adapter: as it is, with all documents before the question, or with what is found."""
        if self.rows.read(name) is not None:
            return
        self.watch.stage(f"Asking {name.replace('_', ' ')}")
        row: dict[str, Any] = {"row": name, "what": "rival", "kind": name, "size": "", "parameters": 0, "tokens": 0}
        if name == UNTOUCHED:
            self._keep(name, row | examine(self.engine, None, self.examination, self.watch))
            return
        base, questions = self.base, self.examination.questions
        writer = LocalWriter(base, batch_tokens=60_000 if base.device.name == "cpu" else None)
        writer.progress = lambda done, n, rate: self.watch.progress("answers", done, n, f"{rate:.0f} tokens/s")
        with Index(self.passages) as index:
            context = open_book.full_context(
                self.documents, window_tokens=base.window_tokens, count_tokens=base.count_tokens
            )
            prompt = {
                "full_context": context.prompt,
                "rag": lambda q: open_book.rag(q, lambda q: index.search(q, k=4)),
            }[name]
            result, answered = proof.measure(
                writer, questions, prompt, lambda p: len(base.prompt_ids(p.turns)), seed=self.settings.seed
            )
            row |= {"learnt": learnt(result), "prompt_tokens": result.prompt_tokens}
            row["cost"] = cost_of_reading(writer, prompt, questions, seed=self.settings.seed)
        row["seconds_per_answer"] = result.seconds_per_answer
        row["left_out"] = list(context.left_out) if name == "full_context" else []
        self._keep(name, row | {"answers": proof.shown(answered)})

    # --- learning rates -----------------------------------------------------------------------

    def rates(self) -> dict[str, float]:
        """The best learning rate of each kind, found at its middle size on a sample of the text."""
        grids = {kind: [factor * adapters.KINDS[kind].LR for factor in FACTORS] for kind in self.kinds}
        job, questions = self._sample()
        for further in range(1 + BEYOND):
            self._try(grids, job, questions)
            if further < BEYOND:
                for kind, grid in grids.items():
                    grid += self._beyond(kind, grid)
        found = {kind: self._best(kind, grid) for kind, grid in grids.items()}
        self.watch.say(f"Learning rates: {', '.join(f'{kind} {lr:.2g}' for kind, lr in found.items())}.")
        return found

    def _sample(self) -> tuple[Job, list[Question]]:
        """The training of a tenth of the text, and the questions about its passages."""
        by_passage: dict[str, list[Question]] = {}
        with Index(self.passages) as index:
            for question in self.examination.answerable:
                for found in index.search(f"{question.text} {question.answers[0]}", k=1):
                    by_passage.setdefault(found.id, []).append(question)
        order = [p.id for p in self.passages if p.id in by_passage]
        random.Random(self.settings.seed).shuffle(order)
        rows_of = self._rows_by_passage()
        wanted = TUNED_ON * sum(len(row.ids) for row in self.job.rows)
        rows: list[Row] = []
        questions: list[Question] = []
        for passage in order:
            if sum(len(row.ids) for row in rows) >= wanted and len(questions) >= _FEWEST_QUESTIONS:
                break
            rows += rows_of.get(passage, [])
            questions += by_passage[passage]
        if not rows:
            rows, questions = list(self.job.rows), self.examination.answerable
        return replace(self.job, rows=rows, tokens=max(1, round(TUNED_ON * self.job.tokens))), questions

    def _rows_by_passage(self) -> dict[str, list[Row]]:
        """Training rows by the first passage that each tells of."""
        found: dict[str, list[Row]] = {}
        for example in self.prepared.run.examples():
            made = each_row([example], self.base, max_tokens=ROW_TOKENS, questions=self.recipe.learn_questions)
            if example.passages:
                found.setdefault(example.passages[0], []).extend(made)
        return found

    def _try(self, grids: Mapping[str, Sequence[float]], job: Job, questions: Sequence[Question]) -> None:
        """Trains and judges every rate that has no row yet."""
        jobs = []
        for kind, _, spec in each_spec(self.kinds, ("middle",)):
            for lr in grids[kind]:
                if self.rows.read(_tuning(kind, lr)) is None:
                    jobs.append((_tuning(kind, lr), {"kind": kind, "lr": lr}, replace(job, spec=spec, lr=lr)))
        with contextlib.closing(self._trained(jobs, "Trying learning rates")) as trained:
            for name, told, ended in trained:
                row = {"row": name, "what": "tuning", "size": "middle", **told, "questions": len(questions)}
                if isinstance(ended, Trained):
                    with self.engine.attached(ended.adapter):
                        values = nats(LocalWriter(self.base), questions)
                    row |= {"nats": sum(values) / len(values), "tokens": ended.tokens, "last_loss": ended.last_loss}
                else:
                    row |= {"error": str(ended)}
                self._end(name, row)

    def _nats(self, kind: str, lr: float) -> float:
        row = self.rows.read(_tuning(kind, lr)) or {}
        found = float(row.get("nats", math.inf))
        return found if math.isfinite(found) else math.inf

    def _best(self, kind: str, grid: Sequence[float]) -> float:
        least = min(self._nats(kind, lr) for lr in grid)
        return min(lr for lr in grid if self._nats(kind, lr) <= least + AS_GOOD)

    def _beyond(self, kind: str, grid: Sequence[float]) -> list[float]:
        """One more to try, where the best so far is the last on its side."""
        best = self._best(kind, grid)
        step = FACTORS[-1] / FACTORS[-2]
        if best == min(grid):
            return [best / step]
        return [best * step] if best == max(grid) else []

    # --- adapters -----------------------------------------------------------------------------

    def adapters(self, rates: Mapping[str, float]) -> None:
        """Trains and measures every adapter that has no row yet."""
        jobs = []
        for kind, size, spec in self._all:
            name, lr = f"{kind}-{size}", rates.get(kind, adapters.KINDS[kind].LR)
            row = self.rows.read(name)
            if row is None:
                told = {"kind": kind, "size": size, "lr": lr}
                jobs.append((name, told, replace(self.job, spec=spec, lr=lr)))
            elif "learnt" in row and "routed" not in row and (self.folder / "adapters" / name).exists():
                self.rows.write(name, row | {"routed": self._routed(name, row)})
        with contextlib.closing(self._trained(jobs, "Training")) as trained:
            for name, told, ended in trained:
                row = {"row": name, "what": "adapter", **told}
                if isinstance(ended, Trained):
                    row |= self._measured(name, ended)
                    self.watch.say(
                        f"{name}: {row['parameters']:,} parameters, {row['learnt']['score']:.1%} of "
                        f"{row['learnt']['n']} questions right."
                    )
                else:
                    row |= {"error": str(ended)}
                self._end(name, row)

    def _measured(self, name: str, ended: Trained) -> dict[str, Any]:
        """What a trained adapter comes to, and what it took."""
        self.watch.stage(f"Measuring {name}")
        began = time.monotonic()
        bare = self.rows.read(UNTOUCHED) or {}
        adapter = adapter_folder.rounded(ended.adapter, self.base, self.recipe.store)
        adapter_folder.write(adapter, self.folder / "adapters" / name)
        seat = self.engine.load(adapter)
        try:
            row = examine(self.engine, seat, self.examination, self.watch, untouched=bare["unrelated"])
        finally:
            self.engine.unload(seat)
        row["routed"] = self._routed(name, row)
        layout = adapter_folder.layout_of(self.base, ended.adapter)
        size_bytes = adapter_folder.size_bytes(self.folder / "adapters" / name)
        row |= {"parameters": layout.trainable, "bytes": size_bytes, "spec": dict(ended.adapter.spec)}
        row |= {"tokens": ended.tokens, "steps": ended.steps, "last_loss": ended.last_loss}
        return row | {"seconds": {"training": ended.seconds, "measuring": time.monotonic() - began}}

    def _routed(self, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """What a kept adapter comes to with a router before it."""
        self.watch.stage(f"Putting a router before {name}")
        bare = self.rows.read(UNTOUCHED) or {}
        with self.engine.attached(adapter_folder.read(self.folder / "adapters" / name)) as seat:
            return routed(self.engine, seat, self.examination, bare, row)

    def _end(self, name: str, row: Mapping[str, Any]) -> None:
        """Keeps a row; its training need not go on any more."""
        self._keep(name, row)
        shutil.rmtree(self.folder / "checkpoints" / name, ignore_errors=True)

    def _keep(self, name: str, row: Mapping[str, Any]) -> None:
        """Writes a row, with what it was measured on."""
        self.rows.write(name, {**row, **_machine(self.base)})

    def _trained(
        self, jobs: Sequence[tuple[str, dict[str, Any], Job]], stage: str
    ) -> Generator[tuple[str, dict[str, Any], Trained | Diverged | BadSetting]]:
        told = {name: about for name, about, _ in jobs}
        named = [(name, job) for name, _, job in jobs]
        for name, ended, how in each_trained(self.engine, named, self.folder / "checkpoints", self.watch, stage):
            yield name, told[name] | how, ended


def each_trained(
    engine: Engine, jobs: Sequence[tuple[str, Job]], checkpoints: Path, watch: Watch, stage: str = "Training"
) -> Iterator[tuple[str, Trained | Diverged | BadSetting, dict[str, Any]]]:
    """Named trainings as they end, with whether each was taken up from a checkpoint and how many shared its passes.

    On a GPU they share passes, full fine-tuning apart, for its memory; on a CPU they come one after another, so
    that the first ends early. One that diverges, or does not fit the base, ends with its error; any other error is
    raised after all others are done."""
    heavy = [[job] for job in jobs if isinstance(job[1].spec, Full)]
    light = [job for job in jobs if not isinstance(job[1].spec, Full)]
    on_gpu = engine.base.device.torch.type == "cuda"
    failed: list[Exception] = []
    for share in [*([light] if on_gpu and light else [[job] for job in light]), *heavy]:
        watch.stage(f"{stage}: {', '.join(name for name, _ in share)}")
        yield from _together(engine, share, checkpoints, watch, failed)
    if failed:
        raise failed[0]


def _together(
    engine: Engine, jobs: Sequence[tuple[str, Job]], checkpoints: Path, watch: Watch, failed: list[Exception]
) -> Iterator[tuple[str, Trained | Diverged | BadSetting, dict[str, Any]]]:
    service = Service(engine)
    begun: list[tuple[str, dict[str, Any], Ticket]] = []
    try:
        for name, job in jobs:
            how = {"resumed": (checkpoints / name).exists(), "beside": len(jobs) - 1}
            progress = training_progress(watch, name if len(jobs) > 1 else "")
            try:
                ticket = service.submit(job, checkpoint=checkpoints / name, progress=progress)
            except BadSetting as error:  # a size that this base is too small for
                yield name, error, how
            else:
                begun.append((name, how, ticket))
        while begun:
            service.run_pass()
            for name, how, ticket in [b for b in begun if b[2].ended]:
                begun = [b for b in begun if b[2] is not ticket]
                try:
                    ended: Trained | Diverged | BadSetting = ticket.result()
                except Diverged as error:
                    ended = error
                except Exception as error:  # memory that ran out, say: the others go on
                    failed.append(error)
                    continue
                yield name, ended, how
    finally:
        service.close()  # keeps checkpoints of what was not done


def each_spec(kinds: Sequence[str], sizes: Sequence[str]) -> list[tuple[str, str, Any]]:
    """(kind, size, settings) of each kind at each size."""
    found = []
    for kind in kinds:
        made = adapters.KINDS[kind]
        found += [(kind, size, made(**made.SIZES[SIZES.index(size)])) for size in sizes]
    return found


def _machine(base: Base) -> dict[str, str]:
    return {"device": base.device.description, "dtype": str(base.device.dtype).removeprefix("torch.")}


def _usual_kinds(engine: Engine, watch: Watch) -> tuple[str, ...]:
    """All kinds; full fine-tuning only where there is room for it."""
    needed = _BYTES_A_PARAMETER * sum(p.numel() for p in engine.base.model.parameters())
    free = devices.free_bytes(engine.base.device)
    if needed <= free / 2:
        return tuple(adapters.KINDS)
    watch.say(
        f"Full fine-tuning is left out: it would take about {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB that are "
        "free. Name it with --kinds to try it all the same."
    )
    return tuple(kind for kind in adapters.KINDS if kind != "full")


def _tuning(kind: str, lr: float) -> str:
    return f"tune-{kind}-{lr:.3g}"
