"""Many adapters' steps, gathered into shared passes of a good size.

Each adapter keeps its own steps, learning rate, schedule and end: that others share its passes changes nothing
for it. Adapters join and leave between steps; one that diverges or is cancelled leaves the others as they are."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imprint.engine import Engine, Seat
from imprint.engine.passes import PassRow, Trunk
from imprint.engine.passes import forward_backward as shared_pass
from imprint.errors import Cancelled
from imprint.training.batches import Row
from imprint.training.loop import Loop, Settings, learnt_tokens
from imprint.training.sft import Job, Progress, Trained, schedule_of, size
from imprint.types import Adapter, content_hash

log = logging.getLogger(__name__)

PASS_TOKENS = 1024
"""Larger passes gain nothing on CPUs and cost memory (docs/log.md)."""
PASS_TOKENS_GPU = 16_384
"""An H200 took 179 ms for a pass with the steps of eight adapters, 135 for that of one (docs/log.md)."""
BRIEF_PASS_TOKENS = 128
"""While somebody waits for answers from the same base: a pass of 1,024 tokens takes seconds on a CPU."""


class Ticket:
    """A job that was handed in."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._trained: Trained | None = None
        self._error: BaseException | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """Takes the job out before its next pass."""
        self.cancelled = True

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def result(self, timeout_s: float | None = None) -> Trained:
        """Waits for the adapter. Raises what ended the job otherwise: Diverged, Cancelled, StaleRun."""
        if not self._ended.wait(timeout_s):
            raise TimeoutError(f"The job did not end within {timeout_s} s.")
        if self._error is not None:
            raise self._error
        assert self._trained is not None
        return self._trained

    def _end(self, trained: Trained | None, error: BaseException | None) -> None:
        self._trained, self._error = trained, error
        self._ended.set()


class Service:
    """Trains many jobs on one engine. Call run_all(), or start() a thread and submit() while it runs."""

    def __init__(self, engine: Engine, *, pass_tokens: int | None = None, every_s: float = 30.0) -> None:
        """`pass_tokens`: tokens of a shared pass; None: what suits the base's device. `every_s`: seconds between
        two checkpoints of a job."""
        on_gpu = engine.base.device.torch.type == "cuda"
        self.engine, self.every_s = engine, every_s
        self.pass_tokens = pass_tokens or (PASS_TOKENS_GPU if on_gpu else PASS_TOKENS)
        self.passes = 0
        self._one_by_one = 0
        self._runs: deque[_Run] = deque()
        self._trunks: dict[int, Trunk] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Job, *, checkpoint: Path | None = None, progress: Progress | None = None) -> Ticket:
        """Hands in a job; it joins the next pass. Goes on from the checkpoint, if there is one.

        Raises BadSetting, WrongBase or StaleRun at once, and Cancelled where the service was closed."""
        if self._closing:
            raise Cancelled("The training service was stopped; no job can be handed in.")
        run = _Run(self.engine, job, checkpoint, progress)
        with self._changed:
            self._runs.append(run)
            self._changed.notify_all()
        return run.ticket

    def run_all(self) -> None:
        """Works until no job is left. On an interruption every job keeps a checkpoint."""
        try:
            while self.run_pass():
                pass
        except BaseException:
            self.close()
            raise

    def run_pass(self) -> bool:
        """One shared pass, and a step for every job whose step is complete; False where there is no job."""
        self._see_off()
        share = self._gather()
        if not share:
            return False
        trunk = self._trunk(share[0][0].first_block)
        rows = [row for _, part in share for row in part]
        with self.engine.base.turns.take():
            try:
                losses = shared_pass(self.engine, rows, trunk)
            except Exception as error:  # memory that ran out, say
                self._fail([run for run, _ in share], error)
                return True
            self.passes += 1
            for run, part in share:
                run.gather(part, losses[: len(part)])
                losses = losses[len(part) :]
                self._take_step(run)
        self._see_off()
        return True

    def start(self) -> None:
        """Works in a thread of its own until close()."""
        self._thread = threading.Thread(target=self._work, name="imprint-training", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after its pass; jobs that are not done keep a checkpoint."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        for run in list(self._runs):
            self._keep(run)
            self._leave(run, None, Cancelled("The training was stopped; it goes on from its checkpoint."))

    def _work(self) -> None:
        while not self._closing:
            try:
                busy = self.run_pass()
            except Exception as error:  # whatever it was, jobs that come later must be done
                log.exception("A pass could not be made.")
                for run in list(self._runs):
                    self._leave(run, None, error)
                busy = True
            if not busy:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or bool(self._runs), timeout=1.0)

    def _gather(self) -> list[tuple[_Run, list[PassRow]]]:
        """Rows for one pass. Who has waited longest comes first; only jobs with the same lowest block meet."""
        with self._changed:
            runs = list(self._runs)
        share: list[tuple[_Run, list[PassRow]]] = []
        hurried = self.engine.base.turns.hurried()
        room = min(self.pass_tokens, BRIEF_PASS_TOKENS) if hurried else self.pass_tokens
        alone, self._one_by_one = self._one_by_one > 0, max(0, self._one_by_one - 1)
        for run in runs[:1] if alone else runs:
            if share and run.first_block != share[0][0].first_block:
                continue
            part = run.next_rows(room, alone=not share)
            if part:
                share.append((run, part))
                room -= sum(len(row.ids) for row in part)
        with self._changed:
            for run, _ in share:  # to the end of the queue
                self._runs.remove(run)
                self._runs.append(run)
        return share

    def _fail(self, runs: list[_Run], error: Exception) -> None:
        """A pass did not come to its end: those who shared it begin their step again, each alone; who was alone
        in it ends."""
        if len(runs) == 1:
            self._leave(runs[0], None, error)
            return
        for run in runs:
            run.begin_step_again()
        self._one_by_one = len(runs)

    def _keep(self, run: _Run) -> None:
        try:
            run.keep()
        except OSError:
            log.exception("A checkpoint could not be written; the one before it stands.")

    def _take_step(self, run: _Run) -> None:
        try:
            if run.take_step(self.every_s):
                self._leave(run, run.trained(), None)
        except Exception as error:  # whatever it was, it is this job's, and its owner is told
            self._leave(run, None, error)

    def _see_off(self) -> None:
        """Takes out what was cancelled, and what a checkpoint found already done."""
        for run in [r for r in list(self._runs) if r.done]:
            self._leave(run, run.trained(), None)
        for run in [r for r in list(self._runs) if r.ticket.cancelled]:
            self._keep(run)
            self._leave(run, None, Cancelled("The job was cancelled."))

    def _leave(self, run: _Run, trained: Trained | None, error: BaseException | None) -> None:
        with self._changed:
            self._runs.remove(run)
            if all(r.first_block != run.first_block for r in self._runs):
                self._trunks.pop(run.first_block, None)
        run.rise(self.engine)
        run.ticket._end(trained, error)

    def _trunk(self, blocks: int) -> Trunk | None:
        if blocks == 0:
            return None
        if blocks not in self._trunks:
            self._trunks[blocks] = Trunk(self.engine.base, blocks)
        return self._trunks[blocks]


@dataclass
class _Step:
    """What is left of a step, and one over its learnt tokens."""

    rows: list[Row] = field(default_factory=list)
    share: float = 0.0


def _fingerprint(adapter: Adapter) -> str:
    """A hash of what an adapter holds."""
    held = (
        part for name, t in sorted(adapter.tensors.items()) for part in (name, t.float().cpu().numpy().tobytes())
    )
    return content_hash(repr(adapter.spec), *held)


class _Run:
    """A job on its way through its schedule."""

    def __init__(self, engine: Engine, job: Job, checkpoint: Path | None, progress: Progress | None) -> None:
        self.job, self.checkpoint, self.progress = job, checkpoint, progress
        self.schedule = schedule_of(job)
        data = content_hash(repr(job.rows), repr(self.schedule), *job.frozen, *map(_fingerprint, job.beneath))
        with engine.base.turns.take():  # some kinds read their material with the base
            adapter = job.spec.fresh(engine.base, seed=job.seed, material=job.material)
        self.seats: list[Seat] = []
        try:
            # A pass adds zeros to empty slots, which must not meet the zeroing of these.
            with engine.base.turns.take():
                self.seats.append(engine.load(adapter, trainable=True))
                self.seats += [engine.load(other) for other in job.beneath]
            seat, *beneath = self.seats
            settings = Settings(lr=job.lr, steps=len(self.schedule))
            self.loop = Loop(engine, seat, settings, data=data, beneath=beneath, frozen=job.frozen)
            if checkpoint is not None:
                self.loop.resume(checkpoint)
        except BaseException:
            self.rise(engine)
            raise
        self.first_block = min(seat.rack.layout.first_block for seat in self.seats)
        self.ticket = Ticket()
        self._step = _Step()
        self._began = self._saved = time.monotonic()
        self._done = 0
        self._next_step()

    def rise(self, engine: Engine) -> None:
        """Gives the adapters' places back."""
        for seat in self.seats:
            engine.unload(seat)

    def next_rows(self, room: int, *, alone: bool) -> list[PassRow]:
        """Rows of the present step that have room; at least one where nobody else is in the pass yet."""
        taken: list[Row] = []
        while self._step.rows and (len(self._step.rows[-1].ids) <= room or (alone and not taken)):
            taken.append(self._step.rows.pop())
            room -= len(taken[-1].ids)
        return self.loop.pass_rows(taken, self._step.share)

    def begin_step_again(self) -> None:
        self.loop.drop()
        self._next_step()

    def gather(self, rows: Sequence[PassRow], losses: Sequence[float]) -> None:
        self.loop.gather(sum(losses) * self._step.share)
        self._done += sum(len(row.ids) for row in rows)

    @property
    def done(self) -> bool:
        return self.loop.step_number == len(self.schedule)

    def take_step(self, every_s: float) -> bool:
        """Takes the step if its rows are all through; True when that was the last."""
        if self._step.rows:
            return False
        self.loop.step()
        if self.done or time.monotonic() - self._saved > every_s:
            self.keep()
        if self.progress:
            rate = self._done / max(time.monotonic() - self._began, 1e-9)
            self.progress(self.loop.step_number, len(self.schedule), self.loop.last_loss, rate)
        self._next_step()
        return self.done

    def keep(self) -> None:
        if self.checkpoint is not None:
            self.loop.save(self.checkpoint)
            self._saved = time.monotonic()

    def trained(self) -> Trained:
        seconds = time.monotonic() - self._began
        adapter = self.loop.seat.snapshot()
        return Trained(adapter, len(self.schedule), size(self.job, self.schedule), seconds, self.loop.last_loss)

    def _next_step(self) -> None:
        if not self.done:
            rows = [self.job.rows[i] for i in self.schedule[self.loop.step_number]]
            self._step = _Step(sorted(rows, key=lambda row: len(row.ids)), 1 / learnt_tokens(rows))
