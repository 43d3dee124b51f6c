"""What is audited: texts, their vectors, and which of them an attacker may learn from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from imprint.documents import split
from imprint.errors import BadInput
from imprint.inversion.recovery import tokens
from imprint.retrieval.vectors import head_of
from imprint.types import Document, Embedder

FEWEST_TEXTS = 8
SHARED = 0.5
"""A text that has this share of its five-word runs in common with a held-out one is not learnt from."""
_RUN = 5
_FEWEST_WORDS = 3
"""Texts of fewer are not held out: there is too little to guess."""
_CHECKED = 16
_SAME = 0.75
"""Of so many vectors this share must be nearest to its own text among theirs, whatever storing has done to them."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The texts of an index, and what is known of them besides."""

    texts: tuple[str, ...]
    vectors_ND: np.ndarray | None = None
    """Their vectors, where they are there already."""
    questions: tuple[tuple[str, int], ...] = ()
    """Questions, each with the place of the text that answers it; they tell what a storage costs in retrieval."""

    def __post_init__(self) -> None:
        if len(set(self.texts)) < FEWEST_TEXTS:
            raise BadInput(
                f"An audit needs at least {FEWEST_TEXTS} different texts, to learn from some and guess others; "
                f"there are {len(set(self.texts))}. Name more documents."
            )
        if self.vectors_ND is not None and (self.vectors_ND.ndim != 2 or len(self.vectors_ND) != len(self.texts)):
            raise BadInput(
                f"The vectors have the shape {self.vectors_ND.shape}, and there are {len(self.texts)} texts. "
                "Give one row for each text, in their order."
            )


def texts_of(documents: Sequence[Document], embedder: Embedder) -> tuple[str, ...]:
    """The texts that a search index embeds of these documents."""
    passages = [passage for document in documents for passage in split(document)]
    return tuple(text for p in passages for text in embedder.stretches(p.text, head=head_of(p)))


def read_stored(texts: Path, vectors: Path | None = None) -> Stored:
    """Texts of a JSONL file ({"text": ..., "questions": [...]} a line), and vectors of an .npy file.

    Raises BadInput where a file cannot be used."""
    rows = list(_rows(texts))
    questions = tuple((str(q), i) for i, row in enumerate(rows) for q in row.get("questions", ()))
    held = None
    if vectors is not None:
        try:
            held = np.load(vectors, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BadInput(f"{vectors} is no file of vectors that NumPy reads (.npy): {error}") from error
        if held.dtype.kind not in "fiu":
            raise BadInput(f"{vectors} holds {held.dtype}, not numbers. Save the vectors as float32.")
        held = held.astype(np.float32)
    return Stored(tuple(str(row["text"]) for row in rows), held, questions)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadInput(f"{file}, line {number}, is no JSON: {error}") from error
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise BadInput(f'{file}, line {number}, has no text. Write {{"text": "..."}} on each line.')
            yield row


def check_embedder(stored: Stored, embedder: Embedder, *, seed: int) -> None:
    """Raises BadInput where the stored vectors are not those that this embedder makes of the texts."""
    if stored.vectors_ND is None:
        return
    width = stored.vectors_ND.shape[1]
    if width != embedder.width:
        raise BadInput(
            f"The vectors have {width} numbers each, and {embedder.name} makes {embedder.width}. Name the embedder "
            "that made them: --embedder."
        )
    different = list({text: i for i, text in enumerate(stored.texts)}.values())
    places = np.random.default_rng(seed).permutation(different)[:_CHECKED]
    nearness_CC = unit(stored.vectors_ND[places]) @ embedder.embed([stored.texts[i] for i in places]).T
    own = int(np.sum(nearness_CC.argmax(1) == np.arange(len(places))))
    if own < _SAME * len(places):
        raise BadInput(
            f"The vectors are not those that {embedder.name} makes of the texts: of {len(places)} looked at, "
            f"{own} are nearest to their own text. Name the embedder that made them, and see that texts and "
            "vectors are in one order."
        )


def hold_out(texts: Sequence[str], most: int, *, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Places of texts to guess, and of those to learn from: no text of the second is, or nearly is, one of the
    first."""
    order = np.random.default_rng(seed).permutation(len(texts))
    words = [tokens(text) for text in texts]
    held: list[int] = []
    met: set[tuple[str, ...]] = set()
    for i in map(int, order):
        if len(held) < min(most, len(texts) // 4) and len(words[i]) >= _FEWEST_WORDS and tuple(words[i]) not in met:
            held.append(i)
            met.add(tuple(words[i]))
    runs = {run for i in held for run in _runs(words[i])}
    training = [i for i in range(len(texts)) if i not in set(held) and not _shares(_runs(words[i]), runs)]
    if not held or not training:
        raise BadInput(
            "The texts are too much alike to learn from some and guess others. Name more documents, or other ones."
        )
    return tuple(sorted(held)), tuple(training)


def general_texts() -> list[str]:
    """Paragraphs of the general text that comes along: what an attacker has in any case."""
    rooms = resources.files("imprint")
    files = (rooms / "adapters" / "general.txt", rooms / "evaluation" / "general_text.txt")
    return [block.strip() for file in files for block in file.read_text("utf-8").split("\n\n") if block.strip()]


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)


def _runs(words: Sequence[str]) -> set[tuple[str, ...]]:
    """Its runs of five words; of a shorter text the whole."""
    starts = range(max(1, len(words) - _RUN + 1))
    return {tuple(words[i : i + _RUN]) for i in starts}


def _shares(mine: set[tuple[str, ...]], theirs: set[tuple[str, ...]]) -> bool:
    return len(mine & theirs) >= SHARED * len(mine)
