"""Attention: grouped queries meet their keys without copies of them, and rows of a pass meet only themselves.

transformers repeats keys and values for every query head of a group, and PyTorch's own kernel is slow on CPUs
backward and for rows of one query: there plain batched products are faster (docs/log.md).

While a layout is in force in a thread, the model reads one long row of tokens, and the layout says which
of them attend to which: packed rows of training without padding, or requests with their own caches.

While prefixes are in force in a thread, rows see, besides what they see anyway, keys and values that no token of
theirs made: a cartridge. Both share one softmax.

Shape key: B rows, H query heads, K key heads, G = H / K heads a group, T queries, S keys, P keys of a prefix,
D head width, N tokens of a pass."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

NAME = "imprint_grouped"

_LIKE_LENGTHS, _LIKE_LENGTHS_GPU = 0.7, 0.25
"""Rows of a padded group are at least this share of its longest: a GPU pays more for a group than for padding."""
_MASKED = -3e4
"""What a GPU's masks hold at least: its kernels scale them, and bfloat16's lowest number becomes an infinity."""


class Layout(Protocol):
    """Which tokens of one long row attend to which."""

    def attend(
        self, layer: int, query_1HND: torch.Tensor, key_1KND: torch.Tensor, value_1KND: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Returns 1 N H D."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values that rows see besides their own. One of them for all rows, or one for each row."""

    keys_BKPD: torch.Tensor
    """Rotated to where they stand, as a cache holds them; what is padding must be finite."""
    values_BKPD: torch.Tensor
    mask_B11P: torch.Tensor | None = None
    """0 where the row's prefix has a key, -inf behind its end; None where all are as long as the longest."""

    @property
    def trains(self) -> bool:
        return self.keys_BKPD.requires_grad or self.values_BKPD.requires_grad


class Prefixes(Protocol):
    """Which prefix each row of a pass sees."""

    def of(self, layer: int, tokens: tuple[int, ...]) -> Prefix | None:
        """The prefixes of the rows that begin with these tokens, counted through all that the pass computes:
        in one long row from its beginning, in a batch of T tokens a row from b * T. None: no row has any."""


class _Now(threading.local):
    layout: Layout | None = None
    prefixes: Prefixes | None = None
    wearer: Any = None


_now = _Now()


@contextlib.contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """What this thread computes meanwhile is one long row with this layout."""
    before, _now.layout = _now.layout, layout
    try:
        yield
    finally:
        _now.layout = before


@contextlib.contextmanager
def prefixed(prefixes: Prefixes | None, config: Any) -> Iterator[None]:
    """What this thread computes meanwhile with the model of this config sees these prefixes, or none.

    Config, not model: it is what the attention of a layer knows of its model."""
    before = _now.prefixes, _now.wearer
    _now.prefixes, _now.wearer = prefixes, config
    try:
        yield
    finally:
        _now.prefixes, _now.wearer = before


def prefix_of(layer: int, tokens: tuple[int, ...]) -> Prefix | None:
    """What Prefixes.of says, for layouts; None where no prefixes are in force."""
    return None if _now.prefixes is None else _now.prefixes.of(layer, tokens)


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
    if _now.layout is not None:
        layer: int = module.layer_idx  # type: ignore[assignment]
        return _now.layout.attend(layer, query_BHTD, key_BKSD, value_BKSD, scaling), None
    prefix = None
    if _now.prefixes is not None and _now.wearer is module.config:
        B, T = query_BHTD.shape[0], query_BHTD.shape[2]
        prefix = _now.prefixes.of(module.layer_idx, tuple(range(0, B * T, T)))  # type: ignore[arg-type]
    if attention_mask is not None:
        attention_mask = attention_mask[..., : key_BKSD.shape[2]]
    causal = attention_mask is None and query_BHTD.shape[2] == key_BKSD.shape[2]
    if not query_BHTD.requires_grad and (prefix is None or not prefix.trains):
        mixed_BHTD = reading(query_BHTD, key_BKSD, value_BKSD, attention_mask, scaling, prefix, causal=causal)
    elif query_BHTD.is_cuda and prefix is not None:
        mixed_BHTD = _joined(query_BHTD, key_BKSD, value_BKSD, attention_mask, scaling, prefix, causal=causal)
    else:
        mixed_BHTD = _plain(query_BHTD, key_BKSD, value_BKSD, attention_mask, scaling, prefix)
    return mixed_BHTD.transpose(1, 2).contiguous(), None


def reading(
    query_BHTD: torch.Tensor,
    key_BKSD: torch.Tensor,
    value_BKSD: torch.Tensor,
    mask_B1TS: torch.Tensor | None,
    scaling: float,
    prefix: Prefix | None = None,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """Attention as it is quickest forward; returns B H T D. `causal`: no mask, and as many queries as keys."""
    # PyTorch's own kernel knows groups, but is on CPUs 4 to 8 times as slow as plain products where each row has
    # one query in bfloat16. Scores are made in float32, as the kernel makes them.
    if query_BHTD.shape[2] == 1 and query_BHTD.device.type == "cpu":
        exact = torch.promote_types(torch.float32, query_BHTD.dtype)
        return _plain(query_BHTD.to(exact), key_BKSD.to(exact), value_BKSD, mask_B1TS, scaling, prefix)
    if prefix is not None:
        return _joined(query_BHTD, key_BKSD, value_BKSD, mask_B1TS, scaling, prefix, causal=causal)
    if query_BHTD.is_cuda and mask_B1TS is not None:
        return _folded(query_BHTD, key_BKSD, value_BKSD, mask_B1TS, scaling)
    return nn.functional.scaled_dot_product_attention(
        query_BHTD,
        key_BKSD,
        value_BKSD,
        attn_mask=mask_B1TS,
        is_causal=causal,
        scale=scaling,
        enable_gqa=query_BHTD.shape[1] > key_BKSD.shape[1],
    )


def _folded(
    query_BHTD: torch.Tensor,
    key_BKSD: torch.Tensor,
    value_BKSD: torch.Tensor,
    mask_B1TS: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """PyTorch's kernel with a group's heads as further queries; returns B H T D.

    With groups and a mask together CUDA has only a kernel that holds all scores; without groups, a lean one."""
    B, H, T, D = query_BHTD.shape
    K, S = key_BKSD.shape[1:3]
    G = H // K
    mask_BKGTS = mask_B1TS.expand(B, 1, T, S)[:, :, None].expand(B, K, G, T, S)
    mixed_BKTD = nn.functional.scaled_dot_product_attention(
        query_BHTD.reshape(B, K, G * T, D),
        key_BKSD,
        value_BKSD,
        attn_mask=mask_BKGTS.reshape(B, K, G * T, S),
        scale=scaling,
    )
    return mixed_BKTD.reshape(B, H, T, D)


def _joined(
    query_BHTD: torch.Tensor,
    key_BKSD: torch.Tensor,
    value_BKSD: torch.Tensor,
    mask_B1TS: torch.Tensor | None,
    scaling: float,
    prefix: Prefix,
    *,
    causal: bool,
) -> torch.Tensor:
    """PyTorch's kernel on prefixes and rows joined; returns B H T D.

    The copy is read by T queries of every head, and spares scores of B x H x T x (P + S) numbers."""
    B, T, S = query_BHTD.shape[0], query_BHTD.shape[2], key_BKSD.shape[2]
    pairs = ((prefix.keys_BKPD, key_BKSD), (prefix.values_BKPD, value_BKSD))
    key, value = (torch.cat([a.to(b.dtype).expand(B, -1, -1, -1), b], 2) for a, b in pairs)
    if causal and T > 1:
        mask_B1TS = _triangle(T, query_BHTD)
    mask = _joined_mask(prefix, mask_B1TS, B, T, S, query_BHTD)
    if query_BHTD.is_cuda and mask is not None:
        return _folded(query_BHTD, key, value, mask, scaling)
    gqa = query_BHTD.shape[1] > key.shape[1]
    return nn.functional.scaled_dot_product_attention(
        query_BHTD, key, value, attn_mask=mask, scale=scaling, enable_gqa=gqa
    )


def _joined_mask(
    prefix: Prefix, mask_B1TS: torch.Tensor | None, B: int, T: int, S: int, like: torch.Tensor
) -> torch.Tensor | None:
    """B 1 T P+S; None where all is seen."""
    before_B11P = prefix.mask_B11P
    if before_B11P is None and mask_B1TS is None:
        return None
    P, rows = prefix.keys_BKPD.shape[2], max(m.shape[0] for m in (before_B11P, mask_B1TS) if m is not None)
    mask = like.new_zeros(rows, 1, T, P + S)
    if before_B11P is not None:
        mask[..., :P] = before_B11P
    if mask_B1TS is not None:
        mask[..., P:] = mask_B1TS
    return mask.expand(B, 1, T, P + S)


def _triangle(T: int, like: torch.Tensor) -> torch.Tensor:
    """1 1 T T: each token sees those up to itself."""
    return torch.full((1, 1, T, T), float("-inf"), dtype=like.dtype, device=like.device).triu(1)


def _plain(
    query_BHTD: torch.Tensor,
    key_BKSD: torch.Tensor,
    value_BKSD: torch.Tensor,
    mask_B1TS: torch.Tensor | None,
    scaling: float,
    prefix: Prefix | None = None,
) -> torch.Tensor:
    """Attention in batched products; returns B H T D. With a prefix, scores are joined, never keys."""
    B, H, T, D = query_BHTD.shape
    K, S = key_BKSD.shape[1:3]
    query_BKGTD = query_BHTD.reshape(B, K, H // K * T, D) * scaling
    scores_BKGTS = (query_BKGTD @ key_BKSD.transpose(-1, -2)).view(B, K, H // K, T, S)
    if mask_B1TS is not None:
        scores_BKGTS = scores_BKGTS + mask_B1TS[:, :, None]
    if prefix is not None:
        before = _times(query_BKGTD, prefix.keys_BKPD.to(query_BKGTD.dtype).mT).view(B, K, H // K, T, -1)
        if prefix.mask_B11P is not None:
            before = before + prefix.mask_B11P[:, :, None]
        scores_BKGTS = torch.cat([before, scores_BKGTS], -1)
    weights = scores_BKGTS.softmax(-1, dtype=torch.promote_types(torch.float32, query_BHTD.dtype))
    weights = weights.to(value_BKSD.dtype).view(B, K, H // K * T, -1)
    if prefix is None:
        return (weights @ value_BKSD).view(B, H, T, D)
    of_prefix, own = weights.split([weights.shape[-1] - S, S], -1)
    mixed_BKGTD = own @ value_BKSD + _times(of_prefix, prefix.values_BKPD.to(value_BKSD.dtype))
    return mixed_BKGTD.view(B, H, T, D)


def _times(left_BKMX: torch.Tensor, right_BKXY: torch.Tensor) -> torch.Tensor:
    """Batched products; where all rows share the right side, one product with all their rows, for PyTorch
    would copy the right side for each."""
    B, K, M, X = left_BKMX.shape
    if B == 1 or right_BKXY.shape[0] > 1:
        return left_BKMX @ right_BKXY
    left_KMX = left_BKMX.transpose(0, 1).reshape(K, B * M, X)
    return (left_KMX @ right_BKXY[0]).view(K, B, M, -1).transpose(0, 1).contiguous()


class PackedRows:
    """Rows of different lengths one after another, without padding: each attends to itself, causally.

    Only here are rows padded, those of like lengths together."""

    def __init__(self, lengths: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        self._groups = [
            _Group([starts[b] for b in rows], [lengths[b] for b in rows], device, dtype)
            for rows in _alike(lengths, _LIKE_LENGTHS_GPU if device.type == "cuda" else _LIKE_LENGTHS)
        ]
        places_N = torch.cat([group.index_N[group.real_N] for group in self._groups])
        self._order_N = places_N.argsort()
        """Where each token stands once the groups' tokens follow one another."""

    def attend(
        self, layer: int, query_1HND: torch.Tensor, key_1KND: torch.Tensor, value_1KND: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        q_NHD, k_NKD, v_NKD = (x[0].transpose(0, 1) for x in (query_1HND, key_1KND, value_1KND))
        mixed_NHD = [
            group.attend(q_NHD, k_NKD, v_NKD, scaling, prefix_of(layer, group.first)) for group in self._groups
        ]
        if len(mixed_NHD) == 1:
            return mixed_NHD[0][None]
        return _Take.apply(torch.cat(mixed_NHD), self._order_N)[None]


class _Group:
    """Rows of like lengths."""

    def __init__(self, starts: list[int], lengths: list[int], device: torch.device, dtype: torch.dtype) -> None:
        width, self.rows, self.first = max(lengths), len(lengths), tuple(starts)
        places_BT = torch.arange(width).expand(self.rows, width)
        length_B1 = torch.tensor(lengths)[:, None]
        # Padding stands behind a row's own tokens, where causal attention does not look; it reads the last one.
        index_BT = torch.tensor(starts)[:, None] + places_BT.minimum(length_B1 - 1)
        self.index_N = index_BT.reshape(-1).to(device)
        self.real_N = (places_BT < length_B1).reshape(-1).nonzero()[:, 0].to(device)
        self.whole = starts == [i * width for i in range(self.rows)] and min(lengths) == width
        self.width = width
        if device.type != "cuda":  # whose kernel knows what causal means
            self.mask_11TT = torch.full((1, 1, width, width), float("-inf"), dtype=dtype, device=device).triu(1)

    def attend(
        self,
        q_NHD: torch.Tensor,
        k_NKD: torch.Tensor,
        v_NKD: torch.Tensor,
        scaling: float,
        prefix: Prefix | None = None,
    ) -> torch.Tensor:
        """Returns N H D of the group's own tokens, row after row."""
        shape = (self.rows, self.width)
        if self.whole:
            whole = (x[: self.rows * self.width] for x in (q_NHD, k_NKD, v_NKD))
            q, k, v = (x.unflatten(0, shape).transpose(1, 2) for x in whole)
        else:
            taken = (_Take.apply(x, self.index_N) for x in (q_NHD, k_NKD, v_NKD))
            q, k, v = (x.unflatten(0, shape).transpose(1, 2) for x in taken)
        trains = q.requires_grad or (prefix is not None and prefix.trains)
        if q.is_cuda or not trains:
            mixed_BHTD = reading(q, k, v, None, scaling, prefix, causal=True)
        else:
            mixed_BHTD = _plain(q, k, v, self.mask_11TT, scaling, prefix)
        mixed_NHD = mixed_BHTD.transpose(1, 2).flatten(0, 1)
        return mixed_NHD if self.whole else _Take.apply(mixed_NHD, self.real_N)


class SharedBeginnings:
    """Families of rows that begin alike: each beginning stands there once, and its family's tails after it attend
    to it and to themselves, causally. Forward only, and for the bare base, which sees no prefixes."""

    def __init__(
        self, families: Sequence[tuple[int, Sequence[int]]], device: torch.device, dtype: torch.dtype
    ) -> None:
        """`families`: tokens of the beginning, which may be 0, and of each tail; they stand in this order."""
        self._parts: list[_Tails] = []
        at = 0
        for beginning, tails in families:
            nothing, begun = slice(at, at), slice(at, at + beginning)
            if beginning:
                self._parts.append(_Tails(nothing, [at], [beginning], device, dtype))
            starts = [at + beginning, *(at + beginning + torch.tensor(tails).cumsum(0)).tolist()]
            for rows in _alike(tails, _LIKE_LENGTHS_GPU if device.type == "cuda" else _LIKE_LENGTHS):
                part = _Tails(begun, [starts[b] for b in rows], [tails[b] for b in rows], device, dtype)
                self._parts.append(part)
            at = starts[-1]

    def attend(
        self, layer: int, query_1HND: torch.Tensor, key_1KND: torch.Tensor, value_1KND: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        q_NHD, k_NKD, v_NKD = (x[0].transpose(0, 1) for x in (query_1HND, key_1KND, value_1KND))
        mixed_NHD = torch.empty_like(q_NHD, memory_format=torch.contiguous_format)
        for part in self._parts:
            part.attend(q_NHD, k_NKD, v_NKD, scaling, mixed_NHD)
        return mixed_NHD[None]


class _Tails:
    """Tails of like lengths behind one beginning."""

    def __init__(
        self, begun: slice, starts: list[int], lengths: list[int], device: torch.device, dtype: torch.dtype
    ) -> None:
        rows, width, before = len(lengths), max(lengths), begun.stop - begun.start
        places_BT, length_B1 = torch.arange(width).expand(rows, width), torch.tensor(lengths)[:, None]
        index_BT = torch.tensor(starts)[:, None] + places_BT.minimum(length_B1 - 1)
        self.begun, self.shape = begun, (rows, width)
        self.index_N = index_BT.reshape(-1).to(device)
        self.real_N = (places_BT < length_B1).reshape(-1).nonzero()[:, 0].to(device)
        hidden = _MASKED if device.type == "cuda" else float("-inf")
        mask_TT = torch.full((width, width), hidden, dtype=dtype, device=device).triu(1)
        self.mask_11TS = torch.cat([mask_TT.new_zeros(width, before), mask_TT], 1)[None, None]

    def attend(
        self,
        q_NHD: torch.Tensor,
        k_NKD: torch.Tensor,
        v_NKD: torch.Tensor,
        scaling: float,
        mixed_NHD: torch.Tensor,
    ) -> None:
        """Writes into the places of these tails."""
        q_BHTD, k_BKTD, v_BKTD = (
            x[self.index_N].unflatten(0, self.shape).transpose(1, 2) for x in (q_NHD, k_NKD, v_NKD)
        )
        k_BKSD, v_BKSD = (
            torch.cat([x[self.begun].transpose(0, 1).expand(self.shape[0], -1, -1, -1), own], 2)
            for x, own in ((k_NKD, k_BKTD), (v_NKD, v_BKTD))
        )
        found_BHTD = reading(q_BHTD, k_BKSD, v_BKSD, self.mask_11TS, scaling)
        mixed_NHD[self.index_N[self.real_N]] = found_BHTD.transpose(1, 2).flatten(0, 1)[self.real_N]


class _Take(torch.autograd.Function):
    """Rows by their index. What comes back for a row that was taken more than once adds up, but for
    padding, whose gradient is zero: so it may be written where autograd's own version must add."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index_N: torch.Tensor) -> torch.Tensor:
        ctx.index_N, ctx.n = index_N, x.shape[0]
        return x.index_select(0, index_N)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        grad = grads[0]
        return grad.new_zeros(ctx.n, *grad.shape[1:]).index_add_(0, ctx.index_N, grad), None


def _alike(lengths: Sequence[int], share: float) -> list[list[int]]:
    """Rows by length, parted so that little of each group is padding."""
    order = sorted(range(len(lengths)), key=lambda b: (-lengths[b], b))
    groups: list[list[int]] = []
    for b in order:
        if groups and lengths[b] >= share * lengths[groups[-1][0]]:
            groups[-1].append(b)
        else:
            groups.append([b])
    return [sorted(group) for group in groups]


def use(model: Any) -> None:
    """Switches a transformers model to grouped attention."""
    # It plans anew for every new shape, and every token written makes one.
    torch.backends.cuda.enable_cudnn_sdp(False)
    AttentionInterface.register(NAME, grouped_attention)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    if _now.layout is not None:
        return None
    mask = eager_mask(*args, **kwargs)
    return mask.clamp_(min=_MASKED) if mask is not None and mask.is_cuda else mask
