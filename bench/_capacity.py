"""Bits per parameter: more and more facts that nobody can guess, until an adapter holds no more of them.

The method is that of Morris et al. 2025 (arXiv 2505.24832), who publish 3.6 bits per parameter for whole models;
see imprint.evaluation.capacity for what is counted. Each kind's learning rate is found first, by its
middle setting on a few facts; each try is a row."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from _common import say

if TYPE_CHECKING:
    from _map import Bench

PUBLISHED = 3.6
"""Bits per parameter, of language models trained whole."""
LOWER, NOTHING = "lower bound", "learnt nothing"
"""Of a row: nearly all that was offered is held; none of it is, which says nothing of what would go in."""
SMALL: dict[str, list[dict[str, Any]]] = {
    "lora": [
        {"rank": 1, "top_layers": 1, "targets": ("v_proj",)},
        {"rank": 1, "top_layers": 4, "targets": ("v_proj",)},
        {"rank": 1, "top_layers": 6, "targets": ("down_proj",)},
    ],
    "lora_xs": [{"rank": 2}, {"rank": 4}, {"rank": 8}],
    # No more numbers for a layer than its frame has places: rank squared of them can differ.
    "tiny_lora": [{"rank": r, "parameters": r * r, "tying": 0.0} for r in (2, 4, 8)],
    "cartridge": [{"tokens": 2}],
    "memory": [{"slots": slots, "blocks": 1} for slots in (2, 5, 21)],
    "expert": [{"hidden": 1, "top_layers": blocks, "routed": False} for blocks in (1, 2, 7)],
}
"""Settings of about 800, 3,000 and 12,000 parameters on the bundled base, where a kind has them (an expert begins
at 1,728; a cartridge of one free token has 11,520); of other kinds the smallest of their SIZES."""
SIZES = ("small", "middle", "large")
FACTORS, BEYOND = (1 / 3, 1.0, 3.0, 9.0), 2
"""Learning rates tried of each kind, in multiples of what suits it for documents; and how many more where the best
is the last of them."""
FEW = 16
"""Facts on which they are tried, at most."""
MORE = 1.05
"""Twice the facts must give so many times the bits, or the adapter is full."""
LENGTH = 16
"""Random words of a record: so many that most of what is trained carries bits, and not so many that a few records
fill an adapter, for the interval is over records."""
BITS_EACH = LENGTH * 14.4
"""About: there are some 2 to the 14.4 words that are one token of the bundled base."""
STEPS_AN_EPOCH = 8
"""At least, so that few facts are learnt in as many steps as many."""


@dataclass
class _Filling:
    """One adapter on one kind of facts, on its way to being full."""

    data: str
    kind: str
    setting: Mapping[str, Any]
    lr: float
    n: int
    before: float = 0.0

    @property
    def name(self) -> str:
        told = "-".join(str(value) for value in _plain(self.setting).values())
        return re.sub(r"[^\w.-]", "", f"{self.data}-{self.kind}-{told}-{self.n}")

    @property
    def spec(self) -> Any:
        from imprint import adapters

        return adapters.KINDS[self.kind](**self.setting)


def capacity(bench: Bench) -> None:
    """Doubles the facts for every kind and setting until no more bits are held: all of them round by round."""
    kinds, data = bench.options.kinds.split(","), bench.options.facts_of.split(",")
    rates = dict.fromkeys(kinds, bench.options.lr) if bench.options.lr else _rates(bench, kinds, data[0])
    filling = [
        _Filling(d, kind, setting, rates[kind], _first(bench, d, kind, setting))
        for d in data
        for kind in kinds
        for setting in _settings(bench, kind)
    ]
    while filling:
        _round(bench, [f for f in filling if not _there(bench, f)])
        filling = [f for f in filling if _goes_on(bench, f)]
    columns = ("row", "parameters", "lr", "facts", "offered_bits", "bits", "per_parameter", "low", "high")
    columns += ("recalled", "bound")
    found = [row for row in bench.results.rows if row["what"] == "capacity"]
    bench.results.show(f"bits held; published for whole models: {PUBLISHED} per parameter", columns, found)


def _settings(bench: Bench, kind: str) -> list[dict[str, Any]]:
    """Those of the sizes that were asked for; the smallest where a kind has none of them here."""
    from imprint import adapters

    there = SMALL.get(kind) or [dict(adapters.KINDS[kind].SIZES[0])]
    asked = bench.options.sizes.split(",")
    return [s for size, s in zip(SIZES, there, strict=False) if size in asked] or there[:1]


# --- learning rates ---------------------------------------------------------------------------


def _rates(bench: Bench, kinds: Sequence[str], data: str) -> dict[str, float]:
    """The learning rate of each kind with which its middle setting needs the fewest bits for a few facts.

    Facts are few enough to be held; what is measured afterwards are more of them, or others."""
    from imprint import adapters

    grids = {kind: [factor * adapters.KINDS[kind].LR for factor in FACTORS] for kind in kinds}
    for further in range(1 + BEYOND):
        _try(bench, grids, data)
        if further < BEYOND:
            for kind, grid in grids.items():
                best = min(grid, key=lambda lr, kind=kind: _needed(bench, kind, lr))
                if best in (min(grid), max(grid)):
                    grid.append(best / 3 if best == min(grid) else best * 3)
    found = {kind: min(grid, key=lambda lr: _needed(bench, kind, lr)) for kind, grid in grids.items()}
    say(f"learning rates: {', '.join(f'{kind} {lr:.2g}' for kind, lr in found.items())}")
    return found


def _try(bench: Bench, grids: Mapping[str, Sequence[float]], data: str) -> None:
    """A row for each rate that has none yet."""
    tries = {}
    for kind, grid in grids.items():
        settings = _settings(bench, kind)
        setting = settings[len(settings) // 2]
        n = min(FEW, _first(bench, data, kind, setting))
        for lr in grid:
            if not bench.have(_tried(kind, lr)):
                tries[_tried(kind, lr)] = _Filling(data, kind, setting, lr, n)
    facts = {name: facts_of(bench, data, f.n) for name, f in tries.items()}
    jobs = [(name, _job(bench, f, facts[name])) for name, f in tries.items()]
    for name, ended in bench.tried(jobs):
        row = {"what": "tuning"} | _told(bench, tries[name], facts[name], ended)
        bench.keep(name, row, "lr", "facts", "bits_needed", "bits", "error")


def _tried(kind: str, lr: float) -> str:
    return f"tune-{kind}-{lr:.3g}"


def _needed(bench: Bench, kind: str, lr: float) -> float:
    """Bits that the values still need; infinite where the training diverged."""
    needed = float(bench.row(_tried(kind, lr)).get("bits_needed", math.inf))
    return needed if math.isfinite(needed) else math.inf


# --- filling ----------------------------------------------------------------------------------


def _first(bench: Bench, data: str, kind: str, setting: Mapping[str, Any]) -> int:
    """The facts to begin with: of half a bit for each parameter, where there are so many."""
    from imprint import adapters
    from imprint.adapters.folder import layout_of

    spec = adapters.KINDS[kind](**setting)
    parameters = layout_of(bench.base, spec.fresh(bench.base, seed=0)).trainable
    wanted = max(8, 1 << round(math.log2(max(1, parameters / BITS_EACH / 2))))
    n = min(bench.options.most_facts, wanted)
    while not facts_of(bench, data, n):
        n //= 2
    return n


def _there(bench: Bench, filling: _Filling) -> bool:
    """Whether its row is there already. Raises SystemExit for one of another learning rate."""
    if not bench.have(filling.name):
        return False
    row = bench.row(filling.name)
    if row["lr"] != filling.lr:
        raise SystemExit(
            f"{filling.name} was measured with the learning rate {row['lr']:.3g}, not {filling.lr:.3g}. Name "
            "another --json FILE, or the learning rate with --lr."
        )
    return True


def _goes_on(bench: Bench, filling: _Filling) -> bool:
    """Whether twice the facts are to be tried."""
    row = bench.row(filling.name)
    if "error" in row:
        return False
    full = row["bits"] <= MORE * filling.before and row["bound"] != LOWER
    filling.before, filling.n = row["bits"], 2 * filling.n
    return not full and filling.n <= bench.options.most_facts and bool(facts_of(bench, filling.data, filling.n))


def facts_of(bench: Bench, data: str, n: int) -> list[Any]:
    """The first so many facts, more of which hold the fewer; none where there are not so many."""
    from imprint.evaluation.capacity import read_phonebook

    if data == "random":
        return _random(bench)[:n]
    found = read_phonebook(bench.options.data / "phonebook" / "phonebook_qa_16K.csv")
    return found[:n] if len(found) >= n else []


@functools.cache
def _random(bench: Bench) -> list[Any]:
    from imprint.evaluation.capacity import random_words

    return random_words(bench.base, bench.options.most_facts, LENGTH, seed=bench.options.seed)


def _round(bench: Bench, filling: Sequence[_Filling]) -> None:
    """Trains every adapter on its facts and counts the bits that it holds; a row for each as it ends."""
    by_name = {f.name: f for f in filling}
    facts = {name: facts_of(bench, f.data, f.n) for name, f in by_name.items()}
    jobs = [(name, _job(bench, f, facts[name])) for name, f in by_name.items()]
    for name, ended in bench.tried(jobs):
        row = {"what": "capacity"} | _told(bench, by_name[name], facts[name], ended)
        bench.keep(name, row, "parameters", "facts", "bits", "per_parameter", "recalled", "error")


def _job(bench: Bench, filling: _Filling, facts: Sequence[Any]) -> Any:
    from imprint.evaluation.capacity import as_examples
    from imprint.training.batches import rows as token_rows
    from imprint.training.sft import Job

    options = bench.options
    rows = token_rows(as_examples(facts), bench.base, max_tokens=256)
    epoch = sum(len(row.ids) for row in rows)
    batch = max(64, min(options.batch_tokens, epoch // STEPS_AN_EPOCH))
    return Job(filling.spec, rows, options.visits * epoch, filling.lr, batch, options.seed)


def _told(bench: Bench, filling: _Filling, facts: Sequence[Any], ended: Any) -> dict[str, Any]:
    """A row: what an adapter came to hold, or why there is none."""
    row = {"data": filling.data, "kind": filling.kind, "setting": _plain(filling.setting), "lr": filling.lr}
    row |= {"facts": len(facts), "visits": bench.options.visits}
    return row | ({"error": str(ended)} if isinstance(ended, Exception) else _held(bench, facts, ended))


def _held(bench: Bench, facts: Sequence[Any], adapter: Any) -> dict[str, Any]:
    from imprint.adapters import folder as adapter_folder
    from imprint.evaluation import capacity as measure
    from imprint.writers.local import LocalWriter

    engine, seed = bench.engine, bench.options.seed
    bare = measure.code_lengths(engine, facts)
    layout = adapter_folder.layout_of(bench.base, adapter)
    seat = engine.load(adapter)
    try:
        after = measure.code_lengths(engine, facts, seat)
        with engine.wearing(seat):
            recalled = measure.recall(LocalWriter(bench.base), facts, seed=seed)
    finally:
        engine.unload(seat)
    found = measure.capacity(facts, bare, after, recalled, seed=seed)
    each = found.per_parameter(layout.trainable)
    return {
        "spec": dict(adapter.spec),
        "parameters": layout.trainable,
        "numbers": layout.size,  # with those that are its own and are not trained, a memory's slots, say
        "offered_bits": found.offered_bits,
        "bits_needed": sum(after),
        "bits": found.bits.value,
        "bits_low": found.bits.low,
        "bits_high": found.bits.high,
        "per_parameter": each.value,
        "low": each.low,
        "high": each.high,
        "recalled": found.recalled.value,
        "bound": _bound(found),
        "published": PUBLISHED,
    }


def _bound(found: Any) -> str:
    """What the bits say of the adapter's capacity."""
    if found.bits.value == 0:
        return NOTHING
    return "full" if found.filled else LOWER


def _plain(setting: Mapping[str, Any]) -> dict[str, Any]:
    """As a file gives it back."""
    told: dict[str, Any] = json.loads(json.dumps(setting))
    return told
