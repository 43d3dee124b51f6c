"""How often the right passages are found: by words, by meaning, by both, and put in order by a model.

    python bench/retrieval.py measure --data ../shared/data --json docs/results/retrieval.json
    python bench/retrieval.py choose --data ../shared/data      settings compared, on articles that are not reported
    python bench/retrieval.py route --data ../shared/data       which set a question goes to, or none
    python bench/retrieval.py speed                             milliseconds of one search over 100,000 vectors

hit@k: the share of questions with a right passage among the first k. recall@k: the mean share of a question's
right passages that are among the first k. mrr: the mean of 1 / rank of the first right passage among the first
10, 0 where there is none. span@k: the mean share of the answer's characters in the first k passages. Intervals are
95 % percentile bootstraps over questions; `differences` are paired, question by question. A model reads for
`hybrid+rerank`, so it takes only --reranked questions of each set, and the same ones for its differences. ms is one
search, without the embedding of the question."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import _common
from _common import Results, Row, bootstrap, say
from _retrieval_sets import SETS, Asked, Set, held_out, shared
from imprint.retrieval import Index, Reranker, Router, VectorCache, keywords
from imprint.retrieval import index as indexes
from imprint.retrieval.ranking import fuse
from imprint.retrieval.reranking import _prompt
from imprint.retrieval.vectors import Vectors
from imprint.types import Passage, Prompt

Search = Callable[[str], Sequence[Any]]
DEPTH = 10
KS = (1, 2, 4, 8)


def main() -> None:
    made = _common.parser(__doc__ or "")
    made.add_argument("task", choices=["measure", "choose", "route", "speed"])
    made.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of data sets")
    made.add_argument("--sets", default=",".join(SETS), help="a,b,...")
    made.add_argument("--embedder", metavar="NAME", help="a folder or hub name; else the bundled one")
    made.add_argument("--cache", type=Path, help="where vectors are kept between runs")
    made.add_argument(
        "--reranked", type=int, default=50, help="questions of each set for which a model reads; 0: none"
    )
    options = made.parse_args()
    threads = _common.use_threads(options.threads)
    if options.quick:
        options.sets, options.reranked = "contoso", 4
    {"measure": measure, "choose": choose, "route": route, "speed": speed}[options.task](options, threads)


# --- measured and reported --------------------------------------------------------------------


def measure(options: argparse.Namespace, threads: int) -> None:
    """A row for each set and way of searching."""
    from imprint import embedders

    embedder = embedders.load(options.embedder)
    reader = _reader(options) if options.reranked else None
    header = {
        "machine": _common.machine("float32", threads),
        "base": _common.base_name(reader.base) if reader else "none",
        "embedder": embedder.name,
        "commit": _common.commit(),
    }
    results = Results(options.json, header)
    for name in options.sets.split(","):
        folder = options.data / name
        if not folder.is_dir():
            say(f"{name}: not measured, for {folder} is not here")
            continue
        _measure_set(SETS[name](options.data), embedder, reader, options, results)
    results.show("Retrieval", ["set", "way", "n", *COLUMNS])
    results.show_header()


COLUMNS = ("hit@1", "hit@4", "recall@2", "mrr", "span@4", "ms")


class _Prepared:
    """An embedder that has met the questions: what is timed is the search alone."""

    def __init__(self, embedder: Any, questions: Sequence[Asked]) -> None:
        self.name, self.width = embedder.name, embedder.width
        self.stretches, self.embed = embedder.stretches, embedder.embed
        texts = list(dict.fromkeys(asked.text for asked in questions))
        self._asked = dict(zip(texts, embedder.embed_questions(texts), strict=True))

    def embed_questions(self, questions: Sequence[str]) -> np.ndarray:
        return np.stack([self._asked[question] for question in questions])


def _measure_set(each: Set, embedder: Any, reader: Any, options: argparse.Namespace, results: Results) -> None:
    say(f"{each.name}: {len(each.passages)} passages, {len(each.questions)} questions")
    cache, embedder = _cache(options), _Prepared(embedder, each.questions)
    ways = {"keyword": {}, "dense": {"embedder": embedder, "keywords": False}, "hybrid": {"embedder": embedder}}
    values: dict[str, dict[str, list[float]]] = {}
    for way, settings in ways.items():
        with Index(each.passages, cache=cache, **settings) as index:
            values[way] = _add(results, each, way, each.questions, index, values)
    if reader is not None:
        some = _some(each.questions, options.reranked)
        with Index(each.passages, embedder=embedder, cache=cache, reranker=Reranker(reader)) as index:
            places = [each.questions.index(question) for question in some]
            before = {way: {m: [v[i] for i in places] for m, v in values[way].items()} for way in values}
            _add(results, each, "hybrid+rerank", some, index, before)


def _add(
    results: Results,
    each: Set,
    way: str,
    questions: Sequence[Asked],
    index: Any,
    others: Mapping[str, Mapping[str, list[float]]],
) -> dict[str, list[float]]:
    """Searches, measures, and adds a row with intervals and the paired differences from the ways before."""
    began = time.perf_counter()
    found = [index.search(asked.text, k=DEPTH) for asked in questions]
    ms = 1000 * (time.perf_counter() - began) / len(questions)
    values = scores(found, questions)
    row: Row = {"set": each.name, "way": way, "passages": len(each.passages), "n": len(questions), "ms": ms}
    row |= {metric: statistics.mean(value) for metric, value in values.items()}
    row["intervals"] = {metric: bootstrap(value, "mean") for metric, value in values.items()}
    row["differences"] = {
        f"from {other}": {
            metric: (float(np.mean(gained)), *bootstrap(gained, "mean"))
            for metric, value in values.items()
            for gained in [np.subtract(value, before[metric])]
        }
        for other, before in others.items()
    }
    results.add(row)
    say(f"  {way}: " + ", ".join(f"{m} {row[m]:.3f}" for m in COLUMNS if m in row))
    return values


def scores(found: Sequence[Sequence[Any]], questions: Sequence[Asked]) -> dict[str, list[float]]:
    """Each measure, question by question."""
    values: dict[str, list[float]] = {}
    for passages, asked in zip(found, questions, strict=True):
        right = [passage.id in asked.right for passage in passages]
        told = {"mrr": next((1 / rank for rank, is_right in enumerate(right, 1) if is_right), 0.0)}
        for k in KS:
            told[f"hit@{k}"] = float(any(right[:k]))
            told[f"recall@{k}"] = sum(right[:k]) / len(asked.right)
            if asked.spans:
                told[f"span@{k}"] = _held(passages[:k], asked)
        for metric, value in told.items():
            values.setdefault(metric, []).append(value)
    return values


def _held(passages: Sequence[Any], asked: Asked) -> float:
    """The share of the answer's characters that these passages hold; passages of one document do not overlap."""
    held = sum(shared((p.start, p.end), span) for p in passages for span in asked.spans)
    return held / sum(end - start for start, end in asked.spans)


# --- settings chosen, on other articles -------------------------------------------------------


def choose(options: argparse.Namespace, threads: int) -> None:
    """Prints what settings do on SQuAD's training articles, which no reported set holds."""
    from imprint import embedders

    each = held_out(options.data)
    embedder = _Prepared(embedders.load(options.embedder), each.questions)
    say(f"{len(each.passages)} passages, {len(each.questions)} questions, {threads} threads")
    shown: list[Row] = []
    with Index(each.passages, embedder=embedder, cache=_cache(options)) as index:
        for pairs, spelt in itertools.product((False, True), repeat=2):
            with _words(pairs=pairs, spelt=spelt):
                way = "stems" + ", pairs" * pairs + ", as spelt" * spelt
                shown.append({"way": way} | _means(each, _by_words(index)))
        for share in (0.0, 0.25, 0.5, 0.75, 0.9):
            indexes.LEAST_SHARE = share
            shown.append({"way": f"both, least share {share}"} | _means(each, lambda q: index.search(q, k=DEPTH)))
        with Index(each.passages, embedder=embedder, cache=_cache(options), keywords=False) as dense:
            shown.append({"way": "dense"} | _means(each, lambda q: dense.search(q, k=DEPTH)))
        if options.reranked:
            shown += _reranked(index, each, options)
    Results(None, {}).show("Chosen by", list(shown[0]), shown)


def _means(each: Set, search: Search, questions: Sequence[Asked] | None = None) -> Row:
    asked = questions or each.questions
    values = scores([search(question.text) for question in asked], asked)
    return {"n": len(asked)} | {m: statistics.mean(values[m]) for m in ("hit@1", "hit@4", "mrr")}


def _by_words(index: Any) -> Search:
    return lambda question: [index.passages[found.place] for found in index.keywords.rank(question, DEPTH)]


@contextmanager
def _words(*, pairs: bool, spelt: bool) -> Iterator[None]:
    """The index of words without one or the other."""
    before = keywords.pairs_sought, keywords._SEARCH
    if not pairs:
        keywords.pairs_sought = lambda question: []
    if not spelt:
        keywords._SEARCH = keywords._SEARCH.replace("-bm25(spelt", "-0 * bm25(spelt")
    yield
    keywords.pairs_sought, keywords._SEARCH = before


def _reranked(index: Any, each: Set, options: argparse.Namespace) -> list[Row]:
    """What a model's reading does, by what it is asked and how its order is used."""
    reader = _reader(options)
    some = _some(each.questions, options.reranked)
    reranker = Reranker(reader)
    found = {q.text: index.search(q.text, k=reranker.candidates) for q in some}

    def likely(question: str) -> list[float]:
        passages = found[question]
        return reader.likelihoods([_prompt(p) for p in passages], [question] * len(passages))

    def yes(question: str) -> list[float]:
        prompts = [
            Prompt.ask(f"{p.text}\n\nDoes this text answer the question: {question} Say yes or no.")
            for p in found[question]
        ]
        said = reader.likelihoods(prompts * 2, ["Yes"] * len(prompts) + ["No"] * len(prompts))
        return [a - b for a, b in zip(said[: len(prompts)], said[len(prompts) :], strict=True)]

    rows: list[Row] = [{"way": "not reranked"} | _means(each, found.__getitem__, some)]
    for told, ask in (("question's likelihood", likely), ("yes or no", yes)):
        orders = {}
        for question in some:
            score = ask(question.text)
            orders[question.text] = sorted(range(len(score)), key=lambda i, score=score: (-score[i], i))
        alone = {q: [found[q][i] for i in order] for q, order in orders.items()}
        fused = {q: [found[q][r.place] for r in fuse([range(len(o)), o])] for q, o in orders.items()}
        rows.append({"way": told} | _means(each, alone.__getitem__, some))
        rows.append({"way": f"{told}, fused"} | _means(each, fused.__getitem__, some))
        say(str(rows[-2:]))
    return rows


# --- routing ----------------------------------------------------------------------------------


def route(options: argparse.Namespace, threads: int) -> None:
    """Prints how many questions go to the set they were asked of, and how many strangers to none."""
    from imprint import embedders

    embedder = embedders.load(options.embedder)
    sets = [SETS[name](options.data) for name in options.sets.split(",")]
    asked = {each.name: [q.text for q in _some(each.questions, 100)] for each in sets}
    strangers = json.loads((options.data / "entityquestions" / "dev_40_per_relation.json").read_text("utf-8"))
    asked["none"] = [row["question"] for row in random.Random(0).sample(strangers, 100)]
    for way, settings in (("words", {}), ("both", {"embedder": embedder, "cache": _cache(options)})):
        indexes = {each.name: Index(each.passages, **settings) for each in sets}
        router = Router(indexes)
        for name, questions in asked.items():
            routes = [router.route(question) for question in questions]
            right = [float((found.name or "none") == name) for found in routes]
            low, high = bootstrap(right, "mean")
            near = np.percentile([found.nearness for found in routes], [5, 50, 95]).round(2).tolist()
            print(f"{way}, {name}: {np.mean(right):.3f} [{low:.3f}, {high:.3f}], n = {len(right)}; nearness {near}")


# --- speed ------------------------------------------------------------------------------------


class _Given:
    """An embedder of vectors drawn beforehand: what is timed is the search."""

    name, width = "given", 384

    def __init__(self, count: int) -> None:
        draw = np.random.default_rng(0)
        self._vectors = draw.standard_normal((count, self.width), np.float32)
        self._vectors /= np.linalg.norm(self._vectors, axis=1, keepdims=True)

    def stretches(self, text: str, *, head: str = "") -> list[str]:
        return [text]

    def embed(self, texts: Sequence[str], *, told: object = None) -> np.ndarray:
        return self._vectors[: len(texts)]

    def embed_questions(self, questions: Sequence[str]) -> np.ndarray:
        return self._vectors[: len(questions)]


def speed(options: argparse.Namespace, threads: int) -> None:
    """Milliseconds of one search by vectors, the question's own embedding not counted."""
    for count in (10_000, 100_000):
        given = _Given(count)
        index = Vectors([Passage(str(i), 0, 1, "a", "") for i in range(count)], given)
        times = []
        for _ in range(5 if options.quick else 30):
            began = time.perf_counter()
            index.rank("a", 4)
            times.append(1000 * (time.perf_counter() - began))
        low, high = bootstrap(times, "median")
        print(
            f"{count:,} x {given.width}, {threads} threads: median {statistics.median(times):.1f} ms "
            f"[{low:.1f}, {high:.1f}], least {min(times):.1f}, n = {len(times)}"
        )


def _some(questions: Sequence[Asked], count: int) -> list[Asked]:
    return random.Random(0).sample(list(questions), min(count, len(questions)))


def _reader(options: argparse.Namespace) -> Any:
    from imprint import base as bases
    from imprint.writers.local import LocalWriter

    _common.quieten()
    return LocalWriter(bases.load(options.base))


def _cache(options: argparse.Namespace) -> Any:
    from imprint.home import cache_folder

    return VectorCache(options.cache or cache_folder() / "vectors")


if __name__ == "__main__":
    main()
