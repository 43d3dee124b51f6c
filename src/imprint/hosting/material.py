"""Uploads become a folder of documents.

What a tenant calls its files matters, for a file's name may become its document's title. So the words of a
name are kept, and nothing else of it: letters, digits, blanks, '-' and '_', then a suffix that we know. Such
a name cannot leave the folder that it is put in, nor be one that the system reserves."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imprint.documents.archives import open_archive
from imprint.documents.kinds import kind_of
from imprint.documents.reading import is_binary
from imprint.errors import BadInput, TooLarge
from imprint.registry.names import WINDOWS_DEVICES

MAX_MEMBERS = 10_000
"""Files in an archive."""
_NAME_BYTES = 120
_CHUNK = 1 << 20
_BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError)


def gather(files: Sequence[tuple[str, Path]], target: Path, *, max_bytes: int) -> list[str]:
    """Puts files, each with the name its owner gave it, and what zip archives hold, into `target`.

    Whole or not at all; a target that is there already is left as it is. `max_bytes` holds for what all
    archives unpack to. Returns what was left aside, and why. Raises BadInput for an archive that is broken
    or that names places outside itself, TooLarge for one that grows too large."""
    if target.is_dir():
        return []
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".gathering-") as making:
        folder = Path(making) / "documents"
        folder.mkdir()
        gathering = _Gathering(folder, max_bytes)
        for name, file in files:
            if name.lower().endswith(".zip"):
                gathering.unpack(name, file)
            else:
                gathering.take(name, file)
        os.replace(folder, target)
    return gathering.left


def plain_name(name: str) -> str:
    """The words of a file's name, and its suffix where we read that kind; see the top of this page."""
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = last.rpartition(".")
    if not dot or not re.fullmatch(r"[A-Za-z0-9]{1,10}", suffix) or kind_of(f"x.{suffix}") is None:
        stem, suffix = last, ""
    words = " ".join(re.sub(r"[^\w-]+", " ", stem).split())
    words = words.encode("utf-8", "ignore")[:_NAME_BYTES].decode("utf-8", "ignore").strip() or "file"
    if words.lower() in WINDOWS_DEVICES:
        words = f"_{words}"
    return f"{words}.{suffix.lower()}" if suffix else words


@dataclass
class _Gathering:
    """A folder while it is filled."""

    folder: Path
    room: int
    """Bytes that archives may still unpack to."""
    left: list[str] = field(default_factory=list)
    _taken: Counter[str] = field(default_factory=Counter)

    def take(self, name: str, file: Path) -> None:
        plain = plain_name(name)
        if kind_of(plain) is None:
            with open(file, "rb") as stream:
                plain += "" if is_binary(stream.read(8192)) else ".txt"
        shutil.copyfile(file, self._place(self.folder, plain))

    def unpack(self, name: str, file: Path) -> None:
        """Takes what we read of an archive."""
        try:
            with open(file, "rb") as stream, open_archive(stream) as archive:
                members = _members(name, archive.infolist())
                if sum(m.file_size for m in members) > self.room:
                    raise _too_large(name)
                for member in members:
                    self._unpack_one(name, archive, member)
        except _BROKEN as error:
            raise BadInput(f"{name} is not a zip archive that can be unpacked: {error}.") from None

    def _unpack_one(self, name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        if kind_of(member.filename) is None:
            self.left.append(f"{member.filename[:200]}: not of a kind that we read")
            return
        folder = self.folder
        for part in member.filename.replace("\\", "/").split("/")[:-1]:
            folder = folder / plain_name(part).replace(".", " ")
        folder.mkdir(parents=True, exist_ok=True)
        place = self._place(folder, plain_name(member.filename))
        with archive.open(member) as source, open(place, "xb") as out:
            # What an archive says of its sizes may be a lie: what comes out is counted.
            while chunk := source.read(_CHUNK):
                self.room -= len(chunk)
                if self.room < 0:
                    raise _too_large(name)
                out.write(chunk)

    def _place(self, folder: Path, plain: str) -> Path:
        """A free place for a file of this name; blanks and case alone do not tell two files apart everywhere."""
        stem, dot, suffix = plain.partition(".")
        while True:
            key = str(folder / plain).casefold()
            self._taken[key] += 1
            if self._taken[key] == 1:
                return folder / plain
            plain = f"{stem} {self._taken[key]}{dot}{suffix}"


def _members(name: str, members: Iterable[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The files of an archive, without hidden ones. Refuses what an honest archive does not hold."""
    found = []
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if member.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise BadInput(f"{name} names a place outside itself ({member.filename[:80]!r}). Make it anew.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise BadInput(f"{name} holds a link ({member.filename[:80]!r}). Put the file itself in.")
        if member.flag_bits & 1:
            raise BadInput(f"{name} is encrypted. Send it without a password.")
        if not member.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in parts):
            found.append(member)
        if len(found) > MAX_MEMBERS:
            raise TooLarge(f"{name} holds more than {MAX_MEMBERS:,} files. Split it.")
    return found


def _too_large(name: str) -> TooLarge:
    return TooLarge(f"{name} unpacks to more than is allowed here. Split it, or send its files one by one.")
