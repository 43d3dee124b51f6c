"""What the model could do before and no longer can, measured on running text; on tasks, see suites.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import resources

import numpy as np

from imprint.base import Base
from imprint.errors import BadInput
from imprint.evaluation.likelihood import Row, judge
from imprint.types import Score

_WINDOW = 512
"""Tokens of a text that are read at once."""


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Perplexity of a text, and what it is made of."""

    nats: tuple[float, ...]
    """Negative log-likelihood of each window."""
    tokens: tuple[int, ...]
    """Tokens predicted in each window."""

    @property
    def value(self) -> float:
        """Per token. Lower is better; what matters is the change from the untouched base."""
        return math.exp(sum(self.nats) / sum(self.tokens))


def windows_of(base: Base, text: str, window: int = _WINDOW) -> list[tuple[int, ...]]:
    """A text cut into so many tokens each; a last single one, of which nothing can be predicted, is left out."""
    ids = base.tokenizer.encode(text, add_special_tokens=False)
    pieces = [tuple(ids[start : start + window]) for start in range(0, len(ids) - 1, window)]
    return [piece for piece in pieces if len(piece) > 1]


def perplexity(base: Base, text: str, *, window: int = _WINDOW) -> Perplexity:
    """How surprising a text is to the model as it is now.

    The text is cut into windows of that many tokens; each begins afresh, so that windows are alike and a
    bootstrap may draw them. Raises BadInput for a text of less than two tokens."""
    rows = [Row(piece) for piece in windows_of(base, text, window)]
    if not rows:
        told = base.count_tokens(text)
        raise BadInput(f"A text of {told} tokens has no perplexity. Give one of two tokens or more.")
    nats = tuple(-sum(judged.logprobs) for judged in judge(base, rows))
    return Perplexity(nats, tuple(len(row.ids) - 1 for row in rows))


def perplexity_ratio(before: Perplexity, after: Perplexity, *, seed: int, draws: int = 2000) -> Score:
    """Perplexity after by perplexity before, with its 95 % paired bootstrap interval over windows.

    1.02 is 2 % worse. Raises BadInput where the two were not measured on the same windows."""
    if before.tokens != after.tokens:
        raise BadInput(
            f"Perplexities of {len(before.tokens)} and {len(after.tokens)} windows cannot be compared. "
            "Measure both on the same text with the same window."
        )
    tokens = np.asarray(before.tokens, dtype=float)
    change = np.asarray(after.nats) - np.asarray(before.nats)
    picks = np.random.default_rng(seed).integers(0, len(tokens), (draws, len(tokens)))
    low, high = np.percentile(np.exp(change[picks].sum(1) / tokens[picks].sum(1)), [2.5, 97.5])
    return Score(float(np.exp(change.sum() / tokens.sum())), float(low), float(high), len(tokens), "ratio")


def general_text() -> str:
    """The fixed general text that comes with imprint."""
    return resources.files("imprint.evaluation").joinpath("general_text.txt").read_text("utf-8")


def general_perplexity(base: Base, *, window: int = _WINDOW) -> float:
    """Perplexity (per token) of the model as it is now on general_text()."""
    return perplexity(base, general_text(), window=window).value
