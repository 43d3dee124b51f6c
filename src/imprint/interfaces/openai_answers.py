"""Answers on their way to a client: from the serving thread into asyncio, whole or piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from imprint.continual.tombstones import WITHHELD, Withheld
from imprint.errors import Overloaded
from imprint.hosting.host import Host, Model
from imprint.interfaces.openai_shapes import ApiError, api_error
from imprint.serving.requests import Piece, Request, Token

Result = TypeVar("Result")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Answers:
    """The answers to some requests, awaited as one stream of (which, piece)."""

    def __init__(self, host: Host, requests: Sequence[Request]) -> None:
        """Puts them all in line, or none: raises Overloaded or BadInput."""
        self._host, self._requests = host, requests
        self._loop = asyncio.get_running_loop()
        self._heard: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._tickets: dict[int, Any] = {}
        try:
            for i, request in enumerate(requests):
                self._tickets[i] = host.submit(request, self._listener(i))
        except BaseException:
            self.cancel()
            raise

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Every piece as it comes, until all have ended. Raises ApiError where the server could not go on."""
        while self._tickets:
            i, piece = await self._heard.get()
            if piece.finish is not None:
                self._tickets.pop(i, None)
            if piece.finish == "error":
                refusals = (self._host.refusal(key) for key in self._requests[i].keys)
                refusal = next((r for r in refusals if r is not None), None)
                raise api_error(refusal) if refusal else ApiError(
                    500, piece.error, type="server_error", code="server_error"
                )
            if piece.finish == "cancelled":
                raise api_error(Overloaded("The server is stopping. Ask again in a little while."))
            yield i, piece

    def cancel(self) -> None:
        """Ends what has not ended. Harmless afterwards."""
        while self._tickets:
            self._tickets.popitem()[1].cancel()

    def _listener(self, i: int) -> Callable[[Piece], None]:
        def hear(piece: Piece) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._heard.put_nowait, (i, piece))

        return hear


async def unless_gone(http: HttpRequest, work: Awaitable[Result]) -> Result:
    """The work's result; ClientGone, ending the work, when the client hangs up before."""
    working = asyncio.ensure_future(work)
    hung_up = asyncio.ensure_future(_hung_up(http))
    try:
        await asyncio.wait({working, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, hung_up):
            task.cancel()


async def _hung_up(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def judged(
    pieces: AsyncIterator[tuple[int, Piece]], judges: Sequence[Withheld], questions: Sequence[str]
) -> AsyncIterator[tuple[int, Piece]]:
    """The same answers, each told when it is whole, and not at all where only what is to be forgotten bears it out:
    a part of it, or the likelihoods of its tokens, would tell it too."""
    held = [Choice() for _ in questions]
    async for i, piece in pieces:
        held[i].add(piece)
        if piece.finish is None:
            continue
        if any(judge.holds(questions[i], held[i].text) for judge in judges):
            yield i, Piece(WITHHELD, finish="stop")
        else:
            yield i, Piece(held[i].text, tuple(held[i].tokens), piece.finish)


# --- shapes -----------------------------------------------------------------------------------


@dataclass
class Choice:
    """One answer, gathered."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = piece.finish or self.finish


class Shape(Protocol):
    """How an endpoint tells of its answers."""

    def whole(self, index: int, choice: Choice) -> dict[str, Any]:
        """One choice of a response."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a choice's stream begins with."""

    def chunk(self, index: int, piece: Piece, said: Choice) -> dict[str, Any]:
        """One choice of a stream's chunk; `said` holds what came before."""

    name: str
    chunk_name: str
    id_prefix: str


class ChatShape:
    name, chunk_name, id_prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, *, logprobs: bool) -> None:
        self._logprobs = logprobs

    def whole(self, index: int, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        probable = self._told(choice.tokens)
        return {"index": index, "message": message, "logprobs": probable, "finish_reason": choice.finish}

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, index: int, piece: Piece, said: Choice) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text or piece.tokens else {}
        probable = self._told(piece.tokens) if piece.tokens else None
        return {"index": index, "delta": delta, "logprobs": probable, "finish_reason": piece.finish}

    def _told(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        told = []
        for token in tokens:
            likeliest = [_probable(text, raw, value) for text, raw, value in token.top]
            told.append(_probable(token.text, token.raw, token.logprob) | {"top_logprobs": likeliest})
        return {"content": told, "refusal": None}


class CompletionShape:
    name, chunk_name, id_prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, *, logprobs: bool) -> None:
        self._logprobs = logprobs

    def whole(self, index: int, choice: Choice) -> dict[str, Any]:
        probable = self._told(choice.tokens, 0)
        return {"index": index, "text": choice.text, "logprobs": probable, "finish_reason": choice.finish}

    def opening(self, index: int) -> None:
        return None

    def chunk(self, index: int, piece: Piece, said: Choice) -> dict[str, Any]:
        probable = self._told(piece.tokens, sum(len(t.text) for t in said.tokens) if self._logprobs else 0)
        return {"index": index, "text": piece.text, "logprobs": probable, "finish_reason": piece.finish}

    def _told(self, tokens: Sequence[Token], offset: int) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        return {
            "tokens": [t.text for t in tokens],
            "token_logprobs": [t.logprob for t in tokens],
            "top_logprobs": [{text: value for text, _, value in t.top} for t in tokens],
            "text_offset": offsets,
        }


def _probable(text: str, raw: bytes, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(raw)}


# --- responses --------------------------------------------------------------------------------


@dataclass
class Reply:
    """Answers in an endpoint's shape."""

    host: Host
    model: Model
    shape: Shape
    answers: Answers
    choices: list[Choice]
    prompt_tokens: int
    include_usage: bool = False
    id: str = field(init=False)
    created: int = field(init=False)

    def __post_init__(self) -> None:
        self.id, self.created = f"{self.shape.id_prefix}-{secrets.token_hex(12)}", int(time.time())

    async def whole(self, pieces: AsyncIterator[tuple[int, Piece]]) -> dict[str, Any]:
        """Everything in one response."""
        async for i, piece in pieces:
            self.choices[i].add(piece)
        told = [self.shape.whole(i, choice) for i, choice in enumerate(self.choices)]
        return self._body(self.shape.name, told) | {"usage": self._usage()}

    async def stream(self, pieces: AsyncIterator[tuple[int, Piece]]) -> AsyncIterator[bytes]:
        """Server-sent events, the last of which is [DONE]; what goes wrong on the way is an event too."""
        try:
            for i in range(len(self.choices)):
                if (opening := self.shape.opening(i)) is not None:
                    yield self._event([opening])
            async for i, piece in pieces:
                if piece.text or piece.tokens or piece.finish:
                    yield self._event([self.shape.chunk(i, piece, self.choices[i])])
                self.choices[i].add(piece)
            if self.include_usage:
                yield _event(self._body(self.shape.chunk_name, []) | {"usage": self._usage()})
        except ApiError as error:
            yield _event(error.body)
        yield b"data: [DONE]\n\n"

    def _event(self, told: list[dict[str, Any]]) -> bytes:
        usage = {"usage": None} if self.include_usage else {}
        return _event(self._body(self.shape.chunk_name, told) | usage)

    def _body(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": f"fp_{self.host.base.revision}",
            "choices": choices,
        }

    def _usage(self) -> dict[str, int]:
        written = sum(len(choice.tokens) for choice in self.choices)
        total = self.prompt_tokens + written
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": written, "total_tokens": total}


class EventStream(StreamingResponse):
    """Server-sent events. However it ends, what is still being written for it is ended too."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], answers: Answers) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.cancel()


async def begun(
    http: HttpRequest, pieces: AsyncIterator[tuple[int, Piece]]
) -> AsyncIterator[tuple[int, Piece]]:
    """The same pieces, once the first is there: what fails before it can still be told by a status."""
    first = await unless_gone(http, anext(pieces))

    async def all_of_them() -> AsyncIterator[tuple[int, Piece]]:
        yield first
        async for item in pieces:
            yield item

    return all_of_them()


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
