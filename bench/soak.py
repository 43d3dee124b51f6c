"""An hour of everything at once: asking, teaching, hanging up, cancelling, and kills of the server.

    python bench/soak.py --minutes 60 --threads 1 --json soak.json --keep soak-failed
    python bench/soak.py --quick

A real `imprint serve` on the bundled base in float32, with three tenants. Beforehand transformers + PEFT, alone,
say what every adapter answers; as far as the best token is more than --margin ahead of the second (rounding
differs with the batch), the server must say the same, whatever goes on beside. Then, until the time is over:

    askers     ask adapters by name and by name@version, streaming and not; some hang up in the middle
    teacher    uploads small documents and teaches them; some jobs are cancelled at any moment
    intruder   asks for, reads, cancels and deletes what is others', or comes without a key
    kills      SIGKILL every few minutes, every second one aimed at a publication being written; then a restart

After each restart, and at the end: every version that was seen published has the same bytes and answers as before,
what PEFT alone says; no job and no file is lost; a finished job stays as it ended. Versions taught
on the way are held against PEFT too. The last part of the run, from --calm on, is one life without kills: there
memory must be flat. Everything is noted with its time, line by line, in a .jsonl file beside the JSON file.

Exit status 1: an answer was wrong, a version lost, somebody let in, or memory grew."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

import _common
from _common import Results, Row, say
from _soak import (
    PATIENCE_S,
    TENANTS,
    WARM_UP_S,
    Cut,
    Ledger,
    Line,
    Log,
    Memory,
    PutOff,
    Refused,
    Server,
    Version,
    sha256,
)
from _soak_clients import Asker, Intruder, Teacher
from _soak_judge import FIRST, PROMPTS, Judge

AIM_S = 75.0
"""How long an aimed kill waits for a publication before it strikes anyway."""


def main() -> None:
    made = _common.parser(__doc__ or "")
    made.add_argument("--minutes", type=float, default=60.0, metavar="M", help="of load; setting up comes on top")
    made.add_argument("--calm", type=float, default=0.7, metavar="SHARE", help="from then on nothing is killed")
    made.add_argument("--kill-minutes", type=_span, default=(3.0, 5.0), metavar="A-B", help="between two kills")
    made.add_argument("--askers", type=int, default=6, help="requests under way at the same time")
    made.add_argument("--margin", type=float, default=0.02, help="of a logit; closer tokens are not compared")
    growth = "MiB a minute that the calm life's second half may grow"
    made.add_argument("--growth", type=float, default=3.0, metavar="MIB", help=growth)
    made.add_argument("--stall", type=float, default=150.0, metavar="S", help="without an answer, that is a fault")
    made.add_argument("--every", type=float, default=10.0, metavar="S", help="between two looks at the memory")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--keep", type=Path, metavar="FOLDER", help="where logs and records go if something is wrong")
    options = made.parse_args()
    threads = _common.use_threads(options.threads)
    os.environ["IMPRINT_DTYPE"] = "float32"
    if options.quick:
        options.minutes, options.calm, options.kill_minutes, options.every = 0.6, 0.6, (0.2, 0.3), 2.0
    with tempfile.TemporaryDirectory(prefix="imprint-soak-") as folder:
        ended_well = measure(options, threads, Path(folder))
    raise SystemExit(0 if ended_well else 1)


def measure(options: argparse.Namespace, threads: int, folder: Path) -> bool:
    """Sets up, runs, ends and tells; whether all was well."""
    began_at = _common.commit()
    log = Log(options.json.with_suffix(".jsonl") if options.json else folder / "soak.jsonl")
    say(f"every row, as it happens: {log.file}")
    prompts = 3 if options.quick else len(PROMPTS)
    judge = Judge(folder, options.base, prompts, options.margin, threads)
    soak = Soak(options, folder, log, judge)
    results = Results(options.json, judge.header | {"commit": began_at})
    try:
        soak.prepare()
        soak.run()
    except BaseException as error:
        soak.ledger.fault("the run broke off", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        soak.end()
        faults = soak.ledger.faults
        if faults and options.keep:
            keep(folder, log.file, options.keep)
        for row in soak.rows():
            results.add(row)
        show(results, faults)
    return not faults


def show(results: Results, faults: Sequence[Row]) -> None:
    """The lives, the sums, and what was wrong."""
    lives = [row for row in results.rows if row["kind"] == "life"]
    columns = ["life", "seconds", "answered", "published", "ended_by", "warm_mib", "end_mib", "peak_mib"]
    results.show("The server's lives", [*columns, "slope_first_half", "slope_second_half"], lives)
    total = next(row for row in results.rows if row["kind"] == "total")
    counted = [{"what": key.replace("_", " "), "n": value} for key, value in total.items() if key != "kind"]
    results.show("In all (memory in MiB, slopes in MiB a minute)", ["what", "n"], counted)
    for fault in faults[:20]:
        print("FAULT:", json.dumps(fault, ensure_ascii=False))
    print(f"{len(faults)} faults" if faults else "No fault.")
    results.show_header()


def keep(folder: Path, log: Path, target: Path) -> None:
    """What tells of a failure, without the adapters' weights."""
    left = shutil.ignore_patterns("*.safetensors", "cache", "made", "*.pt")
    shutil.copytree(folder, target, ignore=left, dirs_exist_ok=True)
    with contextlib.suppress(shutil.SameFileError):
        shutil.copyfile(log, target / "soak.jsonl")
    say(f"logs and records are kept in {target}")


class Soak:
    """Everything together."""

    def __init__(self, options: argparse.Namespace, folder: Path, log: Log, judge: Judge) -> None:
        self.options, self.folder, self.log, self.judge = options, folder, log, judge
        self.home = folder / "home"
        self.ledger = Ledger(log, self.home, judge.base)
        self.server = Server(folder, log, options.base)
        self.memory = Memory(self.server, self.ledger)
        self.keys: dict[str, str] = {}
        self.draw = random.Random(options.seed)
        self.first = FIRST[:4] if options.quick else FIRST
        self.teacher = Teacher(self._line(), self._random("teacher"), judge)
        if options.quick:
            self.teacher.most, self.teacher.pause_s = 2, 0.0
        self._stopping, self._threads = threading.Event(), list[threading.Thread]()
        self._began = 0.0

    def prepare(self) -> None:
        """Keys, the first adapters, what they answer, and the server."""
        from imprint.hosting.keys import Keys
        from imprint.registry import Registry

        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.keys |= {tenant: Keys(self.home).add(tenant, now=now)[1] for tenant in TENANTS}
        self.ledger.learn(("", self.judge.base), self.judge.answers(None))
        for i, (tenant, name, _) in enumerate(self.first):
            registry = Registry(self.home / "tenants" / tenant)
            folder, base = self.judge.first(i), self.judge.base
            published = registry.publish(name, folder, base=base, corpus_hash="", recipe={}, now=now)
            version = (tenant, str(published))
            self.ledger.publish(version)
            self.ledger.learn(version, self.judge.answers(folder))
        self._tell_apart()
        self.server.start()

    def _tell_apart(self) -> None:
        """How well the prompts tell the first versions apart. Raises SystemExit where they do not."""
        known = self.ledger.answers
        pairs = [(a, b) for i, a in enumerate(known) for b in list(known)[i + 1 :]]
        told = {(a, b): sum(not _alike(x, y) for x, y in zip(known[a], known[b], strict=True)) for a, b in pairs}
        worst = min(told, key=lambda pair: told[pair])
        if told[worst] < self.judge.prompts / 2:
            raise SystemExit(f"{worst} answer alike on most prompts: a wrong adapter would not be noticed.")
        sure = sum(bool(row["finish"]) for rows in known.values() for row in rows)
        share = sum(told.values()) / (len(pairs) * self.judge.prompts)
        self.log.row("references", told_apart=share, certain=sure, answers={str(k): v for k, v in known.items()})
        say(
            f"{len(known)} first versions: two answer a prompt differently in {share:.0%} of the cases; {sure} of "
            f"{len(known) * self.judge.prompts} answers are certain to their end"
        )

    def run(self) -> None:
        """The load, with its kills; then everything is looked at once more."""
        self.judge.start(self.ledger)
        self._began = time.monotonic()
        end = self._began + 60 * self.options.minutes
        calm = self._began + 60 * self.options.minutes * self.options.calm
        self._begin_threads()
        for kill in range(sys.maxsize):
            at = time.monotonic() + 60 * self.draw.uniform(*self.options.kill_minutes)
            if at >= calm:
                break
            self._watch(at)
            self._kill(aimed=kill % 2 == 1)
            self._inspect(some=12)
        self._watch(end)
        self._stop_threads()
        self._drain()
        self._inspect(some=None)
        self.judge.finish()
        if self.ledger.unchecked:
            self.ledger.fault("answers of versions that nobody saw published", n=self.ledger.unchecked)
        self.memory.look()
        if (status := self.server.stop()) != 0:
            self.ledger.fault("the server did not end well", status=status)
        self._read_what_it_said()
        self._judge_memory()

    def end(self) -> None:
        """Leaves no process behind."""
        self._stopping.set()
        self.server.end()
        self.judge.end()

    # --- beside each other --------------------------------------------------------------------

    def _begin_threads(self) -> None:
        for i in range(self.options.askers):
            asker = Asker(self._line(), self._random(f"asker {i}"), self.judge.prompts)
            self._thread(f"asker {i}", asker.ask_something, 0.0)
        self._thread("intruder", Intruder(self._line(), self._random("intruder")).try_something, 1.0)
        self._thread("teacher", self.teacher.turn, 1.5)
        self._thread("memory", self.memory.look, self.options.every)

    def _thread(self, name: str, work: Callable[[], None], pause_s: float) -> None:
        """Does something again and again, until the end."""

        def again() -> None:
            while not self._stopping.is_set():
                self._try(name, work)
                self._stopping.wait(pause_s)

        thread = threading.Thread(target=again, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _try(self, name: str, work: Callable[[], Any]) -> bool:
        """Whether it could be done; what a kill cut may be done again."""
        try:
            work()
            return True
        except Cut:
            self.ledger.count("cut_by_kills")
        except PutOff:
            self.ledger.count("put_off")
            self._stopping.wait(1.0)
        except (Refused, httpx.TransportError) as error:
            self.ledger.count("failed_requests")
            self.ledger.fault("a request failed", who=name, error=f"{type(error).__name__}: {error}")
            self._stopping.wait(1.0)
        except Exception:
            self.ledger.fault("the soak itself failed", who=name, error=traceback.format_exc())
            self._stopping.wait(1.0)
        return False

    def _stop_threads(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE_S + 30)
            if thread.is_alive():
                self.ledger.fault("a request never ended", who=thread.name)

    def _watch(self, until: float) -> None:
        """Waits; tells how it goes; brings back a server that ended by itself."""
        every = 10 if self.options.quick else 60
        tell_at, stalled = time.monotonic() + every, False
        while (now := time.monotonic()) < until:
            time.sleep(min(0.5, max(0.0, until - now)))
            if (status := self.server.ended) is not None:
                self.server.up.clear()
                self.ledger.fault("the server ended by itself", status=status)
                self.server.start()
            quiet_s = now - max(self.ledger.answered_at, self.server.began)
            if quiet_s > self.options.stall and not stalled:
                stalled = True
                self.ledger.fault("nothing was answered for long", seconds=round(quiet_s), life=self.server.life)
            if now >= tell_at:
                tell_at = now + every
                self._tell()

    def _tell(self) -> None:
        counts = self.ledger.counts
        jobs = ", ".join(f"{counts[f'jobs_{s}']} {s}" for s in ("succeeded", "cancelled", "failed"))
        memory = f"{self.memory.looks[-1]['mib']:,.0f} MiB" if self.memory.looks else "-"
        self.log.row("progress", **counts)
        say(
            f"life {self.server.life}: {counts['answered']:,} answered, {counts['disconnects']} left, "
            f"{counts['refused_as_should_be']} refused, jobs {jobs} of {counts['jobs_begun']}; {memory}; "
            f"{len(self.ledger.faults)} faults"
        )

    # --- kills --------------------------------------------------------------------------------

    def _kill(self, *, aimed: bool) -> None:
        hit = aimed and self._publication_begins()
        if hit:
            time.sleep(self.draw.uniform(0, 0.25))  # files half written, no row yet, or the job knows nothing of it
        self.server.kill()
        self.ledger.count("kills")
        if hit:
            self.ledger.count("kills_while_publishing")
        running = [job.id for job in self.teacher.unfinished]
        say(f"killed{' while a version was being published' if hit else ''}; {len(running)} jobs unfinished")
        self.server.start()

    def _publication_begins(self) -> bool:
        """Waits until a version's files are being written; False where that takes too long."""
        until = time.monotonic() + AIM_S
        while time.monotonic() < until:
            if any(self.home.glob("tenants/*/adapters/.incoming-*")):
                return True
            time.sleep(0.005)
        return False

    # --- looking ------------------------------------------------------------------------------

    def _inspect(self, *, some: int | None) -> None:
        """Every version's bytes and files, and what versions answer: all of them, or the first and some others."""
        began = time.monotonic()
        with self.ledger.lock:
            versions = dict(self.ledger.versions)
            files = dict(self.ledger.files)
        for version, before in versions.items():
            self._look_at_bytes(version, before)
        taught = list(versions)[len(self.first) :]
        asked = [*list(versions)[: len(self.first)], *(taught if some is None else taught[-some:])]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._ask_version, asked))
        for id, (tenant, expected) in list(files.items())[-(some or len(files)) :]:
            self._try("inspection", functools.partial(self._look_at_file, id, tenant, expected))
        for tenant in TENANTS:
            self._try("inspection", functools.partial(self._look_at_list, tenant))
        took_s = round(time.monotonic() - began, 1)
        self.log.row("inspection", versions=len(versions), asked=len(asked), took_s=took_s)

    def _look_at_bytes(self, version: Version, before: dict[str, str]) -> None:
        from imprint.errors import ImprintError

        try:
            now: dict[str, str] | str = self.ledger.bytes_of(version)
        except (ImprintError, OSError) as error:
            now = str(error)
        if now != before:
            self.ledger.count("lost_versions")
            self.ledger.fault("lost version", tenant=version[0], version=version[1], before=before, now=now)

    def _ask_version(self, version: Version) -> None:
        draw = self._random(f"{version} {self.server.life}")
        asker = Asker(self._line(), draw, self.judge.prompts)
        for _ in range(3):  # a server that is very busy may put it off
            if self._try("inspection", lambda: asker.whole(*version, draw.randrange(self.judge.prompts))):
                return

    def _look_at_file(self, id: str, tenant: str, expected: str) -> None:
        content = self.teacher.line.send(tenant, "GET", f"/v1/files/{id}/content")
        if content.status_code != 200 or sha256(content.content) != expected:
            self.ledger.fault("lost file", tenant=tenant, file=id, status=content.status_code)

    def _look_at_list(self, tenant: str) -> None:
        """The tenant's list holds all of its names, and nobody else's."""
        expected = self.ledger.names(tenant)
        told = self.teacher.line.json(tenant, "GET", "/v1/models")["data"]
        listed = {model["id"].partition("@")[0] for model in told} - {self.judge.base}
        others = set().union(*(self.ledger.names(t) for t in TENANTS if t != tenant)) - expected
        if not expected <= listed or listed & others:
            self.ledger.fault("a list is not right", tenant=tenant, missing=sorted(expected - listed),
                              of_others=sorted(listed & others))

    def _drain(self) -> None:
        """Waits for the jobs that are left, and cancels what takes too long."""
        until = time.monotonic() + (30 if self.options.quick else 300)
        say(f"no more load; {len(self.teacher.unfinished)} jobs are left")
        while self.teacher.unfinished:
            if time.monotonic() > until:
                for job in self.teacher.unfinished:
                    job.unwanted_after_s = 0
            if time.monotonic() > until + 120:
                left = [job.id for job in self.teacher.unfinished]
                self.ledger.fault("jobs that do not end", jobs=left)
                return
            self._try("teacher", lambda: self.teacher.turn(begin=False))
            time.sleep(0.5)
        for tenant in TENANTS:
            self._try("teacher", functools.partial(self.teacher.adopt, tenant))

    def _read_what_it_said(self) -> None:
        """What the server's log tells of errors."""
        lines = self.server.said.read_text("utf-8", errors="replace").splitlines()
        bad = [line for line in lines if line.startswith(("Traceback", "ERROR")) or "Error:" in line]
        self.ledger.count("errors_in_the_servers_log", len(bad))
        if bad:
            self.ledger.fault("the server's log tells of errors", n=len(bad), first=bad[:5], log=lines[-40:])

    def _judge_memory(self) -> None:
        """The calm life's second half must be flat; a short run is not judged."""
        last = self.memory.lives(self.server.life)[-1]
        grown = last["slope_second_half"]
        if last["seconds"] < 4 * WARM_UP_S or grown is None:
            say(f"the last life of {last['seconds']:.0f} s is too short to judge its memory")
        elif grown > self.options.growth:
            self.ledger.fault("memory grows", mib_a_minute=grown, allowed=self.options.growth)

    # --- rows ---------------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """The lives, then the sums."""
        lives = self.memory.lives(self.server.life) if self.memory.looks else []
        counts = self.ledger.counts
        ages = [self.memory.at_age(row["life"], 90, 180) for row in lives]
        known = [age for age in ages if age is not None]
        names = (
            "answered checked_to_the_end checked_as_far_as_sure answered_unchecked wrong_answers disconnects "
            "cut_by_kills put_off failed_requests refused_as_should_be let_in jobs_begun jobs_succeeded "
            "jobs_cancelled jobs_failed published kills kills_while_publishing lost_versions "
            "errors_in_the_servers_log"
        ).split()
        total = {"kind": "total", "minutes": round((time.monotonic() - self._began) / 60, 1)}
        total |= {name: counts[name] for name in names}
        total |= {
            "versions": len(self.ledger.versions),
            "extra_versions": self._extra_versions(),
            "seconds_to_an_answer_p50": _percentile(self.ledger.waits_s, 0.5),
            "seconds_to_an_answer_p99": _percentile(self.ledger.waits_s, 0.99),
            "warm_mib_of_the_last_life": lives[-1]["warm_mib"] if lives else None,
            "end_mib": lives[-1]["end_mib"] if lives else None,
            "slope_in_the_last_half": lives[-1]["slope_second_half"] if lives else None,
            "mib_at_90_to_180_s_of_the_first_life": known[0] if known else None,
            "mib_at_90_to_180_s_of_the_last_life": known[-1] if known else None,
            "faults": len(self.ledger.faults),
        }
        self.log.row("total", **{k: v for k, v in total.items() if k != "kind"})
        return [*lives, total]

    def _extra_versions(self) -> int:
        """Versions in the registries that no job told of: published, and the kill came before the job knew."""
        from imprint.registry import Registry

        folders = [folder for tenant in TENANTS if (folder := self.home / "tenants" / tenant).is_dir()]
        registries = [Registry(folder) for folder in folders]
        there = sum(len(r.versions(latest.name)) for r in registries for latest in r.list())
        return there - len(self.ledger.versions)

    def _line(self) -> Line:
        return Line(self.server, self.keys, self.ledger)

    def _random(self, name: str) -> random.Random:
        return random.Random(f"{self.options.seed} {name}")


def _alike(one: Row, other: Row) -> bool:
    """Whether two expected answers could be the same one."""
    a, b = str(one["safe"]), str(other["safe"])
    return a.startswith(b) or b.startswith(a)


def _percentile(values: Sequence[float], share: float) -> float | None:
    return round(sorted(values)[int(share * (len(values) - 1))], 2) if values else None


def _span(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    return float(low), float(high or low)


if __name__ == "__main__":
    main()
