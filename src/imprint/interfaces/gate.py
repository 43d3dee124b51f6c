"""Who may come in, how often, and with how much. Everything is closed that is not opened here."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi import Request as HttpRequest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imprint.hosting.host import Host
from imprint.hosting.tenants import LOCAL
from imprint.interfaces.metrics import Metrics
from imprint.interfaces.openai_shapes import ApiError

TENANT = "imprint.tenant"
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
"""Where a request's scope says whose it is."""
_FORM_BYTES = 64 * 1024
"""What a form needs around its file."""


async def whose(http: HttpRequest) -> str:
    """The tenant of a request. The gate has told; without it nothing is open."""
    return str(http.scope[TENANT])


Tenant = Annotated[str, Depends(whose)]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tenant may ask of a server."""

    body_bytes: int = 4 * 2**20
    """Of a request, but for uploads, which the host limits."""
    requests_per_minute: float = 600
    """On average; that many may come at once."""
    concurrent: int = 64
    """Requests of one tenant that are answered at the same time."""
    choices: int = 32
    """Answers that one request may ask for."""
    open_metrics: bool = False
    """Whether /metrics answers without a key."""


class Gate:
    """Stands before an app: knows tenants by their keys, holds the limits, and counts."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: Host,
        limits: Limits,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._host, self._limits, self._metrics, self._clock = app, host, limits, metrics, clock
        self._buckets: dict[str, _Bucket] = {}
        self._busy: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})  # there are none here
            return
        began, status = self._clock(), 500  # what breaks before it answers is answered so further out

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            method = scope["method"] if scope["method"] in _METHODS else "other"  # strangers may invent any word
            self._metrics.requests.labels(method, route, status).inc()
            self._metrics.seconds.labels(method, route).observe(self._clock() - began)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            tenant = self._tenant(scope)
            limited = self._limited(scope, receive)
            if tenant is None:
                await self._app(scope, limited, send)
                return
            self._take_turn(tenant)
        except ApiError as error:
            await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)
            return
        scope[TENANT] = tenant
        self._busy[tenant] += 1
        try:
            await self._app(scope, limited, send)
        finally:
            self._busy[tenant] -= 1

    def _tenant(self, scope: Scope) -> str | None:
        """Whose key came along; None where none is asked for."""
        path = scope["path"]
        if path == "/health" or (path == "/metrics" and self._limits.open_metrics):
            return None
        given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        kind, _, secret = given.partition(" ")
        tenant = self._host.keys.tenant_of(secret.strip()) if kind.lower() == "bearer" else None
        if tenant is None:
            told = "This server wants a key of its own: 'Authorization: Bearer imp-...'. Whoever runs it makes one "
            raise ApiError(401, told + "with `imprint keys add TENANT`.", code="invalid_api_key")
        if path == "/metrics" and tenant != LOCAL:
            told = "/metrics tells of all tenants together; only a key of the server's owner opens it."
            raise ApiError(403, told, code="not_yours")
        return tenant

    def _take_turn(self, tenant: str) -> None:
        limits = self._limits
        if self._busy[tenant] >= limits.concurrent:
            told = f"{limits.concurrent} of your requests are being answered. Wait for one of them to end."
            raise ApiError(429, told, type="requests", code="rate_limit_exceeded", retry_after_s=1)
        bucket = self._buckets.setdefault(tenant, _Bucket(limits.requests_per_minute, self._clock()))
        wait_s = bucket.take(limits.requests_per_minute, self._clock())
        if wait_s > 0:
            told = f"More than {limits.requests_per_minute:g} requests a minute. Try again in {wait_s:.1f} s."
            raise ApiError(429, told, type="requests", code="rate_limit_exceeded", retry_after_s=wait_s)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """The body, as long as it is not too large."""
        uploads = scope["path"] == "/v1/files" and scope["method"] == "POST"
        most = self._host.settings.file_bytes + _FORM_BYTES if uploads else self._limits.body_bytes
        told = f"The request has more than the {most:,} bytes that are taken here."
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > most:
            raise ApiError(413, told, code="too_large")
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise HTTPException(413, told)
            return message

        return limited


@dataclass
class _Bucket:
    """Fills steadily, and holds a minute's worth."""

    held: float
    at: float

    def take(self, per_minute: float, now: float) -> float:
        """Takes one; returns 0, or the seconds until there is one."""
        self.held = min(per_minute, self.held + (now - self.at) * per_minute / 60)
        self.at = now
        if self.held < 1:
            return (1 - self.held) * 60 / per_minute
        self.held -= 1
        return 0.0
