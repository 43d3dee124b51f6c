"""Many people's adapters on one machine: how large each is, what rounding costs, a registry of thousands.

    python bench/many_people.py --part sizes                      # the largest of each kind that 3 MB holds
    python bench/many_people.py --part rounding --home HOME --name NAME
    python bench/many_people.py --part registry --people 10000 --work FOLDER
    python bench/many_people.py --part serving --work FOLDER      # the same folder: cold loads, and the switch

`registry` fills FOLDER with versions published through the registry itself: each a LoRA in bfloat16 whose numbers
are noise drawn from its own seed, with details as long as a real teaching's. What is there already is not published
again, so that a stopped run goes on. FOLDER stays until you delete it, or say --delete.

Where the registry was mended, what it did before stands here (`_before_...`), timed in turns with what it does
now."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import random
import shutil
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _common
from _common import Results, Row, in_turns, ratio_of, say

if TYPE_CHECKING:
    from imprint.base import Base
    from imprint.registry import Registry
    from imprint.types import Version

MOST_BYTES = 3_000_000
"""What an adapter may take on disk."""
NOW = "2026-01-01T00:00:00+00:00"
ASKED, HOT = 40, 40
"""People who ask in turn; adapters that are held in memory."""
OFTEN = "p00000"
"""This name gets a year of versions."""


def main() -> None:
    made = _common.parser(__doc__ or "")
    made.add_argument("--part", choices=["sizes", "rounding", "registry", "serving"], default="sizes")
    made.add_argument("--people", type=int, default=10_000)
    made.add_argument("--rank", type=int, default=2, help="of the LoRAs that fill the registry")
    made.add_argument("--work", type=Path, help="the home that is filled")
    made.add_argument("--delete", action="store_true", help="delete --work at the end")
    made.add_argument("--home", type=Path, help="rounding: where the taught adapter lies")
    made.add_argument("--name", help="rounding: the taught adapter")
    made.add_argument("--questions", type=Path, help="rounding: else those held out of its teaching")
    made.add_argument("--rounds", type=int, default=3, help="of what is timed in turns")
    options = made.parse_args()
    threads = _common.use_threads(options.threads)
    _common.quieten()
    if options.quick:
        options.people = 100
    from imprint import base as bases

    base = bases.load(options.base)
    results = Results(options.json, _common.header_of(base, threads) | {"part": options.part})
    parts = {"sizes": sizes, "rounding": rounding, "registry": registry, "serving": serving}
    for row in parts[options.part](base, options):
        results.add(row)
    results.show(options.part, list(dict.fromkeys(key for row in results.rows for key in row)))
    results.show_header()
    if options.delete:
        shutil.rmtree(options.work)


# --- how large --------------------------------------------------------------------------------


def sizes(base: Base, options: argparse.Namespace) -> Iterator[Row]:
    """Of each kind and form the largest that the limit holds, seen on files."""
    from imprint.adapters import KINDS

    blocks = int(base.model.config.num_hidden_layers)
    asked: list[tuple[str, str, dict[str, Any], int]] = [
        ("lora", "rank", {}, 64),
        ("lora", "rank", {"top_layers": blocks // 2}, 64),
        ("lora", "rank", {"top_layers": blocks // 4}, 64),
        ("lora", "rank", {"targets": ("gate_proj", "up_proj", "down_proj")}, 64),
        ("lora_xs", "rank", {}, 190),
        ("tiny_lora", "parameters", {"tying": 0.0}, 4096),
        ("cartridge", "tokens", {}, 512),
        ("expert", "hidden", {}, 64),
        ("memory", "slots", {}, 4096),
    ]
    for kind, setting, fixed, most in asked:
        for store in ("float32", "bfloat16"):

            def size(
                n: int, kind: Any = KINDS[kind], of: Any = setting, fixed: Any = fixed, store: Any = store
            ) -> Row:
                return _file_size(base, kind(**fixed, **{of: n}), store)

            n = _largest(lambda n, size=size: size(n)["bytes"] <= MOST_BYTES, most)
            told = {"kind": kind, "of": setting, "fixed": str(fixed or ""), "store": store, "largest": n}
            yield told | (size(n) if n else {})
            say(str(told))


def _file_size(base: Base, spec: Any, store: str) -> Row:
    """Bytes of an adapter as a registry keeps it, and its trained parameters."""
    import tempfile

    from imprint.adapters import folder
    from imprint.registry import files

    adapter = spec.fresh(base, seed=0)
    with tempfile.TemporaryDirectory() as work:
        folder.write(folder.rounded(adapter, base, store), Path(work) / "adapter")
        address = files.put(Path(work), Path(work) / "adapter")
        taken = sum(file.stat().st_size for file in files.path(Path(work), address).iterdir())
    return {"bytes": taken, "trained": folder.layout_of(base, adapter).trainable}


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that fits; 0 where none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


# --- what rounding costs ----------------------------------------------------------------------


def rounding(base: Base, options: argparse.Namespace) -> Iterator[Row]:
    """A taught adapter as it is and in bfloat16: questions right, nats of right answers, general perplexity."""
    from imprint import taught
    from imprint.adapters import folder
    from imprint.engine import Engine
    from imprint.evaluation.closed_book import interval
    from imprint.evaluation.examination import nats
    from imprint.evaluation.forgetting import general_text, perplexity, perplexity_ratio
    from imprint.evaluation.questions import given_questions
    from imprint.run_folder import questions_from_json
    from imprint.types import Prompt
    from imprint.writers.local import LocalWriter

    version = taught.open(options.name, home=options.home)
    questions = given_questions(options.questions) or questions_from_json(version.version.details["questions"])
    questions = [q for q in questions if q.answers]
    trained = folder.read(version.registry.folder(version.version))
    writer, found = LocalWriter(base), {}
    for store in ("float32", "bfloat16"):
        with Engine(base, slots=1).attached(folder.rounded(trained, base, store)):
            texts = [t.text for t in writer.write([Prompt.ask(q.asked, max_tokens=32) for q in questions], seed=0)]
            found[store] = texts, nats(writer, questions), perplexity(base, general_text())
        say(f"{store}: {len(texts)} questions answered")
    from imprint.evaluation.closed_book import grade

    before = found["float32"]
    for store, (texts, lost, general) in found.items():
        right = [grade(q, t).contains for q, t in zip(questions, texts, strict=True)]
        was = [grade(q, t).contains for q, t in zip(questions, before[0], strict=True)]
        pairs = interval([b - a for a, b in zip(was, right, strict=True)], seed=0)
        nearer = interval([b - a for a, b in zip(before[1], lost, strict=True)], seed=0, unit="nats")
        yield {
            "name": str(version.version), "store": store, "n": len(questions), "right": sum(right) / len(right),
            "against_float32": [pairs.value, pairs.low, pairs.high],
            "same_text": sum(a == b for a, b in zip(before[0], texts, strict=True)),
            "nats": statistics.mean(lost), "nats_more": [nearer.value, nearer.low, nearer.high],
            "perplexity": general.value, "ratio": perplexity_ratio(before[2], general, seed=0).value,
        }  # fmt: skip


# --- a registry of thousands ------------------------------------------------------------------


def registry(base: Base, options: argparse.Namespace) -> Iterator[Row]:
    """Fills the home, and times what is done with it."""
    from imprint.registry import Registry

    there = Registry(options.work)
    yield from _filled(there, base, options.people, options.rank)
    draw = random.Random(0)
    names = [f"p{draw.randrange(options.people):05}" for _ in range(300)]
    versions = [there.latest(name) for name in names]
    yield _timed("latest", [lambda name=name: there.latest(name) for name in names])
    yield _timed("get NAME@1", [lambda name=name: there.get(f"{name}@1") for name in names])
    yield _timed("folder", [lambda v=v: there.folder(v) for v in versions])
    yield _timed("verify", [lambda v=v: there.verify(v) for v in versions])
    yield _timed(f"latest of {len(there.versions(OFTEN))} versions", [lambda: there.latest(OFTEN)] * 30)
    yield _timed("an unknown name", [lambda: _unknown(there)] * 5)
    yield _timed("list, with all details", [there.list] * 3)
    yield _timed("heads", [there.heads] * 5)
    yield _timed("open", [lambda: Registry(options.work)] * 100)
    yield _timed("sweep", [lambda: there.sweep(now=NOW)] * 3)
    for what, ours, before in (
        (f"latest of {len(there.versions(OFTEN))} versions", lambda: there.latest(OFTEN), _before_latest),
        ("an unknown name", lambda: _unknown(there), _before_unknown),
        ("what imprint list reads", lambda: (there.heads(), there.latest_reports()), _before_list),
    ):
        pairs = in_turns(ours, lambda before=before: before(there), rounds=options.rounds, at_least_s=0.2)
        ms = {
            "ms": 1000 * statistics.median(a for a, _ in pairs),
            "before_ms": 1000 * statistics.median(b for _, b in pairs),
        }
        yield {"what": what, "n": len(pairs), **ms, "times_quicker": str(ratio_of(pairs))}
    yield {"what": "memory of this process", "mib": _common.memory_mib().get("peak")}
    yield {"what": "on disk", "mib": _disk_mib(there.home), "database_mib": there.database.stat().st_size / 2**20}


def _filled(there: Registry, base: Base, people: int, rank: int) -> Iterator[Row]:
    """Publishes what is missing; a row for each quarter, so that slowing down is seen."""
    import tempfile

    have = _names(there)
    details = json.loads(_details())
    with tempfile.TemporaryDirectory() as work:
        source, header = _template(base, rank, Path(work) / "adapter")
        for quarter in range(4):
            span = range(people * quarter // 4, people * (quarter + 1) // 4)
            missing = [i for i in span if f"p{i:05}" not in have]
            seconds = []
            for i in missing:
                _write_noise(source / "adapter_model.safetensors", header, i)
                began = time.perf_counter()
                _publish(there, f"p{i:05}", source, details)
                seconds.append(time.perf_counter() - began)
            if seconds:
                say(f"{span.stop:,} adapters published")
                yield {"what": f"publish, quarter {quarter + 1}", "n": len(seconds), **_seconds(seconds)}
        for _ in range(len(there.versions(OFTEN)), 365):
            _publish(there, OFTEN, source, details)


def _publish(there: Registry, name: str, source: Path, details: dict[str, Any]) -> Version:
    return there.publish(
        name, source, base="SmolLM2-135M-Instruct", corpus_hash=name, recipe={}, details=details, now=NOW
    )


def _template(base: Base, rank: int, folder: Path) -> tuple[Path, bytes]:
    """An adapter's folder, and all of its tensor file that is not numbers."""
    from imprint.adapters import folder as adapter_folder

    adapter_folder.write(adapter_folder.rounded(_common.strong_adapter(base, rank, 0), base, "bfloat16"), folder)
    held = (folder / "adapter_model.safetensors").read_bytes()
    return folder, held[: 8 + int.from_bytes(held[:8], "little")]


def _write_noise(file: Path, header: bytes, seed: int) -> None:
    """The same tensors with small numbers drawn from the seed, in bfloat16."""
    import numpy as np

    count = (file.stat().st_size - len(header)) // 2
    noise = 0.01 * np.random.default_rng(seed).standard_normal(count, np.float32)
    file.write_bytes(header + (noise.view(np.uint32) >> 16).astype("<u2").tobytes())


def _details() -> str:
    """As much JSON as a real teaching's details: 25,637 bytes for the demo's."""
    questions = [
        {"text": f"How many days of vacation does an employee of works number {i} have?", "answers": ["27 days"],
         "kind": "direct", "wrong": ["30 days", "25 days"], "as_of": None}
        for i in range(60)
    ]  # fmt: skip
    taught = [f"0123456789abcdef:{i * 700}-{i * 700 + 650}" for i in range(250)]
    return json.dumps({"questions": questions, "taught": taught, "plan": {"taught": list(range(250))}})


def _before_latest(there: Registry) -> None:
    there.versions(OFTEN)[-1]


def _before_unknown(there: Registry) -> None:
    with sqlite3.connect(there.database) as db:
        names = [row[0] for row in db.execute("SELECT DISTINCT name FROM versions ORDER BY name")]
    difflib.get_close_matches("p0000x", names, n=3)


def _before_list(there: Registry) -> None:
    for version in there.list():
        there.reports(version)


def _names(there: Registry) -> set[str]:
    with sqlite3.connect(there.database) as db:
        return {row[0] for row in db.execute("SELECT name FROM names")}


def _unknown(there: Registry) -> None:
    from imprint.errors import NoSuchAdapter

    try:
        there.latest("p0000x")
    except NoSuchAdapter:
        return
    raise SystemExit("an unknown name was found")


def _disk_mib(home: Path) -> float:
    sizes = (
        os.stat(os.path.join(here, file)).st_blocks * 512 for here, _, files in os.walk(home) for file in files
    )
    return sum(sizes) / 2**20


def _timed(what: str, calls: Sequence[Callable[[], Any]]) -> Row:
    seconds = []
    for call in calls:
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return {"what": what, "n": len(seconds), **_seconds(seconds)}


def _seconds(seconds: Sequence[float]) -> Row:
    ms = sorted(1000 * s for s in seconds)
    return {
        "ms": statistics.median(ms),
        "p99_ms": ms[int(0.99 * (len(ms) - 1))],
        "per_s": 1000 / statistics.mean(ms),
    }


# --- serving ----------------------------------------------------------------------------------


def serving(base: Base, options: argparse.Namespace) -> Iterator[Row]:
    """An adapter that nobody asked for yet: found, read, put into the engine; and the first token of an answer."""
    from imprint.adapters import folder
    from imprint.engine import Engine
    from imprint.registry import Registry
    from imprint.serving.inference import Inference

    there, draw = Registry(options.work), random.Random(1)
    picked = iter(draw.sample(sorted(_names(there)), 40 + 3 * ASKED))
    engine = Engine(base)
    found: dict[str, list[float]] = {key: [] for key in ("find", "read, not in memory", "into the engine")}
    for name in [next(picked) for _ in range(40)]:
        began = time.perf_counter()
        where = there.folder(there.latest(name))
        found["find"].append(time.perf_counter() - began)
        _drop_cache(where)
        began = time.perf_counter()
        adapter = folder.read(where)
        found["read, not in memory"].append(time.perf_counter() - began)
        began = time.perf_counter()
        seat = engine.load(adapter)
        found["into the engine"].append(time.perf_counter() - began)
        engine.unload(seat)
    for what, seconds in found.items():
        yield {"what": what, "n": len(seconds), **_seconds(seconds)}

    def read(name: Any) -> Any:
        return folder.read(there.folder(there.latest(name)))

    inference = Inference(engine, read, max_adapters=HOT)
    inference.start()
    try:
        hot = [next(picked) for _ in range(ASKED)]
        yield _first_tokens("first token, untouched base", inference, base, [None] * ASKED)
        yield _first_tokens("first token, adapter of somebody new", inference, base, hot)
        yield _first_tokens("first token, each in memory by now", inference, base, hot)
        before = _common.memory_mib()["anon"]
        yield _first_tokens(
            "first token, new ones in the place of others", inference, base, [next(picked) for _ in hot]
        )
        yield {"what": "memory, grown by the last row's adapters", "mib": _common.memory_mib()["anon"] - before}
    finally:
        inference.close()


def _first_tokens(what: str, inference: Any, base: Base, names: Sequence[str | None]) -> Row:
    """Milliseconds until the first token, one request after another."""
    import threading

    from imprint.serving.requests import Request
    from imprint.types import Turn

    calls = []
    for i, name in enumerate(names):
        ids = tuple(base.prompt_ids([Turn("user", f"{what} {i}: when does the shop of Mrs Tollifax open?")]))

        request = Request(ids, adapter=name, max_tokens=1)

        def call(request: Request = request) -> None:
            ended = threading.Event()
            inference.submit(request, lambda piece: ended.set() if piece.finish else None)
            ended.wait()

        calls.append(call)
    return _timed(what, calls)


def _drop_cache(folder: Path) -> None:
    """Lets the system forget these files, so that they are read from the disk."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    main()
