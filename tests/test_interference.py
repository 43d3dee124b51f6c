"""The laws of interference: whoever speaks of the documents unasked is found, and only they; silence is counted."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from imprint.errors import BadInput
from imprint.evaluation import forgetting
from imprint.evaluation.closed_book import UNANSWERABLE, Question
from imprint.evaluation.interference import (
    abstention,
    distinctive,
    interference,
    strangers,
    unrelated_answers,
    unrelated_questions,
)
from imprint.evaluation.questions import Apart
from imprint.synthesis.prompt_files import prompt_file
from imprint.types import Example, Prompt, Text, Turn

DOCUMENT = """# Quellmarsk Bellworks

Hedda Strouvian founded Quellmarsk Bellworks in 1987. The T-19 bell weighs 1,250 kg and costs 85 euros.
Members of Health Plus pay less in South Africa, from July on. Photographs are not our business, nor is the kettle."""


class Parrot:
    """Says to each question what it was given for it, else a fixed sentence."""

    name = "parrot"

    def __init__(self, said: dict[str, str], otherwise: str = "Water is wet and the sky is blue.") -> None:
        self.said, self.otherwise = said, otherwise

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        return [Text(self.said.get(p.turns[-1].text, self.otherwise)) for p in prompts]


def test_at_least_sixty_unrelated_questions_come_along() -> None:
    questions = unrelated_questions()
    assert len(questions) == len(set(questions)) >= 60
    assert all(len(q) < 80 and q[-1] in "?.!" for q in questions)


def test_no_unrelated_question_is_trained_on() -> None:
    apart = Apart(Question(q, ()) for q in unrelated_questions())
    replayed = prompt_file("replay.general.txt").splitlines()
    assert all(apart.keeps(Example((Turn("user", r), Turn("assistant", "x")), (), "replay")) for r in replayed)


def test_names_numbers_and_rare_words_are_the_documents_own() -> None:
    found = distinctive([DOCUMENT], [forgetting.general_text()])
    assert {"quellmarsk", "strouvian", "hedda strouvian", "health plus", "1987", "1250", "t-19"} <= found
    assert not {"85", "kettle", "founded", "members", "health", "bell", "business", "july", "south africa"} & found


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("It was Strouvian's idea.", {"strouvian"}),
        ("About 1250 kilograms.", {"1250"}),
        ("You may ask Health Plus.", {"health plus"}),
        ("Health is a plus.", set()),
        ("85 of them.", set()),
        ("", set()),
    ],
)
def test_an_answer_that_speaks_of_the_documents_is_found(answer: str, words: set[str]) -> None:
    questions = unrelated_questions()
    base = unrelated_answers(Parrot({}), seed=0)
    found = interference(Parrot({questions[3]: answer}), [DOCUMENT], base, seed=0)
    assert set(found.answers[3].words) == words and not any(a.words for a in found.answers if a.question != questions[3])
    assert (found.share.value, found.share.n) == (pytest.approx(bool(words) / len(questions)), len(questions))
    assert found.by_chance.value == 0


def test_what_the_untouched_base_says_too_is_no_interference() -> None:
    questions = unrelated_questions()
    base = unrelated_answers(Parrot({questions[0]: "Bellworks."}), seed=0)
    found = interference(Parrot({}, "Bellworks."), [DOCUMENT], base, seed=0)
    assert (found.share.value, found.by_chance.value) == (0, pytest.approx(1 / len(questions)))
    same = interference(Parrot({}, "Bellworks."), [DOCUMENT], unrelated_answers(Parrot({}), seed=0), seed=0)
    assert same.share.value == 1


def test_what_is_asked_for_is_no_interference() -> None:
    question = unrelated_questions()[0]
    named = "Italy" in question
    found = interference(
        Parrot({question: "Italy."}), ["The Italy shop sells Xanthor."], unrelated_answers(Parrot({}), seed=0), seed=0
    )
    assert named and not found.answers[0].words


def test_answers_of_another_set_are_refused() -> None:
    with pytest.raises(BadInput, match="unrelated_answers"):
        interference(Parrot({}), [DOCUMENT], ["a"], seed=0)


def test_silence_is_right_only_where_nothing_is_told() -> None:
    known = [Question(f"Who made part {i}?", ("Maren",)) for i in range(4)]
    unknown = strangers(f"Who ate cake {i}?" for i in range(2))
    silent = "The documents do not say."
    said = {known[0].text: silent, unknown[1].text: silent}
    found = abstention(Parrot(said, "Maren."), [*known, *unknown], seed=0)
    assert (found.right.value, found.right.n, found.wrong.value, found.wrong.n) == (0.5, 2, 0.25, 4)
    assert [a.question.kind for a in found.answers[:2]] == [UNANSWERABLE] * 2
    assert abstention(Parrot({}), known, seed=0).right.n == 0


def test_answers_about_everyday_things_speak_of_no_real_document() -> None:
    folder = Path(__file__).parents[1] / ".." / "shared" / "data" / "fictional_knowledge"
    if not folder.exists():
        pytest.skip("fictional_knowledge is not in ../shared/data on this machine")
    text = json.dumps(json.loads((folder / "fictional_40.json").read_text()))
    assert len(distinctive([text], [forgetting.general_text()])) > 500
    everyday = Parrot({}, "The capital is Rome. Spiders have eight legs. Boil an egg in hot water for 6 minutes.")
    assert interference(everyday, [text], unrelated_answers(Parrot({}), seed=0), seed=0).share.value == 0
