"""Which way to take, in plain words, with its reasons; it may be 'do not train: paste it'.

The rule. A way is out where its prompt does not fit, its answer is too slow, its memory is not there, nothing
can be taught, or where what was measured says that too few answers are right: the upper end of its interval
lies below the least that is of use. A way that nobody has measured on this base is not recommended. What a
hosted model answers is not measured here either; it is let pass, for these models are many times as large as a
base that fails, and the advice says that it is unmeasured. Of what is left here, those whose interval reaches
up to the best one's lower end are as good as can be told apart, and the cheapest of them for a month is taken.
Where nothing is left here, the cheapest hosted one is, but pasting may cost twice what a search costs there,
for a search may miss what a whole text holds; and where nothing is left at all, the way with the most right
answers, with a warning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imprint.advice.ways import HERE, Use, Way

_PASTED = ("context", "cached_context")
_SEARCH_MISSES = 2.0
"""So many times what a search costs at a hosted model may pasting cost there."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What we would do."""

    way: str | None
    """None where there is nothing to recommend."""
    where: str
    words: str
    """One sentence."""
    reasons: tuple[str, ...]


def recommend(ways: Sequence[Way], use: Use) -> Recommendation:
    """The way to take."""
    reasons = [f"{w.name}: {'; '.join(w.impossible)}." for w in ways if w.impossible]
    possible = [w for w in ways if not w.impossible]
    here = [w for w in possible if w.where == HERE and w.quality.right is not None]
    unmeasured = [w.name for w in possible if w.where == HERE and w.quality.right is None]
    if unmeasured:
        reasons.append(f"Not measured on this base, and so not recommended: {', '.join(unmeasured)}.")
    good = [w for w in here if (w.quality.high or 0.0) >= use.least_right]
    for w in here:
        if w not in good:
            reasons.append(
                f"{w.name} is expected to answer {_share(w)} rightly, below the {use.least_right:.0%} of use."
            )
    hosted = sorted((w for w in possible if w.where != HERE), key=lambda w: w.usd_per_month(use))
    if good:
        best = max(w.quality.low or 0.0 for w in good)
        alike = [w for w in good if (w.quality.high or 0.0) >= best]
        taken = min(alike, key=lambda w: w.usd_per_month(use))
        return _of_ours(taken, alike, hosted, use, reasons)
    if hosted:
        pasted = next((w for w in hosted if w.way in _PASTED), hosted[0])
        cheap = pasted.usd_per_month(use) <= _SEARCH_MISSES * hosted[0].usd_per_month(use)
        return _of_hosted(pasted if cheap else hosted[0], use, reasons)
    if not here:
        return Recommendation(None, "", "Nothing here answers from these documents.", tuple(reasons))
    taken = max(here, key=lambda w: w.quality.right or 0.0)
    words = f"{_verb(taken)}; but expect only {_share(taken)} right: a larger base is what is missing."
    return Recommendation(taken.way, HERE, words, tuple(reasons))


def _of_ours(
    taken: Way, alike: Sequence[Way], hosted: Sequence[Way], use: Use, reasons: list[str]
) -> Recommendation:
    told = f"{taken.name} is expected to answer {_share(taken)} rightly ({taken.quality.known_from})"
    reasons.append(f"{told} for {_usd(taken.usd_per_month(use))} a month.")
    others = [w for w in alike if w is not taken]
    if others:
        dearer = ", ".join(f"{w.name} {_usd(w.usd_per_month(use))}" for w in others)
        reasons.append(f"As good as can be told apart, and not cheaper: {dearer} a month.")
    if hosted:
        reasons.append(
            f"{hosted[0].name} would cost {_usd(hosted[0].usd_per_month(use))} a month; its answers are unmeasured."
        )
    return Recommendation(taken.way, HERE, f"{_verb(taken)}.", tuple(reasons))


def _of_hosted(taken: Way, use: Use, reasons: list[str]) -> Recommendation:
    month = f"{_usd(taken.usd_per_month(use))} a month, {_usd(taken.usd_per_question)} a question"
    unknown = "Its answers are" if use.latency_s is None else "Its answers and how long they take are"
    reasons.append(f"{taken.name} costs {month}. {unknown} not measured here: try it with your own questions.")
    if taken.way in _PASTED:
        cached = ", from its cache" if taken.way == "cached_context" else ""
        words = f"Do not train: paste it. Put the documents into {taken.where}'s prompt{cached}."
    else:
        words = f"Do not train: let a search put what it finds into {taken.where}'s prompt."
    return Recommendation(taken.way, taken.where, words, tuple(reasons))


def _verb(taken: Way) -> str:
    return {
        "context": "Do not train: paste it. Put the documents into every prompt",
        "cached_context": "Do not train: paste it. Put the documents before every prompt, read once and kept",
        "rag": "Do not train: let a search put what it finds into the prompt",
        "weights": "Teach it: an adapter alone answers",
        "weights_and_rag": "Teach it, and let a search put what it finds into the prompt too",
    }[taken.way]


def _share(way: Way) -> str:
    q = way.quality
    return f"{q.right or 0:.0%} [{q.low or 0:.0%}, {q.high or 0:.0%}]"


def _usd(amount: float) -> str:
    return f"{amount:.2g} USD" if amount < 1 else f"{amount:,.2f} USD"
