"""Learn what a reader says: the teacher is the bare base with the passages open, the student has only its adapter.

The teacher reads each row once, after the passages that the row was made from, and its likeliest tokens at each
learnt place are kept on disk beside the rows. Training then goes as ever, with these in place of the tokens. A row
that tells of no passage (replay) is read as it is: there the student is to stay what the base was. See context
distillation (arXiv 2209.15189); only the likeliest tokens of each place are kept, as in Cartridges (2506.06266).
A part of the target may stay with the row's own token, the hard label of Hinton et al. (1503.02531): a small reader
goes on saying what it believes where the passage says otherwise.

    order.bin      numbers of the rows in the order in which they were read, int64: those about one text together
    ids.bin        for each learnt token of these rows, one after another, the teacher's K likeliest: uint16, or
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

import numpy as np

from imprint.base import Base
from imprint.engine import Engine
from imprint.engine.passes import Family, PassRow, Soft, likeliest
from imprint.errors import BadInput
from imprint.training.batches import Row, each_row, learnt_turns
from imprint.training.row_file import RowFile, mapped
from imprint.types import Example, Passage, content_hash
from imprint.writers.local import shared_beginnings

_FILES = ("ids.bin", "logprobs.bin", "order.bin")

_TELLS_OF_WHAT_WAS = "corrections/"
"""Kinds of items that tell of what documents said before."""
TOP = 20
"""Likeliest tokens kept of each place."""

_WINDOW = 4096
"""Rows among which those about one text are looked for, so that the text is read once for many of them."""
_PASS_TOKENS, _PASS_TOKENS_GPU = 1024, 16_384

Progress = Callable[[int, int, float], None]
"""Told after each pass: rows read, rows in all, tokens a second."""


class TaughtRows(RowFile):
    """Rows on disk, each with what the teacher says to it."""

    def __init__(self, rows: Path, folder: Path, hard: float = 0.0) -> None:
        """`rows` as RowFile.write() left it, `folder` as read_by_teacher() did. `hard`: the part of each target
        that is the row's own token."""
        super().__init__(rows)
        self.hard = hard
        done = json.loads((folder / "done.json").read_text("utf-8"))
        self.teacher_hash: str = done["hash"]
        shape = (-1, int(done["k"]))
        self._ids = mapped(folder / "ids.bin", np.dtype(done["ids"]).type).reshape(shape)
        self._logprobs = mapped(folder / "logprobs.bin", np.float16).reshape(shape)
        order, learnt = np.fromfile(folder / "order.bin", np.int64), self.learnt()
        ends = np.cumsum(learnt[order])
        self._spans = np.empty((len(order), 2), np.int64)
        self._spans[order] = np.stack([ends - learnt[order], ends], 1)

    def _soft(self, i: int) -> Soft:
        start, end = self._spans[i]
        soft = Soft(self._ids[start:end], self._logprobs[start:end])
        return with_hard_labels(soft, self._learnt_tokens(i), self.hard) if self.hard else soft

    def __repr__(self) -> str:
        hard = f", {self.hard:g} hard" if self.hard else ""
        return f"TaughtRows({len(self)} rows, {self.hash}, {self.teacher_hash}{hard})"


def with_hard_labels(soft: Soft, tokens_L: np.ndarray, hard: float) -> Soft:
    """The teacher's targets times 1 - hard, and `hard` for the text's own token in each place beside them."""
    own_L1 = tokens_L.reshape(-1, 1).astype(np.int64)
    with np.errstate(divide="ignore"):  # nothing of the teacher where all is the text's own
        theirs_LK, own = soft.logprobs_LK.astype(np.float64) + np.log(1 - hard), np.log(hard)
    ids_LK = np.concatenate([soft.ids_LK, own_L1], 1)
    return Soft(ids_LK, np.concatenate([theirs_LK, np.full(own_L1.shape, own)], 1))


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
    engine: Engine,
    rows: Path,
    reading: Reading,
    folder: Path,
    *,
    hard: float = 0.0,
    progress: Progress | None = None,
) -> TaughtRows:
    """The rows with the teacher's targets, which are made in `folder` unless they are there already; `hard` as
    TaughtRows has it.

    After an interruption the same call goes on with the first pass that is not written down. Raises BadInput for
    an example that tells of a passage that is not there."""
    plain, vocabulary = RowFile(rows), len(engine.base.model.lm_head.weight)
    k, dtype = min(TOP, vocabulary), np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.int32)
    told = [f"{p.id}\n{opened([p])}" for p in reading.passages]
    made_of = content_hash(plain.hash, engine.base.revision, str(engine.base.device.dtype), str(k), *told)
    if _said(folder / "begun.json") != made_of:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("done.json", *_FILES):
            (folder / name).unlink(missing_ok=True)
        _write(folder / "begun.json", {"hash": made_of})
    if not (folder / "done.json").exists():
        with _Sheets(folder, k, dtype) as sheets:
            _read(engine, plain, reading, sheets, progress)
        _write(folder / "done.json", {"hash": _hash(folder, made_of), "k": k, "ids": dtype.name})
    return TaughtRows(rows, folder, hard)


def _read(engine: Engine, plain: RowFile, reading: Reading, sheets: _Sheets, progress: Progress | None) -> None:
    """Reads pass after pass, from the first on that is not written down."""
    learnt, written = plain.learnt(), sheets.rows
    rows = places = tokens = 0
    began = time.monotonic()
    for families in _passes(engine.base, plain, reading):
        numbers = np.array([i for family in families for i in family.numbers], np.int64)
        done = rows + len(numbers)
        if done > written:
            sheets.cut(rows, places)
            sheets.add(numbers, _told(engine, families, sheets.k))
            tokens += sum(family.tokens for family in families)
            if progress:
                progress(done, len(plain), tokens / max(time.monotonic() - began, 1e-9))
        rows, places = done, places + int(learnt[numbers].sum())
    assert rows == len(plain), "the examples are not all there"


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


@dataclass(frozen=True, slots=True)
class _Family:
    """Rows of a pass that begin alike, by their numbers."""

    beginning: tuple[int, ...]
    numbers: list[int]
    rows: list[Row]

    @property
    def tokens(self) -> int:
        """That are read, the beginning once."""
        return len(self.beginning) + sum(len(row.ids) - len(self.beginning) for row in self.rows)


def _passes(base: Base, rows: RowFile, reading: Reading) -> Iterator[list[_Family]]:
    """What is read in each pass: always the same, so that a reading that is taken up ends the same."""
    most = _PASS_TOKENS_GPU if base.device.torch.type == "cuda" else _PASS_TOKENS
    pairs = _pairs(reading, base)
    first = 0
    while window := list(itertools.islice(pairs, _WINDOW)):
        read: list[Row] = []
        for i, (row, example, text) in enumerate(window, first):
            assert row == rows[i], "the rows are not made of these examples"
            read.append(teacher_row(row, example, base, text, questions=reading.questions))
        families: list[_Family] = []
        room = most
        for beginning, i in _side_by_side(read):
            tail = len(read[i].ids) - len(beginning)
            if families and tail + len(beginning) * (families[-1].beginning != beginning) > room:
                yield families
                families, room = [], most
            if not families or families[-1].beginning != beginning:
                families.append(_Family(beginning, [], []))
                room -= len(beginning)
            families[-1].numbers.append(first + i)
            families[-1].rows.append(read[i])
            room -= tail
        yield families
        first += len(window)


def _side_by_side(read: Sequence[Row]) -> list[tuple[tuple[int, ...], int]]:
    """The rows by their place, those that begin alike together, each with what it has in common with the others."""
    # The token from which the first learnt one is predicted stays the row's own.
    found = shared_beginnings([row.ids[: row.learn.index(True)] for row in read])
    return sorted((beginning, i) for i, beginning in enumerate(found))


def _pairs(reading: Reading, base: Base) -> Iterator[tuple[Row, Example, str]]:
    """Each row with the example it was made of, and the text that is open before it."""
    by_id = {p.id: p for p in reading.passages}
    for example in reading.examples():
        its_own = example.generator.startswith(_TELLS_OF_WHAT_WAS)
        missing = [] if its_own else [id for id in example.passages if id not in by_id]
        if missing:
            raise BadInput(
                f"An example tells of the passage {missing[0]}, which is not among the documents, so that no "
                "teacher can read it. Distil with the documents that the text was written about, or train with "
                "objective = 'sft'."
            )
        # What held before stands in no passage of today: its reader has the item itself before it.
        said = "\n".join(turn.text for turn in example.turns)
        text = said if its_own else opened([by_id[id] for id in example.passages])
        for row in each_row([example], base, max_tokens=reading.max_tokens, questions=reading.questions):
            yield row, example, text


def _told(engine: Engine, families: Sequence[_Family], k: int) -> list[Soft]:
    with engine.base.turns.take():
        return likeliest(
            engine,
            [Family(f.beginning, tuple(PassRow(None, row.ids, row.learn) for row in f.rows)) for f in families],
            k,
        )


# --- the files --------------------------------------------------------------------------------


class _Sheets:
    """The files that grow pass by pass."""

    def __init__(self, folder: Path, k: int, dtype: np.dtype) -> None:
        self.k, self._dtype = k, dtype
        self._files = [open(folder / name, "ab") for name in _FILES]  # noqa: SIM115 - closed at the end
        self._ids, self._logprobs, self._order = self._files
        self.rows = self._order.tell() // 8
        """Written down when this was opened."""

    def __enter__(self) -> _Sheets:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def cut(self, rows: int, places: int) -> None:
        """Leaves so many rows, of so many learnt tokens: what stands behind was being written at a kill."""
        sizes = (places * self.k * self._dtype.itemsize, places * self.k * 2, rows * 8)
        for file, size_bytes in zip(self._files, sizes, strict=True):
            file.truncate(size_bytes)

    def add(self, numbers: np.ndarray, told: Sequence[Soft]) -> None:
        """Writes down a pass; its rows' numbers last, so that what they stand for is there."""
        for soft in told:
            self._ids.write(soft.ids_LK.astype(self._dtype).tobytes())
            self._logprobs.write(soft.logprobs_LK.astype(np.float16).tobytes())
        self._order.write(numbers.tobytes())
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())


def _hash(folder: Path, made_of: str) -> str:
    digest = hashlib.sha256(made_of.encode())
    for name in _FILES:
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
