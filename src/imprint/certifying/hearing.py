"""What stands ready while a certificate is made, and what is kept of it as it goes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from imprint.base import Base
from imprint.engine import Engine, Seat
from imprint.evaluation import certificate
from imprint.evaluation.canaries import Canary
from imprint.evaluation.closed_book import Answered, Question, grade
from imprint.evaluation.hybrid import Either
from imprint.evaluation.open_book import FullContext, Search
from imprint.evaluation.searching import Searches
from imprint.evaluation.suites import Item
from imprint.evaluation.systems import (
    FULL_CONTEXT,
    RAG,
    RAW_TEXT,
    READ,
    TAUGHT,
    Answers,
    Desk,
    Reads,
    Rival,
    System,
    answers_from_json,
)
from imprint.run_folder import RunFolder
from imprint.types import Document, Example, Passage, Writer
from imprint.watch import Watch

SYSTEMS: tuple[System, ...] = (
    Reads("untouched", "untaught base", "no documents anywhere"),
    Reads(RAW_TEXT, "raw text", "trained on the bare documents, for as many tokens", wears=RAW_TEXT),
    Reads("weights", "weights alone", "taught by imprint, no documents in the prompt", wears=TAUGHT),
    Reads("full_context", "full context", "all documents in the prompt", FULL_CONTEXT),
    Reads("full_context_read", "full context, `read`", "the same with the skill `read` on", FULL_CONTEXT, READ),
    Reads("rag", "RAG", "what a search finds in the prompt", RAG),
    Reads("rag_read", "RAG, `read`", "the same with the skill `read` on", RAG, READ),
    Reads("worn_full_context", "full context, worn", "the same with the adapter on", FULL_CONTEXT, TAUGHT),
    Reads("worn_rag", "RAG, worn", "the same with the adapter on", RAG, TAUGHT),
    Either("weights_full_context", "weights + full context", FULL_CONTEXT),
    Either("weights_rag", "weights + RAG", RAG),
    Searches(),
)
"""In the order in which they are asked and shown: what joins others comes after them."""
_PAID_AT_ONCE = 16
"""Questions after which what a rival at an address said is kept: so much is asked again after a kill at most."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A model that reads answers and says right, wrong or abstained."""

    says: str
    """What a table calls it."""
    kept_as: str
    """What its verdicts are kept under: another address or model makes another."""
    writer: Writer


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be certified, beside the adapter itself."""

    questions: Sequence[Question]
    questions_from: str
    systems: Sequence[str] | None = None
    """Names of systems; None asks all that can be asked."""
    parts: Sequence[str] | None = None
    """Names of PARTS; None measures all that can be measured."""
    suites: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    """By name: items judged by log-likelihood, before and after."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """By name: texts whose perplexity is taken, besides the general one that comes along."""
    rivals: Sequence[Rival] = ()
    usd_per_hour: float | None = None
    """What this machine costs; None tells no price of what it computes."""
    judge: Judge | None = None
    """Who reads the answers besides the match grader; None for nobody."""
    samples: int = 0
    """Answers drawn at random for each question, to see whether they agree; 0 looks at the free signals only."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of what was taught. Without documents, only what needs none is measured."""

    documents: Sequence[Document] = ()
    passages: Sequence[Passage] = ()
    search: Search | None = None
    examples: Callable[[], Iterable[Example]] = tuple
    """The training text, as far as it is here."""
    taught: Sequence[Passage] = ()
    """The passages that were taught, and of the same documents those that the plan left out."""
    left_out: Sequence[Passage] = ()
    canaries: Sequence[Canary] = ()
    """Secret lines that were put among the training text."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """What stands ready while a certificate is made."""

    engine: Engine
    seats: Mapping[str, Seat]
    asked: Asked
    kept: Kept
    rows: RunFolder
    watch: Watch
    context: FullContext | None

    @property
    def base(self) -> Base:
        return self.engine.base

    @property
    def desk(self) -> Desk:
        return Desk(
            self.engine, self.seats, self.kept.search, self.context, self.earlier, self.asked.seed, self.watch
        )

    @property
    def search(self) -> Search:
        assert self.kept.search is not None, "parts that search are left out where there is nothing to search"
        return self.kept.search

    @contextlib.contextmanager
    def wearing(self, wears: str) -> Iterator[Base]:
        """The base with the adapter of that name on, TAUGHT or READ; '' bare."""
        with self.engine.wearing(self.seats[wears] if wears else None):
            yield self.base

    def row(self, name: str, stage: str, make: Callable[[], Any]) -> Any:
        """JSON values of that name: as they were kept, or made now, as a stage that is told, and kept."""
        found = self.rows.read(name)
        if found is None:
            self.watch.stage(stage)
            found = certificate.jsonable(make())
            self.rows.write(name, found)
        return found

    def answers(self, system: System) -> Answers:
        """What a system says to the questions; of a rival, some are kept at a time, for they were paid for."""
        texts = [question.asked for question in self.asked.questions]
        step = _PAID_AT_ONCE if isinstance(system, Rival) else max(1, len(texts))
        label = getattr(system, "kept_as", system.name)
        total = Answers()
        for begin in range(0, len(texts), step):
            part = texts[begin : begin + step]
            stage = f"Asking {len(part)} questions: {system.says}"
            made = self.row(f"system-{label}-{begin}", stage, partial(self._ask, system, part))
            total += answers_from_json(made)
        return total

    def earlier(self, name: str) -> Answers:
        """What the system of that name says."""
        return self.answers(next(system for system in SYSTEMS if system.name == name))

    def graded(self, name: str) -> list[Answered]:
        """The same, each with its grade."""
        return [grade(q, said.text) for q, said in zip(self.asked.questions, self.earlier(name).said, strict=True)]

    def _ask(self, system: System, texts: Sequence[str]) -> dict[str, Any]:
        return system.answers(texts, self.desk).as_json()
