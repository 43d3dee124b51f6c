"""What attention sees before the rows of a pass: the cartridges that each row wears, one after another.

Shape key: B rows, K key heads, P tokens of a prefix, D head width."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch.nn.functional import pad

from imprint.adapters.prefix import PrefixLayout, attentions, turning_of
from imprint.attention import Prefix
from imprint.base import Base

if TYPE_CHECKING:
    from imprint.engine.multi_adapter import PlugRack, Seat

_KEPT_BYTES = 512 << 20
"""Prefixes as attention takes them, for steps that are mostly alike: on the bundled base 16 rows of 256 tokens take
190 MB."""

Worn = tuple["Seat", ...]
"""Cartridges of one row, the farthest first."""


class KeptPrefixes:
    """Prefixes that were turned and put side by side, for the passes to come. Those used longest ago are let go."""

    def __init__(self, size_bytes: int = _KEPT_BYTES) -> None:
        self.size_bytes = size_bytes
        self._kept: OrderedDict[tuple[tuple[Worn, ...], int], Prefix] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, rows: tuple[Worn, ...], layer: int, make: Callable[[], Prefix]) -> Prefix:
        key = (rows, layer)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with torch.inference_mode(False), torch.no_grad():  # serving and training share them
            made = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += _size_bytes(made)
            while self._bytes > self.size_bytes:
                self._bytes -= _size_bytes(self._kept.popitem(last=False)[1])
        return made

    def forget(self, seat: Seat) -> None:
        """To be called when the seat's adapter goes, or its numbers change."""
        with self._lock:
            for key in [k for k in self._kept if any(seat in worn for worn in k[0])]:
                self._bytes -= _size_bytes(self._kept.pop(key))


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which rows see which prefix."""

    rows: tuple[Worn, ...]
    different: list[Worn]
    index_B: torch.Tensor
    mask_B11P: torch.Tensor | None
    width: int


class RowPrefixes:
    """The prefixes of a routing's rows, as attention asks for them."""

    def __init__(self, base: Base, at: Callable[[int], Sequence[Seat]], kept: KeptPrefixes) -> None:
        """`at`: what the row of a token wears."""
        self._turning, self._dtype, self._device = turning_of(base), base.model.dtype, base.device.torch
        self.config = base.model.get_submodule(attentions(base)[0]).config
        self._at, self._kept = at, kept
        self._plans: dict[tuple[int, ...], _Plan | None] = {}

    def of(self, layer: int, tokens: tuple[int, ...]) -> Prefix | None:
        if tokens not in self._plans:
            self._plans[tokens] = self._plan(tokens)
        plan = self._plans[tokens]
        if plan is None:
            return None
        if any(seat.rack.trainable for worn in plan.different for seat in worn):
            return self._prefix(layer, plan)
        return self._kept.get(plan.rows, layer, lambda: self._prefix(layer, plan))

    def _plan(self, tokens: tuple[int, ...]) -> _Plan | None:
        rows = tuple(cartridges(self._at(token)) for token in tokens)
        different = list(dict.fromkeys(rows))
        if different == [()]:
            return None
        if len(different) == 1:
            rows = (different[0],)
        length = {worn: sum(_layout(seat).tokens for seat in worn) for worn in different}
        width = max(length.values())
        with torch.inference_mode(False):
            index_B = torch.tensor([different.index(worn) for worn in rows], device=self._device)
            length_B = torch.tensor([length[worn] for worn in rows], device=self._device)
            beyond_BP = torch.arange(width, device=self._device) >= length_B[:, None]
            mask_BP = torch.zeros(beyond_BP.shape, dtype=self._dtype, device=self._device)
            mask_BP = mask_BP.masked_fill_(beyond_BP, float("-inf"))
        alike = min(length.values()) == width
        return _Plan(rows, different, index_B, None if alike else mask_BP[:, None, None], width)

    def _prefix(self, layer: int, plan: _Plan) -> Prefix:
        pairs = [self._pair(layer, worn, plan) for worn in plan.different]
        keys, values = (torch.stack(found) for found in zip(*pairs, strict=True))
        if len(plan.different) != len(plan.rows):
            keys, values = keys.index_select(0, plan.index_B), values.index_select(0, plan.index_B)
        return Prefix(keys, values, plan.mask_B11P)

    def _pair(self, layer: int, worn: Worn, plan: _Plan) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of cartridges that stand one after another, up to place -1; padded behind: K P D each."""
        place = -sum(_layout(seat).tokens for seat in worn)
        keys, values = [], []
        for seat in worn:
            key_KPD, value_KPD = _held(seat, layer)
            keys.append(self._turning.moved(key_KPD, place).to(self._dtype))
            values.append(value_KPD.to(self._dtype))
            place += key_KPD.shape[1]
        if not worn:
            layout = next(_layout(seat) for worn in plan.different for seat in worn)
            nothing = torch.zeros(layout.heads, plan.width, layout.width, dtype=self._dtype, device=self._device)
            return nothing, nothing
        return _padded(keys, plan.width), _padded(values, plan.width)


def cartridges(seats: Sequence[Seat]) -> Worn:
    """Those of the seats whose adapters stand before the rows."""
    return tuple(seat for seat in seats if seat.rack.layout.place == "attention")


def _layout(seat: Seat) -> PrefixLayout:
    return cast(PrefixLayout, seat.rack.layout)


def _held(seat: Seat, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's keys and values as the adapter holds them: K P D each; with the way back for gradients."""
    layout, rack = _layout(seat), cast("PlugRack", seat.rack)
    pair_2KPD = rack.parts(layout.names[layer], (seat.slot,))[0][0]
    if pair_2KPD.requires_grad:
        pair_2KPD = layout.sealed(pair_2KPD)
    return pair_2KPD[0], pair_2KPD[1]


def _padded(parts: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    """One after another, then zeros: K P D."""
    whole_KPD = parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)
    missing = width - whole_KPD.shape[1]
    return pad(whole_KPD, (0, 0, 0, missing)) if missing else whole_KPD


def _size_bytes(prefix: Prefix) -> int:
    return prefix.keys_BKPD.nbytes + prefix.values_BKPD.nbytes
