"""What stands before vLLM's own HTTP server, in vLLM's process: our registry's names, and nothing else of vLLM's.

vLLM loads `register` as a plug-in (pyproject.toml) and puts every request through `Gate`. The gate is needed for
two reasons. vLLM keeps for ever what a name first meant; here 'handbook' is made 'handbook@3' anew for each
request, so that a newly published version answers at once. And a vLLM that may load adapters while it runs also
opens routes that take a path from whoever asks (/v1/load_lora_adapter, and /adapters even without the API key);
here only the routes that are listed below exist."""

from __future__ import annotations

import asyncio
import functools
import hmac
import json
import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime
from pathlib import Path
from typing import Any

from imprint.errors import BadInput, BadName, ImprintError, NotFound, WrongBase
from imprint.registry import Registry
from imprint.serving.vllm_resolver import Catalogue, plug_in
from imprint.types import Version

SERVES = "IMPRINT_VLLM_SERVES"
"""JSON in the environment, by which the launcher tells what this vLLM serves: home, base, revision, max_rank."""
MAX_BODY_BYTES = 16 * 2**20

HEALTH, MODELS = ("GET", "/health"), ("GET", "/v1/models")
ROUTES = {
    HEALTH,
    MODELS,
    ("GET", "/version"),
    ("GET", "/metrics"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)


def register() -> None:
    """vLLM's entry point. A vLLM that imprint did not start is left as it is."""
    if SERVES in os.environ:
        plug_in(catalogue())


@functools.cache
def catalogue() -> Catalogue:
    """What the launcher told this process to serve."""
    told = json.loads(os.environ[SERVES])
    return Catalogue(Registry(Path(told["home"])), told["base"], told["max_rank"], told["revision"])


class Gate:
    """ASGI middleware: refuses, or makes the model's name full and lets vLLM answer."""

    def __init__(self, app: App) -> None:
        self.app, self.catalogue = app, catalogue()
        self._key = os.environ.get("VLLM_API_KEY", "").encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            try:
                await self._serve(scope, receive, send)
            except _Refused as refused:
                await _answer(send, refused.status, {"error": refused.body})

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        route = (scope["method"], scope["path"].removeprefix(scope.get("root_path", "")))
        if route not in ROUTES:
            raise _Refused(404, f"There is no {route[0]} {route[1][:200]} here.")
        if route != HEALTH and not self._may(scope):
            raise _Refused(401, "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'.")
        if route == MODELS:
            await _answer(send, 200, await asyncio.to_thread(self._models))
        elif route[0] == "POST":
            body = await self._with_full_name(await _read(receive))
            headers = [(k, v) for k, v in scope["headers"] if k not in (b"content-length", b"transfer-encoding")]
            length = (b"content-length", str(len(body)).encode())
            await self.app({**scope, "headers": [*headers, length]}, _again(body, receive), send)
        else:
            await self.app(scope, receive, send)

    def _may(self, scope: Message) -> bool:
        if not self._key:
            return True
        sent = next((v for k, v in scope["headers"] if k == b"authorization"), b"")
        scheme, _, key = sent.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key)

    async def _with_full_name(self, body: bytes) -> bytes:
        """The request's body with the version's full name as its model."""
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _Refused(400, "The body is not JSON.") from error
        if not isinstance(request, dict) or not isinstance(request.get("model"), str):
            raise _Refused(400, "The body must be a JSON object that names a 'model'.", "model")
        if request["model"] == self.catalogue.base:
            return body
        return json.dumps({**request, "model": await asyncio.to_thread(self._full_name, request["model"])}).encode()

    def _full_name(self, model: str) -> str:
        try:
            return str(self.catalogue.find(model)[0])
        except (NotFound, BadName) as error:
            raise _Refused(404, str(error), "model", "model_not_found") from error
        except WrongBase as error:
            raise _Refused(400, str(error), "model", "wrong_base_model") from error
        except BadInput as error:
            raise _Refused(400, str(error), "model") from error
        except ImprintError as error:
            # It may name paths of this machine, which are not for everyone's eyes.
            log.error("%r cannot be served: %s", model, error)
            raise _Refused(500, f"{model!r} cannot be served now; the server's log tells why.", "model") from error

    def _models(self) -> dict[str, Any]:
        base = {"id": self.catalogue.base, "object": "model", "created": 0, "owned_by": "imprint"}
        return {"object": "list", "data": [base, *(_card(v) for v in self.catalogue.listed())]}


class _Refused(Exception):
    """A request that vLLM does not get to see."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.status = status
        self.body = {"message": message, "type": kind, "param": param, "code": code}


def _card(version: Version) -> dict[str, Any]:
    created = int(datetime.fromisoformat(version.created_at).timestamp()) if version.created_at else 0
    return {
        "id": str(version),
        "object": "model",
        "created": created,
        "owned_by": "imprint",
        "parent": version.base,
    }


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _Refused(400, "The request ended before its body did.")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _Refused(413, f"The body is larger than {MAX_BODY_BYTES >> 20} MiB.")
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, and after it what comes in next: that the asker has gone."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return whole.pop() if whole else await receive()

    return next_message


async def _answer(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
