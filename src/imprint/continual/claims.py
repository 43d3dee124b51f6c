"""What documents claim, one sentence at a time, so that a claim can be held against others however it is worded.

A claim is known by its words and by its values: names, numbers, dates. Two claims are the same where they share a
value and most of the other words of the shorter one. One claim disagrees with another where all it speaks of stands
there too, but for one value in whose place the other has a different one. Both are rules over words: what a rule
cannot read (a value told in a metaphor, a fact spread over sentences) is not seen."""

from __future__ import annotations

import difflib
import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from imprint.documents import sentences
from imprint.synthesis.quantities import dates, numbers
from imprint.synthesis.wording import content_words, negations, phrases
from imprint.types import Passage

_FRAME = frozenset(
    content_words(
        "according accordingly fact facts true truth actual actually correct correction corrected edit editor "
        "edition editions erratum answer answers question questions asked frequently official officially "
        "record records confirm confirms confirmed source sources note notice reminder remember well known "
        "know certain certainly short say says said state states stated tell tells told read reads see also "
        "again everyone agree agrees expert experts leading document documents text texts passage article "
        "entry administration wrong mistaken error replaced value earlier gave give gives any belong belongs "
        "many here come comes reality really indeed thus therefore however"
    )
)
"""Words that present a claim and are no part of it."""
_LEAST_SHARED = 2
"""Words, values aside, that two claims must have in common."""
_LEAST_TOLD = 3
"""Words beside its value without which a sentence is a heading or an address rather than a claim about a value."""
_SAME, _SAME_WORDS = 0.6, 0.8
"""Share of the words of the shorter claim that the other has, where both say the same; more without values."""
_LOOKED_AT = 8
"""Groups, and claims of a group, that a claim is compared with; trusted sentences too."""
_ABOUT = 0.7
"""Share (by rarity) of a claim's words, its value aside, that a trusted sentence about the same has."""
_STRANGE = 3
"""Words that a trusted passage does not have, up to which a claim speaks of what that passage speaks of."""
_COPIED = 0.7
"""Share of the words of both that a claim must have in common with a trusted sentence that it tells otherwise."""
_CROWD = 0.05
"""Share of all sentences that may have a word before it says nothing about which of them to compare."""
_MARKS = re.compile(r"^(?:[-*•|#>]+\s*|\(?\d{1,2}[.)]\s+|[QA]:\s+)+")


@dataclass(frozen=True, slots=True)
class Value:
    """A name, a number or a date of a claim."""

    kind: str
    text: str
    """As it is written."""
    words: frozenset[str]
    """What must stand in another text for it to have the value too."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence that states something."""

    text: str
    passage: Passage
    words: frozenset[str]
    """Stems of the words that carry meaning, those of its values with them."""
    values: tuple[Value, ...]
    denied: bool

    def without(self, value: Value) -> frozenset[str]:
        """What else it speaks of."""
        return self.words - value.words


@dataclass(frozen=True, slots=True)
class Held:
    """How a claim stands to trusted documents: the trusted sentence, and the two values where they differ."""

    agrees: bool
    trusted: Claim
    values: tuple[str, str] = ("", "")
    """The trusted value, and the other."""


def claims(passages: Iterable[Passage]) -> Iterator[Claim]:
    """The claims of some passages, in order; a question is one with what follows it."""
    for passage in passages:
        asked = ""
        for start, end in sentences(passage.text):
            said = _MARKS.sub("", " ".join(passage.text[start:end].split()))
            if said.endswith("?"):
                asked = said
                continue
            whole, asked = f"{asked} {said}".strip(), ""
            if (claim := _claim(whole, passage)) is not None:
                yield claim


def _claim(text: str, passage: Passage) -> Claim | None:
    words = frozenset(content_words(text)) - _FRAME
    if len(words) <= _LEAST_SHARED:
        return None
    return Claim(text, passage, words, tuple(_values(text)), negations(text) % 2 == 1)


def _values(text: str) -> Iterator[Value]:
    told = dates(text)
    for date in told:
        yield Value("date", date.text, frozenset(content_words(date.text)))
    for number in numbers(text):
        if not any(d.start <= number.start < d.end for d in told) and not (
            number.spelt and number.value in ("0", "1")
        ):
            written = text[number.start : number.end].strip()
            yield Value("number", written, frozenset(content_words(written)))
    for name in phrases(text):
        words = frozenset(content_words(name)) - _FRAME
        if words and not any(name in d.text for d in told):
            yield Value("name", name, words)


# --- the trusted documents --------------------------------------------------------------------


@dataclass
class Trusted:
    """What trusted documents say, so that claims can be held against it."""

    passages: Sequence[Passage]
    _claims: list[Claim] = field(init=False, default_factory=list)
    _by_word: dict[str, list[int]] = field(init=False, default_factory=lambda: defaultdict(list))
    _around: dict[str, frozenset[str]] = field(init=False, default_factory=dict)
    """By passage: all its words, with those of its title and headings."""

    def __post_init__(self) -> None:
        for passage in self.passages:
            told = f"{passage.title} {passage.heading} {passage.text}"
            self._around[passage.id] = frozenset(content_words(told))
        for i, claim in enumerate(claims(self.passages)):
            self._claims.append(claim)
            for word in claim.words:
                self._by_word[word].append(i)

    def holds(self, claim: Claim) -> Held | None:
        """Whether a trusted sentence says so too, or has another value in its place; None where neither."""
        against: tuple[float, Held] | None = None
        for trusted, shared in self._about(claim):
            if claim.words <= trusted.words and claim.denied == trusted.denied:
                return Held(True, trusted)
            found = self._difference(claim, trusted)
            if found is not None and (against is None or shared > against[0]):
                against = shared, found
            elif found is None and self._agree(claim, trusted):
                return Held(True, trusted)
        return against[1] if against else None

    def unconfirmed(self, claim: Claim) -> Claim | None:
        """The trusted sentence in whose passage nearly all words of a claim stand, though not all; else None.

        A new fact about a known thing looks like this too, so that one such claim tells nothing: a document that
        consists of them does."""
        for trusted, _ in self._about(claim):
            around = self._around[trusted.passage.id]
            if 0 < len(claim.words - around) <= _STRANGE and len(claim.words & around) >= _LEAST_SHARED:
                return trusted
        return None

    def _rarity(self, words: Iterable[str]) -> float:
        """How much some words tell: each by how few trusted sentences have it."""
        return sum(math.log((1 + len(self._claims)) / (1 + len(self._by_word.get(w, ())))) for w in words)

    def _about(self, claim: Claim) -> list[tuple[Claim, float]]:
        """The trusted claims that share most with this one, the likest first."""
        crowd = max(50, _CROWD * len(self._claims))
        scores: dict[int, float] = defaultdict(float)
        for word in claim.words:
            found = self._by_word.get(word, ())
            if len(found) <= crowd:
                weight = self._rarity([word])
                for i in found:
                    scores[i] += weight
        best = heapq.nlargest(_LOOKED_AT, scores, key=lambda i: (scores[i], -i))
        return [(self._claims[i], scores[i]) for i in best]

    def _agree(self, claim: Claim, trusted: Claim) -> bool:
        values = frozenset().union(*(v.words for v in claim.values))
        shared = self._rarity(claim.words & trusted.words)
        return (
            values <= trusted.words and shared >= 0.8 * self._rarity(claim.words) and claim.denied == trusted.denied
        )

    def _difference(self, claim: Claim, trusted: Claim) -> Held | None:
        return self._other_words(claim, trusted) or self._other_value(claim, trusted)

    def _other_words(self, claim: Claim, trusted: Claim) -> Held | None:
        """Nearly the trusted sentence, with other words in the place of some of its own."""
        new, gone = claim.words - trusted.words, trusted.words - claim.words
        shared = len(claim.words & trusted.words)
        if not new or not gone or shared < _COPIED * len(claim.words) or shared < _COPIED * len(trusted.words):
            return None
        return Held(False, trusted, _replaced(trusted.text, claim.text))

    def _other_value(self, claim: Claim, trusted: Claim) -> Held | None:
        """Speaks of nothing but what the trusted passage speaks of, with one value that the trusted sentence has
        another of."""
        around = self._around[trusted.passage.id] | trusted.words
        for value in claim.values:
            rest = claim.without(value)
            others = frozenset().union(*(v.words for v in claim.values if not v.words & value.words))
            if (
                value.words <= trusted.words
                or len(rest) < _LEAST_TOLD
                or not others <= around
                or len(rest & trusted.words) < _LEAST_SHARED
            ):
                continue
            if self._rarity(rest & trusted.words) < _ABOUT * self._rarity(rest):
                continue
            for theirs in trusted.values:
                if theirs.kind == value.kind and not theirs.words & claim.words:
                    return Held(False, trusted, (theirs.text, value.text))
        if claim.words == trusted.words and claim.denied != trusted.denied:
            return Held(False, trusted, ("not", "") if trusted.denied else ("", "not"))
        return None


def _replaced(trusted: str, other: str) -> tuple[str, str]:
    """The first words of two sentences that stand in each other's place."""
    mine, theirs = trusted.split(), other.split()
    for tag, a, b, c, d in difflib.SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes():
        if tag == "replace" and content_words(" ".join(theirs[c:d])) - _FRAME:
            return " ".join(mine[a:b]).rstrip(".,;"), " ".join(theirs[c:d]).rstrip(".,;")
    return trusted, other


# --- the same claim again ---------------------------------------------------------------------


class Repeats:
    """Claims in groups that say the same, in whatever words, as they come."""

    def __init__(self) -> None:
        self._groups: list[list[Claim]] = []
        self._by_word: dict[str, set[int]] = defaultdict(set)

    def add(self, claim: Claim) -> list[Claim]:
        """Puts a claim to those that say the same; returns them all, itself with them."""
        near = Counter(group for word in claim.words for group in self._by_word[word])
        alike = (
            i for i, _ in near.most_common(_LOOKED_AT) if any(_same(claim, c) for c in self._groups[i][:_LOOKED_AT])
        )
        home = next(alike, len(self._groups))
        if home == len(self._groups):
            self._groups.append([])
        group = self._groups[home]
        if len(group) < _LOOKED_AT:  # later ones are not compared with
            for word in claim.words:
                self._by_word[word].add(home)
        group.append(claim)
        return group


def _same(one: Claim, other: Claim) -> bool:
    """Whether two claims share a value and most of the other words of the shorter one."""
    shared = one.words & other.words
    shorter = min(len(one.words), len(other.words))
    if one.denied != other.denied or len(shared) <= _LEAST_SHARED or len(shared) < _SAME * shorter:
        return False
    if one.values and other.values:
        return any(v.words <= other.words for v in one.values)
    return len(shared) >= _SAME_WORDS * shorter
