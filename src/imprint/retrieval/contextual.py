"""Vectors that hang on the corpus they are compared in: what all its texts share counts less, what tells twins
apart more.

The idea of Morris and Rush 2024 (Contextual Document Embeddings, arXiv 2410.02525), who train a model that reads a
document's neighbours. Here the embedder stays as it is, and a map follows it that is computed from the corpus
alone:

1. The mean is taken away, and the few directions in which the corpus spreads most are held down to the next one's
   spread: they tell of its layout and small print (Mu, Bhat, Viswanath 2018, arXiv 1702.01417, leave them out).
2. Texts that share most of their words are twins: Visa's terms and MasterCard's. The directions in which twins
   differ are found over all groups of twins together, from their vectors and from those of the words that only one
   of them has. A vector gets a second part: where it lies along these directions, with length 1, however small the
   difference was. A question has it too where the text nearest to it has a twin.

Shape key: N texts of the corpus, X vectors that are changed, D width, R directions of twins, G groups of twins."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imprint.errors import BadSetting
from imprint.retrieval.vector_cache import VectorCache
from imprint.retrieval.vectors import head_of
from imprint.types import Embedder, Passage, content_hash

NEIGHBOURS = 8
"""Among so many nearest texts twins are looked for."""
MOST_DIRECTIONS = 32
MOST_OWN_WORDS = 32
_ROWS = 1024
_MARKS = ".,;:!?()[]\"'"


@dataclass(frozen=True, slots=True)
class Context:
    """How much the corpus changes a vector. The defaults were chosen on the first pairs of bench/_twins.py."""

    flattened: int | None = None
    """Directions of greatest spread that are held down; None is one for each hundred numbers of a vector, 0
    none."""
    twin_words: float = 0.8
    """Texts with this share of their different words in common are twins; above 1 there are none."""
    twin_share: float = 0.1
    """How much twins' differences count, beside 1 for all else."""
    kept: float = 0.8
    """Directions of twins are taken until they hold this share of all their differences."""

    def __post_init__(self) -> None:
        if self.flattened is not None and self.flattened < 0:
            raise BadSetting(f"Directions held down are {self.flattened}. Give 0 or more, or None.")
        for name in ("twin_words", "twin_share", "kept"):
            if not getattr(self, name) > 0:
                raise BadSetting(f"{name} is {getattr(self, name)}. Give more than 0.")


class ContextualEmbedder:
    """Another embedder's vectors, seen from this corpus. Vectors of another corpus cannot be compared with them."""

    def __init__(
        self,
        embedder: Embedder,
        passages: Sequence[Passage],
        *,
        context: Context | None = None,
        cache: VectorCache | None = None,
        told: Callable[[int, int], None] | None = None,
    ) -> None:
        """Embeds the passages to learn of them; with a cache they are not embedded again to be indexed."""
        self._embedder, self._cache = embedder, cache
        context = context or Context()
        texts = [text for p in passages for text in embedder.stretches(p.text, head=head_of(p))]
        self.lens = look(self._plain(texts, told), texts, context, embedder.embed_questions)
        self.name = f"{embedder.name}+corpus-{content_hash(repr(context), *sorted(texts))}"

    @property
    def width(self) -> int:
        return self._embedder.width + (len(self.lens.twins.directions_RD) if self.lens.twins else 0)

    def stretches(self, text: str, *, head: str = "") -> list[str]:
        """The text in parts that the model reads whole, each under the head."""
        return self._embedder.stretches(text, head=head)

    def embed(self, texts: Sequence[str], *, told: Callable[[int, int], None] | None = None) -> np.ndarray:
        """N x width."""
        return self.lens.through(self._plain(texts, told))

    def embed_questions(self, questions: Sequence[str]) -> np.ndarray:
        """N x width, by the same map."""
        return self.lens.through(self._embedder.embed_questions(questions))

    def _plain(self, texts: Sequence[str], told: Callable[[int, int], None] | None) -> np.ndarray:
        if self._cache is not None:
            return self._cache.vectors(self._embedder, texts, told)
        return np.asarray(self._embedder.embed(texts, told=told))


@dataclass(frozen=True, slots=True)
class Twins:
    """Groups of texts that are nearly the same, and how they differ."""

    groups: tuple[tuple[int, ...], ...]
    """Places in the corpus."""
    directions_RD: np.ndarray
    share: float
    _corpus_ND: np.ndarray
    """Flattened, of length 1: what a vector lies nearest to."""
    _group_N: np.ndarray
    """The group of each text; -1 where it has no twin."""
    _centres_GD: np.ndarray
    _least_G: np.ndarray
    """How near to its centre a group's farthest text is."""

    def parts(self, vectors_XD: np.ndarray, flat_XD: np.ndarray, mean_D: np.ndarray) -> np.ndarray:
        """X x R: where each lies along the directions, of length 1; zeros where the nearest text has no twin."""
        group_X = self._group_N[_nearest(flat_XD, self._corpus_ND)]
        centre_XD = self._centres_GD[group_X]
        # What is one of the group is seen from its middle, and what only asks about it, as questions do, from the
        # corpus's: questions lie far off all texts, in a direction that differs from group to group.
        is_one_X = np.sum(vectors_XD * unit(centre_XD), axis=1) >= self._least_G[group_X]
        from_XD = np.where(is_one_X[:, None], centre_XD, mean_D)
        return unit((vectors_XD - from_XD) @ self.directions_RD.T) * (group_X >= 0)[:, None]


@dataclass(frozen=True, slots=True)
class Lens:
    """The map from an embedder's vectors to those of one corpus."""

    mean_D: np.ndarray
    flatten_DD: np.ndarray
    twins: Twins | None

    def through(self, vectors_XD: np.ndarray) -> np.ndarray:
        """X x (D + R), float32, of length 1."""
        flat_XD = self.flat(vectors_XD)
        if self.twins is None or not len(flat_XD):
            return flat_XD
        parts_XR = self.twins.parts(vectors_XD, flat_XD, self.mean_D)
        return unit(np.hstack([flat_XD, np.sqrt(self.twins.share) * parts_XR])).astype(np.float32)

    def flat(self, vectors_XD: np.ndarray) -> np.ndarray:
        """X x D: without the mean, and with less of the directions of greatest spread."""
        seen_XD = (vectors_XD - self.mean_D) @ self.flatten_DD
        lost_X1 = np.linalg.norm(seen_XD, axis=1, keepdims=True) < 1e-6  # the mean itself: it stays as it is
        return unit(np.where(lost_X1, vectors_XD, seen_XD)).astype(np.float32)


def look(
    vectors_ND: np.ndarray,
    texts: Sequence[str],
    context: Context,
    embed_questions: Callable[[Sequence[str]], np.ndarray],
) -> Lens:
    """The lens of a corpus. Without twins nothing is changed: there was nothing to gain (docs/vectors.md)."""
    width = vectors_ND.shape[1]
    clear = Lens(np.zeros(width, np.float32), np.eye(width, dtype=np.float32), None)
    if len(set(texts)) < 2:
        return clear
    mean_D = vectors_ND.mean(0)
    count = width // 100 if context.flattened is None else context.flattened
    plain = Lens(mean_D, _flattening(vectors_ND - mean_D, count), None)
    groups = twins(plain.flat(vectors_ND), texts, context.twin_words)
    if not groups:
        return clear
    own = [own_words(texts, places) for places in groups]
    different = list(dict.fromkeys(words for each in own for words in each if words))
    known = dict(zip(different, embed_questions(different), strict=True)) if different else {}
    return Lens(mean_D, plain.flatten_DD, _apart(vectors_ND, plain, groups, own, known, context))


def twins(flat_ND: np.ndarray, texts: Sequence[str], least_shared: float) -> tuple[tuple[int, ...], ...]:
    """Groups of texts of which each shares so many of its words with another that lies near it, and is not the
    same."""
    words = [frozenset(re.findall(r"\w+", text.lower())) for text in texts]
    group = list(range(len(texts)))

    def first(i: int) -> int:
        while group[i] != i:
            group[i] = i = group[group[i]]
        return i

    for i, j in _neighbours(flat_ND):
        if texts[i] != texts[j] and len(words[i] & words[j]) >= least_shared * len(words[i] | words[j]):
            group[first(j)] = first(i)
    found: dict[int, list[int]] = {}
    for i in range(len(texts)):
        found.setdefault(first(i), []).append(i)
    return tuple(tuple(places) for places in found.values() if len(places) > 1)


def own_words(texts: Sequence[str], places: Sequence[int]) -> list[str]:
    """Of each of these twins the words that not all of them have, in their order."""
    words = [[word.strip(_MARKS) for word in texts[i].split()] for i in places]
    common = frozenset.intersection(*(frozenset(word.lower() for word in told) for told in words))
    return [" ".join([word for word in told if word.lower() not in common][:MOST_OWN_WORDS]) for told in words]


def unit(vectors_XD: np.ndarray) -> np.ndarray:
    """The same directions with length 1; zeros stay zeros."""
    return vectors_XD / np.maximum(np.linalg.norm(vectors_XD, axis=1, keepdims=True), 1e-12)


def _flattening(centred_ND: np.ndarray, count: int) -> np.ndarray:
    """D x D: holds the first directions of spread down to the spread of the one after them."""
    matrix_DD = np.eye(centred_ND.shape[1])
    _, spread, directions_DD = np.linalg.svd(centred_ND, full_matrices=False)
    count = min(count, int(np.sum(spread > 1e-6 * spread[0])) - 1)
    if count > 0:
        top_CD = directions_DD[:count]
        matrix_DD += (top_CD.T * (spread[count] / spread[:count] - 1)) @ top_CD
    return matrix_DD.astype(np.float32)


def _apart(
    vectors_ND: np.ndarray,
    plain: Lens,
    groups: Sequence[Sequence[int]],
    own: Sequence[Sequence[str]],
    known: Mapping[str, np.ndarray],
    context: Context,
) -> Twins:
    """How these twins differ, over all groups together: one pair's difference alone is mostly noise.

    Texts show how documents differ, and their own words alone how questions about them do: both count the same."""
    centres_GD = np.stack([vectors_ND[list(places)].mean(0) for places in groups])
    group_N = np.full(len(vectors_ND), -1)
    differences = []
    for g, (places, words) in enumerate(zip(groups, own, strict=True)):
        group_N[list(places)] = g
        difference_TD = unit(vectors_ND[list(places)] - centres_GD[g])  # T twins of the group
        if all(words):
            told_TD = np.stack([known[each] for each in words])
            difference_TD = difference_TD + unit(told_TD - told_TD.mean(0))
        differences.append(difference_TD)
    _, spread, directions_DD = np.linalg.svd(np.concatenate(differences), full_matrices=False)
    held = np.cumsum(spread**2) / np.sum(spread**2)
    count = min(int(np.searchsorted(held, context.kept)) + 1, MOST_DIRECTIONS, len(spread))
    near_N = np.sum(vectors_ND * unit(centres_GD)[group_N], axis=1)
    return Twins(
        tuple(tuple(places) for places in groups),
        directions_DD[:count],
        context.twin_share,
        plain.flat(vectors_ND),
        group_N,
        centres_GD,
        np.array([near_N[list(places)].min() - 1e-5 for places in groups]),
    )


def _neighbours(flat_ND: np.ndarray) -> Iterator[tuple[int, int]]:
    """Each text with its nearest ones, block by block."""
    count = min(NEIGHBOURS, len(flat_ND) - 1)
    for start in range(0, len(flat_ND), _ROWS):
        near_RN = flat_ND[start : start + _ROWS] @ flat_ND.T
        near_RN[np.arange(len(near_RN)), start + np.arange(len(near_RN))] = -np.inf
        for row, places in enumerate(np.argpartition(-near_RN, count - 1, axis=1)[:, :count]):
            for place in places:
                yield start + row, int(place)


def _nearest(flat_XD: np.ndarray, corpus_ND: np.ndarray) -> np.ndarray:
    """For each vector the place of the nearest of the corpus."""
    blocks = [flat_XD[start : start + _ROWS] @ corpus_ND.T for start in range(0, len(flat_XD), _ROWS)]
    return np.concatenate([block.argmax(1) for block in blocks])
