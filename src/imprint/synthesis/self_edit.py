"""What follows from a passage, written down as a list of implications and taught as text.

After SEAL (arXiv 2506.10943), whose model edits itself with implications of a passage: asked about SQuAD without
the passage, its own reached 39.7 and a strong writer's 46.3, where the passage itself reached 33.5. Each round
looks from another side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.errors import BadSetting
from imprint.synthesis.facts import dealt
from imprint.synthesis.forms import groups, listed, place, reading, shown
from imprint.synthesis.prompt_files import filled, prompt_file, prompt_lines
from imprint.synthesis.prose import prose
from imprint.types import Effort, Example, Passage, Prompt, Writer

_TOKENS_EACH = 32
_LINE_CHARACTERS = 95
_KEPT = 0.6
"""Share of the implications that are whole and pass the audit; a guess until a run has told."""


@dataclass(frozen=True, slots=True)
class SelfEdit:
    """A passage's implications: all of a round as one text, and the short ones alone."""

    name: str = "self_edit"
    implications: int = 5
    """Implications asked for in a round."""
    short: int = 20
    """Words up to which an implication is also taught by itself."""
    temperature: float = 0.9

    def __post_init__(self) -> None:
        if self.implications < 1:
            raise BadSetting(f"self_edit needs implications of 1 or more; {self.implications} was given.")

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """One round: a list a passage, and its short lines."""
        for group in groups([p for p in passages if p.text.strip()]):
            prompts = [self.prompt(p, seed=seed) for p in group]
            for passage, prompt, text in zip(group, prompts, writer.write(prompts, seed=seed), strict=True):
                yield from self.told(passage, prompt, text.text, by=writer.name)

    def told(self, passage: Passage, prompt: Prompt, written: str, *, by: str) -> Iterator[Example]:
        """What is taught of a written list."""
        variant = f"{self.name}/implications"
        kept = implications(prompt, written)
        if len(kept) > 1:
            yield reading([passage], "\n".join(kept), variant, by)
        for line in kept:
            if len(line.split()) <= self.short or len(kept) == 1:
                yield reading([passage], line, variant, by)

    def effort(self, passage: Passage) -> Effort:
        written = self.implications * _LINE_CHARACTERS
        read = len(shown(passage)) + len(prompt_file("self_edit.list.txt")) + 60
        titles = (1 + self.implications) * len(place(passage))
        # The list and its lines alone tell the same twice; nearly all lines are short.
        return Effort(1, read, written, round(_KEPT * (2 * written + titles)))

    def prompt(self, passage: Passage, *, seed: int) -> Prompt:
        """What asks for the implications of a passage; the seed chooses the side to look from."""
        angle = dealt(prompt_lines("self_edit.angles.txt"), 1, key=passage.id, seed=seed)[0]
        asked = filled("self_edit.list.txt", passage=shown(passage), count=str(self.implications), angle=angle)
        return Prompt.ask(
            asked, begun="1.", max_tokens=_TOKENS_EACH * self.implications, temperature=self.temperature
        )


def implications(prompt: Prompt, written: str) -> list[str]:
    """The whole sentences of a written list that are not the passage's own."""
    lines = listed(written)
    kept = []
    for i, line in enumerate(lines):
        if line[-1] not in ".!?" and i < len(lines) - 1:
            line = f"{line}."  # a list's items often go without; the last may be cut short
        # What the list was begun with is its number, which is no part of what is told.
        whole = prose(Prompt(prompt.turns), line, least_words=5)
        if whole and not whole.endswith("?"):
            kept.append(whole)
    return list(dict.fromkeys(kept))
