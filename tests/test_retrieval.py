"""The laws of the search index: the right passage first, and no question breaks it."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from imprint.errors import BadSetting
from imprint.retrieval import Index, words_sought
from imprint.types import Passage


def passages(*texts: str, title: str = "", heading: str = "") -> list[Passage]:
    return [Passage(f"d{n}", 0, len(text), text, title, heading) for n, text in enumerate(texts)]


def found(question: str, *texts: str, k: int = 4) -> list[str]:
    with Index(passages(*texts)) as index:
        return [passage.text for passage in index.search(question, k=k)]


OFFICE = (
    "You get 25 vacation days a year.",
    "The office opens at nine.",
    "Lunch is served in the canteen at noon.",
    "Parking costs 30 euros a month.",
    "The dentist is covered by the health plan.",
)


@pytest.mark.parametrize(
    ("question", "right"),
    [
        ("How many days of vacation do I get?", 0),
        ("When does the office open?", 1),
        ("Where is lunch?", 2),
        ("what's the PARKING cost", 3),
        ("Are dentists covered?", 4),
    ],
)
def test_the_passage_that_answers_comes_first(question: str, right: int) -> None:
    assert found(question, *OFFICE)[0] == OFFICE[right]


def test_no_more_than_k_come_and_only_those_that_share_a_word() -> None:
    texts = [f"apple {n}" for n in range(9)] + ["pear"]
    assert len(found("apple", *texts, k=3)) == 3
    assert found("pear", *texts) == ["pear"]
    assert found("plum", *texts) == []


def test_fewer_than_one_is_refused() -> None:
    with pytest.raises(BadSetting, match="k is 0"):
        found("apple", "apple", k=0)


def test_equals_come_in_passage_order() -> None:
    index = Index(passages("same words", "other text", "same words", "more text", "same words", "less text"))
    assert [passage.document_id for passage in index.search("same words")] == ["d0", "d2", "d4"]


def test_title_and_heading_are_searched_and_a_heading_weighs_more_than_text() -> None:
    text = Passage("text", 0, 1, "refunds and other matters", "Shop", "Delivery")
    heading = Passage("heading", 0, 1, "money and other matters", "Shop", "Refunds")
    rest = passages(*OFFICE, title="Office handbook")
    with Index([text, heading, *rest]) as index:
        assert [passage.document_id for passage in index.search("refunds")] == ["heading", "text"]
        assert len(index.search("handbook", k=9)) == len(OFFICE)


@pytest.mark.parametrize(
    "question",
    [
        "", " ", "?!", "\0", "\ud800", "\ufe0f", '"', '""', "'", "(", ")(", "*", "^", "-", ":", "{x", "a:b",
        "text:", "NEAR(", "AND", "OR NOT", "NOT", "* OR *", '"; DROP TABLE passages; --', "title : x", "x*",
        "^x", "a + b", "🙂", "e\u0301", "\\", "%", "x" * 100_000, "many different " * 10_000,
        " ".join(map(str, range(5_000))),
    ],
)  # fmt: skip
def test_no_question_breaks_the_search(question: str) -> None:
    assert found(question, "zebra") == []


def test_operators_are_only_words() -> None:
    assert found("NOT zebra", "zebra", "apple") == ["zebra"]
    assert found("zebra AND (", "zebra", "apple") == ["zebra"]


def test_stop_words_go_only_where_something_else_remains() -> None:
    assert words_sought("What is the plan?") == ["plan"]
    assert words_sought("Who are you?") == ["who", "are", "you"]
    assert found("to be or not to be", "To be, or not to be", "apple") == ["To be, or not to be"]


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("cafe", "Café"), ("CAFE\u0301", "café"), ("strasse", "Straße"), ("\uff21\uff22\uff23", "abc"),
        ("x-ray", "X ray"), ("tool_use", "the tool_use block"), ("3.5", "version 3.5"),
        ("छुट्टी", "आपको 25 दिन की छुट्टी मिलती है"),
    ],
)  # fmt: skip
def test_spelling_that_only_looks_different_is_the_same(question: str, text: str) -> None:
    assert found(question, "nothing", text) == [text]


@pytest.mark.parametrize(
    ("question", "right"),
    [
        ("年假有多少天?", "员工每年享有二十五天年假。"),
        ("食堂在哪里", "午餐在一楼食堂供应。"),
        ("有給休暇は何日ですか", "社員には年に25日の有給休暇があります。"),
        ("猫", "庭に猫がいる。"),
        ("猫", "那里有一只黑猫"),
        ("휴가는 며칠인가요?", "직원은 해마다 휴가를 25일 받습니다."),
        ("วันลา", "พนักงานมีวันลาพักร้อนปีละ 25 วัน"),
    ],
)
def test_languages_without_spaces_are_found(question: str, right: str) -> None:
    others = [
        "办公室九点开门。", "停车费每月三十欧元。", "駐車場は有料です。",
        "사무실은 아홉 시에 엽니다.", "สำนักงานเปิดเก้าโมง",
    ]  # fmt: skip
    assert found(question, *others, right)[0] == right


def test_no_passages_find_nothing() -> None:
    assert found("anything") == []


def test_odd_passages_are_indexed_all_the_same() -> None:
    assert found("zebra", "", "\0", "\ud800 zebra", "🙂") == ["\ud800 zebra"]


def test_many_threads_find_what_one_finds() -> None:
    with Index(passages(*OFFICE)) as index, ThreadPoolExecutor(8) as threads:
        asked = ["vacation days", "office", "lunch", "parking", "dentist"] * 40
        assert list(threads.map(index.search, asked)) == [index.search(question) for question in asked]


def test_a_closed_index_is_searched_no_more() -> None:
    index = Index(passages("zebra"))
    index.close()
    index.close()
    with pytest.raises(sqlite3.ProgrammingError):
        index.search("zebra")
