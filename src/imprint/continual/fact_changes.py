"""Which facts changed between two editions of documents, in words.

Sentences that stand in both editions are no change, wherever they stand now. Of the others, those of one document
that are alike in most words are paired, the likest first: what differs in such a pair is the changed fact. What
finds no partner is new, or is not said any more."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from imprint.synthesis.contradictions import Said, Told, are_unlike, differing_names, taken_apart
from imprint.synthesis.statements import statements
from imprint.types import Passage

_ALIKE, _RELATED = 0.8, 0.5
"""Share of content words that two sentences have in common which differ in one value, and which tell the same
otherwise."""
_SHARED = 0.5
"""Share of the shorter one's sentences that a document which was renamed has in common with what it was called."""
_CROWD = 60
"""Sentences that share a word, from which on that word brings none together."""
_TOLD_APART = 0.6
"""Share of a sentence's words that may differ for the rest to tell what it is about."""
_MARKUP = re.compile(r"\[([^\]^]*)\]\([^)\s]*\)|\s*\{#[\w-]+\}|\[\^\w+\]|<!--.*?(?:-->|$)|</?[a-z][\w-]*>|\*\*")
"""Addresses of links, anchors, footnotes' marks, tags and comments: no part of what is said."""
_WORD = re.compile(r"\w+|[%$€£¥°]")
_TRAILING = frozenset(
    "a an the is are was were be been has have had of in on at to for by from with as and or".split()
)


@dataclass(frozen=True, slots=True)
class FactChange:
    """One thing that the new edition says otherwise than the old one, or that only one of them says."""

    kind: str
    """'number', 'date', 'name' or 'negation' where one value differs; 'restated' where more does; 'new', 'gone'."""
    old: Said | None
    new: Said | None
    values: tuple[str, str] = ("", "")
    """What differs, as it is written: before, now."""
    contradicts: bool = False
    """Whether the old statement cannot hold beside the new one; what is only put otherwise can."""

    @property
    def title(self) -> str:
        """The document that says it, as it is called now."""
        said = self.new or self.old
        return said.title if said else ""


def fact_changes(old: Sequence[Passage], new: Sequence[Passage]) -> list[FactChange]:
    """What changed from one edition's passages to the next one's, in the order of the new; what is gone last."""
    kept = {p.document_id for p in old} & {p.document_id for p in new}
    before, now = (_lines(p for p in side if p.document_id not in kept) for side in (old, new))
    called = _called(before, now)
    only_before, only_now = _without_common(before, now, called)
    partners = _partners(only_before, only_now, called)
    changes = []
    for i, line in enumerate(only_now):
        if i not in partners:
            changes.append(FactChange("new", None, line.said, ("", line.text)))
        elif (change := _compared(only_before[partners[i]].told, line.told)) is not None:
            changes.append(change)
    paired = set(partners.values())
    gone = [line for i, line in enumerate(only_before) if i not in paired]
    return changes + [FactChange("gone", line.said, None, (line.text, "")) for line in gone]


def in_words(change: FactChange) -> str:
    """A change in one sentence: "Dogs in the office: was 'allowed on Fridays', is 'not allowed'."."""
    if change.old is None or change.new is None:
        said = change.new or change.old
        return f"{'New' if change.new else 'Not said any more'}: '{said.text if said else ''}'"
    before, (was, now), after = differing(change.old.text, change.new.text)
    most = max(len(was.split()), len(now.split()))
    if most > _TOLD_APART * max(len(change.old.text.split()), len(change.new.text.split())):
        return f"Was '{change.old.text}', is '{change.new.text}'"
    about = before.split()
    if after:
        return f"{' '.join([*about, '____', after])}: was '{was}', is '{now}'."
    while about and about[-1].lower() in _TRAILING:
        about.pop()
    return f"{' '.join(about) or change.title}: was '{was}', is '{now}'."


def differing(*texts: str) -> tuple[str, tuple[str, ...], str]:
    """Sentences as what all begin with, what each goes on with, and how all end.

    No middle is empty where that can be: if one has words more, a neighbour stands in all of them."""
    words = [text.rstrip(".!").split() for text in texts]
    shorter = min(map(len, words))
    first = next((i for i in range(shorter) if len({w[i] for w in words}) > 1), shorter)
    last = next((i for i in range(shorter - first) if len({w[-1 - i] for w in words}) > 1), shorter - first)
    if first + last == shorter:
        first, last = (first, last - 1) if last else (max(0, first - 1), last)
    middles = tuple(" ".join(w[first : len(w) - last]).rstrip(",;") for w in words)
    return " ".join(words[0][:first]), middles, " ".join(words[0][len(words[0]) - last :])


# --- the sentences of an edition --------------------------------------------------------------


@dataclass(slots=True)
class _Line:
    """A sentence and where it stands."""

    text: str
    passage: Passage
    heading: str
    place: float
    """How far down its document, from 0 to 1."""
    _told: Told | None = None

    @property
    def told(self) -> Told:
        # Most sentences stand in both editions and are never looked into.
        self._told = self._told or taken_apart(self.text, self.passage)
        return self._told

    @property
    def said(self) -> Said:
        return Said(self.text, self.passage.id, self.passage.title)


def _lines(passages: Iterable[Passage]) -> list[_Line]:
    """What passages state, without questions and without markup."""
    found = []
    for passage in passages:
        heading, place = _bare(passage.heading), passage.start / max(1, len(passage.whole))
        for text in dict.fromkeys(_bare(s.whole) for s in statements(passage)):
            if not text.endswith("?") and len(text.split()) > 1:
                found.append(_Line(text, passage, heading, place))
    return found


def _bare(text: str) -> str:
    return " ".join(_MARKUP.sub(r"\1", text).split())


def _without_common(
    before: Sequence[_Line], now: Sequence[_Line], called: Mapping[str, str]
) -> tuple[list[_Line], list[_Line]]:
    """Those that do not stand under the same heading in the other edition."""

    def place(line: _Line) -> tuple[str, str, str]:
        return called.get(line.passage.title, line.passage.title), line.heading, line.text

    common = {place(line) for line in before} & {place(line) for line in now}
    return [x for x in before if place(x) not in common], [x for x in now if place(x) not in common]


def _called(before: Sequence[_Line], now: Sequence[_Line]) -> dict[str, str]:
    """For each document that is called otherwise now, its title then and what it is called now.

    The titles differ in their numbers only, or most of what the shorter one says stands in the other."""
    was, new = _texts(before), _texts(now)
    found: dict[str, str] = {}
    for title in [t for t in was if t not in new]:
        shares = {
            other: len(was[title] & new[other]) / min(len(was[title]), len(new[other]))
            for other in new
            if other not in was and other not in found.values()
        }
        alike = {o: 1 + share if _unnumbered(o) == _unnumbered(title) else share for o, share in shares.items()}
        likest = max(alike, key=lambda o: alike[o], default="")
        if likest and alike[likest] >= _SHARED:
            found[title] = likest
    return found


def _texts(lines: Sequence[_Line]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        found[line.passage.title].add(line.text)
    return dict(found)


def _unnumbered(title: str) -> str:
    return re.sub(r"[\W\d_]+", " ", title.lower()).strip()


# --- pairs ------------------------------------------------------------------------------------


def _partners(before: Sequence[_Line], now: Sequence[_Line], called: Mapping[str, str]) -> dict[int, int]:
    """For each new sentence that has one, the old one in whose place it stands; none is taken twice."""
    found: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in sorted(_candidates(before, now, called), reverse=True):
        if -i not in found and -j not in taken:
            found[-i] = -j
            taken.add(-j)
    return found


def _candidates(
    before: Sequence[_Line], now: Sequence[_Line], called: Mapping[str, str]
) -> Iterator[tuple[tuple[int, float], int, int]]:
    """Likeness of sentences that may be one in two editions, and their places, negative: the earlier come first."""
    index: dict[str, list[int]] = defaultdict(list)
    by_text: dict[str, list[int]] = defaultdict(list)
    for j, line in enumerate(before):
        by_text[line.text].append(j)
        for word in _key_words(line):
            if len(index[word]) < _CROWD:
                index[word].append(j)
    for i, line in enumerate(now):
        met = {j for word in _key_words(line) for j in index[word]} | set(by_text[line.text])
        for j in met:
            other = before[j]
            same_document = called.get(other.passage.title, other.passage.title) == line.passage.title
            if (same_document or other.text == line.text) and (likeness := _likeness(other, line)) is not None:
                yield likeness, -i, -j


def _key_words(line: _Line) -> set[str]:
    return set(line.told.words) | {n.lower() for n in line.told.names} | {line.heading}


def _likeness(old: _Line, new: _Line) -> tuple[int, float] | None:
    """How likely two sentences are one in two editions; None where they are about two things.

    What stands under the same heading in nearly the same words comes before the same words elsewhere."""
    one, other = old.told, new.told
    share = _jaccard(one.words, other.words)
    gone, come = differing_names(one, other)
    other_thing = bool(gone and come) and len(gone) == len(one.names) and len(come) == len(other.names)
    if share < _RELATED or (other_thing and (len(gone) > 1 or len(come) > 1 or _unlike(one, other) != [])):
        return None
    near = old.heading == new.heading
    if len(one.words | other.words) < 3 and not near and old.text != new.text:
        return None
    names = _jaccard({n.lower() for n in one.names}, {n.lower() for n in other.names})
    values = _jaccard({v[1] for v in one.values}, {v[1] for v in other.values})
    score = share + 0.5 * names + 0.2 * values + 0.3 * near - 0.1 * abs(old.place - new.place)
    return (2 if near and share >= _ALIKE else 1 if old.text == new.text else 0), score


def _jaccard(one: Iterable[str], other: Iterable[str]) -> float:
    mine, theirs = set(one), set(other)
    return len(mine & theirs) / len(mine | theirs) if mine or theirs else 1.0


# --- what differs -----------------------------------------------------------------------------


def _compared(old: Told, new: Told) -> FactChange | None:
    """What differs in two sentences that are one in two editions; None where that is no more than spelling."""
    unlike = _unlike(old, new)
    if not unlike and _said_words(old.text) == _said_words(new.text):
        return None
    share = _jaccard(old.words, new.words)
    gone, come = differing_names(old, new)
    turned = old.denied != new.denied and not old.soft and not new.soft
    _, (was, now), _ = differing(old.text, new.text)
    if share >= _ALIKE and not gone and not come:
        if unlike is not None and len(unlike) == 1 and old.denied == new.denied and not unlike[0][0][3]:
            kind, written = unlike[0][0][0].split()[0], (unlike[0][0][2], unlike[0][1][2])
            # A number is told with what is written to it: '$500'.
            return FactChange(kind, old.said, new.said, written if kind == "date" else (was, now), True)
        if unlike == [] and turned:
            return FactChange("negation", old.said, new.said, (was, now), True)
    if old.words == new.words and unlike == [] and old.denied == new.denied and len(gone) == len(come) == 1:
        return FactChange("name", old.said, new.said, (gone[0], come[0]), True)
    other_values = any(not one[3] for one, _ in unlike or ())
    contradicts = other_values or (turned and (old.words <= new.words or new.words <= old.words))
    return FactChange("restated", old.said, new.said, (was, now), contradicts)


Value = tuple[str, str, str, bool]


def _unlike(old: Told, new: Told) -> list[tuple[Value, Value]] | None:
    """The values that differ; None where the two do not have the same kinds of values in the same order."""
    if [v[0].split()[0] for v in old.values] != [v[0].split()[0] for v in new.values]:
        return None
    return [(a, b) for a, b in zip(old.values, new.values, strict=True) if are_unlike(a, b)]


def _said_words(text: str) -> list[str]:
    """What two sentences are compared by that may say the same: '$' and '%' count, articles do not."""
    return [w for w in _WORD.findall(text.lower()) if w not in ("a", "an", "the")]
