"""The laws of learning from a teacher that has the document open."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine, passes
from imprint.engine.passes import PassRow, Soft, forward_backward, logprobs
from test_engine import some_rows, strong


@pytest.fixture
def exact_base(tiny_base: Base) -> Base:
    """A copy in float64, where only what is wrong differs."""
    return replace(tiny_base, model=copy.deepcopy(tiny_base.model).double())


def softened(row: PassRow, k: int, vocabulary: int, seed: int) -> PassRow:
    """The row with a random teacher's k likeliest tokens."""
    draw = torch.Generator().manual_seed(seed)
    logits_LV = 2 * torch.randn(sum(row.learn[1:]), vocabulary, generator=draw, dtype=torch.float64)
    best = logits_LV.log_softmax(1).topk(k)
    return replace(row, soft=Soft(best.indices.numpy(), best.values.numpy()))


def by_autograd(base: Base, rows: list[PassRow]) -> torch.Tensor:
    """The weighted losses of the rows together, one row and token after another."""
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        logprobs_TV = base.model(torch.tensor([row.ids])).logits[0].log_softmax(1)
        learnt = 0
        for t in range(1, len(row.ids)):
            if not row.learn[t]:
                continue
            weight = row.weight * (row.weights[t] if row.weights else 1)
            if row.soft is None:
                nats = -logprobs_TV[t - 1, row.ids[t]]
            else:
                ids_K, teacher_K = torch.tensor(row.soft.ids_LK[learnt]), torch.tensor(row.soft.logprobs_LK[learnt])
                nats = -(teacher_K.exp() * logprobs_TV[t - 1, ids_K]).sum()
            total = total + weight * nats
            learnt += 1
    return total


def test_soft_and_hard_and_weighted_rows_have_the_gradients_of_autograd_in_one_pass(exact_base: Base) -> None:
    vocabulary = exact_base.model.config.vocab_size
    base = replace(exact_base, model=copy.deepcopy(exact_base.model))
    engine = Engine(base)
    seat = engine.load(strong(base, LoRA(rank=4, alpha=4, targets=("down_proj",)), 1), trainable=True)
    rows = some_rows([seat], 9)
    for i, k in ((1, 5), (4, vocabulary), (7, 1)):
        rows[i] = softened(rows[i], k, vocabulary, i)
    for i in (2, 4):
        rows[i] = replace(rows[i], weights=tuple(math.sin(t) for t in range(len(rows[i].ids))))
    losses = forward_backward(engine, rows)
    factors = {name: t.double().requires_grad_() for name, t in seat.adapter.tensors.items()}
    for name, layer in exact_base.model.named_modules():
        if name.endswith("down_proj"):
            down, up = (factors[f"base_model.model.{name}.lora_{ab}.weight"] for ab in "AB")
            layer.register_forward_hook(lambda _, x, y, down=down, up=up: y + x[0] @ down.T @ up.T)
    by_autograd(exact_base, rows).backward()
    for name, gradient in seat.tensors(seat.grads_P).items():
        torch.testing.assert_close(gradient, factors[name].grad, atol=1e-11, rtol=1e-9)
    with torch.no_grad():
        plain = [by_autograd(exact_base, [replace(row, weight=1.0, weights=None)]).item() for row in rows]
    assert losses == pytest.approx(plain, abs=1e-9)


def test_with_the_whole_vocabulary_the_gradient_is_that_of_the_divergence(exact_base: Base) -> None:
    hidden_LD = torch.randn(5, 32, dtype=torch.float64, requires_grad=True)
    head_VD = exact_base.model.lm_head.weight
    teacher_LV = torch.randn(5, len(head_VD), dtype=torch.float64).log_softmax(1)
    everything_LV = torch.arange(len(head_VD)).expand(5, -1).contiguous()
    passes._Nats.apply(hidden_LD, head_VD, everything_LV, teacher_LV.exp(), torch.ones(5)).sum().backward()
    found, hidden_LD.grad = hidden_LD.grad, None
    student_LV = (hidden_LD @ head_VD.T).log_softmax(1)
    torch.nn.functional.kl_div(student_LV, teacher_LV, reduction="sum", log_target=True).backward()
    torch.testing.assert_close(found, hidden_LD.grad, atol=1e-12, rtol=1e-10)


def test_a_soft_row_gone_wrong_never_touches_a_neighbour(exact_base: Base) -> None:
    engine = Engine(exact_base)
    seats = [engine.load(strong(exact_base, LoRA(rank=4), i), trainable=True) for i in range(2)]
    rows = [softened(row, 4, 400, i) for i, row in enumerate(some_rows(list(seats), 8))]
    forward_backward(engine, rows)
    sound = seats[0].grads_P.clone()
    for spoiler in (math.nan, 1e300):
        seats[0].grads_P.zero_()
        kept = seats[1].values_P.clone()
        seats[1].values_P.fill_(spoiler)
        losses = forward_backward(engine, rows)
        seats[1].values_P.copy_(kept)
        assert [math.isfinite(x) for x in losses] == [row.seat is seats[0] for row in rows]
        assert torch.equal(seats[0].grads_P, sound)


def test_what_a_token_is_worth_does_not_depend_on_the_teacher(exact_base: Base) -> None:
    engine = Engine(exact_base)
    rows = some_rows([None], 3)
    for hard, soft in zip(
        logprobs(engine, rows), logprobs(engine, [softened(r, 3, 400, 0) for r in rows]), strict=True
    ):
        assert torch.equal(hard, soft)
