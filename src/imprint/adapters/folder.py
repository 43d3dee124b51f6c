"""Adapters on disk: PEFT folders (adapter_config.json and safetensors), so that other tools open them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from imprint.adapters.low_rank import LoRA
from imprint.errors import BadInput
from imprint.types import Adapter

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def write(adapter: Adapter, folder: Path) -> None:
    """Writes an adapter into a folder. The base's name and revision stand in the file's metadata too."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = spec_of(adapter)
    made_for = json.dumps({"base": adapter.base, "revision": adapter.revision}, sort_keys=True)
    # One entry only: safetensors writes several in random order, and equal adapters must be equal files.
    save_file({k: t.contiguous() for k, t in adapter.tensors.items()}, folder / WEIGHTS, {"imprint": made_for})
    config = spec.peft_config(adapter.base, sorted(_layers(adapter)))
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def read(folder: Path) -> Adapter:
    """The adapter in a PEFT folder. Raises BadInput for a method that imprint does not know."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise BadInput(f"{folder} is not an adapter folder that can be opened: {error}") from error
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("use_rslora"):
        raise BadInput(
            f"{folder} holds an adapter of PEFT's kind {config.get('peft_type')} with options that imprint "
            "does not serve yet. Plain LoRA adapters can be imported."
        )
    for option in ("rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out"):
        if config.get(option):
            raise BadInput(f"{folder} holds a LoRA adapter with PEFT's {option}, which imprint does not serve yet.")
    spec = {
        "kind": "lora",
        "rank": int(config["r"]),
        "alpha": float(config["lora_alpha"]),
        "targets": tuple(sorted({name.split(".")[-3] for name in tensors})),
        "top_layers": len(config.get("layers_to_transform") or ()) or None,
    }
    made_for = json.loads(metadata.get("imprint", "{}"))
    base = made_for.get("base") or str(config.get("base_model_name_or_path") or "")
    return Adapter(base, made_for.get("revision", ""), spec, tensors)


def spec_of(adapter: Adapter) -> LoRA:
    """The settings an adapter was made with."""
    settings = {k: v for k, v in adapter.spec.items() if k != "kind"}
    return LoRA(**{**settings, "targets": tuple(settings["targets"])})


def _layers(adapter: Adapter) -> set[int]:
    return {int(part) for name in adapter.tensors for part in name.split(".") if part.isdigit()}
