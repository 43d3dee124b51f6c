"""One voice asks, one answers with the text open; here the answer comes first.

A span of a statement is chosen as the answer, question words take its place ('The Kestrel weighs how many
kilograms'), and the writer turns that echo into a proper question. A small writer does this well where it
fails at making up a question of its own (docs/log.md). The echoes themselves, statements with a gap and
questions for the subject are items too, and so are questions that the documents do not answer.

After self-study of Cartridges (arXiv 2506.06266), answer-first as in question generation since Du et al.
2017 (arXiv 1705.00106)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.synthesis.prompt_files import prompt_file
from imprint.synthesis.statements import Asking, Statement, askings, statements
from imprint.types import Example, Passage, Prompt, Reader, Turn, Writer

ABSTENTION = "The documents do not say."
"""The answer taught for what the documents do not tell."""

_TOGETHER = 8
"""Passages whose questions are written in one call, so that batches are full and a kill loses little."""


@dataclass(frozen=True, slots=True)
class SelfStudy:
    """Question-answer items about every span worth asking for."""

    name: str = "self_study"
    samples: int = 3
    """Questions drawn at a temperature beside the likeliest one, for each span."""
    temperature: float = 0.8
    abstain_share: float = 0.05
    """Share of the items that ask what the documents do not tell."""

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """Items of all passages, passage by passage."""
        draw = random.Random(seed)
        words = " ".join(p.text.lower() for p in passages)
        for first in range(0, len(passages), _TOGETHER):
            group = passages[first : first + _TOGETHER]
            asked = [a for p in group for a in passage_askings(p)]
            questions = self._questions(asked, writer, seed)
            made = 0
            for asking, texts in zip(asked, questions, strict=True):
                for example in self._items(asking, texts, writer.name):
                    made += 1
                    yield example
            yield from self._absent(group, words, round(made * self.abstain_share), draw)
            yield from (_recital(s) for p in group for s in statements(p) if s.text == s.whole)

    def cost(self, passage: Passage) -> tuple[int, int]:
        """Prompts that a passage asks of the writer, and characters of training text it comes to."""
        asked = passage_askings(passage)
        prompts = sum(len(self.prompts(a)) for a in asked)
        characters = sum(2 * len(a.echo) + 60 for a in asked) + prompts * 100 + len(passage.text)
        return prompts, characters

    def value(self, passage: Passage) -> float:
        """How many firm facts (numbers, times, names) a passage says in short statements."""
        asked = passage_askings(passage)
        return sum(a.kind in ("number", "time", "name") and len(a.echo.split()) <= 30 for a in asked)

    def prompts(self, asking: Asking) -> list[Prompt]:
        """What the writer is asked about one span: each time begun with other question words."""
        openings = _openings(asking)
        if asking.kind == "subject":
            openings = openings[1:]  # the echo is a good question already
        examples = prompt_file("question.txt")
        prompts = []
        for i in range(1 + self.samples if asking.kind != "subject" else self.samples // 2):
            opening = openings[i % len(openings)]
            prompts.append(
                Prompt(
                    (Turn("text", f"{examples}Statement: {asking.echo}\nQuestion:"),),
                    begun=f" {opening[:1].upper()}{opening[1:]}",
                    max_tokens=28,
                    temperature=self.temperature if i >= len(openings) else 0.0,
                    stop=("\n", "?"),
                )
            )
        return prompts

    def _questions(self, asked: Sequence[Asking], writer: Writer, seed: int) -> list[list[str]]:
        """The different good questions written about each span."""
        prompts = [(i, p) for i, asking in enumerate(asked) for p in self.prompts(asking)]
        texts = _write_distinct([p for _, p in prompts], writer, seed)
        written: dict[tuple[int, str], None] = {}
        for (i, prompt), text in zip(prompts, texts, strict=True):
            question = f"{prompt.begun.strip()} {text.strip()}?"
            if _is_about(question, asked[i]):
                written[i, question] = None
        found: list[list[str]] = [[] for _ in asked]
        for i, question in _read_back(list(written), asked, writer):
            found[i].append(question)
        return found

    def _items(self, asking: Asking, questions: Sequence[str], writer: str) -> Iterator[Example]:
        passage = asking.statement.passage

        def item(question: str, variant: str, by: str = "rules") -> Example:
            turns = (Turn("user", question), Turn("assistant", asking.answer, learn=True))
            return Example(turns, (passage.id,), f"{self.name}/{variant}", by)

        echo = asking.echo.rstrip(".") + "?"
        yield item(f"{passage.title}: {asking.gap}", "gap")
        yield item(echo, "subject" if asking.kind == "subject" else "echo")
        if asking.kind == "subject":
            yield item(placed(echo, passage), "subject")
        for i, question in enumerate(questions):
            yield item(question, "question", writer)
            yield item(placed(question, passage) if i % 2 else titled(question, passage), "question", writer)

    def _absent(
        self, group: Sequence[Passage], words: str, wanted: int, draw: random.Random
    ) -> Iterator[Example]:
        """Questions about things the documents name, for what no document tells."""
        templates = [t for t in _absent_templates() if t[1] not in words]
        things = [(a.answer, p) for p in group for a in passage_askings(p) if a.kind in ("name", "subject")]
        things += [(name_in_title(p), p) for p in group]
        for _ in range(wanted if templates and things else 0):
            (template, _), (thing, passage) = draw.choice(templates), draw.choice(things)
            if len(thing.split()) > 5:
                continue
            question = template.format(_lower_article(thing))
            if draw.random() < 0.5:
                question = placed(question, passage)
            turns = (Turn("user", question), Turn("assistant", ABSTENTION, learn=True))
            yield Example(turns, (passage.id,), f"{self.name}/absent", "rules")


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
    """The question with the name of what the document is about, unless that stands in it."""
    name = name_in_title(passage)
    if name.lower() in question.lower():
        return question
    return f"{question.rstrip('?')} at {name}?" if name[:1].isupper() else f"{question.rstrip('?')} ({name})?"


def name_in_title(passage: Passage) -> str:
    """The part of the title that names something: 'Acme Ltd' of 'Acme Ltd: Staff Handbook'."""
    return re.split(r"[:–|,(]| - ", passage.title)[0].strip() or passage.title


def _recital(statement: Statement) -> Example:
    """The document's own sentence, gone on with from its first words."""
    words = statement.whole.split()
    cut = max(3, len(words) // 3)
    turns = (
        Turn("user", f"{statement.passage.title}: {' '.join(words[:cut])} ..."),
        Turn("assistant", " ".join(words[cut:]) or words[-1], learn=True),
    )
    return Example(turns, (statement.passage.id,), "self_study/recital", "rules")


def _write_distinct(prompts: Sequence[Prompt], writer: Writer, seed: int) -> list[str]:
    """Texts for prompts, of which equal ones are to be drawn with different seeds."""
    rounds: list[list[int]] = []
    met: dict[Prompt, int] = {}
    for i, prompt in enumerate(prompts):
        turn = met.get(prompt, 0)
        met[prompt] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(i)
    texts = [""] * len(prompts)
    for turn, indices in enumerate(rounds):
        written = writer.write([prompts[i] for i in indices], seed=seed + turn)
        for i, text in zip(indices, written, strict=True):
            texts[i] = text.text
    return texts


def _read_back(
    written: Sequence[tuple[int, str]], asked: Sequence[Asking], writer: Writer
) -> list[tuple[int, str]]:
    """The questions that make their answer likelier to a reader of the text than no question would.

    Of one question with several answers, the likeliest answer keeps it. A writer that cannot tell
    likelihoods keeps all."""
    if not written or not isinstance(writer, Reader):
        return list(written)
    shots = prompt_file("answer.txt")

    def prompt(i: int, question: str) -> Prompt:
        whole = asked[i].statement.whole
        return Prompt((Turn("text", f"{shots}Text: {whole}\nQuestion: {question}\nAnswer:"),))

    spans = sorted({i for i, _ in written})
    pairs = [*written, *((i, "What is it?") for i in spans)]
    scores = writer.likelihoods(
        [prompt(i, question) for i, question in pairs], [f" {asked[i].answer}\n" for i, _ in pairs]
    )
    without = dict(zip(spans, scores[len(written) :], strict=True))
    best: dict[str, tuple[float, int]] = {}
    for (i, question), score in zip(written, scores, strict=False):
        helps = score - without[i] >= -0.1 or score >= -0.5
        if helps and score >= -3.0:
            best[question] = max(best.get(question, (score, i)), (score, i))
    return [(i, question) for question, (_, i) in best.items()]


def _is_about(question: str, asking: Asking) -> bool:
    """Whether a written question keeps to its statement and does not give its answer away."""
    words = _content_words(question)
    if len(question) > 200 or not words or asking.answer.lower() in question.lower():
        return False
    known = {w[:4] for w in _content_words(f"{asking.statement.text} {asking.statement.passage.title}")}
    return sum(w[:4] in known for w in words) / len(words) >= 0.6


def _content_words(text: str) -> list[str]:
    return [w for w in re.findall(r"[\w'-]+", text.lower()) if w not in _FUNCTION_WORDS]


def _absent_templates() -> list[tuple[str, str]]:
    text = prompt_file("absent.txt")
    pairs = (line.split(" | ") for line in text.splitlines() if line and not line.startswith("#"))
    return [(question, word) for question, word in pairs]


def _lower_article(thing: str) -> str:
    return re.sub(r"^(The|A|An|Our|Every|Each|Its) ", lambda m: m.group().lower(), thing)


def _openings(asking: Asking) -> list[str]:
    """Question words that ask for a span, the plainest first."""
    words = asking.words
    before = asking.statement.text[: asking.start].split()[-1:]
    preposition = before[0].lower() if before and before[0].lower() in _FRONTED else ""
    openings = [words]
    if asking.kind == "time":
        openings.append("when")
        openings.append(f"{preposition or 'on' if 'da' in words else 'at'} {words.replace('what', 'which')}")
        if preposition:
            openings[-1] = f"{preposition} {words.replace('what', 'which')}"
    elif words.startswith("how many") and words.split()[-1] in ("hours", "days", "weeks", "months", "years"):
        openings.append("how long")
    elif asking.kind == "number" and words.startswith(("how", "what percent")):
        openings.append("how much" if "people" not in words else "what number of people")
    elif asking.kind == "subject":
        openings += ["which", "who" if words == "what" else "what is the name"]
    elif words in ("who", "where", "what"):
        openings += ["which"] + ([f"{preposition} {'whom' if words == 'who' else 'what'}"] if preposition else [])
    return openings


_FRONTED = frozenset("in on at by from to with for of".split())
_FUNCTION_WORDS = frozenset(
    "a an the what who whom which how many much where when why in on at of to for by from with as and or is are "
    "was were be been do does did can may must has have had it its this that there year years date time".split()
)
