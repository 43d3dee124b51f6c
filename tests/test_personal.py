"""The laws of personal data: found where it stands, masked wherever it is told, and met as the user wishes."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from imprint.documents import personal
from imprint.documents.personal import Found, lines, look, masked, settle
from imprint.errors import BadInput, BadSetting, MissingPackage
from imprint.types import Document

TEXT = (
    "Write to ana.petrov@example.com or phone (212) 555-0123.\f"
    "Pay to DE89 3704 0044 0532 0130 00 with 4111 1111 1111 1111. Her SSN is 536-90-4399.\n"
    "Passport number: 912803456.\n"
)
DOCUMENT = Document(TEXT, "letters/ana.md", "Ana", page_starts=(0, TEXT.index("\f") + 1))

presidio = pytest.mark.skipif(
    importlib.util.find_spec("presidio_analyzer") is None,
    reason="presidio-analyzer is not installed: pip install 'imprint[privacy]'",
)


@presidio
def test_what_is_personal_is_found_with_its_place() -> None:
    found = look([DOCUMENT])
    assert [one.kind for one in found] == [
        "e-mail address", "telephone number", "bank account (IBAN)", "card number", "social security number (US)",
        "passport (US)",
    ]  # fmt: skip
    first = found[0]
    assert (first.source, first.page, first.offset) == ("letters/ana.md", 1, TEXT.index("ana.petrov"))
    assert found[2].page == 2


@presidio
def test_a_number_that_could_be_anything_is_not_personal() -> None:
    assert [one.kind for one in look([Document("Model 912803456 of order 4152-33 costs 1,250 in 2018.", "a", "a")])] == []


@presidio
def test_a_card_number_that_fails_its_checksum_is_none() -> None:
    assert look([Document("Pay with 4111 1111 1111 1112.", "a", "a")]) == []


@presidio
def test_no_value_leaves_in_the_clear() -> None:
    said: list[str] = []
    kept = settle([DOCUMENT], "report", said.append)
    told = json.dumps(kept) + " ".join(said)
    for value in ("ana.petrov", "555-0123", "0532", "4111", "536-90", "912803456"):
        assert value not in told
    assert kept["counts"]["e-mail address"] == 1
    assert kept["looked"]
    assert "letters/ana.md, page 1" in " ".join(said)


@presidio
def test_documents_with_personal_data_are_refused_where_that_is_wished() -> None:
    with pytest.raises(BadInput, match="e-mail address"):
        settle([DOCUMENT], "refuse", print)
    assert settle([Document("The bell weighs 3 kilograms.", "a", "a")], "refuse", print)["counts"] == {}


def test_who_ignores_it_is_told_nothing() -> None:
    said: list[str] = []
    assert settle([DOCUMENT], "ignore", said.append) == {"looked": False}
    assert said == []


def test_without_the_package_a_note_says_how_to_install_it_and_refusing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    personal._recognisers.cache_clear()
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    said: list[str] = []
    assert settle([DOCUMENT], "report", said.append) == {"looked": False}
    assert len(said) == 1
    assert "imprint[privacy]" in said[0]
    with pytest.raises(MissingPackage, match="privacy"):
        settle([DOCUMENT], "refuse", said.append)


def test_another_wish_is_refused() -> None:
    with pytest.raises(BadSetting, match="report, refuse, ignore"):
        settle([DOCUMENT], "delete", print)


@pytest.mark.parametrize(
    ("value", "shown"),
    [("ana@b.de", "a**@*.de"), ("536-90-4399", "5**-**-**99"), ("1.2.3.4", "*.*.*.*"), ("", "")],
)
def test_only_the_ends_of_a_long_value_can_be_read(value: str, shown: str) -> None:
    assert masked(value) == shown


def test_of_each_kind_the_first_few_are_told() -> None:
    found = [Found("card number", "a.md", None, i, "4***11") for i in range(5)]
    told = lines(found)
    assert "5 x card number" in told[0]
    assert told[1].count("a.md") == 3
    assert "2 more" in told[1]
