"""Many people's adapters on one machine: how large each is, what rounding costs, a registry of thousands.

    python bench/many_people.py --parts sizes                     # the largest of each kind that 3 MB holds
    python bench/many_people.py --parts rounding --home HOME --name NAME
    python bench/many_people.py --parts fill,looking --people 10000 --work FOLDER
    python bench/many_people.py --parts serving --work FOLDER     # the same folder: cold loads, and the switch

`fill` publishes into FOLDER through the registry itself: each adapter a LoRA in bfloat16 whose numbers are noise
drawn from its own seed, with details as long as a real teaching's. What is there already is not published again, so
that a stopped run goes on. FOLDER stays until you delete it, or say --delete.

Beside the time that passed (`ms`) stands the processor's (`cpu_ms`), which neighbours on a busy machine hardly
change. Where the registry was mended, what it did before stands here (`_before_...`), in turns with what it does
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
from _common import Results, Row, ratio_of, say

if TYPE_CHECKING:
    from imprint.base import Base
    from imprint.registry import Registry
    from imprint.types import Version

MOST_BYTES = 3_000_000
"""What an adapter may take on disk."""
NOW = "2026-01-01T00:00:00+00:00"
GENERAL = 8000
"""Characters of the general text whose perplexity is taken before and after rounding."""
OFTEN = "p00000"
"""This name gets a year of versions."""


def main() -> None:
    made = _common.parser(__doc__ or "")
    made.add_argument(
        "--parts", default="sizes", help="sizes, rounding, fill, looking, serving: one or more of them"
    )
    made.add_argument("--people", type=int, default=10_000)
    made.add_argument("--rank", type=int, default=2, help="of the LoRAs that fill the registry")
    made.add_argument("--work", type=Path, help="the home that is filled")
    made.add_argument("--delete", action="store_true", help="delete --work at the end")
    made.add_argument("--home", type=Path, help="rounding: where the taught adapter lies")
    made.add_argument("--name", help="rounding: the taught adapter")
    made.add_argument("--questions", type=Path, help="rounding: else those held out of its teaching")
    made.add_argument("--rounds", type=int, default=3, help="of what is timed in turns")
    made.add_argument("--asked", type=int, default=40, help="people who ask in turn, each with their adapter")
    options = made.parse_args()
    threads = _common.use_threads(options.threads)
    _common.quieten()
    if options.quick:
        options.people = 100
    from imprint import base as bases

    base = bases.load(options.base)
    results = Results(options.json, _common.header_of(base, threads))
    parts = {"sizes": sizes, "rounding": rounding, "fill": fill, "looking": looking, "serving": serving}
    for part in options.parts.split(","):
        rows = []
        for row in parts[part](base, options):
            rows.append(row)
            say(", ".join(f"{key} {value}" for key, value in row.items()))
            results.add({"part": part} | row)
        results.show(part, list(dict.fromkeys(key for row in rows for key in row)), rows)
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
        ("cartridge", "tokens", {}, 256),
        ("expert", "hidden", {}, 64),
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
    from imprint.evaluation.closed_book import grade, interval
    from imprint.evaluation.examination import nats
    from imprint.evaluation.forgetting import general_text, perplexity, perplexity_ratio
    from imprint.evaluation.questions import given_questions
    from imprint.run_folder import questions_from_json
    from imprint.types import Prompt
    from imprint.writers.local import LocalWriter

    version = taught.open(options.name, home=options.home)
    questions = given_questions(options.questions) or questions_from_json(version.version.details["questions"])
    questions = [q for q in questions if q.answers][: 10 if options.quick else None]
    trained = folder.read(version.registry.folder(version.version))
    writer, found = LocalWriter(base), {}
    for store in ("float32", "bfloat16"):
        with Engine(base, slots=1).attached(folder.rounded(trained, base, store)):
            texts = [t.text for t in writer.write([Prompt.ask(q.asked, max_tokens=32) for q in questions], seed=0)]
            found[store] = texts, nats(writer, questions), perplexity(base, general_text()[:GENERAL])
        say(f"{store}: {len(texts)} questions answered")
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


def fill(base: Base, options: argparse.Namespace) -> Iterator[Row]:
    """Publishes what is missing."""
    from imprint.registry import Registry

    there = Registry(options.work)
    yield from _filled(there, base, options.people, options.rank)
    yield {"what": "on disk", "mib": _disk_mib(there.home), "database_mib": there.database.stat().st_size / 2**20}


def looking(_: Base, options: argparse.Namespace) -> Iterator[Row]:
    """What is done with the home, and how it was done before it was mended."""
    from imprint.registry import Registry

    there, draw = Registry(options.work), random.Random(0)
    names = draw.sample(sorted(_names(there)), 100)
    versions = [there.latest(name) for name in names]
    year = len(there.versions(OFTEN))
    yield _timed("latest", [lambda name=name: there.latest(name) for name in names])
    yield _timed("get NAME@1", [lambda name=name: there.get(f"{name}@1") for name in names])
    yield _timed("folder", [lambda v=v: there.folder(v) for v in versions])
    yield _timed("verify", [lambda v=v: there.verify(v) for v in versions])
    yield _timed("open", [lambda: Registry(options.work)] * 20)
    yield _timed("sweep", [lambda: there.sweep(now=NOW)] * 3)
    yield _in_turns(f"latest of {year} versions", lambda: there.latest(OFTEN), _before_latest, there, options)
    yield _in_turns("an unknown name", lambda: _unknown(there), _before_unknown, there, options)
    yield _in_turns(
        "what imprint list reads", lambda: (there.heads(), there.latest_reports()), _before_list, there, options
    )
    yield {"what": "memory of this process at its highest", "mib": _common.memory_mib().get("peak")}


def _in_turns(
    what: str, ours: Callable[[], Any], before: Callable[[Registry], None], there: Registry, options: Any
) -> Row:
    """Now and before, the processor's time of each, round after round."""
    pairs = [(_cpu_s(ours), _cpu_s(lambda: before(there))) for _ in range(options.rounds)]
    now_ms, before_ms = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "what": what,
        "n": len(pairs),
        "cpu_ms": now_ms,
        "before_cpu_ms": before_ms,
        "times": str(ratio_of(pairs)),
    }


def _cpu_s(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


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
            taken = []
            for i in missing:
                _write_noise(source / "adapter_model.safetensors", header, i)
                taken.append(_took(lambda i=i: _publish(there, f"p{i:05}", source, details)))
            if taken:
                yield {"what": f"publish, quarter {quarter + 1}", **_in_ms(taken)}
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
    return {"what": what, **_in_ms([_took(call) for call in calls])}


def _took(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds that passed, and the processor's."""
    began, began_cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - began_cpu


def _in_ms(taken: Sequence[tuple[float, float]]) -> Row:
    passed, cpu = (sorted(1000 * s for s in side) for side in zip(*taken, strict=True))
    late = int(0.99 * (len(passed) - 1))
    return {
        "n": len(taken), "ms": statistics.median(passed), "p99_ms": passed[late], "cpu_ms": statistics.median(cpu),
    }  # fmt: skip


# --- serving ----------------------------------------------------------------------------------


def serving(base: Base, options: argparse.Namespace) -> Iterator[Row]:
    """An adapter that nobody asked for yet: found, read, put into the engine; and the first token of an answer."""
    from imprint.adapters import folder
    from imprint.engine import Engine
    from imprint.registry import Registry
    from imprint.serving.inference import Inference

    there, draw = Registry(options.work), random.Random(1)
    names = draw.sample(sorted(_names(there)), 3 * options.asked)
    cold, hot, others = (names[i::3] for i in range(3))
    engine = Engine(base)
    where = [there.folder(there.latest(name)) for name in cold]
    for place in where:
        _drop_cache(place)
    yield _timed("find", [lambda name=name: there.folder(there.latest(name)) for name in cold])
    adapters: list[Any] = []
    yield _timed("read from the disk", [lambda place=place: adapters.append(folder.read(place)) for place in where])
    seats: list[Any] = []
    yield _timed(
        "into the engine", [lambda adapter=adapter: seats.append(engine.load(adapter)) for adapter in adapters]
    )
    yield {"what": "memory of an adapter in the engine", "mib": seats[0].rack.layout.size * 4 / 2**20}
    for seat in seats:
        engine.unload(seat)

    def read(name: Any) -> Any:
        return folder.read(there.folder(there.latest(name)))

    inference = Inference(engine, read, max_adapters=options.asked)
    inference.start()
    try:
        yield _first_tokens("first token, untouched base", inference, base, [None] * options.asked)
        yield _first_tokens("first token, adapter of somebody new", inference, base, hot)
        yield _first_tokens("first token, each in memory by now", inference, base, hot)
        yield _first_tokens("first token, new ones in the place of others", inference, base, others)
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
