"""The laws of shared passes: what a row gets in a batch of many adapters is what it gets alone."""

import copy
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine, Seat
from imprint.engine.kernels import reference
from imprint.engine.kernels.reference import Bundle
from imprint.engine.passes import PassRow, Trunk, forward_backward, logprobs
from imprint.errors import BadInput, Cancelled, Diverged, WrongBase
from imprint.training import service as service_module
from imprint.training.batches import rows as token_rows
from imprint.training.loop import Loop, Settings
from imprint.training.service import Service
from imprint.training.sft import Job, train
from imprint.turns import Turns
from imprint.types import Adapter
from test_parity import through_peft
from test_training import FACTS, same

SPECS = (
    LoRA(rank=4, alpha=12),
    LoRA(rank=4, alpha=3),
    LoRA(rank=8, alpha=12),
    LoRA(rank=4, alpha=12, top_layers=1),
    LoRA(rank=3, alpha=12, targets=("q_proj", "down_proj")),
)


def strong(base: Base, spec: LoRA, seed: int) -> Adapter:
    """An adapter that changes the output much."""
    draw = torch.Generator().manual_seed(seed)
    fresh = spec.fresh(base, seed=seed)
    return replace(fresh, tensors={k: 0.1 * torch.randn(t.shape, generator=draw) for k, t in fresh.tensors.items()})


@pytest.fixture
def exact_base(tiny_base: Base) -> Base:
    """A copy in float64, where only what is wrong differs."""
    return replace(tiny_base, model=copy.deepcopy(tiny_base.model).double())


def some_rows(seats: list[Seat | None], n: int = 14, seed: int = 0) -> list[PassRow]:
    draw = random.Random(seed)
    made = []
    for i in range(n):
        length = draw.randint(2, 20)
        learn = tuple(draw.random() < 0.6 for _ in range(length - 1))
        ids = tuple(draw.randrange(400) for _ in range(length))
        made.append(PassRow(seats[i % len(seats)], ids, (*learn, True), weight=0.3 + i % 3))
    return made


def gradients(seats: list[Seat]) -> list[torch.Tensor]:
    return [seat.grads_P.clone() for seat in seats]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_gradients_in_a_mixed_pass_are_those_of_peft_alone(exact_base: Base, tmp_path: Path, spec: LoRA) -> None:
    adapter = strong(exact_base, spec, 1)
    peft = through_peft(exact_base, adapter, tmp_path, torch.float64)
    engine = Engine(exact_base)
    seat = engine.load(adapter, trainable=True)
    others = [engine.load(strong(exact_base, s, 2 + i), trainable=True) for i, s in enumerate(SPECS)]
    rows = some_rows([seat, None, *others])
    losses = forward_backward(engine, rows)
    total = torch.zeros((), dtype=torch.float64)
    for row, loss in zip(rows, losses, strict=True):
        if row.seat is seat:
            logits_TV = peft(torch.tensor([row.ids])).logits[0]
            learn_T = torch.tensor(row.learn[1:])
            nats = torch.nn.functional.cross_entropy(
                logits_TV[:-1][learn_T], torch.tensor(row.ids[1:])[learn_T], reduction="sum"
            )
            assert loss == pytest.approx(nats.item(), abs=1e-9)
            total = total + row.weight * nats
    total.backward()
    theirs = {n.replace(".default", ""): p.grad for n, p in peft.named_parameters() if p.requires_grad}
    for name, gradient in seat.tensors(seat.grads_P).items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-11, rtol=1e-9)


def test_a_row_among_many_adapters_gets_what_it_gets_alone(exact_base: Base) -> None:
    engine = Engine(exact_base)
    seats = [engine.load(strong(exact_base, s, i), trainable=True) for i, s in enumerate(SPECS)]
    rows = some_rows([None, *seats])
    together = logprobs(engine, rows)
    for row, found in zip(rows, together, strict=True):
        torch.testing.assert_close(found, logprobs(engine, [row])[0], atol=1e-11, rtol=0)


def test_every_adapter_gets_the_gradients_it_gets_alone(exact_base: Base) -> None:
    engine = Engine(exact_base)
    seats = [engine.load(strong(exact_base, s, i), trainable=True) for i, s in enumerate(SPECS)]
    rows = some_rows(list(seats))
    forward_backward(engine, rows)
    together = gradients(seats)
    for seat, found in zip(seats, together, strict=True):
        seat.grads_P.zero_()
        forward_backward(engine, [row for row in rows if row.seat is seat])
        torch.testing.assert_close(found, seat.grads_P, atol=1e-11, rtol=1e-9)


def test_an_adapter_gone_wrong_never_touches_a_neighbour(exact_base: Base) -> None:
    engine = Engine(exact_base)
    seats = [engine.load(strong(exact_base, LoRA(rank=4), i), trainable=True) for i in range(3)]
    rows = some_rows(list(seats))
    forward_backward(engine, rows)
    sound = gradients(seats)
    for spoiler in (math.nan, math.inf, 1e300):
        for seat in seats:
            seat.grads_P.zero_()
        kept = seats[1].values_P.clone()
        seats[1].values_P.fill_(spoiler)
        losses = forward_backward(engine, rows)
        seats[1].values_P.copy_(kept)
        assert not any(math.isfinite(x) for x, row in zip(losses, rows, strict=True) if row.seat is seats[1])
        assert torch.equal(seats[0].grads_P, sound[0])
        assert torch.equal(seats[2].grads_P, sound[2])


def test_a_slot_that_was_emptied_is_filled_again_and_remembers_nothing(exact_base: Base) -> None:
    engine = Engine(exact_base, slots=2)
    first, second = (engine.load(strong(exact_base, SPECS[0], i), trainable=True) for i in range(2))
    forward_backward(engine, some_rows([first, second]))
    engine.unload(first)
    again = engine.load(strong(exact_base, SPECS[0], 7), trainable=True)
    assert (again.rack, again.slot) == (first.rack, first.slot)
    assert not again.grads_P.any()
    alone = Engine(exact_base)
    other = alone.load(strong(exact_base, SPECS[0], 7), trainable=True)
    forward_backward(engine, some_rows([again, second]))
    forward_backward(alone, [replace(r, seat=other) for r in some_rows([again, second]) if r.seat is again])
    torch.testing.assert_close(again.grads_P, other.grads_P, atol=1e-11, rtol=1e-9)


def test_a_full_rack_gets_a_second_one(exact_base: Base) -> None:
    engine = Engine(exact_base, slots=2)
    seats = [engine.load(strong(exact_base, SPECS[0], i), trainable=True) for i in range(5)]
    assert len({id(seat.rack) for seat in seats}) == 3
    rows = some_rows(list(seats))
    found = logprobs(engine, rows)
    for row, together in zip(rows, found, strict=True):
        torch.testing.assert_close(together, logprobs(engine, [row])[0], atol=1e-11, rtol=0)


@pytest.mark.parametrize("spec", [LoRA(rank=4, alpha=12, top_layers=1), LoRA(rank=4, top_layers=2)], ids=str)
def test_gradients_with_a_kept_trunk_are_those_without(exact_base: Base, spec: LoRA) -> None:
    engine = Engine(exact_base)
    seats = [engine.load(strong(exact_base, spec, i), trainable=True) for i in range(2)]
    rows = some_rows(list(seats))
    plain = forward_backward(engine, rows)
    expected = gradients(seats)
    roomy, tight = (Trunk(exact_base, seats[0].rack.layout.first_block, size_bytes=n) for n in (4 << 30, 20_000))
    for trunk in (roomy, roomy, tight, tight):  # the second time from memory; the tight one lets some go
        for seat in seats:
            seat.grads_P.zero_()
        assert forward_backward(engine, rows, trunk) == pytest.approx(plain, abs=1e-9)
        for seat, gradient in zip(seats, expected, strict=True):
            torch.testing.assert_close(seat.grads_P, gradient, atol=1e-11, rtol=1e-9)
    assert len(tight._kept) < len(roomy._kept)


@pytest.mark.parametrize("length", [6, 60])
def test_gradients_in_bfloat16_are_near_those_in_float32(tiny_base: Base, length: int) -> None:
    brief = replace(
        tiny_base, model=copy.deepcopy(tiny_base.model).bfloat16(), device=replace(tiny_base.device, dtype=torch.bfloat16)
    )
    found = []
    for base in (tiny_base, brief):
        engine = Engine(base)
        seat = engine.load(strong(tiny_base, LoRA(rank=4), seed=1), trainable=True)
        forward_backward(engine, [PassRow(seat, tuple(range(5, 5 + length)), (True,) * length)])
        found.append(seat.grads_P.float())
    assert torch.nn.functional.cosine_similarity(found[0], found[1], dim=0) > 0.99


@pytest.mark.parametrize("counts", [(1,) * 6, (1, 1, 1, 40), (1, 90), (5, 9, 3, 30, 2), (7,), (50,)], ids=str)
def test_in_bfloat16_each_row_gets_what_its_adapter_says_whoever_had_the_slot_before(
    tiny_base: Base, counts: tuple[int, ...]
) -> None:
    brief = replace(tiny_base, model=copy.deepcopy(tiny_base.model).bfloat16())
    engine, layer = Engine(brief), "model.layers.1.mlp.up_proj"
    stays = engine.load(strong(brief, LoRA(rank=4), 50))  # or the rack would go, and what it remembers
    x_NI = torch.randn(sum(counts), 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    for first_seed in (0, 100):
        adapters = [strong(brief, LoRA(rank=4, alpha=4 + i), first_seed + i) for i in range(len(counts))]
        seats = [engine.load(adapter) for adapter in adapters]
        assert {seat.rack for seat in seats} == {stays.rack}
        linear = brief.model.get_submodule(layer)
        with torch.no_grad(), engine.routed(list(zip(seats, counts, strict=True))):
            found_NO = linear(x_NI).double()
        for i, (adapter, x_MI, found_MO) in enumerate(
            zip(adapters, x_NI.double().split(counts), found_NO.split(counts), strict=True)
        ):
            down_RI, up_OR = (adapter.tensors[f"base_model.model.{layer}.lora_{ab}.weight"].double() for ab in "AB")
            wanted_MO = x_MI @ linear.weight.double().T + (4 + i) / 4 * (x_MI @ down_RI.T @ up_OR.T)
            torch.testing.assert_close(found_MO, wanted_MO, atol=0.02 * float(wanted_MO.abs().max()), rtol=0)
        for seat in seats:
            engine.unload(seat)


def test_a_nan_reaches_no_slot_by_way_of_padding() -> None:
    bundle = Bundle((0, 1, 3, 4), (0, 5, 12, 18), (5, 7, 6, 7))  # padded together, with places for the empty slot 2
    draw = torch.Generator().manual_seed(0)
    x_NI, grad_NO, down_SRI, up_SOR = (torch.randn(*n, generator=draw) for n in ((25, 6), (25, 9), (5, 3, 6), (5, 9, 3)))
    down_SRI[2] = up_SOR[2] = math.nan  # what memory held before

    def computed() -> list[torch.Tensor]:
        y_NO, grad_x_NI, grads = torch.zeros(25, 9), torch.zeros(25, 6), (torch.zeros(5, 3, 6), torch.zeros(5, 9, 3))
        factors = (down_SRI, up_SOR, torch.ones(5), bundle)
        low = reference.add_update(y_NO, x_NI, *factors)
        reference.add_gradients(grad_NO, x_NI, low, *factors, grad_x_NI, *grads)
        return [y_NO[5:], grad_x_NI[5:], grads[0][[1, 3, 4]], grads[1][[1, 3, 4]], grads[0][2], grads[1][2]]

    healthy = computed()
    assert not healthy[4].any() and not healthy[5].any()
    x_NI[:5] = grad_NO[:5] = math.nan
    for found, wanted in zip(computed(), healthy, strict=True):
        assert torch.equal(found, wanted)


def test_an_adapter_that_is_not_finite_is_refused(tiny_base: Base) -> None:
    adapter = LoRA(rank=2).fresh(tiny_base, seed=0)
    next(iter(adapter.tensors.values()))[0, 0] = math.nan
    with pytest.raises(BadInput, match="not finite"):
        Engine(tiny_base).load(adapter)


def test_an_adapter_of_other_layers_is_refused(tiny_base: Base) -> None:
    adapter = LoRA(rank=2).fresh(tiny_base, seed=0)
    strange = {k.replace("layers.2", "layers.9"): t for k, t in adapter.tensors.items()}
    with pytest.raises(WrongBase):
        Engine(tiny_base).load(replace(adapter, tensors=strange))


# --- the service ------------------------------------------------------------------------------


def jobs(base: Base) -> list[Job]:
    """Jobs that differ in everything."""
    rows = token_rows(FACTS, base, max_tokens=64)
    return [
        Job(LoRA(rank=4), rows, 300, 5e-3, 64, seed=0),
        Job(LoRA(rank=8, alpha=4), rows[:2], 150, 1e-3, 32, seed=1),
        Job(LoRA(rank=4), rows[1:], 220, 2e-3, 500, seed=2),
        Job(LoRA(rank=4, top_layers=1), rows, 200, 5e-3, 64, seed=3),
    ]


@pytest.mark.parametrize("pass_tokens", [8, 100, 1000])
def test_jobs_that_share_passes_end_with_the_adapters_they_get_alone(exact_base: Base, pass_tokens: int) -> None:
    service = Service(Engine(exact_base), pass_tokens=pass_tokens)
    tickets = [service.submit(job) for job in jobs(exact_base)]
    service.run_all()
    for ticket, job in zip(tickets, jobs(exact_base), strict=True):
        alone = Service(Engine(exact_base))
        expected = alone.submit(job)
        alone.run_all()
        assert close(ticket.result().adapter, expected.result().adapter)


def test_passes_are_brief_while_somebody_waits_for_answers(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "BRIEF_PASS_TOKENS", 20)
    base = replace(tiny_base, turns=Turns())
    passes = []
    for hurried in (False, True):
        service = Service(Engine(base))
        tickets = [service.submit(job) for job in jobs(base)]
        while not all(ticket.ended for ticket in tickets):
            if hurried:
                with base.turns.take(urgent=True):
                    pass
            service.run_pass()
        passes.append(service.passes)
    assert passes[1] > passes[0]


def test_jobs_join_and_leave_while_others_go_on(exact_base: Base) -> None:
    service = Service(Engine(exact_base))
    first, *later = jobs(exact_base)
    tickets = [service.submit(first)]
    service.run_pass()
    tickets += [service.submit(job) for job in later]
    service.run_pass()
    tickets[1].cancel()
    service.run_all()
    with pytest.raises(Cancelled):
        tickets[1].result()
    assert close(tickets[0].result().adapter, alone(exact_base, first))
    assert close(tickets[2].result().adapter, alone(exact_base, later[1]))


def test_a_kept_trunk_serves_rows_that_repeat_beside_adapters_of_all_layers(exact_base: Base) -> None:
    rows = token_rows(FACTS, exact_base, max_tokens=64)
    Engine(exact_base).load(strong(exact_base, LoRA(rank=2), seed=9))  # from here on every layer listens
    service = Service(Engine(exact_base))
    tickets = [
        service.submit(Job(LoRA(rank=4, top_layers=1), [*rows, *rows], 300, 5e-3, size, seed=0)) for size in (500, 60)
    ]
    service.run_all()
    assert all(math.isfinite(ticket.result().last_loss) for ticket in tickets)


def test_a_pass_that_fails_ends_only_who_fails_alone(exact_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(Engine(exact_base))
    good, bad = jobs(exact_base)[0], replace(jobs(exact_base)[0], spec=LoRA(rank=2))
    tickets = [service.submit(good), service.submit(bad)]
    shared_pass = service_module.shared_pass

    def fails(engine: Engine, rows: list[PassRow], trunk: Trunk | None) -> list[float]:
        losses = shared_pass(engine, rows, trunk)
        if any(row.seat is not None and row.seat.adapter.spec["rank"] == 2 for row in rows):
            raise MemoryError("no room")
        return losses

    monkeypatch.setattr(service_module, "shared_pass", fails)
    service.run_all()
    with pytest.raises(MemoryError):
        tickets[1].result()
    monkeypatch.undo()
    assert close(tickets[0].result().adapter, alone(exact_base, good))


def test_a_closed_service_takes_no_job(exact_base: Base) -> None:
    service = Service(Engine(exact_base))
    service.close()
    with pytest.raises(Cancelled):
        service.submit(jobs(exact_base)[0])


def test_a_rack_that_nobody_uses_is_given_back(exact_base: Base) -> None:
    engine = Engine(exact_base, slots=2)
    seats = [engine.load(strong(exact_base, LoRA(rank=3), seed=i)) for i in range(3)]
    for seat in seats:
        engine.unload(seat)
    assert not any(engine._racks.values())


def test_an_adapter_outside_of_the_blocks_is_refused(exact_base: Base) -> None:
    with pytest.raises(BadInput, match="lm_head"):
        Engine(exact_base).load(LoRA(rank=2, targets=("lm_head",)).fresh(exact_base, seed=0))


def test_a_job_that_diverges_ends_alone(exact_base: Base) -> None:
    service = Service(Engine(exact_base))
    good, bad = jobs(exact_base)[0], replace(jobs(exact_base)[2], lr=1e200)
    tickets = [service.submit(good), service.submit(bad)]
    service.run_all()
    with pytest.raises(Diverged, match="lower learning rate"):
        tickets[1].result()
    assert close(tickets[0].result().adapter, alone(exact_base, good))


def test_a_step_that_diverged_leaves_the_adapter_as_it_was(exact_base: Base) -> None:
    engine = Engine(exact_base)
    loop = Loop(engine, engine.load(strong(exact_base, SPECS[0], 0), trainable=True), Settings())
    before = loop.seat.snapshot()
    loop.forward_backward(token_rows(FACTS, exact_base, max_tokens=64))
    loop.seat.grads_P[3] = math.inf
    with pytest.raises(Diverged):
        loop.step()
    assert same(before, loop.seat.snapshot())


def test_a_service_in_a_thread_takes_jobs_as_they_come(exact_base: Base) -> None:
    service = Service(Engine(exact_base))
    service.start()
    try:
        tickets = [service.submit(job) for job in jobs(exact_base)]
        for ticket, job in zip(tickets, jobs(exact_base), strict=True):
            assert close(ticket.result(timeout_s=60).adapter, alone(exact_base, job))
    finally:
        service.close()


def test_a_closed_service_keeps_what_was_done(exact_base: Base, tmp_path: Path) -> None:
    job = jobs(exact_base)[0]
    service = Service(Engine(exact_base))
    ticket = service.submit(job, checkpoint=tmp_path / "c")
    service.run_pass()
    service.close()
    with pytest.raises(Cancelled):
        ticket.result()
    steps: list[int] = []
    trained = train(Engine(exact_base), job, checkpoint=tmp_path / "c", progress=lambda n, *_: steps.append(n))
    assert steps[0] == 2
    assert close(trained.adapter, alone(exact_base, job))


def alone(base: Base, job: Job) -> Adapter:
    service = Service(Engine(base))
    ticket = service.submit(job)
    service.run_all()
    return ticket.result().adapter


def close(one: Adapter, other: Adapter) -> bool:
    return all(torch.allclose(one.tensors[k], other.tensors[k], atol=1e-6, rtol=1e-4) for k in one.tensors)
