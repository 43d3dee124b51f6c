"""Facts told from the other side: the value is given and the subject asked for, or the text begins with the value.

A model that learnt 'A is B' does not thereby know 'B is A' (the reversal curse, arXiv 2309.12288), so that each
direction is taught. A question is kept if a reading of the passage answers it with the subject again, and if
nothing else has the value: what another document says of another thing is set apart by the title."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.documents import sentences
from imprint.synthesis import skills
from imprint.synthesis.cloze import titled
from imprint.synthesis.facts import (
    Concordance,
    Fact,
    dealt,
    facts,
    key_words,
    leans,
    overlap,
    read_characters,
    stems,
)
from imprint.synthesis.forms import exchange, groups, place, reading, shown
from imprint.synthesis.novelty import further_off, widened
from imprint.synthesis.prompt_files import filled
from imprint.synthesis.prose import prose
from imprint.types import Effort, Example, Passage, Prompt, Writer

_AGREES = 0.5
"""Token F1 from which on an answer counts as the subject."""


@dataclass(frozen=True, slots=True)
class Reversal:
    """Questions for the subject of a fact, and sentences that begin with its value."""

    name: str = "reversal"
    a_passage: int = 2
    """Facts of each passage turned round in one round."""
    temperature: float = 0.7

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """Items of one round, group by group: questions first, then sentences."""
        where = Concordance([*widened(passages).values(), *further_off(passages)])
        for group in groups(passages):
            chosen = [fact for passage in group for fact in self._chosen(passage, seed)]
            if chosen:
                yield from self._questions(chosen, where, writer, seed)
                yield from self._statements(chosen, writer, seed)

    def effort(self, passage: Passage) -> Effort:
        chosen = self._chosen(passage, 0)
        asked = [p for f in chosen for p in (self.question_prompt(f), self.statement_prompt(f))]
        checks = [skills.read(shown(passage), "x" * 60) for _ in chosen]
        written = sum(60 + 30 + len(f.asking.statement.text) for f in chosen)
        return Effort(len(asked) + len(checks), read_characters([*asked, *checks]), written, round(0.6 * written))

    def question_prompt(self, fact: Fact) -> Prompt:
        """What asks for the subject. Only its sentence is shown, so that the question gives the value."""
        passage = fact.asking.statement.passage
        text = f"{place(passage)}\n{fact.asking.statement.text}"
        return skills.ask(text, fact.subject, temperature=self.temperature)

    def statement_prompt(self, fact: Fact) -> Prompt:
        """What asks for a sentence that begins with the value."""
        value = fact.value[:1].upper() + fact.value[1:]
        statement = fact.asking.statement
        asked = filled("reversal.statement.txt", passage=shown(statement.passage), fact=statement.text, value=value)
        return Prompt.ask(asked, begun=value, max_tokens=60, temperature=self.temperature, stop=("\n",))

    def _chosen(self, passage: Passage, seed: int) -> list[Fact]:
        return dealt(facts(passage), self.a_passage, key=f"{self.name}:{passage.id}", seed=seed)

    def _questions(
        self, chosen: Sequence[Fact], where: Concordance, writer: Writer, seed: int
    ) -> Iterator[Example]:
        texts = writer.write([self.question_prompt(f) for f in chosen], seed=seed)
        asked: list[tuple[Fact, str, bool]] = []
        for i, (fact, text) in enumerate(zip(chosen, texts, strict=True)):
            question, passage = text.text.strip(), fact.asking.statement.passage
            if not _asks_for(question, fact) or _holds_of_another(question, fact, where, apart=False):
                continue
            told = fact.subject.lower() in passage.title.lower()
            elsewhere = _holds_of_another(question, fact, where, apart=True)
            if not (told and elsewhere):
                asked.append((fact, question, told or (not elsewhere and (i + seed) % 2 == 1)))
        checks = [skills.read(shown(f.asking.statement.passage), question) for f, question, _ in asked]
        answers = writer.write(checks, seed=seed) if checks else []
        for (fact, question, bare), answer in zip(asked, answers, strict=True):
            if overlap(answer.text, fact.subject) >= _AGREES:
                passage = fact.asking.statement.passage
                question = question if bare else titled(question, passage)
                yield exchange([passage], question, fact.subject, f"{self.name}/question", writer.name)

    def _statements(self, chosen: Sequence[Fact], writer: Writer, seed: int) -> Iterator[Example]:
        prompts = [self.statement_prompt(f) for f in chosen]
        for fact, prompt, text in zip(chosen, prompts, writer.write(prompts, seed=seed), strict=True):
            told = prose(prompt, text.text)
            if _tells(told, fact):
                yield reading([fact.asking.statement.passage], told, f"{self.name}/statement", writer.name)


def _asks_for(question: str, fact: Fact) -> bool:
    """Whether it is a question about the statement that does not contain its answer."""
    if not question.endswith("?") or not 4 <= len(question.split()) <= 40:
        return False
    given = set(key_words(question))
    return not set(key_words(fact.subject)) <= given and bool(given & set(key_words(fact.rest + fact.value)))


def _holds_of_another(question: str, fact: Fact, where: Concordance, *, apart: bool) -> bool:
    """Whether some passage gives the value, in the words of the question or of the statement, to another thing.

    One under the fact's own title, or, `apart`, under any other."""
    own = fact.asking.statement.passage
    return any(
        _gives(passage, fact, stems(words))
        for words in (fact.rest, question)
        for passage in where.telling(fact.value, words, like=None if apart else own)
        if (passage.title != own.title) == apart
    )


def _gives(passage: Passage, fact: Fact, words: set[str]) -> bool:
    """Whether a sentence has the value and half of the other words, and speaks of another thing."""
    value, subject = stems(fact.value), stems(fact.subject)
    rest, known = words - value, stems(passage.text)
    for start, end in sentences(passage.text):
        said = stems(passage.text[start:end])
        of_it = subject <= (known if leans(passage.text[start:end]) else said)
        if value <= said and 2 * len(rest & said) >= len(rest) and not of_it:
            return True
    return False


def _tells(text: str, fact: Fact) -> bool:
    """Whether a sentence goes from the value on to the subject."""
    rest = text[len(fact.value) :]
    wanted = set(key_words(fact.subject))
    return len(rest.split()) > 2 and 2 * len(wanted & set(key_words(rest))) >= len(wanted) > 0
