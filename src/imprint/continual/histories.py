"""What was said of one thing over time: A until March, B until June, A again since."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from imprint.continual.fact_changes import FactChange
from imprint.errors import BadInput
from imprint.synthesis.contradictions import Said


@dataclass(frozen=True, slots=True)
class Held:
    """A statement, and from when until when it held."""

    said: Said
    since: str | None = None
    """ISO date of its first day; None where that is not known."""
    until: str | None = None
    """ISO date of the first day on which it did not hold any more; None where it holds, or that is not known."""


@dataclass(frozen=True, slots=True)
class History:
    """What was said of one thing, oldest first; it changed at least once."""

    held: tuple[Held, ...]
    withdrawn: bool = False
    """Whether nothing is said of it any more."""

    @property
    def now(self) -> Held | None:
        """What holds; None where nothing is said any more."""
        return None if self.withdrawn else self.held[-1]

    @property
    def past(self) -> tuple[Held, ...]:
        """What held before."""
        return self.held if self.withdrawn else self.held[:-1]


def histories(
    updates: Sequence[tuple[str, Iterable[FactChange]]], *, since: Mapping[str, str] | None = None
) -> list[History]:
    """The history of every fact that changed in these updates, each the ISO date of an edition and what it changed.

    `since`: the date from which a document of the first edition holds, by its id. What was only put otherwise is no
    change: its newest wording stands for it."""
    chains: list[History] = []
    by_text: dict[str, list[int]] = {}
    dates = [day_of(date) for date, _ in updates]
    if dates != sorted(dates):
        raise BadInput(f"Updates must come oldest first; got them of {', '.join(dates)}. Sort them by their dates.")
    for date, (_, changes) in zip(dates, updates, strict=True):
        met = [(change, _chain_of(change, chains, by_text)) for change in changes]
        for change, at in met:
            if at is None:
                at = len(chains)
                chains.append(_begun(change, date, since or {}))
            chains[at] = _gone_on(chains[at], change, date)
            by_text.setdefault(chains[at].held[-1].said.text, []).append(at)
    return [chain for chain in map(_without_empty, chains) if chain.past]


def _chain_of(change: FactChange, chains: Sequence[History], by_text: Mapping[str, Sequence[int]]) -> int | None:
    """The history that a change goes on with: what it ends, or what it brings back; of its own document first."""
    before = change.old or change.new
    assert before is not None
    comes_back = change.old is None
    known = [
        i
        for i in by_text.get(before.text, ())
        if chains[i].withdrawn == comes_back and chains[i].held[-1].said.text == before.text
    ]
    same = [i for i in known if chains[i].held[-1].said.title == before.title]
    likely = same or ([] if comes_back else known)
    return likely[-1] if likely else None


def _begun(change: FactChange, date: str, since: Mapping[str, str]) -> History:
    if change.old is not None:
        began = since.get(change.old.passage_id.split(":")[0])
        return History((Held(change.old, day_of(began) if began else None),))
    assert change.new is not None
    return History((Held(change.new, date),))


def _gone_on(chain: History, change: FactChange, date: str) -> History:
    """A history with one more change."""
    *before, last = chain.held
    if change.new is None:
        return History((*before, replace(last, until=date)), withdrawn=True)
    if change.old is None:
        again = (Held(change.new, date),) if chain.withdrawn else ()
        return History((*chain.held, *again))
    if not change.contradicts:
        return History((*before, replace(last, said=change.new)))
    return History((*before, replace(last, until=date), Held(change.new, date)))


def _without_empty(chain: History) -> History:
    """What never held for a day, because two updates have one date, first and without dates: it was only said."""
    said: list[Held] = []
    held: list[Held] = []
    for one in chain.held:
        if one.since is not None and one.since == one.until:
            said.append(Held(one.said))
        elif held and held[-1].said.text == one.said.text and held[-1].until == one.since:
            held[-1] = Held(one.said, held[-1].since, one.until)
        else:
            held.append(one)
    return replace(chain, held=(*said, *held))


def day_of(date: str) -> str:
    """The day of an ISO date or time."""
    try:
        return datetime.date.fromisoformat(date[:10]).isoformat()
    except ValueError:
        raise BadInput(f"'{date}' is no date. Dates are written like 2026-03-01.") from None
