"""The laws of questions: files are read or refused by name and line, and what is held out is nowhere taught."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from imprint.errors import BadQuestions
from imprint.evaluation.closed_book import Question, normalised
from imprint.evaluation.proof import measure, shown
from imprint.evaluation.questions import Apart, hold_out, read_questions
from imprint.run_folder import RunFolder, questions_from_json
from imprint.synthesis.cloze import placed, titled
from imprint.synthesis.questions import Questions
from imprint.types import Example, Passage, Prompt, Text, Turn


def written(tmp_path: Path, name: str, text: str) -> Path:
    file = tmp_path / name
    file.write_text(text, "utf-8")
    return file


WANTED = [Question("Who?", ("Ana", "Ana Petrov"), "direct"), Question("Why?", (), "unanswerable")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.jsonl", '{"question": "Who?", "answer": "Ana", "also": ["Ana Petrov"]}\n\n{"question": "Why?", "answer": ""}\n'),
        ("q.jsonl", '\ufeff{"question": " Who? ", "answers": ["Ana", " Ana Petrov "]}\n{"question": "Why?", "answer": null}'),
        ("q.json", '[{"question": "Who?", "answer": ["Ana"], "also": "Ana Petrov"}, {"question": "Why?", "answer": []}]'),
        ("q.csv", 'question,answer,also\nWho?,Ana,Ana Petrov\n"Why?",,\n'),
    ],
)  # fmt: skip
def test_every_format_gives_the_same_questions(tmp_path: Path, name: str, text: str) -> None:
    assert read_questions(written(tmp_path, name, text)) == WANTED


def test_a_number_is_an_answer(tmp_path: Path) -> None:
    file = written(tmp_path, "q.jsonl", '{"question": "How many?", "answer": 38, "kind": "count"}')
    assert read_questions(file) == [Question("How many?", ("38",), "count")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("q.jsonl", "", "holds no question"),
        ("q.json", "[]", "holds no question"),
        ("q.jsonl", '{"question": "Who?", "answer": "Ana"}\n{"answer": "Ana"}', "item 2"),
        ("q.jsonl", '["Who?", "Ana"]', "item 1"),
        ("q.jsonl", '{"question": 5, "answer": "Ana"}', "item 1"),
        ("q.csv", "frage,antwort\nWer?,Ana\n", "item 1"),
        ("q.jsonl", "Who? Ana", "line 1 is not JSON"),
        ("q.json", "{", "not valid json"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_place(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    with pytest.raises(BadQuestions, match=said):
        read_questions(written(tmp_path, name, text))


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b"\xff\xfe\x00")
    for file, said in ((tmp_path / "none.jsonl", "no questions file"), (tmp_path / "q.jsonl", "UTF-8")):
        with pytest.raises(BadQuestions, match=said):
            read_questions(file)
    with pytest.raises(BadQuestions):
        read_questions(tmp_path)


def test_a_broken_line_is_named_by_its_number(tmp_path: Path) -> None:
    good = '{"question": "Who?", "answer": "Ana"}\n'
    with pytest.raises(BadQuestions, match="line 3"):
        read_questions(written(tmp_path, "q.jsonl", good + good + '{"question": "Why?"\n'))


def test_a_line_ends_at_a_newline_only(tmp_path: Path) -> None:
    text = json.dumps({"question": "Who\u2028or what?", "answer": "Ana"}, ensure_ascii=False)
    assert len(read_questions(written(tmp_path, "q.jsonl", text))) == 1


def test_a_question_without_an_answer_field_is_refused(tmp_path: Path) -> None:
    good = '{"question": "Who?", "answer": "Ana"}\n'
    with pytest.raises(BadQuestions, match="item 2"):
        read_questions(written(tmp_path, "q.jsonl", good + '{"question": "Why?", "anwser": "So."}'))


def test_an_empty_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadQuestions):
        read_questions(written(tmp_path, "q.jsonl", '{"question": " ", "answer": "Ana"}'))


def test_a_file_may_tell_the_twins_value_and_the_date(tmp_path: Path) -> None:
    line = '{"question": "What is the fee?", "answer": "30", "wrong": ["45", "60"], "as_of": "2025-09-12"}'
    asked = read_questions(written(tmp_path, "q.jsonl", line))
    assert asked == [Question("What is the fee?", ("30",), "direct", ("45", "60"), "2025-09-12")]
    table = "question,answer,wrong,as_of\nWhat is the fee?,30,45,\n"
    assert read_questions(written(tmp_path, "q.csv", table)) == [Question("What is the fee?", ("30",), "direct", ("45",))]


@pytest.mark.parametrize(
    ("more", "said"),
    [('"as_of": "soon"', "as_of must be a date"), ('"wrong": "the 30"', "both a right answer and a wrong one")],
)
def test_a_date_that_is_none_and_a_wrong_value_that_is_right_are_refused(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(BadQuestions, match=said):
        read_questions(written(tmp_path, "q.jsonl", f'{{"question": "What is the fee?", "answer": "30", {more}}}'))


def test_questions_are_kept_with_all_that_they_say(tmp_path: Path) -> None:
    some = [Question("Fee?", ("30",), "near", ("45",), "2025-09-12"), Question("Who?", ("Ana",))]
    RunFolder(tmp_path).write_questions(some, "of a test")
    assert RunFolder(tmp_path).read_questions() == (some, "of a test")
    assert questions_from_json([{"text": "Who?", "answers": ["Ana"], "kind": "direct"}]) == some[1:]


def test_a_proof_tells_how_often_the_twins_value_was_answered() -> None:
    some = [Question("Fee of Plus?", ("30",), "near", ("45",)), Question("Fee of Standard?", ("45",), "near", ("30",)),
            Question("Who?", ("Ana",))]  # fmt: skip
    told, answered = measure(Says("It is 45."), some, Prompt.ask, lambda p: 1, seed=0)
    assert (told.twins["value"], told.twins["n"]) == (0.5, 2)
    assert [a.get("twin") for a in shown(answered)] == [1, 0, None]
    assert measure(Says("Ana"), some[2:], Prompt.ask, lambda p: 1, seed=0)[0].twins == {}


class Says:
    """Says the same to everything."""

    name = "says"

    def __init__(self, text: str) -> None:
        self.text = text

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        return [Text(self.text) for _ in prompts]


# --- holding out ------------------------------------------------------------------------------


def qa(question: str, answer: str, passage: str = "d:0-9", variant: str = "question") -> Example:
    turns = (Turn("user", question), Turn("assistant", answer, learn=True))
    return Example(turns, (passage,), f"self_study/{variant}", "scribe")


NAMES = ("Ana", "Bo", "Cy", "Dee", "Eli", "Fay", "Gus", "Hal", "Ida", "Jo")
MANY = [qa(f"Which {thing} does {name} own?", f"the {thing} of {name}", f"d:{name}")
        for name in NAMES for thing in ("bell", "boat", "crane", "form")]  # fmt: skip


def apart(examples: Iterable[Example], chosen: Sequence[Question]) -> list[Example]:
    held = Apart(chosen)
    return [e for e in examples if held.keeps(e)]


def test_what_is_held_out_is_asked_in_no_example_that_remains() -> None:
    chosen = hold_out(MANY, 3, seed=0)
    rest = apart(MANY, chosen)
    assert len(chosen) == 3
    assert not {normalised(q.text) for q in chosen} & {normalised(e.turns[0].text) for e in rest}
    assert len(rest) == len(MANY) - 3


def test_no_more_than_a_tenth_is_held_out() -> None:
    assert len(hold_out(MANY, 40, seed=0)) == len(MANY) // 10
    assert hold_out(MANY[:9], 40, seed=0) == []


def test_a_fact_is_held_out_once() -> None:
    twice = [*MANY, *(qa(f"Tell me which one {e.turns[1].text} is", e.turns[1].text, e.passages[0]) for e in MANY)]
    chosen = hold_out(twice, 8, seed=0)
    assert len({q.answers for q in chosen}) == len(chosen) == 8


def test_holding_out_follows_from_the_seed_and_not_from_the_order() -> None:
    assert hold_out(MANY, 3, seed=1) == hold_out(MANY[::-1], 3, seed=1)
    assert hold_out(MANY, 3, seed=1) != hold_out(MANY, 3, seed=2)


def test_holding_out_looks_at_each_example_once() -> None:
    assert hold_out(iter(MANY), 3, seed=1) == hold_out(MANY, 3, seed=1)


@pytest.mark.parametrize("near", ["which bell does ana own", "Which bell does the Ana own?", "Ana own which bell, does?"])
def test_nearly_the_same_words_are_the_same_question(near: str) -> None:
    assert apart([qa(near, "x")], [Question("Which bell does Ana own?", ("x",))]) == []


def test_another_question_stays() -> None:
    other = qa("How many boats does Bo have?", "x")
    assert apart([other], [Question("Which bell does Ana own?", ("x",))]) == [other]


@pytest.mark.parametrize("way", [titled, placed])
def test_a_question_held_out_is_not_taught_under_its_title_or_place(way: Callable[[str, Passage], str]) -> None:
    passage = Passage("d", 0, 4, "Text", "Quellmarsk Bellworks: Company and Products")
    again = [replace(e, turns=(Turn("user", way(e.turns[0].text, passage)), e.turns[1])) for e in MANY]
    chosen = hold_out(MANY, 4, seed=0)
    assert len(apart(again, chosen)) == len(MANY) - len(chosen) == 36


def test_a_question_is_placed_at_a_name_only_where_the_document_says_so() -> None:
    works = Passage("d", 0, 9, "The week has 36 hours.", "Acme Works: Staff", whole="People at Acme Works are on time.")
    person = Passage("d", 0, 9, "She sold 640 bells.", "Ana Petrov")
    assert placed("How long is the week?", works) == "How long is the week at Acme Works?"
    assert placed("How many bells were sold?", person) == "How many bells were sold (Ana Petrov)?"
    assert placed("What did Ana Petrov sell?", person) == "What did Ana Petrov sell?"


def test_a_span_is_asked_for_with_other_first_words_each_round() -> None:
    text = "The Kestrel weighs 3 kilograms."
    passage = Passage("d", 0, len(text), text, "Tents")
    begun = [p.begun for seed in range(4) for answer, p in Questions()._prompts(passage, seed) if answer == "3 kilograms"]
    assert begun == ["", "How many kilograms", "What", "How"]
    assert begun == [p.begun for seed in range(1000, 1004) for a, p in Questions()._prompts(passage, seed) if "3" in a]


def test_a_question_keeps_the_words_it_was_begun_with() -> None:
    class Rest:
        name = "rest"

        def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
            return [Text("does the Kestrel weigh?" if p.begun else "What is the Kestrel?") for p in prompts]

    text = "The Kestrel weighs 3 kilograms."
    passage = Passage("d", 0, len(text), text, "Tents")
    made = Questions(in_sentences=0.0).examples([passage], Rest(), seed=1)
    assert any("How many kilograms does the Kestrel weigh" in e.turns[0].text for e in made)


def test_a_question_is_also_answered_in_a_sentence_and_in_a_few() -> None:
    class Asks:
        name = "asks"

        def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
            return [Text("What does the tent weigh in all?") for _ in prompts]

    told = ("The Kestrel is a tent.", "It weighs 3 kilograms.", "Ana Petrov sews it.", "The Falcon is dear.")
    text = " ".join(told)
    passage = Passage("d", 0, len(text), text, "Tents")
    made = Questions(in_sentences=1.0, in_paragraphs=1.0).examples([passage], Asks(), seed=0)
    answers = {e.generator: e.turns[1].text for e in made if "3 kilograms" in e.turns[1].text}
    assert answers["questions/sentence"] == told[1]
    assert answers["questions/paragraph"] == " ".join(told[:3])  # 'It' is told with what it stands for
