"""What an audit's figures mean, by rules that stand here and look at the lower ends of the 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imprint.types import Score

TEXT_EXACT, TEXT_F1, TEXT_ENTITIES = 0.05, 0.6, 0.5
"""From here on vectors are as good as text: word for word, in words, in names and numbers. One of them is
enough."""

FEWEST = 8
"""Of fewer texts an interval says little, and nothing is judged by it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with vectors that are kept like this."""

    level: str
    """'text', 'parts', 'nothing found' or 'too few'."""
    sentence: str


def judge(scores: Mapping[str, Score]) -> Verdict:
    """By 'exact', 'f1' and 'entities' of the attack, and what it gained over guessing without a vector."""
    exact, f1, names = scores["exact"], scores["f1"], scores.get("entities")
    if f1.n < FEWEST:
        return Verdict(
            "too few",
            f"Nothing can be said: {f1.n} texts were guessed, and {FEWEST} are needed. Give more texts or time.",
        )
    named = names is not None and names.n >= FEWEST and names.low >= TEXT_ENTITIES
    if exact.low >= TEXT_EXACT or f1.low >= TEXT_F1 or named:
        return Verdict(
            "text",
            f"Treat these vectors like the text itself: {_told(exact, f1, names)} were read back from vectors "
            "alone.",
        )
    gains = [scores[gain] for gain in ("f1 gained", "entities gained") if gain in scores]
    if any(gained.low > 0 and gained.n >= FEWEST for gained in gains):
        return Verdict(
            "parts",
            f"Guard these vectors as you guard the documents: {_told(exact, f1, names)} were read back, more "
            "than can be guessed without a vector. Better attacks read more.",
        )
    return Verdict(
        "nothing found",
        "This small attack read back no more than can be guessed without a vector. That does not make the vectors "
        "safe: published attacks, with more time and text, read back most of short texts.",
    )


def _told(exact: Score, f1: Score, names: Score | None) -> str:
    parts = [f"{f1.value:.0%} of the words"]
    if names is not None:
        parts.append(f"{names.value:.0%} of the names and numbers")
    if exact.value:
        parts.append(f"{exact.value:.0%} of the texts word for word")
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
