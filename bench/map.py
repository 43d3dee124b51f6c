"""What each kind of adapter learns, forgets and costs, on fixed data; and four questions that a map leaves open.

    python bench/map.py map --work ../map --kinds lora,lora_xs,tiny_lora,cartridge --tokens 120000
    python bench/map.py objectives --work ../map --tokens 20000,40000,80000
    python bench/map.py sequence --work ../map --kinds lora
    python bench/map.py together --work ../map --kinds lora,cartridge
    python bench/map.py capacity --work ../map --kinds lora,lora_xs,cartridge

map         imprint map on two articles of squad_eval.json (1973 oil crisis, Construction: 46 passages and 204 questions
            that people wrote), with general_gauntlet, blimp and wikitext2, and questions about the other articles as
            those that the documents do not answer. Leaves map.html and two plots in WORK/map.
objectives  the same text by sft and by distillation, for several numbers of training tokens.
sequence    eight documents one after another in one adapter (after each, all are asked: SEAL's table), the same with
            replay of earlier text, one adapter each of which the right one is chosen, those merged (sum and mean of
            their updates), and one adapter retrained from all; all for as many training tokens in all.
together    two of those adapters on one request: their sum, half of each, the one that the question is likelier to,
            and the right one; and the choice among all eight.
capacity    bits per parameter of random strings and of PhoneBook numbers, more and more of them until no more bits
            are held, at sizes of about 20,000 parameters and less; larger ones are lower bounds.

Within an experiment every arm sees as many training tokens. Each row is written when it ends (WORK/NAME.json) and a
row that is there is not made again; a training that was killed goes on from its checkpoint. --quick makes everything
small enough to be tried. Scores are of containment with 95 % intervals over questions."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _common import Results, base_name, commit, machine, parser, quieten, say, use_threads
from learning import Lines

SEED = 17
ARTICLES = ("1973 oil crisis", "Construction")
"""The map's documents."""
STRANGERS = 100
"""Questions about other articles."""


# --- the data ---------------------------------------------------------------------------------


def passages_of(data: Path) -> dict[str, list[dict[str, Any]]]:
    """The passages of squad_eval.json by article."""
    found: dict[str, list[dict[str, Any]]] = {}
    for passage in json.loads((data / "squad" / "squad_eval.json").read_text("utf-8")):
        found.setdefault(passage["title"], []).append(passage)
    return found


def questions_of(passages: Sequence[Mapping[str, Any]], kind: str) -> list[Any]:
    """The questions about some passages, each once with all its answers."""
    from imprint.evaluation.closed_book import Question

    met: dict[str, list[str]] = {}
    for passage in passages:
        for q in passage["questions"]:
            met.setdefault(q["question"].strip(), []).append(q["answer"])
    return [Question(q, tuple(dict.fromkeys(a)), kind) for q, a in met.items()]


def write_document(title: str, passages: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{title.replace('/', '-')}.md"
    file.write_text(f"# {title}\n\n" + "\n\n".join(p["context"] for p in passages), "utf-8")
    return file


def suite_of(data: Path, name: str, work: Path, items: int | None) -> Path:
    """A suite's folder; with `items`, one of so many of each task (an even draw)."""
    if items is None:
        return data / name
    folder = work / "suites" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((data / name).glob("*.jsonl")):
        lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
        some = random.Random(SEED).sample(lines, min(items, len(lines)))
        (folder / file.name).write_text("\n".join(some) + "\n", "utf-8")
    return folder


def general_text_of(data: Path, work: Path, characters: int | None) -> Path:
    """wikitext2, or its beginning."""
    text = (data / "wikitext2" / "valid_300kB.txt").read_text("utf-8")
    work.mkdir(parents=True, exist_ok=True)
    file = work / "wikitext2.txt"
    file.write_text(text[:characters], "utf-8")
    return file


# --- running ----------------------------------------------------------------------------------


class Bench:
    """One experiment: its rows, and what all of them share."""

    def __init__(self, options: argparse.Namespace, threads: int) -> None:
        from imprint import base as bases
        from imprint.engine import Engine

        self.options, self.watch = options, Lines()
        self.work: Path = options.work / options.experiment
        self.base = bases.load(options.base)
        self.engine = Engine(self.base)
        header = {
            "base": base_name(self.base),
            "commit": commit(),
            "command": " ".join(["python", *sys.argv]),
            "machine": machine(str(self.base.device.dtype).removeprefix("torch."), threads),
            "asked": {k: str(v) for k, v in vars(options).items() if k not in ("json", "threads", "work", "kinds")},
        }
        self.results = Results(options.json or options.work / f"{options.experiment}.json", header, resume=True)

    def have(self, name: str) -> bool:
        return any(row["row"] == name for row in self.results.rows)

    def row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.results.rows if row["row"] == name)

    def keep(self, name: str, row: Mapping[str, Any], *shown: str) -> None:
        """Writes a row and says what is in it."""
        self.results.add({"row": name, **row})
        say(f"{name}: {', '.join(f'{key} {_short(row[key])}' for key in shown if key in row)}")

    def examination(self, questions: Sequence[Any], documents: Sequence[str] = ()) -> Any:
        """The questions, a general text and the suites."""
        from imprint.evaluation.examination import Examination
        from imprint.evaluation.forgetting import general_text
        from imprint.evaluation.suites import read_suite

        options = self.options
        names = ("general_gauntlet", "blimp")
        read = {n: read_suite(suite_of(options.data, n, options.work, options.items)) for n in names}
        return Examination(
            questions=questions,
            documents=documents,
            suites=read,
            texts={"general": general_text()},
            seed=options.seed,
        )

    def written(self, name: str, passages: Sequence[Any], questions: Sequence[Any], text_tokens: int) -> Any:
        """The training text about some passages, ready to be trained, with these questions kept out of it."""
        from imprint.recipe import Recipe
        from imprint.run_folder import RunFolder
        from imprint.stages import prepare

        run = RunFolder(self.work / "texts" / name)
        recipe = Recipe(text_tokens=text_tokens, batch_tokens=self.options.batch_tokens)
        return prepare(run, passages, self.engine, recipe, None, self.options.seed, questions, self.watch)

    def trained(self, jobs: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Named adapters as their trainings end; kept in WORK/EXPERIMENT/adapters, where they are found again."""
        from imprint.adapters import folder as adapter_folder
        from imprint.learning_map import each_trained

        there = [name for name, _ in jobs if (self.adapter_at(name) / "done").exists()]
        for name in there:
            yield name, adapter_folder.read(self.adapter_at(name))
        wanted = [(name, job) for name, job in jobs if name not in there]
        for name, ended, _ in each_trained(self.engine, wanted, self.work / "checkpoints", self.watch):
            if isinstance(ended, Exception):
                raise ended
            adapter_folder.write(ended.adapter, self.adapter_at(name))
            (self.adapter_at(name) / "done").touch()
            yield name, ended.adapter

    def adapter_at(self, name: str) -> Path:
        return self.work / "adapters" / name

    def specs(self) -> list[tuple[str, Any, float]]:
        """(name, settings, learning rate) of each kind and size that was asked for."""
        from imprint import adapters
        from imprint.learning_map import each_spec

        found = []
        for kind, size, spec in each_spec(self.options.kinds.split(","), self.options.sizes.split(",")):
            found.append((f"{kind}-{size}", spec, self.options.lr or adapters.KINDS[kind].LR))
        return found


def map_(bench: Bench) -> None:
    """The map of the two articles; see imprint.learning_map."""
    import imprint
    from imprint.evaluation import trade_off
    from imprint.interfaces import map_page, tables
    from imprint.recipe import Recipe

    options = bench.options
    articles = passages_of(options.data)
    folder, work = bench.work / "documents", bench.work
    asked = []
    for title in ARTICLES:
        some = articles[title][: options.passages]
        write_document(title, some, folder)
        asked += questions_of(some, title)
    others = [q for title, some in articles.items() if title not in ARTICLES for q in questions_of(some, title)]
    strangers = work / "strangers.txt"
    strangers.write_text("\n".join(q.text for q in random.Random(SEED).sample(others, STRANGERS)), "utf-8")
    found = imprint.draw_map(
        folder,
        settings=imprint.MapSettings(
            kinds=tuple(options.kinds.split(",")) if options.kinds else None,
            sizes=tuple(options.sizes.split(",")),
            tokens=int(options.tokens),
            tune=not options.no_tune,
            seed=options.seed,
        ),
        base=bench.base,
        recipe=Recipe(text_tokens=options.text_tokens, batch_tokens=options.batch_tokens),
        questions=asked,
        strangers=strangers,
        suites=[suite_of(options.data, n, options.work, options.items) for n in ("general_gauntlet", "blimp")],
        texts=[general_text_of(options.data, work, options.characters)],
        work=work / "run",
        watch=bench.watch,
    )
    reading = trade_off.read(found.rows)
    tables.stdout().print(tables.map_page(found, reading))
    for file in map_page.write(found, work):
        say(f"written: {file}")
    bench.results.rows = [{**row} for row in found.rows]
    bench.results.write()


def objectives(bench: Bench) -> None:
    """Supervised against distilled, on the same text and for the same tokens."""
    from imprint import documents
    from imprint.corpus import Corpus
    from imprint.evaluation.examination import examine
    from imprint.recipe import Recipe
    from imprint.stages import taught_by_reader

    options = bench.options
    some = passages_of(options.data)[ARTICLES[0]][: options.passages]
    folder = bench.work / "documents"
    write_document(ARTICLES[0], some, folder)
    corpus = Corpus(documents.load(folder).documents)
    passages = corpus.split(160, bench.base.count_tokens)
    questions = questions_of(some, ARTICLES[0])
    examination = bench.examination(questions, [d.text for d in corpus.documents])
    if not bench.have("untouched"):
        row = examine(bench.engine, None, examination, bench.watch)
        bench.keep("untouched", {"tokens": 0, **row}, "learnt")
    bare = bench.row("untouched")["unrelated"]
    prepared = bench.written("text", passages, questions, options.text_tokens)
    recipe = Recipe(objective="distill")
    read = taught_by_reader(prepared.job, prepared.run, bench.engine, recipe, passages, bench.watch)
    jobs, told = [], {}
    for spec_name, spec, lr in bench.specs():
        for tokens in map(int, str(options.tokens).split(",")):
            for objective, job in (("sft", prepared.job), ("distill", read)):
                name = f"{spec_name}-{objective}-{tokens}"
                if not bench.have(name):
                    told[name] = {"objective": objective, "tokens": tokens, "lr": lr}
                    jobs.append((name, replace(job, spec=spec, lr=lr, tokens=tokens)))
    for name, adapter in bench.trained(jobs):
        seat = bench.engine.load(adapter)
        row = told[name] | examine(bench.engine, seat, examination, bench.watch, untouched=bare)
        bench.engine.unload(seat)
        bench.keep(name, row, "learnt", "perplexity")
    _show_objectives(bench)


def _show_objectives(bench: Bench) -> None:
    from imprint.evaluation.trade_off import read

    rows = [{"what": "adapter", "kind": "", "size": "", **r} for r in bench.results.rows]
    shown = []
    for placed in read([r | {"what": "rival"} if r["row"] == "untouched" else r for r in rows]).placed:
        row = {"row": placed.name, "tokens": placed.row["tokens"], "right": placed.learnt.value}
        row |= {"low": placed.learnt.low, "high": placed.learnt.high, "nats": placed.row["learnt"]["nats"]}
        row |= {f"perplexity_{name}": s.value for name, s in placed.rises.items()}
        shown.append(row | {f"lost_on_{name}": s.value for name, s in placed.lost.items()})
    if shown:
        bench.results.show("sft and distill", list(shown[0]), shown)


# --- the command line -------------------------------------------------------------------------


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "score" in value:
        return f"{value['score']:.1%} [{value['low']:.1%}, {value['high']:.1%}] n={value['n']}"
    if isinstance(value, Mapping):
        return " ".join(f"{k} {v['value']:.3g}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


QUICK = {
    "map": {"text_tokens": 2_000, "tokens": "2000", "items": 4, "characters": 4_000, "passages": 4, "no_tune": True},
    "objectives": {"text_tokens": 2_000, "tokens": "1000,2000", "items": 4, "passages": 4},
    "sequence": {"text_tokens": 600, "tokens": "600", "passages": 2, "documents": 3},
    "together": {"text_tokens": 600, "tokens": "600", "passages": 2, "documents": 4},
    "capacity": {"facts": 16, "most_facts": 32, "visits": 10},
}
"""What --quick sets."""
USUAL = {
    "map": {"kinds": None, "sizes": "small,middle,large", "tokens": "120000", "text_tokens": 40_000},
    "objectives": {"kinds": "lora", "sizes": "middle", "tokens": "20000,40000,80000", "text_tokens": 20_000},
    "sequence": {"kinds": "lora", "sizes": "middle", "tokens": "20000", "text_tokens": 5_000},
    "together": {"kinds": "lora,cartridge", "sizes": "middle", "tokens": "20000", "text_tokens": 5_000},
    "capacity": {"kinds": "lora,lora_xs,tiny_lora,cartridge", "sizes": "small", "tokens": "", "text_tokens": 0},
}
"""What an experiment takes where nothing is said."""


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("experiment", choices=list(USUAL))
    made.add_argument("--work", type=Path, required=True, help="where texts, checkpoints, adapters and rows are kept")
    made.add_argument("--data", type=Path, default=Path("../shared/data"))
    made.add_argument("--kinds", help="separated by commas")
    made.add_argument("--sizes", help="small, middle, large: separated by commas")
    made.add_argument("--tokens", help="training tokens (of one document in sequence and together)")
    made.add_argument("--text-tokens", type=int, help="training text (about one document in sequence and together)")
    made.add_argument("--batch-tokens", type=int, default=256)
    made.add_argument("--lr", type=float, help="in place of each kind's own")
    made.add_argument("--no-tune", action="store_true", help="map: each kind's own learning rate")
    made.add_argument("--passages", type=int, help="of each document; all, and 4 in sequence and together")
    made.add_argument("--documents", type=int, default=8, help="in sequence and together")
    made.add_argument("--replay", type=float, default=0.25, help="sequence: share of earlier text")
    made.add_argument("--items", type=int, help="of each task of the suites; all if not said")
    made.add_argument("--characters", type=int, help="of wikitext2; all if not said")
    made.add_argument("--facts", type=int, default=32, help="capacity: with so many it begins")
    made.add_argument("--most-facts", type=int, default=4096, help="capacity: and ends at the latest")
    made.add_argument("--visits", type=int, default=100, help="capacity: how often each fact is met")
    made.add_argument("--seed", type=int, default=0)
    options = made.parse_args(words)
    for key, value in USUAL[options.experiment].items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    for key, value in (QUICK[options.experiment] if options.quick else {}).items():
        setattr(options, key, value)
    return options


def main() -> None:
    options = options_of()
    threads = use_threads(options.threads)
    quieten()
    if not options.data.is_dir():
        raise SystemExit(f"There is no data folder at {options.data}; name it with --data.")
    import torch
    from _capacity import capacity
    from _composition import sequence, together

    torch.set_num_threads(threads)
    run: dict[str, Callable[[Bench], None]] = {
        "map": map_, "objectives": objectives, "sequence": sequence, "together": together, "capacity": capacity,
    }  # fmt: skip
    run[options.experiment](Bench(options, threads))


if __name__ == "__main__":
    main()
