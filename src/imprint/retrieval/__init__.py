"""Passages found for a question: the RAG side of every comparison and hybrid.

    Index(passages)                                        by words: BM25, nothing to install
    Index(passages, embedder=embedders.load())             by words and meaning, ranks fused
    Index(passages, embedder=..., cache=VectorCache(folder), reranker=Reranker(LocalWriter(base)))
    index.search("How many vacation days?", k=4, where=Filter(title=("Handbook*",)))
    Index(passages, embedder=ContextualEmbedder(embedders.load(), passages))       near twins told apart
    Router({"handbook": index, "plans": other}).route("How many vacation days?")

LanceIndex (lance.py) keeps more passages than memory holds, where lancedb is installed.
"""

from imprint.retrieval.contextual import Context, ContextualEmbedder
from imprint.retrieval.filters import Filter, filter_from
from imprint.retrieval.index import Index
from imprint.retrieval.reranking import Reranker
from imprint.retrieval.routing import Route, Router
from imprint.retrieval.vector_cache import VectorCache

__all__ = [
    "Context",
    "ContextualEmbedder",
    "Filter",
    "Index",
    "Reranker",
    "Route",
    "Router",
    "VectorCache",
    "filter_from",
]
