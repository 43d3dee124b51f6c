"""What two passages say together: comparisons, what they have in common, and a text told from both.

A model that learnt each document by itself fails where an answer needs two of them; EntiGraph (arXiv 2409.07431)
gains by telling how entities relate across a corpus. Passages are brought together by what they share: the same
thing said with another number, a name, or a unit. What is said of both must stand in each of them: writers that
are asked for what two have in common find it where there is none."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.documents import sentences
from imprint.synthesis import skills
from imprint.synthesis.cloze import RULES, name_in_title, passage_askings
from imprint.synthesis.design import Cell, cells
from imprint.synthesis.facts import (
    Fact,
    facts,
    is_loose,
    is_sound,
    key_words,
    leans,
    lowered,
    overlap,
    read_characters,
    stems,
)
from imprint.synthesis.forms import exchange, place, reading, shown
from imprint.synthesis.prompt_files import filled
from imprint.synthesis.prose import continued, prose
from imprint.types import Effort, Example, Passage, Prompt, Text, Writer

_FAR = 4
"""Passages of one document count as two texts from this distance on, in passages."""
_LOOKED_AT = 32
"""Places of a shared name or unit that are looked at for a partner."""
_MORE = {
    "how many": ("more", "fewer"),
    "how much": ("more", "less"),
    "what percent": ("a higher percent", "a lower percent"),
}
_NAMELIKE = re.compile(r"(?<!^)[A-Z]|^[A-Z]\w+$")
_DIGITS = re.compile(r"\d[\d.,]*\d|\d")
_FIRM = re.compile(r"(?<=[^.!?] )[A-Z][\w'’-]*|\d[\w.,]*")
"""Numbers, and words with a capital that is not a sentence's."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two passages that share something."""

    first: Passage
    second: Passage
    shared: str
    """A name that stands in both; '' where they share a unit or what is said."""
    labels: tuple[str, str]
    """What each is called beside the other; two equal ones cannot be told apart."""

    @property
    def both(self) -> list[Passage]:
        return [self.first, self.second]

    @property
    def question(self) -> str:
        a, b = self.labels
        said = f"both say about {self.shared}" if self.shared else "have in common"
        return f"What do {a} and {b} {said}?"

    @property
    def texts(self) -> dict[str, str]:
        return {"first": shown(self.first), "second": shown(self.second)}


@dataclass(frozen=True, slots=True)
class MultiDocument:
    """Items over two passages of different documents, or of distant parts of one."""

    name: str = "multi_document"
    temperature: float = 0.7

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """Items of one round: each passage meets one partner, another one with another seed."""
        pairs = list(_pairs(passages, seed))
        drawn = cells(len(pairs), seed=seed)
        first = 0
        for group in _some(pairs):
            left = []
            for pair in group:
                compared = self._by_rule(pair, seed)
                left += [] if compared else [pair]
                yield from compared
            yield from self._by_writer(left, writer, seed)
            yield from self._in_common(group, writer, seed)
            yield from self._texts(group, drawn[first : first + len(group)], writer, seed)
            first += len(group)

    def effort(self, passage: Passage) -> Effort:
        """As if its partner were of its length; a pair counts for both."""
        if not _keys(passage):
            return Effort()
        pair = _Pair(passage, passage, "", ("A", "B"))
        prompts = [self.common_prompt(pair), self.text_prompt(pair, Cell("a text", "a teacher", ""))]
        read = read_characters(prompts) + len(shown(passage)) * 3
        return Effort(4, read, 700, 450 + 2 * len(place(passage)))

    def compare_prompt(self, pair: _Pair) -> Prompt:
        a, b = pair.labels
        asked = filled("multi_document.comparison.txt", a=a, b=b, **pair.texts)
        return Prompt.ask(asked, begun="Which", max_tokens=70, temperature=self.temperature)

    def common_prompt(self, pair: _Pair) -> Prompt:
        asked = filled("multi_document.both.txt", question=pair.question, **pair.texts)
        return Prompt.ask(asked, begun="Both", max_tokens=80, temperature=self.temperature)

    def side_prompt(self, pair: _Pair, side: int, told: str) -> Prompt:
        """Whether one of the two says what is told of both; the other is not shown."""
        a, b = pair.labels if side == 0 else pair.labels[::-1]
        asked = filled("multi_document.side.txt", passage=shown(pair.both[side]), a=a, b=b, told=told)
        return Prompt.ask(asked, max_tokens=4)

    def text_prompt(self, pair: _Pair, cell: Cell) -> Prompt:
        a, b = pair.labels
        asked = filled("multi_document.text.txt", a=a, b=b, form=cell.form, voice=cell.voice, **pair.texts)
        return Prompt.ask(asked, begun=cell.opening, max_tokens=150, temperature=self.temperature)

    def _by_rule(self, pair: _Pair, seed: int) -> list[Example]:
        """A comparison of two numbers of which the same is said; none where there are no such numbers."""
        draw = random.Random(f"{self.name}:{seed}:{pair.first.id}:{pair.second.id}")
        known: dict[str, list[Fact]] = {}
        for fact in _measured(pair.second):
            known.setdefault(_shape(fact), []).append(fact)
        alike = [(f, other) for f in _measured(pair.first) for other in known.get(_shape(f), [])]
        draw.shuffle(alike)
        for one, other in alike:
            compared = _comparison(one, other, pair.labels, draw)
            if compared:
                return [exchange(pair.both, *compared, f"{self.name}/comparison", RULES)]
        return []

    def _by_writer(self, pairs: Sequence[_Pair], writer: Writer, seed: int) -> Iterator[Example]:
        """Comparisons that the writer makes up, where reading both passages answers them alike."""
        prompts = [self.compare_prompt(p) for p in pairs]
        told = [continued(p, t.text) for p, t in zip(prompts, _written(writer, prompts, seed), strict=True)]
        asked = [(pair, *found) for pair, text in zip(pairs, told, strict=True) for found in skills.pairs(text)[:1]]
        asked = [item for item in asked if _compares(item[0], item[1])]
        checks = [skills.read(f"{shown(p.first)}\n\n{shown(p.second)}", question) for p, question, _ in asked]
        for (pair, question, answer), read in zip(asked, _written(writer, checks, seed), strict=True):
            if overlap(read.text, answer) >= 0.5:
                yield exchange(pair.both, question, answer, f"{self.name}/comparison", writer.name)

    def _in_common(self, pairs: Sequence[_Pair], writer: Writer, seed: int) -> Iterator[Example]:
        """What both say: of what the writer finds, that which each side says by itself when it is asked alone."""
        prompts = [self.common_prompt(p) for p in pairs]
        texts = _written(writer, prompts, seed)
        found = [(p, _of_both(prose(q, t.text), p)) for p, q, t in zip(pairs, prompts, texts, strict=True)]
        found = [(pair, told) for pair, told in found if is_sound(told, pair.both, least_words=6)]
        checks = [self.side_prompt(pair, side, told) for pair, told in found for side in (0, 1)]
        said = [_says_yes(t.text) for t in _written(writer, checks, seed)]
        for i, (pair, told) in enumerate(found):
            if all(said[2 * i : 2 * i + 2]):
                yield exchange(pair.both, pair.question, told, f"{self.name}/both", writer.name)

    def _texts(self, pairs: Sequence[_Pair], drawn: Sequence[Cell], writer: Writer, seed: int) -> Iterator[Example]:
        prompts = [self.text_prompt(p, c) for p, c in zip(pairs, drawn, strict=True)]
        for pair, prompt, text in zip(pairs, prompts, _written(writer, prompts, seed), strict=True):
            told = prose(prompt, text.text)
            if is_sound(told, pair.both, least_words=12) and _tells_both(told, pair):
                yield reading(pair.both, f"{place(pair.second)} {told}", f"{self.name}/text", writer.name)


# --- passages brought together ----------------------------------------------------------------


def _pairs(passages: Sequence[Passage], seed: int) -> Iterator[_Pair]:
    """For each passage a partner that shares something with it; no two pairs alike."""
    keys = [_keys(p) for p in passages]
    places: dict[str, list[int]] = {}
    for i, found in enumerate(keys):
        for key in found:
            places.setdefault(key, []).append(i)
    met: set[tuple[int, int]] = set()
    for i, passage in enumerate(passages):
        draw = random.Random(f"pairs:{seed}:{passage.id}")
        for key in draw.sample(list(keys[i]), len(keys[i])):
            near = draw.sample(places[key], min(_LOOKED_AT, len(places[key])))
            partner = next((j for j in near if _apart(passages, i, j) and (min(i, j), max(i, j)) not in met), None)
            if partner is not None:
                met.add((min(i, partner), max(i, partner)))
                labels = _labels(passage, passages[partner])
                if labels[0] != labels[1]:
                    yield _Pair(passage, passages[partner], keys[i][key], labels)
                break


def _apart(passages: Sequence[Passage], i: int, j: int) -> bool:
    return i != j and (passages[i].document_id != passages[j].document_id or abs(i - j) >= _FAR)


def _keys(passage: Passage) -> dict[str, str]:
    """By what a passage can meet others, each with the name that they then share, if it is one."""
    found = {f"shape:{_shape(fact)}": "" for fact in _measured(passage)}
    for asking in passage_askings(passage):
        if asking.kind == "number" and asking.words.startswith(tuple(_MORE)):
            found[f"unit:{asking.words}"] = ""
        elif asking.kind in ("name", "subject"):
            name = re.sub(r"^(?:The|A|An|Our) |['’]s$", "", asking.answer)
            known = name in passage.title or lowered(name, passage) != name
            if len(name.split()) <= 5 and _NAMELIKE.search(name) and not known:
                found[f"name:{name.lower()}"] = name
    return found


def _labels(first: Passage, second: Passage) -> tuple[str, str]:
    """What tells the two apart: their titles' names, else their titles, else their headings."""
    ways = (name_in_title, lambda p: p.title, lambda p: p.heading.split(" > ")[-1] or p.title)
    return next(((w(first), w(second)) for w in ways if w(first) != w(second)), (first.title, first.title))


def _some(pairs: Sequence[_Pair], size: int = 16) -> Iterator[Sequence[_Pair]]:
    for first in range(0, len(pairs), size):
        yield pairs[first : first + size]


# --- two numbers compared ---------------------------------------------------------------------


def _measured(passage: Passage) -> list[Fact]:
    """Facts whose value is a number that can be more or less."""
    return [
        f
        for f in facts(passage)
        if f.asking.kind == "number" and f.asking.words.startswith(tuple(_MORE)) and _DIGITS.search(f.value)
    ]


def _shape(fact: Fact) -> str:
    """What is said of the subject with the number's unit, and without the number."""
    unit = _DIGITS.sub("#", fact.value, count=1)
    return f"{fact.rest} {unit}".lower()


def _comparison(one: Fact, other: Fact, labels: tuple[str, str], draw: random.Random) -> tuple[str, str] | None:
    """A question which of two is more or less, and its answer with both statements."""
    texts = [f.asking.statement.whole for f in (one, other)]
    if leans(texts[0]) or leans(texts[1]):
        return None
    values = [float(_DIGITS.findall(f.value)[0].replace(",", "")) for f in (one, other) if _plain(f.value)]
    if len(values) < 2:
        return None
    same = one.subject.lower() == other.subject.lower()
    if not same and any(map(is_loose, texts)):
        return None  # 'at least 3' may be more than 5, and what does not weigh 3 may weigh more than 8
    names = list(labels) if same else [_named(one), _named(other)]
    words = next(w for w in _MORE if one.asking.words.startswith(w))
    less = draw.random() < 0.5
    order = draw.sample((0, 1), 2)
    two = f"{names[order[0]]} or {names[order[1]]}"
    if same:
        asked = f"Which of the two has the {'lower' if less else 'higher'} number, {two}? {one.asking.gap}"
    else:
        rest = one.asking.echo[len(one.subject) :].strip(" .")
        asked = f"Which {rest.replace(words, _MORE[words][less], 1)}, {two}?"
    if values[0] == values[1]:
        answer = "They are the same."
    else:
        winner = names[(values[1] > values[0]) != less]
        answer = f"{winner[:1].upper()}{winner[1:]}."
    told = [f"{labels[i]}: {t}" if same else t for i, t in enumerate(texts)]
    return asked, f"{answer} {told[0]} {told[1]}"


def _named(fact: Fact) -> str:
    return lowered(fact.subject, fact.asking.statement.passage)


def _plain(value: str) -> bool:
    """Whether the value's one number is written in the way of English: 1,140 or 3.5."""
    found = _DIGITS.findall(value)
    return len(found) == 1 and re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?", found[0]) is not None


# --- what is kept -----------------------------------------------------------------------------


def _compares(pair: _Pair, question: str) -> bool:
    """Whether a question names both sides."""
    said = set(key_words(question))
    sides = [set(key_words(label)) for label in pair.labels]
    own = (sides[0] - sides[1] or sides[0], sides[1] - sides[0] or sides[1])
    return len(question.split()) <= 40 and all(said & side for side in own)


def _of_both(text: str, pair: _Pair) -> str:
    """The sentences of a text that each of the two may have said; '' where its first, which says 'both', is not."""
    told = [text[start:end] for start, end in sentences(text)]
    common = [s for s in told if all(_may_say(p, s, pair) for p in pair.both)]
    return " ".join(common) if common and common[0] == told[0] else ""


def _may_say(passage: Passage, sentence: str, pair: _Pair) -> bool:
    """Whether all numbers and names, and half of the other words of a sentence about both stand in a passage."""
    own = f"{passage.title} {passage.heading} {passage.text}"
    said = stems(sentence) - stems(" ".join(pair.labels)) - {"both"}
    firm = stems(" ".join(_FIRM.findall(sentence))) - stems(" ".join(pair.labels))
    known = stems(own)
    return firm <= known and bool(said & known) and 2 * len(said & known) >= len(said)


def _says_yes(text: str) -> bool:
    return re.match(r"\W*yes\b", text, re.IGNORECASE) is not None


def _tells_both(text: str, pair: _Pair) -> bool:
    """Whether at least two words of each passage that the other has not stand in the text."""
    said, one, other = stems(text), stems(pair.first.text), stems(pair.second.text)
    return min(len(said & (one - other)), len(said & (other - one))) >= 2


def _written(writer: Writer, prompts: Sequence[Prompt], seed: int) -> list[Text]:
    return writer.write(prompts, seed=seed) if prompts else []
