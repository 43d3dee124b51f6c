"""What of the written text may be trained on, counted as it streams by, and a report of what came of it.

Faithful, different, within its document's quota: what passes all filters is counted for coverage and variety.
Nothing is held but counts, signatures and a sample, so that sets of any size pass through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from imprint.synthesis import contradictions
from imprint.synthesis.coverage import Coverage
from imprint.synthesis.diversity import NearDuplicates, Sample
from imprint.synthesis.faithful import Finding, unsupported
from imprint.synthesis.round_trip import is_short_answer, judged, may_be_judged, round_trip
from imprint.synthesis.safety import Quotas, flagged, tokens
from imprint.types import Example, Passage, Writer

__all__ = ["Audit", "AuditSettings", "lines", "look_over", "unsupported"]

_REASONS = 50
"""Dropped examples of which the reason is told."""
_LISTED = 40
"""Passages and facts of each kind that a report lists."""
CHECKED_BY = ("another writer", "its own writer", "rules alone")
"""Who saw an example with its passage open, once it was made."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """Which filters stand in the way of an example."""

    faithful: bool = True
    """Numbers, dates, units, names and negations must be in the passages."""
    near_duplicates: bool = True
    """What says nearly the same as an item before it is dropped."""
    round_trip: bool = True
    """Short answers are given again with the passage open, where a reader is at hand."""
    judged: bool = True
    """A stronger writer is asked whether the passage supports an item, where one is at hand."""
    quotas: bool = True
    """No document takes more than its share allows, where the total is planned."""


class Audit:
    """Lets examples through, and counts by kind of synthesis what was kept, and dropped for what reason."""

    def __init__(
        self,
        settings: AuditSettings | None = None,
        passages: Iterable[Passage] = (),
        *,
        planned_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        """`planned_tokens`: what the whole set is to have; without it there are no quotas."""
        self.settings = settings or AuditSettings()
        self.dropped: Counter[str] = Counter()
        self.dropped_for: Counter[tuple[str, str]] = Counter()
        """By kind of synthesis and reason."""
        self.reasons: list[str] = []
        """One line for each of the first dropped examples: what was found in which text."""
        self.looked_over: dict[str, Any] = {}
        """What look_over() found in the passages, told in the report where it is given."""
        self._seed, self._planned_tokens = seed, planned_tokens
        self._seen: NearDuplicates | None = None
        self._checks: dict[str, tuple[str, str]] = {}
        """Names of the reader and the judge of each kind of synthesis; '' where there is none."""
        self._count_from_nothing(list(passages))

    def _count_from_nothing(self, passages: Sequence[Passage]) -> None:
        self.kept: Counter[str] = Counter()
        self.checked_by: Counter[str] = Counter()
        """Of those kept, by CHECKED_BY."""
        self.tokens = 0.0
        self.coverage = Coverage(passages)
        self.sample = Sample(seed=self._seed)
        wanted = self.settings.quotas and self._planned_tokens is not None and passages
        self.quotas = Quotas(passages, self._planned_tokens or 0) if wanted else None

    def plan_for(self, tokens: int) -> None:
        """From now on the whole set is to have so many tokens; without quotas that means nothing."""
        if self.quotas is not None:
            self._planned_tokens = tokens
            self.quotas.plan_for(tokens)

    def pass_through(
        self,
        examples: Iterable[Example],
        passages: Mapping[str, Passage],
        *,
        reader: Writer | None = None,
        judge: Writer | None = None,
    ) -> Iterator[Example]:
        """The examples worth training on, in their order. Filters that ask a writer come after those that are
        free."""
        self.coverage.meet(passages.values())
        wanted, stream = self.settings, iter(examples)
        if wanted.faithful:
            stream = self._faithful(stream, passages)
        if wanted.near_duplicates:
            stream = self._different(stream)
        if wanted.round_trip and reader is not None:
            stream = round_trip(stream, passages, reader, seed=self._seed, drop=self.drop)
        if wanted.judged and judge is not None:
            stream = judged(stream, passages, judge, seed=self._seed, drop=self.drop)
        if self.quotas is not None:
            stream = self._within_quotas(stream)
        names = (
            reader.name if wanted.round_trip and reader is not None else "",
            judge.name if wanted.judged and judge is not None else "",
        )
        for example in stream:
            self._checks[example.generator] = names
            self._count(example)
            yield example

    def count_anew(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples that are really taught of those let through; the report's counts, coverage and variety are
        of them alone from here on."""
        self._count_from_nothing(list(self.coverage.passages.values()))
        for example in examples:
            if self.quotas is not None:
                self.quotas.add(example)
            self._count(example)
            yield example

    def drop(self, example: Example, finding: Finding) -> None:
        """Notes that an example was held back, and why."""
        self.dropped[example.generator] += 1
        self.dropped_for[example.generator, finding.kind] += 1
        if len(self.reasons) < _REASONS:
            text = " / ".join(t.text for t in example.turns)
            self.reasons.append(f"{finding.text}: {' '.join(text.split())[:160]}")

    def counts(self) -> dict[str, dict[str, int]]:
        """JSON of how many were kept and dropped, by kind of synthesis."""
        names = sorted({*self.kept, *self.dropped})
        return {n: {"kept": self.kept[n], "dropped": self.dropped[n]} for n in names}

    def report(self) -> dict[str, Any]:
        """All that was found, as JSON values; lines() makes a text of it."""
        cover, variety = self.coverage, self.sample.variety()
        return {
            "settings": asdict(self.settings),
            "counts": self.counts(),
            "reasons": dict(_for_reason(self.dropped_for).most_common()),
            "by_generator": _by_generator(self.dropped_for),
            "dropped": list(self.reasons),
            "checked_by": {name: self.checked_by[name] for name in CHECKED_BY},
            "untouched": len(cover.untouched()),
            "covered": {
                "share": {k: {**asdict(s), "value": s.value} for k, s in cover.share().items()},
                "passages": len(cover.passages),
                "untouched": [_place(cover.passages[i]) for i in cover.untouched()[:_LISTED]],
                "uncovered": _listed(cover),
            },
            "diverse": {**asdict(variety), "distinct": list(variety.distinct), "of": self.sample.seen},
            "safe": {**self._taken(), **self.looked_over},
            "enough": {"examples": self.kept.total(), "tokens": round(self.tokens)},
        }

    @property
    def _near_duplicates(self) -> NearDuplicates:
        if self._seen is None:
            self._seen = NearDuplicates()
        return self._seen

    def _faithful(self, examples: Iterable[Example], passages: Mapping[str, Passage]) -> Iterator[Example]:
        for example in examples:
            strange = unsupported(example, [passages[i] for i in example.passages]) if example.passages else []
            if strange:
                said = ", ".join(f.text for f in strange)
                self.drop(example, Finding(strange[0].kind, f"{said} {_WRONG.get(strange[0].kind, _NOT_THERE)}"))
            else:
                yield example

    def _different(self, examples: Iterable[Example]) -> Iterator[Example]:
        for example in examples:
            if self._near_duplicates.is_new(example):
                yield example
            else:
                self.drop(example, Finding("near duplicate", "said before"))

    def _within_quotas(self, examples: Iterable[Example]) -> Iterator[Example]:
        assert self.quotas is not None
        for example in examples:
            if self.quotas.has_room(example):
                self.quotas.add(example)
                yield example
            else:
                self.drop(example, Finding("quota", "its document has its share of the set already"))

    def _count(self, example: Example) -> None:
        self.kept[example.generator] += 1
        self.checked_by[self._checked_by(example)] += 1
        self.tokens += tokens(example)
        self.coverage.add(example)
        self.sample.add(example)

    def _checked_by(self, example: Example) -> str:
        reader, judge = self._checks.get(example.generator, ("", ""))
        asked = {
            reader if example.passages and is_short_answer(example) else "",
            judge if may_be_judged(example) else "",
        } - {""}
        another, own, rules = CHECKED_BY
        return another if asked - {example.writer} else own if asked else rules

    def _taken(self) -> dict[str, Any]:
        if self.quotas is None:
            return {}
        most = self.quotas.taken.most_common(5)
        titles = {p.document_id: p.title for p in self.coverage.passages.values()}
        rows = {
            titles.get(d, d): {"tokens": round(n), "allowed": round(self.quotas.allowed.get(d, 0))} for d, n in most
        }
        return {"planned_tokens": self.quotas.planned_tokens, "largest_documents": rows}


_NOT_THERE = "not in the passage"
_WRONG = {"unit": "has another unit in the passage", "negation": "denied the other way round in the passage"}


def look_over(passages: Sequence[Passage]) -> dict[str, Any]:
    """What should be seen before training, as JSON values: orders to a model, contradictions, names easily
    confused."""
    by_id = {p.id: p for p in passages}
    found = contradictions.disagreements(passages)
    return {
        "instructions": [
            {"passage": i, "place": _place(by_id[i]), "found": [asdict(f) for f in findings]}
            for i, findings in flagged(passages).items()
        ],
        "contradictions": [asdict(c) for c in found.contradictions],
        "entities": [asdict(e) for e in found.entities],
    }


def _place(passage: Passage) -> str:
    page = f", page {passage.page}" if passage.page is not None else ""
    return f"{passage.title}{page}: {' '.join(passage.text.split()[:12])}"


def _for_reason(dropped_for: Mapping[tuple[str, str], int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for (_, reason), n in dropped_for.items():
        found[reason] += n
    return found


def _by_generator(dropped_for: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    names = sorted({g for g, _ in dropped_for})
    return {n: {r: c for (g, r), c in dropped_for.items() if g == n} for n in names}


def _listed(cover: Coverage) -> dict[str, list[str]]:
    """The first facts of each kind that no example teaches, one list a kind."""
    found: dict[str, list[str]] = {}
    for passage_id, kind, text in cover.uncovered():
        rows = found.setdefault(kind, [])
        if len(rows) < _LISTED:
            rows.append(f"{text[:160]} ({cover.passages[passage_id].title})")
    return found


def joined(reports: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> dict[str, Any]:
    """The reports of several adapters' text, each with the documents that the adapter is of, as one: each as it is,
    for variety cannot be added up, and how much there is in all."""
    whole = {key: sum(report["enough"][key] for _, report in reports) for key in ("examples", "tokens")}
    return {"adapters": [{"documents": list(of), **report} for of, report in reports], "enough": whole}


# --- the report as people read it -------------------------------------------------------------


def lines(report: Mapping[str, Any]) -> list[str]:
    """A report of an audit in sentences, section by section; of several adapters' text one after the other."""
    if "adapters" in report:
        return [*_adapter_lines(report["adapters"]), "Enough", *(f"  {line}" for line in _enough_lines(report))]
    sections: tuple[tuple[str, Callable[[Mapping[str, Any]], Iterator[str]]], ...] = (
        ("Faithful", _faithful_lines),
        ("Covered", _covered_lines),
        ("Diverse", _diverse_lines),
        ("Safe", _safe_lines),
        ("Enough", _enough_lines),
    )
    told = []
    for name, section in sections:
        told += [name, *(f"  {line}" for line in section(report)), ""]
    return told[:-1]


def _adapter_lines(reports: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for report in reports:
        yield f"Adapter of {', '.join(report['documents'])}"
        yield from (f"  {line}".rstrip() for line in lines(report))
        yield ""


def _faithful_lines(report: Mapping[str, Any]) -> Iterator[str]:
    counts = report["counts"]
    kept, dropped = (sum(c[k] for c in counts.values()) for k in ("kept", "dropped"))
    yield f"{kept:,} of {kept + dropped:,} examples kept ({_percent(kept, kept + dropped)})."
    if report["reasons"]:
        yield "Dropped for: " + ", ".join(f"{r} {n:,}" for r, n in report["reasons"].items()) + "."
    if "checked_by" in report:
        told = (f"{who} {n:,}" for who, n in report["checked_by"].items())
        yield f"Of those kept, read or judged once more by: {', '.join(told)}."
    off = [k for k, on in report["settings"].items() if not on]
    if off:
        yield f"Switched off: {', '.join(off)}."
    for name, count in counts.items():
        why = ", ".join(f"{r} {n:,}" for r, n in report["by_generator"].get(name, {}).items())
        yield f"{name}: {count['kept']:,} kept, {count['dropped']:,} dropped{f' ({why})' if why else ''}"
    for reason in report["dropped"][:5]:
        yield f"for example, {reason}"


def _covered_lines(report: Mapping[str, Any]) -> Iterator[str]:
    covered = report["covered"]
    for kind, share in covered["share"].items():
        if share["all"]:
            asked = f", {share['mentioned']:,} more only mentioned in what is asked" if share["mentioned"] else ""
            part = _percent(share["taught"], share["all"])
            yield f"{kind}s: {share['taught']:,} of {share['all']:,} taught ({part}){asked}"
    yield f"Passages without any example: {report['untouched']:,} of {covered['passages']:,}."
    yield from (f"- {place}" for place in covered["untouched"])
    if report["untouched"] > len(covered["untouched"]):
        yield f"- and {report['untouched'] - len(covered['untouched']):,} more"
    for kind, facts in covered["uncovered"].items():
        yield f"Not taught, {kind}s: {'; '.join(facts[:6])}"


def _diverse_lines(report: Mapping[str, Any]) -> Iterator[str]:
    diverse = report["diverse"]
    if not diverse["texts"]:
        yield "Nothing to measure."
        return
    one, two, three = diverse["distinct"]
    sample = f"{diverse['tokens']:,} words of {diverse['texts']:,} texts"
    yield f"Distinct words {one:.3f}, pairs {two:.3f}, triples {three:.3f}, in {sample}."
    yield f"Self-BLEU {diverse['self_bleu']:.3f} (1 would be the same text again and again)."
    yield f"Near-duplicates dropped: {report['reasons'].get('near duplicate', 0):,}."


def _safe_lines(report: Mapping[str, Any]) -> Iterator[str]:
    safe = report["safe"]
    for document, row in safe.get("largest_documents", {}).items():
        yield f"{document} has {row['tokens']:,} tokens of at most {row['allowed']:,}."
    if "instructions" not in safe:
        yield "The passages were not looked over."
        return
    yield f"Passages that read like instructions to a model: {len(safe['instructions'])}."
    for row in safe["instructions"][:10]:
        yield f"- {row['place']} ({'; '.join(f['text'] for f in row['found'])})"
    yield f"Contradictions: {len(safe['contradictions'])}."
    for row in safe["contradictions"][:10]:
        yield f"- {against(row)}"
    yield f"Names easily confused: {len(safe['entities'])}."
    for row in safe["entities"][:10]:
        yield f"- {row['first']} / {row['second']}"
        yield from (f"    {against(a)}" for a in row["attributes"][:3])


def against(row: Mapping[str, Any]) -> str:
    """Two statements that do not agree, with their documents' titles."""
    first, second = row["first"], row["second"]
    return f"{first['text'][:160]} ({first['title']}) against {second['text'][:160]} ({second['title']})"


def _enough_lines(report: Mapping[str, Any]) -> Iterator[str]:
    enough = report["enough"]
    yield f"{enough['examples']:,} examples, about {enough['tokens']:,} tokens."
    if "curve" in enough:
        yield f"Of {enough['passages']:,} passages, asked {enough['questions']:,} questions at each size:"
    for point in enough.get("curve", []):
        yield f"at {point['tokens']:,} tokens: {point['score']:.3f} ({point['low']:.3f} to {point['high']:.3f})"
    if enough.get("reason"):
        yield f"{'Stop' if enough.get('stop') else 'Go on'}: {enough['reason']}."
    if enough.get("predicted") is not None:
        yield f"Twice the text would give about {enough['predicted']:.3f}."


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"
