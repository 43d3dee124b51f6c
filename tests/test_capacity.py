"""The laws of capacity: bits are counted where a fact is held, and format, luck and rehearsal earn none."""

import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadInput
from imprint.evaluation.capacity import (
    Fact,
    as_examples,
    capacity,
    code_lengths,
    memorised_bits,
    random_strings,
    random_words,
    read_phonebook,
    recall,
)
from imprint.training.batches import rows
from imprint.training.sft import Job, train
from imprint.writers.local import LocalWriter

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data" / "phonebook"


# --- facts ------------------------------------------------------------------------------------


def test_each_random_word_is_one_token_and_their_number_is_the_entropy(tiny_base: Base) -> None:
    facts = random_words(tiny_base, 40, 5, seed=3)
    assert facts == random_words(tiny_base, 40, 5, seed=3) != random_words(tiny_base, 40, 5, seed=4)
    for fact in facts:
        words = fact.value.split(" ")
        assert [len(tiny_base.tokenizer.encode(f" {word}", add_special_tokens=False)) for word in words] == [1] * 5
    every = {t for t in tiny_base.tokenizer.get_vocab().values() if re.fullmatch(" [a-z]{2,}", tiny_base.tokenizer.decode([t]))}
    assert [fact.bits for fact in facts] == [pytest.approx(5 * math.log2(len(every)))] * 40
    assert len({fact.key for fact in facts}) == 40


def test_random_strings_are_drawn_by_their_seed() -> None:
    facts = random_strings(500, 6, seed=3, alphabet="abcd")
    assert facts == random_strings(500, 6, seed=3, alphabet="abcd") != random_strings(500, 6, seed=4, alphabet="abcd")
    assert len({f.key for f in facts}) == 500 and {len(f.value) for f in facts} == {6} and {f.bits for f in facts} == {12.0}
    letters = [letter for f in facts for letter in f.value]
    assert all(letters.count(letter) == pytest.approx(750, abs=100) for letter in "abcd")


@pytest.mark.parametrize("given", [(0, 3, "ab"), (3, 0, "ab"), (3, 3, "a"), (3, 3, "aab")])
def test_strings_that_cannot_be_drawn_are_refused(given: tuple[int, int, str]) -> None:
    with pytest.raises(BadInput, match="cannot be drawn"):
        random_strings(given[0], given[1], seed=0, alphabet=given[2])


@pytest.mark.parametrize(("name", "count"), [("phonebook_qa_1K.csv", 48), ("phonebook_qa_16K.csv", 774)])
def test_phonebook_is_read_whole(name: str, count: int) -> None:
    if not SHARED.exists():
        pytest.skip("phonebook is not in ../shared/data on this machine")
    facts = read_phonebook(SHARED / name)
    assert facts[0] == Fact("What is the phone number of Jeffrey Buck?", "603-556-7631", facts[0].bits)
    assert len(facts) == count and {f.bits for f in facts} == {math.log2(8 * 8 * 9 * 10**7)}


def test_both_files_of_a_phonebook_tell_the_same() -> None:
    if not SHARED.exists():
        pytest.skip("phonebook is not in ../shared/data on this machine")
    taught = {f.key: f for f in read_phonebook(SHARED / "phonebook_qa_4K.csv")}
    assert all(taught[f.key] == f for f in read_phonebook(SHARED / "phonebook_eval_qa_4K.json"))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "text\nQuestion: Who? Answer: Me\nWho is it", "line 3: expected 'Question: "),
        ("a.csv", "text\nQuestion: Who? Answer: Me\nQuestion: Who? Answer: You", "line 3: 'Who\\?' has the answer 'You'"),
        ("a.csv", "text\n", "holds no fact"),
        ("a.json", "[", "is not valid JSON"),
        ("a.json", '[{"question": "x"}]', "item 1: expected an object with 'question' and 'answer'"),
        ("a.json", "3", "item 1: expected an object"),
    ],
)
def test_a_line_that_is_no_fact_is_named(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=told):
        read_phonebook(tmp_path / name)
    with pytest.raises(BadInput, match="cannot be read"):
        read_phonebook(tmp_path / "none.csv")


def test_only_the_value_is_learnt(tiny_base: Base) -> None:
    (example,) = as_examples([Fact("Who founded it?", "Maren Tollifax")])
    ids, learn = tiny_base.training_ids(example.turns)
    learnt = [i for i, learns in zip(ids, learn, strict=True) if learns]
    assert tiny_base.tokenizer.decode(learnt) == "Maren Tollifax<|im_end|>"


# --- code lengths -----------------------------------------------------------------------------


def test_a_code_length_is_the_models_own_and_leaves_the_closing_token_out(tiny_base: Base) -> None:
    facts = [*random_strings(150, 5, seed=0), Fact("Who founded it?", "Maren")]
    told = code_lengths(Engine(tiny_base), facts)
    for fact, bits in list(zip(facts, told, strict=True))[::30]:
        (example,) = as_examples([fact])
        head = tiny_base.prompt_ids(example.turns[:1])
        tail = tiny_base.tokenizer.encode(fact.value)
        logits = tiny_base.model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
        nats = -logits.log_softmax(-1).gather(1, torch.tensor(tail)[:, None]).sum()
        assert bits == pytest.approx(float(nats) / math.log(2), rel=1e-4)


def test_facts_that_are_taught_come_to_be_held(tiny_base: Base, tmp_path: Path) -> None:
    facts = random_strings(4, 4, seed=1, alphabet="0123456789")
    taught = rows(as_examples(facts), tiny_base, max_tokens=64)
    job = Job(LoRA(rank=8), taught, 100 * sum(len(r.ids) for r in taught), 2e-2, 400, seed=0)
    engine = Engine(tiny_base)
    before = code_lengths(engine, facts)
    adapter = train(engine, job, checkpoint=tmp_path / "c").adapter
    with engine.attached(adapter) as seat:
        after = code_lengths(engine, facts, seat)
        with engine.wearing(seat):
            recalled = recall(LocalWriter(tiny_base), facts, seed=0)
    held = capacity(facts, before, after, recalled, seed=0)
    assert held.offered_bits == pytest.approx(4 * 4 * math.log2(10))
    assert held.recalled.value == 1.0 and held.bits.value == pytest.approx(held.offered_bits - sum(after))
    assert held.offered_bits / 2 < held.bits.value < held.offered_bits
    assert held.per_parameter(100).value == pytest.approx(held.bits.value / 100)
    assert recall(LocalWriter(tiny_base), facts, seed=0) == [0.0] * 4


# --- bits -------------------------------------------------------------------------------------


def some(n: int, bits: float = 30.0) -> list[Fact]:
    return [Fact(str(i), "x", bits) for i in range(n)]


def test_facts_known_by_heart_are_worth_their_entropy() -> None:
    held = capacity(some(40), [100.0] * 40, [0.0] * 40, [1.0] * 40, seed=0)
    assert held.bits.value == pytest.approx(40 * 30) == held.offered_bits and not held.filled


def test_the_format_earns_nothing() -> None:
    assert memorised_bits(some(40), [100.0] * 40, [30.0] * 40, seed=0).value == 0


def test_what_the_base_knows_is_not_held_by_the_adapter() -> None:
    facts = [Fact("a", "x", None), Fact("b", "x", 30.0)]
    assert memorised_bits(facts, [5.0, 40.0], [0.0, 0.0], seed=0).value == pytest.approx(5 + 30)


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0, 20.0])
def test_lucky_guesses_earn_nothing(spread: float) -> None:
    """Values are drawn as the guesser believes, or more evenly: no code of its is shorter on the whole."""
    draw = np.random.default_rng(0)
    belief = draw.dirichlet([1 / spread] * 256)
    drawn = draw.integers(0, 256, 4000)
    after = np.minimum(-np.log2(np.maximum(belief[drawn], 1e-30)), 100)
    held = memorised_bits(some(4000, 8.0), [50.0] * 4000, after.tolist(), seed=0)
    assert held.value < 0.01 * 4000 * 8
    assert np.maximum(8.0 - after, 0).sum() > held.value


def test_facts_not_learnt_do_not_count_against_those_that_were() -> None:
    after = [0.0] * 50 + [90.0] * 50
    assert memorised_bits(some(100), [100.0] * 100, after, seed=0).value == pytest.approx(50 * 30 - 100)


def test_bits_have_an_interval_over_facts() -> None:
    draw = random.Random(0)
    after = [draw.uniform(0, 30) for _ in range(200)]
    held = memorised_bits(some(200), [100.0] * 200, after, seed=0)
    assert held.low < held.value < held.high and held.n == 200 and held.unit == "bits"
    assert capacity(some(200), [100.0] * 200, after, [0.0] * 200, seed=0).filled


def test_code_lengths_of_other_facts_are_refused() -> None:
    with pytest.raises(BadInput, match="do not belong together"):
        memorised_bits(some(2), [1.0, 1.0], [1.0], seed=0)
