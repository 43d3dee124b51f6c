"""Whether vectors that hang on their corpus tell twins apart, and what they cost elsewhere.

    python bench/contextual.py twins --json docs/results/contextual_twins.json
    python bench/contextual.py others --data ../shared/data --json docs/results/contextual_others.json
    python bench/contextual.py choose       settings compared on the twins that are not reported
    python bench/contextual.py tell --json FILE     the rows of a file; nothing is measured

Twins (bench/_twins.py) are documents equal but for the one they are about, and questions worded otherwise. The
first two pairs of each kind were looked at to choose the map; the reported corpora hold the other pairs only.
right twin: the share of questions whose document comes before its twin. repaired: the same of those questions that
the plain embedder gets wrong. cosine: between twins, the mean. Intervals are Wilson's for shares and bootstraps
for means, 95 %; `difference` is paired, question by question. `others` searches other sets by meaning alone, plain
and contextual, and takes the paired differences. Rows that are in the --json file are not measured again; vectors
are kept in --cache."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import _common
import _twins
from _common import Results, Row, bootstrap, say, wilson
from _retrieval_sets import SETS

OTHERS = "contoso,product_docs,chunking_eval,limit_small"
CHOSEN_BY, REPORTED = slice(0, 2), slice(2, None)
"""Pairs of twins."""
FORMS = {"long": True, "short": False}


def main() -> None:
    made = _common.parser(__doc__ or "")
    made.add_argument("task", choices=["twins", "others", "choose", "tell"])
    made.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of data sets")
    made.add_argument("--sets", default=OTHERS, help="a,b,... of the other sets")
    made.add_argument("--embedder", metavar="NAME", help="a folder or hub name; else the bundled one")
    made.add_argument("--cache", type=Path, help="where vectors are kept between runs")
    options = made.parse_args()
    threads = _common.use_threads(options.threads)
    if options.task == "tell":
        tell(options)
        return
    from imprint import embedders

    embedder = embedders.load(options.embedder)
    header = {
        "machine": _common.machine("float32", threads),
        "base": "none",
        "embedder": embedder.name,
        "commit": _common.commit(),
    }
    results = Results(options.json, header, resume=True)
    {"twins": twins, "others": others, "choose": choose}[options.task](options, embedder, results)
    results.show_header()


# --- twins ------------------------------------------------------------------------------------


def corpora(pairs: slice, quick: bool) -> Iterator[tuple[str, str, list[Any], list[_twins.Asked]]]:
    """Kind, form, passages and questions of each corpus of twins."""
    for form, long in FORMS.items():
        for kind in _twins.KINDS[:1] if quick else _twins.KINDS:
            yield kind, form, *_twins.corpus(kind, pairs, long=long, trades=_twins.TRADES[: 1 if quick else None])


def twins(options: argparse.Namespace, embedder: Any, results: Results) -> None:
    """A row for each corpus of twins: plain, and by the contextual embedder."""
    from imprint.retrieval import ContextualEmbedder

    done = {(row["kind"], row["form"]) for row in results.rows}
    cache = _cache(options)
    for kind, form, passages, asked in corpora(REPORTED, options.quick):
        if (kind, form) in done:
            continue
        lens = ContextualEmbedder(embedder, passages, cache=cache).lens
        vectors, questions = _vectors(embedder, cache, passages, asked)
        plain = _values(vectors, questions, passages, asked)
        seen = _values(lens.through(vectors), lens.through(questions), passages, asked)
        results.add({"kind": kind, "form": form, "passages": len(passages), "n": len(asked)} | _row(plain, seen))
        say(str(results.rows[-1]))
    _show_twins(results)


def _vectors(embedder: Any, cache: Any, passages: Sequence[Any], asked: Sequence[_twins.Asked]) -> tuple[Any, Any]:
    """Plain ones, of the passages and of the questions."""
    questions = embedder.embed_questions([each.question for each in asked])
    return cache.vectors(embedder, [passage.text for passage in passages]), questions


def _values(
    vectors: Any, questions: Any, passages: Sequence[Any], asked: Sequence[_twins.Asked]
) -> dict[str, list[float]]:
    """Question by question: is the right twin before the wrong one, and is it first; pair by pair: the cosine."""
    places = {passage.id: i for i, passage in enumerate(passages)}
    nearness = questions @ vectors.T
    rows = np.arange(len(asked))
    right, wrong = (np.array([places[getattr(each, key)] for each in asked]) for key in ("right", "wrong"))
    met = sorted({tuple(sorted(pair)) for pair in zip(right.tolist(), wrong.tolist(), strict=True)})
    return {
        "right twin": (nearness[rows, right] > nearness[rows, wrong]).astype(float).tolist(),
        "hit@1": (nearness.argmax(1) == right).astype(float).tolist(),
        "cosine": [float(vectors[a] @ vectors[b]) for a, b in met],
    }


def _row(plain: dict[str, Any], seen: dict[str, Any]) -> Row:
    row: Row = {}
    for measure in ("right twin", "hit@1", "cosine"):
        for name, values in (("plain", plain), ("contextual", seen)):
            value = statistics.mean(values[measure])
            ends = bootstrap(values[measure], "mean") if measure == "cosine" else wilson(values[measure])
            row[f"{measure}, {name}"] = value
            row.setdefault("intervals", {})[f"{measure}, {name}"] = ends
        gained = np.subtract(seen[measure], plain[measure])
        row.setdefault("difference", {})[measure] = (float(np.mean(gained)), *bootstrap(gained, "mean"))
    failed = [s for p, s in zip(plain["right twin"], seen["right twin"], strict=True) if not p]
    row["failed, plain"] = len(failed)
    if failed:
        row["repaired"] = statistics.mean(failed)
        row["intervals"]["repaired"] = wilson(failed)
    return row


def choose(options: argparse.Namespace, embedder: Any, results: Results) -> None:
    """Other settings, on the pairs that are not reported: what helps, and what does not."""
    from imprint.retrieval import Context, ContextualEmbedder

    usual = Context()
    no_twins = replace(usual, twin_share=1e-9)
    tried = {"centred": replace(no_twins, flattened=0), "centred, flattened": no_twins, "as it is": usual}
    tried |= {f"flattened {k}": replace(usual, flattened=k) for k in (0, 1, 8)}
    tried |= {f"share {share}": replace(usual, twin_share=share) for share in (0.03, 0.3)}
    tried["kept 0.95"] = replace(usual, kept=0.95)
    done = {(row["kind"], row["form"], row["setting"]) for row in results.rows}
    cache = _cache(options)
    for kind, form, passages, asked in corpora(CHOSEN_BY, options.quick):
        vectors, questions = _vectors(embedder, cache, passages, asked)
        plain = _values(vectors, questions, passages, asked)
        for name, context in tried.items():
            if (kind, form, name) not in done:
                lens = ContextualEmbedder(embedder, passages, context=context, cache=cache).lens
                values = _values(lens.through(vectors), lens.through(questions), passages, asked)
                results.add({"kind": kind, "form": form, "setting": name, "n": len(asked)} | _row(plain, values))
    _show_twins(results)


# --- other data -------------------------------------------------------------------------------


def others(options: argparse.Namespace, embedder: Any, results: Results) -> None:
    """A row for each set, with the paired differences of every measure of retrieval."""
    from imprint.retrieval import ContextualEmbedder, Index
    from retrieval import DEPTH, scores

    done = {row["set"] for row in results.rows}
    cache = _cache(options)
    for name in options.sets.split(",")[: 1 if options.quick else None]:
        if not (options.data / name).is_dir() or name in done:
            say(f"{name}: {'measured already' if name in done else 'not measured, for its folder is not here'}")
            continue
        each = SETS[name](options.data)
        seen = ContextualEmbedder(embedder, each.passages, cache=cache)
        values = {}
        for way, made in (("plain", embedder), ("contextual", seen)):
            with Index(each.passages, embedder=made, keywords=False, cache=cache) as index:
                found = [index.search(asked.text, k=DEPTH) for asked in each.questions]
            values[way] = scores(found, each.questions)
        groups = len(seen.lens.twins.groups) if seen.lens.twins else 0
        row: Row = {
            "set": name,
            "passages": len(each.passages),
            "n": len(each.questions),
            "groups of twins": groups,
        }
        for measure, before in values["plain"].items():
            gained = np.subtract(values["contextual"][measure], before)
            row[f"{measure}, plain"] = statistics.mean(before)
            row[f"{measure}, contextual"] = statistics.mean(values["contextual"][measure])
            row.setdefault("difference", {})[measure] = (float(np.mean(gained)), *bootstrap(gained, "mean"))
        results.add(row)
        say(str(row))
    _show_others(results)


# --- told -------------------------------------------------------------------------------------


def _show_twins(results: Results) -> None:
    measures = [f"{m}, {way}" for m in ("right twin", "hit@1", "cosine") for way in ("plain", "contextual")]
    first = ["kind", "form", *(["setting"] if any("setting" in row for row in results.rows) else []), "n"]
    results.show("Twins", [*first, *measures, "failed, plain", "repaired"])


def _show_others(results: Results) -> None:
    measures = [f"{m}, {way}" for m in ("hit@1", "mrr") for way in ("plain", "contextual")]
    rows = [row | {f"{m} gained": _signed(row["difference"][m]) for m in ("hit@1", "mrr")} for row in results.rows]
    results.show(
        "Other sets", ["set", "passages", "groups of twins", "n", *measures, "hit@1 gained", "mrr gained"], rows
    )


def _signed(difference: Sequence[float]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*difference)


def tell(options: argparse.Namespace) -> None:
    """Shows the rows of a file."""
    if options.json is None:
        raise SystemExit("Name the file that was measured: --json FILE.")
    kept = json.loads(options.json.read_text("utf-8"))
    results = Results(None, {key: value for key, value in kept.items() if key != "rows"})
    results.rows = kept["rows"]
    (_show_others if "set" in results.rows[0] else _show_twins)(results)
    results.show_header()


def _cache(options: argparse.Namespace) -> Any:
    from imprint.home import cache_folder
    from imprint.retrieval import VectorCache

    return VectorCache(options.cache or cache_folder() / "vectors")


if __name__ == "__main__":
    main()
