"""A model learns to write what it learns from: the outer loop of SEAL (arXiv 2506.10943, section 3.1).

In each round the model, wearing its editor adapter, writes several edits of every passage: texts to be taught. Each
edit teaches an adapter of its own, many in shared passes, and is rewarded by what that adapter knows with the book
closed. The best edits are what the next editor is trained on (ReST-EM, arXiv 2312.06585: sample, filter, train
again from the base).

    FOLDER/settings.json             what the run is; another is refused
    FOLDER/round-1/written.json      the edits as they were sampled
    FOLDER/round-1/edits.jsonl       each with its reward, as soon as it is known
    FOLDER/round-1/editor/           the editor that came of the round"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from imprint.adapters import folder as adapter_folder
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadSetting, NothingToTeach, StaleRun
from imprint.synthesis.raw_text import RawText
from imprint.synthesis.self_edit import SelfEdit
from imprint.training.batches import Row, rows
from imprint.training.service import Service
from imprint.training.sft import Job
from imprint.training.sft import train as sft
from imprint.types import Adapter, AdapterSpec, Example, Passage, Prompt, content_hash
from imprint.writers.local import LocalWriter


class Asking(Protocol):
    """How an edit is asked for, and what is taught of it: a frozen dataclass, as synthesis.SelfEdit is."""

    def prompt(self, passage: Passage, *, seed: int) -> Prompt: ...

    def told(self, passage: Passage, prompt: Prompt, written: str, *, by: str) -> Iterable[Example]: ...


Reward = Callable[[LocalWriter, Passage], float]
"""What a writer knows of a passage that it does not see, by questions about it; higher is better."""
Progress = Callable[[int, int], None]
"""Told how many edits of a round have their reward, and of how many."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How edits are written, tried and learnt."""

    rounds: int = 2
    edits: int = 5
    """Edits sampled of each passage in a round."""
    best: int | None = 1
    """So many of a passage's edits are learnt by the editor; None: all that are above the passage's mean. One that
    is no better than the passage's mean never is."""
    asking: Asking = field(default_factory=lambda: SelfEdit(temperature=1.0))
    """What the editor is asked for, and how what it writes becomes training text."""
    student: AdapterSpec = field(default_factory=lambda: LoRA(rank=16))
    """The adapter that an edit teaches."""
    student_tokens: int = 3000
    """Training tokens of each, visits counted."""
    student_lr: float = 2e-3
    editor: AdapterSpec = field(default_factory=lambda: LoRA(rank=16))
    editor_epochs: float = 2.0
    """How often each of the best edits is met."""
    editor_lr: float = 5e-4
    batch_tokens: int = 512
    """Tokens of an optimizer step, of students and editor alike."""
    together: int = 16
    """Students in memory at once."""

    def __post_init__(self) -> None:
        if min(self.rounds, self.edits, self.together, self.student_tokens, self.batch_tokens) < 1:
            raise BadSetting("SEAL needs rounds, edits, together, student_tokens and batch_tokens of 1 or more.")
        if self.best is not None and not 1 <= self.best <= self.edits:
            raise BadSetting(f"best is between 1 and edits ({self.edits}), or None; got {self.best}.")


@dataclass(frozen=True, slots=True)
class Edit:
    """What the editor wrote of a passage, and what came of it."""

    passage: str
    """The passage's id."""
    number: int
    """Which of the passage's edits, from 0."""
    text: str
    ids: tuple[int, ...]
    """Its tokens, as they were sampled."""
    reward: float = float("nan")


@dataclass(frozen=True, slots=True)
class Round:
    """What a round was like."""

    number: int
    """From 1. Its edits were written by the editor of the round before; those of the first by the bare base."""
    reward: float
    """Mean over all edits."""
    best: float
    """Mean over each passage's best edit."""
    learnt: int
    """Edits that the editor learnt."""


# --- the parts of a round ---------------------------------------------------------------------


def written(
    engine: Engine, editor: Adapter | None, passages: Sequence[Passage], settings: Settings, *, seed: int
) -> list[Edit]:
    """So many edits of every passage, sampled together by the base wearing the editor."""
    prompts = [settings.asking.prompt(p, seed=0) for p in passages for _ in range(settings.edits)]
    draw = random.Random(seed)
    seeds = [draw.getrandbits(62) for _ in prompts]
    writer = LocalWriter(engine.base)
    if editor is None:
        texts = writer.draw(prompts, seeds=seeds)
    else:
        with engine.attached(editor):
            texts = writer.draw(prompts, seeds=seeds)
    return [
        Edit(passages[i // settings.edits].id, i % settings.edits, text.text, text.ids or ())
        for i, text in enumerate(texts)
    ]


def rewarded(
    engine: Engine,
    edits: Sequence[Edit],
    passages: Sequence[Passage],
    reward: Reward,
    settings: Settings,
    *,
    seed: int,
    file: Path | None = None,
    progress: Progress | None = None,
) -> list[Edit]:
    """The edits with their rewards: each teaches an adapter of its own, which is asked about the passage.

    The adapters are trained alike, so that what differs is the edit. With a file each edit is written down when its
    reward is known, and what stands there is not done again."""
    known = _read(file)
    by_id = {p.id: p for p in passages}
    todo = [e for e in edits if (e.passage, e.number) not in known]
    for first in range(0, len(todo), settings.together):
        for edit in _tried(engine, todo[first : first + settings.together], by_id, reward, settings, seed):
            known[edit.passage, edit.number] = edit
            if file is not None:
                _append(file, edit)
        if progress is not None:
            progress(len(known), len(edits))
    return [known[e.passage, e.number] for e in edits]


def _tried(
    engine: Engine,
    edits: Sequence[Edit],
    passages: dict[str, Passage],
    reward: Reward,
    settings: Settings,
    seed: int,
) -> list[Edit]:
    service = Service(engine)
    tickets = []
    for edit in edits:
        its = taught(engine.base, passages[edit.passage], edit, settings)
        job = Job(
            settings.student, its, settings.student_tokens, settings.student_lr, settings.batch_tokens, seed
        )
        tickets.append(service.submit(job))
    service.run_all()
    found = []
    for edit, ticket in zip(edits, tickets, strict=True):
        with engine.attached(ticket.result().adapter):
            value = reward(LocalWriter(engine.base), passages[edit.passage])
        found.append(replace(edit, reward=float(value)))
    return found


def taught(base: Base, passage: Passage, edit: Edit, settings: Settings) -> list[Row]:
    """What an edit's adapter is trained on: the passage itself, and what the edit says of it.

    An edit of which nothing can be taught so gets what the passage alone is worth."""
    asking = settings.asking
    plain = RawText().examples([passage], LocalWriter(base), seed=0)
    told = asking.told(passage, asking.prompt(passage, seed=0), edit.text, by=base.name)
    return rows([*plain, *told], base, max_tokens=base.window_tokens)


def best(edits: Sequence[Edit], settings: Settings) -> list[Edit]:
    """The edits that the editor learns: of each passage the best that are above the passage's mean."""
    kept: list[Edit] = []
    for passage in dict.fromkeys(e.passage for e in edits):
        group = sorted((e for e in edits if e.passage == passage), key=lambda e: (-e.reward, e.number))
        mean = statistics.fmean(e.reward for e in group)
        above = [e for e in group if e.reward > mean + 1e-9]
        kept += above if settings.best is None else above[: settings.best]
    return kept


def learnt(
    engine: Engine,
    edits: Sequence[Edit],
    passages: Sequence[Passage],
    settings: Settings,
    *,
    seed: int,
    checkpoint: Path,
) -> Adapter:
    """A new editor, trained to write these edits in answer to their passages. Raises NothingToTeach for none."""
    if not edits:
        raise NothingToTeach(
            "No edit was better than the others of its passage. Ask more questions of each passage, or more edits."
        )
    by_id = {p.id: p for p in passages}
    made = []
    for edit in edits:
        prompt = settings.asking.prompt(by_id[edit.passage], seed=0)
        asked = engine.base.prompt_ids(prompt.turns, prompt.begun)
        made.append(Row((*asked, *edit.ids), (False,) * len(asked) + (True,) * len(edit.ids)))
    tokens = round(settings.editor_epochs * sum(len(row.ids) for row in made))
    job = Job(settings.editor, made, tokens, settings.editor_lr, settings.batch_tokens, seed)
    return sft(engine, job, checkpoint=checkpoint).adapter


# --- all rounds -------------------------------------------------------------------------------


def train(
    engine: Engine,
    passages: Sequence[Passage],
    reward: Reward,
    settings: Settings,
    folder: Path,
    *,
    seed: int,
    progress: Progress | None = None,
) -> tuple[list[Adapter], list[Round]]:
    """The editor of each round, and what the rounds were like; goes on with what stands in the folder.

    Raises StaleRun where the folder holds a run of other settings, passages or seed."""
    _claim(folder, engine.base, passages, settings, seed)
    editors: list[Adapter] = []
    rounds: list[Round] = []
    for number in range(1, settings.rounds + 1):
        its = folder / f"round-{number}"
        its.mkdir(exist_ok=True)
        editor = editors[-1] if editors else None
        edits = _written(its / "written.json", engine, editor, passages, settings, seed=_seed(seed, number))
        edits = rewarded(
            engine, edits, passages, reward, settings, seed=seed, file=its / "edits.jsonl", progress=progress
        )
        kept = best(edits, settings)
        rounds.append(_told(number, edits, kept))
        editors.append(_editor(its, engine, kept, passages, settings, seed=seed))
    return editors, rounds


def _told(number: int, edits: Sequence[Edit], kept: Sequence[Edit]) -> Round:
    groups = [[e.reward for e in edits if e.passage == p] for p in dict.fromkeys(e.passage for e in edits)]
    means = [statistics.fmean(group) for group in groups]
    return Round(number, statistics.fmean(means), statistics.fmean(map(max, groups)), len(kept))


def _written(
    file: Path,
    engine: Engine,
    editor: Adapter | None,
    passages: Sequence[Passage],
    settings: Settings,
    *,
    seed: int,
) -> list[Edit]:
    if not file.exists():
        edits = written(engine, editor, passages, settings, seed=seed)
        making = file.with_suffix(".making")
        making.write_text(json.dumps([asdict(e) | {"reward": None} for e in edits], ensure_ascii=False), "utf-8")
        os.replace(making, file)
    kept = json.loads(file.read_text("utf-8"))
    return [Edit(e["passage"], e["number"], e["text"], tuple(e["ids"])) for e in kept]


def _editor(
    folder: Path,
    engine: Engine,
    kept: Sequence[Edit],
    passages: Sequence[Passage],
    settings: Settings,
    *,
    seed: int,
) -> Adapter:
    place = folder / "editor"
    if not place.exists():
        checkpoint, making = folder / "checkpoint", folder / "editor.making"
        editor = learnt(engine, kept, passages, settings, seed=seed, checkpoint=checkpoint)
        shutil.rmtree(making, ignore_errors=True)
        adapter_folder.write(editor, making)
        os.replace(making, place)
        shutil.rmtree(checkpoint, ignore_errors=True)
    return adapter_folder.read(place)


def _claim(folder: Path, base: Base, passages: Sequence[Passage], settings: Settings, seed: int) -> None:
    """Makes the folder this run's."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    run = {
        "settings": json.loads(json.dumps(_plain(settings))),
        "passages": content_hash(*[p.id + p.text for p in passages]),
        "base": base.revision,
        "seed": seed,
    }
    if not file.exists():
        making = file.with_suffix(".making")
        making.write_text(json.dumps(run, indent=1), "utf-8")
        os.replace(making, file)
    elif json.loads(file.read_text("utf-8")) != run:
        raise StaleRun(f"{folder} holds a run of other settings, passages, base or seed. Name another folder.")


def _plain(settings: Settings) -> dict[str, Any]:
    names = {k: type(getattr(settings, k)).__name__ for k in ("asking", "student", "editor")}
    return asdict(settings) | {"kinds": names}


def _read(file: Path | None) -> dict[tuple[str, int], Edit]:
    """The edits in a file; a line that a kill cut short is passed over."""
    known: dict[tuple[str, int], Edit] = {}
    if file is None or not file.exists():
        return known
    for line in file.read_text("utf-8").split("\n"):  # a text may hold other breaks that splitlines() knows
        try:
            e = json.loads(line)
        except ValueError:
            continue
        known[e["passage"], e["number"]] = Edit(
            e["passage"], e["number"], e["text"], tuple(e["ids"]), e["reward"]
        )
    return known


def _append(file: Path, edit: Edit) -> None:
    # Begun with a line break: a line that a kill cut short must not swallow this one.
    with open(file, "a", encoding="utf-8") as out:
        out.write("\n" + json.dumps(asdict(edit), ensure_ascii=False))
        out.flush()
        os.fsync(out.fileno())


def _seed(seed: int, number: int) -> int:
    return int(content_hash("seal", str(seed), str(number)), 16) >> 2
