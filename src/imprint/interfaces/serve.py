"""`imprint serve`: a host behind HTTP, from the first byte to a graceful end."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from imprint.errors import BadInput, MissingPackage
from imprint.hosting.keys import Keys
from imprint.hosting.tenants import LOCAL

if TYPE_CHECKING:
    import uvicorn

    from imprint.hosting.host import Settings
    from imprint.interfaces.gate import Limits

GRACE_S = 20
"""How long answers that are being written may take when the server is asked to stop."""
_PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""

    def listen(self) -> socket.socket:
        """Takes the port. Raises BadInput where it cannot be had: better now than after loading a model."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=2048)
        except (OSError, OverflowError) as error:
            raise BadInput(
                f"Cannot listen on {self.host} port {self.port}: {error}. Choose another with --port or --host."
            ) from None


def need_packages() -> None:
    """Raises MissingPackage, with the install command, where serving lacks one."""
    missing = [name for module, name in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingPackage(f"Serving needs {', '.join(missing)}. Install with: pip install 'imprint[serve]'")


def first_key(home: Path, *, now: str) -> str | None:
    """The secret of a key for the local tenant, where there is no key at all yet; else None."""
    keys = Keys(home)
    return None if keys.list() else keys.add(LOCAL, now=now)[1]


def serve(
    base: str | None,
    home: Path,
    address: Address,
    settings: Settings,
    limits: Limits,
    *,
    now: str,
    say: Callable[[str], None],
) -> None:
    """Serves until SIGINT or SIGTERM. What a person should know is said, a line at a time."""
    need_packages()
    import uvicorn

    from imprint import base as bases
    from imprint.hosting.host import Host
    from imprint.interfaces.openai_api import app

    with contextlib.closing(address.listen()) as listening:
        host = Host(bases.load(base), home, settings)
        secret = first_key(home, now=now)
        port = listening.getsockname()[1]
        shown = f"[{address.host}]" if ":" in address.host else address.host
        say(f"Serving {host.base.name} at http://{shown}:{port}/v1")
        if secret is not None:
            say(f"Your key, shown this once: {secret}")
        if not _is_loopback(address.host):
            say("Others on the network can reach it. Keys travel in clear text: put a proxy with TLS before it.")
        config = uvicorn.Config(
            app(host, limits), log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S
        )
        server = uvicorn.Server(config)
        with _signals(server, say):
            server.run(sockets=[listening])


@contextlib.contextmanager
def _signals(server: uvicorn.Server, say: Callable[[str], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks the server to end, the second insists.

    uvicorn's own handlers raise the signal again afterwards, so that a graceful end looks like a crash."""

    def stop(number: int, frame: FrameType | None) -> None:
        if server.should_exit:
            server.force_exit = True
        else:
            say(f"Stopping; answers on their way have {GRACE_S} s. Again to stop at once.")
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
