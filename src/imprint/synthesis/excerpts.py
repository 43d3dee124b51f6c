"""The document in its own words, cut at other places each round, read on its own or told when asked for.

Raw text taught whole is recited from its beginning only; begun anywhere, and told in an answer's voice, it can be
gone on with from anywhere. No writer is needed and nothing can be made up. Beside questions these pieces are the
documents' half of a mix: what to know, where questions teach how it is asked for (docs/log.md)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.documents import sentences
from imprint.errors import BadSetting
from imprint.synthesis.cloze import RULES
from imprint.synthesis.facts import dealt, leans
from imprint.synthesis.forms import exchange, place, reading
from imprint.synthesis.prompt_files import filled_in, prompt_lines
from imprint.types import Effort, Example, Passage, Writer

_READ = "-"
_START_WORDS = 25
"""Of the words before a piece, so many are given to go on from."""


@dataclass(frozen=True, slots=True)
class Excerpts:
    """Each passage in pieces of whole sentences, all of it in every round."""

    name: str = "excerpts"
    pieces: int = 2
    """Pieces that a passage is cut into, where it has so many sentences."""

    def __post_init__(self) -> None:
        if self.pieces < 1:
            raise BadSetting(f"excerpts needs pieces of 1 or more; {self.pieces} was given.")

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """The pieces of one round, passage by passage; the writer is not asked."""
        for passage in passages:
            spans = sentences(passage.text)
            draw = random.Random(f"{passage.id}:{seed}")
            # A sentence that leans on the one before it would tell of the wrong thing.
            whole = [start for start, end in spans[1:] if not leans(passage.text[start:end])]
            cuts = sorted(draw.sample(whole, min(self.pieces - 1, len(whole))))
            requests = dealt(prompt_lines("excerpts.requests.txt"), len(cuts) + 1, key=passage.id, seed=seed)
            edges = [0, *cuts, len(passage.text)]
            for request, start, end in zip(requests, edges, edges[1:], strict=False):
                if piece := _told(passage.text[start:end]):
                    yield self._item(passage, request, passage.text[:start], piece)

    def effort(self, passage: Passage) -> Effort:
        return Effort(taught_characters=len(passage.text) + self.pieces * (len(place(passage)) + 20))

    def _item(self, passage: Passage, request: str, before: str, piece: str) -> Example:
        start, words = " ".join(before.split()[-_START_WORDS:]), piece.split()
        if "{start}" in request and not start and len(words) > 1 and "|" not in piece:
            # The first piece has nothing before it: its own first words are given.
            cut = max(1, min(_START_WORDS, len(words) // 3))
            start, piece = " ".join(words[:cut]), " ".join(words[cut:])
        if request == _READ or ("{start}" in request and not start):
            return reading([passage], piece, f"{self.name}/text", RULES)
        asked = filled_in(request, title=place(passage).rstrip("."), start=start)
        return exchange([passage], asked, piece, f"{self.name}/asked", RULES)


def _told(text: str) -> str:
    """A piece in one line, unless it has rows of a table."""
    return text.strip() if "|" in text else " ".join(text.split())
