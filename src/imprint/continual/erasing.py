"""Every trace of what was forgotten taken out of a home and out of the caches, and what is left found by searching.

What can be made again is deleted whole where it cannot be taken apart: embeddings, rows of certificates. Of what a
writer wrote, the lines that tell of it are overwritten in their place, so that no other program that reads the file
loses its own. The documents' own words are searched for at the end, byte by byte, in every file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imprint.documents import sentences
from imprint.evaluation.interference import distinctive
from imprint.run_folder import write_whole
from imprint.synthesis.wording import words
from imprint.types import Document

_RUN_OF_WORDS = 5
"""Words in a row by which a text is known to tell of another."""
_LEAST_WORDS = 4
"""Of a sentence that is searched for."""
_CHUNK = 1 << 22


@dataclass
class Erased:
    """What was taken away, and where some of it still stands."""

    runs: int = 0
    written: int = 0
    """Lines of the writers' cache."""
    corpora: int = 0
    cached: int = 0
    """Files of caches that are made again when they are needed."""
    searched: int = 0
    """Files in which it was searched for afterwards."""
    left: list[str] = field(default_factory=list)
    """Files in which some of it still stands and of which no version speaks, relative to the home or the cache."""
    of_others: list[str] = field(default_factory=list)
    """The same of other names: their documents and their training text, which stay."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Traces:
    """How a text is known that tells of what was forgotten."""

    def __init__(self, gone: Sequence[str], stays: Sequence[str]) -> None:
        plain = "\0".join(" ".join(words(text)) for text in stays)
        self._own = distinctive(gone, stays)
        self._runs = frozenset(run for text in gone for run in _runs(text) if run not in plain)
        self.sentences = tuple(
            dict.fromkeys(
                line
                for text in gone
                for start, end in sentences(text)
                for line in text[start:end].splitlines()
                if len(line.split()) >= _LEAST_WORDS and not any(line in other for other in stays)
            )
        )

    def in_text(self, text: str) -> bool:
        """Whether a text has a word, a name or a number of its own, or several words in a row."""
        flat = f" {' '.join(words(text))} "
        return any(f" {term} " in flat for term in self._own) or any(run in self._runs for run in _runs(text))

    def patterns(self) -> list[bytes]:
        """Its sentences as they may stand in a file: as they are, and inside JSON."""
        forms = (form for line in self.sentences for form in (line, json.dumps(line)[1:-1], _escaped(line)))
        return [form.encode("utf-8", "surrogatepass") for form in dict.fromkeys(forms)]


def erase_writings(cache: Path, traces: Traces) -> int:
    """Overwrites the lines of the writers' caches that tell of it; returns how many."""
    count = 0
    for file in sorted((cache / "writes").glob("*.jsonl")):
        count += _blank(file, traces)
    return count


def erase_vectors(cache: Path) -> int:
    """Deletes all embeddings: what texts a vector is of cannot be told from it, but much of the text can."""
    return sum(_remove(folder) for folder in (cache / "vectors", cache / "contextual") if folder.exists())


def documents_kept(home: Path, ids: Collection[str]) -> list[Document]:
    """Documents with these ids, of all that are kept in a home."""
    found = (d for file in sorted((home / "corpora").glob("*.jsonl")) for d in _documents(file))
    return list({d.id: d for d in found if d.id in ids}.values())


def erase_runs(home: Path, documents: Collection[str], kept: Collection[str], doomed: Collection[str]) -> int:
    """Deletes run folders in which the ids of these documents stand, for their training text tells of them, and
    those that are `doomed`, of versions that saw them; but for those that are `kept`, which other versions stand
    on. Returns how many."""
    ids = [id.encode() for id in documents]
    count = 0
    for folder in sorted(_runs_below(home / "runs"), key=lambda f: -len(f.parts)):  # shards before what holds them
        name = folder.relative_to(home / "runs").as_posix()
        if any(k == name or k.startswith(f"{name}/") for k in kept):
            continue
        if name in doomed or any(_holds(file, ids) for file in folder.rglob("*.json*") if file.is_file()):
            shutil.rmtree(folder)
            count += 1
    return count


def erase_questions(home: Path, traces: Traces) -> None:
    """Takes held-out questions that tell of it out of the runs that stay."""
    for file in (home / "runs").rglob("held_out.json"):
        record = json.loads(file.read_text("utf-8"))
        said = (" ".join([q["text"], *q["answers"], *q.get("wrong", ())]) for q in record["questions"])
        told = [traces.in_text(text) for text in said]
        if any(told):
            left = [q for q, tells in zip(record["questions"], told, strict=True) if not tells]
            write_whole(file, json.dumps(record | {"questions": left}, indent=1, ensure_ascii=False))


def erase_certificates(home: Path) -> int:
    """Deletes the rows that certificates were made of; the certificates themselves go with their versions."""
    return _remove(home / "certificates") if (home / "certificates").exists() else 0


def erase_corpora(home: Path, documents: Collection[str], kept: Collection[Path]) -> int:
    """Deletes kept documents in which these stand, but for the files that others need; returns how many."""
    count = 0
    for file in sorted((home / "corpora").glob("*.jsonl")):
        if file not in kept and any(d.id in documents for d in _documents(file)):
            file.unlink()
            count += 1
    return count


def search(places: Sequence[Path], patterns: Sequence[bytes]) -> tuple[int, list[str]]:
    """How many files there are below these places, and in which of them one of the patterns stands."""
    count, found = 0, []
    for place in places:
        for file in sorted(place.rglob("*")):
            if file.is_file() and not file.is_symlink():
                count += 1
                if _holds(file, patterns):
                    found.append(file.relative_to(place).as_posix())
    return count, found


# --- inside -----------------------------------------------------------------------------------


def _blank(file: Path, traces: Traces) -> int:
    """Overwrites lines with blanks of the same length: where other lines stand does not change."""
    count = 0
    with open(file, "r+b") as held:
        start = 0
        for line in iter(held.readline, b""):
            if line.strip() and _tells(line, traces):
                held.seek(start)
                held.write(b" " * (len(line) - line.endswith(b"\n")))
                held.seek(start + len(line))
                count += 1
            start += len(line)
        held.flush()
        os.fsync(held.fileno())
    return count


def _tells(line: bytes, traces: Traces) -> bool:
    try:
        texts = json.loads(line)["texts"]
    except (ValueError, KeyError, TypeError):
        return True  # cut short by a kill: nobody reads it
    return any(traces.in_text(text) for text in texts)


def _runs_below(folder: Path) -> Iterator[Path]:
    """Run folders, and the folders of single shards in them."""
    if folder.is_dir():
        for run in folder.iterdir():
            if run.is_dir():
                yield run
                yield from (shard for shard in run.iterdir() if shard.is_dir() and shard.name.startswith("shard-"))


def _holds(file: Path, patterns: Sequence[bytes]) -> bool:
    """Whether one of the patterns stands in a file."""
    if not patterns:
        return False
    longest = max(map(len, patterns))
    try:
        with open(file, "rb") as held:
            before = b""
            while chunk := held.read(_CHUNK):
                text = before + chunk
                if any(pattern in text for pattern in patterns):
                    return True
                before = text[-longest:]
    except FileNotFoundError:  # taken away meanwhile
        return False
    return False


def _documents(file: Path) -> Iterator[Document]:
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            yield Document(record["text"], record["source"], record["title"])


def _remove(folder: Path) -> int:
    count = sum(file.is_file() for file in folder.rglob("*"))
    shutil.rmtree(folder, ignore_errors=True)
    return count


def _runs(text: str) -> Iterator[str]:
    plain = words(text)
    return (" ".join(plain[i : i + _RUN_OF_WORDS]) for i in range(len(plain) - _RUN_OF_WORDS + 1))


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
