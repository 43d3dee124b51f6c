"""The grouped low-rank update in plain PyTorch: any CPU, and the truth that fused.py is held to.

Rows of one matrix belong to different adapters. Adapters of one shape live in a rack, a tensor whose first
dimension counts slots; a bundle says which rows belong to which slots. What is computed for the rows n of
slot s is  y_n += scale_s * (x_n down_s') up_s'  and its gradients. Nothing of one group touches another's.

Groups of one size in a row become one batched product, which on CPUs beat a loop over groups 1.5 to 8 times
and torch's grouped_mm 2 to 8 times (docs/log.md); other groups are computed one by one, or, where
they are many and small, batched with padding that is thrown away.

Shape key: N rows in all, I inputs, O outputs, R rank, S slots in the rack, G groups of the bundle,
M rows of a batch's largest group."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_PADDED_BELOW = 64
"""Groups of fewer rows than this, on average, are batched even where padding and copies are needed."""
_FEW_ROWS, _FEW_ROWS_MORE = 32, 2
"""Up to so many rows, and so many more for each group, CPUs multiply small factors up to 4 times faster in
float32 than in bfloat16 (docs/log.md)."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Which rows belong to which slots of one rack. Groups may be empty; rows of no group are left alone."""

    slots: tuple[int, ...]
    starts: tuple[int, ...]
    """First row of each group."""
    counts: tuple[int, ...]
    """Rows of each group, consecutive from its start."""


@dataclass(frozen=True, slots=True)
class Ready:
    """One layer's factors as a batch of groups needs them: to look them up takes as long as small products."""

    batch: Batch
    down_GRI: torch.Tensor
    up_GRO: torch.Tensor
    scale_G11: torch.Tensor
    borrowed: bool
    """Whether they are views of the rack, which stay true whatever is written there."""


def ready(
    down_SRI: torch.Tensor, up_SOR: torch.Tensor, scale_S: torch.Tensor, bundle: Bundle, dtype: torch.dtype
) -> tuple[Ready, ...]:
    """The factors for each batch of a bundle; `dtype` is that of the rows.

    Where the factors are more exact than the rows, so are the products of few rows."""
    found = []
    for batch in batches(bundle, down_SRI.device):
        exact = torch.promote_types(down_SRI.dtype, dtype) if batch.few else dtype
        down_GRI, up_GRO = batch.of(down_SRI, exact), batch.of(up_SOR, exact).mT
        borrowed = batch.adjoining and exact == down_SRI.dtype
        scale_G11 = batch.of(scale_S, scale_S.dtype)[:, None, None]
        found.append(Ready(batch, down_GRI, up_GRO, scale_G11, borrowed))
    return tuple(found)


def add_update(
    y_NO: torch.Tensor,
    x_NI: torch.Tensor,
    down_SRI: torch.Tensor,
    up_SOR: torch.Tensor,
    scale_S: torch.Tensor,
    bundle: Bundle,
) -> torch.Tensor:
    """Adds every group's update to its rows of y, in place.

    Returns what the gradients need again: scale * down x' of each batch (G, R, M), all after one another."""
    return add_ready(y_NO, x_NI, ready(down_SRI, up_SOR, scale_S, bundle, x_NI.dtype))


def add_ready(y_NO: torch.Tensor, x_NI: torch.Tensor, factors: Sequence[Ready]) -> torch.Tensor:
    """What add_update does, with what `ready` gave for the layer."""
    if len(factors) == 1 and factors[0].batch.one_each:
        return _add_one_each(y_NO, x_NI, factors[0])
    kept: list[torch.Tensor] = []
    for its in factors:
        x_GMI = its.batch.rows(x_NI).to(its.down_GRI.dtype)
        low_GRM = _product(its.down_GRI, x_GMI.mT)
        its.batch.settle(low_GRM, its.scale_G11)
        its.batch.add_to(y_NO, low_GRM.mT, its.up_GRO)
        kept.append(low_GRM.view(-1))
    return kept[0] if len(kept) == 1 else torch.cat([*kept, x_NI.new_empty(0)])


def _add_one_each(y_NO: torch.Tensor, x_NI: torch.Tensor, its: Ready) -> torch.Tensor:
    """One row of each group, row after row, which is what writing answers takes. Few calls, for they cost as much
    as the products; and rows on the left, where CPUs are twice as fast."""
    start, G = its.batch.start, len(its.batch.slots)
    if len(x_NI) != G:
        y_NO, x_NI = y_NO[start : start + G], x_NI[start : start + G]
    low_G1R = torch.bmm(x_NI.to(its.down_GRI.dtype).unsqueeze(1), its.down_GRI.mT)
    low_G1R *= its.scale_G11
    _add_product(y_NO.unsqueeze(1), low_G1R, its.up_GRO)
    return low_G1R.view(-1)


def add_gradients(
    grad_NO: torch.Tensor,
    x_NI: torch.Tensor,
    low: torch.Tensor,
    down_SRI: torch.Tensor,
    up_SOR: torch.Tensor,
    scale_S: torch.Tensor,
    bundle: Bundle,
    grad_x_NI: torch.Tensor | None,
    grad_down_SRI: torch.Tensor,
    grad_up_SOR: torch.Tensor,
) -> None:
    """Adds the gradients of every group, in place: of its rows of x (where asked for) and of its slot."""
    done, R = 0, down_SRI.shape[1]
    for batch in batches(bundle, x_NI.device):
        G, M = len(batch.slots), batch.count
        dtype = torch.promote_types(down_SRI.dtype, x_NI.dtype) if batch.few else x_NI.dtype
        low_GRM = low[done : done + G * R * M].view(G, R, M).to(dtype)
        done += G * R * M
        grad_GMO = batch.sound_rows(grad_NO).to(dtype)
        # With the low rank first every product reads and writes long rows: 2 to 4 times as fast in float32.
        grad_low_GRM = _product(batch.of(up_SOR, dtype).mT, grad_GMO.mT)
        batch.settle(grad_low_GRM, batch.of(scale_S, scale_S.dtype)[:, None, None])
        batch.add_to_slots(grad_down_SRI, grad_low_GRM, batch.sound_rows(x_NI).to(dtype))
        batch.add_to_slots(grad_up_SOR.mT, low_GRM, grad_GMO)
        if grad_x_NI is not None:
            batch.add_to(grad_x_NI, grad_low_GRM.mT, batch.of(down_SRI, dtype))


def add_one_update(
    y_NO: torch.Tensor, x_NI: torch.Tensor, down_RI: torch.Tensor, up_OR: torch.Tensor, scale: float
) -> torch.Tensor:
    """What add_update does, for rows that all belong to one adapter: plain products, on any device.

    The factors may be more exact than the rows: then all products are. Returns scale * down x' (R, N)."""
    low_RN = down_RI @ x_NI.to(down_RI.dtype).mT
    low_RN *= scale
    _add_product(y_NO, low_RN.mT, up_OR.mT)
    return low_RN


def add_one_gradient(
    grad_NO: torch.Tensor,
    x_NI: torch.Tensor,
    low_RN: torch.Tensor,
    down_RI: torch.Tensor,
    up_OR: torch.Tensor,
    scale: float,
    grad_x_NI: torch.Tensor | None,
    grad_down_RI: torch.Tensor,
    grad_up_OR: torch.Tensor,
) -> None:
    """What add_gradients does, for rows that all belong to one adapter."""
    x_NI, exact_NO = x_NI.to(down_RI.dtype), grad_NO.to(down_RI.dtype)
    grad_low_RN = up_OR.mT @ exact_NO.mT
    grad_low_RN *= scale
    _add_product(grad_down_RI, grad_low_RN, x_NI)
    _add_product(grad_up_OR.mT, low_RN, exact_NO)
    if grad_x_NI is not None:
        _add_product(grad_x_NI, grad_low_RN.mT, down_RI)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Adds a product of matrices (A, B and B, C) or of batches of them, in place and in one pass where it can."""
    # A matrix of one row or column may have any stride there, which cuBLAS refuses in what it adds to.
    if total.dtype != left.dtype or (total.is_cuda and 1 in total.shape):
        total.add_(left @ right)
    elif total.dim() == 2:
        total.addmm_(left, right)
    else:
        total.baddbmm_(left, right)


@dataclass(frozen=True, slots=True)
class Batch:
    """Groups that are computed by one batched product."""

    slots: tuple[int, ...]
    count: int
    """Rows of each, with padding."""
    start: int
    """First row, where the groups' rows follow one another; else -1."""
    index_N: torch.Tensor | None
    """The row of each place, where that does not follow from the start."""
    padding_G1M: torch.Tensor | None
    """Places of no row, which read a row of their own group: what they give is set to zero."""
    empty_N1: torch.Tensor | None
    """Places of groups without a row, which read another group's row: be it NaN, it must not reach the slot."""
    real_N: torch.Tensor | None
    """The places that are not padding."""
    rows_N: torch.Tensor | None
    """Their rows."""
    adjoining: bool
    """Whether the slots follow one another."""

    @property
    def few(self) -> bool:
        """Whether there are so few rows that CPUs multiply more exact factors faster as they are."""
        return are_few(len(self.slots) * self.count, len(self.slots))

    @property
    def one_each(self) -> bool:
        """Whether each group has one row, row after row."""
        return self.count == 1 and self.index_N is None

    def rows(self, x_NI: torch.Tensor) -> torch.Tensor:
        """The groups' rows: G M and as wide. What stands in an empty group's places must be thrown away."""
        G, M = len(self.slots), self.count
        if self.index_N is None:
            return x_NI[self.start : self.start + G * M].view(G, M, -1)
        return x_NI.index_select(0, self.index_N).view(G, M, -1)

    def sound_rows(self, x_NI: torch.Tensor) -> torch.Tensor:
        """The groups' rows, with zeros for empty groups: what adds up over places may be added to a slot."""
        x_GMI = self.rows(x_NI)
        if self.empty_N1 is not None:
            x_GMI.flatten(0, 1).masked_fill_(self.empty_N1, 0)
        return x_GMI

    def settle(self, low_GRM: torch.Tensor, scale_G11: torch.Tensor) -> None:
        """Scales in place; padding gives nothing."""
        low_GRM *= scale_G11
        if self.padding_G1M is not None:
            low_GRM.masked_fill_(self.padding_G1M, 0)

    def of(self, rack: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The slots' part of a rack's layer, one for each group."""
        part = rack.narrow(0, self.slots[0], len(self.slots)) if self.adjoining else rack[list(self.slots)]
        return part if part.dtype == dtype else part.to(dtype)

    def add_to(self, y_NO: torch.Tensor, left_GMR: torch.Tensor, right_GRO: torch.Tensor) -> None:
        """Adds a product to the groups' rows."""
        if len(self.slots) == 1 and self.index_N is None:
            _add_product(y_NO[self.start : self.start + self.count], left_GMR[0], right_GRO[0])
        elif self.index_N is None:
            _add_product(self.rows(y_NO), left_GMR, right_GRO)
        else:
            assert self.real_N is not None and self.rows_N is not None
            update_NO = torch.bmm(left_GMR, right_GRO).view(-1, y_NO.shape[1]).index_select(0, self.real_N)
            if self.start >= 0:
                y_NO[self.start : self.start + len(update_NO)].add_(update_NO)
            else:
                y_NO.index_copy_(0, self.rows_N, y_NO.index_select(0, self.rows_N).add_(update_NO))

    def add_to_slots(self, rack: torch.Tensor, left_GAM: torch.Tensor, right_GMB: torch.Tensor) -> None:
        """Adds products to the slots' gradients."""
        first, n = self.slots[0], len(self.slots)
        if n == 1:
            _add_product(rack[first], left_GAM[0], right_GMB[0])
        elif self.adjoining:
            _add_product(rack[first : first + n], left_GAM, right_GMB)
        else:
            index_G = torch.tensor(self.slots, device=rack.device)
            rack.index_add_(0, index_G, (left_GAM @ right_GMB).to(rack.dtype))


def are_few(rows: int, groups: int) -> bool:
    """Whether so many rows of so many groups are multiplied faster in float32 than in bfloat16, on a CPU."""
    return rows <= _FEW_ROWS + _FEW_ROWS_MORE * groups


def _product(left_GAB: torch.Tensor, right_GBC: torch.Tensor) -> torch.Tensor:
    """The batched product; of one group the plain one, which is quicker."""
    if len(left_GAB) == 1:
        return torch.mm(left_GAB[0], right_GBC[0])[None]
    return torch.bmm(left_GAB, right_GBC)


@functools.lru_cache(maxsize=256)
@torch.inference_mode(False)  # whoever comes first: training cannot use what was made for answers only
def batches(bundle: Bundle, device: torch.device) -> tuple[Batch, ...]:
    """The products that a bundle takes; the same for every layer of a pass."""
    groups = [g for g in zip(bundle.slots, bundle.starts, bundle.counts, strict=True) if g[2] > 0]
    runs = [_in_a_row(run) for run in _runs(groups)]
    n_rows = sum(count for _, _, count in groups)
    if len(runs) <= 2 or n_rows >= _PADDED_BELOW * len(groups):
        return tuple(runs)
    return tuple(_padded(part, device) for part in _alike(groups))


def _runs(groups: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Groups that follow one another, with as many rows each, in slots that follow one another."""
    runs: list[list[tuple[int, int, int]]] = []
    for slot, start, count in groups:
        if runs:
            last_slot, last_start, last_count = runs[-1][-1]
            if (slot, start, count) == (last_slot + 1, last_start + last_count, last_count):
                runs[-1].append((slot, start, count))
                continue
        runs.append([(slot, start, count)])
    return runs


def _in_a_row(run: list[tuple[int, int, int]]) -> Batch:
    return Batch(tuple(slot for slot, _, _ in run), run[0][2], run[0][1], None, None, None, None, None, True)


def _alike(groups: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Groups parted by size, so that none is padded to more than twice its rows; each part by slot."""
    by_size = sorted(groups, key=lambda g: (g[2].bit_length(), g[0], g[1]))
    return [list(part) for _, part in itertools.groupby(by_size, key=lambda g: g[2].bit_length())]


def _padded(groups: list[tuple[int, int, int]], device: torch.device) -> Batch:
    groups = _filled(groups)
    width = max(count for _, _, count in groups)
    count_G1 = torch.tensor([[count] for _, _, count in groups])
    start_G1 = torch.tensor([[start] for _, start, _ in groups])
    place_GM = torch.arange(width).expand(len(groups), width)
    padding_GM = place_GM >= count_G1
    index_N = (start_G1 + place_GM.minimum((count_G1 - 1).clamp(min=0))).view(-1)
    empty_N1 = (count_G1 == 0).expand_as(place_GM).reshape(-1, 1)
    real_N = (~padding_GM).view(-1).nonzero()[:, 0]
    rows_N = index_N[real_N]
    slots = tuple(slot for slot, _, _ in groups)
    return Batch(
        slots,
        width,
        start=int(rows_N[0]) if (rows_N.diff() == 1).all() else -1,
        index_N=index_N.to(device),
        padding_G1M=padding_GM[:, None].to(device) if padding_GM.any() else None,
        empty_N1=empty_N1.to(device) if empty_N1.any() else None,
        real_N=real_N.to(device),
        rows_N=rows_N.to(device),
        adjoining=slots == tuple(range(slots[0], slots[0] + len(slots))),
    )


def _filled(groups: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The same with empty groups for the slots between them, where these are no more than the groups:
    adjoining slots are used where they are, others must be copied together."""
    slots = [slot for slot, _, _ in groups]
    first, last = min(slots), max(slots)
    if len(set(slots)) < len(slots) or last - first + 1 > 2 * len(slots):
        return groups
    by_slot = {group[0]: group for group in groups}
    return [by_slot.get(slot, (slot, 0, 0)) for slot in range(first, last + 1)]
