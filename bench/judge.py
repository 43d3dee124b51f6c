"""How far does a judge agree with the match grader? On answers that a map kept.

    python bench/judge.py --most 160 --json docs/results/judge.json
    python bench/judge.py --judge http://127.0.0.1:8001/v1 --judge-model NAME

Answers are of docs/results/map.json (some drawn at random of the systems named with --rows), right answers of
SQuAD's in squad_eval.json. The base itself judges, bare and with the skill `read`; with --judge another model at an
address. The match grader is no truth either: of those where the two differ, ten are told, to be looked at."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
    from imprint.evaluation import judge

    torch.set_num_threads(threads)
    base = bases.load(options.base)
    answered = answers_of(options)
    header = {
        "base": base_name(base),
        "commit": commit(),
        "machine": machine(str(base.device.dtype).removeprefix("torch."), threads),
        "answers_of": options.rows,
        "prompt": judge.prompt_hash(),
    }
    results = Results(options.json, header)
    for name, writer in judges(options, base):
        began = time.monotonic()
        found = judge.judged(writer, answered, seed=SEED)
        told = judge.agreement(found, seed=SEED)
        apart = [j for j in found if j.verdict in judge.VERDICTS and j.verdict != j.matched]
        results.add(
            without_nan({
                "judge": name,
                "n": len(found),
                "kappa": told.kappa.value,
                "low": told.kappa.low,
                "high": told.kappa.high,
                "with_verdict": told.kappa.n,
                "same": told.same.value,
                "swayed": told.swayed.value,
                "unreadable": told.unreadable.value,
                "seconds": round(time.monotonic() - began, 1),
                "agreement": asdict(told),
                "where_they_differ": [
                    {
                        "question": j.answered.question.text,
                        "right": j.answered.question.answers,
                        "answer": j.answered.text,
                        "matched": j.matched,
                        "judged": j.verdict,
                    }
                    for j in apart[:10]
                ],
                "unreadable_replies": [j.replies for j in found if j.verdict == judge.UNREADABLE][:5],
            })
        )  # fmt: skip
        say(f"{name} is done")
    results.show_header()
    columns = ("judge", "n", "with_verdict", "kappa", "low", "high", "same", "swayed", "unreadable", "seconds")
    results.show("Judge beside match grader", columns)


def without_nan(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def answers_of(options: argparse.Namespace) -> list[Any]:
    """Some of the map's answers, graded."""
    from imprint.evaluation.closed_book import Question, grade

    right: dict[str, list[str]] = {}
    for passage in json.loads((options.data / "squad" / "squad_eval.json").read_text("utf-8")):
        for q in passage["questions"]:
            right.setdefault(q["question"].strip(), []).append(q["answer"])
    rows = json.loads(options.answers.read_text("utf-8"))["rows"]
    said = [(a["question"], a["answer"]) for row in rows if row["row"] in options.rows for a in row["answers"]]
    said = [(q, a) for q, a in said if q in right]
    random.Random(SEED).shuffle(said)
    most = 8 if options.quick else options.most
    return [grade(Question(q, tuple(dict.fromkeys(right[q]))), a) for q, a in said[:most]]


@dataclass(frozen=True)
class Skilled:
    """A writer that puts on a skill for every prompt."""

    writer: Any
    skill: str
    name: str = "skilled"

    def write(self, prompts: Sequence[Any], *, seed: int) -> list[Any]:
        return list(self.writer.write([replace(p, skill=self.skill) for p in prompts], seed=seed))


def judges(options: argparse.Namespace, base: Any) -> list[tuple[str, Any]]:
    """Names and writers of those who judge."""
    from imprint.engine import Engine
    from imprint.skills import SkilledWriter
    from imprint.writers.local import LocalWriter

    if options.judge:
        from imprint.writers.endpoint import Endpoint, EndpointWriter

        return [(options.judge_model, EndpointWriter(Endpoint(options.judge_model, options.judge)))]
    local = LocalWriter(base)
    return [("base", local), ("base with the skill read", Skilled(SkilledWriter(Engine(base), local), "read"))]


def arguments() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("--answers", type=Path, default=Path("docs/results/map.json"))
    made.add_argument("--data", type=Path, default=Path("../shared/data"))
    made.add_argument("--rows", nargs="+", default=["expert-large", "rag", "full_context", "untouched"])
    made.add_argument("--most", type=int, default=160, help="answers judged")
    made.add_argument("--judge", metavar="ADDRESS", help="an OpenAI-compatible endpoint")
    made.add_argument("--judge-model", metavar="NAME")
    return made.parse_args()


if __name__ == "__main__":
    main()
