"""The laws of the round trip: an answer stands if a reader of the passage gives it too, or no judge says no."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from imprint.errors import OverBudget
from imprint.synthesis import KINDS
from imprint.synthesis.audit import Audit, AuditSettings, lines
from imprint.synthesis.cloze import ABSTENTION
from imprint.synthesis.faithful import Finding
from imprint.synthesis.round_trip import READ_ALREADY, TOGETHER, agree, judged, round_trip
from imprint.types import Example, Passage, Prompt, Text, Turn
from scholar import PASSAGES, Scholar, scholar

TEXT = "The Kestrel weighs 3 kilograms and comes in green."
PASSAGE = Passage("d1", 0, len(TEXT), TEXT, "Acme")
BY_ID = {PASSAGE.id: PASSAGE}


class Says:
    """A writer that always says the same."""

    name = "says"

    def __init__(self, text: str) -> None:
        self.text = text
        self.calls: list[list[Prompt]] = []

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        self.calls.append(list(prompts))
        return [Text(self.text)] * len(prompts)


def asked(question: str, answer: str) -> Example:
    return Example((Turn("user", question), Turn("assistant", answer, learn=True)), (PASSAGE.id,), "test")


GREEN = asked("What colour is the Kestrel?", "green")
READING = Example((Turn("text", "The Kestrel comes in green.", learn=True),), (PASSAGE.id,), "test")


def passed(items: list[Example], reader: Says) -> tuple[list[Example], list[tuple[Example, Finding]]]:
    dropped: list[tuple[Example, Finding]] = []
    kept = list(round_trip(items, BY_ID, reader, seed=0, drop=lambda e, f: dropped.append((e, f))))
    return kept, dropped


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("green", "The Kestrel comes in green."),
        ("3 kilograms", "three kilograms"),
        ("1,000", "1000 tents"),
        ("the head cook", "head cook"),
        ("5%", "5 percent"),
        ("by Ana Petrov", "Ana Petrov"),
    ],
)
def test_answers_agree_where_they_share_half_their_words_or_hold_each_other(one: str, other: str) -> None:
    assert agree(one, other) and agree(other, one)


@pytest.mark.parametrize(("one", "other"), [("green", "red"), ("3", "30"), ("1,000", "100"), ("green", ""), ("Ana", "Anabel")])
def test_other_answers_do_not_agree(one: str, other: str) -> None:
    assert not agree(one, other)


def test_an_answer_that_is_not_read_again_is_dropped() -> None:
    assert passed([GREEN], Says("It comes in green.")) == ([GREEN], [])
    kept, dropped = passed([GREEN], Says("red"))
    assert kept == []
    assert [(e, f.kind) for e, f in dropped] == [(GREEN, "round trip")]


def test_the_reader_sees_the_passage_and_puts_on_its_skill() -> None:
    reader = Says("green")
    passed([GREEN], reader)
    ((prompt,),) = reader.calls
    assert prompt.skill == "read"
    assert TEXT in prompt.turns[0].text and GREEN.turns[0].text in prompt.turns[0].text


def test_what_is_no_short_answer_passes_without_being_asked() -> None:
    others = [READING, asked("Is it old?", ABSTENTION), asked("Say more?", "word " * 20), asked("The Kestrel ...", "is green.")]
    others.append(Example(GREEN.turns, (), "replay"))
    reader = Says("red")
    assert passed(others, reader) == (others, [])
    assert reader.calls == []


def test_order_is_kept_and_groups_are_small() -> None:
    items = [asked(f"What colour is tent {n}?", "green") if n % 3 else READING for n in range(3 * TOGETHER)]
    reader = Says("green")
    assert passed(items, reader) == (items, [])
    assert len(reader.calls) == 3


@pytest.mark.parametrize(("verdict", "stays"), [("Yes.", True), ("No, it does not.", False), ("**No**", False), ("Perhaps", True), ("", True), ("Not sure", True)])
def test_what_the_judge_denies_is_dropped(verdict: str, stays: bool) -> None:
    dropped: list[Example] = []
    judge = Says(verdict)
    kept = list(judged([READING, GREEN], BY_ID, judge, seed=0, drop=lambda e, f: dropped.append(e)))
    assert kept == ([READING, GREEN] if stays else [])
    assert kept + dropped == [READING, GREEN]
    assert all(TEXT in p.turns[0].text and "green" in p.turns[0].text for p in judge.calls[0])


@pytest.mark.parametrize("check", [round_trip, judged])
def test_a_budget_spent_half_way_keeps_what_was_checked_and_what_needs_no_check(check: Callable[..., Iterator[Example]]) -> None:
    class Stops(Says):
        def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
            stop = OverBudget("1 USD is spent.")
            stop.texts = {0: Text("green")}
            raise stop

    general = Example(GREEN.turns, (), "replay")
    kept = []
    with pytest.raises(OverBudget):
        for example in check([GREEN, asked("Which colour?", "green"), general], BY_ID, Stops(""), seed=0, drop=pytest.fail):
            kept.append(example)
    assert kept == [GREEN, general]


def test_an_audit_asks_its_reader_and_judge_and_counts_what_they_drop() -> None:
    audit = Audit()
    assert list(audit.pass_through([GREEN, READING], BY_ID, reader=Says("red"), judge=Says("no"))) == []
    assert audit.report()["reasons"] == {"round trip": 1, "judged": 1}
    off = Audit(AuditSettings(round_trip=False, judged=False))
    assert list(off.pass_through([GREEN, READING], BY_ID, reader=Says("red"), judge=Says("no"))) == [GREEN, READING]


@pytest.mark.parametrize(
    ("one", "other"),
    [("3 kilograms", "5 kilograms"), ("within 30 days", "within 60 days"), ("1 March 1987", "1 March 1988"),
     ("allowed", "not allowed")],
)  # fmt: skip
def test_answers_that_differ_in_a_number_or_a_not_do_not_agree(one: str, other: str) -> None:
    assert not agree(one, other)


def read_already(question: str, answer: str) -> Example:
    return Example(asked(question, answer).turns, (PASSAGE.id,), "self_study/question", "says")


def test_what_its_own_writer_read_already_it_reads_again_below_another_passage() -> None:
    other = Passage("d1", 900, 930, "The Falcon comes in red.", "Acme")
    item, reader = read_already("What colour is the Kestrel?", "green"), Says("green")
    for order in ([other, PASSAGE], [PASSAGE, other]):
        list(round_trip([item], {p.id: p for p in order}, reader, seed=0, drop=pytest.fail))
    another = Says("green")
    another.name = "another"
    list(round_trip([item], {other.id: other, PASSAGE.id: PASSAGE}, another, seed=0, drop=pytest.fail))
    again = [call[0].turns[0].text for call in reader.calls]
    alone = f"Acme.\n{TEXT}\n\nWhat colour is the Kestrel?"
    assert again == [f"Acme.\nThe Falcon comes in red.\n\n{alone}"] * 2
    assert another.calls[0][0].turns[0].text == alone


def test_the_kinds_whose_answers_were_read_are_known() -> None:
    def reply(prompt: Prompt) -> str:
        return READ if prompt.skill == "read" else scholar(prompt)

    rounds = [kind().examples(PASSAGES, Scholar(reply), seed=seed) for kind in KINDS.values() for seed in range(12)]
    assert {e.generator for made in rounds for e in made if e.turns[-1].text == READ} == set(READ_ALREADY)


READ = "at noon in the canteen"


def test_a_report_says_by_whom_items_were_checked() -> None:
    def by(writer: str, *, reader: str = "", judge: str = "") -> dict[str, int]:
        audit, item = Audit(), replace(GREEN, writer=writer)
        readers = [Says("green") if name else None for name in (reader, judge)]
        for each, name in zip(readers, (reader, judge), strict=True):
            if each:
                each.name = name
        list(audit.pass_through([item], BY_ID, reader=readers[0], judge=readers[1]))
        report = audit.report()
        assert "read or judged once more by: another writer" in " ".join(lines(report))
        return {who: n for who, n in report["checked_by"].items() if n}

    assert by("rules") == {"rules alone": 1}
    assert by("base", reader="base") == by("base", reader="base", judge="base") == {"its own writer": 1}
    assert by("base", reader="base", judge="big") == by("base", reader="big") == {"another writer": 1}


@pytest.mark.parametrize("variant", ["questions/sentence", "questions/paragraph"])
def test_an_answer_in_whole_sentences_stands_where_they_hold_what_is_read(variant: str) -> None:
    told = f"{TEXT} It was drawn by Ana Petrov in 1987, and is sewn in Pellivost by hand."
    item = replace(asked("What colour is the Kestrel? Answer in a few sentences.", told), generator=variant)
    assert passed([item], Says("green"))[0] == [item]
    assert passed([item], Says("1987"))[0] == [item]  # other numbers beside it are no contradiction
    for wrong in ("brown", "1988", "Not in the text.", ""):
        assert passed([item], Says(wrong))[0] == []
