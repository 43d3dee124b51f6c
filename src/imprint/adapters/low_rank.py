"""Adapters inside a linear layer: LoRA. What is frozen to a base's own directions: see frames.py.

Shape key: I inputs, O outputs, R rank; `...` any leading dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from imprint.adapters.layout import (
    ALL_LINEAR,
    PEFT_PREFIX,
    FlatLayout,
    Shapes,
    block_of,
    settings_of,
    some_linears,
)
from imprint.base import Base
from imprint.errors import BadInput, BadSetting, WrongBase
from imprint.types import NO_MATERIAL, Adapter, Material

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""How the names of the two factors end: A reads the layer's input, B writes its output."""
_MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin a LoRA, by PEFT's names, that change the base's weights."""


@dataclass(frozen=True, slots=True)
class LoRA:
    """y = W x + alpha / rank * B (A x), with W frozen (Hu et al. 2021, arXiv 2106.09685, section 4.1)."""

    LR: ClassVar[float] = 2e-3
    SIZES: ClassVar[tuple[Mapping[str, Any], ...]] = ({"rank": 1}, {"rank": 8}, {"rank": 64})
    PEFT_TYPE: ClassVar[str] = "LORA"

    rank: int = 16
    """Width of the bottleneck."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank), which keeps large ranks learning (Kalajdzievski 2023, arXiv 2312.03732)."""
    targets: tuple[str, ...] = ALL_LINEAR
    """Last names of the linear layers; by default all of a Llama-like block, for the MLP stores facts."""
    top_layers: int | None = None
    """Only so many of the uppermost blocks; None takes all."""
    kind: str = "lora"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadSetting(f"The rank of a LoRA must be 1 or more; got {self.rank}.")
        if not math.isfinite(self.alpha):
            raise BadSetting(f"The alpha of a LoRA must be a number; got {self.alpha}.")
        if not self.targets:
            raise BadSetting("A LoRA needs at least one target layer, such as 'q_proj'.")

    @property
    def scale(self) -> float:
        """What B A is multiplied by: alpha / rank, or alpha / sqrt(rank)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def fresh(self, base: Base, *, seed: int, material: Material = NO_MATERIAL) -> Adapter:
        """An untrained adapter: A as PEFT starts it (Kaiming uniform), B zero, so that nothing changes yet."""
        draw = torch.Generator().manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {}
        for name, linear in some_linears(base, self.targets, self.top_layers):
            bound = math.sqrt(1 / linear.in_features)  # Kaiming uniform with a = sqrt(5)
            down_RI = torch.empty(self.rank, linear.in_features).uniform_(-bound, bound, generator=draw)
            tensors[f"{PEFT_PREFIX}{name}{DOWN}"] = down_RI
            tensors[f"{PEFT_PREFIX}{name}{UP}"] = torch.zeros(linear.out_features, self.rank)
        return Adapter(base.name, base.revision, asdict(self), tensors)

    @staticmethod
    def layout_of(base: Base, adapter: Adapter) -> Layout:
        """The adapter's layout on this base. Raises WrongBase where its tensors do not fit the base's layers."""
        return layout_of(base, adapter)

    def config(self, adapter: Adapter) -> dict[str, Any]:
        """What PEFT's adapter_config.json says of the adapter."""
        its = {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": float(self.alpha),
            "lora_dropout": 0.0,
            "use_rslora": self.rslora,
        }
        return linear_config(self, adapter.base) | in_blocks(self, adapter.tensors) | its

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> LoRA:
        """The settings that such a file tells. Raises BadInput for options that imprint does not serve."""
        if config.get("use_dora"):
            raise BadInput("It is a DoRA adapter, which imprint does not serve. Plain LoRA is.")
        # Each changes what the tensors do, or which weights they are added to.
        for option in ("rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "lora_bias",
                       "layer_replication", "target_parameters", "alora_invocation_tokens", "use_qalora",
                       "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"):  # fmt: skip
            if config.get(option):
                raise BadInput(f"It is a LoRA adapter with PEFT's {option}, which imprint does not serve yet.")
        begun = str(config.get("init_lora_weights")).lower()
        if begun.startswith(_MOVES_BASE):
            raise BadInput(
                f"It is a LoRA that began with {begun}, which changes the base's own weights too. Save it with "
                "PEFT's path_initial_model_for_weight_conversion: then it is a plain one."
            )
        if any(not name.endswith((DOWN, UP)) for name in tensors):
            other = next(name for name in tensors if not name.endswith((DOWN, UP)))
            raise BadInput(f"It has a tensor {other}, which is no factor of a linear layer.")
        return cls(
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            rslora=bool(config.get("use_rslora")),
            targets=tuple(sorted({name.split(".")[-3] for name in tensors})),
            top_layers=len(config.get("layers_to_transform") or ()) or None,
        )


def linear_config(spec: Any, base_name: str) -> dict[str, Any]:
    """What adapter_config.json says of any method that updates a spec's targets."""
    return {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(spec.targets),
    }


def in_blocks(spec: Any, names: Iterable[str]) -> dict[str, Any]:
    """What it says besides where only some blocks take part: those of these names."""
    if spec.top_layers is None:
        return {}
    return {"layers_to_transform": sorted({block_of(name) for name in names}), "layers_pattern": "layers"}


@dataclass(frozen=True)
class Layout(FlatLayout):
    """Where each of an adapter's tensors lies in one flat vector. Adapters of one layout can share a rack."""

    rank: int
    shapes: Shapes

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

    @property
    def learnt(self) -> tuple[bool, ...]:
        """Both of the views."""
        return True, True

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
            tensors |= {f"{PEFT_PREFIX}{layer}{DOWN}": down_1RI[0], f"{PEFT_PREFIX}{layer}{UP}": up_1OR[0]}
        return tensors

    def scale(self, adapter: Adapter) -> float:
        """See LoRA.scale."""
        return LoRA(**settings_of(adapter)).scale


def layout_of(base: Base, adapter: Adapter) -> Layout:
    """The adapter's layout on this base. Raises WrongBase where its tensors do not fit the base's layers."""
    shapes = []
    for name, layer in base.model.named_modules():
        down_RI = adapter.tensors.get(f"{PEFT_PREFIX}{name}{DOWN}")
        if down_RI is None:
            continue
        up_OR = adapter.tensors.get(f"{PEFT_PREFIX}{name}{UP}")
        if up_OR is None or not isinstance(layer, nn.Linear) or not down_RI.dim() == up_OR.dim() == 2:
            raise WrongBase(
                f"The adapter's tensors at {name} are no pair of factors of a linear layer of {base.name}."
            )
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
