"""Is it in the source? Numbers, dates, units, names and negations of an item, checked against its passages.

In one synthetic finance set 59 % of the figures were not in the source, so that every item is checked. Findings
discard text, so that what everyday English may add (list marks, openers, 'two' for a pair) is let through."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from imprint.documents import sentences
from imprint.synthesis.cloze import ABSTENTION
from imprint.synthesis.quantities import Date, Number, dates, numbers, times_of_day
from imprint.synthesis.wording import (
    FUNCTION_WORDS,
    Name,
    common_words,
    content_words,
    denies_softly,
    is_common,
    is_weekday,
    names,
    negations,
    weekdays,
)
from imprint.types import Example, Passage

KINDS = ("number", "date", "unit", "name", "negation")
_KEPT = 4096
"""Passages whose facts are remembered; examples come passage by passage, so that few are asked for twice."""
_CLAUSE = re.compile(r"[,;:()]\s+|\s+(?:and|but|while|although|whereas|because|which|who|that)\s+")
_VERDICT = re.compile(r"^(?:No|Yes)[,:;]\s+")
"""What an answer opens with denies no more than the sentence after it."""
_LEANS = re.compile(
    r"(?:if|unless|when|while|until|whether|once|not?|never|is|are|was|were|be|do|does|did|has|have|had|can(?:not)?|could|may"
    r"|might|must|shall|should|will|would)\b",
    re.IGNORECASE,
)
"""How clauses begin that state nothing by themselves: conditions, and what lost its subject."""
_HEADING = re.compile(r"(?m)^[ \t]*#{1,6}[ \t].*$|\*\*[^*\n]+\*\*|^[^\n]{1,80}:[ \t]*$")
_IN_FULL = {
    "US": ("united", "states", "america", "american"),
    "UK": ("united", "kingdom", "britain", "british"),
    "EU": ("european", "union"),
    "UN": ("united", "nations"),
}
_DEMONYM = re.compile(r"(?:ians?|eans?|ans?|ese|ish|ns?|ic|i|y|ia|a|e|s)$")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found in a text that should not stand there."""

    kind: str
    text: str


@dataclass(slots=True)
class Source:
    """What a passage tells, with its title and heading, ready to be compared with."""

    words: set[str] = field(default_factory=set)
    """In lower case, whole and at their hyphens."""
    numbers: set[str] = field(default_factory=set)
    units: dict[str, set[str]] = field(default_factory=dict)
    """By value; '' where it stands without a unit, 'date' where it is part of a date."""
    dates: list[Date] = field(default_factory=list)
    weekdays: set[str] = field(default_factory=set)
    acronyms: set[str] = field(default_factory=set)
    stems: set[str] = field(default_factory=set)
    """Of names, without the endings that make 'Italian' of 'Italy'."""
    said: list[tuple[frozenset[str], int, bool]] = field(default_factory=list)
    """Content words of each sentence and clause, how often it denies, and whether it may deny softly."""

    @classmethod
    def of(cls, passage: Passage) -> Source:
        """The facts of one passage."""
        text = f"{passage.title}\n{passage.heading}\n{passage.text}"
        source = cls(dates=dates(text), weekdays=weekdays(text))
        source.words = {w for m in re.findall(r"[\w'’-]+", text.lower()) for w in (m, *re.findall(r"\w+", m))}
        for short in re.findall(r"\b(?:US|UK|EU|UN|(?:[A-Z]\.){2,})(?!\w)", text):
            source.words |= {short.replace(".", "").lower(), *_IN_FULL.get(short.replace(".", ""), ())}
        spans = [(d.start, d.end) for d in source.dates]
        for number in numbers(text):
            dated = any(s <= number.start < e for s, e in spans)
            source._note(number, "date" if dated else number.unit)
        for match in re.finditer(r"\b(\d\d)(\d\d)[-–/](\d\d)\b", text):
            source.numbers.add(match[1] + match[3])  # '2015-16' tells of 2016
        found = names(text)
        source.stems = {_root(n.text) for n in found}
        source.acronyms = set(_acronyms(text))
        source.said = list(_stated(passage.text))
        return source

    def _note(self, number: Number, unit: str) -> None:
        forms = {number.value, number.bare, *times_of_day(number.value)}
        self.numbers |= forms
        for form in forms:
            self.units.setdefault(form, set()).add(unit)

    @classmethod
    def together(cls, sources: Sequence[Source]) -> Source:
        """What several passages tell between them."""
        whole = cls()
        for source in sources:
            whole.words |= source.words
            whole.numbers |= source.numbers
            whole.dates += source.dates
            whole.weekdays |= source.weekdays
            whole.acronyms |= source.acronyms
            whole.stems |= source.stems
            whole.said += source.said
            for value, units in source.units.items():
                whole.units[value] = whole.units.get(value, set()) | units
        return whole


_remembered: OrderedDict[tuple[str, str, str, str], Source] = OrderedDict()


def source_of(passages: Sequence[Passage]) -> Source:
    """What the passages tell; that of each one is remembered."""
    found = []
    for passage in passages:
        key = (passage.id, passage.title, passage.heading, passage.text)
        if key not in _remembered:
            _remembered[key] = Source.of(passage)
            if len(_remembered) > _KEPT:
                _remembered.popitem(last=False)
        found.append(_remembered[key])
    return found[0] if len(found) == 1 else Source.together(found)


def unsupported(example: Example, passages: Iterable[Passage]) -> list[Finding]:
    """What an example says that its passages do not; empty where it is faithful.

    Of an item that teaches to abstain only the names of its question are checked."""
    source = source_of(list(passages))
    if any(t.learn and t.text.strip() == ABSTENTION for t in example.turns):
        asked = (t for t in example.turns if not t.learn)
        return [f for t in asked for f in _strange_names(t.text, source)]
    return [f for t in example.turns for f in _strange(t.text, source, asked=t.role == "user" and not t.learn)]


def _strange(text: str, source: Source, *, asked: bool) -> Iterator[Finding]:
    told = dates(text)
    spans = {(d.start, d.end) for d in told}
    by_span = {s: [d for d in told if (d.start, d.end) == s] for s in spans}
    for _, group in sorted(by_span.items()):
        if not all(any(d.is_told_by(o, source.numbers) for o in source.dates) for d in group):
            yield Finding("date", group[0].text)
    for number in numbers(text):
        if not any(s <= number.start < e for s, e in spans):
            yield from _strange_number(number, text, source, asked)
    yield from _strange_names(text, source, spans)
    if not asked:
        yield from _strange_negations(text, source)


def _strange_number(number: Number, text: str, source: Source, asked: bool) -> Iterator[Finding]:
    if _is_span_of_years(number, text, source):
        return
    known = {number.value, *times_of_day(number.value)} & source.numbers
    if number.bare != number.value and number.bare in source.numbers and not known:
        scale = number.text.split()[-1].lower().rstrip("s")
        known = {number.bare} if scale in source.words or f"{scale}s" in source.words else set()
    if not known:
        if not number.spelt or not _only_counts(number, asked):
            yield Finding("number", number.text)
        return
    units = set().union(*(source.units.get(v, {""}) for v in known))
    if number.unit and "" not in units and number.unit not in units:
        yield Finding("unit", text[number.start : number.end + 12].split("\n")[0].strip())


def _is_span_of_years(number: Number, text: str, source: Source) -> bool:
    """Whether it is the decade or the century of a year that the source names: 'the 1890s', 'the 19th century'."""
    after = text[number.end : number.end + 12].lower()
    if after.startswith("s") and number.value.isdigit() and len(number.value) == 4:
        return any(len(n) == 4 and n[:3] == number.value[:3] for n in source.numbers)
    if re.match(r"(?:st|nd|rd|th)?[ -]centur", after) and number.value.isdigit():
        return any(len(n) == 4 and n[:2] == f"{int(number.value) - 1:02d}" for n in source.numbers if n.isdigit())
    return False


def _only_counts(number: Number, asked: bool) -> bool:
    """Whether a number word may count what the source lists without counting it: 'two countries', 'one of them'."""
    if number.unit:
        return number.value == "1"
    return asked or number.value in ("0", "1", "2", "3")


def _strange_names(text: str, source: Source, dated: Iterable[tuple[int, int]] = ()) -> Iterator[Finding]:
    spans = list(dated)
    headings = [m.span() for m in _HEADING.finditer(text) if _in_title_case(m.group())] if _may_head(text) else []
    for name in names(text):
        if any(s <= name.start < e for s, e in spans) or _is_known(name.text, source):
            continue
        if any(s <= name.start < e for s, e in headings) and name.text[1:].islower():
            continue  # where every word has a capital, one says nothing; names come again in the text below
        if not (name.opens and is_common(name.text)) and not _is_ornament(name, source):
            yield Finding("name", name.text)


def _may_head(text: str) -> bool:
    return "**" in text or "#" in text or ":\n" in text or text.rstrip().endswith(":")


def _in_title_case(heading: str) -> bool:
    long = [w for w in re.findall(r"[^\W\d_]+", heading) if len(w) > 3]
    return len(long) > 1 and sum(w[0].isupper() for w in long) >= 0.75 * len(long)


def _is_known(name: str, source: Source) -> bool:
    lower = name.lower()
    if lower in source.words or len(name) == 1 or lower in FUNCTION_WORDS or lower in _ALWAYS:
        return True
    parts = [p for p in re.split(r"['’-]", lower) if p]
    if len(parts) > 1 and all(p in source.words or p in common_words() for p in parts):
        return True
    if lower.endswith("s") and lower[:-1] in source.words or f"{lower}s" in source.words:
        return True
    if name.isupper() and name in source.acronyms:
        return True
    return len(_root(name)) >= 4 and _root(name) in source.stems


def _is_ornament(name: Name, source: Source) -> bool:
    """A day of the week where the source names none; a day beside those it names would be wrong."""
    if not is_weekday(name.text):
        return False
    return not source.weekdays or name.text.lower().removesuffix("s") in source.weekdays


_ALWAYS = frozenset(
    "i i'm i'd i'll i've ok q a mr mrs ms dr sir madam what's who's it's let's q&a faq english".split()
)


_PEOPLES = {
    "french": "france", "dutch": "netherlands", "spanish": "spain", "polish": "poland", "british": "britain",
    "english": "england", "danish": "denmark", "swedish": "sweden", "greek": "greece", "turkish": "turkey",
    "swiss": "switzerland", "welsh": "wales", "irish": "ireland", "scottish": "scotland", "norwegian": "norway",
}  # fmt: skip


def _root(name: str) -> str:
    lower = name.lower()
    return _DEMONYM.sub("", _PEOPLES.get(lower, lower), count=1)


def _acronyms(text: str) -> Iterator[str]:
    """The initials of each run of two to six capitalised words."""
    for run in re.finditer(r"[A-Z][\w-]+(?: (?:(?:of|the|and|for|in) )*[A-Z][\w-]+)+", text):
        initials = [w[0] for w in run.group().split() if w[0].isupper()]
        for first in range(len(initials)):
            for last in range(first + 2, min(first + 6, len(initials)) + 1):
                yield "".join(initials[first:last])


# --- negations --------------------------------------------------------------------------------


def _strange_negations(text: str, source: Source) -> Iterator[Finding]:
    """Statements that deny what the source affirms, or affirm what it denies, in nearly the same words; of two
    both must be the same."""
    for sentence in _sentences(text):
        said, denied, soft = _said(_VERDICT.sub("", sentence))
        if len(said) < 2 or soft or sentence[-1] not in ".!" or sentence[0].islower():
            continue  # a heading, a short answer or the rest of a sentence states nothing by itself
        if len(said) == 2:
            alike = [(d, s) for words, d, s in source.said if words == said]
        else:
            alike = [(d, s) for words, d, s in source.said if len(words) >= 3 and _likeness(said, words) >= 0.7]
        if alike and not any(s or d % 2 == denied % 2 for d, s in alike):
            yield Finding("negation", sentence)


def _stated(text: str) -> Iterator[tuple[frozenset[str], int, bool]]:
    """Sentences and clauses that state something: no questions, and of the short ones none without its subject."""
    for sentence in _sentences(text):
        for part in (sentence, *_clauses(sentence)) if not sentence.endswith("?") else ():
            said = _said(part)
            if len(said[0]) > 2 or not _LEANS.match(part):
                yield said


def _said(text: str) -> tuple[frozenset[str], int, bool]:
    return frozenset(content_words(text)), negations(text), denies_softly(text)


def _likeness(some: frozenset[str], others: frozenset[str]) -> float:
    return 2 * len(some & others) / (len(some) + len(others))


def _sentences(text: str) -> list[str]:
    return [text[s:e] for s, e in sentences(text)] if len(text) > 1 else []


def _clauses(sentence: str) -> list[str]:
    parts = [p for p in _CLAUSE.split(sentence) if p]
    return [p for p in parts if len(p.split()) >= 3] if len(parts) > 1 else []
