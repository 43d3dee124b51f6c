"""What this machine does in a second, tried for a moment before anything is planned: writing, training, answering.

What is tried for advice is kept for a day. What a plan within a time hangs on is always tried anew, for other
programs may be running now; what only tells how long a plan takes is tried once by a process."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from imprint import devices, writing
from imprint.adapters import folder as adapter_folder
from imprint.advice import Pace
from imprint.base import Base
from imprint.engine import Engine
from imprint.home import cache_folder
from imprint.planner import Speeds, Work
from imprint.recipe import Recipe
from imprint.retrieval import Index
from imprint.run_folder import write_whole
from imprint.training.batches import Row, batches, each_row
from imprint.training.loop import Loop, Settings
from imprint.training.sft import lengths_of
from imprint.types import AdapterSpec, Example, Passage, Prompt, Turn, content_hash
from imprint.writers.local import LocalWriter

KEPT_S = 24 * 3600.0
"""For so long a trial stands in for another."""

_STEPS = 7
"""Steps of a trial of training; the first is slow and not counted."""
_READING = 0.6
"""What it takes a teacher to read a token of training text, with a share of the passage before it, in tokens of
training: on the bundled base it read twice as fast as it learns, and 1.2 tokens for one."""
_SHORT, _LONG = 128, 1024
"""Tokens before an answer, in the two trials of reading and writing; less where the window is small."""
_WRITTEN = 16
"""Tokens that a trial writes."""

_TRIED: dict[str, Speeds] = {}
"""What this process tried, by what it hangs on."""


def speeds(recipe: Recipe, passages: Sequence[Passage], engine: Engine, work: Work, spec: AdapterSpec) -> Speeds:
    """How fast text is made and learnt here; where a recipe distils, its making holds the teacher's reading."""
    text = writing.text_speed(recipe, passages, engine, work)
    training = training_speed(engine, spec, _like_its_text(recipe, passages, engine.base), recipe.batch_tokens)
    reading = _READING / training if recipe.objective == "distill" else 0.0
    return Speeds(1 / (1 / text + reading), training)


def speeds_once(
    recipe: Recipe, passages: Sequence[Passage], engine: Engine, work: Work, spec: AdapterSpec
) -> Speeds:
    """The same, as this process first tried it with this base and recipe: a night plans for thousands of people,
    and each trial takes a core a second or two."""
    key = _machine(engine.base, replace(recipe, text_tokens=None), spec)
    if key not in _TRIED:
        _TRIED[key] = speeds(recipe, passages, engine, work, spec)
    return _TRIED[key]


def training_speed(engine: Engine, spec: AdapterSpec, rows: Sequence[Row], batch_tokens: int) -> float:
    """Tokens a second, measured by training a little on these rows, in batches as training has them."""
    model = engine.base
    lengths = lengths_of(rows)
    steps = batches(lengths, tokens=batch_tokens, seed=0, epoch=0)
    if len(steps) > 1:  # the last is what was left over
        steps = steps[:-1]
    steps = (steps * math.ceil(_STEPS / len(steps)))[:_STEPS]
    with model.turns.take():  # a pass of others adds zeros to empty slots, which must not meet this slot's filling
        seat = engine.load(spec.fresh(model, seed=0), trainable=True)
    try:
        loop = Loop(engine, seat, Settings(steps=_STEPS))
        told: list[tuple[int, float]] = []
        for step in steps:
            began = time.monotonic()
            with model.turns.take():
                loop.forward_backward([rows[i] for i in step])
                loop.step()
            told.append((sum(lengths[i] for i in step), time.monotonic() - began))
    finally:
        engine.unload(seat)
    # Another program may disturb a step: the middle one by its speed stands for all.
    rates = sorted(tokens / seconds for tokens, seconds in told[1:])
    return rates[len(rates) // 2]


def _like_its_text(recipe: Recipe, passages: Sequence[Passage], base: Base) -> list[Row]:
    """Rows as the recipe's training text has them: what its rules make of some passages, else the passages."""
    some = passages[:: max(1, len(passages) // 8)][:8]
    made = [e for kind, _ in writing.kinds(recipe) for e in writing.by_rule(kind, some)]
    plain = [Example((Turn("text", p.text, learn=True),), (p.id,), "trial") for p in some]
    return list(each_row(made or plain, base, max_tokens=256, questions=recipe.learn_questions))


# --- answering --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tried:
    """Speeds of one base on one machine, and when they were tried."""

    at_s: float
    """Of the clock that the caller reads."""
    text_tokens_per_second: float
    train_tokens_per_second: float
    read_s: float
    read_more_s: float
    write_s: float
    write_more_s: float
    adapter_factor: float
    adapter_bytes: int

    @property
    def speeds(self) -> Speeds:
        return Speeds(self.text_tokens_per_second, self.train_tokens_per_second)


def tried(
    recipe: Recipe,
    passages: Sequence[Passage],
    engine: Engine,
    work: Work,
    spec: AdapterSpec,
    *,
    now_s: float,
    folder: Path | None = None,
) -> Tried:
    """Speeds of writing, training and answering: tried now, or within a day with the same base and recipe here."""
    file = (folder or cache_folder() / "speeds") / f"{_machine(engine.base, recipe, spec)}.json"
    kept = _kept(file, now_s)
    if kept is not None:
        return kept
    measured = speeds(recipe, passages, engine, work, spec)
    answering = _answering(engine, spec, passages)
    found = Tried(now_s, measured.text_tokens_per_second, measured.train_tokens_per_second, **answering)
    write_whole(file, json.dumps(asdict(found)))
    return found


def _machine(base: Base, recipe: Recipe, spec: AdapterSpec) -> str:
    """What speeds hang on: the base, the device and its threads, the precision, what is written and trained."""
    device = base.device
    return content_hash(
        base.revision,
        platform.node(),
        device.description,
        str(device.dtype),
        str(torch.get_num_threads()),
        repr(spec),
        repr(recipe),
    )


def _kept(file: Path, now_s: float) -> Tried | None:
    if not file.exists():
        return None
    found = Tried(**json.loads(file.read_text("utf-8")))
    return found if 0 <= now_s - found.at_s < KEPT_S else None


def cores(base: Base) -> int:
    """Cores that compute; 0 where a GPU does."""
    return torch.get_num_threads() if base.device.torch.type == "cpu" else 0


def pace(found: Tried, base: Base, passages: Sequence[Passage]) -> Pace:
    """Those speeds with the memory that things take here, and the search index built once for its time."""
    began = time.monotonic()
    with Index(passages):
        index_s = time.monotonic() - began
    layers = int(base.model.config.num_hidden_layers)
    bytes_each = base.model.dtype.itemsize
    return Pace(
        base=base.name,
        device=base.device.description,
        read_s=found.read_s,
        read_more_s=found.read_more_s,
        write_s=found.write_s,
        write_more_s=found.write_more_s,
        adapter_factor=found.adapter_factor,
        index_s=index_s,
        window_tokens=base.window_tokens,
        base_bytes=sum(p.numel() * p.element_size() for p in base.model.parameters()),
        kv_bytes=2 * layers * base.key_heads * base.head_width * bytes_each,
        adapter_bytes=found.adapter_bytes,
        # An index keeps the passages and, for each word, where it stands: about as much again.
        index_bytes=2 * sum(len(p.text.encode()) for p in passages),
        free_bytes=devices.free_bytes(base.device),
    )


def _answering(engine: Engine, spec: AdapterSpec, passages: Sequence[Passage]) -> dict[str, Any]:
    """Seconds of reading and writing, bare and with an adapter worn."""
    base = engine.base
    text = base.tokenizer.encode("\n".join(p.text for p in passages), add_special_tokens=False)
    long = min(_LONG, base.window_tokens // 2)
    short = max(8, min(_SHORT, long // 4))
    ids = (text * math.ceil(long / max(len(text), 1)))[:long]
    few, many = base.tokenizer.decode(ids[:short]), base.tokenizer.decode(ids)
    (n1, read1, write1), (n2, read2, write2) = (_timed(base, t) for t in (few, many))
    # read = a n + c n^2 at two lengths; where noise would make a next to nothing, it is a quarter of what was seen.
    curved = (read2 / n2 - read1 / n1) / (n2 - n1)
    read_s = max(read1 / n1 - max(0.0, curved) * n1, read1 / n1 / 4)
    more = max(0.0, (read2 - read_s * n2) / n2**2)
    write_more = max(0.0, (write2 - write1) / (n2 - n1))
    adapter = spec.fresh(base, seed=0)
    with engine.attached(adapter):
        _, _, worn = _timed(base, few)
    return {
        "read_s": read_s,
        "read_more_s": more,
        "write_s": max(write1 - write_more * n1, 1e-9),
        "write_more_s": write_more,
        "adapter_factor": max(1.0, worn / max(write1, 1e-9)),
        "adapter_bytes": 4 * adapter_folder.layout_of(base, adapter).size,
    }


def _timed(base: Base, text: str) -> tuple[int, float, float]:
    """Tokens of a prompt, seconds to read it, and seconds for each token written after it: the quicker of two."""
    writer = LocalWriter(base)
    tokens = len(base.prompt_ids((Turn("text", text),)))

    def quicker(most: int) -> tuple[float, int]:
        seconds, written = math.inf, 1
        for _ in range(2):
            began = time.monotonic()
            told = writer.write([Prompt((Turn("text", text),), max_tokens=most)], seed=0)[0]
            seconds = min(seconds, time.monotonic() - began)
            written = max(1, len(told.ids or ()))
        return seconds, written

    first, _ = quicker(1)
    whole, written = quicker(_WRITTEN)
    each = (whole - first) / (written - 1) if written > 1 else first / tokens
    return tokens, first, max(each, 1e-9)
