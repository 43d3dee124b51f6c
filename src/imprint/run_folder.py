"""Where a run keeps what it has made, so that a killed one loses nothing.

    plan.json        what was decided at the first start; never changed after
    revised.json     the plan once the first round of writing had shown what text costs
    began.json       the day on which it began
    settled.json     the plan of the training, once the text was there
    seconds.json     how long writing and training took so far, in how many calls
    looked_over.json what should be seen in the documents before training
    spent.json       what the writer and the judge cost so far
    draft.jsonl      all that was written, while questions are held out of it
    examples.jsonl   the training text, there once it is complete
    rows/            the same in tokens
    teacher/         what the base says to them with the passages open, where that is learnt
    audit.json       what was kept and dropped, and what is covered
    held_out.json    the questions kept out of it
    canaries.json    the secret lines put among it, where some were asked for
    checkpoint/      the adapter half trained
    adapter/         the adapter as it will be published; gone once it is
    done.json        the version it became
    lock             held by the process that is at it"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imprint import locks
from imprint.errors import BadInput
from imprint.evaluation.closed_book import Question
from imprint.types import Example, Turn


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run."""

    path: Path
    _holds: list[locks.Hold] = field(default_factory=list, init=False, compare=False, repr=False)

    def claim(self) -> None:
        """Keeps other processes out for as long as this object is there, or until it is published. Raises BadInput
        where another one is at it: they would write into each other's files."""
        hold = locks.hold(self.path / "lock")
        if hold is None:
            raise BadInput(
                "Another process is at the same work: the same documents with the same settings. Wait for its end; "
                "the same command then finds what it made."
            )
        self._holds.append(hold)

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def read(self, name: str) -> Any | None:
        """What was written under this name; None before that."""
        file = self.path / f"{name}.json"
        return json.loads(file.read_text("utf-8")) if file.exists() else None

    def write(self, name: str, value: Any) -> None:
        """Keeps JSON values under a name: whole, or not at all."""
        write_whole(self.path / f"{name}.json", json.dumps(value, indent=1, ensure_ascii=False))

    def write_draft(self, examples: Iterable[Example]) -> int:
        """Streams all that was written, before some of it is held out; returns how many examples."""
        return _write_examples(self.path / "draft.jsonl", examples)

    def draft(self) -> Iterator[Example]:
        """What write_draft() kept, one by one."""
        return _read_examples(self.path / "draft.jsonl")

    def drop_draft(self) -> None:
        (self.path / "draft.jsonl").unlink(missing_ok=True)

    def drop_trained(self) -> None:
        """Takes the checkpoint and the adapter away, which the registry has by now."""
        for left in (self.checkpoint, self.adapter):
            shutil.rmtree(left, ignore_errors=True)
        self._holds.clear()

    def write_examples(self, examples: Iterable[Example]) -> int:
        """Streams the training text to disk and names it when it is complete; returns how many examples."""
        return _write_examples(self.path / "examples.jsonl", examples)

    def examples(self) -> Iterator[Example]:
        """The training text, one by one; nothing before it is complete."""
        file = self.path / "examples.jsonl"
        return _read_examples(file) if file.exists() else iter(())

    @property
    def has_examples(self) -> bool:
        """Whether the training text is complete."""
        return (self.path / "examples.jsonl").exists()

    def read_questions(self) -> tuple[list[Question], str] | None:
        """The held-out questions, and who asked them."""
        record = self.read("held_out")
        return None if record is None else (questions_from_json(record["questions"]), record["from"])

    def write_questions(self, questions: Sequence[Question], source: str) -> None:
        self.write("held_out", {"from": source, "questions": [asdict(q) for q in questions]})


class Stopwatch:
    """Seconds that a run has spent on one of its stages, in all calls together.

    A kill loses what passed since the last tick that was kept."""

    def __init__(
        self, run: RunFolder, stage: str, *, clock: Callable[[], float] = time.monotonic, every_s: float = 5.0
    ) -> None:
        self._run, self._stage, self._clock, self._every_s = run, stage, clock, every_s
        kept = self._all().get(stage, {"seconds": 0.0, "calls": 0})
        self._before = float(kept["seconds"])
        self.calls = int(kept["calls"]) + 1
        """Counting this one."""
        self._began = self._kept = clock()

    @property
    def seconds(self) -> float:
        return self._before + self._clock() - self._began

    def tick(self) -> None:
        """Keeps the time now and then."""
        if self._clock() - self._kept >= self._every_s:
            self.keep()

    def keep(self) -> None:
        self._kept = self._clock()
        row = {"seconds": self.seconds, "calls": self.calls}
        self._run.write("seconds", self._all() | {self._stage: row})

    def _all(self) -> dict[str, Any]:
        return self._run.read("seconds") or {}


def questions_from_json(records: Iterable[dict[str, Any]]) -> list[Question]:
    """Questions as they were kept."""
    return [
        Question(r["text"], tuple(r["answers"]), r["kind"], tuple(r.get("wrong", ())), r.get("as_of"))
        for r in records
    ]


def write_whole(file: Path, text: str | Iterable[str]) -> None:
    """Writes a file beside its place, syncs it and renames it: whole, or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=file.parent, prefix=f".{file.name}-", delete=False
    ) as out:
        try:
            out.writelines([text] if isinstance(text, str) else text)
            out.flush()
            os.fsync(out.fileno())
        except BaseException:
            os.unlink(out.name)
            raise
    os.replace(out.name, file)


def _write_examples(file: Path, examples: Iterable[Example]) -> int:
    for left in file.parent.glob(f".{file.name}-*"):  # of runs that were killed
        left.unlink(missing_ok=True)
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        for example in examples:
            count += 1
            yield json.dumps(asdict(example), ensure_ascii=False) + "\n"

    write_whole(file, lines())
    return count


def _read_examples(file: Path) -> Iterator[Example]:
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            yield _example(json.loads(line))


def _example(record: dict[str, Any]) -> Example:
    turns = tuple(Turn(**turn) for turn in record.pop("turns"))
    return Example(turns=turns, passages=tuple(record.pop("passages")), **record)
