"""Which words a vector tells of: a linear inverter, learnt from texts and their vectors in seconds.

For every word one direction: where a vector points that way, its text most likely holds the word. All of them are
one ridge regression of "is the word there?" on the vectors, solved at once.

Shape key: N texts, D width, W words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imprint.inversion.recovery import tokens

RIDGE = 3.0
"""How far directions are held back, in multiples of the vectors' mean variance."""
RARE = 0.1
"""How rare words are weighed: the difference from a word's usual share is divided by the root of that share plus
this, so that a word met once does not drown all others."""


@dataclass(frozen=True, slots=True)
class WordReader:
    """What was learnt of texts and their vectors."""

    words: tuple[str, ...]
    places: Mapping[str, int]
    """The place of each word among them."""
    directions_DW: np.ndarray
    mean_D: np.ndarray
    shares_W: np.ndarray
    """In what share of the texts each word stands."""
    usual_length: int
    """Tokens of a text, at the median."""

    def surplus(self, differences_ND: np.ndarray) -> np.ndarray:
        """N x W: how much more of each word a difference between vectors tells of, rare words weighed up."""
        return differences_ND @ self.directions_DW / np.sqrt(self.shares_W + RARE)

    def read(self, vectors_ND: np.ndarray) -> np.ndarray:
        """N x W: how much more than usual each word is told of."""
        return self.surplus(vectors_ND - self.mean_D)

    def usual(self) -> str:
        """The most frequent words, as many as a text has: what can be guessed of any text without its vector."""
        order = np.argsort(-self.shares_W, kind="stable")[: self.usual_length]
        return " ".join(self.words[i] for i in order)


def learn(vectors_ND: np.ndarray, texts: Sequence[str]) -> WordReader:
    """A reader of vectors like these. At least one text must hold a word."""
    split = [tokens(text) for text in texts]
    counts = Counter(word for words in split for word in set(words))
    words = tuple(sorted(counts))
    places = {word: i for i, word in enumerate(words)}
    mean_D = vectors_ND.mean(0)
    centred_ND = vectors_ND - mean_D
    held_WD = np.zeros((len(words), vectors_ND.shape[1]))
    for row, told in zip(centred_ND, split, strict=True):
        held_WD[[places[word] for word in set(told)]] += row
    gram_DD = centred_ND.T.astype(float) @ centred_ND
    gram_DD += RIDGE * max(float(np.trace(gram_DD)) / len(gram_DD), 1e-9) * np.eye(len(gram_DD))
    return WordReader(
        words,
        places,
        np.linalg.solve(gram_DD, held_WD.T).astype(np.float32),
        mean_D,
        np.array([counts[word] for word in words]) / len(texts),
        int(np.median([len(told) for told in split])),
    )
