"""The search index over Passages: by words, by meaning where there is an embedder, and both as one ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

import numpy as np

from imprint.errors import BadSetting
from imprint.retrieval.filters import Filter
from imprint.retrieval.keywords import Keywords
from imprint.retrieval.ranking import Ranked, fuse
from imprint.retrieval.reranking import Reranker
from imprint.retrieval.vector_cache import VectorCache
from imprint.retrieval.vectors import Vectors
from imprint.types import Document, Embedder, Passage
from imprint.watch import SILENT, Watch

DEPTH = 100
"""Passages that each ranking hands to the fusion."""
LEAST_SHARE = 0.75
"""Passages with less of the best one's BM25 are not handed to the fusion: to rank third with a common word is
no reason to be before what both rankings know. Chosen on SQuAD's training articles (docs/retrieval.md)."""


class Index:
    """Passages, found by the words of a question, and by its meaning where an embedder is given.

    Safe to search from many threads. Close it, or use it in a `with` block, to give its memory back."""

    def __init__(
        self,
        passages: Sequence[Passage],
        *,
        embedder: Embedder | None = None,
        cache: VectorCache | None = None,
        reranker: Reranker | None = None,
        documents: Iterable[Document] = (),
        keywords: bool = True,
        watch: Watch = SILENT,
    ) -> None:
        """`documents` are what filters by source and date look at; `keywords=False` searches by meaning alone."""
        if embedder is None and not keywords:
            raise BadSetting("An index without keywords needs an embedder. Give one, or leave keywords=True.")
        self.passages = tuple(passages)
        self._documents = {document.id: document for document in documents}
        self._reranker = reranker
        self.keywords = Keywords(self.passages) if keywords else None
        self.vectors: Vectors | None = None
        if embedder is not None:
            self.vectors = Vectors(self.passages, embedder, cache, _telling(watch))

    def search(self, question: str, *, k: int = 4, where: Filter | None = None) -> list[Passage]:
        """At most `k` passages, best first; equals in passage order.

        By words alone only such as share a word with the question. `where`: only such as it lets through."""
        if k < 1:
            raise BadSetting(f"A search returns at least 1 passage, and k is {k}. Give k=1 or more.")
        among = None if where is None else self._among(where)
        wanted = max(k, self._reranker.candidates) if self._reranker else k
        found = [self.passages[ranked.place] for ranked in self._rank(question, wanted, among)[:wanted]]
        return (self._reranker.rerank(question, found) if self._reranker else found)[:k]

    def _rank(self, question: str, k: int, among: np.ndarray | None) -> list[Ranked]:
        if self.vectors is None:
            return self.keywords.rank(question, k, among) if self.keywords else []
        if self.keywords is None:
            return self.vectors.rank(question, k, among)
        depth = max(k, DEPTH)
        by_words = self.keywords.rank(question, depth, among)
        telling = [found for found in by_words if found.score >= LEAST_SHARE * by_words[0].score]
        by_meaning = self.vectors.rank(question, depth, among)
        return fuse([[found.place for found in ranking] for ranking in (telling, by_meaning)])

    def _among(self, where: Filter) -> np.ndarray:
        """For each passage whether it may be found."""
        if where.asks_documents and not self._documents and self.passages:
            raise BadSetting(
                "The filter asks for a source or a date, and this index knows its passages' documents by id only. "
                "Give the index its documents too."
            )
        documents = self._documents
        return np.array([where.lets_through(p, documents.get(p.document_id)) for p in self.passages], bool)

    def close(self) -> None:
        """Gives the memory back. A closed index is searched no more."""
        if self.keywords is not None:
            self.keywords.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _telling(watch: Watch) -> Callable[[int, int], None]:
    """Tells of embedding, and that it began once there is something to embed."""
    begun = False

    def told(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            watch.stage(f"Embedding {total} texts")
            begun = True
        watch.progress("texts", done, total, "")

    return told
