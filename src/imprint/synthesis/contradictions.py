"""Statements that agree in nearly all words but not in a number, a date, a name or a 'not': to be shown before
training.

Where two subjects explain the difference (Health Plus and Standard), they are near-duplicate entities, which a
model is apt to confuse; where none does, the documents contradict each other. Sentences are joined over an
inverted index by prefix filtering (Bayardo et al. 2007), never all with all."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from imprint.synthesis.quantities import dates, numbers
from imprint.synthesis.statements import statements
from imprint.synthesis.wording import content_list, denies_softly, is_common, negations, phrases, stem
from imprint.types import Passage

_ALIKE, _SIMILAR = 0.8, 0.6
"""Share of content words (numbers and names aside) that two statements about one subject have in common, and two
statements that give an attribute to two subjects."""
_LEAST = 3
"""Content words that a statement must have to be compared; one more to contradict another."""
_MOST_PAIRS = 50
"""Pairs of names that are told where no statement sets them apart: those met most often."""
_CROWD = 60
"""Statements that share a rare word, from which on the rest of them is not compared: boilerplate."""
_LABEL = re.compile(
    r"\b(?:form|step|section|chapter|page|figure|table|level|phase|question|item|note|part|article|version|tier|room|line"
    r"|no\.?|number|rule|exercise|example|exhibit|appendix|day|week|option|grade|class|#)[ -]?\s*\(?$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Said:
    """A statement and where it stands."""

    text: str
    passage_id: str
    title: str


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two statements about the same thing that cannot both be true."""

    kind: str
    """'number', 'date', 'name' or 'negation'."""
    first: Said
    second: Said
    values: tuple[str, str]
    """What differs, as it is written."""


@dataclass(frozen=True, slots=True)
class Entities:
    """Two names that share most of their words, and the statements in which what they name differs."""

    first: str
    second: str
    attributes: tuple[Contradiction, ...] = ()


@dataclass(frozen=True, slots=True)
class Disagreements:
    """All that should be looked at before training."""

    contradictions: list[Contradiction] = field(default_factory=list)
    entities: list[Entities] = field(default_factory=list)


def contradictions(passages: Sequence[Passage]) -> list[Contradiction]:
    """Pairs of statements about the same subject that differ in one value."""
    return disagreements(passages).contradictions


def near_duplicate_entities(passages: Sequence[Passage]) -> list[Entities]:
    """Pairs of names apt to be confused, those whose attributes differ most first."""
    return disagreements(passages).entities


def disagreements(passages: Sequence[Passage]) -> Disagreements:
    """Contradictions and near-duplicate entities, in one pass."""
    told = [t for p in passages for t in _told(p)]
    house = _house_words(passages)
    found: list[Contradiction] = []
    attributes: dict[tuple[str, str], list[Contradiction]] = {pair: [] for pair in _name_pairs(passages, house)}
    seen: set[tuple[str, str]] = set()
    for one, other, likeness in _alike(told):
        if one.text == other.text or (one.text, other.text) in seen:
            continue
        seen.add((one.text, other.text))
        subjects = _subjects(one, other, house)
        differing = _difference(one, other, subjects is not None)
        if differing is None:
            continue
        if subjects is None:
            if likeness >= _ALIKE and _may_contradict(one) and _may_contradict(other):
                found.append(differing)
        elif _are_close(*subjects, house):
            attributes.setdefault(subjects, []).append(differing)
    entities = [Entities(a, b, tuple(d)) for (a, b), d in attributes.items()]
    return Disagreements(found, sorted(entities, key=lambda e: -len(e.attributes)))


# --- statements -------------------------------------------------------------------------------


@dataclass(slots=True)
class Told:
    """A statement with its values taken out."""

    text: str
    passage: Passage
    words: frozenset[str]
    values: tuple[tuple[str, str, str, bool], ...]
    """Kind with unit, plain form, as written, and whether it is only a label, of each number and date, in order."""
    names: tuple[str, ...]
    denied: bool
    soft: bool

    @property
    def said(self) -> Said:
        return Said(self.text, self.passage.id, self.passage.title)


def _told(passage: Passage) -> Iterator[Told]:
    for whole in dict.fromkeys(s.whole for s in statements(passage)):
        one = None if whole.endswith("?") else taken_apart(whole, passage)
        if one is not None and len(one.words) >= _LEAST:
            yield one


def taken_apart(whole: str, passage: Passage) -> Told:
    """A sentence of a passage with its values and names taken out."""
    values, spans = _values(whole)
    named = phrases(whole)
    aside = {stem(w) for n in named for w in re.findall(r"\w+", n)}
    bare = (
        "".join(c if not any(s <= i < e for s, e in spans) else " " for i, c in enumerate(whole))
        if spans
        else whole
    )
    words = frozenset(w for w in content_list(bare) if w not in aside and not w[0].isdigit())
    denied = negations(whole) % 2 == 1
    return Told(whole, passage, words, values, tuple(named), denied, denies_softly(whole))


def _values(text: str) -> tuple[tuple[tuple[str, str, str, bool], ...], list[tuple[int, int]]]:
    told = dates(text)
    found = [(d.start, d.end, "date", d.key, d.text, False) for d in told]
    for n in numbers(text):
        if not any(d.start <= n.start < d.end for d in told) and not (n.spelt and n.value in ("0", "1")):
            label = bool(_LABEL.search(text[: n.start]) or re.search(r"[A-Za-z]-?$", text[: n.start]))
            label |= text[n.start - 1 : n.start] == "(" and text[n.end : n.end + 1] == ")"
            found.append((n.start, n.end, f"number {n.unit}", n.value, n.text, label))
    found.sort()
    return tuple(f[2:] for f in found), [(s, e) for s, e, *_ in found]


def _alike(told: Sequence[Told]) -> Iterator[tuple[Told, Told, float]]:
    """Pairs of statements most of whose content words agree, each pair once, and how many do (Jaccard index)."""
    frequency = Counter(w for t in told for w in t.words)
    index: dict[str, list[int]] = defaultdict(list)
    for i, mine in enumerate(told):
        ordered = sorted(mine.words, key=lambda w: (frequency[w], w))
        # Two sets with a Jaccard index of _SIMILAR share one of these words, whatever else they share.
        prefix = ordered[: len(ordered) - _needed(len(ordered)) + 1]
        met = {j for word in prefix for j in index[word]}
        for j in sorted(met):
            common = len(mine.words & told[j].words)
            likeness = common / (len(mine.words) + len(told[j].words) - common)
            if likeness >= _SIMILAR:
                yield told[j], mine, likeness
        for word in prefix:
            if len(index[word]) < _CROWD:
                index[word].append(i)


def _needed(size: int) -> int:
    return math.ceil(_SIMILAR * size)


# --- what differs -----------------------------------------------------------------------------


def _difference(one: Told, other: Told, of_subjects: bool) -> Contradiction | None:
    """The one value in which two statements differ; None where they agree, or differ in more."""
    kinds = [v[0].split()[0] for v in one.values] == [v[0].split()[0] for v in other.values]
    if not kinds:
        return None
    unlike = [(a, b) for a, b in zip(one.values, other.values, strict=True) if are_unlike(a, b)]
    denies = one.denied != other.denied and not one.soft and not other.soft
    if len(unlike) == 1 and one.denied == other.denied:
        (kind, _, mine, label), (_, _, theirs, _) = unlike[0]
        # The first of several numbers tells which row or year is spoken of more often than it is told.
        if label or (not of_subjects and _is_key(one, unlike[0][0])):
            return None
        return Contradiction(kind.split()[0], one.said, other.said, (mine, theirs))
    if not unlike and denies and one.words == other.words:
        return Contradiction("negation", one.said, other.said, ("not", "") if one.denied else ("", "not"))
    if unlike or of_subjects:
        return None
    gone, come = differing_names(one, other)
    if (
        len(gone) == len(come) == 1
        and one.words == other.words
        and _closes(one, gone[0])
        and _closes(other, come[0])
    ):
        return Contradiction("name", one.said, other.said, (gone[0], come[0]))
    return None


def are_unlike(one: tuple[str, str, str, bool], other: tuple[str, str, str, bool]) -> bool:
    """Whether two values differ, or their units where both have one."""
    units = one[0].partition(" ")[2], other[0].partition(" ")[2]
    return one[1] != other[1] or (all(units) and units[0] != units[1])


def _is_key(told: Told, value: tuple[str, str, str, bool]) -> bool:
    """Whether a value rather says of what is spoken: a year or a date beside other numbers."""
    dated = value[0] == "date" or (value[0] == "number " and len(value[1]) == 4 and value[1][:2] in ("19", "20"))
    return dated and len(told.values) > 1


def _subjects(one: Told, other: Told, house: frozenset[str]) -> tuple[str, str] | None:
    """The two different things that two statements are about, so far as their names or titles tell."""
    gone, come = differing_names(one, other)
    if gone or come:
        if (
            gone
            and come
            and (_opens(one, gone[0]) or _opens(other, come[0]) or _are_close(gone[0], come[0], house))
        ):
            return _ordered(gone[0], come[0])
        if gone and come and one.values == other.values:
            return None  # a name in the place of a value
        mine, theirs = gone[0] if gone else one.passage.title, come[0] if come else other.passage.title
        return _ordered(mine, theirs)
    if one.passage.title != other.passage.title and _are_close(one.passage.title, other.passage.title, house):
        return _ordered(one.passage.title, other.passage.title)
    mine, theirs = (t.passage.heading.split(" > ")[-1] for t in (one, other))
    if mine != theirs and one.passage.title == other.passage.title:
        return _ordered(mine, theirs)  # the same words under two headings are about two things
    return None


def _may_contradict(told: Told) -> bool:
    """Whether it states something by itself: a row of a table or a heading does not."""
    return len(told.words) > _LEAST and told.text.rstrip("\"'”’)*_ ")[-1:] in (".", "!")


def _closes(told: Told, name: str) -> bool:
    """Whether a name is the last thing said, told rather than spoken about: 'designed by Ana Petrov.'"""
    return told.text.rstrip("\"'”’)*_ .!").endswith(name) and not re.match(
        r"(?:If|When|In|During|For)\b", told.text
    )


def differing_names(one: Told, other: Told) -> tuple[list[str], list[str]]:
    """The names that only the one has, and those that only the other has."""
    mine, theirs = ({_plain(n): n for n in t.names} for t in (one, other))
    gone = [n for k, n in mine.items() if k not in theirs]
    return gone, [n for k, n in theirs.items() if k not in mine]


def _opens(told: Told, name: str) -> bool:
    """Whether a name stands where subjects do: among the first words, before the verb."""
    return told.text.find(name) <= 12


def _ordered(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one <= other else (other, one)


def _plain(name: str) -> str:
    return re.sub(r"^(?:the|a|an|our) |['’]s\b", "", name.lower())


# --- names that are nearly the same -----------------------------------------------------------


def _house_words(passages: Sequence[Passage]) -> frozenset[str]:
    """Words that more than half of the titles have, the company's name as a rule: they make no two things alike."""
    titles = {p.title for p in passages}
    met = Counter(w for t in titles for w in set(_name_words(t)))
    return frozenset(w for w, n in met.items() if n > 2 and 2 * n > len(titles))


def _name_pairs(passages: Sequence[Passage], house: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Pairs of titles that are close, and of names met at least twice that share more than everyday words."""
    met = Counter(n for p in passages for n in phrases(p.text) if 1 < len(_name_words(n)) <= 6)
    of_text = {_plain(n): n for n, count in reversed(met.most_common()) if count > 1}
    titles = {_plain(t): t for t in sorted({p.title for p in passages}) if 1 < len(_name_words(t)) <= 12}
    yield from sorted(set(_sharing_words(titles.values(), house)))
    pairs = {p for p in _sharing_words(of_text.values(), house) if _share_a_proper_word(*p)}
    yield from sorted(pairs, key=lambda p: (-min(met[p[0]], met[p[1]]), p))[:_MOST_PAIRS]


def _sharing_words(known: Iterable[str], house: frozenset[str]) -> Iterator[tuple[str, str]]:
    by_word: dict[str, list[str]] = defaultdict(list)
    for name in known:
        for word in set(_name_words(name)):
            by_word[word].append(name)
    for alike in by_word.values():
        if len(alike) <= _CROWD:
            yield from (_ordered(a, b) for a, b in combinations(alike, 2) if _are_close(a, b, house))


def _share_a_proper_word(one: str, other: str) -> bool:
    """Whether what two names share is more than dictionary words, or all that tells them apart is a code."""
    a, b = set(_name_words(one)), set(_name_words(other))
    coded = all(len(w) < 3 or any(c.isdigit() for c in w) for w in a ^ b)
    return coded or any(not is_common(w) for w in a & b)


def _are_close(one: str, other: str, house: frozenset[str]) -> bool:
    """Whether two names share half of their words or more, and each has one that the other has not."""
    a, b = ([w for w in _name_words(n) if w not in house] for n in (one, other))
    common = set(a) & set(b)
    if not common or set(a) <= set(b) or set(b) <= set(a):
        return False
    begun_alike = a[0] == b[0] or (a[-1] == b[-1] and len(common) > 1)
    return begun_alike and 2 * len(common) >= min(len(a), len(b))


def _name_words(name: str) -> list[str]:
    return [w for w in re.findall(r"\w+", _plain(name)) if w not in ("of", "the", "and", "for")]
