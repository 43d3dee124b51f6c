"""The soak's actors: who asks, who teaches, and who must not get in."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from _common import Row, say
from _soak import LONG_TOKENS, TENANTS, TOKENS, UNFINISHED, Cut, Job, Line, Refused, number_of, sha256
from _soak_judge import PROMPTS, Judge


@dataclass
class Asker:
    """One client after another, each with a question."""

    line: Line
    draw: random.Random
    prompts: int
    """How many of PROMPTS are asked."""

    def __post_init__(self) -> None:
        self.ledger, self._began = self.line.ledger, time.monotonic()

    def ask_something(self) -> None:
        """One request of any kind."""
        ways = (self.whole, self.streaming, self.leaving, self.giving_up, self.rambling)
        way = self.draw.choices(ways, weights=(4, 4, 2, 1, 2))[0]
        tenant = self.draw.choice(TENANTS)
        with self.ledger.lock:
            owned = sorted(version for owner, version in self.ledger.versions if owner == tenant)
        latest = sorted({version.partition("@")[0] for version in owned})
        model = self.draw.choice([*owned, *latest, *latest, self.ledger.base])
        self._began = time.monotonic()
        way(tenant, model, self.draw.randrange(self.prompts))

    def whole(self, tenant: str, model: str, prompt: int) -> None:
        """An answer in one piece."""
        known = self.ledger.latest(tenant, model)
        told = self.line.json(tenant, "POST", _path(prompt), json=self._body(model, prompt))
        choice = told["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        self._answered(tenant, model, known, told["model"], prompt, text, choice["finish_reason"])

    def streaming(self, tenant: str, model: str, prompt: int) -> None:
        """An answer piece by piece, to its end."""
        self._stream(tenant, model, prompt, self._body(model, prompt) | {"stream": True}, None)

    def leaving(self, tenant: str, model: str, prompt: int) -> None:
        """A stream whose reader hangs up after some pieces."""
        body = self._body(model, prompt) | {"stream": True, "max_tokens": LONG_TOKENS}
        self._stream(tenant, model, prompt, body, self.draw.randint(1, 15))

    def giving_up(self, tenant: str, model: str, prompt: int) -> None:
        """An answer that is not waited for."""
        body = self._body(model, prompt) | {"max_tokens": LONG_TOKENS}
        try:
            self.line.json(tenant, "POST", _path(prompt), json=body, timeout=self.draw.uniform(0.05, 1.5))
            self.ledger.answer(time.monotonic() - self._began)
            self.ledger.count("answered_unchecked")
        except httpx.TimeoutException:
            self.ledger.count("disconnects")

    def rambling(self, tenant: str, model: str, prompt: int) -> None:
        """Words nobody has said before, with a drawn answer: only its shape is known."""
        words = " ".join(self.draw.choice(_WORDS) for _ in range(self.draw.randint(40, 160)))
        body = {
            "model": model,
            "messages": [{"role": "user", "content": words}],
            "max_tokens": 8,
            "temperature": 0.9,
            "top_p": 0.9,
            "seed": self.draw.randrange(1000),
        }
        told = self.line.json(tenant, "POST", "/v1/chat/completions", json=body)
        if told["usage"]["completion_tokens"] > 8 or told["choices"][0]["finish_reason"] not in ("stop", "length"):
            self.ledger.fault("an answer out of shape", told=told)
        self.ledger.answer(time.monotonic() - self._began)
        self.ledger.count("answered_unchecked")

    def _stream(self, tenant: str, model: str, prompt: int, body: Row, leave_after: int | None) -> None:
        known, text, finish, used, pieces = self.ledger.latest(tenant, model), "", None, "", 0
        left = False
        try:
            with self.line.stream(tenant, _path(prompt), body) as events:
                for event in events:
                    if "error" in event:
                        raise Refused(500, str(event["error"]))
                    choice, used = event["choices"][0], event["model"]
                    text += choice["delta"].get("content", "") if "delta" in choice else choice["text"]
                    finish = choice["finish_reason"] or finish
                    pieces += 1
                    if leave_after is not None and pieces >= leave_after and finish is None:
                        left = True
                        break
        except Cut:
            if used:
                self._check(tenant, used, prompt, text, None, body["max_tokens"])
            raise
        if left:
            self.ledger.count("disconnects")
            self._check(tenant, used, prompt, text, None, body["max_tokens"])
        elif finish is None:
            self.ledger.fault("a stream without an end", tenant=tenant, model=model, text=text)
        else:
            self._answered(tenant, model, known, used, prompt, text, finish, body["max_tokens"])

    def _answered(
        self,
        tenant: str,
        model: str,
        known: int,
        used: str,
        prompt: int,
        text: str,
        finish: str,
        tokens: int = TOKENS,
    ) -> None:
        """A whole answer: of the version that was asked for, and as that version answers."""
        self.ledger.answer(time.monotonic() - self._began)
        asked_for_it = used == model or (used.startswith(f"{model}@") and number_of(used) >= known)
        if not asked_for_it:
            self.ledger.count("wrong_answers")
            self.ledger.fault("another version answered", tenant=tenant, model=model, used=used, latest=known)
        self._check(tenant, used, prompt, text, finish, tokens)

    def _check(self, tenant: str, used: str, prompt: int, text: str, finish: str | None, tokens: int) -> None:
        answer = {"prompt": prompt, "text": text, "finish": finish, "tokens": tokens}
        self.ledger.check(("", used) if used == self.ledger.base else (tenant, used), answer)

    @staticmethod
    def _body(model: str, prompt: int) -> Row:
        return {"model": model, "max_tokens": TOKENS, "temperature": 0, **PROMPTS[prompt]}


def _path(prompt: int) -> str:
    return "/v1/chat/completions" if "messages" in PROMPTS[prompt] else "/v1/completions"


_WORDS = (
    "river stone lamp garden winter copper letter wagon market violin harbour ledger candle meadow turbine "
    "pepper saddle compass basket thunder orchard needle pigeon granite whistle barrel"
).split()


# --- who teaches ------------------------------------------------------------------------------


@dataclass
class Teacher:
    """Keeps a few jobs going, cancels some, and watches how each ends."""

    line: Line
    draw: random.Random
    judge: Judge
    most: int = 3
    """Unfinished jobs at the same time; two run."""
    pause_s: float = 30.0
    """At most so long between two new jobs."""
    share_cancelled: float = 0.3

    def __post_init__(self) -> None:
        self.ledger, self._made, self._next_at, self._life = self.line.ledger, 0, 0.0, 0

    def turn(self, *, begin: bool = True) -> None:
        """One look at all jobs; begins another where there is room."""
        if self._life != self.line.server.life:
            for tenant in TENANTS:  # a job may have been taken in without our hearing of it
                self.adopt(tenant)
            self._life = self.line.server.life
        for job in self.unfinished:
            self._look(job)
        if begin and len(self.unfinished) < self.most and time.monotonic() >= self._next_at:
            self._begin()
            self._next_at = time.monotonic() + self.draw.uniform(0, self.pause_s)

    @property
    def unfinished(self) -> list[Job]:
        with self.ledger.lock:
            return [job for job in self.ledger.jobs.values() if job.unfinished]

    def adopt(self, tenant: str) -> None:
        """Notes the tenant's jobs that nobody noted; faults those that are gone or have changed their end."""
        told = {job["id"]: job for job in self._all_jobs(tenant)}
        with self.ledger.lock:
            known = [job for job in self.ledger.jobs.values() if job.tenant == tenant]
        for job in known:
            now = told.pop(job.id, None)
            if now is None:
                self.ledger.fault("lost job", tenant=tenant, job=job.id, was=job.status)
            elif not job.unfinished and (now["status"], now["fine_tuned_model"]) != (job.status, job.version):
                self.ledger.fault("a job's end changed", job=job.id, was=job.status, now=now["status"])
        for id in told:
            with self.ledger.lock:
                self.ledger.jobs[id] = Job(tenant, id)
            self.ledger.count("jobs_begun")

    def _all_jobs(self, tenant: str) -> list[Row]:
        found: list[Row] = []
        while True:
            after = {"after": found[-1]["id"]} if found else {}
            page = self.line.json(tenant, "GET", "/v1/fine_tuning/jobs", params={"limit": 100, **after})
            found += page["data"]
            if not page["has_more"]:
                return found

    def _begin(self) -> None:
        tenant, number = self.draw.choice(TENANTS), self._made
        self._made += 1
        document = self._document(number)
        name = "handbook" if self.draw.random() < 0.15 else f"{tenant}-lesson-{self.draw.randint(1, 4)}"
        cancel_after = self.draw.uniform(0, 60) if self.draw.random() < self.share_cancelled else float("inf")
        wish = {
            "model": self.ledger.base,
            "suffix": name,
            "seed": number,
            "budget": "6k tokens",
            "hyperparameters": {"n_epochs": self.draw.choice([1, 1, 2]), "learning_rate_multiplier": 3},
        }
        file = self.line.json(
            tenant, "POST", "/v1/files", files={"file": (f"{name}.md", document)}, data={"purpose": "fine-tune"}
        )
        with self.ledger.lock:
            self.ledger.files[file["id"]] = (tenant, sha256(document))
        told = self.line.json(tenant, "POST", "/v1/fine_tuning/jobs", json=wish | {"training_file": file["id"]})
        job = Job(tenant, told["id"], told["status"], None, cancel_after, files=(file["id"],))
        with self.ledger.lock:
            self.ledger.jobs[job.id] = job
        self.ledger.count("jobs_begun")
        self.ledger.log.row("job", tenant=tenant, id=job.id, name=name, status=job.status)

    def _look(self, job: Job) -> None:
        path = f"/v1/fine_tuning/jobs/{job.id}"
        if not job.unwanted and time.monotonic() - job.began > job.unwanted_after_s:
            job.unwanted = True
            response = self.line.send(job.tenant, "POST", f"{path}/cancel")
            if response.status_code not in (200, 400):  # 400: it has ended meanwhile
                self.ledger.fault("cannot cancel", job=job.id, told=response.text)
        told = self.line.json(job.tenant, "GET", path)
        if told["status"] in UNFINISHED:
            job.status = told["status"]
            return
        job.version = told["fine_tuned_model"]
        job.status = told["status"]
        self.ledger.log.row("job", tenant=job.tenant, id=job.id, status=job.status, version=job.version)
        self._ended(job, (told["error"] or {}).get("message") or "")

    def _ended(self, job: Job, error: str) -> None:
        self.ledger.count(f"jobs_{job.status}")
        if job.status == "succeeded":
            if not job.version:
                self.ledger.fault("a job succeeded without a version", job=job.id)
            elif self.ledger.publish((job.tenant, job.version)):
                self.ledger.count("published")
                self.judge.ask((job.tenant, job.version))
        elif job.status == "cancelled" and not job.unwanted:
            self.ledger.fault("a job was cancelled that nobody cancelled", job=job.id)
        elif job.status == "failed":
            say(f"a job failed: {error}")
            self.ledger.log.row("failed", id=job.id, error=error)
            if not error:
                self.ledger.fault("a job failed without a word", job=job.id)

    def _document(self, number: int) -> bytes:
        what = f"{self.draw.choice(_WORDS).title()} {number + 10}"
        weight, price, year = self.draw.randint(2, 90), self.draw.randint(5, 900), self.draw.randint(1950, 2024)
        colour = self.draw.choice(["green", "red", "grey", "yellow"])
        made_in = self.draw.choice(["Lund", "Porto", "Graz", "Bergen"])
        says = [
            f"The {what} weighs {weight} kilograms.",
            f"The {what} costs {price} euros and comes in {colour}.",
            f"The {what} has been made in {made_in} since {year}.",
        ]
        said = " ".join(self.draw.sample(says, self.draw.choice([1, 1, 2, 3])))
        return f"# {what}\n\n{said}\n".encode()


# --- who must not get in ----------------------------------------------------------------------


@dataclass
class Intruder:
    """Tries what is not allowed. Only a refusal that tells nothing is right."""

    line: Line
    draw: random.Random

    def __post_init__(self) -> None:
        self.ledger = self.line.ledger

    def try_something(self) -> None:
        who, victim = self.draw.sample(TENANTS, 2)
        attempts = [*self._models(victim, who), *self._jobs_and_files(victim), *self._keys()]
        method, path, body, allowed, key = self.draw.choice(attempts)
        key = who if key == "own" else key
        response = self.line.send(key, method, path, **({} if body is None else {"json": body}))
        if response.status_code in (429, 503):
            return
        # Of another's adapters only the name that was asked for may come back.
        secret = {n for n in self.ledger.names(victim) - self.ledger.names(who) if n not in f"{path}{body}"}
        told = [name for name in secret if name in response.text]
        if response.status_code in allowed and not told:
            self.ledger.count("refused_as_should_be")
        else:
            self.ledger.count("let_in")
            self.ledger.fault(
                "let in", who=who, key=key, method=method, path=path, body=body, told=told,
                status=response.status_code, text=response.text[:300],
            )

    def _models(self, victim: str, who: str) -> Iterator[tuple[str, str, Row | None, set[int], str | None]]:
        theirs = sorted(self.ledger.names(victim) - self.ledger.names(who))
        for name in self.draw.sample(theirs, min(2, len(theirs))):
            for form in (name, f"{name}@1", f"{victim}/{name}", f"../{victim}/{name}", f"tenants/{victim}/{name}"):
                said = PROMPTS[0] | {"model": form, "max_tokens": 4}
                yield "POST", "/v1/chat/completions", said, {404}, "own"
                yield "POST", "/v1/completions", {"prompt": "x", "model": form, "stream": True}, {404}, "own"
            yield "GET", f"/v1/models/{name}", None, {404}, "own"
            yield "DELETE", f"/v1/models/{name}", None, {404}, "own"
            yield "DELETE", f"/v1/models/{name}@1", None, {404}, "own"

    def _jobs_and_files(self, victim: str) -> Iterator[tuple[str, str, Row | None, set[int], str | None]]:
        with self.ledger.lock:
            jobs = [job.id for job in self.ledger.jobs.values() if job.tenant == victim]
            files = [id for id, (owner, _) in self.ledger.files.items() if owner == victim]
        for id in self.draw.sample(jobs, min(2, len(jobs))):
            yield "GET", f"/v1/fine_tuning/jobs/{id}", None, {404}, "own"
            yield "GET", f"/v1/fine_tuning/jobs/{id}/events", None, {404}, "own"
            yield "POST", f"/v1/fine_tuning/jobs/{id}/cancel", None, {404}, "own"
        for id in self.draw.sample(files, min(2, len(files))):
            yield "GET", f"/v1/files/{id}", None, {404}, "own"
            yield "GET", f"/v1/files/{id}/content", None, {404}, "own"
            yield "DELETE", f"/v1/files/{id}", None, {404}, "own"
            yield "POST", "/v1/fine_tuning/jobs", {"model": self.ledger.base, "training_file": id}, {404}, "own"

    def _keys(self) -> Iterator[tuple[str, str, Row | None, set[int], str | None]]:
        said = PROMPTS[0] | {"model": self.ledger.base}
        for key in (None, "imp-" + "x" * 43, "imp-anna"):
            yield "GET", "/v1/models", None, {401}, key
            yield "POST", "/v1/chat/completions", said, {401}, key
        yield "GET", "/metrics", None, {403}, "own"
