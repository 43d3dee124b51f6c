"""The laws of planning: a budget is kept, and what it leaves out is said."""

import random
from typing import Any

import pytest

from imprint.errors import BadSetting
from imprint.planner import (
    EPOCHS,
    FEWEST_TIMES,
    MOST_EPOCHS,
    MOST_TIMES,
    RANKS,
    TIMES,
    Budget,
    Plan,
    Speeds,
    Work,
    parse_budget,
    plan,
    rank_for,
    revised,
    settled,
)

SPEEDS = Speeds(text_tokens_per_second=150.0, train_tokens_per_second=800.0)
WORK = Work(prompts=0.02, read_tokens=4.0, written_tokens=1.2, usd=2e-6)


def planned(sizes: list[int], budget: Budget | None, **more: Any) -> Plan:
    return plan(sizes, [float(n) for n in sizes], budget, SPEEDS, WORK, batch_tokens=1024, **more)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10min", Budget(seconds=600)),
        ("10 min", Budget(seconds=600)),
        (" 90s ", Budget(seconds=90)),
        ("1.5h", Budget(seconds=5400)),
        ("2 hours", Budget(seconds=7200)),
        ("500 tokens", Budget(tokens=500)),
        ("200k tokens", Budget(tokens=200_000)),
        ("2M tokens", Budget(tokens=2_000_000)),
        ("0.5ktokens", Budget(tokens=500)),
        ("5 USD", Budget(usd=5)),
        ("$2.50", Budget(usd=2.5)),
    ],
)
def test_a_budget_is_a_time_or_so_many_tokens(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "10", "min", "ten minutes", "-5min", "0min", "1.2.3h", "5 pounds", "5min 3s", "nan h", "."])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadSetting, match="Say '10min'"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["1 hour", "1 minute", "90 seconds", "10 MIN", "500K tokens"])
def test_usual_ways_to_say_a_time_are_understood(text: str) -> None:
    parse_budget(text)


def test_half_a_token_is_no_budget() -> None:
    with pytest.raises(BadSetting):
        parse_budget("0.5 tokens")


@pytest.mark.parametrize("seed", range(40))
def test_a_plan_never_exceeds_its_budget(seed: int) -> None:
    draw = random.Random(seed)
    sizes = [draw.randint(1, 200) for _ in range(draw.randint(1, 80))]
    for budget in (
        Budget(seconds=draw.uniform(10, 3000)), Budget(tokens=draw.randint(100, 500_000)), Budget(usd=draw.uniform(0.001, 2)),
    ):  # fmt: skip
        try:
            made = planned(sizes, budget)
        except BadSetting:
            continue
        if budget.tokens is not None:
            assert made.tokens <= budget.tokens
        elif budget.usd is not None:
            assert made.usd <= budget.usd * 1.0001
        else:
            assert made.write_seconds + made.train_seconds <= (budget.seconds or 0) * 1.0001
        assert EPOCHS <= made.epochs <= MOST_EPOCHS
        assert FEWEST_TIMES <= made.times <= MOST_TIMES
        assert sorted((*made.taught, *made.left_out)) == list(range(len(sizes)))
        assert made.text_tokens == pytest.approx(made.times * sum(sizes[i] for i in made.taught), abs=1)


def test_a_plan_tells_what_it_leaves_out() -> None:
    made = planned([100] * 10, Budget(tokens=round(4 * 100 * FEWEST_TIMES * EPOCHS)))
    assert (len(made.taught), len(made.left_out)) == (4, 6)


def test_what_is_worth_most_for_its_length_is_taught_first() -> None:
    budget = Budget(tokens=round(2 * 100 * FEWEST_TIMES * EPOCHS))
    made = plan([100] * 3, [1.0, 9.0, 5.0], budget, SPEEDS, WORK, batch_tokens=1024)
    assert (made.taught, made.left_out) == ((1, 2), (0,))


def test_a_larger_budget_buys_text_then_epochs_then_text_again() -> None:
    plans = [planned([100], Budget(tokens=round(100 * n))) for n in (40, 120, 160, 200, 240, 600, 10_000)]
    shape = [(round(p.times), round(p.epochs, 1)) for p in plans]
    assert shape == [(10, 4.0), (30, 4.0), (40, 4.0), (40, 5.0), (40, 6.0), (100, 6.0), (120, 6.0)]


def test_without_a_budget_everything_is_taught() -> None:
    made = planned([100] * 50, None)
    assert (made.left_out, made.times, made.epochs) == ((), TIMES, EPOCHS)


def test_what_is_asked_for_is_planned() -> None:
    assert planned([100], Budget(tokens=90_000), epochs=2.0).epochs == 2.0
    assert planned([100] * 9, Budget(tokens=10_000), epochs=10.0).epochs == 10.0
    assert planned([100] * 9, None, text_tokens=4_500, epochs=3.0).text_tokens == 4_500
    assert planned([100] * 9, Budget(tokens=45_000), text_tokens=4_500).epochs == MOST_EPOCHS


def test_a_plan_tells_the_price_before_anything_is_spent() -> None:
    made = planned([100], None, text_tokens=10_000)
    assert (made.prompts, made.read_tokens, made.written_tokens, made.usd) == (200, 40_000, 12_000, pytest.approx(0.02))


def test_a_budget_that_fits_nothing_is_refused() -> None:
    with pytest.raises(BadSetting, match="too small"):
        planned([1000], Budget(tokens=100))


def test_a_plan_for_nothing_does_not_blame_the_budget() -> None:
    with pytest.raises(BadSetting) as found:
        planned([], None)
    assert "None" not in str(found.value)


def test_a_budget_is_said_as_a_person_would() -> None:
    assert [str(parse_budget(t)) for t in ("90s", "2h", "200k tokens")] == ["1.5 minutes", "120 minutes", "200,000 training tokens"]


# --- looked at again --------------------------------------------------------------------------

TEN_MINUTES = Budget(seconds=600)


def test_at_the_planned_speed_the_plan_stands() -> None:
    made = planned([100] * 9, TEN_MINUTES)
    again = revised(made, TEN_MINUTES, SPEEDS.text_tokens_per_second, told=10)
    assert (again.text_tokens, again.tokens, again.epochs) == pytest.approx((made.text_tokens, made.tokens, made.epochs), rel=1e-3)


@pytest.mark.parametrize("factor", [0.2, 0.5, 0.8, 1.3, 2.0, 5.0])
def test_a_revised_plan_keeps_to_the_time_or_to_the_fewest_words(factor: float) -> None:
    made = planned([100] * 20, TEN_MINUTES)
    again = revised(made, TEN_MINUTES, factor * SPEEDS.text_tokens_per_second, told=10)
    spent = again.write_seconds + again.train_seconds
    assert spent <= 600.1 or again.times == pytest.approx(FEWEST_TIMES)
    assert (again.text_tokens - made.text_tokens) * (factor - 1) >= 0
    assert again.text_tokens <= 2 * made.text_tokens
    assert (again.taught, again.left_out) == (made.taught, made.left_out)


def test_a_round_out_of_the_cache_leaves_the_plan_as_it_was() -> None:
    made = planned([100] * 9, TEN_MINUTES)
    again = revised(made, TEN_MINUTES, 1e6, told=10)
    assert (again.text_tokens, again.tokens) == pytest.approx((made.text_tokens, made.tokens), rel=1e-3)


def test_what_is_written_already_is_not_planned_away() -> None:
    made = planned([100] * 9, TEN_MINUTES)
    assert revised(made, TEN_MINUTES, 1.0, told=made.text_tokens).text_tokens == made.text_tokens


@pytest.mark.parametrize("budget", [Budget(tokens=50_000), Budget(usd=1.0)])
def test_only_a_budget_of_time_is_looked_at_again(budget: Budget) -> None:
    made = planned([100] * 9, budget)
    assert revised(made, budget, 1.0, told=10) == made
    after = settled(made, budget, text_tokens=made.text_tokens, spent_s=1e6, train_tokens_per_second=1.0)
    assert after.tokens == made.tokens


def test_training_takes_the_time_that_is_left() -> None:
    made = planned([100] * 9, TEN_MINUTES)
    left = {"text_tokens": made.text_tokens, "train_tokens_per_second": 700.0}
    assert settled(made, TEN_MINUTES, spent_s=400, **left).tokens == 140_000  # type: ignore[arg-type]
    late = settled(made, TEN_MINUTES, spent_s=10_000, **left)  # type: ignore[arg-type]
    assert late.tokens == made.tokens // 2
    early = settled(made, TEN_MINUTES, spent_s=0, text_tokens=1000, train_tokens_per_second=700.0)
    assert (early.tokens, early.epochs) == (6000, MOST_EPOCHS)


def test_epochs_asked_for_stand_whatever_time_is_left() -> None:
    made = planned([100] * 9, TEN_MINUTES, epochs=3.0)
    after = settled(made, TEN_MINUTES, text_tokens=1000, spent_s=599, train_tokens_per_second=1.0, epochs=3.0)
    assert after.tokens == 3000


def test_few_facts_leave_the_rank_to_the_adapter_and_many_raise_it() -> None:
    assert rank_for(1000, 305_280) == (None, True)
    ranks = [rank_for(n, 305_280) for n in (150_000, 200_000, 500_000, 2_000_000, 100_000_000)]
    assert ranks == [(None, True), (32, True), (64, True), (256, True), (RANKS[-1], False)]
