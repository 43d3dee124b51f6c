"""MLP expert: a few hidden units added beside each MLP, switched off where the text is not about the documents.

The switch is a frozen linear classifier at each block, found in closed form between what the MLP reads on the text
to be learnt and on general text. It looks at one token's state only, so that caches, batches and passes agree.

Shape key: G adapters, M rows, I inputs, O outputs, H hidden units, N tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from imprint.adapters import layout as layouts
from imprint.adapters.feed_forward import BesideMLP, general_rows, mlp_inputs, some_mlps, some_rows
from imprint.adapters.layout import refuse_other_shapes, settings_of
from imprint.adapters.own_format import OwnFormat
from imprint.base import Base
from imprint.errors import BadSetting
from imprint.types import NO_MATERIAL, Adapter, Material

_READ_TOKENS = 8192
"""Of the training text, for the router to know it by."""
_SHRINK = 0.1
"""Share of the mean variance that is added to every direction before the router is solved for."""
_ON = 0.05
"""Share of general tokens for which the router may be more on than off."""
_REST = 0.02
"""How far on it is for the middle one of general tokens."""
_ALWAYS = 100.0
"""A router's bias with which it is on for every token: its sigmoid is 1 in every precision."""


@dataclass(frozen=True, slots=True)
class Expert(OwnFormat):
    """y = MLP(x) + g(x) W_down (silu(W_gate x) * (W_up x)), with g in (0, 1), frozen, near 0 on general text."""

    LR: ClassVar[float] = 1e-2
    SIZES: ClassVar[tuple[Mapping[str, Any], ...]] = ({"hidden": 1}, {"hidden": 8}, {"hidden": 32})
    PEFT_TYPE: ClassVar[str] = "IMPRINT_EXPERT"

    hidden: int = 8
    """Hidden units added to each MLP."""
    top_layers: int | None = None
    """Only so many of the uppermost blocks; None takes all."""
    routed: bool = True
    """Whether there is a router; without, the expert speaks on every text."""
    kind: str = "expert"

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise BadSetting(f"An expert has 1 hidden unit or more; got {self.hidden}.")
        if self.top_layers is not None and self.top_layers < 1:
            raise BadSetting(f"An expert stands in 1 block or more; got top_layers = {self.top_layers}.")

    @torch.no_grad()
    def fresh(self, base: Base, *, seed: int, material: Material = NO_MATERIAL) -> Adapter:
        """An untrained adapter: W_gate and W_up drawn with the spread of the base's own, W_down zero. The router is
        found from the material's rows (without rows its documents); without material it is always on."""
        draw = torch.Generator().manual_seed(seed)
        layout = self._layout(base)
        told = some_rows(material.rows if len(material.rows) else material.documents, _READ_TOKENS, draw)
        routers = _routers(base, layout.names, told) if self.routed and told else {}
        tensors: dict[str, torch.Tensor] = {}
        for name in layout.names:
            spread = _spread_of(base.model.get_submodule(name))
            gate_HI, up_HI = (torch.randn(self.hidden, layout.inputs, generator=draw) * s for s in spread)
            found = [gate_HI, up_HI, torch.zeros(self.hidden, layout.inputs)]
            if self.routed:
                found += routers.get(name, (torch.zeros(layout.inputs), torch.tensor([_ALWAYS])))
            tensors |= {f"{name}.expert.{p}": t for p, t in zip(layout.shapes, found, strict=True)}
        return Adapter(base.name, base.revision, asdict(self), tensors)

    @staticmethod
    def layout_of(base: Base, adapter: Adapter) -> Experts:
        """The adapter's layout on this base. Raises WrongBase where its tensors do not fit."""
        layout = Expert(**settings_of(adapter))._layout(base)
        refuse_other_shapes(base, adapter, layout)
        return layout

    def _layout(self, base: Base) -> Experts:
        count = layouts.blocks(base)
        names = some_mlps(base, range(max(0, count - (self.top_layers or count)), count))
        return Experts(names, int(base.model.config.hidden_size), self.hidden, self.routed)


@dataclass(frozen=True)
class Experts(BesideMLP):
    """The units' rows of W_gate and W_up and columns of W_down, and the router."""

    hidden: int
    routed: bool

    family: ClassVar[str] = "expert"

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """gate H I, up H I, down H O, and where it is routed: router I, bias 1."""
        units = dict.fromkeys(("gate", "up", "down"), (self.hidden, self.inputs))
        return units | ({"router": (self.inputs,), "bias": (1,)} if self.routed else {})

    @property
    def learnt(self) -> tuple[bool, ...]:
        """The units; the router is frozen."""
        return (True, True, True) + (False, False) * self.routed

    def update(
        self,
        layer: str,
        x_GMI: torch.Tensor,
        parts_G: tuple[torch.Tensor, ...],
        scale_G11: torch.Tensor,
        constants: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """g down' (silu(gate x) * (up x))."""
        # What is trained is kept in float32 under a bfloat16 base too.
        gate_GHI, up_GHI, down_GHO = (part_G.to(x_GMI.dtype) for part_G in parts_G[:3])
        router = parts_G[3:]
        hidden_GMH = nn.functional.silu(x_GMI @ gate_GHI.mT) * (x_GMI @ up_GHI.mT)
        if router:
            hidden_GMH = hidden_GMH * opened(x_GMI, router[0], router[1]).to(hidden_GMH.dtype)
        return hidden_GMH @ down_GHO * scale_G11.to(hidden_GMH.dtype)


def opened(x_GMI: torch.Tensor, router_GI: torch.Tensor, bias_G1: torch.Tensor) -> torch.Tensor:
    """How far the router is on for each row: G M 1, between 0 and 1; in float32 at least."""
    exact = torch.promote_types(torch.float32, x_GMI.dtype)
    logit_GM1 = x_GMI.to(exact) @ router_GI.to(exact)[..., None] + bias_G1.to(exact)[..., None]
    return logit_GM1.sigmoid()


def _spread_of(mlp: nn.Module) -> tuple[float, float]:
    """Standard deviation of the numbers of an MLP's own W_gate and W_up; of a usual start where it has none."""
    found = []
    for name in ("gate_proj", "up_proj"):
        weight = getattr(getattr(mlp, name, None), "weight", None)
        found.append(0.02 if weight is None else float(weight.float().std()))
    return found[0], found[1]


# --- the router -------------------------------------------------------------------------------


class _Moments:
    """Count, mean and scatter of the rows of states seen so far."""

    def __init__(self) -> None:
        self.count, self.sum, self.square = 0, 0.0, 0.0  # type: int, Any, Any

    def add(self, x_NI: torch.Tensor) -> None:
        self.count += len(x_NI)
        self.sum = self.sum + x_NI.sum(0)
        self.square = self.square + x_NI.T @ x_NI

    @property
    def mean_I(self) -> torch.Tensor:
        return self.sum / self.count

    @property
    def scatter_II(self) -> torch.Tensor:
        return self.square - self.count * torch.outer(self.mean_I, self.mean_I)


def _routers(
    base: Base, names: Sequence[str], told: Sequence[Sequence[int]]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By MLP: the router's direction and bias, from text that is told and general text.

    Linear discriminant with a shrunken common covariance. Fitted on every other general row and set by the rest, so
    that neither of prose nor of questions with answers more than a share _ON of the tokens is more on than off."""
    prose, asked = general_rows(base)
    special, common = ({name: _Moments() for name in names} for _ in range(2))
    for moments, rows in ((special, told), (common, prose[::2] + asked[::2])):
        for _, inputs in mlp_inputs(base, names, rows):
            for name, x_NI in inputs.items():
                moments[name].add(x_NI)
    direction = {name: _between(special[name], common[name]) for name in names}
    scores = [_scores(base, direction, rows[1::2]) for rows in (prose, asked)]
    return {name: _set(direction[name], [score[name] for score in scores]) for name in names}


def _scores(
    base: Base, direction: Mapping[str, torch.Tensor], rows: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """How far each token of these rows lies in each MLP's direction."""
    found: dict[str, list[torch.Tensor]] = {name: [] for name in direction}
    for _, inputs in mlp_inputs(base, list(direction), rows):
        for name, x_NI in inputs.items():
            found[name].append(x_NI @ direction[name])
    return {name: torch.cat(scores) for name, scores in found.items()}


def _between(special: _Moments, common: _Moments) -> torch.Tensor:
    """The direction that tells the two apart best, against the covariance within both."""
    within_II = (special.scatter_II + common.scatter_II) / (special.count + common.count)
    within_II.diagonal().add_(_SHRINK * within_II.diagonal().mean())
    return torch.linalg.solve(within_II, special.mean_I - common.mean_I)


def _set(direction_I: torch.Tensor, scores: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Direction and bias such that general text of each kind, whose tokens score so, is off as it shall be."""
    places = torch.tensor([0.5, 1 - _ON], device=direction_I.device)
    middle, edge = max((score_N.quantile(places).tolist() for score_N in scores), key=lambda found: found[1])
    steepness = -math.log(_REST / (1 - _REST)) / max(edge - middle, 1e-6)
    return (direction_I * steepness).cpu(), torch.tensor([-edge * steepness])
