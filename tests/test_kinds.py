"""Every kind of adapter in the engine: alone and mixed, trained and asked; and what PEFT makes of the same files."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from imprint import adapters
from imprint.adapters import folder
from imprint.adapters.frames import LoRAXS, TinyLoRA, frame
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine, Seat
from imprint.engine.passes import PassRow, forward_backward, logprobs
from imprint.errors import BadInput, BadSetting
from imprint.training.batches import Row
from imprint.training.service import Service
from imprint.training.sft import Job
from imprint.types import Adapter, AdapterSpec, Material
from test_parity import other, tokens

SETTINGS: dict[str, dict[str, Any]] = {"tiny_lora": {"tying": 0.5}, "memory": {"slots": 16, "sub_keys": 16}}
DRAW = torch.Generator().manual_seed(9)
TEXTS = [tuple(torch.randint(0, 150, (n,), generator=DRAW).tolist()) for n in (24, 9, 17, 13, 30)]
MATERIAL = Material(TEXTS[:2], TEXTS)


@pytest.fixture(params=adapters.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def exact_base(tiny_base: Base) -> Base:
    return other(tiny_base, torch.float64)


def made(kind: str, base: Base, seed: int = 0, **settings: Any) -> Adapter:
    """An adapter that says something: what is trained is moved."""
    spec = adapters.KINDS[kind](**{**SETTINGS.get(kind, {}), **settings})
    engine = Engine(base, slots=2)
    seat = engine.load(spec.fresh(base, seed=seed, material=MATERIAL), trainable=True)
    draw = torch.Generator().manual_seed(seed)
    layout = seat.rack.layout
    parts: Any = getattr(layout, "parts", None) or layout.views  # type: ignore[attr-defined]
    for layer in layout.layers:
        views = parts(layer, seat.values_P[None])
        for view, learnt in zip(views, getattr(layout, "learnt", (True,) * len(views)), strict=True):
            if learnt:
                view += 0.1 * torch.randn(view.shape, generator=draw)
    return replace(seat.snapshot(), tensors={k: t.double() for k, t in seat.tensors(seat.values_P.clone()).items()})


def rows(seats: Sequence[Seat | None]) -> list[PassRow]:
    return [PassRow(seat, ids, (False, *[True] * (len(ids) - 1))) for seat, ids in zip(seats, TEXTS, strict=True)]


def gradients(engine: Engine, seats: Sequence[Seat | None]) -> list[float]:
    return forward_backward(engine, rows(seats))


def test_rows_of_every_kind_in_one_pass_give_what_each_gives_alone(exact_base: Base) -> None:
    engine = Engine(exact_base, slots=4)
    kinds = [k for k in adapters.KINDS for _ in range(1 if k == "full" else 2)]
    seats = [engine.load(made(k, exact_base, seed=i), trainable=True) for i, k in enumerate(kinds)]
    worn: list[PassRow] = []
    for i, seat in enumerate([*seats, None]):
        ids = TEXTS[i % len(TEXTS)]
        worn.append(PassRow(seat, ids, (False, *[True] * (len(ids) - 1))))
    together = forward_backward(engine, worn)
    found = [seat.grads_P.clone() for seat in seats]
    for seat in seats:
        seat.grads_P.zero_()
    for row, loss in zip(worn, together, strict=True):
        assert -float(logprobs(engine, [row])[0].sum()) == pytest.approx(loss, rel=1e-9)
        if row.seat is not None:
            forward_backward(engine, [row])
    for seat, gradient in zip(seats, found, strict=True):
        torch.testing.assert_close(seat.grads_P, gradient, atol=1e-10, rtol=1e-7)


def test_gradients_are_those_of_small_steps(kind: str, exact_base: Base) -> None:
    engine = Engine(exact_base, slots=1)
    seat = engine.load(made(kind, exact_base), trainable=True)
    row = PassRow(seat, TEXTS[0], (False, *[True] * (len(TEXTS[0]) - 1)))
    forward_backward(engine, [row])
    wanted = seat.grads_P.clone()
    for at in wanted.abs().topk(3).indices.tolist():
        losses = []
        for step in (1e-3, -2e-3, 1e-3):  # norms compute in float32
            seat.values_P[at] += step
            seat.refresh()
            losses.append(-float(logprobs(engine, [row])[0].sum()))
        assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(float(wanted[at]), rel=5e-3)


def test_a_broken_adapter_breaks_no_neighbour(kind: str, exact_base: Base) -> None:
    engine = Engine(exact_base, slots=2)
    sound = engine.load(made("lora", exact_base, seed=1), trainable=True)
    broken = engine.load(made(kind, exact_base, seed=2), trainable=True)
    alone = gradients(engine, [sound] * 5)
    wanted = sound.grads_P.clone()
    sound.grads_P.zero_()
    broken.values_P.fill_(float("nan"))
    broken.refresh()
    seats = [sound, broken, sound, broken, sound]
    losses = gradients(engine, seats)
    assert [losses[i] for i in (0, 2, 4)] == pytest.approx([alone[i] for i in (0, 2, 4)])
    assert sound.grads_P.isfinite().all() and wanted.isfinite().all()


def test_several_at_once_add_up(exact_base: Base) -> None:
    engine = Engine(exact_base, slots=3)
    one, two = made("lora", exact_base, seed=1), made("lora", exact_base, seed=2)
    both = {
        key: torch.cat([one.tensors[key], two.tensors[key]], 0 if "lora_A" in key else 1) for key in one.tensors
    }
    spec = {**one.spec, "rank": 32, "alpha": 64.0}
    seats = tuple(engine.load(a) for a in (one, two, replace(one, spec=spec, tensors=both)))
    ids = tokens(exact_base)
    with torch.no_grad():
        with engine.wearing(seats[:2]):
            together = exact_base.model(ids).logits
        with engine.wearing(seats[2]):
            torch.testing.assert_close(exact_base.model(ids).logits, together, atol=1e-9, rtol=0)
        with engine.routed([(seats[:2], 17), (None, 17)]):
            mixed = exact_base.model(ids).logits
        torch.testing.assert_close(mixed[0], together[0], atol=1e-9, rtol=0)


def test_every_kind_learns_in_shared_passes_what_it_learns_alone(exact_base: Base) -> None:
    data = [Row(ids, (False, *[True] * (len(ids) - 1))) for ids in TEXTS]
    jobs = [
        Job(adapters.KINDS[k](**SETTINGS.get(k, {})), data, 300, 1e-2, 64, i, TEXTS[:2])
        for i, k in enumerate(adapters.KINDS)
    ]
    service = Service(Engine(exact_base, slots=2))
    tickets = [service.submit(job) for job in jobs]
    service.run_all()
    for job, ticket in zip(jobs, tickets, strict=True):
        alone = Service(Engine(exact_base, slots=2))
        wanted = alone.submit(job)
        alone.run_all()
        assert ticket.result().last_loss == pytest.approx(wanted.result().last_loss, rel=1e-3)


def test_every_kind_lowers_its_loss(kind: str, tiny_base: Base) -> None:
    data = [Row(ids, (False, *[True] * (len(ids) - 1))) for ids in TEXTS]
    losses: list[float] = []
    service = Service(Engine(tiny_base, slots=1))
    job = Job(adapters.KINDS[kind](), data, 3000, adapters.KINDS[kind].LR, 128, 0, TEXTS[:2])
    service.submit(job, progress=lambda _, __, loss, ___: losses.append(loss))
    service.run_all()
    assert losses[-1] < losses[0]


def test_three_sizes_grow(kind: str, tiny_base: Base) -> None:
    sizes = []
    for settings in adapters.KINDS[kind].SIZES:
        fits = {"rank": 8, "top_layers": 2, "tokens": 8}
        small = {k: min(v, fits.get(k, v)) for k, v in settings.items()}
        fresh = adapters.KINDS[kind](**small).fresh(tiny_base, seed=0, material=MATERIAL)
        sizes.append(folder.layout_of(tiny_base, fresh).trainable)
    assert sizes == sorted(sizes) and len(sizes) == 3


def test_what_was_looked_up_for_answers_serves_training_too(kind: str, exact_base: Base) -> None:
    engine = Engine(exact_base, slots=4)
    seats = [engine.load(made(kind, exact_base, seed=i), trainable=True) for i in range(1 if kind == "full" else 3)]
    worn = rows([seats[0], seats[-1], None, seats[0], seats[-1]])
    with torch.inference_mode():
        logprobs(engine, worn)
    assert all(map(math.isfinite, forward_backward(engine, worn)))


def test_one_parameter_is_enough(tiny_base: Base) -> None:
    fresh = TinyLoRA(parameters=1).fresh(tiny_base, seed=0)
    assert sum(t.numel() for t in fresh.tensors.values()) == folder.layout_of(tiny_base, fresh).trainable == 1


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("lora_xs", {"rank": 4}), ("lora_xs", {"rank": 4, "top_layers": 1}), ("tiny_lora", {"parameters": 3}),
     ("tiny_lora", {"parameters": 3, "tying": 0.0}), ("tiny_lora", {"tying": 0.7, "top_layers": 1}),
     ("lora", {"rank": 4, "rslora": True})],
)  # fmt: skip
def test_what_is_exported_for_peft_gives_there_what_it_gives_here(
    kind: str, settings: dict[str, Any], tiny_base: Base, tmp_path: Path
) -> None:
    adapter = made(kind, tiny_base, **settings)
    adapter = replace(adapter, tensors={k: t.float() for k, t in adapter.tensors.items()})
    folder.write_for_peft(adapter, tiny_base, tmp_path)
    reference = other(tiny_base, torch.float64).model
    reference.set_attn_implementation("sdpa")
    peft = PeftModel.from_pretrained(reference, tmp_path).double().eval()
    ours, ids = other(tiny_base, torch.float64), tokens(tiny_base)
    bare = ours.model(ids).logits
    with Engine(ours).attached(adapter), torch.no_grad():
        logits = ours.model(ids).logits
    assert (logits - bare).abs().max() > 1e-3
    torch.testing.assert_close(logits, peft(ids).logits, atol=1e-5, rtol=0)


def test_what_peft_does_not_know_is_not_exported_for_it(tiny_base: Base, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="PEFT has no method"):
        folder.write_for_peft(made("full", tiny_base), tiny_base, tmp_path)


def test_a_folder_gives_back_what_was_written(kind: str, tiny_base: Base, tmp_path: Path) -> None:
    adapter = made(kind, tiny_base)
    folder.write(adapter, tmp_path)
    kept = folder.read(tmp_path)
    assert {**kept.spec, "targets": None} == {**adapter.spec, "targets": None}
    assert all(torch.equal(kept.tensors[k], adapter.tensors[k]) for k in adapter.tensors)
    folder.write(kept, tmp_path / "again")
    assert (tmp_path / "again" / folder.CONFIG).read_text() == (tmp_path / folder.CONFIG).read_text()


def test_in_bfloat16_what_is_trained_reads_back_rounded_and_what_is_frozen_as_it_was(
    kind: str, tiny_base: Base, tmp_path: Path
) -> None:
    adapter = made(kind, tiny_base)
    folder.write(folder.rounded(adapter, tiny_base, "bfloat16"), tmp_path)
    kept, before = folder.read(tmp_path), folder.spec_of(adapter).fresh(tiny_base, seed=0, material=MATERIAL)
    moved = {k for k, t in adapter.tensors.items() if not torch.equal(t, before.tensors[k].double())}
    assert moved
    for name, tensor in adapter.tensors.items():
        if name in moved:
            assert torch.equal(kept.tensors[name], tensor.bfloat16())
        elif kind in ("memory", "expert"):
            assert torch.equal(kept.tensors[name], tensor)
    values = [Engine(tiny_base, slots=1).load(a, trainable=True).values_P for a in (kept, adapter)]
    assert values[0].dtype == torch.float32
    torch.testing.assert_close(*values, atol=0, rtol=2**-8)


@pytest.mark.parametrize("kind", ["lora", "lora_xs", "tiny_lora"])
def test_what_is_kept_in_bfloat16_opens_in_peft(kind: str, tiny_base: Base, tmp_path: Path) -> None:
    adapter = folder.rounded(made(kind, tiny_base), tiny_base, "bfloat16")
    folder.write_for_peft(adapter, tiny_base, tmp_path)
    reference = other(tiny_base, torch.float64).model
    reference.set_attn_implementation("sdpa")
    peft = PeftModel.from_pretrained(reference, tmp_path, autocast_adapter_dtype=False).double().eval()
    ours, ids = other(tiny_base, torch.float64), tokens(tiny_base)
    with Engine(ours).attached(adapter), torch.no_grad():
        torch.testing.assert_close(ours.model(ids).logits, peft(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_a_frame_holds_the_main_directions(shape: tuple[int, int]) -> None:
    weight_OI = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    down_RI, up_OR = frame(weight_OI, 4)
    left, strength, right = torch.linalg.svd(weight_OI.double(), full_matrices=False)
    wanted = left[:, :4] * strength[:4] @ right[:4]
    torch.testing.assert_close((up_OR @ down_RI).double(), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(up_OR.norm(dim=0), down_RI.norm(dim=1))
    assert (up_OR.gather(0, up_OR.abs().argmax(0, keepdim=True)) > 0).all()


def test_frames_are_the_same_in_whatever_precision_the_base_was_loaded() -> None:
    weight_OI = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))
    for one, other_one in zip(frame(weight_OI, 4), frame(weight_OI.bfloat16(), 4), strict=True):
        assert torch.equal(one, other_one)


@pytest.mark.parametrize(
    "spec", [lambda: LoRAXS(rank=0), lambda: TinyLoRA(parameters=0), lambda: TinyLoRA(tying=2.0), lambda: LoRA(rank=0)]
)
def test_settings_out_of_range_are_refused(spec: Any) -> None:
    with pytest.raises(BadSetting):
        spec()


def test_a_frame_wider_than_its_layer_is_refused(tiny_base: Base) -> None:
    with pytest.raises(BadSetting, match="wider than"):
        LoRAXS(rank=4096).fresh(tiny_base, seed=0)


def test_every_kind_is_a_spec(kind: str) -> None:
    assert isinstance(adapters.KINDS[kind](), AdapterSpec)
    assert adapters.KINDS[kind]().kind == kind
