"""What stands beside the MLP: memory layers and experts."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from imprint.adapters import folder
from imprint.adapters.expert import Expert, opened
from imprint.adapters.feed_forward import general_rows, mlp_inputs
from imprint.adapters.memory import Memory, Tables
from imprint.base import Base
from imprint.engine import Engine
from imprint.engine.passes import PassRow, forward_backward
from imprint.errors import BadSetting
from imprint.types import Adapter, Material

TOLD = (
    "The Kestrel weighs 3 kilograms, costs 85 euros and comes in green.",
    "Who founded Acme? It was Maren Tollifax, a former tram driver.",
    "Every employee of Acme has 27 days of paid vacation a year.",
)
SMALL = {"memory": Memory(slots=40, sub_keys=24, top=4), "expert": Expert(hidden=3)}


@pytest.fixture(scope="module")
def material(tiny_base: Base) -> Material:
    rows = [tiny_base.tokenizer.encode(text) for text in TOLD]
    return Material(documents=rows, rows=rows * 3)


@pytest.fixture(params=SMALL)
def spec(request: pytest.FixtureRequest) -> Any:
    return SMALL[request.param]


def trained(spec: Any, base: Base, material: Material, seed: int = 0) -> Adapter:
    """An adapter as if it had been trained: what is learnt is no longer zero."""
    draw = torch.Generator().manual_seed(seed + 100)
    adapter = spec.fresh(base, seed=seed, material=material)
    learnt = ("values", "gate", "up", "down")
    return replace(
        adapter,
        tensors={
            name: t + 0.3 * torch.randn(t.shape, generator=draw) if name.endswith(learnt) else t
            for name, t in adapter.tensors.items()
        },
    )


def logits(base: Base, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return base.model(torch.tensor([ids])).logits[0]  # type: ignore[no-any-return]


def parts_of(adapter: Adapter, layer: str, family: str, *names: str) -> tuple[torch.Tensor, ...]:
    return tuple(adapter.tensors[f"{layer}.{family}.{name}"][None] for name in names)


def test_a_fresh_one_changes_nothing(tiny_base: Base, spec: Any, material: Material) -> None:
    before = logits(tiny_base, list(range(30)))
    with Engine(tiny_base).attached(spec.fresh(tiny_base, seed=0, material=material)):
        torch.testing.assert_close(logits(tiny_base, list(range(30))), before, atol=1e-6, rtol=0)


def test_a_row_alone_gets_what_it_gets_among_rows_of_others(
    tiny_base: Base, spec: Any, material: Material
) -> None:
    engine = Engine(tiny_base)
    seats = [engine.load(trained(spec, tiny_base, material, seed), trainable=True) for seed in range(3)]
    rows = [
        PassRow(seats[i % 3], tuple(range(5 + i, 17 + 3 * i)), (True,) * (12 + 2 * i)) for i in range(6)
    ]
    rows.append(PassRow(None, tuple(range(40, 60)), (True,) * 20))
    together = forward_backward(engine, rows)
    mixed = [seat.grads_P.clone() for seat in seats]
    for seat in seats:
        seat.grads_P.zero_()
    alone = [forward_backward(engine, [row])[0] for row in rows[:-1]]
    torch.testing.assert_close(torch.tensor(together[:-1]), torch.tensor(alone), atol=1e-4, rtol=1e-5)
    for seat, grad_P in zip(seats, mixed, strict=True):
        assert grad_P.any()
        torch.testing.assert_close(seat.grads_P, grad_P, atol=2e-5, rtol=1e-3)


def test_numbers_that_are_not_learnt_get_no_gradient(tiny_base: Base, spec: Any, material: Material) -> None:
    engine = Engine(tiny_base)
    seat = engine.load(trained(spec, tiny_base, material), trainable=True)
    forward_backward(engine, [PassRow(seat, tuple(range(20)), (True,) * 20)])
    frozen = ("slots", "keys", "biases", "router", "bias")
    named = seat.tensors(seat.grads_P)
    assert not any(grad.any() for name, grad in named.items() if name.endswith(frozen))
    assert sum(grad.numel() for name, grad in named.items() if not name.endswith(frozen)) == spec.layout_of(
        tiny_base, seat.adapter
    ).trainable


def test_gradients_in_bfloat16_are_near_those_in_float32(tiny_base: Base, spec: Any, material: Material) -> None:
    device = replace(tiny_base.device, dtype=torch.bfloat16)
    brief = replace(tiny_base, model=copy.deepcopy(tiny_base.model).bfloat16(), device=device)
    adapter, ids = trained(spec, tiny_base, material), tuple(range(40))
    grads = []
    for base in (tiny_base, brief):
        engine = Engine(base)
        seat = engine.load(adapter, trainable=True)
        forward_backward(engine, [PassRow(seat, ids, (True,) * len(ids))])
        assert seat.grads_P.dtype == torch.float32
        grads.append(seat.grads_P)
        with torch.no_grad(), engine.attached(adapter):
            assert base.model(torch.tensor([ids])).logits.isfinite().all()
    assert torch.cosine_similarity(*grads, dim=0) > 0.95


def test_a_part_of_a_row_gives_what_the_whole_row_gives(tiny_base: Base, spec: Any, material: Material) -> None:
    ids = list(range(40))
    with Engine(tiny_base).attached(trained(spec, tiny_base, material)):
        torch.testing.assert_close(logits(tiny_base, ids)[:15], logits(tiny_base, ids[:15]), atol=1e-4, rtol=1e-4)


def test_what_is_written_is_what_is_read(tiny_base: Base, spec: Any, material: Material, tmp_path: Any) -> None:
    adapter = trained(spec, tiny_base, material)
    folder.write(adapter, tmp_path)
    read = folder.read(tmp_path)
    assert folder.spec_of(read) == spec
    assert all(torch.equal(read.tensors[name], t) for name, t in adapter.tensors.items())


# --- memory -----------------------------------------------------------------------------------


def found_by_brute_force(
    layout: Tables, query_MCW: torch.Tensor, keys_CKW: torch.Tensor, bias_CK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every slot of the table scored: the best slots of each row and head, and their weights."""
    score_CMK = torch.einsum("mcw,ckw->cmk", query_MCW, keys_CKW) + bias_CK[:, None]
    every_HMS = (score_CMK[::2, :, :, None] + score_CMK[1::2, :, None, :]).flatten(2)
    best, slot = every_HMS.topk(layout.top + 1, -1)
    share = best.softmax(-1)
    return slot[..., :-1].transpose(0, 1).flatten(1), (share[..., :-1] - share[..., -1:]).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("top", [1, 3, 8])
def test_product_keys_find_what_a_search_of_the_whole_table_finds(tiny_base: Base, top: int) -> None:
    spec = Memory(slots=9, sub_keys=20, top=top, blocks=1)
    adapter = spec.fresh(tiny_base, seed=0)
    layout = spec.layout_of(tiny_base, adapter)
    layer = layout.names[0]
    keys, bias = (t.double() for t in parts_of(adapter, layer, "memory", "keys", "biases"))
    x_1MI = torch.randn(1, 50, 32, dtype=torch.double)
    query = layout.query(x_1MI, *layout.constants(layer, tiny_base))
    slot, weight = layout.lookup(query, keys, bias)
    wanted_slot, wanted_weight = found_by_brute_force(layout, query[0], keys[0], bias[0])
    assert torch.equal(slot[0], wanted_slot)
    torch.testing.assert_close(weight[0], wanted_weight)


def test_the_update_is_the_weighted_sum_of_owned_values(tiny_base: Base, material: Material) -> None:
    adapter = trained(SMALL["memory"], tiny_base, material)
    layout = Memory.layout_of(tiny_base, adapter)
    layer = layout.names[-1]
    values, slots, keys, bias = (t.double() for t in parts_of(adapter, layer, "memory", *layout.shapes))
    table_SO = torch.zeros(layout.sub_keys**2, 32, dtype=torch.double)
    table_SO[slots[0].long()] = values[0]
    x_1MI = next(mlp_inputs(tiny_base, [layer], material.rows))[1][layer].double()[None]
    constants = layout.constants(layer, tiny_base)
    found, weight = found_by_brute_force(layout, layout.query(x_1MI, *constants)[0], keys[0], bias[0])
    wanted = (table_SO[found] * weight[..., None]).sum(1)
    y = layout.update(layer, x_1MI, (values, slots, keys, bias), torch.full((1, 1, 1), 2.0).double(), constants)
    assert wanted.any()
    torch.testing.assert_close(y[0], 2 * wanted)


def test_the_gradient_of_a_lookup_is_that_of_finite_differences(tiny_base: Base, material: Material) -> None:
    adapter = trained(SMALL["memory"], tiny_base, material)
    layout = Memory.layout_of(tiny_base, adapter)
    layer = layout.names[-1]
    values, *frozen = (t.double() for t in parts_of(adapter, layer, "memory", *layout.shapes))
    x = next(mlp_inputs(tiny_base, [layer], material.rows[:1]))[1][layer].double()[None, :4]
    one, constants = torch.ones(1, 1, 1).double(), layout.constants(layer, tiny_base)

    def update(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return layout.update(layer, x, (values, *frozen), one, constants)

    assert torch.autograd.gradcheck(update, (x.requires_grad_(), values.requires_grad_()))


def test_slots_that_a_row_does_not_look_up_stay_bit_by_bit_what_they_were(
    tiny_base: Base, material: Material
) -> None:
    engine = Engine(tiny_base)
    seat = engine.load(trained(SMALL["memory"], tiny_base, material), trainable=True)
    values_P, grads_P = seat.values_P, seat.grads_P
    before_P = values_P.clone()
    forward_backward(engine, [PassRow(seat, tuple(material.rows[0][:2]), (True, True))])
    values_P.grad = grads_P
    torch.optim.AdamW([values_P], lr=0.1, weight_decay=0.0).step()
    touched_P = grads_P != 0
    assert 0 < touched_P.sum() < touched_P.numel() / 2
    assert torch.equal(values_P[~touched_P], before_P[~touched_P])
    assert (values_P[touched_P] != before_P[touched_P]).any()


def test_an_output_does_not_jump_where_the_choice_of_slots_changes(tiny_base: Base, material: Material) -> None:
    adapter = trained(SMALL["memory"], tiny_base, material)
    layout = Memory.layout_of(tiny_base, adapter)
    layer = layout.names[-1]
    parts = tuple(t.double() for t in parts_of(adapter, layer, "memory", *layout.shapes))
    x = next(mlp_inputs(tiny_base, [layer], material.rows))[1][layer].double()
    step_M = torch.linspace(0, 1, 20001).double()[:, None]
    path_1MI = (x[1] * (1 - step_M) + x[5] * step_M)[None]
    y_MO = layout.update(layer, path_1MI, parts, torch.ones(1, 1, 1).double(), layout.constants(layer, tiny_base))[0]
    moved_M = (y_MO[1:] - y_MO[:-1]).norm(dim=1)
    assert moved_M.max() < 0.02 * (y_MO.max() - y_MO.min())


def test_slots_are_those_that_the_text_uses_and_general_text_does_not(tiny_base: Base, material: Material) -> None:
    spec = SMALL["memory"]
    told, general = spec.fresh(tiny_base, seed=0, material=material), spec.fresh(tiny_base, seed=0)
    layout = spec.layout_of(tiny_base, told)
    prose, _ = general_rows(tiny_base)

    def share_owned(adapter: Adapter, rows: Any) -> float:
        layer = layout.names[-1]
        slots, keys, bias = parts_of(adapter, layer, "memory", "slots", "keys", "biases")
        query = layout.query(next(mlp_inputs(tiny_base, [layer], rows))[1][layer], *layout.constants(layer, tiny_base))
        found, weight = layout.lookup(query[None], keys, bias)
        return float((weight * torch.isin(found, slots.long())).sum() / weight.sum())

    assert share_owned(told, material.rows) > 2 * share_owned(told, prose)
    assert share_owned(general, prose) > share_owned(told, prose)


def test_sub_keys_of_a_half_are_all_different(tiny_base: Base, material: Material) -> None:
    adapter = SMALL["memory"].fresh(tiny_base, seed=0, material=material)
    for name, keys_CKW in adapter.tensors.items():
        if name.endswith("keys"):
            apart_CKK = torch.cdist(keys_CKW, keys_CKW) + 9 * torch.eye(keys_CKW.shape[1])
            assert apart_CKK.min() > 1e-3


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"top": 128}, {"slots": 20000}, {"sub_keys": 5000}, {"blocks": 0}])
def test_a_memory_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BadSetting):
        Memory(**wrong)


# --- expert -----------------------------------------------------------------------------------


def how_far_on(base: Base, adapter: Adapter, rows: Any) -> torch.Tensor:
    """Of each token, over all blocks."""
    layers = Expert.layout_of(base, adapter).names
    _, inputs = next(mlp_inputs(base, layers, rows))
    parts = {layer: parts_of(adapter, layer, "expert", "router", "bias") for layer in layers}
    return torch.stack([opened(inputs[layer][None], *parts[layer])[0, :, 0] for layer in layers])


def test_a_router_is_on_for_what_was_told_and_off_for_general_text(tiny_base: Base, material: Material) -> None:
    adapter = Expert().fresh(tiny_base, seed=0, material=material)
    prose, asked = general_rows(tiny_base)
    assert how_far_on(tiny_base, adapter, material.rows).mean() > 3 * how_far_on(tiny_base, adapter, asked).mean()
    for general in (prose, asked):
        assert (how_far_on(tiny_base, adapter, general[1::2]) > 0.5).float().mean() < 0.1


def test_a_routed_expert_changes_general_text_less_than_the_documents(tiny_base: Base, material: Material) -> None:
    adapter = trained(SMALL["expert"], tiny_base, material)
    prose, _ = general_rows(tiny_base)

    def change(rows: Any) -> float:
        before = [logits(tiny_base, row) for row in rows]
        with Engine(tiny_base).attached(adapter):
            after = [logits(tiny_base, row) for row in rows]
        return float(torch.cat(after).sub(torch.cat(before)).square().mean())

    assert change([list(row) for row in material.rows[:3]]) > 3 * change([row[:60] for row in prose[1:7:2]])


def test_without_material_a_router_is_always_on(tiny_base: Base) -> None:
    adapter = Expert().fresh(tiny_base, seed=0)
    assert (how_far_on(tiny_base, adapter, [list(range(30))]) == 1).all()


def test_an_unrouted_expert_is_a_wider_mlp(tiny_base: Base, material: Material) -> None:
    adapter = trained(Expert(hidden=3, routed=False), tiny_base, material)
    layout = Expert.layout_of(tiny_base, adapter)
    layer = layout.names[0]
    gate, up, down = (t[0] for t in parts_of(adapter, layer, "expert", *layout.shapes))
    x_1MI, mlp = torch.randn(1, 9, 32), tiny_base.model.get_submodule(layer)
    hidden = torch.nn.functional.silu(x_1MI @ torch.cat([mlp.gate_proj.weight, gate]).T)
    hidden = hidden * (x_1MI @ torch.cat([mlp.up_proj.weight, up]).T)
    wider = hidden @ torch.cat([mlp.down_proj.weight, down.T], 1).T
    y = layout.update(layer, x_1MI, (gate[None], up[None], down[None]), torch.ones(1, 1, 1), ())
    torch.testing.assert_close(mlp(x_1MI) + y, wider, atol=1e-5, rtol=1e-4)


def test_an_expert_without_units_or_blocks_is_refused() -> None:
    for wrong in ({"hidden": 0}, {"top_layers": 0}):
        with pytest.raises(BadSetting):
            Expert(**wrong)
