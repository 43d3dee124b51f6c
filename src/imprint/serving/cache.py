"""Keys and values of the requests being served, and of beginnings that may come again.

Shape key: L layers, B rows of the cache, K key heads, H query heads, S places of a row, D head width,
N tokens of a step, W rows being written, T tokens of a prompt's part."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from imprint.attention import prefix_of, reading
from imprint.base import Base

_FIRST_ROOM, _FIRST_ROWS = 256, 4
_CLEARED_AT_ONCE = 256
_LIKE_LENGTHS = 2.0
"""Rows being written are read together up to this many times their median length; longer ones alone."""


class Cache:
    """One row of keys and values for each request that runs."""

    def __init__(self, base: Base, rows: int) -> None:
        self.layers = int(base.model.config.num_hidden_layers)
        self._like = {"dtype": base.model.dtype, "device": base.device.torch}
        self._shape = (rows, base.key_heads, base.head_width)
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.room = self.rows = 0
        self._clear = [0] * rows
        """How far each row may be read: beyond is what memory held before, or another request, be it NaN."""

    def begin(self, row: int) -> None:
        """The row is another request's now."""
        self._clear[row] = 0

    def clear(self, row: int, start: int, end: int) -> None:
        """Zeros from place `start`, where the row's own tokens end, to `end`, so that it can be read masked:
        a masked NaN would still be NaN, for its weight of zero does not make it zero."""
        if end <= self._clear[row]:
            return
        start, end = max(start, self._clear[row]), min(self.room, -(-end // _CLEARED_AT_ONCE) * _CLEARED_AT_ONCE)
        for held in (*self.keys, *self.values):
            held[row, :, start:end] = 0
        self._clear[row] = end

    def make_room(self, places: int, rows: int) -> None:
        """Room for so many tokens in each of so many rows; they keep what they hold."""
        if places <= self.room and rows <= self.rows:
            return
        B, K, D = self._shape
        new_room = self.room if places <= self.room else max(places, 2 * self.room, _FIRST_ROOM)
        new_rows = self.rows if rows <= self.rows else min(B, max(rows, 2 * self.rows, _FIRST_ROWS))
        # Only when all is made is anything replaced: where memory runs out, what there is stays whole.
        keys, values = (
            [torch.empty(new_rows, K, new_room, D, **self._like) for _ in range(self.layers)] for _ in range(2)
        )
        for old, new in zip((*self.keys, *self.values), (*keys, *values), strict=False):
            new[: self.rows, :, : self.room] = old
        self.keys, self.values, self.room, self.rows = keys, values, new_room, new_rows

    def give_back(self) -> None:
        """Frees the memory; for when no request runs."""
        self.keys, self.values, self.room, self.rows = [], [], 0, 0

    def move(self, source: int, target: int, places: int) -> None:
        """Puts one row's first places into another row."""
        for held in (*self.keys, *self.values):
            held[target, :, :places] = held[source, :, :places]
        self._clear[target] = places

    def read(self, row: int, places: int) -> torch.Tensor:
        """A copy of a row's first places: L 2 K S D."""
        pairs = zip(self.keys, self.values, strict=True)
        return torch.stack([torch.stack([k[row, :, :places], v[row, :, :places]]) for k, v in pairs])

    def write(self, row: int, kept_L2KSD: torch.Tensor) -> None:
        places = kept_L2KSD.shape[3]
        for layer in range(self.layers):
            self.keys[layer][row, :, :places] = kept_L2KSD[layer, 0]
            self.values[layer][row, :, :places] = kept_L2KSD[layer, 1]


@dataclass(frozen=True, slots=True)
class PromptPart:
    """Tokens of one prompt in a step."""

    row: int
    at: int
    """Place of its first token in the step."""
    start: int
    """Place of that token in the row."""
    count: int


class StepLayout:
    """Which tokens of a step attend to which: each to its own row's cache."""

    def __init__(
        self, cache: Cache, writing: Sequence[tuple[int, int]], parts: Sequence[PromptPart], base: Base
    ) -> None:
        """`writing`: for each of the first rows, the place of its token in the step and in the row."""
        device, dtype = base.device.torch, base.model.dtype
        self._cache, self._parts = cache, parts
        self._first = tuple(at for at, _ in writing)
        self._at_W = torch.tensor(self._first, dtype=torch.long, device=device)
        self._place_W = torch.tensor([place for _, place in writing], dtype=torch.long, device=device)
        self._row_W = torch.arange(len(writing), device=device)
        lengths = sorted(place + 1 for _, place in writing)
        limit = int(_LIKE_LENGTHS * lengths[len(lengths) // 2]) + 32 if writing else 0
        self._places = min(limit, lengths[-1]) if writing else 0
        self._long = [(w, place + 1) for w, (_, place) in enumerate(writing) if place >= self._places]
        for w, (_, place) in enumerate(writing):
            cache.clear(w, place, self._places)
        seen_WS = torch.arange(self._places, device=device) <= self._place_W[:, None]
        self._mask_W11S = torch.zeros(seen_WS.shape, dtype=dtype, device=device)
        self._mask_W11S = self._mask_W11S.masked_fill_(~seen_WS, float("-inf"))[:, None, None]
        self._masks = {part: _causal(part, dtype, device) for part in parts if part.start and part.count > 1}

    def attend(
        self, layer: int, query_1HND: torch.Tensor, key_1KND: torch.Tensor, value_1KND: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        mixed_NHD = torch.empty_like(query_1HND[0].transpose(0, 1), memory_format=torch.contiguous_format)

        def attended(
            query: torch.Tensor,
            rows: slice,
            first: tuple[int, ...],
            places: int,
            mask: torch.Tensor | None = None,
            *,
            causal: bool = False,
        ) -> torch.Tensor:
            key, value = keys[rows, :, :places], values[rows, :, :places]
            return reading(query, key, value, mask, scaling, prefix_of(layer, first), causal=causal)

        if len(self._at_W):
            keys[self._row_W, :, self._place_W] = key_1KND[0].index_select(1, self._at_W).transpose(0, 1)
            values[self._row_W, :, self._place_W] = value_1KND[0].index_select(1, self._at_W).transpose(0, 1)
            query_WH1D = query_1HND[0].index_select(1, self._at_W).transpose(0, 1)[:, :, None]
            mixed_WH1D = attended(query_WH1D, slice(len(self._at_W)), self._first, self._places, self._mask_W11S)
            for w, places in self._long:
                mixed_WH1D[w] = attended(query_WH1D[w : w + 1], slice(w, w + 1), self._first[w : w + 1], places)[0]
            mixed_NHD[self._at_W] = mixed_WH1D[:, :, 0]
        for part in self._parts:
            step, end = slice(part.at, part.at + part.count), part.start + part.count
            keys[part.row, :, part.start : end] = key_1KND[0, :, step]
            values[part.row, :, part.start : end] = value_1KND[0, :, step]
            causal = part.start == 0 and part.count > 1
            query_1HTD, row = query_1HND[:, :, step], slice(part.row, part.row + 1)
            mixed_1HTD = attended(query_1HTD, row, (part.at,), end, self._masks.get(part), causal=causal)
            mixed_NHD[step] = mixed_1HTD[0].transpose(0, 1)
        return mixed_NHD[None]


def _causal(part: PromptPart, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What the tokens of a part may see of its row, everything up to themselves: 1 1 T S."""
    shape = (1, 1, part.count, part.start + part.count)
    mask_11TS = torch.full(shape, float("-inf"), dtype=dtype, device=device)
    return mask_11TS.triu_(part.start + 1)


class Beginnings:
    """Keys and values of prompts that were served, for requests that begin alike.

    A beginning is found again only by the same tenant for the same adapter."""

    def __init__(self, tokens: int, *, shortest: int = 16) -> None:
        """`tokens`: how many are kept in all; `shortest`: what is worth keeping."""
        self.tokens, self.shortest = tokens, shortest
        self._kept: OrderedDict[tuple[Hashable, tuple[int, ...]], torch.Tensor] = OrderedDict()
        self._held = 0

    def find(self, owner: Hashable, ids: Sequence[int]) -> torch.Tensor | None:
        """The longest kept beginning of these tokens, short of their last: L 2 K S D."""
        best, length = None, self.shortest - 1
        for key in self._kept:
            if key[0] == owner and (common := _common(key[1], ids[:-1])) > length:
                best, length = key, common
        if best is None:
            return None
        self._kept.move_to_end(best)
        return self._kept[best][..., :length, :]

    def wants(self, owner: Hashable, ids: Sequence[int]) -> bool:
        """Whether these tokens are worth keeping: long enough, short enough, and not there yet."""
        if not self.shortest <= len(ids) <= self.tokens // 4:
            return False
        return all(key[0] != owner or _common(key[1], ids) < len(ids) for key in self._kept)

    def keep(self, owner: Hashable, ids: Sequence[int], kept_L2KSD: torch.Tensor) -> None:
        """Keeps a beginning, instead of those that it goes on from; lets the oldest go where room ends."""
        covered = [k for k in self._kept if k[0] == owner and _common(k[1], ids) == len(k[1])]
        for key in covered:
            self._drop(key)
        self._kept[owner, tuple(ids)] = kept_L2KSD
        self._held += len(ids)
        while self._held > self.tokens:
            self._drop(next(iter(self._kept)))

    def forget(self, owner: Hashable) -> None:
        """Drops all beginnings of one owner."""
        for key in [k for k in self._kept if k[0] == owner]:
            self._drop(key)

    def _drop(self, key: tuple[Hashable, tuple[int, ...]]) -> None:
        del self._kept[key]
        self._held -= len(key[1])


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two begin with alike."""
    n = min(len(one), len(other))
    return next((i for i in range(n) if one[i] != other[i]), n)
