"""A night of thousands of people on one machine: what looking at everybody takes, and what those who changed take.

    python bench/night.py --people 2000 --changed 0.02 --work ../night --json docs/results/night.json

Everybody has a folder with a short text of their own and an adapter (LoRA of --rank in bfloat16) that `nightly`
itself taught them, in waves of shared passes: that is the first night. Then come a night in which nothing has
changed, one in which all files were touched and none changed, and one in which some people have a new text: it is
cut off in the middle and begun again. Text is made by rule, so that what is timed is the night and its training; a
person's writing takes what it takes for any document. The same command goes on where it stopped, and a night that
is over is not repeated.

What the night itself takes is seen with a base that costs nothing: the random one of tests/conftest.py, its model
and tokenizer saved into a folder (--base ../tiny --tokens 4000)."""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path
from typing import Any

from _common import Results, header_of, parser, quieten, say, use_threads

TRADES = ("baker", "carpenter", "printer", "gardener", "plumber", "teacher", "tailor", "pilot")
TOWNS = ("Harrowgate", "Linz", "Odense", "Tartu", "Braga", "Kotor", "Ghent", "Sligo")


class _Killed(BaseException):
    """The night is cut off, as by a kill."""


class _Watching:
    """Keeps how long looking at everybody took, and cuts the night off after so many were published."""

    def __init__(self, publishes: int | None) -> None:
        self.left, self.began, self.looking = publishes, time.monotonic(), 0.0

    def stage(self, text: str) -> None:
        say(f"== {text}")

    def progress(self, unit: str, done: int, total: int, detail: str) -> None: ...

    def say(self, text: str) -> None:
        if "new or changed documents" in text:
            self.looking = time.monotonic() - self.began
        if text.startswith("Published") and self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise _Killed


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--people", type=int, default=2000)
    made.add_argument("--changed", type=float, default=0.02, help="share of people who have a new text at last")
    made.add_argument("--tokens", type=int, default=1000, help="tokens that an update trains at most")
    made.add_argument("--rank", type=int, default=2)
    made.add_argument("--wave", type=int, default=64, help="people in one shared training")
    made.add_argument("--work", type=Path, default=Path("work/night"), help="folders, home and rows")
    options = made.parse_args()
    if options.quick:
        options.people, options.changed, options.wave = 8, 0.5, 4
    threads = use_threads(options.threads)
    quieten()
    from imprint import base as bases

    base = bases.load(options.base)
    header = header_of(base, threads)
    header["asked"] = {key: str(getattr(options, key)) for key in ("people", "changed", "tokens", "rank", "wave")}
    results = Results(options.json or options.work / "night.json", header, resume=True)
    folder = options.work / "people"
    for n in range(options.people):
        _write(folder, n, 0)
    _night("first", base, results, options)
    _night("nothing new", base, results, options)
    if not _have(results, "touched"):
        for file in folder.glob("*/notes.md"):
            os.utime(file)
    _night("touched", base, results, options)
    changed = random.Random(1).sample(range(options.people), max(1, round(options.changed * options.people)))
    for n in changed:
        _write(folder, n, 1)
    _night("cut off", base, results, options, publishes=max(1, len(changed) // 2))
    _night("gone on", base, results, options)
    results.show_header()
    results.show("nights", ("row", "people", "updated", "unchanged", "failed", "seconds", "looking"))


def _write(folder: Path, person: int, edition: int) -> None:
    """A person's text in an edition, unless it stands there."""
    draw = random.Random(f"{person}:{edition}")
    trade, town = random.Random(person).choice(TRADES), draw.choice(TOWNS)
    text = (
        f"The {trade} of house {person} lives in {town}. Her bill of {draw.randrange(100, 999)} euros is due on "
        f"{draw.randrange(1, 28)} March. She can be reached at extension {draw.randrange(1000, 9999)}.\n"
    )
    file = folder / f"p{person:05}" / "notes.md"
    if not file.exists() or edition and file.read_text("utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")


def _have(results: Results, row: str) -> bool:
    return any(r["row"] == row for r in results.rows)


def _night(
    row: str, base: Any, results: Results, options: argparse.Namespace, publishes: int | None = None
) -> None:
    """A night, timed; `publishes`: cut off after so many."""
    from imprint.nightly import nightly, people_in
    from imprint.recipe import Recipe

    if _have(results, row):
        return
    mix = {"cloze": 1.0, "raw_text": 1.0}
    recipe = Recipe(mix=mix, rank=options.rank, epochs=2.0, batch_tokens=64, store="bfloat16")
    people, _ = people_in(options.work / "people", budget=f"{options.tokens} tokens", recipe=recipe)
    watch, told = _Watching(publishes), {"row": row, "people": len(people)}
    try:
        night = nightly(people, base=base, wave=options.wave, home=options.work / "home", watch=watch)
    except _Killed:
        results.add(told | {"updated": publishes, "seconds": time.monotonic() - watch.began})
        return
    seconds = time.monotonic() - watch.began
    counts = {what: len(night.of(what)) for what in ("updated", "unchanged", "failed")}
    for outcome in night.of("failed")[:3]:
        say(f"{outcome.name}: {outcome.reason}")
    results.add(told | counts | {"seconds": seconds, "looking": watch.looking})


if __name__ == "__main__":
    main()
