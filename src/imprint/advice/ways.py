"""What each way of answering from documents takes: money, seconds, memory, and when a dearer update pays.

Five ways. The documents in every prompt (context), the same with their keys and values kept (cached context),
what a search finds in the prompt (RAG), an adapter alone (weights), and both (weights + RAG). On this machine
all five; of a hosted model the first three, for nobody trains an adapter there for us.

Arithmetic, with D tokens of documents, Q of a question, A of an answer, R of what a search finds (SEARCHED
passages):

    read(n after b)   = a n + c ((b + n)^2 - b^2)   seconds; a and c are measured at two lengths, for attention
                        looks back at all that stands before
    write(A after b)  = A (w + v b)                 seconds; w and v likewise
    first token       = read(prompt) + one token;   answer = read(prompt) + write(A)
    USD a question    = answer x USD an hour / 3600 (the machine's busy time; standing idle is not in it)
    USD an update     = busy seconds x USD an hour / 3600 + what a paid writer takes
    hosted, no cache  = (prompt x input + A x output) / 1e6
    hosted, cached    = D x (p x cache_write + (1 - p) x cached_input) + Q x input + A x output, over 1e6; p is the
                        share of questions that find the cache gone: exp(-lifetime x questions a second), for they
                        come by chance
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from imprint.advice.prices import Hosted
from imprint.advice.qualities import UNKNOWN, Quality
from imprint.errors import BadSetting

WAYS = ("context", "cached_context", "rag", "weights", "weights_and_rag")
HERE = "this machine"
SEARCHED = 4
"""Passages that a search puts into the prompt; as in a proof."""
DAYS_A_MONTH = 365.25 / 12
_NEVER_UPDATED_DAYS = 365.25
"""Documents that never change are counted over a year."""
_MARGIN_TOKENS = 256
"""Of a window, for the conversation's own marks; as in a proof."""


@dataclass(frozen=True, slots=True)
class Use:
    """What the answers are for."""

    questions_per_day: float = 100.0
    updates_per_month: float = 1.0
    """How often the documents change; 0 counts one version over a year."""
    latency_s: float | None = None
    """The longest that a whole answer may take; None sets no limit."""
    least_right: float = 0.5
    """The smallest share of right answers that is of use."""
    hosted: bool = True
    """Whether the documents may be sent to a hosted model."""
    question_tokens: int = 30
    answer_tokens: int = 32

    def __post_init__(self) -> None:
        checks = {
            "questions_per_day": 0 < self.questions_per_day < 1e12,
            "updates_per_month": 0 <= self.updates_per_month < 1e6,
            "latency_s": self.latency_s is None or 0 < self.latency_s < 1e9,
            "least_right": 0 <= self.least_right <= 1,
            "question_tokens": self.question_tokens >= 1,
            "answer_tokens": self.answer_tokens >= 1,
        }
        for name, fine in checks.items():
            if not fine:
                raise BadSetting(f"{name} = {getattr(self, name)!r} is out of range for a plan.")

    @property
    def questions_per_version(self) -> float:
        """Questions that are asked before the documents change."""
        days = DAYS_A_MONTH / self.updates_per_month if self.updates_per_month else _NEVER_UPDATED_DAYS
        return self.questions_per_day * days


@dataclass(frozen=True, slots=True)
class Size:
    """How large the documents are."""

    tokens: int
    passages: int
    facts: int
    """Values that statements give to a subject."""
    passage_tokens: float
    """Mean of a passage."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What this machine does, in seconds, and what memory it takes."""

    base: str
    device: str
    read_s: float
    """To read a token with nothing before it."""
    read_more_s: float
    """The c of the arithmetic above: seconds for a squared token."""
    write_s: float
    """To write a token with nothing before it."""
    write_more_s: float
    """More for each token that stands before it."""
    adapter_factor: float
    """How much longer it takes with an adapter worn."""
    index_s: float
    """To build the search index of these documents."""
    window_tokens: int
    base_bytes: int
    kv_bytes: int
    """Keys and values of a token."""
    adapter_bytes: int
    index_bytes: int
    free_bytes: int
    usd_per_hour: float = 0.0

    def reading(self, tokens: float, after: float = 0.0) -> float:
        """Seconds to read so many tokens after so many."""
        return self.read_s * tokens + self.read_more_s * ((after + tokens) ** 2 - after**2)

    def writing(self, tokens: float, after: float) -> float:
        """Seconds to write so many tokens after so many."""
        return tokens * (self.write_s + self.write_more_s * after)


@dataclass(frozen=True, slots=True)
class Teaching:
    """What a new version of the adapter takes."""

    write_s: float
    train_s: float
    usd: float = 0.0
    """Of a paid writer."""
    times: float = 0.0
    """Training text in multiples of what it tells of."""
    taught: float = 1.0
    """Share of the documents' tokens that the budget teaches."""
    impossible: str = ""
    """Why nothing can be taught, where that is so."""

    @property
    def seconds(self) -> float:
        return self.write_s + self.train_s


@dataclass(frozen=True, slots=True)
class Way:
    """One way of answering, and what it takes."""

    way: str
    where: str
    """HERE, or the hosted model's name."""
    quality: Quality
    usd_per_question: float
    first_token_s: float | None
    answer_s: float | None
    """None of a hosted model: nobody has measured it here."""
    update_s: float
    """Busy seconds of this machine for each new version of the documents."""
    update_usd: float
    memory_bytes: int
    """On this machine, while answering one question."""
    impossible: tuple[str, ...] = ()
    """Why this way cannot be taken, where that is so."""
    breaks_even: Mapping[str, float | None] = field(default_factory=dict)
    """Against each other way of the same place: from how many questions per version on this one is the cheaper, for
    good; None where it never is."""

    @property
    def name(self) -> str:
        """As a person would say it."""
        said = self.way.replace("_and_", " + ").replace("_", " ").replace("rag", "RAG")
        return said if self.where == HERE else f"{said} at {self.where}"

    def usd(self, questions: float) -> float:
        """One version of the documents and so many questions about it."""
        return self.update_usd + questions * self.usd_per_question

    def usd_per_month(self, use: Use) -> float:
        return (
            self.usd(use.questions_per_version) * use.questions_per_day * DAYS_A_MONTH / use.questions_per_version
        )


def on_machine(use: Use, size: Size, pace: Pace, teaching: Teaching, qualities: Mapping[str, Quality]) -> list[Way]:
    """The five ways on this machine, with what rules each out."""
    found = size.passage_tokens * min(SEARCHED, size.passages)
    q, worn, index = use.question_tokens, pace.adapter_factor, pace.index_bytes
    prompts = {"context": size.tokens + q, "cached_context": size.tokens + q, "rag": found + q, "weights": q}
    prompts["weights_and_rag"] = prompts["rag"]
    no_teaching = [teaching.impossible] if teaching.impossible else []

    def way(
        name: str, *, known: float = 0, factor: float = 1.0, update_s: float = 0.0, usd: float = 0.0, kept: int = 0
    ) -> Way:
        prompt = prompts[name]
        reading = factor * pace.reading(prompt - known, known)
        answer = reading + factor * pace.writing(use.answer_tokens, prompt)
        memory = pace.base_bytes + kept + math.ceil((prompt + use.answer_tokens) * pace.kv_bytes)
        taught = name.startswith("weights")
        reasons = [*_too_long(prompt + use.answer_tokens, pace.window_tokens, pace.base)]
        reasons += no_teaching if taught else []
        reasons += _too_slow(answer, use)
        if memory - pace.base_bytes > pace.free_bytes:
            reasons.append(f"it takes {memory / 1e9:.1f} GB of memory, and {pace.free_bytes / 1e9:.1f} GB are free")
        return Way(
            name,
            HERE,
            qualities.get(name, UNKNOWN),
            usd_per_question=_hourly(pace, answer),
            first_token_s=reading + factor * pace.writing(1, prompt),
            answer_s=answer,
            update_s=update_s,
            update_usd=_hourly(pace, update_s) + usd,
            memory_bytes=memory,
            impossible=tuple(reasons),
        )

    teach = teaching.seconds
    return _compared(
        [
            way("context"),
            way("cached_context", known=size.tokens, update_s=pace.reading(size.tokens)),
            way("rag", update_s=pace.index_s, kept=index),
            way("weights", factor=worn, update_s=teach, usd=teaching.usd, kept=pace.adapter_bytes),
            way(
                "weights_and_rag",
                factor=worn,
                update_s=teach + pace.index_s,
                usd=teaching.usd,
                kept=pace.adapter_bytes + index,
            ),
        ]
    )


def on_hosted(use: Use, size: Size, name: str, prices: Hosted, index_s: float, usd_per_hour: float) -> list[Way]:
    """The three ways that need no training, at a hosted model. RAG's index is built on this machine."""
    found = size.passage_tokens * min(SEARCHED, size.passages)
    q, a = use.question_tokens, use.answer_tokens
    missed = math.exp(-60 * prices.cache_minutes * use.questions_per_day / 86_400)
    cached = missed * prices.cache_write + (1 - missed) * prices.cached_input
    known = cached if size.tokens >= prices.cache_from_tokens else prices.input

    def way(named: str, documents: float, document_usd: float, update_s: float = 0.0) -> Way:
        long = bool(prices.long_from_tokens) and documents + q > prices.long_from_tokens
        into, out = (prices.long_input_factor, prices.long_output_factor) if long else (1.0, 1.0)
        usd = (into * (documents * document_usd + q * prices.input) + out * a * prices.output) / 1e6
        reasons = _too_long(documents + q + a, prices.window_tokens, name)
        return Way(
            named, name, UNKNOWN, usd, None, None, update_s, update_s * usd_per_hour / 3600, 0, tuple(reasons)
        )

    return _compared(
        [
            way("context", size.tokens, prices.input),
            way("cached_context", size.tokens, known),
            way("rag", found, prices.input, index_s),
        ]
    )


def break_even(one: Way, other: Way) -> float | None:
    """From how many questions per version on `one` costs no more than `other`, then and ever after; None where
    there is no such number."""
    dearer, saved = one.update_usd - other.update_usd, other.usd_per_question - one.usd_per_question
    if saved < 0 or (saved == 0 and dearer > 0):
        return None
    return 0.0 if dearer <= 0 else float(math.ceil(dearer / saved))


def _compared(ways: Sequence[Way]) -> list[Way]:
    return [replace(w, breaks_even={o.way: break_even(w, o) for o in ways if o is not w}) for w in ways]


def _hourly(pace: Pace, seconds: float) -> float:
    return seconds * pace.usd_per_hour / 3600


def _too_long(tokens: float, window_tokens: int, whose: str) -> list[str]:
    room = window_tokens - _MARGIN_TOKENS
    if tokens <= room:
        return []
    return [f"{tokens:,.0f} tokens do not fit the {window_tokens:,} of {whose}'s window"]


def _too_slow(answer_s: float, use: Use) -> list[str]:
    if use.latency_s is None or answer_s <= use.latency_s:
        return []
    return [f"an answer takes {answer_s:.1f} s, longer than the {use.latency_s:g} s allowed"]
