"""What is not so: a value of the wrong thing asked about and denied, and the right one confirmed, as often.

Models that learn only what is the case say yes to whatever sounds alike. The wrong value is another of the same
document and of the same kind, for that is what a learner mistakes it for. It is never taught on its own: it
stands in a question, which carries no loss, or in the turn that denies it. What the document says anywhere is not
denied, whether that is taught or not, and what another document says is denied of this one by name."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from imprint.documents import sentences
from imprint.synthesis.cloze import RULES, name_in_title, titled
from imprint.synthesis.facts import Concordance, Fact, by_document, dealt, facts, is_loose, leans, lowered, stems
from imprint.synthesis.forms import TOGETHER, exchange, groups
from imprint.synthesis.novelty import further_off, widened
from imprint.synthesis.prompt_files import filled_in, prompt_lines
from imprint.synthesis.quantities import dates, numbers
from imprint.types import Effort, Example, Passage, Writer

_KINDS = ("number", "time", "name")
_LONGEST = 30
"""Words from which on a statement is too long to be asked about."""
_TRIES = 6
"""Wrong values tried before a fact is left alone."""
_SAID_TOO = 0.6
"""Share of a statement's other words with which a sentence counts as saying the same of its value."""
_VERBS = frozenset("is are was were can must may will should".split())
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_WORDS = "one two three four five six seven eight nine ten eleven twelve".split()
_SMALL = {str(i): word for i, word in enumerate(_WORDS, 1)}
"""Numbers that texts have as words as well."""
_DIGITS = re.compile(r"\d[\d.,:]*\d|\d")


@dataclass(frozen=True, slots=True)
class Negatives:
    """Yes/no questions about facts: one denied for each one confirmed. Made by rule; the writer is not asked."""

    name: str = "negatives"
    a_passage: int = 3
    """Facts of each passage asked about in one round, each twice."""

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """Items of one round, document by document, in windows of neighbouring passages."""
        where = Concordance([*widened(passages).values(), *further_off(passages)])
        for document in by_document(passages):
            for window in groups(document, 2 * TOGETHER):
                near = _Window(window, where)
                for passage in window:
                    yield from self._about(passage, near, seed)

    def effort(self, passage: Passage) -> Effort:
        chosen = _firm(passage)[: self.a_passage]
        return Effort(taught_characters=sum(4 * len(f.asking.statement.whole) + 60 for f in chosen))

    def _about(self, passage: Passage, near: _Window, seed: int) -> Iterator[Example]:
        draw = random.Random(f"{self.name}:{seed}:{passage.id}")
        for fact in dealt(near.firm[passage.id], self.a_passage, key=f"{self.name}:{passage.id}", seed=seed):
            value, source = near.wrong_value(fact, draw)
            if not value:
                continue
            elsewhere = near.is_said(fact, value, apart=True)
            frame = draw.choice(prompt_lines("negatives.frames.txt"))
            denial = draw.choice(("No.", f"No, not {value}."))
            right = fact.asking.statement.whole
            false = value.join(_inside(fact.value).split(right, 1))
            both = [passage, source] if source.id != passage.id else [passage]
            asked = [asked_whether(frame, s, passage) for s in (false, right)]
            if elsewhere:
                asked = [titled(a, passage) for a in asked]
            yield exchange(both, asked[0], f"{denial} {right}", f"{self.name}/denied", RULES)
            yield exchange([passage], asked[1], f"Yes. {right}", f"{self.name}/confirmed", RULES)


class _Window:
    """Neighbouring passages of a document: the facts that they state, and what all documents say."""

    def __init__(self, passages: Sequence[Passage], where: Concordance) -> None:
        self.firm = {p.id: _firm(p) for p in passages}
        self._facts = [f for found in self.firm.values() for f in found]
        self._where = where

    def wrong_value(self, fact: Fact, draw: random.Random) -> tuple[str, Passage]:
        """A value of the kind that the thing does not have, and the passage it is from; '' if there is none."""
        candidates = _others(fact, self._facts)
        for value, source in draw.sample(candidates, min(_TRIES, len(candidates))):
            if not _may_be_same(value, fact.value) and not self.is_said(fact, value, apart=False):
                return value, source
        return "", fact.asking.statement.passage

    def is_said(self, fact: Fact, value: str, *, apart: bool) -> bool:
        """Whether some sentence has the value along with most of the statement's other words: it could be true.

        Of the fact's own document and those of its title, or, `apart`, of all others."""
        own = fact.asking.statement.passage
        words = f"{fact.subject} {fact.rest}"
        rest = stems(words) - stems(value)
        return any(
            len(rest & stems(sentence)) >= _SAID_TOO * len(rest) and _is_said_in(value, sentence)
            for wording in _wordings(value)
            for passage in self._where.telling(wording, words, like=None if apart else own)
            if (passage.document_id != own.document_id and passage.title != own.title) == apart
            for sentence in _sentences(passage)
        )


def _firm(passage: Passage) -> list[Fact]:
    """The numbers, times and names of statements that stand on their own."""
    return [f for f in facts(passage) if f.asking.kind in _KINDS and _stands_alone(f)]


def _stands_alone(fact: Fact) -> bool:
    whole = fact.asking.statement.whole
    plain = whole.endswith(".") and not re.search(r"[?:]|for example", whole, re.IGNORECASE)
    once = len(_inside(fact.value).findall(whole)) == 1
    odd = re.search(rf"(?:\(|\d |(?:{_MONTHS}) ){re.escape(fact.value)}", whole)  # a short form; part of a date
    return plain and once and not (odd or leans(whole) or is_loose(whole)) and len(whole.split()) <= _LONGEST


def _sentences(passage: Passage) -> Iterator[str]:
    return (passage.text[start:end] for start, end in sentences(passage.text))


def _others(fact: Fact, among: Sequence[Fact]) -> list[tuple[str, Passage]]:
    """Other values of the kind, and where each is from.

    Where no other one answers the same question words, another number takes the number's place ('85
    kilograms'). What the same sentence says is not wrong, nor is another name for the same."""
    asking, said = fact.asking, fact.asking.statement.whole
    alike = [f for f in among if f.asking.kind == asking.kind and not _stands_in(f.value, said)]
    same = [f for f in alike if f.asking.words == asking.words]
    if asking.kind == "name":
        same = [f for f in same if _fits_there(f, fact) and not stems(f.value) & stems(fact.value)]
    if same or asking.kind != "number":
        return [(f.value, f.asking.statement.passage) for f in same]
    found = []
    for other in alike:
        digits, own = _DIGITS.search(other.value), _DIGITS.search(fact.value)
        if digits and own and not _stands_in(digits.group(), said):
            value = fact.value[: own.start()] + digits.group() + fact.value[own.end() :]
            found.append((value, other.asking.statement.passage))
    return found


def _may_be_same(one: str, other: str) -> bool:
    """Whether two values may be one in other words: '3 poles' and 'three poles', 'March' and '5 March 2021'."""
    return _is_said_in(one, other) or _is_said_in(other, one)


def _is_said_in(value: str, text: str) -> bool:
    """Whether a text has a value, perhaps in other words."""
    if _stands_in(value, text):
        return True
    own = dates(value)
    pairs = [(a, b) for first in own for second in dates(text) for a, b in permutations((first, second))]
    if own:
        return any(a.is_told_by(b, {str(a.year)}) for a, b in pairs)
    counted = {n.value for n in numbers(value)}
    return bool(counted) and counted <= {n.value for n in numbers(text)}


def _wordings(value: str) -> list[str]:
    """A value with its one small number in digits, and in a word."""
    found = numbers(value)
    if len(found) != 1 or found[0].value not in _SMALL:
        return [value]
    before, after = value[: found[0].start], value[found[0].end :]
    return [f"{before}{form}{after}" for form in (found[0].value, _SMALL[found[0].value])]


def _fits_there(other: Fact, fact: Fact) -> bool:
    """Whether a name stands as the other does: short forms for short forms, after an article or not."""

    def how(f: Fact) -> tuple[bool, str]:
        before = f.asking.statement.text[: f.asking.start].split()[-1:] or [""]
        return f.value.isupper(), before[0].lower() if before[0].lower() in ("the", "a", "an") else ""

    return how(other) == how(fact)


def _stands_in(value: str, text: str) -> bool:
    # Most values do not, and a pattern takes a thousand times as long to make.
    return value.casefold() in text.casefold() and _inside(value).search(text) is not None


def _inside(value: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.]){re.escape(value)}(?!\w)", re.IGNORECASE)


def asked_whether(frame: str, statement: str, passage: Passage) -> str:
    """A statement as a yes/no question; a frame of a dash puts the verb first where it is a simple one."""
    bare = lowered(statement.rstrip("."), passage)
    if frame == "-":
        inverted = _inverted(statement.rstrip("."), passage)
        if inverted:
            return inverted
        frame = prompt_lines("negatives.frames.txt")[0]
    return filled_in(frame, title=name_in_title(passage), statement=bare)


def _inverted(statement: str, passage: Passage) -> str:
    """'Is the office on Bank Street?' of 'The office is on Bank Street'; '' where the verb is not that simple."""
    words = statement.split()
    at = next((i for i, w in enumerate(words[:9]) if w in _VERBS), 0)
    if not at or re.search(r",| (?:and|but|who|which|that) ", statement):
        return ""
    return f"{words[at].capitalize()} {lowered(' '.join(words[:at]), passage)} {' '.join(words[at + 1 :])}?"
