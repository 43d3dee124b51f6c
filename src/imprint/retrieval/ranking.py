"""Rankings of passages, and how several become one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RANK_CONSTANT = 60
"""How little the first places stand out: k of reciprocal rank fusion (Cormack, Clarke, Büttcher 2009)."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage that was found, by its place in the index."""

    place: int
    score: float
    """More is better; what it means only who ranked knows."""


def top(scores: np.ndarray, k: int) -> list[Ranked]:
    """The k highest, best first; equals by their place. What scores minus infinity is left out."""
    if k < len(scores):
        least = scores[np.argpartition(scores, len(scores) - k)[len(scores) - k]]
        places = np.flatnonzero(scores >= least)  # equals of the last one too: their places decide
    else:
        places = np.arange(len(scores))
    places = places[np.lexsort((places, -scores[places]))][:k]
    return [Ranked(int(p), float(scores[p])) for p in places if scores[p] > -np.inf]


def fuse(rankings: Sequence[Sequence[int]]) -> list[Ranked]:
    """Places by the sum of 1 / (60 + rank) over the rankings that have them, best first; equals by their place.

    Scores of words and of vectors cannot be added; ranks can."""
    shares: dict[int, list[float]] = defaultdict(list)
    for ranking in rankings:
        for rank, place in enumerate(ranking, 1):
            shares[place].append(1 / (RANK_CONSTANT + rank))
    fused = [Ranked(place, math.fsum(parts)) for place, parts in shares.items()]
    return sorted(fused, key=lambda found: (-found.score, found.place))
