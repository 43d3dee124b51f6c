"""How likely the ends of many rows are to the model as it is now: whatever adapter is worn is read with.

Rows stand one after another without padding, and rows that differ in their last token alone are read once: of
an ABCD question one row, not four.

Shape key: N tokens of a pass, L tokens judged, D width, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from imprint.base import Base, in_passes

_PASS_TOKENS, _PASS_TOKENS_GPU = 2048, 32_768
"""Tokens read at once."""
_CHUNK, _CHUNK_GPU = 128, 2048
"""Tokens whose logits are computed at once, as in training (engine/passes.py)."""


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens, the later ones of which are judged."""

    ids: tuple[int, ...]
    start: int = 1
    """The first token judged; at least 1, for what nothing stands before cannot be predicted."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How likely the tokens of a row are from its start on."""

    logprobs: tuple[float, ...]
    """Natural-log probability of each, given all before it."""
    greedy: bool
    """Whether each was the likeliest one."""


@torch.no_grad()
def judge(base: Base, rows: Sequence[Row]) -> list[Judged]:
    """One verdict for each row, in the order given."""
    sharing: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        sharing.setdefault(row.ids[:-1], []).append(i)
    found: dict[int, Judged] = {}
    reads = sorted(sharing, key=len)  # where attention pads, it pads little
    most = _PASS_TOKENS_GPU if base.device.torch.type == "cuda" else _PASS_TOKENS
    for places in in_passes([len(read) for read in reads], most):
        batch = [reads[place] for place in places]
        with base.turns.take():
            hidden_ND = base.read_rows(batch)
            at: list[int] = []
            tokens: list[int] = []
            begin = 0
            for read in batch:
                for i in sharing[read]:
                    at += range(begin + rows[i].start - 1, begin + len(read))
                    tokens += rows[i].ids[rows[i].start :]
                begin += len(read)
            logprobs, greedy = _score(base, hidden_ND, at, tokens)
        cursor = 0
        for i in (i for read in batch for i in sharing[read]):
            end = cursor + len(rows[i].ids) - rows[i].start
            found[i] = Judged(tuple(logprobs[cursor:end]), all(greedy[cursor:end]))
            cursor = end
    return [found[i] for i in range(len(rows))]


def _score(base: Base, hidden_ND: torch.Tensor, at: list[int], tokens: list[int]) -> tuple[list[float], list[bool]]:
    """Log-probability of each token where it is predicted from, and whether it is the likeliest there."""
    device, exact = hidden_ND.device, torch.promote_types(torch.float32, hidden_ND.dtype)
    at_L, token_L = torch.tensor(at, device=device), torch.tensor(tokens, device=device)
    logprobs: list[float] = []
    greedy: list[bool] = []
    chunk = _CHUNK_GPU if hidden_ND.is_cuda else _CHUNK
    head_VD = base.model.lm_head.weight
    for place_C, token_C in zip(at_L.split(chunk), token_L.split(chunk), strict=True):
        hidden_CD = hidden_ND[place_C]
        logits_CV = nn.functional.linear(hidden_CD, head_VD).to(exact)
        # PyTorch's logsumexp takes 14 times as long on a CPU as softmax, from whose largest number it follows.
        best_C, best_at_C = logits_CV.max(1)
        total_C = best_C - logits_CV.softmax(1).gather(1, best_at_C[:, None])[:, 0].log()
        # Exactly, for in bfloat16 many a yes is as likely as its no.
        picked_C = (hidden_CD.to(exact) * head_VD[token_C].to(exact)).sum(1)
        logprobs += (picked_C - total_C).tolist()
        greedy += (best_at_C == token_C).tolist()
    return logprobs, greedy
