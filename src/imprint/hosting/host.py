"""One base model in memory, serving many tenants and teaching beside it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from jinja2 import TemplateError

from imprint.adapters import folder as adapter_folder
from imprint.adapters.layout import refuse_other_base
from imprint.base import Base
from imprint.continual import tombstones
from imprint.continual.tombstones import Withheld
from imprint.engine import Engine, choice
from imprint.errors import BadInput, BadName, BrokenStore, ImprintError, NoSuchAdapter, WrongBase
from imprint.hosting.keys import Keys
from imprint.hosting.teaching import Teaching
from imprint.hosting.tenants import Tenants
from imprint.serving.inference import Inference
from imprint.serving.requests import Listener, Request, Together
from imprint.serving.scheduler import Ticket
from imprint.types import Adapter, Turn, Version

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """How much a host takes on."""

    max_rows: int = 64
    """Requests that are answered at once; more wait."""
    max_waiting: int = 256
    """Requests that may wait; more are refused."""
    max_adapters: int = 64
    """Adapters held in memory; the longest unused makes room."""
    jobs_at_once: int = 2
    """Teaching jobs that run at the same time; their training shares passes."""
    longest_job_s: float | None = None
    """A job that runs longer fails; None lets its budget alone decide."""
    file_bytes: int = 512 * 2**20
    """Of one uploaded file."""
    tenant_bytes: int = 4 * 2**30
    """Of all files of one tenant."""
    unpacked_bytes: int = 2**30
    """What the archives of one job may unpack to."""
    routed: bool = False
    """Whether an adapter answers only what is about its documents, and the bare base the rest."""


@dataclass(frozen=True, slots=True)
class Model:
    """What a tenant may ask: the bare base, or a version of an adapter of its own."""

    name: str
    """The base's name, or 'handbook@3'; in a list also 'handbook', which is the latest."""
    key: Hashable | None
    """How Request names the adapter; None for the bare base."""
    version: Version | None
    above: tuple[float, ...] = ()
    """Of each adapter the gain from which a prompt is about its documents (engine.choice)."""
    chosen: bool = False
    """Whether one of its adapters answers, each of which knows a part: they are never worn together."""
    withheld: tuple[Withheld, ...] = ()
    """The judges of what is to be forgotten and is not gone yet."""

    @property
    def created_at(self) -> int:
        """Unix seconds; 0 for the base."""
        if self.version is None or not self.version.created_at:
            return 0
        return int(datetime.fromisoformat(self.version.created_at).timestamp())


class Host:
    """A base model, its tenants, and what is done for them."""

    def __init__(
        self, base: Base, home: Path, settings: Settings | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.base, self.home, self.settings = base, home, settings or Settings()
        self.clock = clock
        self.keys = Keys(home)
        self.tenants = Tenants(home, max_uploaded_bytes=self.settings.tenant_bytes)
        engine = Engine(base)
        self._refused: dict[Hashable, ImprintError] = {}
        self.inference = Inference(
            engine,
            self._read,
            max_rows=self.settings.max_rows,
            max_waiting=self.settings.max_waiting,
            max_adapters=self.settings.max_adapters,
        )
        self.teaching = Teaching(
            engine,
            self.tenants,
            at_once=self.settings.jobs_at_once,
            max_unpacked_bytes=self.settings.unpacked_bytes,
            longest_s=self.settings.longest_job_s,
            clock=clock,
        )

    def start(self) -> None:
        """Begins to serve, and takes up unfinished teaching jobs."""
        self.inference.start()
        self.teaching.start()

    def close(self) -> None:
        """Ends all requests; unfinished jobs go on at the next start."""
        self.teaching.close()
        self.inference.close()

    # --- models -------------------------------------------------------------------------------

    def model(self, tenant: str, name: str) -> Model:
        """What the tenant calls by this name now: 'handbook' is its latest version at this moment, and
        'handbook+prices' are two adapters at once.

        Raises NoSuchAdapter where the tenant has no such adapter, whoever else may have one, and WrongBase for
        one that was taught on another base."""
        if name == self.base.name:
            return Model(name, None, None)
        if "+" in name:
            parts = name.split("+")
            if len(set(parts)) < len(parts):  # before each is looked up: a name may join a million of them
                raise _must_differ(name)
            return self._together([self.model(tenant, part) for part in parts], name)
        registry = self.tenants.registry(tenant)
        try:
            version = registry.get(name)
        except BadName as error:
            raise NoSuchAdapter(str(error)) from None
        if not self._fits(version):
            raise WrongBase(
                f"{version} was taught on {version.base}, but this server runs {self.base.name}. Teach it again "
                "here, or ask a server that runs that base."
            )
        judge = tombstones.judge_of(registry, self.tenants.home(tenant), version)
        withheld = () if judge is None else (judge,)
        shards = version.details.get("shards")
        # What was taught before thresholds were measured is worn for every prompt.
        limits = tuple(s.get("router", {}).get("threshold", -math.inf) for s in shards or [version.details])
        if shards is None:
            return Model(str(version), (tenant, str(version)), version, limits, withheld=withheld)
        keys = tuple((tenant, f"{version}#{place}") for place in range(len(shards)))
        return Model(str(version), Together(keys), version, limits, True, withheld)

    def above(self, model: Model) -> tuple[float, ...] | None:
        """What decides which of a model's adapters answers; None where all of them are worn."""
        if self.settings.routed and model.above:
            return model.above
        return (-math.inf,) * len(model.above) if model.chosen else None

    def _together(self, models: Sequence[Model], name: str) -> Model:
        keys = [key for model in models for key in _keys(model)]
        if None in keys or len(set(keys)) < len(keys):
            raise _must_differ(name)
        above = [limit for model in models for limit in model.above]
        joined = "+".join(model.name for model in models)
        chosen, withheld = any(m.chosen for m in models), tuple(w for m in models for w in m.withheld)
        return Model(joined, Together(tuple(keys)), models[0].version, tuple(above), chosen, withheld)

    def models(self, tenant: str) -> list[Model]:
        """The base, then the tenant's adapters that this server can run: each name, and its latest version."""
        latest = [v for v in self.tenants.registry(tenant).list() if self._fits(v)]
        named = [Model(name, (tenant, str(v)), v) for v in latest for name in (v.name, str(v))]
        return [Model(self.base.name, None, None), *named]

    def remove(self, tenant: str, name: str) -> None:
        """Removes a version ('handbook@3'), or a name with all its versions."""
        if name == self.base.name:
            raise BadInput(f"{name} is the base model; it cannot be removed.")
        self.tenants.registry(tenant).remove(name)

    def _fits(self, version: Version) -> bool:
        # An imported adapter may tell its base's hub name or folder; the last part is the model's own name.
        # Whether it is that very base, the hash says when the adapter is loaded.
        return _own_name(version.base) == _own_name(self.base.name)

    # --- asking -------------------------------------------------------------------------------

    def prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        """The tokens of a conversation, or of a plain text. Raises BadInput where the base's template does not
        take the conversation."""
        try:
            return self.base.prompt_ids(turns)
        except TemplateError as error:
            raise BadInput(f"{self.base.name} does not take this conversation: {error}") from None

    @property
    def vocabulary(self) -> int:
        """How many token ids the base knows."""
        return int(self.base.model.get_input_embeddings().weight.shape[0])

    def about(self, turns: Sequence[Turn]) -> tuple[tuple[int, ...], int]:
        """What of a conversation says what it is about."""
        return choice.opened(self.inference.engine, turns)

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Puts a request in line; the listener hears every piece of the answer."""
        return self.inference.submit(request, listener)

    def stats(self) -> dict[str, float]:
        """What the server does now, and has done."""
        return self.inference.stats() | self.teaching.counts()

    def refusal(self, key: Hashable) -> ImprintError | None:
        """Why the adapter behind this key could not be loaded, where it could not."""
        return self._refused.get(key)

    def _read(self, key: Hashable) -> Adapter:
        """The adapter behind a Request's key; called in the serving thread when it is not in memory."""
        tenant, named = cast(tuple[str, str], key)
        name, _, place = named.partition("#")
        registry = self.tenants.registry(tenant)
        try:
            adapter = adapter_folder.read(registry.folders(registry.get(name))[int(place or 0)])
            refuse_other_base(self.base, adapter)
        except ImprintError as error:
            # Where the server keeps things is nobody's business.
            log.error("%s of %s cannot be served: %s", name, tenant, error)
            told = error if isinstance(error, WrongBase | NoSuchAdapter) else BrokenStore(
                f"{name} cannot be opened on this server; its log says why."
            )
            self._refused[key] = told
            raise told from error
        self._refused.pop(key, None)
        return adapter


def _must_differ(name: str) -> NoSuchAdapter:
    return NoSuchAdapter(f"{name[:80]!r} must join different adapters with '+', as in 'handbook+prices'.")


def _keys(model: Model) -> tuple[Hashable, ...]:
    return model.key.keys if isinstance(model.key, Together) else (model.key,)


def _own_name(base: str) -> str:
    return base.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
