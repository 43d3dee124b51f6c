"""The proof: the same held-out questions, put to the weights and to their rivals."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from imprint.evaluation.closed_book import Answered, Question, abstains, answer_all, interval
from imprint.types import Prompt, Report, Score, Writer

SYSTEMS = ("untouched", "raw_text", "weights", "full_context", "rag")
"""In the order in which a table shows them."""


@dataclass(frozen=True, slots=True)
class SystemResult:
    """How one system did."""

    score: float
    """Share of the answerable questions whose answer contains a right one."""
    low: float
    high: float
    """Ends of the 95 % bootstrap interval."""
    n: int
    seconds_per_answer: float
    """Wall time of the whole batch, shared by its answers."""
    prompt_tokens: float
    """Mean length of the prompts."""
    exact: float
    f1: float
    by_kind: Mapping[str, Mapping[str, float]]
    """Score, low, high and n of each kind of question."""
    wrongly_abstained: float
    """Share of the answerable questions answered with 'the documents do not say'."""
    twins: Mapping[str, float] = field(default_factory=dict)
    """Value, low, high and n: share of the questions with a twin that were answered with the twin's value; {} where
    no question has one."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was learnt, next to the rivals, on questions that training never saw."""

    name: str
    version: int
    base: str
    questions_from: str
    n: int
    systems: Mapping[str, SystemResult]
    general_perplexity: Mapping[str, float]
    """Perplexity on a fixed general text, 'before' and 'after'."""
    notes: tuple[str, ...] = ()
    seed: int = 0
    answers: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Every answer of every system, with its grade."""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return json.loads(json.dumps(asdict(self)))

    def report(self) -> Report:
        """As the registry keeps it."""
        scores = {k: Score(s.score, s.low, s.high, s.n) for k, s in self.systems.items()}
        return Report("proof", scores, self.seed, self.as_json())

    def __str__(self) -> str:
        lines = [
            f"{self.name}@{self.version} on {self.base}: {self.n} questions {self.questions_from}",
            f"{'system':<14}{'right':>7}   {'95 % interval':<15}{'F1':>6}{'exact':>7}{'prompt':>9}{'s/answer':>10}",
        ]
        for key in [k for k in SYSTEMS if k in self.systems]:
            s = self.systems[key]
            lines.append(
                f"{key.replace('_', ' '):<14}{s.score:>7.1%}   {f'{s.low:.1%} to {s.high:.1%}':<15}{s.f1:>6.2f}"
                f"{s.exact:>7.1%}{s.prompt_tokens:>9.0f}{s.seconds_per_answer:>10.2f}"
            )
        lines += [*self._by_kind(), *self.twin_lines()]
        before, after = self.general_perplexity["before"], self.general_perplexity["after"]
        lines.append(f"perplexity on general text: {before:.2f} before, {after:.2f} after")
        return "\n".join([*lines, *self.notes])

    def _by_kind(self) -> list[str]:
        if "weights" not in self.systems:
            return []
        kinds = self.systems["weights"].by_kind
        lines = ["by kind of question (right / n):"]
        for kind in kinds:
            cells = [
                f"{key.replace('_', ' ')} {s.by_kind[kind]['score']:.0%}"
                for key in SYSTEMS
                if (s := self.systems.get(key)) is not None
            ]
            lines.append(f"  {kind:<14} n={kinds[kind]['n']:<4.0f}{' · '.join(cells)}")
        return lines


    def twin_lines(self) -> list[str]:
        """How often a near-duplicate's value was answered, where the questions tell of any."""
        told = [(key, s.twins) for key in SYSTEMS if (s := self.systems.get(key)) is not None and s.twins]
        cells = [f"{key.replace('_', ' ')} {share['value']:.0%}" for key, share in told]
        if not told:
            return []
        return [f"Answered with a near-duplicate's value, of {told[0][1]['n']:.0f}: {' · '.join(cells)}"]


def from_json(record: Mapping[str, Any]) -> Proof:
    """A proof as it was kept."""
    systems = {k: SystemResult(**s) for k, s in record["systems"].items()}
    return Proof(**{**record, "systems": systems, "notes": tuple(record["notes"])})


def measure(
    writer: Writer,
    questions: Sequence[Question],
    prompt: Callable[[str], Prompt],
    count_tokens: Callable[[Prompt], int],
    *,
    seed: int,
) -> tuple[SystemResult, list[Answered]]:
    """One system's answers to all questions, graded."""
    prompt = functools.cache(prompt)  # asked and counted: a search is made once for each question
    answered, seconds = answer_all(writer, questions, prompt, seed=seed)
    asked = [a for a in answered if a.question.answers]
    score = interval([a.contains for a in asked], seed=seed)
    kinds = sorted({q.kind for q in questions}, key=[q.kind for q in questions].index)
    by_kind = {}
    for kind in kinds:
        part = interval([a.contains for a in answered if a.question.kind == kind], seed=seed)
        by_kind[kind] = {"score": part.value, "low": part.low, "high": part.high, "n": part.n}
    near = interval([a.twin for a in answered if a.question.wrong], seed=seed)
    result = SystemResult(
        score=score.value,
        low=score.low,
        high=score.high,
        n=score.n,
        seconds_per_answer=seconds / max(1, len(questions)),
        prompt_tokens=sum(count_tokens(prompt(q.asked)) for q in questions) / max(1, len(questions)),
        exact=_mean([a.exact for a in asked]),
        f1=_mean([a.f1 for a in asked]),
        by_kind=by_kind,
        wrongly_abstained=_mean([float(abstains(a.text)) for a in asked]),
        twins={"value": near.value, "low": near.low, "high": near.high, "n": near.n} if near.n else {},
    )
    return result, answered


def shown(answered: Sequence[Answered]) -> list[dict[str, Any]]:
    """Answers as JSON values."""
    return [
        {
            "question": a.question.text,
            "kind": a.question.kind,
            "right": list(a.question.answers),
            "answer": a.text,
            "contains": a.contains,
            "exact": a.exact,
            "f1": round(a.f1, 3),
        }
        | ({"wrong": list(a.question.wrong), "twin": a.twin} if a.question.wrong else {})
        | ({"as_of": a.question.as_of} if a.question.as_of else {})
        for a in answered
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
