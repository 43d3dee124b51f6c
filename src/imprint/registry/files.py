"""Adapter folders, addressed by what is in them.

    <home>/adapters/<address>/adapter_config.json
                              adapter_model.safetensors
                              SHA256SUMS

SHA256SUMS lists the files in the form that `sha256sum -c` checks, sorted by name; the address is the SHA-256
of that list. So the address covers every name and every byte, and a damaged file is told from its neighbours.

A folder appears under its address in one rename and leaves it in one: who finds it finds all of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

from imprint.errors import BadInput, BrokenStore, TooLarge
from imprint.registry.names import WINDOWS_DEVICES
from imprint.registry.records import loads

SUMS = "SHA256SUMS"
EXPORT_RECORD = "imprint.json"
SHARDS = "shards.json"
"""The only file of a version that is made of several adapters: their addresses."""
TAKEN = (".safetensors", ".json", ".jsonl", ".md", ".txt", ".toml")
PICKLES = (".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt")

_ADDRESS = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_CHUNK_BYTES = 1 << 20
MAX_RECORD_BYTES = 1 << 28
"""Of a JSON file beside the tensors: some hundred thousand passages are told of in much less."""

Files = Mapping[str, bytes | Path]
"""Each file's name, and its content or the file that holds it."""


# --- putting and finding ----------------------------------------------------------------------


def path(home: Path, address: str) -> Path:
    """Where the folder of this address is, or would be."""
    # The address comes from a database that others may have written to; it must not lead elsewhere.
    if not _ADDRESS.fullmatch(address):
        raise BrokenStore(f"{address!r} is no address of adapter files: 64 hexadecimal digits were expected.")
    return home / "adapters" / address


def put(home: Path, source: Path | Files) -> str:
    """The address under which these files now are, safe on the disk.

    A crash at any moment leaves either the whole folder under its address or nothing there."""
    files = plain_files(source) if isinstance(source, Path) else source
    check_names(files)
    adapters = home / "adapters"
    adapters.mkdir(parents=True, exist_ok=True)
    incoming = adapters / f".incoming-{secrets.token_hex(8)}"
    incoming.mkdir()
    try:
        address = _fill(incoming, files)
        _settle(incoming, path(home, address), address)
        sync_folder(adapters)
        sync_folder(home)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return address


def drop(home: Path, address: str) -> None:
    """Takes the folder away. Nothing there is fine."""
    outgoing = home / "adapters" / f".outgoing-{secrets.token_hex(8)}"
    try:
        path(home, address).rename(outgoing)
    except FileNotFoundError:
        return
    shutil.rmtree(outgoing)


def addresses(home: Path) -> list[str]:
    """Every address under which there is a folder, sorted."""
    return sorted(entry.name for entry in _entries(home) if _ADDRESS.fullmatch(entry.name))


def drop_unfinished(home: Path, *, before_s: float) -> None:
    """Takes away what a crash left half written or half deleted before this moment (seconds since 1970)."""
    for entry in _entries(home):
        if entry.name.startswith((".incoming-", ".outgoing-")):
            # Its writer may be finishing it just now.
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_mtime < before_s:
                    shutil.rmtree(entry)


def copy(home: Path, address: str, target: Path) -> None:
    """Copies the folder's files, checked, into an existing folder."""
    verify(home, address)
    folder = path(home, address)
    for name in [*_sums(folder, address), SUMS]:
        shutil.copyfile(folder / name, target / name)


# --- checking ---------------------------------------------------------------------------------


def check_present(home: Path, address: str) -> None:
    """Raises BrokenStore where a file is missing. Quick: contents are left to `verify`."""
    _check_listing(path(home, address), address, others=())


def verify(home: Path, address: str) -> None:
    """Raises BrokenStore, naming the file, where anything differs from what was put."""
    verify_folder(path(home, address), address)


def verify_folder(folder: Path, address: str, *, others: Collection[str] = ()) -> None:
    """As `verify`, for a folder anywhere; `others` may lie in it too."""
    for name, expected in _check_listing(folder, address, others).items():
        with open(folder / name, "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != expected:
            raise BrokenStore(
                f"{folder / name} was changed: its SHA-256 is {found[:12]}..., and {expected[:12]}... "
                f"was published. {_CURE}"
            )


def plain_files(folder: Path) -> dict[str, bytes | Path]:
    """The folder's files by name. Links, folders and devices are refused: only plain files are kept."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder. Give the folder that holds the adapter's files.")
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if not entry.is_file(follow_symlinks=False):
            raise _not_plain(folder / entry.name)
    return {entry.name: Path(entry.path) for entry in entries}


def check_names(names: Collection[str]) -> None:
    """Raises BadInput where a file's name could do harm, or its kind is not one that we keep."""
    if not names:
        raise BadInput("There are no files to keep. An adapter has at least one.")
    folded: dict[str, str] = {}
    for name in names:
        _check_name(name)
        # Where upper and lower case are one, the second file would overwrite the first.
        if other := folded.get(name.lower()):
            raise BadInput(f"{other!r} and {name!r} differ in case only. Rename one of them.")
        folded[name.lower()] = name


def peft_files(folder: Path) -> dict[str, bytes | Path]:
    """What of a foreign PEFT folder makes up the adapter: its plain files of the kinds we keep.

    Hidden files, subfolders and other kinds stay behind, for hubs and trainers leave many. Links and pickles
    are refused all the same: they may stand where the tensors should be."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder. Give the folder that holds adapter_config.json.")
    kept = {
        entry.name: Path(entry.path)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
        if Path(entry.name).suffix.lower() in (*TAKEN, *PICKLES) and not entry.name.startswith(".")
    }
    if linked := [name for name, file in kept.items() if file.is_symlink() or not file.is_file()]:
        raise _not_plain(folder / linked[0])
    return dict(kept)


def check_peft(folder: Path) -> dict[str, Any]:
    """The parsed adapter_config.json of a PEFT folder whose tensor files open."""
    settings = folder / "adapter_config.json"
    if not settings.is_file():
        raise BadInput(f"{folder} holds no adapter_config.json, so it is no PEFT adapter.")
    config = loads(read_record(settings), str(settings))
    if not isinstance(config, dict):
        raise BadInput(f"{settings} holds a {type(config).__name__}, not an object.")
    check_tensors(folder)
    return config


def read_record(file: Path) -> bytes:
    """The bytes of a JSON file that came with an adapter. Raises TooLarge for what is none, by its size."""
    if (size := file.stat().st_size) > MAX_RECORD_BYTES:
        raise TooLarge(f"{file} has {size:,} bytes, more than the {MAX_RECORD_BYTES:,} that a record may have.")
    return file.read_bytes()


def check_tensors(folder: Path) -> None:
    """Raises BadInput where no tensor file is, or one does not open. Only their headers are read."""
    tensors = sorted(folder.glob("*.safetensors"))
    if not tensors:
        raise BadInput(f"{folder} holds no .safetensors file. Save the adapter as safetensors.")
    for file in tensors:
        # Opening a pipe would wait for ever.
        if file.is_symlink() or not file.is_file():
            raise _not_plain(file)
        _check_opens(file)


# --- inside -----------------------------------------------------------------------------------

_CURE = "Bring the file back, or remove that version and publish it again."


def _fill(folder: Path, files: Files) -> str:
    """Writes the files and their sums; returns the address."""
    sums = "".join(f"{_write(folder / name, files[name])}  {name}\n" for name in sorted(files))
    address = _write(folder / SUMS, sums.encode())
    sync_folder(folder)
    return address


def _settle(incoming: Path, target: Path, address: str) -> None:
    """Renames the finished folder to its address. Already there is fine, if it is whole."""
    try:
        incoming.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        verify_folder(target, address)


def _write(target: Path, held: bytes | Path) -> str:
    """Writes one file through to the disk; returns its SHA-256."""
    digest = hashlib.sha256()
    with _opened(held) as source, open(target, "xb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            copy.write(chunk)
        copy.flush()
        os.fsync(copy.fileno())
    return digest.hexdigest()


def _opened(held: bytes | Path) -> BinaryIO:
    return io.BytesIO(held) if isinstance(held, bytes) else open(held, "rb")


def sync_folder(folder: Path) -> None:
    """Makes what was renamed in a folder, or put into it, safe on the disk."""
    if os.name == "nt":  # Windows cannot open a folder; NTFS journals its renames.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(home: Path) -> list[Path]:
    adapters = home / "adapters"
    return list(adapters.iterdir()) if adapters.is_dir() else []


def _sums(folder: Path, address: str) -> dict[str, str]:
    """Each file's name and SHA-256, as published."""
    listing = folder / SUMS
    if not folder.is_dir() or not listing.is_file():
        raise BrokenStore(f"{listing} is missing. {_CURE}")
    text = listing.read_bytes()
    found = hashlib.sha256(text).hexdigest()
    if found != address:
        raise BrokenStore(
            f"{listing} was changed: its SHA-256 is {found[:12]}..., not {address[:12]}.... {_CURE}"
        )
    lines = [_SUM_LINE.fullmatch(line) for line in text.decode(errors="replace").splitlines()]
    sums = {line[2]: line[1] for line in lines if line}
    # An import brings its own listing; a name in it must not lead out of the folder.
    check_names(sums)
    return sums


def _check_listing(folder: Path, address: str, others: Collection[str]) -> dict[str, str]:
    """The sums, once the folder holds the files they name and no more."""
    sums = _sums(folder, address)
    found = {entry.name: entry.is_file(follow_symlinks=False) for entry in os.scandir(folder)}
    for name in sums:
        if not found.get(name):
            what = "is no plain file any more" if name in found else "is missing"
            raise BrokenStore(f"{folder / name} {what}. {_CURE}")
    if stray := sorted(set(found) - set(sums) - {SUMS, *others}):
        raise BrokenStore(f"{folder / stray[0]} is not among the files that were published. Take it out.")
    return sums


def _check_name(name: str) -> None:
    suffix = Path(name).suffix.lower()
    if suffix in PICKLES:
        raise BadInput(
            f"{name!r} may hold a Python pickle, which can run code when it is opened. Save tensors as "
            f".safetensors, and leave other {suffix} files out."
        )
    if not _NAME.fullmatch(name) or name.lower().split(".")[0] in WINDOWS_DEVICES:
        raise BadInput(
            f"{name!r} is no name for an adapter's file. Use letters a-z, digits, '-', '_' and '.', "
            f"with no dot in front."
        )
    if name.lower() == EXPORT_RECORD:
        raise BadInput(f"{name!r} is what an export adds. Import an exported folder; do not publish it.")
    if suffix not in TAKEN:
        raise BadInput(f"{name!r} is of a kind that is not kept. These are: {', '.join(TAKEN)}.")


def _check_opens(file: Path) -> None:
    try:
        with safe_open(file, framework="numpy") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{file} does not open as safetensors: {error}. Save or download it again.") from error


def _not_plain(found: Path) -> BadInput:
    kind = "a link" if found.is_symlink() else "a folder" if found.is_dir() else "no plain file"
    return BadInput(
        f"{found} is {kind}, and an adapter is made of plain files only. Take it out, or copy the files "
        f"elsewhere (cp -L follows links)."
    )
