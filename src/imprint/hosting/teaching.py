"""Teaching jobs, done beside the serving: a few at once; the others wait, and tenants take turns."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from imprint import pipeline
from imprint.devices import give_memory_back
from imprint.engine import Engine
from imprint.errors import BadInput, BadSetting, Cancelled, ImprintError, Overloaded
from imprint.hosting.jobs import Job, Jobs
from imprint.hosting.material import gather, plain_name
from imprint.hosting.tenants import LOCAL, Tenants
from imprint.hosting.uploads import Upload, Uploads
from imprint.locks import held
from imprint.planner import parse_budget
from imprint.recipe import Recipe
from imprint.registry import check_name
from imprint.stages import rate_of
from imprint.training.service import Service
from imprint.types import content_hash

log = logging.getLogger(__name__)

MAX_WAITING = 50
"""Unfinished jobs of one tenant."""
_TELL_EVERY_S = 2.0
"""Progress becomes an event at most this often."""
_WORTH_TIDYING_S = 5.0
"""A job that ran longer may have left much memory behind."""
_CLOSING_S = 30.0
"""How long closing waits for running jobs to notice; what is not finished is taken up at the next start."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a tenant asks to be taught."""

    files: tuple[str, ...]
    name: str | None = None
    """Of the adapter; None takes the words of the first file's name."""
    questions: str | None = None
    budget: str | None = None
    seed: int = 0
    epochs: float | None = None
    lr_factor: float | None = None
    metadata: tuple[tuple[str, str], ...] = ()


class Teaching:
    """The jobs of all tenants, and the threads that do them."""

    def __init__(
        self,
        engine: Engine,
        tenants: Tenants,
        *,
        at_once: int = 2,
        max_unpacked_bytes: int = 1 << 30,
        longest_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """The training of jobs that run `at_once` shares passes. `longest_s`: a job that runs longer fails; None
        lets budgets alone decide."""
        self._base, self._tenants, self._clock = engine.base, tenants, clock
        self._service = Service(engine)
        self._max_unpacked_bytes, self._longest_s = max_unpacked_bytes, longest_s
        self._waiting: list[tuple[str, str]] = []
        self._running: set[tuple[str, str]] = set()
        self._adapters: dict[str, str] = {}
        """By job: the name of the adapter that it makes."""
        self._unwanted: set[str] = set()
        self._served: dict[str, int] = {}
        self._change = threading.Condition()
        self._stopping = False
        self._lock: IO[str] | None = None
        self._threads = [threading.Thread(target=self._work, daemon=True, name="teaching") for _ in range(at_once)]

    def start(self) -> None:
        """Takes up what an earlier process left unfinished, and begins to work."""
        # A second server on the same home must not do the same jobs again.
        mark = content_hash(self._base.name)
        self._lock = held(self._tenants.home(LOCAL) / f"teaching-{mark}.lock")
        left = [] if self._lock is None else [
            (job.created_at, tenant, job)
            for tenant in self._tenants.names()
            for job in self._tenants.jobs(tenant).list()
            if job.unfinished and job.base == self._base.name and (tenant, job.id) not in self._waiting
        ]
        for _, tenant, job in sorted(left, key=lambda found: found[0]):
            if job.unwanted:
                self._end(self._tenants.jobs(tenant), job, "cancelled", "The job was cancelled.")
            else:
                self._tenants.jobs(tenant).keep(replace(job, status="queued"))
                self._adapters[job.id] = job.name
                self._waiting.append((tenant, job.id))
        self._service.start()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stops; what is unfinished stays so, and the next start takes it up."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        self._service.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_CLOSING_S)
        if self._lock is not None:
            self._lock.close()

    def add(self, tenant: str, wish: Wish) -> Job:
        """A new job. Raises NotFound for a file that this tenant has not, and BadInput for a wish that cannot be
        done, before anything is spent."""
        jobs, uploads = self._tenants.jobs(tenant), self._tenants.uploads(tenant)
        files = [uploads.get(id) for id in wish.files]
        if wish.questions is not None:
            uploads.get(wish.questions)
        parse_budget(wish.budget or pipeline.DEFAULT_BUDGET)
        job = Job(
            id=jobs.new_id(),
            name=self._name(wish, files),
            base=self._base.name,
            files=wish.files,
            created_at=int(self._clock()),
            questions=wish.questions,
            budget=wish.budget,
            seed=wish.seed,
            epochs=wish.epochs,
            lr_factor=wish.lr_factor,
            metadata=dict(wish.metadata),
        )
        _recipe(job)
        with self._change:
            if sum(owner == tenant for owner, _ in self._waiting) >= MAX_WAITING:
                raise Overloaded(f"You have {MAX_WAITING} jobs waiting. Send this one when some have ended.")
            jobs.keep(job)
            jobs.tell(job.id, "The job was queued.", at=self._clock())
            self._adapters[job.id] = job.name
            self._waiting.append((tenant, job.id))
            self._change.notify_all()
        return job

    def cancel(self, tenant: str, id: str, *, wait_s: float = 2.0) -> Job:
        """Asks a job to end; returns it as it then is. A running one ends at its next step, for which this waits
        a little. Raises BadInput for one that has ended."""
        jobs = self._tenants.jobs(tenant)
        with self._change:
            job = jobs.get(id)
            if not job.unfinished:
                raise BadInput(f"The job {id} has ended already: it {job.status}.")
            jobs.keep(replace(job, unwanted=True))
            self._unwanted.add(id)
            if (tenant, id) in self._waiting:
                self._waiting.remove((tenant, id))
                self._adapters.pop(id, None)
                return self._end(jobs, job, "cancelled", "The job was cancelled.")
            self._change.wait_for(lambda: (tenant, id) not in self._running, timeout=wait_s)
            return jobs.get(id)

    def counts(self) -> dict[str, float]:
        """How many jobs run and wait."""
        with self._change:
            return {"jobs_running": len(self._running), "jobs_waiting": len(self._waiting)}

    # --- in the threads -----------------------------------------------------------------------

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            began = time.monotonic()
            try:
                self._do(*taken)
            except Exception:  # a full disk must not end the teaching of everyone else
                log.exception("The job %s could not be finished.", taken[1])
            finally:
                with self._change:
                    self._running.discard(taken)
                    self._unwanted.discard(taken[1])
                    self._adapters.pop(taken[1], None)
                    self._change.notify_all()
            if time.monotonic() - began > _WORTH_TIDYING_S:
                give_memory_back()

    def _next(self) -> tuple[str, str] | None:
        """The oldest job of the tenant whose last job began longest ago; None when it is time to stop."""
        with self._change:
            self._change.wait_for(lambda: self._stopping or self._ready())
            if self._stopping:
                return None
            taken = min(self._ready(), key=lambda item: self._served.get(item[0], 0))
            self._waiting.remove(taken)
            self._running.add(taken)
            self._served[taken[0]] = 1 + max(self._served.values(), default=0)
            return taken

    def _ready(self) -> list[tuple[str, str]]:
        """Waiting jobs that may run now: two of one adapter would work in the same run folder."""
        busy = {(tenant, self._adapters[id]) for tenant, id in self._running}
        return [(tenant, id) for tenant, id in self._waiting if (tenant, self._adapters[id]) not in busy]

    def _do(self, tenant: str, id: str) -> None:
        jobs = self._tenants.jobs(tenant)
        job = jobs.get(id)
        folder = jobs.folder(id) / "documents"
        try:
            done = self._teach(tenant, job, jobs, folder)
        except Cancelled:
            if id in self._unwanted:
                self._end(jobs, job, "cancelled", "The job was cancelled.")
            return  # else the server stops, and the next start takes the job up
        except ImprintError as error:
            # Where the server keeps things is nobody's business.
            text = str(error).replace(str(folder), "The files").replace(f"{folder.parent}{os.sep}", "")
            self._end(jobs, job, "failed", text)
        except Exception:
            log.exception("Teaching failed.")
            self._end(jobs, job, "failed", "Something went wrong on the server; its log says what.")
        else:
            self._end(jobs, done, "succeeded", f"Published {done.version}.")

    def _teach(self, tenant: str, job: Job, jobs: Jobs, folder: Path) -> Job:
        """The job as it is when its adapter is published."""
        watch = _Teller(jobs, job.id, self._clock, self._must_end(job.id))
        uploads = self._tenants.uploads(tenant)
        self._begin(jobs, job, "validating_files")
        if not folder.is_dir():
            files = [(uploads.get(id).name, uploads.content(id)) for id in job.files]
            for line in gather(files, folder, max_bytes=self._max_unpacked_bytes):
                watch.say(f"Left aside: {line}.")
        questions = None if job.questions is None else _questions(uploads, job.questions, folder.parent)
        self._begin(jobs, job, "running")
        taught = pipeline.teach(
            folder,
            name=job.name,
            budget=job.budget,
            recipe=_recipe(job),
            seed=job.seed,
            questions=questions,
            home=self._tenants.home(tenant),
            watch=watch,
            service=self._service,
        )
        tokens = taught.version.details.get("tokens")
        return replace(job, version=str(taught.version), trained_tokens=tokens)

    def _must_end(self, id: str) -> Callable[[], None]:
        """What raises as soon as the job is not to go on."""
        began, mine = time.monotonic(), threading.get_ident()

        def check() -> None:
            if id in self._unwanted:
                raise Cancelled("The job was asked to end.")
            # When the server stops, training ends by itself, with a checkpoint.
            if self._stopping and threading.get_ident() == mine:
                raise Cancelled("The server stops.")
            if self._longest_s is not None and time.monotonic() - began > self._longest_s:
                raise BadSetting(
                    f"The job ran longer than the {self._longest_s / 60:g} minutes that this server allows. "
                    "Give it a smaller budget, or fewer documents."
                )

        return check

    def _begin(self, jobs: Jobs, job: Job, status: str) -> None:
        with self._change:  # a wish to cancel is not written over
            if job.id in self._unwanted:
                raise Cancelled("The job was asked to end.")
            jobs.keep(replace(job, status=status))

    def _end(self, jobs: Jobs, job: Job, status: str, text: str) -> Job:
        failed = status == "failed"
        with self._change:
            self._unwanted.discard(job.id)
            jobs.tell(job.id, text, at=self._clock(), level="error" if failed else "info")
            ended = jobs.keep(
                replace(job, status=status, finished_at=int(self._clock()), error=text if failed else "")
            )
        jobs.clear(job.id)
        return ended

    def _name(self, wish: Wish, files: Sequence[Upload]) -> str:
        """The adapter's name: as wished, or from the first file's."""
        if wish.name is not None:
            name = check_name(wish.name)
        else:
            words = plain_name(files[0].name).partition(".")[0].lower()
            letters = "".join(c if c.isascii() and c.isalnum() else "-" for c in words)
            name = check_name("-".join(part for part in letters.split("-") if part)[:64].strip("-") or "taught")
        if name == self._base.name:
            raise BadInput(f"{name!r} is the name of the base model here. Choose another with 'suffix'.")
        return name


class _Teller:
    """A Watch that writes events, and raises where the job is to end."""

    def __init__(self, jobs: Jobs, id: str, clock: Callable[[], float], check: Callable[[], None]) -> None:
        self._jobs, self._id, self._clock, self.check = jobs, id, clock, check
        self._told_at = 0.0

    def stage(self, text: str) -> None:
        self.check()
        self._told_at = 0.0
        self._jobs.tell(self._id, text, at=self._clock())

    def progress(self, unit: str, done: int, total: int, detail: str) -> None:
        self.check()
        now = time.monotonic()
        if now - self._told_at < _TELL_EVERY_S and done < total:
            return
        self._told_at = now
        measured: dict[str, Any] = {"unit": unit, "done": done, "total": total, "detail": detail}
        text = f"{done:,}/{total:,} {unit}" + (f" · {detail}" if detail else "")
        self._jobs.tell(self._id, text, at=self._clock(), measured=measured)

    def say(self, text: str) -> None:
        self.check()
        self._jobs.tell(self._id, text, at=self._clock())


def _recipe(job: Job) -> Recipe:
    usual = Recipe()
    return replace(usual, epochs=job.epochs, lr=rate_of(usual) * (job.lr_factor or 1.0))


def _questions(uploads: Uploads, id: str, folder: Path) -> Path:
    """A copy of the questions in the job's own folder: a resumed job reads the same ones."""
    suffix = plain_name(uploads.get(id).name).rpartition(".")[2]
    copy = folder / f"questions.{suffix if suffix in ('csv', 'json') else 'jsonl'}"
    if not copy.exists():
        shutil.copyfile(uploads.content(id), copy)
    return copy
