"""Does a model learn to write what it learns from? SEAL's outer loop, looked at on passages it never saw.

    python bench/seal.py --quick
    python bench/seal.py --passages 50 --held-out 50 --rounds 2 --work /tmp/seal --json docs/results/seal.json

Passages and questions come from squad_skill_train.json; squad_eval.json is never read, so that editors may be
tried on it later. In each round every training passage gets --edits edits, each teaches an adapter of its own, and
the editor learns the best (imprint.training.seal). A row says what the edits of each held-out passage teach:
written by the bare base, by nobody (the passage alone is trained on), by the editor of each round; `reward` is the
mean closed-book F1 (or --reward) of those adapters on the passage's questions with its bootstrap interval over
passages, `gain` the paired difference to the bare base's. With --work everything goes on where it was stopped."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _common import Results, base_name, commit, machine, parser, quieten, say, use_threads

SEED = 29
ANSWER_TOKENS = 24


def material(options: argparse.Namespace) -> tuple[list[Any], list[Any], dict[str, list[Any]]]:
    """Passages to train on, others of other articles that are held out, and the questions of each by its id."""
    from imprint.evaluation.closed_book import Question
    from imprint.types import Passage, content_hash

    found = json.loads((options.data / "squad" / "squad_skill_train.json").read_text("utf-8"))
    draw = random.Random(SEED)
    titles = sorted({p["title"] for p in found})
    draw.shuffle(titles)
    held_titles = set(titles[: len(titles) // 3])
    chosen: tuple[list[Any], list[Any]] = ([], [])
    questions: dict[str, list[Any]] = {}
    draw.shuffle(found)
    for p in found:
        asked: dict[str, list[str]] = {}
        for q in p["questions"]:
            asked.setdefault(q["question"].strip(), []).append(q["answer"])
        side, most = (1, options.held_out) if p["title"] in held_titles else (0, options.passages)
        if len(asked) < 4 or len(chosen[side]) == most:
            continue
        text = p["context"]
        passage = Passage(content_hash(p["title"], text), 0, len(text), text, p["title"].replace("_", " "))
        chosen[side].append(passage)
        questions[passage.id] = [Question(q, tuple(dict.fromkeys(a)), "squad") for q, a in asked.items()]
    return *chosen, questions


def reward_by(name: str, questions: dict[str, list[Any]]) -> Callable[[Any, Any], float]:
    """What an adapter knows of a passage: the mean over its questions, asked with the book closed."""
    from imprint.evaluation.closed_book import grade
    from imprint.types import Prompt

    def likelihood(writer: Any, passage: Any) -> float:
        asked = questions[passage.id]
        return statistics.fmean(
            writer.likelihoods([Prompt.ask(q.text) for q in asked], [q.answers[0] for q in asked])
        )

    def graded(writer: Any, passage: Any) -> float:
        asked = questions[passage.id]
        texts = writer.write([Prompt.ask(q.text, max_tokens=ANSWER_TOKENS) for q in asked], seed=0)
        return statistics.fmean(getattr(grade(q, t.text), name) for q, t in zip(asked, texts, strict=True))

    return likelihood if name == "likelihood" else graded


def looked_at(
    engine: Any, writers: Sequence[tuple[str, Any]], passages: Sequence[Any], reward: Any, settings: Any,
    results: Results, work: Path,
) -> None:  # fmt: skip
    """A row for each who writes edits of the held-out passages."""
    from dataclasses import replace

    from imprint.evaluation.closed_book import interval
    from imprint.training import seal

    for name, editor in writers:
        if any(row["edits_by"] == name for row in results.rows):
            continue
        began = time.monotonic()
        if name == "nobody":
            edits = [seal.Edit(p.id, 0, "", ()) for p in passages]
        else:
            edits = seal.written(engine, editor, passages, replace(settings, edits=2, best=1), seed=SEED)
        file = work / f"held-out-{name.replace(' ', '-')}.jsonl"
        edits = seal.rewarded(engine, edits, passages, reward, settings, seed=0, file=file)
        by = {p.id: statistics.fmean(e.reward for e in edits if e.passage == p.id) for p in passages}
        values = list(by.values())
        bare = next((row["rewards"] for row in results.rows if row["edits_by"] == "bare base"), values)
        mean, gain = (interval(v, seed=SEED) for v in (values, [a - b for a, b in zip(values, bare, strict=True)]))
        results.add({
            "edits_by": name, "reward": mean.value, "low": mean.low, "high": mean.high, "n": mean.n,
            "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high,
            "seconds": round(time.monotonic() - began), "rewards": values, "edit": edits[0].text,
        })  # fmt: skip
        say(f"edits by {name}: reward {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}] on held-out passages")


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--passages", type=int, default=12, help="to train the editor on")
    made.add_argument("--held-out", type=int, default=12, help="to look at")
    made.add_argument("--rounds", type=int, default=2)
    made.add_argument("--edits", type=int, default=4, help="of each passage in a round")
    made.add_argument("--implications", type=int, default=5, help="asked for in an edit")
    made.add_argument("--best", type=int, default=1, help="edits of a passage that the editor learns")
    made.add_argument("--reward", choices=("f1", "contains", "exact", "likelihood"), default="f1")
    made.add_argument("--student-tokens", type=int, default=3000, help="training tokens of an edit's adapter")
    made.add_argument("--rank", type=int, default=16, help="of students and editor")
    made.add_argument("--lr", type=float, default=2e-3, help="of students")
    made.add_argument("--editor-lr", type=float, default=5e-4)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--data", type=Path, default=Path("../shared/data"))
    made.add_argument("--work", type=Path, help="where the run is kept for a later call")
    options = made.parse_args()
    if options.quick:
        options.passages, options.held_out, options.rounds, options.edits = 2, 2, 1, 2
        options.student_tokens, options.implications, options.rank = 400, 2, 4
    threads = use_threads(options.threads)
    quieten()
    if not options.data.is_dir():
        raise SystemExit(f"There is no data folder at {options.data}; name it with --data.")
    import torch

    from imprint import base as bases
    from imprint.adapters.low_rank import LoRA
    from imprint.engine import Engine
    from imprint.synthesis.self_edit import SelfEdit
    from imprint.training import seal

    torch.set_num_threads(threads)
    base = bases.load(options.base)
    engine = Engine(base)
    train, held, questions = material(options)
    settings = seal.Settings(
        rounds=options.rounds, edits=options.edits, best=options.best, student=LoRA(rank=options.rank),
        asking=SelfEdit(implications=options.implications, temperature=1.0), editor=LoRA(rank=options.rank),
        student_tokens=options.student_tokens, student_lr=options.lr, editor_lr=options.editor_lr,
    )  # fmt: skip
    work = options.work or Path(tempfile.mkdtemp(prefix="imprint-seal-"))
    work.mkdir(parents=True, exist_ok=True)
    header = {
        "base": base_name(base),
        "commit": commit(),
        "machine": machine(str(base.device.dtype).removeprefix("torch."), threads),
        "options": {k: v for k, v in vars(options).items() if not isinstance(v, Path | None)},
    }
    results = Results(options.json, header, resume=True)
    reward = reward_by(options.reward, questions)
    looked_at(engine, [("bare base", None), ("nobody", None)], held, reward, settings, results, work)
    editors, rounds = seal.train(
        engine, train, reward, settings, work / "run", seed=options.seed,
        progress=lambda done, total: say(f"{done}/{total} edits tried"),
    )  # fmt: skip
    for r in rounds:
        say(f"round {r.number}: mean reward {r.reward:.3f}, of the best {r.best:.3f}, {r.learnt} edits learnt")
    names = [(f"editor of round {r.number}", editor) for r, editor in zip(rounds, editors, strict=True)]
    looked_at(engine, names, held, reward, settings, results, work)
    results.show_header()
    results.show("Held-out passages", ("edits_by", "reward", "low", "high", "n", "gain", "gain_low", "gain_high"))


if __name__ == "__main__":
    main()
