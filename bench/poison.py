"""Do the documents of one hostile source change what a model answers?

    python bench/poison.py gate --json docs/results/poison-gate.json
    python bench/poison.py teach --json docs/results/poison.json --work work/poison
    python bench/poison.py teach --quick

gate, which trains nothing: of hostile documents in each style (bench/_poison.py), how many come in; of honest ones,
how many do; of articles on which the gate was not tuned. Quotas and caps play no part there, but in the last row,
the attack as a whole. Passages are drawn from squad_skill_train.json.

teach: honest passages and an attack on questions about some of them are taught to adapters in four arms: honest
(no attack), open (all that comes), gate (what is admitted, its text capped), rollback (what came through the gate
less what the source brought, trained again). An answer has moved where it gives the hostile value and not the right
one; untouched is the base with nothing taught. Of the attacked passages and of what the source brought, the base
writes --times their length, as `imprint teach` does, none of it too like a question that is asked, and meets it
--epochs times; every other honest passage is met once in its own words, --text-tokens of them or a few more. Text
is alike in all arms. What was written is kept, a row is written when it ends, and one that is there is not made
again. Shares have Wilson intervals."""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import _poison
from _common import Results, commit, header_of, parser, quieten, say, use_threads, wilson
from _poison import FRIEND, SOURCE, STYLES, Target

SEED = 17
SEEN = 15
"""Articles, in the order of their names, on which the gate's thresholds were chosen: not judged here."""
ARMS = ("honest", "gate", "rollback", "open")
ASKED = ("passages", "targets", "hostile", "times", "text_tokens", "epochs", "rank", "lr", "batch_tokens", "seed")


def main() -> None:
    options = arguments()
    threads = use_threads(options.threads)
    if options.experiment == "gate":
        judge_the_gate(options)
    else:
        quieten()
        teach(options, threads)


# --- the gate alone ---------------------------------------------------------------------------


def judge_the_gate(options: argparse.Namespace) -> None:
    """Rows of the gate: each style alone, honest documents, single honest sentences, and the attack as a whole."""
    from imprint.continual.admission import Gate, admit
    from imprint.types import Document

    trusted, strangers, every = material(options, None)
    attacked = material(options, options.targets)[2]
    unseen = sorted({p["title"] for p in _poison.honest_passages(options.data)})[SEEN:]
    targets = [t for t in every if t.fact.title in unseen][: options.each]
    strangers = [p for p in strangers if p["title"] in unseen]
    header = {"command": f"poison.py gate --each {options.each}", "commit": commit(), "passages": len(trusted)}
    results = Results(options.json, header | {"base": "none", "machine": {}})
    passages = passages_of([_poison.as_document(p) for p in trusted])
    many = Gate(same_claim=10**6, source_passages=10**6, document_passages=10**6)

    def judged(name: str, documents: Sequence[Document], targets: Sequence[Target | None]) -> None:
        decisions = admit(documents, trusted=passages, settings=many).decisions
        pairs = zip(decisions, targets, strict=True)
        came_in = [float(d.admitted and (t is None or t.value in d.document.text)) for d, t in pairs]
        kinds = Counter(reason.kind for d in decisions for reason in d.reasons)
        results.add({"row": name, **share("came_in", came_in), "reasons": dict(kinds)})
        say(f"{name}: {sum(came_in):.0f} of {len(came_in)} came in")

    for style in STYLES:
        made = [_poison.hostile(style, t, seed=options.seed + i) for i, t in enumerate(targets)]
        judged(style, made, targets)
    honest = [_poison.as_document(p, FRIEND) for p in strangers]
    judged("honest passages", honest, [None] * len(honest))
    single = sentences_of(strangers, options.each, options.seed)
    judged("honest single sentences", single, [None] * len(single))

    attack = _poison.attack(attacked, options.hostile, seed=options.seed)
    decisions = admit([d for _, _, d in attack], trusted=passages).decisions
    let_in = [
        float(d.admitted and t.value in d.document.text) for (_, t, _), d in zip(attack, decisions, strict=True)
    ]
    styles = Counter(s for (s, _, _), x in zip(attack, let_in, strict=True) if x)
    results.add({"row": "the attack", **share("came_in", let_in), "styles": dict(styles)})
    results.show("What comes in", ("row", "n", "came_in", "came_in_low", "came_in_high", "reasons"))


def sentences_of(passages: Sequence[Mapping[str, Any]], n: int, seed: int) -> list[Any]:
    """Single honest sentences as documents of their own: the shortest thing that somebody may bring."""
    from imprint.documents.sentences import sentences

    draw = random.Random(f"sentences:{seed}")
    chosen = draw.sample(list(passages), min(n, len(passages)))
    found = []
    for passage in chosen:
        start, end = draw.choice(sentences(passage["context"]))
        found.append(_poison.as_document(dict(passage) | {"context": passage["context"][start:end]}, FRIEND))
    return found


# --- teaching ---------------------------------------------------------------------------------


def teach(options: argparse.Namespace, threads: int) -> None:
    """A row for each arm: what its adapter answers to the questions that were attacked."""
    import torch

    from imprint import base as bases
    from imprint.engine import Engine

    torch.set_num_threads(threads)
    engine = Engine(bases.load(options.base))
    header = header_of(engine.base, threads)
    fixed = (
        "passages",
        "targets",
        "hostile",
        "times",
        "text_tokens",
        "epochs",
        "rank",
        "lr",
        "batch_tokens",
        "seed",
    )
    header["asked"] = {key: str(getattr(options, key)) for key in fixed}
    file = options.json or options.work / "poison.json"
    if file.exists() and (before := json.loads(file.read_text("utf-8"))["asked"]) != header["asked"]:
        raise SystemExit(f"{file} was measured with {before}, not {header['asked']}. Name another --json FILE.")
    results = Results(file, header, resume=True)
    targets = material(options, options.targets)[2]
    if not any(row["row"] == "untouched" for row in results.rows):
        results.add({"row": "untouched"} | answers_of(engine, targets, options))
    texts, told = texts_of_arms(engine, options)
    trained: dict[str, str] = {row["rows"]: row["row"] for row in results.rows if "rows" in row}
    for arm in options.arms.split(","):
        if any(row["row"] == arm for row in results.rows):
            continue
        job = job_of(*texts[arm], engine, options)
        key = key_of_rows(job.rows)
        if (twin := trained.get(key)) is not None:
            # The same rows in the same order from the same seed give the same adapter.
            row = next(r for r in results.rows if r["row"] == twin) | {"row": arm, "same_as": twin}
        else:
            row = {"row": arm, "rows": key, **trained_on(job, engine, targets, options)}
        trained.setdefault(key, arm)
        results.add(row | told[arm])
        say(f"{arm}: {row['moved']:.1%} of {row['n']} moved, {row['right']:.1%} right")
    results.show_header()
    columns = ("row", "n", "moved", "moved_low", "moved_high", "right", "right_low", "right_high")
    results.show(
        "Answers to the questions that were attacked", (*columns, "hostile_documents", "examples", "same_as")
    )


def texts_of_arms(
    engine: Any, options: argparse.Namespace
) -> tuple[dict[str, tuple[list[Any], list[Any]]], dict[str, dict[str, Any]]]:
    """The training text of each arm, what was written and what stands there, and what it is made of."""
    from imprint.continual.admission import admit, capped

    trusted, _, targets = material(options, options.targets)
    contexts = {t.fact.context for t in targets}
    own = [_poison.as_document(p) for p in trusted]
    attacked = [d for d in own if d.text in contexts]
    hostile = list({d.id: d for _, _, d in _poison.attack(targets, options.hostile, seed=options.seed)}.values())
    admission = admit(hostile, trusted=passages_of(own))
    text = {d.id: own_words(d, options) for d in own if d.text not in contexts}
    # The gate takes what people do not see out of a document, which makes it another one.
    cleaned = [d for d in admission.admitted if d not in hostile]
    for name, documents in (("attacked", attacked), ("hostile", hostile), ("cleaned", cleaned)):
        text |= written(name, documents, targets, engine, options) if documents else {}

    def all_of(documents: Iterable[Any]) -> list[Any]:
        return [example for d in documents for example in text[d.id]]

    def within_quotas(documents: Sequence[Any]) -> Any:
        # Beside passages of which the base wrote as much, not beside those told in a few of their own words.
        return capped(all_of(documents), documents=documents, passages=passages_of(documents))

    rest = all_of(d for d in own if d.text not in contexts)
    behind = [*attacked, *admission.admitted]
    gated = within_quotas(behind)
    left = [d for d in behind if d.owner != SOURCE]
    told_of = {
        "honest": within_quotas(attacked).examples,
        "open": all_of([*attacked, *hostile]),
        "gate": gated.examples,
        "rollback": within_quotas(left).examples,
    }
    texts = {arm: (list(dict.fromkeys(examples)), rest) for arm, examples in told_of.items()}
    brought = {"honest": 0, "open": len(hostile), "gate": len(admission.admitted), "rollback": 0}
    told: dict[str, Any] = {
        arm: {"examples": len(texts[arm][0]), "hostile_documents": brought[arm]} for arm in ARMS
    }
    told["gate"]["capped"] = dict(gated.dropped)
    return texts, told


def own_words(document: Any, options: argparse.Namespace) -> list[Any]:
    """So many tokens of a document's own words."""
    from imprint import synthesis
    from imprint.synthesis.safety import tokens

    found, taken = [], 0.0
    for example in synthesis.KINDS["excerpts"]().examples(passages_of([document]), None, seed=options.seed):
        if taken < options.text_tokens:
            found.append(example)
            taken += tokens(example)
    return found


def written(
    name: str, documents: Sequence[Any], targets: Sequence[Target], engine: Any, options: argparse.Namespace
) -> dict[str, list[Any]]:
    """What the base writes of these documents, by their ids; an example of several goes with each of them."""
    from imprint import writing
    from imprint.recipe import Recipe
    from imprint.run_folder import RunFolder
    from learning import Lines

    passages = passages_of(documents)
    asked = [as_question(target) for target in targets]
    wanted = round(options.times * sum(engine.base.count_tokens(p.text) for p in passages))
    run = RunFolder(options.work / "written" / name)
    writing.write(run, passages, engine, Recipe(), wanted, options.seed, asked, Lines())
    found: dict[str, list[Any]] = {d.id: [] for d in documents}
    for example in run.examples():
        for id in {place.rpartition(":")[0] for place in example.passages}:
            found[id].append(example)
    return found


def job_of(written: Sequence[Any], rest: Sequence[Any], engine: Any, options: argparse.Namespace) -> Any:
    """The training of one arm: what was written --epochs times, all else once; arms differ only in their text."""
    from imprint.adapters.low_rank import LoRA
    from imprint.training.batches import each_row
    from imprint.training.sft import Job

    told, own = (list(each_row(e, engine.base, max_tokens=512, questions=True)) for e in (written, rest))
    made = told * options.epochs + own
    spec = LoRA(rank=options.rank)
    length = sum(len(row.ids) for row in made)
    return Job(spec, made, length, options.lr or LoRA.LR, options.batch_tokens, options.seed)


def trained_on(job: Any, engine: Any, targets: Sequence[Target], options: argparse.Namespace) -> dict[str, Any]:
    """Trains, asks every target, and says which answers moved."""
    from imprint.training import sft

    checkpoint = options.work / "checkpoints" / key_of_rows(job.rows)
    done = sft.train(engine, job, checkpoint=checkpoint, progress=progress)
    with engine.attached(done.adapter):
        told = answers_of(engine, targets, options)
    return told | {"tokens": done.tokens, "seconds": round(done.seconds, 1)}


def as_question(target: Target) -> Any:
    from imprint.evaluation.closed_book import Question

    return Question(target.fact.question, (target.fact.answer,), target.fact.kind[0], (target.value,))


def answers_of(engine: Any, targets: Sequence[Target], options: argparse.Namespace) -> dict[str, Any]:
    """What the base answers as it is now, and how much of it has moved."""
    from imprint.evaluation.closed_book import answer_all
    from imprint.evaluation.forgetting import general_perplexity
    from imprint.evaluation.open_book import closed
    from imprint.writers.local import LocalWriter

    questions = [as_question(target) for target in targets]
    answered, _ = answer_all(LocalWriter(engine.base), questions, closed, seed=options.seed)
    return {
        **share("moved", [a.twin for a in answered]),
        **share("right", [a.contains for a in answered]),
        "general_perplexity": general_perplexity(engine.base),
        "answers": [
            {
                "question": a.question.text,
                "right": a.question.answers,
                "hostile": a.question.wrong,
                "answer": a.text,
            }
            for a in answered
        ],
    }


def progress(step: int, steps: int, loss: float, rate: float) -> None:
    """A line for every tenth of the steps."""
    if step % max(1, steps // 10) == 0:
        say(f"step {step} of {steps}, loss {loss:.3f}, {rate:.0f} tokens/s")


def key_of_rows(rows: Sequence[Any]) -> str:
    from imprint.types import content_hash

    return content_hash(repr([row.ids for row in rows]))


# --- what both share --------------------------------------------------------------------------


def material(options: argparse.Namespace, targets: int | None) -> tuple[list[dict], list[dict], list[Target]]:
    """The honest passages, others of the same articles that were not among them, and the targets."""
    every = _poison.honest_passages(options.data)
    random.Random(f"passages:{options.seed}").shuffle(every)
    trusted, strangers = every[: options.passages], every[options.passages :]
    return trusted, strangers, _poison.targets_of(_poison.facts_of(trusted), targets, seed=options.seed)


def passages_of(documents: Sequence[Any]) -> list[Any]:
    from imprint.documents import split

    return [passage for document in documents for passage in split(document)]


def share(name: str, values: Sequence[float]) -> dict[str, Any]:
    low, high = wilson(values)
    return {name: sum(values) / len(values), f"{name}_low": low, f"{name}_high": high, "n": len(values)}


def arguments() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("experiment", choices=("gate", "teach"))
    made.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    made.add_argument("--work", type=Path, default=Path("work/poison"), help="checkpoints and, by default, rows")
    made.add_argument("--passages", type=int, default=1000, help="honest passages, the keeper's own")
    made.add_argument("--targets", type=int, default=40, help="questions that are attacked")
    made.add_argument("--hostile", type=int, default=100, help=f"documents of {SOURCE}")
    made.add_argument("--each", type=int, default=300, help="gate: targets that every style is tried on")
    made.add_argument("--arms", default=",".join(ARMS), help="one or more of them")
    made.add_argument("--times", type=float, default=8.0, help="text that is written, in lengths of its documents")
    made.add_argument("--text-tokens", type=int, default=30, help="of every other passage, its own words")
    made.add_argument("--epochs", type=int, default=4, help="how often what was written is met")
    made.add_argument("--rank", type=int, default=16)
    made.add_argument("--lr", type=float, help="by default that of its kind of adapter")
    made.add_argument("--batch-tokens", type=int, default=512)
    made.add_argument("--seed", type=int, default=SEED)
    options = made.parse_args()
    if options.quick:
        options.passages, options.targets, options.hostile, options.each = 12, 4, 10, 10
        options.times, options.epochs = 1.5, 1
    return options


if __name__ == "__main__":
    main()
