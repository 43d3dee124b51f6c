"""A document studied in ways that the writer proposes for it, each written down.

The writer sees the beginning of a document and suggests how to study it; every round applies the next one or two
suggestions to each passage. Where fewer than two can be used, strategies of our own stand in
(prompts/active_reading.strategies.txt). After Active Reading (arXiv 2508.09494)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.errors import BadSetting
from imprint.synthesis import design
from imprint.synthesis.entigraph import ONCE
from imprint.synthesis.facts import dealt
from imprint.synthesis.forms import groups, listed, place, reading, shown
from imprint.synthesis.prompt_files import filled, prompt_file, prompt_lines
from imprint.synthesis.prose import prose
from imprint.types import Effort, Example, Passage, Prompt, Writer

_PROPOSE_TOKENS, _STUDY_TOKENS = 160, 140
_PROPOSED_CHARACTERS, _STUDY_CHARACTERS = 450, 420
_KEPT = 0.6
"""Share of the studies that are whole and pass the audit; a guess until a run has told."""
_FEWEST = 2
"""Usable proposals below which our own strategies are taken."""
_WRITES_NOTHING = frozenset(
    "read reread listen highlight underline take ask watch find search break use review".split()
)
_NO_VERBS = frozenset("the a an it this that these he she they there here sure to i you we my our in on at".split())
"""First words of statements, where a strategy has a verb."""


@dataclass(frozen=True, slots=True)
class ActiveReading:
    """Each passage studied in one or two of the ways proposed for its document."""

    name: str = "active_reading"
    proposals: int = 8
    """Strategies that the writer is asked for, once a document."""
    applied: int = 2
    """Strategies applied to a passage in a round."""
    temperature: float = 0.8

    def __post_init__(self) -> None:
        if self.proposals < _FEWEST or self.applied < 1:
            raise BadSetting(
                f"active_reading needs {_FEWEST} proposals or more and applies at least one; proposals = "
                f"{self.proposals} and applied = {self.applied} were given."
            )

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """One round: one or two texts a passage, under its title."""
        passages = [p for p in passages if p.text.strip()]
        openers: dict[str, Passage] = {}
        for passage in passages:
            openers.setdefault(passage.document_id, passage)
        cells = iter(design.cells(len(passages) * self.applied, seed=seed))
        known: dict[str, list[str]] = {}
        for group in groups(passages):
            new = list(dict.fromkeys(p.document_id for p in group if p.document_id not in known))
            known.update(zip(new, self._proposed([openers[d] for d in new], writer), strict=True))
            told = [(p, way) for p in group for way in self._ways(p, known[p.document_id], seed)]
            prompts = [self._prompt(p, way, next(cells)) for p, way in told]
            texts = writer.write(prompts, seed=seed)
            for (passage, way), prompt, text in zip(told, prompts, texts, strict=True):
                body = prose(prompt, text.text)
                if body and way not in body:
                    yield reading([passage], body, f"{self.name}/text", writer.name)

    def effort(self, passage: Passage) -> Effort:
        """The proposals are counted with the passage that opens a document, in every round, though a writer that
        remembers writes them once."""
        opens = passage.start == 0
        prompts = self.applied + opens
        return Effort(
            prompts=prompts,
            read_characters=prompts * (len(shown(passage)) + len(prompt_file("active_reading.apply.txt")) + 60),
            written_characters=self.applied * _STUDY_CHARACTERS + opens * _PROPOSED_CHARACTERS,
            taught_characters=round(_KEPT * self.applied * (len(place(passage)) + _STUDY_CHARACTERS)),
        )

    def _proposed(self, openers: Sequence[Passage], writer: Writer) -> list[list[str]]:
        """The strategies for each document, of which these are the first passages."""
        prompts = [
            Prompt.ask(
                filled("active_reading.propose.txt", passage=shown(p), title=p.title, count=str(self.proposals)),
                begun="1.",
                max_tokens=_PROPOSE_TOKENS,
                temperature=self.temperature,
            )
            for p in openers
        ]
        texts = writer.write(prompts, seed=ONCE) if prompts else []
        return [strategies(p, t.text)[: self.proposals] for p, t in zip(openers, texts, strict=True)]

    def _ways(self, passage: Passage, ways: Sequence[str], seed: int) -> list[str]:
        return dealt(ways, self.applied, key=passage.id, seed=seed)

    def _prompt(self, passage: Passage, way: str, cell: design.Cell) -> Prompt:
        asked = filled("active_reading.apply.txt", passage=shown(passage), strategy=way, voice=cell.voice)
        return Prompt.ask(asked, begun=cell.opening, max_tokens=_STUDY_TOKENS, temperature=self.temperature)


def strategies(opener: Passage, written: str) -> list[str]:
    """The usable strategies of a written list; our own where it has fewer than two."""
    usable = [way for item in listed(written) if (way := _as_strategy(item, opener))]
    return usable if len(usable) >= _FEWEST else list(prompt_lines("active_reading.strategies.txt"))


def _as_strategy(item: str, opener: Passage) -> str:
    """A listed item as a request to write; '' for what is none: too short or long, a question, the document's own
    words, or something that leaves nothing written."""
    words = item.replace("**", "").split()
    way = " ".join(words)
    if not 4 <= len(words) <= 30 or way.endswith(("?", ":")) or way in " ".join(opener.text.split()):
        return ""
    if words[0].lower().strip(",.:;") in _WRITES_NOTHING | _NO_VERBS:
        return ""
    return f"{way.rstrip('.')}."
