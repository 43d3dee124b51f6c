"""Untrusted files are parsed in a child process with little memory, little time and nothing to reach.

One child reads many files, one after the other, because starting it takes longer than most files do. A file
that crashes it, hangs it or floods it is refused by name; the next file gets a fresh child. Child and parent
exchange lines of JSON, so nothing the child says is ever executed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from types import TracebackType
from typing import Any

from imprint.documents.kinds import Kind
from imprint.documents.reading import Reading, listed
from imprint.errors import DocumentError

MAX_ANSWER_BYTES = 256 * 2**20

# The child sees what Python needs to start, and none of the keys and tokens in our environment.
_ENVIRONMENT = listed("PATH PYTHONPATH PYTHONHOME LD_LIBRARY_PATH LANG LC_ALL SYSTEMROOT TMPDIR TEMP")


@dataclass(slots=True)
class Sandbox:
    """Reads files in a child process. Use it as a context; the child ends with it."""

    timeout_s: float = 120.0
    """For each file, of the wall clock and of the processor."""
    memory_bytes: int = 2 * 2**30
    """For the child; held where the platform can."""
    max_answer_bytes: int = MAX_ANSWER_BYTES
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _answers: Queue[bytes] = field(default_factory=Queue, init=False)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self._stop()

    def read(self, kind: Kind, path: Path, source: str) -> Reading:
        """What the file says. Raises DocumentError when it cannot be read within the limits."""
        request = {"reader": kind.reader, "path": str(path.absolute()), "source": source}
        answer = self._ask({**request, "timeout_s": self.timeout_s}, source)
        if reason := answer.get("refused"):
            raise DocumentError(source, str(reason))
        try:
            return Reading(**{**answer["reading"], "page_starts": tuple(answer["reading"]["page_starts"])})
        except (KeyError, TypeError):
            raise DocumentError(source, "its reader gave no proper answer. Leave it out.") from None

    def _ask(self, request: dict[str, Any], source: str) -> dict[str, Any]:
        child = self._started()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            line = self._answers.get(timeout=self.timeout_s)
        except Empty:
            self._stop()
            raise DocumentError(source, self._too_slow()) from None
        except OSError:
            line = b""
        if line.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        flooded = len(line) > self.max_answer_bytes
        code = self._stop()
        raise DocumentError(source, self._too_much_text() if flooded else self._death(code))

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            # -P: a file named docx.py in the folder being read must not become our parser.
            module = ["-P", "-B", "-m", "imprint.documents.sandboxed"]
            self._child = subprocess.Popen(
                [sys.executable, *module, str(self.memory_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,
            )
            self._answers = Queue()
            listen = (self._child, self._answers, self.max_answer_bytes)
            Thread(target=_listen, args=listen, daemon=True).start()
        return self._child

    def _stop(self) -> int | None:
        """Ends the child and says how it had ended, if it had."""
        child, self._child = self._child, None
        if child is None:
            return None
        try:
            # A child that closed its mouth is about to end by itself, and its exit code says why.
            code: int | None = child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            code = None
            child.kill()
            child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe:
                pipe.close()
        return code

    def _too_slow(self) -> str:
        return f"it took longer than {self.timeout_s:g} s to read. Leave it out, or raise timeout_s."

    def _too_much_text(self) -> str:
        return f"it holds more than {self.max_answer_bytes:,} bytes of text. Split it."

    def _death(self, code: int | None) -> str:
        if code is not None and code == -getattr(signal, "SIGXCPU", 0):
            return self._too_slow()
        found = f"its parser broke down (exit code {code}; memory_bytes is {self.memory_bytes:,})"
        return f"{found}. It is damaged or needs more memory: save it again, or raise memory_bytes."


def _listen(child: subprocess.Popen[bytes], answers: Queue[bytes], max_bytes: int) -> None:
    """Passes on each line that the child writes; one too long, or the end, comes without its newline."""
    assert child.stdout is not None
    while True:
        try:
            line = child.stdout.readline(max_bytes + 1)
        except (OSError, ValueError):  # closed under us
            line = b""
        answers.put(line)
        if not line.endswith(b"\n"):
            return
