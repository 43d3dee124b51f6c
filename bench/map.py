"""What each kind of adapter learns, forgets and costs, on fixed data; and four questions that a map leaves open.

    python bench/map.py map --work ../map --kinds lora,lora_xs,tiny_lora,cartridge --tokens 120000
    python bench/map.py objectives --work ../map --tokens 20000,40000,80000
    python bench/map.py sequence --work ../map --kinds lora
    python bench/map.py together --work ../map --kinds lora,cartridge
    python bench/map.py capacity --work ../map --kinds lora,lora_xs,cartridge

map         imprint map on two articles of squad_eval.json (1973 oil crisis, Construction: 46 passages and 204
            questions that people wrote), with general_gauntlet, blimp and wikitext2, and questions about the other
            articles as those that the documents do not answer. Leaves map.html and two plots in WORK/map.
objectives  the same text by sft and by distillation, for several numbers of training tokens, and with more of
            the base's own talk in it (--replays: its share of the mix; a fifth of all at 3).
sequence    eight documents one after another in one adapter (after each, all are asked: SEAL's table), the same
            with replay of earlier text, one adapter each of which the right one is chosen, those merged (sum and
            mean of their updates), and one adapter retrained from all; all for as many training tokens in all.
            --objective distill teaches all of them what a reader of each document says, and replays that.
together    two of those adapters on one request: their sum, half of each, the one that the question is likelier to,
            and the right one; and the choice among all eight.
capacity    bits per parameter of random words and of PhoneBook numbers, more and more of them until no more bits
            are held, at sizes of about 20,000 parameters and less; larger ones are lower bounds. Each kind's
            learning rate is found on a few facts first (--lr takes one for all).

Within an experiment every arm sees as many training tokens. Each row is written when it ends (WORK/NAME.json) and
a row that is there is not made again; a training that was killed goes on from its checkpoint. --quick makes
everything small enough to be tried. Scores are of containment with 95 % intervals over questions."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from _capacity import capacity
from _common import parser, quieten, say, use_threads
from _composition import sequence, together
from _map import SEED, Bench, general_text_of, passages_of, suite_of, write_document
from learning import squad_questions

ARTICLES = ("1973 oil crisis", "Construction")
"""The map's documents."""
STRANGERS = 100
"""Questions about other articles."""


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
        asked += squad_questions(some, title)
    others = [q for title, some in articles.items() if title not in ARTICLES for q in squad_questions(some, title)]
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
        recipe=Recipe(
            text_tokens=options.text_tokens, batch_tokens=options.batch_tokens, objective=options.objective
        ),
        questions=asked,
        strangers=strangers,
        suites=[suite_of(options.data, n, options.work, options.items) for n in ("general_gauntlet", "blimp")],
        texts=[general_text_of(options.data, work, options.characters)],
        work=work / "run",
        watch=bench.watch,
    )
    reading = trade_off.read(found.rows, seed=int(found.about["seed"]))
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
    folder, questions = bench.work / "documents", []
    for title in ARTICLES:
        some = passages_of(options.data)[title][: options.passages]
        write_document(title, some, folder)
        questions += squad_questions(some, title)
    corpus = Corpus(documents.load(folder).documents)
    passages = corpus.split(160, bench.base.count_tokens)
    examination = bench.examination(questions, [d.text for d in corpus.documents])
    if not bench.have("untouched"):
        row = examine(bench.engine, None, examination, bench.watch)
        bench.keep("untouched", {"tokens": 0, **row}, "learnt")
    bare = bench.row("untouched")["unrelated"]
    recipe = Recipe(objective="distill")
    jobs, told = [], {}
    for replay in map(float, options.replays.split(",")):
        prepared = bench.written(f"replay-{replay:g}", passages, questions, options.text_tokens, replay)
        read = taught_by_reader(prepared.job, prepared.run, bench.engine, recipe, passages, bench.watch)
        for spec_name, spec, lr in bench.specs():
            for tokens in map(int, str(options.tokens).split(",")):
                for objective, job in (("sft", prepared.job), ("distill", read)):
                    name = f"{spec_name}-{objective}-replay-{replay:g}-{tokens}"
                    if not bench.have(name):
                        told[name] = {"objective": objective, "replay": replay, "tokens": tokens, "lr": lr}
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


# fmt: off
QUICK = {
    "map": {
        "text_tokens": 2_000,
        "tokens": "2000",
        "items": 4,
        "characters": 4_000,
        "passages": 4,
        "no_tune": True,
    },
    "objectives": {"text_tokens": 2_000, "tokens": "1000,2000", "items": 4, "passages": 4},
    "sequence": {"text_tokens": 600, "tokens": "600", "passages": 2, "documents": 3},
    "together": {"text_tokens": 600, "tokens": "600", "passages": 2, "documents": 4},
    "capacity": {"facts_of": "random", "most_facts": 32, "visits": 10},
}
"""What --quick sets."""
# fmt: on
USUAL = {
    "map": {"kinds": None, "sizes": "small,middle,large", "tokens": "120000", "text_tokens": 40_000},
    "objectives": {"kinds": "lora", "sizes": "middle", "tokens": "20000,40000,80000", "text_tokens": 20_000},
    "sequence": {"kinds": "lora", "sizes": "middle", "tokens": "20000", "text_tokens": 5_000},
    "together": {"kinds": "lora,cartridge", "sizes": "middle", "tokens": "20000", "text_tokens": 5_000},
    "capacity": {
        "kinds": "lora,lora_xs,tiny_lora,cartridge,memory,expert",
        "sizes": "small,middle,large",
        "tokens": "",
        "text_tokens": 0,
    },
}
"""What an experiment takes where nothing is said."""


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("experiment", choices=list(USUAL))
    made.add_argument(
        "--work", type=Path, required=True, help="where texts, checkpoints, adapters and rows are kept"
    )
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
    made.add_argument(
        "--objective",
        choices=("sft", "distill"),
        default="sft",
        help="map, sequence: what is learnt of the text (and of earlier text where it is replayed)",
    )
    made.add_argument("--replay", type=float, default=0.25, help="sequence: share of earlier text")
    made.add_argument("--replays", default="0.5,3", help="objectives: shares of replay in the mix")
    made.add_argument("--items", type=int, help="of each task of the suites; all if not said")
    made.add_argument("--characters", type=int, help="of wikitext2; all if not said")
    made.add_argument("--facts-of", default="random,phonebook", help="capacity: kinds of facts")
    made.add_argument("--most-facts", type=int, default=4096, help="capacity: it ends at the latest")
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

    torch.set_num_threads(threads)
    run: dict[str, Callable[[Bench], None]] = {
        "map": map_, "objectives": objectives, "sequence": sequence, "together": together, "capacity": capacity,
    }  # fmt: skip
    run[options.experiment](Bench(options, threads))


if __name__ == "__main__":
    main()
