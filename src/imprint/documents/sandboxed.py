"""The child of sandbox.py: `python -m imprint.documents.sandboxed MEMORY_BYTES`.

Each line on standard input names a file and its reader; each line on standard output is what the file says,
or why it was refused.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imprint.documents.kinds import Kind, reader_of
from imprint.documents.reading import listed
from imprint.errors import DocumentError

try:
    import resource
except ImportError:  # Windows: the parent's clock is the only limit there
    resource = None  # type: ignore[assignment]

_FORBIDDEN = listed(
    "socket.connect socket.getaddrinfo subprocess.Popen os.system os.exec os.posix_spawn os.fork os.remove"
)


def main() -> None:
    """Answers until standard input ends."""
    # Parsers may print; what they print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _limit_memory(int(sys.argv[1]))
    sys.addaudithook(_forbid)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_time(request["timeout_s"])
        answers.write(json.dumps(_answer(request)).encode() + b"\n")
        answers.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        reader = reader_of(Kind(request["reader"], ()))
        return {"reading": asdict(reader(Path(request["path"]).read_bytes(), request["source"]))}
    except DocumentError as error:
        return {"refused": error.reason}
    except MemoryError:
        return {"refused": "it needs more memory than it may have. Leave it out, or raise memory_bytes."}
    except RecursionError:
        return {"refused": "it is nested too deeply to be read. Leave it out."}
    except Exception as error:  # whatever a parser raises on a broken file, the file is the culprit
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return {"refused": f"its parser gave up ({found}). Open it in its program and save it again."}


def _limit_memory(memory_bytes: int) -> None:
    if resource is not None:
        _set_limit(resource.RLIMIT_AS, memory_bytes)
        _set_limit(resource.RLIMIT_CORE, 0)
        _set_limit(resource.RLIMIT_FSIZE, 0)


def _limit_time(timeout_s: float) -> None:
    """Lets this file use so much of the processor, on top of what the files before it used."""
    if resource is not None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        _set_limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime + timeout_s) + 1)


def _set_limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    # macOS refuses some of them; the parent's clock still holds.
    with suppress(ValueError, OSError):
        resource.setrlimit(which, (value, hard))


def _forbid(event: str, args: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in _FORBIDDEN:
        raise PermissionError(f"a document may not make its reader call {event}")


if __name__ == "__main__":
    main()
