"""Frozen and trained adapters in one pass: what is trained gets the gradient that it gets anyway."""

import threading
from typing import Any

import pytest
import torch

from imprint import adapters
from imprint.base import Base
from imprint.engine import Engine, Seat
from imprint.engine.kernels import reference
from imprint.engine.multi_adapter import PluggedMLP
from imprint.engine.passes import PassRow, forward_backward, logprobs
from test_kinds import TEXTS, made
from test_parity import other

KINDS = [k for k in adapters.KINDS if k != "full"]


@pytest.fixture
def exact_base(tiny_base: Base) -> Base:
    return other(tiny_base, torch.float64)


def row(seat: Any, ids: tuple[int, ...] = TEXTS[0]) -> PassRow:
    return PassRow(seat, ids, (False, *[True] * (len(ids) - 1)))


def gradient(engine: Engine, seat: Seat, worn: list[PassRow]) -> torch.Tensor:
    seat.grads_P.zero_()
    forward_backward(engine, worn)
    return seat.grads_P.clone()


@pytest.mark.parametrize("frozen", KINDS)
def test_rows_of_a_frozen_adapter_take_no_gradient_from_their_neighbours(frozen: str, exact_base: Base) -> None:
    engine = Engine(exact_base, slots=2)
    still = engine.load(made(frozen, exact_base, seed=1))
    for trained in KINDS:
        seat = engine.load(made(trained, exact_base, seed=2), trainable=True)
        alone = gradient(engine, seat, [row(seat)])
        assert alone.any()
        mixed = gradient(engine, seat, [row(still, TEXTS[1]), row(seat), row(still, TEXTS[2])])
        torch.testing.assert_close(mixed, alone, atol=1e-10, rtol=1e-7)
        engine.unload(seat)


@pytest.mark.parametrize("frozen", KINDS)
def test_worn_with_a_frozen_adapter_one_gets_the_gradient_that_it_gets_beside_a_trained_one(
    frozen: str, exact_base: Base
) -> None:
    engine = Engine(exact_base, slots=2)
    adapter = made(frozen, exact_base, seed=1)
    still, moving = engine.load(adapter), engine.load(adapter, trainable=True)
    for trained in KINDS:
        seat = engine.load(made(trained, exact_base, seed=2), trainable=True)
        wanted = gradient(engine, seat, [row((moving, seat))])
        for worn in ([row((still, seat))], [row((still, seat)), row(None, TEXTS[1])]):
            torch.testing.assert_close(gradient(engine, seat, worn), wanted, atol=1e-10, rtol=1e-7)
        engine.unload(seat)


class Blind:
    """Kernels that autograd does not see through, as those of a GPU are."""

    @staticmethod
    def add_update(y_NO: torch.Tensor, x_NI: torch.Tensor, *rest: Any) -> torch.Tensor:
        with torch.no_grad():
            return reference.add_update(y_NO, x_NI, *rest)

    add_gradients = staticmethod(reference.add_gradients)


@pytest.mark.parametrize("trained", ["cartridge", "expert", "lora"])
def test_gradients_come_through_a_frozen_lora_whatever_computes_it(trained: str, exact_base: Base) -> None:
    found = []
    for kernels in (reference, Blind):
        engine = Engine(exact_base, slots=2, kernels=kernels)  # type: ignore[arg-type]
        still = engine.load(made("lora", exact_base, seed=1))
        seat = engine.load(made(trained, exact_base, seed=2), trainable=True)
        found.append(gradient(engine, seat, [row((still, seat)), row(still, TEXTS[1])]))
    torch.testing.assert_close(found[1], found[0], atol=1e-10, rtol=1e-7)


@pytest.mark.parametrize("kind", adapters.KINDS)
def test_what_is_loaded_while_answers_are_written_can_be_trained(kind: str, exact_base: Base) -> None:
    adapter = made(kind, exact_base)
    engine = Engine(exact_base, slots=2)
    with torch.inference_mode():
        seat = engine.load(adapter, trainable=True)
        logprobs(engine, [row(seat)])
    assert gradient(engine, seat, [row(seat)]).any()


def test_two_engines_that_load_at_once_add_an_update_once(exact_base: Base) -> None:
    adapter = made("expert", exact_base)
    fresh = other(exact_base, torch.float64)
    begun = threading.Barrier(4)

    def load() -> None:
        begun.wait()
        Engine(fresh).load(adapter)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hooks = [h for m in fresh.model.modules() for h in m._forward_hooks.values() if isinstance(h, PluggedMLP)]
    assert len({h.name for h in hooks}) == len(hooks)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_slots_that_adjoin_and_slots_that_do_not_are_trained_without_a_warning(kind: str, exact_base: Base) -> None:
    engine = Engine(exact_base, slots=4)
    seats = [engine.load(made(kind, exact_base, seed=i), trainable=True) for i in range(4)]
    for worn in ([0, 1, 2], [0, 3], [3, 0, 3]):
        wanted = [
            gradient(engine, seats[i], [row(seats[j], TEXTS[k]) for k, j in enumerate(worn) if j == i])
            for i in worn
        ]
        for seat in seats:
            seat.grads_P.zero_()
        forward_backward(engine, [row(seats[j], TEXTS[k]) for k, j in enumerate(worn)])
        for i, alone in zip(worn, wanted, strict=True):
            torch.testing.assert_close(seats[i].grads_P, alone, atol=1e-10, rtol=1e-7)
        assert not any(seats[i].grads_P.any() for i in range(4) if i not in worn)
