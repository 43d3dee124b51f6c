"""How often each way answers rightly: by the user's own certificates where there are any, else by ours."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources

from imprint.types import Report, Score, Version

_KEYS = {
    "context": ("full_context_read", "full_context"),
    "rag": ("rag_read", "rag"),
    "weights": ("weights",),
    "weights_and_rag": ("weights_rag",),
}
"""What proofs and certificates call the ways. With the skill `read` where the base carries it: what joins weights
and RAG reads with it too."""
_TELLING = ("proof", "certificate")
"""Reports that tell of the ways."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One way's share of right answers, as it was measured once."""

    way: str
    base: str
    data: str
    """What it was measured on."""
    right: float
    low: float
    high: float
    n: int
    source: str
    times: float | None = None
    """Training text in multiples of the passages taught; only of the weights."""
    corpus_hash: str = ""
    own: bool = False
    """Whether it is of a certificate of the user's."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What share of questions a way is expected to answer rightly, and how that is known."""

    right: float | None
    """None where nobody has measured it."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval of what was measured; of several sets the widest."""
    n: int = 0
    base: str = ""
    known_from: str = "not measured"
    own: bool = False
    """Whether it is by the user's own certificates."""


UNKNOWN = Quality(None)


def packed() -> list[Measured]:
    """What we measured ourselves."""
    said = tomllib.loads(resources.files("imprint.advice").joinpath("qualities.toml").read_text("utf-8"))
    return [Measured(**row) for row in said["measured"]]


def certificates(versions: Iterable[tuple[Version, Sequence[Report]]]) -> list[Measured]:
    """What proofs and certificates of these versions say of the ways: of each version the one that tells of most of
    them, so that all were asked the same questions; of equals the latest."""
    found: list[Measured] = []
    for version, reports in versions:
        told = [(report, _by_way(report)) for report in reports if report.name in _TELLING]
        if not told:
            continue
        report, scores = max(reversed(told), key=lambda pair: len(pair[1]))
        about = Measured(
            "", version.base, f"the documents of {version}", 0, 0, 0, 0, f"the {report.name} of {version}",
            corpus_hash=version.corpus_hash, own=True,
        )  # fmt: skip
        for way, score in scores.items():
            times = _times(version) if way.startswith("weights") else None
            found.append(
                replace(about, way=way, right=score.value, low=score.low, high=score.high, n=score.n, times=times)
            )
    return found


def _by_way(report: Report) -> dict[str, Score]:
    """What a report tells of each way that it measured."""
    asked = {way: next((report.scores[k] for k in keys if k in report.scores), None) for way, keys in _KEYS.items()}
    return {way: score for way, score in asked.items() if score is not None and not math.isnan(score.value)}


def _times(version: Version) -> float | None:
    """Training text of a version in multiples of what it was taught of: as it became, else as it was planned."""
    kept = version.details.get("plan_and_actual") or {}
    told = kept.get("actual", {}).get("times") or version.details.get("plan", {}).get("times")
    return None if told is None else float(told)


def expected(
    way: str,
    known: Sequence[Measured],
    *,
    base: str,
    corpus_hash: str = "",
    times: float | None = None,
    taught: float = 1.0,
) -> Quality:
    """The quality of a way on this base.

    `known`: the user's measurements and ours. The first of these that there are decide alone: the user's of the
    same documents, the user's of others, ours; of the same base where there are any. `times`: training text in
    multiples of the passages: between two measured amounts the weights lie on a straight line over log2, beyond
    them at the nearest. `taught`: the share of the documents' tokens that is taught; of other documents'
    scores, so much counts."""
    ways = ("context", "cached_context") if way == "cached_context" else (way,)
    fitting = [m for m in known if m.way in ways]
    groups = (
        [m for m in fitting if m.own and m.base == base and corpus_hash and m.corpus_hash == corpus_hash],
        [m for m in fitting if m.own and m.base == base],
        [m for m in fitting if not m.own and m.base == base],
        [m for m in fitting if not m.own],
    )
    chosen = next((group for group in groups if group), None)
    if chosen is None:
        return UNKNOWN
    by_text = times is not None and all(m.times for m in chosen)
    right, low, high, at = _by_text(chosen, times or 1.0) if by_text else _pooled(chosen)
    # What is not taught is still found: only the weights alone do not know it.
    share = taught if way == "weights" and chosen is not groups[0] else 1.0
    told = [_told(chosen), at]
    told += [f"on {chosen[0].base}, not {base}"] if chosen[0].base != base else []
    told += [f"{share:.0%} of the documents are taught"] if share < 1 else []
    return Quality(
        right * share,
        low * share,
        high * share,
        sum(m.n for m in chosen),
        chosen[0].base,
        "; ".join(part for part in told if part),
        chosen[0].own,
    )


def _told(chosen: Sequence[Measured]) -> str:
    whose = "your own certificates" if chosen[0].own else "ours"
    sets = list(dict.fromkeys(m.data for m in chosen))
    more = f" and {len(sets) - 2} more" if len(sets) > 2 else ""
    return f"{whose}: {' and '.join(sets[:2])}{more}"


def _pooled(chosen: Sequence[Measured]) -> tuple[float, float, float, str]:
    """The mean over all questions; the ends of the widest interval."""
    n = sum(m.n for m in chosen)
    right = sum(m.right * m.n for m in chosen) / max(n, 1)
    return right, min(m.low for m in chosen), max(m.high for m in chosen), ""


def _by_text(chosen: Sequence[Measured], times: float) -> tuple[float, float, float, str]:
    """Right, low and high at so much text, and a word where it lies beyond what was measured."""
    curve = _rising(sorted(chosen, key=lambda m: m.times or 0.0))
    xs = [x for x, *_ in curve]
    inside = min(max(math.log2(times), xs[0]), xs[-1])
    place = next(i for i, x in enumerate(xs) if x >= inside)
    before = curve[max(0, place - 1)]
    after = curve[place]
    span = after[0] - before[0]
    part = (inside - before[0]) / span if span else 0.0
    right, low, high = ((1 - part) * a + part * b for a, b in zip(before[1:], after[1:], strict=True))
    beyond = f"taken at {2**inside:.1f} times the text, the nearest measured" if inside != math.log2(times) else ""
    return right, low, high, beyond


def _rising(curve: Sequence[Measured]) -> list[tuple[float, float, float, float]]:
    """(log2 times, right, low, high), where what falls with more text is noise: neighbours that do are taken
    together, weighted by their questions (isotonic regression)."""
    blocks: list[tuple[list[Measured], float]] = []
    for m in curve:
        blocks.append(([m], m.right))
        while len(blocks) > 1 and blocks[-2][1] > blocks[-1][1]:
            together = [*blocks[-2][0], *blocks[-1][0]]
            blocks[-2:] = [(together, _pooled(together)[0])]
    return [
        (math.log2(m.times or 1.0), right, min(b.low for b in block), max(b.high for b in block))
        for block, right in blocks
        for m in block
    ]
