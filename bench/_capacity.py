"""Bits per parameter: more and more facts that nobody can guess, until an adapter holds no more of them.

The method is that of Morris et al. 2025 (arXiv 2505.24832), who publish 3.6 bits per parameter for whole models; see
imprint.evaluation.capacity for what is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from _common import say

if TYPE_CHECKING:
    from map import Bench

PUBLISHED = 3.6
"""Bits per parameter, of language models trained whole."""
SMALL: dict[str, list[dict[str, Any]]] = {
    "lora": [
        {"rank": 1, "top_layers": 1, "targets": ("down_proj",)},
        {"rank": 1, "top_layers": 1},
        {"rank": 2, "top_layers": 1},
    ],
    "lora_xs": [{"rank": 2}, {"rank": 4}, {"rank": 9}],
    "tiny_lora": [{"parameters": 1, "tying": 1.0}, {"parameters": 64, "tying": 0.0}],
    "cartridge": [{"tokens": 2}],
}
"""Settings of about 20,000 parameters and less on the bundled base; of other kinds the smallest of their SIZES."""
MORE = 1.05
"""Twice the facts must give so many times the bits, or the adapter is full."""
LENGTH = 8
"""Letters of a random string: 37.6 bits."""


def capacity(bench: Bench) -> None:
    """Doubles the facts for every kind and setting until no more bits are held."""
    from imprint import adapters

    for data in ("random", "phonebook"):
        for kind in bench.options.kinds.split(","):
            made = adapters.KINDS[kind]
            settings = SMALL.get(kind, [made.SIZES[0]])
            for i, setting in enumerate(settings):
                _filled(bench, data, f"{kind}-{i}", made(**setting), bench.options.lr or made.LR)
    columns = ("row", "parameters", "facts", "offered_bits", "bits", "per_parameter", "low", "high", "recalled", "bound")
    bench.results.show(f"bits held; published for whole models: {PUBLISHED} per parameter", columns)


def _filled(bench: Bench, data: str, named: str, spec: Any, lr: float) -> None:
    """Rows of one adapter on one kind of facts, with twice as many each time."""
    options, before = bench.options, 0.0
    n = options.facts
    while n <= options.most_facts:
        name = f"{data}-{named}-{n}"
        if not bench.have(name):
            facts = facts_of(bench, data, n)
            if len(facts) < n:
                say(f"{data} has no more than {len(facts)} facts")
                return
            bench.keep(name, _row(bench, name, facts, spec, lr), "parameters", "bits", "per_parameter", "recalled")
        row = bench.row(name)
        if row["bits"] < MORE * before and row["bound"] == "full":
            return
        before, n = row["bits"], 2 * n


def facts_of(bench: Bench, data: str, n: int) -> list[Any]:
    """The first so many facts; more of them hold the fewer."""
    from imprint.evaluation.capacity import random_strings, read_phonebook

    if data == "random":
        return random_strings(bench.options.most_facts, LENGTH, seed=bench.options.seed)[:n]
    return read_phonebook(bench.options.data / "phonebook" / "phonebook_qa_16K.csv")[:n]


def _row(bench: Bench, name: str, facts: list[Any], spec: Any, lr: float) -> dict[str, Any]:
    from imprint.adapters import folder as adapter_folder
    from imprint.evaluation import capacity as measure
    from imprint.training.batches import rows as token_rows
    from imprint.training.sft import Job
    from imprint.writers.local import LocalWriter

    options, engine = bench.options, bench.engine
    rows = token_rows(measure.as_examples(facts), bench.base, max_tokens=256)
    tokens = options.visits * sum(len(row.ids) for row in rows)
    job = Job(spec, rows, tokens, lr, options.batch_tokens, options.seed)
    bare = measure.code_lengths(engine, facts)
    (_, adapter), *_ = bench.trained([(name, job)])
    parameters = adapter_folder.layout_of(bench.base, adapter).trainable
    seat = engine.load(adapter)
    try:
        after = measure.code_lengths(engine, facts, seat)
        with engine.wearing(seat):
            recalled = measure.recall(LocalWriter(bench.base), facts, seed=options.seed)
    finally:
        engine.unload(seat)
    found = measure.capacity(facts, bare, after, recalled, seed=options.seed)
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
        "tokens": tokens,
        "visits": options.visits,
        "lr": lr,
        "published": PUBLISHED,
    }
