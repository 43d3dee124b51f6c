"""What the base model believes that a document denies: asked before training, closed book.

For each firm value of the documents the base goes on with the statement's first words. Where it is sure of another
value of the kind, and the document's is far less likely to it, the two are in conflict: such facts take more to
teach than what the base never heard of (CounterFact, Meng et al. 2022, arXiv 2202.05262)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from imprint.continual.conflicts import Conflict, Side, Sources
from imprint.synthesis.cloze import passage_askings
from imprint.synthesis.contradictions import Said
from imprint.synthesis.facts import leans, stems
from imprint.synthesis.quantities import numbers
from imprint.synthesis.statements import Asking
from imprint.types import Passage, Prompt, Reader, Text, Writer

THE_BASE = "the base model"
"""The source of what no document says."""
_TOKENS = 12
"""Tokens in which the base must have said its value."""
_TOGETHER = 512
"""Questions put to the base at once."""
_ENDS = re.compile(
    r"[.,;:!?()\n\"“”]|\s(?:and|but|or|which|who|where|when|that|with|for|in|on|at|by|from|is|was)\b"
)


class Believer(Writer, Reader, Protocol):
    """A writer that can tell how likely texts are to it: the base in this process."""


@dataclass(frozen=True, slots=True)
class Sureness:
    """When the base counts as believing another value."""

    kinds: tuple[str, ...] = ("number", "time", "name")
    """Kinds of values asked about; of a 'thing' the base goes on with anything."""
    probability: float = 0.2
    """Least probability of a token of its own value, in the geometric mean."""
    times: float = 20.0
    """How many times as likely a token of its own value is as one of the document's."""


def beliefs(
    passages: Sequence[Passage],
    base: Believer,
    *,
    seed: int,
    sources: Sources | None = None,
    sureness: Sureness | None = None,
) -> list[Conflict]:
    """The conflicts between the documents (first) and the untouched base (second)."""
    sure, where = sureness or Sureness(), sources or Sources()
    asked = [a for p in passages for a in passage_askings(p) if a.kind in sure.kinds and _can_be_gone_on(a)]
    found: list[Conflict] = []
    for first in range(0, len(asked), _TOGETHER):
        for asking, value in _believed(asked[first : first + _TOGETHER], base, sure, seed):
            statement, text = asking.statement, asking.statement.text
            other = text[: asking.start] + value + text[asking.end :]
            document = where.side(Said(text, statement.passage.id, statement.passage.title))
            believed = Side(Said(other, "", statement.passage.title), THE_BASE)
            found.append(Conflict("belief", document, believed, (asking.answer, value)))
    return found


def _believed(asked: Sequence[Asking], base: Believer, sure: Sureness, seed: int) -> Iterator[tuple[Asking, str]]:
    """The questions of which the base is sure that another value is right, and that value."""
    prompts = [_prompt(a) for a in asked]
    own = [_value(text, a) for text, a in zip(base.write(prompts, seed=seed), asked, strict=True)]
    unlike = [i for i, value in enumerate(own) if value and _differs(value, asked[i])]
    if not unlike:
        return
    again = [prompts[i] for i in unlike]
    of_own = base.likelihoods(again, [f" {own[i]}" for i in unlike])
    of_document = base.likelihoods(again, [f" {asked[i].answer}" for i in unlike])
    for i, mine, theirs in zip(unlike, of_own, of_document, strict=True):
        if mine >= math.log(sure.probability) and mine - theirs >= math.log(sure.times):
            yield asked[i], own[i]


def _can_be_gone_on(asking: Asking) -> bool:
    """Whether the words before the value say of what it is: two or more, of a sentence that stands alone."""
    before = asking.statement.text[: asking.start].split()
    return len(before) >= 2 and not leans(asking.statement.text) and asking.statement.cell == 0


def _prompt(asking: Asking) -> Prompt:
    """The question, and the answer begun with the statement's own words."""
    question = asking.echo.rstrip(".") + "?"
    return Prompt.ask(question, begun=asking.statement.text[: asking.start].rstrip(), max_tokens=_TOKENS)


def _value(text: Text, asking: Asking) -> str:
    """What the base put in the value's place, as far as it is one of that kind; '' where it is none."""
    said = _ENDS.split(text.text.strip() + " ", maxsplit=1)[0].strip()
    if asking.kind == "name":
        said = said if said[:1].isupper() else ""
    elif asking.kind in ("number", "time"):
        said = said if numbers(said) or said[:1].isupper() else ""
    return said if len(said.split()) <= len(asking.answer.split()) + 2 else ""


def _differs(value: str, asking: Asking) -> bool:
    """Whether no word and no number of the base's value is of the document's, nor stands in its statement."""
    mine, said = stems(value), stems(asking.statement.whole)
    figures = {n.value for n in numbers(value)} & {n.value for n in numbers(asking.answer)}
    return bool(mine) and not mine & said and not figures
