"""A home as one file, and a home from such a file.

A backup is a plain tar. Its members are named as in a home, and the last one, backup.json, has the SHA-256 and the
size of each. What can be made again from the rest is left out: checkpoints, rows in tokens, caches; and so is what
no version speaks of. One table of names (`_KEPT`) holds for both ways: nothing else is ever taken from a tar."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from imprint.continual import manifest
from imprint.continual.tombstones import Target
from imprint.corpus import Corpus
from imprint.errors import BadInput, BrokenStore, NotFound
from imprint.housekeeping.verifying import Verified, homes, run_keys, verify, versions
from imprint.registry import Registry, Tombstone, files
from imprint.types import Version
from imprint.watch import SILENT, Watch

MANIFEST = "backup.json"
FORMAT = 1
"""Grows when an older reader would misread what a newer one writes."""

_CHUNK_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 20
"""Of what may stand before a member: names of ours are short."""
_MAX_MANIFEST_BYTES = 1 << 28
_TRIES = 3

_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_RUN = r"runs/[0-9a-f]{16}(?:/shard-[0-9]{1,4})?(?:/written|/lesson)?"
_KEPT = re.compile(
    rf"(?:tenants/[a-z0-9][a-z0-9._-]{{0,63}}/)?(?:registry\.db|keys\.json|adapters/[0-9a-f]{{64}}/{_PLAIN}"
    rf"|corpora/[0-9a-f]{{16}}\.jsonl|{_RUN}/[a-z_]+\.jsonl?|jobs/{_PLAIN}/(?:job\.json|events\.jsonl)"
    rf"|(?:admissions|certificates|curves|uploads)(?:/{_PLAIN}){{1,4}})"
)
"""What a home is made of, as far as it cannot be made again."""
_WHOLE_FOLDERS = ("admissions", "certificates", "curves", "jobs", "uploads")


@dataclass(frozen=True, slots=True)
class Backup:
    """A home in one file."""

    file: Path
    members: int
    size_bytes: int
    versions: int


# --- out --------------------------------------------------------------------------------------


def backup(home: Path, file: Path, *, now: str, runs: bool = True, watch: Watch = SILENT) -> Backup:
    """Puts a home, those of its tenants with it, into one new file: as it is at one moment, whatever others publish
    meanwhile, and whole or not at all. `runs`: with the training text of the versions.

    Raises BrokenStore for a home that is damaged, for such a backup could not be trusted; BadInput where the file
    is there already."""
    home, file = Path(home).absolute(), Path(file).absolute()
    if file.exists() or file.is_symlink():
        raise BadInput(f"{file} is there already. Choose another name.")
    if not file.parent.is_dir():
        raise BadInput(f"{file.parent} is no folder. Make it, or choose another place.")
    found = verify(home, watch=watch)
    if not found.whole:
        raise BrokenStore(f"{home} is damaged, and no backup was made: {found.damaged[0]} See `imprint verify`.")
    watch.stage("Writing the backup")
    for tries_left in reversed(range(_TRIES)):
        try:
            with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-") as making:
                return _written(home, file, Path(making), now=now, runs=runs, watch=watch)
        except FileNotFoundError as error:
            # Versions were removed or forgotten since their rows were copied: what is there now is backed up.
            if not tries_left:
                raise BrokenStore(f"{error.filename} went away while it was backed up. Try again later.") from error
    raise AssertionError("one of the tries returns or raises")


def _written(home: Path, file: Path, making: Path, *, now: str, runs: bool, watch: Watch) -> Backup:
    """The home's files, copied as the databases' snapshots name them, then renamed to their place."""
    members, count = _members(home, making, runs, watch)
    manifest: dict[str, dict[str, Any]] = {}
    with open(making / "tar", "xb") as out:
        os.chmod(making / "tar", 0o600)
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for done, (name, source) in enumerate(sorted(members.items()), 1):
                manifest[name] = _add(tar, name, source)
                watch.progress("files", done, len(members), "")
            record = {"format": FORMAT, "imprint": metadata.version("imprint"), "made_at": now, "files": manifest}
            text = json.dumps(record, indent=1).encode()
            tar.addfile(_header(MANIFEST, len(text)), io.BytesIO(text))
        out.flush()
        os.fsync(out.fileno())
    os.rename(making / "tar", file)
    files.sync_folder(file.parent)
    return Backup(file, len(members), file.stat().st_size, count)


def _members(home: Path, making: Path, runs: bool, watch: Watch) -> tuple[dict[str, Path], int]:
    """Every member's name and where its bytes are; and how many versions there are."""
    members: dict[str, Path] = {}
    count = 0
    for number, each in enumerate(homes(home)):
        prefix = "" if each == home else f"tenants/{each.name}/"
        found: list[Path] = [each / "keys.json"]
        for folder in _WHOLE_FOLDERS:
            found += sorted((each / folder).rglob("*"))
        if (each / "registry.db").exists():
            copy = making / str(number)
            copy.mkdir()
            Registry(each).snapshot(copy / "registry.db")
            members[f"{prefix}registry.db"] = copy / "registry.db"
            spoken_of = Registry(copy)
            for version in versions(spoken_of):
                count += 1
                for address in (version.adapter_hash, *spoken_of.shards(version)):
                    found += files.path(each, address).iterdir()
                found.append(Corpus.file(each, version.corpus_hash))
                for key in run_keys(version) if runs else []:
                    found += (each / "runs" / key).rglob("*.json*")
        for path in found:
            name = prefix + path.relative_to(each).as_posix()
            if not path.is_file() or path.is_symlink() or path.name == "draft.jsonl":
                continue
            if _KEPT.fullmatch(name):
                members[name] = path
            elif path.name[0] != "." and name.removeprefix(prefix).partition("/")[0] not in ("runs", "jobs"):
                watch.say(f"Left out, for imprint gives no file such a name: {path}")
    return members, count


def _add(tar: tarfile.TarFile, name: str, source: Path) -> dict[str, Any]:
    """Adds a file, and returns what the manifest says of it."""
    with open(source, "rb") as content:
        # What is being added to (a job's events) is taken as long as it is now.
        size = os.fstat(content.fileno()).st_size
        hashing = _Hashing(content)
        tar.addfile(_header(name, size), hashing)
    return {"size": size, "sha256": hashing.digest.hexdigest()}


class _Hashing(io.RawIOBase):
    """A stream that hashes what is read of it."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content
        self.digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._content.read(size)
        self.digest.update(data)
        return data


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o600
    return header


# --- back in ----------------------------------------------------------------------------------


def restore(file: Path, home: Path, *, tombstones: Path | None = None, watch: Watch = SILENT) -> Verified:
    """Brings a home back from a backup into a place where there is none: whole, or not at all.

    The file may be anybody's: links, names that lead elsewhere, what is no part of a home, wrong hashes and what
    does not verify are refused before anything stands in the home's place. `tombstones`: a home that may have
    forgotten something since the backup was made; versions that hold any of it are not brought back.
    Raises BadInput for a file that is no backup, BrokenStore for one that was changed."""
    file, home = Path(file).absolute(), Path(home).absolute()
    if not file.is_file():
        raise NotFound(f"There is no backup at {file}.")
    if home.exists() and not (home.is_dir() and not any(home.iterdir())):
        raise BadInput(
            f"{home} is there already and not empty. A backup is restored into a new home: move that one away, or "
            "name another place with --into."
        )
    home.parent.mkdir(parents=True, exist_ok=True)
    making = home.parent / f".restoring-{secrets.token_hex(8)}"
    making.mkdir(mode=0o700)
    try:
        watch.stage("Reading the backup")
        with _opened(file) as tar:
            _unpack(tar, _listing(tar, file), making, file, watch)
        found = verify(making, watch=watch)
        if not found.whole:
            raise BrokenStore(f"{file} does not hold a whole home: {_without(found.damaged[0], making)}")
        kept_out = _kept_out(making, Path(tombstones).absolute()) if tombstones else []
        if home.exists():
            home.rmdir()
        os.rename(making, home)
        files.sync_folder(home.parent)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    found = verify(home, deep=False)
    keys = ["The keys are those of the day of the backup: revoke again what was revoked since."]
    return replace(found, told=(*found.told, *kept_out, *(keys if (home / "keys.json").exists() else [])))


@contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    """The tar. What tarfile complains of becomes ours."""
    try:
        with open(file, "rb") as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError, OverflowError, RecursionError, ValueError) as error:
        raise BadInput(f"{file} is no backup that can be read: {error or type(error).__name__}.") from error


class _Bounded(io.RawIOBase):
    """A stream of which no more is read at once than an honest header or a chunk takes: a header can claim any
    length, and tarfile would read all of it."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise ValueError(f"a header asks for {size:,} bytes")
        return self._content.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._content.seek(offset, whence)

    def tell(self) -> int:
        return self._content.tell()


def _listing(tar: tarfile.TarFile, file: Path) -> dict[str, tarfile.TarInfo]:
    """The members by name, once each of them, and its name, is what a backup holds."""
    members: dict[str, tarfile.TarInfo] = {}
    folded: set[str] = set()
    # The size is looked at before the next header is: a negative one would lead back to this one, again and again.
    while (member := tar.next()) is not None:
        name = member.name
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise BadInput(
                f"{file} holds {name[:80]!r}, which is no plain file. It was not made by imprint backup."
            )
        if name != MANIFEST and not _KEPT.fullmatch(name):
            raise BadInput(
                f"{file} holds {name[:80]!r}, which is no part of a home. It was not made by imprint backup."
            )
        if name.lower() in folded:
            raise BadInput(f"{file} holds {name[:80]!r} twice. It was not made by imprint backup.")
        if not 0 <= member.size <= file.stat().st_size:
            raise BadInput(f"{file} says that {name[:80]!r} has {member.size:,} bytes, which it cannot have.")
        folded.add(name.lower())
        members[name] = member
    return members


def _unpack(
    tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], target: Path, file: Path, watch: Watch
) -> None:
    """Writes the members below the target, each checked against the manifest."""
    told = _manifest(tar, members.pop(MANIFEST, None), file)
    if set(told) != set(members):
        other = sorted(set(told) ^ set(members))[0]
        raise BrokenStore(f"{file} was changed: its list and its members differ in {other[:80]!r}.")
    needed = sum(member.size for member in members.values())
    if needed > shutil.disk_usage(target).free:
        raise BadInput(f"{target.parent} has no room for the {needed:,} bytes of {file}. Restore it elsewhere.")
    for done, (name, member) in enumerate(members.items(), 1):
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if _copied(tar, member, place) != told[name].get("sha256") or member.size != told[name].get("size"):
            raise BrokenStore(f"{file} was changed: {name} is not as it was backed up. Take another backup.")
        watch.progress("files", done, len(members), "")
    for folder in {place.parent for place in target.rglob("*")}:
        files.sync_folder(folder)


def _manifest(tar: tarfile.TarFile, member: tarfile.TarInfo | None, file: Path) -> Mapping[str, Mapping[str, Any]]:
    """What the backup says of its members."""
    if member is None:
        raise BadInput(f"{file} has no {MANIFEST}: it is no backup, or was cut short.")
    if member.size > _MAX_MANIFEST_BYTES:
        raise BadInput(f"{file} has a list of {member.size:,} bytes, which no backup has.")
    record = json.loads(b"".join(_chunks(tar, member)))
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise BadInput(f"{file} has a {MANIFEST} that is none of ours.")
    if record["format"] > FORMAT:
        raise BadInput(
            f"{file} has format {record['format']}, and this imprint reads up to {FORMAT}. Upgrade imprint."
        )
    told = record.get("files")
    if not isinstance(told, dict) or not all(isinstance(row, dict) for row in told.values()):
        raise BadInput(f"{file} has a {MANIFEST} that lists no files.")
    return told


def _copied(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> str:
    """Writes one member through to the disk; returns its SHA-256."""
    digest = hashlib.sha256()
    with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        for chunk in _chunks(tar, member):
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _chunks(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    content = tar.extractfile(member)
    assert content is not None  # it is a plain file
    while chunk := content.read(_CHUNK_BYTES):
        yield chunk


# --- what stays forgotten ---------------------------------------------------------------------


def _kept_out(restored: Path, forgetful: Path) -> list[str]:
    """Takes out of a restored home the versions that hold what another home has forgotten, and notes there what is
    to be forgotten; returns what was taken out, in sentences."""
    if not (forgetful / "registry.db").is_file():
        raise NotFound(f"There is no registry in {forgetful}, whose tombstones were to be honoured.")
    told = []
    for here in homes(restored):
        there = forgetful / here.relative_to(restored)
        if not (there / "registry.db").is_file() or not (here / "registry.db").is_file():
            continue
        registry, stones = Registry(here), Registry(there).tombstones()
        known = {(stone.name, stone.since) for stone in registry.tombstones()}
        for stone in stones:
            if (stone.name, stone.since) not in known:
                noted = registry.bury(stone.name, stone.body, now=stone.since)
                if stone.ended is not None:
                    registry.end_tombstone(noted, stone.body, now=stone.ended)
        gone = [v for v in versions(registry) if _documents_of(here, v) & _buried(stones, v.name)]
        for version in gone:
            registry.remove(str(version))
            told.append(f"{version} was not brought back: it holds what {forgetful} was asked to forget.")
        _drop_material(here, gone, versions(registry))
        registry.compact()
    return told


def _buried(stones: Sequence[Tombstone], name: str) -> set[str]:
    """Ids of the documents of this name that are to be forgotten, whole or in part."""
    return {id for stone in stones if stone.name == name for id in Target.of(stone.body).touched}


def _documents_of(home: Path, version: Version) -> set[str]:
    """Ids of all documents that a version was taught with, or went on from."""
    kept = Corpus.kept(home, version.corpus_hash) or Corpus(())
    told = {entry.document for entry in manifest.of_version(version, kept.documents)}
    return told | {document.id for document in kept.documents}


def _drop_material(home: Path, gone: Sequence[Version], left: Sequence[Version]) -> None:
    """Takes away documents and training text that only versions speak of which are gone."""
    for corpus_hash in {v.corpus_hash for v in gone} - {v.corpus_hash for v in left}:
        Corpus.file(home, corpus_hash).unlink(missing_ok=True)
    for key in {k for v in gone for k in run_keys(v)} - {k for v in left for k in run_keys(v)}:
        shutil.rmtree(home / "runs" / key, ignore_errors=True)


def _without(told: str, folder: Path) -> str:
    return told.replace(f"{folder}/", "")
