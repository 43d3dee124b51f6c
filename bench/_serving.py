"""What the serving benchmarks share: a base that never stops, adapters and prompts, and a real server to talk to.

Nothing here imports torch or imprint before it is asked to."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from _common import general_ids

if TYPE_CHECKING:
    from imprint.base import Base
    from imprint.serving.requests import Piece, Request

NOW = "2025-06-01T12:00:00+00:00"
"""When versions were published and keys made, as far as their records tell."""
STARTS_WITHIN_S = 300


# --- in this process --------------------------------------------------------------------------


def endless(base: Base) -> Base:
    """The same base, whose answers end when they are as long as was asked: all sides write as many tokens."""
    from imprint.base import Base

    class Endless(Base):
        stop_ids = frozenset()

    return Endless(**{f.name: getattr(base, f.name) for f in fields(base)})


def prompts(base: Base, n: int, tokens: int) -> list[tuple[int, ...]]:
    """Stretches of general text, each another one, of half to one and a half times so many tokens."""
    ids = general_ids(base)
    starts = [i * 97 % (len(ids) - 2 * tokens) for i in range(n)]
    lengths = [max(1, tokens // 2 + i * 7 % (tokens + 1)) for i in range(n)]
    return [tuple(ids[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


class Listening:
    """Hears one answer of Inference: its tokens, and when the first of them and its end came."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.first_at: float | None = None
        self.ended_at: float | None = None

    def __call__(self, piece: Piece) -> None:
        self.ids += [token.id for token in piece.tokens]
        if self.first_at is None:
            self.first_at = time.perf_counter()
        if piece.finish is not None:
            if piece.finish not in ("stop", "length"):
                raise SystemExit(f"An answer ended with '{piece.finish}': {piece.error}")
            self.ended_at = time.perf_counter()


def answered(inference: Any, requests: Sequence[Request]) -> list[Listening]:
    """Answers requests that come at once, in this thread."""
    heard = [Listening() for _ in requests]
    for request, listener in zip(requests, heard, strict=True):
        inference.submit(request, listener)
    while any(listener.ended_at is None for listener in heard):
        if not inference.step():
            time.sleep(0.001)  # an adapter is being fetched
    return heard


def in_rounds(calls: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of each call, round by round: A B C, then C B A, so that none always follows the same other.

    What is slow the first time should have been called before."""
    seconds: list[list[float]] = []
    for i in range(rounds):
        taken = {}
        for j in (range(len(calls)) if i % 2 == 0 else reversed(range(len(calls)))):
            began = time.perf_counter()
            calls[j]()
            taken[j] = time.perf_counter() - began
        seconds.append([taken[j] for j in range(len(calls))])
    return seconds


# --- a real server ----------------------------------------------------------------------------


def publish(home: Path, folder: Path, name: str, base: str) -> str:
    """The next version of that name, made of the adapter in that folder; returns 'name@number'."""
    from imprint.registry import Registry

    return str(Registry(home).publish(name, folder, base=base, corpus_hash="", recipe={}, now=NOW))


class Server:
    """`imprint serve` as a process of its own."""

    def __init__(self, home: Path, base: str | None, *words: str) -> None:
        """Returns when it answers."""
        from imprint.hosting.keys import Keys

        home.mkdir(parents=True, exist_ok=True)
        _, self.key = Keys(home).add("local", now=NOW)
        command = [sys.executable, "-m", "imprint.interfaces.cli", "serve", "--port", "0", *words]
        command += ["--requests-per-minute", "1000000", "--concurrent", "1024"]
        self._log = home / "server.log"
        with open(self._log, "wb") as log:
            self._child = subprocess.Popen(
                command + (["--base", base] if base else []),
                stdout=log,
                stderr=log,
                env=os.environ | {"IMPRINT_HOME": str(home)},
            )
        try:
            self._address = urlsplit(self._until(self._told))
            self._until(self._healthy)
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._child.pid

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(str(self._address.hostname), self._address.port, timeout=600)

    def get(self, path: str) -> str:
        """What it says there. Raises SystemExit for anything but 200."""
        connection = self.connection()
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.key}"})
            response = connection.getresponse()
            said = response.read().decode()
        if response.status != 200:
            raise SystemExit(f"{path}: {response.status} {said}")
        return said

    def counts(self) -> dict[str, float]:
        """Its own metrics by name, those without labels."""
        lines = [line.split() for line in self.get("/metrics").splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines if "{" not in name}

    def ask(self, model: str, prompt: Sequence[int], max_tokens: int) -> Answer:
        """One answer, streamed."""
        body = {"model": model, "prompt": list(prompt), "max_tokens": max_tokens, "temperature": 0, "stream": True}
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection, came = self.connection(), list[float]()
        with contextlib.closing(connection):
            began = time.perf_counter()
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            response = connection.getresponse()
            first = last = b""
            for line in response:
                if line.startswith(b'data: {"id"'):
                    came.append(time.perf_counter())
                    first, last = first or line, line
                elif line.strip() not in (b"", b"data: [DONE]"):
                    raise SystemExit(f"{model}: {response.status} {line.decode()}")
        if b'"finish_reason":"stop"' in last and len(came) > 1:  # an event of its own, which brings no token
            came.pop()
        if not came:
            raise SystemExit(f"{model} wrote nothing; the server says: {self._log.read_text()}")
        return Answer(json.loads(first.removeprefix(b"data: "))["model"], began, came)

    def ask_all(self, asked: Sequence[tuple[str, Sequence[int], int]], at_once: int) -> list[Answer]:
        """As many answers, so many of them at once."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda one: self.ask(*one), asked))

    def end(self) -> None:
        self._child.terminate()
        try:
            self._child.wait(30)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _until(self, found: Callable[[], str]) -> str:
        end = time.monotonic() + STARTS_WITHIN_S
        while not (what := found()):
            if self._child.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"The server did not start: {self._log.read_text()}")
            time.sleep(0.05)
        return what

    def _told(self) -> str:
        found = re.search(r"http://\S+", self._log.read_text())
        return found.group() if found else ""

    def _healthy(self) -> str:
        with contextlib.suppress(OSError):
            return self.get("/health")
        return ""


@dataclass(frozen=True, slots=True)
class Answer:
    """When the tokens of a streamed answer came."""

    model: str
    """The version that wrote it, as the server tells."""
    began: float
    came: list[float]

    @property
    def first_token_s(self) -> float:
        return self.came[0] - self.began

    @property
    def between_s(self) -> list[float]:
        """Seconds from each token to the next."""
        return [b - a for a, b in zip(self.came, self.came[1:], strict=False)]


@contextlib.contextmanager
def serving(home: Path, base: str | None, *words: str) -> Iterator[Server]:
    """A server over this home, ended with the block."""
    server = Server(home, base, *words)
    try:
        yield server
    finally:
        server.end()
