"""How often a fact must appear in training, in how many wordings, before the weights hold it.

    python bench/frequency.py --json frequency.json
    python bench/frequency.py --facts 100 --seeds 3 --times 1,4,16,64 --wordings 1,8

Invented people have desk numbers that nobody can guess (three digits). In each cell so many of these facts are
met f times each, in w of eight wordings (four questions with their answer, four sentences; which w rotates from
fact to fact, so that no cell hangs on one wording). All cells train for about as many tokens: what is left is
filled up with things told once about other people. One pass over all rows, so that f is exactly how often a
fact is met. Then each number is asked for closed book, in a wording that is never trained.

right: share of the facts whose answer contains the number, with a 95 % bootstrap interval over facts. bits:
mean code length of the number in that wording, a finer measure (drawn evenly it has 9.8). On a GPU all cells are
trained in shared passes. A row is written as it ends, and a training that was killed goes on from its checkpoint:
the same command takes it up (with --work)."""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import Results, header_of, parser, quieten, say, use_threads
from learning import Lines

WORDINGS = (
    ("What is the desk number of {name}?", "{value}"),
    ("", "{name} works at desk {value}."),
    ("Which desk belongs to {name}?", "Desk {value}"),
    ("", "Desk {value} is the one that {name} has."),
    ("Tell me the number on the desk of {name}.", "{value}"),
    ("", "You find {name} at desk number {value}."),
    ("{name} has a desk. Its number?", "It is {value}."),
    ("", "The number on the desk of {name} is {value}."),
)
ASKED = "At which desk does {name} sit?"
"""The wording that is never trained."""
FILLER = (
    ("When did {name} join?", "In {year}."),
    ("", "{name} joined in {year} and likes {thing}."),
    ("What does {name} like?", "{thing}"),
    ("", "In {year} {name} first brought {thing} to lunch."),
)
_THINGS = "plums chess rowing maps jazz figs kites tea opera stamps pears radios ferns trains masks drums".split()
_SYLLABLES = "bar cor dell fen gar hol jin kar lom mar nev orr pell quin ras sol tam ul ven wick yor zan".split()
TIMES, MOST_WORDINGS = "1,2,4,8,16,32,64", "1,2,4,8"


@dataclass(frozen=True)
class Cell:
    """Facts that are met so often, in so many wordings."""

    times: int
    wordings: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.times} times, {self.wordings} wordings, seed {self.seed}"


def people(count: int, seed: int, what: str) -> list[str]:
    """Different invented names."""
    draw = random.Random(f"{what}:{seed}")
    found: dict[str, None] = {}
    while len(found) < count:
        first, last = ("".join(draw.choices(_SYLLABLES, k=2)).title() for _ in range(2))
        found[f"{first} {last}"] = None
    return list(found)


def facts_of(count: int, seed: int) -> list[tuple[str, str]]:
    """Names with their desk numbers, all different while there are enough."""
    draw = random.Random(f"desks:{seed}")
    numbers = [str(n) for n in range(100, 1000)]
    values = draw.sample(numbers, count) if count <= len(numbers) else draw.choices(numbers, k=count)
    return list(zip(people(count, seed, "facts"), values, strict=True))


def told(cell: Cell, facts: Sequence[tuple[str, str]]) -> Iterator[Any]:
    """Each fact as often as the cell says, its wordings in turn."""
    for i, (name, value) in enumerate(facts):
        for time in range(cell.times):
            question, answer = WORDINGS[(i + time % cell.wordings) % len(WORDINGS)]
            yield example(question.format(name=name), answer.format(name=name, value=value), "frequency/fact")


def filler(seed: int, known: set[str]) -> Iterator[Any]:
    """Things told once about others, without end."""
    draw = random.Random(f"filler:{seed}")
    for batch in range(sys.maxsize):
        for name in people(500, seed, f"filler {batch}"):
            if name not in known:
                known.add(name)
                question, answer = draw.choice(FILLER)
                words = {"name": name, "year": draw.randrange(1950, 2020), "thing": draw.choice(_THINGS)}
                yield example(question.format(**words), answer.format(**words), "frequency/filler")


def example(question: str, answer: str, generator: str) -> Any:
    from imprint.types import Example, Turn

    if not question:
        return Example((Turn("text", answer, learn=True),), (), generator)
    return Example((Turn("user", question), Turn("assistant", answer, learn=True)), (), generator)


def cells(options: argparse.Namespace) -> list[Cell]:
    """Nobody can be told once in two wordings: such cells are left out."""
    each = [(f, w) for f in options.times for w in options.wordings if w <= f]
    return [Cell(f, w, seed) for seed in range(options.seeds) for f, w in each]


class Bench:
    """One base, and rows that are made once."""

    def __init__(self, options: argparse.Namespace, threads: int) -> None:
        from imprint import base as bases
        from imprint.engine import Engine

        self.options = options
        self.base = bases.load(options.base)
        self.engine = Engine(self.base)
        header = header_of(self.base, threads)
        header["base"] += f", {options.facts} facts, rank {options.rank}, lr {options.lr:g}"
        self.results = Results(options.json, header, resume=True)

    def rows_of(self, cell: Cell) -> list[Any]:
        """The cell's rows: its facts, and as much filler as makes every cell equally long."""
        from imprint.training.batches import each_row

        facts = facts_of(self.options.facts, cell.seed)
        most = Cell(max(self.options.times), max(self.options.wordings), cell.seed)

        def tokens(examples: Iterator[Any]) -> list[Any]:
            return list(each_row(examples, self.base, max_tokens=256))

        whole = sum(len(row.ids) for row in tokens(told(most, facts)))
        rows = tokens(told(cell, facts))
        length = sum(len(row.ids) for row in rows)
        for more in each_row(filler(cell.seed, {name for name, _ in facts}), self.base, max_tokens=256):
            if length >= whole:
                break
            rows.append(more)
            length += len(more.ids)
        return rows

    def job_of(self, cell: Cell) -> Any:
        """The cell's training: one pass over its rows."""
        from imprint.adapters.low_rank import LoRA
        from imprint.training.sft import Job

        options, rows = self.options, self.rows_of(cell)
        tokens = sum(len(row.ids) for row in rows)
        spec = LoRA(rank=options.rank, alpha=2.0 * options.rank)
        return Job(spec, rows, tokens, options.lr, options.batch_tokens, cell.seed)

    def measured(self, cell: Cell, done: Any) -> dict[str, Any]:
        """Asks for each of the cell's facts; its row."""
        from imprint.evaluation import capacity
        from imprint.evaluation.closed_book import Question, answer_all, interval
        from imprint.evaluation.open_book import closed
        from imprint.writers.local import LocalWriter

        facts = facts_of(self.options.facts, cell.seed)
        asked = [Question(ASKED.format(name=name), (value,)) for name, value in facts]
        keys = [capacity.Fact(q.text, q.answers[0]) for q in asked]
        with self.engine.attached(done.adapter) as seat:
            answered, _ = answer_all(LocalWriter(self.base), asked, closed, seed=cell.seed)
            bits = capacity.code_lengths(self.engine, keys, seat)
        right = interval([a.contains for a in answered], seed=cell.seed)
        code = interval(bits, seed=cell.seed, unit="bits")
        return {
            "row": cell.name,
            "times": cell.times,
            "wordings": cell.wordings,
            "seed": cell.seed,
            "right": right.value,
            "low": right.low,
            "high": right.high,
            "n": right.n,
            "bits": round(code.value, 3),
            "bits_low": round(code.low, 3),
            "bits_high": round(code.high, 3),
            "tokens": done.tokens,
            "steps": done.steps,
            "last_loss": round(done.last_loss, 4),
            "seconds": round(done.seconds, 1),
        }


def folder_of(cell: Cell) -> str:
    """Where its checkpoints lie, and what its training is called."""
    return cell.name.replace(", ", "-").replace(" ", "_")


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--facts", type=int, default=60, help="in each cell")
    made.add_argument("--times", type=numbers, default=numbers(TIMES), help="how often a fact is met")
    made.add_argument("--wordings", type=numbers, default=numbers(MOST_WORDINGS), help="of the eight there are")
    made.add_argument("--seeds", type=int, default=1, help="other names, numbers, orders and starts")
    made.add_argument("--rank", type=int, default=16)
    made.add_argument("--lr", type=float, default=2e-3)
    made.add_argument("--batch-tokens", type=int, default=256)
    made.add_argument("--work", type=Path, help="where checkpoints are kept for a later call")
    options = made.parse_args()
    if options.quick:
        options.facts, options.times, options.wordings = 6, (1, 4), (1, 4)
    if max(options.wordings) > len(WORDINGS) or min(*options.wordings, *options.times, options.facts) < 1:
        raise SystemExit(f"There are {len(WORDINGS)} wordings; times, wordings and facts begin at 1.")
    options.work = options.work or Path(tempfile.mkdtemp(prefix="imprint-frequency-"))
    threads = use_threads(options.threads)
    quieten()
    from imprint.learning_map import each_trained

    bench = Bench(options, threads)
    there = {row["row"] for row in bench.results.rows}
    wanted = {folder_of(cell): cell for cell in cells(options) if cell.name not in there}
    jobs = [(name, bench.job_of(cell)) for name, cell in wanted.items()]
    for name, ended, _ in each_trained(bench.engine, jobs, options.work, Lines()):
        if isinstance(ended, Exception):
            raise ended
        row = bench.measured(wanted[name], ended)
        bench.results.add(row)
        say(f"{row['row']}: {row['right']:.1%} [{row['low']:.1%}, {row['high']:.1%}], {row['bits']:.2f} bits")
    columns = ("times", "wordings", "seed", "right", "low", "high", "n", "bits", "tokens", "seconds")
    bench.results.show(f"facts held; guessing takes {math.log2(900):.1f} bits", columns)
    bench.results.show_header()


if __name__ == "__main__":
    main()
