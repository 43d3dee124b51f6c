"""The laws of the audit: what does not stand in the passage is dropped, counted, and told in a report."""

import json
import time

import pytest

from imprint.synthesis.audit import Audit, AuditSettings, lines, look_over
from imprint.synthesis.cloze import ABSTENTION
from imprint.synthesis.faithful import unsupported
from imprint.types import Example, Passage, Turn

TEXT = (
    "The Kestrel weighs 3 kilograms and costs 1,140 euros. Requests must reach Hedda Strouvian by 31 March. "
    "Employees may not carry over unused vacation days. Five of the tents were sold on 5 May 2020, from Tuesday to "
    "Friday; 5% came back. The shop in Italy opened in 1893 and cost $2.5 million."
)
PASSAGE = Passage("d1", 0, len(TEXT), TEXT, "Acme Ltd: Products", "Tents > Form T-19")


def example(*texts: str, generator: str = "test") -> Example:
    return Example(tuple(Turn("user", t) for t in texts), (PASSAGE.id,), generator)


def told(text: str) -> Example:
    return Example((Turn("text", text, learn=True),), (PASSAGE.id,), "test")


def found(item: Example) -> list[tuple[str, str]]:
    return [(f.kind, f.text) for f in unsupported(item, [PASSAGE])]


@pytest.mark.parametrize(
    "text",
    [
        "How much does the Kestrel cost? 1140 euros",
        "Acme Ltd: What must reach Hedda Strouvian?",  # the title counts
        "Which form is T-19?",  # and the heading
        "Weighs the Kestrel 3 kilograms?",  # a word may be capitalised because it opens a sentence
        "What is the Kestrel's weight?",
        "",
        "The Kestrel weighs three kilograms.",
        "Consequently, 5 tents were sold. Imagine that!",
        "On May 5th, 2020 they were sold.",
        "sold on 2020-05-05 or 05/05/2020, in May, and in 2020",
        "5 percent came back; 5 per cent.",
        "It cost 2,500,000 dollars, which is $2.5 million.",
        "1. Tents\n2. **Prices**\n3) Forms",  # marks of a list count nothing
        "It was open on Wednesday.",  # from Tuesday to Friday
        "The Italian shop opened in the 1890s, in the 19th century.",
        "Both of the two tents are there, and one is lighter.",
        "Employees may not carry over vacation days that are unused.",
        "Dear Acme, I'm writing about the Kestrel. Yours sincerely",
    ],
)
def test_what_stands_in_the_passage_passes(text: str) -> None:
    assert found(example(text)) == found(told(text)) == []


@pytest.mark.parametrize(
    ("text", "strange"),
    [
        ("The Kestrel weighs 4 kilograms.", [("number", "4")]),
        ("The Kestrel weighs eleven kilograms.", [("number", "eleven")]),
        ("The Kestrel costs 1,141 euros.", [("number", "1,141")]),
        ("Requests must reach Hedda Stroumann.", [("name", "Stroumann")]),
        ("It costs 3.5 euros in Berlin.", [("number", "3.5"), ("name", "Berlin")]),
        ("By 31 April", [("date", "31 April")]),
        ("on May 6, 2020", [("date", "May 6, 2020")]),
        ("in 2020-05-06", [("date", "2020-05-06")]),
        ("on 5 May 2021", [("date", "5 May 2021")]),
        ("the Form T-20", [("number", "20"), ("name", "T-20")]),
        ("The Kestrel weighs 3 pounds", [("unit", "3 pounds")]),
        ("It weighs 31 kilograms", [("unit", "31 kilograms")]),  # 31 is only the day of a month
        ("It cost €2.5 million", [("unit", "2.5 million")]),
        ("It cost $2.5 billion", [("number", "2.5 billion")]),
        ("It is open on Sunday", [("name", "Sunday")]),
        (
            "Employees may carry over unused vacation days.",
            [("negation", "Employees may carry over unused vacation days.")],
        ),
        (
            "The Kestrel never weighs 3 kilograms.",
            [("negation", "The Kestrel never weighs 3 kilograms.")],
        ),
    ],
)
def test_what_another_text_says_is_found(text: str, strange: list[tuple[str, str]]) -> None:
    assert found(told(text)) == strange


SHORT = Passage("d4", 0, 9, "The fee is refundable. Is the pool heated? If the door is not locked, ring. Lunch isn't free.", "Acme")


@pytest.mark.parametrize(
    ("text", "strange"),
    [
        ("The fee is not refundable.", True),
        ("No, the fee isn't refundable!", True),
        ("Lunch is free.", True),
        ("The fee is refundable.", False),
        ("The fee is never refundable in winter.", False),  # which the source does not speak of in these words
        ("Yes, the fee is refundable.", False),
        ("No, lunch is not free.", False),
        ("The pool is not heated.", False),  # what is asked is not stated
        ("The door is locked.", False),  # nor is a condition
        ("not refundable", False),
        ("lunch is free.", False),  # the rest of a sentence that was begun, as in 'It is not so that ...'
    ],
)
def test_a_short_statement_the_other_way_round_is_found(text: str, strange: bool) -> None:
    assert [f.kind for f in unsupported(told(text), [SHORT])] == ["negation"] * strange


def test_a_name_may_begin_with_any_capital() -> None:
    assert found(example("Requests must reach Émile.")) == [("name", "Émile")]


def test_every_turn_is_audited() -> None:
    assert found(example("What does it weigh?", "7 kilograms")) == [("number", "7")]


def test_a_country_may_be_named_in_full_or_in_short() -> None:
    text = "The shop in the U.S. is closed. The North Atlantic Treaty Organization met there."
    there = Passage("d3", 0, len(text), text, "Acme")
    assert unsupported(told("In the United States, the US and the U.S., NATO met."), [there]) == []


def test_of_an_item_that_abstains_only_the_names_asked_for_are_checked() -> None:
    def absent(question: str) -> Example:
        turns = (Turn("user", question), Turn("assistant", ABSTENTION, learn=True))
        return Example(turns, (PASSAGE.id,), "test")

    assert found(absent("How old was the Kestrel in 1950?")) == []
    assert found(absent("How old is Zaphod?")) == [("name", "Zaphod")]


def test_an_example_of_two_passages_may_use_both() -> None:
    other = Passage("d1", 400, 430, "The Falcon weighs 9 kilograms.", "Acme")
    assert unsupported(example("the Kestrel and the Falcon weigh 9"), [PASSAGE, other]) == []


def test_ten_thousand_examples_take_seconds() -> None:
    items = [told(f"The Kestrel weighs {n} kilograms, says Hedda Strouvian of Acme.") for n in range(10_000)]
    began = time.process_time()
    assert sum(not found(i) for i in items) == 4  # 3, and what the source tells without a unit: 5, 19 and 1893
    assert time.process_time() - began < 15


# --- the stream -------------------------------------------------------------------------------


def test_the_kept_and_the_dropped_are_counted_by_generator() -> None:
    audit = Audit()
    given = [example("3 euros"), example("7 euros", generator="a"), example("8 euros", generator="b")]
    given[0] = example("3 kilograms", generator="a")
    assert list(audit.pass_through(given, {PASSAGE.id: PASSAGE})) == given[:1]
    assert audit.counts() == {"a": {"kept": 1, "dropped": 1}, "b": {"kept": 0, "dropped": 1}}
    assert audit.reasons[0].startswith("7 not in the passage: 7 euros")


def test_only_the_first_reasons_are_kept() -> None:
    audit = Audit()
    assert not list(audit.pass_through([example("999")] * 80, {PASSAGE.id: PASSAGE}))
    assert len(audit.reasons) == 50
    assert audit.dropped["test"] == 80


def test_examples_stream_through_one_by_one() -> None:
    taken = []

    def written() -> "list[Example]":
        for n in range(1_000):
            taken.append(n)
            yield told(f"The Kestrel number {n} weighs 3 kilograms.")

    passing = Audit(AuditSettings(faithful=False)).pass_through(written(), {PASSAGE.id: PASSAGE})
    next(passing)
    assert len(taken) == 1


def test_what_is_said_twice_is_dropped_once() -> None:
    audit = Audit()
    given = [told("The Kestrel weighs 3 kilograms.")] * 3
    assert len(list(audit.pass_through(given, {PASSAGE.id: PASSAGE}))) == 1
    assert audit.report()["reasons"] == {"near duplicate": 2}


def test_every_filter_can_be_switched_off() -> None:
    off = AuditSettings(False, False, False, False, False)
    given = [told("The Falcon weighs 99 stones.")] * 3
    audit = Audit(off, [PASSAGE], planned_tokens=1)
    assert list(audit.pass_through(given, {PASSAGE.id: PASSAGE})) == given
    assert audit.dropped.total() == 0
    assert "Switched off" in " ".join(lines(audit.report()))


def test_a_report_tells_of_what_is_taught_of_the_examples_let_through() -> None:
    by_id = {PASSAGE.id: PASSAGE}
    given = [told(t) for t in ("The Kestrel weighs 3 kilograms.", "It costs 1,140 euros.", "It weighs 4.")]
    audit, alone = Audit(passages=[PASSAGE], planned_tokens=50), Audit(passages=[PASSAGE], planned_tokens=50)
    let_through = list(audit.pass_through(given, by_id))
    list(alone.pass_through([given[0], given[2]], by_id))
    assert list(audit.count_anew(let_through[:1])) == [given[0]]
    assert audit.report() == alone.report()


def test_a_report_is_json_and_has_its_five_sections() -> None:
    other = Passage("d2", 0, 40, "The Falcon is never lent to anybody at all.", "Acme Ltd: Birds", page=4)
    audit = Audit(passages=[PASSAGE, other], planned_tokens=1_000)
    given = [told("The Kestrel weighs 3 kilograms."), told("The Kestrel weighs 4 kilograms.")]
    list(audit.pass_through(given, {p.id: p for p in (PASSAGE, other)}))
    audit.looked_over = look_over([PASSAGE, other])
    report = json.loads(json.dumps(audit.report()))
    text = "\n".join(lines(report))
    assert [line for line in lines(report) if line and not line.startswith(" ")] == [
        "Faithful", "Covered", "Diverse", "Safe", "Enough",
    ]  # fmt: skip
    assert "1 of 2 examples kept (50 %)" in text
    assert "4 not in the passage" in text
    assert "Passages without any example: 1 of 2." in text
    assert "Acme Ltd: Birds, page 4: The Falcon is never lent" in text
    assert "Contradictions: 0." in text


def test_an_audit_of_nothing_has_a_report() -> None:
    assert lines(json.loads(json.dumps(Audit().report())))[0] == "Faithful"
