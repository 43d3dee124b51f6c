"""One settings object for a whole run; read from TOML, where unknown keys are refused."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imprint.errors import BadSetting


@dataclass(frozen=True, slots=True)
class Recipe:
    """What text is made of the documents, what is trained, and how."""

    generators: tuple[str, ...] = ("self_study", "rephrase", "replay")
    """Kinds of synthesis, by name; ('raw_text',) alone is the naive rival."""
    samples: int = 3
    """Wordings drawn for each question beside the likeliest one."""
    passage_tokens: int = 160
    """Longest passage that documents are cut into."""
    adapter: str = "lora"
    """Kind of adapter, by name."""
    rank: int = 16
    """Width of the adapter's bottleneck."""
    alpha: float = 32.0
    """The adapter's update is scaled by alpha / rank."""
    top_layers: int | None = None
    """Train only so many of the uppermost layers; None trains all."""
    lr: float = 1e-3
    """Highest learning rate."""
    batch_tokens: int = 1024
    """Tokens of one optimizer step."""
    epochs: float | None = None
    """How often each example is met; None lets the budget decide, within 5 and 10."""

    def __post_init__(self) -> None:
        checks = {
            "samples": self.samples >= 0,
            "passage_tokens": 16 <= self.passage_tokens <= 2048,
            "rank": 1 <= self.rank <= 512,
            "alpha": 0 < self.alpha < 1e6,
            "top_layers": self.top_layers is None or self.top_layers >= 1,
            "lr": 0 < self.lr < 1,
            "batch_tokens": 64 <= self.batch_tokens <= 65536,
            "epochs": self.epochs is None or 0 < self.epochs <= 1000,
            "generators": len(self.generators) > 0,
        }
        for name, fine in checks.items():
            if not fine:
                raise BadSetting(f"The recipe's {name} = {getattr(self, name)!r} is out of range.")

    def as_json(self) -> dict[str, Any]:
        """JSON values, for lineage."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


RAW_TEXT = Recipe(generators=("raw_text",))
"""The naive rival: next-token training on the documents as they are."""


def read(path: Path) -> Recipe:
    """The recipe in a TOML file. Raises BadSetting, naming the key, for what it does not know."""
    return from_mapping(read_toml(path, "recipe"), source=str(path))


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
    hint = f"Did you mean '{close[0]}'?" if close else f"It knows {', '.join(known)}."
    return BadSetting(f"Unknown key '{key}' in {source}. {hint}")


def from_mapping(settings: Mapping[str, Any], *, source: str = "the recipe") -> Recipe:
    """A recipe from plain values; sections are allowed for order's sake and mean nothing."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(value if isinstance(value, Mapping) else {key: value})
    fields = {f.name: f for f in dataclasses.fields(Recipe)}
    for key in flat:
        if key not in fields:
            raise unknown_key(key, fields, source)
    defaults = Recipe()
    return dataclasses.replace(
        defaults, **{k: _typed(k, v, getattr(defaults, k), source) for k, v in flat.items()}
    )


def _typed(key: str, value: Any, default: Any, source: str) -> Any:
    if value is None and default is None:
        return None
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise BadSetting(f"'{key}' in {source} must be a list of names; it is {value!r}.")
    if isinstance(default, str):
        wanted: tuple[type, ...] = (str,)
    elif key in ("lr", "alpha", "epochs"):
        wanted = (int, float)
    else:
        wanted = (int,)
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise BadSetting(f"'{key}' in {source} must be {wanted[-1].__name__}; it is {value!r}.")
    return value
