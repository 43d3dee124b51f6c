"""Which documents share an adapter: an update or a deletion retrains only the shards that it touches.

After SISA (Bourtoule et al. 2021, arXiv 1912.03817), with one adapter a shard, of which the one that a question is
about answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from imprint.types import Document

_SMALL = 0.5
"""A shard below this part of the mean is retrained with what comes next, so that there are few small ones."""


def divided(documents: Sequence[Document], count: int) -> dict[str, int]:
    """By document id its shard: at most `count` of about as much text each. Neighbours by name stay together, for
    they are about the same more often than not."""
    whole = sum(len(d.text) for d in documents)
    found: dict[str, int] = {}
    before = 0
    for document in sorted(documents, key=lambda d: d.source):
        found[document.id] = min(count - 1, int(count * (before + len(document.text) / 2) / max(whole, 1)))
        before += len(document.text)
    return numbered(found)


def joined(shard_of: Mapping[str, int], kept: Sequence[Document], new: Sequence[Document]) -> dict[str, int]:
    """The shards of the documents that are kept, and of new ones: a shard of their own, or the smallest one where
    that is small."""
    sizes: Counter[int] = Counter(dict.fromkeys(shard_of.values(), 0))
    for document in kept:
        sizes[shard_of[document.id]] += len(document.text)
    if not new:
        return dict(shard_of)
    place = max(sizes, default=-1) + 1
    if sizes:
        smallest = min(sizes, key=lambda s: (sizes[s], s))
        if sizes[smallest] < _SMALL * sum(sizes.values()) / len(sizes):
            place = smallest
    return {**shard_of, **{d.id: place for d in new}}


def numbered(shard_of: Mapping[str, int]) -> dict[str, int]:
    """The same with the shards that are left counted from 0 without gaps."""
    places = {old: new for new, old in enumerate(sorted(set(shard_of.values())))}
    return {document: places[shard] for document, shard in shard_of.items()}
