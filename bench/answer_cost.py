"""What an answer costs: from the weights alone, against the same question after a long text.

    python bench/answer_cost.py --json answer-cost.json
    python bench/answer_cost.py --adapter handbook --context 1024,8192

Closed book: a question to an adapter, nothing else in the prompt. Full context: the same question to the bare
base after so many tokens of text, as `imprint prove` asks it. Known: the same text again with another
question, its keys and values kept from the question before, which is the best that full context can do, and needs
them in memory for every text that may be asked. All through our Inference, one request at a time; all write as
many tokens, none stops early. `ratio` is how many times as long as the closed-book answer it took, round by
round. What the answers are worth is measured elsewhere (bench/real_documents.py); the time of an answer does not
hang on it, so that a random adapter of a taught one's size stands in unless --adapter names one.

kv: keys and values of prompt and answer. peak: by how much the process's memory grew at its highest."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _common
import _serving
from _common import Results, as_row, base_name, commit, machine, parser, ratio_of, say

if TYPE_CHECKING:
    from imprint.base import Base
    from imprint.types import Adapter

ROOT = Path(__file__).parent.parent
TEXTS = ("examples/handbook/*.md", "../shared/data/model_spec/model_spec_2025-02-12.md", "docs/*.md")
"""The handbook, which answers the question, and then other real text, until the context is as long as it should."""
QUESTION = "How many days of paid vacation does an employee of Quellmarsk Bellworks have?"
OTHER_QUESTION = "Who is the managing director of Quellmarsk Bellworks?"


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    made.add_argument("--context", type=_numbers, default=(1024, 2048, 4096, 8192), help="tokens of prompts")
    made.add_argument("--new-tokens", type=int, default=32)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--rank", type=int, default=16, help="of the adapter that stands in")
    made.add_argument("--adapter", metavar="NAME", help="a published adapter instead")
    made.add_argument("--text", type=Path, metavar="FILE", action="append", help="read instead; may be repeated")
    options = made.parse_args()
    if options.quick:
        options.context, options.new_tokens, options.rounds = (512, 1024), 8, 2
    measure(options)


def measure(options: argparse.Namespace) -> None:
    """All answers in turns, round by round, then once more each for their memory."""
    threads = _common.use_threads(options.threads)
    os.environ["IMPRINT_DTYPE"] = options.dtype
    began_at = commit()  # read at the start: the tree may move on while this runs
    from imprint import base as bases

    _common.quieten()
    say("opening the base")
    base = bases.load(options.base)
    header = {"machine": machine(options.dtype, threads), "base": base_name(base), "commit": began_at}
    results = Results(options.json, header)
    adapter = adapter_of(base, options)
    asking = Asking(base, adapter, options.new_tokens)
    text = "\n\n".join(file.read_text("utf-8") for file in texts(options.text))
    ways = [Way("closed book", None)]
    for context in options.context:
        ways += [Way("full context", context), Way("full context, known", context)]
    taken: dict[Way, list[Cost]] = {way: [] for way in ways}
    prompts = {way: prompt(base, text, way.context, options.new_tokens) for way in ways}
    asking.cost(ways[0], prompts[ways[0]])  # what is slow the first time
    for i in range(options.rounds):
        for way in ways:
            taken[way].append(asking.cost(way, prompts[way]))
            say(f"round {i + 1}, {way.name} {way.context or ''}: {taken[way][-1].seconds:.2f} s")
    for way in ways:
        pairs = [(a.seconds, b.seconds) for a, b in zip(taken[ways[0]], taken[way], strict=True)]
        question_s = [cost.first_token_s for cost in taken[way]]
        results.add({
            "way": way.name,
            "context": way.context,
            "prompt_tokens": len(prompts[way].ids),
            "new_tokens": options.new_tokens,
            "seconds": statistics.median(cost.seconds for cost in taken[way]),
            "first_token_s": statistics.median(question_s),
            **as_row(ratio_of(pairs)),
            "kv_mib": taken[way][0].kv_mib,
            "peak_mib": asking.peak_mib(way, prompts[way]),
            "adapter_mib": adapter_mib(base, adapter) if way.context is None else None,
        })  # fmt: skip
    columns = ["way", "prompt_tokens", "new_tokens", "seconds", "first_token_s", "ratio", "low", "high", "rounds"]
    results.show("What an answer costs", [*columns, "kv_mib", "peak_mib", "adapter_mib"])
    results.show_header()


# --- what is asked ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """A way to ask."""

    name: str
    context: int | None
    """Tokens of the prompt, about; None for the question alone."""

    @property
    def known(self) -> bool:
        return self.name.endswith("known")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in tokens, and another one after the same text."""

    ids: tuple[int, ...]
    before: tuple[int, ...]


def prompt(base: Base, text: str, context: int | None, new_tokens: int) -> Asked:
    """The question, after as much of the text as makes it so many tokens; the window holds the answer too."""
    from imprint.evaluation import open_book

    if context is None:
        return Asked(*(tuple(base.prompt_ids(open_book.closed(q).turns)) for q in (QUESTION, OTHER_QUESTION)))
    most = min(context, base.window_tokens - new_tokens)
    length = _most(len(text), lambda n: len(base.prompt_ids(open_book.with_text(text[:n], QUESTION).turns)) <= most)
    if length == len(text):
        raise SystemExit(f"The text is too short for a prompt of {context} tokens. Name more with --text.")
    turns = [open_book.with_text(text[:length], q).turns for q in (QUESTION, OTHER_QUESTION)]
    asked, other = (tuple(base.prompt_ids(turn)) for turn in turns)
    return Asked(asked, other[: base.window_tokens - new_tokens])


def _most(highest: int, fits: Callable[[int], bool]) -> int:
    """The largest number that fits."""
    low, high = 0, highest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def texts(named: Sequence[Path] | None) -> list[Path]:
    """The files to be read, in order."""
    files = list(named or [file for pattern in TEXTS for file in sorted(ROOT.glob(pattern))])
    if missing := [str(file) for file in files if not file.is_file()]:
        raise SystemExit(f"There is no file {missing[0]}.")
    return files


def adapter_of(base: Base, options: argparse.Namespace) -> Adapter:
    """The adapter that was named, or one of its size."""
    if options.adapter is None:
        return _common.strong_adapter(base, options.rank, 0)
    import imprint
    from imprint.adapters import folder

    taught = imprint.open(options.adapter)
    return folder.read(taught.registry.folder(taught.version))


def adapter_mib(base: Base, adapter: Adapter) -> float:
    """What the adapter takes in memory while it is served."""
    size = sum(tensor.numel() for tensor in adapter.tensors.values()) * base.model.dtype.itemsize
    return size / (1 << 20)


# --- what it costs ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one answer."""

    seconds: float
    first_token_s: float
    kv_mib: float


class Asking:
    """One request at a time, to a loop that knows nothing of what was asked before unless it should."""

    def __init__(self, base: Base, adapter: Adapter, new_tokens: int) -> None:
        from imprint.engine import Engine

        self.base, self.adapter, self.new_tokens = base, adapter, new_tokens
        self.engine = Engine(_serving.endless(base), slots=1)
        config = base.model.config
        heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        self._token_bytes = 2 * config.num_hidden_layers * heads * width * base.model.dtype.itemsize

    def cost(self, way: Way, asked: Asked) -> Cost:
        inference = self._loop(way, asked)
        try:
            return self._cost(inference, way, asked)
        finally:
            inference.close()

    def peak_mib(self, way: Way, asked: Asked) -> float | None:
        """By how much memory grew at its highest while the answer was written; None where nobody tells."""
        inference = self._loop(way, asked)
        try:
            with _Peak(self.base) as peak:
                self._cost(inference, way, asked)
            return peak.mib
        finally:
            inference.close()

    def _loop(self, way: Way, asked: Asked) -> Any:
        """A loop that has the adapter, and the text where it is to be known."""
        from imprint.serving.inference import Inference
        from imprint.serving.requests import Request

        kept = 4 * len(asked.ids) + 4 * len(asked.before) if way.known else 0
        read: dict[Any, Adapter] = {"adapter": self.adapter}
        inference = Inference(
            self.engine, read.__getitem__, max_rows=1, max_adapters=1, prefix_tokens=kept, cache_tokens=1 << 20
        )
        warm = asked.before if way.known else asked.before[:8]
        key = None if way.context else "adapter"
        _serving.answered(inference, [Request(warm, adapter=key, max_tokens=1)])
        inference.step()  # gives back what the first request took
        return inference

    def _cost(self, inference: Any, way: Way, asked: Asked) -> Cost:
        from imprint.serving.requests import Request

        request = Request(asked.ids, adapter=None if way.context else "adapter", max_tokens=self.new_tokens)
        reused = inference.stats()["prefix_tokens_reused_total"]
        began = time.perf_counter()
        [heard] = _serving.answered(inference, [request])
        assert heard.first_at is not None and heard.ended_at is not None and len(heard.ids) == self.new_tokens
        if (inference.stats()["prefix_tokens_reused_total"] > reused) != way.known:
            raise SystemExit(f"{way.name}: the text was{' not' if way.known else ''} known.")
        tokens = len(asked.ids) + self.new_tokens
        return Cost(heard.ended_at - began, heard.first_at - began, tokens * self._token_bytes / (1 << 20))


class _Peak:
    """The most memory that a block took, above what was taken before."""

    def __init__(self, base: Base) -> None:
        self._cuda = base.device.torch.type == "cuda"
        self.mib: float | None = None

    def __enter__(self) -> _Peak:
        import torch

        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / (1 << 20)
            return self
        _common.trim()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the kernel notes a new peak from here on
            now = _common.memory_mib()
            self._before = now["anon"] + now["file"]
        except (OSError, KeyError):
            self._before = float("nan")
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        highest = torch.cuda.max_memory_allocated() / (1 << 20) if self._cuda else _common.memory_mib().get("peak")
        if highest is not None and self._before == self._before:
            self.mib = highest - self._before


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
