"""How the things that a passage names hang together, told one pair or triple at a time.

The writer lists what a passage names; of the list only what stands in the passage is kept. Each round tells of
a few pairs and a triple that no round before it told of, until all had their turn, each as another kind of text.
After EntiGraph (arXiv 2409.07431)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from imprint.errors import BadSetting
from imprint.synthesis import design
from imprint.synthesis.cloze import passage_askings
from imprint.synthesis.facts import dealt
from imprint.synthesis.forms import groups, listed, place, reading, shown
from imprint.synthesis.prompt_files import filled, prompt_file
from imprint.synthesis.prose import prose
from imprint.types import Effort, Example, Passage, Prompt, Writer

ONCE = 0
"""The seed of what is asked for alike in every round, so that a writer that remembers is asked once."""

_VARIANTS = {1: "entity", 2: "pair", 3: "triple"}
_LIST_TOKENS, _TELL_TOKENS = 96, 120
_LIST_CHARACTERS, _TOLD_CHARACTERS = 150, 360
_KEPT = 0.6
"""Share of the texts that name their entities and pass the audit; a guess until a run has told."""
_POINTERS = frozenset("it he she they this that these those there we you i its his her their our".split())


@dataclass(frozen=True, slots=True)
class EntiGraph:
    """Pairs and triples of a passage's entities, and what it says of them together."""

    name: str = "entigraph"
    pairs: int = 2
    """Pairs told of in a round, for each passage."""
    triples: int = 1
    """Triples told of in a round, for each passage that names three things."""
    entities: int = 12
    """Entities kept of a passage, at most."""
    temperature: float = 0.8

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.triples < 0 or self.entities < 1:
            raise BadSetting(
                f"entigraph needs pairs and entities of 1 or more and triples of 0 or more; pairs = {self.pairs}, "
                f"entities = {self.entities} and triples = {self.triples} were given."
            )

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """One round: a few texts a passage, under its title."""
        passages = [p for p in passages if p.text.strip()]
        cells = iter(design.cells(len(passages) * (self.pairs + self.triples), seed=seed))
        for group in groups(passages):
            found = self._found(group, writer)
            told = [(p, chosen) for p, e in zip(group, found, strict=True) for chosen in self._chosen(p, e, seed)]
            prompts = [self._prompt(p, chosen, next(cells)) for p, chosen in told]
            texts = writer.write(prompts, seed=seed)
            for (passage, chosen), prompt, text in zip(told, prompts, texts, strict=True):
                body = prose(prompt, text.text)
                if body and all(is_named(entity, body) for entity in chosen):
                    yield reading([passage], body, f"{self.name}/{_VARIANTS[len(chosen)]}", writer.name)

    def effort(self, passage: Passage) -> Effort:
        """The list is counted in every round, though a writer that remembers writes it once."""
        told = self.pairs + self.triples
        read = len(shown(passage)) + len(prompt_file("entigraph.pair.txt"))
        return Effort(
            prompts=1 + told,
            read_characters=(1 + told) * read,
            written_characters=_LIST_CHARACTERS + told * _TOLD_CHARACTERS,
            taught_characters=round(_KEPT * told * (len(place(passage)) + _TOLD_CHARACTERS)),
        )

    def _found(self, group: Sequence[Passage], writer: Writer) -> list[list[str]]:
        """The entities of each passage; its title where nothing is named."""
        prompts = [
            Prompt.ask(filled("entigraph.entities.txt", passage=shown(p)), begun="1.", max_tokens=_LIST_TOKENS)
            for p in group
        ]
        texts = writer.write(prompts, seed=ONCE)
        return [
            entities(p, t.text)[: self.entities] or [p.title][: bool(p.title)]
            for p, t in zip(group, texts, strict=True)
        ]

    def _chosen(self, passage: Passage, found: Sequence[str], seed: int) -> list[tuple[str, ...]]:
        """The pairs and triples of this round; the one entity where there is one."""
        if len(found) < 2:
            return [(only,) for only in found]
        twos: list[tuple[str, ...]] = list(combinations(found, 2))
        threes: list[tuple[str, ...]] = list(combinations(found, 3))
        return [
            *dealt(twos, self.pairs, key=f"{passage.id}:2", seed=seed),
            *dealt(threes, self.triples, key=f"{passage.id}:3", seed=seed),
        ]

    def _prompt(self, passage: Passage, chosen: Sequence[str], cell: design.Cell) -> Prompt:
        asked = filled(
            f"entigraph.{_VARIANTS[len(chosen)]}.txt",
            passage=shown(passage),
            entities=", ".join(f'"{entity}"' for entity in chosen),
            form=cell.form,
            voice=cell.voice,
        )
        return Prompt.ask(asked, begun=cell.opening, max_tokens=_TELL_TOKENS, temperature=self.temperature)


def entities(passage: Passage, written: str) -> list[str]:
    """What a passage names, as it spells it: of a written list if that holds two things that stand in the passage,
    else found by rule (names, numbers with what they count, times, subjects)."""
    items = listed(written)
    if len(items) < 2:
        items = re.split(r"[,;]\s+", written)
    found = _standing(items, passage)
    if len(found) >= 2:
        return found
    kinds = ("name", "number", "time", "subject")
    return _standing([*items, *(a.answer for a in passage_askings(passage) if a.kind in kinds)], passage)


def is_named(thing: str, text: str) -> bool:
    """Whether a text speaks of a thing: all its numbers, and one of its longer words or the whole of it."""
    words = set(re.findall(r"\w+", text.lower()))
    numbers = re.findall(r"\d+", thing)
    if not words.issuperset(numbers):
        return False
    longer = re.findall(r"[^\W\d]{4,}", thing.lower())
    return thing.lower() in text.lower() or not words.isdisjoint(longer) or bool(numbers and not longer)


def _standing(items: Sequence[str], passage: Passage) -> list[str]:
    """Those that stand in the passage, none of them inside another."""
    found: dict[str, str] = {}
    for item in items:
        words = re.split(r":\s|\s[-–—|]\s|\s\(", item)[0].strip(" \t.,;:*_\"'“”‘’").split()
        if not 1 <= len(words) <= 6 or " ".join(words).lower() in _POINTERS:
            continue
        spaced = r"\s+".join(map(re.escape, words))  # a name may go on in the next line
        spelt = re.search(rf"(?<!\w){spaced}(?!\w)", passage.text, re.IGNORECASE)
        if spelt and re.search(r"[A-Z0-9]|\w{4,}|[^\W\d_a-z]", spelt.group()):
            name = " ".join(spelt.group().split())
            found.setdefault(name.lower(), name)
    inside = {a for a in found for b in found if a != b and f" {a} " in f" {b} "}
    return [name for key, name in found.items() if key not in inside]
