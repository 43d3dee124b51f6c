"""Everything that is measured of one adapter, and of the untouched base, the same way for every kind.

Shape key: B rows, T tokens, D width."""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from imprint.base import Base
from imprint.engine import Engine, Seat
from imprint.errors import BadInput, BadSetting
from imprint.evaluation import interference, open_book, proof, suites
from imprint.evaluation.closed_book import Question, abstains, answer_all, interval
from imprint.evaluation.forgetting import perplexity
from imprint.evaluation.suites import Item, read_suite
from imprint.types import Prompt, Score
from imprint.watch import SILENT, Watch
from imprint.writers.local import LocalWriter

_COST_ROWS, _COST_ROWS_GPU = 16, 256
"""Answers at once where cost is measured."""
_COST_TOKENS, _COST_ROUNDS = 16, 3
"""Tokens of each of them; rounds, of which the median counts."""

Worn = Seat | Sequence[Seat] | None


@dataclass(frozen=True, slots=True)
class Examination:
    """What is asked and read. The same one is put to every adapter."""

    questions: Sequence[Question]
    """About the documents. One without answers asks what they do not tell."""
    strangers: Sequence[Question] = ()
    """Questions that the documents do not answer, asked besides: whether it is said that they do not."""
    documents: Sequence[str] = ()
    """The documents' texts, for whether answers to unrelated questions speak of them; where there are none, that is
    not measured."""
    suites: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    """By name: items judged by log-likelihood."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """By name: general texts whose perplexity is taken."""
    seed: int = 0

    @property
    def answerable(self) -> list[Question]:
        return [q for q in self.questions if q.answers]


def read_by_name(
    suites: Sequence[str | Path], texts: Sequence[str | Path]
) -> tuple[dict[str, list[Item]], dict[str, str]]:
    """The suites and general texts of these files, by name. Raises BadInput or BadSetting."""
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


def examine(
    engine: Engine,
    worn: Worn,
    examination: Examination,
    watch: Watch = SILENT,
    *,
    untouched: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What the base with these adapters on (None: with none) comes to, as JSON values: learnt, perplexity, suites,
    interference, abstention, wrongly_abstained, cost and answers.

    `untouched`: what the bare base says to unrelated questions (its 'unrelated'); None where it is the bare base
    that is examined."""
    base, seed = engine.base, examination.seed
    writer = LocalWriter(
        base, progress=lambda done, n, rate: watch.progress("answers", done, n, f"{rate:.0f} tokens/s")
    )
    with engine.wearing(worn):
        told = asked(writer, examination) | _interference(writer, examination, untouched)
        told["perplexity"] = {}
        for i, (name, text) in enumerate(examination.texts.items(), 1):
            found = perplexity(base, text)
            told["perplexity"][name] = asdict(found) | {"value": found.value}
            watch.progress("texts", i, len(examination.texts), name)
        told["suites"] = {}
        for i, (name, items) in enumerate(examination.suites.items(), 1):
            told["suites"][name] = _suite(base, items, seed)
            watch.progress("suites", i, len(examination.suites), name)
    told["cost"] = cost(engine, worn, examination.questions)
    return told


def asked(writer: LocalWriter, examination: Examination) -> dict[str, Any]:
    """Only the questions: what is worn answers them from its weights."""
    base, seed = writer.base, examination.seed
    result, answered = proof.measure(
        writer, examination.questions, open_book.closed, lambda p: len(base.prompt_ids(p.turns)), seed=seed
    )
    told: dict[str, Any] = {"learnt": learnt(result) | _score("nats", nats(writer, examination.answerable), seed)}
    declined = [float(abstains(a.text)) for a in answered if not a.question.answers]
    if examination.strangers:
        strange, _ = answer_all(writer, examination.strangers, open_book.closed, seed=seed)
        declined += [float(abstains(a.text)) for a in strange]
    told["abstention"] = asdict(interval(declined, seed=seed)) if declined else None
    wrongly = [float(abstains(a.text)) for a in answered if a.question.answers]
    told["wrongly_abstained"] = asdict(interval(wrongly, seed=seed))
    told["seconds_per_answer"] = result.seconds_per_answer
    told["answers"] = proof.shown(answered)
    return told


def learnt(result: proof.SystemResult) -> dict[str, Any]:
    """The part of a system's result that says what it knows."""
    keys = ("score", "low", "high", "n", "f1", "exact", "by_kind")
    return {key: getattr(result, key) for key in keys}


def nats(writer: LocalWriter, questions: Sequence[Question]) -> list[float]:
    """What the right answer to each question costs, closed book, in nats a token: finer than right or wrong."""
    likely = writer.likelihoods([open_book.closed(q.asked) for q in questions], [q.answers[0] for q in questions])
    return [-value for value in likely]


def cost(engine: Engine, worn: Worn, questions: Sequence[Question]) -> dict[str, float]:
    """Seconds of an answer of 16 tokens, many at once, and the ratio to the bare base: in turns, at equal work."""
    base = engine.base
    rows = _COST_ROWS_GPU if base.device.torch.type == "cuda" else _COST_ROWS
    ids = [base.prompt_ids(open_book.closed(q.asked).turns) for q in questions]
    shortest = min(len(row) for row in ids)
    tokens_BT = torch.tensor([ids[i % len(ids)][-shortest:] for i in range(rows)], device=base.device.torch)
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(_COST_ROUNDS + 1):  # the first is slow: kernels are chosen
        for seconds, on in ((ours, worn), (bare, None)):
            with engine.wearing(on):
                began = time.perf_counter()
                _go_on(base, tokens_BT)
                seconds.append((time.perf_counter() - began) / rows)
    ratios = [a / b for a, b in zip(ours[1:], bare[1:], strict=True)]
    return {
        "seconds_per_answer": statistics.median(ours[1:]),
        "bare_seconds_per_answer": statistics.median(bare[1:]),
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
    }


def cost_of_reading(
    writer: LocalWriter, prompt: Any, questions: Sequence[Question], *, seed: int
) -> dict[str, float]:
    """The same of a rival that reads: its answers as they are asked against the base's without a text, in turns."""
    some = questions[:_COST_ROWS]
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(2):
        for seconds, way in ((ours, prompt), (bare, open_book.closed)):
            prompts: list[Prompt] = [way(q.asked) for q in some]
            began = time.perf_counter()
            writer.write(prompts, seed=seed)
            seconds.append((time.perf_counter() - began) / len(some))
    return {
        "seconds_per_answer": ours[1],
        "bare_seconds_per_answer": bare[1],
        "ratio": ours[1] / bare[1],
        "low": min(a / b for a, b in zip(ours, bare, strict=True)),
        "high": max(a / b for a, b in zip(ours, bare, strict=True)),
    }


@torch.inference_mode()
def _go_on(base: Base, tokens_BT: torch.Tensor) -> None:
    """Writes so many tokens after each row, whatever they are: no row ends early."""
    known = inspect.signature(base.model.model.forward).parameters
    cache = {"cache" if "cache" in known else "past_key_values": DynamicCache()}
    for _ in range(_COST_TOKENS):
        with base.turns.take():
            hidden_BTD = base.model.model(input_ids=tokens_BT, **cache, use_cache=True).last_hidden_state
            tokens_BT = base.model.lm_head(hidden_BTD[:, -1].contiguous()).argmax(-1, keepdim=True)
    tokens_BT.cpu()  # waits for the device


def _suite(base: Base, items: Sequence[Item], seed: int) -> dict[str, Any]:
    right = suites.measure(base, items)
    by_task = {task: asdict(score) for task, score in suites.by_task(items, right, seed=seed).items()}
    score = asdict(interval(right, seed=seed))
    return score | {"by_task": by_task, "right": right, "tasks": [item.task for item in items]}


def _score(name: str, values: Sequence[float], seed: int) -> dict[str, float]:
    score: Score = interval(values, seed=seed)
    return {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}


def _interference(writer: LocalWriter, examination: Examination, untouched: Sequence[str] | None) -> dict[str, Any]:
    """How often unrelated questions are answered with the documents, and with what; of the bare base, by chance."""
    if not examination.documents:
        return {"interference": None, "unrelated": []}
    seed = examination.seed
    if untouched is None:
        said = interference.unrelated_answers(writer, seed=seed)
        found = interference.interference(writer, examination.documents, said, seed=seed)
        return {"interference": asdict(found.by_chance), "unrelated": said}
    found = interference.interference(writer, examination.documents, untouched, seed=seed)
    spoke = [asdict(told) for told in found.answers if told.words]
    return {"interference": asdict(found.share), "by_chance": asdict(found.by_chance), "spoke": spoke}
