"""Which of the passages' facts the training text teaches, and what no example touches.

A fact is a number, a date, a name or a sentence. What is kept grows with the passages, never with the examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from imprint.documents import sentences
from imprint.synthesis.quantities import Date, dates, numbers, times_of_day
from imprint.synthesis.wording import content_words, phrases, words
from imprint.types import Example, Passage

KINDS = ("number", "name", "date", "sentence")
UNTOUCHED, MENTIONED, TAUGHT = range(3)
_TOGETHER = 0.6
"""Share of a sentence's content words that one example must hold together."""


@dataclass(frozen=True, slots=True)
class Share:
    """How much of one kind of fact is taught."""

    taught: int
    """Told in words that are learnt."""
    mentioned: int
    """Told only in a question or another turn that is not learnt."""
    all: int

    @property
    def value(self) -> float:
        return self.taught / self.all if self.all else 1.0


@dataclass(slots=True)
class _Fact:
    kind: str
    text: str
    state: int = UNTOUCHED
    words: frozenset[str] = frozenset()
    """Of a name or a sentence, all that must be told."""
    date: Date | None = None


@dataclass(slots=True)
class _Told:
    """What one side of an example tells, worked out once for all of its passages."""

    numbers: set[str] = field(default_factory=set)
    dates: list[Date] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    content: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, texts: Iterable[str]) -> _Told:
        text = "\n".join(texts)
        values = {v for n in numbers(text) for v in (n.value, n.bare, *times_of_day(n.value))}
        return cls(values, dates(text), _parts(text), content_words(text))

    def tells(self, fact: _Fact) -> bool:
        if fact.kind == "number":
            return fact.text in self.numbers
        if fact.date is not None:
            return any(fact.date.is_told_by(d, self.numbers) for d in self.dates)
        if fact.kind == "name":
            return fact.words <= self.words
        return len(fact.words & self.content) >= _TOGETHER * len(fact.words)


class Coverage:
    """Counts, as examples stream by, which facts of which passage they teach."""

    def __init__(self, passages: Iterable[Passage] = ()) -> None:
        self.passages: dict[str, Passage] = {}
        self._facts: dict[str, list[_Fact]] = {}
        self._met: set[str] = set()
        self.meet(passages)

    def meet(self, passages: Iterable[Passage]) -> None:
        """Passages that are to be taught; those met before are left as they are."""
        for passage in passages:
            self.passages.setdefault(passage.id, passage)

    def add(self, example: Example) -> None:
        """Counts what an example tells of the passages that it was made of."""
        cited = [i for i in example.passages if i in self.passages]
        if not cited:
            return
        learnt = _Told.of(t.text for t in example.turns if t.learn)
        asked = _Told.of(t.text for t in example.turns if not t.learn)
        whole = learnt.content | asked.content
        for passage_id in cited:
            self._met.add(passage_id)
            for fact in self._facts_of(passage_id):
                if fact.state == TAUGHT:
                    continue
                if fact.kind == "sentence":
                    taught = len(fact.words & whole) >= _TOGETHER * len(fact.words) and bool(learnt.content)
                    fact.state = TAUGHT if taught else fact.state
                elif learnt.tells(fact):
                    fact.state = TAUGHT
                elif asked.tells(fact):
                    fact.state = MENTIONED

    def _facts_of(self, passage_id: str) -> list[_Fact]:
        if passage_id not in self._facts:
            self._facts[passage_id] = list(_facts(self.passages[passage_id]))
        return self._facts[passage_id]

    def share(self) -> dict[str, Share]:
        """How much of each kind is taught, over all passages."""
        every = [f for i in self.passages for f in self._facts_of(i)]
        of_kind = {k: [f.state for f in every if f.kind == k] for k in KINDS}
        return {k: Share(s.count(TAUGHT), s.count(MENTIONED), len(s)) for k, s in of_kind.items()}

    def share_of(self, passage_id: str) -> float:
        """The share of one passage's facts, of all kinds, that is taught."""
        states = [f.state for f in self._facts_of(passage_id)]
        return states.count(TAUGHT) / len(states) if states else float(passage_id in self._met)

    def uncovered(self) -> Iterator[tuple[str, str, str]]:
        """Passage, kind and text of every fact that no example teaches."""
        for passage_id in self.passages:
            for fact in self._facts_of(passage_id):
                if fact.state != TAUGHT:
                    yield passage_id, fact.kind, fact.text

    def untouched(self) -> list[str]:
        """Passages that no example was made of."""
        return [i for i in self.passages if i not in self._met]

    def thin_passages(self, below: float = 0.5) -> list[str]:
        """Passages of whose facts less than this share is taught, the thinnest first: to be written about again."""
        shares = {i: self.share_of(i) for i in self.passages}
        return sorted((i for i, s in shares.items() if s < below), key=lambda i: shares[i])


def _facts(passage: Passage) -> Iterator[_Fact]:
    """The different facts that a passage tells."""
    told = dates(passage.text)
    for date in {d.key: d for d in told}.values():
        yield _Fact("date", date.text, date=date)
    spans = [(d.start, d.end) for d in told]
    counted = [n for n in numbers(passage.text) if not any(s <= n.start < e for s, e in spans)]
    for value in dict.fromkeys(n.value for n in counted if not (n.spelt and n.value in ("0", "1"))):
        yield _Fact("number", value)
    for name in dict.fromkeys(phrases(passage.text)):
        yield _Fact("name", name, words=frozenset(_parts(name)))
    for start, end in sentences(passage.text):
        content = frozenset(content_words(passage.text[start:end]))
        if len(content) >= 4:
            yield _Fact("sentence", " ".join(passage.text[start:end].split()), words=content)


def _parts(text: str) -> set[str]:
    """Lower-case words, plain and cut at their hyphens, without a plural's 's'."""
    found = words(text)
    return {p.removesuffix("s") for w in found for p in (w, *w.split("-")) if p}
