"""Which of several indexes a question goes to, or none."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from imprint.errors import BadSetting
from imprint.retrieval.index import Index
from imprint.retrieval.keywords import Keywords
from imprint.retrieval.ranking import Ranked, fuse

VOTERS = 3
"""Passages whose owners vote, of each ranking: few, or a large index would outvote a small one that answers."""
LEAST_NEARNESS = 0.35
"""A question whose nearest passage has less cosine than this goes nowhere."""
LEAST_WORDS = 0.5
"""By words alone: a question goes nowhere where the best passage holds a smaller share of its words."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a question goes."""

    name: str | None
    """The index to search; None where nothing in any of them is about it."""
    votes: Mapping[str, float]
    """What each index had of the first passages' votes; they add up to 1, or are none."""
    nearness: float
    """Cosine of the nearest passage; by words alone, the share of the question's words in the best one."""


class Router:
    """Sends each question to the index that holds most of the first passages found for it.

    Words are weighed over all indexes together, since BM25 of two collections cannot be compared."""

    def __init__(self, indexes: Mapping[str, Index], *, least: float | None = None) -> None:
        """`least`: the nearness from which a question goes anywhere. Raises BadSetting where some indexes have
        vectors and others none, or those of another embedder."""
        models = {index.vectors.embedder.name if index.vectors else None for index in indexes.values()}
        if len(models) > 1:
            told = ", ".join(sorted(model or "none" for model in models))
            raise BadSetting(
                f"These indexes have vectors of different embedders: {told}. Make them with the same one."
            )
        self._indexes = dict(indexes)
        self._by_meaning = models not in ({None}, set())
        self._least = least if least is not None else LEAST_NEARNESS if self._by_meaning else LEAST_WORDS
        sizes = [len(index.passages) for index in self._indexes.values()]
        self._starts = (
            dict(zip(self._indexes, itertools.accumulate([0, *sizes[:-1]]), strict=True)) if sizes else {}
        )
        self._owners = [name for name, index in self._indexes.items() for _ in index.passages]
        self._words = Keywords([passage for index in self._indexes.values() for passage in index.passages])

    def route(self, question: str) -> Route:
        """Where the question goes."""
        by_words = self._words.rank(question, VOTERS)
        by_meaning = self._nearest(question)
        if self._by_meaning:
            nearness = by_meaning[0].score if by_meaning else 0.0
        else:
            nearness = self._words.share(question, by_words[0].place) if by_words else 0.0
        votes: dict[str, float] = defaultdict(float)
        for found in fuse([[ranked.place for ranked in ranking] for ranking in (by_words, by_meaning)]):
            votes[self._owners[found.place]] += found.score
        total = sum(votes.values())
        shares = {name: votes[name] / total for name in self._indexes} if total else {}
        name = max(shares, key=lambda name: shares[name]) if shares and nearness >= self._least else None
        return Route(name, MappingProxyType(shares), nearness)

    def close(self) -> None:
        """Gives back the memory of its own words; the indexes stay open."""
        self._words.close()

    def _nearest(self, question: str) -> list[Ranked]:
        """The passages nearest in meaning, by their place among all."""
        found: list[Ranked] = []
        for name, index in self._indexes.items():
            if index.vectors is not None:
                start = self._starts[name]
                found += [Ranked(start + r.place, r.score) for r in index.vectors.rank(question, VOTERS)]
        return sorted(found, key=lambda ranked: (-ranked.score, ranked.place))[:VOTERS]
