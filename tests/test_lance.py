"""The laws of passages in LanceDB: found as elsewhere, and when deleted, gone to the last byte."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imprint.errors import BadSetting, MissingPackage
from imprint.retrieval import Filter, filter_from
from imprint.retrieval.lance import LanceIndex
from imprint.types import Passage
from test_retrieval import DOCUMENTS, FILED, OFFICE, Bag, passages

installed = pytest.mark.skipif(
    importlib.util.find_spec("lancedb") is None, reason="lancedb is not installed: pip install 'imprint[lancedb]'"
)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[LanceIndex]:
    made = LanceIndex(tmp_path / "store", Bag())
    made.add(passages(*OFFICE))
    yield made


def bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


@installed
def test_what_is_added_is_found_and_comes_back_whole(index: LanceIndex) -> None:
    assert index.search("When does the office open?", k=1) == [passages(*OFFICE)[1]]
    assert len(index) == len(OFFICE)


@installed
def test_an_opened_folder_finds_what_was_added_before(index: LanceIndex, tmp_path: Path) -> None:
    again = LanceIndex(tmp_path / "store", Bag())
    assert again.search("lunch", k=1)[0].text == OFFICE[2]


@installed
def test_passages_added_again_are_there_once(index: LanceIndex) -> None:
    index.add(passages(*OFFICE))
    assert len(index) == len(OFFICE)
    assert len(index.search("office", k=20)) == len(OFFICE)


@installed
def test_a_deleted_document_leaves_no_byte_of_its_text_or_vector(index: LanceIndex, tmp_path: Path) -> None:
    secret = Passage("secret", 0, 1, "Quagmire platypus accounts of 1987", "Ledger", "Hidden")
    # Enough besides that a compaction which spares files with few deleted rows would spare this one.
    index.add([secret, *passages(*(f"filler text number {n}" for n in range(200)))])
    vector = Bag().embed(Bag().stretches(secret.text, head="Ledger. Hidden"))[0].tobytes()
    before = bytes_of(tmp_path / "store")
    assert vector in before
    assert b"platypus" in before
    assert index.delete(["secret"]) == 1
    after = bytes_of(tmp_path / "store")
    assert vector not in after
    assert b"platypus" not in after
    assert b"Quagmire" not in after
    assert index.search("quagmire platypus", k=500, where=Filter(title=("Ledger",))) == []
    assert index.search("filler text number 7", k=1)[0].text == "filler text number 7"


@installed
def test_the_last_document_can_go(index: LanceIndex) -> None:
    assert index.delete([p.document_id for p in passages(*OFFICE)]) == len(OFFICE)
    assert len(index) == 0
    assert index.search("office") == []
    assert index.delete(["nobody"]) == 0


@installed
@pytest.mark.parametrize(
    ("settings", "let_through"),
    [
        ({"source": "policies/*"}, {0, 1}),
        ({"title": "[draft] photos"}, {2}),
        ({"heading": "policies"}, {0, 1}),
        ({"heading": "handbook > policies"}, set()),
        ({"document": DOCUMENTS[1].id}, {1}),
        ({"since": "2024-06-30"}, {1}),
        ({"until": "2020-01-01"}, {0}),
        ({"title": "' OR '1'='1"}, set()),
    ],
)
def test_a_filter_lets_through_what_fits_and_nothing_else(
    tmp_path: Path, settings: dict[str, str], let_through: set[int]
) -> None:
    index = LanceIndex(tmp_path, Bag())
    index.add(FILED, DOCUMENTS)
    met = index.search("vacation", k=9, where=filter_from(settings))
    assert {FILED.index(passage) for passage in met} == let_through


@installed
def test_a_folder_of_another_embedder_is_refused(index: LanceIndex, tmp_path: Path) -> None:
    class Other(Bag):
        name = "other"

    with pytest.raises(BadSetting, match="holds vectors of bag, and this is other"):
        LanceIndex(tmp_path / "store", Other())


def test_without_lancedb_the_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingPackage, match=r"pip install 'imprint\[lancedb\]'"):
        LanceIndex(tmp_path, Bag())
