"""kill -9 at random points of publish, teach, update and forget: is the store whole, is nothing published lost?

    python bench/crashes.py --points 250 --json docs/results/crashes.json
    python bench/crashes.py --only publish,teach --quick

The real store code and the real training on a tiny random model. `--points`: of each command. The seed draws the
points: half of them at a call that touches the disk, half by the clock. tests/crash_kit.py is how it is done. Ends
with code 1 where a single point failed."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import _common as bench


def main() -> None:
    parser = bench.parser(__doc__ or "")
    parser.add_argument("--points", type=int, default=250, metavar="N", help="kills of each command")
    parser.add_argument("--only", metavar="A,B", help="these commands; else all")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed draws the same points")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where homes are made and removed; else a tmpfs")
    asked = parser.parse_args()
    threads = bench.use_threads(1)
    bench.quieten()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    import torch

    import crash_kit

    torch.set_num_threads(threads)
    base = crash_kit.roomy_base()
    results = bench.Results(asked.json, bench.header_of(base, threads) | {"seed": asked.seed})
    memory = Path("/dev/shm")
    work = Path(tempfile.mkdtemp(dir=asked.work or (memory if memory.is_dir() else None)))
    try:
        trials = crash_kit.trials(base, work)
        for name in asked.only.split(",") if asked.only else trials:
            bench.say(name)
            points = 10 if asked.quick else asked.points
            outcome = crash_kit.crash(
                trials[name], work, points, seed=asked.seed,
                told=lambda n: bench.say(f"  {n} points") if n % 25 == 0 else None,
            )  # fmt: skip
            results.add(asdict(outcome) | {"points_per_second": round(outcome.points / outcome.seconds, 2)})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    columns = [
        "command",
        "points",
        "killed",
        "whole",
        "nothing_lost",
        "completed",
        "left_over",
        "points_per_second",
    ]
    results.show("kill -9 at random points", columns)
    results.show_header()
    if any(row["failures"] for row in results.rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
