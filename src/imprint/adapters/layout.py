"""Where an adapter's numbers lie in one flat vector, and what they do to the module that they plug into.

Adapters of one layout share a rack of the engine, a slot each. A kind that is no LoRA says in plain PyTorch what it
adds to a module's output; the engine finds the rows, batches the adapters and brings the gradients home.

Shape key: S slots, P numbers of an adapter, G adapters of a batch, M rows of each, I inputs, O outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from imprint.base import Base
from imprint.errors import BadSetting, WrongBase
from imprint.types import Adapter

PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the name of a module."""
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Last names of the linear layers of a Llama-like block; the MLP's are among them, for it stores facts."""
Shapes = tuple[tuple[str, int, int], ...]
"""Name, inputs and outputs of each linear layer that takes part, in the model's order."""


class Layout(Protocol):
    """Hashable, and equal for adapters that can share a rack."""

    @property
    def place(self) -> str:
        """What the layers are: 'linear', 'mlp' (a whole one) or 'attention' (keys and values before the first)."""

    @property
    def exact(self) -> bool:
        """Whether the numbers must stay float32, whatever the base computes in."""

    @property
    def most_slots(self) -> int:
        """How many such adapters may lie side by side: large ones need their memory."""

    @property
    def size(self) -> int:
        """Numbers of an adapter: parameters, and what is frozen with them."""

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""

    @property
    def first_block(self) -> int:
        """The lowest of the model's blocks that takes part."""

    @property
    def layers(self) -> Mapping[str, Any]:
        """The modules that take part, by name, in the model's order."""

    def named(self, flat_P: torch.Tensor) -> dict[str, torch.Tensor]:
        """A flat vector as tensors by the names that stand on disk: views."""

    def write(self, tensors: Mapping[str, torch.Tensor], flat_P: torch.Tensor) -> None:
        """Named tensors into a flat vector."""

    def scale(self, adapter: Adapter) -> float:
        """What the adapter's update is multiplied by."""


class Plug(Layout, Protocol):
    """A layout that says in plain PyTorch what it does. LoRA has kernels of its own instead."""

    @property
    def learnt(self) -> tuple[bool, ...]:
        """Of each of a layer's parts whether it is trained."""

    def parts(self, layer: str, flat_SP: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Views of a layer's numbers, for adapters whose flat vectors are the rows: S and as the kind has it."""

    def constants(self, layer: str, base: Base) -> tuple[torch.Tensor, ...]:
        """What is frozen and the same for every adapter of this layout."""

    def update(
        self,
        layer: str,
        x_GMI: torch.Tensor,
        parts_G: tuple[torch.Tensor, ...],
        scale_G11: torch.Tensor,
        constants: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """What is added to the output of a layer whose input is x: G M O."""


class FlatLayout:
    """What most layouts have in common: all numbers are trained, any number of adapters may lie side by side, and
    the names on disk are views."""

    place: ClassVar[str] = "linear"
    exact: ClassVar[bool] = False

    @property
    def most_slots(self) -> int:
        return 1 << 30

    @property
    def size(self) -> int:
        raise NotImplementedError

    @property
    def trainable(self) -> int:
        return self.size

    @property
    def layers(self) -> Mapping[str, Any]:
        raise NotImplementedError

    @property
    def learnt(self) -> tuple[bool, ...]:
        return (True,)

    @cached_property
    def first_block(self) -> int:
        return min(block_of(name) for name in self.layers)

    def constants(self, layer: str, base: Base) -> tuple[torch.Tensor, ...]:
        return ()

    def named(self, flat_P: torch.Tensor) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def write(self, tensors: Mapping[str, torch.Tensor], flat_P: torch.Tensor) -> None:
        for name, view in self.named(flat_P).items():
            view.copy_(tensors[name])

    def scale(self, adapter: Adapter) -> float:
        return 1.0


def blocks(base: Base) -> int:
    """How many blocks the base has."""
    return int(base.model.config.num_hidden_layers)


def block_of(name: str) -> int:
    """The block in which a module of that name stands; 0 for one outside."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


def some_linears(base: Base, targets: Sequence[str], top_layers: int | None) -> list[tuple[str, nn.Linear]]:
    """The linear layers of those last names, in the uppermost blocks or in all, in the model's order. Raises
    BadSetting where there is none."""
    first = 0 if top_layers is None else blocks(base) - top_layers
    found = [
        (name, module)
        for name, module in base.model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] in targets and block_of(name) >= first
    ]
    if not found:
        raise BadSetting(
            f"{base.name} has no linear layer named {' or '.join(targets)}. "
            "Set [adapter] targets to names that it has."
        )
    return found


def shapes_of(base: Base, targets: Sequence[str], top_layers: int | None) -> Shapes:
    """The same by their shapes."""
    found = some_linears(base, targets, top_layers)
    return tuple((name, linear.in_features, linear.out_features) for name, linear in found)


def settings_of(adapter: Adapter) -> dict[str, Any]:
    """The settings an adapter was made with, as its kind takes them."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in adapter.spec.items() if k != "kind"}


def refuse_other_base(base: Base, adapter: Adapter) -> None:
    """Raises WrongBase unless the adapter was made for this base."""
    if adapter.revision and adapter.revision != base.revision:
        raise WrongBase(
            f"The adapter was trained on {adapter.base} ({adapter.revision}), but the base in memory is "
            f"{base.name} ({base.revision}). Load that base, or teach the documents again on this one."
        )


def refuse_other_shapes(base: Base, adapter: Adapter, layout: Layout) -> None:
    """Raises WrongBase unless the adapter's tensors are those that its layout has on this base."""
    numbers = sum(t.numel() for t in adapter.tensors.values())
    if layout.size != numbers:  # first, for what a folder asks for may be too large even to be named
        raise WrongBase(
            f"The adapter's tensors do not fit {base.name}: they hold {numbers} numbers, not {layout.size}. "
            "Load the base that it was made for."
        )
    wanted = {name: tuple(t.shape) for name, t in layout.named(torch.empty(layout.size, device="meta")).items()}
    found = {name: tuple(t.shape) for name, t in adapter.tensors.items()}
    if wanted != found:
        name = next(n for n in {**wanted, **found} if wanted.get(n) != found.get(n))
        raise WrongBase(
            f"The adapter's tensors do not fit {base.name}: {name} has the shape {found.get(name)} where "
            f"{wanted.get(name)} belongs. Load the base that it was made for."
        )
