"""The laws of training: only what is to be learnt is learnt, and a kill changes nothing."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadSetting, StaleRun
from imprint.training import sft
from imprint.training.batches import Row, batches, each_row, rows
from imprint.training.loop import Loop, Settings
from imprint.training.sft import Job, lengths_of, schedule_of, train
from imprint.types import Adapter, Example, Prompt, Turn
from imprint.writers.local import LocalWriter


def qa(question: str, answer: str) -> Example:
    return Example((Turn("user", question), Turn("assistant", answer, learn=True)), ("d:0-9",), "test")


FACTS = (
    qa("What does the Kestrel weigh?", "3 kilograms"),
    qa("In which colour does it come?", "green"),
    qa("Who founded the company?", "Maren Tollifax"),
)


def job(base: Base, **changes: object) -> Job:
    settings = Job(LoRA(rank=4), rows(FACTS, base, max_tokens=64), 300, 5e-3, 64, seed=0)
    return replace(settings, **changes)  # type: ignore[arg-type]


def same(one: Adapter, other: Adapter) -> bool:
    return all(torch.equal(one.tensors[k], other.tensors[k]) for k in one.tensors | other.tensors)


# --- rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["3 kilograms", " 85 euros ", "What?", "in green.\nAnd in blue."])
def test_a_learnt_answer_is_the_tokens_the_model_would_write_after_the_prompt(
    tiny_base: Base, answer: str
) -> None:
    example = qa("How much?", answer)
    ids, learn = tiny_base.training_ids(example.turns)
    before = tiny_base.prompt_ids(example.turns[:1])
    said = tiny_base.tokenizer.encode(answer.strip()) + [tiny_base.tokenizer.eos_token_id]
    assert ids[: len(before) + len(said)] == before + said
    assert [i for i, learnt in zip(ids, learn, strict=True) if learnt] == said


@pytest.mark.parametrize("answer", ["end", "start", "assistant", "a", "i"])
def test_an_answer_that_stands_in_the_template_too_is_learnt_where_it_is_said(
    tiny_base: Base, answer: str
) -> None:
    ids, learn = tiny_base.training_ids(qa("What is it?", answer).turns)
    said = tiny_base.tokenizer.encode(answer) + [tiny_base.tokenizer.eos_token_id]
    assert [i for i, learnt in zip(ids, learn, strict=True) if learnt] == said


def test_of_a_conversation_only_the_turns_marked_are_learnt(tiny_base: Base) -> None:
    turns = (Turn("user", "Who?"), Turn("assistant", "Me."), Turn("user", "Why?"), Turn("assistant", "So.", True))
    ids, learn = tiny_base.training_ids(turns)
    learnt = [i for i, marked in zip(ids, learn, strict=True) if marked]
    assert tiny_base.tokenizer.decode(learnt) == "So.<|im_end|>"


def test_a_plain_text_is_learnt_whole_with_its_end(tiny_base: Base) -> None:
    ids, learn = tiny_base.training_ids((Turn("text", "The Kestrel is green.", learn=True),))
    assert tiny_base.tokenizer.decode(ids) == "The Kestrel is green.<|im_end|>"
    assert all(learn)


def test_an_example_without_anything_to_learn_makes_no_row(tiny_base: Base) -> None:
    assert rows([Example((Turn("user", "Who?"),), (), "test")], tiny_base, max_tokens=64) == []
    assert rows([FACTS[0]], tiny_base, max_tokens=5) == []


def test_the_loss_is_that_of_the_learnt_tokens_alone(tiny_base: Base) -> None:
    made = rows(FACTS, tiny_base, max_tokens=64)
    together = loop_on(tiny_base).forward_backward(made)
    nats = []
    with torch.no_grad():
        for row in made:
            logprobs_TV = tiny_base.model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
            nats += [-float(logprobs_TV[t - 1, row.ids[t]]) for t in range(1, len(row.ids)) if row.learn[t]]
    assert together == pytest.approx(sum(nats) / len(nats), abs=1e-5)


def loop_on(base: Base, *, rank: int = 16, seed: int = 0, **settings: Any) -> Loop:
    """A loop with a fresh adapter in an engine of its own."""
    engine = Engine(base)
    seat = engine.load(LoRA(rank=rank).fresh(base, seed=seed), trainable=True)
    return Loop(engine, seat, Settings(**settings))


def test_what_is_asked_is_learnt_too_where_it_tells_of_a_passage(tiny_base: Base) -> None:
    told = Example((Turn("user", "Who drew it?"), Turn("assistant", "Ana", learn=True)), ("d:0-9",), "questions/short")
    plain, both = (next(each_row([told], tiny_base, max_tokens=64, questions=q)) for q in (False, True))
    assert sum(both.learn) > sum(plain.learn) > 0
    learnt = tiny_base.tokenizer.decode([i for i, on in zip(both.ids, both.learn, strict=True) if on])
    assert "Who drew it?" in learnt and "Ana" in learnt and "assistant" not in learnt
    talk = replace(told, passages=())
    assert next(each_row([talk], tiny_base, max_tokens=64, questions=True)).learn == plain.learn


# --- batches ----------------------------------------------------------------------------------


def many_rows(n: int = 300) -> list[Row]:
    draw = random.Random(0)
    return [Row((1,) * length, (True,) * length) for length in (draw.randint(5, 80) for _ in range(n))]


def test_every_row_comes_once_an_epoch() -> None:
    for epoch in range(3):
        made = batches(lengths_of(many_rows()), tokens=512, seed=0, epoch=epoch)
        assert sorted(i for batch in made for i in batch) == list(range(300))


def test_batches_are_full(tiny_base: Base) -> None:
    given = many_rows()
    tokens = [sum(len(given[i].ids) for i in b) for b in batches(lengths_of(given), tokens=512, seed=0, epoch=0)]
    assert max(tokens) <= 512
    assert min(tokens[:-1]) > 512 - 80


def test_a_row_longer_than_a_batch_makes_one_alone() -> None:
    given = [Row((1,) * n, (True,) * n) for n in (5, 900, 5)]
    assert [len(b) for b in batches(lengths_of(given), tokens=64, seed=0, epoch=0) if 1 in b] == [1]


def test_batches_follow_from_seed_and_epoch() -> None:
    first = batches(lengths_of(many_rows()), tokens=512, seed=0, epoch=0)
    assert first == batches(lengths_of(many_rows()), tokens=512, seed=0, epoch=0)
    assert first != batches(lengths_of(many_rows()), tokens=512, seed=0, epoch=1)
    assert first != batches(lengths_of(many_rows()), tokens=512, seed=1, epoch=0)


def test_the_schedule_spends_the_tokens_and_at_most_one_batch_more(tiny_base: Base) -> None:
    given = job(tiny_base)
    spent = [sum(len(given.rows[i].ids) for i in batch) for batch in schedule_of(given)]
    assert given.tokens <= sum(spent) < given.tokens + max(spent)


def test_training_on_nothing_is_refused(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = iter(range(100))
    monkeypatch.setattr(sft, "batches", lambda *_a, **_k: [] if next(epochs) < 99 else pytest.fail("endless"))
    with pytest.raises(BadSetting):
        schedule_of(job(tiny_base, rows=[]))


# --- the loop ---------------------------------------------------------------------------------


def test_the_rate_rises_then_falls() -> None:
    rates = [Settings(lr=1.0, steps=100).rate(step) for step in range(100)]
    assert max(rates) == 1.0
    assert rates[0] == 0.2
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0.05 <= rates[-1] < 0.06


def test_a_resumed_loop_ends_with_the_same_bits(tiny_base: Base, tmp_path: Path) -> None:
    made = rows(FACTS, tiny_base, max_tokens=64)
    never_stopped, stopped = (loop_on(tiny_base, rank=4, steps=6) for _ in range(2))
    resumed = loop_on(tiny_base, rank=4, seed=9, steps=6)
    for _ in range(6):
        never_stopped.forward_backward(made)
        never_stopped.step()
    for _ in range(3):
        stopped.forward_backward(made)
        stopped.step()
    stopped.save(tmp_path / "checkpoint")
    assert resumed.resume(tmp_path / "checkpoint")
    while resumed.step_number < 6:
        resumed.forward_backward(made)
        resumed.step()
    assert same(never_stopped.seat.snapshot(), resumed.seat.snapshot())


def test_there_is_nothing_to_resume_before_a_checkpoint(tiny_base: Base, tmp_path: Path) -> None:
    assert not loop_on(tiny_base).resume(tmp_path / "checkpoint")


def test_a_kill_between_the_two_renames_of_a_save_loses_nothing(tiny_base: Base, tmp_path: Path) -> None:
    loop = loop_on(tiny_base)
    loop.step_number = 7
    loop.save(tmp_path / "checkpoint")
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    again = loop_on(tiny_base)
    assert again.resume(tmp_path / "checkpoint")
    assert again.step_number == 7
    again.save(tmp_path / "checkpoint")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


# --- a whole training -------------------------------------------------------------------------


class Stopped(Exception):
    pass


def stop_at(step: int) -> sft.Progress:
    def progress(done: int, *_: object) -> None:
        if done == step:
            raise Stopped

    return progress


def test_a_training_stopped_in_the_middle_ends_with_the_same_adapter(tiny_base: Base, tmp_path: Path) -> None:
    whole = train(Engine(tiny_base), job(tiny_base), checkpoint=tmp_path / "whole")
    for step in (2, 4):
        with pytest.raises(Stopped):
            train(Engine(tiny_base), job(tiny_base), checkpoint=tmp_path / "cut", every_s=-1, progress=stop_at(step))
    steps: list[int] = []
    resumed = train(
        Engine(tiny_base), job(tiny_base), checkpoint=tmp_path / "cut", progress=lambda n, *_: steps.append(n)
    )
    assert steps[0] == 5
    assert same(whole.adapter, resumed.adapter)


_KILLED = """
import os, signal, sys
from pathlib import Path
from conftest import make_tiny_base
from test_training import Engine, job, train

def progress(done, *_):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

base = make_tiny_base()
train(Engine(base), job(base), checkpoint=Path(sys.argv[1]), every_s=-1, progress=progress)
"""


def test_a_training_killed_by_the_system_ends_with_the_same_adapter(tiny_base: Base, tmp_path: Path) -> None:
    threads = str(torch.get_num_threads())
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path / "cut")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": threads},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    whole = train(Engine(tiny_base), job(tiny_base), checkpoint=tmp_path / "whole")
    steps: list[int] = []
    resumed = train(
        Engine(tiny_base), job(tiny_base), checkpoint=tmp_path / "cut", progress=lambda n, *_: steps.append(n)
    )
    assert steps[0] == 4
    assert same(whole.adapter, resumed.adapter)


def test_a_checkpoint_of_other_settings_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    train(Engine(tiny_base), job(tiny_base), checkpoint=tmp_path / "checkpoint")
    with pytest.raises(StaleRun, match="other training settings"):
        train(Engine(tiny_base), job(tiny_base, lr=1e-4), checkpoint=tmp_path / "checkpoint")


def test_a_checkpoint_of_another_scale_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    train(Engine(tiny_base), job(tiny_base), checkpoint=tmp_path / "checkpoint")
    with pytest.raises(StaleRun, match="other training settings"):
        train(Engine(tiny_base), job(tiny_base, spec=LoRA(rank=4, alpha=800)), checkpoint=tmp_path / "checkpoint")


def test_a_checkpoint_of_another_rank_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    train(Engine(tiny_base), job(tiny_base), checkpoint=tmp_path / "checkpoint")
    with pytest.raises(StaleRun):
        train(Engine(tiny_base), job(tiny_base, spec=LoRA(rank=8)), checkpoint=tmp_path / "checkpoint")


def test_a_finished_training_taken_up_again_still_tells_its_loss(tiny_base: Base, tmp_path: Path) -> None:
    whole = train(Engine(tiny_base), job(tiny_base), checkpoint=tmp_path / "checkpoint")
    again = train(Engine(tiny_base), job(tiny_base), checkpoint=tmp_path / "checkpoint")
    assert same(whole.adapter, again.adapter)
    assert again.last_loss == whole.last_loss


def test_a_training_leaves_the_base_as_it_was(tiny_base: Base, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in tiny_base.model.state_dict().items()}
    train(Engine(tiny_base), job(tiny_base), checkpoint=tmp_path / "checkpoint")
    after = tiny_base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_few_facts_are_learnt_by_heart(tiny_base: Base, tmp_path: Path) -> None:
    losses: list[float] = []
    long = job(tiny_base, spec=LoRA(rank=16), tokens=9_000, lr=1e-2, batch_tokens=128)
    trained = train(
        Engine(tiny_base), long, checkpoint=tmp_path / "c", progress=lambda _s, _n, loss, _r: losses.append(loss)
    )
    assert losses[-1] < losses[0] / 5
    with Engine(tiny_base).attached(trained.adapter):
        questions = [Prompt.ask(e.turns[0].text, max_tokens=16) for e in FACTS]
        said = [t.text for t in LocalWriter(tiny_base).write(questions, seed=0)]
    assert said == [e.turns[1].text for e in FACTS]
