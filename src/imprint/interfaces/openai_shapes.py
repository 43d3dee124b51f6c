"""The wire's own types: what an OpenAI client may send, and what it reads back.

What we do not do is refused by name. A parameter that only asks for what is so anyway (no penalty, plain text)
is taken, and one that says nothing to a model (who the user is) is passed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from imprint.errors import (
    BadInput,
    Cancelled,
    ImprintError,
    NoSuchAdapter,
    NotFound,
    Overloaded,
    TooLarge,
    WrongBase,
)
from imprint.hosting.host import Model
from imprint.hosting.jobs import Event, Job
from imprint.hosting.uploads import Upload
from imprint.pipeline import DEFAULT_BUDGET
from imprint.types import Turn

MAX_STOPS, MAX_STOP_LETTERS = 4, 500

_PASSED_OVER = frozenset(
    "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_options "
    "prompt_cache_retention parallel_tool_calls".split()
)
_NEUTRAL: Mapping[str, Sequence[Any]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "moderation": (),
}
"""Parameters that we do not do, and the values that ask for nothing."""


class ApiError(Exception):
    """An answer in OpenAI's shape of errors."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}
        wait = {} if retry_after_s is None else {"Retry-After": str(max(1, round(retry_after_s)))}
        self.headers = wait | ({"WWW-Authenticate": "Bearer"} if status == 401 else {})


def api_error(error: ImprintError) -> ApiError:
    """What went wrong with us, as a client understands it."""
    text = str(error)
    if isinstance(error, NoSuchAdapter):
        return ApiError(404, text, param="model", code="model_not_found")
    if isinstance(error, NotFound):
        return ApiError(404, text, code="not_found")
    if isinstance(error, WrongBase):
        return ApiError(400, text, param="model", code="wrong_base_model")
    if isinstance(error, TooLarge):
        return ApiError(413, text, code="too_large")
    if isinstance(error, BadInput):
        return ApiError(400, text)
    if isinstance(error, Overloaded):
        return ApiError(503, text, type="server_error", code="overloaded", retry_after_s=1)
    if isinstance(error, Cancelled):
        return ApiError(503, text, type="server_error", code="stopping", retry_after_s=5)
    return ApiError(500, text, type="server_error", code="server_error")


# --- what is asked ----------------------------------------------------------------------------


class _AtFirstError(FailFast):
    """A list with a million wrong elements is one error, not a million."""

    __hash__ = object.__hash__  # a union keeps its parts in a set


Texts = Annotated[list[str], _AtFirstError()]
Ids = Annotated[list[int], _AtFirstError()]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _refuse_what_we_do_not_do(self) -> _Asked:
        for name, value in (self.model_extra or {}).items():
            if value is None or name in _PASSED_OVER or value in _NEUTRAL.get(name, ()):
                continue
            if name in _NEUTRAL:
                told = f"'{name}' is not supported by this server. Leave it out."
                raise ApiError(400, told, param=name, code="unsupported_parameter")
            raise ApiError(400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        return self


def check_text(text: str, param: str) -> None:
    """Refuses half a character: JSON can spell it, and nothing else can."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ApiError(400, "The text holds half a character (a lone surrogate).", param=param)


class StreamOptions(BaseModel):
    include_usage: bool = False


class Sampling(_Asked):
    """What chats and completions have in common."""

    model: str = Field(max_length=500)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1)
    seed: int | None = None
    stop: str | Texts | None = None
    max_tokens: int | None = Field(None, ge=1)

    @property
    def stops(self) -> tuple[str, ...]:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > MAX_STOPS or not all(0 < len(stop) <= MAX_STOP_LETTERS for stop in stops):
            told = f"'stop' takes up to {MAX_STOPS} texts of 1 to {MAX_STOP_LETTERS} characters."
            raise ApiError(400, told, param="stop")
        return stops

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class Part(BaseModel):
    type: str
    text: str | None = None


class Message(BaseModel):
    role: str
    content: str | Annotated[list[Part], _AtFirstError()] | None = None

    def turn(self, place: int) -> Turn:
        """The message as a turn; `place` is named where it cannot be one."""
        check_text(self.role, f"messages[{place}].role")
        role = "system" if self.role == "developer" else self.role
        if role not in ("system", "user", "assistant"):
            told = f"Messages may come from system, developer, user or assistant; messages[{place}] has '{role}'."
            raise ApiError(400, told, param=f"messages[{place}].role", code="unsupported_value")
        parts = [Part(type="text", text=self.content)] if isinstance(self.content, str) else self.content or []
        for part in parts:
            if part.type != "text" or part.text is None:
                told = f"Only text is understood here; messages[{place}] holds a part of type '{part.type}'."
                raise ApiError(400, told, param=f"messages[{place}].content", code="unsupported_value")
            check_text(part.text, f"messages[{place}].content")
        return Turn(role, "".join(part.text or "" for part in parts))


class ChatRequest(Sampling):
    messages: Annotated[list[Message], _AtFirstError()] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def turns(self) -> list[Turn]:
        return [message.turn(i) for i, message in enumerate(self.messages)]


class CompletionRequest(Sampling):
    prompt: str | Texts | Ids | Annotated[list[Ids], _AtFirstError()]
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts one by one: texts, or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]


class Hyperparameters(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n_epochs: Literal["auto"] | float | None = None
    learning_rate_multiplier: Literal["auto"] | float | None = None
    batch_size: Literal["auto"] | None = None

    def number(self, name: str) -> float | None:
        """A number where one was given; None leaves it to us."""
        value = getattr(self, name)
        return None if value == "auto" else value


class Supervised(BaseModel):
    model_config = ConfigDict(extra="forbid")
    hyperparameters: Hyperparameters | None = None


class Method(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["supervised"]
    supervised: Supervised | None = None


class JobRequest(BaseModel):
    """A teaching job. `budget` and `training_files` are our own; they may also stand in `metadata`."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(max_length=500)
    training_file: str
    training_files: list[str] = Field(default_factory=list, max_length=1000)
    validation_file: str | None = None
    suffix: str | None = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    budget: str | None = Field(None, max_length=100)
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)
    integrations: list[Any] | None = None

    @property
    def chosen(self) -> Hyperparameters:
        inside = self.method.supervised.hyperparameters if self.method and self.method.supervised else None
        return inside or self.hyperparameters or Hyperparameters()

    @property
    def files(self) -> tuple[str, ...]:
        """All files to teach, each once."""
        told = (self.metadata or {}).get("training_files", "").replace(",", " ").split()
        return tuple(dict.fromkeys([self.training_file, *self.training_files, *told]))


# --- what is answered -------------------------------------------------------------------------


def model_shape(model: Model, tenant: str) -> dict[str, Any]:
    owner = "imprint" if model.version is None else tenant
    return {"id": model.name, "object": "model", "created": model.created_at, "owned_by": owner}


def file_shape(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "object": "file",
        "bytes": upload.size_bytes,
        "created_at": upload.created_at,
        "filename": upload.name,
        "purpose": upload.purpose,
        "status": "processed",
    }


def job_shape(job: Job) -> dict[str, Any]:
    chosen = {
        "n_epochs": job.epochs or "auto",
        "learning_rate_multiplier": job.lr_factor or "auto",
        "batch_size": "auto",
    }
    failed = {"code": "job_failed", "message": job.error, "param": None}
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "model": job.base,
        "fine_tuned_model": job.version,
        "organization_id": "imprint",
        "status": job.status,
        "training_file": job.files[0],
        "training_files": list(job.files),
        "validation_file": job.questions,
        "result_files": [],
        "trained_tokens": job.trained_tokens,
        "error": failed if job.error else None,
        "hyperparameters": chosen,
        "method": {"type": "supervised", "supervised": {"hyperparameters": chosen}},
        "seed": job.seed,
        "estimated_finish": None,
        "integrations": [],
        "metadata": dict(job.metadata),
        "suffix": job.name,
        "budget": job.budget or DEFAULT_BUDGET,
    }


def event_shape(event: Event, job: Job) -> dict[str, Any]:
    return {
        "id": f"ftevent-{job.id.removeprefix('ftjob-')}-{event.number}",
        "object": "fine_tuning.job.event",
        "created_at": event.at,
        "level": event.level,
        "message": event.text,
        "type": "message" if event.measured is None else "metrics",
        "data": event.measured,
    }


def page(items: Sequence[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """The items that follow the one with the id `after`, up to `limit`."""
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise ApiError(400, f"Nothing here has the id {after[:80]!r}.", param="after")
        items = items[ids.index(after) + 1 :]
    shown = items[:limit]
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return {
        "object": "list",
        "data": list(shown),
        "has_more": len(items) > limit,
        "first_id": first,
        "last_id": last,
    }
