"""Attention on CPUs: grouped queries meet their keys without copies of them.

transformers repeats keys and values for every query head of a group, and PyTorch's own kernel is slow
backward in bfloat16; for training rows of tens of tokens plain batched products are faster (docs/log.md).

Shape key: B rows, H query heads, K key heads, G = H / K heads a group, T queries, S keys, D head width."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

NAME = "imprint_grouped"


def grouped_attention(
    module: nn.Module,
    query_BHTD: torch.Tensor,
    key_BKSD: torch.Tensor,
    value_BKSD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Softmax attention as transformers calls it; returns B T H D."""
    B, H, T, D = query_BHTD.shape
    K, S = key_BKSD.shape[1:3]
    G = H // K
    if not query_BHTD.requires_grad:  # PyTorch's own kernel knows groups, but is slow backward
        mixed_BHTD = nn.functional.scaled_dot_product_attention(
            query_BHTD,
            key_BKSD,
            value_BKSD,
            attn_mask=None if attention_mask is None else attention_mask[..., :S],
            is_causal=attention_mask is None and T == S,
            scale=scaling,
            enable_gqa=G > 1,
        )
        return mixed_BHTD.transpose(1, 2).contiguous(), None
    query_BKGTD = query_BHTD.reshape(B, K, G * T, D) * scaling
    scores_BKGTS = (query_BKGTD @ key_BKSD.transpose(-1, -2)).view(B, K, G, T, S)
    if attention_mask is not None:
        scores_BKGTS = scores_BKGTS + attention_mask[:, :, None, :, :S]
    weights = scores_BKGTS.softmax(-1, dtype=torch.float32).to(value_BKSD.dtype)
    mixed_BHTD = (weights.view(B, K, G * T, S) @ value_BKSD).view(B, H, T, D)
    return mixed_BHTD.transpose(1, 2).contiguous(), None


def use(model: Any) -> None:
    """Switches a transformers model to grouped attention."""
    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)
