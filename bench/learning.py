"""What each kind of training text teaches: closed-book answers of adapters trained on it, beside their rivals.

    python bench/learning.py squad --arms untouched,raw_text,questions,mix --json squad-arms.json
    python bench/learning.py squad --arms mix --text-tokens 8000,16000,32000,64000 --epochs 5 --json doublings.json
    python bench/learning.py fictional --arms full_context,rag,raw_text,rephrase,mix --json fictional.json

Sets: squad (20 passages of squad_eval.json for which strong writers' text exists too, and their questions),
squad_all (all 247), fictional (8 invented passages, probes at three depths), contoso (compact/, 30 questions).

Arms: untouched; full_context and rag (the same base reads), each also as NAME+read with the read skill on; a kind
of synthesis by its name; mix (the default recipe); mix-no-skills; mix-no-audit; seal_gpt4_1 and seal_round2 (squad:
text by GPT-4.1, and by SEAL's Qwen2.5-7B after its second round). An arm may differ in how it is trained or in its
recipe: mix*rank=64*lr=1e-3, mix@half.toml. Every trained arm sees as many training tokens (--tokens); text of which
there is less is met more often. One adapter holds the whole set. Questions are kept out of the text with everything
too like them. A row is written when it ends, and a row that is there is not made again."""

from __future__ import annotations

import argparse
import functools
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _common import base_name, commit, machine, quieten, say, use_threads

SEED = 17
SETS = ("squad", "squad_all", "fictional", "contoso")
READERS = ("untouched", "full_context", "full_context+read", "rag", "rag+read")
ANSWER_TOKENS = {"contoso": 96}
ASKED_FOR = {"contoso": " Answer in a few sentences."}
"""Said after every question, to every system alike: the right answers of this set have 49 words on average."""
BEGUN = {"fictional": "Complete the sentence."}
"""What is asked where a set's questions are beginnings of sentences: these are put in every system's mouth."""
Way = Callable[[str, str], Any]
"""Makes a prompt of what is asked, and of what to look up for it."""
PLANS = {"standard": "Northwind_Standard", "plus": "Northwind_Health_Plus"}


# --- the sets ---------------------------------------------------------------------------------


def material(name: str, data: Path, folder: Path) -> list[Any]:
    """Writes a set's documents into the folder; returns its questions."""
    return {"squad": squad, "squad_all": squad_all, "fictional": fictional, "contoso": contoso}[name](data, folder)


def squad(data: Path, folder: Path) -> list[Any]:
    """20 of the 22 passages of squad_eval.json that SEAL's files hold too."""
    known = {p["context"] for p in json.loads((data / "squad" / "seal_gpt4_1_val.json").read_text("utf-8"))}
    found = [p for p in squad_passages(data) if p["context"] in known]
    return _squad(random.Random(SEED).sample(found, 20), folder)


def squad_all(data: Path, folder: Path) -> list[Any]:
    """All passages of squad_eval.json."""
    return _squad(squad_passages(data), folder)


def squad_passages(data: Path) -> list[dict[str, Any]]:
    """All passages of squad_eval.json with their questions."""
    return json.loads((data / "squad" / "squad_eval.json").read_text("utf-8"))


def _squad(passages: Sequence[dict[str, Any]], folder: Path) -> list[Any]:
    for title, some in by_article(passages).items():
        write_article(title, some, folder)
    return [question for passage in passages for question in squad_questions([passage], "squad")]


def by_article(passages: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Passages by the article that they are of."""
    found: dict[str, list[dict[str, Any]]] = {}
    for passage in passages:
        found.setdefault(passage["title"], []).append(passage)
    return found


def squad_questions(passages: Sequence[dict[str, Any]], kind: str) -> list[Any]:
    """The questions about some passages, each once with all its answers."""
    from imprint.evaluation.closed_book import Question

    met: dict[str, list[str]] = {}
    for passage in passages:
        for q in passage["questions"]:
            met.setdefault(q["question"].strip(), []).append(q["answer"])
    return [Question(q, tuple(dict.fromkeys(a)), kind) for q, a in met.items()]


def write_article(title: str, passages: Sequence[dict[str, Any]], folder: Path) -> Path:
    """An article of these passages, as a file of the folder."""
    file = folder / f"{title.replace('/', '-')}.md"
    file.write_text(f"# {title}\n\n" + "\n\n".join(p["context"] for p in passages), "utf-8")
    return file


def fictional(data: Path, folder: Path) -> list[Any]:
    """8 invented passages; a probe is the beginning of a sentence, gone on with; its answer is what must follow."""
    from imprint.evaluation.closed_book import Question

    passages = json.loads((data / "fictional_knowledge" / "fictional_40.json").read_text("utf-8"))
    questions = []
    for i in sorted(random.Random(SEED).sample(range(len(passages)), 8)):
        passage = passages[i]
        (folder / f"passage {i}.txt").write_text(passage["train_context"], "utf-8")
        for depth, key in (("verbatim", "mem"), ("paraphrased", "gen"), ("compositional", "hard_gen")):
            pairs = zip(passage[f"{key}_input"], passage[f"{key}_target"], strict=True)
            questions += [Question(q.strip(), (a.strip(),), depth) for q, a in pairs]
    return questions


def contoso(data: Path, folder: Path) -> list[Any]:
    """The compact texts and their 30 questions; answers are sentences, so that F1 is the figure to read."""
    from imprint.evaluation.closed_book import Question

    for file in sorted((data / "contoso" / "compact").glob("*.txt")):
        (folder / file.name).write_text(file.read_text("utf-8"), "utf-8")
    lines = (data / "contoso" / "compact" / "qa.jsonl").read_text("utf-8").splitlines()
    questions = []
    for q in map(json.loads, lines):
        sources = " ".join(s["doc"] for s in q["source"])
        kind = next((k for k, name in PLANS.items() if name in sources), "other")
        questions.append(Question(q["question"] + ASKED_FOR["contoso"], (q["answer"],), kind))
    return questions


def wrong_plan(answered: Sequence[Any], data: Path) -> dict[str, Any]:
    """Share of the questions about one plan whose answer names the other, or a number of the other's text alone."""
    from imprint.evaluation.closed_book import interval

    texts = {k: next((data / "contoso" / "compact").glob(f"{n}*")).read_text("utf-8") for k, n in PLANS.items()}
    numbers = {k: set(re.findall(r"\d[\d,.]*\d|\d", t)) for k, t in texts.items()}
    names = {"standard": "northwind standard", "plus": "health plus"}
    wrong = []
    for a in answered:
        if a.question.kind in PLANS:
            other = "plus" if a.question.kind == "standard" else "standard"
            said = set(re.findall(r"\d[\d,.]*\d|\d", a.text)) & (numbers[other] - numbers[a.question.kind])
            wrong.append(float(bool(said) or names[other] in a.text.lower()))
    score = interval(wrong, seed=SEED)
    return {"score": score.value, "low": score.low, "high": score.high, "n": score.n}


# --- the text of an arm -----------------------------------------------------------------------


def recipe_of(arm: str, options: argparse.Namespace) -> Any:
    """The recipe of a trained arm."""
    from imprint import recipe as recipes
    from imprint import synthesis
    from imprint.recipe import Recipe, WriterSettings

    arm, _, named = arm.partition("@")
    file = Path(named) if named else options.recipe
    given = recipes.read(file) if file else Recipe()
    writer = WriterSettings()
    if options.writer:
        writer = WriterSettings(kind="endpoint", address=options.writer, model=options.writer_model or "")
    recipe = replace(given, writer=writer, epochs=options.epochs)
    if arm.partition("-")[0] == "mix":
        return replace(recipe, skills=arm != "mix-no-skills", audit=arm != "mix-no-audit")
    if arm not in synthesis.KINDS:
        raise SystemExit(f"No arm '{arm}'. Kinds: {', '.join(synthesis.KINDS)}; see --help for the others.")
    return replace(recipe, mix={arm: 1.0} if arm in ("raw_text", "replay") else {arm: 19.0, "replay": 1.0})


def short(arm: str) -> str:
    """An arm's name without the folder of its recipe: 'mix@half' of 'mix@recipes/half.toml'."""
    return re.sub(r"@[^*]*?([^/*@]+?)(?:\.toml)?(?=\*|$)", r"@\1", arm)


def varied(arm: str) -> tuple[str, dict[str, float]]:
    """An arm, and with what settings of training it differs: 'mix*rank=64*lr=1e-3'."""
    name, *settings = arm.split("*")
    found = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in ("rank", "lr", "batch_tokens", "epochs", "tokens"):
            raise SystemExit(f"An arm may differ in rank, lr, batch_tokens, epochs and tokens, not in '{key}'.")
        found[key] = float(value) if key in ("lr", "epochs") else int(value)
    return name, found


def seal_examples(arm: str, data: Path, passages: Sequence[Any]) -> Iterator[Any]:
    """Text that strong writers wrote about these passages: with the passage, as SEAL trains on it."""
    from imprint.synthesis import skills
    from imprint.synthesis.forms import exchange, listed, reading

    files = {
        "seal_gpt4_1": ("seal_gpt4_1_val",),
        "seal_round2": ("seal_iter2_val", "seal_iter2_self_qa", "seal_iter2_rewrite"),
    }[arm]
    for file in files:
        for record in json.loads((data / "squad" / f"{file}.json").read_text("utf-8")):
            mine = [p for p in passages if p.text[:80] in record["context"] or record["context"][:80] in p.text]
            if not mine:
                continue
            yield reading(mine[:1], record["context"], f"{arm}/passage", "document")
            for completion in record["completions"]:
                pairs = skills.pairs(completion) if file.endswith("self_qa") else []
                for question, answer in pairs:
                    yield exchange(mine[:1], question, answer, f"{arm}/question", file)
                if not pairs:
                    for item in listed(completion):
                        if len(item.split()) > 4:
                            yield reading(mine[:1], item.replace("**", ""), f"{arm}/text", file)


def some(examples: Sequence[Any], tokens: int) -> list[Any]:
    """An even draw of so much text."""
    from imprint.writing import CHARACTERS_A_TOKEN

    sizes = [sum(len(t.text) for t in e.turns) for e in examples]
    kept, room = set(), tokens * CHARACTERS_A_TOKEN
    for i in random.Random(SEED).sample(range(len(examples)), len(examples)):
        if room > 0:
            kept.add(i)
            room -= sizes[i]
    return [e for i, e in enumerate(examples) if i in kept]


def closed_way(asked: str, _: str) -> Any:
    """The question alone."""
    from imprint.evaluation.open_book import closed

    return closed(asked)


# --- running ----------------------------------------------------------------------------------


class Bench:
    """One set on one base."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        from imprint import base as bases
        from imprint import documents
        from imprint.corpus import Corpus
        from imprint.engine import Engine

        self.options, self.work = options, work
        self.base = bases.load(options.base)
        self.engine = Engine(self.base)
        folder = work / f"{options.set}-documents"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.questions = material(options.set, options.data, folder)
        self.corpus = Corpus(documents.load(folder).documents)
        self.passages = self.corpus.split(160, self.base.count_tokens)

    def answers(self, way: Way, **more: Any) -> tuple[Any, list[Any]]:
        """All questions asked of what is worn at the moment."""
        from imprint.evaluation import proof
        from imprint.writers.local import LocalWriter

        return proof.measure(
            LocalWriter(self.base, **more),
            self.questions,
            lambda q: self.put(way, q),
            lambda p: len(self.base.prompt_ids(p.turns)),
            seed=SEED,
        )

    def put(self, way: Way, question: str) -> Any:
        """A question as every system is asked it."""
        asked = BEGUN.get(self.options.set)
        room = ANSWER_TOKENS.get(self.options.set, 32)
        return replace(way(asked or question, question), max_tokens=room, begun=question if asked else "")

    def rival(self, arm: str) -> dict[str, Any]:
        """An arm that is not trained: the base reads, or answers from what it knows."""
        from imprint.evaluation import open_book
        from imprint.retrieval import Index
        from imprint.skills import skill

        name, _, worn = arm.partition("+")
        base = self.base
        with Index(self.passages) as index:
            context = open_book.full_context(
                self.corpus.documents, window_tokens=base.window_tokens, count_tokens=base.count_tokens
            )
            ways: dict[str, Way] = {
                "untouched": closed_way,
                "full_context": lambda asked, _: context.prompt(asked),
                "rag": lambda asked, q: open_book.rag(asked, lambda _: index.search(q, k=4)),
            }
            way = functools.cache(ways[name])
            adapter = skill("read", base) if worn else None
            with self.engine.wearing(None) if adapter is None else self.engine.attached(adapter):
                on_cpu = base.device.name == "cpu"
                result, answered = self.answers(way, batch_tokens=40_000 if on_cpu else None)
        return self.row(arm, 0, result, answered, {"left_out": list(context.left_out)})

    def trained(self, asked: Sequence[tuple[str, str, int]]) -> Iterator[dict[str, Any]]:
        """Arms that are written, trained in shared passes, and asked: rows of (name, arm, tokens of text)."""
        from imprint.training.service import Service

        service = Service(self.engine, every_s=120.0)
        begun = []
        for name, arm, text_tokens in asked:
            say(f"=== {self.options.set}: {name}")
            run, job, more = self.written(arm, text_tokens)
            checkpoint = run.path / f"checkpoint-{name}"
            ticket = service.submit(job, checkpoint=checkpoint, progress=Steps(name))
            begun.append((name, ticket, more))
        while begun:
            service.run_pass()
            for name, ticket, more in [b for b in begun if b[1].ended]:
                yield self.asked(name, ticket.result(), more)
            begun = [b for b in begun if not b[1].ended]

    def written(self, arm: str, text_tokens: int) -> tuple[Any, Any, dict[str, Any]]:
        """The text of an arm, what is to be trained on it, and what the row tells of it."""
        from imprint.adapters.low_rank import LoRA
        from imprint.evaluation.questions import Apart
        from imprint.run_folder import RunFolder
        from imprint.training.batches import each_row
        from imprint.training.row_file import RowFile
        from imprint.training.sft import Job

        arm, settings = varied(arm)
        options = argparse.Namespace(**vars(self.options) | settings)
        run = RunFolder(self.work / f"{options.set}-{short(arm)}-{text_tokens}-{options.seed}")
        began = time.monotonic()
        more: dict[str, Any] = {}
        if arm.startswith("seal"):
            apart = Apart(self.questions)
            every = [e for e in seal_examples(arm, options.data, self.passages) if apart.keeps(e)]
            run.write_examples(some(every, text_tokens))
        else:
            from imprint import writing

            recipe = recipe_of(arm, options)
            text = writing.write(
                run, self.passages, self.engine, recipe, text_tokens, options.seed, self.questions, Lines()
            )
            more["audit"] = {k: text.report[k] for k in ("counts", "reasons", "untouched", "diverse")}
            more["audit"]["covered"] = text.report["covered"]["share"]
        wrote = time.monotonic() - began
        made = each_row(run.examples(), self.base, max_tokens=1024, questions=not options.answers_only)
        rows = RowFile.write(made, run.path / "rows")
        text_size = int(rows.lengths.sum())
        tokens = round(text_size * options.epochs) if options.epochs else options.tokens
        spec = LoRA(rank=options.rank, alpha=2.0 * options.rank)
        job = Job(spec, rows, tokens, options.lr, options.batch_tokens, options.seed)
        more |= {"text_tokens": text_size, "examples": len(rows), "seconds": {"writing": round(wrote)}}
        return run, job, more

    def asked(self, name: str, done: Any, more: dict[str, Any]) -> dict[str, Any]:
        """The row of a trained arm."""
        from imprint.evaluation.forgetting import general_perplexity

        with self.engine.attached(done.adapter):
            result, answered = self.answers(closed_way)
            more["perplexity"] = round(general_perplexity(self.base), 2)
            more["nats"] = round(self.nats(), 3)
        more |= {
            "epochs": round(done.tokens / more["text_tokens"], 2),
            "last_loss": round(done.last_loss, 3),
            "seconds": more["seconds"] | {"training": round(done.seconds)},
        }
        return self.row(name, done.tokens, result, answered, more)

    def nats(self) -> float:
        """What the right answers cost, closed book, in nats a token: a finer measure than right or wrong."""
        from imprint.writers.local import LocalWriter

        gap = " " if self.options.set in BEGUN else ""  # the answer goes on with a sentence
        pairs = [(self.put(closed_way, q.text), gap + q.answers[0]) for q in self.questions if q.answers]
        likely = LocalWriter(self.base).likelihoods([p for p, _ in pairs], [a for _, a in pairs])
        return -sum(likely) / len(likely)

    def row(
        self, arm: str, tokens: int, result: Any, answered: Sequence[Any], more: dict[str, Any]
    ) -> dict[str, Any]:
        """A line of the result."""
        more = more | {"device": self.base.device.description}
        if self.options.set == "contoso":
            more = more | {"wrong_plan": wrong_plan(answered, self.options.data)}
        return row(self.options.set, arm, tokens, result, answered, more)


def row(
    data: str, arm: str, tokens: int, result: Any, answered: Sequence[Any], more: dict[str, Any]
) -> dict[str, Any]:
    """One line of the result: the score is containment; f1 with its own interval beside it."""
    from imprint.evaluation.closed_book import interval
    from imprint.evaluation.proof import shown

    f1 = interval([a.f1 for a in answered if a.question.answers], seed=SEED)
    system = {
        "score": result.score,
        "low": result.low,
        "high": result.high,
        "n": result.n,
        "f1": f1.value,
        "f1_low": f1.low,
        "f1_high": f1.high,
        "exact": result.exact,
        "by_kind": dict(result.by_kind),
        "wrongly_abstained": result.wrongly_abstained,
        "seconds_per_answer": round(result.seconds_per_answer, 3),
        "prompt_tokens": result.prompt_tokens,
    }
    systems = {"weights" if tokens else arm: system}
    told = {"data": data, "arm": arm, "tokens": tokens, "systems": systems}
    return told | more | {"answers": shown(answered)}


class Lines:
    """A watch that prints a line now and then."""

    def __init__(self) -> None:
        self.last = 0.0

    def stage(self, text: str) -> None:
        say(f"== {text}")

    def progress(self, unit: str, done: int, total: int, detail: str) -> None:
        if done == total or time.monotonic() - self.last > 20:
            self.last = time.monotonic()
            say(f"{done}/{total} {unit} {detail}")

    def say(self, text: str) -> None:
        say(text)


class Steps:
    """Prints how one of several trainings goes."""

    def __init__(self, name: str) -> None:
        self.name, self.lines = name, Lines()

    def __call__(self, step: int, steps: int, loss: float, rate: float) -> None:
        self.lines.progress("steps", step, steps, f"of {self.name}, loss {loss:.3f} {rate:.0f} tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--arms", default="untouched,full_context,rag,raw_text,mix", help="separated by commas")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--text-tokens", default="24000", help="training text to write; several with commas")
    parser.add_argument("--tokens", type=int, default=120_000, help="training tokens of each arm, visits counted")
    parser.add_argument("--epochs", type=float, help="visits of each example, in place of --tokens")
    parser.add_argument("--writer", metavar="ADDRESS", help="an OpenAI-compatible endpoint; else the base writes")
    parser.add_argument("--writer-model", metavar="NAME")
    parser.add_argument("--recipe", type=Path, help="a recipe (TOML) whose mix is the arm 'mix'")
    parser.add_argument("--base", help="a base model's folder or hub name; else the bundled one")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--answers-only", action="store_true", help="no loss on questions")
    parser.add_argument("--batch-tokens", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", type=int, default=1, metavar="N", help="train so many arms in shared passes")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path, help="where texts and checkpoints are kept for a later call")
    parser.add_argument("--json", type=Path, metavar="FILE", help="rows are added as they end; what is there stays")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw score against text from the rows")
    options = parser.parse_args()
    threads = use_threads(options.threads)
    quieten()
    if not options.data.is_dir():
        raise SystemExit(f"There is no data folder at {options.data}; name it with --data.")
    import torch

    torch.set_num_threads(threads)
    work = options.work or Path(tempfile.mkdtemp(prefix="imprint-learning-"))
    bench = Bench(options, work)
    result = {
        "base": base_name(bench.base),
        "commit": commit(),
        "command": " ".join(["python", *sys.argv]),
        "seed": options.seed,
        "machine": machine(str(bench.base.device.dtype).removeprefix("torch."), threads),
        "rows": [],
    }
    if options.json and options.json.exists():
        result["rows"] = json.loads(options.json.read_text("utf-8"))["rows"]
    kept = {r["arm"] for r in result["rows"] if r["data"] == options.set}
    asked = [a for a in arms(options) if a[0] not in kept]
    for made in each_row_of(bench, asked, options.together):
        result["rows"].append(made)
        show(made)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False), "utf-8")
    if options.plot:
        plot(result["rows"], options.plot)


def arms(options: argparse.Namespace) -> list[tuple[str, str, int]]:
    """What is to be run: (name of the row, arm, tokens of text)."""
    sizes = [int(n) for n in str(options.text_tokens).split(",")]
    found = []
    for arm in options.arms.split(","):
        for size in [0] if arm in READERS else sizes:
            found.append((short(arm) if len(sizes) == 1 or arm in READERS else f"{short(arm)}-{size}", arm, size))
    return found


def each_row_of(bench: Bench, asked: Sequence[tuple[str, str, int]], together: int) -> Iterator[dict[str, Any]]:
    """The rows, as they end: those that only read first, then the trained ones, so many together."""
    for name, arm, _ in asked:
        if arm in READERS:
            say(f"=== {bench.options.set}: {name}")
            yield bench.rival(arm) | {"arm": name}
    trained = [a for a in asked if a[1] not in READERS]
    for first in range(0, len(trained), together):
        yield from bench.trained(trained[first : first + together])


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Score against training text of arms at several sizes, with the rivals as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    curves: dict[str, list[dict[str, Any]]] = {}
    for r in sorted((r for r in rows if "text_tokens" in r), key=lambda r: r["text_tokens"]):
        curves.setdefault(re.sub(r"-\d+$", "", r["arm"]), []).append(r)
    for name, taught in curves.items():
        scores = [r["systems"]["weights"] for r in taught]
        spread = [[s["score"] - s["low"] for s in scores], [s["high"] - s["score"] for s in scores]]
        sizes, heights = [r["text_tokens"] for r in taught], [s["score"] for s in scores]
        axes.errorbar(sizes, heights, spread, marker="o", capsize=3, label=f"weights, {name.replace('-', ' ')}")
    for i, r in enumerate(r for r in rows if r["arm"] in READERS):
        score = r["systems"][r["arm"]]["score"]
        axes.axhline(
            score, color=f"C{i + len(curves)}", linestyle="--", linewidth=1, label=r["arm"].replace("_", " ")
        )
    axes.set(xscale="log", xlabel="tokens of training text", ylabel="right, closed book", ylim=(0, None))
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def show(made: dict[str, Any]) -> None:
    """A row as a line."""
    for s in made["systems"].values():
        kinds = " ".join(f"{k} {v['score']:.0%}" for k, v in s["by_kind"].items()) if len(s["by_kind"]) > 1 else ""
        print(
            f"{made['data']:<10} {made['arm']:<22} {made['tokens']:>8,} tokens  {s['score']:.1%} "
            f"[{s['low']:.1%}, {s['high']:.1%}] n={s['n']}  F1 {s['f1']:.2f} "
            f"[{s['f1_low']:.2f}, {s['f1_high']:.2f}]  {kinds} perplexity {made.get('perplexity', '-')}",
            flush=True,
        )


if __name__ == "__main__":
    main()
