"""The skill adapters: trained on squad_skill_train.json, measured on squad_eval.json.

    python bench/skills.py train read --data ../shared/data --work /tmp/skills
    python bench/skills.py train ask  --data ../shared/data --work /tmp/skills
    python bench/skills.py measure    --data ../shared/data --n 400 --json docs/results/skills.json

Training writes checkpoints into --work and goes on from them; the finished adapter, rounded to bfloat16, goes
to src/imprint/skills/NAME. `read`: a text and a question -> a few words of the text, or that it is not there;
several questions about one text share a row. `ask`: a text and an answer -> a question; a text -> questions
with answers."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imprint.evaluation.closed_book import normalised
from imprint.synthesis import skills
from imprint.types import Example, Turn

SEED = 5
SETTINGS = {"rank": 8, "alpha": 16.0, "lr": 1e-3, "batch_tokens": 2048}
HERE = Path(__file__).resolve().parent.parent / "src" / "imprint" / "skills"


def passages(data: Path, name: str) -> list[dict[str, Any]]:
    """The passages of a file, each question once, with the answer that was given first."""
    found = json.loads((data / "squad" / name).read_text("utf-8"))
    for passage in found:
        passage["all"] = passage["questions"]
        passage["questions"] = list({q["question"].strip(): q for q in passage["questions"]}.values())
    return [p for p in found if p["questions"]]


def conversation(text: str, asked: Sequence[tuple[str, str]], name: str) -> Example:
    """The text with the first request, then the other requests alone; every reply is learnt."""
    turns = []
    for i, (request, reply) in enumerate(asked):
        turns += [Turn("user", f"{text}\n\n{request}" if i == 0 else request), Turn("assistant", reply, learn=True)]
    return Example(tuple(turns), (), name)


def read_examples(found: Sequence[dict[str, Any]], draw: random.Random) -> Iterator[Example]:
    """Every passage alone with up to five of its questions; beside that, texts of several passages."""
    by_title: dict[str, list[dict[str, Any]]] = {}
    for passage in found:
        by_title.setdefault(passage["title"], []).append(passage)
    for passage in found:
        asked = draw.sample(passage["questions"], min(5, len(passage["questions"])))
        text = passage["context"] if draw.random() < 0.5 else f"{passage['title']}\n{passage['context']}"
        others = [p for p in by_title[passage["title"]] if p is not passage]
        yield conversation(text, _with_absent(asked, text, others, draw), "read")
    for _ in range(len(found) // 4):
        together = draw.sample(by_title[draw.choice(found)["title"]], draw.randint(2, 5))
        text = "\n\n".join(f"{p['title']}.\n{p['context']}" for p in together)[:3600]
        asked = [q for p in together for q in p["questions"] if q["answer"] in text and p["context"][-40:] in text]
        if asked:
            asked = draw.sample(asked, min(8, len(asked)))
            others = [p for p in by_title[together[0]["title"]] if p not in together]
            yield conversation(text, _with_absent(asked, text, others, draw), "read")


def _with_absent(
    asked: Sequence[dict[str, Any]], text: str, others: Sequence[dict[str, Any]], draw: random.Random
) -> list[tuple[str, str]]:
    """Questions with their answers; about one in eight is asked of another passage and not in the text."""
    pairs = [(q["question"].strip(), q["answer"].strip()) for q in asked]
    if others and draw.random() < 0.5:
        strange = draw.choice(draw.choice(others)["questions"])
        if normalised(strange["answer"]) not in normalised(text):
            pairs.append((strange["question"].strip(), skills.ABSTENTION))
    draw.shuffle(pairs)
    return pairs


def ask_examples(found: Sequence[dict[str, Any]], draw: random.Random) -> Iterator[Example]:
    """Of each passage either single answers with their questions, or the whole list of both."""
    for i, passage in enumerate(found):
        asked = draw.sample(passage["questions"], min(6, len(passage["questions"])))
        text = passage["context"] if draw.random() < 0.5 else f"{passage['title']}\n{passage['context']}"
        if i % 5 < 3:
            pairs = [(skills.ask_words(q["answer"].strip()), q["question"].strip()) for q in asked]
            yield conversation(text, pairs, "ask")
        else:
            lines = [skills.pair_line(q["question"].strip(), q["answer"].strip()) for q in asked]
            yield conversation(text, [(skills.ask_several_words(len(lines)), "\n".join(lines))], "ask")


EXAMPLES = {"read": read_examples, "ask": ask_examples}


def train(options: argparse.Namespace) -> None:
    """Trains one skill, from its checkpoint if there is one, and writes the adapter."""
    import torch

    from imprint import base as bases
    from imprint.adapters import folder as adapter_folder
    from imprint.adapters.low_rank import LoRA
    from imprint.engine import Engine
    from imprint.training.batches import rows
    from imprint.training.sft import Job
    from imprint.training.sft import train as sft

    if options.threads:
        torch.set_num_threads(options.threads)
    base = bases.load(options.base)
    found = passages(options.data, "squad_skill_train.json")
    examples = list(EXAMPLES[options.skill](found, random.Random(SEED)))[: options.limit]
    made = rows(examples, base, max_tokens=1024)
    tokens = round(sum(len(r.ids) for r in made) * options.epochs)
    print(f"{len(made):,} rows, {tokens:,} tokens to train", file=sys.stderr, flush=True)
    job = Job(LoRA(rank=SETTINGS["rank"], alpha=SETTINGS["alpha"]), made, tokens, SETTINGS["lr"],
              SETTINGS["batch_tokens"], SEED)  # fmt: skip
    told = [0.0]

    def progress(step: int, steps: int, loss: float, rate: float) -> None:
        if time.monotonic() - told[0] > 20 or step == steps:
            told[0] = time.monotonic()
            print(f"{step}/{steps} steps, loss {loss:.3f}, {rate:.0f} tokens/s", file=sys.stderr, flush=True)

    trained = sft(Engine(base), job, checkpoint=options.work / options.skill, progress=progress)
    small = {k: t.to(torch.bfloat16) for k, t in trained.adapter.tensors.items()}
    adapter_folder.write(replace(trained.adapter, tensors=small), options.out or HERE / options.skill)
    print(f"{options.skill}: {trained.tokens:,} tokens, {trained.seconds:.0f} s, last loss {trained.last_loss:.3f}")


def measure(options: argparse.Namespace) -> None:
    """Both skills on squad_eval.json, against the bare base on the same prompts."""
    import torch

    from _common import base_name, commit
    from imprint import base as bases
    from imprint.engine import Engine
    from imprint.skills import SKILLS, SkilledWriter
    from imprint.writers.local import LocalWriter

    if options.threads:
        torch.set_num_threads(options.threads)
    base = bases.load(options.base)
    asked = questions(passages(options.data, "squad_eval.json"), options.n)
    engine = Engine(base)
    bare, skilled = (SkilledWriter(engine, LocalWriter(base), without) for without in (SKILLS, ()))
    result: dict[str, Any] = {
        "base": base_name(base), "commit": commit(), "command": " ".join(["python", *sys.argv]), "seed": SEED,
        "n": len(asked), "read": {}, "ask": {},
    }  # fmt: skip
    for name, writer in (("before", bare), ("after", skilled)):
        result["read"][name] = reading(writer, asked)
        print(f"read, {name}: {told(result['read'][name])}", flush=True)
    written = {"before": bare, "after": skilled, "people": None}
    for name, writer in written.items():
        result["ask"][name] = asking(writer, skilled, asked)
        print(f"ask, {name}: {told(result['ask'][name])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")


def questions(found: Sequence[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """A fixed sample of questions with their text, and a question about another passage of the same article."""
    draw = random.Random(SEED)
    chosen = draw.sample([(p, q) for p in found for q in p["questions"]], n)
    asked = []
    for passage, question in chosen:
        others = [p for p in found if p["title"] == passage["title"] and p is not passage]
        text = normalised(passage["context"])
        strange = [q for p in others for q in p["questions"] if normalised(q["answer"]) not in text]
        answers = [q["answer"] for q in passage["all"] if q["question"].strip() == question["question"].strip()]
        asked.append(
            {
                "text": passage["context"],
                "question": question["question"].strip(),
                "answers": list(dict.fromkeys(answers)),
                "strange": draw.choice(strange)["question"].strip(),
            }
        )
    return asked


def reading(writer: Any, asked: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Exact match, F1 and containment of answers with the text open; and how questions of other texts fare."""
    from imprint.evaluation.closed_book import Question, abstains, grade

    texts = writer.write([skills.read(a["text"], a["question"]) for a in asked], seed=0)
    put = [Question(a["question"], tuple(a["answers"])) for a in asked]
    graded = [grade(question, t.text) for question, t in zip(put, texts, strict=True)]
    strange = writer.write([skills.read(a["text"], a["strange"]) for a in asked], seed=0)
    return scores({
        "exact": [g.exact for g in graded],
        "f1": [g.f1 for g in graded],
        "contains": [g.contains for g in graded],
        "wrongly_abstained": [float(abstains(t.text)) for t in texts],
        "rightly_abstained": [float(abstains(t.text)) for t in strange],
    })  # fmt: skip


def asking(writer: Any | None, reader: Any, asked: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Share of questions whose answer comes back when the text is read again; those of people for comparison."""
    from imprint.evaluation.closed_book import Question, grade

    if writer is None:
        found = [a["question"] for a in asked]
    else:
        texts = writer.write([skills.ask(a["text"], a["answers"][0]) for a in asked], seed=0)
        found = [t.text.strip() for t in texts]
    read = reader.write([skills.read(a["text"], q) for a, q in zip(asked, found, strict=True)], seed=0)
    graded = [grade(Question(q, (a["answers"][0],)), t.text) for a, q, t in zip(asked, found, read, strict=True)]
    open_answer = [float(a["answers"][0].lower() in q.lower()) for a, q in zip(asked, found, strict=True)]
    back = [float((g.f1 >= 0.5 or g.contains) and not o) for g, o in zip(graded, open_answer, strict=True)]
    return scores({"round_trip": back, "gives_its_answer_away": open_answer}) | {"samples": found[:20]}


def scores(values: dict[str, list[float]]) -> dict[str, Any]:
    from imprint.evaluation.closed_book import interval

    made = {key: interval(v, seed=SEED) for key, v in values.items()}
    return {key: {"score": s.value, "low": s.low, "high": s.high, "n": s.n} for key, s in made.items()}


def told(found: dict[str, Any]) -> str:
    figures = {k: v for k, v in found.items() if k != "samples"}
    return ", ".join(f"{k} {v['score']:.1%} [{v['low']:.1%}, {v['high']:.1%}]" for k, v in figures.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    training = kinds.add_parser("train", help="train one skill")
    training.add_argument("skill", choices=sorted(EXAMPLES))
    training.add_argument("--epochs", type=float, default=1.0)
    training.add_argument("--work", type=Path, default=Path("skills-work"), help="where checkpoints go")
    training.add_argument("--out", type=Path, help="where the adapter goes, if not into the package")
    training.add_argument("--limit", type=int, help="use only so many rows")
    measuring = kinds.add_parser("measure", help="measure both skills on squad_eval.json")
    measuring.add_argument("--n", type=int, default=400, help="questions")
    measuring.add_argument("--json", type=Path)
    for each in (training, measuring):
        each.add_argument("--data", type=Path, default=Path("../shared/data"))
        each.add_argument("--base", default=None)
        each.add_argument("--threads", type=int)
    options = parser.parse_args()
    train(options) if options.what == "train" else measure(options)


if __name__ == "__main__":
    main()
