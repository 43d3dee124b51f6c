"""The laws of diversity: near-duplicates are found, what differs in a fact is none, and variety is counted right."""

import math
import random
import time

import pytest

from imprint.synthesis.diversity import NearDuplicates, Sample, distinct, self_bleu
from imprint.types import Example, Turn

LONG = (
    "According to the handbook of Acme, every person who works at the foundry for more than {} years receives a silver "
    "medal from {}, who hands it over in the great hall while all colleagues of the {} shift applaud and a band plays."
)


def text(told: str, *ids: str) -> Example:
    return Example((Turn("text", told, learn=True),), ids or ("d1:0-9",), "test")


def asked(question: str, answer: str) -> Example:
    return Example((Turn("user", question), Turn("assistant", answer, learn=True)), ("d1:0-9",), "test")


def test_nearly_the_same_is_no_news() -> None:
    seen = NearDuplicates()
    told = LONG.format(5, "Hedda", "early")
    assert seen.is_new(text(told))
    assert not seen.is_new(text(told))
    assert not seen.is_new(text(told.replace("band plays", "band plays on").upper().capitalize().lower()
                                .replace("acme", "Acme").replace("hedda", "Hedda")))  # fmt: skip
    assert seen.is_new(text("Something else altogether is told of the foundry and its medals here."))


@pytest.mark.parametrize(
    "other", [LONG.format(6, "Hedda", "early"), LONG.format(5, "Maren", "early"), LONG.format(5, "Hedda", "early").replace("receives", "never receives")]
)
def test_what_differs_in_a_number_a_name_or_a_negation_is_new(other: str) -> None:
    seen = NearDuplicates()
    assert seen.is_new(text(LONG.format(5, "Hedda", "early")))
    assert seen.is_new(text(other))


def test_what_differs_in_a_short_answer_or_its_document_is_new() -> None:
    seen = NearDuplicates()
    question = LONG.format(5, "Hedda", "early") + " In which colour is the hall painted where this is done each time?"
    assert seen.is_new(asked(question, "red"))
    assert seen.is_new(asked(question, "blue"))
    assert not seen.is_new(asked(question, "red"))
    assert seen.is_new(text("They open at dawn and close when it gets dark.", "d1:0-9"))
    assert seen.is_new(text("They open at dawn and close when it gets dark.", "d2:0-9"))


def test_ten_thousand_short_items_take_seconds() -> None:
    draw = random.Random(0)
    vocabulary = [f"{a}{b}" for a in "bcdfghklmnprst" for b in ("ado", "ile", "orn", "ust", "ema")]
    items = [asked(" ".join(draw.choices(vocabulary, k=12)) + "?", draw.choice(vocabulary)) for _ in range(10_000)]
    seen = NearDuplicates()
    began = time.process_time()
    assert sum(seen.is_new(i) for i in items) > 9_990
    assert time.process_time() - began < 20


def test_distinct_n_counts_each_n_gram_once() -> None:
    assert distinct([["a", "b", "a"], ["a", "b"]], 1) == 2 / 5
    assert distinct([["a", "b", "a"], ["a", "b"]], 2) == 2 / 3
    assert distinct([["a"]], 3) == 1.0


def test_self_bleu_is_that_of_the_definition() -> None:
    one, two = "the cat sat on the mat".split(), "the cat sat on a mat".split()
    assert self_bleu([one, one]) == pytest.approx(1.0)
    assert self_bleu([one, "dogs run over wide green fields".split()]) < 0.05
    # By hand: 5 of 6 words, 3 of 5 pairs, 2 of 4 triples and 1 of 3 runs of four are in the other; lengths agree.
    assert self_bleu([one, two]) == pytest.approx(math.exp(sum(map(math.log, (5 / 6, 3 / 5, 2 / 4, 1 / 3))) / 4))
    # 'the' comes twice in one but once in two: clipped. Shorter than its reference: the brevity penalty exp(1 - 6/5).
    short = "the cat sat on the".split()
    whole = math.exp(1 - 6 / 5)
    clipped = math.exp(sum(map(math.log, (5 / 6, 4 / 5, 3 / 4, 2 / 3))) / 4)
    assert self_bleu([short, one]) == pytest.approx((whole + clipped) / 2)


def test_self_bleu_takes_for_each_n_gram_the_text_that_has_it_most() -> None:
    draw = random.Random(1)
    texts = [draw.choices("abcde", k=draw.randint(4, 12)) for _ in range(12)]
    assert self_bleu(texts) == pytest.approx(sum(_bleu(t, texts[:i] + texts[i + 1 :]) for i, t in enumerate(texts)) / 12)


def _bleu(text: list[str], others: list[list[str]]) -> float:
    """As the paper writes it, slowly."""
    logs = 0.0
    for n in range(1, 5):
        grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
        of_others = [[tuple(o[i : i + n]) for i in range(len(o) - n + 1)] for o in others]
        clipped = sum(min(grams.count(g), max(o.count(g) for o in of_others)) for g in set(grams))
        logs += math.log((clipped or 0.1) / len(grams)) / 4
    nearest = min((abs(len(o) - len(text)), len(o)) for o in others)[1]
    return math.exp(logs + min(0.0, 1 - nearest / len(text)))


def test_a_sample_is_of_fixed_size_and_follows_from_its_seed() -> None:
    one, two, other = Sample(20, seed=1), Sample(20, seed=1), Sample(20, seed=2)
    for n in range(500):
        for sample in (one, two, other):
            sample.add(text(f"item number {n} of the lot"))
    assert len(one.texts) == 20 and one.seen == 500
    assert one.texts == two.texts != other.texts
    assert one.variety() == two.variety()
