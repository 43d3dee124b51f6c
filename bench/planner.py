"""Estimates beside what happened: the demo and two data sets, each taught anew within a budget of time.

    python bench/planner.py --json planner.json
    python bench/planner.py --sets squad --budget 20min

For each set: what the plan said at the start, what it said when training began, and what came of it. `within`:
whether writing, training, both together, the text and the tokens trained were all within a fifth of the first
estimate. Texts are written anew: nothing is taken from what other runs wrote. A row is written as it ends, and
a row that is there is not made again; with --work a run that was killed goes on where it stopped, and its row
says in how many calls."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from _common import Results, header_of, parser, quieten, say, use_threads
from learning import Lines, material

ROOT = Path(__file__).parent.parent
DEMO = "demo"
BUDGETS = {DEMO: "6min", "squad": "10min", "fictional": "10min"}
NEAR = 0.2
_FIGURES = ("text_tokens", "tokens", "write_seconds", "train_seconds")


def measure(name: str, budget: str, base: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Teaches one set; its row."""
    import imprint
    from imprint.evaluation.questions import read_questions

    work = options.work / name
    work.mkdir(parents=True, exist_ok=True)
    if name == DEMO:
        documents, questions = ROOT / "examples" / "handbook", read_questions(ROOT / "examples" / "questions.jsonl")
    else:
        documents = work / "documents"
        documents.mkdir(exist_ok=True)
        questions = material(name, options.data, documents)
    os.environ["IMPRINT_CACHE"] = str(work / "cache")  # what others wrote would make writing look quick
    taught = imprint.teach(
        documents, name=name, base=base, budget=budget, questions=questions, home=work / "home", watch=Lines()
    )
    return row_of(name, budget, taught.version.details)


def row_of(name: str, budget: str, details: dict[str, Any]) -> dict[str, Any]:
    """What a version's details say of estimate and reality."""
    kept = details["plan_and_actual"]
    both = {part: dict(kept[part]) for part in ("estimate", "actual")}
    for part in both.values():
        part["seconds"] = part["write_seconds"] + part["train_seconds"]
    ratios = {key: both["actual"][key] / both["estimate"][key] for key in (*_FIGURES, "seconds")}
    return {
        "row": name,
        "budget": budget,
        **{f"{key}_ratio": round(ratio, 3) for key, ratio in ratios.items()},
        "within": all(abs(ratio - 1) <= NEAR for ratio in ratios.values()),
        "estimate": both["estimate"],
        "revised": kept["revised"],
        "actual": both["actual"],
        "calls": kept["calls"],
    }


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--sets", default=",".join(BUDGETS), help=f"of {', '.join(BUDGETS)}")
    made.add_argument("--budget", help="for every set, in place of its own")
    made.add_argument("--data", type=Path, default=Path("../shared/data"))
    made.add_argument("--work", type=Path, help="where runs are kept for a later call")
    options = made.parse_args()
    if options.quick:
        options.sets, options.budget = DEMO, "30s"
    names = options.sets.split(",")
    if unknown := [name for name in names if name not in BUDGETS]:
        raise SystemExit(f"No set {unknown[0]!r}. There are: {', '.join(BUDGETS)}.")
    if set(names) != {DEMO} and not options.data.is_dir():
        raise SystemExit(f"There is no data folder at {options.data}; name it with --data.")
    options.work = options.work or Path(tempfile.mkdtemp(prefix="imprint-planner-"))
    threads = use_threads(options.threads)
    quieten()
    from imprint import base as bases

    base = bases.load(options.base)
    results = Results(options.json, header_of(base, threads), resume=True)
    there = {row["row"] for row in results.rows}
    for name in [n for n in names if n not in there]:
        say(f"=== {name}")
        results.add(measure(name, options.budget or BUDGETS[name], base, options))
    columns = ("row", "budget", *(f"{key}_ratio" for key in (*_FIGURES, "seconds")), "within")
    results.show("what happened, as a multiple of the first estimate", columns)
    results.show_header()


if __name__ == "__main__":
    main()
