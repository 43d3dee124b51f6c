"""How varied a training text is, and what in it says the same twice.

Distinct-n is from Li et al. (arXiv 1510.03055), self-BLEU from Texygen (arXiv 1802.01886), MinHash from Broder
(1997) with the banding of datasketch. What is measured is measured on a seeded sample of fixed size."""

from __future__ import annotations

import math
import random
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from imprint.synthesis.wording import firm, words
from imprint.types import Example

if TYPE_CHECKING:
    from datasketch import MinHash

_SHORT = 12
"""Words up to which a learnt answer must agree word for word before its item may count as said twice."""


class NearDuplicates:
    """Finds items that say in nearly the same words what an item before them said.

    Two items that differ in a number, a name, a date, a negation, a short answer or the document they come from are
    no duplicates, however alike: each shingle is salted with those. Only bands of signatures are kept, about
    1.4 kB an item; 64 permutations put nearly all pairs above 0.9 and hardly any below 0.75 together."""

    def __init__(self, threshold: float = 0.85, permutations: int = 64, shingle: int = 3) -> None:
        from datasketch import MinHash, MinHashLSH  # half a second, which `imprint --help` need not wait for

        self.shingle = shingle
        self._index: Any = MinHashLSH(threshold=threshold, num_perm=permutations, hashfunc=_short_hash)
        self._empty = MinHash(num_perm=permutations, hashfunc=_as_it_is)
        self._count = 0

    def is_new(self, example: Example) -> bool:
        """Whether nothing like this came before; from now on, this did."""
        signature = self._signature(example)
        new = not self._index.query(signature)
        if new:
            self._count += 1
            self._index.insert(self._count, signature, check_duplication=False)
        return new

    def _signature(self, example: Example) -> MinHash:
        text = "\n".join(t.text for t in example.turns)
        made = self._empty.copy()
        salt = zlib.crc32(_salt(example, text).encode())
        told = words(text)
        runs = [" ".join(told[i : i + self.shingle]) for i in range(max(1, len(told) - self.shingle + 1))]
        made.update_batch([zlib.crc32(run.encode(), salt) for run in set(runs)])
        return made


def _salt(example: Example, text: str) -> str:
    """What must be the same in both for two items to be duplicates."""
    learnt = [" ".join(words(t.text)) for t in example.turns if t.learn]
    answer = learnt[0] if len(learnt) == 1 and len(learnt[0].split()) <= _SHORT else ""
    documents = sorted({i.partition(":")[0] for i in example.passages})
    return "\n".join([*sorted(firm(text)), answer, *documents])


def _short_hash(band: bytes) -> bytes:
    return blake2b(band, digest_size=8).digest()


def _as_it_is(value: int) -> int:
    return value


# --- how varied -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Variety:
    """How varied a sample is."""

    distinct: tuple[float, float, float]
    """Different ones among all its words, pairs and triples of words; falls as the sample grows."""
    self_bleu: float
    """How well the other texts foretell a text (mean BLEU-4): lower is more varied."""
    texts: int
    tokens: int


class Sample:
    """A fair sample of the texts that stream by: each is as likely to be in it as any other."""

    def __init__(self, size: int = 400, *, seed: int = 0, longest: int = 200) -> None:
        self.size, self.longest = size, longest
        self.seen = 0
        self.texts: list[tuple[str, ...]] = []
        self._draw = random.Random(f"sample:{seed}")

    def add(self, example: Example) -> None:
        """Lets one text take its chance (Vitter's algorithm R)."""
        self.seen += 1
        place = len(self.texts) if len(self.texts) < self.size else self._draw.randrange(self.seen)
        if place < self.size:
            told = words("\n".join(t.text for t in example.turns))
            self.texts[place : place + 1] = [tuple(told[: self.longest])]

    def variety(self, *, tokens: int = 20_000, compared: int = 200) -> Variety:
        """Measured on at most so many tokens, and so many texts compared with each other."""
        drawn = random.Random(0).sample(self.texts, len(self.texts))
        used: list[tuple[str, ...]] = []
        for text in drawn:
            if sum(map(len, used)) + len(text) > tokens and used:
                break
            used.append(text)
        one, two, three = (distinct(used, n) for n in (1, 2, 3))
        return Variety((one, two, three), self_bleu(drawn[:compared]), len(used), sum(map(len, used)))


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams among all n-grams; 1 where there is none."""
    every = [hash_of for text in texts for hash_of in _grams(text, n)]
    return len(set(every)) / len(every) if every else 1.0


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Mean BLEU-4 of each text with all others as its references; 0 where there is nothing to compare.

    For each n-gram the two texts that have it most often are noted, which tells the most that the others of any
    text have of it. A count of 0 is taken as 0.1, so that short texts have a score (smoothing 1 of Chen and
    Cherry 2014)."""
    texts = [t for t in texts if len(t) >= 4]
    if len(texts) < 2:
        return 0.0
    counts = [[Counter(_grams(t, n)) for n in (1, 2, 3, 4)] for t in texts]
    most = [_two_most([c[n] for c in counts]) for n in range(4)]
    lengths = sorted(len(t) for t in texts)
    return sum(_bleu(i, counts[i], most, lengths) for i in range(len(texts))) / len(texts)


def _bleu(
    i: int, counts: Sequence[Counter[Any]], most: Sequence[dict[Any, tuple[int, int, int]]], lengths: list[int]
) -> float:
    logs = 0.0
    for n in range(4):
        clipped = 0
        for gram, count in counts[n].items():
            owner, first, second = most[n][gram]
            clipped += min(count, second if owner == i else first)
        logs += math.log((clipped or 0.1) / sum(counts[n].values())) / 4
    length = sum(counts[0].values())
    others = list(lengths)
    others.remove(length)
    nearest = min(others, key=lambda other: (abs(other - length), other))
    return math.exp(logs + min(0.0, 1 - nearest / length))


def _two_most(counts: Sequence[Counter[Any]]) -> dict[Any, tuple[int, int, int]]:
    """For each n-gram: the text that has it most often, how often, and the most that any other has."""
    most: dict[Any, tuple[int, int, int]] = {}
    for i, own in enumerate(counts):
        for gram, count in own.items():
            owner, first, second = most.get(gram, (-1, 0, 0))
            if count > first:
                most[gram] = (i, count, first)
            elif count > second:
                most[gram] = (owner, first, count)
    return most


def _grams(text: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    if n == 2:
        return iter(pairwise(text))
    return (tuple(text[i : i + n]) for i in range(len(text) - n + 1))
