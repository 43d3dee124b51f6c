"""Is it in the source? The first audit: numbers, dates and capitalised names of an item must stand in its
passage, the passage's heading or its document's title; what fails is dropped and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from imprint.types import Example, Passage

_NUMBER = re.compile(r"\d[\d.,:]*\d|\d")
_NAME = re.compile(r"(?<![\w'-])[^\W\d_a-zß-öø-ÿ][\w'-]*")
_OPENERS = frozenset(
    "What Who Whom Which When Where Why How In On At By For From With The A An It Its If Is Are Was Does Do Since "
    "Before After During To Of Since Every Each Our There This These They Any All And But You I He She We "
    "According Under Into About Whose No Yes Not".split()
)


@dataclass
class Audit:
    """Counts of what was kept and dropped, by generator, as examples pass through."""

    kept: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)
    """One line for each of the first dropped examples: what was found in which text."""
    passages_met: set[str] = field(default_factory=set)

    def faithful(self, examples: Iterable[Example], passages: Mapping[str, Passage]) -> Iterator[Example]:
        """The examples whose numbers and names are in their passages."""
        for example in examples:
            strange = unsupported(example, [passages[i] for i in example.passages]) if example.passages else []
            if strange:
                self.dropped[example.generator] += 1
                if len(self.reasons) < 50:
                    text = " / ".join(t.text for t in example.turns)
                    self.reasons.append(f"{', '.join(strange)} not in the passage: {text[:160]}")
            else:
                self.kept[example.generator] += 1
                self.passages_met.update(example.passages)
                yield example

    def counts(self) -> dict[str, dict[str, int]]:
        """JSON of the counts."""
        names = sorted({*self.kept, *self.dropped})
        return {n: {"kept": self.kept[n], "dropped": self.dropped[n]} for n in names}


def unsupported(example: Example, passages: Iterable[Passage]) -> list[str]:
    """Numbers and capitalised names of an example that its passages do not contain.

    A word that opens a sentence may be capitalised for that alone, so that its lower-case form counts too."""
    source = " ".join(f"{p.title} {p.heading} {p.text}" for p in passages)
    numbers = {_plain(n) for n in _NUMBER.findall(source)}
    words = set(re.findall(r"[\w'-]+", source)) | set(re.findall(r"\w+", source))
    lowered = {w.lower() for w in words}
    found = []
    for turn in example.turns:
        found += [n for n in _NUMBER.findall(turn.text) if _plain(n) not in numbers]
        for match in _NAME.finditer(turn.text):
            name = match.group().removesuffix("'s").removesuffix("'")
            if not name[:1].isupper():
                continue
            before = turn.text[: match.start()].rstrip()
            opens = not before or before[-1] in ".?!:;\n\"("
            known = name in words or (opens and (name.lower() in lowered or name in _OPENERS))
            if not known and name not in _OPENERS:
                found.append(name)
    return found


def _plain(number: str) -> str:
    return number.replace(",", "")
