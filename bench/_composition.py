"""Several documents: taught one after another in one adapter, in one adapter each, and several adapters at once.

A document's questions carry its name as their kind, so that scores by kind are one row of SEAL's table."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from _common import say
from _map import key_of, passages_of, write_document
from learning import squad_questions

if TYPE_CHECKING:
    from _map import Bench

PASSAGES = 4
"""Of each document, where nothing is said."""


@dataclass(frozen=True)
class Taught:
    """A document of the experiment."""

    name: str
    passages: Sequence[Any]
    questions: Sequence[Any]


@dataclass(frozen=True)
class Begun:
    """Settings that begin with an adapter as it was left: to teach it more."""

    adapter: Any
    key: str
    """Of the trainings that it went through."""

    def fresh(self, base: Any, *, seed: int, material: Any = None) -> Any:
        return self.adapter


def documents_of(bench: Bench) -> list[Taught]:
    """So many documents: the first passages of each article, then the next ones of the longest articles."""
    from imprint import documents
    from imprint.corpus import Corpus

    options = bench.options
    size = options.passages or PASSAGES
    articles = passages_of(options.data)
    parts = [
        (title, some[i : i + size], i // size)
        for title, some in articles.items()
        for i in range(0, len(some) - size + 1, size)
    ]
    parts.sort(key=lambda part: part[2])  # the first part of every article, then every second
    if len(parts) < options.documents:
        raise SystemExit(f"There are {len(parts)} documents of {size} passages, not {options.documents}.")
    found = []
    for i, (title, some, part) in enumerate(parts[: options.documents], 1):
        name = f"{i} {title}" + (f", part {part + 1}" if part else "")
        file = write_document(title, some, bench.work / "documents" / str(i))
        corpus = Corpus(documents.load(file).documents)
        found.append(Taught(name, corpus.split(160, bench.base.count_tokens), squad_questions(some, name)))
    return found


# --- one after another ------------------------------------------------------------------------


def sequence(bench: Bench) -> None:
    """SEAL's table, and what else could be done with as many training tokens."""
    documents = documents_of(bench)
    texts = _written(bench, documents)
    k = len(documents)
    if not bench.have("untouched"):
        bench.keep("untouched", _asked(bench, documents, None), "right", "perplexity")
    learnt = _learnt(bench, documents, texts)
    for name, spec, lr in _named(bench):
        jobs = _jobs(bench, learnt, spec, lr)
        for arm, share in (("one after another", 0.0), ("with replay", bench.options.replay)):
            _one_after_another(bench, documents, jobs, f"{name}, {arm}", share)
        _retrained(bench, documents, jobs, name)
        wanted = [(f"{name}-of-{i}", job) for i, job in enumerate(jobs, 1)]
        made = dict(bench.trained(wanted))
        with _loaded(bench, [made[f"{name}-of-{i}"] for i in range(1, k + 1)]) as seats:
            if not bench.have(f"{name}, one each, the right one"):
                rows = [_asked(bench, [d], seat) for d, seat in zip(documents, seats, strict=True)]
                bench.keep(f"{name}, one each, the right one", _joined(rows), "right", "perplexity")
            if not bench.have(f"{name}, merged, sum"):
                bench.keep(f"{name}, merged, sum", _asked(bench, documents, seats), "right", "perplexity")
        scaled = [_scaled(made[f"{name}-of-{i}"], 1 / k) for i in range(1, k + 1)]
        if all(scaled) and not bench.have(f"{name}, merged, mean"):
            with _loaded(bench, scaled) as seats:
                bench.keep(f"{name}, merged, mean", _asked(bench, documents, seats), "right", "perplexity")
    _show(bench, documents)


def _one_after_another(
    bench: Bench, documents: Sequence[Taught], jobs: Sequence[Any], name: str, replayed: float
) -> None:
    """One adapter is taught document after document; after each, all are asked.

    `replayed`: share of a document's training tokens that are of earlier ones."""
    adapter, key = None, ""
    for i, job in enumerate(jobs, 1):
        before = [row for earlier in jobs[: i - 1] for row in earlier.rows]
        rows = _mixed(list(job.rows), before, replayed, seed=job.seed)
        begun = job.spec if adapter is None else Begun(adapter, key)
        stage = f"{name}, after {i}"
        told = replace(job, spec=begun, rows=rows)
        ((_, adapter),) = bench.trained([(stage.replace(", ", "-"), told)])
        key = key_of(told)
        if not bench.have(stage):
            with _loaded(bench, [adapter]) as seats:
                bench.keep(stage, _asked(bench, documents, seats), "right", "perplexity")


def _mixed(rows: list[Any], earlier: Sequence[Any], share: float, *, seed: int) -> list[Any]:
    """Rows of which a share (of tokens) is drawn from earlier ones."""
    if not earlier or not share:
        return rows
    wanted = share / (1 - share) * sum(len(row.ids) for row in rows)
    order = list(earlier)
    random.Random(seed).shuffle(order)
    found: list[Any] = []
    while order and sum(len(row.ids) for row in found) < wanted:
        found.append(order.pop())
    return rows + found


def _retrained(bench: Bench, documents: Sequence[Taught], jobs: Sequence[Any], name: str) -> None:
    """One adapter from the text of all, for the tokens of all."""
    name = f"{name}, retrained from all"
    if bench.have(name):
        return
    rows = [row for job in jobs for row in job.rows]
    read = [ids for job in jobs for ids in job.documents]
    job = replace(jobs[0], rows=rows, tokens=sum(job.tokens for job in jobs), documents=read)
    for _, adapter in bench.trained([(name.replace(", ", "-"), job)]):
        with _loaded(bench, [adapter]) as seats:
            bench.keep(name, _asked(bench, documents, seats), "right", "perplexity")


def _show(bench: Bench, documents: Sequence[Taught]) -> None:
    """The table: a row for each arm, or stage of an arm, a column for each document."""
    shown = []
    for row in bench.results.rows:
        cells = {f"doc_{i}": row["by_document"].get(d.name) for i, d in enumerate(documents, 1)}
        cells |= {"all": row["right"]["score"], "low": row["right"]["low"], "high": row["right"]["high"]}
        shown.append({"row": row["row"], **cells, "perplexity": row["perplexity"]})
    bench.results.show("share of questions right, by document", list(shown[0]), shown)


# --- several at once --------------------------------------------------------------------------


def together(bench: Bench) -> None:
    """Two adapters on one request, and choices among them."""
    from imprint.engine.choice import choose

    documents = documents_of(bench)
    texts = _written(bench, documents)
    if not bench.have("untouched"):
        bench.keep("untouched", _asked(bench, documents, None), "right")
    pairs = [(i, i + 1) for i in range(0, len(documents) - 1, 2)]
    for name, spec, lr in bench.specs():
        jobs = _jobs(bench, [text.job for text in texts], spec, lr)
        made = dict(bench.trained([(f"{name}-of-{i}", job) for i, job in enumerate(jobs, 1)]))
        each = [made[f"{name}-of-{i}"] for i in range(1, len(jobs) + 1)]
        with _loaded(bench, each) as seats:
            arms: dict[str, Any] = {
                "the right one": lambda i, d, s=seats: s[i],
                "the wrong one": lambda i, d, s=seats: s[i ^ 1],
                "sum of two": lambda i, d, s=seats: [s[i & ~1], s[i | 1]],
                "sum of all": lambda i, d, s=seats: s,
            }
            for arm, worn in arms.items():
                _arm(bench, documents[: 2 * len(pairs)], f"{name}, {arm}", worn)
            for arm, of in (("chosen of two", pairs), ("chosen of all", [tuple(range(2 * len(pairs)))])):
                if not bench.have(f"{name}, {arm}"):
                    bench.keep(
                        f"{name}, {arm}", _chosen(bench, documents, seats, of, choose), "right", "choice_right"
                    )
        scaled = [_scaled(adapter, 0.5) for adapter in each]
        if all(scaled):
            with _loaded(bench, scaled) as halves:
                worn = lambda i, d, s=halves: [s[i & ~1], s[i | 1]]  # noqa: E731
                _arm(bench, documents[: 2 * len(pairs)], f"{name}, half of each", worn)
    columns = ("row", "score", "low", "high", "n", "choice_right")
    bench.results.show("several at once", columns, [r | r["right"] for r in bench.results.rows])


def _arm(bench: Bench, documents: Sequence[Taught], name: str, worn: Any) -> None:
    """Each document's questions, asked with what `worn` says of its place."""
    if bench.have(name):
        return
    rows = [_asked(bench, [d], worn(i, d), perplexity=False) for i, d in enumerate(documents)]
    bench.keep(name, _joined(rows), "right")


def _chosen(
    bench: Bench,
    documents: Sequence[Taught],
    seats: Sequence[Any],
    groups: Sequence[Sequence[int]],
    choose: Callable[..., list[int]],
) -> dict[str, Any]:
    """Each question answered by the adapter, of its group, to which it is likelier than to the bare base."""
    rows, right = [], []
    for group in groups:
        asked = [(place, q) for place in group for q in documents[place].questions]
        picks = choose(bench.engine, [seats[i] for i in group], [q.text for _, q in asked])
        right += [float(group[pick] == place) for pick, (place, _) in zip(picks, asked, strict=True)]
        for n, place in enumerate(group):
            mine = [q for pick, (_, q) in zip(picks, asked, strict=True) if pick == n]
            if mine:
                given = Taught("", (), mine)
                rows.append(_asked(bench, [given], seats[place], perplexity=False))
    return _joined(rows) | {"choice_right": sum(right) / len(right)}


# --- shared -----------------------------------------------------------------------------------


def _written(bench: Bench, documents: Sequence[Taught]) -> list[Any]:
    every = [q for d in documents for q in d.questions]
    texts = []
    for i, document in enumerate(documents, 1):
        say(f"== text about {document.name}")
        texts.append(bench.written(str(i), document.passages, every, bench.options.text_tokens))
    return texts


def _learnt(bench: Bench, documents: Sequence[Taught], texts: Sequence[Any]) -> list[Any]:
    """The training of each text: with --objective distill its rows carry what a reader of its document says."""
    from imprint.recipe import Recipe
    from imprint.stages import taught_by_reader

    recipe = Recipe(objective=bench.options.objective)
    return [
        taught_by_reader(text.job, text.run, bench.engine, recipe, document.passages, bench.watch)
        for document, text in zip(documents, texts, strict=True)
    ]


def _named(bench: Bench) -> list[tuple[str, Any, float]]:
    """(name, settings, learning rate) of each adapter, the name with the objective where it is another than sft."""
    objective = bench.options.objective
    told = "" if objective == "sft" else f"-{objective}"
    return [(f"{name}{told}", spec, lr) for name, spec, lr in bench.specs()]


def _jobs(bench: Bench, learnt: Sequence[Any], spec: Any, lr: float) -> list[Any]:
    return [replace(job, spec=spec, lr=lr, tokens=int(bench.options.tokens)) for job in learnt]


def _asked(bench: Bench, documents: Sequence[Taught], worn: Any, *, perplexity: bool = True) -> dict[str, Any]:
    """The questions of these documents put to what is worn: every answer's grade by document."""
    from imprint.evaluation import open_book
    from imprint.evaluation.closed_book import answer_all
    from imprint.evaluation.forgetting import general_perplexity
    from imprint.writers.local import LocalWriter

    questions = [q for d in documents for q in d.questions]
    with bench.engine.wearing(worn):
        answered, _ = answer_all(LocalWriter(bench.base), questions, open_book.closed, seed=bench.options.seed)
        found = general_perplexity(bench.base) if perplexity else None
    grades: dict[str, list[float]] = {}
    for a in answered:
        grades.setdefault(a.question.kind, []).append(a.contains)
    return _joined([{"grades": grades, "perplexity": found}])


def _joined(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several such rows as one: the score over all questions, and by document."""
    from imprint.evaluation.closed_book import interval

    grades: dict[str, list[float]] = {}
    for row in rows:
        for name, some in row["grades"].items():
            grades.setdefault(name, []).extend(some)
    score = interval([g for some in grades.values() for g in some], seed=0)
    told = [row["perplexity"] for row in rows if row["perplexity"] is not None]
    return {
        "right": {"score": score.value, "low": score.low, "high": score.high, "n": score.n},
        "by_document": {name: sum(some) / len(some) for name, some in grades.items()},
        "perplexity": sum(told) / len(told) if told else None,
        "grades": grades,
    }


@contextlib.contextmanager
def _loaded(bench: Bench, adapters: Sequence[Any]) -> Iterator[list[Any]]:
    seats = [bench.engine.load(adapter) for adapter in adapters]
    try:
        yield seats
    finally:
        for seat in seats:
            bench.engine.unload(seat)


def _scaled(adapter: Any, factor: float) -> Any | None:
    """An adapter whose update is so many times as large; None for a kind that no factor scales."""
    if "alpha" not in adapter.spec:
        return None
    return replace(adapter, spec={**adapter.spec, "alpha": factor * adapter.spec["alpha"]})
