"""One forward and backward of the base for rows of many adapters.

Nothing is padded: the rows of a pass stand one after another as one long row of N tokens. Logits are computed
only where there is a loss, a few hundred at a time, and never kept. Blocks below the lowest adapter
give the same in every epoch, so what they give can be kept (see Trunk).

Shape key: N tokens of a pass, L tokens with a loss, C of them at once, K likely tokens in place of one, D width,
V vocabulary."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from imprint import attention
from imprint.base import Base
from imprint.engine.multi_adapter import Engine, Worn, place

_CHUNK = 128
"""Tokens whose logits are computed at once: 128 x 49,152 in float32 are 25 MB, about a core's share of cache."""
_CHUNK_GPU = 2048
"""There a few large products beat many small ones, and 400 MB are little."""


@dataclass(frozen=True, slots=True, eq=False)
class Soft:
    """What a teacher holds likely in place of each learnt token of a row, in their order.

    The loss of a token is the forward cross-entropy -sum_k p_k log q_k over these K alone, whose p are taken as
    they are: what the teacher gives to all other tokens is left out. A learner that has come to its end gives
    these K the teacher's probabilities relative to one another, and the less of its mass a teacher put on them, the
    less the token counts. With K the whole vocabulary the gradient is that of the Kullback-Leibler divergence."""

    ids_LK: np.ndarray
    logprobs_LK: np.ndarray
    """Natural logarithms. Both may lie on disk: they are read when the pass is made."""


@dataclass(frozen=True, slots=True)
class PassRow:
    """A row of tokens that an adapter is to learn from; of several worn at once, those that are trained."""

    seat: Worn
    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    """Whether each token is to be predicted from those before it; the first cannot be."""
    weight: float = 1.0
    """What one token's loss counts in the gradient."""
    weights: tuple[float, ...] | None = None
    """For each of `ids` what its loss counts besides, below 0 too (an advantage, say). None counts all 1."""
    soft: Soft | None = field(default=None, compare=False)
    """What is to be predicted in place of the learnt tokens themselves."""


def forward_backward(engine: Engine, rows: Sequence[PassRow], trunk: Trunk | None = None) -> list[float]:
    """Adds to each adapter's gradients those of its rows; returns each row's loss, summed over its tokens, in nats.

    Weights count in the gradients alone; the loss of a soft row is its cross-entropy (see Soft). The gradients are
    those that each adapter gets alone. A row whose loss is not finite spoils its own adapter's gradients only: look
    at the losses before taking a step."""
    order = sorted(range(len(rows)), key=lambda i: (place(rows[i].seat), len(rows[i].ids), i))
    placed = [rows[i] for i in order]
    ids = [row.ids for row in placed]
    given_ND = None if trunk is None else trunk.give(ids)
    blocks = None if trunk is None else trunk.upper
    with engine.routed([(row.seat, len(row.ids)) for row in placed]):
        hidden_ND = engine.base.read_rows(ids, blocks=blocks, given_ND=given_ND)
    found = _targets(placed, engine.base)
    nats_L = found.nats(hidden_ND, engine.base.model.lm_head.weight)
    nats_L.backward(torch.ones_like(nats_L))
    sums = torch.zeros(len(rows), dtype=nats_L.dtype).index_add_(0, found.row_L, nats_L.detach().cpu())
    losses = [0.0] * len(rows)
    for i, loss in zip(order, sums.tolist(), strict=True):
        losses[i] = loss
    return losses


@torch.no_grad()
def logprobs(engine: Engine, rows: Sequence[PassRow]) -> list[torch.Tensor]:
    """Natural-log probability of each token to be learnt, row by row, as a pass of training sees it."""
    with engine.routed([(row.seat, len(row.ids)) for row in rows]):
        hidden_ND = engine.base.read_rows([row.ids for row in rows])
    found = _targets([replace(row, soft=None) for row in rows], engine.base)
    nats_L = found.nats(hidden_ND, engine.base.model.lm_head.weight)
    return [-nats_L[found.row_L.to(nats_L.device) == i] for i in range(len(rows))]


@dataclass(frozen=True, slots=True)
class Family:
    """Rows to be read by the bare base that begin alike."""

    beginning: tuple[int, ...]
    """Tokens that all of them begin with; at least one before each row's first learnt token is not of it."""
    rows: tuple[PassRow, ...]


@torch.no_grad()
def likeliest(engine: Engine, families: Sequence[Family], k: int) -> list[Soft]:
    """The k likeliest tokens in the place of each token to be learnt, likeliest first, row by row, as the bare base
    has it: what a teacher says. What a family has in common is read once."""
    head_VD = engine.base.model.lm_head.weight
    hidden_LD = _read(engine, families)
    exact = torch.promote_types(torch.float32, hidden_LD.dtype)
    best = []
    for hidden_CD in hidden_LD.split(_CHUNK_GPU if hidden_LD.is_cuda else _CHUNK):
        found = nn.functional.linear(hidden_CD, head_VD).to(exact).log_softmax(1).topk(min(k, len(head_VD)))
        best.append((found.indices.cpu(), found.values.cpu()))
    counts = [sum(row.learn[1:]) for family in families for row in family.rows]
    ids, logprobs = (torch.cat(part).split(counts) for part in zip(*best, strict=True))
    return [Soft(i.numpy(), p.numpy()) for i, p in zip(ids, logprobs, strict=True)]


def _read(engine: Engine, families: Sequence[Family]) -> torch.Tensor:
    """The bare base's last hidden states from which the tokens to be learnt are predicted, row by row: L D."""
    base, device = engine.base, engine.base.device.torch
    ids: list[int] = []
    positions: list[int] = []
    at: list[int] = []
    for family in families:
        begun = len(family.beginning)
        ids += family.beginning
        positions += range(begun)
        for row in family.rows:
            at += [len(ids) - begun + t - 1 for t in range(1, len(row.ids)) if row.learn[t]]
            ids += row.ids[begun:]
            positions += range(begun, len(row.ids))
    lengths = [(len(f.beginning), [len(row.ids) - len(f.beginning) for row in f.rows]) for f in families]
    layout = attention.SharedBeginnings(lengths, device, base.model.dtype)
    with engine.routed([(None, len(ids))]), attention.laid_out(layout):
        output = base.model.model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
        )
    hidden_LD: torch.Tensor = output.last_hidden_state[0, torch.tensor(at, device=device)]
    return hidden_LD


# --- the blocks -------------------------------------------------------------------------------


class Trunk:
    """What the lowest blocks give for rows of tokens; computed once for each row.

    The oldest are let go where memory for them ends."""

    def __init__(self, base: Base, blocks: int, *, size_bytes: int = 4 << 30) -> None:
        """`blocks`: how many of the lowest blocks no adapter touches."""
        self.base, self.blocks, self.size_bytes = base, blocks, size_bytes
        self.lower, self.upper = _parted(base.model.model, blocks)
        self._kept: OrderedDict[tuple[int, ...], torch.Tensor] = OrderedDict()
        self._bytes = 0

    def give(self, rows: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """The hidden states of these rows, one after another: N D."""
        new = [ids for ids in dict.fromkeys(rows) if ids not in self._kept]
        fresh: dict[tuple[int, ...], torch.Tensor] = {}
        if new:
            with torch.no_grad():
                hidden_ND = self.base.read_rows(new, blocks=self.lower)
            fresh = dict(zip(new, hidden_ND.split([len(ids) for ids in new]), strict=True))
        given_ND = torch.cat([fresh[ids] if ids in fresh else self._kept[ids] for ids in rows])
        for ids, hidden in fresh.items():
            self._keep(ids, hidden.clone())
        return given_ND

    def _keep(self, ids: tuple[int, ...], hidden: torch.Tensor) -> None:
        self._kept[ids] = hidden
        self._bytes += hidden.nbytes
        while self._bytes > self.size_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes


def _parted(model: Any, blocks: int) -> tuple[Any, Any]:
    """The model's lowest blocks, without its last norm, and the rest of it. They share its weights."""
    lower, upper = copy.copy(model), copy.copy(model)
    for half, part in ((lower, model.layers[:blocks]), (upper, model.layers[blocks:])):
        half._modules = dict(model._modules)
        half.layers = nn.ModuleList(part)
    lower.norm = nn.Identity()
    return lower, upper


# --- the loss ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Targets:
    at_L: torch.Tensor
    """The token from which each is predicted."""
    token_LK: torch.Tensor
    likely_LK: torch.Tensor
    """Probability of each; one alone has 1."""
    weight_L: torch.Tensor
    row_L: torch.Tensor

    def nats(self, hidden_ND: torch.Tensor, head_VD: torch.Tensor) -> torch.Tensor:
        """The loss of each learnt token; its gradient is weighted: L."""
        nats_L: torch.Tensor = _Nats.apply(
            hidden_ND.index_select(0, self.at_L), head_VD, self.token_LK, self.likely_LK, self.weight_L
        )
        return nats_L


def _targets(rows: Sequence[PassRow], base: Base) -> _Targets:
    device, exact = base.device.torch, torch.promote_types(torch.float32, base.model.dtype)
    at: list[int] = []
    weights: list[float] = []
    owners: list[int] = []
    wide = max((row.soft.ids_LK.shape[1] for row in rows if row.soft is not None), default=1)
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    start = 0
    for i, row in enumerate(rows):
        learnt = [t for t in range(1, len(row.ids)) if row.learn[t]]
        at += [start + t - 1 for t in learnt]
        weights += [row.weight * (1.0 if row.weights is None else row.weights[t]) for t in learnt]
        owners += [i] * len(learnt)
        parts.append(_wanted(row, learnt, wide, exact))
        start += len(row.ids)
    token_LK, likely_LK = (torch.cat(part).to(device) for part in zip(*parts, strict=True))
    return _Targets(
        torch.tensor(at, device=device, dtype=torch.long),
        token_LK,
        likely_LK,
        torch.tensor(weights, device=device, dtype=exact),
        torch.tensor(owners, dtype=torch.long),
    )


def _wanted(row: PassRow, learnt: list[int], wide: int, exact: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens to be predicted at each place, and their probabilities: L K, L K."""
    if row.soft is None:
        token_LK = torch.tensor([row.ids[t] for t in learnt], dtype=torch.long)[:, None]
        likely_LK = torch.ones(token_LK.shape, dtype=exact)
    else:
        assert len(row.soft.ids_LK) == len(learnt), "a soft target for each learnt token"
        token_LK = torch.from_numpy(np.array(row.soft.ids_LK, np.int64))
        likely_LK = torch.from_numpy(np.array(row.soft.logprobs_LK, np.float64)).exp().to(exact)
    # Filled up with the first token at probability 0, which adds nothing.
    missing = wide - token_LK.shape[1]
    return (
        torch.cat([token_LK, token_LK[:, :1].expand(-1, missing)], 1),
        nn.functional.pad(likely_LK, (0, missing)),
    )


class _Nats(torch.autograd.Function):
    """The loss of each token; its gradient is made on the way, so that no logits are kept.

    The gradient of a token whose loss is not finite is zero."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_LD: torch.Tensor,
        head_VD: torch.Tensor,
        token_LK: torch.Tensor,
        wanted_LK: torch.Tensor,
        weight_L: torch.Tensor,
    ) -> torch.Tensor:
        exact = torch.promote_types(torch.float32, hidden_LD.dtype)
        nats_L = torch.empty(len(token_LK), dtype=exact, device=hidden_LD.device)
        grad_LD = torch.empty_like(hidden_LD) if ctx.needs_input_grad[0] else None
        chunk = _CHUNK_GPU if hidden_LD.is_cuda else _CHUNK
        for start in range(0, len(token_LK), chunk):
            part = slice(start, start + chunk)
            logits_CV = nn.functional.linear(hidden_LD[part], head_VD).to(exact)
            likely_CV = logits_CV.softmax(1)
            # Through the likeliest token, whose probability is never lost to rounding.
            best_C1, best_at_C1 = logits_CV.max(1, keepdim=True)
            total_C1 = best_C1 - likely_CV.gather(1, best_at_C1).log()
            token_CK, wanted_CK = token_LK[part], wanted_LK[part]
            nats_L[part] = (wanted_CK * (total_C1 - logits_CV.gather(1, token_CK))).sum(1)
            if grad_LD is not None:
                likely_CV.mul_(wanted_CK.sum(1, keepdim=True)).scatter_add_(1, token_CK, -wanted_CK)
                sound_C1 = nats_L[part, None].isfinite()
                grad_CD = likely_CV.to(head_VD.dtype) @ head_VD
                grad_LD[part] = (grad_CD * weight_L[part, None].to(exact)).where(sound_C1, 0).to(grad_LD.dtype)
        ctx.save_for_backward(grad_LD)
        return nats_L

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad_LD,) = ctx.saved_tensors
        return grad_LD * grads[0][:, None].to(grad_LD.dtype), None, None, None, None
