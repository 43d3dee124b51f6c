"""Passages with questions whose right passages, or right characters, are known."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imprint.documents import split
from imprint.types import Document, Passage

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and where its answer stands."""

    text: str
    right: frozenset[str]
    """Ids of the right passages."""
    spans: tuple[Span, ...] = ()
    """The characters that answer it, where they are known."""


@dataclass(frozen=True, slots=True)
class Set:
    """Passages, and questions about them."""

    name: str
    passages: tuple[Passage, ...]
    questions: tuple[Asked, ...]


def product_docs(data: Path) -> Set:
    folder = data / "product_docs"
    passages = tuple(
        Passage(chunk["chunk_link"], 0, len(chunk["text"]), chunk["text"], "", chunk["chunk_heading"])
        for chunk in json.loads((folder / "chunks.json").read_text("utf-8"))
    )
    ids = {passage.document_id: passage.id for passage in passages}
    asked = json.loads((folder / "qa_50.json").read_text("utf-8"))
    questions = tuple(Asked(q["question"], frozenset(ids[link] for link in q["correct_chunks"])) for q in asked)
    return Set("product_docs", passages, questions)


def contoso(data: Path) -> Set:
    """One passage per page; right are the pages that an answer cites. Three files are asked nothing."""
    folder = data / "contoso" / "compact"
    passages: dict[tuple[str, int], Passage] = {}
    unasked: list[Passage] = []
    for file in sorted(folder.glob("*.txt")):
        name = file.stem.removesuffix("_cited_pages")
        title = name.replace("_", " ")
        whole = file.read_text("utf-8")
        for page, start, text in _pages(whole):
            passages[name, page] = Passage(name, start, start + len(text), text, title, page=page)
        if "[page " not in whole:
            unasked += split(Document(whole, file.name, title), max_tokens=400)
    questions = tuple(
        Asked(q["question"], frozenset(passages[Path(at["doc"]).stem, at["page"]].id for at in q["source"]))
        for q in _lines(folder / "qa.jsonl")
    )
    return Set("contoso", (*passages.values(), *unasked), questions)


def chunking_eval(data: Path) -> Set:
    """Our own passages of one long speech; right are those that hold a character of the answer."""
    folder = data / "chunking_eval"
    text = (folder / "state_of_the_union.md").read_text("utf-8")
    passages = split(Document(text, "state_of_the_union.md", "State of the Union"), max_tokens=160)
    questions = []
    for asked in _lines(folder / "questions_state_of_the_union.jsonl"):
        spans = tuple((span["start_index"], span["end_index"]) for span in asked["references"])
        right = frozenset(p.id for p in passages if any(shared((p.start, p.end), span) for span in spans))
        questions.append(Asked(asked["question"], right, spans))
    return Set("chunking_eval", passages, tuple(questions))


def limit_small(data: Path) -> Set:
    folder = data / "limit_small"
    passages = tuple(
        Passage(row["_id"], 0, len(row["text"]), row["text"], row["title"])
        for row in _lines(folder / "corpus.jsonl")
    )
    ids = {passage.document_id: passage.id for passage in passages}
    right: dict[str, set[str]] = {}
    for row in _lines(folder / "qrels.jsonl"):
        right.setdefault(row["query-id"], set()).add(ids[row["corpus-id"]])
    asked = _lines(folder / "queries.jsonl")
    return Set("limit_small", passages, tuple(Asked(q["text"], frozenset(right[q["_id"]])) for q in asked))


def squad(data: Path) -> Set:
    return _squad(data, "squad_eval.json", "squad")


def held_out(data: Path) -> Set:
    """Articles that may be trained on: settings are chosen by every third of them, two questions a passage."""
    return _squad(data, "squad_skill_train.json", "squad_skill_train", articles=3, each=2)


def hotpotqa(data: Path) -> Set:
    """Two passages are right for each question; the second is often not named in it."""
    folder = data / "hotpotqa"
    corpus = json.loads((folder / "corpus.json").read_text("utf-8"))
    texts = {title: "".join(parts) for title, parts in corpus.items()}
    passages = tuple(Passage(title, 0, len(text), text, title) for title, text in texts.items())
    ids = {passage.title: passage.id for passage in passages}
    asked = json.loads((folder / "questions_100.json").read_text("utf-8"))
    return Set(
        "hotpotqa",
        passages,
        tuple(Asked(q["question"], frozenset(ids[title] for title, _ in q["supporting_facts"])) for q in asked),
    )


SETS = {f.__name__: f for f in (product_docs, contoso, chunking_eval, limit_small, squad, hotpotqa)}


def shared(a: Span, b: Span) -> int:
    """Characters that two stretches have in common."""
    return max(0, min(a[1], b[1]) - max(a[0], b[0]))


def _squad(data: Path, file: str, name: str, articles: int = 1, each: int | None = None) -> Set:
    """Every so many-th article, and so many questions of each passage."""
    passages: list[Passage] = []
    questions: list[Asked] = []
    rows = json.loads((data / "squad" / file).read_text("utf-8"))
    titles = list(dict.fromkeys(row["title"] for row in rows))[::articles]
    for number, row in enumerate(row for row in rows if row["title"] in titles):
        passage = Passage(str(number), 0, len(row["context"]), row["context"], row["title"])
        passages.append(passage)
        questions += [Asked(q["question"], frozenset({passage.id})) for q in row["questions"][:each]]
    return Set(name, tuple(passages), tuple(questions))


def _pages(text: str) -> Iterator[tuple[int, int, str]]:
    """Number, place and text of each page."""
    marks = list(re.finditer(r"^\f?\[page (\d+)\]\n", text, re.MULTILINE))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=False):  # without marks there is no page
        yield int(mark[1]), mark.end(), text[mark.end() : end]


def _lines(file: Path) -> Iterator[Mapping]:
    return map(json.loads, file.read_text("utf-8").splitlines())
