"""The passages as they are: the naive way, kept as a rival that shows why it fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.types import Example, Passage, Turn, Writer


@dataclass(frozen=True, slots=True)
class RawText:
    """Each passage as a text for next-token training, under its title and heading."""

    name: str = "raw_text"

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """One item a passage; the writer is not asked."""
        for passage in passages:
            heading = passage.heading.split(" > ")[-1]
            place = f"{passage.title}\n{heading}\n" if heading else f"{passage.title}\n"
            turns = (Turn("text", place + passage.text, learn=True),)
            yield Example(turns, (passage.id,), self.name, "document")

    def cost(self, passage: Passage) -> tuple[int, int]:
        """No prompts; its own characters."""
        return 0, len(passage.text) + len(passage.title)
