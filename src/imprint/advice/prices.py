"""Prices of hosted models and of machines: a dated table that comes along, and the user's own above it."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from imprint.errors import BadSetting
from imprint.recipe import filled, read_toml, unknown_key

OLD_DAYS = 180
"""After so many days a price is named as old."""
CPU_CORE = "cpu core"
"""The entry whose hour is that of one core."""

_SECTIONS = ("hosted", "hours")
_E = TypeVar("_E", "Hosted", "Hour")


@dataclass(frozen=True, slots=True)
class Hosted:
    """What a hosted model charges, in USD for a million tokens."""

    input: float
    cached_input: float
    """Of what stands in the provider's cache."""
    cache_write: float
    """Of what is put there."""
    output: float
    cache_minutes: float
    """How long a text stays in the cache after it was last used."""
    window_tokens: int
    date: str
    """ISO, when these figures were last seen."""
    source: str
    cache_from_tokens: int = 0
    """A shorter beginning is not cached."""
    long_from_tokens: int = 0
    """A longer prompt is charged by the two factors; 0 knows no such bound."""
    long_input_factor: float = 1.0
    long_output_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Hour:
    """What an hour of a machine costs."""

    usd: float
    date: str
    source: str


@dataclass(frozen=True, slots=True)
class Prices:
    """All prices that a plan counts with."""

    hosted: Mapping[str, Hosted]
    hours: Mapping[str, Hour]

    def of_machine(self, device: str, cores: int) -> tuple[str, Hour] | None:
        """The entry for this device: of a GPU the longest name that stands in the device's own, of a CPU as many
        cores as it has. None where there is no entry."""
        if cores:
            core = self.hours.get(CPU_CORE)
            if core is None:
                return None
            return f"{cores} x {CPU_CORE}", Hour(core.usd * cores, core.date, core.source)
        names = [name for name in self.hours if name != CPU_CORE and name.lower() in device.lower()]
        longest = max(names, key=len, default="")
        return (longest, self.hours[longest]) if longest else None

    def old(self, today: datetime.date) -> list[str]:
        """A sentence for each entry that was last seen more than OLD_DAYS ago."""
        entries: list[tuple[str, Hosted | Hour]] = [*self.hosted.items(), *self.hours.items()]
        told = []
        for name, entry in entries:
            days = (today - datetime.date.fromisoformat(entry.date)).days
            if days > OLD_DAYS:
                told.append(
                    f"The price of {name} is of {entry.date}, {days} days ago. Look it up and say --prices FILE."
                )
        return told


def read(file: Path | None = None) -> Prices:
    """The table that comes along, with the file's entries above it.

    An entry of the file may say only what differs from one that is known. Raises BadSetting, naming the key, for
    what it does not know or lacks."""
    packed = resources.files("imprint.advice").joinpath("prices.toml").read_text("utf-8")
    known = _table(tomllib.loads(packed), Prices({}, {}), "the table of prices")
    return known if file is None else _table(read_toml(file, "price file"), known, str(file))


def _table(said: Mapping[str, Any], known: Prices, source: str) -> Prices:
    for key in said:
        if key not in _SECTIONS:
            raise unknown_key(key, _SECTIONS, source)
    return Prices(
        _entries(Hosted, said.get("hosted", {}), known.hosted, f"[hosted.{{}}] of {source}"),
        _entries(Hour, said.get("hours", {}), known.hours, f"[hours.{{}}] of {source}"),
    )


def _entries(kind: type[_E], said: Any, known: Mapping[str, _E], where: str) -> dict[str, _E]:
    if not (isinstance(said, Mapping) and all(isinstance(entry, Mapping) for entry in said.values())):
        raise BadSetting(f"{where.format('NAME')} must be a section with keys of its own; it is {said!r:.80}.")
    told = {name: _entry(kind, entry, known.get(name), where.format(name)) for name, entry in said.items()}
    return {**known, **told}


def _entry(kind: type[_E], said: Mapping[str, Any], known: _E | None, where: str) -> _E:
    """An entry with what is said in place of what is known of it."""
    needed = [f.name for f in fields(kind) if f.default is MISSING]
    empty: dict[str, Any] = {name: "" if name in ("date", "source") else 0 for name in needed}
    made: _E = filled(kind(**empty) if known is None else known, said, where)
    missing = [name for name in needed if known is None and name not in said]
    if missing:
        raise BadSetting(f"{where} lacks {', '.join(missing)}. Say them all, or leave the entry out.")
    for f in fields(kind):
        value = getattr(made, f.name)
        if isinstance(value, int | float) and not 0 <= value < 1e9:
            raise BadSetting(f"'{f.name}' in {where} must be a number from 0 upwards; it is {value!r}.")
    try:
        datetime.date.fromisoformat(made.date)
    except ValueError:
        raise BadSetting(f"'date' in {where} must be a day such as 2026-11-09; it is '{made.date}'.") from None
    return made
