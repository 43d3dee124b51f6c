"""Adapters on disk: PEFT folders (adapter_config.json and safetensors), so that other tools open them.

Methods that PEFT does not know have folders of the same form: docs/adapter-format.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from imprint.adapters import KINDS
from imprint.adapters.layout import Layout, settings_of
from imprint.base import Base
from imprint.errors import BadInput
from imprint.types import Adapter

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def write(adapter: Adapter, folder: Path) -> None:
    """Writes an adapter into a folder. The base's name and revision stand in the file's metadata too."""
    _write(adapter, spec_of(adapter).config(adapter), adapter.tensors, folder)


def write_for_peft(adapter: Adapter, base: Base, folder: Path) -> None:
    """The same with all that PEFT needs to open it: what a kind leaves out because the base tells it is written
    too. Raises BadInput for a kind that PEFT does not know."""
    spec = spec_of(adapter)
    if hasattr(spec, "opened"):
        config, tensors = spec.opened(adapter, base)
        _write(adapter, config, tensors, folder)
    elif spec.PEFT_TYPE.startswith("IMPRINT_"):
        raise BadInput(f"PEFT has no method like {spec.kind}. Export it without --peft; imprint opens that.")
    else:
        write(adapter, folder)


def rounded(adapter: Adapter, base: Base, store: str) -> Adapter:
    """The adapter as it is published: its trained tensors in 'float32' or 'bfloat16'. What is frozen with them
    stays exact, for among it are numbers that must not move (a memory's slots)."""
    layout, dtype = layout_of(base, adapter), getattr(torch, store)
    trained = _trained(layout) if layout.trainable < layout.size else set(adapter.tensors)
    return replace(adapter, tensors={k: t.to(dtype) if k in trained else t for k, t in adapter.tensors.items()})


def read(folder: Path) -> Adapter:
    """The adapter in a folder. Raises BadInput for a method that imprint does not know."""
    for name in (CONFIG, WEIGHTS):
        # Opening a pipe would wait for ever.
        if not (folder / name).is_file():
            raise BadInput(f"{folder} is not an adapter folder that can be opened: it has no file {name}.")
    try:
        config = _table(json.loads((folder / CONFIG).read_text("utf-8")), CONFIG)
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            made_for = _table(json.loads((file.metadata() or {}).get("imprint", "{}")), "its metadata")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise BadInput(f"{folder} is not an adapter folder that can be opened: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise BadInput(f"{folder} cannot be opened. Its tensor {name} is of the type {tensor.dtype}.")
    kind = next((k for k in KINDS.values() if config.get("peft_type") in _types(k)), None)
    if kind is None:
        known = ", ".join(sorted({t for k in KINDS.values() for t in _types(k)}))
        raise BadInput(
            f"{folder} holds an adapter of PEFT's kind {config.get('peft_type')}, which imprint does not serve. "
            f"It opens {known}."
        )
    try:
        spec = kind.from_config(config, tensors)
    except BadInput as error:
        raise BadInput(f"{folder} cannot be opened. {error}") from error
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{folder / CONFIG} does not tell what imprint must know of it: {error}") from error
    base = str(made_for.get("base") or config.get("base_model_name_or_path") or "")
    settings = {field.name: getattr(spec, field.name) for field in fields(spec)}
    return Adapter(base, str(made_for.get("revision") or ""), settings, tensors)


def spec_of(adapter: Adapter) -> Any:
    """The settings an adapter was made with, as an object of its kind."""
    return KINDS[adapter.spec["kind"]](**settings_of(adapter))


def layout_of(base: Base, adapter: Adapter) -> Layout:
    """How the adapter lies in memory on this base. Raises WrongBase or BadInput where it does not fit."""
    layout: Layout = KINDS[adapter.spec["kind"]].layout_of(base, adapter)
    return layout


def size_bytes(folder: Path) -> int:
    """What an adapter's folder takes on disk."""
    return sum((folder / name).stat().st_size for name in (WEIGHTS, CONFIG))


def _write(adapter: Adapter, config: dict[str, Any], tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made_for = json.dumps({"base": adapter.base, "revision": adapter.revision}, sort_keys=True)
    # One entry only: safetensors writes several in random order, and equal adapters must be equal files.
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / WEIGHTS, {"imprint": made_for})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _table(found: Any, where: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"{where} holds no object")
    return found


def _trained(layout: Any) -> set[str]:
    """Names of the tensors that hold anything that is trained."""
    mask_1P = torch.zeros(1, layout.size)
    for layer in layout.layers:
        for part, learnt in zip(layout.parts(layer, mask_1P), layout.learnt, strict=True):
            part.fill_(float(learnt))
    return {name for name, mask in layout.named(mask_1P[0]).items() if mask.any()}


def _types(kind: Any) -> tuple[str, ...]:
    return kind.PEFT_TYPE if isinstance(kind.PEFT_TYPE, tuple) else (kind.PEFT_TYPE,)
