"""Files that a tenant has brought, each in a folder that is named by chance and by nobody's wish."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from imprint.errors import NotFound, TooLarge
from imprint.run_folder import write_whole

_RECORD, _CONTENT = "file.json", "content"
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it was brought."""

    id: str
    name: str
    """What the tenant calls it: shown, and never a path."""
    size_bytes: int
    purpose: str
    created_at: int
    """Unix seconds."""


class Uploads:
    """The files of one tenant: <folder>/<id>/content, and file.json beside it, which is written last."""

    def __init__(self, folder: Path, *, max_total_bytes: int) -> None:
        self._folder = folder
        self._max_total_bytes = max_total_bytes

    def add(
        self, name: str, purpose: str, chunks: Iterable[bytes], *, max_bytes: int, now: float
    ) -> Upload:
        """Keeps a file. Raises TooLarge, keeping nothing, where it or all of them together are."""
        room = self._max_total_bytes - sum(upload.size_bytes for upload in self.list())
        id = f"file-{secrets.token_hex(12)}"
        folder = self._folder / id
        folder.mkdir(parents=True)
        try:
            size = _write(folder / _CONTENT, chunks, max_bytes, room)
            upload = Upload(id, shown(name), size, purpose, int(now))
            write_whole(folder / _RECORD, json.dumps(asdict(upload), ensure_ascii=False))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return upload

    def list(self) -> list[Upload]:
        """All files, oldest first."""
        found = [_record(folder) for folder in self._folders().values()]
        return sorted((u for u in found if u is not None), key=lambda u: (u.created_at, u.id))

    def get(self, id: str) -> Upload:
        """Raises NotFound for what this tenant has not."""
        upload = _record(self._found(id))
        if upload is None:
            raise _no_such_file(id)
        return upload

    def content(self, id: str) -> Path:
        """Where the bytes of a file are."""
        self.get(id)
        return self._found(id) / _CONTENT

    def remove(self, id: str) -> Upload:
        upload = self.get(id)
        shutil.rmtree(self._found(id))
        return upload

    def _found(self, id: str) -> Path:
        folder = self._folders().get(id)
        if folder is None:
            raise _no_such_file(id)
        return folder

    def _folders(self) -> dict[str, Path]:
        # An id is looked up among what is there, and never made into a path.
        return {entry.name: entry for entry in self._folder.iterdir()} if self._folder.is_dir() else {}


def shown(name: str) -> str:
    """A file's name without folders and control characters, and not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    plain = "".join(c for c in last if c.isprintable()).strip()
    return plain[:_SHOWN] or "file"


def _write(file: Path, chunks: Iterable[bytes], max_bytes: int, room: int) -> int:
    size = 0
    with open(file, "xb") as out:
        for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise TooLarge(f"The file has more than the {max_bytes:,} bytes that one may have. Split it.")
            if size > room:
                raise TooLarge("Your files together would be more than is kept for you. Delete some first.")
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return size


def _record(folder: Path) -> Upload | None:
    """None for a folder that is not complete yet, or not any more."""
    try:
        return Upload(**json.loads((folder / _RECORD).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _no_such_file(id: str) -> NotFound:
    return NotFound(f"No file has the id {id[:80]!r}. List yours with GET /v1/files.")
