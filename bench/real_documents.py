"""Real documents, held-out questions that people wrote: weights against the untouched base, raw text, RAG
and full context, on fixed seeded subsets.

    python bench/real_documents.py squad --data ../shared/data --budget 8min --json squad.json

Sets: squad (20 passages of squad_eval.json), contoso (compact/, 30 questions), fictional (8 invented passages,
probes at three depths). Questions are kept out of the training text with everything too like them."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from imprint.evaluation.closed_book import Question

SEED = 17


def squad(data: Path, folder: Path) -> list[Question]:
    """20 passages in documents by article, and all questions about them."""
    passages = json.loads((data / "squad" / "squad_eval.json").read_text("utf-8"))
    chosen = random.Random(SEED).sample(passages, 20)
    texts: dict[str, list[str]] = {}
    questions = []
    for passage in chosen:
        texts.setdefault(passage["title"], []).append(passage["context"])
        met: dict[str, list[str]] = {}
        for q in passage["questions"]:
            met.setdefault(q["question"].strip(), []).append(q["answer"])
        questions += [Question(q, tuple(dict.fromkeys(a)), "squad") for q, a in met.items()]
    for title, parts in texts.items():
        (folder / f"{title.replace('/', '-')}.md").write_text(f"# {title}\n\n" + "\n\n".join(parts), "utf-8")
    return questions


def contoso(data: Path, folder: Path) -> list[Question]:
    """The compact texts and their 30 questions; answers are sentences, so that F1 is the figure to read."""
    for file in sorted((data / "contoso" / "compact").glob("*.txt")):
        (folder / file.name).write_text(file.read_text("utf-8"), "utf-8")
    lines = (data / "contoso" / "compact" / "qa.jsonl").read_text("utf-8").splitlines()
    return [Question(q["question"], (q["answer"],), "contoso") for q in map(json.loads, lines)]


def fictional(data: Path, folder: Path) -> list[Question]:
    """8 invented passages; a probe is the beginning of a sentence, its answer what must follow."""
    passages = json.loads((data / "fictional_knowledge" / "fictional_40.json").read_text("utf-8"))
    questions = []
    for i in sorted(random.Random(SEED).sample(range(len(passages)), 8)):
        passage = passages[i]
        (folder / f"passage {i}.txt").write_text(passage["train_context"], "utf-8")
        for depth, key in (("verbatim", "mem"), ("paraphrased", "gen"), ("compositional", "hard_gen")):
            pairs = zip(passage[f"{key}_input"], passage[f"{key}_target"], strict=True)
            questions += [Question(q.strip(), (a.strip(),), depth) for q, a in pairs]
    return questions


SETS = {"squad": squad, "contoso": contoso, "fictional": fictional}


class Lines:
    """A watch that prints a line now and then."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()

    def stage(self, text: str) -> None:
        self.say(f"== {text}")

    def progress(self, unit: str, done: int, total: int, detail: str) -> None:
        if done == total or time.monotonic() - self.last > 20:
            self.last = time.monotonic()
            self.say(f"{done}/{total} {unit} {detail}")

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--budget", default="8min")
    parser.add_argument("--base", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-raw-text", action="store_true", help="leave out the raw-text rival")
    parser.add_argument("--json", type=Path, help="where to write the proof")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"There is no data folder at {options.data}; name it with --data. Nothing was measured.")
        return
    import imprint

    # Read at the start: the tree may move on while this runs.
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    watch = Lines()
    with tempfile.TemporaryDirectory() as folder:
        questions = SETS[options.set](options.data, Path(folder))
        taught = imprint.teach(
            folder,
            name=f"bench-{options.set}",
            base=options.base,
            budget=options.budget,
            seed=options.seed,
            questions=questions,
            watch=watch,
        )
        proof = taught.prove(questions, raw_text=not options.no_raw_text, seed=options.seed, watch=watch)
    print(proof)
    if options.json:
        command = " ".join(["python", *sys.argv])
        lineage = {"commit": commit.strip(), "command": command, "details": dict(taught.version.details)}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(lineage | proof.as_json(), indent=1, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main()
