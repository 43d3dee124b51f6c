"""What shared passes gain over PEFT one by one, against the tokens that each adapter has in a step.

    python bench/training_curve.py --json curve.json --plot curve.png
    python bench/training_curve.py --json curve-bf16.json --dtype bfloat16 --resume

Ours: rows of all adapters in one forward and backward of one base (in passes of at most --pass-tokens), then a
step of each adapter's own AdamW. PEFT: one PeftModel with as many named adapters; for each in turn set_adapter,
forward with labels, backward, clipping at length 1 as ours and transformers.Trainer do, a step of its own fused
AdamW. Both learn every token of one row for each adapter, start from the same values, and run in this process in
turns; the losses of their first steps are compared before anything is timed.

bfloat16 means weights of the base in bfloat16 on both sides; PEFT keeps the adapters in float32 and
computes their part in float32, as it does by itself (autocast_adapter_dtype)."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _common
from _common import (
    Results,
    Row,
    as_row,
    base_folder,
    base_name,
    commit,
    general_ids,
    in_turns,
    machine,
    parser,
    ratio_of,
    say,
    strong_adapter,
)

if TYPE_CHECKING:
    from imprint.base import Base
    from imprint.types import Adapter

TOKENS, ADAPTERS, RANKS = (8, 16, 32, 64, 128, 256), (1, 4, 16, 64), (8, 16)
LR = 1e-4
CHECKED_STEPS = 2
"""Compared before the clock starts; the second comes after a step of the optimizer."""
AGREEMENT = {"float32": 1e-3, "bfloat16": 0.15}
"""How far the losses (nats per token) of the same adapters may differ in their first steps. In bfloat16, of 8
tokens, PEFT's own are up to 0.10 off those that it has in float32 (docs/log.md)."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the curve."""

    adapters: int
    tokens_per_adapter: int
    rank: int

    def measured_on(self, few: int) -> int:
        """Of how many adapters PEFT's time is taken: of few, where there are many, for it is the same for each."""
        tokens = self.adapters * self.tokens_per_adapter
        return self.adapters if self.adapters <= 2 * few and tokens <= 1024 else min(self.adapters, few)


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    made.add_argument("--tokens", type=_numbers, default=TOKENS, help="tokens per adapter per step: 8,16,...")
    made.add_argument("--adapters", type=_numbers, default=ADAPTERS)
    made.add_argument("--ranks", type=_numbers, default=RANKS)
    made.add_argument("--pass-tokens", type=int, default=1024, help="a shared pass holds at most so many")
    made.add_argument("--peft-adapters", type=int, default=8, help="of many adapters, PEFT is timed on so many")
    made.add_argument("--rounds", type=int, default=7)
    made.add_argument("--round-s", type=float, default=1.0, help="each side of a round takes at least so long")
    made.add_argument("--device", help="cpu or cuda; by default what imprint finds")
    made.add_argument("--resume", action="store_true", help="keep the rows that the JSON file has already")
    made.add_argument("--plot", type=Path, metavar="FILE.png", help="needs matplotlib")
    options = made.parse_args()
    if options.quick:
        options.tokens, options.adapters, options.ranks = (16,), (1, 16), (8,)
        options.rounds, options.round_s, options.peft_adapters = 3, 0.0, 4
    measure(options)


def measure(options: argparse.Namespace) -> None:
    """All cells that are not measured yet, then the table and the plot."""
    threads = _common.use_threads(options.threads)
    os.environ["IMPRINT_DTYPE"] = options.dtype
    began_at = commit()  # read at the start: the tree may move on while this runs
    from imprint import base as bases

    _common.quieten()
    say("opening the base")
    base = bases.load(options.base, device=options.device)
    header = {"machine": machine(options.dtype, threads), "base": base_name(base), "commit": began_at}
    results = Results(options.json, header, resume=options.resume)
    done = {(row["adapters"], row["tokens_per_adapter"], row["rank"]) for row in results.rows}
    cells = [Cell(n, t, r) for r in options.ranks for n in options.adapters for t in options.tokens]
    for i, cell in enumerate(cells, 1):
        if (cell.adapters, cell.tokens_per_adapter, cell.rank) in done:
            continue
        row = measured(cell, base, options)
        results.add(row)
        say(
            f"{i}/{len(cells)}: rank {cell.rank}, {cell.adapters} adapters x {cell.tokens_per_adapter} tokens: "
            f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        )
    columns = ["rank", "adapters", "tokens_per_adapter", "ratio", "low", "high", "ours_tokens_per_s"]
    columns += ["peft_tokens_per_s", "peft_measured_on", "rounds", "loss_difference"]
    results.show("Batched against one-by-one PEFT: how many times as many tokens a second", columns)
    results.show_header()
    if options.plot:
        plot(results, options.plot)


def measured(cell: Cell, base: Base, options: argparse.Namespace) -> Row:
    """One cell: the losses compared, then both timed in turns."""
    adapters = [strong_adapter(base, cell.rank, seed) for seed in range(cell.adapters)]
    rows = token_rows(base, cell.adapters, cell.tokens_per_adapter)
    n_theirs = cell.measured_on(options.peft_adapters)
    ours = Batched(base, adapters, rows, options.pass_tokens)
    theirs = OneByOne(base, adapters[:n_theirs], rows[:n_theirs])
    difference = max(
        abs(a - b)
        for _ in range(CHECKED_STEPS)
        for a, b in zip(ours.step()[:n_theirs], theirs.step(), strict=True)
    )
    if not difference <= AGREEMENT[options.dtype]:
        raise SystemExit(f"The losses differ by {difference:.2g} nats per token: this is not the same work.")
    seconds = in_turns(ours.step, theirs.step, rounds=options.rounds, at_least_s=options.round_s)
    per_adapter = [(a / cell.adapters, b / n_theirs) for a, b in seconds]
    tokens = cell.tokens_per_adapter
    return {
        "adapters": cell.adapters,
        "tokens_per_adapter": tokens,
        "rank": cell.rank,
        **as_row(ratio_of(per_adapter)),
        "ours_tokens_per_s": tokens / statistics.median(a for a, _ in per_adapter),
        "peft_tokens_per_s": tokens / statistics.median(b for _, b in per_adapter),
        "peft_measured_on": n_theirs,
        "pass_tokens": options.pass_tokens,
        "loss_difference": difference,
    }


def token_rows(base: Base, n: int, tokens: int) -> list[tuple[int, ...]]:
    """Another stretch of general text for each adapter."""
    ids = general_ids(base)
    starts = [i * 97 % (len(ids) - tokens) for i in range(n)]
    return [tuple(ids[start : start + tokens]) for start in starts]


class Batched:
    """All adapters in shared passes of one base."""

    def __init__(self, base: Base, adapters: Sequence[Adapter], rows: Sequence[tuple[int, ...]], room: int) -> None:
        from imprint.engine import Engine
        from imprint.training.batches import Row as TokenRow
        from imprint.training.loop import Loop, Settings

        self.engine, self.sync = Engine(base), _sync(base)
        settings = Settings(lr=LR, steps=1 << 20, warmup_share=1e-9)
        seats = [self.engine.load(adapter, trainable=True) for adapter in adapters]
        loops = [Loop(self.engine, seat, settings) for seat in seats]
        taken = [(loop, TokenRow(ids, (True,) * len(ids))) for loop, ids in zip(loops, rows, strict=True)]
        fit = max(1, room // len(rows[0]))
        self.passes = [taken[i : i + fit] for i in range(0, len(taken), fit)]

    def step(self) -> list[float]:
        """One step of every adapter; returns their losses in nats per learnt token."""
        from imprint.engine.passes import forward_backward

        losses: list[float] = []
        for part in self.passes:
            share = 1 / (len(part[0][1].ids) - 1)
            sums = forward_backward(self.engine, [loop.pass_rows([row], share)[0] for loop, row in part])
            for (loop, _), nats in zip(part, sums, strict=True):
                loop.gather(nats * share)
                loop.step()
                losses.append(nats * share)
        self.sync()
        return losses


class OneByOne:
    """PEFT: named adapters on one base, trained one after another."""

    def __init__(self, base: Base, adapters: Sequence[Adapter], rows: Sequence[tuple[int, ...]]) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        from imprint.adapters import folder

        model: Any = AutoModelForCausalLM.from_pretrained(base_folder(base), dtype=base.model.dtype)
        model = model.to(base.device.torch).requires_grad_(False)
        self.sync = _sync(base)
        with tempfile.TemporaryDirectory() as where:
            for i, adapter in enumerate(adapters):
                path = Path(where) / str(i)
                folder.write(adapter, path)
                if i == 0:
                    self.model = PeftModel.from_pretrained(model, path, adapter_name="a0", is_trainable=True)
                else:
                    self.model.load_adapter(path, adapter_name=f"a{i}", is_trainable=True)
        self.model.train()
        self.ids = [torch.tensor([ids], device=base.device.torch) for ids in rows]
        self.parameters, self.optimizers = [], []
        for i in range(len(adapters)):
            own = [p for name, p in self.model.named_parameters() if f".a{i}." in name]
            self.parameters.append(own)
            self.optimizers.append(torch.optim.AdamW(own, lr=LR, weight_decay=0.0, fused=True))

    def step(self) -> list[float]:
        """One step of every adapter; returns their losses in nats per learnt token."""
        from torch.nn.utils import clip_grad_norm_

        losses: list[float] = []
        for i, (ids, own, optimizer) in enumerate(zip(self.ids, self.parameters, self.optimizers, strict=True)):
            self.model.set_adapter(f"a{i}")
            loss = self.model(input_ids=ids, labels=ids).loss
            loss.backward()
            clip_grad_norm_(own, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        self.sync()
        return losses


def _sync(base: Base) -> Any:
    """Waits until the device is done, where it works on its own."""
    import torch

    return torch.cuda.synchronize if base.device.torch.type == "cuda" else lambda: None


def plot(results: Results, file: Path) -> None:
    """Gain against tokens per adapter, a line for each number of adapters, a panel for each rank."""
    try:
        import matplotlib
    except ImportError:
        say("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    ranks = sorted({row["rank"] for row in results.rows})
    figure, axes = pyplot.subplots(1, len(ranks), figsize=(5 * len(ranks), 4), sharey=True, squeeze=False)
    for axis, rank in zip(axes[0], ranks, strict=True):
        rows = sorted((r for r in results.rows if r["rank"] == rank), key=lambda r: r["tokens_per_adapter"])
        for n in sorted({r["adapters"] for r in rows}):
            line = [r for r in rows if r["adapters"] == n]
            gains = [r["ratio"] for r in line]
            spread = [[r["ratio"] - r["low"] for r in line], [r["high"] - r["ratio"] for r in line]]
            at = [r["tokens_per_adapter"] for r in line]
            axis.errorbar(at, gains, spread, marker="o", capsize=3, label=f"{n} adapter{'s' if n > 1 else ''}")
        axis.axhline(1, color="gray", linewidth=1)
        axis.set_xscale("log", base=2)
        ticks = sorted({r["tokens_per_adapter"] for r in rows})
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.set(title=f"rank {rank}", xlabel="tokens per adapter per step", ylim=(0, None))
    axes[0][0].set_ylabel("times as fast as PEFT one by one")
    axes[0][0].legend()
    m = results.header["machine"]
    where = m.get("gpu") or f"{m['cpu']}, {m['threads']} threads"
    figure.suptitle(f"{results.header['base']}, {m['dtype']}, {where}", fontsize=9)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    say(f"plot in {file}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
