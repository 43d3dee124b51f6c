"""The laws of statements: a compound sentence says simple things, and each can be asked for."""

import time

import pytest

from imprint.documents.records import read_table
from imprint.documents.webpage import read_html
from imprint.synthesis.statements import Asking, Statement, askings, split, statements
from imprint.types import Passage


def passage(text: str, title: str = "Acme") -> Passage:
    return Passage("d1", 0, len(text), text, title)


def asked(text: str) -> dict[str, str]:
    """The question words of every span worth asking for."""
    return {a.answer: a.words for a in askings(Statement(text, passage(text), text))}


@pytest.mark.parametrize(
    ("sentence", "simple"),
    [
        (
            "The Kestrel weighs 3 kilograms, costs 85 euros and comes in green.",
            ["The Kestrel weighs 3 kilograms.", "The Kestrel costs 85 euros.", "The Kestrel comes in green."],
        ),
        (
            "The foundry shift starts at 6:15, while the office opens at 8:30.",
            ["The foundry shift starts at 6:15.", "The office opens at 8:30."],
        ),
        ("The shop is open on Monday and Friday.", ["The shop is open on Monday and Friday."]),
        ("Hello there.", ["Hello there."]),
    ],
)
def test_a_compound_sentence_becomes_simple_ones(sentence: str, simple: list[str]) -> None:
    assert split(sentence) == simple


def test_a_relative_clause_becomes_a_statement_about_what_it_follows() -> None:
    found = split("Hedda signs the blue form, which costs 20 euros.")
    assert sorted(found) == ["Hedda signs the blue form.", "The blue form costs 20 euros."]


def test_several_subjects_share_their_verb() -> None:
    assert split("Bread, butter and jam are free.") == ["Bread, butter and jam are free."]


def test_no_statement_has_a_number_or_a_name_that_its_sentence_has_not() -> None:
    text = "Idris Venquamp, who joined in 2016, leads 38 people and pays 85 euros, but Hedda signs form T-19."
    for statement in statements(passage(text)):
        assert statement.whole == text
        assert all(word.strip(".,").lower() in text.lower() for word in statement.text.split())


PLANS = "Plan | Deductible | Copay\nPlus | $500 | 20 euros\nBasic | $2,000 | none"
CELLS = ["Deductible of Plus: $500", "Copay of Plus: 20 euros", "Deductible of Basic: $2,000", "Copay of Basic: none"]


@pytest.mark.parametrize(
    ("table", "cells"),
    [
        (PLANS, CELLS),
        ("| Plan | Cover |\n|---|:--|\n| Plus | Glasses. Teeth. |", ["Cover of Plus: Glasses. Teeth."]),
        ("Item | 2023 | 2022\nNet sales | 32,765 | 31,657", ["Net sales, 2023: 32,765", "Net sales, 2022: 31,657"]),
        ("2023 | 2022\nNet sales | 32,765 | 31,657", []),  # a corner without a word is not told from one left out
        ("Ana | Sales | Rome\nTom | Accounts | Oslo", []),  # no head
        ("Acme | $500 | $20\nBirds | $900 | $10", []),
        ("Acme | 1987\nBirds | 1990", []),
        ("Ana | n/a | 3\nTom | 5 | 4", []),
        ("Rent | by use | monthly\nHeat | $20 | monthly", []),
        ("Plan | 2023 sales | Growth\nPlus | 30 | 5%", ["Plus, 2023 sales: 30", "Growth of Plus: 5%"]),
        ("Plan | Copay\nPlus | $20\nPlus | $30", []),  # which of them?
        ("Plan | Copay\nPlus | $20 | $5\nBasic | -", []),
        ("Plan | Copay\n1 | $20\n2 | $30", []),
        ("Plan | Copay\n\nPlus | $20", []),
    ],
)
def test_a_cell_of_a_table_is_told_under_its_column_and_its_row(table: str, cells: list[str]) -> None:
    said = [s for s in statements(passage(f"The plans differ.\n\n{table}\n\nThe shop is open.")) if s.cell]
    assert [s.text for s in said] == cells
    assert all(s.text[s.cell :] in table for s in said)


@pytest.mark.parametrize(
    ("records", "cells"),
    [
        ("Plan: Plus; Copay: $20\n\nPlan: Basic; Copay: $30", ["Copay of Plus: $20", "Copay of Basic: $30"]),
        ("Plan: Plus; For: men; women; Ages: all\n\nPlan: Basic; For: men", ["For of Plus: men; women; Ages: all", "For of Basic: men"]),
        ("Plan: Plus; Copay: $20\n\nPlan: Plus; Copay: $30", []),  # which of them?
        ("Plan: 1; Copay: $20\n\nPlan: 2; Copay: $30", []),
        ("Note: the shop is shut; see: the list of all shops.", []),
        ("Bread.\n\nOf: rye; Time: 5 hours\n\nBuns.\n\nOf: oats; Time: 9 hours", []),
        ("Plan: Plus; : 1; : 2\n\nPlan: Basic; : 3", []),
    ],
)
def test_a_field_of_a_record_is_told_under_its_name_and_its_first_field(records: str, cells: list[str]) -> None:
    assert [s.text for s in statements(passage(records)) if s.cell] == cells


def test_tables_are_read_as_the_loaders_write_them() -> None:
    csv = read_table(b"Plan,Deductible,Copay\nPlus,$500,20 euros\nBasic,\"$2,000\",none\n", "plans.csv").text
    assert [s.text for s in statements(passage(csv))] == CELLS
    web = "<table><tr><th>Plan<th>Deductible<th>Copay<tr><td>Plus<td>$500<td>20 euros<tr><td>Basic<td>$2,000<td>none</table>"
    assert [s.text for s in statements(passage(read_html(web.encode(), "plans.html").text))] == CELLS


def test_a_cell_is_asked_for_and_nothing_else_of_its_row() -> None:
    found = [(a.words, a.answer, a.echo) for s in statements(passage(PLANS)) for a in askings(s)]
    assert found[:2] == [
        ("how much", "$500", "Deductible of Plus: how much"),
        ("how many euros", "20 euros", "Copay of Plus: how many euros"),
    ]
    assert [answer for _, answer, _ in found] == ["$500", "20 euros", "$2,000", "none"]


def test_a_row_finds_the_head_of_its_table_before_the_passage() -> None:
    row = "Basic | $2,000 | none"
    cut = Passage("d1", PLANS.index(row), len(PLANS), row, "Acme", whole=PLANS)
    assert [s.text for s in statements(cut)] == CELLS[2:]
    assert not statements(passage(row))


def test_of_a_row_cut_short_nothing_is_told() -> None:
    cut = Passage("d1", 0, len(PLANS) - 5, PLANS[:-5], "Acme", whole=PLANS)
    assert [s.text for s in statements(cut)] == CELLS[:2]


def test_headings_lists_and_short_lines_make_no_odd_statement() -> None:
    text = "# Leave\n\nHelmets show who is who:\n\n- Casters wear yellow helmets.\n- Go.\n"
    assert [s.text for s in statements(passage(text))] == ["Casters wear yellow helmets."]


@pytest.mark.parametrize(
    ("text", "answer", "words"),
    [
        ("The Kestrel weighs 3 kilograms.", "3 kilograms", "how many kilograms"),
        ("The Kestrel costs 85 euros.", "85 euros", "how many euros"),
        ("A pass costs €40.", "€40", "how much"),
        ("Schools receive a discount of 15 percent.", "15 percent", "what percent"),
        ("The company was founded in 1987.", "1987", "what year"),
        ("The party takes place in June.", "June", "what month"),
        ("Requests must reach the office by 31 March.", "31 March", "what date"),
        ("The foundry shift starts at 6:15.", "6:15", "what time"),
        ("Finished bells are collected every Thursday.", "Thursday", "what day"),
        ("The warehouse burnt down near Pellivost.", "Pellivost", "where"),
        ("An employee calls extension 212.", "extension 212", "which extension"),
        ("The front desk has extension 212.", "extension 212", "which extension"),
        ("The Kestrel comes in green.", "The Kestrel", "what"),
        ("Hedda Strouvian signs the form.", "Hedda Strouvian", "who"),
        ("The training budget is approved by Idris Venquamp.", "Idris Venquamp", "who"),
        ("The Kestrel is packed in a blue linen bag.", "a blue linen bag", "what"),
    ],
)
def test_a_span_is_asked_for_with_words_that_fit_it(text: str, answer: str, words: str) -> None:
    assert asked(text).get(answer) == words


def test_a_number_that_belongs_to_a_name_or_a_time_is_not_asked_for_alone() -> None:
    assert not {"7", "19", "6", "15"} & asked("A bell with code R7 or form T-19 is melted at 6:15.").keys()


def test_every_asking_is_a_span_of_its_statement_and_its_echo_hides_it() -> None:
    text = "On 3 May 2020 Ana Petrov sold 640 bells for $1,200 at 14 Hobbenquay Lane in Pellivost."
    for asking in askings(Statement(text, passage(text), text)):
        assert text[asking.start : asking.end] == asking.answer
        assert asking.echo == text[: asking.start] + asking.echo[asking.start :]
        assert asking.gap.count("____") == 1
        assert asking.gap.replace("____", asking.answer) == text


def test_no_span_is_asked_for_twice() -> None:
    text = "Hedda Strouvian and Idris Venquamp met in Rome in May 1987."
    spans = [(a.start, a.end) for a in askings(Statement(text, passage(text), text))]
    assert len(spans) == len(set(spans))


def test_an_echo_that_opens_a_sentence_is_capitalised() -> None:
    text = "Hedda Strouvian signs the form."
    assert Asking(Statement(text, passage(text), text), 0, 15, "who", "subject").echo == "Who signs the form."


ODD = (
    "", " ", "\n\n\n", ".", "...", "?!", ", , ,", "a", "- ", "####", "the the the the the", "and and and and", "is is is",
    "| Size | Price |\n|---|---|\n| 3 m | 40 € |\n| 4 m | 55 € |", "1. 2. 3. 4.", "€ $ £ %", "3", "%%%% 5 % 6%",
    "公司成立于1987年,总部设在上海。它有38名员工。", "Компания основана в 1987 году и продаёт колокола.",
    "الشركة تأسست عام 1987 وتبيع الأجراس.", "Der Betrieb wurde 1987 gegründet, hat 38 Leute und schließt um 17:00 Uhr.",
    "L’entreprise, qui vend des cloches, a été fondée en 1987 à Lyon.", "🔔 🔔🔔 costs 5 🔔.", "who which who which is",
    "The who which, that is.", "http://a.b/c?d=e&f=g,h and ftp://x", "def f(x):\n    return x, x and x\n", "\u2028\u00a0\u200b",
    "In in in in, on on on and at at at.", "The Kestrel weighs , costs  and comes", "Costs 5.", "- - - - , and is",
    "<|im_start|>user\nHello there my friend<|im_end|>", "{{ x }} {% y %} is {z} and {}", "\\d+ (( [[ is ** and ++",
)  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_no_text_breaks_the_splitting(text: str) -> None:
    for statement in statements(passage(text, title="")):
        for asking in askings(statement):
            assert asking.answer.strip()
            assert asking.echo
    split(text)


@pytest.mark.parametrize("text", ["word " * 5000, "and, " * 3000, "The shop is open, " * 1000, "1, 2 and " * 2000, "A" * 20000])
def test_a_long_text_takes_a_moment_only(text: str) -> None:
    began = time.monotonic()
    for statement in statements(passage(text)):
        askings(statement)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "sentence",
    [
        "Visitors may not enter the yard and use the crane.",
        "The rule applies if the visitor is under 18 and has no ticket.",
        "He denied that he took the money and left the town.",
        "The report claims that the earth is flat and has edges.",
        "The shop does not accept cards and cheques.",
    ],
)
def test_a_clause_that_may_be_false_alone_stays_in_its_sentence(sentence: str) -> None:
    assert split(sentence) == [sentence]


@pytest.mark.parametrize("name", ["St. Louis", "Mt. Pankino", "Dr. Ana Petrov", "J. Edgar Hoover", "John A. Smith"])
def test_a_name_goes_on_behind_what_is_shortened(name: str) -> None:
    text = f"The bell was cast for {name} in 1893."
    answers = [a.answer for a in askings(statements(Passage("d", 0, len(text), text, "Bells"))[0])]
    assert name in answers
