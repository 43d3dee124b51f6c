"""An embedder without a model: a text's vector is the sum of a random one for each word and each pair of words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from imprint.types import content_hash


class WordEmbedder:
    """Texts with the same words lie near each other, nearer still in the same order."""

    name, width = "words", 256

    def __init__(self, order: float = 0.0) -> None:
        self.order = order
        """How much pairs of words count beside single ones."""
        self.embedded = 0
        """Texts embedded until now."""

    def stretches(self, text: str, *, head: str = "") -> list[str]:
        return [f"{head}\n{text}" if head else text]

    def embed(self, texts: Sequence[str], *, told: Callable[[int, int], None] | None = None) -> np.ndarray:
        self.embedded += len(texts)
        rows = [self._sum(text.lower().split()) for text in texts]
        vectors = np.array(rows, np.float32).reshape(-1, self.width)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def embed_questions(self, questions: Sequence[str]) -> np.ndarray:
        return self.embed(questions)

    def _sum(self, words: list[str]) -> np.ndarray:
        pairs = [f"{a} {b}" for a, b in pairwise(words)] if self.order else []
        singles = sum((self._vector(word) for word in words), np.zeros(self.width))
        return singles + self.order * sum((self._vector(pair) for pair in pairs), np.zeros(self.width))

    def _vector(self, word: str) -> np.ndarray:
        return np.random.default_rng(int(content_hash(word), 16)).standard_normal(self.width)
