"""The laws of the audit: what does not stand in the passage is dropped, and counted."""

import pytest

from imprint.synthesis.audit import Audit, unsupported
from imprint.types import Example, Passage, Turn

TEXT = "The Kestrel weighs 3 kilograms and costs 1,140 euros. Requests must reach Hedda Strouvian by 31 March."
PASSAGE = Passage("d1", 0, len(TEXT), TEXT, "Acme Ltd: Products", "Tents > Form T-19")


def example(*texts: str, generator: str = "test") -> Example:
    return Example(tuple(Turn("user", t) for t in texts), (PASSAGE.id,), generator)


@pytest.mark.parametrize(
    "text",
    [
        "How much does the Kestrel cost? 1140 euros",
        "Acme Ltd: What must reach Hedda Strouvian?",  # the title counts
        "Which form is T-19?",  # and the heading
        "Weighs the Kestrel 3 kilograms?",  # a word may be capitalised because it opens a sentence
        "What is the Kestrel's weight?",
        "",
    ],
)
def test_what_stands_in_the_passage_passes(text: str) -> None:
    assert unsupported(example(text), [PASSAGE]) == []


@pytest.mark.parametrize(
    ("text", "strange"),
    [
        ("The Kestrel weighs 4 kilograms.", ["4"]),
        ("The Kestrel costs 1,141 euros.", ["1,141"]),
        ("Requests must reach Hedda Stroumann.", ["Stroumann"]),
        ("It costs 3.5 euros in Berlin.", ["3.5", "Berlin"]),
        ("By 31 April", ["April"]),
        ("the Form T-20", ["20", "T-20"]),
    ],
)
def test_a_number_or_a_name_of_another_place_is_found(text: str, strange: list[str]) -> None:
    assert unsupported(example(text), [PASSAGE]) == strange


def test_a_name_may_begin_with_any_capital() -> None:
    assert unsupported(example("Requests must reach Émile."), [PASSAGE]) == ["Émile"]


def test_every_turn_is_audited() -> None:
    assert unsupported(example("What does it weigh?", "5 kilograms"), [PASSAGE]) == ["5"]


def test_an_example_of_two_passages_may_use_both() -> None:
    other = Passage("d1", 200, 230, "The Falcon weighs 9 kilograms.", "Acme")
    assert unsupported(example("the Kestrel and the Falcon weigh 9"), [PASSAGE, other]) == []


def test_the_kept_and_the_dropped_are_counted_by_generator() -> None:
    audit = Audit()
    given = [example("3 euros", generator="a"), example("5 euros", generator="a"), example("7 euros", generator="b")]
    assert list(audit.faithful(given, {PASSAGE.id: PASSAGE})) == given[:1]
    assert audit.counts() == {"a": {"kept": 1, "dropped": 1}, "b": {"kept": 0, "dropped": 1}}
    assert audit.passages_met == {PASSAGE.id}
    assert audit.reasons[0].startswith("5 not in the passage: 5 euros")


def test_only_the_first_reasons_are_kept() -> None:
    audit = Audit()
    assert not list(audit.faithful([example("999")] * 80, {PASSAGE.id: PASSAGE}))
    assert len(audit.reasons) == 50
    assert audit.dropped["test"] == 80
