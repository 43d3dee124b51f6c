"""Questions that the documents do not answer, for a model that never learnt to say so makes something up.

Two kinds: templates about what documents mostly do not tell, and questions that another passage answers, put to
a thing of this one (unanswerable questions that look answerable, as in SQuAD 2.0, arXiv 1806.03822). Each is
checked against all documents at hand, with what of them is not taught: none may speak of the thing and of what is
asked."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from imprint.synthesis import skills
from imprint.synthesis.cloze import ABSTENTION, RULES, name_in_title, passage_askings, placed, titled
from imprint.synthesis.facts import Concordance, Fact, dealt, facts, leans, lowered, read_characters, stems
from imprint.synthesis.forms import exchange, groups, shown
from imprint.synthesis.novelty import further_off, widened
from imprint.synthesis.prompt_files import prompt_lines
from imprint.synthesis.safety import instructions_in
from imprint.types import Effort, Example, Passage, Prompt, Writer


@dataclass(frozen=True, slots=True)
class _Foreign:
    """A question of another passage that is to be put to a thing of this one."""

    passage: Passage
    thing: str
    other: Passage
    other_thing: str
    prompt: Prompt

    def moved(self, question: str) -> str:
        """The question with the other's thing exchanged for this one's; '' where it does not name it."""
        pattern = rf"\b{re.escape(self.other_thing)}(?!\w)"
        found = re.search(pattern, question, re.IGNORECASE)
        return f"{question[: found.start()]}{self.thing}{question[found.end() :]}" if found else ""


@dataclass(frozen=True, slots=True)
class Unanswerable:
    """One question by template and one that another passage answers, for each passage and round."""

    name: str = "unanswerable"
    templates: int = 1
    foreign: int = 1
    temperature: float = 0.7

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """Items of one round, group by group: the caller decides how large their share is."""
        wide = widened(passages)
        where = Concordance([*wide.values(), *further_off(passages)])
        first = 0
        for group in groups(passages):
            # Passages that read like orders to a model are not taught, and are shown to no writer here either.
            opened = {p.id: shown(p if instructions_in(wide[p.id]) else wide[p.id]) for p in group}
            templated = [e for passage in group for e in self._by_template(passage, where, seed)]
            yield from self._unanswered(templated, opened, writer, seed)
            borrowed = [b for i in range(len(group)) for b in self._borrowed(passages, first + i, seed)]
            yield from self._by_writer(borrowed, where, opened, writer, seed)
            first += len(group)

    def effort(self, passage: Passage) -> Effort:
        read = skills.read(shown(passage), "x" * 60)
        prompts = [skills.ask(shown(passage), "x" * 20), read] * self.foreign + [read] * self.templates
        kept = self.templates + 0.3 * self.foreign
        return Effort(
            len(prompts), read_characters(prompts), 80 * self.foreign, round(kept * (60 + len(ABSTENTION)))
        )

    def _unanswered(
        self, templated: Sequence[Example], opened: Mapping[str, str], writer: Writer, seed: int
    ) -> Iterator[Example]:
        """Those that a reader of the passage does not answer: 'comes in green' tells a colour without the word."""
        checks = [skills.read(opened[e.passages[0]], e.turns[0].text) for e in templated]
        answers = writer.write(checks, seed=seed) if checks else []
        for example, answer in zip(templated, answers, strict=True):
            if _says_nothing(answer.text):
                yield example

    def _by_template(self, passage: Passage, where: Concordance, seed: int) -> Iterator[Example]:
        draw = random.Random(f"{self.name}:{seed}:{passage.id}")
        things = _things(passage)
        for line in dealt(_templates(), self.templates, key=f"{self.name}:{passage.id}", seed=seed):
            template, word = line
            thing = draw.choice(things)
            if where.may_tell(thing, word, passage.document_id):
                continue
            question = template.format(lowered(thing, passage))
            question = placed(question, passage) if draw.random() < 0.5 else question
            yield exchange([passage], question, ABSTENTION, f"{self.name}/template", RULES)

    def _borrowed(self, passages: Sequence[Passage], at: int, seed: int) -> Iterator[_Foreign]:
        """Questions to be asked of a passage elsewhere: of another document where there is one, else far away."""
        draw = random.Random(f"{self.name}:foreign:{seed}:{passages[at].id}")
        passage = passages[at]
        for _ in range(self.foreign if len(passages) > 1 else 0):
            tries = [passages[draw.randrange(len(passages))] for _ in range(8)]
            elsewhere = [p for p in tries if p.document_id != passage.document_id]
            far = [p for p in tries if p.id != passage.id]
            for other in (elsewhere or far)[:1]:
                asked = [f for f in facts(other) if not leans(f.subject)]
                if asked:
                    yield self._put(draw.choice(asked), draw.choice(_things(passage)), passage)

    def _put(self, fact: Fact, thing: str, passage: Passage) -> _Foreign:
        """What asks for a question about a fact of elsewhere, of which only the sentence is shown."""
        other = fact.asking.statement.passage
        text = f"{other.title}.\n{fact.asking.statement.text}"
        prompt = skills.ask(text, fact.value, temperature=self.temperature)
        return _Foreign(passage, lowered(thing, passage), other, lowered(fact.subject, other), prompt)

    def _by_writer(
        self,
        borrowed: Sequence[_Foreign],
        where: Concordance,
        opened: Mapping[str, str],
        writer: Writer,
        seed: int,
    ) -> Iterator[Example]:
        texts = writer.write([b.prompt for b in borrowed], seed=seed) if borrowed else []
        asked: list[tuple[_Foreign, str]] = []
        for foreign, text in zip(borrowed, texts, strict=True):
            question = foreign.moved(text.text.strip())
            fits = question.endswith("?") and 4 <= len(question.split()) <= 40
            if fits and not where.may_tell(foreign.thing, question, foreign.passage.document_id):
                asked.append((foreign, question))
        checks = [skills.read(opened[f.passage.id], question) for f, question in asked]
        answers = writer.write(checks, seed=seed) if checks else []
        for (foreign, question), answer in zip(asked, answers, strict=True):
            if _says_nothing(answer.text):
                both = [foreign.passage, foreign.other]
                question = titled(question, foreign.passage)
                yield exchange(both, question, ABSTENTION, f"{self.name}/foreign", writer.name)


def _says_nothing(answer: str) -> bool:
    return stems(answer) == stems(skills.ABSTENTION)


def _things(passage: Passage) -> list[str]:
    """What a passage names: subjects and names of a few words, and what its document is about."""
    named = [a.answer for a in passage_askings(passage) if a.kind in ("name", "subject")]
    return [t for t in dict.fromkeys(named) if _is_thing(t, passage)] + [name_in_title(passage)]


def _is_thing(words: str, passage: Passage) -> bool:
    """Whether it is a name, or a few words from an article on; no word that is a name by its place alone."""
    if not re.fullmatch(r"[\w'’-]+(?: [\w'’&-]+){0,4}", words) or leans(words):
        return False
    if re.match(r"(?:The|Our) ", words):
        return True
    if " " not in words and not re.search(rf"[a-z,] {re.escape(words)}\b", passage.text):
        return False
    capital = all(w[:1].isupper() or w in ("of", "the", "and", "&", "for") for w in words.split())
    return capital and lowered(words, passage) == words


def _templates() -> list[tuple[str, str]]:
    """Questions with {} for a thing, each with the word that must not occur with it."""
    pairs = (line.split(" | ") for line in prompt_lines("unanswerable.templates.txt"))
    return [(question, word) for question, word in pairs]
