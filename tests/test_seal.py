"""The laws of the outer loop: an edit is worth what it teaches, and the editor learns the best ones."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadSetting, NothingToTeach, StaleRun
from imprint.training import seal
from imprint.training.seal import Edit, Settings
from imprint.types import Example, Passage, Prompt, Turn
from imprint.writers.local import LocalWriter

TEXTS = ("The Kestrel weighs 3 kilograms.", "The shop does not open on Sunday.")
PASSAGES = [Passage(f"d{i}", 0, len(text), text, "Acme") for i, text in enumerate(TEXTS)]


@dataclass(frozen=True)
class Short:
    """Asks for little, and teaches all that is written."""

    def prompt(self, passage: Passage, *, seed: int) -> Prompt:
        return Prompt.ask(passage.text, max_tokens=8, temperature=1.0)

    def told(self, passage: Passage, prompt: Prompt, written: str, *, by: str) -> Iterator[Example]:
        if written:
            yield Example((Turn("text", written, learn=True),), (passage.id,), "test", by)


SMALL = Settings(
    rounds=2, edits=3, asking=Short(), student=LoRA(rank=2), editor=LoRA(rank=2), student_tokens=60,
    editor_lr=1e-2, batch_tokens=64, together=4,
)  # fmt: skip


def recall(writer: LocalWriter, passage: Passage) -> float:
    """How likely the passage's own end is after its beginning."""
    middle = len(passage.text) // 2
    prompt = Prompt((Turn("text", passage.text[:middle]),))
    return writer.likelihoods([prompt], [passage.text[middle:]])[0]


def edit(passage: int, number: int, reward: float) -> Edit:
    return Edit(PASSAGES[passage].id, number, "green", (5, 6), reward)


def train(base: Base, folder: Path, settings: Settings = SMALL, **more: Any) -> Any:
    return seal.train(Engine(base), PASSAGES, recall, settings, folder, seed=0, **more)


def test_only_edits_above_their_passages_mean_are_learnt() -> None:
    edits = [edit(0, 0, 0.2), edit(0, 1, 0.9), edit(0, 2, 0.7), *(edit(1, i, 0.5) for i in range(3))]
    assert seal.best(edits, SMALL) == [edits[1]]
    assert seal.best(edits, replace(SMALL, best=None)) == [edits[1], edits[2]]


def test_an_edit_that_says_more_of_what_is_asked_is_worth_more(tiny_base: Base) -> None:
    settings = replace(SMALL, student_tokens=400, student_lr=5e-3)
    said = (TEXTS[0], "What? green green green!")
    edits = [Edit(PASSAGES[0].id, i, text, (), 0.0) for i, text in enumerate(said)]
    good, bad = seal.rewarded(Engine(tiny_base), edits, PASSAGES, recall, settings, seed=0)
    assert good.reward > bad.reward


def test_the_rewards_are_those_that_each_edit_gets_alone(tiny_base: Base) -> None:
    edits = seal.written(Engine(tiny_base), None, PASSAGES, SMALL, seed=0)
    together = seal.rewarded(Engine(tiny_base), edits, PASSAGES, recall, SMALL, seed=0)
    alone = seal.rewarded(Engine(tiny_base), edits, PASSAGES, recall, replace(SMALL, together=1), seed=0)
    assert [e.reward for e in together] == pytest.approx([e.reward for e in alone], abs=1e-4)


def test_the_edits_of_a_passage_differ(tiny_base: Base) -> None:
    edits = seal.written(Engine(tiny_base), None, PASSAGES, SMALL, seed=0)
    assert [(e.passage, e.number) for e in edits] == [(p.id, n) for p in PASSAGES for n in range(3)]
    assert len({e.ids for e in edits}) > 2


def test_an_editor_writes_what_it_learnt_rather_than_before(tiny_base: Base, tmp_path: Path) -> None:
    engine, prompt = Engine(tiny_base), Short().prompt(PASSAGES[0], seed=0)
    text = "Maren Tollifax, a tram driver"
    chosen = [Edit(PASSAGES[0].id, 0, text, tuple(tiny_base.tokenizer.encode(text)), 1.0)]
    settings = replace(SMALL, editor_epochs=8)
    editor = seal.learnt(engine, chosen, PASSAGES, settings, seed=0, checkpoint=tmp_path / "checkpoint")
    before = LocalWriter(tiny_base).likelihoods([prompt], [text])[0]
    with engine.attached(editor):
        assert LocalWriter(tiny_base).likelihoods([prompt], [text])[0] > before + 0.5


def test_nothing_to_learn_is_said(tiny_base: Base, tmp_path: Path) -> None:
    with pytest.raises(NothingToTeach, match="No edit was better"):
        seal.learnt(Engine(tiny_base), [], PASSAGES, SMALL, seed=0, checkpoint=tmp_path / "checkpoint")


def test_a_killed_run_ends_as_one_that_was_never_stopped(tiny_base: Base, tmp_path: Path) -> None:
    editors, rounds = train(tiny_base, tmp_path / "whole")
    assert [r.number for r in rounds] == [1, 2] and all(r.best >= r.reward for r in rounds)

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == total:
            raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            train(tiny_base, tmp_path / "killed", progress=stop)
    file = tmp_path / "killed" / "round-1" / "edits.jsonl"
    lines = file.read_text("utf-8").splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20], "utf-8")  # killed in the middle of a line
    again, told = train(tiny_base, tmp_path / "killed")
    assert told == rounds
    for one, other in zip(again, editors, strict=True):
        assert all(torch.equal(one.tensors[k], other.tensors[k]) for k in one.tensors)


def test_every_edit_stands_in_the_folder_with_its_reward(tiny_base: Base, tmp_path: Path) -> None:
    train(tiny_base, tmp_path / "run", replace(SMALL, rounds=1))
    lines = (tmp_path / "run" / "round-1" / "edits.jsonl").read_text("utf-8").split("\n")
    edits = [json.loads(line) for line in lines if line]
    assert len(edits) == 6 and all(isinstance(e["reward"], float) for e in edits)


@pytest.mark.parametrize("changed", [{"edits": 2}, {"student": LoRA(rank=3)}, {"student_lr": 1e-4}])
def test_a_folder_of_another_run_is_refused(tiny_base: Base, tmp_path: Path, changed: dict[str, Any]) -> None:
    train(tiny_base, tmp_path / "run", replace(SMALL, rounds=1))
    with pytest.raises(StaleRun):
        train(tiny_base, tmp_path / "run", replace(SMALL, rounds=1, **changed))


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"best": 0}, {"best": 4}, {"together": 0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSetting):
        replace(SMALL, **wrong)


def test_what_is_taught_begins_with_the_passage_itself(tiny_base: Base) -> None:
    its = seal.taught(tiny_base, PASSAGES[0], replace(edit(0, 0, 0.0), text=""), SMALL)
    assert [tiny_base.tokenizer.decode(row.ids) for row in its] == [f"Acme\n{TEXTS[0]}<|im_end|>"]




def test_a_reward_is_found_again_whatever_breaks_its_text_holds(tmp_path: Path) -> None:
    edit = seal.Edit("p", 0, "one\u2028two\x85three", (1, 2), 0.5)
    seal._append(tmp_path / "edits.jsonl", edit)
    assert seal._read(tmp_path / "edits.jsonl") == {("p", 0): edit}
