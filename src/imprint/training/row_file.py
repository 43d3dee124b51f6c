"""Token rows on disk: training text may be larger than memory.

    tokens.bin    ids of all rows one after another, int32
    learn.bin     for each token whether it is learnt, one byte
    ends.bin      where each row ends, int64
    done.json     number of rows and the hash of their content, there once all is written"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from imprint.engine.passes import Soft
from imprint.training.batches import Row


class RowFile(Sequence[Row]):
    """Rows read from disk when they are asked for."""

    def __init__(self, folder: Path) -> None:
        """`folder` as write() left it."""
        done = json.loads((folder / "done.json").read_text("utf-8"))
        self.hash: str = done["hash"]
        self._ends = np.fromfile(folder / "ends.bin", dtype=np.int64)
        self.lengths = np.diff(self._ends, prepend=0)
        """Tokens of each row."""
        self._tokens = mapped(folder / "tokens.bin", np.int32)
        self._learn = mapped(folder / "learn.bin", np.bool_)

    @staticmethod
    def write(rows: Iterable[Row], folder: Path) -> RowFile:
        """Streams rows to disk, and opens what was written."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "done.json").unlink(missing_ok=True)
        digest = hashlib.sha256()
        end = count = 0
        with (
            open(folder / "tokens.bin", "wb") as tokens,
            open(folder / "learn.bin", "wb") as learn,
            open(folder / "ends.bin", "wb") as ends,
        ):
            for row in rows:
                end, count = end + len(row.ids), count + 1
                for file, part, kind in (
                    (tokens, row.ids, np.int32), (learn, row.learn, np.bool_), (ends, [end], np.int64)
                ):  # fmt: skip
                    data = np.asarray(part, kind).tobytes()
                    file.write(data)
                    digest.update(data)
            for file in (tokens, learn, ends):
                file.flush()
                os.fsync(file.fileno())
        making = folder / "done.json.making"
        making.write_text(json.dumps({"rows": count, "hash": digest.hexdigest()[:16]}), "utf-8")
        os.replace(making, folder / "done.json")
        return RowFile(folder)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, i: int) -> Row: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Row]: ...
    def __getitem__(self, i: int | slice) -> Row | Sequence[Row]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        end = int(self._ends[i])
        start = end - int(self.lengths[i])
        ids, learn = tuple(self._tokens[start:end].tolist()), tuple(self._learn[start:end].tolist())
        return Row(ids, learn, self._soft(i % len(self)))

    def learnt(self) -> np.ndarray:
        """How many tokens of each row carry a loss; the first of a row never does."""
        starts = self._ends - self.lengths
        counts: np.ndarray = np.add.reduceat(self._learn, starts, dtype=np.int64) if len(self) else starts
        return counts - self._learn[starts]

    def _learnt_tokens(self, i: int) -> np.ndarray:
        """The tokens of a row that carry a loss, in their order."""
        end = int(self._ends[i])
        first = end - int(self.lengths[i]) + 1
        tokens: np.ndarray = self._tokens[first:end][self._learn[first:end]]
        return tokens

    def _soft(self, i: int) -> Soft | None:
        """What a teacher says to this row: nothing here."""
        return None

    def __repr__(self) -> str:
        return f"RowFile({len(self)} rows, {self.hash})"


def mapped(file: Path, dtype: type) -> np.ndarray:
    """The numbers of a file, read as they are asked for."""
    if not file.stat().st_size:
        return np.zeros(0, dtype)
    return np.memmap(file, dtype=dtype, mode="r")
