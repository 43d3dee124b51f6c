"""What a version's details tell of its adapters: one entry each, whether it is made of one or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imprint import planner
from imprint.types import Document, Version


def entries_of(version: Version, documents: Sequence[Document]) -> list[dict[str, Any]]:
    """What is known of each adapter of a version of these documents; one that was taught whole is a single one."""
    details = version.details
    if "shards" in details:
        return [dict(e) for e in details["shards"]]
    return [
        {
            "documents": [d.id for d in documents],
            "saw": details.get("saw", [d.id for d in documents]),
            "run": str(details.get("run", "")),
            "taught": details.get("taught", []),
            "router": details.get("router", {}),
            "in_order": details.get("in_order", 0),
            **{key: details[key] for key in ("audit", "examples") if key in details},
        }
    ]


def adapters_of(version: Version) -> list[Mapping[str, Any]]:
    """What a version's details tell of each adapter, as they stand: of a single one all of them."""
    return version.details.get("shards") or [version.details]


def base_of(version: Version) -> str | None:
    """The base of a version, as bases.load() finds it."""
    named: str | None = version.details.get("base_source", version.base)
    return named


def parts_told(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What details tell of the adapters: of a single one at the top, as a version that was taught whole has it."""
    if len(entries) > 1:
        taught = [id for e in entries for id in e["taught"]]
        return {"shards": [dict(e) for e in entries], "taught": taught}
    (only,) = entries
    return {k: only[k] for k in ("run", "taught", "router", "in_order", "audit", "examples", "saw") if k in only}


def told_and_met(version: Version) -> tuple[float, float]:
    """How many times their length passages of a version were told, and how often its text was met."""
    details = version.details
    if "times" in details:
        return float(details["times"]), float(details["visits"])
    actual = (details.get("plan_and_actual") or {}).get("actual")
    if not actual or not actual["text_tokens"]:
        return planner.TIMES, planner.EPOCHS
    return float(actual["times"]), actual["tokens"] / actual["text_tokens"]


def rank_of(version: Version) -> int | None:
    """The rank that a version's plan chose, where it chose one."""
    rank: int | None = (version.details.get("plan") or {}).get("rank")
    return rank
