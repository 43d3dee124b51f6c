"""Questions as people ask them, with short answers that stand in the text; the answer comes first.

The writer is asked in two ways: for questions with answers of its own choice, and for a question to each span that
a rule finds worth asking for (numbers, times, names, phrases, subjects), so that no fact hangs on what a model
happens to notice. A span is asked for in one more way each round, for its question begins with other words.
Whether a question has its answer is left to the audit, which reads the text again. Answer-first as in Du et al.
2017 (arXiv 1705.00106); answers checked by answering again as in PAQ (arXiv 2102.07033)."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.documents import sentences
from imprint.synthesis import skills
from imprint.synthesis.cloze import passage_askings, placed, titled
from imprint.synthesis.facts import leans
from imprint.synthesis.forms import exchange, groups, shown
from imprint.synthesis.prompt_files import prompt_lines
from imprint.synthesis.prose import continued
from imprint.synthesis.statements import Asking
from imprint.types import Effort, Example, Passage, Prompt, Writer

_ANSWER_WORDS, _SENTENCE_WORDS, _PARAGRAPH_WORDS = 12, 45, 90
"""Longest answers: short ones, in a sentence, in a few."""
_EMPTY_OPENINGS = frozenset(
    "unless their its his her our your my which who whom whose that they it he she we you this these those what "
    "when where why how if because although and or but not only also very as than so such same other another each "
    "any some there then thus is are was were be been being has have had do does did".split()
)
"""First words of a span that no question asks for."""
_EMPTY_ENDINGS = frozenset("of in on at by to for from with and or the a an as is are was were that".split())


@dataclass(frozen=True, slots=True)
class Questions:
    """Short questions and answers about all that a passage says."""

    name: str = "questions"
    several: int = 5
    """Questions of the writer's own choice, for each passage and round."""
    temperature: float = 0.7
    in_sentences: float = 0.15
    """Share of the questions that are asked once more for a whole sentence."""
    in_paragraphs: float = 0.08
    """Share of the questions that are asked once more for a few sentences."""

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """Items of one round, passage by passage."""
        for group in groups(passages):
            asked = [(p, answer, prompt) for p in group for answer, prompt in self._prompts(p, seed)]
            texts = writer.write([prompt for _, _, prompt in asked], seed=seed)
            for (passage, answer, prompt), text in zip(asked, texts, strict=True):
                told = [(_one_line(prompt, text.text), answer)] if answer else skills.pairs(text.text)
                for question, given in dict(told).items():
                    if _fits(question, given, passage):
                        yield from self._items(question, given, passage, writer.name, seed)

    def effort(self, passage: Passage) -> Effort:
        prompts = self._prompts(passage, 0)
        written = 70 * len(prompts) + 75 * (self.several - 1)
        # A passage is read once for all its questions, and about half of them survive the audit.
        read = len(shown(passage)) + 60 * len(prompts)
        return Effort(len(prompts), read, written, round(0.65 * written))

    def _prompts(self, passage: Passage, seed: int) -> list[tuple[str, Prompt]]:
        """Answers to be asked for with the prompts that ask; the answer is '' where the writer chooses.

        All at once: a writer reads a passage once for the prompts that share it."""
        text = shown(passage)
        spans = {a.answer: a for a in reversed(passage_askings(passage)) if _worth_asking(a)}
        count = max(2, min(self.several, len(passage.text) // 60))
        prompts = [("", skills.ask_several(text, count, temperature=self.temperature))]
        for span, asking in reversed(spans.items()):
            begun = _opening(asking, seed)
            prompts.append((span, skills.ask(text, span, begun=begun, temperature=self.temperature)))
        return prompts

    def _items(self, question: str, answer: str, passage: Passage, writer: str, seed: int) -> Iterator[Example]:
        draw = random.Random(f"{passage.id}:{seed}:{question}")
        way = draw.choice((str, str, lambda q: placed(q, passage), lambda q: titled(q, passage)))
        yield exchange([passage], way(question), _as_answer(answer), f"{self.name}/short", writer)
        sentence, paragraph = _told_with(answer, passage)
        if sentence and draw.random() < self.in_sentences:
            asked = f"{way(question)} Answer in a whole sentence."
            yield exchange([passage], asked, sentence, f"{self.name}/sentence", writer)
        if paragraph and draw.random() < self.in_paragraphs:
            asked = f"{way(question)} Answer in a few sentences."
            yield exchange([passage], asked, paragraph, f"{self.name}/paragraph", writer)


def _worth_asking(asking: Asking) -> bool:
    """Whether people would ask for a span: firm facts always, phrases where they are whole."""
    words = re.findall(r"[\w'-]+", asking.answer.lower())
    if not _short(asking.answer) or not words or words[0] in _EMPTY_OPENINGS or words[-1] in _EMPTY_ENDINGS:
        return False
    return asking.kind in ("number", "time", "name") or len(words) <= 8


@functools.cache
def _ways(kind: str) -> tuple[str, ...]:
    """First words of questions about a span of this kind, round by round."""
    lines = (line.split(" | ") for line in prompt_lines("questions.openings.txt"))
    return tuple(words for of, words in lines if of == kind)


def _opening(asking: Asking, seed: int) -> str:
    """The words that this round's question about a span begins with; none in the first round."""
    ways = _ways(asking.kind)
    words = ways[seed % 1000 % len(ways)]  # the seed of a mix's round is 1000 times its own, and the round's number
    if words == "*":
        return asking.words[:1].upper() + asking.words[1:]
    return "" if words == "-" else words


def _one_line(prompt: Prompt, text: str) -> str:
    question = continued(prompt, text.strip().split("\n")[0])
    return question if question.endswith("?") else ""


def _fits(question: str, answer: str, passage: Passage) -> bool:
    """Whether a question is whole, its answer short and in the passage, and not given away."""
    if not question.endswith("?") or not 3 <= len(question.split()) <= 40 or not _short(answer):
        return False
    inside = re.search(rf"(?<!\w){re.escape(answer.strip(' .'))}(?!\w)", passage.text, re.IGNORECASE)
    return inside is not None and answer.lower().strip(" .") not in question.lower()


def _short(answer: str) -> bool:
    return 0 < len(answer.split()) <= _ANSWER_WORDS and any(c.isalnum() for c in answer)


def _as_answer(answer: str) -> str:
    return answer.strip().rstrip(".,;:")


def _told_with(answer: str, passage: Passage) -> tuple[str, str]:
    """The sentence in which an answer stands, and two or three from there on; '' where it stands in several, in
    none, or where they are too long."""
    told = [" ".join(passage.text[a:b].split()) for a, b in sentences(passage.text)]
    found = [i for i, s in enumerate(told) if answer.lower().strip(" .") in s.lower()]
    if len(found) != 1 or len(told[found[0]].split()) > _SENTENCE_WORDS:
        return "", ""
    first = found[0] - 1 if found[0] and leans(told[found[0]]) else found[0]
    last = found[0] + 1
    while (
        last < len(told) and last - first < 3 and len(" ".join(told[first : last + 1]).split()) <= _PARAGRAPH_WORDS
    ):
        last += 1
    return told[found[0]], " ".join(told[first:last]) if last - first > 1 else ""
