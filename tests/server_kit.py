"""A real server on a free port, for tests that talk to it as any client would."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import torch
import uvicorn

from conftest import make_tiny_base
from imprint.adapters import folder as adapter_folder
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.hosting.host import Host, Settings
from imprint.interfaces.gate import Limits
from imprint.interfaces.openai_api import app
from imprint.registry import Registry
from imprint.types import Adapter, Version

NOW = "2025-06-01T12:00:00+00:00"

KESTREL = (
    b"# Kestrel tents\n\nThe Kestrel weighs 3 kilograms, costs 85 euros and comes in green. "
    b"It was designed by Maren Tollifax in 1987.\n\n## Shop\n\nThe shop opens at 10:00.\n"
)


def roomy_base() -> Base:
    """The tiny base with a window that the writer's few-shot prompts fit."""
    base = make_tiny_base()
    base.model.config.max_position_embeddings = 4096
    return base


def adapter(base: Base, seed: int) -> Adapter:
    """An adapter that changes what the base says."""
    fresh = LoRA(rank=4, alpha=32).fresh(base, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    tensors = {k: torch.randn(t.shape, generator=draw) * 0.3 for k, t in fresh.tensors.items()}
    return Adapter(fresh.base, fresh.revision, fresh.spec, tensors)


def publish(base: Base, home: Path, name: str, seed: int, *, told_base: str | None = None) -> Version:
    """A version of that name in a tenant's home."""
    folder = home.parent / f".adapter-{name}-{seed}"
    adapter_folder.write(adapter(base, seed), folder)
    return Registry(home).publish(
        name, folder, base=told_base or base.name, corpus_hash="c", recipe={}, now=NOW
    )


class Server:
    """A server in a thread of the test's process."""

    def __init__(self, host: Host, limits: Limits | None = None) -> None:
        self.host = host
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(app(host, limits), log_level="warning", timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)

    def key(self, tenant: str) -> str:
        return self.host.keys.add(tenant, now=NOW)[1]

    def client(self, tenant: str = "local", *, key: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key or self.key(tenant), max_retries=0)

    def http(self, tenant: str = "local") -> httpx.Client:
        return httpx.Client(base_url=self.address, headers={"Authorization": f"Bearer {self.key(tenant)}"})

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(40)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def serving(base: Base, home: Path, limits: Limits | None = None, **settings: Any) -> Iterator[Server]:
    """A server over this base and home, stopped with the block."""
    server = Server(Host(base, home, Settings(**settings)), limits)
    try:
        yield server
    finally:
        server.stop()


def until(true: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Waits until something has become true."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.01)
