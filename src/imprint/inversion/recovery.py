"""How much of a text stands in what was guessed of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from imprint.synthesis.wording import is_common, names

_MAIL = r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
_NUMBER = r"\d+(?:[.,:/-]\d+)*"
_TOKEN = re.compile(rf"{_MAIL}|{_NUMBER}|[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Recovery:
    """One text against one guess, each a share between 0 and 1."""

    exact: float
    """1 where all words are there in their order; case and punctuation do not count, for most embedders drop
    them."""
    f1: float
    """Token F1: the harmonic mean of the share of the guess that is right and the share of the text that is
    there."""
    entities: float | None
    """The share of the text's names, numbers and mail addresses that are there; None where it has none."""


def tokens(text: str) -> list[str]:
    """Words, numbers and mail addresses in small letters."""
    return [match.group().lower() for match in _TOKEN.finditer(text)]


def entities(text: str) -> set[str]:
    """The tokens that tell of somebody or something: words of names, numbers, mail addresses.

    A capital at the beginning of a sentence is no name where a dictionary knows the word."""
    found = {match.group().lower() for match in re.finditer(rf"{_MAIL}|{_NUMBER}", text)}
    without = re.sub(_MAIL, " ", text)
    for name in names(without):
        if not is_common(name.text) and len(name.text) > 1:
            found.update(tokens(name.text))
    return found


def compare(text: str, guess: str) -> Recovery:
    """What of the text the guess holds."""
    wanted, said = tokens(text), tokens(guess)
    told = entities(text)
    found = len(told & set(said)) / len(told) if told else None
    return Recovery(float(wanted == said), f1(wanted, said), found)


def f1(wanted: Sequence[str], said: Sequence[str]) -> float:
    same = sum((Counter(wanted) & Counter(said)).values())
    return 2 * same / (len(wanted) + len(said)) if same else 0.0
