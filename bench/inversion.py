"""How much of real texts is read back from their vectors, by size of text and way of storing.

    python bench/inversion.py measure --data ../shared/data --json docs/results/inversion.json
    python bench/inversion.py measure --data ../shared/data --sets squad --words 16 --budget 5min
    python bench/inversion.py tell --json docs/results/inversion.json      the rows; nothing is measured

Texts of --words words are cut from the passages of each set, one from each, where a sentence begins; 0 takes
passages whole, as an index does. A row is one set, length and way of storing; one audit (imprint.inversion) gives
the rows of one set and length and takes --budget on a free core. Questions of the sets tell what storing costs in
retrieval, for whole passages. Audits keep their guesses in --work: killed, the same command goes on, and rows that
are in the --json file are not measured again. `choose` compares settings of the attack on SQuAD's training
articles, which no reported set holds."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import _common
from _common import Results, Row, say
from _retrieval_sets import SETS, Set, held_out

MEASURED = "product_docs,contoso,squad"


def main() -> None:
    made = _common.parser(__doc__ or "")
    made.add_argument("task", choices=["measure", "choose", "tell"])
    made.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of data sets")
    made.add_argument("--sets", default=MEASURED, help="a,b,...")
    made.add_argument("--words", default="8,16,32,0", help="lengths of texts, 0 for whole passages")
    made.add_argument("--storage", default="float32,int8,binary,noise=0.01,noise=0.05", help="a,b,...")
    made.add_argument("--budget", default="10min", help="of one audit")
    made.add_argument("--guessed", type=int, default=32, help="texts held out and guessed in one audit")
    made.add_argument("--tries", default="0,400,3000", help="a,b,... that `choose` compares; 0 reads words only")
    made.add_argument("--embedder", metavar="NAME", help="a folder or hub name; else the bundled one")
    made.add_argument("--work", type=Path, help="where vectors and guesses are kept")
    options = made.parse_args()
    threads = _common.use_threads(options.threads)
    if options.quick:
        options.sets, options.words, options.storage, options.budget = "squad", "8", "float32,binary", "20s"
        options.guessed = 4
    if options.task == "tell":
        tell(options)
        return
    from imprint import embedders
    from imprint.home import cache_folder

    options.work = options.work or cache_folder() / "inversion"
    embedder = embedders.load(options.embedder)
    header = {
        "machine": _common.machine("float32", threads),
        "base": "none",
        "embedder": embedder.name,
        "commit": _common.commit(),
    }
    results = Results(options.json, header, resume=True)
    {"measure": measure, "choose": choose}[options.task](options, embedder, results)
    results.show_header()


# --- measured and reported --------------------------------------------------------------------


def measure(options: argparse.Namespace, embedder: Any, results: Results) -> None:
    """A row for each set, length of text and way of storing."""
    from imprint.inversion import Settings, audit_index, parse
    from imprint.planner import parse_budget

    seconds = parse_budget(options.budget).seconds or 600.0
    settings = Settings(parse(options.storage), seconds, options.guessed)
    done = {(row["set"], row["words"], row["stored as"]) for row in results.rows}
    for name in options.sets.split(","):
        if not (options.data / name).is_dir():
            say(f"{name}: not measured, for its folder is not here")
            continue
        for words in map(int, options.words.split(",")):
            if all((name, words, str(storage)) in done for storage in settings.storages):
                continue
            say(f"{name}, {words or 'all'} words")
            stored = texts_of(SETS[name](options.data), words, embedder)
            # Another budget or other storages are another audit.
            folder = options.work / f"{name}-{words}-{options.budget}-{options.storage}-{options.guessed}"
            found = audit_index(stored, embedder, settings, folder=folder)
            for row in rows_of(found, name, words):
                if (name, words, row["stored as"]) not in done:
                    results.add(row)
                    say(str({column: row.get(column) for column in COLUMNS}))
    _show(results)


COLUMNS = ("set", "words", "texts", "n", "tries", "stored as", "f1", "f1 usual", "f1 nearest", "entities")
COLUMNS += ("entities usual", "exact", "overlap", "hit@1 lost", "verdict")


def texts_of(each: Set, words: int, embedder: Any) -> Any:
    """Texts of so many words, one from each passage; or what an index embeds of the passages, with their
    questions."""
    from imprint.inversion import Stored
    from imprint.retrieval.vectors import head_of

    if words:
        cut = (_cut(passage.text, words) for passage in each.passages)
        return Stored(tuple(dict.fromkeys(text for text in cut if text)))
    # The first stretch stands for a passage; of most there is no other.
    texts = [embedder.stretches(passage.text, head=head_of(passage))[0] for passage in each.passages]
    places = {passage.id: i for i, passage in enumerate(each.passages)}
    questions = ((asked.text, places[next(iter(sorted(asked.right)))]) for asked in each.questions)
    return Stored(tuple(texts), None, tuple(questions))


def _cut(text: str, words: int) -> str:
    """So many words from the beginning of a sentence in the middle; '' where there are not so many."""
    from imprint.documents import sentences

    starts = [start for start, _ in sentences(text)]
    for start in starts[len(starts) // 2 :] + starts[: len(starts) // 2]:
        cut = text[start:].split()[:words]
        if len(cut) == words:
            return " ".join(cut)
    return ""


def rows_of(found: Any, name: str, words: int) -> list[Row]:
    """A row for each way of storing."""
    made = []
    for each in found.storages:
        row: Row = {"set": name, "words": words, "texts": found.texts, "n": len(found.plan.held_out)}
        row |= {"learnt from": len(found.plan.training), "tries": found.plan.tries, "stored as": each.storage}
        row |= {measure: score.value for measure, score in each.scores.items()}
        row |= {"verdict": each.verdict.level, "bytes": each.bytes_each}
        row["reachable"] = found.reachable.value if found.reachable else None
        row["scores"] = {measure: asdict(score) for measure, score in each.scores.items()}
        made.append(row)
    return made


# --- settings chosen, on other articles -------------------------------------------------------


def choose(options: argparse.Namespace, embedder: Any, results: Results) -> None:
    """Settings of the reader and of the climb, on 300 texts of SQuAD's training articles."""
    from imprint.inversion import words
    from imprint.inversion.stored import hold_out

    length = int(options.words.split(",")[0]) or 16
    texts = texts_of(held_out(options.data), length, embedder).texts[:300]
    held, training = hold_out(texts, options.guessed, seed=0)
    vectors = _kept(options.work / f"choose-{length}.npy", embedder, texts)
    done = {json.dumps(row["setting"]) for row in results.rows}
    grid = [(ridge, rare) for ridge in (0.3, 1.0, 3.0) for rare in (0.01, 0.1, 1.0)]
    some = [(words.RIDGE, rare) for rare in (0.03, 0.1, 0.3)]
    settings = [
        {"ridge": ridge, "rare": rare, "tries": tries}
        for tries in map(int, options.tries.split(","))
        for ridge, rare in (some if tries else grid)
    ]
    usual = words.RIDGE, words.RARE
    for setting in settings:
        if json.dumps(setting) in done:
            continue
        words.RIDGE, words.RARE = setting["ridge"], setting["rare"]
        reader = words.learn(vectors[list(training)], [texts[i] for i in training])
        results.add(
            {"setting": setting, "words": length} | _tried(reader, vectors, texts, held, embedder, setting["tries"])
        )
        words.RIDGE, words.RARE = usual
        say(str(results.rows[-1]))


def _tried(reader: Any, vectors: Any, texts: Sequence[str], held: Sequence[int], embedder: Any, tries: int) -> Row:
    """Means over the held-out texts: of the likeliest words alone where there are no tries."""
    from imprint.inversion.climbing import climb
    from imprint.inversion.recovery import compare

    found, near = [], []
    for i in held:
        told = np.argsort(-reader.read(vectors[i][None])[0], kind="stable")[: reader.usual_length]
        words = tuple(reader.words[w] for w in told)
        guess = " ".join(words)
        if tries:
            climbed = climb(embedder.embed, vectors[i], reader, [words], tries=tries, seed=i)
            guess, nearness = climbed.text, climbed.nearness
            near.append(nearness)
        found.append(compare(texts[i], guess))
    names = [each.entities for each in found if each.entities is not None]
    row: Row = {"n": len(found), "f1": statistics.mean(each.f1 for each in found)}
    row |= {"entities": statistics.mean(names) if names else None, "exact": statistics.mean(e.exact for e in found)}
    return row | ({"nearness": statistics.mean(near)} if near else {})


def _kept(file: Path, embedder: Any, texts: Sequence[str]) -> Any:
    """The vectors in a file, made where it is not there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, embedder.embed(texts))
    return np.load(file)


# --- told -------------------------------------------------------------------------------------


def _show(results: Results) -> None:
    results.show("Read back from vectors", COLUMNS)


def tell(options: argparse.Namespace) -> None:
    """Shows the rows of a file."""
    if options.json is None:
        raise SystemExit("Name the file that was measured: --json FILE.")
    kept = json.loads(options.json.read_text("utf-8"))
    results = Results(None, {key: value for key, value in kept.items() if key != "rows"})
    results.rows = kept["rows"]
    _show(results)
    results.show_header()


if __name__ == "__main__":
    main()
