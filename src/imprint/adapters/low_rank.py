"""Adapters inside a linear layer: LoRA.

Shape key: I inputs, O outputs, R rank; `...` any leading dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from imprint.base import Base
from imprint.errors import BadInput, BadSetting, WrongBase
from imprint.types import Adapter

_PEFT_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class LoRA:
    """y = W x + alpha / rank * B (A x), with W frozen (Hu et al. 2021, arXiv 2106.09685, section 4.1)."""

    rank: int = 16
    """Width of the bottleneck."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Last names of the linear layers; by default all of a Llama-like block, for the MLP stores facts."""
    top_layers: int | None = None
    """Only so many of the uppermost blocks; None takes all."""
    kind: str = "lora"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadSetting(f"The rank of a LoRA must be 1 or more; got {self.rank}.")
        if not self.targets:
            raise BadSetting("A LoRA needs at least one target layer, such as 'q_proj'.")

    def fresh(self, base: Base, *, seed: int) -> Adapter:
        """An untrained adapter: A as PEFT starts it (Kaiming uniform), B zero, so that nothing changes yet."""
        draw = torch.Generator().manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {}
        for name, linear in self._linears(base.model):
            bound = math.sqrt(1 / linear.in_features)  # Kaiming uniform with a = sqrt(5)
            down_RI = torch.empty(self.rank, linear.in_features).uniform_(-bound, bound, generator=draw)
            tensors[f"{_PEFT_PREFIX}{name}{_DOWN}"] = down_RI
            tensors[f"{_PEFT_PREFIX}{name}{_UP}"] = torch.zeros(linear.out_features, self.rank)
        if not tensors:
            raise BadSetting(
                f"{base.name} has no linear layer named {' or '.join(self.targets)}. "
                "Set [adapter] targets to names that it has."
            )
        return Adapter(base.name, base.revision, asdict(self), tensors)

    def peft_config(self, base_name: str, layers: Sequence[int]) -> dict[str, Any]:
        """What PEFT's adapter_config.json says of this adapter, which sits in these blocks."""
        config: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_name,
            "r": self.rank,
            "lora_alpha": float(self.alpha),
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "target_modules": sorted(self.targets),
        }
        if self.top_layers is not None:
            config |= {"layers_to_transform": list(layers), "layers_pattern": "layers"}
        return config

    def _linears(self, model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
        """The linear layers that take part, in the model's order."""
        blocks = int(model.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
        first = 0 if self.top_layers is None else blocks - self.top_layers
        for name, module in model.named_modules():
            block = next((int(part) for part in name.split(".") if part.isdigit()), 0)
            if isinstance(module, nn.Linear) and name.split(".")[-1] in self.targets and block >= first:
                yield name, module


@dataclass(frozen=True)
class Layout:
    """Where each of an adapter's tensors lies in one flat vector. Adapters of one layout can share a rack."""

    rank: int
    shapes: tuple[tuple[str, int, int], ...]
    """Name, inputs and outputs of each layer that takes part, in the model's order."""

    @cached_property
    def layers(self) -> dict[str, tuple[int, int, int]]:
        """By name: where the layer begins, its inputs and its outputs."""
        found: dict[str, tuple[int, int, int]] = {}
        at = 0
        for name, inputs, outputs in self.shapes:
            found[name] = (at, inputs, outputs)
            at += self.rank * (inputs + outputs)
        return found

    @cached_property
    def size(self) -> int:
        """Parameters in all."""
        return sum(self.rank * (inputs + outputs) for _, inputs, outputs in self.shapes)

    @cached_property
    def first_block(self) -> int:
        """The lowest of the model's blocks that takes part."""
        return min(next((int(part) for part in name.split(".") if part.isdigit()), 0) for name in self.layers)

    def views(self, layer: str, flat_SP: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """down_SRI and up_SOR of a layer, for adapters whose flat vectors are the rows; up lies there as S, R, O,
        which CPUs multiply faster."""
        at, I, O = self.layers[layer]  # noqa: E741
        S, R = flat_SP.shape[0], self.rank
        down_SRI = flat_SP[:, at : at + R * I].view(S, R, I)
        return down_SRI, flat_SP[:, at + R * I : at + R * (I + O)].view(S, R, O).mT

    def named(self, flat_P: torch.Tensor) -> dict[str, torch.Tensor]:
        """A flat vector as tensors by PEFT's names: views."""
        tensors: dict[str, torch.Tensor] = {}
        for layer in self.layers:
            down_1RI, up_1OR = self.views(layer, flat_P[None])
            tensors |= {f"{_PEFT_PREFIX}{layer}{_DOWN}": down_1RI[0], f"{_PEFT_PREFIX}{layer}{_UP}": up_1OR[0]}
        return tensors

    def write(self, tensors: Mapping[str, torch.Tensor], flat_P: torch.Tensor) -> None:
        for name, view in self.named(flat_P).items():
            view.copy_(tensors[name])

    def scale(self, adapter: Adapter) -> float:
        return float(adapter.spec["alpha"]) / self.rank


def layout_of(base: Base, adapter: Adapter) -> Layout:
    """The adapter's layout on this base. Raises WrongBase where its tensors do not fit the base's layers."""
    shapes = []
    for name, layer in base.model.named_modules():
        down_RI = adapter.tensors.get(f"{_PEFT_PREFIX}{name}{_DOWN}")
        if down_RI is None:
            continue
        up_OR = adapter.tensors[f"{_PEFT_PREFIX}{name}{_UP}"]
        if down_RI.shape[1] != layer.in_features or up_OR.shape[0] != layer.out_features:
            raise WrongBase(
                f"The adapter's tensors are made for {down_RI.shape[1]} inputs and {up_OR.shape[0]} outputs; "
                f"this base's layer has {layer.in_features} and {layer.out_features}."
            )
        if not any(part.isdigit() for part in name.split(".")):
            raise BadInput(f"The adapter changes {name}, which is outside of the base's blocks. Teach it without.")
        if not down_RI.shape[0] == up_OR.shape[1] == adapter.spec["rank"]:
            raise BadInput(f"The adapter's rank is {adapter.spec['rank']}, but its tensors at {name} have another.")
        shapes.append((name, int(down_RI.shape[1]), int(up_OR.shape[0])))
    if 2 * len(shapes) != len(adapter.tensors):
        raise WrongBase(f"The adapter has tensors for layers that {base.name} does not have.")
    return Layout(int(adapter.spec["rank"]), tuple(shapes))


def refuse_other_base(base: Base, adapter: Adapter) -> None:
    """Raises WrongBase unless the adapter was made for this base."""
    if adapter.revision and adapter.revision != base.revision:
        raise WrongBase(
            f"The adapter was trained on {adapter.base} ({adapter.revision}), but the base in memory is "
            f"{base.name} ({base.revision}). Load that base, or teach the documents again on this one."
        )
