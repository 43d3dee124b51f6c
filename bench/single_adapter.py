"""Training one adapter: ours against transformers.Trainer + PEFT (and TRL's SFTTrainer, where it is installed).

    python bench/single_adapter.py --json single.json
    python bench/single_adapter.py --epochs 3 --systems peft-float32,ours-float32

Every system trains the same adapter (same first values, rank, learning-rate schedule, epochs, and about as many
tokens a step) on the same examples: the training text of examples/handbook, written once and kept in the cache.
Each runs in a process of its own, as its users would start it; they take turns within the run, a tenth
of the training each, while the others wait. Padding is not counted as tokens; each rival groups rows by length,
which is its best case. Then the adapters answer the held-out questions on one base in float32.

In a comparison `ratio` is the median over turns, `whole` the same of the whole training: where a trunk is
kept, the first epoch is slower than the later ones, and `whole` is the figure to read."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _common
from _common import Channel, Ended, Results, Row, Worker, base_folder, base_name, ratio_of
from _common import say as tell_user

if TYPE_CHECKING:
    from imprint.base import Base
    from imprint.engine import Engine
    from imprint.evaluation.closed_book import Question
    from imprint.training.batches import Row as TokenRow
    from imprint.types import Adapter

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class System:
    """Who trains, in which precision, and how much of the model."""

    kind: str
    """'ours', 'peft' (transformers.Trainer) or 'trl'."""
    dtype: str
    top_layers: int | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.dtype}" + (f"-top{self.top_layers}" if self.top_layers else "")


def system(name: str) -> System:
    """A system by its name, such as 'ours-float32-top15'."""
    kind, _, rest = name.partition("-")
    dtype, _, top = rest.partition("-top")
    if kind not in ("ours", "peft", "trl") or dtype not in ("float32", "bfloat16") or not (top or "1").isdigit():
        raise argparse.ArgumentTypeError(f"no system '{name}'; say ours, peft or trl, then -float32 or -bfloat16")
    return System(kind, dtype, int(top) if top else None)


SYSTEMS = (
    "peft-float32", "peft-bfloat16", "trl-float32", "trl-bfloat16",
    "ours-float32", "ours-bfloat16", "ours-float32-top15", "ours-bfloat16-top15",
)  # fmt: skip


def main() -> None:
    made = _common.parser(__doc__ or "")
    made.add_argument("--systems", type=lambda text: [system(name) for name in text.split(",")])
    made.add_argument("--epochs", type=int, default=5)
    made.add_argument("--minutes", type=float, help="fewer epochs where training them all would take longer")
    made.add_argument("--examples", type=int, help="train on so many of the examples")
    made.add_argument("--rank", type=int, default=16)
    made.add_argument("--lr", type=float, default=1e-3)
    made.add_argument("--batch-tokens", type=int, default=1024)
    made.add_argument("--turns", type=int, default=10, help="of each system")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--worker", help=argparse.SUPPRESS)
    options = made.parse_args()
    _common.use_threads(options.threads)
    if options.worker:
        work(json.loads(options.worker))
        return
    if options.quick:
        options.systems = options.systems or [system("peft-float32"), system("ours-float32")]
        options.epochs, options.turns, options.batch_tokens = 1, 3, 256
    options.systems = options.systems or [system(name) for name in SYSTEMS]
    measure(options)


def measure(options: argparse.Namespace) -> None:
    """Training text, training in turns, grading, tables."""
    threads = _common.use_threads(options.threads)
    os.environ["IMPRINT_DTYPE"] = "float32"  # the precision of grading, and of writing the training text
    began_at = _common.commit()  # read at the start: the tree may move on while this runs
    _common.quieten()
    from imprint import base as bases

    base = bases.load(options.base)
    systems = [s for s in options.systems if s.kind != "trl" or _has_trl()]
    questions = answerable()
    if options.quick:  # nothing is written: some questions teach, others are held out
        rows, questions = rows_of(questions[12:48], base), questions[:12]
    else:
        rows = training_rows(base, questions)[: options.examples]
    tell_user(f"{len(rows)} examples, {sum(len(r.ids) for r in rows):,} tokens an epoch")
    found = _common.machine("training as named, grading in float32", threads)
    results = Results(options.json, {"machine": found, "base": base_name(base), "commit": began_at})
    with tempfile.TemporaryDirectory() as folder:
        tasks = [task_of(s, rows, base, Path(folder), options) for s in systems]
        trained = train_in_turns(tasks, options)
        answers: dict[str, list[float]] = {}
        results.add(graded("untouched", None, questions, base, answers) | {"system": "untouched"})
        for task in [t for t in tasks if t["name"] in trained]:
            row = trained[task["name"]]["row"]
            results.add(row | graded(task["name"], Path(task["out"]), questions, base, answers))
    by_name = {row["system"]: row for row in results.rows}
    for ours in [s.name for s in systems if s.name in trained and s.kind == "ours"]:
        for theirs in [s.name for s in systems if s.name in trained and s.kind != "ours"]:
            results.add(compared(by_name[ours], by_name[theirs], trained, answers, options.seed))
    show(results)


def show(results: Results) -> None:
    alone = [row for row in results.rows if "system" in row]
    columns = ["system", "tokens_per_s", "seconds", "steps", "tokens", "padding", "parameters", "peak_mib"]
    results.show("Training one adapter", columns, [row for row in alone if "tokens" in row])
    columns = ["system", "score", "low", "high", "n", "held_out_nats", "last_loss"]
    results.show("Held-out questions: share right; nats per token of the right answers", columns, alone)
    columns = ["ours", "theirs", "ratio", "low", "high", "rounds", "whole"]
    columns += ["score_difference", "score_low", "score_high", "nats_difference"]
    pairs = [row for row in results.rows if "ours" in row]
    results.show("Ours against theirs: times as many tokens a second; score ours - theirs", columns, pairs)
    results.show_header()


# --- what is trained --------------------------------------------------------------------------


class Lines:
    """A watch that prints a line now and then."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def stage(self, text: str) -> None:
        tell_user(text)

    def progress(self, unit: str, done: int, total: int, detail: str) -> None:
        if time.monotonic() - self.last > 20:
            self.last = time.monotonic()
            tell_user(f"{done}/{total} {unit} {detail}")

    def say(self, text: str) -> None:
        tell_user(text)


def answerable() -> list[Question]:
    """The demo's questions that the handbook answers."""
    from imprint.evaluation.questions import read_questions

    return [q for q in read_questions(ROOT / "examples" / "questions.jsonl") if q.answers]


def rows_of(questions: Sequence[Question], base: Base) -> list[TokenRow]:
    """Questions in tokens, their right answers to be learnt."""
    from imprint.training.batches import rows as token_rows
    from imprint.types import Example, Turn

    turns = [(Turn("user", q.text), Turn("assistant", q.answers[0], learn=True)) for q in questions]
    return token_rows([Example(t, (), "question") for t in turns], base, max_tokens=1024)


def training_rows(base: Base, questions: Sequence[Question]) -> list[TokenRow]:
    """The handbook's training text in tokens, without what is too like a held-out question.

    Written by the local writer at the first run, and kept in the cache folder."""
    from imprint import documents
    from imprint.corpus import Corpus
    from imprint.engine import Engine
    from imprint.home import cache_folder
    from imprint.recipe import Recipe
    from imprint.run_folder import RunFolder
    from imprint.stages import prepare
    from imprint.types import content_hash

    recipe = Recipe()
    corpus = Corpus(documents.load(ROOT / "examples" / "handbook").documents)
    passages = corpus.split(recipe.passage_tokens, base.count_tokens)
    key = content_hash(corpus.hash, repr(recipe), base.revision, repr(questions))
    run = RunFolder(cache_folder() / "bench" / "single_adapter" / key)
    return list(prepare(run, passages, Engine(base), recipe, None, 0, questions, Lines()).job.rows)


def task_of(system: System, rows: Sequence[TokenRow], base: Base, folder: Path, options: argparse.Namespace) -> Row:
    """What a worker must know, but for the number of epochs."""
    from imprint.adapters import folder as adapter_folder
    from imprint.adapters.low_rank import LoRA
    from imprint.training.batches import batches
    from imprint.training.sft import lengths_of

    own = folder / system.name
    spec = LoRA(rank=options.rank, top_layers=system.top_layers)
    adapter_folder.write(spec.fresh(base, seed=options.seed), own / "start")
    (own / "rows.json").write_text(json.dumps([[row.ids, row.learn] for row in rows]))
    per_epoch = len(batches(lengths_of(rows), tokens=options.batch_tokens, seed=options.seed, epoch=0))
    return {
        "name": system.name,
        "kind": system.kind,
        "dtype": system.dtype,
        "top_layers": system.top_layers,
        "rank": options.rank,
        "base": options.base,
        "model": base_folder(base),
        "rows": str(own / "rows.json"),
        "start": str(own / "start"),
        "out": str(own / "trained"),
        "lr": options.lr,
        "batch_tokens": options.batch_tokens,
        "batch_rows": -(-len(rows) // per_epoch),  # as many steps as ours, or fewer and larger ones
        "seed": options.seed,
        "turns": options.turns,
    }


# --- training in turns ------------------------------------------------------------------------


def train_in_turns(tasks: Sequence[Row], options: argparse.Namespace) -> dict[str, Row]:
    """Trains all systems, a turn each; returns by name {'row': ..., 'turns': [(tokens, seconds), ...]}.

    A system that fails is left out, and the others go on."""
    workers = [Worker(__file__, task, {"IMPRINT_DTYPE": task["dtype"]}) for task in tasks]
    turns: dict[str, list[tuple[int, float]]] = {worker.name: [] for worker in workers}
    trained: dict[str, Row] = {}
    ready: list[Row] = []
    busy = list(workers)
    try:
        for worker in workers:  # one after another: each warms up alone
            told = _told(worker, {}, busy)
            if told is not None:
                ready.append(told)
                tell_user(f"{worker.name} is ready: about {told['tokens_per_s']:.0f} tokens a second")
        epochs = epochs_for(ready, options)
        for worker in busy:
            worker.tell({"epochs": epochs})
        while busy:
            for worker in list(busy):
                told = _told(worker, {}, busy)
                if told is not None and "row" in told:
                    busy.remove(worker)
                    trained[worker.name] = told | {"turns": turns[worker.name]}
                elif told is not None:
                    turns[worker.name].append((told["tokens"], told["seconds"]))
                    rate = told["tokens"] / told["seconds"]
                    number = len(turns[worker.name])
                    tell_user(f"{worker.name}: turn {number}, {rate:.0f} tokens a second, loss {told['loss']:.3f}")
    finally:
        for worker in workers:
            worker.end()
    for task in tasks:
        if task["name"] in trained:
            _finish(task, trained[task["name"]])
    return trained


def _told(worker: Worker, message: Row, busy: list[Worker]) -> Row | None:
    """What a worker answers; where it ended instead, that is said, and it is busy no more."""
    worker.tell(message)
    try:
        return worker.hear()
    except Ended as error:
        tell_user(f"LEFT OUT: {error}")
        busy.remove(worker)
        return None


def epochs_for(ready: Sequence[Row], options: argparse.Namespace) -> int:
    """As many as were asked for, or as fit the minutes."""
    if options.minutes is None:
        return int(options.epochs)
    once_s = sum(r["tokens"] / r["tokens_per_s"] for r in ready)
    epochs = max(1, min(options.epochs, int(options.minutes * 60 / once_s)))
    tell_user(f"an epoch of all systems takes about {once_s:.0f} s: {epochs} epochs")
    return epochs


def _finish(task: Row, trained: Row) -> None:
    """The row of a system: what it told, and its speed over the whole training."""
    tokens = sum(t for t, _ in trained["turns"])
    seconds = sum(s for _, s in trained["turns"])
    settings = {key: task[key] for key in ("dtype", "top_layers", "rank", "lr", "batch_tokens", "seed")}
    trained["row"] = {
        "system": task["name"],
        **settings,
        **trained["row"],
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
    }


def work(task: Row) -> None:
    """A worker: trains one system, and stops for the others after each of its turns."""
    channel = Channel()
    channel.wait()
    _common.quieten()
    rows = [(tuple(ids), tuple(learn)) for ids, learn in json.loads(Path(task["rows"]).read_text())]
    made = Ours(task, rows) if task["kind"] == "ours" else Theirs(task, rows)
    made.warm_up()
    began = time.perf_counter()
    warmed = made.warm_up()
    speed = warmed / (time.perf_counter() - began)
    _common.trim()
    channel.tell({"tokens_per_s": speed, "tokens": sum(len(ids) for ids, _ in rows)})
    epochs = channel.wait()["epochs"]
    total = epochs * sum(len(ids) for ids, _ in rows)
    channel.wait()
    row = made.train(epochs, Turns(channel, total, task["turns"]))
    channel.tell({"row": row | {"epochs": epochs, "peak_mib": _common.memory_mib().get("peak")}})


class Turns:
    """Ends a worker's turn where its share of the tokens is trained."""

    def __init__(self, channel: Channel, total: int, turns: int) -> None:
        self.channel, self.total, self.turns = channel, total, turns
        self.done = self.shown = 0
        self.began = time.perf_counter()

    def passed(self, tokens: int, loss: float) -> None:
        """To be told after each step: tokens trained so far, padding not counted, and the step's loss."""
        if tokens * self.turns // self.total > self.shown * self.turns // self.total or tokens >= self.total:
            seconds = time.perf_counter() - self.began
            self.channel.tell({"tokens": tokens - self.shown, "seconds": seconds, "loss": loss})
            self.shown = tokens
            _common.trim()  # who waits must not hold what the others need
            self.channel.wait()
            self.began = time.perf_counter()


class Ours:
    """imprint's own training service, with one job."""

    def __init__(self, task: Row, rows: Sequence[tuple[tuple[int, ...], tuple[bool, ...]]]) -> None:
        from imprint import base as bases
        from imprint.adapters.low_rank import LoRA
        from imprint.engine import Engine
        from imprint.training.batches import Row as TokenRow

        self.task, self.rows = task, [TokenRow(ids, learn) for ids, learn in rows]
        self.engine = Engine(bases.load(task["base"]))
        self.spec = LoRA(rank=task["rank"], top_layers=task["top_layers"])

    def warm_up(self) -> int:
        from imprint.training.batches import batches
        from imprint.training.loop import Loop, Settings
        from imprint.training.sft import lengths_of

        batch = batches(lengths_of(self.rows), tokens=self.task["batch_tokens"], seed=99, epoch=0)[0]
        rows = [self.rows[i] for i in batch]
        with self.engine.attached(self.spec.fresh(self.engine.base, seed=0), trainable=True) as seat:
            Loop(self.engine, seat, Settings()).forward_backward(rows)
        return sum(len(row.ids) for row in rows)

    def train(self, epochs: int, turns: Turns) -> Row:
        from imprint.adapters import folder
        from imprint.training.service import Service
        from imprint.training.sft import Job, schedule_of

        task = self.task
        once = sum(len(row.ids) for row in self.rows)
        job = Job(self.spec, self.rows, epochs * once, task["lr"], task["batch_tokens"], task["seed"])
        done = 0
        sizes = [sum(len(self.rows[i].ids) for i in batch) for batch in schedule_of(job)]

        def progress(step: int, steps: int, loss: float, rate: float) -> None:
            nonlocal done
            done += sizes[step - 1]
            turns.passed(done, loss)

        service = Service(self.engine)
        turns.began = time.perf_counter()
        ticket = service.submit(job, progress=progress)
        service.run_all()
        trained = ticket.result()
        folder.write(trained.adapter, Path(task["out"]))
        parameters = sum(t.numel() for t in trained.adapter.tensors.values())
        return {"steps": trained.steps, "padding": 0.0, "last_loss": trained.last_loss, "parameters": parameters}


class Theirs:
    """transformers.Trainer or TRL's SFTTrainer, with PEFT; nothing of imprint's runs while it trains."""

    def __init__(self, task: Row, rows: Sequence[tuple[tuple[int, ...], tuple[bool, ...]]]) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq

        self.task = task
        self.examples = [
            {"input_ids": list(ids), "labels": [t if k else -100 for t, k in zip(ids, learn, strict=True)]}
            for ids, learn in rows
        ]
        tokenizer = AutoTokenizer.from_pretrained(task["model"])
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        self.tokenizer = tokenizer
        self.pad = DataCollatorForSeq2Seq(tokenizer)
        base: Any = AutoModelForCausalLM.from_pretrained(task["model"], dtype=getattr(torch, task["dtype"]))
        base.config.use_cache = False
        self.model: Any = PeftModel.from_pretrained(base, task["start"], is_trainable=True)
        if torch.cuda.is_available():
            self.model = self.model.cuda()
        self.own = [p for p in self.model.parameters() if p.requires_grad]

    def warm_up(self) -> int:
        examples = self.examples[: self.task["batch_rows"]]
        batch = self.pad([{"attention_mask": [1] * len(e["input_ids"]), **e} for e in examples])
        self.model.train()
        self.model(**{k: v.to(self.model.device) for k, v in batch.items()}).loss.backward()
        for parameter in self.own:
            parameter.grad = None
        return int(batch["attention_mask"].sum())

    def train(self, epochs: int, turns: Turns) -> Row:
        from transformers import PrinterCallback

        task, scratch = self.task, tempfile.mkdtemp()
        steps = epochs * -(-len(self.examples) // task["batch_rows"])
        optimizer, schedule = self._optimizer(steps)
        follow = _follow(turns)
        settings: dict[str, Any] = {
            "output_dir": scratch,
            "per_device_train_batch_size": task["batch_rows"],
            "num_train_epochs": epochs,
            "train_sampling_strategy": "group_by_length",
            "bf16": task["dtype"] == "bfloat16",
            "seed": task["seed"],
            "use_cpu": self.model.device.type == "cpu",
            "save_strategy": "no",
            "logging_strategy": "steps",
            "logging_steps": max(1, steps // 20),
            "report_to": [],
            "disable_tqdm": True,
            "remove_unused_columns": False,
        }
        make = self._sft_trainer if task["kind"] == "trl" else self._trainer
        trainer = make(settings, optimizers=(optimizer, schedule), callbacks=[follow])
        trainer.remove_callback(PrinterCallback)
        trainer.data_collator = follow.counting(trainer.data_collator)
        turns.began = time.perf_counter()
        trainer.train()
        self.model.save_pretrained(task["out"], save_embedding_layers=False)
        shutil.rmtree(scratch, ignore_errors=True)
        parameters = sum(p.numel() for p in self.own)
        return {"steps": steps, "padding": follow.padding, "last_loss": follow.loss, "parameters": parameters}

    def _optimizer(self, steps: int) -> tuple[Any, Any]:
        """The same AdamW and the same rates as ours; fused is transformers' own default."""
        import torch

        from imprint.training.loop import Settings

        rates = Settings(lr=self.task["lr"], steps=steps)
        optimizer = torch.optim.AdamW(self.own, lr=rates.lr, weight_decay=0.0, fused=True)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates.rate(step) / rates.lr)

    def _trainer(self, settings: Row, **more: Any) -> Any:
        from transformers import Trainer, TrainingArguments

        for example in self.examples:
            example["attention_mask"] = [1] * len(example["input_ids"])
        arguments = TrainingArguments(**settings)
        return Trainer(self.model, arguments, data_collator=self.pad, train_dataset=self.examples, **more)

    def _sft_trainer(self, settings: Row, **more: Any) -> Any:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        # Recomputing activations is TRL's default, and would cost it a third of its speed.
        arguments = SFTConfig(
            **settings,
            gradient_checkpointing=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        data = Dataset.from_list(self.examples)
        return SFTTrainer(self.model, arguments, train_dataset=data, processing_class=self.tokenizer, **more)


def _follow(turns: Turns) -> Any:
    """A callback of transformers' Trainer that ends turns, and counts tokens and padding."""
    from transformers import TrainerCallback

    class Follow(TrainerCallback):
        def __init__(self) -> None:
            self.sizes: list[tuple[int, int]] = []
            self.loss = float("nan")

        def counting(self, collate: Any) -> Any:
            """The collator, with each batch's tokens noted: batches are trained in the order they are made in."""

            def counted(examples: Sequence[Row]) -> Any:
                batch = collate(examples)
                self.sizes.append((sum(len(e["input_ids"]) for e in examples), batch["input_ids"].numel()))
                return batch

            return counted

        @property
        def padding(self) -> float:
            """Share of what was computed that was padding."""
            real, computed = (sum(column) for column in zip(*self.sizes, strict=True))
            return 1 - real / computed

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.loss = (logs or {}).get("loss", self.loss)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            turns.passed(sum(real for real, _ in self.sizes[: state.global_step]), self.loss)

    return Follow()


def _has_trl() -> bool:
    found = all(importlib.util.find_spec(name) for name in ("trl", "datasets"))
    if not found:
        tell_user("trl is not installed: its SFTTrainer is left out (pip install trl)")
    return found


# --- what was learnt --------------------------------------------------------------------------


def graded(
    name: str, trained: Path | None, questions: Sequence[Question], base: Base, answers: dict[str, list[float]]
) -> Row:
    """The held-out questions put to a trained adapter, or to the untouched base."""
    from imprint.adapters import folder
    from imprint.engine import Engine
    from imprint.evaluation.closed_book import answer_all, interval
    from imprint.evaluation.open_book import closed
    from imprint.writers.local import LocalWriter

    tell_user(f"asking {len(questions)} questions: {name}")
    engine = Engine(base, slots=1)
    # Without its revision: that of one base differs by the precision it was opened in.
    adapter: Adapter | None = replace(folder.read(trained), revision="") if trained else None
    seat = engine.load(adapter) if adapter else None
    with engine.wearing(seat):
        said, _ = answer_all(LocalWriter(base, name), questions, closed, seed=0)
    answers[name] = [a.contains for a in said]
    score = interval(answers[name], seed=0)
    return {
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "n": score.n,
        "f1": sum(a.f1 for a in said) / len(said),
        "held_out_nats": held_out_nats(engine, seat, questions),
        "right": answers[name],
    }


def held_out_nats(engine: Engine, seat: Any, questions: Sequence[Question]) -> float:
    """Loss of the right answers to the held-out questions, in nats per token."""
    from imprint.engine.passes import PassRow, logprobs

    rows, found = rows_of(questions, engine.base), []
    for first in range(0, len(rows), 16):
        found += logprobs(engine, [PassRow(seat, row.ids, row.learn) for row in rows[first : first + 16]])
    return -float(sum(f.sum() for f in found)) / sum(f.numel() for f in found)


def compared(ours: Row, theirs: Row, trained: dict[str, Row], answers: dict[str, list[float]], seed: int) -> Row:
    """Speed turn by turn, and the difference of the scores question by question."""
    mine, other = (trained[row["system"]]["turns"] for row in (ours, theirs))
    pairs = [(s / t, s2 / t2) for (t, s), (t2, s2) in zip(mine, other, strict=False)]
    differences = [a - b for a, b in zip(answers[ours["system"]], answers[theirs["system"]], strict=True)]
    low, high = _common.bootstrap(differences, "mean", seed=seed)
    return {
        "ours": ours["system"],
        "theirs": theirs["system"],
        **_common.as_row(ratio_of(pairs)),
        "whole": ours["tokens_per_s"] / theirs["tokens_per_s"],
        "score_difference": sum(differences) / len(differences),
        "score_low": low,
        "score_high": high,
        "nats_difference": ours["held_out_nats"] - theirs["held_out_nats"],
    }


if __name__ == "__main__":
    main()
