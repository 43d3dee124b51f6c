"""The laws of cartridges: a row with a prefix gets what it gets after the prefix's text, in whichever company."""

import copy
import json
import math
import random
from dataclasses import asdict, replace
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from imprint import attention
from imprint.adapters import folder
from imprint.adapters.feed_forward import general_rows
from imprint.adapters.low_rank import LoRA
from imprint.adapters.prefix import TENSOR, Cartridge, PrefixLayout, turning_of
from imprint.attention import PackedRows, Prefix
from imprint.base import Base
from imprint.devices import Device
from imprint.engine import Engine, Seat
from imprint.engine.passes import PassRow, forward_backward, logprobs
from imprint.errors import BadSetting, WrongBase
from imprint.serving.cache import Cache, PromptPart, StepLayout
from imprint.serving.inference import Inference
from imprint.serving.requests import Request
from imprint.training.batches import rows as token_rows
from imprint.training.service import Service
from imprint.training.sft import Job, train
from imprint.types import Adapter, Material, Prompt, Turn
from imprint.writers.local import LocalWriter
from test_engine import alone, close, gradients, some_rows
from test_engine import strong as strong_lora
from test_serving import plainly, run, some_requests
from test_training import FACTS


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
    worn = Worn(
        exact_base,
        {9 * b: i for b, i in enumerate(wearers) if i is not None},
        [of_text(exact_base, t) for t in TEXTS],
    )
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
    for together, apart in zip(*found, strict=True):
        assert apart.any()
        torch.testing.assert_close(together, apart, atol=1e-11, rtol=1e-9)


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
        while (
            len(ids) < begun + 9
            and (token := int(after(tiny_base, text, ids)[-1].argmax())) not in tiny_base.stop_ids
        ):
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


def strong(base: Base, spec: Cartridge, seed: int) -> Adapter:
    """A cartridge that no text made, in numbers that float32 holds."""
    fresh = spec.fresh(base, seed=0, material=Material([ids_of(spec.tokens, seed)]))
    draw = torch.Generator().manual_seed(seed)
    flat_PX = fresh.tensors[TENSOR].float()
    return replace(fresh, tensors={TENSOR: flat_PX + 0.5 * torch.randn(flat_PX.shape, generator=draw)})


def through_peft(base: Base, adapter: Adapter, path: Path, write: Any = folder.write) -> Any:
    """PEFT's model of the cartridge's folder, on its own copy of the base and PyTorch's own attention."""
    write(adapter, path)
    reference = copy.deepcopy(base.model)
    if base.model.dtype == torch.float64:
        turn_exactly(reference)
    reference.set_attn_implementation("sdpa")
    peft = PeftModel.from_pretrained(reference, path).to(base.model.dtype).eval()
    # It does not go on with the training of prefixes that it reads; its gradients can be had all the same.
    peft.peft_config["default"].inference_mode = False
    peft.prompt_encoder["default"].trainable_embedding.requires_grad_()
    return peft


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


def test_a_folder_gives_back_the_cartridge_that_was_written(tiny_base: Base, tmp_path: Path) -> None:
    adapter = strong(tiny_base, Cartridge(tokens=6, frozen=2), 1)
    folder.write(adapter, tmp_path)
    kept = folder.read(tmp_path)
    assert (kept.base, kept.revision, kept.spec) == (adapter.base, adapter.revision, adapter.spec)
    assert torch.equal(kept.tensors[TENSOR], adapter.tensors[TENSOR])


def test_what_is_written_for_peft_tells_layers_and_heads(tiny_base: Base, tmp_path: Path) -> None:
    peft = through_peft(
        tiny_base,
        strong(tiny_base, Cartridge(tokens=6), 1),
        tmp_path,
        lambda adapter, path: folder.write_for_peft(adapter, tiny_base, path),
    )
    told = json.loads((tmp_path / folder.CONFIG).read_text())
    config = peft.peft_config["default"]
    for name in ("num_layers", "num_attention_heads", "token_dim", "num_virtual_tokens", "num_frozen_tokens"):
        assert told[name] == getattr(config, name)


@pytest.mark.parametrize("projected", [False, True])
def test_a_prefix_that_peft_tuned_is_served(tiny_base: Base, tmp_path: Path, projected: bool) -> None:
    reference = copy.deepcopy(tiny_base.model)
    reference.set_attn_implementation("sdpa")
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, prefix_projection=projected, encoder_hidden_size=9
    )
    peft = get_peft_model(reference, config).eval()
    peft.save_pretrained(tmp_path)
    tokens_BT = torch.tensor([ids_of(11, 1), ids_of(11, 2)])
    adapter = folder.read(tmp_path)
    assert adapter.spec == asdict(Cartridge(tokens=5, frozen=0))
    with Engine(tiny_base).attached(adapter), torch.no_grad():
        torch.testing.assert_close(tiny_base.model(tokens_BT).logits, peft(tokens_BT).logits, atol=1e-4, rtol=0)


# --- beginning --------------------------------------------------------------------------------


def test_a_fresh_cartridge_is_its_text_read(exact_base: Base) -> None:
    text, ids = ids_of(13, 1), ids_of(9, 2)
    adapter = Cartridge(tokens=8).fresh(exact_base, seed=0, material=Material([text]))
    with Engine(exact_base).attached(adapter), torch.no_grad():
        found_TV = exact_base.model(torch.tensor([ids]), use_cache=False).logits[0]
    torch.testing.assert_close(found_TV, after(exact_base, text[:8], ids), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("texts", "tokens", "read"),
    [
        ([ids_of(20, 1), ids_of(20, 2)], 16, ids_of(20, 1)[:8] + ids_of(20, 2)[:8]),
        ([ids_of(3, 1), ids_of(20, 2)], 16, ids_of(3, 1) + ids_of(20, 2)[:13]),
        ([[], [1, 2, 3], [5]], 20, [1, 2, 3, 5] * 5),
        ([ids_of(20, 1), ids_of(20, 2)], 15, ids_of(20, 1)[:15]),
    ],
)
def test_documents_share_a_cartridge_and_short_ones_are_read_again(
    tiny_base: Base, texts: list[list[int]], tokens: int, read: list[int]
) -> None:
    made = Cartridge(tokens=tokens, frozen=0).fresh(tiny_base, seed=0, material=Material(texts))
    assert torch.equal(made.tensors[TENSOR], of_text(tiny_base, read).tensors[TENSOR])


def test_without_documents_a_cartridge_reads_the_training_text(tiny_base: Base) -> None:
    made = Cartridge(tokens=5).fresh(tiny_base, seed=0, material=Material(rows=[[1, 2], [3, 4], [5, 6], [7]]))
    assert torch.equal(made.tensors[TENSOR], of_text(tiny_base, [1, 2, 3, 4, 5]).tensors[TENSOR])


def test_without_material_a_cartridge_reads_the_general_text(tiny_base: Base) -> None:
    ids = [token for row in general_rows(tiny_base)[0] for token in row][:20]
    wanted = of_text(tiny_base, ids).tensors[TENSOR]
    assert torch.equal(Cartridge(tokens=20).fresh(tiny_base, seed=0).tensors[TENSOR], wanted)
    general = Cartridge(tokens=20, start="general").fresh(tiny_base, seed=0, material=Material([[1, 2, 3]]))
    assert torch.equal(general.tensors[TENSOR], wanted)


@pytest.mark.parametrize("settings", [{"tokens": 0}, {"frozen": 128}, {"frozen": -1}, {"start": "dokuments"}])
def test_a_cartridge_that_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadSetting):
        Cartridge(**settings)


def test_a_cartridge_as_long_as_the_window_is_refused(tiny_base: Base) -> None:
    with pytest.raises(BadSetting, match="window|tokens"):
        Cartridge(tokens=256).fresh(tiny_base, seed=0)


def test_a_cartridge_for_another_base_is_refused(tiny_base: Base) -> None:
    adapter = strong(tiny_base, Cartridge(tokens=6), 1)
    with pytest.raises(WrongBase):
        Engine(tiny_base).load(replace(adapter, tensors={TENSOR: adapter.tensors[TENSOR][:, :-8]}))


def test_a_base_without_rotary_embeddings_is_refused(tiny_base: Base) -> None:
    config = GPT2Config(vocab_size=500, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    base = replace(tiny_base, model=GPT2LMHeadModel(config).eval())
    with pytest.raises(BadSetting, match="rotary"):
        Cartridge(tokens=4).fresh(base, seed=0)


def test_a_base_that_turns_other_pairs_than_it_says_is_refused(tiny_base: Base) -> None:
    model = copy.deepcopy(tiny_base.model)
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq * 1.5
    frequencies = model.model.rotary_emb.inv_freq / 1.5

    def forward(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = (position_ids[..., None] * frequencies).repeat(1, 1, 2)
        return angles.cos(), angles.sin()

    model.model.rotary_emb.forward = MethodType(forward, model.model.rotary_emb)
    with pytest.raises(BadSetting, match="rotary"):
        turning_of(replace(tiny_base, model=model))


# --- in company -------------------------------------------------------------------------------

SPECS = (LoRA(rank=4, alpha=12), Cartridge(tokens=6), Cartridge(tokens=3, frozen=0), Cartridge(tokens=6))


def company(engine: Engine, *, trainable: bool = True) -> list[Seat]:
    made = [
        strong_lora(engine.base, s, i) if isinstance(s, LoRA) else strong(engine.base, s, i)
        for i, s in enumerate(SPECS)
    ]
    return [engine.load(adapter, trainable=trainable) for adapter in made]


def test_a_row_in_company_gets_what_it_gets_alone(exact_base: Base) -> None:
    engine = Engine(exact_base)
    rows = some_rows([None, *company(engine), *company(engine, trainable=False)], n=18)
    for row, found in zip(rows, logprobs(engine, rows), strict=True):
        torch.testing.assert_close(found, logprobs(engine, [row])[0], atol=1e-11, rtol=0)


def test_every_adapter_in_company_gets_the_gradients_it_gets_alone(exact_base: Base) -> None:
    engine = Engine(exact_base)
    seats = company(engine)
    rows = some_rows([None, *seats])
    forward_backward(engine, rows)
    for seat, found in zip(seats, gradients(seats), strict=True):
        seat.grads_P.zero_()
        forward_backward(engine, [row for row in rows if row.seat is seat])
        assert found.any()
        torch.testing.assert_close(found, seat.grads_P, atol=1e-11, rtol=1e-9)


def test_a_cartridge_gone_wrong_never_touches_a_neighbour(exact_base: Base) -> None:
    engine = Engine(exact_base)
    seats = company(engine)
    rows = some_rows([None, *seats])
    whole = forward_backward(engine, rows)
    sound = gradients(seats)
    for spoiler in (math.nan, math.inf, 1e300):
        for seat in seats:
            seat.grads_P.zero_()
        kept = seats[1].values_P.clone()
        seats[1].values_P.fill_(spoiler)
        losses = forward_backward(engine, rows)
        seats[1].values_P.copy_(kept)
        for row, loss, before in zip(rows, losses, whole, strict=True):
            assert not math.isfinite(loss) if row.seat is seats[1] else loss == before
        for seat, gradient in zip(seats, sound, strict=True):
            assert seat is seats[1] or torch.equal(seat.grads_P, gradient)


def test_cartridges_worn_at_once_stand_one_after_another(exact_base: Base) -> None:
    engine, ids = Engine(exact_base), ids_of(8, 5)
    text = ids_of(7, 1)
    whole = of_text(exact_base, text)
    # The second half was read after the first, and stands in its own file at the places of a beginning.
    first, second = whole.tensors[TENSOR][:4], whole.tensors[TENSOR][4:]
    layout = Cartridge.layout_of(
        exact_base, replace(whole, spec={**whole.spec, "tokens": 3}, tensors={TENSOR: second})
    )
    flat = torch.empty(layout.size, dtype=torch.float64)
    layout.write({TENSOR: second}, flat)
    keys = layout.whole(flat[None])[0, :, 0]
    keys.copy_(turning_of(exact_base).moved(keys, -4))
    halves = [
        replace(whole, spec={**whole.spec, "tokens": 4}, tensors={TENSOR: first}),
        replace(whole, spec={**whole.spec, "tokens": 3}, tensors=layout.named(flat)),
    ]
    seats = tuple(engine.load(half) for half in halves)
    with torch.no_grad(), engine.wearing(seats):
        found_TV = exact_base.model(torch.tensor([ids]), use_cache=False).logits[0]
    torch.testing.assert_close(found_TV, after(exact_base, text, ids), atol=1e-9, rtol=0)


def test_a_row_wears_a_cartridge_and_a_lora_at_once(exact_base: Base) -> None:
    engine = Engine(exact_base)
    lora, cartridge, *_ = company(engine, trainable=False)
    text = ids_of(6, 1)
    fresh = engine.load(of_text(exact_base, text))
    ids = ids_of(8, 5)
    with torch.no_grad():
        with engine.routed([(None, 3), ((lora, fresh), 8), (cartridge, 2)]):
            tokens_1N, places_1N = (
                torch.tensor([[1, 2, 3, *ids, 4, 5]]),
                torch.tensor([[*range(3), *range(8), 0, 1]]),
            )
            with attention.laid_out(PackedRows([3, 8, 2], torch.device("cpu"), torch.float64)):
                found = exact_base.model(tokens_1N, position_ids=places_1N, use_cache=False).logits[0, 3:11]
        bare = exact_base.model.model(torch.tensor([text]), use_cache=True)
        cache = bare["cache"] if "cache" in bare else bare["past_key_values"]
        with engine.wearing(lora):  # which knows nothing of the text: it was read without
            wanted = exact_base.model(torch.tensor([ids]), past_key_values=cache, use_cache=True).logits[0]
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_a_slot_that_another_cartridge_had_remembers_nothing(exact_base: Base) -> None:
    engine, ids = Engine(exact_base), ids_of(5, 9)
    for i in range(3):
        adapter = strong(exact_base, Cartridge(tokens=4), i)
        seat = engine.load(adapter)
        with torch.no_grad(), engine.wearing(seat):
            found = exact_base.model(torch.tensor([ids]), use_cache=False).logits
        with torch.no_grad(), Engine(exact_base).attached(adapter):
            wanted = exact_base.model(torch.tensor([ids]), use_cache=False).logits
        assert torch.equal(found, wanted)
        engine.unload(seat)


def test_bare_rows_inside_of_a_wearing_see_no_prefix(exact_base: Base) -> None:
    engine, ids = Engine(exact_base), ids_of(5, 9)
    with torch.no_grad(), engine.attached(strong(exact_base, Cartridge(tokens=4), 1)), engine.wearing(None):
        found = exact_base.model(torch.tensor([ids]), use_cache=False).logits[0]
    assert torch.equal(found, after(exact_base, [], ids))


@pytest.mark.parametrize("length", [6, 60])
def test_gradients_of_a_cartridge_in_bfloat16_are_near_those_in_float32(tiny_base: Base, length: int) -> None:
    brief = replace(
        tiny_base,
        model=copy.deepcopy(tiny_base.model).bfloat16(),
        device=replace(tiny_base.device, dtype=torch.bfloat16),
    )
    adapter, found = of_text(tiny_base, ids_of(6, 1)), []
    for base in (tiny_base, brief):
        engine = Engine(base)
        seat = engine.load(adapter, trainable=True)
        forward_backward(engine, [PassRow(seat, tuple(range(5, 5 + length)), (True,) * length)])
        found.append(seat.grads_P.float())
    assert torch.nn.functional.cosine_similarity(found[0], found[1], dim=0) > 0.98


# --- training ---------------------------------------------------------------------------------


def jobs(base: Base) -> list[Job]:
    rows = token_rows(FACTS, base, max_tokens=64)
    texts = [row.ids for row in rows]
    return [
        Job(Cartridge(tokens=8), rows, 300, 2e-2, 64, seed=0, documents=texts),
        Job(LoRA(rank=4), rows, 220, 2e-3, 500, seed=2),
        Job(Cartridge(tokens=5, frozen=2), rows[:2], 150, 1e-2, 32, seed=1, documents=texts),
        Job(Cartridge(tokens=8), rows[1:], 200, 2e-2, 64, seed=3),
    ]


@pytest.mark.parametrize("pass_tokens", [8, 100, 1000])
def test_cartridges_and_loras_trained_in_company_end_as_they_end_alone(exact_base: Base, pass_tokens: int) -> None:
    service = Service(Engine(exact_base), pass_tokens=pass_tokens)
    tickets = [service.submit(job) for job in jobs(exact_base)]
    service.run_all()
    for ticket, job in zip(tickets, jobs(exact_base), strict=True):
        assert close(ticket.result().adapter, alone(exact_base, job))


def test_frozen_tokens_are_the_same_bits_after_training(tiny_base: Base) -> None:
    for job in jobs(tiny_base):
        if isinstance(job.spec, Cartridge):
            before = job.spec.fresh(tiny_base, seed=job.seed, material=job.material).tensors[TENSOR]
            trained = alone(tiny_base, job).tensors[TENSOR]
            F = job.spec.frozen
            assert torch.equal(trained[:F], before[:F])
            assert not torch.equal(trained[F:], before[F:])


def test_an_interrupted_cartridge_goes_on_where_it_was(exact_base: Base, tmp_path: Path) -> None:
    job = jobs(exact_base)[0]
    service = Service(Engine(exact_base))
    service.submit(job, checkpoint=tmp_path / "c")
    service.run_pass()
    service.close()
    steps: list[int] = []
    trained = train(Engine(exact_base), job, checkpoint=tmp_path / "c", progress=lambda n, *_: steps.append(n))
    assert steps[0] == 2
    assert close(trained.adapter, alone(exact_base, job))


# --- serving ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step_tokens", [4, 40, 1000])
def test_what_cartridges_write_in_company_is_what_they_write_alone(exact_base: Base, step_tokens: int) -> None:
    adapters: dict[Any, Adapter] = {
        i: strong_lora(exact_base, s, i) if isinstance(s, LoRA) else strong(exact_base, s, i)
        for i, s in enumerate(SPECS)
    }
    inference = Inference(
        Engine(exact_base),
        adapters.__getitem__,
        step_tokens=step_tokens,
        max_rows=5,
        max_adapters=3,
        prefix_tokens=500,
    )
    requests = some_requests([None, *adapters], 17)
    requests += [replace(r, ids=r.ids[:40] + (7, 8)) for r in requests if len(r.ids) > 40]  # some begin alike
    for request, heard in zip(requests, run(inference, requests), strict=True):
        assert heard.ids == plainly(exact_base, adapters.get(request.adapter), request)


def test_a_kept_beginning_is_not_another_cartridges(exact_base: Base) -> None:
    adapters: dict[Any, Adapter] = {i: strong(exact_base, Cartridge(tokens=6), i) for i in range(2)}
    inference = Inference(Engine(exact_base), adapters.__getitem__, prefix_tokens=500)
    ids = tuple(ids_of(40, 3))
    for key in (0, 1, None, 0):
        request = Request((*ids, 5), adapter=key, max_tokens=6)
        (heard,) = run(inference, [request])
        assert heard.ids == plainly(exact_base, adapters.get(key), request)
    assert inference.stats()["prefix_tokens_reused_total"] == 40


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_cartridges_give_what_they_give_on_a_cpu(tiny_base: Base) -> None:
    found = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float32), ("cuda", torch.bfloat16)):
        model = copy.deepcopy(tiny_base.model).to(device, dtype)
        attention.use(model)
        base = replace(tiny_base, model=model, device=Device(device, dtype, "a test's device"))
        engine = Engine(base)
        seats = company(engine)
        rows = some_rows([None, *seats])
        forward_backward(engine, rows)
        found.append((torch.cat(logprobs(engine, rows)).float().cpu(), torch.cat(gradients(seats)).float().cpu()))
        adapters = {i: seat.adapter for i, seat in enumerate(seats)}
        inference = Inference(Engine(base), adapters.__getitem__, step_tokens=40, max_rows=5)
        heard = run(inference, some_requests([None, *adapters], 12))
        if dtype == torch.float32:
            found[-1] = (*found[-1], [h.ids for h in heard])
    assert found[0][2] == found[1][2]
    for logprobs_N, grads_P, *_ in found[1:]:
        torch.testing.assert_close(logprobs_N, found[0][0], atol=0.3, rtol=0.05)
        assert torch.nn.functional.cosine_similarity(grads_P, found[0][1], dim=0) > 0.97
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-3, rtol=1e-3)
