"""Passages found by the words of a question: BM25 by SQLite's FTS5, in memory.

Exact about names and numbers, with nothing to download."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence

import numpy as np

from imprint.errors import MissingPackage
from imprint.retrieval.ranking import Ranked
from imprint.retrieval.words import indexed, is_beginning, pairs_sought, words_sought
from imprint.types import Passage

TITLE_WEIGHT, HEADING_WEIGHT, TEXT_WEIGHT = 1.0, 2.0, 1.0
"""How much one word counts where it stands. A heading says what its passage is about; a title is shared by
all passages of a document."""

# Porter's stems let "vacation days" find "vacation day". Words as they are spelt are looked up besides, and so what
# stands there just as it is asked counts twice: "olives" is not much about "olive oil". Other languages are
# stemmed alike in question and passage, which costs them little. Marks (M*) belong to words: without them Hindi and
# Thai fall apart. On SQuAD's training articles stems alone put the right passage first for 81 % of questions, with
# pairs of words 81 %, with words as spelt 82 %, with both 84 % (docs/retrieval.md).
_SPELT = "unicode61 remove_diacritics 2 categories 'L* M* N* Co'"
_STEMMED = f"porter {_SPELT}"

_SEARCH = """
SELECT rowid, SUM(score) AS total FROM (
    SELECT rowid, -bm25(stemmed, :title, :heading, :text) AS score FROM stemmed WHERE stemmed MATCH :stems
    UNION ALL
    SELECT rowid, -bm25(spelt, :title, :heading, :text) FROM spelt WHERE spelt MATCH :words
) GROUP BY rowid ORDER BY total DESC, rowid LIMIT :most
"""


class Keywords:
    """An index of words. Safe to search from many threads."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        _create(self._db)
        rows = [
            (row, indexed(passage.title), indexed(passage.heading), indexed(passage.text))
            for row, passage in enumerate(passages)
        ]
        for table in ("stemmed", "spelt"):
            self._db.executemany(f"INSERT INTO {table} (rowid, title, heading, text) VALUES (?, ?, ?, ?)", rows)

    def rank(self, question: str, k: int, among: np.ndarray | None = None) -> list[Ranked]:
        """At most k passages that share a word with the question, best first; equals in passage order.

        `among`: for each passage whether it may be found."""
        words = words_sought(question)
        if not words:
            return []
        asked = {
            "title": TITLE_WEIGHT,
            "heading": HEADING_WEIGHT,
            "text": TEXT_WEIGHT,
            "stems": _any_of([*words, *pairs_sought(question)]),
            "words": _any_of(words),
            "most": k if among is None else -1,
        }
        found: list[Ranked] = []
        with self._lock:
            for place, score in self._db.execute(_SEARCH, asked):
                if among is None or among[place]:
                    found.append(Ranked(place, score))
                    if len(found) == k:
                        break
        return found

    def share(self, question: str, place: int) -> float:
        """The share of the question's words that one passage holds."""
        words = words_sought(question)
        with self._lock:
            held = [
                self._db.execute(
                    "SELECT 1 FROM stemmed WHERE stemmed MATCH ? AND rowid = ?", [_quoted(word), place]
                ).fetchone()
                for word in words
            ]
        return sum(row is not None for row in held) / len(words) if words else 0.0

    def close(self) -> None:
        """Gives the memory back. A closed index is searched no more."""
        with self._lock:
            self._db.close()


def _create(db: sqlite3.Connection) -> None:
    try:
        for table, tokenizer in (("stemmed", _STEMMED), ("spelt", _SPELT)):
            # Contentless: FTS5 keeps the words, and the passages stay ours.
            columns = "title, heading, text, content='', tokenize='{}'".format(tokenizer.replace("'", "''"))
            db.execute(f"CREATE VIRTUAL TABLE {table} USING fts5 ({columns})")
    except sqlite3.OperationalError as error:
        db.close()
        raise MissingPackage(
            f"This Python's SQLite {sqlite3.sqlite_version} has no full-text search: {error}. Use a Python "
            f"whose sqlite3 is built with FTS5, as those of python.org and conda are."
        ) from error


def _any_of(phrases: Sequence[str]) -> str:
    """Any of these words and pairs of words, in FTS5's syntax."""
    return " OR ".join(map(_quoted, phrases))


def _quoted(words: str) -> str:
    """In quotes nothing is syntax, and no word holds a quote."""
    return f'"{words}"' + "*" * is_beginning(words)
