"""The passages as they are: the naive way, kept as a rival that shows why it fails, and as part of a mix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.types import Effort, Example, Passage, Turn, Writer


@dataclass(frozen=True, slots=True)
class RawText:
    """Each passage as a text for next-token training, under its title and heading."""

    name: str = "raw_text"

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """One item a passage; the writer is not asked, and a second round says the same."""
        for passage in passages:
            heading = passage.heading.split(" > ")[-1]
            place = f"{passage.title}\n{heading}\n" if heading else f"{passage.title}\n"
            turns = (Turn("text", place + passage.text, learn=True),)
            yield Example(turns, (passage.id,), self.name, "document")

    def effort(self, passage: Passage) -> Effort:
        return Effort(taught_characters=len(passage.text) + len(passage.title))
