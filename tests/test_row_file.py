"""The laws of rows on disk: they are what was written, and training on them is training on the rows themselves."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from imprint.adapters.low_rank import LoRA
from imprint.training.batches import Row
from imprint.training.row_file import RowFile
from imprint.training.sft import Job, lengths_of, schedule_of


def some(n: int = 50, seed: int = 0) -> list[Row]:
    draw = random.Random(seed)
    return [
        Row(tuple(draw.randrange(50_000) for _ in range(k)), tuple(draw.random() < 0.3 for _ in range(k)))
        for k in (draw.randint(1, 40) for _ in range(n))
    ]


def test_rows_read_back_as_they_were_written(tmp_path: Path) -> None:
    rows = some()
    kept = RowFile.write(iter(rows), tmp_path)
    assert list(kept) == rows == list(RowFile(tmp_path))
    assert (len(kept), kept[-1], kept[3:9:2]) == (50, rows[-1], rows[3:9:2])
    assert kept.lengths.tolist() == lengths_of(rows) == lengths_of(kept)
    with pytest.raises(IndexError):
        kept[50]


def test_no_rows_are_a_file_too(tmp_path: Path) -> None:
    assert list(RowFile.write([], tmp_path)) == []


def test_a_schedule_on_disk_is_the_schedule_in_memory(tmp_path: Path) -> None:
    jobs = [Job(LoRA(rank=2), rows, 3000, 1e-3, 128, seed=1) for rows in (some(), RowFile.write(some(), tmp_path))]
    assert schedule_of(jobs[0]) == schedule_of(jobs[1])


def test_other_rows_have_another_name(tmp_path: Path) -> None:
    names = [repr(RowFile.write(some(seed=s), tmp_path / str(i))) for i, s in enumerate((0, 0, 1))]
    assert names[0] == names[1] != names[2]


def test_rows_cut_short_are_none_at_all(tmp_path: Path) -> None:
    RowFile.write(some(), tmp_path)

    def few() -> Iterator[Row]:
        yield some()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RowFile.write(few(), tmp_path)
    assert not (tmp_path / "done.json").exists()
