"""Statements that cannot both be true, found before training, and the rules that settle them.

Between documents of one corpus, between an old edition and a new one, and between a document and what the base
model believes already. What no rule settles stays open: both sides are shown, and neither is taught as settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from imprint.continual.changes import compare
from imprint.continual.fact_changes import FactChange, fact_changes
from imprint.continual.histories import Held, History, day_of
from imprint.documents import split
from imprint.errors import BadSetting
from imprint.synthesis.contradictions import Said, contradictions
from imprint.types import Document, Passage

RULES = ("newer", "order", "ask")
BELIEFS = ("document", "ask", "base")


@dataclass(frozen=True, slots=True)
class Side:
    """One of two statements in conflict, and who says it since when."""

    said: Said
    source: str
    """The path of its document; 'the base model' where that believes it."""
    since: str | None = None
    """ISO date from which its document holds, where that is known."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two statements that cannot both be true."""

    kind: str
    """'documents', 'versions' or 'belief'."""
    first: Side
    """Of two versions the old one; of a belief the document."""
    second: Side
    values: tuple[str, str]
    """What differs, as it is written."""

    def sides(self, winner: int) -> tuple[Side, Side]:
        """The winner and the loser."""
        return (self.second, self.first) if winner else (self.first, self.second)


@dataclass(frozen=True, slots=True)
class Settled:
    """A conflict, and which side holds."""

    conflict: Conflict
    winner: Side | None
    """None where it is open."""
    loser: Side | None
    why: str
    """In words: 'newer: 2026-03-01 is after 2025-01-01'."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How conflicts are settled."""

    order: tuple[str, ...] = RULES
    """Rules in the order in which they are tried: 'newer' (the later date holds), 'order' (the source named first
    holds), 'ask' (a person says). What none settles is open."""
    source_order: tuple[str, ...] = ()
    """Patterns of sources, 'policies/*', those that others give way to first; what none fits comes last."""
    beliefs: str = "document"
    """Who holds against what the base believes: the 'document', the 'base', or 'ask'."""

    def __post_init__(self) -> None:
        for rule in self.order:
            if rule not in RULES:
                raise BadSetting(f"No rule '{rule}' settles conflicts. There are: {', '.join(RULES)}.")
        if len(set(self.order)) < len(self.order):
            raise BadSetting(f"Each rule for conflicts is named once; got {', '.join(self.order)}.")
        if self.beliefs not in BELIEFS:
            raise BadSetting(f"beliefs = '{self.beliefs}' says nobody. Say one of: {', '.join(BELIEFS)}.")


Ask = Callable[[Conflict], int | None]
"""Told a conflict, says which side holds, 0 or 1; None leaves it open."""

_KEYS = {"conflicts": "order", "source_order": "source_order", "beliefs": "beliefs"}


def rules_of(settings: Mapping[str, Any], *, source: str = "the recipe") -> Rules:
    """Rules from TOML's values: conflicts = ["newer"], source_order = ["policies/*"], beliefs = "document".

    Raises BadSetting, naming the key."""
    given: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in _KEYS:
            raise BadSetting(f"Unknown key '{key}' in {source}. It knows {', '.join(_KEYS)}.")
        if key == "beliefs":
            given[key] = value
        elif isinstance(value, list | tuple) and all(isinstance(v, str) and v for v in value):
            given[_KEYS[key]] = tuple(value)
        else:
            raise BadSetting(f"'{key}' in {source} must be a list of names like [\"newer\"]; it is {value!r}.")
    return Rules(**given)


# --- found ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sources:
    """Where documents come from and since when they hold."""

    by_id: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    """Source and ISO date, by the document's id."""

    @staticmethod
    def of(documents: Iterable[Document], since: Mapping[str, str] | None = None) -> Sources:
        """A document's own date goes before the one that a manifest has (`since`, by the document's id)."""
        found: dict[str, tuple[str, str | None]] = {}
        for document in documents:
            date = document.valid_from or (since or {}).get(document.id)
            found[document.id] = document.source, day_of(date) if date else None
        return Sources(found)

    def side(self, said: Said) -> Side:
        source, since = self.by_id.get(said.passage_id.split(":")[0], (said.title, None))
        return Side(said, source, since)


def between_documents(passages: Sequence[Passage], sources: Sources) -> list[Conflict]:
    """Statements of one corpus that contradict each other; within a document too, where no rule but 'ask' helps."""
    return [
        Conflict("documents", sources.side(c.first), sources.side(c.second), c.values)
        for c in contradictions(passages)
    ]


def between_versions(changes: Iterable[FactChange], old: Sources, new: Sources) -> list[Conflict]:
    """What an old edition said that cannot hold beside the new one."""
    return [
        Conflict("versions", old.side(c.old), new.side(c.new), c.values)
        for c in changes
        if c.contradicts and c.old is not None and c.new is not None
    ]


def conflicts_of(
    documents: Sequence[Document],
    kept: Sequence[Document] = (),
    *,
    today: str,
    since: Mapping[str, str] | None = None,
    max_tokens: int = 160,
) -> list[Conflict]:
    """All conflicts of documents with each other, and with those that a version was taught (`kept`).

    `since`: ISO dates from which documents hold, by their ids. What the version does not have holds from today,
    unless it says otherwise."""
    changes = compare(kept, documents)
    held = dict(since or {})
    for document in documents if kept else ():
        held.setdefault(document.id, today)
    sources = Sources.of([*kept, *documents], held)

    def passages(some: Iterable[Document]) -> list[Passage]:
        return [p for d in some for p in split(d, max_tokens=max_tokens)]

    before, now = (passages(pair[i] for pair in changes.changed) for i in (0, 1))
    edited = between_versions(fact_changes(before, now), sources, sources)
    return [*edited, *between_documents(passages([*documents, *changes.withdrawn]), sources)]


# --- settled ----------------------------------------------------------------------------------


def settle(conflicts: Iterable[Conflict], rules: Rules, ask: Ask | None = None) -> list[Settled]:
    """Each conflict with the side that holds, and why; open where no rule says."""
    return [_settled(conflict, rules, ask) for conflict in conflicts]


def _settled(conflict: Conflict, rules: Rules, ask: Ask | None) -> Settled:
    tried = rules.order if conflict.kind != "belief" else (rules.beliefs,)
    for rule in tried:
        winner, why = _verdict(rule, conflict, rules, ask)
        if winner is not None:
            return Settled(conflict, *conflict.sides(winner), why)
    return Settled(conflict, None, None, "open: no rule settles it")


def _verdict(rule: str, conflict: Conflict, rules: Rules, ask: Ask | None) -> tuple[int | None, str]:
    """Which side a rule lets hold, and why; None where it cannot tell."""
    if rule == "document":
        return 0, "the document goes before what the base believes"
    if rule == "base":
        return 1, "the base's belief goes before the document"
    if rule == "newer":
        return _newer(conflict)
    if rule == "order":
        return _by_order(conflict, rules.source_order)
    winner = ask(conflict) if ask is not None else None
    if winner not in (None, 0, 1):
        raise BadSetting(f"Asked which side of a conflict holds, the answer was {winner!r}. Say 0, 1 or None.")
    return winner, "a person said so"


def _newer(conflict: Conflict) -> tuple[int | None, str]:
    first, second = conflict.first.since, conflict.second.since
    if first is None or second is None or first == second:
        return None, ""
    return int(second > first), f"newer: {max(first, second)} is after {min(first, second)}"


def _by_order(conflict: Conflict, patterns: Sequence[str]) -> tuple[int | None, str]:
    places = [
        next((i for i, pattern in enumerate(patterns) if fnmatchcase(side.source, pattern)), len(patterns))
        for side in (conflict.first, conflict.second)
    ]
    if places[0] == places[1]:
        return None, ""
    return int(places[1] < places[0]), f"source order: '{patterns[min(places)]}' comes first"


# --- taught -----------------------------------------------------------------------------------


def settled_histories(settled: Iterable[Settled]) -> list[History]:
    """What `corrections` teaches of settled conflicts: the loser first, with dates where it lost by its date.

    Nothing of what is open, nor where the base's belief holds: no document says that."""
    found = []
    for one in settled:
        if one.winner is None or one.loser is None or not one.winner.said.passage_id:
            continue
        since, until = one.loser.since, one.winner.since
        if since is None or until is None or since >= until:
            since = until = None
        found.append(History((Held(one.loser.said, since, until), Held(one.winner.said, until))))
    return found
