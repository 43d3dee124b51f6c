"""What is done about conflicts before training: settled, told, and taught as settled.

What loses is silent: no example is taught that tells its value from its passage, or where only a 'not' tells it
apart its statement; and of what is open neither side's is. What wins is taught with what it beat: the old value
denied, both with their dates (corrections)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from imprint.continual.beliefs import Believer, beliefs
from imprint.continual.conflicts import (
    Ask,
    Conflict,
    Rules,
    Settled,
    Side,
    Sources,
    between_documents,
    settle,
    settled_histories,
)
from imprint.continual.corrections import by_history
from imprint.continual.histories import History
from imprint.recipe import Recipe
from imprint.types import Document, Example, Passage
from imprint.watch import Watch

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The conflicts of a corpus, settled."""

    settled: tuple[Settled, ...] = ()

    @property
    def silent(self) -> tuple[tuple[str, str], ...]:
        """Passages, by id, and what of theirs is not taught: a value; a whole statement where only a 'not' tells it
        from the other."""
        found = []
        for one in self.settled:
            sides = zip((one.conflict.first, one.conflict.second), one.conflict.values, strict=True)
            of_value = all(one.conflict.values)
            found += [(s.said.passage_id, v if of_value else s.said.text) for s, v in sides if s != one.winner]
        return tuple((id, told) for id, told in found if id)

    def histories(self, passages: Sequence[Passage]) -> list[History]:
        """Those that are settled, of which these passages say what holds."""
        ids = {p.id for p in passages}
        return [h for h in settled_histories(self.settled) if h.held[-1].said.passage_id in ids]

    def examples(self, passages: Sequence[Passage], *, seed: int) -> Iterator[Example]:
        """What is taught of those that are settled, of these passages."""
        return chain.from_iterable(self.by_history(passages, seed=seed).values())

    def by_history(self, passages: Sequence[Passage], *, seed: int) -> dict[History, tuple[Example, ...]]:
        """The same, that of each by itself."""
        told = self.histories(passages)
        lost = {id for id, _ in self.silent}  # what they say is what is denied
        return by_history(told, seed=seed, said=[p for p in passages if p.id not in lost])

    def tell(self, watch: Watch) -> None:
        """Shows them before anything is trained, the open ones first."""
        for one in sorted(self.settled, key=lambda s: s.winner is not None)[:_SHOWN]:
            watch.say(f"Conflict: {_in_words(one)}")
        if len(self.settled) > _SHOWN:
            watch.say(f"and {len(self.settled) - _SHOWN} more conflicts: imprint conflicts PATH shows them all.")

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(one) for one in self.settled]


def verdicts(
    passages: Sequence[Passage],
    documents: Sequence[Document],
    since: Mapping[str, str],
    recipe: Recipe,
    base: Believer | None,
    *,
    seed: int,
    ask: Ask | None = None,
) -> Verdicts:
    """The conflicts of passages with each other, and with what the base believes where the recipe asks for that,
    settled by the recipe's rules. `since`: by document id the day from which it holds."""
    sources = Sources.of(documents, since)
    found: list[Conflict] = between_documents(passages, sources)
    if recipe.beliefs and base is not None:
        found += beliefs(passages, base, seed=seed, sources=sources)
    rules = Rules(recipe.conflicts, recipe.source_order)
    return Verdicts(tuple(settle(found, rules, ask)))


def _in_words(one: Settled) -> str:
    first, second = (_side(side) for side in (one.conflict.first, one.conflict.second))
    if one.winner is None:
        return f"{first} / {second} ({one.why}: neither is taught)"
    return f"{first} / {second}: '{one.winner.said.text}' holds ({one.why})"


def _side(side: Side) -> str:
    return f"'{side.said.text}' ({side.source}{f', {side.since}' if side.since else ''})"
