"""Version and Report as JSON, and back; and imprint.json, which travels with an exported adapter.

What is read back may have been written by anyone, so every field is looked at before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from imprint.errors import BadInput
from imprint.types import Report, Score, Version

FORMAT = 1
"""Grows when an older reader would misread what a newer one writes."""


def dumps(value: Any, what: str) -> str:
    """One line of JSON with sorted keys; BadInput where a value has no place in JSON."""
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{what} cannot be kept as JSON: {error}. Give JSON values only.") from error


def loads(text: str | bytes, what: str) -> Any:
    """The value that this JSON holds; BadInput where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{what} is not JSON: {error}.") from error


def version_record(version: Version) -> dict[str, Any]:
    """The Version as JSON values."""
    return {
        "name": version.name,
        "number": version.number,
        "adapter_hash": version.adapter_hash,
        "base": version.base,
        "corpus_hash": version.corpus_hash,
        "recipe": dict(version.recipe),
        "parent": version.parent,
        "created_at": version.created_at,
        "details": dict(version.details),
    }


def version_of(record: Any) -> Version:
    """The Version that this record tells of."""
    return Version(
        name=_field(record, "name", str),
        number=_field(record, "number", int),
        adapter_hash=_field(record, "adapter_hash", str),
        base=_field(record, "base", str),
        corpus_hash=_field(record, "corpus_hash", str),
        recipe=_field(record, "recipe", dict),
        parent=_field(record, "parent", int, type(None)),
        created_at=_field(record, "created_at", str),
        details=_field(record, "details", dict),
    )


def report_record(report: Report) -> dict[str, Any]:
    """The Report as JSON values."""
    return {
        "name": report.name,
        "scores": {name: _score_record(score) for name, score in report.scores.items()},
        "seed": report.seed,
        "details": dict(report.details),
    }


def report_of(record: Any) -> Report:
    """The Report that this record tells of."""
    return Report(
        name=_field(record, "name", str),
        scores={name: _score_of(score) for name, score in _field(record, "scores", dict).items()},
        seed=_field(record, "seed", int),
        details=_field(record, "details", dict),
    )


def export_text(version: Version, reports: Sequence[Report]) -> str:
    """The text of imprint.json."""
    record = {
        "format": FORMAT,
        "version": version_record(version),
        "reports": [report_record(report) for report in reports],
    }
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def export_of(text: str | bytes) -> tuple[Version, list[Report]]:
    """The Version and the Reports that an imprint.json tells of."""
    record = loads(text, "imprint.json")
    written = _field(record, "format", int)
    if written > FORMAT:
        raise BadInput(
            f"imprint.json has format {written}, and this imprint reads up to {FORMAT}. Upgrade imprint."
        )
    reports = [report_of(report) for report in _field(record, "reports", list)]
    return version_of(_field(record, "version", dict)), reports


def _score_record(score: Score) -> dict[str, Any]:
    return {"value": score.value, "low": score.low, "high": score.high, "n": score.n, "unit": score.unit}


def _score_of(record: Any) -> Score:
    return Score(
        value=_field(record, "value", float, int),
        low=_field(record, "low", float, int),
        high=_field(record, "high", float, int),
        n=_field(record, "n", int),
        unit=_field(record, "unit", str),
    )


def _field(record: Any, key: str, *kinds: type) -> Any:
    """The value at this key, of one of these kinds exactly (True is no number here)."""
    if not isinstance(record, Mapping) or key not in record:
        raise BadInput(f"A record lacks '{key}'. Export the version again.")
    value = record[key]
    if type(value) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise BadInput(
            f"A record's '{key}' is a {type(value).__name__}, not {wanted}. Export the version again."
        )
    # SQLite cannot hold every string that JSON can.
    if isinstance(value, str) and not value.isprintable():
        raise BadInput(f"A record's '{key}' holds characters that cannot be shown: {value[:80]!r}.")
    return value
