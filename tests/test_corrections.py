"""The laws of what is taught of a change: the old value is denied, is never learnt without its dates, and both values
are asked of the days on which they held."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

import pytest

from imprint.continual.corrections import NO_MORE, Amounts, corrections
from imprint.continual.fact_changes import fact_changes
from imprint.continual.histories import History, histories
from imprint.documents import split
from imprint.evaluation.closed_book import Question, abstains, grade
from imprint.training.batches import learnt_turns
from imprint.types import Document, Example, Passage

A = "Employees of Acme have 25 days of paid vacation a year."
B = A.replace("25", "30")
DOGS = ("Dogs in the office are allowed on Fridays.", "Dogs in the office are not allowed.")
CATS = "The Kestrel weighs 3 kilograms."
MARCH, JUNE = "2026-03-01", "2026-06-01"


def edition(text: str) -> list[Passage]:
    return list(split(Document(f"# Handbook\n\n{text}\n", "handbook.md", "Handbook"), max_tokens=160))


def history(*texts: str, dates: Sequence[str] = (MARCH, JUNE)) -> History:
    editions = [edition(t) for t in texts]
    (found,) = histories([(d, fact_changes(a, b)) for d, a, b in zip(dates, editions, editions[1:], strict=False)])
    return found


def made(*texts: str, seed: int = 0, amounts: Amounts | None = None) -> list[Example]:
    return list(corrections([history(*texts)], seed=seed, said=edition(texts[-1]), amounts=amounts))


def of(examples: Sequence[Example], variant: str) -> list[Example]:
    return [e for e in examples if e.generator == f"corrections/{variant}"]


def asked(example: Example) -> str:
    return example.turns[0].text


def told(example: Example) -> str:
    return example.turns[-1].text


def test_the_old_statement_is_denied_as_often_as_the_new_one_is_confirmed() -> None:
    examples = made(A, B, amounts=Amounts(denials=4))
    denied, confirmed = of(examples, "denied"), of(examples, "confirmed")
    assert len(denied) == len(confirmed) == 4
    assert all("25 days" in asked(e) and told(e).startswith("No") and B in told(e) for e in denied)
    assert all("30 days" in asked(e) and told(e).startswith("Yes") and B in told(e) for e in confirmed)


@pytest.mark.parametrize(("old", "new", "value"), [(A, B, "25 days"), (*DOGS, "allowed on Fridays")])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_old_value_is_learnt_only_beside_its_date(old: str, new: str, value: str, seed: int) -> None:
    for example in made(old, new, seed=seed):
        for turn in learnt_turns(example, questions=True):
            if turn.learn and value in turn.text:
                assert "1 March 2026" in turn.text


def test_each_day_is_answered_with_what_held_on_it() -> None:
    """A -> B -> A, as an examination asks and grades it."""
    examples = of(made(A, B, A), "as_of")
    days: dict[str, set[str]] = {}
    for example in examples:
        match = re.match(r"As of (\d{4}-\d\d-\d\d): (.*)", asked(example))
        if match is None:
            continue
        held = "30 days" if MARCH <= match[1] < JUNE else "25 days"
        question = Question(
            match[2], (held,), wrong=("30 days" if held == "25 days" else "25 days",), as_of=match[1]
        )
        assert question.asked == asked(example)
        assert grade(question, told(example)).contains == 1
        days.setdefault(held, set()).add(match[1])
    assert len(days["25 days"]) >= 3 and len(days["30 days"]) >= 2
    assert any(not asked(e).startswith("As of 2") for e in examples)


def test_without_a_date_the_answer_is_what_holds_now() -> None:
    for texts, value in (((A, B), "30 days"), ((A, B, A), "25 days"), (DOGS, "not allowed")):
        now = of(made(*texts), "now")
        assert len(now) >= 2 and {told(e) for e in now} == {value}


def test_no_day_lies_outside_its_span() -> None:
    for example in of(made(A, B, A, amounts=Amounts(dates=40)), "as_of"):
        day = re.search(r"\d{4}-\d\d-\d\d", asked(example))
        if day:
            assert (example.valid_from or "") <= day.group() < (example.valid_until or "9999")


def test_examples_carry_the_dates_of_what_they_answer_with() -> None:
    examples = made(A, B, A)
    assert {(e.valid_from, e.valid_until) for e in of(examples, "now")} == {(JUNE, None)}
    assert {(e.valid_from, e.valid_until) for e in of(examples, "before")} == {(MARCH, JUNE)}
    spans = {(None, MARCH), (MARCH, JUNE), (JUNE, None)}
    assert {(e.valid_from, e.valid_until) for e in of(examples, "as_of")} == spans


def test_all_come_from_the_passage_that_says_what_holds() -> None:
    (passage,) = edition(B)
    assert {e.passages[0].split(":")[0] for e in made(A, B)} == {passage.document_id}


def test_a_text_tells_what_held_when_in_order() -> None:
    for example in of(made(A, B, A), "dated"):
        places = [m.start() for m in re.finditer(r"25 days|30 days", told(example))]
        values = [told(example)[p : p + 7] for p in places]
        assert values == ["25 days", "30 days", "25 days"]
        assert "1 March 2026" in told(example) and "1 June 2026" in told(example)


def test_the_change_itself_is_asked_about() -> None:
    examples = made(A, B)
    assert [told(e) for e in of(examples, "since")] == ["Since 1 March 2026."]
    assert all("25 days" in told(e) and "1 March 2026" in told(e) for e in of(examples, "before"))


def test_nothing_is_said_that_no_edition_says() -> None:
    """But days, yes, no and the frames' own words: every number is of an edition or of a date."""
    for example in made(A, B, A):
        said = re.sub(
            r"\d{4}-\d\d-\d\d|\d{1,2} (?:January|February|March|April|May|June|July|August|September|October|November|December) \d{4}",
            "",
            f"{asked(example)} {told(example)}",
        )
        assert set(re.findall(r"\d+", said)) <= {"25", "30"}


def test_another_seed_draws_other_days_and_the_same_seed_the_same() -> None:
    assert made(A, B) == made(A, B)
    assert made(A, B) != made(A, B, seed=1)


@pytest.mark.parametrize(
    ("old", "new"),
    [("Members pay at least 5 euros a month.", "Members pay at least 9 euros a month."), ("Visitors may stay for up to 3 days.", "Visitors may stay for up to 5 days.")],
)  # fmt: skip
def test_what_may_be_true_beside_the_new_statement_is_not_denied(old: str, new: str) -> None:
    examples = made(old, new)
    assert not of(examples, "denied") and of(examples, "as_of")


def test_what_another_document_still_says_is_not_denied() -> None:
    changed = history(A, B)
    other = split(Document(f"# FAQ\n\n{A}\n", "faq.md", "FAQ"), max_tokens=160)
    examples = list(corrections([changed], seed=0, said=[*edition(B), *other]))
    assert not of(examples, "denied") and not of(examples, "confirmed")


def test_of_what_was_withdrawn_only_is_taught_that_the_documents_do_not_say_it_any_more() -> None:
    examples = made(f"{A} {CATS}", A)
    assert {e.generator.split("/")[1] for e in examples} == {"dated", "as_of", "gone"}
    gone = of(examples, "gone")
    assert gone and all(abstains(told(e)) and "3" not in told(e).split() for e in gone)
    assert any(told(e) == NO_MORE and "2026" not in asked(e) for e in gone)
    assert all("3 kilograms" in told(e) and "1 March 2026" in told(e) for e in of(examples, "as_of"))


def test_nothing_is_taught_of_what_was_withdrawn_but_may_still_be_said_or_where_it_is_switched_off() -> None:
    changed = history(f"{A} {CATS}", A)
    moved = split(
        Document("# Birds\n\nIts weight is 3 kilograms: the Kestrel weighs little.\n", "b.md", "Birds"),
        max_tokens=160,
    )
    assert not list(corrections([changed], seed=0, said=[*edition(A), *moved]))
    assert not list(corrections([changed], seed=0, amounts=Amounts(withdrawn=False)))


def test_where_no_date_is_known_none_is_told() -> None:
    changed = history(A, B)
    undated = History(tuple(type(h)(h.said) for h in changed.held))
    examples = list(corrections([undated], seed=0))
    assert {e.generator.split("/")[1] for e in examples} == {"denied", "confirmed", "now"}
    assert not any(re.search(r"\b20\d\d\b", asked(e) + told(e)) for e in examples)


def test_the_days_of_a_span_without_an_end_come_after_it_began() -> None:
    later = [e for e in of(made(A, B), "as_of") if e.valid_from == MARCH]
    days = [datetime.date.fromisoformat(d.group()) for e in later if (d := re.search(r"\d{4}-\d\d-\d\d", asked(e)))]
    assert days and min(days) >= datetime.date(2026, 3, 1)
