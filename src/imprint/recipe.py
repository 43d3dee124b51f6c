"""One settings object for a whole run; read from TOML, where unknown keys are refused."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from imprint.errors import BadSetting
from imprint.synthesis import KINDS
from imprint.types import Generator, Version

LOCAL_MIX = {
    "questions": 6.0,
    "cloze": 1.5,
    "reversal": 1.0,
    "negatives": 0.25,
    "unanswerable": 0.25,
    "rephrase": 0.75,
    "excerpts": 2.0,
    "replay": 0.5,
}
"""What the bundled base can write well, the documents' own words where its prose fails, and a little of its own
talk against forgetting (docs/log.md)."""

FULL_MIX = {
    "questions": 4.0,
    "self_study": 2.0,
    "reversal": 1.0,
    "negatives": 0.5,
    "unanswerable": 0.5,
    "multi_document": 1.0,
    "cloze": 1.0,
    "rephrase": 2.0,
    "summaries": 1.5,
    "focal": 2.0,
    "entigraph": 2.0,
    "active_reading": 1.5,
    "self_edit": 0.5,
    "excerpts": 1.0,
    "replay": 0.5,
}
"""Questions and documents about 1:1, for a writer that can be trusted with both."""

WRITERS = ("local", "endpoint", "ray")
OBJECTIVES = ("sft", "distill")
STORES = ("float32", "bfloat16")
_SECTIONS = ("mix", "kinds", "adapters", "writer", "judge")

_S = TypeVar("_S")


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """Who writes the training text: the base itself, or another model at an address."""

    kind: str = "local"
    """'local' (the base in this process), 'endpoint' (any OpenAI-compatible address), 'ray' (vLLM on many GPUs)."""
    address: str = ""
    """Of an endpoint: 'https://host/v1'."""
    model: str = ""
    """The model's name at the endpoint, or for Ray its folder or hub name."""
    key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; the key itself stands in no recipe."""
    concurrency: int | None = None
    """Requests under way at once, None is 8; with Ray, workers with a GPU each, None is 1."""
    requests_per_minute: int | None = None
    """None knows no limit."""
    tokens_per_minute: int | None = None
    """None knows no limit."""
    usd_per_million_in: float = 0.0
    """Price of a million prompt tokens."""
    usd_per_million_out: float = 0.0
    """Price of a million written tokens."""
    max_usd: float | None = None
    """What may be spent at most; None sets no limit."""
    judge: bool = False
    """Whether this writer also judges each item against its passage, where no other judge is named."""

    def __post_init__(self) -> None:
        if self.kind not in WRITERS:
            raise BadSetting(f"No writer '{self.kind}'. There are: {', '.join(WRITERS)}.")
        if self.kind == "endpoint" and not self.address.startswith(("http://", "https://")):
            raise BadSetting(
                f"A writer at an endpoint needs its address, like http://127.0.0.1:8000/v1; got '{self.address}'."
            )
        if self.kind != "local" and not self.model:
            raise BadSetting(
                "Name the model that writes or judges: model = '...' in [writer] or [judge], or --writer-model or "
                "--judge-model."
            )
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadSetting(f"The writer's {name} = {value} must be 1 or more.")
        prices = (self.usd_per_million_in, self.usd_per_million_out, self.max_usd or 0.0)
        if not all(0 <= price < 1e9 for price in prices):
            raise BadSetting("Prices and max_usd of the writer are US dollars from 0 upwards.")
        if self.max_usd is not None and not (self.kind == "endpoint" and prices[0] + prices[1] > 0):
            raise BadSetting(
                "max_usd is kept for a writer at an endpoint whose prices are said: usd_per_million_in and "
                "usd_per_million_out in [writer]."
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """What text is made of the documents, what is trained, and how."""

    mix: Mapping[str, float] | None = None
    """Kinds of synthesis with their shares of the training text; {'raw_text': 1} is the naive rival. None takes
    what the writer does well: LOCAL_MIX for the base in this process, FULL_MIX for any other."""
    kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of kinds of synthesis other than their own: {'questions': {'several': 8}}."""
    text_tokens: int | None = None
    """Training text to write, in tokens; None lets the budget decide."""
    audit: bool = True
    """Whether what the audit finds wrong is dropped; False only counts it."""
    skills: bool = True
    """Whether the writer puts on the skill adapters that come along with its base."""
    passage_tokens: int = 160
    """Longest passage that documents are cut into."""
    adapter: str = "lora"
    """Kind of adapter, by name."""
    adapters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of kinds of adapters other than their own: {'cartridge': {'tokens': 64}}. They go before `rank`,
    `alpha` and `top_layers`, which are for the kinds that have them."""
    rank: int | None = None
    """Width of the adapter's bottleneck; None leaves it to the kind, as does alpha."""
    alpha: float | None = None
    """The adapter's update is scaled by alpha / rank."""
    top_layers: int | None = None
    """Train only so many of the uppermost layers; None trains all."""
    store: str = "float32"
    """What trained numbers are published in: 'float32' as they were trained, or 'bfloat16', half as large
    (docs/scale.md)."""
    learn_questions: bool = True
    """Whether what is asked is learnt beside the answers: it tells of the documents too (docs/log.md)."""
    objective: str = "sft"
    """What is learnt: 'sft' the text's own tokens; 'distill' in place of each what the base holds likely there with
    the passages open before it."""
    hard_labels: float = 0.0
    """With 'distill': the part of what is learnt in each place that is the text's own token; 0 is all the reader's,
    1 all the text's (Hinton et al. 2015)."""
    lr: float | None = None
    """Highest learning rate; None takes what suits the kind of adapter."""
    batch_tokens: int = 256
    """Tokens of one optimizer step."""
    epochs: float | None = None
    """How often each example is met; None lets the budget decide."""
    writer: WriterSettings = field(default_factory=WriterSettings)
    """Who writes the training text."""
    canaries: int = 0
    """Secret lines put among the training text, to see afterwards how well they can be drawn out of the adapter,
    which then knows them (evaluation/canaries.py)."""
    conflicts: tuple[str, ...] = ("newer", "order")
    """What settles statements that cannot both be true, in this order: 'newer' (the later date holds), 'order' (the
    source that `source_order` names first), 'ask' (a person, where one is there). What none settles is silent."""
    source_order: tuple[str, ...] = ()
    """Patterns of documents' paths, like 'policies/*': those that others give way to first."""
    beliefs: bool = False
    """Whether the base is asked what it believes of each fact, so that what it believes otherwise is denied."""
    judge: WriterSettings | None = None
    """Another writer, who judges each item that was written and reads its short answers again. None leaves the
    reading to the writer."""

    def __post_init__(self) -> None:
        if self.judge is not None and (self.writer.judge or self.judge.judge):
            raise BadSetting("Say either [writer] judge = true, or who else judges, with its settings, in [judge].")
        if self.objective not in OBJECTIVES:
            raise BadSetting(f"No objective '{self.objective}'. There are: {', '.join(OBJECTIVES)}.")
        if self.store not in STORES:
            raise BadSetting(f"Adapters are not stored in '{self.store}'. They may be in: {', '.join(STORES)}.")
        checks = {
            "mix": bool(self.shares) and all(0 < share < 1e6 for share in self.shares.values()),
            "text_tokens": self.text_tokens is None or self.text_tokens >= 1,
            "passage_tokens": 16 <= self.passage_tokens <= 2048,
            "rank": self.rank is None or 1 <= self.rank <= 512,
            "alpha": self.alpha is None or 0 < self.alpha < 1e6,
            "top_layers": self.top_layers is None or self.top_layers >= 1,
            "hard_labels": 0 <= self.hard_labels <= (self.objective == "distill"),
            "lr": self.lr is None or 0 < self.lr < 1,
            "batch_tokens": 64 <= self.batch_tokens <= 65536,
            "canaries": 0 <= self.canaries <= 1000,
            "epochs": self.epochs is None or 0 < self.epochs <= 1000,
        }
        for name, fine in checks.items():
            if not fine:
                raise BadSetting(f"The recipe's {name} = {getattr(self, name)!r} is out of range.")
        for name in {**self.shares, **self.kinds}:
            self.kind(name)

    @property
    def shares(self) -> Mapping[str, float]:
        """The mix, or the one that goes with the writer."""
        if self.mix is not None:
            return self.mix
        return LOCAL_MIX if self.writer.kind == "local" else FULL_MIX

    def kind(self, name: str) -> Generator:
        """The kind of synthesis of that name, with the recipe's settings for it. Raises BadSetting for a kind or a
        setting that there is not."""
        made = KINDS.get(name)
        if made is None:
            raise BadSetting(f"No kind of synthesis '{name}'. There are: {', '.join(KINDS)}.")
        own = self.kinds.get(name, {})
        for key, value in own.items():
            if isinstance(value, int | float) and not 0 <= value < 1e6:
                raise BadSetting(f"The recipe's {key} = {value!r} in [kinds.{name}] is out of range.")
        return filled(made(), own, f"[kinds.{name}] of the recipe", fixed=("name",))

    def as_json(self) -> dict[str, Any]:
        """JSON values, for lineage."""
        return asdict(self)


def read(path: Path) -> Recipe:
    """The recipe in a TOML file. Raises BadSetting, naming the key, for what it does not know."""
    return from_mapping(read_toml(path, "recipe"), source=str(path))


def opened(recipe: Recipe | str | Path | None) -> Recipe:
    """The recipe itself, read where a file is named; the default one where there is none."""
    if recipe is None:
        return Recipe()
    return recipe if isinstance(recipe, Recipe) else read(Path(recipe))


def recipe_of(version: Version) -> Recipe:
    """The recipe that a version was made with; keys that only older builds had mean nothing now."""
    known = {f.name for f in dataclasses.fields(Recipe)}
    return from_mapping({k: v for k, v in version.recipe.items() if k in known}, source="the version's recipe")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """What a TOML file says. Raises BadSetting, which calls the file `what`."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadSetting(f"The {what} {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"{path} is not a TOML file: {error}") from None


def unknown_key(key: str, known: Collection[str], source: str) -> BadSetting:
    """The error for a key that is none, with the one that was probably meant."""
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"Did you mean '{close[0]}'?" if close else f"It knows {', '.join(known) or 'none'}."
    return BadSetting(f"Unknown key '{key}' in {source}. {hint}")


def from_mapping(settings: Mapping[str, Any], *, source: str = "the recipe") -> Recipe:
    """A recipe from plain values. Those of _SECTIONS are sections of their own; others are for order's sake and
    mean nothing. `generators = [...]` is short for a mix of equal shares."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        own = key in _SECTIONS or not isinstance(value, Mapping)
        flat.update({key: value} if own else value)
    if "generators" in flat and "mix" in flat:
        raise BadSetting(f"{source} has both a mix and generators, which is short for one. Say one of them.")
    if "generators" in flat:
        flat["mix"] = _equal_shares(flat.pop("generators"), source)
    if flat.get("mix") is not None:
        flat["mix"] = _mix(flat["mix"], source)
    if "kinds" in flat:
        kinds = _table(flat["kinds"], "kinds", source)
        flat["kinds"] = {name: dict(_table(own, f"kinds.{name}", source)) for name, own in kinds.items()}
    if "adapters" in flat:
        kinds = _table(flat["adapters"], "adapters", source)
        flat["adapters"] = {name: dict(_table(own, f"adapters.{name}", source)) for name, own in kinds.items()}
    for key in ("writer", "judge"):
        if flat.get(key) is not None:
            flat[key] = filled(WriterSettings(), _table(flat[key], key, source), f"[{key}] of {source}")
    return filled(Recipe(), flat, source)


def filled(defaults: _S, values: Mapping[str, Any], source: str, *, fixed: Collection[str] = ()) -> _S:
    """The dataclass with these values in place of its own; those of `fixed` are no settings."""
    settings: Any = defaults
    fields = {f.name: f for f in dataclasses.fields(settings) if f.name not in fixed}
    for key in values:
        if key not in fields:
            raise unknown_key(key, fields, source)
    checked = {k: _typed(k, v, getattr(settings, k), fields[k].type, source) for k, v in values.items()}
    filled: _S = dataclasses.replace(settings, **checked)
    return filled


def _table(value: Any, key: str, source: str) -> Mapping[str, Any]:
    if isinstance(value, WriterSettings):
        return asdict(value)
    if not isinstance(value, Mapping):
        raise BadSetting(f"'{key}' in {source} must be a table; it is {value!r}.")
    return value


def _equal_shares(names: Any, source: str) -> dict[str, float]:
    if isinstance(names, list | tuple) and all(isinstance(n, str) for n in names):
        return dict.fromkeys(names, 1.0)
    raise BadSetting(f"'generators' in {source} must be a list of names; it is {names!r}.")


def _mix(value: Any, source: str) -> dict[str, float]:
    shares = _table(value, "mix", source)
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise BadSetting(f"The share of '{name}' in the mix of {source} must be a number; it is {share!r}.")
    return {name: float(share) for name, share in shares.items()}


def _typed(key: str, value: Any, default: Any, declared: Any, source: str) -> Any:
    """The value, if its type is the one declared. Raises BadSetting."""
    kind = str(declared)
    if value is None and "None" in kind:
        return None
    if isinstance(value, Mapping | WriterSettings) and kind.startswith(("Mapping", "WriterSettings")):
        return value
    if kind.startswith("tuple[str"):
        if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise BadSetting(f"'{key}' in {source} must be a list of names; it is {value!r}.")
    wanted: tuple[type, ...] = (int,)
    if kind.startswith("str"):
        wanted = (str,)
    elif kind.startswith("bool"):
        wanted = (bool,)
    elif kind.startswith("float"):
        wanted = (int, float)
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise BadSetting(f"'{key}' in {source} must be {wanted[-1].__name__}; it is {value!r}.")
    return value


RAW_TEXT = Recipe(mix={"raw_text": 1.0})
"""The naive rival: next-token training on the documents as they are."""
