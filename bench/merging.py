"""What is left of several adapters when they are one: each way of merging on the same adapters.

    python bench/merging.py anna ben carl --json docs/results/merging.json
    python bench/merging.py --map ../map/documents --kind lora-middle --json docs/results/merging.json
    python bench/merging.py --quick

The adapters are names in the registry ($IMPRINT_HOME), or those that `bench/map.py sequence` left in
WORK/documents (KIND-of-1, KIND-of-2, ... in adapters/, their texts in texts/1, texts/2, ...). --quick teaches two
small ones first.

A row for the untouched base, for each text's own adapter on it, for one after another of the ways, each as sum
(weights 1) and as mean (weights 1/k): nats for each learnt token on --rows rows of every text, averaged over texts,
and the share of --ask held-out questions of each text that are answered rightly, closed book, with its interval.
Rows that are there (--json) are not made again."""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import Results, header_of, parser, quieten, say, use_threads

SEED = 17
QUICK = (
    ("The Kestrel weighs 3 kilograms and comes in green.", "What does the Kestrel weigh?", "3 kilograms"),
    ("Maren Tollifax, a former tram driver, founded Acme.", "Who founded Acme?", "Maren Tollifax"),
)


@dataclass(frozen=True)
class Input:
    """An adapter, what it was taught, and what was kept out of that."""

    name: str
    adapter: Any
    rows: Sequence[Any]
    questions: Sequence[Any]


# --- the adapters -----------------------------------------------------------------------------


def of_registry(names: Sequence[str], options: argparse.Namespace) -> list[Input]:
    """Published versions."""
    from imprint.adapters import folder
    from imprint.home import home_folder
    from imprint.registry import Registry
    from imprint.run_folder import questions_from_json

    home = home_folder()
    registry = Registry(home)
    found = []
    for version in map(registry.get, names):
        run = home / "runs" / str(version.details.get("run"))
        asked = questions_from_json(version.details.get("questions", []))
        adapter = folder.read(registry.folder(version))
        found.append(Input(str(version), adapter, _some_rows(run, options.rows), _some(asked, options.ask)))
    return found


def of_map(work: Path, kind: str, options: argparse.Namespace) -> list[Input]:
    """What bench/map.py left."""
    from imprint.adapters import folder
    from imprint.run_folder import RunFolder

    found = []
    for i in range(1, options.most + 1):
        if not (where := work / "adapters" / f"{kind}-of-{i}").exists():
            break
        run = RunFolder(work / "texts" / str(i))
        asked, _ = run.read_questions() or ([], "")
        rows = _some_rows(run.path, options.rows)
        found.append(Input(f"{kind}-of-{i}", folder.read(where), rows, _some(asked, options.ask)))
    return found


def taught_now(base: Any, work: Path) -> list[Input]:
    """Two adapters of one sentence each."""
    from imprint.adapters.low_rank import LoRA
    from imprint.engine import Engine
    from imprint.evaluation.closed_book import Question
    from imprint.training.batches import rows
    from imprint.training.sft import Job, train
    from imprint.types import Example, Turn

    found = []
    for i, (text, asked, answer) in enumerate(QUICK, 1):
        examples = [
            Example((Turn("text", text, learn=True),), (), "raw_text"),
            Example((Turn("user", asked), Turn("assistant", answer, learn=True)), (), "questions"),
        ]
        learnt = rows(examples, base, max_tokens=128)
        job = Job(LoRA(rank=4), learnt, 600, 2e-3, 128, seed=SEED)
        adapter = train(Engine(base), job, checkpoint=work / f"checkpoint-{i}").adapter
        found.append(Input(f"quick-{i}", adapter, learnt, [Question(asked, (answer,))]))
    return found


def _some_rows(run: Path, most: int) -> list[Any]:
    from imprint.training.row_file import RowFile

    return _some(RowFile(run / "rows"), most)


def _some(things: Sequence[Any], most: int) -> list[Any]:
    picked = random.Random(SEED).sample(range(len(things)), min(most, len(things)))
    return [things[i] for i in sorted(picked)]


# --- the rows ---------------------------------------------------------------------------------


def measure(engine: Any, inputs: Sequence[Input], adapters: Sequence[Any]) -> dict[str, Any]:
    """Loss on each input's text, and its questions graded, wearing the adapter that stands beside it."""
    from imprint.continual.merged import loss_on
    from imprint.evaluation import open_book
    from imprint.evaluation.closed_book import answer_all, interval
    from imprint.writers.local import LocalWriter

    losses, grades = {}, []
    for its, adapter in zip(inputs, adapters, strict=True):
        with contextlib.nullcontext() if adapter is None else engine.attached(adapter) as seat:
            if its.rows:
                losses[its.name] = loss_on(engine, seat, its.rows)
            asked = [q for q in its.questions if q.answers]
            answered, _ = answer_all(LocalWriter(engine.base), asked, open_book.closed, seed=SEED)
            grades += [a.contains for a in answered]
    score = interval(grades, seed=SEED)
    return {
        "loss": sum(losses.values()) / len(losses) if losses else None,
        "losses": losses,
        "right": score.value,
        "low": score.low,
        "high": score.high,
        "n": score.n,
    }


def ways(options: argparse.Namespace, k: int) -> Iterator[tuple[str, Any]]:
    """Each way as sum and as mean."""
    from imprint.continual.merging import WAYS, Merging

    for how in WAYS:
        rank = None if how == "concat" else options.rank
        for name, weight in (("sum", 1.0), ("mean", 1 / k)):
            yield f"{how}, {name}", Merging(how, (weight,) * k, rank, options.density, SEED)


def run(engine: Any, inputs: Sequence[Input], options: argparse.Namespace, results: Results) -> None:
    from imprint.continual.merging import check, merge

    given: Mapping[str, Any] = {its.name: its.adapter for its in inputs}
    checked = check(given)
    for name, length in checked.norms.items():
        say(f"{name}: length of its update {length:.4g}")
    for note in checked.notes:
        say(f"NOTE: {note}")
    there = {row["row"] for row in results.rows}
    arms: dict[str, Any] = {"untouched": [None] * len(inputs), "each its own": [its.adapter for its in inputs]}
    for name, worn in arms.items():
        if name not in there:
            results.add({"row": name} | measure(engine, inputs, worn))
            say(f"{name}: done")
    for name, merging in ways(options, len(inputs)):
        if name not in there:
            made = merge(given, merging)
            found = measure(engine, inputs, [made] * len(inputs))
            results.add({"row": name, "rank": made.spec["rank"], "norms": checked.norms} | found)
            say(f"{name}: done")
    results.show("what is left of each", ("row", "rank", "loss", "right", "low", "high", "n"))


def main() -> None:
    options = _options()
    threads = use_threads(options.threads)
    quieten()
    from imprint import base as bases
    from imprint.engine import Engine

    engine = Engine(bases.load(options.base), slots=1)
    results = Results(options.json, header_of(engine.base, threads), resume=True)
    with tempfile.TemporaryDirectory() as work:
        if options.quick:
            inputs = taught_now(engine.base, Path(work))
        elif options.map:
            inputs = of_map(options.map, options.kind, options)
        else:
            inputs = of_registry(options.names, options)
        if len(inputs) < 2:
            raise SystemExit("Name two adapters or more, a folder of bench/map.py with --map, or --quick.")
        run(engine, inputs, options, results)
    results.show_header()


def _options() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("names", nargs="*", metavar="NAME", help="adapters of the registry")
    made.add_argument("--map", type=Path, metavar="FOLDER", help="WORK/documents of bench/map.py")
    made.add_argument("--kind", default="lora-middle", help="which of its adapters: KIND-of-1, KIND-of-2, ...")
    made.add_argument("--most", type=int, default=8, metavar="N", help="so many of them at most")
    made.add_argument("--rank", type=int, metavar="N", help="of fitted results; else the largest of the inputs'")
    made.add_argument("--density", type=float, default=0.5, help="what TIES and DARE keep of an update")
    made.add_argument("--rows", type=int, default=64, metavar="N", help="rows of each text")
    made.add_argument("--ask", type=int, default=25, metavar="N", help="questions of each text; 0 asks none")
    return made.parse_args()


if __name__ == "__main__":
    main()
