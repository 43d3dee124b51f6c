"""Which facts of the documents the weights can tell, passage by passage, and what taught them.

A fact is a question with its right answer about one passage: the training text's own short questions, which say
whether what was shown was kept, and the held-out ones, which say whether it can be told in other words. All are
asked closed book. Pieces cut a document whole: every character lies in exactly one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from imprint.evaluation.closed_book import Question, normalised
from imprint.evaluation.context_rot import passage_of
from imprint.evaluation.open_book import Search
from imprint.evaluation.questions import asks_for_short_answer
from imprint.types import Document, Example, Passage, content_hash

TRAINED_EACH = 4
"""Facts of the training text that are asked about one passage."""
_KEPT_EACH = 200
"""Examples of one passage among which those that taught a fact are looked for."""
_TAUGHT_BY = 3

LEARNT, PARTLY, MISSED, NOT_ASKED, BETWEEN = "learnt", "partly", "missed", "not asked", "between"
"""What a piece of a document is: a passage of which all, some or no facts can be told, one that nothing was asked
about, or what stands between passages (headings, white space)."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that a passage tells."""

    question: Question
    passage: str
    """Id of the passage."""
    trained: bool
    """Whether the question itself is of the training text."""
    span: tuple[int, int] | None
    """Where a right answer stands in the document, in characters; None where it stands there in other words."""
    taught_by: tuple[Example, ...] = ()
    """Examples of the training text that tell it, the nearest first."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a document, and what the weights can tell of it."""

    start: int
    end: int
    state: str
    facts: tuple[int, ...] = ()
    """Places of its facts in the list of all."""


def by_passage(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """Examples by each passage that they came from, so many of one at most."""
    found: dict[str, list[Example]] = {}
    for example in examples:
        for passage in example.passages:
            mine = found.setdefault(passage, [])
            if len(mine) < _KEPT_EACH:
                mine.append(example)
    return found


def facts(
    passages: Sequence[Passage],
    examples: Mapping[str, Sequence[Example]],
    questions: Sequence[Question],
    search: Search,
    *,
    seed: int,
) -> list[Fact]:
    """The facts of all passages: the held-out questions whose passage is found, and some of the training text's."""
    known = {passage.id: passage for passage in passages}
    held = [(question, passage_of(question, search)) for question in questions if question.answers]
    found = [_fact(q, p, examples.get(p.id, ()), trained=False) for q, p in held if p is not None and p.id in known]
    for passage in passages:
        mine = examples.get(passage.id, ())
        found += [_fact(q, passage, mine, trained=True) for q in _asked(mine, seed)[:TRAINED_EACH]]
    order = {passage.id: i for i, passage in enumerate(passages)}
    return sorted(found, key=lambda fact: (order[fact.passage], fact.span or (0, 0)))


def pieces(
    document: Document, passages: Sequence[Passage], facts: Sequence[Fact], right: Sequence[float]
) -> list[Piece]:
    """The document cut whole: its passages and what stands between them. `right`: how each fact was answered."""
    mine = sorted((p for p in passages if p.document_id == document.id), key=lambda p: p.start)
    of_passage: dict[str, list[int]] = {}
    for place, fact in enumerate(facts):
        of_passage.setdefault(fact.passage, []).append(place)
    found: list[Piece] = []
    reached = 0
    for passage in mine:
        if passage.start > reached:
            found.append(Piece(reached, passage.start, BETWEEN))
        places = of_passage.get(passage.id, [])
        found.append(Piece(passage.start, passage.end, _state([right[i] for i in places]), tuple(places)))
        reached = passage.end
    if reached < len(document.text):
        found.append(Piece(reached, len(document.text), BETWEEN))
    return found


def taught_by(question: str, answers: Sequence[str], examples: Sequence[Example]) -> tuple[Example, ...]:
    """Of a passage's examples those that tell a right answer, the most like the question first."""
    wanted = [f" {normalised(answer)} " for answer in answers]
    asked = set(normalised(question).split())

    def likeness(example: Example) -> float:
        words = set(normalised(" ".join(turn.text for turn in example.turns)).split())
        return len(asked & words) / len(asked | words)

    telling = [e for e in examples if any(w in f" {normalised(_learnt(e))} " for w in wanted)]
    return tuple(sorted(telling, key=likeness, reverse=True)[:_TAUGHT_BY])


def _learnt(example: Example) -> str:
    return " ".join(turn.text for turn in example.turns if turn.learn)


def _asked(examples: Sequence[Example], seed: int) -> list[Question]:
    """The short questions among a passage's examples, one for each answer, in an order that the seed draws."""
    ranked: dict[str, tuple[str, Question]] = {}
    for example in examples:
        if not asks_for_short_answer(example) or len(example.passages) > 1:
            continue
        question, answer = example.turns[0].text, example.turns[1].text
        rank = content_hash(str(seed), question, answer)
        if answer not in ranked or rank < ranked[answer][0]:
            ranked[answer] = (rank, Question(question, (answer,), "trained"))
    return [question for _, question in sorted(ranked.values(), key=lambda pair: pair[0])]


def _fact(question: Question, passage: Passage, examples: Sequence[Example], *, trained: bool) -> Fact:
    span = next((s for a in question.answers if (s := _span(a, passage)) is not None), None)
    return Fact(question, passage.id, trained, span, taught_by(question.text, question.answers, examples))


def _span(answer: str, passage: Passage) -> tuple[int, int] | None:
    found = re.search(rf"(?<!\w){re.escape(answer.strip())}(?!\w)", passage.text, re.IGNORECASE)
    return (passage.start + found.start(), passage.start + found.end()) if answer.strip() and found else None


def _state(right: Sequence[float]) -> str:
    if not right:
        return NOT_ASKED
    return LEARNT if all(right) else PARTLY if any(right) else MISSED
