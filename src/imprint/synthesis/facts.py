"""The firm facts of passages, dealt out over rounds, and how texts are compared: what the kinds of items share."""

from __future__ import annotations

import random
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from imprint.synthesis.cloze import name_in_title, passage_askings
from imprint.synthesis.statements import Asking
from imprint.types import Passage, Prompt

_FUNCTION_WORDS = frozenset(
    "a an the what who whom whose which how many much where when why in on at of to for by from with as and or but "
    "is are was were be been being do does did can could may might must shall should will would have has had it "
    "its this that these those there their they them he she his her we our you your i my if not no so than then "
    "also".split()
)
_DETERMINERS = frozenset(
    "The A An Our Its Their His Her Every Each Any This That These Those All Some Most".split()
)
_LEANING = frozenset(
    "It They He She This These That Those Such Its Their His Her You We I If There Here "
    "Also Then Thus Next First Second Third Below Above However Therefore Moreover Furthermore "
    "Further Similarly Instead".split()
)
_LOOSE = re.compile(
    r"\b(?:not|never|no|nor|neither|cannot|without|if|unless|(?-i:may)|might|can|could|or (?:more|less|fewer)"
    r"|at (?:least|most)|up to|(?:more|less|fewer) than)\b|n['’]t\b"
    r"|\b(?:over|under|about|around|roughly|nearly|almost|within) (?=[$€£]?\d|[a-z]+ [a-z]+s\b)",
    re.IGNORECASE,
)
"""Words with which another value is not wrong: 'at least 5' is at least 3, and a denial denied would affirm."""
_JOINTS = re.compile(r"['’-]")
_STEM = 5
"""Letters by which words count as the same: 'insure' and 'insurance'."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A value that a statement gives to its subject."""

    asking: Asking
    """The value's span, and the words that ask for it."""
    subject: str

    @property
    def value(self) -> str:
        return self.asking.answer

    @property
    def rest(self) -> str:
        """What the statement says of its subject, with a blank for the value: 'weighs ____'."""
        return self.asking.gap[len(self.subject) :].strip(" .")


def facts(passage: Passage) -> list[Fact]:
    """The facts of a passage whose statements name a subject."""
    found: list[Fact] = []
    for _, group in groupby(passage_askings(passage), key=lambda a: a.statement):
        spans = list(group)
        subject = next((a.answer for a in spans if a.kind == "subject"), "") or _titled(spans[0])
        if 0 < len(subject.split()) <= 8:
            found += [Fact(a, subject) for a in spans if a.kind != "subject" and a.start > len(subject)]
    return found


def _titled(asking: Asking) -> str:
    """What the document is about, where the statement begins with that; askings leave it out."""
    text, passage = asking.statement.text, asking.statement.passage
    names = (passage.title, name_in_title(passage))
    found = re.match(rf"(?:The )?(?:{'|'.join(map(re.escape, names))})(?= )", text)
    return found.group() if found and all(names) else ""


def leans(text: str) -> bool:
    """Whether a sentence needs the one before it to be understood: 'It weighs 3 kilograms.'"""
    first = text.split()[0] if text.split() else ""
    return first.strip("\"'(“,") in _LEANING or not first or first.endswith("ly,")


def is_loose(text: str) -> bool:
    """Whether what a sentence says of a value leaves others open, or is denied."""
    return _LOOSE.search(text) is not None


def lowered(text: str, passage: Passage) -> str:
    """A sentence as it stands inside another: its first letter small, unless a name opens it."""
    first = (text.split() or [""])[0]
    ordinary = first in _DETERMINERS or re.search(rf"\b{re.escape(first[:1].lower() + first[1:])}\b", passage.text)
    return text[:1].lower() + text[1:] if first and ordinary else text


T = TypeVar("T")


def dealt(items: Sequence[T], count: int, *, key: str, seed: int) -> list[T]:
    """So many of the items for this round; every one has its turn before one comes again with later seeds."""
    order = random.Random(f"deal:{key}").sample(range(len(items)), len(items))
    return [items[order[(seed * count + i) % len(items)]] for i in range(min(count, len(items)))]


def by_document(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    """The passages of each document, documents in the order in which they are met."""
    found: dict[str, list[Passage]] = {}
    for passage in passages:
        found.setdefault(passage.document_id, []).append(passage)
    yield from found.values()


def read_characters(prompts: Iterable[Prompt]) -> int:
    """Characters that a writer reads for these."""
    return sum(len(turn.text) for prompt in prompts for turn in prompt.turns)


# --- texts compared ---------------------------------------------------------------------------


def key_words(text: str) -> list[str]:
    """The words of a text that carry meaning, in small letters; the blank of a gap is none."""
    return [w for w in re.findall(r"[^\W_][\w'-]*", text.lower()) if w not in _FUNCTION_WORDS]


def overlap(found: str, wanted: str) -> float:
    """Token F1 of two short texts, function words left out."""
    first, second = set(key_words(found)), set(key_words(wanted))
    return 2 * len(first & second) / (len(first) + len(second)) if first and second else 0.0


def stems(text: str) -> set[str]:
    return {w[:_STEM] for w in key_words(text)}


def is_sound(text: str, passages: Sequence[Passage], *, least_words: int = 8) -> bool:
    """Whether a text is whole, speaks of its passages, does not go in circles and is no copy of them."""
    words = text.split()
    if len(words) < least_words or text[-1] not in '.!?"”)' or "<text>" in text or "</text>" in text:
        return False
    runs = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    if len(set(runs)) < 0.8 * len(runs):
        return False
    source = " ".join(f"{p.title} {p.heading} {p.text}" for p in passages)
    said = stems(text)
    return (
        bool(said)
        and len(said & stems(source)) >= 0.25 * len(said)
        and " ".join(words) not in " ".join(source.split())
    )


_NONE = array("I")


class Concordance:
    """In which passages each word stands, by its first letters; four bytes for each word of a passage."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._places: dict[str, array[int]] = {}
        self._of: dict[str, array[int]] = {}
        self._titled: dict[str, array[int]] = {}
        for i, passage in enumerate(passages):
            self._of.setdefault(passage.document_id, array("I")).append(i)
            self._titled.setdefault(passage.title, array("I")).append(i)
            text = f"{passage.title} {passage.heading} {passage.text}"
            for stem in stems(text) | stems(_JOINTS.sub(" ", text)):
                self._places.setdefault(stem, array("I")).append(i)

    def together(self, text: str) -> set[int]:
        """The passages in which all words of a text stand."""
        places = sorted(map(self._at, stems(text)), key=len)
        if not places:
            return set()
        common = set(places[0])
        for more in places[1:]:
            if not common:
                break
            common &= set(more)
        return common

    def telling(self, thing: str, said: str, *, like: Passage | None = None) -> Iterator[Passage]:
        """The passages that name a thing and have at least half of the other words said of it.

        `like`: only those of its document, and those of its title."""
        named = stems(thing)
        asked = stems(said) - named
        for i in self._near(named, asked, like):
            passage = self._passages[i]
            if like is not None and like.document_id != passage.document_id and like.title != passage.title:
                continue
            if not all(self._stands(stem, i) for stem in named):
                continue
            if 2 * sum(self._stands(stem, i) for stem in asked) >= len(asked):
                yield passage

    def may_tell(self, thing: str, said: str, document_id: str) -> bool:
        """Whether some passage could tell this of the thing: one that names it and has half of the other words,
        or one of its own document that has them all."""
        asked = stems(said) - stems(thing)
        if not asked or next(self.telling(thing, said), None) is not None:
            return True
        own = self._of.get(document_id, _NONE)
        shortest = min(own, *map(self._at, asked), key=len)
        return any(
            self._passages[i].document_id == document_id and all(self._stands(stem, i) for stem in asked)
            for i in shortest
        )

    def _near(self, named: set[str], asked: set[str], like: Passage | None) -> list[int]:
        """The fewest passages to look at: those with the rarest word of the thing, or with one of the rarer words
        said of it (who has half of them has one of the rarer half), or those of a document and of its title."""
        rarer = sorted(map(self._at, asked), key=len)[: len(asked) // 2 + 1]
        ways = [[self._at(stem)] for stem in named] + ([rarer] if asked else [])
        if like is not None:
            ways.append([self._of.get(like.document_id, _NONE), self._titled.get(like.title, _NONE)])
        return sorted(set[int]().union(*min(ways, key=lambda way: sum(map(len, way)), default=[])))

    def _at(self, stem: str) -> array[int]:
        return self._places.get(stem, _NONE)

    def _stands(self, stem: str, i: int) -> bool:
        places = self._at(stem)
        at = bisect_left(places, i)
        return at < len(places) and places[at] == i
