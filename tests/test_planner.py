"""The laws of planning: a budget is kept, and what it leaves out is said."""

import random

import pytest

from imprint.errors import BadSetting
from imprint.planner import MAX_EPOCHS, MIN_EPOCHS, Budget, Cost, Plan, Speeds, parse_budget, plan

SPEEDS = Speeds(prompts_per_second=5.0, train_tokens_per_second=800.0)


def planned(costs: list[Cost], budget: Budget | None, **more: float) -> Plan:
    return plan(costs, [float(c.tokens) for c in costs], budget, SPEEDS, batch_tokens=1024, **more)


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
    ],
)
def test_a_budget_is_a_time_or_so_many_tokens(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "10", "min", "ten minutes", "-5min", "0min", "1.2.3h", "5 dollars", "5min 3s", "nan h", "."])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadSetting, match="Say '10min'"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["1 hour", "1 minute", "90 seconds", "10 MIN", "500K tokens"])
def test_usual_ways_to_say_a_time_are_understood(text: str) -> None:
    parse_budget(text)


def test_half_a_token_is_no_budget() -> None:
    with pytest.raises(BadSetting):
        parse_budget("0.5 tokens")


def random_costs(draw: random.Random) -> list[Cost]:
    return [Cost(draw.randint(0, 60), draw.randint(1, 4000)) for _ in range(draw.randint(1, 80))]


@pytest.mark.parametrize("seed", range(40))
def test_a_plan_never_exceeds_its_budget(seed: int) -> None:
    draw = random.Random(seed)
    costs = random_costs(draw)
    for budget in (Budget(seconds=draw.uniform(10, 3000)), Budget(tokens=draw.randint(100, 500_000))):
        try:
            made = planned(costs, budget)
        except BadSetting:
            continue
        if budget.tokens is not None:
            assert made.tokens <= budget.tokens
        else:
            one_token_s = 1 / SPEEDS.train_tokens_per_second  # tokens are whole
            assert made.write_seconds + made.train_seconds <= (budget.seconds or 0) + one_token_s
        assert MIN_EPOCHS <= made.epochs <= MAX_EPOCHS
        assert sorted((*made.taught, *made.left_out)) == list(range(len(costs)))
        assert made.prompts == sum(costs[i].prompts for i in made.taught)


def test_a_plan_tells_what_it_leaves_out() -> None:
    made = planned([Cost(0, 1000)] * 10, Budget(tokens=round(4 * 1000 * MIN_EPOCHS)))
    assert (len(made.taught), len(made.left_out)) == (4, 6)


def test_what_is_worth_most_for_its_price_is_taught_first() -> None:
    costs = [Cost(0, 1000)] * 3
    made = plan(costs, [1.0, 9.0, 5.0], Budget(tokens=round(2 * 1000 * MIN_EPOCHS)), SPEEDS, batch_tokens=1024)
    assert made.taught == (1, 2)
    assert made.left_out == (0,)


def test_without_a_budget_everything_is_taught_as_often_as_it_pays() -> None:
    made = planned([Cost(10, 1000)] * 50, None)
    assert made.left_out == ()
    assert made.epochs == MAX_EPOCHS


def test_the_rest_of_a_budget_becomes_more_epochs() -> None:
    assert planned([Cost(0, 1000)], Budget(tokens=5_000)).epochs == pytest.approx(5.0)
    assert planned([Cost(0, 1000)], Budget(tokens=90_000)).epochs == MAX_EPOCHS


def test_epochs_asked_for_are_the_epochs_planned() -> None:
    assert planned([Cost(0, 1000)], Budget(tokens=90_000), epochs=2.0).epochs == 2.0
    assert planned([Cost(0, 1000)] * 9, Budget(tokens=10_000), epochs=10.0).epochs == 10.0


def test_a_budget_that_fits_nothing_is_refused() -> None:
    with pytest.raises(BadSetting, match="too small"):
        planned([Cost(0, 1000)], Budget(tokens=100))


def test_a_plan_for_nothing_does_not_blame_the_budget() -> None:
    with pytest.raises(BadSetting) as found:
        planned([], None)
    assert "None" not in str(found.value)


def test_a_budget_is_said_as_a_person_would() -> None:
    assert [str(parse_budget(t)) for t in ("90s", "2h", "200k tokens")] == ["1.5 minutes", "120 minutes", "200,000 training tokens"]
