"""Which signal tells right answers from wrong ones? Answers of adapters from their weights, looked at in every way.

    python bench/confidence.py ADAPTER_FOLDER... --questions questions.jsonl --json docs/results/confidence.json

A questions file is one of imprint's (question, answer), or a row of a map, whose answers tell their questions.
Right means what the grader says: a right answer stands in the text. Answers that say themselves that they do not
know are left out. Intervals are bootstraps over answers; calibration and what declining brings are cross-fitted."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _common import Results, base_name, commit, machine, parser, quieten, say, use_threads

SEED = 0


def main() -> None:
    options = arguments()
    threads = use_threads(options.threads)
    quieten()
    import torch

    from imprint import base as bases
    from imprint.engine import Engine

    torch.set_num_threads(threads)
    engine = Engine(bases.load(options.base))
    questions = questions_of(options.questions)[: 12 if options.quick else None]
    header = {
        "base": base_name(engine.base),
        "commit": commit(),
        "machine": machine(str(engine.base.device.dtype).removeprefix("torch."), threads),
        "questions": len(questions),
        "samples": options.samples,
    }
    results = Results(options.json, header)
    for folder in options.adapters:
        results.add(look(engine, folder, questions, options.samples))
        say(f"{folder.name} is done")
    results.show_header()
    results.show("Does it tell right from wrong?", ("row", *(f"auroc_of_{name}" for name in SIGNALS)))


SIGNALS = ("mean", "least", "lift", "agreement", "gain")


def questions_of(file: Path) -> list[Any]:
    """The questions of a file, with their right answers."""
    from imprint.evaluation.closed_book import Question
    from imprint.evaluation.questions import read_questions

    told = json.loads(file.read_text("utf-8")) if file.suffix == ".json" else None
    if isinstance(told, dict) and "answers" in told:
        return [Question(a["question"], tuple(a["right"]), a["kind"]) for a in told["answers"]]
    return list(read_questions(file))


def look(engine: Any, folder: Path, questions: list[Any], samples: int) -> dict[str, Any]:
    """A row: every signal of one adapter's answers, and what each is worth."""
    from imprint.adapters import folder as adapter_folder
    from imprint.evaluation import confidence
    from imprint.evaluation.closed_book import abstains, grade

    began = time.monotonic()
    with engine.attached(adapter_folder.read(folder)) as seat:
        said, found = confidence.answers(engine, seat, [q.text for q in questions], seed=SEED, samples=samples)
    kept = [i for i, text in enumerate(said) if not abstains(text.text)]
    right = [grade(questions[i], said[i].text).contains for i in kept]
    signals = [found[i] for i in kept]
    reports = {name: confidence.report(signals, right, seed=SEED, signal=name) for name in SIGNALS}
    aurocs = reports["mean"].scores
    return {
        "row": folder.name,
        "seconds": round(time.monotonic() - began, 1),
        "abstained": len(said) - len(kept),
        "right": sum(right),
        **{f"auroc_of_{name}": aurocs[f"auroc of {name}"].value for name in SIGNALS},
        "by_signal": {
            name: {"scores": {k: asdict(s) for k, s in report.scores.items()}, **report.details}
            for name, report in reports.items()
        },
        "answers": [
            {"question": questions[i].text, "answer": said[i].text, "right": r} | asdict(s)
            for i, r, s in zip(kept, right, signals, strict=True)
        ],
    }


def arguments() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("adapters", nargs="+", type=Path, metavar="ADAPTER_FOLDER")
    made.add_argument("--questions", type=Path, required=True, metavar="FILE")
    made.add_argument("--samples", type=int, default=3, help="answers drawn for each question")
    return made.parse_args()


if __name__ == "__main__":
    main()
