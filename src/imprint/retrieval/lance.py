"""Passages in a LanceDB folder: more of them than memory holds, kept between runs, changed row by row.

LanceDB never changes a file: a deleted row is only marked, and lives on in the old version besides. So what deletes
here writes the rest anew and removes the old versions, which costs as much as the store is large."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imprint.errors import BadSetting, MissingPackage
from imprint.retrieval.filters import Filter
from imprint.retrieval.index import DEPTH
from imprint.retrieval.ranking import fuse
from imprint.retrieval.vector_cache import VectorCache
from imprint.retrieval.vectors import head_of
from imprint.retrieval.words import indexed, words_sought
from imprint.types import Document, Embedder, Passage

if TYPE_CHECKING:
    import pyarrow

TABLE = "passages"
INDEX_FROM = 50_000
"""Rows from which vectors get an approximate index; below, all are compared."""
_KEPT = ("passage", "document", "start", "end", "text", "title", "heading", "page", "source", "valid_from")


class LanceIndex:
    """Passages on disk, found by words and by meaning.

    One process writes at a time. Others may search, but a search that a deletion meets halfway may fail."""

    def __init__(self, folder: Path, embedder: Embedder, *, cache: VectorCache | None = None) -> None:
        """Raises MissingPackage without lancedb, BadSetting where the folder was made with another embedder."""
        self._embedder, self._cache = embedder, cache
        self._db = _connect(folder)
        if TABLE in self._db.list_tables().tables:
            self._table = self._db.open_table(TABLE)
            made_with = (self._table.schema.metadata or {}).get(b"embedder", b"").decode()
            if made_with != embedder.name:
                raise BadSetting(
                    f"{folder} holds vectors of {made_with or 'an unknown embedder'}, and this is {embedder.name}. "
                    "Open it with the same embedder, or name another folder."
                )
        else:
            self._table = self._db.create_table(TABLE, schema=self._schema())

    def __len__(self) -> int:
        return len(set(self._column("passage")))

    def add(self, passages: Sequence[Passage], documents: Iterable[Document] = ()) -> None:
        """Adds passages; those that are there already are put in anew. `documents` tell sources and dates."""
        if not passages:
            return
        there = set(self._column("passage"))
        again = [passage.id for passage in passages if passage.id in there]
        if again:
            self._table.delete(_one_of("passage", again))
        rows = self._rows(passages, {document.id: document for document in documents})
        self._table.add(rows)
        self._tidy(rewrite=bool(again))

    def delete(self, document_ids: Collection[str]) -> int:
        """Removes all passages of these documents, down to their bytes, and says how many stretches they had."""
        before = self._table.count_rows()
        if document_ids:
            self._table.delete(_one_of("document", document_ids))
        gone = before - self._table.count_rows()
        if gone:
            self._tidy(rewrite=True)
        return int(gone)

    def search(self, question: str, *, k: int = 4, where: Filter | None = None) -> list[Passage]:
        """At most k passages, best first; `where`: only such as it lets through."""
        if k < 1:
            raise BadSetting(f"A search returns at least 1 passage, and k is {k}. Give k=1 or more.")
        vector = self._embedder.embed_questions([question])[0]
        words = " ".join(words_sought(question))
        searches = [self._table.search(vector, vector_column_name="vector").distance_type("dot")]
        if words and self._table.count_rows():
            searches.append(self._table.search(words, query_type="fts", fts_columns="words"))
        found: dict[str, Passage] = {}
        rankings = []
        for search in searches:
            rows = self._met(search, max(k, DEPTH), where)
            found |= rows
            rankings.append(list(rows))
        ids = list(found)
        fused = fuse([[ids.index(name) for name in ranking] for ranking in rankings])
        return [found[ids[ranked.place]] for ranked in fused[:k]]

    def _met(self, search: Any, depth: int, where: Filter | None) -> dict[str, Passage]:
        """Passages by their ids, best first. SQL narrows the search down, and the filter itself decides."""
        condition = _sql(where) if where else ""
        if condition:
            search = search.where(condition, prefilter=True)
        met: dict[str, Passage] = {}
        for row in search.select(list(_KEPT)).limit(depth).to_list():
            passage = Passage(
                row["document"], row["start"], row["end"], row["text"], row["title"], row["heading"], row["page"]
            )
            document = Document("", row["source"], row["title"], valid_from=row["valid_from"])
            if where is None or where.lets_through(passage, document):
                met.setdefault(row["passage"], passage)
        return met

    def _tidy(self, *, rewrite: bool) -> None:
        """Few large files, and no old versions: with `rewrite` no byte of a row that was deleted."""
        from lancedb.index import FTS, HnswSq

        if rewrite:
            self._rewrite()
        rows = self._table.count_rows()
        if rows and not self._has_index("words"):
            self._table.create_index("words", config=FTS(remove_stop_words=False))
        if rows >= INDEX_FROM and not self._has_index("vector"):
            self._table.create_index("vector", config=HnswSq(distance_type="dot"))
        if not rewrite:
            self._table.optimize()
            return
        with warnings.catch_warnings():
            # It warns that whoever still reads an old version will fail, and that is what is wanted.
            warnings.simplefilter("ignore", UserWarning)
            self._table.optimize(cleanup_older_than=datetime.timedelta(0), delete_unverified=True)

    def _rewrite(self) -> None:
        """The rows that are left in files of their own. Compaction alone spares files with few deleted rows."""
        import pyarrow

        schema, rows = self._table.schema, self._table.count_rows()
        if rows:
            batches = self._table.search().limit(rows).to_batches()
            kept = pyarrow.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in batches))
            self._table = self._db.create_table(TABLE, kept, schema=schema, mode="overwrite")
        else:
            self._table = self._db.create_table(TABLE, schema=schema, mode="overwrite")

    def _has_index(self, column: str) -> bool:
        return any(column in index.columns for index in self._table.list_indices())

    def _column(self, name: str) -> list[str]:
        rows = self._table.search().select([name]).limit(self._table.count_rows() or 1).to_arrow()
        return list(rows.column(name).to_pylist())

    def _rows(self, passages: Sequence[Passage], documents: dict[str, Document]) -> pyarrow.Table:
        import pyarrow

        stretches = [(p, text) for p in passages for text in self._embedder.stretches(p.text, head=head_of(p))]
        texts = [text for _, text in stretches]
        cache, embedder = self._cache, self._embedder
        vectors = cache.vectors(embedder, texts) if cache else embedder.embed(texts)
        rows = [
            _row(passage, text, documents.get(passage.document_id)) | {"vector": vector}
            for (passage, text), vector in zip(stretches, vectors, strict=True)
        ]
        return pyarrow.Table.from_pylist(rows, schema=self._schema())

    def _schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        words = [
            (name, pa.string()) for name in ("passage", "document", "text", "title", "heading", "source", "words")
        ]
        columns = [
            *words,
            ("start", pa.int64()),
            ("end", pa.int64()),
            ("page", pa.int64()),
            ("valid_from", pa.string()),
            ("vector", pa.list_(pa.float32(), self._embedder.width)),
        ]
        return pa.schema(columns, metadata={"embedder": self._embedder.name})


def _row(passage: Passage, stretch: str, document: Document | None) -> dict[str, Any]:
    return {
        "passage": passage.id,
        "document": passage.document_id,
        "start": passage.start,
        "end": passage.end,
        "text": passage.text,
        "title": passage.title,
        "heading": passage.heading,
        "page": passage.page,
        "source": document.source if document else "",
        "valid_from": document.valid_from if document else None,
        "words": indexed(stretch),
    }


def _connect(folder: Path) -> Any:
    try:
        import lancedb
    except ImportError:
        raise MissingPackage(
            "Keeping passages in LanceDB needs lancedb. Install with: pip install 'imprint[lancedb]'"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    # Looked for anew with each search: another process may have written meanwhile.
    return lancedb.connect(str(folder), read_consistency_interval=datetime.timedelta(0))


def _sql(where: Filter) -> str:
    """A condition that holds for what the filter lets through, and for little else."""
    parts = []
    if where.document:
        parts.append(_one_of("document", where.document))
    for name in ("source", "title", "heading"):
        patterns = [_like(name, pattern) for pattern in getattr(where, name)]
        if patterns:
            parts.append(f"({' OR '.join(patterns)})")
    if where.since:
        parts.append(f"valid_from >= {_quoted(where.since)}")
    if where.until:  # '~' comes after the letters that may follow a date
        parts.append(f"valid_from <= {_quoted(where.until + '~')}")
    return " AND ".join(parts)


def _like(name: str, pattern: str) -> str:
    """Letters that capitals or SQL could make trouble of may be any."""
    plain = "".join(
        c if c.isascii() and (c.isalnum() or c in " ./-,:") else "_" if c == "?" else "%" for c in pattern
    )
    around = "%" if name == "heading" else ""
    return f"lower({name}) LIKE {_quoted(around + plain.lower() + around)}"


def _one_of(name: str, values: Iterable[str]) -> str:
    return f"{name} IN ({', '.join(map(_quoted, values))})"


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
