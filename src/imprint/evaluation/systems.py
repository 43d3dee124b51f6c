"""Who answers the questions of a certificate: the weights, their rivals, and what joins both.

A system is a small named object. All are asked the same questions in the same words, documents first and question
last, greedily and with the same room for an answer. Where the base carries the skill `read`, what reads is shown
both as the base is and with it: a rival that loses because it was built badly proves nothing."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from imprint.engine import Engine, Seat
from imprint.errors import BadSetting
from imprint.evaluation import open_book
from imprint.evaluation.closed_book import abstains, normalised
from imprint.evaluation.open_book import FullContext, Search
from imprint.types import Passage, Prompt, Text, Writer
from imprint.watch import SILENT, Watch
from imprint.writers.local import LocalWriter

TAUGHT, READ, RAW_TEXT = "taught", "read", "raw_text"
"""Names of the adapters that may be worn: the one that is proved, the skill, the naive rival's."""
_LONG = 2048
"""Tokens of a prompt from which on a CPU more are held at once, so that what prompts share is read for several."""
CLOSED, FULL_CONTEXT, RAG = "closed", "full_context", "rag"
"""Ways to ask: the question alone, after all documents, after what a search finds."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a system said to one question."""

    text: str
    certainty: float | None = None
    """Mean natural-log probability of its tokens, where that is told."""
    found: tuple[str, ...] = ()
    """Ids of the passages that it was shown by search."""
    chosen: str = ""
    """Whose answer it is, where one of several was chosen."""
    queries: tuple[str, ...] = ()
    """What was searched for, in turn."""
    weighed: tuple[float, float] | None = None
    """Where an answer of the weights and another were weighed: by how much the weights, and the reader, find the
    weights' likelier, in nats a token."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a system said to all questions, and what that took."""

    said: tuple[Said, ...] = ()
    seconds: float = 0.0
    """Wall time of all of them, asked together."""
    prompt_tokens: int = 0
    written_tokens: int = 0
    usd: float | None = None
    """What a server charged; None for what this machine computes."""

    def __add__(self, other: Answers) -> Answers:
        usd = [each.usd for each in (self, other) if each.usd is not None]
        return Answers(
            (*self.said, *other.said),
            self.seconds + other.seconds,
            self.prompt_tokens + other.prompt_tokens,
            self.written_tokens + other.written_tokens,
            sum(usd) if usd else None,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def answers_from_json(record: Mapping[str, Any]) -> Answers:
    """Answers as they were kept."""

    def one(kept: Mapping[str, Any]) -> Said:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
        return Said(**fields)

    return Answers(**{**record, "said": tuple(one(kept) for kept in record["said"])})


@dataclass(frozen=True, slots=True)
class Desk:
    """What stands ready for who answers. Right answers do not lie on it."""

    engine: Engine
    seats: Mapping[str, Seat]
    """The adapters in memory, by TAUGHT, READ, RAW_TEXT."""
    search: Search | None = None
    """None where the documents are not kept here, as is the context."""
    context: FullContext | None = None
    earlier: Callable[[str], Answers] = field(default=lambda name: Answers(), repr=False)
    """What another system said to the same questions."""
    seed: int = 0
    watch: Watch = SILENT

    def write(self, prompts: Sequence[Prompt], wears: str = "") -> Answers:
        """What the base, wearing this adapter, answers."""
        base = self.engine.base
        lengths = [len(base.prompt_ids(p.turns)) for p in prompts]
        many = base.device.name == "cpu" and max(lengths, default=0) > _LONG
        writer = LocalWriter(base, batch_tokens=60_000 if many else None)
        writer.progress = lambda done, n, rate: self.watch.progress("answers", done, n, f"{rate:.0f} tokens/s")
        began = time.monotonic()
        with self.engine.wearing(self.seats[wears] if wears else None):
            texts = writer.write(prompts, seed=self.seed)
        seconds = time.monotonic() - began
        said = tuple(Said(text.text, certainty(text)) for text in texts)
        return Answers(said, seconds, sum(lengths), sum(len(text.ids or ()) for text in texts))

    def likelihoods(self, prompts: Sequence[Prompt], texts: Sequence[str], wears: str = "") -> list[float]:
        """How likely the base, wearing this adapter, finds each text as the answer."""
        with self.engine.wearing(self.seats[wears] if wears else None):
            return LocalWriter(self.engine.base).likelihoods(prompts, texts)

    def find(self, query: str) -> list[Passage]:
        assert self.search is not None, "systems that search are offered only where there is something to search"
        return self.search(query)

    def prompt(self, way: str, question: str) -> tuple[Prompt, tuple[str, ...]]:
        """How a question is asked in this way, and the ids of the passages that are shown."""
        if way == CLOSED:
            return open_book.closed(question), ()
        if way == FULL_CONTEXT:
            assert self.context is not None
            return self.context.prompt(question), ()
        found = self.find(question)
        return open_book.rag(question, lambda _: found), tuple(passage.id for passage in found)


class System(Protocol):
    """Somebody who answers."""

    @property
    def name(self) -> str: ...

    @property
    def says(self) -> str:
        """What a table calls it."""

    @property
    def means(self) -> str:
        """What it is, in a few words."""

    @property
    def needs(self) -> frozenset[str]:
        """What must lie on the desk: names of adapters, 'documents'."""

    def answers(self, questions: Sequence[str], desk: Desk) -> Answers: ...


@dataclass(frozen=True, slots=True)
class Reads:
    """One prompt, one answer, by the base with at most one adapter on."""

    name: str
    says: str
    means: str
    way: str = CLOSED
    wears: str = ""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(({self.wears} - {""}) | (set() if self.way == CLOSED else {"documents"}))

    def answers(self, questions: Sequence[str], desk: Desk) -> Answers:
        asked = [desk.prompt(self.way, question) for question in questions]
        told = desk.write([prompt for prompt, _ in asked], self.wears)
        said = (replace(one, found=found) for one, (_, found) in zip(told.said, asked, strict=True))
        return replace(told, said=tuple(said))


@dataclass(frozen=True, slots=True)
class Rival:
    """Any other model, asked through a writer: as it is, with all documents, or with what is found."""

    name: str
    says: str
    means: str
    writer: Writer
    kept_as: str
    """What its answers are kept under: another address or window makes another."""
    way: str = CLOSED
    context: FullContext | None = None
    """All documents, cut to this rival's window."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(() if self.way == CLOSED else {"documents"})

    def answers(self, questions: Sequence[str], desk: Desk) -> Answers:
        mine = replace(desk, context=self.context)
        asked = [mine.prompt(self.way, question) for question in questions]
        before = getattr(self.writer, "spent", None)
        began = time.monotonic()
        texts = self.writer.write([prompt for prompt, _ in asked], seed=desk.seed)
        seconds = time.monotonic() - began
        pairs = zip(texts, asked, strict=True)
        said = tuple(Said(text.text, certainty(text), found) for text, (_, found) in pairs)
        after = getattr(self.writer, "spent", None)
        if before is None or after is None:
            return Answers(said, seconds)
        read, written = (getattr(after, k) - getattr(before, k) for k in ("prompt_tokens", "completion_tokens"))
        usd = after.usd - before.usd
        return Answers(said, seconds, read, written, usd)


def rivals(writer: Writer, model: str, kept_as: str, context: FullContext | None) -> list[Rival]:
    """A model asked in all three ways; without documents, only as it is."""
    name = f"rival_{re.sub(r'[^A-Za-z0-9.-]+', '-', model).strip('-.')}"
    asked = [Rival(name, model, "another model, no documents in the prompt", writer, kept_as)]
    if context is not None:
        told = {FULL_CONTEXT: ("full context", "all documents in the prompt"), RAG: ("RAG", "what a search finds")}
        for way, (says, means) in told.items():
            about = (f"{name}_{way}", f"{model}, {says}", f"another model, {means}")
            asked.append(Rival(*about, writer, f"{kept_as}-{way}", way, context))
    return asked


def certainty(text: Text) -> float | None:
    """Mean natural-log probability of the tokens written."""
    return sum(text.logprobs) / len(text.logprobs) if text.logprobs else None


def same(one: str, other: str) -> bool:
    """Whether two answers say the same: equal, or one within the other, in SQuAD's normalisation."""
    a, b = normalised(one), normalised(other)
    return bool(a and b) and (f" {a} " in f" {b} " or f" {b} " in f" {a} ")


def told(text: str) -> bool:
    """Whether something was answered: not nothing, and not that it is not known."""
    return bool(text.strip()) and not abstains(text)


def named(systems: Iterable[System], wanted: Sequence[str]) -> list[System]:
    """The systems of these names, in their own order. Raises BadSetting for a name that is not there."""
    known = {system.name: system for system in systems}
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise BadSetting(f"No system '{name}'.{hint} There are: {', '.join(known)}.")
    return [system for name, system in known.items() if name in wanted]
