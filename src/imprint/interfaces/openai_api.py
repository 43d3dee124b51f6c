"""An OpenAI-compatible server over a Host: this page translates, and does nothing else."""

from __future__ import annotations

import logging
import secrets
import time
from asyncio import to_thread
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from imprint.errors import ImprintError
from imprint.hosting.host import Host, Model
from imprint.interfaces import openai_teaching
from imprint.interfaces.gate import Gate, Limits, Tenant
from imprint.interfaces.metrics import Metrics
from imprint.interfaces.openai_answers import (
    Answers,
    ChatShape,
    Choice,
    ClientGone,
    CompletionShape,
    EventStream,
    Reply,
    Shape,
    begun,
    judged,
    unless_gone,
)
from imprint.interfaces.openai_shapes import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    Sampling,
    api_error,
    check_text,
    model_shape,
)
from imprint.serving.requests import Piece, Request
from imprint.types import Turn

log = logging.getLogger(__name__)

COMPLETION_TOKENS = 16
"""What OpenAI writes for a completion that does not say how much; a chat may fill the window."""
_SEEDS = 2**63


def app(host: Host, limits: Limits | None = None) -> FastAPI:
    """The server's whole surface. The host starts and ends with it."""
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        host.start()
        try:
            yield
        finally:
            await to_thread(host.close)

    # No pages of documentation: they would load scripts from elsewhere.
    made = FastAPI(title="imprint", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    metrics = Metrics(host.stats)
    made.include_router(_Routes(host, limits, metrics).router())
    made.include_router(openai_teaching.router(host))
    _answer_errors(made)
    made.add_middleware(Gate, host=host, limits=limits, metrics=metrics)
    return made


@dataclass(frozen=True)
class _Routes:
    """Models, answers, and how the server is."""

    host: Host
    limits: Limits
    metrics: Metrics

    def router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/health", self.health, methods=["GET"])
        router.add_api_route("/metrics", self.tell_metrics, methods=["GET"])
        router.add_api_route("/v1/models", self.models, methods=["GET"])
        router.add_api_route("/v1/models/{name:path}", self.model, methods=["GET"])
        router.add_api_route("/v1/models/{name:path}", self.remove, methods=["DELETE"])
        router.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], response_model=None)
        router.add_api_route("/v1/completions", self.complete, methods=["POST"], response_model=None)
        return router

    async def health(self) -> dict[str, str]:
        if not self.host.inference.alive:
            raise ApiError(503, "The server does not answer any more. Start it again.", type="server_error")
        return {"status": "ok"}

    async def tell_metrics(self) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    # --- models -------------------------------------------------------------------------------

    async def models(self, tenant: Tenant) -> dict[str, Any]:
        found = await to_thread(self.host.models, tenant)
        return {"object": "list", "data": [model_shape(model, tenant) for model in found]}

    async def model(self, tenant: Tenant, name: str) -> dict[str, Any]:
        return model_shape(await to_thread(self.host.model, tenant, name), tenant)

    async def remove(self, tenant: Tenant, name: str) -> dict[str, Any]:
        await to_thread(self.host.remove, tenant, name)
        return {"id": name, "object": "model", "deleted": True}

    # --- answers ------------------------------------------------------------------------------

    async def chat(self, tenant: Tenant, asked: ChatRequest, http: HttpRequest) -> Response:
        if asked.top_logprobs and not asked.logprobs:
            raise ApiError(400, "'top_logprobs' asks for 'logprobs': true.", param="top_logprobs")
        model = await to_thread(self.host.model, tenant, asked.model)
        ids = await to_thread(self.host.prompt_ids, asked.turns)
        most = asked.max_completion_tokens or asked.max_tokens
        room = self._room(ids, most, "messages")
        self._check_number(asked, 1)
        requests = self._requests(tenant, model, asked, [ids], most or room, asked.top_logprobs or 0)
        if model.above:
            about = await to_thread(self.host.about, asked.turns)
            requests = [replace(request, about=about) for request in requests]
        shape = ChatShape(logprobs=bool(asked.logprobs))
        question = next((t.text for t in reversed(asked.turns) if t.role == "user"), "")
        return await self._answer(http, model, asked, shape, requests, len(ids), [question])

    async def complete(self, tenant: Tenant, asked: CompletionRequest, http: HttpRequest) -> Response:
        model = await to_thread(self.host.model, tenant, asked.model)
        self._check_number(asked, len(asked.prompts))
        prompts = [await to_thread(self._prompt_ids, prompt) for prompt in asked.prompts]
        most = asked.max_tokens or COMPLETION_TOKENS
        for ids in prompts:
            self._room(ids, most, "prompt")
        requests = self._requests(tenant, model, asked, prompts, most, asked.logprobs or 0)
        shape = CompletionShape(logprobs=asked.logprobs is not None)
        texts = [p if isinstance(p, str) else str(self.host.base.tokenizer.decode(p)) for p in asked.prompts]
        return await self._answer(http, model, asked, shape, requests, sum(map(len, prompts)), texts)

    async def _answer(
        self,
        http: HttpRequest,
        model: Model,
        asked: Sampling,
        shape: Shape,
        requests: Sequence[Request],
        prompt_tokens: int,
        questions: Sequence[str],
    ) -> Response:
        answers = Answers(self.host, requests)
        choices = [Choice() for _ in requests]
        reply = Reply(self.host, model, shape, answers, choices, prompt_tokens, asked.include_usage)
        pieces = self._timed(answers.pieces())
        if model.withheld:
            pieces = judged(pieces, model.withheld, [q for q in questions for _ in range(asked.n or 1)])
        try:
            if asked.stream:
                return EventStream(reply.stream(await begun(http, pieces)), answers)
            return JSONResponse(await unless_gone(http, reply.whole(pieces)))
        except BaseException:
            answers.cancel()
            raise

    async def _timed(self, pieces: AsyncIterator[tuple[int, Piece]]) -> AsyncIterator[tuple[int, Piece]]:
        """The same pieces; when the first comes is noted."""
        began, first = time.monotonic(), True
        async for item in pieces:
            if first and item[1].tokens:
                self.metrics.first_token.observe(time.monotonic() - began)
                first = False
            yield item

    def _prompt_ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            check_text(prompt, "prompt")
            return self.host.prompt_ids([Turn("text", prompt)])
        known = self.host.vocabulary
        if not all(0 <= id < known for id in prompt):
            raise ApiError(400, f"A prompt's token ids lie between 0 and {known - 1}.", param="prompt")
        return prompt

    def _room(self, ids: Sequence[int], wanted: int | None, param: str) -> int:
        """Tokens that the window has left for an answer; ApiError where they are too few."""
        window = self.host.base.window_tokens
        room = window - len(ids)
        if not ids:
            raise ApiError(400, "The prompt is empty. Send at least one token.", param=param)
        if room < (wanted or 1):
            told = (
                f"This model's maximum context length is {window} tokens. However, you requested "
                f"{len(ids) + (wanted or 1)} tokens ({len(ids)} in the {param}, {wanted or 1} in the completion). "
                "Shorten one of the two."
            )
            raise ApiError(400, told, param=param, code="context_length_exceeded")
        return room

    def _check_number(self, asked: Sampling, prompts: int) -> None:
        answers = (asked.n or 1) * prompts
        if not 0 < answers <= self.limits.choices:
            told = f"Ask for 1 to {self.limits.choices} answers at once; these are {answers}."
            raise ApiError(400, told, param="n")

    def _requests(
        self,
        tenant: str,
        model: Model,
        asked: Sampling,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        top_logprobs: int,
    ) -> list[Request]:
        """One for each choice, prompt after prompt. Choices of one prompt differ by their seed alone."""
        n = asked.n or 1
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        return [
            Request(
                ids=tuple(ids),
                tenant=tenant,
                adapter=model.key,
                above=self.host.above(model),
                max_tokens=max_tokens,
                temperature=1.0 if asked.temperature is None else asked.temperature,
                top_p=1.0 if asked.top_p is None else asked.top_p,
                seed=(seed + i) % _SEEDS,
                stop=asked.stops,
                top_logprobs=top_logprobs,
            )
            for ids in prompts
            for i in range(n)
        ]


# --- errors -----------------------------------------------------------------------------------


def _answer_errors(made: FastAPI) -> None:
    """Every error leaves in OpenAI's shape; what we did not foresee is told by the log alone."""

    async def ours(_: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, ImprintError)
        told = api_error(error)
        if told.status >= 500:
            log.error("%s", error, exc_info=error)
        return _said(told)

    async def shaped(_: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return _said(error)

    async def malformed(_: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        places = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
        where = ".".join(places)
        if first["type"] == "extra_forbidden":
            return _said(ApiError(400, f"Unknown parameter: '{where}'.", param=where, code="unknown_parameter"))
        return _said(ApiError(400, f"{where or 'The request'}: {first['msg']}.", param=where or None))

    async def http(_: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "unknown_url", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code)
        return _said(ApiError(error.status_code, str(error.detail), code=code))

    async def gone(_: HttpRequest, error: Exception) -> Response:
        return Response(status_code=499)  # as nginx counts it; nobody reads it

    async def unforeseen(_: HttpRequest, error: Exception) -> Response:
        told = "Something went wrong on the server; its log says what."
        return _said(ApiError(500, told, type="server_error", code="server_error"))

    made.add_exception_handler(ImprintError, ours)
    made.add_exception_handler(ApiError, shaped)
    made.add_exception_handler(RequestValidationError, malformed)
    made.add_exception_handler(HTTPException, http)
    made.add_exception_handler(ClientGone, gone)
    made.add_exception_handler(Exception, unforeseen)


def _said(error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)
