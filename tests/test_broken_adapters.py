"""Adapter folders from anywhere: each that cannot be used is one sentence of ours, never a traceback."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from imprint import adapters
from imprint.adapters import folder
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadInput, WrongBase
from test_kinds import MATERIAL, SETTINGS

Tensors = dict[str, torch.Tensor]
OURS = [k for k, v in adapters.KINDS.items() if str(v.PEFT_TYPE).startswith("IMPRINT_") or k == "tiny_lora"]


@pytest.fixture(params=adapters.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def written(kind: str, base: Base, where: Path) -> Path:
    spec = adapters.KINDS[kind](**{"tokens": 8} if kind == "cartridge" else SETTINGS.get(kind, {}))
    folder.write(spec.fresh(base, seed=0, material=MATERIAL), where)
    return where


def refused(base: Base, where: Path) -> None:
    with pytest.raises((BadInput, WrongBase)):
        Engine(base, slots=1).load(folder.read(where))


def config_with(where: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((where / folder.CONFIG).read_text())
    (where / folder.CONFIG).write_text(json.dumps(change(config) or config))


def tensors_with(where: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = load_file(where / folder.WEIGHTS)
    save_file(change(tensors) or tensors, where / folder.WEIGHTS)


def first(tensors: Tensors) -> str:
    return min(tensors)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop(first(t)) is None,
        lambda t: t.update(more=torch.zeros(3)),
        lambda t: t.update({"base_model.model.model.layers.99.mlp.up_proj.lora_A.weight": torch.zeros(4, 4)}),
        lambda t: t.update({first(t): torch.zeros(())}),
        lambda t: t.update({first(t): torch.zeros(1, 2, 3)}),
        lambda t: t.update({first(t): torch.full_like(t[first(t)], float("nan"))}),
        lambda t: t.update({first(t): t[first(t)].to(torch.float8_e4m3fn)}),
        lambda t: t.update({first(t): t[first(t)].bool()}),
        lambda t: t.clear(),
    ],
)
def test_tensors_that_do_not_belong_are_refused(change: Any, kind: str, tiny_base: Base, tmp_path: Path) -> None:
    where = written(kind, tiny_base, tmp_path)
    tensors_with(where, lambda t: change(t) and None)
    refused(tiny_base, where)


@pytest.mark.parametrize(
    "text", ["[]", "{", "3", "[" * 100_000, '{"peft_type": ["LORA"]}', '{"peft_type": "IA3"}', "{}"]
)
def test_a_config_that_is_none_is_refused(text: str, kind: str, tiny_base: Base, tmp_path: Path) -> None:
    (written(kind, tiny_base, tmp_path) / folder.CONFIG).write_text(text)
    refused(tiny_base, tmp_path)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("value", ["16", 2.5, True, [1], {}, float("nan"), 10**18, -1, "q_proj"])
def test_settings_of_another_type_or_range_are_refused(
    value: Any, kind: str, tiny_base: Base, tmp_path: Path
) -> None:
    config = json.loads((written(kind, tiny_base, tmp_path) / folder.CONFIG).read_text())
    for key, right in config["imprint"].items():
        number = type(value) in (int, float) and isinstance(right, float) and value == value
        # Any alpha will do; more blocks than there are mean all; a tying of 2.5 or -1 is out of range.
        right_already = type(value) is type(right) and value == right
        if (
            right_already
            or key in ("kind", "top_layers")
            or (key == "alpha" and number)
            or (key == "blocks" and value == 10**18)
        ):
            continue
        config_with(tmp_path, lambda c, key=key: {**c, "imprint": {**config["imprint"], key: value}})  # type: ignore[misc]
        refused(tiny_base, tmp_path)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("told", [None, [], 3, {"more": 1}])
def test_settings_that_are_no_table_of_the_kind_s_own_are_refused(
    told: Any, kind: str, tiny_base: Base, tmp_path: Path
) -> None:
    config_with(written(kind, tiny_base, tmp_path), lambda c: {**c, "imprint": told})
    refused(tiny_base, tmp_path)


@pytest.mark.parametrize(
    "told",
    [
        {"r": None}, {"r": "x"}, {"r": 10**30}, {"lora_alpha": float("nan")}, {"lora_alpha": float("inf")}, {"r": 3},
        {"init_lora_weights": "pissa_niter_4"}, {"init_lora_weights": "olora"}, {"alora_invocation_tokens": [1, 2]},
        {"layer_replication": [[0, 2], [1, 2]]}, {"lora_bias": True}, {"use_dora": True},
    ],
)  # fmt: skip
def test_a_lora_that_is_no_plain_one_is_refused(told: dict[str, Any], tiny_base: Base, tmp_path: Path) -> None:
    config_with(written("lora", tiny_base, tmp_path), lambda c: {**c, **told})
    refused(tiny_base, tmp_path)


def test_a_lora_beside_something_that_is_no_linear_layer_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    where = written("lora", tiny_base, tmp_path)
    prefix = "base_model.model.model.layers.0.mlp"
    tensors_with(
        where,
        lambda t: t.update(
            {f"{prefix}.lora_A.weight": torch.zeros(16, 4), f"{prefix}.lora_B.weight": torch.zeros(4, 16)}
        ),
    )
    refused(tiny_base, where)


def test_metadata_that_is_no_table_is_refused(kind: str, tiny_base: Base, tmp_path: Path) -> None:
    where = written(kind, tiny_base, tmp_path)
    for told in ("[1]", "{", "3"):
        save_file(load_file(where / folder.WEIGHTS), where / folder.WEIGHTS, {"imprint": told})
        refused(tiny_base, where)


@pytest.mark.parametrize("change", [lambda t: t.flip(0), lambda t: t + 0.5, lambda t: t + 1e6, lambda t: t * 0])
def test_a_memory_whose_slots_are_no_rising_ids_is_refused(change: Any, tiny_base: Base, tmp_path: Path) -> None:
    where = written("memory", tiny_base, tmp_path)
    tensors_with(where, lambda t: {k: change(v).contiguous() if k.endswith("slots") else v for k, v in t.items()})
    refused(tiny_base, where)


def test_a_frame_wider_than_the_base_s_layers_is_refused_before_it_is_found(
    tiny_base: Base, tmp_path: Path
) -> None:
    where = written("tiny_lora", tiny_base, tmp_path)
    config_with(where, lambda c: {**c, "imprint": {**c["imprint"], "rank": 4096}})
    refused(tiny_base, where)
