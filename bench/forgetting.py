"""What is left of a document after it was forgotten, and what is withheld until then.

    python bench/forgetting.py --home ../year/shards/home --work ../forgetting --json forgetting.json

A home that bench/year.py made is copied, and in the copy each document is forgotten, one after another. Before its
adapter is trained anew, the year's questions are put to the version with only the tombstone there: `withheld` is
the share of answers to questions about the document that are withheld, `wrongly_withheld` that of the others. Then
it is forgotten for good: `report` sets what the new version still knows (probe questions, likelihood, words in a
row, its numbers as canaries) beside a control that never saw it, and beside the version that did. `left` counts
files in which some of its words still stand."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _common import Results, header_of, parser, quieten, say, use_threads
from _year import LAST_MONTH, facts
from learning import Lines


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--home", type=Path, required=True, help="made by bench/year.py")
    made.add_argument("--documents", default="contoso/reviews.md,ty/rules.md,facts/register.md")
    made.add_argument("--work", type=Path, default=Path("forgetting"), help="where the copy is made")
    made.add_argument("--seed", type=int, default=0)
    options = made.parse_args()
    threads = use_threads(options.threads)
    quieten()
    from imprint import base as bases

    base = bases.load(options.base)
    home = options.work / "home"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(options.home, home)
    results = Results(options.json, header_of(base, threads))
    for document in options.documents.split(",")[: 1 if options.quick else None]:
        row = forgotten(document, home, base, options.seed)
        results.add(row)
        say(", ".join(f"{k} {v:.3g}" for k, v in row.items() if isinstance(v, float)))
    results.show("forgotten", ["document", "withheld", "wrongly_withheld", "seconds", "left"])


def forgotten(document: str, home: Path, base: Any, seed: int) -> dict[str, Any]:
    """One document: withheld, then forgotten."""
    import imprint
    from imprint.continual.tombstones import WITHHELD
    from imprint.evaluation.closed_book import interval
    from imprint.registry.records import report_record
    from imprint.types import Prompt

    imprint.forget("year", document=document, later=True, home=home, base=base)
    taught = imprint.open("year", home=home)
    taught.base = base
    told = [f for f in facts() if f.answers(LAST_MONTH)]
    texts = taught.write([Prompt.ask(f.wordings[0], max_tokens=32) for f in told], seed=seed)
    marks = {True: [], False: []}
    for fact, text in zip(told, texts, strict=True):
        marks[fact.document == document].append(float(text.text == WITHHELD))
    done = imprint.forget("year", home=home, base=base, seed=seed, watch=Lines())
    assert done.erased is not None and done.report is not None
    shares = {True: "withheld", False: "wrongly_withheld"}
    found: dict[str, Any] = {"document": document}
    for mine, name in shares.items():
        score = interval(marks[mine], seed=0)
        found |= {name: score.value, f"{name}_interval": asdict(score)}
    return found | {
        "seconds": done.seconds,
        "destroyed": len(done.destroyed),
        "erased": {k: v for k, v in done.erased.as_json().items() if k != "left"},
        "left": len(done.erased.left),
        "report": report_record(done.report),
    }


if __name__ == "__main__":
    main()
