"""One base model and many adapters: rows of a pass find their own; slots are filled and emptied.

Adapters of one shape share a rack: one flat vector for each slot, so that a step of the optimizer is one call, and
one layer's tensors of all slots are one view. While a routing is in force in a thread, every linear layer
of the base adds to each row what that row's adapter says. Other threads see the bare base.

Shape key: S slots, P parameters of an adapter, I inputs, O outputs, R rank, N token rows of a pass."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from imprint.adapters.low_rank import Layout, layout_of, refuse_other_base
from imprint.base import Base
from imprint.engine.kernels import reference
from imprint.engine.kernels.reference import Bundle, Ready
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
    """Slots for adapters of one shape. Never moves: what views it, may go on viewing it."""

    def __init__(self, layout: Layout, slots: int, base: Base, *, trainable: bool) -> None:
        device, dtype = base.device.torch, base.model.dtype
        # What is trained stays in float32 even under a bfloat16 base: small steps would be rounded away. On CPUs
        # what is only used does too, for there the products of few rows are quicker in float32.
        exact = dtype.itemsize < 4 and (trainable or device.type == "cpu")
        kept = torch.float32 if exact else dtype
        self.layout, self.trainable = layout, trainable
        self.values_SP = torch.empty(slots, layout.size, dtype=kept, device=device)
        rounded = exact and trainable
        self.used_SP = torch.empty_like(self.values_SP, dtype=dtype) if rounded else self.values_SP
        self.grads_SP = torch.empty(slots, layout.size, dtype=kept, device=device) if trainable else None
        self.scale_S = torch.zeros(slots, dtype=torch.promote_types(torch.float32, dtype), device=device)
        self.scales = [0.0] * slots
        self._free = list(range(slots))[::-1]
        self._values = {n: layout.views(n, self.values_SP) for n in layout.layers}
        self._used = {n: layout.views(n, self.used_SP) for n in layout.layers} if rounded else self._values
        self._alone: dict[tuple[str, int, bool], _Alone] = {}
        self._dtype = dtype
        self._few_in_float32 = device.type == "cpu" and kept == torch.float32
        self._ready: OrderedDict[Bundle, dict[str, tuple[Ready, ...]]] = OrderedDict()
        self._grads: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        if self.grads_SP is not None:
            self._grads = {n: layout.views(n, self.grads_SP) for n in layout.layers}

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
        self._lock = threading.Lock()

    def load(self, adapter: Adapter, *, trainable: bool = False) -> Seat:
        """Takes an adapter into memory. Raises WrongBase, or BadInput where it holds NaN or infinity."""
        refuse_other_base(self.base, adapter)
        for name, tensor in adapter.tensors.items():
            if not torch.isfinite(tensor).all():
                raise BadInput(f"The adapter's tensor {name} holds values that are not finite. Teach it again.")
        layout = layout_of(self.base, adapter)
        _install(self.base.model, layout.layers)
        with self._lock:
            racks = self._racks.setdefault((layout, trainable), [])
            rack = next((r for r in racks if not r.full), None)
            if rack is None:
                slots = min(self.slots, TRAINING_SLOTS) if trainable else self.slots
                rack = Rack(layout, slots, self.base, trainable=trainable)
                racks.append(rack)
            return Seat(adapter, rack, rack.fill(adapter))

    def unload(self, seat: Seat) -> None:
        """Frees the adapter's slot, and the memory of a rack that nobody uses; the base is as it was."""
        with self._lock:
            seat.rack.empty(seat.slot)
            if seat.rack.unused:
                self._racks[seat.rack.layout, seat.rack.trainable].remove(seat.rack)

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
    def wearing(self, seat: Seat | None) -> Iterator[None]:
        """Every row that this thread computes meanwhile belongs to this adapter."""
        with _in_force(None if seat is None else _Uniform(self, seat)):
            yield

    @contextlib.contextmanager
    def routed(self, runs: Sequence[tuple[Seat | None, int]]) -> Iterator[None]:
        """The rows that this thread computes meanwhile: so many of this adapter, then so many of that."""
        with _in_force(_Mixed(self, runs)):
            yield


# --- routing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    rack: Rack
    bundle: Bundle
    alone: int | None = None
    """The slot that all rows of the pass belong to, where it is one."""


class _Uniform:
    """Every row belongs to one adapter, however many there are."""

    def __init__(self, engine: Engine, seat: Seat) -> None:
        self.kernels, self.model, self._seat = engine.kernels, engine.base.model, seat
        self._parts: dict[int, list[_Part]] = {}

    def parts(self, layer: str, rows: int) -> list[_Part]:
        if layer not in self._seat.rack.layout.layers:
            return []
        if rows not in self._parts:
            slot = self._seat.slot
            self._parts[rows] = [_Part(self._seat.rack, Bundle((slot,), (0,), (rows,)), slot)]
        return self._parts[rows]


class _Mixed:
    """Runs of rows, each of one adapter or of none."""

    def __init__(self, engine: Engine, runs: Sequence[tuple[Seat | None, int]]) -> None:
        self.kernels, self.model = engine.kernels, engine.base.model
        self.rows = sum(count for _, count in runs)
        groups: dict[int, tuple[Rack, list[list[int]]]] = {}
        start = 0
        for seat, count in runs:
            if seat is not None:
                _, found = groups.setdefault(id(seat.rack), (seat.rack, []))
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

    def parts(self, layer: str, rows: int) -> list[_Part]:
        parts = [p for p in self._parts if layer in p.rack.layout.layers]
        assert not parts or rows == self.rows, "a pass has as many rows as its routing"
        return parts


_Routing = _Uniform | _Mixed


class _Now(threading.local):
    routing: _Routing | None = None


_now = _Now()


@contextlib.contextmanager
def _in_force(routing: _Routing | None) -> Iterator[None]:
    before, _now.routing = _now.routing, routing
    try:
        yield
    finally:
        _now.routing = before


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
        if torch.is_grad_enabled() and all(p.rack.trainable for p in parts):
            return _Update.apply(x, self._spark, self, parts, routing.kernels)
        return _forward(x, self, parts, routing.kernels)[0]


def _forward(
    x: torch.Tensor, layer: RoutedLinear, parts: Sequence[_Part], kernels: ModuleType
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    x_NI = x.reshape(-1, x.shape[-1])
    y_NO = nn.functional.linear(x_NI, layer.weight, layer.bias)
    lows = []
    for part in parts:
        rack = part.rack
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
            rack: Rack = part.rack
            if part.alone is not None:
                its = rack.alone(layer.name, part.alone, len(x_NI))
                assert its.grad_down_RI is not None and its.grad_up_OR is not None
                reference.add_one_gradient(
                    grad_NO, x_NI, low, its.down_RI, its.up_OR, rack.scales[part.alone], grad_NI,
                    its.grad_down_RI, its.grad_up_OR,
                )
                continue
            ctx.kernels.add_gradients(
                grad_NO, x_NI, low, *rack.factors(layer.name, part.bundle), rack.scale_S, part.bundle, grad_NI,
                *rack.grads(layer.name),
            )
        return None if grad_NI is None else grad_NI.view(x.shape), None, None, None, None


def _install(model: nn.Module, layers: Mapping[str, Any]) -> None:
    """Makes these linear layers of the model listen to routings; for good."""
    for name in layers:
        found = model.get_submodule(name)
        if type(found) is nn.Linear:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, RoutedLinear(name, found, model))


def _fastest(base: Base) -> ModuleType:
    if base.device.name.startswith("cuda"):
        with contextlib.suppress(MissingPackage):
            from imprint.engine.kernels import fused

            if fused.runs_on(base.device.torch):
                return fused
    return reference

