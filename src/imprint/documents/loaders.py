"""Files and folders become Documents; what cannot be read is named, with the reason, and the rest goes on."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imprint.documents.kinds import KINDS, Kind, kind_of, reader_of
from imprint.documents.reading import Reading, is_binary, readable, sane_title
from imprint.documents.sandbox import Sandbox
from imprint.errors import DocumentError, NothingToTeach
from imprint.types import Document

Progress = Callable[[int, int, str], None]
"""Called before each file: how many are done, of how many, and the one that is next."""

_NOT_THERE = "there is no such file or folder. Check the path."
_NOT_THE_USERS = frozenset(("node_modules", "__pycache__", "site-packages", "venv"))


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a folder held."""

    documents: tuple[Document, ...]
    skipped: tuple[DocumentError, ...] = ()
    """Files that should have been read and could not be, each with the reason."""
    ignored: tuple[str, ...] = ()
    """Files of kinds that we do not read."""
    notes: tuple[str, ...] = ()
    """What the user should know of files that were read: 'page 3 of 9 has no text'."""

    def summary(self) -> str:
        """What was read, what was not, and why, for a person."""
        lines = [self._read_line(), *(f"  {note}" for note in self.notes)]
        if self.skipped:
            lines.append(f"Not read, {_count(len(self.skipped), 'file')}:")
            lines += [f"  {error}" for error in self.skipped]
        if self.ignored:
            suffixes = Counter(Path(name).suffix or Path(name).name for name in self.ignored)
            listed = ", ".join(f"{suffix} ({n})" for suffix, n in suffixes.most_common(8))
            more = ", ..." if len(suffixes) > 8 else ""
            files = _count(len(self.ignored), "file")
            lines.append(f"Ignored, {files} of kinds we do not read: {listed}{more}")
        return "\n".join(lines)

    def _read_line(self) -> str:
        kinds = Counter(kind_of(Path(document.source).name) or "text" for document in self.documents)
        pages = sum(len(document.page_starts) for document in self.documents)
        size = f"{sum(len(document.text) for document in self.documents):,} characters"
        size += f", {_count(pages, 'page')}" if pages else ""
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        return f"Read {_count(len(self.documents), 'document')} ({listed}): {size}"


def load(
    path: str | Path,
    *,
    max_bytes: int = 200 * 2**20,
    timeout_s: float = 120.0,
    memory_bytes: int = 2 * 2**30,
    progress: Progress | None = None,
    kinds: Mapping[str, Kind] = KINDS,
) -> Loaded:
    """The documents in a file, or in a folder and the folders below it, in order of their names.

    `max_bytes` and `timeout_s` hold for each file, `memory_bytes` for the process that parses PDF, Office,
    HTML, tables and JSON. Hidden files, links out of the folder and what package managers put there are left alone.

    Raises DocumentError when the path does not exist, NothingToTeach when no file of it could be read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DocumentError(str(path), _NOT_THERE)
    found, skipped = _files(path, kinds)
    wanted = [(file, source, kind) for file, source, kind in found if kind]
    ignored = tuple(source for _, source, kind in found if not kind)
    documents: dict[str, Document] = {}
    notes = []
    with Sandbox(timeout_s, memory_bytes) as sandbox:
        for done, (file, source, kind) in enumerate(wanted):
            if progress:
                progress(done, len(wanted), source)
            try:
                reading = _read(file, source, kinds[kind], max_bytes, sandbox)
                _keep(_document(reading, source), documents)
            except DocumentError as error:
                skipped.append(error)
                continue
            if reading.note:
                notes.append(f"{source}: {reading.note}")
    if progress:
        progress(len(wanted), len(wanted), "")
    if not documents:
        raise NothingToTeach(_nothing(path, skipped, ignored, kinds))
    return Loaded(tuple(documents.values()), tuple(skipped), ignored, tuple(notes))


def listed(path: str | Path) -> list[tuple[Path, str]]:
    """The files that `load` would read, each with the name that its document gets as source; nothing is read.

    Raises DocumentError when the path does not exist."""
    path = Path(path).expanduser()
    if not path.exists():
        raise DocumentError(str(path), _NOT_THERE)
    return [(file, source) for file, source, kind in _files(path, KINDS)[0] if kind]


# --- finding files ----------------------------------------------------------------------------

Found = tuple[Path, str, str | None]
"""A file, its name relative to what the user named, and its kind."""


def _files(path: Path, kinds: Mapping[str, Kind]) -> tuple[list[Found], list[DocumentError]]:
    if not path.is_dir():
        return [(path, path.name, kind_of(path.name, kinds) or _sniffed(path))], []
    found: list[Found] = []
    skipped: list[DocumentError] = []
    for file in _walk(path):
        source = file.relative_to(path).as_posix()
        if not file.is_symlink():
            found.append((file, source, kind_of(file.name, kinds)))
        # os.path's realpath is content with a link to itself, where Path.resolve gives up with a traceback.
        elif not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(path)):
            reason = "it is a link out of the folder and was not followed. Copy the file in, or name it."
            skipped.append(DocumentError(source, reason))
        # What a link inside the folder points to is read where it lies.
    return found, skipped


def _walk(folder: Path) -> Iterator[Path]:
    """Files and links below the folder, sorted, without hidden ones and what package managers bring."""
    for here, folders, files in os.walk(folder):
        seen = (name for name in folders if not name.startswith("."))
        folders[:] = sorted(name for name in seen if name not in _NOT_THE_USERS)
        linked = [name for name in folders if Path(here, name).is_symlink()]
        yield from (Path(here, name) for name in sorted(files + linked) if not name.startswith("."))


def _sniffed(path: Path) -> str | None:
    """'text' for a file that the user named himself and that is text, whatever its suffix."""
    if not path.is_file():
        return "text"  # refused later, with the reason
    with path.open("rb") as stream:
        return None if is_binary(stream.read(8192)) else "text"


# --- reading one ------------------------------------------------------------------------------


def _read(file: Path, source: str, kind: Kind, max_bytes: int, sandbox: Sandbox) -> Reading:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError(source, "it is not a file but a device or a pipe. Leave it out.")
        if status.st_size > max_bytes:
            found = f"it has {status.st_size:,} bytes, more than the {max_bytes:,} allowed"
            raise DocumentError(source, f"{found}. Split it, or allow more with max_bytes.")
        if status.st_size == 0:
            raise DocumentError(source, "it is empty. Fill it or remove it.")
        if kind.sandboxed:
            with file.open("rb"):  # so that a file we may not open is refused in our own words
                return sandbox.read(kind, file, source)
        return reader_of(kind)(file.read_bytes(), source)
    except OSError as error:
        reason = f"it cannot be opened: {error.strerror}. Check its permissions."
        raise DocumentError(source, reason) from None


def _document(reading: Reading, source: str) -> Document:
    text = readable(reading.text)
    if not text.strip():
        raise DocumentError(source, "it holds no text. Remove it, or check that it was exported whole.")
    title = sane_title(reading.title) or _spoken(source)
    return Document(text, source, title, reading.page_starts, reading.valid_from)


def _spoken(source: str) -> str:
    """A file's name as a person would say it: 'docs/employee_handbook.pdf' -> 'employee handbook'."""
    return re.sub(r"[_\s]+|(?<=[^\W\d_])-+(?=[^\W\d_])", " ", Path(source).stem).strip() or source


def _keep(document: Document, documents: dict[str, Document]) -> None:
    """Adds the document, by its id. Equal texts have equal ids, so a copy cannot stand beside its twin."""
    if twin := documents.get(document.id):
        reason = f"it has the same text as {twin.source}, which was read. Nothing is lost."
        raise DocumentError(document.source, reason)
    documents[document.id] = document


def _nothing(
    path: Path, skipped: list[DocumentError], ignored: tuple[str, ...], kinds: Mapping[str, Kind]
) -> str:
    known = ", ".join(sorted({suffix for kind in kinds.values() for suffix in kind.suffixes[:3]}))
    lines = [f"{path}: nothing here could be read. We read {known} and more."]
    lines += [f"  {error}" for error in skipped]
    lines += [f"  {source}: not of a kind that we read." for source in ignored[:20]]
    return "\n".join(lines)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
