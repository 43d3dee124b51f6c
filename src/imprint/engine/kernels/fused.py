"""The grouped low-rank update in Triton: what reference.py gives, in two launches forward and four backward.

Three kernels do all of it, each for both factors, since up seen as S, R, O has the shape of down:
_shrink gives rows times a factor, _expand adds low rows times a factor, _collect adds up a factor's gradient.
Sums run in float32 (float64 for float64) and in one fixed order: no atomics, so a run can be repeated exactly.
Every load is masked, both factors of every product, so that no NaN leaves its group.

Shape key: N rows in all, I inputs, O outputs, A either of them, R rank, S slots in the rack, P rows of all groups
one after another, B blocks of rows, U slots that have rows. In kernels the same letters are numbers."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from imprint.engine.kernels.reference import Bundle
from imprint.errors import MissingPackage

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise MissingPackage("The fused kernel needs Triton. Install it with: pip install triton") from error

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether $TRITON_INTERPRET was set when this file was imported: then the kernels run in NumPy, on any machine."""

_MOST_ROWS = 64
"""Rows of one block at most. A block holds rows of one group only."""
_MOST_COLUMNS = 128
_STEP_BYTES = 24 * 1024
"""What one step of a loop may load. Three such steps are in flight, and a GPU gives a program about 100 kB."""

_TRITON_TYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.float32 if INTERPRETED else tl.bfloat16,  # the interpreter multiplies bfloat16's bare bits
}


def runs_on(device: torch.device) -> bool:
    """Whether these kernels can compute on a device: a CUDA GPU, or any where Triton's interpreter is on."""
    return device.type == "cuda" or INTERPRETED


def add_update(
    y_NO: torch.Tensor,
    x_NI: torch.Tensor,
    down_SRI: torch.Tensor,
    up_SOR: torch.Tensor,
    scale_S: torch.Tensor,
    bundle: Bundle,
) -> torch.Tensor:
    """Adds every group's update to its rows of y, in place.

    Returns what the gradients need again: scale * x down' of shape P, R, the groups in order of their slots."""
    plan = _plan_on(bundle, x_NI.device)
    low_PR = _shrink(x_NI, down_SRI, scale_S, plan)
    _expand(y_NO, low_PR, up_SOR.transpose(1, 2), plan)
    return low_PR


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
    plan = _plan_on(bundle, x_NI.device)
    grad_low_PR = _shrink(grad_NO, up_SOR.transpose(1, 2), scale_S, plan)
    _collect(grad_down_SRI, grad_low_PR, x_NI, plan)
    _collect(grad_up_SOR.transpose(1, 2), low, grad_NO, plan)
    if grad_x_NI is not None:
        _expand(grad_x_NI, grad_low_PR, down_SRI, plan)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A bundle as work lists on a device."""

    blocks_B4: torch.Tensor
    """Slot, first row, rows, and first place in P of each block; the blocks of one slot stand together."""
    runs_U3: torch.Tensor
    """Slot, first block and number of blocks of each slot that has rows."""
    places: int
    """P."""
    block: int
    """Rows that a block has room for."""


def _plan_on(bundle: Bundle, device: torch.device) -> _Plan:
    # A stream does not wait for what another one copies, so each has a copy of its own.
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return _plan(bundle, device, stream)


@functools.lru_cache(maxsize=64)
def _plan(bundle: Bundle, device: torch.device, stream: int) -> _Plan:
    """Made once for a bundle, which meets every layer of a pass."""
    groups = sorted(group for group in zip(bundle.slots, bundle.starts, bundle.counts, strict=True) if group[2])
    most = max((count for _, _, count in groups), default=0)
    block = min(_MOST_ROWS, max(16, triton.next_power_of_2(most)))
    blocks: list[tuple[int, int, int, int]] = []
    places = 0
    for slot, start, count in groups:
        for done in range(0, count, block):
            blocks.append((slot, start + done, min(block, count - done), places + done))
        places += count
    return _Plan(_table(blocks, 4, device), _table(_runs(blocks), 3, device), places, block)


def _runs(blocks: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int]]:
    runs: list[tuple[int, int, int]] = []
    first = 0
    for slot, of_slot in groupby(blocks, key=lambda block: block[0]):
        count = len(list(of_slot))
        runs.append((slot, first, count))
        first += count
    return runs


def _table(lines: list[Any], columns: int, device: torch.device) -> torch.Tensor:
    """The lines on the device; the host does not wait for the copy."""
    on_gpu = device.type == "cuda"
    table = torch.tensor(lines, dtype=torch.int32, pin_memory=on_gpu and bool(lines)).view(-1, columns)
    return table.to(device, non_blocking=on_gpu)


def _shrink(rows_NA: torch.Tensor, factor_SRA: torch.Tensor, scale_S: torch.Tensor, plan: _Plan) -> torch.Tensor:
    """scale * rows factor', of shape P, R."""
    _, R, A = factor_SRA.shape
    low_PR = rows_NA.new_empty(plan.places, R)
    if plan.places:
        sizes = _sizes(plan, R, A, rows_NA, factor_SRA)
        with _on(rows_NA.device):
            _shrink_kernel[(len(plan.blocks_B4),)](
                low_PR, rows_NA, factor_SRA, scale_S, plan.blocks_B4,
                A, R, *rows_NA.stride(), *factor_SRA.stride(), scale_S.stride(0), **sizes,
            )
    return low_PR


def _expand(y_NA: torch.Tensor, low_PR: torch.Tensor, factor_SRA: torch.Tensor, plan: _Plan) -> None:
    """Adds low factor to the rows of y."""
    _, R, A = factor_SRA.shape
    if plan.places:
        sizes = _sizes(plan, R, A, low_PR, factor_SRA)
        with _on(y_NA.device):
            _expand_kernel[(len(plan.blocks_B4), triton.cdiv(A, sizes["WIDTH"]))](
                y_NA, low_PR, factor_SRA, plan.blocks_B4, A, R, *y_NA.stride(), *factor_SRA.stride(), **sizes
            )


def _collect(grad_SRA: torch.Tensor, low_PR: torch.Tensor, rows_NA: torch.Tensor, plan: _Plan) -> None:
    """Adds low' rows to the gradient of each slot."""
    _, R, A = grad_SRA.shape
    if plan.places:
        sizes = _sizes(plan, R, A, rows_NA, grad_SRA)
        with _on(rows_NA.device):
            _collect_kernel[(len(plan.runs_U3), triton.cdiv(A, sizes["WIDTH"]))](
                grad_SRA, low_PR, rows_NA, plan.blocks_B4, plan.runs_U3,
                A, R, *grad_SRA.stride(), *rows_NA.stride(), **sizes,
            )


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which may be another GPU than the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _sizes(plan: _Plan, R: int, A: int, rows_NA: torch.Tensor, factor_SRA: torch.Tensor) -> dict[str, Any]:
    return _sizes_of(plan.block, R, A, rows_NA.dtype, factor_SRA.dtype)


@functools.cache
def _sizes_of(block: int, R: int, A: int, dtype: torch.dtype, factor_dtype: torch.dtype) -> dict[str, Any]:
    """What a kernel is compiled for: powers of two from 16, which is what a tensor core multiplies."""
    rank = max(16, triton.next_power_of_2(R))
    column_bytes = block * dtype.itemsize + rank * factor_dtype.itemsize
    width = min(_MOST_COLUMNS, max(16, triton.next_power_of_2(A)))
    while width > 16 and width * column_bytes > _STEP_BYTES:
        width //= 2
    total = tl.float64 if dtype == torch.float64 else tl.float32
    return {"ROWS": block, "RANK": rank, "WIDTH": width, "DTYPE": _TRITON_TYPES[dtype], "TOTAL": total}


# In kernels every argument that is not known when they are compiled is a tl.tensor: Triton reads annotations, and
# would take an `int` for 32 bits. Indices are widened before they meet a stride: a rack may hold more than 2^31
# numbers. Global names other than Triton's own built-ins do not work here; the interpreter may not notice.


@triton.jit
def _block_at(blocks_B4: tl.tensor, b: tl.tensor) -> Any:
    """Slot, first row, rows, and first place of a block."""
    line = blocks_B4 + b * 4
    slot, row, place = tl.load(line), tl.load(line + 1), tl.load(line + 3)
    return slot.to(tl.int64), row.to(tl.int64), tl.load(line + 2), place.to(tl.int64)


@triton.jit
def _place(at: tl.tensor, lines: tl.tuple, columns: tl.tuple) -> Any:
    """Where a tile's elements are, and which are real. Lines and columns: their indices, stride and end."""
    i, stride_i, end_i = lines
    j, stride_j, end_j = columns
    at += i.to(tl.int64)[:, None] * stride_i + j.to(tl.int64)[None, :] * stride_j
    return at, (i < end_i)[:, None] & (j < end_j)[None, :]


@triton.jit
def _load(at: tl.tensor, lines: tl.tuple, columns: tl.tuple) -> tl.tensor:
    """A tile, and 0 where it is not real."""
    at, real = _place(at, lines, columns)
    return tl.load(at, mask=real, other=0.0)


@triton.jit
def _add(at: tl.tensor, sum: tl.tensor, lines: tl.tuple, columns: tl.tuple) -> None:
    """Adds to the real part of a tile, rounding once."""
    at, real = _place(at, lines, columns)
    total = tl.load(at, mask=real, other=0.0).to(sum.dtype) + sum
    tl.store(at, total.to(at.dtype.element_ty), mask=real)


@triton.jit
def _times(left: tl.tensor, right: tl.tensor, sum: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    """sum + left right. A tensor core takes no two types, so both are rounded to the rows' type first."""
    # Three products of tensor cores are as exact as float32. Without tensor cores a tile outgrows the registers.
    return tl.dot(left.to(DTYPE), right.to(DTYPE), sum, input_precision="tf32x3", out_dtype=sum.dtype)


@triton.jit
def _shrink_kernel(
    low_PR: tl.tensor, rows_NA: tl.tensor, factor_SRA: tl.tensor, scale_S: tl.tensor, blocks_B4: tl.tensor,
    A: tl.tensor, R: tl.tensor, rows_n: tl.tensor, rows_a: tl.tensor,
    factor_s: tl.tensor, factor_r: tl.tensor, factor_a: tl.tensor, scale_s: tl.tensor,
    ROWS: tl.constexpr, RANK: tl.constexpr, WIDTH: tl.constexpr, DTYPE: tl.constexpr, TOTAL: tl.constexpr,
) -> None:
    """A program makes the low rows of one block, in steps along A."""
    slot, row, count, place = _block_at(blocks_B4, tl.program_id(0))
    n, r = tl.arange(0, ROWS), tl.arange(0, RANK)
    low = tl.full((ROWS, RANK), 0, TOTAL)
    for first in range(0, A, WIDTH):
        a = first + tl.arange(0, WIDTH)
        rows = _load(rows_NA + row * rows_n, (n, rows_n, count), (a, rows_a, A))
        factor = _load(factor_SRA + slot * factor_s, (a, factor_a, A), (r, factor_r, R))
        low = _times(rows, factor, low, DTYPE)
    low *= tl.load(scale_S + slot * scale_s).to(TOTAL)
    at, real = _place(low_PR + place * R, (n, R, count), (r, 1, R))
    tl.store(at, low.to(low_PR.dtype.element_ty), mask=real)


@triton.jit
def _expand_kernel(
    y_NA: tl.tensor, low_PR: tl.tensor, factor_SRA: tl.tensor, blocks_B4: tl.tensor,
    A: tl.tensor, R: tl.tensor, y_n: tl.tensor, y_a: tl.tensor,
    factor_s: tl.tensor, factor_r: tl.tensor, factor_a: tl.tensor,
    ROWS: tl.constexpr, RANK: tl.constexpr, WIDTH: tl.constexpr, DTYPE: tl.constexpr, TOTAL: tl.constexpr,
) -> None:
    """A program updates one block of rows in one width of A."""
    slot, row, count, place = _block_at(blocks_B4, tl.program_id(0))
    n, r = tl.arange(0, ROWS), tl.arange(0, RANK)
    a = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    low = _load(low_PR + place * R, (n, R, count), (r, 1, R))
    factor = _load(factor_SRA + slot * factor_s, (r, factor_r, R), (a, factor_a, A))
    update = _times(low, factor, tl.full((ROWS, WIDTH), 0, TOTAL), DTYPE)
    _add(y_NA + row * y_n, update, (n, y_n, count), (a, y_a, A))


@triton.jit
def _collect_kernel(
    grad_SRA: tl.tensor, low_PR: tl.tensor, rows_NA: tl.tensor, blocks_B4: tl.tensor, runs_U3: tl.tensor,
    A: tl.tensor, R: tl.tensor, grad_s: tl.tensor, grad_r: tl.tensor, grad_a: tl.tensor,
    rows_n: tl.tensor, rows_a: tl.tensor,
    ROWS: tl.constexpr, RANK: tl.constexpr, WIDTH: tl.constexpr, DTYPE: tl.constexpr, TOTAL: tl.constexpr,
) -> None:
    """A program sums one slot's gradient in one width of A, over all blocks of the slot: nobody else adds to it."""
    run = runs_U3 + tl.program_id(0) * 3
    slot, first, blocks = tl.load(run).to(tl.int64), tl.load(run + 1), tl.load(run + 2)
    n, r = tl.arange(0, ROWS), tl.arange(0, RANK)
    a = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    grad = tl.full((RANK, WIDTH), 0, TOTAL)
    for b in range(first, first + blocks):
        _, row, count, place = _block_at(blocks_B4, b)
        low = _load(low_PR + place * R, (r, 1, R), (n, R, count))
        rows = _load(rows_NA + row * rows_n, (n, rows_n, count), (a, rows_a, A))
        grad = _times(low, rows, grad, DTYPE)
    _add(grad_SRA + slot * grad_s, grad, (r, grad_r, R), (a, grad_a, A))
