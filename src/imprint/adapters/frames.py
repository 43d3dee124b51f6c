"""Adapters between frozen frames of a linear layer's own main directions: LoRA-XS and TinyLoRA.

A frame is a truncated singular value decomposition of the layer's weights, W = U S V': with A = sqrt(S) V' and
B = U sqrt(S) the update is B C (A x). Only the core C is learnt (LoRA-XS), or a few numbers from which it follows
(TinyLoRA), so that an adapter of a whole model takes kilobytes, or bytes.

Frames come from the weights rounded to bfloat16, so that a base loaded in any precision has the same ones; the
largest entry of each column of U is positive. They are kept in the cache folder.

Shape key: I inputs, O outputs, R rank, U numbers a group, T groups, S slots, G adapters, M rows."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file

from imprint.adapters.layout import ALL_LINEAR, PEFT_PREFIX, FlatLayout, Shapes, refuse_other_shapes, shapes_of
from imprint.adapters.low_rank import LoRA, in_blocks, linear_config
from imprint.adapters.own_format import OwnFormat, own_settings
from imprint.base import Base
from imprint.errors import BadInput, BadSetting
from imprint.home import cache_folder
from imprint.types import NO_MATERIAL, Adapter, Material, content_hash

_CORE, _TINY = ".lora_xs.core", "base_model.tinylora_v."
_SEED = 42
"""From which TinyLoRA's projections are drawn, as in PEFT."""


@dataclass(frozen=True, slots=True)
class LoRAXS(OwnFormat):
    """y = W x + alpha / rank * B C (A x), with C learnt, the rest frozen (Bałazy et al. 2024, arXiv 2405.17604)."""

    LR: ClassVar[float] = 4e-3
    SIZES: ClassVar[tuple[Mapping[str, Any], ...]] = ({"rank": 4}, {"rank": 16}, {"rank": 64})
    PEFT_TYPE: ClassVar[str] = "IMPRINT_LORA_XS"

    rank: int = 16
    """Width of the frame; rank squared numbers are learnt for each layer."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] = ALL_LINEAR
    """Last names of the linear layers."""
    top_layers: int | None = None
    """Only so many of the uppermost blocks; None takes all."""
    kind: str = "lora_xs"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadSetting(f"The rank of a LoRA-XS must be 1 or more; got {self.rank}.")

    def fresh(self, base: Base, *, seed: int, material: Material = NO_MATERIAL) -> Adapter:
        """An untrained adapter: cores of zero, which learn as well as the paper's that are next to it."""
        tensors = {}
        layout = Cores(self.rank, shapes_of(base, self.targets, self.top_layers))
        layout.refuse_wide()
        for name in layout.layers:
            tensors[f"{PEFT_PREFIX}{name}{_CORE}"] = torch.zeros(self.rank, self.rank)
        return Adapter(base.name, base.revision, asdict(self), tensors)

    @staticmethod
    def layout_of(base: Base, adapter: Adapter) -> Cores:
        """The adapter's layout on this base. Raises WrongBase where its tensors do not fit."""
        spec = adapter.spec
        layout = Cores(spec["rank"], shapes_of(base, spec["targets"], spec["top_layers"]))
        layout.refuse_wide()
        refuse_other_shapes(base, adapter, layout)
        return layout

    def opened(self, adapter: Adapter, base: Base) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The same adapter as PEFT can open it: a LoRA whose B is the frame's times the core."""
        tensors = {}
        layout = self.layout_of(base, adapter)
        for name in layout.layers:
            down_RI, up_OR = (t.float().cpu() for t in layout.constants(name, base))
            tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = down_RI
            core_RR = adapter.tensors[f"{PEFT_PREFIX}{name}{_CORE}"].to(up_OR)
            tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = up_OR @ core_RR
        spec = LoRA(self.rank, self.alpha, targets=self.targets, top_layers=self.top_layers)
        opened = replace(adapter, spec=asdict(spec), tensors=tensors)
        return spec.config(opened), tensors


@dataclass(frozen=True, slots=True)
class TinyLoRA:
    """y = W x + B C (A x) with C = sum of v_u P_u: fixed random P, and v learnt, shared by many layers.

    As few as one parameter (Morris et al. 2026, "Learning to Reason in 13 Parameters", arXiv 2602.04118)."""

    LR: ClassVar[float] = 1e-2
    SIZES: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"parameters": 1, "tying": 1.0}, {"parameters": 13, "tying": 1.0},
        {"rank": 8, "parameters": 64, "tying": 0.0},
    )  # fmt: skip
    PEFT_TYPE: ClassVar[str] = "TINYLORA"

    rank: int = 2
    """Width of the frozen frame."""
    parameters: int = 13
    """Numbers learnt for each group of layers that share them. A group of one layer has no use for more than rank
    squared."""
    tying: float = 1.0
    """0: each layer has its own; 1: all layers share one group."""
    targets: tuple[str, ...] = ALL_LINEAR
    """Last names of the linear layers."""
    top_layers: int | None = None
    """Only so many of the uppermost blocks; None takes all."""
    kind: str = "tiny_lora"

    def __post_init__(self) -> None:
        if self.rank < 1 or self.parameters < 1:
            raise BadSetting(f"A TinyLoRA needs a rank and parameters; got {self.rank} and {self.parameters}.")
        if not 0 <= self.tying <= 1:
            raise BadSetting(f"The tying of a TinyLoRA lies between 0 and 1; got {self.tying}.")

    def fresh(self, base: Base, *, seed: int, material: Material = NO_MATERIAL) -> Adapter:
        """An untrained adapter: all zero."""
        layout = Mixed.of(base, asdict(self))
        layout.refuse_wide()
        tensors = {name: t.clone() for name, t in layout.named(torch.zeros(layout.size)).items()}
        return Adapter(base.name, base.revision, asdict(self), tensors)

    @staticmethod
    def layout_of(base: Base, adapter: Adapter) -> Mixed:
        """The adapter's layout on this base. Raises WrongBase where its tensors do not fit."""
        layout = Mixed.of(base, adapter.spec)
        layout.refuse_wide()
        refuse_other_shapes(base, adapter, layout)
        return layout

    def config(self, adapter: Adapter) -> dict[str, Any]:
        """What PEFT's adapter_config.json says of it. The frames are not in the file: see opened()."""
        return linear_config(self, adapter.base) | {
            "peft_type": "TINYLORA",
            "r": self.rank,
            "u": self.parameters,
            "weight_tying": self.tying,
            "projection_seed": _SEED,
            "save_projection": False,
            "imprint": asdict(self),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> TinyLoRA:
        """The settings that such a file tells. Raises BadInput for one whose frames are not the base's own."""
        if "imprint" not in config:
            raise BadInput(
                "It is a TinyLoRA of another program, whose frames may be others than those that imprint finds. "
                "Make a LoRA of it with the program that trained it."
            )
        return cls(**own_settings(config, cls))

    def opened(self, adapter: Adapter, base: Base) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The same with its frames and projections, so that PEFT need not find its own."""
        layout, tensors = self.layout_of(base, adapter), dict(adapter.tensors)
        for name in layout.layers:
            down_RI, up_OR, mix_URR = (t.float().cpu() for t in layout.constants(name, base))
            for last, tensor in (("A", down_RI), ("B", up_OR), ("P", mix_URR)):
                tensors[f"{PEFT_PREFIX}{name}.tinylora_{last}"] = tensor
        config = self.config(adapter) | in_blocks(self, layout.layers) | {"save_projection": True}
        del config["imprint"]
        return config, tensors


# --- layouts ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Framed(FlatLayout):
    """Layers that are updated between their frames."""

    rank: int
    shapes: Shapes

    @cached_property
    def layers(self) -> dict[str, int]:
        """By name: which of the layers it is."""
        return {name: i for i, (name, _, _) in enumerate(self.shapes)}

    def refuse_wide(self) -> None:
        """Raises BadSetting for a frame wider than a layer."""
        for name, *sides in self.shapes:
            if self.rank > min(sides):
                raise BadSetting(
                    f"A frame of rank {self.rank} is wider than {name}, which has {min(sides)} directions."
                )

    def frame(self, layer: str, base: Base) -> tuple[torch.Tensor, torch.Tensor]:
        """A R I and B O R of a layer, in the base's precision."""
        return _frames(base, self.rank, self.shapes)[layer]


@dataclass(frozen=True)
class Cores(_Framed):
    """LoRA-XS: one core for each layer."""

    @cached_property
    def size(self) -> int:
        return self.rank**2 * len(self.shapes)

    def parts(self, layer: str, flat_SP: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """core_SRR."""
        at = self.layers[layer] * self.rank**2
        return (flat_SP[:, at : at + self.rank**2].unflatten(1, (self.rank, self.rank)),)

    def named(self, flat_P: torch.Tensor) -> dict[str, torch.Tensor]:
        return {f"{PEFT_PREFIX}{name}{_CORE}": self.parts(name, flat_P[None])[0][0] for name in self.layers}

    def scale(self, adapter: Adapter) -> float:
        return float(adapter.spec["alpha"]) / self.rank

    def constants(self, layer: str, base: Base) -> tuple[torch.Tensor, ...]:
        return self.frame(layer, base)

    def update(
        self,
        layer: str,
        x_GMI: torch.Tensor,
        parts_G: tuple[torch.Tensor, ...],
        scale_G11: torch.Tensor,
        constants: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        down_RI, up_OR = constants
        return _between(x_GMI, down_RI, parts_G[0] * scale_G11, up_OR)


@dataclass(frozen=True)
class Mixed(_Framed):
    """TinyLoRA: cores that are mixed of fixed ones by a few numbers."""

    mixed: int
    groups: int

    @staticmethod
    def of(base: Base, spec: Mapping[str, Any]) -> Mixed:
        shapes = shapes_of(base, spec["targets"], spec["top_layers"])
        groups = max(1, round(len(shapes) * (1 - spec["tying"])))
        return Mixed(spec["rank"], shapes, spec["parameters"], groups)

    @cached_property
    def size(self) -> int:
        return self.mixed * self.groups

    def group(self, layer: str) -> int:
        """Which numbers a layer shares: layers that follow one another, as PEFT has them."""
        each = max(1, len(self.shapes) // self.groups)
        return min(self.layers[layer] // each, self.groups - 1)

    def parts(self, layer: str, flat_SP: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """mix_SU."""
        at = self.group(layer) * self.mixed
        return (flat_SP[:, at : at + self.mixed],)

    def named(self, flat_P: torch.Tensor) -> dict[str, torch.Tensor]:
        U = self.mixed
        return {f"{_TINY}{group}": flat_P[group * U : (group + 1) * U] for group in range(self.groups)}

    def constants(self, layer: str, base: Base) -> tuple[torch.Tensor, ...]:
        """The frame, and the fixed cores U R R: normal numbers of variance 1 / R, drawn as PEFT draws them."""
        draw = torch.Generator().manual_seed(_SEED + self.layers[layer])
        R = self.rank
        fixed_URR = torch.normal(0.0, 1 / math.sqrt(R), (self.mixed, R, R), generator=draw)
        return *self.frame(layer, base), fixed_URR.to(base.device.torch)

    def update(
        self,
        layer: str,
        x_GMI: torch.Tensor,
        parts_G: tuple[torch.Tensor, ...],
        scale_G11: torch.Tensor,
        constants: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        down_RI, up_OR, fixed_URR = constants
        (mix_GU,) = parts_G
        core_GRR = (mix_GU @ fixed_URR.to(mix_GU.dtype).flatten(1)).unflatten(1, fixed_URR.shape[1:])
        return _between(x_GMI, down_RI, core_GRR, up_OR)


def _between(
    x_GMI: torch.Tensor, down_RI: torch.Tensor, core_GRR: torch.Tensor, up_OR: torch.Tensor
) -> torch.Tensor:
    """B C (A x): the frame meets all rows at once, each adapter's core its own."""
    return (x_GMI @ down_RI.mT) @ core_GRR.to(x_GMI.dtype).mT @ up_OR.mT


# --- frames -----------------------------------------------------------------------------------

_known: dict[tuple[str, torch.dtype, str, int, Shapes], dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
_KNOWN = 4


@torch.inference_mode(False)  # whoever comes first: training cannot use what was made for answers only
def _frames(base: Base, rank: int, shapes: Shapes) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A R I and B O R of every layer: from memory, from the cache folder, or found now."""
    key = (base.revision, base.model.dtype, str(base.device.torch), rank, shapes)
    frames = _known.get(key)
    if frames is None:
        stamp = content_hash(base.revision, repr(shapes))
        file = cache_folder() / "frames" / f"{stamp}-{rank}.safetensors"
        found = load_file(file) if file.exists() else _find(base, rank, shapes, file)
        like = {"dtype": base.model.dtype, "device": base.device.torch}
        frames = {n: (found[f"{n}.A"].to(**like), found[f"{n}.B"].to(**like)) for n, _, _ in shapes}
        _known[key] = frames
        for oldest in list(_known)[:-_KNOWN]:  # other threads may be here too
            _known.pop(oldest, None)
    return frames


def _find(base: Base, rank: int, shapes: Shapes, file: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, _, _ in shapes:
        weight: Any = base.model.get_submodule(name).weight
        down_RI, up_OR = frame(weight.detach(), rank)
        found |= {f"{name}.A": down_RI, f"{name}.B": up_OR}
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, making = tempfile.mkstemp(dir=file.parent, suffix=".making")
    os.close(handle)
    save_file(found, making)
    os.replace(making, file)  # whole or not at all, also where two processes find it at once
    return found


def frame(weight_OI: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """sqrt(S) V' and U sqrt(S) of the largest singular values: R I and O R, float32, on the CPU.

    By the eigenvectors of the smaller Gram matrix in float64, several times as fast as a full decomposition."""
    wide_OI = weight_OI.to(torch.bfloat16).double()
    flipped = wide_OI.shape[0] > wide_OI.shape[1]
    small = wide_OI.mT if flipped else wide_OI
    squares, vectors = torch.linalg.eigh(small @ small.mT)
    left = vectors.flip(1)[:, :rank]
    strength_R = squares.flip(0)[:rank].clamp(min=0).sqrt()
    right = small.mT @ left / strength_R.clamp(min=torch.finfo(torch.float32).tiny)
    up, down = (right, left) if flipped else (left, right)
    at_1R = up.abs().argmax(0, keepdim=True)
    sign_1R = up.gather(0, at_1R).sign()
    root_R = strength_R.sqrt() * sign_1R[0]
    return (down * root_R).mT.float().cpu().contiguous(), (up * root_R).float().cpu().contiguous()
