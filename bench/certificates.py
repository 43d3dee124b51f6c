"""Certificates of six sets: what the weights know of each, beside everything that reads, and both joined.

    python bench/certificates.py --out ./certificates --json certificates.json
    python bench/certificates.py --sets demo,contoso --budget 10min --out ./certificates
    python bench/certificates.py --text-tokens 60000 --epochs 5 --out ./certificates    (amounts, not minutes)

demo        the handbook of the README, its questions
contoso     the compact texts of an invented company; bench/questions/contoso.jsonl (two health plans are twins)
squad       20 passages of squad_eval.json and the questions that people wrote about them
fictional   8 invented passages; their probes, as sentences to be completed
hotpotqa    the 200 passages that 100 two-hop questions need, and those questions
filing      3M's 10-K for 2018, Items 1 and 2 to 6 (8,500 tokens); bench/questions/filing.jsonl (years are twins)

Each is taught anew, then certified in full (general_gauntlet and blimp as suites, wikitext2 as general text); its
page and JSON are written to --out. A row holds each system's share of right answers with its interval, and for
both joiners (weights + RAG, weights + full context) the paired difference to the better of their two sides. A row
is written as it ends and not made again; with --work a run that was killed goes on where it stopped."""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _common import Results, header_of, parser, quieten, say, use_threads
from learning import Lines, material

HERE = Path(__file__).parent
SUITES = ("general_gauntlet", "blimp")
JOINERS = {"weights_rag": "rag", "weights_full_context": "full_context"}
SYSTEMS = (
    "untouched", "weights", "full_context", "full_context_read", "rag", "rag_read", "worn_full_context", "worn_rag",
    "weights_full_context", "weights_rag", "agentic",
)  # fmt: skip


# --- the sets ---------------------------------------------------------------------------------


def demo(data: Path, folder: Path) -> list[Any]:
    """The README's handbook."""
    from imprint.evaluation.questions import read_questions

    for file in (HERE.parent / "examples" / "handbook").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return read_questions(HERE.parent / "examples" / "questions.jsonl")


def contoso(data: Path, folder: Path) -> list[Any]:
    """The compact texts, with short questions about them."""
    from imprint.evaluation.questions import read_questions

    material("contoso", data, folder)
    return read_questions(HERE / "questions" / "contoso.jsonl")


def fictional(data: Path, folder: Path) -> list[Any]:
    """Probes are beginnings of sentences: everybody is asked to complete them."""
    found = material("fictional", data, folder)
    return [replace(q, text=f"Complete the sentence: {q.text}") for q in found]


def hotpotqa(data: Path, folder: Path) -> list[Any]:
    """A document for each passage that a question needs."""
    from imprint.evaluation.closed_book import Question

    questions = json.loads((data / "hotpotqa" / "questions_100.json").read_text("utf-8"))
    corpus = json.loads((data / "hotpotqa" / "corpus.json").read_text("utf-8"))
    needed = dict.fromkeys(title for q in questions for title, _ in q["supporting_facts"])
    for i, title in enumerate(needed):
        (folder / f"{i:03}.md").write_text(f"# {title}\n\n{''.join(corpus[title])}\n", "utf-8")
    return [Question(q["question"].strip(), (q["answer"],), q["type"]) for q in questions]


def filing(data: Path, folder: Path) -> list[Any]:
    """Items 1 and 2 to 6 of the report, as our reader of PDF files gives them."""
    from imprint import documents
    from imprint.evaluation.questions import read_questions

    (read,) = documents.load(data / "filings" / "3M_2018_10K.pdf").documents
    # Where an Item begins: the word stands in running text too, and Item 1's heading has a full stop and a name.
    names = ("1. Bus", "1A. R", "2. Prop", "7. Man")
    at = {name: re.search(rf"Item {re.escape(name)}", read.text) for name in names}
    if missing := [name for name, found in at.items() if not found]:
        raise SystemExit(f"The 10-K holds no Item {missing[0]!r} as it is read now.")
    begin = {name: found.start() for name, found in at.items() if found}
    parts = (read.text[begin["1. Bus"] : begin["1A. R"]], read.text[begin["2. Prop"] : begin["7. Man"]])
    text = "\n\n".join(["# 3M Company: Form 10-K for 2018", *parts])
    (folder / "3M 10-K 2018.md").write_text(text, "utf-8")
    return read_questions(HERE / "questions" / "filing.jsonl")


SETS: dict[str, Callable[[Path, Path], list[Any]]] = {
    "demo": demo,
    "contoso": contoso,
    "squad": lambda data, folder: material("squad", data, folder),
    "fictional": fictional,
    "hotpotqa": hotpotqa,
    "filing": filing,
}


# --- a row ------------------------------------------------------------------------------------


def certified(name: str, base: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Teaches one set and certifies it; its row."""
    import imprint
    from imprint.interfaces import certificate_page
    from imprint.recipe import Recipe

    folder = options.work / name / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    questions = SETS[name](options.data, folder)
    home = options.work / name / "home"
    recipe = Recipe(text_tokens=options.text_tokens, epochs=options.epochs, batch_tokens=options.batch_tokens)
    taught = imprint.teach(
        folder,
        name=name,
        base=base,
        # Where amounts are said, no passage is to be left out for the usual ten minutes.
        budget=options.budget or ("24h" if options.text_tokens and options.epochs else None),
        recipe=recipe,
        questions=questions,
        seed=options.seed,
        home=home,
        watch=Lines(),
    )
    examined = imprint.Examined(
        systems=options.systems.split(",") if options.systems else None,
        parts=options.parts.split(",") if options.parts else None,
        suites=[options.data / suite for suite in SUITES] if not options.quick else [],
        texts=[options.data / "wikitext2" / "valid_300kB.txt"] if not options.quick else [],
        seed=options.seed,
    )
    began = time.monotonic()
    made = taught.certify(questions, examined, watch=Lines())
    seconds = time.monotonic() - began
    for file in certificate_page.write(made, options.out):
        say(f"written: {file}")
    return row_of(name, made, taught.version.details, seconds, options.seed)


def row_of(name: str, made: Any, details: Mapping[str, Any], seconds: float, seed: int) -> dict[str, Any]:
    """What is told of a certificate in a table."""
    actual = details["plan_and_actual"]["actual"]
    return {
        "row": name,
        "n": made.n,
        "text_tokens": actual["text_tokens"],
        "tokens": actual["tokens"],
        "certifying_seconds": round(seconds, 1),
        "systems": {
            key: s.right
            | {"f1": s.f1, "twins": s.twins, "abstained": s.abstained, "seconds": s.seconds_per_answer}
            for key, s in made.systems.items()
        },
        "joined": {key: beside_the_better(made.systems, key, seed) for key in JOINERS if key in made.systems},
        "differences": made.differences,
        "forgotten": made.parts.get("forgotten"),
        "context_rot": made.parts.get("context_rot"),
        "leaks": made.parts.get("leaks"),
        "notes": list(made.notes),
    }


def beside_the_better(systems: Mapping[str, Any], joiner: str, seed: int) -> dict[str, Any]:
    """What a joiner gains or loses against the better of its two sides, question by question.

    The reader is the one that it joins: with the skill `read` where that was asked."""
    from dataclasses import asdict

    from imprint.evaluation.differences import difference

    plain = JOINERS[joiner]
    reader = f"{plain}_read" if f"{plain}_read" in systems else plain
    sides = {key: systems[key].right["value"] for key in ("weights", reader)}
    better = max(sides, key=lambda key: sides[key])
    graded = [[a["contains"] for a in systems[key].answers if a["right"]] for key in (joiner, better)]
    return {"sides": sides, "better": better, **asdict(difference(*graded, seed=seed))}


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table: shares in per cent."""
    cells = {key: f"{100 * row['systems'][key]['value']:.1f}" for key in SYSTEMS if key in row["systems"]}
    for key, told in row["joined"].items():
        cells[f"{key}-better"] = f"{100 * told['value']:+.1f} [{100 * told['low']:.1f}, {100 * told['high']:.1f}]"
    return {"row": row["row"], "n": row["n"], **cells}


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("--sets", default=",".join(SETS), help=f"of {', '.join(SETS)}")
    made.add_argument("--budget", help="of teaching each set; 10min if not said")
    made.add_argument("--text-tokens", type=int, help="training text of each set, in place of what the budget buys")
    made.add_argument("--epochs", type=float, help="how often it is met, in place of what the budget buys")
    made.add_argument("--batch-tokens", type=int, default=256)
    made.add_argument("--systems", help="ask only these, separated by commas")
    made.add_argument("--parts", help="measure only these parts, separated by commas")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--data", type=Path, default=Path("../shared/data"))
    made.add_argument("--work", type=Path, help="where runs are kept for a later call")
    made.add_argument("--out", type=Path, required=True, help="where pages and JSON files are written")
    options = made.parse_args(words)
    if options.quick:
        options.sets, options.budget, options.parts = "demo", "20s", "forgotten,coverage"
        options.systems = "untouched,weights,rag,rag_read,weights_rag"
    if unknown := [name for name in options.sets.split(",") if name not in SETS]:
        raise SystemExit(f"No set {unknown[0]!r}. There are: {', '.join(SETS)}.")
    if not options.data.is_dir() and options.sets != "demo":
        raise SystemExit(f"There is no data folder at {options.data}; name it with --data.")
    options.work = options.work or Path(tempfile.mkdtemp(prefix="imprint-certificates-"))
    return options


def main() -> None:
    options = options_of()
    threads = use_threads(options.threads)
    quieten()
    from imprint import base as bases

    base = bases.load(options.base)
    results = Results(options.json, header_of(base, threads), resume=True)
    there = {row["row"] for row in results.rows}
    for name in [n for n in options.sets.split(",") if n not in there]:
        say(f"=== {name}")
        results.add(certified(name, base, options))
    lines = [shown(row) for row in results.rows]
    results.show("right, per cent", list(dict.fromkeys(key for line in lines for key in line)), lines)
    results.show_header()


if __name__ == "__main__":
    main()
