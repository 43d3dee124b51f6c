"""What serving many adapters from one base costs, and what it gains over PEFT.

    python bench/serving.py --json serving.json
    python bench/serving.py --json serving-bf16.json --dtype bfloat16 --resume
    python bench/serving.py --parts latency,publish

throughput: tokens per second with N different adapters in flight against the bare base, as many requests at
once. peft: against PEFT switching adapters (set_adapter, generate, one request after another), and against its
mixed batch (generate with adapter_names, padded on the left); the greedy answers are compared first. Both in this
process through our Inference, without HTTP; all sides read the same prompts and write as many tokens, none stops
early, nothing is reused from earlier prompts, and the sides take turns within the run.

latency, publish and memory talk to a real `imprint serve` over HTTP, whose clients take their part of this machine.
latency: clients that ask again as soon as they are answered, each for an adapter of its own. publish: from the
moment that publishing a new version has returned to the first token of its first answer, less the same for a
version in memory. memory: the server's own, with many adapters registered, some and all of which are asked.

Adapters are random ones of a taught one's size, on all linear layers. bfloat16 means the base in bfloat16 on
all sides; PEFT keeps adapters in float32 and computes their part in float32, as it does by itself."""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _common
import _serving
from _common import (
    Results,
    Row,
    as_row,
    base_folder,
    base_name,
    commit,
    machine,
    parser,
    ratio_of,
    say,
    strong_adapter,
)
from _serving import Answer, Server, in_rounds, prompts, publish, serving

if TYPE_CHECKING:
    from imprint.base import Base
    from imprint.serving.requests import Request

LEAST_AT_ONCE = 16
"""One adapter is served to as many requests at once, for alone it would show the base's speed and no more."""
AGREEMENT = {"float32": 0.9, "bfloat16": 0.3}
"""Share of answers' tokens that must be PEFT's; in bfloat16 rounding soon parts them."""


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    made.add_argument("--parts", type=_words, default=tuple(PARTS), help=f"some of {','.join(PARTS)}")
    made.add_argument("--rank", type=int, default=8)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--prompt-tokens", type=int, default=32, help="on average")
    made.add_argument("--new-tokens", type=int, default=32)
    made.add_argument("--adapters", type=_numbers, default=(1, 16, 64, 256), help="in flight: 1,16,...")
    made.add_argument("--peft-adapters", type=_numbers, default=(16, 64), help="against PEFT: 16,64,...")
    made.add_argument("--clients", type=int, default=32, help="of latency, each with an adapter of its own")
    made.add_argument("--seconds", type=float, default=60.0, help="of each row of the latency part")
    made.add_argument("--publishes", type=int, default=20)
    made.add_argument("--registered", type=int, default=1000, help="adapters of the memory part")
    made.add_argument("--registered-rank", type=int, default=2, help="their rank: on the disk they add up")
    made.add_argument("--resume", action="store_true", help="keep the rows that the JSON file has already")
    options = made.parse_args()
    if options.quick:
        options.rounds, options.new_tokens, options.adapters, options.peft_adapters = 2, 4, (1, 16), (4,)
        options.clients, options.seconds, options.publishes, options.registered = 4, 2.0, 2, 16
        options.prompt_tokens = 16
    measure(options)


def measure(options: argparse.Namespace) -> None:
    """The parts that are asked for, each with its table as soon as it is done."""
    threads = _common.use_threads(options.threads)
    os.environ["IMPRINT_DTYPE"] = options.dtype
    began_at = commit()  # read at the start: the tree may move on while this runs
    from imprint import base as bases

    _common.quieten()
    say("opening the base")
    base = bases.load(options.base)
    header = {"machine": machine(options.dtype, threads), "base": base_name(base), "commit": began_at}
    results = Results(options.json, header, resume=options.resume)
    for name in options.parts:
        part, title, columns = PARTS[name]
        for row in part(base, options, [row for row in results.rows if row["part"] == name]):
            results.add({"part": name} | row)
        results.show(title, columns, [row for row in results.rows if row["part"] == name])
        sys.stdout.flush()
    results.show_header()


# --- in this process: against the bare base -----------------------------------------------------


def throughput(base: Base, options: argparse.Namespace, there: Sequence[Row]) -> Iterator[Row]:
    """N adapters in flight against the bare base, as many requests at once."""
    by_load: dict[int, list[int]] = {}
    for n in options.adapters:
        by_load.setdefault(max(n, LEAST_AT_ONCE), []).append(n)
    for at_once, counts in by_load.items():
        if {row["adapters"] for row in there if row["at_once"] == at_once} >= set(counts):
            continue
        inference = _inference(base, options.rank, at_once)
        asked = _requests(base, at_once, options)
        sides = [functools.partial(_serving.answered, inference, _spread(asked, n)) for n in (0, *counts)]
        for n, side in zip((0, *counts), sides, strict=True):
            say(f"{at_once} requests at once: warming up with {n or 'no'} adapters")
            side()
        seconds = in_rounds(sides, options.rounds)
        tokens = at_once * options.new_tokens
        for i, n in enumerate(counts, 1):
            ratio = ratio_of((taken[i], taken[0]) for taken in seconds)
            say(f"{at_once} requests at once, {n} adapters: {ratio} of the base's tokens a second")
            yield {
                "adapters": n,
                "at_once": at_once,
                "rank": options.rank,
                **as_row(ratio),
                "tokens_per_s": tokens / statistics.median(taken[i] for taken in seconds),
                "base_tokens_per_s": tokens / statistics.median(taken[0] for taken in seconds),
                "prompt_tokens": sum(len(request.ids) for request in asked) / at_once,
                "new_tokens": options.new_tokens,
            }


def _inference(base: Base, rank: int, at_once: int) -> Any:
    """Our serving loop, with room for as many rows and adapters; a request's adapter is a seed."""
    from imprint.engine import Engine
    from imprint.serving.inference import Inference

    engine = Engine(_serving.endless(base))
    read: Callable[[Any], Any] = functools.partial(strong_adapter, base, rank)
    return Inference(engine, read, max_rows=at_once, max_adapters=at_once, prefix_tokens=0)


def _requests(base: Base, n: int, options: argparse.Namespace) -> list[Request]:
    from imprint.serving.requests import Request

    return [Request(ids, max_tokens=options.new_tokens) for ids in prompts(base, n, options.prompt_tokens)]


def _spread(requests: Sequence[Request], adapters: int) -> list[Request]:
    """The same requests, to so many adapters in turn; 0 leaves them to the base."""
    return [replace(r, adapter=i % adapters if adapters else None) for i, r in enumerate(requests)]


# --- in this process: against PEFT ------------------------------------------------------------


def peft(base: Base, options: argparse.Namespace, there: Sequence[Row]) -> Iterator[Row]:
    """As many requests as adapters, each for its own: ours at once, PEFT's one by one and as a mixed batch."""
    rivals = {"switching": Peft.switching, "mixed batch": Peft.mixed}
    for n in options.peft_adapters:
        if {row["rival"] for row in there if row["adapters"] == n} >= set(rivals):
            continue
        asked = _spread(_requests(base, n, options), n)
        inference = _inference(base, options.rank, n)
        say(f"{n} adapters: PEFT takes them in")
        model = Peft(base, options.rank, n)
        ids = [request.ids for request in asked]
        sides: list[Callable[[], Any]] = [functools.partial(_serving.answered, inference, asked)]
        sides += [functools.partial(side, model, ids, options.new_tokens) for side in rivals.values()]
        say(f"{n} adapters: warming up, and comparing the answers")
        plain = [heard.ids for heard in _serving.answered(inference, _spread(asked, 0))]
        ours, *theirs = [heard.ids for heard in sides[0]()], *[side() for side in sides[1:]]
        for name, said in zip(rivals, theirs, strict=True):
            if (same := _agreement(ours, said)) < AGREEMENT[options.dtype]:
                raise SystemExit(f"Only {same:.0%} of the tokens are those of PEFT's {name}: not the same work.")
        seconds = in_rounds(sides, options.rounds)
        tokens = n * options.new_tokens
        for i, (name, said) in enumerate(zip(rivals, theirs, strict=True), 1):
            ratio = ratio_of((taken[0], taken[i]) for taken in seconds)
            say(f"{n} adapters: {ratio} times PEFT's {name}")
            yield {
                "rival": name,
                "adapters": n,
                "rank": options.rank,
                **as_row(ratio),
                "ours_tokens_per_s": tokens / statistics.median(taken[0] for taken in seconds),
                "peft_tokens_per_s": tokens / statistics.median(taken[i] for taken in seconds),
                "same_answers": statistics.mean(a == b for a, b in zip(ours, said, strict=True)),
                "same_tokens": _agreement(ours, said),
                "unlike_the_base": statistics.mean(a != b for a, b in zip(ours, plain, strict=True)),
                "prompt_tokens": sum(map(len, ids)) / n,
                "new_tokens": options.new_tokens,
            }


def _agreement(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    """Share of the tokens that come before the first difference of their answer."""
    pairs = [list(zip(a, b, strict=True)) for a, b in zip(ours, theirs, strict=True)]
    same = [len(list(itertools.takewhile(lambda two: two[0] == two[1], pair))) for pair in pairs]
    return sum(same) / sum(map(len, pairs))


class Peft:
    """What a user of transformers and PEFT writes."""

    def __init__(self, base: Base, rank: int, n: int) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        from imprint.adapters import folder

        model: Any = AutoModelForCausalLM.from_pretrained(base_folder(base), dtype=base.model.dtype)
        model = model.to(base.device.torch)
        self.padding = base.tokenizer.pad_token_id
        with tempfile.TemporaryDirectory() as where:
            for seed in range(n):
                path = Path(where) / str(seed)
                folder.write(strong_adapter(base, rank, seed), path)
                if seed == 0:
                    self.model = PeftModel.from_pretrained(model, path, adapter_name="a0")
                else:
                    self.model.load_adapter(path, adapter_name=f"a{seed}")
        self.model.eval()
        self.model.generation_config.eos_token_id = None  # as on our side, no answer stops early
        self.model.generation_config.pad_token_id = self.padding

    def switching(self, ids: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """One request after another, each with its adapter set before."""
        import torch

        answers = []
        for seed, prompt in enumerate(ids):
            self.model.set_adapter(f"a{seed}", inference_mode=True)
            row = torch.tensor([prompt], device=self.model.device)
            answers += self._generated(row, torch.ones_like(row), new_tokens)
        return answers

    def mixed(self, ids: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """All requests as one batch."""
        import torch

        width = max(map(len, ids))
        rows = [[self.padding] * (width - len(prompt)) + list(prompt) for prompt in ids]
        seen = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in ids]
        device = self.model.device
        names = [f"a{seed}" for seed in range(len(ids))]
        rows_BT, seen_BT = torch.tensor(rows, device=device), torch.tensor(seen, device=device)
        return self._generated(rows_BT, seen_BT, new_tokens, adapter_names=names)

    def _generated(self, ids_BT: Any, seen_BT: Any, new_tokens: int, **how: Any) -> list[list[int]]:
        import torch

        with torch.inference_mode():
            written = self.model.generate(
                input_ids=ids_BT, attention_mask=seen_BT, max_new_tokens=new_tokens, do_sample=False, **how
            )
        answers: list[list[int]] = written[:, ids_BT.shape[1] :].tolist()
        return answers


# --- over HTTP: latency -----------------------------------------------------------------------


def latency(base: Base, options: argparse.Namespace, there: Sequence[Row]) -> Iterator[Row]:
    """Clients that ask without a pause: first for adapters not in memory yet, then steadily, then for the base."""
    if len(there) == 3:
        return
    n, names = options.clients, [f"a{i}" for i in range(options.clients)]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        say(f"publishing {n} adapters")
        for i, name in enumerate(names):
            publish(home, _written(base, options.rank, i, Path(folder)), name, base.name)
        with serving(home, options.base, "--max-rows", str(max(64, n))) as server:
            stretches = prompts(base, n, options.prompt_tokens)
            server.ask(base.name, stretches[0], 4)
            say(f"{n} clients: each its first answer")
            asked = [(name, ids, options.new_tokens) for name, ids in zip(names, stretches, strict=True)]
            began = time.perf_counter()
            first = server.ask_all(asked, n)
            if not there:
                yield _latencies("first answers, adapters not in memory", first, time.perf_counter() - began, n, n)
            for told, models in (("steady", names), ("steady, bare base", [base.name] * n)):
                if any(row["load"] == told for row in there):
                    continue
                say(f"{n} clients: {told} for {options.seconds:.0f} s")
                answers, seconds = _steadily(server, models, stretches, options)
                yield _latencies(told, answers, seconds, n, len(set(models) - {base.name}))


def _steadily(
    server: Server, models: Sequence[str], stretches: Sequence[Sequence[int]], options: argparse.Namespace
) -> tuple[list[Answer], float]:
    """Each client asks its model again and again; answers of different lengths, so that they drift apart."""
    began = time.perf_counter()

    def client(i: int) -> list[Answer]:
        draw, answers = random.Random(i), []
        while time.perf_counter() - began < options.seconds:
            length = draw.randint(options.new_tokens // 2, options.new_tokens * 3 // 2)
            answers.append(server.ask(models[i], draw.choice(stretches), length))
        return answers[1:] or answers  # all began at the same moment

    with ThreadPoolExecutor(len(models)) as pool:
        found = [answer for answers in pool.map(client, range(len(models))) for answer in answers]
    return found, time.perf_counter() - min(answer.began for answer in found)


def _latencies(load: str, answers: Sequence[Answer], seconds: float, clients: int, adapters: int) -> Row:
    import numpy as np

    first_ms = [1e3 * answer.first_token_s for answer in answers]
    between_ms = [1e3 * gap for answer in answers for gap in answer.between_s]
    return {
        "load": load,
        "clients": clients,
        "adapters": adapters,
        "first_token_p50_ms": float(np.percentile(first_ms, 50)),
        "first_token_p99_ms": float(np.percentile(first_ms, 99)),
        "per_token_p50_ms": float(np.percentile(between_ms, 50)),
        "per_token_p99_ms": float(np.percentile(between_ms, 99)),
        "answers": len(answers),
        "tokens": sum(len(answer.came) for answer in answers),
        "tokens_per_s": sum(len(answer.came) for answer in answers) / seconds,
    }


def _written(base: Base, rank: int, seed: int, where: Path) -> Path:
    """An adapter as a PEFT folder; the next one takes its place."""
    from imprint.adapters import folder

    folder.write(strong_adapter(base, rank, seed), where / "adapter")
    return where / "adapter"


# --- over HTTP: a new version -----------------------------------------------------------------


def published(base: Base, options: argparse.Namespace, there: Sequence[Row]) -> Iterator[Row]:
    """Versions published one after another while a server runs; each is asked at once, and then once more."""
    from imprint.adapters import folder as adapter_folder
    from imprint.engine import Engine
    from imprint.registry import Registry

    if there:
        return
    new: list[float] = []
    loaded: list[float] = []
    steps: dict[str, list[float]] = {"find_ms": [], "read_ms": [], "place_ms": []}
    engine = Engine(base)
    engine.load(strong_adapter(base, options.rank, 0))  # a rack is made once for sixteen
    with tempfile.TemporaryDirectory() as where:
        home = Path(where) / "home"
        publish(home, _written(base, options.rank, 0, Path(where)), "handbook", base.name)
        with serving(home, options.base) as server:
            length = max(1, options.prompt_tokens // 2)  # all alike; each prompt is new, so that none is known
            stretches = [ids[:length] for ids in prompts(base, 2 * options.publishes + 2, options.prompt_tokens)]
            say(f"publishing {options.publishes} versions, and asking each")
            for ids in stretches[-2:]:
                server.ask("handbook", ids, 4)
            for i in range(options.publishes):
                made = _written(base, options.rank, i + 1, Path(where))
                version = publish(home, made, "handbook", base.name)
                answers = [server.ask("handbook", ids, 4) for ids in stretches[2 * i : 2 * i + 2]]
                if {answer.model for answer in answers} != {version}:
                    raise SystemExit(f"{version} was published, but {answers[0].model} answered.")
                new.append(answers[0].first_token_s)
                loaded.append(answers[1].first_token_s)
                registry, times = Registry(home), [time.perf_counter()]
                place = registry.folder(registry.get("handbook"))
                times.append(time.perf_counter())
                adapter = adapter_folder.read(place)
                times.append(time.perf_counter())
                seat = engine.load(adapter)
                times.append(time.perf_counter())
                engine.unload(seat)
                for kept, (before, after) in zip(steps.values(), itertools.pairwise(times), strict=True):
                    kept.append(after - before)
    more = [a - b for a, b in zip(new, loaded, strict=True)]
    low, high = _common.bootstrap(more, "median")
    yield {
        "rank": options.rank,
        "publishes": options.publishes,
        "new_ms": 1e3 * statistics.median(new),
        "in_memory_ms": 1e3 * statistics.median(loaded),
        "difference_ms": 1e3 * statistics.median(more),
        "difference_low_ms": 1e3 * low,
        "difference_high_ms": 1e3 * high,
        "difference_max_ms": 1e3 * max(more),
        **{name: 1e3 * statistics.median(seconds) for name, seconds in steps.items()},
    }


# --- over HTTP: many adapters -----------------------------------------------------------------


def memory(base: Base, options: argparse.Namespace, there: Sequence[Row]) -> Iterator[Row]:
    """What a server holds while adapters are published beside it, and then asked: one, some, all, all again."""
    if there:
        return
    n = options.registered
    some = sorted({k for k in (1, 16, 64, 256) if k < n} | {n})
    with tempfile.TemporaryDirectory() as where:
        home = Path(where) / "home"
        with serving(home, options.base) as server:
            ids = prompts(base, 1, options.prompt_tokens)[0]
            server.ask(base.name, ids, 4)
            yield _held(server, "none registered", 0, 0)
            say(f"publishing {n} adapters of rank {options.registered_rank}")
            for i in range(n):
                publish(home, _written(base, options.registered_rank, i, Path(where)), f"a{i}", base.name)
            listed = server.get("/v1/models").count('"model"')
            if listed < n:
                raise SystemExit(f"{n} adapters are registered, but the server lists {listed}.")
            size = sum(file.stat().st_size for file in (Path(where) / "adapter").iterdir()) / (1 << 20)
            yield _held(server, "registered and listed", n, 0) | {"adapter_mib": size}
            for k in [*some, n]:
                say(f"asking {k} of {n} adapters")
                server.ask_all([(f"a{i}", ids, 4) for i in range(k)], min(k, 8))
                yield _held(server, f"{k} asked", n, k) | {"adapter_mib": size}


def _held(server: Server, when: str, registered: int, asked: int) -> Row:
    counts = server.counts()
    mib = _common.memory_mib(server.pid)
    return {
        "when": when,
        "registered": registered,
        "asked": asked,
        "in_memory": int(counts["imprint_adapters_loaded"]),
        "loads": int(counts["imprint_adapter_loads_total"]),
        "own_mib": mib.get("anon"),
        "files_mib": mib.get("file"),
        "peak_mib": mib.get("peak"),
    }


# --- all parts --------------------------------------------------------------------------------

_RATIO = ["ratio", "low", "high", "rounds"]
PARTS: dict[str, tuple[Callable[..., Iterator[Row]], str, list[str]]] = {
    "throughput": (
        throughput,
        "Different adapters in flight against the bare base: share of its tokens a second",
        ["adapters", "at_once", "rank", *_RATIO, "tokens_per_s", "base_tokens_per_s"],
    ),
    "peft": (
        peft,
        "Against PEFT: how many times as many tokens a second",
        ["rival", "adapters", *_RATIO, "ours_tokens_per_s", "peft_tokens_per_s", "same_answers", "same_tokens"]
        + ["unlike_the_base"],
    ),
    "latency": (
        latency,
        "Over HTTP: milliseconds to the first token, and from each token to the next",
        ["load", "clients", "adapters", "first_token_p50_ms", "first_token_p99_ms", "per_token_p50_ms"]
        + ["per_token_p99_ms", "answers", "tokens_per_s"],
    ),
    "publish": (
        published,
        "Over HTTP: milliseconds to the first token of a version just published, and of one in memory",
        ["publishes", "new_ms", "in_memory_ms", "difference_ms", "difference_low_ms", "difference_high_ms"]
        + ["difference_max_ms", "find_ms", "read_ms", "place_ms"],
    ),
    "memory": (
        memory,
        "A server's memory",
        ["when", "registered", "asked", "in_memory", "loads", "own_mib", "files_mib", "peak_mib", "adapter_mib"],
    ),
}
"""What measures a part, the title of its table, and the columns."""


def _words(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if unknown := sorted(set(words) - set(PARTS)):
        raise argparse.ArgumentTypeError(f"there is no part {unknown[0]!r}; say {', '.join(PARTS)}")
    return words


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
