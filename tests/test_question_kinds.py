"""The laws of question kinds: each is what its name says, all come where they were written, none is taught too."""

from __future__ import annotations

import pytest

from imprint.evaluation.closed_book import Question, grade
from imprint.evaluation.question_kinds import (
    ACROSS,
    DIRECT,
    NUMERIC,
    PARAPHRASED,
    REVERSED,
    WITHIN,
    as_question,
    hold_out_by_kind,
)
from imprint.evaluation.questions import Apart
from imprint.types import Example, Turn


def asked(question: str, answer: str, generator: str = "questions/short", *passages: str) -> Example:
    turns = (Turn("user", question), Turn("assistant", answer, learn=True))
    return Example(turns, passages or ("d1:0-9",), generator, "scribe")


def compared(answer: str, *passages: str) -> Example:
    return asked("Which weighs more kilograms, the Kestrel or the Tamsel?", answer, "multi_document/comparison", *passages)


TOLD = "The Kestrel. The Kestrel weighs 3 kilograms. The Tamsel weighs 2 kilograms."
ONE, TWO = ("d1:0-9", "d1:90-99"), ("d1:0-9", "d2:0-9")


@pytest.mark.parametrize(
    ("example", "kind"),
    [
        (asked("Who drew it?", "Ana Petrov"), DIRECT),
        (asked("What does it weigh?", "3 kilograms"), NUMERIC),
        (asked("When was it drawn?", "31 March 1987"), NUMERIC),
        (asked("What weighs 3 kilograms?", "The Kestrel", "reversal/question"), REVERSED),
        (compared(TOLD, *ONE), WITHIN),
        (compared(TOLD, *TWO), ACROSS),
    ],
)
def test_an_example_shows_its_kind(example: Example, kind: str) -> None:
    question = as_question(example)
    assert question is not None
    assert question.kind == kind


@pytest.mark.parametrize(
    "example",
    [
        asked("Acme: Who drew it?", "Ana"),
        asked("Who drew it? Answer in a whole sentence.", "Ana drew it.", "questions/sentence"),
        asked("Is it green?", "Yes. It is.", "negatives/confirmed"),
        compared("Neither can be told from this.", *TWO),
        compared(TOLD, "d1:0-9"),
        asked("Who weighs more?", "The Kestrel.", "multi_document/comparison", *TWO),
        Example((Turn("text", "The Kestrel."),), ("d1:0-9",), "cloze"),
    ],
)
def test_what_cannot_be_graded_is_no_question(example: Example) -> None:
    assert as_question(example) is None


def test_in_a_comparison_the_other_thing_is_the_wrong_one() -> None:
    question = as_question(compared(TOLD, *TWO))
    assert question is not None
    assert (question.answers, question.wrong) == (("the Kestrel",), ("the Tamsel",))
    assert grade(question, "The Tamsel.").twin == 1
    assert grade(question, "The Kestrel, not the Tamsel.").twin == 0


def test_what_is_level_has_no_wrong_thing() -> None:
    question = as_question(compared("They are the same. Both weigh 3 kilograms.", *TWO))
    assert question is not None
    assert (question.answers, question.wrong) == (("the same",), ())


WORDS = ("bell", "boat", "crane", "form", "gate", "hall", "kiln", "loom", "mast", "oven")
MIXED = [
    *(asked(f"Who drew the {w}?", f"Ana {w.title()}", "questions/short", f"d1:{i}-9") for i, w in enumerate(WORDS)),
    *(asked(f"How heavy may a {w} be?", f"{i + 3} kilograms", "questions/short", f"d1:{i}-9") for i, w in enumerate(WORDS)),
    *(asked(f"What is drawn by Ana {w.title()}?", f"the {w}", "reversal/question", f"d1:{i}-9") for i, w in enumerate(WORDS)),
    *(asked(f"Which is longer by law, the {w} or the {v}?", f"The {w}. So it is.", "multi_document/comparison", "d1:0-9", "d2:0-9")
      for w, v in zip(WORDS, WORDS[1:], strict=False)),
]  # fmt: skip


def test_every_kind_that_was_written_is_held_out() -> None:
    held = hold_out_by_kind(lambda: MIXED, 4, seed=0, most=0.25)
    assert {q.kind for q in held} == {DIRECT, NUMERIC, REVERSED, ACROSS}


def test_no_more_is_held_out_than_is_wanted_nor_than_its_share() -> None:
    assert len(hold_out_by_kind(lambda: MIXED, 2, seed=0)) == 2
    assert len(hold_out_by_kind(lambda: MIXED, 40, seed=0)) == len(MIXED) // 10


def test_holding_out_follows_from_the_seed() -> None:
    assert hold_out_by_kind(lambda: MIXED, 4, seed=1) == hold_out_by_kind(lambda: MIXED[::-1], 4, seed=1)
    assert hold_out_by_kind(lambda: MIXED, 4, seed=1) != hold_out_by_kind(lambda: MIXED, 4, seed=2)


def test_a_question_is_paraphrased_where_its_answer_is_asked_for_in_other_words() -> None:
    direct = [e for e in MIXED if e.turns[0].text.startswith("Who")]
    others = [asked(f"Name whoever made plans for that {e.turns[0].text[13:-1]}", e.turns[1].text, "questions/short", *e.passages)
              for e in direct]  # fmt: skip
    alone = hold_out_by_kind(lambda: direct, 40, seed=0)
    both = hold_out_by_kind(lambda: [*direct, *others], 40, seed=0)
    assert {q.kind for q in alone} == {DIRECT}
    assert {q.kind for q in both} == {PARAPHRASED}


def test_nearly_the_same_words_are_no_paraphrase() -> None:
    direct = [e for e in MIXED if e.turns[0].text.startswith("Who")]
    near = [asked(f"who drew a {e.turns[0].text[13:]}", e.turns[1].text, "questions/short", *e.passages) for e in direct]
    assert {q.kind for q in hold_out_by_kind(lambda: [*direct, *near], 40, seed=0)} == {DIRECT}


def test_what_is_held_out_of_any_kind_is_taught_in_no_example() -> None:
    held = hold_out_by_kind(lambda: MIXED, 4, seed=0)
    apart = Apart(held)
    rest = [e.turns[0].text for e in MIXED if apart.keeps(e)]
    assert not {q.text for q in held} & set(rest)


# --- near-duplicates --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "contains", "twin"),
    [("30 euros", 1, 0), ("It is 45 euros.", 0, 1), ("Not 45 euros but 30 euros.", 1, 0), ("145 euros", 0, 0), ("", 0, 0)],
)
def test_a_twins_value_counts_as_such_only_where_no_right_one_stands(said: str, contains: float, twin: float) -> None:
    answered = grade(Question("What does a visit cost?", ("30 euros",), "near", ("45 euros",)), said)
    assert (answered.contains, answered.twin) == (contains, twin)
