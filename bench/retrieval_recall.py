"""How often the search index finds the right passage.

    python bench/retrieval_recall.py --data ../shared/data

hit@k is the share of questions with a right passage among the first k, with its 95 % Wilson interval.
recall@k is the mean share of a question's right passages that are among the first k. One setting of the index
was chosen by these numbers: to stem (Porter) or not.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from imprint.retrieval import Index
from imprint.types import Passage

Question = tuple[str, set[str]]
"""A question, and the ids of the passages that answer it."""


def product_docs(data: Path) -> tuple[list[Passage], list[Question]]:
    chunks = json.loads((data / "product_docs" / "chunks.json").read_text())
    asked = json.loads((data / "product_docs" / "qa_50.json").read_text())
    passages = [
        Passage(chunk["chunk_link"], 0, len(chunk["text"]), chunk["text"], "", chunk["chunk_heading"])
        for chunk in chunks
    ]
    ids = {passage.document_id: passage.id for passage in passages}
    return passages, [(q["question"], {ids[link] for link in q["correct_chunks"]}) for q in asked]


def state_of_the_union(data: Path) -> tuple[list[Passage], list[Question]]:
    """One passage per paragraph; a passage is right where it overlaps a reference."""
    text = (data / "chunking_eval" / "state_of_the_union.md").read_text()
    passages = [
        Passage("sotu", part.start(), part.end(), part[0], "State of the Union")
        for part in re.finditer(r"\S(?:.|\n(?!\s*\n))*", text)
    ]
    questions = []
    for asked in _lines(data / "chunking_eval" / "questions_state_of_the_union.jsonl"):
        spans = [(span["start_index"], span["end_index"]) for span in asked["references"]]
        right = {p.id for p in passages if any(p.start < end and start < p.end for start, end in spans)}
        questions.append((asked["question"], right))
    return passages, questions


def limit_small(data: Path) -> tuple[list[Passage], list[Question]]:
    folder = data / "limit_small"
    passages = [
        Passage(row["_id"], 0, len(row["text"]), row["text"], row["title"])
        for row in _lines(folder / "corpus.jsonl")
    ]
    ids = {passage.document_id: passage.id for passage in passages}
    right: dict[str, set[str]] = {}
    for row in _lines(folder / "qrels.jsonl"):
        right.setdefault(row["query-id"], set()).add(ids[row["corpus-id"]])
    return passages, [(row["text"], right[row["_id"]]) for row in _lines(folder / "queries.jsonl")]


def squad(data: Path) -> tuple[list[Passage], list[Question]]:
    passages, questions = [], []
    for number, row in enumerate(json.loads((data / "squad" / "squad_eval.json").read_text())):
        passage = Passage(str(number), 0, len(row["context"]), row["context"], row["title"])
        passages.append(passage)
        questions += [(asked["question"], {passage.id}) for asked in row["questions"]]
    return passages, questions


def hotpotqa(data: Path) -> tuple[list[Passage], list[Question]]:
    """Two passages are right for each question; the second is often not named in it."""
    folder = data / "hotpotqa"
    texts = {t: "".join(parts) for t, parts in json.loads((folder / "corpus.json").read_text()).items()}
    passages = [Passage(title, 0, len(text), text, title) for title, text in texts.items()]
    ids = {passage.title: passage.id for passage in passages}
    asked = json.loads((folder / "questions_100.json").read_text())
    return passages, [(q["question"], {ids[title] for title, _ in q["supporting_facts"]}) for q in asked]


def measure(name: str, passages: list[Passage], questions: list[Question]) -> None:
    print(f"{name}: {len(passages)} passages, n = {len(questions)} questions")
    with Index(passages) as index:
        began = time.perf_counter()
        found = [[passage.id for passage in index.search(question, k=4)] for question, _ in questions]
        each_ms = 1000 * (time.perf_counter() - began) / len(questions)
    for k in (1, 2, 4):
        shares = [
            len(right & set(ids[:k])) / len(right) for ids, (_, right) in zip(found, questions, strict=True)
        ]
        hits = sum(share > 0 for share in shares)
        low, high = wilson(hits, len(shares))
        recall = statistics.mean(shares)
        print(f"  hit@{k} {hits / len(shares):.3f} [{low:.3f}, {high:.3f}]   recall@{k} {recall:.3f}")
    print(f"  {each_ms:.2f} ms a question")


def wilson(hits: int, n: int) -> tuple[float, float]:
    z = 1.96
    middle = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def main() -> None:
    parser = argparse.ArgumentParser(description="How often the search index finds the right passage.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of data sets")
    data = parser.parse_args().data
    for folder, read in SETS.items():
        if (data / folder).is_dir():
            measure(folder, *read(data))
        else:
            print(f"{folder}: not measured, for {data / folder} is not here")


def _lines(file: Path) -> Iterator[dict]:
    return map(json.loads, file.read_text().splitlines())


SETS = {
    "product_docs": product_docs,
    "chunking_eval": state_of_the_union,
    "limit_small": limit_small,
    "squad": squad,
    "hotpotqa": hotpotqa,
}

if __name__ == "__main__":
    main()
