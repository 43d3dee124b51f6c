"""What hardware is here, and the precision we compute in."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


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

    CPUs compute in float32: on the cores that we measured, bfloat16 products are slower, not faster
    (docs/log.md)."""
    if name is None:
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        else:
            name = "cpu"
    if name.startswith("cuda"):
        return Device(name, torch.bfloat16, torch.cuda.get_device_name(name))
    if name == "mps":
        return Device(name, torch.float32, "Apple GPU")
    return Device("cpu", torch.float32, f"{os.cpu_count()} CPU cores")


def pin_threads() -> None:
    """Uses as many threads as there are cores that this process may run on.

    Inside a container, PyTorch may start a thread for each core of the host, which slows everything
    down. An OMP_NUM_THREADS that the user set stays."""
    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
