"""The laws of grading: a right answer is right however it is said, and an interval holds its mean."""

import numpy as np
import pytest

from conftest import Scribe
from imprint.evaluation.closed_book import Question, abstains, answer_all, grade, interval, normalised
from imprint.synthesis.cloze import ABSTENTION
from imprint.types import Prompt


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Kestrel!", "kestrel"),
        ("a tent, an arm; the END.", "tent arm end"),
        ("1,140 degrees", "1140 degrees"),
        ("state-of-the-art", "state of art"),
        ("“", "“"),
        ("", ""),
    ],
)
def test_case_punctuation_and_articles_do_not_count(text: str, plain: str) -> None:
    assert normalised(text) == plain


def graded(answer: str, said: str) -> tuple[float, float, float]:
    answered = grade(Question("?", (answer,)), said)
    return answered.exact, round(answered.f1, 2), answered.contains


@pytest.mark.parametrize(
    ("answer", "said", "scores"),
    [
        ("85 crowns", "85 Crowns.", (1, 1, 1)),
        ("85 crowns", "The Tamsel costs 85 crowns.", (0, 0.67, 1)),
        ("85 crowns", "It costs 185 crowns.", (0, 0.33, 0)),
        ("5", "It costs 85.", (0, 0, 0)),
        ("Ana", "Banana", (0, 0, 0)),
        ("the Clapper", "clapper", (1, 1, 1)),
        ("Clapper", "", (0, 0, 0)),
        ("four times a year", "four times the year", (1, 1, 1)),
        ("R7", "code R7", (0, 0.67, 1)),
    ],
)
def test_an_answer_is_contained_in_whole_words_only(answer: str, said: str, scores: tuple[float, ...]) -> None:
    assert graded(answer, said) == scores


def test_the_best_of_several_right_answers_counts() -> None:
    answered = grade(Question("?", ("thirty-eight people", "38")), "38")
    assert (answered.exact, answered.f1, answered.contains) == (1, 1, 1)


@pytest.mark.parametrize("said", ["", "the"])
def test_an_empty_answer_is_never_right(said: str) -> None:
    assert graded("A", said) == (0, 0, 0)


def test_a_decimal_point_counts() -> None:
    assert graded("4.2 kilograms", "42 kilograms")[2] == 0


# --- abstention -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        ABSTENTION,
        "I don't know.",
        "I do not know the answer.",
        "The text does not mention a phone number.",
        "That is not stated in the handbook.",
        "There is no information about this.",
        "This is unknown.",
        "The question cannot be answered from the text.",
        "The document doesn't specify who insures the building.",
        "It is not mentioned.",
    ],
)
def test_saying_that_the_documents_do_not_tell_is_an_abstention(text: str) -> None:
    assert abstains(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No. 5",
        "No.",
        "The shop does not open on Sunday.",
        "The shop is not open.",
        "Not before 7:00.",
        "No dogs.",
        "Nobody",
        "The company knows this.",
        "Nottingham",
        "It is not heated. The guide says so.",
        "It provides no lunch.",
    ],
)
def test_an_answer_with_a_no_in_it_is_no_abstention(text: str) -> None:
    assert not abstains(text)


@pytest.mark.parametrize(
    "text",
    [
        "No, the answer is 5.",
        "The price does not include breakfast.",
        "Visitors must not say a word.",
        "The company does not provide helmets.",
        "The tin may not contain lead.",
    ],
)
def test_a_fact_that_is_denied_is_no_abstention(text: str) -> None:
    assert not abstains(text)


@pytest.mark.parametrize(
    "text", ["It is not known.", "I'm not sure.", "I can't tell.", "That is not available in the document."]
)
def test_other_ways_to_say_so_are_abstentions_too(text: str) -> None:
    assert abstains(text)


def test_an_unanswerable_question_is_answered_right_by_abstaining_alone() -> None:
    question = Question("Who insures it?", (), "unanswerable")
    assert grade(question, ABSTENTION).contains == 1
    assert grade(question, "Acme insures it.").contains == 0


def test_abstaining_is_wrong_where_the_documents_tell() -> None:
    assert grade(Question("?", ("5",)), ABSTENTION).contains == 0


# --- the interval -----------------------------------------------------------------------------


def test_an_interval_holds_its_mean_and_stays_within_its_values() -> None:
    score = interval([1.0] * 30 + [0.0] * 10, seed=0)
    assert score.value == 0.75
    assert 0 <= score.low < 0.75 < score.high <= 1
    assert score.n == 40


def test_an_interval_is_as_wide_as_the_normal_one_and_narrows_with_n() -> None:
    few, many = (interval([1.0, 0.0] * n, seed=0) for n in (50, 5000))
    assert few.high - few.low == pytest.approx(2 * 1.96 * 0.05, rel=0.1)
    assert many.high - many.low == pytest.approx((few.high - few.low) / 10, rel=0.1)


def test_an_interval_follows_from_its_seed() -> None:
    values = list(np.random.default_rng(0).random(30))
    assert interval(values, seed=1) == interval(values, seed=1)
    assert interval(values, seed=1) != interval(values, seed=2)


def test_an_interval_of_nothing_says_so() -> None:
    assert interval([], seed=0).n == 0
    assert np.isnan(interval([], seed=0).value)


def test_every_question_is_answered_once_and_in_order(scribe: Scribe) -> None:
    questions = [Question(f"Text: number {i}", (str(i),)) for i in range(5)]
    answered, seconds = answer_all(
        scribe, questions, lambda q: Prompt.ask(f"{q}\nIn other words:"), seed=0
    )
    assert [a.question for a in answered] == questions
    assert [a.contains for a in answered] == [1] * 5
    assert len(scribe.calls) == 1
    assert seconds >= 0
