"""Questions of several kinds held out of what was written, so that a proof without a questions file tells them
apart.

- direct        a question with a short answer, as the writer asked it
- paraphrased   the same where training asks for that very answer of that passage too, in clearly other words
- numeric       the answer has a number or a date
- reversed      the value is given and the subject asked for; training may ask for it backwards in other words too
- within        two places of one document are compared
- across        two documents are compared

What a run's mix has not written has no questions here: the mix of the bundled writer compares nothing. A comparison
names both things, so that guessing is right half of the time; its other thing is kept as the wrong value. Nobody
looked at these questions: they are as right as the writer and the audit were."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

from imprint.evaluation.closed_book import Question
from imprint.evaluation.questions import Apart, Drawn, Fact, asks_shortly, fact_of
from imprint.synthesis.quantities import dates, numbers
from imprint.types import Example

DIRECT, PARAPHRASED, NUMERIC, REVERSED, WITHIN, ACROSS = KINDS = (
    "direct", "paraphrased", "numeric", "reversed", "within", "across",
)  # fmt: skip
_DRAWN = (DIRECT, NUMERIC, REVERSED, WITHIN, ACROSS)
"""Kinds that an example shows by itself; what is paraphrased, its neighbours show."""
_MOST, _MOST_OF_A_KIND = 0.1, 0.25
"""Of all questions no more than this share is held out, and of those of a rare kind no more than that."""


def as_question(example: Example) -> Question | None:
    """An example as a question of its kind; None for what asks nothing that can be graded."""
    if example.generator.endswith("/comparison"):
        return _comparison(example)
    if not asks_shortly(example):
        return None
    asked, answer = example.turns[0].text, example.turns[1].text
    if example.generator == "reversal/question":
        return Question(asked, (answer,), REVERSED)
    return Question(asked, (answer,), NUMERIC if numbers(answer) or dates(answer) else DIRECT)


def hold_out_by_kind(
    written: Callable[[], Iterable[Example]], wanted: int, *, seed: int, most: float = _MOST
) -> list[Question]:
    """So many questions of what was written, from every kind as many as can be, one for a fact.

    `written` is gone through twice: to draw them, and to see which of their answers training asks for in other
    words."""
    pools = {kind: Drawn(wanted, seed) for kind in _DRAWN}
    for example in written():
        question = as_question(example)
        if question is not None:
            pools[question.kind].offer(example, question)
    room = min(wanted, int(most * sum(pool.candidates for pool in pools.values())))
    held = _by_turns([pools[kind].facts(max(most, _MOST_OF_A_KIND)) for kind in _DRAWN])[:room]
    again = _asked_otherwise(written(), held)
    questions = [replace(q, kind=PARAPHRASED) if q.kind == DIRECT and fact in again else q for fact, q in held]
    return sorted(questions, key=lambda q: KINDS.index(q.kind))


def _by_turns(pools: Sequence[Sequence[tuple[Fact, Question]]]) -> list[tuple[Fact, Question]]:
    """One of each pool after another; a question that stands in two of them comes once."""
    dealt: dict[str, tuple[Fact, Question]] = {}
    for turn in zip_longest(*pools):
        for drawn in turn:
            if drawn is not None:
                dealt.setdefault(drawn[1].text, drawn)
    return list(dealt.values())


def _asked_otherwise(examples: Iterable[Example], held: Sequence[tuple[Fact, Question]]) -> set[Fact]:
    """The facts for which a question stays in the training text that none of those held out is like."""
    facts, apart = {fact for fact, _ in held}, Apart(question for _, question in held)
    return {fact_of(e) for e in _short(examples) if fact_of(e) in facts and apart.keeps(e)}


def _short(examples: Iterable[Example]) -> Iterator[Example]:
    return (e for e in examples if asks_shortly(e) and e.generator != "reversal/question")


def _comparison(example: Example) -> Question | None:
    """Which of two: the thing that the answer begins with is right, the other that the question names is wrong."""
    asked, told = example.turns[0].text, example.turns[1].text
    named = re.search(r", ([^,]+) or ([^?]+)\?", asked)
    if named is None or len(example.passages) != 2:
        return None
    documents = {passage.split(":")[0] for passage in example.passages}
    kind = ACROSS if len(documents) == 2 else WITHIN
    if told.startswith("They are the same."):
        return Question(asked, ("the same",), kind)
    for right, wrong in (named.groups(), named.groups()[::-1]):
        if f"{told} ".lower().startswith((f"{right}. ".lower(), f"{right} ".lower())):
            return Question(asked, (right,), kind, (wrong,))
    return None
