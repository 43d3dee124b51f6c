"""The passages behind an answer, and whether they bear it out: found by search, then checked by reading.

A passage bears an answer out where the answer's own words and numbers stand in it, and where who reads that passage
alone answers the question alike. So it is the kept source that speaks, never the weights for themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from imprint.evaluation.closed_book import normalised
from imprint.evaluation.open_book import Search
from imprint.evaluation.systems import same, told
from imprint.synthesis import skills
from imprint.synthesis.wording import FUNCTION_WORDS
from imprint.types import Passage, Writer

LOOKED_AT = 3
"""Passages that are read for one answer."""
_STANDS = 0.75
"""Share of the words of a longer answer that must stand in a passage."""


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that was looked at for an answer."""

    passage: Passage
    read: str
    """What the passage alone answers to the question."""
    supports: bool


@dataclass(frozen=True, slots=True)
class Cited:
    """An answer with its sources, those that bear it out first."""

    question: str
    answer: str
    sources: tuple[Source, ...]

    @property
    def supported(self) -> bool:
        return any(source.supports for source in self.sources)


def cite(pairs: Sequence[tuple[str, str]], search: Search, reader: Writer, *, seed: int) -> list[Cited]:
    """The sources of each (question, answer). Of an answer that tells nothing, there are none.

    `search` looks through the kept documents; `reader` is asked in the form of the skill `read`."""
    found = [_looked_up(question, answer, search) if told(answer) else [] for question, answer in pairs]
    prompts = [
        skills.read(passage.text, question)
        for (question, _), passages in zip(pairs, found, strict=True)
        for passage in passages
    ]
    read = iter(reader.write(prompts, seed=seed) if prompts else [])
    cited = []
    for (question, answer), passages in zip(pairs, found, strict=True):
        sources = [_source(passage, answer, next(read).text) for passage in passages]
        cited.append(Cited(question, answer, tuple(sorted(sources, key=lambda s: not s.supports))))
    return cited


def stands_in(answer: str, text: str) -> bool:
    """Whether an answer's words stand in a text: the whole of a short one; of a longer most words, every number."""
    said, here = normalised(answer), f" {normalised(text)} "
    if not said:
        return False
    if f" {said} " in here:
        return True
    words = [word for word in said.split() if word not in FUNCTION_WORDS]
    there = [word for word in words if f" {word} " in here]
    numbers = [word for word in words if re.search(r"\d", word)]
    return len(words) > 2 and len(there) >= _STANDS * len(words) and all(n in there for n in numbers)


def _looked_up(question: str, answer: str, search: Search) -> list[Passage]:
    """What a search for both finds, then what one for the question alone does."""
    found = {passage.id: passage for passage in [*search(f"{question} {answer}"), *search(question)]}
    return list(found.values())[:LOOKED_AT]


def _source(passage: Passage, answer: str, read: str) -> Source:
    return Source(passage, read, told(read) and same(read, answer) and stands_in(answer, passage.text))
