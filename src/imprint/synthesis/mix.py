"""Kinds of synthesis in shares, round after round, until there is as much text as was asked for.

Each kind tells every passage once a round. Where its share has no room for that, it takes only some passages, by
turns, and of what rules make only some items of every passage, so that no passage is met much more often than
another. A kind that has nothing new to say ends, and the others take over what it left. Passages of which little
was told are written about again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from imprint.errors import OverBudget
from imprint.synthesis.audit import Audit
from imprint.types import Effort, Example, Generator, Passage, Writer

_LEAST = 0.02
"""A kind that lacks no more than this of its share is done."""
_AGAIN_SHARE = 0.1
"""Of the whole text, for passages of which little was told."""
_DRY = 0.1
"""A kind ends whose round brought less than this share of what its first round brought."""
_SPILL, _SPILL_OF_RULES = 1.1, 1.5
"""A round of so many passages as were to fill a share may bring so much of it, before it is cut short; more where a
cut would leave the last passages without any."""
_LAST_ROUND = 999
_OVER_ALL = ("unanswerable", "multi_document", "negatives", "reversal", "back_translation")
"""Kinds that must see every passage to be right: what no document tells, what one alone has, what two tell
together, and what is a letter only as a whole."""
_AGAIN = ("questions", "cloze", "rephrase")
"""What thinly covered passages are written about with, the first of these that a mix has."""


@dataclass
class _Part:
    """One kind on its way to its share."""

    kind: Generator
    share: float
    writes: bool
    """Whether it asks the writer."""
    first_yield: float
    """Characters that a whole round brings: estimated, then as the first round showed."""
    told: int = 0
    """Characters of training text so far."""
    round: int = 0
    dry: bool = False
    doubted: bool = False
    """Whether the last round drew from what there is, and that came to next to nothing: the next takes all."""
    deck: list[int] = field(default_factory=list)
    """Passages whose turn is still to come, before any has its next."""

    def deal(self, passages: Sequence[Passage], fraction: float, key: str) -> Sequence[Passage]:
        """So many of the passages, in their order; none a second time before all had their turn."""
        count = max(1, round(fraction * len(passages)))
        dealt, self.deck = self.deck[:count], self.deck[count:]
        if missing := count - len(dealt):
            fresh = random.Random(key).sample(range(len(passages)), len(passages))
            now = set(dealt)
            others = [i for i in fresh if i not in now]
            self.deck = others[missing:] + dealt  # who was met just now comes last
            dealt = dealt + others[:missing]
        return [passages[i] for i in sorted(dealt)]


def mixed(
    kinds: Sequence[tuple[Generator, float]],
    passages: Sequence[Passage],
    writer: Writer,
    audit: Audit,
    *,
    characters: int,
    seed: int,
    reader: Writer | None = None,
    judge: Writer | None = None,
    revise: Callable[[int, int], int] | None = None,
) -> Iterator[Example]:
    """Audited examples of about so many characters in all, in the shares asked for.

    `reader`: who reads short answers again, the writer where it is None. `revise` is told once, when every kind
    has had its first round, how many characters there are, and how many all kinds would have at the pace of those
    that a writer writes; it says how many there are to be. Raises OverBudget where a writer does, once the kinds
    that need no writer have had their turn."""
    if not passages:
        return
    parts = [_Part(kind, share, *_estimate(kind, passages)) for kind, share in kinds]
    told = _Told(passages, {p.id: p for p in passages}, writer, audit, seed, reader or writer, judge)
    stopped: OverBudget | None = None
    while live := [p for p in parts if not p.dry]:
        if characters - sum(p.told for p in parts) < _LEAST * characters:
            break
        whole = sum(p.share for p in live)
        least = {part.kind.name: _LEAST * characters * part.share / whole for part in live}
        for part in live:
            wanted = _wanted(part, parts, characters, whole)
            if wanted > least[part.kind.name] and not part.dry:
                try:
                    yield from told.round(part, wanted)
                except OverBudget as error:  # rules cost nothing, and go on
                    stopped = error
                    for other in parts:
                        other.dry = other.dry or other.writes
        if revise is not None:
            characters, revise = revise(sum(p.told for p in parts), _worth(parts)), None
            least = {name: _LEAST * characters * part.share / whole for name, part in zip(least, live, strict=True)}
        if all(_wanted(p, parts, characters, whole) <= least[p.kind.name] for p in live):
            break
    if stopped is not None:
        raise stopped
    yield from told.again(parts, room=_AGAIN_SHARE * characters)


def _worth(parts: Sequence[_Part]) -> int:
    """Characters that there would be if all kinds stood where those stand that a writer writes: what rules make
    takes no time, and has its share at once."""
    written = [p for p in parts if p.writes]
    told = sum(p.told for p in written)
    if not told:
        return sum(p.told for p in parts)
    return round(told * sum(p.share for p in parts) / sum(p.share for p in written))


def effort(kinds: Sequence[tuple[Generator, float]], passages: Sequence[Passage], characters: int) -> Effort:
    """What a mix of so many characters asks of the writer."""
    whole = sum(share for _, share in kinds)
    total = Effort()
    for kind, share in kinds:
        once = _sum(kind, passages)
        rounds = characters * share / whole / max(1, once.taught_characters)
        total += Effort(
            round(once.prompts * rounds),
            round(once.read_characters * rounds),
            round(once.written_characters * rounds),
            round(once.taught_characters * rounds),
        )
    return total


def _sum(kind: Generator, passages: Sequence[Passage]) -> Effort:
    return sum((kind.effort(p) for p in passages), Effort())


def _wanted(part: _Part, parts: Sequence[_Part], characters: int, whole: float) -> float:
    """Characters that a kind is still to tell: its share of what the dry ones leave."""
    left = characters - sum(p.told for p in parts if p.dry)
    return left * part.share / whole - part.told


def _estimate(kind: Generator, passages: Sequence[Passage]) -> tuple[bool, float]:
    whole = _sum(kind, passages)
    return whole.prompts > 0, float(whole.taught_characters)


@dataclass(frozen=True)
class _Told:
    """What the rounds of all kinds share."""

    passages: Sequence[Passage]
    by_id: Mapping[str, Passage]
    writer: Writer
    audit: Audit
    seed: int
    reader: Writer
    judge: Writer | None

    def round(self, part: _Part, wanted: float) -> Iterator[Example]:
        """One round of a kind over all passages, or over as many as it has room for."""
        some = part.first_yield and not part.doubted
        fraction = min(1.0, wanted / part.first_yield) if some else 1.0
        key = f"{self.seed}:{part.kind.name}:{part.round}"
        whole = part.kind.name in _OVER_ALL
        if whole or not part.writes:
            chosen: Sequence[Passage] = _turned(self.passages, key)
        else:
            chosen = part.deal(self.passages, fraction, key)
        # What rules make costs nothing: some of every passage tells more than all of some.
        kept = 1.0 if part.writes else fraction
        before, ended = part.told, True
        most = wanted * (_SPILL_OF_RULES if not part.writes else 1.0 if whole else _SPILL)
        for example in self._audited(part, chosen, part.round, share=kept):
            part.told += sum(len(t.text) for t in example.turns)
            yield example
            if part.told - before >= most:
                ended = False
                break
        came = (part.told - before) * (len(self.passages) / max(1, len(chosen))) / kept
        if part.round == 0 and came:
            part.first_yield = came
        little = ended and came <= _DRY * part.first_yield
        # Of some items chance alone may have left none.
        part.dry, part.doubted = little and kept == 1, little and kept < 1
        part.round += 1

    def again(self, parts: Sequence[_Part], room: float) -> Iterator[Example]:
        """One more round about the passages of which little was told, of so many characters at most."""
        names = {part.kind.name: part for part in parts}
        part = next((names[n] for n in _AGAIN if n in names), None)
        thin = set(self.audit.coverage.thin_passages(below=0.5)) & set(self.by_id)
        if not thin or part is None:
            return
        chosen = [p for p in self.passages if p.id in thin]
        each = max(1.0, part.first_yield / len(self.passages))
        chosen = list(_some(chosen, min(1.0, room / (each * len(chosen))), "again"))
        told = 0
        for example in self._audited(part, chosen, _LAST_ROUND):
            yield example
            told += sum(len(t.text) for t in example.turns)
            if told >= room:
                return

    def _audited(
        self, part: _Part, passages: Sequence[Passage], round_number: int, *, share: float = 1.0
    ) -> Iterator[Example]:
        """A round's examples, or so large a share of them by chance, as the audit lets them pass."""
        draw = random.Random(f"drawn:{self.seed}:{part.kind.name}:{round_number}")
        every = part.kind.examples(passages, self.writer, seed=1000 * self.seed + round_number)
        made = (e for e in every if share >= 1 or draw.random() < share)
        if not part.writes:  # what rules make needs nobody to read it again
            return self.audit.pass_through(made, self.by_id)
        return self.audit.pass_through(made, self.by_id, reader=self.reader, judge=self.judge)


def _some(passages: Sequence[Passage], fraction: float, key: str) -> Sequence[Passage]:
    """An even draw of the passages, in their order."""
    count = max(1, round(fraction * len(passages)))
    return [passages[i] for i in sorted(random.Random(key).sample(range(len(passages)), count))]


def _turned(passages: Sequence[Passage], key: str) -> Sequence[Passage]:
    """All passages, begun at another one each time."""
    first = random.Random(key).randrange(len(passages))
    return [*passages[first:], *passages[:first]]
