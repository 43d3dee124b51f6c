"""Learn what a reader says: the teacher is the bare base with the passages open, the student has only its adapter.

The teacher reads each row once, after the passages that the row was made from, and its likeliest tokens at each
learnt place are kept on disk beside the rows. Training then goes as ever, with these in place of the tokens. A row
that tells of no passage (replay) is read as it is: there the student is to stay what the base was. See context
distillation (arXiv 2209.15189); only the likeliest tokens of each place are kept, as in Cartridges (2506.06266).

    ids.bin        for each learnt token of all rows, one after another, the teacher's K likeliest: uint16, or
                   int32 where the vocabulary needs it
    logprobs.bin   their natural-log probabilities, float16
    begun.json     what this is made of; anything else begins anew
    done.json      hash of the content, there once all is written"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from imprint.base import Base
from imprint.engine import Engine
from imprint.engine.passes import PassRow, Soft, likeliest
from imprint.errors import BadInput
from imprint.training.batches import Row, each_row, learnt_turns
from imprint.training.row_file import RowFile, mapped
from imprint.types import Example, Passage, content_hash

TOP = 20
"""Likeliest tokens kept of each place."""

_GROUP = 64
"""Rows that are read and written down together. What a row gets depends, in its last digits, on who is in its pass:
groups that never change make a resumed reading the same."""
_PASS_TOKENS = 1024
_PASS_TOKENS_GPU = 16_384

Progress = Callable[[int, int, float], None]
"""Told after each group: rows read, rows in all, tokens a second."""


class TaughtRows(RowFile):
    """Rows on disk, each with what the teacher says to it."""

    def __init__(self, rows: Path, folder: Path) -> None:
        """`rows` as RowFile.write() left it, `folder` as read_by_teacher() did."""
        super().__init__(rows)
        done = json.loads((folder / "done.json").read_text("utf-8"))
        self.teacher_hash: str = done["hash"]
        shape = (-1, int(done["k"]))
        self._ids = mapped(folder / "ids.bin", np.dtype(done["ids"]).type).reshape(shape)
        self._logprobs = mapped(folder / "logprobs.bin", np.float16).reshape(shape)
        self._learnt_ends = np.cumsum(self.learnt())

    def _soft(self, i: int) -> Soft:
        start, end = (int(self._learnt_ends[j]) if j >= 0 else 0 for j in (i - 1, i))
        return Soft(self._ids[start:end], self._logprobs[start:end])

    def __repr__(self) -> str:
        return f"TaughtRows({len(self)} rows, {self.hash}, {self.teacher_hash})"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the teacher reads, and how."""

    examples: Callable[[], Iterable[Example]]
    """Those the rows were made of, in their order."""
    passages: Sequence[Passage]
    """All that the examples tell of."""
    max_tokens: int
    """As the rows were cut."""
    questions: bool
    """Whether the rows learn what is asked, too."""


def read_by_teacher(
    engine: Engine, rows: Path, reading: Reading, folder: Path, *, progress: Progress | None = None
) -> TaughtRows:
    """The rows with the teacher's targets, which are made in `folder` unless they are there already.

    After an interruption the same call goes on with the first group that is not written down. Raises BadInput for
    an example that tells of a passage that is not there."""
    plain = RowFile(rows)
    vocabulary = len(engine.base.model.lm_head.weight)
    dtype, k = np.uint16 if vocabulary <= 1 << 16 else np.int32, min(TOP, vocabulary)
    told = [f"{p.id}\n{opened([p])}" for p in reading.passages]
    made_of = content_hash(plain.hash, engine.base.revision, str(engine.base.device.dtype), str(k), *told)
    done = folder / "done.json"
    if _said(folder / "begun.json") != made_of:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("done.json", "ids.bin", "logprobs.bin"):
            (folder / name).unlink(missing_ok=True)
        _write(folder / "begun.json", {"hash": made_of})
    if not done.exists():
        with open(folder / "ids.bin", "ab") as ids, open(folder / "logprobs.bin", "ab") as logprobs:
            sheets = ((ids, np.dtype(dtype)), (logprobs, np.dtype(np.float16)))
            first = _taken_up(sheets, k, np.cumsum(plain.learnt()))
            for group in _groups(engine, plain, reading, first, k, progress):
                for soft in group:
                    ids.write(soft.ids_LK.astype(dtype).tobytes())
                    logprobs.write(soft.logprobs_LK.astype(np.float16).tobytes())
                for file, _ in sheets:
                    _sync(file)
        _write(done, {"hash": _hash(folder, made_of), "k": k, "ids": np.dtype(dtype).name})
    return TaughtRows(rows, folder)


def opened(passages: Sequence[Passage]) -> str:
    """Passages as the teacher has them before it, each under its title and its heading."""
    return "\n\n".join(f"{p.title}. {p.heading.split(' > ')[-1]}\n{p.text}" for p in passages)


def teacher_row(row: Row, example: Example, base: Base, text: str, *, questions: bool) -> Row:
    """What the teacher reads: the row after the text, with the same tokens to be learnt.

    Where both do not fit the base's window, the text is cut at its front."""
    turns, wanted = learnt_turns(example, questions=questions), sum(row.learn[1:])
    while True:
        ids, learn = base.training_ids(turns, before=text)
        places = [t for t, learnt in enumerate(learn) if learnt]
        # The row's first token is predicted from nothing, though after a text it could be; its end may be cut.
        places = places[row.learn[0] :][:wanted]
        length = places[-1] + 1
        if length <= base.window_tokens or not text:
            break
        text = _without_front(text, length - base.window_tokens, base)
    marked = set(places)
    made = Row(tuple(ids[:length]), tuple(t in marked for t in range(length)))
    assert [made.ids[t] for t in places] == [row.ids[t] for t in range(1, len(row.ids)) if row.learn[t]]
    return made


def _without_front(text: str, tokens: int, base: Base) -> str:
    """The text without its first words, of about so many tokens."""
    kept = 1 - tokens / max(1, base.count_tokens(text))
    characters = int(kept * len(text))
    return text[-characters:].partition(" ")[2] if characters > 0 else ""


def _groups(
    engine: Engine, rows: RowFile, reading: Reading, first: int, k: int, progress: Progress | None
) -> Iterator[list[Soft]]:
    """What the teacher says, group after group, from row `first` on."""
    pairs = itertools.islice(_pairs(reading, engine.base), first, None)
    done, tokens, began = first, 0, time.monotonic()
    while group := list(itertools.islice(pairs, _GROUP)):
        read: list[Row] = []
        for i, (row, example, text) in enumerate(group):
            assert row == rows[done + i], "the rows are not made of these examples"
            read.append(teacher_row(row, example, engine.base, text, questions=reading.questions))
        yield [soft for part in _passes(engine, read) for soft in _told(engine, part, k)]
        done, tokens = done + len(read), tokens + sum(len(row.ids) for row in read)
        if progress:
            progress(done, len(rows), tokens / max(time.monotonic() - began, 1e-9))
    assert done == len(rows), "the examples are not all there"


def _pairs(reading: Reading, base: Base) -> Iterator[tuple[Row, Example, str]]:
    """Each row with the example it was made of, and the text that is open before it."""
    by_id = {p.id: p for p in reading.passages}
    for example in reading.examples():
        missing = [id for id in example.passages if id not in by_id]
        if missing:
            raise BadInput(
                f"An example tells of the passage {missing[0]}, which is not among the documents, so that no "
                "teacher can read it. Distil with the documents that the text was written about, or train with "
                "objective = 'sft'."
            )
        text = opened([by_id[id] for id in example.passages])
        for row in each_row([example], base, max_tokens=reading.max_tokens, questions=reading.questions):
            yield row, example, text


def _passes(engine: Engine, read: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows in their order, as many at once as suits the device."""
    on_gpu = engine.base.device.torch.type == "cuda"
    room = most = _PASS_TOKENS_GPU if on_gpu else _PASS_TOKENS
    part: list[Row] = []
    for row in read:
        if part and len(row.ids) > room:
            yield part
            part, room = [], most
        part.append(row)
        room -= len(row.ids)
    yield part


def _told(engine: Engine, part: Sequence[Row], k: int) -> list[Soft]:
    with engine.base.turns.take():
        return likeliest(engine, [PassRow(None, row.ids, row.learn) for row in part], k)


# --- the files --------------------------------------------------------------------------------


def _taken_up(sheets: Sequence[tuple[BinaryIO, np.dtype]], k: int, learnt_ends: np.ndarray) -> int:
    """The first row that is not written down; what stands after the last whole group is cut off."""
    places = min(file.tell() // (k * dtype.itemsize) for file, dtype in sheets)
    rows = int(np.searchsorted(learnt_ends, places, side="right"))
    if rows < len(learnt_ends):
        rows -= rows % _GROUP
    places = int(learnt_ends[rows - 1]) if rows else 0
    for file, dtype in sheets:
        file.truncate(places * k * dtype.itemsize)
        file.seek(0, os.SEEK_END)
    return rows


def _hash(folder: Path, made_of: str) -> str:
    digest = hashlib.sha256(made_of.encode())
    for name in ("ids.bin", "logprobs.bin"):
        with open(folder / name, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _said(file: Path) -> str | None:
    return json.loads(file.read_text("utf-8"))["hash"] if file.exists() else None


def _write(file: Path, value: Mapping[str, object]) -> None:
    making = file.with_name(file.name + ".making")
    making.write_text(json.dumps(value), "utf-8")
    os.replace(making, file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
