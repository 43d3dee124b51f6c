"""The law of passages put in order by a real model; those that need none are in test_retrieval.py."""

from __future__ import annotations

from imprint.base import Base
from imprint.retrieval import Reranker
from imprint.writers.local import LocalWriter
from test_retrieval import passages


def test_a_real_model_puts_passages_in_order(tiny_base: Base) -> None:
    reranker = Reranker(LocalWriter(tiny_base), candidates=3)
    found = passages("one", "two", "three")
    assert sorted(p.text for p in reranker.rerank("How many?", found)) == ["one", "three", "two"]
    assert reranker.rerank("How many?", found) == reranker.rerank("How many?", found)
