"""What hardware is here, and the precision we compute in."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from imprint.errors import BadSetting

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h


@dataclass(frozen=True, slots=True)
class Device:
    """Where tensors live."""

    name: str
    """'cpu', 'cuda' or 'mps'."""
    dtype: torch.dtype
    description: str

    @property
    def torch(self) -> torch.device:
        return torch.device(self.name)


def find(name: str | None = None) -> Device:
    """The named device, or the best one here.

    A CPU computes in bfloat16 where it has instructions for it: with tiles (AMX) products were 7 times faster
    than in float32, with AVX-512's dot products twice; elsewhere bfloat16 is the slower one (docs/log.md).
    $IMPRINT_DTYPE overrides: float32 or bfloat16."""
    if name is None:
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        else:
            name = "cpu"
    if name.startswith("cuda"):
        return Device(name, _dtype(torch.bfloat16), torch.cuda.get_device_name(name))
    if name == "mps":
        return Device(name, _dtype(torch.float32), "Apple GPU")
    quick = _has_bfloat16_products()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    described = f"{cores} CPU cores{' with bfloat16 products' if quick else ''}"
    return Device("cpu", _dtype(torch.bfloat16 if quick else torch.float32), described)


def free_bytes(device: Device) -> int:
    """Memory that could still be taken there; of a machine that does not tell, half of what it has."""
    if device.torch.type == "cuda":
        return int(torch.cuda.mem_get_info(device.torch)[0])
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def prepare() -> None:
    """Sets this process up for numerical work on a CPU; harmless elsewhere.

    As many threads as there are cores that this process may run on (a container's PyTorch may start one
    for each core of the host), unless OMP_NUM_THREADS is set; and freed memory is kept for the next tensor,
    for handing it back and forth costs about a tenth of the time. Threads that start later share what is kept,
    unless MALLOC_ARENA_MAX is set: each with heaps of its own, a server that taught beside serving held
    gigabytes that nobody used (docs/log.md)."""
    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        if "MALLOC_ARENA_MAX" not in os.environ:
            libc.mallopt(_M_ARENA_MAX, 1)


def give_memory_back() -> None:
    """Hands the system the memory that this process keeps and does not use; for the end of long work.

    Takes tenths of a second for each GiB, in which no thread gets memory, and pages must be fetched anew."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is the one whose memory can be told what to do."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            libc = ctypes.CDLL("libc.so.6")
            return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
    return None


def _dtype(usual: torch.dtype) -> torch.dtype:
    asked = os.environ.get("IMPRINT_DTYPE")
    if asked is None:
        return usual
    if asked not in ("float32", "bfloat16"):
        raise BadSetting(f"IMPRINT_DTYPE is '{asked}'; it may be float32 or bfloat16.")
    return torch.float32 if asked == "float32" else torch.bfloat16


def _has_bfloat16_products() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8").split()
        return "amx_bf16" in flags or "avx512_bf16" in flags
    except OSError:
        return False
