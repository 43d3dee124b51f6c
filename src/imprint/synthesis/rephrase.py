"""The same facts in other words, for one wording of a fact is not enough to know it.

After WRAP (arXiv 2401.16380): whole passages in four styles (easy, medium, hard, questions and answers), and in
plain other words. A small writer does well at single statements, so that each of those is said again too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.synthesis import skills
from imprint.synthesis.design import Cell, cells
from imprint.synthesis.facts import dealt, is_sound, read_characters
from imprint.synthesis.forms import groups, place, reading, shown
from imprint.synthesis.prompt_files import filled, prompt_file
from imprint.synthesis.prose import prose
from imprint.synthesis.statements import Statement, statements
from imprint.types import Effort, Example, Passage, Prompt, Turn, Writer

STYLES = ("easy", "medium", "hard", "questions", "restate")
"""Ways to tell a whole passage; each has its round before one comes again."""

_LONGEST = 40
"""Words from which on a statement is too long to be said again by itself."""
_KEPT = 0.4
"""Share of reworded statements that pass, with the bundled writer."""


@dataclass(frozen=True, slots=True)
class Rephrase:
    """Each passage in one style a round, and every statement said again, as texts to read on their own."""

    name: str = "rephrase"
    temperature: float = 0.7
    statement_temperature: float = 0.5

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """Texts of one round, group by group: whole passages first, then their statements."""
        drawn = cells(len(passages), seed=seed)
        done = 0
        for group in groups(passages):
            yield from self._tellings(group, drawn[done : done + len(group)], writer, seed)
            yield from self._rewordings(group, writer, seed)
            done += len(group)

    def effort(self, passage: Passage) -> Effort:
        said = _short_statements(passage)
        prompts = [self.prompt(passage, "easy", Cell("", "", "")), *(self.statement_prompt(s) for s in said)]
        whole, single = round(0.8 * len(passage.text)), sum(len(s.text) for s in said)
        kept = sum(len(s.text) + len(place(passage)) for s in said) * _KEPT
        taught = round(kept + 0.8 * (whole + len(place(passage))))
        return Effort(len(prompts), read_characters(prompts), whole + single, taught)

    def prompt(self, passage: Passage, style: str, cell: Cell) -> Prompt:
        """What the writer is asked about a whole passage."""
        if style == "restate":
            return skills.restate(shown(passage), temperature=self.temperature)
        if style == "questions":
            return skills.ask_several(shown(passage), 4, temperature=self.temperature)
        room = min(160, 24 + len(passage.text) // 3)
        opening = "" if style == "hard" else cell.opening
        asked = filled(f"rephrase.{style}.txt", passage=shown(passage))
        return Prompt.ask(asked, begun=opening, max_tokens=room, temperature=self.temperature)

    def statement_prompt(self, statement: Statement) -> Prompt:
        """What the writer is asked about one statement."""
        asked = f"{prompt_file('rephrase.txt')}Text: {statement.text}\nIn other words:"
        turns = (Turn("text", asked),)
        return Prompt(turns, max_tokens=60, temperature=self.statement_temperature, stop=("\n",))

    def _tellings(
        self, group: Sequence[Passage], drawn: Sequence[Cell], writer: Writer, seed: int
    ) -> Iterator[Example]:
        styles = [dealt(STYLES, 1, key=f"{self.name}:{p.id}", seed=seed)[0] for p in group]
        prompts = [self.prompt(p, s, c) for p, s, c in zip(group, styles, drawn, strict=True)]
        texts = writer.write(prompts, seed=seed)
        for passage, style, prompt, text in zip(group, styles, prompts, texts, strict=True):
            told = prose(prompt, text.text)
            if style == "questions":
                told = _conversation(text.text)
            if is_sound(told, [passage]):
                yield reading([passage], told, f"{self.name}/{style}", writer.name)

    def _rewordings(self, group: Sequence[Passage], writer: Writer, seed: int) -> Iterator[Example]:
        said = [s for p in group for s in _short_statements(p)]
        texts = writer.write([self.statement_prompt(s) for s in said], seed=seed) if said else []
        for statement, text in zip(said, texts, strict=True):
            if _says_it(text.text, statement):
                yield reading([statement.passage], text.text, f"{self.name}/statement", writer.name)


def _short_statements(passage: Passage) -> list[Statement]:
    return [s for s in statements(passage) if len(s.text.split()) <= _LONGEST]


def _conversation(text: str) -> str:
    """Questions and answers as a text; '' where there are fewer than two."""
    pairs = [(q, a.rstrip(".")) for q, a in skills.pairs(text) if a.lower().rstrip(".") not in q.lower()]
    return " ".join(f"{q} {a}." for q, a in dict(pairs).items()) if len(dict(pairs)) > 1 else ""


def _says_it(text: str, statement: Statement) -> bool:
    """Whether a rewording is whole, differs, keeps every number and name, and strays little."""
    if text[-1:] not in ".!?" or not text or text == statement.text:
        return False
    firm = re.findall(r"\d[\d.,:]*\d|\d|(?<=\s)[A-Z][\w'-]+", statement.text)
    if any(word not in text for word in firm):
        return False
    known = {w[:4] for w in re.findall(r"\w{4,}", statement.text.lower())}
    words = re.findall(r"\w{4,}", text.lower())
    return bool(words) and sum(w[:4] in known for w in words) >= 0.6 * len(words)
