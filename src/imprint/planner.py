"""What fits a budget: how many passages, how much text about them, how often it is met, in how large an adapter.

Decided at the first start, from the speed measured then. A budget of time is looked at again twice, each time for
good: when the first round of writing has shown what text costs, and when training is about to begin. A run that
resumes keeps its plan and what was decided since."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from imprint.errors import BadSetting

FEWEST_TIMES, TIMES, MOST_TIMES = 6.0, 40.0, 120.0
"""Training text in multiples of what it tells of: below the first little is learnt, above the last little more
(docs/log.md). What a budget has left at the second becomes more epochs first."""
EPOCHS, MOST_EPOCHS = 4.0, 6.0
"""Half the text met twice as often taught clearly less (docs/log.md)."""

Price = Callable[[float], float]
"""What a token of text costs, by how often it is met."""

BITS_A_FACT = 16.0
"""To be held for a fact: twice the 7.7 bits by which the untouched base misses an answer about a SQuAD paragraph
(docs/results/objectives.json: 5.35 nats, n = 108), for it must also be told apart from its neighbours."""
BITS_A_PARAMETER = 0.5
"""What a trained parameter of a small LoRA held after a hundred exposures (docs/results/capacity.json: 0.36 full,
0.50 still rising); of models trained whole 3.6 are published (arXiv 2505.24832)."""
RANKS = (16, 32, 64, 128, 256)
"""Ranks that a plan chooses from; the first is a LoRA's own."""

_CACHED = 8.0
"""A round so much faster than was tried was written by an earlier run and came out of the writer's cache: it tells
nothing of what is still to be written."""

_FULL = 0.9
"""How full batches are, on average: rows of like length do not always add up."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent on writing and training; one of the three is set."""

    seconds: float | None = None
    tokens: int | None = None
    """Training tokens, counting every visit."""
    usd: float | None = None
    """What a paid writer may cost."""

    def __str__(self) -> str:
        if self.usd is not None:
            return f"{self.usd:g} USD"
        if self.tokens is not None:
            return f"{self.tokens:,} training tokens"
        return f"{(self.seconds or 0) / 60:g} minutes"


@dataclass(frozen=True, slots=True)
class Work:
    """What the writer has to do for each token of training text."""

    prompts: float = 0.0
    read_tokens: float = 0.0
    """Of prompts."""
    written_tokens: float = 0.0
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Speeds:
    """Measured on this machine just before planning."""

    text_tokens_per_second: float
    """Training text, written and audited."""
    train_tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done. Written down before anything is spent."""

    taught: tuple[int, ...]
    """Indices of the passages to teach, in the documents' order."""
    left_out: tuple[int, ...]
    text_tokens: int
    """Estimated tokens of training text, of one epoch."""
    times: float
    """The same in multiples of the passages taught."""
    epochs: float
    prompts: int
    read_tokens: int
    written_tokens: int
    tokens: int
    """Estimated training tokens over all epochs."""
    steps: int
    """Estimated optimizer steps."""
    write_seconds: float
    train_seconds: float
    usd: float = 0.0
    facts: int = 0
    """Values that the statements of the passages taught give to a subject."""
    rank: int | None = None
    """Of a LoRA, where the facts need more than its own; None leaves it to the recipe and the kind."""


def parse_budget(text: str) -> Budget:
    """'10min', '90 s', '1.5h', '200k tokens', '2M tokens', '5 USD', '$5'. Raises BadSetting for anything else."""
    plain = text.lower().replace(" ", "")
    plain = f"{plain[1:]}usd" if plain.startswith("$") else plain
    match = re.fullmatch(r"([\d.]+)([a-z]+)", plain)
    amount = _number(match.group(1)) if match else None
    amount = amount if amount is not None and amount < 1e15 else None
    unit = match.group(2) if match else ""
    time = re.fullmatch(r"(?:(s|secs?|seconds?)|(m|mins?|minutes?)|(h|hours?))", unit)
    tokens = re.fullmatch(r"([km]?)(?:tok|tokens?)", unit)
    if amount and time:
        return Budget(seconds=amount * (1 if time[1] else 60 if time[2] else 3600))
    if amount and tokens and (count := int(amount * {"": 1, "k": 1_000, "m": 1_000_000}[tokens[1]])):
        return Budget(tokens=count)
    if amount and unit in ("usd", "dollars", "dollar"):
        return Budget(usd=amount)
    raise BadSetting(f"The budget '{text}' is not understood. Say '10min', '2h', '500k tokens' or '5 USD'.")


def plan(
    sizes: Sequence[int],
    values: Sequence[float],
    budget: Budget | None,
    speeds: Speeds,
    work: Work,
    *,
    batch_tokens: int,
    epochs: float | None = None,
    text_tokens: int | None = None,
) -> Plan:
    """Which passages (of `sizes` tokens) are taught with how much text, how often met.

    All of them where the budget allows FEWEST_TIMES their size in text, EPOCHS times met; else those with the
    highest value for their size until the budget is full. What remains becomes more text up to TIMES, then more
    epochs, then more text up to MOST_TIMES. `epochs` and `text_tokens` asked for are kept, and decide alone where
    there is no budget. Raises BadSetting for a budget that no passage fits."""
    if not sizes:
        raise BadSetting("There is no passage to plan for: the documents hold no text.")
    if budget is not None and budget.usd is not None and not work.usd:
        raise BadSetting(
            "A budget in USD needs a writer with prices: usd_per_million_in and usd_per_million_out in [writer] of "
            "the recipe. What the base itself writes costs time: say '30min'."
        )
    limit = _limit(budget)

    def price(visits: float) -> float:
        """Of one token of text."""
        if budget is not None and budget.usd is not None:
            return work.usd
        if budget is not None and budget.tokens is not None:
            return visits
        return 1 / speeds.text_tokens_per_second + visits / speeds.train_tokens_per_second

    fewest = epochs or EPOCHS
    everything = sum(sizes)
    times = text_tokens / everything if text_tokens else FEWEST_TIMES
    order = sorted(range(len(sizes)), key=lambda i: (-values[i] / max(sizes[i], 1), i))
    taught: list[int] = []
    spent = 0.0
    for i in order:
        if spent + times * sizes[i] * price(fewest) <= limit * (1 + 1e-9):
            taught.append(i)
            spent += times * sizes[i] * price(fewest)
    if not taught:
        asked = f" with the {text_tokens:,} text_tokens that the recipe asks for" if text_tokens else ""
        raise BadSetting(f"A budget of {budget} is too small to teach even one passage{asked}. Give it more.")
    size = sum(sizes[i] for i in taught)
    visits = fewest
    if text_tokens is None:
        times, visits = _spread(limit / max(size, 1), price, fewest, fixed=epochs is not None)
    elif epochs is None and price(1) > price(0) and limit < math.inf:
        visits = max(fewest, min(MOST_EPOCHS, (limit / (times * size) - price(0)) / (price(1) - price(0))))
    text = times * size
    tokens = math.floor(text * visits)
    return Plan(
        taught=tuple(sorted(taught)),
        left_out=tuple(sorted(set(range(len(sizes))) - set(taught))),
        text_tokens=round(text),
        times=times,
        epochs=visits,
        prompts=math.ceil(text * work.prompts),
        read_tokens=round(text * work.read_tokens),
        written_tokens=round(text * work.written_tokens),
        tokens=tokens,
        steps=max(1, math.ceil(tokens / (_FULL * batch_tokens))),
        write_seconds=text / speeds.text_tokens_per_second,
        train_seconds=tokens / speeds.train_tokens_per_second,
        usd=text * work.usd,
    )


def rank_for(facts: int, parameters_a_rank: int) -> tuple[int | None, bool]:
    """The rank at which an adapter can hold so many facts, and whether the largest one can.

    facts x BITS_A_FACT must not exceed parameters x BITS_A_PARAMETER. None where a LoRA's own rank is enough, as it
    is for all but large sets: on the bundled base it holds 150,000 facts."""
    needed = facts * BITS_A_FACT / BITS_A_PARAMETER
    for rank in RANKS:
        if rank * parameters_a_rank >= needed:
            return (None if rank == RANKS[0] else rank), True
    return RANKS[-1], False


def revised(
    made: Plan, budget: Budget, text_tokens_per_second: float, *, told: int, epochs: float | None = None
) -> Plan:
    """The plan for the same passages with the speed at which text is really written, unless it is beyond belief.

    `told`: tokens of text there are already. Never less than those nor than FEWEST_TIMES the passages, and at most
    twice what was planned. A plan without a limit of time stays as it is."""
    if budget.seconds is None:
        return made
    tried = made.text_tokens / max(made.write_seconds, 1e-9)
    pace = text_tokens_per_second if text_tokens_per_second <= _CACHED * tried else tried
    speeds = Speeds(pace, made.tokens / made.train_seconds)

    def price(visits: float) -> float:
        return 1 / speeds.text_tokens_per_second + visits / speeds.train_tokens_per_second

    size = made.text_tokens / made.times
    times, visits = _spread(budget.seconds / size, price, epochs or EPOCHS, fixed=epochs is not None)
    text = max(told, min(times * size, 2 * made.text_tokens))
    part = text / made.text_tokens
    tokens = math.floor(text * visits)
    return replace(
        made,
        text_tokens=round(text),
        times=text / size,
        epochs=visits,
        prompts=math.ceil(made.prompts * part),
        read_tokens=round(made.read_tokens * part),
        written_tokens=round(made.written_tokens * part),
        tokens=tokens,
        steps=max(1, round(made.steps * tokens / made.tokens)),
        write_seconds=text / speeds.text_tokens_per_second,
        train_seconds=tokens / speeds.train_tokens_per_second,
        usd=made.usd * part,
    )


def settled(
    made: Plan,
    budget: Budget,
    *,
    text_tokens: int,
    spent_s: float,
    train_tokens_per_second: float,
    epochs: float | None = None,
    most_visits: float = MOST_EPOCHS,
) -> Plan:
    """The plan for the training of the text that there is, in the time that is left.

    Each example is met at most `most_visits` times, and however late it is, the training is at least half of
    what was planned. `epochs` asked for are kept. A plan without a limit of time keeps its tokens."""
    tokens = float(made.tokens)
    if epochs is not None:
        tokens = min(tokens, epochs * text_tokens)
    elif budget.seconds is not None:
        tokens = max((budget.seconds - spent_s) * train_tokens_per_second, made.tokens / 2)
    tokens = max(1, math.floor(min(tokens, (epochs or most_visits) * text_tokens)))
    return replace(
        made,
        epochs=tokens / max(text_tokens, 1),
        tokens=tokens,
        steps=max(1, round(made.steps * tokens / made.tokens)),
        train_seconds=tokens / train_tokens_per_second,
    )


def _limit(budget: Budget | None) -> float:
    if budget is None:
        return math.inf
    return next(float(v) for v in (budget.usd, budget.tokens, budget.seconds, 0.0) if v is not None)


def _spread(limit: float, price: Price, fewest: float, *, fixed: bool) -> tuple[float, float]:
    """Times and epochs that a limit for each token of the passages buys."""
    if math.isinf(limit) or not price(fewest):
        return TIMES, fewest if fixed else EPOCHS
    if limit < TIMES * price(fewest):
        return max(FEWEST_TIMES, limit / price(fewest)), fewest
    most = fewest if fixed else max(fewest, MOST_EPOCHS)
    if price(most) == price(fewest):  # money buys text; what training takes is not money
        return TIMES, fewest
    by_visit = price(1) - price(0)
    if limit < TIMES * price(most) and by_visit:
        return TIMES, (limit / TIMES - price(0)) / by_visit
    return min(MOST_TIMES, limit / price(most)), most


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
