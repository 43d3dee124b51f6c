"""What fits a budget: how many passages, how much text about them, how many steps.

Decided once, at the first start, from the speed measured then; a run that resumes keeps its plan."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from imprint.errors import BadSetting

MIN_EPOCHS, MAX_EPOCHS = 5.0, 10.0
"""Below, little is learnt; above, time is better spent on more wordings (docs/log.md)."""


_FULL = 0.9
"""How full batches are, on average: rows of like length do not always add up."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent on writing and training; one of the two is set."""

    seconds: float | None = None
    tokens: int | None = None
    """Training tokens, counting every visit."""

    def __str__(self) -> str:
        if self.tokens is not None:
            return f"{self.tokens:,} training tokens"
        return f"{(self.seconds or 0) / 60:g} minutes"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one passage asks for."""

    prompts: int
    """Texts that the writer must write."""
    tokens: int
    """Estimated training tokens, of one epoch."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Measured on this machine just before planning."""

    prompts_per_second: float
    train_tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done. Written down before anything is spent."""

    taught: tuple[int, ...]
    """Indices of the passages to teach, in the documents' order."""
    left_out: tuple[int, ...]
    epochs: float
    prompts: int
    tokens: int
    """Estimated training tokens over all epochs."""
    steps: int
    """Estimated optimizer steps."""
    write_seconds: float
    train_seconds: float
    samples: int = 0
    """Wordings drawn for each question beside the likeliest."""


def parse_budget(text: str) -> Budget:
    """'10min', '90 s', '1.5h', '200k tokens', '2M tokens'. Raises BadSetting for anything else."""
    match = re.fullmatch(r"([\d.]+)([a-z]+)", text.lower().replace(" ", ""))
    amount = _number(match.group(1)) if match else None
    unit = match.group(2) if match else ""
    time = re.fullmatch(r"(?:(s|secs?|seconds?)|(m|mins?|minutes?)|(h|hours?))", unit)
    tokens = re.fullmatch(r"([km]?)(?:tok|tokens?)", unit)
    if amount and time:
        return Budget(seconds=amount * (1 if time[1] else 60 if time[2] else 3600))
    if amount and tokens and (count := int(amount * {"": 1, "k": 1_000, "m": 1_000_000}[tokens[1]])):
        return Budget(tokens=count)
    raise BadSetting(f"The budget '{text}' is not understood. Say '10min', '2h' or '500k tokens'.")


def plan(
    costs: Sequence[Cost],
    values: Sequence[float],
    budget: Budget | None,
    speeds: Speeds,
    *,
    batch_tokens: int,
    epochs: float | None = None,
) -> Plan:
    """Which passages are taught how often.

    All of them where the budget allows MIN_EPOCHS or the epochs asked for; else those with the highest
    value (what can be asked of a passage, for its cost) until the budget is full. What remains becomes more
    epochs, up to MAX_EPOCHS. Without a budget all passages are taught for MAX_EPOCHS. Raises BadSetting for
    a budget that no passage fits."""
    if not costs:
        raise BadSetting("There is no passage to plan for: the documents hold no text.")
    fewest = epochs or MIN_EPOCHS

    def price(cost: Cost, visits: float) -> float:
        if budget is not None and budget.tokens is not None:
            return cost.tokens * visits
        return cost.prompts / speeds.prompts_per_second + cost.tokens * visits / speeds.train_tokens_per_second

    limit = math.inf
    if budget is not None:
        limit = float(budget.tokens) if budget.tokens is not None else float(budget.seconds or 0)
    order = sorted(range(len(costs)), key=lambda i: (-values[i] / max(price(costs[i], fewest), 1e-9), i))
    taught: list[int] = []
    spent = 0.0
    for i in order:
        if spent + price(costs[i], fewest) <= limit:
            taught.append(i)
            spent += price(costs[i], fewest)
    if not taught:
        raise BadSetting(
            f"A budget of {budget} is too small to teach even one passage. Give it at least a minute or two."
        )
    once = sum(price(costs[i], 1) - price(costs[i], 0) for i in taught)
    room = (limit - spent) / once if once else 0.0
    visits = epochs or min(MAX_EPOCHS, fewest + room)
    tokens = round(sum(costs[i].tokens for i in taught) * visits)
    prompts = sum(costs[i].prompts for i in taught)
    return Plan(
        taught=tuple(sorted(taught)),
        left_out=tuple(sorted(set(range(len(costs))) - set(taught))),
        epochs=visits,
        prompts=prompts,
        tokens=tokens,
        steps=max(1, math.ceil(tokens / (_FULL * batch_tokens))),
        write_seconds=prompts / speeds.prompts_per_second,
        train_seconds=tokens / speeds.train_tokens_per_second,
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
