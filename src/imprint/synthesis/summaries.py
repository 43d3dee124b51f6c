"""What a document says in brief, at three grains: a sentence a passage, a paragraph a passage, a paragraph for all.

A document's summary is made of its passages' sentences, in order; where they are too many to read at once,
stretches of them are summed up first (after Wu et al. 2021, arXiv 2109.10862). That summaries teach is sdg_hub's
finding: 43.7 -> 56.8 on QuALITY, with 42.9 M tokens of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from imprint.errors import BadSetting
from imprint.synthesis import design
from imprint.synthesis.forms import groups, place, reading, shown
from imprint.synthesis.prompt_files import filled, prompt_file
from imprint.synthesis.prose import first_sentence, prose
from imprint.types import Effort, Example, Passage, Prompt, Writer

_SENTENCE_TOKENS, _PARAGRAPH_TOKENS, _PART_TOKENS, _DOCUMENT_TOKENS = 64, 150, 90, 160
_SENTENCE_CHARACTERS, _PARAGRAPH_CHARACTERS, _DOCUMENT_CHARACTERS = 150, 420, 480
_KEPT = 0.7
"""Share of the summaries that are whole and pass the audit; a guess until a run has told."""


@dataclass(frozen=True, slots=True)
class Summaries:
    """Each passage in a sentence and in a paragraph, and each document of several passages in a paragraph."""

    name: str = "summaries"
    lines_at_once: int = 12
    """Sentences that are summed up in one go."""
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if self.lines_at_once < 2:
            raise BadSetting(f"summaries needs lines_at_once of 2 or more; {self.lines_at_once} was given.")

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """One round: two texts a passage, and a document's own after its last passage."""
        passages = [p for p in passages if p.text.strip()]
        cells = iter(design.cells(3 * len(passages), seed=seed))
        left = Counter(p.document_id for p in passages)
        lines: dict[str, list[tuple[Passage, str]]] = {}
        for group in groups(passages):
            prompts = [p for passage in group for p in self._prompts(passage, next(cells), next(cells))]
            texts = [t.text for t in writer.write(prompts, seed=seed)]
            for i, passage in enumerate(group):
                sentence = first_sentence(prose(prompts[2 * i], texts[2 * i]))
                paragraph = prose(prompts[2 * i + 1], texts[2 * i + 1])
                if sentence:
                    yield reading([passage], sentence, f"{self.name}/sentence", writer.name)
                    lines.setdefault(passage.document_id, []).append((passage, sentence))
                if paragraph:
                    yield reading([passage], paragraph, f"{self.name}/paragraph", writer.name)
                left[passage.document_id] -= 1
                if not left[passage.document_id]:
                    yield from self._document(lines.pop(passage.document_id, []), next(cells), writer, seed)

    def effort(self, passage: Passage) -> Effort:
        """A document's own summary is counted with the passage that opens it."""
        opens = passage.start == 0
        grains = 2 + opens
        read = grains * (len(shown(passage)) + len(prompt_file("summaries.paragraph.txt")))
        written = _SENTENCE_CHARACTERS + _PARAGRAPH_CHARACTERS + opens * _DOCUMENT_CHARACTERS
        read += _SENTENCE_CHARACTERS  # its sentence, read once more for the document
        return Effort(grains, read, written, round(_KEPT * (written + grains * len(place(passage)))))

    def _prompts(self, passage: Passage, short: design.Cell, long: design.Cell) -> tuple[Prompt, Prompt]:
        text = shown(passage)
        one = filled("summaries.sentence.txt", passage=text, voice=short.voice)
        more = filled("summaries.paragraph.txt", passage=text, voice=long.voice, form=long.form)
        return (
            Prompt.ask(one, begun=short.opening, max_tokens=_SENTENCE_TOKENS, temperature=self.temperature),
            Prompt.ask(more, begun=long.opening, max_tokens=_PARAGRAPH_TOKENS, temperature=self.temperature),
        )

    def _document(
        self, told: Sequence[tuple[Passage, str]], cell: design.Cell, writer: Writer, seed: int
    ) -> Iterator[Example]:
        """The summary of a document, unless it is one passage long: its paragraph says it all."""
        if len(told) < 2:
            return
        passages = [p for p, _ in told]
        title = passages[0].title
        lines = self._condensed([sentence for _, sentence in told], title, writer, seed)
        if not lines:
            return
        asked = filled("summaries.document.txt", lines="\n".join(lines), title=title, voice=cell.voice)
        prompt = Prompt.ask(asked, begun=cell.opening, max_tokens=_DOCUMENT_TOKENS, temperature=self.temperature)
        text = prose(prompt, writer.write([prompt], seed=seed)[0].text)
        if text:
            # The heading above the first passage is not the whole document's.
            passages[0] = replace(passages[0], heading="")
            yield reading(passages, text, f"{self.name}/document", writer.name)

    def _condensed(self, lines: list[str], title: str, writer: Writer, seed: int) -> list[str]:
        """The lines, stretches of them summed up until they can be read at once."""
        while len(lines) > self.lines_at_once:
            size = self.lines_at_once
            stretches = [lines[i : i + size] for i in range(0, len(lines), size)]
            prompts = [
                Prompt.ask(
                    filled("summaries.part.txt", lines="\n".join(stretch), title=title),
                    max_tokens=_PART_TOKENS,
                    temperature=self.temperature,
                )
                for stretch in stretches
            ]
            texts = writer.write(prompts, seed=seed)
            # A stretch that was summed up badly is told by its first line.
            lines = [
                prose(p, t.text) or stretch[0] for p, t, stretch in zip(prompts, texts, stretches, strict=True)
            ]
        return lines
