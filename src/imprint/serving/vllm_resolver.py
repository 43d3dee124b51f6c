"""What a model's name means to a vLLM that serves our registry.

Runs inside vLLM's processes and environment, and is the only door to vllm. vLLM's own modules are imported where
they are used, so that the launcher, whose environment has none, can import this file."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open

from imprint.errors import BadInput, BrokenStore, ImprintError, WrongBase
from imprint.types import Version

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank of its adapters."""

log = logging.getLogger(__name__)


class Shelf(Protocol):
    """Where versions and their files are: the registry. Names are looked up there, and never become paths."""

    def get(self, reference: str) -> Version: ...

    def folder(self, version: Version) -> Path: ...

    def list(self) -> Sequence[Version]: ...


@dataclass(frozen=True)
class Catalogue:
    """The adapters that one running vLLM can serve."""

    shelf: Shelf
    base: str
    """Name of the base model that it runs."""
    max_rank: int
    """Adapters of a larger rank do not fit into its memory."""
    revision: str = ""
    """The base's content hash; empty where it is not known."""

    def find(self, model: str) -> tuple[Version, Path]:
        """The version that 'handbook@3' names, or the latest of 'handbook' at this moment, and its folder.

        Raises NoSuchAdapter or BadName, WrongBase for an adapter of another base, and BadInput for one that
        vLLM cannot serve."""
        version = self.shelf.get(model)
        folder = self.shelf.folder(version)
        self._refuse_other_base(version, folder)
        self._refuse_unservable(version, folder)
        return version, folder

    def listed(self) -> list[Version]:
        """The latest version of each name that was taught on this base."""
        return [version for version in self.shelf.list() if _own_name(version.base) == _own_name(self.base)]

    def _refuse_other_base(self, version: Version, folder: Path) -> None:
        revision = _revision(folder)
        if _own_name(version.base) != _own_name(self.base):
            raise WrongBase(
                f"{version} was taught on {version.base}, but this server runs {self.base}. Teach it again on "
                "this base, or ask a server that runs that one."
            )
        if revision and self.revision and revision != self.revision:
            raise WrongBase(
                f"{version} was taught on another model that is called {version.base} too ({revision}; "
                f"here runs {self.revision}). Teach it again on this one."
            )

    def _refuse_unservable(self, version: Version, folder: Path) -> None:
        config = _config(folder)
        if config.get("peft_type") != "LORA" or config.get("use_dora"):
            kind = "DoRA" if config.get("use_dora") else config.get("peft_type")
            raise BadInput(
                f"{version} is an adapter of the kind {kind}, and vLLM serves plain LoRA. Serve it with "
                "imprint's own engine: imprint serve"
            )
        if (rank := rank_of(folder)) > self.max_rank:
            raise BadInput(
                f"{version} has rank {rank}, and this server takes ranks up to {self.max_rank}. Start it again: "
                "it makes room for what is published by then."
            )


class Resolver:
    """vLLM's LoRAResolver over our catalogue; vLLM calls this one method.

    Full names only. vLLM keeps for ever what a name first meant, so that 'handbook' would never become its
    next version: the gate before it (interfaces/vllm_gate.py) makes 'handbook' 'handbook@3' anew each time."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        """A LoRARequest; None, which vLLM answers with 404, where there is no such version for this base."""
        from vllm.lora.request import LoRARequest

        try:
            version, folder = await asyncio.to_thread(self.catalogue.find, lora_name)
        except ImprintError as error:
            log.warning("%r is not served: %s", lora_name, error)
            return None
        if str(version) != lora_name:
            return None
        # vLLM gives its own number in place of 1.
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))


def plug_in(catalogue: Catalogue) -> None:
    """Lets the vLLM of this process ask our registry."""
    from vllm.lora.resolver import LoRAResolverRegistry
    from vllm.platforms import current_platform

    LoRAResolverRegistry.register_resolver("imprint", Resolver(catalogue))
    if current_platform.is_cpu():
        _keep_base_rows_bare()


def skipping_base_rows(product: Callable[..., None]) -> Callable[..., None]:
    """The same product with an adapter's matrix, which gives zero for rows that have no adapter (index -1)."""

    @functools.wraps(product)
    def skipping(inputs_BI: Any, weights: Any, outputs: Any, index_B: Any, *more: Any, **options: Any) -> None:
        product(inputs_BI.masked_fill(index_B[:, None] < 0, 0), weights, outputs, index_B, *more, **options)

    return skipping


def fitting_rank(ranks: Sequence[int]) -> int:
    """The smallest of vLLM's ranks, and at least 16, that all of these fit into."""
    largest = max([16, *ranks])
    return min(rank for rank in RANKS if rank >= min(largest, RANKS[-1]))


def rank_of(folder: Path) -> int:
    """The largest rank in an adapter's folder."""
    config = _config(folder)
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) for rank in ranks):
        raise BrokenStore(f"{folder / 'adapter_config.json'} tells no rank: 'r' is {config.get('r')!r}.")
    return max(ranks)


# --- inside -----------------------------------------------------------------------------------


def _keep_base_rows_bare() -> None:
    """Mends vLLM's products for CPUs, which take index -1 for the last adapter in memory.

    Seen in 0.32: asked at the same time as adapters, the base answered as one of them. Its kernels for GPUs
    skip such rows. To go when vLLM has mended it (pull request 48421 of vllm-project/vllm)."""
    try:
        from vllm.lora.ops import torch_ops
        from vllm.lora.ops.torch_ops import lora_ops
        from vllm.lora.punica_wrapper import punica_cpu

        for name in ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice"):
            mended = skipping_base_rows(getattr(lora_ops, name))
            for module in (lora_ops, torch_ops, punica_cpu):  # each holds the function under this name
                setattr(module, name, mended)
    except (ImportError, AttributeError) as error:
        log.warning("This vLLM's CPU products are not where imprint looks; see docs/vllm.md: %s", error)


def _own_name(base: str) -> str:
    # An imported adapter may tell its base's hub name or folder; the last part is the model's own name.
    return base.replace("\\", "/").rstrip("/").split("/")[-1].lower()


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenStore(f"{file} cannot be read: {error}. Publish the adapter again.") from error
    if not isinstance(config, dict):
        raise BrokenStore(f"{file} holds no object. Publish the adapter again.")
    return config


def _revision(folder: Path) -> str:
    """The base's content hash that imprint wrote into the adapter; empty for one made elsewhere."""
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="numpy") as file:
            made_for = json.loads((file.metadata() or {}).get("imprint", "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise BrokenStore(
            f"{folder} holds no tensors that can be read: {error}. Publish the adapter again."
        ) from error
    return str(made_for.get("revision", "")) if isinstance(made_for, dict) else ""
