"""Full fine-tuning, kept as a delta: every weight of the linear layers moves. As large as they are.

Shape key: I inputs, O outputs, S slots, G adapters, M rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch

from imprint.adapters.layout import ALL_LINEAR, FlatLayout, Shapes, refuse_other_shapes, shapes_of
from imprint.adapters.own_format import OwnFormat
from imprint.base import Base
from imprint.types import NO_MATERIAL, Adapter, Material

_DELTA = ".delta"


@dataclass(frozen=True, slots=True)
class Full(OwnFormat):
    """y = (W + D) x with D learnt. Embeddings and norms stay as they are."""

    LR: ClassVar[float] = 1e-4
    SIZES: ClassVar[tuple[Mapping[str, Any], ...]] = ({"top_layers": 1}, {"top_layers": 8}, {})
    PEFT_TYPE: ClassVar[str] = "IMPRINT_FULL"

    targets: tuple[str, ...] = ALL_LINEAR
    """Last names of the linear layers."""
    top_layers: int | None = None
    """Only so many of the uppermost blocks; None takes all."""
    kind: str = "full"

    def fresh(self, base: Base, *, seed: int, material: Material = NO_MATERIAL) -> Adapter:
        """An untrained adapter: no weight has moved."""
        shapes = shapes_of(base, self.targets, self.top_layers)
        tensors = {f"{name}{_DELTA}": torch.zeros(outputs, inputs) for name, inputs, outputs in shapes}
        return Adapter(base.name, base.revision, asdict(self), tensors)

    @staticmethod
    def layout_of(base: Base, adapter: Adapter) -> Deltas:
        """The adapter's layout on this base. Raises WrongBase where its tensors do not fit."""
        layout = Deltas(shapes_of(base, adapter.spec["targets"], adapter.spec["top_layers"]))
        refuse_other_shapes(base, adapter, layout)
        return layout


@dataclass(frozen=True)
class Deltas(FlatLayout):
    """A whole matrix for each layer."""

    shapes: Shapes

    @cached_property
    def layers(self) -> dict[str, tuple[int, int, int]]:
        """By name: where the layer begins, its inputs and its outputs."""
        found: dict[str, tuple[int, int, int]] = {}
        at = 0
        for name, inputs, outputs in self.shapes:
            found[name] = (at, inputs, outputs)
            at += inputs * outputs
        return found

    @cached_property
    def size(self) -> int:
        return sum(inputs * outputs for _, inputs, outputs in self.shapes)

    @property
    def most_slots(self) -> int:
        """One where an adapter takes hundreds of megabytes."""
        return max(1, (64 << 20) // self.size)

    def parts(self, layer: str, flat_SP: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """delta_SOI."""
        at, inputs, outputs = self.layers[layer]
        return (flat_SP[:, at : at + inputs * outputs].unflatten(1, (outputs, inputs)),)

    def named(self, flat_P: torch.Tensor) -> dict[str, torch.Tensor]:
        return {f"{name}{_DELTA}": self.parts(name, flat_P[None])[0][0] for name in self.layers}

    def update(
        self,
        layer: str,
        x_GMI: torch.Tensor,
        parts_G: tuple[torch.Tensor, ...],
        scale_G11: torch.Tensor,
        constants: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        return x_GMI @ parts_G[0].to(x_GMI.dtype).mT
