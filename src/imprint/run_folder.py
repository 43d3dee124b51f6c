"""Where a run keeps what it has made, so that a killed one loses nothing.

    plan.json        what was decided at the first start; never changed after
    examples.jsonl   the training text, there once it is complete
    held_out.json    the questions kept out of it
    checkpoint/      the adapter half trained
    adapter/         the adapter as it will be published
    done.json        the version it became"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imprint.evaluation.closed_book import Question
from imprint.types import Example, Turn


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run."""

    path: Path

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

    def read_examples(self) -> list[Example] | None:
        """The training text, if it is complete."""
        file = self.path / "examples.jsonl"
        if not file.exists():
            return None
        with open(file, encoding="utf-8") as lines:
            return [_example(json.loads(line)) for line in lines]

    def write_examples(self, examples: Iterable[Example]) -> None:
        """Streams the training text to disk and names it when it is complete."""
        lines = (json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in examples)
        write_whole(self.path / "examples.jsonl", lines)

    def read_questions(self) -> tuple[list[Question], str] | None:
        """The held-out questions, and who asked them."""
        record = self.read("held_out")
        return None if record is None else (questions_from_json(record["questions"]), record["from"])

    def write_questions(self, questions: Sequence[Question], source: str) -> None:
        self.write("held_out", {"from": source, "questions": [asdict(q) for q in questions]})


def questions_from_json(records: Iterable[dict[str, Any]]) -> list[Question]:
    """Questions as they were kept."""
    return [Question(r["text"], tuple(r["answers"]), r["kind"]) for r in records]


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


def _example(record: dict[str, Any]) -> Example:
    turns = tuple(Turn(**turn) for turn in record.pop("turns"))
    return Example(turns=turns, passages=tuple(record.pop("passages")), **record)
