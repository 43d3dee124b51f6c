"""What a writer over the network may spend: money and tokens in all, requests and tokens a minute."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from imprint.errors import BadSetting, OverBudget

LETTERS_A_TOKEN = 3.6
"""Characters that a token stands for, where no server tells the tokens."""
_OVERHEAD_TOKENS = 16
"""Room for the marks that a chat template puts around each message."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What has been spent."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    estimated: int = 0
    """Requests whose tokens the server did not tell, and which are counted by their characters."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.usd + other.usd,
            self.estimated + other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """Prices, and the most that may be spent. What is None has no limit."""

    usd_per_million_in: float = 0.0
    usd_per_million_out: float = 0.0
    max_usd: float | None = None
    max_tokens: int | None = None
    """Tokens of prompts and answers together."""

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.max_usd, self.max_tokens) if limit is not None]
        if any(not x >= 0 for x in (self.usd_per_million_in, self.usd_per_million_out, *limits)):
            raise BadSetting("Prices and budgets are numbers from 0 upwards.")
        if self.max_usd is not None and not self.usd_per_million_in + self.usd_per_million_out:
            raise BadSetting("max_usd needs prices: give usd_per_million_in and usd_per_million_out.")

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.usd_per_million_in + completion_tokens * self.usd_per_million_out) / 1e6


@dataclass
class Ledger:
    """What is spent, and what may yet be by requests under way, against the budget. Safe between threads."""

    budget: Budget = field(default_factory=Budget)
    spent: Spent = field(default_factory=Spent)
    _promised: Spent = field(default_factory=Spent)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def promise(self, prompt_tokens: int, completion_tokens: int) -> Spent | None:
        """Room for a request that takes at most this, to be settled later; None where it could overrun."""
        most = Spent(1, prompt_tokens, completion_tokens, self.budget.usd(prompt_tokens, completion_tokens))
        with self._lock:
            total = self.spent + self._promised + most
            if _over(total.tokens, self.budget.max_tokens) or _over(total.usd, self.budget.max_usd):
                return None
            self._promised += most
        return most

    def settle(self, promised: Spent, paid: Spent | None) -> None:
        """Takes the promise back and notes what was paid; None where no answer came."""
        with self._lock:
            self._promised += Spent(
                -promised.requests, -promised.prompt_tokens, -promised.completion_tokens, -promised.usd
            )
            self.spent += paid or Spent()

    def refusal(self, prompt_tokens: int, completion_tokens: int) -> OverBudget:
        """The error for a request that no promise can be had for."""
        limits, spent = self.budget, self.spent
        told = []
        if limits.max_tokens is not None:
            more = prompt_tokens + completion_tokens
            told.append(f"{spent.tokens:,} of {limits.max_tokens:,} tokens are spent, and it may take {more:,}")
        if limits.max_usd is not None:
            usd = limits.usd(prompt_tokens, completion_tokens)
            told.append(f"{spent.usd:.4f} of {limits.max_usd:.4f} US dollars are spent, and it may take {usd:.4f}")
        return OverBudget(
            f"The budget does not allow the next text: {'; '.join(told)}. Raise the budget and start again: "
            "what is written already is kept, and not paid for twice."
        )


@dataclass
class Pace:
    """A token bucket: so much a minute, evenly, a tenth of it at once.

    In no minute is more taken than the limit, where each taking is at most a tenth of it or exactly one."""

    per_minute: int | None
    """None lets everything pass."""
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    def __post_init__(self) -> None:
        if self.per_minute is not None and self.per_minute < 1:
            raise BadSetting(f"A limit a minute is at least 1; got {self.per_minute}.")
        self._level = self._burst = (self.per_minute or 0) / 10
        self._at = self.clock()
        self._lock = threading.Lock()

    def take(self, amount: int = 1) -> None:
        """Waits until so much may be taken. Takers are served in the order in which they came."""
        if self.per_minute is None:
            return
        per_second = (self.per_minute - self._burst) / 60
        with self._lock:
            now = self.clock()
            self._level = min(self._burst, self._level + (now - self._at) * per_second)
            self._at = now
            # More than a burst is lent once the bucket is full, and the next taker waits the longer.
            wait_s = (min(amount, self._burst) - self._level) / per_second
            self._level -= amount
        if wait_s > 0:
            self.sleep(wait_s)


def guessed_tokens(text: str) -> int:
    """About how many tokens a text is."""
    return math.ceil(len(text) / LETTERS_A_TOKEN)


def most_tokens(texts: Sequence[str]) -> int:
    """More tokens than these messages can be: a tokenizer makes at most one of each byte."""
    return sum(len(text.encode(errors="replace")) + _OVERHEAD_TOKENS for text in texts) + 4 * _OVERHEAD_TOKENS


def _over(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit
