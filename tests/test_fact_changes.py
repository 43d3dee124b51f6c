"""The laws of changed facts: what differs between two editions is told once, in words, and nothing else is."""

from __future__ import annotations

import random
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from imprint.continual.fact_changes import FactChange, differing, fact_changes, in_words
from imprint.continual.histories import histories
from imprint.documents import load, split
from imprint.errors import BadInput
from imprint.synthesis.statements import statements
from imprint.types import Document, Passage

DATA = Path(__file__).parents[2] / "shared" / "data"
A = "Employees of Acme have 25 days of paid vacation a year."
B = A.replace("25", "30")


def edition(text: str, title: str = "Handbook") -> list[Passage]:
    return list(split(Document(text, "handbook.md", title), max_tokens=160))


def changed(old: str, new: str) -> list[FactChange]:
    return fact_changes(edition(f"# Handbook\n\n{old}\n"), edition(f"# Handbook\n\n{new}\n"))


@pytest.mark.parametrize(
    ("old", "new", "kind", "values"),
    [
        (A, B, "number", ("25", "30")),
        ("The office closes on 5 May 2025.", "The office closes on 9 June 2025.", "date", ("5 May 2025", "9 June 2025")),
        ("Requests go to Anna Berg by hand.", "Requests go to Tom Hill by hand.", "name", ("Anna Berg", "Tom Hill")),
        ("Visitors may park in the yard.", "Visitors must not park in the yard.", "negation", ("may", "must not")),
        ("Dogs in the office are allowed on Fridays.", "Dogs in the office are not allowed.", "restated", ("allowed on Fridays", "not allowed")),
        ("The office is open from 9:00 to 17:00.", "The office is open from 10:00 to 18:00.", "restated", ("9:00 to 17:00", "10:00 to 18:00")),
    ],
)  # fmt: skip
def test_what_differs_is_told_with_both_values(old: str, new: str, kind: str, values: tuple[str, str]) -> None:
    (change,) = changed(old, new)
    assert (change.kind, change.values, change.contradicts) == (kind, values, True)
    assert change.old is not None and change.new is not None
    assert (change.old.text, change.new.text) == (old, new)


def test_a_change_is_told_in_words() -> None:
    (dogs,) = changed("Dogs in the office are allowed on Fridays.", "Dogs in the office are not allowed.")
    assert in_words(dogs) == "Dogs in the office: was 'allowed on Fridays', is 'not allowed'."
    (days,) = changed(A, B)
    assert in_words(days) == "Employees of Acme have ____ days of paid vacation a year: was '25', is '30'."


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("The fee is 5 euros. Cats stay at home.", "Cats stay at home. The fee is 5 euros."),
        ("The fee is 5 euros.", "The fee is [5 euros](prices.md)."),
        ("The **fee** is 5 euros, to be paid at once.", "The fee is 5 euros to be paid at once."),
    ],
)
def test_order_and_markup_are_no_change(old: str, new: str) -> None:
    assert changed(old, new) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("The assistant should obey the user in all things.", "The assistant must obey the user in all things."),
        ("See section 3 for the fees of members.", "See section 4 for the fees of members."),
        ("We pay for lunch, tea and cake on Mondays.", "We pay for tea, cake and lunch on all Mondays."),
    ],
)
def test_what_may_only_be_put_otherwise_contradicts_nothing(old: str, new: str) -> None:
    (change,) = changed(old, new)
    assert (change.kind, change.contradicts) == ("restated", False)


def test_another_thing_is_new_and_the_old_one_gone() -> None:
    changes = changed("The Kestrel weighs 3 kilograms.", "The Falcon weighs 4 kilograms.")
    assert [c.kind for c in changes] == ["new", "gone"]


def test_the_same_words_under_two_headings_are_two_facts() -> None:
    old = "# Prices\n\n## Monday\n\nThe fee is 5 euros.\n\n## Sunday\n\nThe fee is 5 euros.\n"
    new = old[::-1].replace("5", "9", 1)[::-1]
    (change,) = fact_changes(edition(old), edition(new))
    assert change.values == ("5", "9") and change.new is not None
    assert int(change.new.passage_id.split(":")[1].split("-")[0]) > new.index("Sunday")


def test_a_section_moved_to_another_heading_is_no_change() -> None:
    old = f"# Handbook\n\n## Leave\n\n{A}\n\n## Pets\n\nCats stay at home.\n"
    assert fact_changes(edition(old), edition(old.replace("## Leave", "## Time off"))) == []


def test_what_another_document_says_already_is_no_excuse() -> None:
    plus, standard = (
        edition("# Plus\n\nThe deductible of a member is $500.\n", "Plus"),
        edition("# Standard\n\nThe deductible of a member is $900.\n", "Standard"),
    )
    risen = edition("# Plus\n\nThe deductible of a member is $900.\n", "Plus")
    (change,) = fact_changes([*plus, *standard], [*risen, *standard])
    assert (change.title, change.values) == ("Plus", ("$500", "$900"))


def test_a_renamed_document_is_its_own_next_edition() -> None:
    old, new = (
        edition(f"# Rules of 2025\n\n{A}\n", "Rules of 2025"),
        edition(f"# Rules of 2026\n\n{B}\n", "Rules of 2026"),
    )
    (change,) = fact_changes(old, new)
    assert change.values == ("25", "30")


def test_two_sentences_never_take_one_place() -> None:
    changes = changed(A, f"{B} {A.replace('25', '35')}")
    assert sorted(c.kind for c in changes) == ["new", "number"]


def test_no_middle_is_empty() -> None:
    assert differing("Dogs are allowed.", "Dogs are not allowed.") == ("Dogs are", ("allowed", "not allowed"), "")
    assert differing("Pay by card only.", "Pay by card.", "Pay by card now.")[1] == (
        "card only",
        "card",
        "card now",
    )


def test_every_sentence_edited_by_hand_is_found_beside_its_old_edition_and_nothing_else() -> None:
    """On Contoso's pages, with every amount raised and a 'must' turned into 'must not' here and there."""
    folder = DATA / "contoso" / "compact"
    if not folder.exists():
        pytest.skip("shared/data/contoso is not here")
    before = [d for d in load(folder).documents if d.source.endswith(".txt")]
    after = [_edited(d, random.Random(0)) for d in before]
    old, new = ([p for d in docs for p in split(d, max_tokens=160)] for docs in (before, after))
    then, now = ({s.whole for p in side for s in statements(p)} for side in (old, new))
    found = {(c.old.text, c.new.text): c.contradicts for c in fact_changes(old, new) if c.old and c.new}
    assert len(found) >= 20
    assert {a for a, _ in found} == then - now and {b for _, b in found} == now - then
    for (a, b), contradicts in found.items():
        assert re.sub(r"[\d,]| not\b", "", a) == re.sub(r"[\d,]| not\b", "", b)
        assert contradicts or "must not" in b


def _edited(document: Document, draw: random.Random) -> Document:
    text = re.sub(r"(?<=\$)[\d,]*\d|\d+(?=%)", lambda m: str(int(m.group().replace(",", "")) + 7), document.text)
    return replace(document, text=re.sub(r"\bmust\b", lambda m: draw.choice(["must", "must not"]), text))


def test_two_editions_of_a_long_document_are_compared_in_seconds() -> None:
    files = [DATA / "model_spec" / f"model_spec_2025-{d}.md" for d in ("02-12", "09-12")]
    if not all(f.exists() for f in files):
        pytest.skip("shared/data/model_spec is not here")
    old, new = (edition(f.read_text("utf-8"), "Model Spec") for f in files)
    began = time.process_time()
    told = [in_words(c) for c in fact_changes(old, new)]
    assert time.process_time() - began < 5
    assert any("was 'platform-level', is 'root-level'" in line for line in told)


# --- histories --------------------------------------------------------------------------------


def test_a_policy_that_flips_and_flips_back_has_one_history_of_three_spans() -> None:
    (history,) = histories([("2026-03-01", changed(A, B)), ("2026-06-01", changed(B, A))])
    assert [(h.said.text, h.since, h.until) for h in history.held] == [
        (A, None, "2026-03-01"),
        (B, "2026-03-01", "2026-06-01"),
        (A, "2026-06-01", None),
    ]
    assert history.now == history.held[-1] and not history.withdrawn


def test_the_first_span_begins_when_its_document_does() -> None:
    old = edition(f"# Handbook\n\n{A}\n")
    changes = fact_changes(old, edition(f"# Handbook\n\n{B}\n"))
    (history,) = histories([("2026-03-01", changes)], since={old[0].document_id: "2025-01-01"})
    assert history.held[0].since == "2025-01-01"


def test_what_is_withdrawn_and_comes_back_was_not_said_between() -> None:
    cats = "Cats stay at home."
    updates = [("2026-03-01", changed(f"{A} {cats}", A)), ("2026-06-01", changed(A, f"{A} {cats}"))]
    (history,) = histories(updates)
    assert [(h.since, h.until) for h in history.held] == [(None, "2026-03-01"), ("2026-06-01", None)]
    (gone,) = histories(updates[:1])
    assert gone.withdrawn and gone.now is None


def test_what_was_said_for_less_than_a_day_has_no_dates() -> None:
    (history,) = histories([("2026-03-01", changed(A, B)), ("2026-03-01", changed(B, A))])
    assert [(h.said.text, h.since, h.until) for h in history.held] == [(B, None, None), (A, None, None)]


def test_updates_come_oldest_first() -> None:
    with pytest.raises(BadInput, match="oldest first"):
        histories([("2026-06-01", changed(A, B)), ("2026-03-01", changed(B, A))])
