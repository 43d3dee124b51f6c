"""Memory of training N adapters: one process of ours against N processes of PEFT, each training one.

    python bench/memory.py --json memory.json

Each side trains a few steps for every adapter, with AdamW's states. Meanwhile the resident memory of all its
processes is added up, many times a second; the figure is the highest sum, with pages of files (libraries, and
the base where transformers maps its file instead of reading it) counted once, for the processes share them.
`peaks` is the plain sum of the peaks that the kernel noted for each process. The rivals are plain
transformers + PEFT without anything of imprint.

As many rivals as --real says, and as memory allows, really run side by side; of more, the memory is what
one more cost in that run times as many, and the row says so."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import _common
from _common import Channel, Ratio, Results, Row, Worker, ratio_of, say

EVERY_S = 0.01
"""Between two looks at the processes' memory."""


def main() -> None:
    made = _common.parser(__doc__ or "")
    made.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    made.add_argument("--adapters", type=_numbers, default=(1, 2, 4, 16), help="1,4,...")
    made.add_argument("--real", type=int, default=4, help="at most so many rivals run side by side")
    made.add_argument("--rank", type=int, default=16)
    made.add_argument("--rows", type=int, default=16, help="of a step")
    made.add_argument("--row-tokens", type=int, default=64)
    made.add_argument("--pass-tokens", type=int, default=1024, help="a shared pass of ours holds at most so many")
    made.add_argument("--learnt", type=float, default=0.25, help="share of a row's tokens that carry a loss")
    made.add_argument("--steps", type=int, default=3)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--worker", help=argparse.SUPPRESS)
    options = made.parse_args()
    threads = _common.use_threads(options.threads)
    if options.worker:
        work(json.loads(options.worker))
        return
    if options.quick:
        options.adapters, options.real, options.rounds = (1, 4), 2, 1
        options.rows, options.pass_tokens, options.steps = 2, 128, 2
    os.environ["IMPRINT_DTYPE"] = options.dtype
    measure(options, threads)


def measure(options: argparse.Namespace, threads: int) -> None:
    """Both sides in turns, round after round; then a row for each number of adapters."""
    began_at = _common.commit()  # read at the start: the tree may move on while this runs
    _common.quieten()
    from imprint import base as bases

    base = bases.load(options.base)
    sizes = {key: getattr(options, key) for key in ("rank", "rows", "row_tokens", "pass_tokens", "learnt", "steps")}
    task = {
        "base": options.base,
        "model": _common.base_folder(base),
        "vocabulary": len(base.tokenizer),
        "dtype": options.dtype,
        **sizes,
    }
    header = {
        "machine": _common.machine(options.dtype, threads),
        "base": _common.base_name(base),
        "commit": began_at,
    }
    del base
    results = Results(options.json, header)
    most = _most_side_by_side(task, options.real)
    ours: dict[int, list[Row]] = {n: [] for n in options.adapters}
    theirs: dict[int, list[Row]] = {n: [] for n in sorted({n for n in options.adapters if n <= most} | {1, most})}
    for _ in range(options.rounds):
        for n in sorted({*ours, *theirs}):
            for side, names, each in ((ours, ["ours"], n), (theirs, ["peft"] * n, 1)):
                if n in side:
                    side[n].append(peak([task | {"name": name, "adapters": each} for name in names]))
                    say(f"{n} adapters, {names[0]}: {side[n][-1]['mib']:,.0f} MiB")
    for n in options.adapters:
        results.add(row_of(n, ours[n], theirs, most) | sizes)
    columns = ["adapters", "ours_mib", "peft_mib", "peft_is", "ratio", "low", "high", "rounds"]
    columns += ["ours_peaks_mib", "peft_peaks_mib", "ours_s", "peft_s"]
    results.show("Peak memory of training: one process of ours, and a process of PEFT for each adapter", columns)
    results.show_header()


def _most_side_by_side(task: Row, wanted: int) -> int:
    """How many rivals this machine's free memory holds, and at most so many as wanted."""
    if wanted < 2:
        raise SystemExit("--real must be 2 or more: what one more process costs is seen where two run.")
    one = peak([task | {"name": "peft", "adapters": 1}])["peak"]
    free = 0.9 * _common.free_mib()
    if free < 2 * one:
        raise SystemExit(f"Two rivals of {one:,.0f} MiB do not fit into {free:,.0f} MiB. Take fewer --rows.")
    most = min(wanted, int(free / one))
    say(f"one rival takes {one:,.0f} MiB: up to {most} run side by side")
    return most


def row_of(n: int, ours: Sequence[Row], theirs: dict[int, list[Row]], most: int) -> Row:
    """What N adapters took; beyond the rivals that ran, one more costs what it cost there."""
    rivals = theirs.get(n) or [_more(one, many, n, most) for one, many in zip(theirs[1], theirs[most], strict=True)]
    pairs = [(a["mib"], b["mib"]) for a, b in zip(ours, rivals, strict=True)]
    ratio: Ratio = ratio_of(pairs)

    def median(rows: Sequence[Row], key: str) -> float:
        return statistics.median(row[key] for row in rows)

    return {
        "adapters": n,
        "ours_mib": median(ours, "mib"),
        "peft_mib": median(rivals, "mib"),
        "peft_is": "measured" if n in theirs else f"extrapolated from 1 and {most}",
        **_common.as_row(ratio),
        "ours_peaks_mib": median(ours, "peak"),
        "peft_peaks_mib": median(rivals, "peak"),
        "ours_s": median(ours, "seconds"),
        "peft_s": median(rivals, "seconds") if n in theirs else None,
    }


def _more(one: Row, many: Row, n: int, most: int) -> Row:
    """Linear in the number of processes: each has the same to hold."""
    return {key: many[key] + (n - most) * (many[key] - one[key]) / max(1, most - 1) for key in ("mib", "peak")}


def peak(tasks: Sequence[Row]) -> Row:
    """Runs these processes side by side; returns their memory in MiB at its highest, and the seconds it took.

    All have opened the base before any trains, and none ends before all have trained."""
    threads = max(1, int(os.environ["OMP_NUM_THREADS"]) // len(tasks))  # more than there are cores would only wait
    workers = [Worker(__file__, task, {"OMP_NUM_THREADS": str(threads)}) for task in tasks]
    try:
        for worker in workers:
            worker.hear()
        began = time.perf_counter()
        for worker in workers:
            worker.tell({})
        highest = _watch_all(workers)
        seconds = time.perf_counter() - began
        for worker in workers:
            worker.hear()
        peaks = sum(_common.memory_mib(worker.pid)["peak"] for worker in workers)
    finally:
        for worker in workers:
            worker.end()
    return {"mib": highest, "peak": peaks, "seconds": seconds}


def _watch_all(workers: Sequence[Worker]) -> float:
    """The most memory that the workers held together until each had something to say."""
    highest = 0.0
    while True:
        trained = all(worker.has_spoken() for worker in workers)
        found = [_common.memory_mib(worker.pid) for worker in workers]
        highest = max(highest, sum(m["anon"] for m in found) + max(m["file"] for m in found))
        if trained:
            return highest
        time.sleep(EVERY_S)


# --- workers ----------------------------------------------------------------------------------


def work(task: Row) -> None:
    """A worker: opens the base, waits, trains, and stays until it is ended."""
    channel = Channel()
    _common.quieten()
    train = _ours(task) if task["name"] == "ours" else _peft(task)
    channel.tell({"ready": True})
    channel.wait()
    train()
    channel.tell({"trained": True})
    channel.wait()


def _ours(task: Row) -> Callable[[], None]:
    from imprint import base as bases
    from imprint.adapters.low_rank import LoRA
    from imprint.engine import Engine
    from imprint.training.batches import Row as TokenRow
    from imprint.training.service import Service
    from imprint.training.sft import Job

    engine = Engine(bases.load(task["base"]))
    length, learnt = task["row_tokens"], round(task["row_tokens"] * task["learnt"])
    learn = tuple(i >= length - learnt for i in range(length))

    def train() -> None:
        service = Service(engine, pass_tokens=task["pass_tokens"])
        step_tokens = task["rows"] * length
        tickets = []
        for seed in range(task["adapters"]):
            rows = [TokenRow(tuple(ids), learn) for ids in _tokens(task, seed)]
            job = Job(LoRA(rank=task["rank"]), rows, task["steps"] * step_tokens, 1e-4, step_tokens, seed)
            tickets.append(service.submit(job))
        service.run_all()
        for ticket in tickets:
            ticket.result()

    return train


def _peft(task: Row) -> Callable[[], None]:
    """What a user of transformers and PEFT writes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    base: Any = AutoModelForCausalLM.from_pretrained(task["model"], dtype=getattr(torch, task["dtype"]))
    config = LoraConfig(r=task["rank"], lora_alpha=32, target_modules=names, task_type="CAUSAL_LM")
    model = get_peft_model(base, config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def train() -> None:
        ids = torch.tensor(_tokens(task, 0))
        labels = ids.clone()
        labels[:, : ids.shape[1] - round(ids.shape[1] * task["learnt"])] = -100
        for _ in range(task["steps"]):
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return train


def _tokens(task: Row, seed: int) -> list[list[int]]:
    """Rows of random tokens: memory does not hang on which."""
    import random

    draw = random.Random(seed)
    return [[draw.randrange(task["vocabulary"]) for _ in range(task["row_tokens"])] for _ in range(task["rows"])]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
