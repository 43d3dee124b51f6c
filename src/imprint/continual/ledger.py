"""The ledger of a name: which facts changed, and when, over all of its updates.

It travels with each version. What is taught of changes is made anew from it every time, so that a fact that flips
back, or is withdrawn, or must be forgotten, is told as it stands then."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from imprint.continual.fact_changes import FactChange
from imprint.continual.histories import History, histories
from imprint.synthesis.contradictions import Said
from imprint.types import Passage


@dataclass(frozen=True, slots=True)
class Ledger:
    """Changes by the day from which they hold, oldest first."""

    days: tuple[tuple[str, tuple[FactChange, ...]], ...] = ()

    @staticmethod
    def of(rows: Iterable[Mapping[str, Any]]) -> Ledger:
        """The ledger that as_json() made."""
        return Ledger(tuple((row["day"], tuple(map(_change, row["changes"]))) for row in rows))

    def as_json(self) -> list[dict[str, Any]]:
        return [{"day": day, "changes": [asdict(change) for change in changes]} for day, changes in self.days]

    def with_changes(self, changes: Sequence[FactChange], since: Mapping[str, str], day: str) -> Ledger:
        """With the changes of one more update. `since`: by document id the day from which it holds; what is said no
        more ended on `day`. Never before what stands in the ledger already."""
        last = self.days[-1][0] if self.days else ""
        by_day: dict[str, list[FactChange]] = {}
        for change in changes:
            held = since.get(_document(change.new), day) if change.new else day
            by_day.setdefault(max(held, last), []).append(change)
        return Ledger((*self.days, *((d, tuple(by_day[d])) for d in sorted(by_day))))

    def without(self, documents: Collection[str]) -> Ledger:
        """Without what any edition among these document ids said."""
        kept = (
            (day, tuple(c for c in changes if not _documents(c) & set(documents))) for day, changes in self.days
        )
        return Ledger(tuple((day, changes) for day, changes in kept if changes))

    def without_text(self, texts: Sequence[str]) -> Ledger:
        """Without the statements that stand in these texts."""
        plain = [" ".join(text.split()) for text in texts]

        def stands(change: FactChange) -> bool:
            said = [" ".join(s.text.split()) for s in (change.old, change.new) if s]
            return any(line in text or text in line for line in said for text in plain)

        kept = ((day, tuple(c for c in changes if not stands(c))) for day, changes in self.days)
        return Ledger(tuple((day, changes) for day, changes in kept if changes))

    def moved(self, now: Mapping[str, Passage]) -> Ledger:
        """With the ids that passages have now."""

        def of(said: Said | None) -> Said | None:
            passage = now.get(said.passage_id) if said else None
            return replace(said, passage_id=passage.id) if said and passage else said

        days = ((d, tuple(replace(c, old=of(c.old), new=of(c.new)) for c in changes)) for d, changes in self.days)
        return Ledger(tuple(days))

    def histories(self, first: Mapping[str, str]) -> list[History]:
        """What was said of each thing that changed. `first`: by document id the day on which it first held."""
        return histories(self.days, since=first)


def _change(row: Mapping[str, Any]) -> FactChange:
    old, new = (Said(**row[key]) if row[key] else None for key in ("old", "new"))
    return FactChange(row["kind"], old, new, (row["values"][0], row["values"][1]), row["contradicts"])


def _documents(change: FactChange) -> set[str]:
    return {_document(said) for said in (change.old, change.new) if said}


def _document(said: Said | None) -> str:
    return said.passage_id.partition(":")[0] if said else ""
