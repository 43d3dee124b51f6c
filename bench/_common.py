"""What the benchmarks share: the machine in words, two things timed in turns, ratios with intervals, rows on disk.

Nothing here imports torch or imprint before it is asked to: a process that plays a rival must not carry
our weight."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imprint.base import Base
    from imprint.types import Adapter

Row = dict[str, Any]

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
"""Instructions that decide how fast products are."""
_BEGAN = time.monotonic()


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="where to write machine, base, commit and rows")
    made.add_argument("--quick", action="store_true", help="a small run that ends within a minute on 2 cores")
    made.add_argument("--threads", type=int, metavar="N", help="threads of each side; by default one for each core")
    made.add_argument("--base", metavar="NAME", help="a base model's folder or hub name; else the bundled one")
    return made


def use_threads(n: int | None) -> int:
    """Settles the threads of this process and of those it starts; to be called before torch is imported."""
    wanted = n or int(os.environ.get("OMP_NUM_THREADS") or 0) or _cores()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(wanted)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return wanted


def quieten() -> None:
    """transformers and PEFT without their progress bars and advice."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.monotonic() - _BEGAN:5.0f} s] {text}", file=sys.stderr, flush=True)


# --- the machine, the base, the commit --------------------------------------------------------


def machine(dtype: str, threads: int) -> dict[str, Any]:
    """What the figures hang on. Says so where other work keeps the machine busy."""
    cpu, flags = _cpu()
    if (load := os.getloadavg()[0]) > 0.7:
        say(f"NOTE: the load average is {load:.1f}: something else is running, and the figures suffer from it")
    import torch

    found: dict[str, Any] = {
        "cpu": cpu,
        "flags": flags,
        "cores": _cores(),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "dtype": dtype,
        "python": platform.python_version(),
        "versions": {p: metadata.version(p) for p in ("torch", "transformers", "peft")},
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def commit() -> str:
    """The commit that is checked out, with a '+' where tracked files of src or bench differ from it."""
    here = Path(__file__).parent
    head = _git(here, "rev-parse", "--short", "HEAD") or "unknown"
    changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", str(here), str(here.parent / "src"))
    return head + ("+" if changed else "")


def memory_mib(pid: int | str = "self") -> dict[str, float]:
    """Memory of a process on Linux, in MiB; {} where it cannot be read.

    anon: its own, now. file: pages of files that it maps, now, which other processes may share.
    peak: the most that was ever resident of both."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return {}
    names = {"RssAnon": "anon", "RssFile": "file", "VmHWM": "peak"}
    fields = (line.partition(":") for line in lines)
    return {names[key]: int(rest.split()[0]) / 1024 for key, _, rest in fields if key in names}


def free_mib() -> float:
    """Memory that new processes may take."""
    lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024


def base_name(base: Any) -> str:
    """A base model, so that figures of another are not taken for it."""
    return f"{base.name} ({base.revision})"


def header_of(base: Any, threads: int) -> dict[str, Any]:
    """What stands above the rows of a benchmark: its command, the base, the commit and the machine."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "base": base_name(base),
        "commit": commit(),
        "machine": machine(str(base.device.dtype).removeprefix("torch."), threads),
    }


def base_folder(base: Any) -> str:
    """What transformers must open to get the same model."""
    from imprint import base as bases

    return str(base.source or bases.bundled_folder())


def _git(folder: Path, *words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True).stdout.strip()
    except OSError:  # a machine without git
        return ""


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> tuple[str, list[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return fields.get("model name", platform.machine()), [f for f in _FLAGS if f in flags]


def trim() -> None:
    """Gives freed memory back to the machine, where the C library can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


# --- timing in turns, and what comes of it ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of per-round ratios, with its 95 % bootstrap interval over rounds."""

    ratio: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.ratio:.2f} [{self.low:.2f}, {self.high:.2f}]"


def in_turns(
    ours: Callable[[], None], theirs: Callable[[], None], *, rounds: int, at_least_s: float
) -> list[tuple[float, float]]:
    """Seconds of one call of each, round by round: A B A B, so that what disturbs the machine disturbs both.

    Each is called once beforehand, and then in every round often enough to take so many seconds. What is slow the
    first time (memory is fetched, kernels are chosen) should have been called before."""
    repeats = [max(1, math.ceil(at_least_s / _seconds(call, 1))) for call in (ours, theirs)]
    return [(_seconds(ours, repeats[0]), _seconds(theirs, repeats[1])) for _ in range(rounds)]


def _seconds(call: Callable[[], None], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def ratio_of(pairs: Iterable[tuple[float, float]], *, seed: int = 0) -> Ratio:
    """The second of each pair over the first, as median and interval."""
    ratios = [b / a for a, b in pairs]
    low, high = bootstrap(ratios, "median", seed=seed)
    return Ratio(statistics.median(ratios), low, high, len(ratios))


def bootstrap(values: Sequence[float], of: str, *, seed: int = 0, draws: int = 10_000) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the 'median' or the 'mean' of these values."""
    import numpy as np

    data = np.asarray(values, dtype=float)
    picks = np.random.default_rng(seed).integers(0, len(data), (draws, len(data)))
    low, high = np.percentile(getattr(np, of)(data[picks], axis=1), [2.5, 97.5])
    return float(low), float(high)


def wilson(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % Wilson interval of a share, which does not close at 0 and 1."""
    n, hits, z = len(values), sum(values), 1.96
    middle = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (hits * (n - hits) / n + z * z / 4) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


# --- bases and adapters -----------------------------------------------------------------------


def strong_adapter(base: Base, rank: int, seed: int) -> Adapter:
    """An adapter whose B is not zero, so that every one answers otherwise; as large as a taught one."""
    import torch

    from imprint.adapters.low_rank import LoRA

    draw = torch.Generator().manual_seed(seed)
    fresh = LoRA(rank=rank).fresh(base, seed=seed)
    noise = {k: 0.01 * torch.randn(t.shape, generator=draw) for k, t in fresh.tensors.items()}
    return replace(fresh, tensors={k: t + noise[k] for k, t in fresh.tensors.items()})


def general_ids(base: Base) -> list[int]:
    """The general text that comes along, in tokens."""
    from importlib import resources

    text = resources.files("imprint.evaluation").joinpath("general_text.txt").read_text("utf-8")
    return list(base.tokenizer.encode(text, add_special_tokens=False))


# --- rows -------------------------------------------------------------------------------------


class Results:
    """Rows of one benchmark, in its JSON file as soon as each is finished."""

    def __init__(self, file: Path | None, header: Mapping[str, Any], *, resume: bool = False) -> None:
        """Raises SystemExit where the rows to be taken up were measured otherwise."""
        self.file, self.header, self.rows = file, dict(header), list[Row]()
        if resume and file is not None and file.exists():
            kept = json.loads(file.read_text("utf-8"))
            for key in ("machine", "base"):
                if kept[key] != json.loads(json.dumps(header[key])):
                    raise SystemExit(
                        f"{file} was measured with another {key}:\n  {kept[key]}\nnot\n  {header[key]}\n"
                        "Name another file, or leave --resume out to begin again."
                    )
            self.rows = kept["rows"]
            if kept["commit"] != header["commit"]:  # each row keeps the commit that it was measured at
                self.rows = [{"commit": kept["commit"]} | row for row in self.rows]
            say(f"{len(self.rows)} rows are there already")

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.write()

    def write(self) -> None:
        """Whole, or not at all: a kill leaves the rows before."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        making = self.file.with_name(f".{self.file.name}.making")
        text = json.dumps(self.header | {"rows": self.rows}, indent=1, ensure_ascii=False)
        making.write_text(text + "\n", "utf-8")
        os.replace(making, self.file)

    def show(self, title: str, columns: Sequence[str], rows: Sequence[Row] | None = None) -> None:
        """A table of the rows, under the machine they were measured on."""
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, box=box.SIMPLE, title_justify="left")
        for column in columns:
            table.add_column(column.replace("_", " "), justify="right")
        for row in self.rows if rows is None else rows:
            table.add_row(*[_cell(row.get(column)) for column in columns])
        Console(width=None if sys.stdout.isatty() else 160).print(table)

    def show_header(self) -> None:
        """One line on machine, base and commit."""
        m = self.header["machine"]
        where = f"{m['cpu']} ({', '.join(m['flags'])}), {m['cores']} cores, {m['threads']} threads, {m['dtype']}"
        versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
        parts = [where, m.get("gpu", "no GPU"), versions, self.header["base"], f"commit {self.header['commit']}"]
        print("; ".join(parts))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def as_row(thing: Any) -> Row:
    """A dataclass as part of a row."""
    return asdict(thing)


# --- workers: rivals in processes of their own ------------------------------------------------


class Channel:
    """A worker's line to who started it: JSON lines. What libraries print goes to stderr instead."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def tell(self, message: Mapping[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def wait(self) -> Row:
        """What one is told next. Ends the process where nobody is left to tell."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(1)
        return dict(json.loads(line))


class Ended(Exception):
    """A worker ended where a message was expected."""


class Worker:
    """A process of the same script, which does one thing and reports."""

    def __init__(self, script: str, task: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        self.name = str(task.get("name", "worker"))
        self._process = subprocess.Popen(
            [sys.executable, script, "--worker", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict(environment or {}),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended; who listens will find out
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def hear(self) -> Row:
        """Its next message. Raises Ended where there will be none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Ended(f"{self.name} ended with exit status {self._process.wait()}; see above.")
        return dict(json.loads(line))

    def has_spoken(self) -> bool:
        """Whether hear() would return at once."""
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
