"""The laws of vectors on disk: made once, whole or not there, and gone when forgotten."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from imprint.retrieval import Index, VectorCache, vector_cache
from imprint.types import Passage
from test_retrieval import Bag

TEXTS = [f"zebra number {n}" for n in range(10)]


class Other(Bag):
    name = "other"


class Mortal(Bag):
    """An embedder whose process is killed when it is asked the third time."""

    def embed(self, texts: Sequence[str], *, told: object = None) -> np.ndarray:
        if len(self.embedded) >= 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(texts)


def kept(cache: VectorCache) -> list[Path]:
    return sorted(cache.folder.glob("*/*"))


def killed(work: object) -> None:
    """Runs the work in a process of its own, which must die of it."""
    child = os.fork()
    if child == 0:
        try:
            work()  # type: ignore[operator]
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_vectors_are_made_once(tmp_path: Path) -> None:
    embedder = Bag()
    first = VectorCache(tmp_path).vectors(embedder, [*TEXTS, TEXTS[0]])
    again = VectorCache(tmp_path).vectors(embedder, [*TEXTS[::-1], "a lion"])
    assert embedder.embedded == [*TEXTS, "a lion"]
    np.testing.assert_array_equal(first[:10], again[:10][::-1])
    np.testing.assert_array_equal(first[10], first[0])
    np.testing.assert_array_equal(first, Bag().embed([*TEXTS, TEXTS[0]]))


def test_a_second_index_of_the_same_passages_embeds_nothing(tmp_path: Path) -> None:
    passages = [Passage(f"d{n}", 0, len(text), text, "") for n, text in enumerate(TEXTS)]
    first, second = Bag(), Bag()
    for embedder in (first, second):
        with Index(passages, embedder=embedder, cache=VectorCache(tmp_path)) as index:
            assert index.search("zebra number 3", k=1)[0].text == TEXTS[3]
    assert (len(first.embedded), len(second.embedded)) == (10, 0)


def test_another_embedder_has_vectors_of_its_own(tmp_path: Path) -> None:
    VectorCache(tmp_path).vectors(Bag(), TEXTS)
    other = Other()
    VectorCache(tmp_path).vectors(other, TEXTS)
    assert other.embedded == TEXTS


def test_no_texts_have_no_vectors_and_write_nothing(tmp_path: Path) -> None:
    assert VectorCache(tmp_path).vectors(Bag(), []).shape == (0, Bag.width)
    assert kept(VectorCache(tmp_path)) == []


def test_it_is_told_how_many_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Telling(Bag):
        def embed(self, texts, *, told=None):  # type: ignore[no-untyped-def]
            told(len(texts), len(texts))
            return super().embed(texts)

    monkeypatch.setattr(vector_cache, "GROUP", 4)
    heard: list[tuple[int, int]] = []
    VectorCache(tmp_path).vectors(Telling(), TEXTS, lambda done, total: heard.append((done, total)))
    assert heard == [(4, 10), (8, 10), (10, 10)]


def test_killed_between_groups_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_cache, "GROUP", 2)
    cache, embedder = VectorCache(tmp_path), Bag()
    killed(lambda: cache.vectors(Mortal(), TEXTS))
    np.testing.assert_array_equal(cache.vectors(embedder, TEXTS), Bag().embed(TEXTS))
    assert embedder.embedded == TEXTS[4:]


def test_killed_while_writing_it_leaves_no_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = VectorCache(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        killed(lambda: cache.vectors(Bag(), TEXTS))
    np.testing.assert_array_equal(cache.vectors(Bag(), TEXTS), Bag().embed(TEXTS))


@pytest.mark.parametrize("kept_bytes", [0, 7, 100, -1])
def test_a_file_cut_short_by_the_disk_is_made_again(tmp_path: Path, kept_bytes: int) -> None:
    cache = VectorCache(tmp_path)
    cache.vectors(Bag(), TEXTS)
    (file,) = kept(cache)
    file.write_bytes(file.read_bytes()[:kept_bytes])
    np.testing.assert_array_equal(cache.vectors(Bag(), TEXTS), Bag().embed(TEXTS))


def test_lone_halves_of_letters_are_texts_too(tmp_path: Path) -> None:
    embedder = Bag()
    for _ in range(2):
        VectorCache(tmp_path).vectors(embedder, ["\ud800", "\udfff"])
    assert embedder.embedded == ["\ud800", "\udfff"]
