"""Real documents, held-out questions that people wrote: weights against the untouched base, raw text, RAG
and full context, on fixed seeded subsets.

    python bench/real_documents.py squad --data ../shared/data --budget 8min --json squad.json

The sets are those of learning.py, which compares kinds of training text at equal tokens; this is the product as it
comes, within a budget. Questions are kept out of the training text with everything too like them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from learning import SETS, Lines, material


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
        questions = material(options.set, options.data, Path(folder))
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
