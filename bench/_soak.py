"""What the soak's actors share: what must hold, the server that is killed, how one talks to it, its memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

import _common
from _common import Row, say

TENANTS = ("anna", "ben", "cleo")
TOKENS, LONG_TOKENS = 12, 60
"""Of an answer that is checked, and of a stream that is left."""
UNFINISHED = ("queued", "validating_files", "running")
PATIENCE_S = 240.0
"""An answer that takes longer is a fault."""
_SHOWN_FAULTS = 20
WARM_UP_S = 120.0
"""Of each life: not judged."""

Version = tuple[str, str]
"""Whose, and 'handbook@2'; the base's own name is everybody's."""


class Log:
    """Rows with their time, on the disk as soon as they are told."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        self.file, self._lock, self._began = file, threading.Lock(), time.monotonic()

    def row(self, kind: str, **told: Any) -> Row:
        row = {"at": datetime.now(UTC).isoformat(), "s": round(time.monotonic() - self._began, 2), "kind": kind}
        row |= told
        with self._lock, open(self.file, "a", encoding="utf-8") as out:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
        return row


@dataclass
class Job:
    """A teaching job as it was last seen."""

    tenant: str
    id: str
    status: str = "queued"
    version: str | None = None
    unwanted_after_s: float = float("inf")
    """Seconds after which it is cancelled."""
    unwanted: bool = False
    began: float = field(default_factory=time.monotonic)
    files: tuple[str, ...] = ()

    @property
    def unfinished(self) -> bool:
        return self.status in UNFINISHED


class Ledger:
    """What must hold: versions and their bytes, their answers, jobs, and what was wrong so far."""

    def __init__(self, log: Log, home: Path, base: str) -> None:
        self.log, self.home, self.base = log, home, base
        self.lock = threading.RLock()
        self.counts: Counter[str] = Counter()
        self.faults: list[Row] = []
        self.versions: dict[Version, dict[str, str]] = {}
        """The SHA-256 of each file, as first seen."""
        self.answers: dict[Version, list[Row]] = {}
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, tuple[str, str]] = {}
        """Of an upload: whose, and the SHA-256."""
        self.waits_s: list[float] = []
        """Of each answer, from asking to its end."""
        self.answered_at = 0.0
        self._unchecked: dict[Version, list[Row]] = {}

    def count(self, what: str, n: int = 1) -> None:
        with self.lock:
            self.counts[what] += n

    def answer(self, wait_s: float) -> None:
        """Counts an answer that came whole."""
        with self.lock:
            self.counts["answered"] += 1
            self.waits_s.append(wait_s)
            self.answered_at = time.monotonic()

    def fault(self, what: str, **told: Any) -> None:
        with self.lock:
            self.faults.append(self.log.row("fault", what=what, **told))
        if len(self.faults) <= _SHOWN_FAULTS:
            say(f"FAULT: {what}: {json.dumps(told, ensure_ascii=False)[:600]}")

    # --- versions -----------------------------------------------------------------------------

    def publish(self, version: Version) -> bool:
        """Notes a version that was seen published; False where it was known."""
        with self.lock:
            if version in self.versions:
                return False
            self.versions[version] = self.bytes_of(version)
        self.log.row("version", tenant=version[0], version=version[1])
        return True

    def bytes_of(self, version: Version) -> dict[str, str]:
        """The SHA-256 of each of its files, as they are now. Raises ImprintError where it is not there."""
        return {file.name: sha256(file.read_bytes()) for file in sorted(self.folder_of(version).iterdir())}

    def folder_of(self, version: Version) -> Path:
        from imprint.registry import Registry

        registry = Registry(self.home / "tenants" / version[0])
        return registry.folder(registry.get(version[1]))

    def latest(self, tenant: str, name: str) -> int:
        with self.lock:
            numbers = [number_of(v) for t, v in self.versions if t == tenant and v.startswith(f"{name}@")]
        return max(numbers, default=0)

    def names(self, tenant: str) -> set[str]:
        with self.lock:
            return {version.partition("@")[0] for owner, version in self.versions if owner == tenant}

    # --- answers ------------------------------------------------------------------------------

    def check(self, version: Version, answer: Row) -> None:
        """Holds an answer against what PEFT says, now or as soon as that is known."""
        with self.lock:
            known = self.answers.get(version)
            if known is None:
                self._unchecked.setdefault(version, []).append(answer)
                return
        expected = known[answer["prompt"]]
        if agrees(expected, answer["text"], answer["finish"], answer["tokens"]):
            self.count("checked_to_the_end" if expected["finish"] else "checked_as_far_as_sure")
        else:
            self.count("wrong_answers")
            self.fault("wrong answer", tenant=version[0], version=version[1], expected=expected, **answer)

    def learn(self, version: Version, answers: list[Row]) -> None:
        """What PEFT says of a version."""
        with self.lock:
            self.answers[version] = answers
            late = self._unchecked.pop(version, [])
        for answer in late:
            self.check(version, answer)

    @property
    def unchecked(self) -> int:
        with self.lock:
            return sum(map(len, self._unchecked.values()))


def agrees(expected: Row, text: str, finish: str | None, tokens: int) -> bool:
    """Whether an answer of at most so many tokens is the expected one, as far as that is beyond rounding.

    `finish` is None for an answer that was cut; `expected` has one where it is certain to its end."""
    certain = expected["finish"] == "stop" or (expected["finish"] == "length" and tokens == TOKENS)
    if certain:
        if finish is None:
            return str(expected["text"]).startswith(text)
        return text == expected["text"] and finish == expected["finish"]
    safe = str(expected["safe"])
    return text.startswith(safe) or (finish is None and safe.startswith(text))


# --- the server -------------------------------------------------------------------------------


class Cut(Exception):
    """A request ended because the server was killed."""


class Server:
    """`imprint serve`, killed and begun again on the same port and home."""

    def __init__(self, folder: Path, log: Log, base: str | None) -> None:
        self.log, self.said, self._base = log, folder / "server.log", base
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        cache = folder / "cache"  # of its own, but for the base that is there already
        cache.mkdir()
        from imprint.home import cache_folder

        (cache / "bases").symlink_to(cache_folder().absolute() / "bases")
        self._environment = {"IMPRINT_HOME": str(folder / "home"), "IMPRINT_CACHE": str(cache)}
        self.up = threading.Event()
        self.life, self.began = 0, 0.0
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Begins a life. Raises SystemExit where the server does not come up."""
        command = [sys.executable, "-m", "imprint.interfaces.cli", "serve", "--port", str(self.port)]
        command += ["--base", self._base] if self._base else []
        began = time.monotonic()
        with open(self.said, "ab") as out:
            self._child = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | self._environment)
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() - began > PATIENCE_S:
                raise SystemExit(f"The server did not come up:\n{self.said.read_text()[-2000:]}")
            time.sleep(0.1)
        self.began = time.monotonic()
        self.life += 1
        self.log.row("start", life=self.life, pid=self.pid, took_s=round(self.began - began, 2))
        self.up.set()

    def kill(self) -> None:
        assert self._child is not None
        self.up.clear()
        self._child.kill()
        self._child.wait()
        self.log.row("kill", life=self.life)

    def stop(self) -> int:
        """Ends it gracefully; returns its exit status."""
        assert self._child is not None
        self.up.clear()
        self._child.send_signal(signal.SIGTERM)
        try:
            return self._child.wait(90)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()

    @property
    def ended(self) -> int | None:
        """Its exit status, if it has ended by itself."""
        return self._child.poll() if self._child is not None and self.up.is_set() else None

    def end(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Around a request, once the server is up. Raises Cut where a kill came between."""
        self.up.wait(PATIENCE_S)
        life = self.life
        try:
            yield
        except httpx.TransportError as error:
            if self._killed_in(life):
                raise Cut from error
            raise

    def _killed_in(self, life: int) -> bool:
        """Whether that life is over; the process may end a moment before it is told."""
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            if not self.up.is_set() or self.life != life:
                return True
            time.sleep(0.05)
        return False

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.address}/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False


@dataclass
class Line:
    """How one thread talks to the server."""

    server: Server
    keys: Mapping[str, str]
    ledger: Ledger

    def __post_init__(self) -> None:
        # A connection kept open may be closed by the server in the moment that it is used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(base_url=self.server.address, timeout=PATIENCE_S, limits=limits)

    def send(self, tenant: str | None, method: str, path: str, **how: Any) -> httpx.Response:
        """The response, whatever its status. Raises Cut."""
        with self.server.request():
            return self._client.request(method, path, headers=self.headers(tenant), **how)

    def json(self, tenant: str, method: str, path: str, **how: Any) -> Any:
        """What a request that must succeed gives. Raises Cut, and Refused where it did not succeed."""
        response = self.send(tenant, method, path, **how)
        if response.status_code in (429, 503):
            raise PutOff
        if response.status_code != 200:
            raise Refused(response.status_code, f"{method} {path}: {response.status_code} {response.text[:300]}")
        return response.json()

    @contextlib.contextmanager
    def stream(self, tenant: str, path: str, body: Row) -> Iterator[Iterator[Row]]:
        """The events of a stream. Raises as json() does."""
        with (
            self.server.request(),
            self._client.stream("POST", path, headers=self.headers(tenant), json=body) as response,
        ):
            if response.status_code in (429, 503):
                raise PutOff
            if response.status_code != 200:
                told = response.read()[:300].decode("utf-8", "replace")
                raise Refused(response.status_code, f"POST {path}: {response.status_code} {told}")
            yield _events(response)

    def headers(self, tenant: str | None) -> dict[str, str]:
        return {} if tenant is None else {"Authorization": f"Bearer {self.keys.get(tenant, tenant)}"}


class Refused(Exception):
    """A request of one's own was not answered."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status


class PutOff(Exception):
    """The server has too much to do just now, and says so."""


def _events(response: httpx.Response) -> Iterator[Row]:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


# --- memory -----------------------------------------------------------------------------------


@dataclass
class Memory:
    """Looks at the server's own memory now and then."""

    server: Server
    ledger: Ledger
    looks: list[Row] = field(default_factory=list)

    def look(self) -> None:
        life, found = self.server.life, _common.memory_mib(self.server.pid)
        if not self.server.up.is_set() or "anon" not in found:
            return
        counts = self.ledger.counts
        row = {
            "life": life,
            "life_s": round(time.monotonic() - self.server.began, 1),
            "mib": round(found["anon"], 1),
            "peak_mib": round(found["peak"], 1),
            "answered": counts["answered"],
            "published": counts["published"],
        }
        self.looks.append(self.ledger.log.row("memory", **row))

    def lives(self, last: int) -> list[Row]:
        """A row for each life: after its warm-up, at its end, and how it grew in each half of what lies between."""
        rows = []
        for life in sorted({look["life"] for look in self.looks}):
            looks = [look for look in self.looks if look["life"] == life]
            warm = [look for look in looks if look["life_s"] >= min(WARM_UP_S, 0.5 * looks[-1]["life_s"])]
            half = (warm[0]["life_s"] + warm[-1]["life_s"]) / 2
            rows.append(
                {
                    "kind": "life",
                    "life": life,
                    "seconds": looks[-1]["life_s"],
                    "answered": looks[-1]["answered"] - looks[0]["answered"],
                    "published": looks[-1]["published"] - looks[0]["published"],
                    "ended_by": "SIGTERM" if life == last else "SIGKILL",
                    "warm_mib": warm[0]["mib"],
                    "end_mib": warm[-1]["mib"],
                    "peak_mib": looks[-1]["peak_mib"],
                    "slope_first_half": slope([look for look in warm if look["life_s"] <= half]),
                    "slope_second_half": slope([look for look in warm if look["life_s"] >= half]),
                }
            )
        return rows

    def at_age(self, life: int, from_s: float, to_s: float) -> float | None:
        """The median of a life between two ages, where it grew that old."""
        found = [look["mib"] for look in self.looks if look["life"] == life and from_s <= look["life_s"] <= to_s]
        return statistics.median(found) if len(found) >= 3 else None


def slope(looks: Sequence[Row]) -> float | None:
    """MiB a minute: the median of the slopes between any two looks (Theil 1950, Sen 1968)."""
    points = [(look["life_s"] / 60, look["mib"]) for look in looks]
    slopes = [(y2 - y1) / (x2 - x1) for i, (x1, y1) in enumerate(points) for x2, y2 in points[i + 1 :] if x2 > x1]
    return round(statistics.median(slopes), 2) if slopes else None


def number_of(version: str) -> int:
    """3, of 'handbook@3'; 0 where none is named."""
    return int(version.partition("@")[2] or 0)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
