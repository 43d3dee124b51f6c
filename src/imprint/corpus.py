"""The documents of one teaching, kept so that a proof can later open them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imprint.documents import split
from imprint.run_folder import write_whole
from imprint.synthesis.novelty import set_aside, without_repeats
from imprint.types import Document, Passage, content_hash

if TYPE_CHECKING:
    from imprint.base import Base
    from imprint.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents in order."""

    documents: tuple[Document, ...]

    @property
    def hash(self) -> str:
        return content_hash(*(f"{d.source}\n{d.id}" for d in self.documents))

    def split(self, max_tokens: int, count_tokens: Callable[[str], int]) -> list[Passage]:
        """All passages, document after document."""
        return [p for d in self.documents for p in split(d, max_tokens=max_tokens, count_tokens=count_tokens)]

    def keep(self, home: Path) -> None:
        """Writes the documents into the home folder, under their hash."""
        file = Corpus.file(home, self.hash)
        if not file.exists():
            write_whole(file, (json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in self.documents))

    @staticmethod
    def file(home: Path, corpus_hash: str) -> Path:
        """Where the documents of this hash are kept, or would be."""
        return home / "corpora" / f"{content_hash(corpus_hash)}.jsonl"

    @staticmethod
    def kept(home: Path, corpus_hash: str) -> Corpus | None:
        """The documents kept under this hash; None where they are not (an imported adapter's)."""
        file = Corpus.file(home, corpus_hash)
        if not corpus_hash or not file.exists():
            return None
        with open(file, encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        return Corpus(tuple(Document(**{**r, "page_starts": tuple(r["page_starts"])}) for r in records))


def to_teach(corpus: Corpus, recipe: Recipe, model: Base) -> tuple[list[Passage], dict[str, int]]:
    """The passages of a corpus, what several documents repeat only once; and counts of what was set aside."""
    split = corpus.split(recipe.passage_tokens, model.count_tokens)
    kept = without_repeats(split)
    return kept, set_aside(split, kept)
