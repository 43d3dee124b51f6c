"""Bits per parameter: more and more facts that nobody can guess, until an adapter holds no more of them.

The method is that of Morris et al. 2025 (arXiv 2505.24832), who publish 3.6 bits per parameter for whole models;
see imprint.evaluation.capacity for what is counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _map import Bench

PUBLISHED = 3.6
"""Bits per parameter, of language models trained whole."""
SMALL: dict[str, list[dict[str, Any]]] = {
    "lora": [
        {"rank": 1, "top_layers": 1, "targets": ("k_proj",)},
        {"rank": 1, "top_layers": 1, "targets": ("down_proj",)},
        {"rank": 1, "top_layers": 1},
    ],
    "lora_xs": [{"rank": 2}, {"rank": 4}, {"rank": 8}],
    "tiny_lora": [{"parameters": 1, "tying": 1.0}, {"parameters": 64, "tying": 0.0}],
    "cartridge": [{"tokens": 2}],
    "memory": [{"slots": 1, "blocks": 1}, {"slots": 4, "blocks": 1}],
    "expert": [
        {"hidden": 1, "top_layers": 1, "routed": False},
        {"hidden": 4, "top_layers": 1, "routed": False},
    ],
}
"""Settings of about 20,000 parameters and less on the bundled base; of other kinds the smallest of their SIZES."""
MORE = 1.05
"""Twice the facts must give so many times the bits, or the adapter is full."""
LENGTH = 8
"""Letters of a random string."""
BITS_EACH = LENGTH * math.log2(26)
STEPS_AN_EPOCH = 8
"""At least, so that few facts are learnt in as many steps as many."""


@dataclass
class _Filling:
    """One adapter on one kind of facts, on its way to being full."""

    data: str
    name: str
    spec: Any
    lr: float
    n: int
    before: float = 0.0


def capacity(bench: Bench) -> None:
    """Doubles the facts for every kind and setting until no more bits are held: all of them round by round."""
    from imprint import adapters

    filling = []
    for data in bench.options.facts_of.split(","):
        for kind in bench.options.kinds.split(","):
            made = adapters.KINDS[kind]
            for i, setting in enumerate(SMALL.get(kind, [made.SIZES[0]])):
                spec, lr = made(**setting), bench.options.lr or made.LR
                filling.append(_Filling(data, f"{data}-{kind}-{i}", spec, lr, _first(bench, data, spec)))
    while filling:
        _round(bench, [f for f in filling if not bench.have(f"{f.name}-{f.n}")])
        filling = [f for f in filling if _goes_on(bench, f)]
    columns = ("row", "parameters", "facts", "offered_bits", "bits", "per_parameter", "low", "high", "recalled")
    columns += ("bound",)
    bench.results.show(f"bits held; published for whole models: {PUBLISHED} per parameter", columns)


def _first(bench: Bench, data: str, spec: Any) -> int:
    """The facts to begin with: of half a bit for each parameter, where there are so many."""
    from imprint.adapters.folder import layout_of

    parameters = layout_of(bench.base, spec.fresh(bench.base, seed=0)).trainable
    wanted = max(8, 1 << round(math.log2(max(1, parameters / BITS_EACH / 2))))
    n = min(bench.options.most_facts, wanted)
    while not facts_of(bench, data, n):
        n //= 2
    return n


def _goes_on(bench: Bench, filling: _Filling) -> bool:
    """Whether twice the facts are to be tried."""
    row = bench.row(f"{filling.name}-{filling.n}")
    full = row["bits"] < MORE * filling.before and row["bound"] == "full"
    filling.before, filling.n = row["bits"], 2 * filling.n
    return not full and filling.n <= bench.options.most_facts and bool(facts_of(bench, filling.data, filling.n))


def facts_of(bench: Bench, data: str, n: int) -> list[Any]:
    """The first so many facts, more of which hold the fewer; none where there are not so many."""
    from imprint.evaluation.capacity import random_strings, read_phonebook

    if data == "random":
        return random_strings(bench.options.most_facts, LENGTH, seed=bench.options.seed)[:n]
    found = read_phonebook(bench.options.data / "phonebook" / "phonebook_qa_16K.csv")
    return found[:n] if len(found) >= n else []


def _round(bench: Bench, filling: Sequence[_Filling]) -> None:
    """Trains every adapter on its facts and counts the bits that it holds; a row for each as it ends."""
    from imprint.evaluation import capacity as measure
    from imprint.training.batches import rows as token_rows
    from imprint.training.sft import Job

    options, jobs = bench.options, {}
    facts = {f"{f.name}-{f.n}": facts_of(bench, f.data, f.n) for f in filling}
    for f in filling:
        rows = token_rows(measure.as_examples(facts[f"{f.name}-{f.n}"]), bench.base, max_tokens=256)
        epoch = sum(len(row.ids) for row in rows)
        batch = max(64, min(options.batch_tokens, epoch // STEPS_AN_EPOCH))
        jobs[f"{f.name}-{f.n}"] = Job(f.spec, rows, options.visits * epoch, f.lr, batch, options.seed)
    for name, adapter in bench.trained(list(jobs.items())):
        row = _row(bench, facts[name], adapter) | {"tokens": jobs[name].tokens, "lr": jobs[name].lr}
        bench.keep(name, row, "parameters", "facts", "bits", "per_parameter", "recalled")


def _row(bench: Bench, facts: list[Any], adapter: Any) -> dict[str, Any]:
    from imprint.adapters import folder as adapter_folder
    from imprint.evaluation import capacity as measure
    from imprint.writers.local import LocalWriter

    engine, seed = bench.engine, bench.options.seed
    bare = measure.code_lengths(engine, facts)
    parameters = adapter_folder.layout_of(bench.base, adapter).trainable
    seat = engine.load(adapter)
    try:
        after = measure.code_lengths(engine, facts, seat)
        with engine.wearing(seat):
            recalled = measure.recall(LocalWriter(bench.base), facts, seed=seed)
    finally:
        engine.unload(seat)
    found = measure.capacity(facts, bare, after, recalled, seed=seed)
    each = found.per_parameter(parameters)
    return {
        "kind": adapter.spec["kind"],
        "spec": dict(adapter.spec),
        "parameters": parameters,
        "facts": len(facts),
        "offered_bits": found.offered_bits,
        "bits": found.bits.value,
        "per_parameter": each.value,
        "low": each.low,
        "high": each.high,
        "recalled": found.recalled.value,
        "bound": "full" if found.filled else "lower bound",
        "visits": bench.options.visits,
        "published": PUBLISHED,
    }
