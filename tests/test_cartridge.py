"""The laws of cartridges: a row with a prefix gets what it gets after the prefix's text, in whichever company."""

import copy
import random
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from peft import PeftModel

from imprint import attention
from imprint.adapters import folder
from imprint.adapters.prefix import TENSOR, Cartridge, PrefixLayout, turning_of
from imprint.attention import PackedRows, Prefix
from imprint.base import Base
from imprint.serving.cache import Cache, PromptPart, StepLayout
from imprint.engine import Engine
from imprint.types import Adapter, Material, Prompt, Turn
from imprint.writers.local import LocalWriter


def turn_exactly(model: Any) -> None:
    """Angles in float64: transformers' own are float32, whatever the model's weights are."""

    def forward(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = (position_ids[..., None].double() * self.inv_freq).repeat(1, 1, 2)
        return angles.cos(), angles.sin()

    model.model.rotary_emb.forward = MethodType(forward, model.model.rotary_emb)


@pytest.fixture
def exact_base(tiny_base: Base) -> Base:
    model = copy.deepcopy(tiny_base.model).double()
    turn_exactly(model)
    return replace(tiny_base, model=model)


def ids_of(n: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(400) for _ in range(n)]


def of_text(base: Base, ids: list[int], **settings: Any) -> Adapter:
    return Cartridge(tokens=len(ids), **settings).fresh(base, seed=0, material=Material(documents=[ids]))


class Worn:
    """Prefixes by the token that a row begins with, made in the plainest way."""

    def __init__(self, base: Base, wearers: dict[int, int], adapters: list[Adapter]) -> None:
        self.turning, self.wearers = turning_of(base), wearers
        self.layouts: list[PrefixLayout] = [Cartridge.layout_of(base, a) for a in adapters]
        self.flats = [torch.empty(layout.size, dtype=base.model.dtype) for layout in self.layouts]
        for layout, adapter, flat in zip(self.layouts, adapters, self.flats, strict=True):
            layout.write(adapter.tensors, flat)
            flat.requires_grad_()

    def of(self, layer: int, tokens: tuple[int, ...]) -> Prefix | None:
        found = [self.wearers.get(t) for t in tokens]
        if all(i is None for i in found):
            return None
        if len(set(found)) == 1:
            keys, values = self.pair(layer, found[0])
            return Prefix(keys[None], values[None])
        width = max(self.layouts[i].tokens for i in found if i is not None)
        pairs, mask = [], torch.zeros(len(found), 1, 1, width, dtype=self.flats[0].dtype)
        for row, i in enumerate(found):
            length = 0 if i is None else self.layouts[i].tokens
            mask[row, ..., length:] = float("-inf")
            pair = self.pair(layer, i) if i is not None else self.flats[0].new_zeros(2, *self.shape, 0, 8).unbind()
            pairs.append([torch.nn.functional.pad(x, (0, 0, 0, width - length)) for x in pair])
        return Prefix(torch.stack([k for k, _ in pairs]), torch.stack([v for _, v in pairs]), mask)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.layouts[0].heads,)

    def pair(self, layer: int, i: Any) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.layouts[i].whole(self.flats[i][None])[0, layer]
        return self.turning.moved(keys, -self.layouts[i].tokens), values


TEXTS = [ids_of(7, 1), ids_of(3, 2)]


def after(base: Base, text: list[int], ids: list[int]) -> torch.Tensor:
    """Logits of a row that was read after a text, T V."""
    with torch.no_grad():
        return base.model(torch.tensor([text + ids]), use_cache=False).logits[0, len(text) :]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("wearers", [(0, 0, 0), (0, None, 1)])
def test_rows_of_a_padded_batch_get_what_they_get_after_the_text(
    exact_base: Base, training: bool, wearers: tuple[int | None, ...]
) -> None:
    rows = [ids_of(n, 10 + n) for n in (9, 6, 4)]
    tokens_BT, seen_BT = LocalWriter(exact_base)._padded(rows)
    worn = Worn(exact_base, {9 * b: i for b, i in enumerate(wearers) if i is not None}, [of_text(exact_base, t) for t in TEXTS])
    for flat in worn.flats:
        flat.requires_grad_(training)
    places_BT = (seen_BT.cumsum(1) - 1).clamp(min=0)
    with attention.prefixed(worn, exact_base.model.config):
        logits = exact_base.model(tokens_BT, attention_mask=seen_BT, position_ids=places_BT, use_cache=False).logits
    assert logits.requires_grad == training
    for ids, i, found_TV in zip(rows, wearers, logits.detach(), strict=True):
        wanted_TV = after(exact_base, [] if i is None else TEXTS[i], ids)
        torch.testing.assert_close(found_TV[-len(ids) :], wanted_TV, atol=1e-9, rtol=0)


def test_packed_rows_of_many_prefixes_get_what_they_get_after_their_texts(exact_base: Base) -> None:
    rows = [(ids_of(n, 20 + n), i) for n, i in ((9, 0), (8, None), (8, 1), (2, 0), (20, None), (1, 1))]
    starts = [sum(len(ids) for ids, _ in rows[:r]) for r in range(len(rows))]
    worn = Worn(
        exact_base,
        {start: i for start, (_, i) in zip(starts, rows, strict=True) if i is not None},
        [of_text(exact_base, t) for t in TEXTS],
    )
    lengths = [len(ids) for ids, _ in rows]
    places_1N = torch.cat([torch.arange(n) for n in lengths])[None]
    inputs = {"input_ids": torch.tensor([sum((ids for ids, _ in rows), [])]), "position_ids": places_1N}
    for grad in (False, True):
        with (
            torch.set_grad_enabled(grad),
            attention.laid_out(PackedRows(lengths, torch.device("cpu"), torch.float64)),
            attention.prefixed(worn, exact_base.model.config),
        ):
            logits_NV = exact_base.model(**inputs, use_cache=False).logits[0]
        for (ids, i), found_TV in zip(rows, logits_NV.detach().split(lengths), strict=True):
            wanted_TV = after(exact_base, [] if i is None else TEXTS[i], ids)
            torch.testing.assert_close(found_TV, wanted_TV, atol=1e-9, rtol=0)


def test_gradients_of_packed_prefixes_are_those_of_each_row_alone(exact_base: Base) -> None:
    rows = [(ids_of(n, 20 + n), i) for n, i in ((9, 0), (8, None), (8, 1), (2, 0))]
    adapters = [of_text(exact_base, t) for t in TEXTS]
    found = []
    for parts in ([rows], [[row] for row in rows]):
        worn = Worn(exact_base, {}, adapters)
        for part in parts:
            lengths = [len(ids) for ids, _ in part]
            starts = [sum(lengths[:r]) for r in range(len(part))]
            worn.wearers = {s: i for s, (_, i) in zip(starts, part, strict=True) if i is not None}
            with (
                attention.laid_out(PackedRows(lengths, torch.device("cpu"), torch.float64)),
                attention.prefixed(worn, exact_base.model.config),
            ):
                places_1N = torch.cat([torch.arange(n) for n in lengths])[None]
                tokens_1N = torch.tensor([sum((ids for ids, _ in part), [])])
                logits = exact_base.model(tokens_1N, position_ids=places_1N, use_cache=False).logits
            if worn.wearers:
                logits.log_softmax(-1)[..., 7].sum().backward()
        found.append([flat.grad for flat in worn.flats])
    for together, alone in zip(*found, strict=True):
        assert alone.any()
        torch.testing.assert_close(together, alone, atol=1e-11, rtol=1e-9)


def test_a_local_writer_writes_with_a_prefix_what_it_writes_after_its_text(tiny_base: Base) -> None:
    text = ids_of(12, 3)
    worn = Worn(tiny_base, {}, [of_text(tiny_base, text)])
    worn.wearers = dict.fromkeys(range(10_000), 0)
    common = "Every employee of Acme has 27 days of paid vacation a year. "
    words = [common + "How many days do I get?", common + "Who founded it?", "The shop is open."]
    prompts = [Prompt((Turn("user", w),), max_tokens=9) for w in words]
    with torch.no_grad(), attention.prefixed(worn, tiny_base.model.config):
        written = LocalWriter(tiny_base).write(prompts, seed=0)
    for prompt, found in zip(prompts, written, strict=True):
        ids = tiny_base.prompt_ids(prompt.turns)
        begun = len(ids)
        while len(ids) < begun + 9 and (token := int(after(tiny_base, text, ids)[-1].argmax())) not in tiny_base.stop_ids:
            ids.append(token)
        assert found.text == tiny_base.tokenizer.decode(ids[begun:], skip_special_tokens=True).strip()


@torch.no_grad()
def test_steps_of_serving_give_what_they_give_after_the_text(exact_base: Base) -> None:
    rows = [(ids_of(n, 30 + n), i) for n, i in ((9, 0), (4, None), (6, 1), (200, 0))]
    cache = Cache(exact_base, len(rows))
    cache.make_room(210, len(rows))
    adapters = [of_text(exact_base, t) for t in TEXTS]
    done = [0] * len(rows)
    for counts in ((3, 2, 0, 150), (1, 1, 3, 48), (4, 0, 2, 1), (1, 1, 1, 1)):
        writing, parts, tokens, places, wearers, order = [], [], [], [], {}, []
        for row, (count, (ids, i)) in enumerate(zip(counts, rows, strict=True)):
            if i is not None:
                wearers[len(tokens)] = i
            if counts == (1, 1, 1, 1):
                writing.append((len(tokens), done[row]))
            elif count:
                parts.append(PromptPart(row, len(tokens), done[row], count))
            tokens += ids[done[row] : done[row] + count]
            places += range(done[row], done[row] + count)
            order += [(row, t) for t in range(done[row], done[row] + count)]
            done[row] += count
        worn = Worn(exact_base, wearers, adapters)
        with (
            attention.laid_out(StepLayout(cache, writing, parts, exact_base)),
            attention.prefixed(worn, exact_base.model.config),
        ):
            logits_NV = exact_base.model(
                torch.tensor([tokens]), position_ids=torch.tensor([places]), use_cache=False
            ).logits[0]
        for (row, t), found_V in zip(order, logits_NV, strict=True):
            ids, i = rows[row]
            wanted_TV = after(exact_base, [] if i is None else TEXTS[i], ids)
            torch.testing.assert_close(found_V, wanted_TV[t], atol=1e-9, rtol=0)
    assert done == [len(ids) for ids, _ in rows]


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("queries", [1, 6])
def test_a_prefix_in_bfloat16_is_near_that_in_float64(one: bool, queries: int) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v, pk, pv = (
        torch.randn(*n, 16, generator=draw)
        for n in ((3, 6, queries), (3, 2, 9), (3, 2, 9), (1 if one else 3, 2, 5), (1 if one else 3, 2, 5))
    )
    mask = torch.zeros(3, 1, queries, 9)
    mask[1, ..., :4] = float("-inf")
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        made = [x.bfloat16().to(dtype) for x in (q, k, v, pk, pv, mask)]
        found.append(attention.reading(*made[:3], made[5], 0.25, Prefix(made[3], made[4])))
    assert found[0].dtype == torch.bfloat16
    assert (found[0] - found[1]).norm() < 0.01 * found[1].norm()


def test_another_model_sees_no_prefix_of_this_one(tiny_base: Base) -> None:
    other = replace(tiny_base, model=copy.deepcopy(tiny_base.model))
    worn = Worn(tiny_base, {0: 0}, [of_text(tiny_base, TEXTS[0])])
    ids = ids_of(5, 4)
    with torch.no_grad(), attention.prefixed(worn, tiny_base.model.config):
        found = other.model(torch.tensor([ids]), use_cache=False).logits[0]
    assert torch.equal(found, after(other, [], ids))


def through_peft(base: Base, adapter: Adapter, path: Path) -> Any:
    """PEFT's model of the cartridge's folder, on its own copy of the base and PyTorch's own attention."""
    folder.write(adapter, path)
    reference = copy.deepcopy(base.model)
    if base.model.dtype == torch.float64:
        turn_exactly(reference)
    reference.set_attn_implementation("sdpa")
    return PeftModel.from_pretrained(reference, path, is_trainable=True).to(base.model.dtype).eval()


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_a_cartridge_gives_the_logits_that_peft_gives(
    tiny_base: Base, exact_base: Base, tmp_path: Path, dtype: torch.dtype, atol: float
) -> None:
    base = exact_base if dtype == torch.float64 else tiny_base
    adapter = strong(base, Cartridge(tokens=6, frozen=2), 1)
    peft = through_peft(base, adapter, tmp_path)
    tokens_BT = torch.tensor([ids_of(11, 1), ids_of(11, 2)])
    with Engine(base).attached(adapter), torch.no_grad():
        torch.testing.assert_close(base.model(tokens_BT).logits, peft(tokens_BT).logits, atol=atol, rtol=0)


def test_gradients_of_a_cartridge_are_those_of_peft(exact_base: Base, tmp_path: Path) -> None:
    adapter = strong(exact_base, Cartridge(tokens=6, frozen=2), 1)
    peft = through_peft(exact_base, adapter, tmp_path)
    tokens_BT = torch.tensor([ids_of(11, 1), ids_of(11, 2)])
    with Engine(exact_base).attached(adapter, trainable=True) as seat:
        for model in (exact_base.model, peft):
            model(tokens_BT).logits.log_softmax(-1)[..., 7].mean().backward()
        found_PX = seat.tensors(seat.grads_P)[TENSOR]
    (theirs,) = [p.grad for p in peft.parameters() if p.requires_grad]
    assert theirs.shape == found_PX[2:].shape and theirs.any()
    torch.testing.assert_close(found_PX[2:], theirs, atol=1e-12, rtol=1e-9)
    assert not found_PX[:2].any()
