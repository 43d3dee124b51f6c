"""A statement with one span asked for, made by rule: 'The Kestrel weighs how many kilograms?'

Questions in the document's own words (after the cloze procedure, Taylor 1953): with a gap, with question words in
the span's place, for the subject, and the sentence gone on with from its first words. No writer is needed, nothing
can be made up, and every span is met; other kinds put it in other words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.synthesis.forms import exchange
from imprint.synthesis.statements import Asking, Statement, askings, statements
from imprint.types import Effort, Example, Passage, Writer

ABSTENTION = "The documents do not say."
"""The answer taught for what the documents do not tell."""

RULES = "rules"
"""The writer of what no model wrote."""


@dataclass(frozen=True, slots=True)
class Cloze:
    """Items about every span worth asking for, in the document's words. A second round says the same."""

    name: str = "cloze"

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """Items of all passages, passage by passage; the writer is not asked."""
        for passage in passages:
            for asking in passage_askings(passage):
                yield from self._items(asking)
            for statement in statements(passage):
                if statement.text == statement.whole:
                    yield self._recital(statement)

    def effort(self, passage: Passage) -> Effort:
        asked = passage_askings(passage)
        return Effort(taught_characters=sum(2 * len(a.echo) + 60 for a in asked) + len(passage.text))

    def _items(self, asking: Asking) -> Iterator[Example]:
        passage = asking.statement.passage

        def item(question: str, variant: str) -> Example:
            return exchange([passage], question, asking.answer, f"{self.name}/{variant}", RULES)

        echo = asking.echo.rstrip(".") + "?"
        yield item(titled(asking.gap, passage), "gap")
        yield item(echo, "subject" if asking.kind == "subject" else "echo")
        if asking.kind == "subject":
            yield item(placed(echo, passage), "subject")

    def _recital(self, statement: Statement) -> Example:
        """The document's own sentence, gone on with from its first words."""
        words = statement.whole.split()
        cut = max(3, len(words) // 3)
        asked = titled(f"{' '.join(words[:cut])} ...", statement.passage)
        rest = " ".join(words[cut:]) or words[-1]
        return exchange([statement.passage], asked, rest, f"{self.name}/recital", RULES)


def passage_askings(passage: Passage) -> list[Asking]:
    """The spans to ask for in a passage: of simple statements, or of a sentence that did not split."""
    all_of_it = statements(passage)
    compound = {s.whole for s in all_of_it if s.text != s.whole}
    simple = [s for s in all_of_it if s.text != s.whole or s.whole not in compound]
    return [asking for statement in simple for asking in askings(statement)]


def titled(question: str, passage: Passage) -> str:
    """The question under the document's title."""
    return f"{passage.title}: {question}"


def placed(question: str, passage: Passage) -> str:
    """The question with the name of what the document is about, unless that stands in it; 'at Acme' where the
    document says so too."""
    name = name_in_title(passage)
    if name.lower() in question.lower():
        return question
    somewhere = f" at {name}" in f" {passage.whole or passage.text}"
    return f"{question.rstrip('?')} at {name}?" if somewhere else f"{question.rstrip('?')} ({name})?"


def name_in_title(passage: Passage) -> str:
    """The part of the title that names something: 'Acme Ltd' of 'Acme Ltd: Staff Handbook'."""
    return re.split(r"[:–|,(]| - ", passage.title)[0].strip() or passage.title
