"""What is known of each teaching job: kept on the disk as it happens, so that a restart loses nothing.

    <folder>/<id>/job.json       the job as it stands
    <folder>/<id>/events.jsonl   what happened, line by line
    <folder>/<id>/documents/     what is taught; gone when the job has ended"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imprint.errors import NotFound
from imprint.run_folder import write_whole

UNFINISHED = frozenset(("queued", "validating_files", "running"))
_RECORD, _EVENTS = "job.json", "events.jsonl"


@dataclass(frozen=True, slots=True)
class Job:
    """One teaching, asked for over the network."""

    id: str
    name: str
    """Of the adapter that it makes."""
    base: str
    files: tuple[str, ...]
    """Ids of the uploads to teach."""
    created_at: int
    """Unix seconds, as all times here."""
    questions: str | None = None
    """Id of an upload with questions for the proof."""
    budget: str | None = None
    seed: int = 0
    epochs: float | None = None
    lr_factor: float | None = None
    """Times the recipe's learning rate."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The tenant's own words, given back as they are."""
    status: str = "queued"
    """Then 'validating_files', 'running', and 'succeeded', 'failed' or 'cancelled'."""
    unwanted: bool = False
    """Somebody asked for its end."""
    finished_at: int | None = None
    version: str | None = None
    """What it became: 'handbook@1'."""
    trained_tokens: int | None = None
    error: str = ""

    @property
    def unfinished(self) -> bool:
        return self.status in UNFINISHED


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a job."""

    number: int
    """Counted from 1."""
    at: int
    text: str
    level: str = "info"
    """'info', 'warn' or 'error'."""
    measured: Mapping[str, Any] | None = None
    """JSON values, where it tells of progress."""


class Jobs:
    """The jobs of one tenant."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new_id(self) -> str:
        return f"ftjob-{secrets.token_hex(12)}"

    def keep(self, job: Job) -> Job:
        """Writes a job down as it stands; returns it."""
        write_whole(self._folder / job.id / _RECORD, json.dumps(asdict(job), ensure_ascii=False, indent=1))
        return job

    def get(self, id: str) -> Job:
        """Raises NotFound for what this tenant has not."""
        return _read(self._found(id))

    def list(self) -> list[Job]:
        """All jobs, newest first."""
        jobs = [_read(folder) for folder in self._folders().values()]
        return sorted(jobs, key=lambda job: (job.created_at, job.id), reverse=True)

    def folder(self, id: str) -> Path:
        return self._found(id)

    def clear(self, id: str) -> None:
        """Removes what was taught and asked; what is known of the job stays."""
        for entry in self._found(id).iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name not in (_RECORD, _EVENTS):
                entry.unlink(missing_ok=True)

    def tell(
        self, id: str, text: str, *, at: float, level: str = "info", measured: Mapping[str, Any] | None = None
    ) -> None:
        """Adds an event."""
        record = {"at": int(at), "text": text, "level": level, "measured": measured}
        with _writing, open(self._found(id) / _EVENTS, "a", encoding="utf-8") as out:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")

    def events(self, id: str) -> Events:
        """Everything that happened, oldest first."""
        file = self._found(id) / _EVENTS
        if not file.exists():
            return []
        with open(file, encoding="utf-8") as lines:
            records = [_event(line) for line in lines]
        return [Event(number=i, **record) for i, record in enumerate(records, 1) if record]

    def _found(self, id: str) -> Path:
        folder = self._folders().get(id)
        if folder is None:
            raise NotFound(f"No job has the id {id[:80]!r}. List yours with GET /v1/fine_tuning/jobs.")
        return folder

    def _folders(self) -> dict[str, Path]:
        # An id is looked up among what is there, and never made into a path.
        if not self._folder.is_dir():
            return {}
        return {entry.name: entry for entry in self._folder.iterdir() if (entry / _RECORD).exists()}


# The method `list` hides the builtin from the annotations of its class.
Events = list[Event]
_writing = threading.Lock()


def _read(folder: Path) -> Job:
    record = json.loads((folder / _RECORD).read_text("utf-8"))
    return Job(**{**record, "files": tuple(record["files"])})


def _event(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:  # cut short by a kill
        return {}
