"""A handful of parameters learn a task from its grader: GRPO against supervised training on the same items.

    python bench/grpo.py --task colour_shown --seeds 3 --json docs/results/grpo.json
    python bench/grpo.py --task gsm8k --max-tokens 256 --base HuggingFaceTB/SmolLM2-1.7B-Instruct --json gsm8k.json
    python bench/grpo.py --candidates --json candidates.json

Arms: untouched; grpo, which sees questions and a grader; sft, which sees the right answers of the same items as
often as grpo asks them. Both train one TinyLoRA of the same size (--parameters numbers for the whole model) from
zero. Held-out items are other questions of the same kind (of GSM8K the last 400 of the 2,000): `greedy` is the
share that the likeliest answer gets right, `sampled` the mean over four answers at temperature 1, `gain` the paired
difference to the untouched base, each with its bootstrap interval over items. A row is written when it ends and one
that is there is not made again; --work keeps checkpoints.

--candidates: how often the untouched base gets each kind right. Worth training on is what it sometimes gets right,
not the same in every answer of a group (`spread`: share of groups of 8 in which some are right and some not)."""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _common import Results, base_name, commit, machine, parser, quieten, say, use_threads

SEED = 23
SAMPLES = 4
"""Answers drawn to each held-out item."""


@dataclass(frozen=True)
class Graded:
    """A kind of question as training.grpo takes it."""

    items: Sequence[Any]
    held_out: Sequence[Any]
    answers: Sequence[str]
    """The right answer of each item in words, for supervised training."""
    kind: Any

    def reward(self, item: Any, text: str) -> float:
        return float(self.kind.right(item.gold, text))


def task_of(name: str, options: argparse.Namespace) -> Graded:
    """The items to train on, and others to measure on."""
    import _verifiable as tasks
    from imprint.training.grpo import Item

    if name == "gsm8k":
        kind, (train, held) = tasks.GSM8K, tasks.gsm8k(options.data)
    else:
        kind = tasks.KINDS[name]
        made = tasks.questions(name, options.items + options.held_out, seed=SEED)
        train, held = made[: options.items], made[options.items :]
    if options.max_tokens:
        kind = replace(kind, max_tokens=options.max_tokens)
    train, held = train[: options.items], held[: options.held_out]
    items, kept = ([Item(kind.turns(q), gold) for q, gold, _ in part] for part in (train, held))
    return Graded(items, kept, [answer for _, _, answer in train], kind)


# --- measuring --------------------------------------------------------------------------------


def measured(writer: Any, task: Graded) -> dict[str, list[float]]:
    """Rewards on the held-out items: of the likeliest answer, and the mean of several drawn."""
    from imprint.training import grpo

    settings = grpo.Settings(group=SAMPLES, max_tokens=task.kind.max_tokens)
    greedy = grpo.greedy(writer, task, task.held_out, max_tokens=task.kind.max_tokens)
    drawn = grpo.rollouts(writer, task.held_out, settings, seed=SEED)
    rewards = [[task.reward(i, t.text) for t in group] for i, group in zip(task.held_out, drawn, strict=True)]
    return {"greedy": greedy, "sampled": [sum(group) / len(group) for group in rewards]}


def told(after: dict[str, list[float]], before: dict[str, list[float]]) -> dict[str, Any]:
    """The figures of a row."""
    from imprint.evaluation.closed_book import interval

    made: dict[str, Any] = {"n": len(after["greedy"])}
    for key, values in after.items():
        gains = [a - b for a, b in zip(values, before[key], strict=True)]
        for name, these in ((key, values), (f"{key}_gain", gains)):
            score = interval(these, seed=SEED)
            made |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    return made


def candidates(base: Any, options: argparse.Namespace, results: Results) -> None:
    """How often the untouched base gets each kind right."""
    import _verifiable as tasks
    from imprint.training import grpo
    from imprint.writers.local import LocalWriter

    options.items, options.held_out = 24, 60
    for name in tasks.KINDS:
        if any(row["task"] == name for row in results.rows):
            continue
        task = task_of(name, options)
        writer = LocalWriter(base, top_k=None)
        greedy = grpo.greedy(writer, task, task.held_out, max_tokens=task.kind.max_tokens)
        texts = grpo.rollouts(writer, task.items, grpo.Settings(max_tokens=task.kind.max_tokens), seed=SEED)
        groups = [[task.reward(i, t.text) for t in group] for i, group in zip(task.items, texts, strict=True)]
        results.add({
            "task": name,
            "greedy": sum(greedy) / len(greedy),
            "sampled": sum(map(sum, groups)) / sum(map(len, groups)),
            "spread": sum(0 < sum(g) < len(g) for g in groups) / len(groups),
            "n_greedy": len(greedy),
            "n_sampled": sum(map(len, groups)),
            "answer": texts[0][0].text,
        })  # fmt: skip
        say(f"{name}: {results.rows[-1]}")
    results.show("How often the untouched base is right", ("task", "greedy", "sampled", "spread", "n_greedy"))


# --- the arms ---------------------------------------------------------------------------------


def spec_of(options: argparse.Namespace) -> Any:
    """The adapter both arms train."""
    from imprint.adapters import KINDS

    return KINDS["tiny_lora"](rank=options.rank, parameters=options.parameters, tying=1.0)


def by_grpo(engine: Any, task: Graded, options: argparse.Namespace, seed: int, work: Path) -> tuple[Any, Any]:
    """The adapter that rewards made, and its way."""
    from imprint.training import grpo

    settings = grpo.Settings(
        lr=options.lr, rounds=options.rounds, prompts=options.prompts, group=options.group,
        max_tokens=task.kind.max_tokens, updates=options.updates, kl=options.kl,
    )  # fmt: skip

    def progress(done: Any, rounds: int) -> None:
        seen = "" if done.check is None else f", held out {done.check:.1%}"
        say(f"round {done.number}/{rounds}: reward {done.reward:.3f}, {done.skipped} groups skipped, "
            f"{done.seconds:.0f} s{seen}")  # fmt: skip

    def check(writer: Any) -> float:
        few = task.held_out[:50]
        return math.fsum(grpo.greedy(writer, task, few, max_tokens=task.kind.max_tokens)) / len(few)

    fresh = spec_of(options).fresh(engine.base, seed=seed)
    learnt = grpo.train(
        engine, fresh, task, settings, seed=seed, checkpoint=work, progress=progress, check=check,
        check_every=options.check_every,
    )  # fmt: skip
    curve = [[r.number, r.reward, r.skipped, r.check] for r in learnt.rounds]
    tokens = sum(r.tokens for r in learnt.rounds)
    return learnt.adapter, {"curve": curve, "sampled_tokens": tokens, "lr": options.lr}


def by_sft(engine: Any, task: Graded, options: argparse.Namespace, seed: int, work: Path) -> tuple[Any, Any]:
    """The adapter that the right answers made, each item met as often as GRPO asks it."""
    from imprint.training.batches import rows
    from imprint.training.sft import Job, train
    from imprint.types import Example, Turn

    pairs = zip(task.items, task.answers, strict=True)
    examples = [Example((*i.turns, Turn("assistant", a, learn=True)), (), "sft") for i, a in pairs]
    made = rows(examples, engine.base, max_tokens=engine.base.window_tokens)
    each = sum(len(row.ids) for row in made) / len(made)
    met = options.rounds * options.prompts * options.updates
    batch = round(options.prompts * each)
    trained = train(
        engine, Job(spec_of(options), made, round(met * each), options.sft_lr, batch, seed), checkpoint=work
    )
    return trained.adapter, {"trained_tokens": trained.tokens, "loss": trained.last_loss, "lr": options.sft_lr}


ARMS = {"grpo": by_grpo, "sft": by_sft}


def run(base: Any, options: argparse.Namespace, results: Results, work: Path) -> None:
    """Every arm with every seed, after the untouched base."""
    from imprint.adapters import folder
    from imprint.engine import Engine
    from imprint.writers.local import LocalWriter

    engine, task = Engine(base), task_of(options.task, options)
    about = {"task": options.task, "parameters": 0, "items": len(task.items)}
    before = next((r["rewards"] for r in results.rows if _is(r, options.task, "untouched", None, 0, 0)), None)
    if before is None:
        before = measured(LocalWriter(base, top_k=None), task)
        row = about | {"arm": "untouched", "seed": None, "lr": 0} | told(before, before)
        results.add(row | {"rewards": before})
        say(f"untouched: {_short(results.rows[-1])}")
    for seed in range(options.seeds):
        for arm in options.arms.split(","):
            lr = options.lr if arm == "grpo" else options.sft_lr
            if any(_is(r, options.task, arm, seed, options.parameters, lr) for r in results.rows):
                continue
            began = time.monotonic()
            key = f"{options.task}-{arm}-{seed}-{options.parameters}-{options.rank}-{lr}-{options.rounds}"
            adapter, way = ARMS[arm](engine, task, options, seed, work / key)
            size = folder.layout_of(base, adapter).trainable
            with engine.attached(adapter):
                after = measured(LocalWriter(base, top_k=None), task)
            row = about | {"arm": arm, "seed": seed, "parameters": size, "rank": options.rank} | way
            seconds = round(time.monotonic() - began)
            results.add(row | told(after, before) | {"seconds": seconds, "rewards": after})
            say(f"{arm}, seed {seed}: {_short(results.rows[-1])}")
    columns = ("task", "arm", "seed", "parameters", "greedy", "greedy_gain", "greedy_gain_low", "sampled",
               "sampled_gain", "sampled_gain_low", "n", "seconds")  # fmt: skip
    results.show_header()
    results.show("Held-out items", columns)


def _is(row: dict[str, Any], task: str, arm: str, seed: int | None, parameters: int, lr: float) -> bool:
    mine = (row["task"], row["arm"], row["seed"], row["parameters"], row["lr"])
    return mine == (task, arm, seed, parameters, lr)


def _short(row: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {row[key]:.1%} (gain {row[f'{key}_gain']:+.1%} "
        f"[{row[f'{key}_gain_low']:+.1%}, {row[f'{key}_gain_high']:+.1%}])"
        for key in ("greedy", "sampled")
    )


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--task", default="colour_shown", help="a kind of bench/_verifiable.py, or gsm8k")
    made.add_argument("--candidates", action="store_true", help="measure the untouched base on every kind")
    made.add_argument("--arms", default="grpo,sft", help="separated by commas")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--rounds", type=int, default=40)
    made.add_argument("--prompts", type=int, default=32, help="items a round")
    made.add_argument("--group", type=int, default=8, help="answers to each")
    made.add_argument("--updates", type=int, default=1, help="optimizer steps a round")
    made.add_argument("--kl", type=float, default=0.0)
    made.add_argument("--lr", type=float, default=2e-3, help="of grpo; at 2e-2 two steps broke it")
    made.add_argument("--sft-lr", type=float, default=2e-3)
    made.add_argument("--parameters", type=int, default=64, help="numbers trained in all")
    made.add_argument("--rank", type=int, default=2, help="of the frozen frame")
    made.add_argument("--items", type=int, default=400, help="to train on")
    made.add_argument("--held-out", type=int, default=200)
    made.add_argument("--max-tokens", type=int, help="of an answer; else the kind's own")
    made.add_argument("--check-every", type=int, default=10, help="rounds between two looks at 50 held-out items")
    made.add_argument("--data", type=Path, default=Path("../shared/data"))
    made.add_argument("--work", type=Path, help="where checkpoints are kept for a later call")
    options = made.parse_args()
    if options.quick:
        options.seeds, options.rounds, options.prompts, options.group = 1, 2, 4, 4
        options.items, options.held_out = 16, 16
    threads = use_threads(options.threads)
    quieten()
    import torch

    from imprint import base as bases

    torch.set_num_threads(threads)
    base = bases.load(options.base)
    header = {
        "base": base_name(base),
        "commit": commit(),
        "machine": machine(str(base.device.dtype).removeprefix("torch."), threads),
    }
    results = Results(options.json, header, resume=True)
    work = options.work or Path(tempfile.mkdtemp(prefix="imprint-grpo-"))
    if options.candidates:
        candidates(base, options, results)
    else:
        run(base, options, results, work)


if __name__ == "__main__":
    main()
