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
_COVERED = 0.7
"""Share of a document's characters that must be among the passages for it to be summed up."""


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
        """One round: two texts a passage, and those of whole documents after the group that ends them."""
        passages = [p for p in passages if p.text.strip()]
        cells = iter(design.cells(3 * len(passages), seed=seed))
        left = Counter(p.document_id for p in passages)
        given = Counter[str]()
        for p in passages:
            given[p.document_id] += len(p.text)
        lines: dict[str, list[tuple[Passage, str]]] = {}
        for group in groups(passages):
            prompts = [p for passage in group for p in self._prompts(passage, next(cells), next(cells))]
            texts = [t.text for t in writer.write(prompts, seed=seed)]
            ended: list[_Told] = []
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
                    told = lines.pop(passage.document_id, [])
                    if given[passage.document_id] < _COVERED * len(passage.whole):
                        continue  # a round over some passages knows not the whole document
                    ended.append(_Told([p for p, _ in told], [s for _, s in told], next(cells)))
            # Of a document of one passage its paragraph says it all.
            yield from self._documents([d for d in ended if len(d.passages) > 1], writer, seed)

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

    def _documents(self, told: Sequence[_Told], writer: Writer, seed: int) -> Iterator[Example]:
        """The summaries of documents, written at once."""
        self._condense(told, writer, seed)
        prompts = [self._document_prompt(document) for document in told]
        texts = writer.write(prompts, seed=seed) if prompts else []
        for document, prompt, text in zip(told, prompts, texts, strict=True):
            if summary := prose(prompt, text.text):
                # The heading above the first passage is not the whole document's.
                passages = [replace(document.passages[0], heading=""), *document.passages[1:]]
                yield reading(passages, summary, f"{self.name}/document", writer.name)

    def _document_prompt(self, told: _Told) -> Prompt:
        lines = "\n".join(told.lines)
        asked = filled("summaries.document.txt", lines=lines, title=told.title, voice=told.cell.voice)
        return Prompt.ask(
            asked, begun=told.cell.opening, max_tokens=_DOCUMENT_TOKENS, temperature=self.temperature
        )

    def _condense(self, told: Sequence[_Told], writer: Writer, seed: int) -> None:
        """Sums up stretches of the lines of each document until they can be read at once."""
        size = self.lines_at_once
        while long := [d for d in told if len(d.lines) > size]:
            stretches = [(d, d.lines[i : i + size]) for d in long for i in range(0, len(d.lines), size)]
            prompts = [self._part_prompt(d.title, stretch) for d, stretch in stretches]
            for document in long:
                document.lines = []
            for (document, stretch), prompt, text in zip(
                stretches, prompts, writer.write(prompts, seed=seed), strict=True
            ):
                # A stretch that was summed up badly is told by its first line.
                document.lines.append(prose(prompt, text.text) or stretch[0])

    def _part_prompt(self, title: str, lines: Sequence[str]) -> Prompt:
        asked = filled("summaries.part.txt", lines="\n".join(lines), title=title)
        return Prompt.ask(asked, max_tokens=_PART_TOKENS, temperature=self.temperature)


@dataclass(slots=True)
class _Told:
    """A document on the way to its summary."""

    passages: list[Passage]
    lines: list[str]
    """Sentences of its passages, then of stretches of them."""
    cell: design.Cell

    @property
    def title(self) -> str:
        return self.passages[0].title
