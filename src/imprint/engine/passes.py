"""One forward and backward of the base for rows of many adapters.

Nothing is padded: the rows of a pass stand one after another as one long row of N tokens. Logits are computed
only where there is a loss, a few hundred at a time, and never kept. Blocks below the lowest adapter
give the same in every epoch, so what they give can be kept (see Trunk).

Shape key: N tokens of a pass, L tokens with a loss, D width, V vocabulary."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from imprint import attention
from imprint.attention import PackedRows
from imprint.base import Base
from imprint.engine.multi_adapter import Engine, Seat

_CHUNK = 128
"""Tokens whose logits are computed at once: 128 x 49,152 in float32 are 25 MB, about a core's share of cache."""
_CHUNK_GPU = 2048
"""There a few large products beat many small ones, and 400 MB are little."""


@dataclass(frozen=True, slots=True)
class PassRow:
    """A row of tokens that one adapter is to learn from."""

    seat: Seat | None
    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    """Whether each token is to be predicted from those before it; the first cannot be."""
    weight: float = 1.0
    """What one token's loss counts in the gradient."""


def forward_backward(engine: Engine, rows: Sequence[PassRow], trunk: Trunk | None = None) -> list[float]:
    """Adds to each adapter's gradients those of its rows; returns each row's loss, summed over its tokens, in nats.

    The gradients are those that each adapter gets alone. A row whose loss is not finite spoils its own adapter's
    gradients only: look at the losses before taking a step."""
    order = sorted(range(len(rows)), key=lambda i: (_place(rows[i].seat), len(rows[i].ids), i))
    placed = [rows[i] for i in order]
    ids = [row.ids for row in placed]
    given_ND = None if trunk is None else trunk.give(ids)
    blocks = engine.base.model.model if trunk is None else trunk.upper
    with engine.routed([(row.seat, len(row.ids)) for row in placed]):
        hidden_ND = _run(engine.base, blocks, ids, given_ND)
    found = _targets(placed, engine.base)
    nats_L = _Nats.apply(
        hidden_ND.index_select(0, found.at_L), engine.base.model.lm_head.weight, found.token_L, found.weight_L
    )
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
        hidden_ND = _run(engine.base, engine.base.model.model, [row.ids for row in rows], None)
    found = _targets(rows, engine.base)
    nats_L = _Nats.apply(
        hidden_ND.index_select(0, found.at_L), engine.base.model.lm_head.weight, found.token_L, found.weight_L
    )
    return [-nats_L[found.row_L.to(nats_L.device) == i] for i in range(len(rows))]


def _place(seat: Seat | None) -> tuple[int, int]:
    return (0, -1) if seat is None else (id(seat.rack), seat.slot)


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
                hidden_ND = _run(self.base, self.lower, new, None)
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


def _run(base: Base, blocks: Any, rows: Sequence[tuple[int, ...]], given_ND: torch.Tensor | None) -> torch.Tensor:
    """The last hidden states of rows that stand one after another: N D."""
    device = base.device.torch
    lengths = [len(ids) for ids in rows]
    position_1N = torch.cat([torch.arange(n) for n in lengths])[None].to(device)
    inputs: dict[str, torch.Tensor] = {}
    if given_ND is None:
        inputs["input_ids"] = torch.tensor([[token for ids in rows for token in ids]], device=device)
    else:
        inputs["inputs_embeds"] = given_ND[None]
    with attention.laid_out(PackedRows(lengths, device, base.model.dtype)):
        output = blocks(**inputs, position_ids=position_1N, use_cache=False)
    hidden_ND: torch.Tensor = output.last_hidden_state[0]
    return hidden_ND


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
    token_L: torch.Tensor
    weight_L: torch.Tensor
    row_L: torch.Tensor


def _targets(rows: Sequence[PassRow], base: Base) -> _Targets:
    device, exact = base.device.torch, torch.promote_types(torch.float32, base.model.dtype)
    at: list[int] = []
    tokens: list[int] = []
    weights: list[float] = []
    owners: list[int] = []
    start = 0
    for i, row in enumerate(rows):
        learnt = [t for t in range(1, len(row.ids)) if row.learn[t]]
        at += [start + t - 1 for t in learnt]
        tokens += [row.ids[t] for t in learnt]
        weights += [row.weight] * len(learnt)
        owners += [i] * len(learnt)
        start += len(row.ids)
    return _Targets(
        torch.tensor(at, device=device, dtype=torch.long),
        torch.tensor(tokens, device=device, dtype=torch.long),
        torch.tensor(weights, device=device, dtype=exact),
        torch.tensor(owners, dtype=torch.long),
    )


class _Nats(torch.autograd.Function):
    """The loss of each token; its gradient is made on the way, so that no logits are kept.

    The gradient of a token whose loss is not finite is zero."""

    @staticmethod
    def forward(
        ctx: Any, hidden_LD: torch.Tensor, head_VD: torch.Tensor, token_L: torch.Tensor, weight_L: torch.Tensor
    ) -> torch.Tensor:
        exact = torch.promote_types(torch.float32, hidden_LD.dtype)
        nats_L = torch.empty(len(token_L), dtype=exact, device=hidden_LD.device)
        grad_LD = torch.empty_like(hidden_LD) if ctx.needs_input_grad[0] else None
        chunk = _CHUNK_GPU if hidden_LD.is_cuda else _CHUNK
        for start in range(0, len(token_L), chunk):
            part = slice(start, start + chunk)
            logits_CV = nn.functional.linear(hidden_LD[part], head_VD).to(exact)
            likely_CV = logits_CV.softmax(1)
            # Through the likeliest token, whose probability is never lost to rounding.
            best_C1, best_at_C1 = logits_CV.max(1, keepdim=True)
            total_C1 = best_C1 - likely_CV.gather(1, best_at_C1).log()
            nats_L[part] = (total_C1 - logits_CV.gather(1, token_L[part, None]))[:, 0]
            if grad_LD is not None:
                likely_CV[torch.arange(len(likely_CV), device=likely_CV.device), token_L[part]] -= 1
                sound_C1 = nats_L[part, None].isfinite()
                grad_CD = likely_CV.to(head_VD.dtype) @ head_VD
                grad_LD[part] = (grad_CD * weight_L[part, None].to(exact)).where(sound_C1, 0).to(grad_LD.dtype)
        ctx.save_for_backward(grad_LD)
        return nats_L

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad_LD,) = ctx.saved_tensors
        return grad_LD * grads[0][:, None].to(grad_LD.dtype), None, None, None
