"""The laws of learning from rewards: what was better than its group becomes likelier, by the policy's own gradient."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imprint.adapters import KINDS
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine
from imprint.engine.passes import logprobs
from imprint.errors import BadInput, BadSetting, StaleRun
from imprint.training import grpo, loop
from imprint.training.grpo import Credited, Item, Known, Settings, advantages, credited, rollouts
from imprint.training.loop import Loop
from imprint.types import Adapter, Prompt, Text, Turn
from imprint.writers.local import LocalWriter

ITEMS = tuple(Item((Turn("user", f"Who founded {name}?"),), name) for name in ("Acme", "the shop", "Kestrel", "it"))
SMALL = Settings(rounds=3, prompts=3, group=4, max_tokens=6, lr=5e-3)


@dataclass
class Lengths:
    """Rewards long texts: a random model writes some longer than others."""

    items: Sequence[Item] = ITEMS
    graded: list[str] = field(default_factory=list)

    def reward(self, item: Item, text: str) -> float:
        self.graded.append(text)
        return float(len(text))


def adapter_of(base: Base, seed: int = 0) -> Adapter:
    """One that changes the base: B is not zero."""
    fresh = LoRA(rank=1, top_layers=1).fresh(base, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    return replace(fresh, tensors={k: 0.3 * torch.randn(t.shape, generator=draw) for k, t in fresh.tensors.items()})


def loop_of(base: Base, lr: float = 1e-2) -> Loop:
    engine = Engine(base)
    return Loop(engine, engine.load(adapter_of(base), trainable=True), loop.Settings(lr=lr, warmup_share=0))


def answers_of(base: Base, rewards: Sequence[float] = (1, -1)) -> list[Credited]:
    asked = base.prompt_ids(ITEMS[0].turns)
    words = ("Maren Tollifax", "the tram driver of 1987", "green", "3 kilograms")
    said = [base.tokenizer.encode(word) for word in words[: len(rewards)]]
    return [
        Credited((*asked, *ids), (False,) * len(asked) + (True,) * len(ids), r)
        for ids, r in zip(said, rewards, strict=True)
    ]


def nats_of(loop: Loop, answers: Sequence[Credited]) -> list[float]:
    return [float(x.sum()) for x in logprobs(loop.engine, [a.row(loop.seat) for a in answers])]


# --- rollouts ---------------------------------------------------------------------------------


def test_a_rollouts_log_probabilities_are_those_of_a_training_pass(tiny_base: Base) -> None:
    engine = Engine(tiny_base)
    seat = engine.load(adapter_of(tiny_base))
    with engine.wearing(seat):
        texts = rollouts(LocalWriter(tiny_base, top_k=None), ITEMS, SMALL, seed=0)
    made = credited(tiny_base, ITEMS, texts, [[1.0] * 4] * 4)
    read = logprobs(engine, [a.row(seat) for a in made])
    for text, logprobs_T in zip((t for group in texts for t in group), read, strict=True):
        assert logprobs_T.tolist() == pytest.approx(text.logprobs, abs=2e-4)


def test_the_answers_of_a_group_differ_and_come_again_for_the_same_seed(tiny_base: Base) -> None:
    writer = LocalWriter(tiny_base, top_k=None)
    texts = rollouts(writer, ITEMS, SMALL, seed=0)
    assert all(len({t.ids for t in group}) > 1 for group in texts)
    assert texts == rollouts(writer, ITEMS, SMALL, seed=0) != rollouts(writer, ITEMS, SMALL, seed=1)


def test_rollouts_follow_the_whole_distribution(tiny_base: Base) -> None:
    prompt = Prompt(ITEMS[0].turns, max_tokens=1, temperature=1.0)
    texts = LocalWriter(tiny_base, top_k=None).draw([prompt] * 4000, seeds=range(4000))
    with torch.no_grad():
        logits_V = tiny_base.model(torch.tensor([tiny_base.prompt_ids(prompt.turns)])).logits[0, -1]
    drawn_V = torch.bincount(torch.tensor([t.ids[0] for t in texts if t.ids]), minlength=len(logits_V)) / 4000
    assert 0.5 * float((drawn_V - logits_V.softmax(-1)).abs().sum()) < 0.12  # total variation; noise of 4,000 draws


def test_a_writer_that_cuts_the_vocabulary_is_refused(tiny_base: Base) -> None:
    with pytest.raises(BadSetting, match="top_k=None"):
        rollouts(LocalWriter(tiny_base), ITEMS, SMALL, seed=0)


# --- advantages and weights -------------------------------------------------------------------


def test_advantages_of_a_group_add_up_to_zero() -> None:
    for spread in (True, False):
        for group in advantages([(0, 1, 1, 0.5), (3, 1, -2, 1)], spread=spread):
            assert sum(group) == pytest.approx(0)
            assert not spread or sum(a * a for a in group) / 4 == pytest.approx(1)


def test_a_group_without_spread_teaches_nothing(tiny_base: Base) -> None:
    better = advantages([(1, 1, 1), (0.1, 0.1, 0.1)], spread=True)
    texts = [[Text("", (), None, (5,))] * 3] * 2
    assert credited(tiny_base, ITEMS[:2], texts, better) == []


def test_a_token_counts_by_its_answer_or_by_a_constant(tiny_base: Base) -> None:
    answer = answers_of(tiny_base)[1]
    for length, by in (("answer", answer.written), ("constant", 6)):
        its, _ = grpo.weights(answer, replace(SMALL, length=length))
        assert its == tuple(-1 / by if learnt else 0.0 for learnt in answer.learn)


def test_the_clip_holds_back_only_what_has_moved_in_the_answers_favour(tiny_base: Base) -> None:
    good, bad = answers_of(tiny_base)
    for answer, held in ((good, 1.3), (bad, 0.7)):
        moved_T = torch.tensor([0.7, 1.0, 1.3] + [1.0] * (answer.written - 3))
        its, stopped = grpo.weights(answer, SMALL, ratio_T=moved_T)
        said = its[-answer.written :]
        expected = [0.0 if r == held else answer.advantage * r / 6 for r in (0.7, 1.0, 1.3)]
        assert list(said[:3]) == pytest.approx(expected) and stopped == 1


# --- the gradient -----------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_clipped_objective_with_its_kl(tiny_base: Base) -> None:
    settings = replace(SMALL, kl=0.3, clip=0.1, updates=2)
    base, plain = (replace(tiny_base, model=copy.deepcopy(tiny_base.model).double()) for _ in range(2))
    loop, answers = loop_of(base), answers_of(base, (1.2, -0.7, 0.4))
    before = grpo.known(loop, answers, settings)
    assert before.sampled is not None and before.base is not None
    draw = torch.Generator().manual_seed(1)
    old = tuple(x + 0.2 * torch.randn(x.shape, generator=draw, dtype=x.dtype) for x in before.sampled)
    gradients: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "step", lambda: gradients.append(loop.seat.grads_P.clone()))
        held, _ = grpo.update(loop, answers, settings, Known(old, before.base))
    assert 0 < held < 1
    factors = {name: t.double().requires_grad_() for name, t in loop.seat.adapter.tensors.items()}
    for name, layer in plain.model.named_modules():
        if (key := f"base_model.model.{name}.lora_A.weight") in factors:
            down, up = factors[key], factors[key.replace("lora_A", "lora_B")]
            layer.register_forward_hook(lambda _, x, y, down=down, up=up: y + 32 * x[0] @ down.T @ up.T)
    (-_objective(plain, answers, settings, old, before.base)).backward()
    for name, gradient in loop.seat.tensors(gradients[0]).items():
        torch.testing.assert_close(gradient, factors[name].grad, atol=1e-8, rtol=1e-6)


def _objective(
    base: Base, answers: Sequence[Credited], settings: Settings, old: Sequence[torch.Tensor], at_base: Any
) -> torch.Tensor:
    """What GRPO maximises, as the paper writes it."""
    total = torch.zeros((), dtype=torch.float64)
    for answer, old_T, base_T in zip(answers, old, at_base, strict=True):
        written = torch.tensor(answer.ids[-answer.written :])
        logprobs_TV = base.model(torch.tensor([answer.ids])).logits[0].log_softmax(1)[-answer.written - 1 : -1]
        now_T = logprobs_TV.gather(1, written[:, None])[:, 0]
        ratio_T = (now_T - old_T).exp()
        cut_T = ratio_T.clamp(1 - settings.clip, 1 + settings.clip)
        gain_T = torch.minimum(ratio_T * answer.advantage, cut_T * answer.advantage)
        cost_T = (base_T - now_T).exp() - (base_T - now_T) - 1
        total = total + (gain_T - settings.kl * cost_T).sum() / settings.max_tokens
    return total / len(answers)


@pytest.mark.parametrize("length", ["answer", "constant"])
def test_a_rewarded_answer_becomes_likelier_beside_the_other(tiny_base: Base, length: str) -> None:
    settings = replace(SMALL, length=length)
    loop = loop_of(tiny_base, lr=3e-3)
    answers = answers_of(tiny_base)
    before = nats_of(loop, answers)
    grpo.update(loop, answers, settings, Known())
    good, bad = (now - was for now, was in zip(nats_of(loop, answers), before, strict=True))
    assert good > bad + 0.01


def test_passes_of_any_size_take_the_same_step(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for most in (10_000, 40):
        monkeypatch.setitem(grpo.PASS_TOKENS, "cpu", most)
        loop, answers = loop_of(tiny_base), answers_of(tiny_base, (1.0, -1.0, 0.5, -0.5))
        settings = replace(SMALL, kl=0.1, updates=2)
        grpo.update(loop, answers, settings, grpo.known(loop, answers, settings))
        taken.append(loop.seat.values_P.clone())
    assert torch.allclose(*taken, atol=1e-5)


def test_a_kl_cost_draws_the_policy_back_to_the_base(tiny_base: Base) -> None:
    loop, answers = loop_of(tiny_base, lr=3e-3), answers_of(tiny_base, (0.0, 0.0))
    settings = replace(SMALL, kl=1.0)
    away = [grpo.update(loop, answers, settings, grpo.known(loop, answers, settings))[1] for _ in range(12)]
    assert away[0] is not None and away[-1] is not None and away[-1] < 0.9 * away[0]


# --- rounds -----------------------------------------------------------------------------------


def train(base: Base, settings: Settings = SMALL, **more: Any) -> grpo.Learnt:
    return grpo.train(Engine(base), adapter_of(base), Lengths(), settings, seed=3, **more)


def test_a_resumed_run_ends_as_one_that_was_never_stopped(tiny_base: Base, tmp_path: Path) -> None:
    settings = replace(SMALL, updates=2, kl=0.05)
    whole = train(tiny_base, settings)

    class Stop(Exception):
        pass

    def stop(done: grpo.Round, rounds: int) -> None:
        if done.number == 2:
            raise Stop

    with pytest.raises(Stop):
        train(tiny_base, settings, checkpoint=tmp_path / "run", progress=stop)
    numbers: list[int] = []
    rest = train(
        tiny_base, settings, checkpoint=tmp_path / "run", progress=lambda r, _: numbers.append(r.number)
    )
    assert numbers == [3]
    assert all(torch.equal(rest.adapter.tensors[k], t) for k, t in whole.adapter.tensors.items())
    assert [replace(r, seconds=0) for r in rest.rounds] == [replace(r, seconds=0) for r in whole.rounds]


def test_a_checkpoint_of_other_items_or_another_seed_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    train(tiny_base, checkpoint=tmp_path / "run")
    with pytest.raises(StaleRun):
        train(tiny_base, replace(SMALL, clip=0.1), checkpoint=tmp_path / "run")
    with pytest.raises(StaleRun):
        grpo.train(
            Engine(tiny_base), adapter_of(tiny_base), Lengths(ITEMS[:3]), SMALL, seed=3, checkpoint=tmp_path / "run"
        )


def test_rounds_without_anything_to_learn_are_counted_and_change_nothing(tiny_base: Base) -> None:
    class Same(Lengths):
        def reward(self, item: Item, text: str) -> float:
            return 0.25

    given = adapter_of(tiny_base)
    learnt = grpo.train(Engine(tiny_base), given, Same(), SMALL, seed=0)
    assert [(r.skipped, r.reward) for r in learnt.rounds] == [(3, 0.25)] * 3
    assert all(torch.equal(learnt.adapter.tensors[k], t) for k, t in given.tensors.items())


def test_reward_rises(tiny_base: Base) -> None:
    class SaysE(Lengths):
        def reward(self, item: Item, text: str) -> float:
            return float("e" in text)

    settings = replace(SMALL, rounds=15, prompts=4, group=16, lr=1e-2)
    adapter = LoRA(rank=4).fresh(tiny_base, seed=0)
    rounds = grpo.train(Engine(tiny_base), adapter, SaysE(), settings, seed=1).rounds  # 0.51 to 0.97
    first, last = (sum(r.reward or 0 for r in rounds[part]) / 3 for part in (slice(3), slice(-3, None)))
    assert first < 0.6 and last > first + 0.3


def test_a_reward_that_is_no_number_is_refused(tiny_base: Base) -> None:
    class Odd(Lengths):
        def reward(self, item: Item, text: str) -> float:
            return math.nan

    with pytest.raises(BadInput, match="finite"):
        grpo.train(Engine(tiny_base), adapter_of(tiny_base), Odd(), SMALL, seed=0)


def test_a_few_numbers_for_the_whole_model_learn_from_rewards_too(tiny_base: Base) -> None:
    given = KINDS["tiny_lora"](rank=2, parameters=7).fresh(tiny_base, seed=0)
    learnt = grpo.train(Engine(tiny_base), given, Lengths(), SMALL, seed=0).adapter
    assert sum(t.numel() for t in learnt.tensors.values()) == 7
    assert all(t.any() for t in learnt.tensors.values())


def test_the_model_is_looked_at_before_now_and_then_and_at_the_end(tiny_base: Base) -> None:
    task = Lengths()

    def look(writer: LocalWriter) -> list[float]:
        return grpo.greedy(writer, task, ITEMS, max_tokens=6)

    rounds = train(tiny_base, check=look, check_every=2).rounds
    assert [r.number for r in rounds if r.check is not None] == [0, 2, 3]
    assert rounds[0].check != rounds[-1].check


def test_every_item_is_asked_before_one_is_asked_again() -> None:
    for seed in range(3):
        asked = [i.gold for number in range(1, 5) for i in grpo.asked(ITEMS, 3, number, seed=seed)]
        assert all(len(set(asked[at : at + 4])) == 4 for at in range(0, 12, 4))


@pytest.mark.parametrize("wrong", [{"group": 1}, {"lr": 0}, {"length": "row"}, {"rounds": 0}, {"kl": -1}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSetting):
        Settings(**wrong)


def test_weights_are_finite_and_none_stands_on_the_question(tiny_base: Base) -> None:
    answer = answers_of(tiny_base)[0]
    far_T = torch.full((answer.written,), 5.0)
    its, _ = grpo.weights(answer, replace(SMALL, kl=0.5), None, far_T)
    assert all(math.isfinite(w) for w in its)
    assert not any(w for w, learnt in zip(its, answer.learn, strict=True) if not learnt)
