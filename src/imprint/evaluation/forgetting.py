"""What the model could do before and no longer can.

Shape key: T tokens, V vocabulary."""

from __future__ import annotations

import math
from importlib import resources

import torch
from torch import nn

from imprint.base import Base


def general_perplexity(base: Base, *, window: int = 512) -> float:
    """Perplexity (per token) of the model as it is now on a fixed general text that comes with imprint.

    The text is cut into windows of that many tokens; each begins afresh. Lower is better; what matters is
    the change from the untouched base."""
    text = resources.files("imprint.evaluation").joinpath("general_text.txt").read_text("utf-8")
    ids = base.tokenizer.encode(text, add_special_tokens=False)
    total_nats, n_tokens = 0.0, 0
    for start in range(0, len(ids) - 1, window):
        piece = ids[start : start + window]
        if len(piece) < 2:
            continue
        nats = token_nats(base, piece)
        total_nats += float(nats.sum())
        n_tokens += len(nats)
    return math.exp(total_nats / n_tokens)


@torch.inference_mode()
def token_nats(base: Base, ids: list[int]) -> torch.Tensor:
    """Negative log-likelihood in nats of each token but the first: shape (T - 1,)."""
    tokens_1T = torch.tensor([ids], device=base.device.torch)
    logits_TV = base.model(input_ids=tokens_1T, use_cache=False).logits[0, :-1].float()
    return nn.functional.cross_entropy(logits_TV, tokens_1T[0, 1:], reduction="none").cpu()
