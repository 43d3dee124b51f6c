"""The same facts in other words, for one wording of a fact is not enough to know it.

After WRAP (arXiv 2401.16380): the writer says each statement differently; the audit drops what it got wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.synthesis.prompt_files import prompt_file
from imprint.synthesis.statements import Statement, statements
from imprint.types import Example, Passage, Prompt, Turn, Writer

_TOGETHER = 8


@dataclass(frozen=True, slots=True)
class Rephrase:
    """Every statement said again, as a text to read on its own."""

    name: str = "rephrase"
    samples: int = 1
    """Wordings asked for beside the document's own."""
    temperature: float = 0.5

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """Each statement that could be said otherwise, under its document's title."""
        for first in range(0, len(passages), _TOGETHER):
            group = passages[first : first + _TOGETHER]
            said = [s for p in group for s in statements(p) if len(s.text.split()) <= 40]
            for turn in range(self.samples):
                texts = writer.write([self.prompt(s) for s in said], seed=seed + turn)
                for statement, text in zip(said, texts, strict=True):
                    if _says_it(text.text, statement):
                        yield _reading(statement, text.text, self.name, writer.name)

    def cost(self, passage: Passage) -> tuple[int, int]:
        """Prompts that a passage asks of the writer, and characters of training text it comes to."""
        said = [s for s in statements(passage) if len(s.text.split()) <= 40]
        kept_share = 0.4
        characters = sum(len(s.text) + 60 for s in said) * self.samples * kept_share
        return len(said) * self.samples, round(characters)

    def prompt(self, statement: Statement) -> Prompt:
        """What the writer is asked about one statement."""
        examples = prompt_file("rephrase.txt")
        return Prompt(
            (Turn("text", f"{examples}Text: {statement.text}\nIn other words:"),),
            max_tokens=60,
            temperature=self.temperature,
            stop=("\n",),
        )


def _reading(statement: Statement, text: str, generator: str, writer: str) -> Example:
    heading = statement.passage.heading.split(" > ")[-1]
    place = f"{statement.passage.title}. {heading}. " if heading else f"{statement.passage.title}. "
    return Example((Turn("text", place + text, learn=True),), (statement.passage.id,), generator, writer)


def _says_it(text: str, statement: Statement) -> bool:
    """Whether a rewording is whole, differs, keeps every number and name, and strays little."""
    if text[-1:] not in ".!?" or text == statement.text:
        return False
    firm = re.findall(r"\d[\d.,:]*\d|\d|(?<=\s)[A-Z][\w'-]+", statement.text)
    if any(word not in text for word in firm):
        return False
    known = {w[:4] for w in re.findall(r"\w{4,}", statement.text.lower())}
    words = re.findall(r"\w{4,}", text.lower())
    return bool(words) and sum(w[:4] in known for w in words) >= 0.6 * len(words)
