"""The laws of a run folder: a thing is there whole or not at all, and reads back as it was."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imprint.corpus import Corpus
from imprint.evaluation.closed_book import Question
from imprint.run_folder import RunFolder, Stopwatch, write_whole
from imprint.types import Document, Example, Turn


def lines_that_fail() -> Iterator[str]:
    yield "half\n"
    raise KeyboardInterrupt


def test_a_writer_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    for before in (None, "old\n"):
        if before:
            write_whole(file, before)
        with pytest.raises(KeyboardInterrupt):
            write_whole(file, lines_that_fail())
        assert (file.read_text() if file.exists() else None) == before
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_text_that_utf8_cannot_hold_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a", "\ud800")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


def test_a_new_text_takes_the_place_of_the_old(tmp_path: Path) -> None:
    for text in ("one\n", "two\n"):
        write_whole(tmp_path / "deep" / "file", text)
    assert (tmp_path / "deep" / "file").read_text() == "two\n"


def test_what_was_not_written_is_none(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert (run.read("plan"), list(run.examples()), run.read_questions()) == (None, [], None)


def example(text: str) -> Example:
    return Example((Turn("user", "Who?"), Turn("assistant", text, learn=True)), ("d:0-9", "d:9-12"), "test", "scribe")


def test_what_was_written_reads_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    examples = [example("Ünïcödé\n公司"), example("")]
    questions = [Question("Who?", ("Ana", "Ana Petrov"), "direct"), Question("Why?", (), "unanswerable")]
    run.write("plan", {"taught": [1, 2]})
    assert run.write_examples(examples) == 2
    run.write_questions(questions, "of a file")
    assert run.read("plan") == {"taught": [1, 2]}
    assert list(run.examples()) == examples
    assert run.read_questions() == (questions, "of a file")


def test_examples_cut_short_are_none_at_all(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")

    def some() -> Iterator[Example]:
        yield example("one")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.write_examples(some())
    assert list(run.examples()) == []


LINE_ENDS = pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])


@LINE_ENDS
def test_examples_may_hold_any_character(tmp_path: Path, mark: str) -> None:
    run = RunFolder(tmp_path / "run")
    run.write_examples([example(f"one{mark}two")])
    assert list(run.examples()) == [example(f"one{mark}two")]


@LINE_ENDS
def test_a_kept_corpus_may_hold_any_character(tmp_path: Path, mark: str) -> None:
    corpus = Corpus((Document(f"one{mark}two", "a.txt", "A"),))
    corpus.keep(tmp_path)
    assert Corpus.kept(tmp_path, corpus.hash) == corpus


def test_a_corpus_is_kept_under_its_hash_and_reads_back(tmp_path: Path) -> None:
    corpus = Corpus((Document("one\ntwo", "a.txt", "A", (0, 4), "2025-01-01"), Document("three", "b.txt", "B")))
    corpus.keep(tmp_path)
    corpus.keep(tmp_path)
    assert Corpus.kept(tmp_path, corpus.hash) == corpus
    assert Corpus.kept(tmp_path, "another") is None
    assert Corpus.kept(tmp_path, "") is None


def test_other_documents_or_another_order_make_another_hash() -> None:
    one, two = Document("one", "a.txt", "A"), Document("two", "b.txt", "B")
    hashes = {Corpus(d).hash for d in ((one, two), (two, one), (one,), (Document("one", "c.txt", "A"), two))}
    assert len(hashes) == 4


def test_a_stopwatch_adds_up_all_calls_and_counts_them(tmp_path: Path) -> None:
    run, now = RunFolder(tmp_path / "run"), [0.0]
    first = Stopwatch(run, "writing", clock=lambda: now[0])
    now[0] = 7.0
    first.tick()  # kept, and then killed
    now[0] = 100.0
    second = Stopwatch(run, "writing", clock=lambda: now[0])
    now[0] = 103.0
    assert (second.seconds, second.calls) == (10.0, 2)
    second.keep()
    Stopwatch(run, "training", clock=lambda: now[0]).keep()
    assert run.read("seconds") == {"writing": {"seconds": 10.0, "calls": 2}, "training": {"seconds": 0.0, "calls": 1}}


def test_a_stopwatch_writes_now_and_then_only(tmp_path: Path) -> None:
    run, now = RunFolder(tmp_path / "run"), [0.0]
    watch = Stopwatch(run, "writing", clock=lambda: now[0], every_s=5.0)
    now[0] = 4.9
    watch.tick()
    assert run.read("seconds") is None


def test_one_process_at_a_time_is_at_a_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.claim()
    RunFolder(tmp_path / "run").claim()  # the same process may
    other = [sys.executable, "-c", "import sys; from pathlib import Path; from imprint.run_folder import RunFolder; RunFolder(Path(sys.argv[1])).claim()", str(run.path)]
    refused = subprocess.run(other, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "Another process" in refused.stderr
    run.drop_trained()
    assert subprocess.run(other, check=False).returncode == 0
