"""Passages found by meaning: every vector is compared, so that the nearest are found and not nearly the nearest.

100,000 vectors of 384 numbers are 154 MB, which a core reads in 6 ms (docs/retrieval.md).

Shape key: S stretches of text, P passages, D width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from imprint.retrieval.ranking import Ranked, top
from imprint.retrieval.vector_cache import VectorCache
from imprint.types import Embedder, Passage


class Vectors:
    """An index of vectors. A passage too long for the embedder has several, and the nearest of them counts."""

    def __init__(
        self,
        passages: Sequence[Passage],
        embedder: Embedder,
        cache: VectorCache | None = None,
        told: Callable[[int, int], None] | None = None,
    ) -> None:
        self.embedder = embedder
        stretches = [embedder.stretches(passage.text, head=head_of(passage)) for passage in passages]
        self._first_P = np.cumsum([0, *map(len, stretches)])[:-1]
        texts = [text for parts in stretches for text in parts]
        self._vectors_SD = cache.vectors(embedder, texts, told) if cache else embedder.embed(texts, told=told)

    def rank(self, question: str, k: int, among: np.ndarray | None = None) -> list[Ranked]:
        """The k passages nearest to the question, by cosine; equals in passage order.

        `among`: for each passage whether it may be found."""
        if not len(self._first_P):
            return []
        nearness_S = self._vectors_SD @ self.embedder.embed_questions([question])[0]
        nearness_P = np.maximum.reduceat(nearness_S, self._first_P)
        return top(nearness_P if among is None else np.where(among, nearness_P, -np.inf), k)


def head_of(passage: Passage) -> str:
    """What stands above a passage: it says what 'it' and 'the plan' in the passage are."""
    parts = dict.fromkeys(part for part in (passage.title, *passage.heading.split(" > ")) if part)
    return ". ".join(parts)
