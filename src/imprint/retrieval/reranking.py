"""The first passages found, put in order by a model that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imprint.retrieval.ranking import fuse
from imprint.types import Passage, Prompt, Reader, Turn

MOST_CHARACTERS = 2_000
"""Of a passage as much is read; a small model loses the thread of more."""


@dataclass(frozen=True, slots=True)
class Reranker:
    """Orders passages by how likely the question is to a model that has the passage before it (Sachan et al. 2022,
    arXiv 2204.07496), and by the order in which they were found, both ranks fused."""

    reader: Reader
    candidates: int = 10
    """How many passages are read for each question."""

    def rerank(self, question: str, passages: Sequence[Passage]) -> list[Passage]:
        """The same passages, the likeliest to answer first; equals as they were found."""
        read, rest = passages[: self.candidates], passages[self.candidates :]
        if len(read) < 2:
            return list(passages)
        likely = self.reader.likelihoods([_prompt(passage) for passage in read], [question] * len(read))
        by_model = sorted(range(len(read)), key=lambda i: (-likely[i], i))
        return [*(read[found.place] for found in fuse([range(len(read)), by_model])), *rest]


def _prompt(passage: Passage) -> Prompt:
    head = ". ".join(part for part in (passage.title, passage.heading.split(" > ")[-1]) if part)
    text = f"{head}\n{passage.text}"[:MOST_CHARACTERS]
    return Prompt((Turn("user", f"{text}\n\nAsk a question that this text answers."),))
