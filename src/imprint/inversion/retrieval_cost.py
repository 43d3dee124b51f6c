"""What a way of storing vectors costs in retrieval. Questions come as they are; only what is stored has been
changed.

Shape key: N texts, Q questions, D width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NEIGHBOURS = 10
_MOST_ASKED = 500


def overlap(plain_ND: np.ndarray, stored_ND: np.ndarray, *, seed: int) -> list[float]:
    """For each text (500 at most) which share of its ten nearest is among the ten nearest of the stored vectors."""
    count = len(plain_ND)
    k = min(NEIGHBOURS, count - 1)
    asked = np.random.default_rng(seed).permutation(count)[:_MOST_ASKED]
    shares = []
    for i in asked:
        before, after = (_nearest(vectors_ND @ plain_ND[i], int(i), k) for vectors_ND in (plain_ND, stored_ND))
        shares.append(len(before & after) / k)
    return shares


def hits(stored_ND: np.ndarray, questions_QD: np.ndarray, right: Sequence[int]) -> list[float]:
    """For each question whether the text that answers it comes first."""
    first = np.argmax(questions_QD @ stored_ND.T, axis=1)
    return [float(found == wanted) for found, wanted in zip(first, right, strict=True)]


def _nearest(nearness_N: np.ndarray, itself: int, k: int) -> set[int]:
    order = np.argsort(-nearness_N, kind="stable")
    return {int(i) for i in order[: k + 1] if i != itself} if itself in order[: k + 1] else set(map(int, order[:k]))
