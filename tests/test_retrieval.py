"""The laws of the search index: the right passage first, by words or by meaning, and no question breaks it."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

from imprint.errors import BadSetting
from imprint.retrieval import Filter, Index, Reranker, Router, filter_from
from imprint.retrieval.ranking import fuse, top
from imprint.retrieval.vectors import Vectors, head_of
from imprint.retrieval.words import pairs_sought, words_sought
from imprint.types import Document, Embedder, Passage, Prompt


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


def test_words_that_stand_together_count_for_more_than_apart() -> None:
    apart, together = "the tree that Joshua saw", "a Joshua tree"
    assert found("Who likes Joshua trees?", apart + " at noon", together + " by the road")[0].startswith(together)
    assert pairs_sought("Who likes Joshua trees in the desert?") == ["likes joshua", "joshua trees"]


# --- by meaning -------------------------------------------------------------------------------


class Bag:
    """An embedder without a model: a text's vector adds up what its words draw. It notes what it embeds."""

    name, width = "bag", 64

    def __init__(self, window: int = 50) -> None:
        self.window, self.embedded = window, list[str]()

    def stretches(self, text: str, *, head: str = "") -> list[str]:
        words = text.split() or [""]
        cuts = [words[i : i + self.window] for i in range(0, len(words), self.window)]
        return [f"{head}\n{' '.join(cut)}" if head else " ".join(cut) for cut in cuts]

    def embed(self, texts: Sequence[str], *, told: Callable[[int, int], None] | None = None) -> np.ndarray:
        self.embedded += texts
        return np.array([self._vector(text) for text in texts], np.float32).reshape(-1, self.width)

    def embed_questions(self, questions: Sequence[str]) -> np.ndarray:
        return np.array([self._vector(question) for question in questions], np.float32)

    def _vector(self, text: str) -> np.ndarray:
        drawn = [
            np.random.default_rng(zlib.crc32(w.encode(errors="replace"))).normal(size=self.width)
            for w in text.lower().split()
        ]
        total = np.sum(drawn, axis=0) if drawn else np.ones(self.width)
        return total / np.linalg.norm(total)


def many(count: int) -> list[Passage]:
    draw = np.random.default_rng(0)
    return passages(*(" ".join(f"w{n}" for n in draw.integers(0, 50, 12)) for _ in range(count)))


def test_the_tests_embedder_keeps_the_contract() -> None:
    assert isinstance(Bag(), Embedder)


def test_by_meaning_the_nearest_of_all_are_found_as_a_brute_force_in_float64_finds_them() -> None:
    everything = many(200)
    with Index(everything, embedder=Bag(), keywords=False) as index:
        for question in ("w1 w2 w3", "w7", "w9 w9 w30"):
            asked = Bag()._vector(question).astype(np.float64)
            nearness = [float(Bag()._vector(p.text) @ asked) for p in everything]
            brute = sorted(range(200), key=lambda i: -nearness[i])[:7]
            assert [p.document_id for p in index.search(question, k=7)] == [f"d{i}" for i in brute]


@pytest.mark.parametrize("k", [1, 3, 10, 99])
def test_the_highest_are_those_of_a_full_sort_and_equals_come_in_order(k: int) -> None:
    scores = np.random.default_rng(1).integers(0, 5, 30).astype(np.float32)
    assert [r.place for r in top(scores, k)] == sorted(range(30), key=lambda i: (-scores[i], i))[:k]


def test_the_nearest_stretch_of_a_long_passage_counts() -> None:
    long = " ".join(["filler"] * 100 + ["zebra"] * 10 + ["filler"] * 100)
    vectors = Vectors(passages("apple pear", long, "plum"), Bag(window=10))
    assert vectors.rank("zebra", 1)[0].place == 1
    assert vectors.rank("zebra", 1)[0].score == pytest.approx(1)


def test_title_and_headings_stand_above_the_passage_each_once() -> None:
    assert head_of(Passage("d", 0, 1, "a", "Plans", "Plans > Dental > Costs")) == "Plans. Dental. Costs"
    embedder = Bag()
    Vectors([Passage("d", 0, 1, "twice a year", "Plans", "Dental")], embedder)
    assert embedder.embedded == ["Plans. Dental\ntwice a year"]


def test_an_index_without_keywords_needs_an_embedder() -> None:
    with pytest.raises(BadSetting, match="needs an embedder"):
        Index(passages("zebra"), keywords=False)


# --- both -------------------------------------------------------------------------------------


def test_fusing_ranks_is_what_a_brute_force_in_fractions_says() -> None:
    draw = np.random.default_rng(2)
    for _ in range(20):
        rankings = [draw.permutation(12)[: draw.integers(0, 12)].tolist() for _ in range(3)]
        brute: dict[int, Fraction] = {}
        for ranking in rankings:
            for rank, place in enumerate(ranking, 1):
                brute[place] = brute.get(place, Fraction()) + Fraction(1, 60 + rank)
        assert [r.place for r in fuse(rankings)] == sorted(brute, key=lambda place: (-brute[place], place))


def test_what_words_and_meaning_both_put_first_comes_first() -> None:
    with Index(many(50), embedder=Bag()) as index:
        assert index.search(index.passages[17].text, k=1) == [index.passages[17]]


def test_with_both_a_question_without_a_shared_word_finds_what_is_nearest() -> None:
    with Index(passages("apple", "pear"), embedder=Bag()) as index:
        assert len(index.search("zebra", k=4)) == 2


def test_a_passage_that_shares_only_a_common_word_does_not_pass_the_one_that_has_all() -> None:
    texts = [*(f"person{n} likes elm trees" for n in range(5)), "zz likes joshua trees and a hundred other things"]
    with Index(passages(*texts), embedder=Bag()) as index:
        assert index.search("likes joshua trees", k=1)[0].text == texts[-1]


def test_no_passages_find_nothing_by_meaning_either() -> None:
    with Index([], embedder=Bag()) as index:
        assert index.search("anything") == []


# --- filters ----------------------------------------------------------------------------------

DOCUMENTS = [
    Document("vacation is 25 days", "policies/old.txt", "Vacation", valid_from="2020-01-01"),
    Document("vacation is 27 days", "policies/new.txt", "Vacation", valid_from="2024-06-30"),
    Document("vacation photos", "album/photos.txt", "[Draft] Photos"),
]
FILED = [
    Passage(d.id, 0, len(d.text), d.text, d.title, f"Handbook > {d.source.split('/')[0].title()}")
    for d in DOCUMENTS
]


@pytest.mark.parametrize(
    ("settings", "let_through"),
    [
        ({"source": "policies/*"}, {0, 1}),
        ({"source": ["*old*", "*PHOTOS.txt"]}, {0, 2}),
        ({"title": "[draft] photos"}, {2}),
        ({"title": "Vac"}, set()),
        ({"heading": "policies"}, {0, 1}),
        ({"heading": "handbook > policies"}, set()),
        ({"document": DOCUMENTS[1].id}, {1}),
        ({"since": "2024-06-30"}, {1}),
        ({"until": "2024-06-29"}, {0}),
        ({"since": "2019-01-01", "until": "2030-01-01"}, {0, 1}),
        ({"source": "policies/*", "since": "2021-01-01"}, {1}),
        ({"title": "n?thing"}, set()),
    ],
)
@pytest.mark.parametrize("embedder", [None, Bag()], ids=["words", "both"])
def test_a_filter_lets_through_what_fits_and_nothing_else(
    settings: dict[str, str], let_through: set[int], embedder: Bag | None
) -> None:
    with Index(FILED, documents=DOCUMENTS, embedder=embedder) as index:
        met = index.search("vacation", k=9, where=filter_from(settings))
    assert {FILED.index(passage) for passage in met} == let_through


def test_a_filter_looks_beyond_the_first_that_are_found() -> None:
    everything = [*many(300), Passage("mine", 0, 1, "w1 and much that nobody asked for " * 9, "Mine")]
    with Index(everything, embedder=Bag()) as index:
        assert [p.document_id for p in index.search("w1", k=3, where=Filter(title=("mine",)))] == ["mine"]


@pytest.mark.parametrize(
    ("name", "told"), [("sorce", "'source'"), ("untill", "'until'"), ("xyzzy", "It knows source")]
)
def test_an_unknown_field_of_a_filter_is_refused_with_its_near_name(name: str, told: str) -> None:
    with pytest.raises(BadSetting, match=f"Unknown field '{name}' in a filter. .*{told}"):
        filter_from({name: "a"})


@pytest.mark.parametrize("date", ["yesterday", "2024-13-01", "20240101", 2024])
def test_a_date_that_is_none_is_refused(date: object) -> None:
    with pytest.raises(BadSetting, match="since of a filter is a date"):
        Filter(since=date)  # type: ignore[arg-type]


def test_a_pattern_that_is_no_tuple_is_refused() -> None:
    with pytest.raises(BadSetting, match="title of a filter is a tuple"):
        Filter(title="Vacation")  # type: ignore[arg-type]


def test_a_filter_by_source_needs_the_documents() -> None:
    with Index(FILED) as index, pytest.raises(BadSetting, match="Give the index its documents too"):
        index.search("vacation", where=Filter(source=("*",)))


# --- put in order by a model ------------------------------------------------------------------


class Liking:
    """A reader to whom a question is the likelier the more often its prompt says a word."""

    def __init__(self, word: str) -> None:
        self.word, self.read = word, 0

    def likelihoods(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        self.read += len(prompts)
        return [float(prompt.turns[0].text.count(self.word)) for prompt in prompts]


def test_what_the_model_likes_best_passes_what_only_the_words_put_first() -> None:
    texts = ["vacation rules", "vacation days days days", "vacation days and other things"]
    with Index(passages(*texts)) as index:
        assert index.search("vacation", k=1)[0].text == texts[0]
    with Index(passages(*texts), reranker=Reranker(Liking("days"))) as index:
        assert index.search("vacation", k=1)[0].text == texts[1]


def test_no_more_passages_are_read_than_candidates_and_none_is_lost() -> None:
    liking = Liking("w1")
    with Index(many(60), reranker=Reranker(liking, candidates=5)) as index:
        assert len(index.search("w1 w2 w3", k=3)) == 3
        assert liking.read == 5
        assert len(index.search("w1 w2 w3", k=20)) == 20
        assert liking.read == 10


# --- routed -----------------------------------------------------------------------------------


def rooms(embedder: Bag | None = None) -> dict[str, Index]:
    return {
        "office": Index(passages(*OFFICE), embedder=embedder),
        "zoo": Index(passages("zebras eat grass", "lions eat zebras"), embedder=embedder),
        "empty": Index([], embedder=embedder),
    }


@pytest.mark.parametrize(("embedder", "least"), [(None, None), (Bag(), 0.6)], ids=["words", "both"])
def test_a_question_goes_where_it_is_answered_or_nowhere(embedder: Bag | None, least: float | None) -> None:
    router = Router(rooms(embedder), least=least)
    assert router.route("the office opens").name == "office"
    assert router.route("lions eat zebras").name == "zoo"
    assert router.route("quantum chromodynamics").name is None


def test_votes_add_up_to_one() -> None:
    votes = Router(rooms(Bag())).route("zebras in the office").votes
    assert sum(votes.values()) == pytest.approx(1)
    assert set(votes) == {"office", "zoo", "empty"}


def test_a_router_without_indexes_sends_nothing_anywhere() -> None:
    assert Router({}).route("zebra").name is None


def test_indexes_of_different_embedders_are_not_compared() -> None:
    with pytest.raises(BadSetting, match="bag, none"):
        Router({"a": Index(passages("a"), embedder=Bag()), "b": Index(passages("b"))})
