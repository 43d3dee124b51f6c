"""What memory.py and expert.py share: which MLPs, how their numbers lie, and what the bare base's MLPs read.

Shape key: S slots of a rack, P numbers of an adapter, N tokens, I inputs of an MLP."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from math import prod
from typing import Any, ClassVar

import torch
from torch import nn

from imprint.adapters.layout import FlatLayout, block_of
from imprint.base import Base, in_passes
from imprint.errors import BadSetting
from imprint.types import Turn

_LONGEST = 512
"""Tokens of a row that is read to begin an adapter; the rest is cut off."""
_PASS = 1024
"""Tokens read at once."""


@dataclass(frozen=True)
class BesideMLP(FlatLayout):
    """A layout of parts that are alike at each MLP: their shapes say all."""

    names: tuple[str, ...]
    """The MLPs that take part, in the model's order."""
    inputs: int
    """Width of what they read and give."""

    place: ClassVar[str] = "mlp"
    family: ClassVar[str] = ""
    """What the parts are called by on disk: 'model.layers.3.mlp.FAMILY.part'."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each part of one MLP, by its name on disk."""
        raise NotImplementedError

    @property
    def learnt(self) -> tuple[bool, ...]:
        """Of each part whether it is trained."""
        raise NotImplementedError

    @cached_property
    def layers(self) -> dict[str, int]:
        """By name: where the MLP's numbers begin."""
        return {name: i * self._each for i, name in enumerate(self.names)}

    @cached_property
    def _each(self) -> int:
        return sum(prod(shape) for shape in self.shapes.values())

    @cached_property
    def size(self) -> int:
        """All numbers, the frozen ones too."""
        return len(self.names) * self._each

    @cached_property
    def trainable(self) -> int:
        """Parameters that are trained."""
        shapes = zip(self.shapes.values(), self.learnt, strict=True)
        return len(self.names) * sum(prod(shape) for shape, learnt in shapes if learnt)

    def parts(self, layer: str, flat_SP: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The parts in the order of `shapes`, with S before each shape."""
        at, found = self.layers[layer], []
        for shape in self.shapes.values():
            found.append(flat_SP[:, at : at + prod(shape)].view(len(flat_SP), *shape))
            at += prod(shape)
        return tuple(found)

    def named(self, flat_P: torch.Tensor) -> dict[str, torch.Tensor]:
        """A flat vector as tensors by the names that stand on disk: views."""
        return {
            f"{layer}.{self.family}.{part}": view_1[0]
            for layer in self.names
            for part, view_1 in zip(self.shapes, self.parts(layer, flat_P[None]), strict=True)
        }


def some_mlps(base: Base, blocks: Sequence[int]) -> tuple[str, ...]:
    """Names of the MLPs of these blocks. Raises BadSetting where the base has none."""
    wanted = set(blocks)
    names = (name for name, _ in base.model.named_modules() if name.rpartition(".")[2] == "mlp")
    found = tuple(name for name in names if block_of(name) in wanted)
    if not found:
        raise BadSetting(f"{base.name} has no MLP beside which that could stand. Choose adapter = 'lora'.")
    return found


# --- what MLPs read ---------------------------------------------------------------------------


def general_rows(base: Base) -> tuple[list[list[int]], list[list[int]]]:
    """General prose, and general questions with answers, as rows of tokens.

    Not the text of evaluation.forgetting: an adapter set by what it is measured by would look better than it is."""
    prose, asked = _general_text()
    return (
        [base.training_ids((Turn("text", text),))[0] for text in prose],
        [base.training_ids((Turn("user", question), Turn("assistant", answer)))[0] for question, answer in asked],
    )


def general_questions() -> list[str]:
    """The questions of general_rows()."""
    return [question for question, _ in _general_text()[1]]


def general_prose() -> list[str]:
    """The paragraphs of general_rows()."""
    return _general_text()[0]


def _general_text() -> tuple[list[str], list[tuple[str, str]]]:
    prose, asked = [], []
    for block in resources.files("imprint.adapters").joinpath("general.txt").read_text("utf-8").split("\n\n"):
        if block.startswith("Q: "):
            question, _, answer = block.removeprefix("Q: ").partition("\nA: ")
            asked.append((question, answer.strip()))
        else:
            prose.append(block.strip())
    return prose, asked


def some_rows(rows: Sequence[Sequence[int]], tokens: int, draw: torch.Generator) -> list[list[int]]:
    """Rows drawn until they have so many tokens; no more of them are read."""
    chosen: list[list[int]] = []
    for i in torch.randperm(len(rows), generator=draw).tolist():
        if tokens <= 0:
            break
        row = list(rows[i][: min(_LONGEST, tokens)])
        if row:
            chosen.append(row)
            tokens -= len(row)
    return chosen


def mlp_inputs(
    base: Base, names: Sequence[str], rows: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """What these MLPs of the bare base read, some rows at a time: the rows' lengths, and by name N I."""
    longest = min(_LONGEST, base.window_tokens)
    cut = [list(row[:longest]) for row in rows]
    for places in in_passes([len(row) for row in cut], _PASS):
        some = [cut[place] for place in places]
        with torch.no_grad(), _overheard(base.model, names) as read:
            base.read_rows(some)
        yield [len(row) for row in some], read


@contextlib.contextmanager
def _overheard(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Notes what modules are given in this thread; another may be answering somebody meanwhile."""
    read: dict[str, torch.Tensor] = {}
    here = threading.get_ident()

    def listener(name: str) -> Any:
        def note(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            if threading.get_ident() == here:
                read[name] = given[0].detach().reshape(-1, given[0].shape[-1]).float()

        return note

    hooks = [model.get_submodule(name).register_forward_pre_hook(listener(name)) for name in names]
    try:
        yield read
    finally:
        for hook in hooks:
            hook.remove()
