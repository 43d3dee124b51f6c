"""An adapter in imprint gives what PEFT gives with the same files, and what the merged weights give."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from imprint import attention
from imprint.adapters import folder
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine
from imprint.types import Adapter

TOP_LAYERS = pytest.mark.parametrize("top_layers", [None, 1])


def trained(base: Base, **settings: Any) -> tuple[LoRA, Adapter]:
    """An adapter that changes the output much."""
    spec = LoRA(rank=4, alpha=12, **settings)
    draw = torch.Generator().manual_seed(2)
    fresh = spec.fresh(base, seed=1)
    tensors = {k: 0.1 * torch.randn(t.shape, generator=draw) for k, t in fresh.tensors.items()}
    return spec, replace(fresh, tensors=tensors)


def other(base: Base, dtype: torch.dtype) -> Base:
    """A copy of the base that shares nothing with it."""
    return replace(base, model=copy.deepcopy(base.model).to(dtype))


def through_peft(base: Base, adapter: Adapter, path: Path, dtype: torch.dtype) -> Any:
    """PEFT's model of the adapter's folder, on its own copy of the base and PyTorch's own attention."""
    folder.write(adapter, path)
    reference = other(base, dtype).model
    reference.set_attn_implementation("sdpa")
    return PeftModel.from_pretrained(reference, path, is_trainable=True).to(dtype).eval()


def tokens(base: Base) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.randint(0, len(base.tokenizer), (2, 17), generator=draw)


@TOP_LAYERS
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_an_adapter_gives_the_logits_that_peft_gives(
    tiny_base: Base, tmp_path: Path, top_layers: int | None, dtype: torch.dtype, atol: float
) -> None:
    spec, adapter = trained(tiny_base, top_layers=top_layers)
    peft = through_peft(tiny_base, adapter, tmp_path, dtype)
    ours = other(tiny_base, dtype)
    tokens_BT = tokens(tiny_base)
    with Engine(ours).attached(adapter), torch.no_grad():
        torch.testing.assert_close(ours.model(tokens_BT).logits, peft(tokens_BT).logits, atol=atol, rtol=0)


@TOP_LAYERS
def test_gradients_of_a_and_b_are_those_of_peft(
    tiny_base: Base, tmp_path: Path, top_layers: int | None
) -> None:
    spec, adapter = trained(tiny_base, top_layers=top_layers)
    peft = through_peft(tiny_base, adapter, tmp_path, torch.float64)
    ours = other(tiny_base, torch.float64)
    tokens_BT = tokens(tiny_base)
    with Engine(ours).attached(adapter, trainable=True) as seat:
        for model in (ours.model, peft):
            model(tokens_BT).logits.log_softmax(-1)[..., 7].mean().backward()
        theirs = {n.replace(".default", ""): p.grad for n, p in peft.named_parameters() if p.requires_grad}
        gradients = seat.tensors(seat.grads_P)
        assert theirs.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, theirs[name], atol=1e-12, rtol=1e-9)


def test_an_adapter_gives_what_the_merged_weights_give(tiny_base: Base) -> None:
    spec, adapter = trained(tiny_base)
    merged, ours = other(tiny_base, torch.float64), other(tiny_base, torch.float64)
    for key in [k for k in adapter.tensors if ".lora_A." in k]:
        layer = merged.model.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        down_RI, up_OR = adapter.tensors[key].double(), adapter.tensors[key.replace("_A.", "_B.")].double()
        layer.weight += spec.alpha / spec.rank * up_OR @ down_RI
    tokens_BT = tokens(tiny_base)
    with Engine(ours).attached(adapter), torch.no_grad():
        torch.testing.assert_close(ours.model(tokens_BT).logits, merged.model(tokens_BT).logits, atol=1e-9, rtol=0)


def test_a_detached_adapter_leaves_no_trace(tiny_base: Base) -> None:
    spec, adapter = trained(tiny_base)
    with torch.no_grad():
        before = tiny_base.model(tokens(tiny_base)).logits
        with Engine(tiny_base).attached(adapter):
            assert not torch.equal(tiny_base.model(tokens(tiny_base)).logits, before)
        assert torch.equal(tiny_base.model(tokens(tiny_base)).logits, before)
    assert not any(p.requires_grad for p in tiny_base.model.parameters())


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("training", [False, True])
def test_grouped_attention_gives_what_sdpa_gives(tiny_base: Base, padding: str, training: bool) -> None:
    ours, theirs = other(tiny_base, torch.float32).model, other(tiny_base, torch.float32).model
    attention.use(ours)
    theirs.set_attn_implementation("sdpa")
    tokens_BT = tokens(tiny_base)
    seen_BT = torch.ones_like(tokens_BT)
    if padding != "none":
        seen_BT[0, : 5 if padding == "left" else None] = 0
        seen_BT[0, : 12 if padding == "right" else 0] = 1
    found = []
    for model in (ours, theirs):
        inputs_BTD = model.get_input_embeddings()(tokens_BT).detach().requires_grad_(training)
        mask = None if padding == "none" else seen_BT
        logits_BTV = model(inputs_embeds=inputs_BTD, attention_mask=mask, use_cache=False).logits
        if training:
            logits_BTV[seen_BT.bool()].log_softmax(-1)[:, 3].sum().backward()
        found.append((logits_BTV[seen_BT.bool()].detach(), inputs_BTD.grad))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=0)
    if training:
        torch.testing.assert_close(found[0][1], found[1][1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("keys", [5, 300])
def test_one_query_in_bfloat16_sees_its_keys_as_exactly_as_sdpa(keys: int) -> None:
    draw = torch.Generator().manual_seed(keys)
    query, key, value = (3 * torch.randn(4, n, t, 16, generator=draw) for n, t in ((6, 1), (2, keys), (2, keys)))
    mask = torch.zeros(4, 1, 1, keys).masked_fill_(torch.rand(4, 1, 1, keys, generator=draw) < 0.3, float("-inf"))
    brief = [x.bfloat16() for x in (query, key, value, mask)]
    exact = [x.double() for x in brief]
    wanted = sdpa(*exact[:3], attn_mask=exact[3], scale=0.25, enable_gqa=True)
    theirs = sdpa(*brief[:3], attn_mask=brief[3], scale=0.25, enable_gqa=True)
    found = attention.reading(*brief, 0.25)
    assert (found - wanted).norm() < 1.5 * (theirs - wanted).norm()


def test_grouped_attention_reads_on_from_a_cache_as_if_it_read_at_once(tiny_base: Base) -> None:
    tokens_BT = tokens(tiny_base)
    with torch.no_grad():
        whole = tiny_base.model(tokens_BT).logits
        first = tiny_base.model(tokens_BT[:, :9], use_cache=True)
        rest = tiny_base.model(tokens_BT[:, 9:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole, atol=1e-4, rtol=0)


@TOP_LAYERS
def test_a_folder_gives_back_the_adapter_that_was_written(
    tiny_base: Base, tmp_path: Path, top_layers: int | None
) -> None:
    spec, adapter = trained(tiny_base, top_layers=top_layers)
    folder.write(adapter, tmp_path)
    kept = folder.read(tmp_path)
    assert (kept.base, kept.revision) == (adapter.base, adapter.revision)
    assert kept.tensors.keys() == adapter.tensors.keys()
    assert all(torch.equal(kept.tensors[k], adapter.tensors[k]) for k in kept.tensors)


def test_an_adapter_of_the_top_layers_still_names_them_after_it_was_read_and_written(
    tiny_base: Base, tmp_path: Path
) -> None:
    _, adapter = trained(tiny_base, top_layers=1)
    folder.write(adapter, tmp_path / "one")
    folder.write(folder.read(tmp_path / "one"), tmp_path / "two")
    assert (tmp_path / "two" / folder.CONFIG).read_text() == (tmp_path / "one" / folder.CONFIG).read_text()


@pytest.mark.base
def test_on_the_bundled_base_an_adapter_gives_the_logits_that_peft_gives(
    bundled_base: Base, tmp_path: Path
) -> None:
    spec = LoRA(rank=4, alpha=8, top_layers=3)
    fresh = spec.fresh(bundled_base, seed=1)
    draw = torch.Generator().manual_seed(2)
    tensors = {k: t + 0.02 * torch.randn(t.shape, generator=draw) for k, t in fresh.tensors.items()}
    adapter = replace(fresh, tensors=tensors)
    peft = through_peft(bundled_base, adapter, tmp_path, torch.float32)
    tokens_BT = tokens(bundled_base)
    with torch.no_grad():
        without = bundled_base.model(tokens_BT).logits
        with Engine(bundled_base).attached(adapter):
            ours = bundled_base.model(tokens_BT).logits
        torch.testing.assert_close(ours, peft(tokens_BT).logits, atol=2e-3, rtol=0)
    assert (ours - without).abs().max() > 0.1
