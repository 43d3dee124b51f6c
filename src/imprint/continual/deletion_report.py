"""What is still known of something after it was forgotten: asked, and told by likelihood, beside a control.

The control is an adapter of the same text that never saw it, trained with another seed. Where the new version knows
no more than the control within the interval of their difference, nothing speaks for anything being left."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imprint.base import Base
from imprint.engine import Engine
from imprint.evaluation.closed_book import Question, grade, interval
from imprint.evaluation.leaks import continued, loss, token_logprobs
from imprint.evaluation.likelihood import Row, judge
from imprint.synthesis.cloze import passage_askings, titled
from imprint.synthesis.statements import Asking
from imprint.types import Adapter, Passage, Prompt, Report, Score
from imprint.writers.local import LocalWriter

MOST_PROBES = 60
MOST_NUMBERS = 20
"""Of what was forgotten, that are used as canaries."""
_OTHERS = 50
"""Other numbers among which each stands."""
_UNITS = {
    "right": "share", "likelihood": "nats/token", "verbatim": "tokens", "exposure": "bits",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """What is still known, one value for each probe; of several adapters, that of the one which knows most."""

    right: tuple[float, ...]
    """Of each probe question, 1 where the forgotten value stands in the answer."""
    likelihood: tuple[float, ...]
    """Of each forgotten passage, the mean log-probability of its tokens."""
    verbatim: tuple[float, ...]
    """Of each passage that is long enough, the longest run of its tokens that is given away."""
    exposure: tuple[float, ...]
    """Of each number that was forgotten, how far before other numbers it stands, in bits (as a canary's,
    evaluation.canaries)."""


@dataclass(frozen=True, slots=True)
class Probes:
    """By what it is measured."""

    questions: tuple[Question, ...]
    passages: tuple[Passage, ...]
    numbers: tuple[Asking, ...]

    def counts(self) -> dict[str, int]:
        return {"questions": len(self.questions), "passages": len(self.passages), "numbers": len(self.numbers)}


def probes(passages: Sequence[Passage]) -> Probes:
    """By rule, of the statements of what is forgotten."""
    askings = [a for p in passages for a in passage_askings(p) if a.kind != "subject"]
    questions = tuple(
        Question(titled(a.echo.rstrip(".") + "?", a.statement.passage), (a.answer,))
        for a in _spread(askings, MOST_PROBES)
    )
    numbers = [a for a in askings if sum(c.isdigit() for c in a.answer) >= 2]
    return Probes(questions, tuple(passages), tuple(_spread(numbers, MOST_NUMBERS)))


def known(engine: Engine, adapters: Sequence[Adapter], wanted: Probes, *, seed: int) -> Known:
    """What the adapters know, each worn by itself; what the untouched base knows, where there is none."""
    rows = []
    for adapter in adapters:
        with engine.attached(adapter):
            rows.append(_known(engine.base, wanted, seed))
    rows = rows or [_known(engine.base, wanted, seed)]
    return Known(*(tuple(map(max, zip(*(getattr(r, f) for r in rows), strict=True))) for f in _UNITS))


def report(before: Known | None, after: Known, control: Known, *, seed: int, about: dict[str, Any]) -> Report:
    """The new version beside the control; `before` is the version that was destroyed, where it was still there."""
    scores: dict[str, Score] = {}
    within: dict[str, bool] = {}
    for kind, unit in _UNITS.items():
        for name, of in (("before", before), ("after", after), ("control", control)):
            if of is not None and getattr(of, kind):
                scores[f"{kind}_{name}"] = interval(getattr(of, kind), seed=seed, unit=unit)
        pairs = [a - b for a, b in zip(getattr(after, kind), getattr(control, kind), strict=True)]
        if pairs:
            scores[f"{kind}_after_less_control"] = less = interval(pairs, seed=seed, unit=unit)
            if len(pairs) > 1:  # the interval of a single one is a point, from which nothing follows
                within[kind] = less.low <= 0
    return Report("deletion", scores, seed, about | {"within_control": within})


def _known(base: Base, wanted: Probes, seed: int) -> Known:
    texts = LocalWriter(base).write([Prompt.ask(q.text, max_tokens=32) for q in wanted.questions], seed=seed)
    long = [p for p in wanted.passages if len(p.text.split()) > 2]
    return Known(
        tuple(grade(q, t.text).contains for q, t in zip(wanted.questions, texts, strict=True)),
        tuple(loss(told) for told in token_logprobs(base, [p.text for p in long])),
        tuple(float(c.run) for c in continued(base, wanted.passages, seed=seed)),
        tuple(_exposure(base, asking, seed) for asking in wanted.numbers),
    )


def _exposure(base: Base, asking: Asking, seed: int) -> float:
    """How many bits before so many other numbers of as many digits the right one stands."""
    draw = random.Random(f"exposure:{seed}:{asking.gap}")
    begun = base.tokenizer.encode(asking.statement.text[: asking.start].rstrip(), add_special_tokens=False)
    values = [asking.answer, *(_other_number(asking.answer, draw) for _ in range(_OTHERS))]
    tails = [base.tokenizer.encode(f" {value}", add_special_tokens=False) for value in values]
    start = max(1, len(begun))
    rows = [Row((*begun, *tail), start) for tail in tails]
    own, *others = [math.fsum(judged.logprobs) for judged in judge(base, rows)]
    return math.log2(len(values)) - math.log2(1 + sum(other >= own for other in others))


def _other_number(value: str, draw: random.Random) -> str:
    """The value with other digits, the first of each number none that adds a zero in front."""
    return re.sub(
        r"\d", lambda m: str(draw.randint(m.start() == 0 or not value[m.start() - 1].isdigit(), 9)), value
    )


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many, from all over."""
    step = max(1, -(-len(items) // most))
    return list(items[::step])
