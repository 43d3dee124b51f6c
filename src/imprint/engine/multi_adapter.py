"""One base model and many adapters: rows of a pass find their own; slots are filled and emptied.

Adapters of one shape share a rack: one flat vector for each slot, so that a step of the optimizer is one call, and
one layer's tensors of all slots are one view. While a routing is in force in a thread, the linear layers and MLPs
of the base add to each row what that row's adapter says. Other threads see the bare base.

Shape key: S slots, P parameters of an adapter, I inputs, O outputs, R rank, N token rows of a pass."""

from __future__ import annotations

import bisect
import contextlib
import functools
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from imprint import attention
from imprint.adapters.folder import layout_of
from imprint.adapters.layout import Layout, Plug, refuse_other_base
from imprint.adapters.low_rank import Layout as LowRank
from imprint.base import Base
from imprint.engine.kernels import reference
from imprint.engine.kernels.reference import Bundle, Ready
from imprint.engine.prefixes import KeptPrefixes, RowPrefixes, cartridges
from imprint.errors import BadInput, MissingPackage
from imprint.types import Adapter

SLOTS = 64
"""Slots of a rack. On a CPU their memory is taken when they are first filled."""
TRAINING_SLOTS = 16
"""At most so many where gradients need room too."""
_READY_BUNDLES = 4
"""Of so many bundles a rack remembers where their factors lie: the next steps are mostly alike."""


class _Alone(NamedTuple):
    """Views of one slot's part of a layer: looking them up again and again would cost as much as small products."""

    down_RI: torch.Tensor
    up_OR: torch.Tensor
    grad_down_RI: torch.Tensor | None
    grad_up_OR: torch.Tensor | None


class Rack:
    """Slots for adapters of one layout. Never moves: what views it, may go on viewing it."""

    def __init__(self, layout: Layout, slots: int, base: Base, *, trainable: bool) -> None:
        device, dtype = base.device.torch, base.model.dtype
        # What is trained stays in float32 even under a bfloat16 base: small steps would be rounded away. On CPUs
        # what is only used does too, for there the products of few rows are quicker in float32.
        exact = dtype.itemsize < 4 and (trainable or device.type == "cpu" or layout.exact)
        kept = torch.float32 if exact else dtype
        self.layout, self.trainable = layout, trainable
        self.values_SP = torch.empty(slots, layout.size, dtype=kept, device=device)
        self.grads_SP = torch.empty(slots, layout.size, dtype=kept, device=device) if trainable else None
        self.scale_S = torch.zeros(slots, dtype=torch.promote_types(torch.float32, dtype), device=device)
        self.scales = [0.0] * slots
        self._free = list(range(slots))[::-1]
        self._dtype = dtype

    @property
    def full(self) -> bool:
        return not self._free

    @property
    def unused(self) -> bool:
        return len(self._free) == len(self.scales)

    def fill(self, adapter: Adapter) -> int:
        """Puts an adapter into the lowest empty slot, and says which."""
        slot = min(self._free)
        self.layout.write(adapter.tensors, self.values_SP[slot])
        self.scale_S[slot] = self.scales[slot] = self.layout.scale(adapter)
        self.refresh(slot)
        if self.grads_SP is not None:
            self.grads_SP[slot].zero_()
        self._free.remove(slot)
        return slot

    def empty(self, slot: int) -> None:
        self._free.append(slot)

    def refresh(self, slot: int) -> None:
        """Makes what passes use equal to what was trained."""


class LowRankRack(Rack):
    """Slots for LoRAs, as their kernels take them."""

    layout: LowRank

    def __init__(self, layout: LowRank, slots: int, base: Base, *, trainable: bool) -> None:
        super().__init__(layout, slots, base, trainable=trainable)
        kept = self.values_SP.dtype
        rounded = trainable and kept != self._dtype
        self.used_SP = torch.empty_like(self.values_SP, dtype=self._dtype) if rounded else self.values_SP
        self._values = {n: layout.views(n, self.values_SP) for n in layout.layers}
        self._used = {n: layout.views(n, self.used_SP) for n in layout.layers} if rounded else self._values
        self._alone: dict[tuple[str, int, bool], _Alone] = {}
        self._few_in_float32 = base.device.torch.type == "cpu" and kept == torch.float32
        self._ready: OrderedDict[Bundle, dict[str, tuple[Ready, ...]]] = OrderedDict()
        self._grads: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        if self.grads_SP is not None:
            self._grads = {n: layout.views(n, self.grads_SP) for n in layout.layers}

    def refresh(self, slot: int) -> None:
        if self.used_SP is not self.values_SP:
            self.used_SP[slot].copy_(self.values_SP[slot])

    def alone(self, layer: str, slot: int, rows: int) -> _Alone:
        """One slot's part of a layer, in the precision that is quickest for so many rows."""
        exact = self._few_in_float32 and reference.are_few(rows, 1)
        if not exact and self.used_SP.dtype != self._dtype:  # many rows: rounding costs little beside
            down_RI, up_OR = (factor_S[slot].to(self._dtype) for factor_S in self._used[layer])
            return _Alone(down_RI, up_OR, None, None)
        key = (layer, slot, exact)
        if key not in self._alone:
            grads = self._grads.get(layer)
            factors = self._values[layer] if exact else self._used[layer]
            self._alone[key] = _Alone(
                *(factor_S[slot] for factor_S in factors),
                *((None, None) if grads is None else (grad_S[slot] for grad_S in grads)),
            )
        return self._alone[key]

    def factors(self, layer: str, bundle: Bundle) -> tuple[torch.Tensor, torch.Tensor]:
        """(down_SRI, up_SOR) of a layer, in the precision that is quickest for these rows."""
        exact = self._few_in_float32 and reference.are_few(sum(bundle.counts), len(bundle.counts))
        return (self._values if exact else self._used)[layer]

    def ready(self, layer: str, bundle: Bundle) -> tuple[Ready, ...]:
        """The same, as reference.add_ready takes it; what is only a view is looked up once for steps alike."""
        known = self._ready.get(bundle)
        if known is not None and layer in known:
            self._ready.move_to_end(bundle)
            return known[layer]
        made = reference.ready(*self.factors(layer, bundle), self.scale_S, bundle, self._dtype)
        if all(its.borrowed for its in made):
            self._ready.setdefault(bundle, {})[layer] = made
            while len(self._ready) > _READY_BUNDLES:
                self._ready.popitem(last=False)
        return made

    def grads(self, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self._grads[layer]


class PlugRack(Rack):
    """Slots for adapters whose layout says in plain PyTorch what they do; gradients come through autograd."""

    layout: Plug

    def __init__(self, layout: Plug, slots: int, base: Base, *, trainable: bool) -> None:
        super().__init__(layout, slots, base, trainable=trainable)
        self.constants = {name: layout.constants(name, base) for name in layout.layers}
        self._views = {name: layout.parts(name, self.values_SP) for name in layout.layers}
        self._grads: dict[str, tuple[torch.Tensor, ...]] = {}
        if self.grads_SP is not None:
            self._grads = {name: layout.parts(name, self.grads_SP) for name in layout.layers}
        self._spark = torch.zeros((), requires_grad=True)  # see RoutedLinear

    def parts(self, layer: str, slots: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        """A layer's parts for these slots: views where they adjoin. Gradients of what is trained go to the rack."""
        views = self._views[layer]
        if not self.trainable or not torch.is_grad_enabled():
            return tuple(_picked(view_S, slots) for view_S in views)
        return tuple(
            _Taught.apply(self._spark, view_S, grad_S, slots) if learnt else _picked(view_S, slots)
            for view_S, grad_S, learnt in zip(views, self._grads[layer], self.layout.learnt, strict=True)
        )

    def add_to(self, y_NO: torch.Tensor, x_NI: torch.Tensor, layer: str, bundle: Bundle) -> torch.Tensor:
        """y with every group's update added to its rows."""
        found = []
        for batch in reference.batches(bundle, x_NI.device):
            parts_G = self.parts(layer, batch.slots)
            scale_G11 = _picked(self.scale_S, batch.slots)[:, None, None].to(x_NI.dtype)
            x_GMI = batch.sound_rows(x_NI)
            update_GMO = self.layout.update(layer, x_GMI, parts_G, scale_G11, self.constants[layer])
            update_NO = update_GMO.flatten(0, 1).to(y_NO.dtype)
            found.append((batch, update_NO if batch.real_N is None else update_NO.index_select(0, batch.real_N)))
        return _add_rows(y_NO, found)


class _Taught(torch.autograd.Function):
    """What slots hold of a part, for autograd. What comes back is added to the rack's gradients, in place: only
    to those of these slots."""

    @staticmethod
    def forward(
        ctx: Any, _spark: torch.Tensor, view_S: torch.Tensor, grad_S: torch.Tensor, slots: tuple[int, ...]
    ) -> torch.Tensor:
        ctx.grad_S, ctx.slots = grad_S, slots
        return _picked(view_S, slots).detach()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, ...]:
        slots: tuple[int, ...] = ctx.slots
        if _adjoin(slots):
            ctx.grad_S[slots[0] : slots[0] + len(slots)].add_(grads[0])
        else:
            ctx.grad_S.index_add_(0, _index(slots, grads[0].device), grads[0])
        return None, None, None, None


def _adjoin(slots: tuple[int, ...]) -> bool:
    return slots == tuple(range(slots[0], slots[0] + len(slots)))


def _picked(view_S: torch.Tensor, slots: tuple[int, ...]) -> torch.Tensor:
    """What belongs to these slots: a view where they adjoin."""
    if _adjoin(slots):
        return view_S[slots[0] : slots[0] + len(slots)]
    return view_S.index_select(0, _index(slots, view_S.device))


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)  # whoever comes first: training cannot use what was made for answers only
def _index(slots: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(slots, device=device)


def _add_rows(y_NO: torch.Tensor, found: Sequence[tuple[reference.Batch, torch.Tensor]]) -> torch.Tensor:
    """y with the batches' updates, no two of one row. However many they are, y is copied once."""
    (first, update_NO), *more = found
    if not more and first.index_N is None and len(update_NO) == len(y_NO):
        return y_NO + update_NO
    rows_N = torch.cat([_rows(batch, y_NO.device) for batch, _ in found])
    return y_NO.index_add(0, rows_N, torch.cat([update_NO for _, update_NO in found]))


def _rows(batch: reference.Batch, device: torch.device) -> torch.Tensor:
    if batch.rows_N is not None:
        return batch.rows_N
    return torch.arange(batch.start, batch.start + len(batch.slots) * batch.count, device=device)


def _rack(layout: Layout, slots: int, base: Base, *, trainable: bool) -> Rack:
    slots = min(slots, layout.most_slots)
    if isinstance(layout, LowRank):
        return LowRankRack(layout, slots, base, trainable=trainable)
    return PlugRack(cast(Plug, layout), slots, base, trainable=trainable)


class Seat:
    """An adapter that is in an engine now."""

    def __init__(self, adapter: Adapter, rack: Rack, slot: int) -> None:
        self.adapter, self.rack, self.slot = adapter, rack, slot

    @property
    def values_P(self) -> torch.Tensor:
        """All of its parameters in one vector; see `tensors` for their names."""
        return self.rack.values_SP[self.slot]

    @property
    def grads_P(self) -> torch.Tensor:
        assert self.rack.grads_SP is not None, "only a trainable adapter has gradients"
        return self.rack.grads_SP[self.slot]

    def tensors(self, flat_P: torch.Tensor) -> dict[str, torch.Tensor]:
        """A vector like values_P as PEFT's named tensors: views of it."""
        return self.rack.layout.named(flat_P)

    def refresh(self) -> None:
        """To be called when values_P was changed."""
        self.rack.refresh(self.slot)

    def snapshot(self) -> Adapter:
        """The adapter as it is by now: copies, in float32, on the CPU."""
        named = self.tensors(self.values_P.detach().to("cpu", torch.float32, copy=True))
        tensors = {name: tensor.contiguous() for name, tensor in named.items()}
        return Adapter(self.adapter.base, self.adapter.revision, self.adapter.spec, tensors)


class Engine:
    """One base model, and the adapters that are in memory with it."""

    def __init__(self, base: Base, *, slots: int = SLOTS, kernels: ModuleType | None = None) -> None:
        """`slots`: how many adapters of one shape stand side by side. `kernels`: reference or fused; by
        default the fused ones on a GPU that has Triton."""
        self.base, self.slots = base, slots
        self.kernels = kernels or _fastest(base)
        self._racks: dict[tuple[Layout, bool], list[Rack]] = {}
        self._kept = KeptPrefixes()
        self._lock = threading.Lock()

    @torch.inference_mode(False)  # what is made here serves answers and training
    def load(self, adapter: Adapter, *, trainable: bool = False) -> Seat:
        """Takes an adapter into memory. Raises WrongBase, or BadInput where it holds NaN or infinity."""
        refuse_other_base(self.base, adapter)
        for name, tensor in adapter.tensors.items():
            if not torch.isfinite(tensor).all():
                raise BadInput(f"The adapter's tensor {name} holds values that are not finite. Teach it again.")
        layout = layout_of(self.base, adapter)
        with _installing:  # a second hook on one MLP would add everything twice
            _install(self.base.model, layout)
        with self._lock:
            racks = self._racks.setdefault((layout, trainable), [])
            rack = next((r for r in racks if not r.full), None)
            if rack is None:
                slots = min(self.slots, TRAINING_SLOTS) if trainable else self.slots
                rack = _rack(layout, slots, self.base, trainable=trainable)
                racks.append(rack)
            return Seat(adapter, rack, rack.fill(adapter))

    def unload(self, seat: Seat) -> None:
        """Frees the adapter's slot, and the memory of a rack that nobody uses; the base is as it was."""
        with self._lock:
            seat.rack.empty(seat.slot)
            if seat.rack.unused:
                self._racks[seat.rack.layout, seat.rack.trainable].remove(seat.rack)
        self._kept.forget(seat)

    @contextlib.contextmanager
    def attached(self, adapter: Adapter, *, trainable: bool = False) -> Iterator[Seat]:
        """The adapter in memory and on every row of what this thread computes meanwhile."""
        seat = self.load(adapter, trainable=trainable)
        try:
            with self.wearing(seat):
                yield seat
        finally:
            self.unload(seat)

    @contextlib.contextmanager
    def wearing(self, worn: Worn) -> Iterator[None]:
        """Every row that this thread computes meanwhile belongs to this adapter, or to all of these at once."""
        seats = _seats(worn)
        with self._in_force(_Uniform(self, seats) if seats else None, seats):
            yield

    @contextlib.contextmanager
    def routed(self, runs: Sequence[tuple[Worn, int]]) -> Iterator[None]:
        """The rows that this thread computes meanwhile: so many of this adapter (or of several at once, whose
        updates add up), then so many of that."""
        found = [(_seats(worn), count) for worn, count in runs]
        with self._in_force(_Mixed(self, found), [seat for seats, _ in found for seat in seats]):
            yield

    @contextlib.contextmanager
    def _in_force(self, routing: _Routing | None, seats: Sequence[Seat]) -> Iterator[None]:
        prefixes = RowPrefixes(self.base, routing.at, self._kept) if routing and cartridges(seats) else None
        before, _now.routing = _now.routing, routing
        try:
            with attention.prefixed(prefixes, None if prefixes is None else prefixes.config):
                yield
        finally:
            _now.routing = before


# --- routing ----------------------------------------------------------------------------------

Worn = Seat | Sequence[Seat] | None
"""What a row wears: nothing, an adapter, or several at once."""


def place(worn: Worn) -> tuple[tuple[int, int], ...]:
    """What rows of a pass are best sorted by: those of one adapter stand together, adapters as their slots do."""
    return tuple((id(seat.rack), seat.slot) for seat in _seats(worn))


def _seats(worn: Worn) -> tuple[Seat, ...]:
    if worn is None:
        return ()
    return (worn,) if isinstance(worn, Seat) else tuple(worn)


@dataclass(frozen=True, slots=True)
class _Part:
    rack: Rack
    bundle: Bundle
    alone: int | None = None
    """The slot that all rows of the pass belong to, where it is one."""


class _Uniform:
    """Every row belongs to the same adapters, however many rows there are."""

    def __init__(self, engine: Engine, seats: Sequence[Seat]) -> None:
        self.kernels, self.model, self.seats = engine.kernels, engine.base.model, seats
        self._parts: dict[int, list[_Part]] = {}

    def parts(self, layer: str, rows: int) -> list[_Part]:
        if rows not in self._parts:
            self._parts[rows] = [
                _Part(seat.rack, Bundle((seat.slot,), (0,), (rows,)), seat.slot) for seat in self.seats
            ]
        return [part for part in self._parts[rows] if layer in part.rack.layout.layers]

    def at(self, row: int) -> tuple[Seat, ...]:
        """What the row wears."""
        return tuple(self.seats)


class _Mixed:
    """Runs of rows, each of one adapter, of several or of none."""

    def __init__(self, engine: Engine, runs: Sequence[tuple[tuple[Seat, ...], int]]) -> None:
        self.kernels, self.model = engine.kernels, engine.base.model
        self.rows = sum(count for _, count in runs)
        self._runs = runs
        # Adapters that a row wears at once go to different bundles, for a bundle's groups share no row.
        groups: dict[tuple[int, int], tuple[Rack, list[list[int]]]] = {}
        start = 0
        for seats, count in runs:
            for turn, seat in enumerate(seats):
                _, found = groups.setdefault((turn, id(seat.rack)), (seat.rack, []))
                if found and found[-1][0] == seat.slot and sum(found[-1][1:]) == start:
                    found[-1][2] += count
                else:
                    found.append([seat.slot, start, count])
            start += count
        self._parts = [
            _Part(
                rack,
                Bundle(*(tuple(column) for column in zip(*found, strict=True))),
                found[0][0] if found[0][2] == self.rows else None,
            )
            for rack, found in groups.values()
        ]
        self._starts = list(itertools.accumulate((count for _, count in runs), initial=0))

    def parts(self, layer: str, rows: int) -> list[_Part]:
        parts = [p for p in self._parts if layer in p.rack.layout.layers]
        assert not parts or rows == self.rows, "a pass has as many rows as its routing"
        return parts

    def at(self, row: int) -> tuple[Seat, ...]:
        """What the row wears."""
        return self._runs[bisect.bisect_right(self._starts, row) - 1][0]


_Routing = _Uniform | _Mixed


class _Now(threading.local):
    routing: _Routing | None = None


_now = _Now()


# --- the linear layers ------------------------------------------------------------------------


class RoutedLinear(nn.Linear):
    """A frozen linear layer that adds to each row what the row's adapter says."""

    def __init__(self, name: str, linear: nn.Linear, model: nn.Module) -> None:
        nn.Module.__init__(self)  # the weights are those of the layer it stands for
        self.name = name
        self._home = [model]  # in a list, or it would count as a part of this layer
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        # Where nothing below needs a gradient, autograd would not come back to this layer without it.
        self._spark = torch.zeros((), requires_grad=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        routing = _now.routing
        if routing is None or routing.model is not self._home[0]:
            return nn.functional.linear(x, self.weight, self.bias)
        parts = routing.parts(self.name, x.numel() // x.shape[-1])
        if not parts:
            return nn.functional.linear(x, self.weight, self.bias)
        low = [part for part in parts if isinstance(part.rack, LowRankRack)]
        if torch.is_grad_enabled() and low and (x.requires_grad or any(p.rack.trainable for p in low)):
            y = _Update.apply(x, self._spark, self, low, routing.kernels)
        else:
            y = _forward(x, self, low, routing.kernels)[0]
        return y if len(low) == len(parts) else _plugged(y, x, self.name, parts)


class PluggedMLP:
    """A hook on a block's MLP that adds to its output what each row's adapter says."""

    def __init__(self, name: str, model: nn.Module) -> None:
        self.name, self._home = name, [model]

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], y: torch.Tensor) -> torch.Tensor:
        routing = _now.routing
        if routing is None or routing.model is not self._home[0]:
            return y
        x = inputs[0]
        return _plugged(y, x, self.name, routing.parts(self.name, x.numel() // x.shape[-1]))


def _plugged(y: torch.Tensor, x: torch.Tensor, layer: str, parts: Sequence[_Part]) -> torch.Tensor:
    """y with the updates of those parts that are no LoRAs."""
    x_NI, y_NO = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    for part in parts:
        if isinstance(part.rack, PlugRack):
            y_NO = part.rack.add_to(y_NO, x_NI, layer, part.bundle)
    return y_NO.view(y.shape)


def _forward(
    x: torch.Tensor, layer: RoutedLinear, parts: Sequence[_Part], kernels: ModuleType
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    x_NI = x.reshape(-1, x.shape[-1])
    y_NO = nn.functional.linear(x_NI, layer.weight, layer.bias)
    lows = []
    for part in parts:
        rack = cast(LowRankRack, part.rack)
        if part.alone is None:
            if kernels is reference:
                lows.append(reference.add_ready(y_NO, x_NI, rack.ready(layer.name, part.bundle)))
            else:
                factors = rack.factors(layer.name, part.bundle)
                lows.append(kernels.add_update(y_NO, x_NI, *factors, rack.scale_S, part.bundle))
        else:
            its = rack.alone(layer.name, part.alone, len(x_NI))
            lows.append(reference.add_one_update(y_NO, x_NI, its.down_RI, its.up_OR, rack.scales[part.alone]))
    return y_NO.view(*x.shape[:-1], -1), lows


class _Update(torch.autograd.Function):
    """The layer with its updates. Gradients of adapters go straight to their racks, in place.

    Written out because autograd's own version keeps and adds tensors as wide as the layer for every adapter."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        _spark: torch.Tensor,
        layer: RoutedLinear,
        parts: Sequence[_Part],
        kernels: ModuleType,
    ) -> torch.Tensor:
        y, lows = _forward(x, layer, parts, kernels)
        ctx.save_for_backward(x, *lows)
        ctx.layer, ctx.parts, ctx.kernels = layer, parts, kernels
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *lows = ctx.saved_tensors
        layer: RoutedLinear = ctx.layer
        x_NI = x.reshape(-1, x.shape[-1])
        grad_NO = grads[0].reshape(x_NI.shape[0], -1)
        grad_NI = grad_NO @ layer.weight if ctx.needs_input_grad[0] else None
        for part, low in zip(ctx.parts, lows, strict=True):
            rack: LowRankRack = part.rack
            if not rack.trainable:
                if grad_NI is not None:
                    _pass_back(grad_NI, grad_NO, layer.name, part, ctx.kernels)
                continue
            if part.alone is not None:
                its = rack.alone(layer.name, part.alone, len(x_NI))
                assert its.grad_down_RI is not None and its.grad_up_OR is not None
                reference.add_one_gradient(
                    grad_NO,
                    x_NI,
                    low,
                    its.down_RI,
                    its.up_OR,
                    rack.scales[part.alone],
                    grad_NI,
                    its.grad_down_RI,
                    its.grad_up_OR,
                )
                continue
            ctx.kernels.add_gradients(
                grad_NO,
                x_NI,
                low,
                *rack.factors(layer.name, part.bundle),
                rack.scale_S,
                part.bundle,
                grad_NI,
                *rack.grads(layer.name),
            )
        return None if grad_NI is None else grad_NI.view(x.shape), None, None, None, None


def _pass_back(grad_NI: torch.Tensor, grad_NO: torch.Tensor, layer: str, part: _Part, kernels: ModuleType) -> None:
    """Adds to the input's gradient what comes back through a frozen LoRA: its update with the factors exchanged."""
    rack = cast(LowRankRack, part.rack)
    if part.alone is not None:
        its = rack.alone(layer, part.alone, len(grad_NO))
        reference.add_one_update(grad_NI, grad_NO, its.up_OR.mT, its.down_RI.mT, rack.scales[part.alone])
    else:
        down_SRI, up_SOR = rack.factors(layer, part.bundle)
        kernels.add_update(grad_NI, grad_NO, up_SOR.mT, down_SRI.mT, rack.scale_S, part.bundle)


_installing = threading.Lock()


def _install(model: nn.Module, layout: Layout) -> None:
    """Makes the modules of a layout listen to routings; for good."""
    for name in layout.layers:
        found = model.get_submodule(name)
        if layout.place == "linear" and type(found) is nn.Linear:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, RoutedLinear(name, found, model))
        elif layout.place == "mlp" and not any(isinstance(h, PluggedMLP) for h in found._forward_hooks.values()):
            found.register_forward_hook(PluggedMLP(name, model))


def _fastest(base: Base) -> ModuleType:
    if base.device.name.startswith("cuda"):
        with contextlib.suppress(MissingPackage):
            from imprint.engine.kernels import fused

            if fused.runs_on(base.device.torch):
                return fused
    return reference
