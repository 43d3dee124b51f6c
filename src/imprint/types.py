"""The six nouns that travel through imprint, and the five contracts that its rooms keep.

Standard library only: anything may import this page, and it imports nothing but errors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable


def content_hash(*parts: str | bytes) -> str:
    """The first 16 hex digits of SHA-256 over the parts, each preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()[:16]


# --- nouns ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Document:
    """A text that the user brought, and where it came from."""

    text: str
    source: str
    """The path as the user named it, relative to the folder they named where there was one."""
    title: str
    """What a person would call it: its first heading or own title, else its file name."""
    page_starts: tuple[int, ...] = ()
    """Character offset at which each page (or slide) begins; empty where there are no pages."""
    valid_from: str | None = None
    """ISO date from which it holds, where the file says so."""
    owner: str = ""
    """Who brought it, where that is another than the keeper of the adapter."""

    @property
    def id(self) -> str:
        return content_hash(self.text)

    def page_at(self, offset: int) -> int | None:
        """The page (counted from 1) that holds this character; None where there are no pages."""
        pages = sum(start <= offset for start in self.page_starts)
        return pages or None


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a document: `document.text[start:end] == text`, always."""

    document_id: str
    start: int
    end: int
    text: str
    title: str
    """The document's title, which every Example made of this passage names."""
    heading: str = ""
    """The headings above it, outermost first, joined by ' > '."""
    page: int | None = None
    whole: str = field(default="", repr=False, compare=False)
    """The text of its document, where that is known: what it does not say cannot be told from a part of it."""

    @property
    def id(self) -> str:
        return f"{self.document_id}:{self.start}-{self.end}"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation. Only turns marked `learn` carry loss."""

    role: str
    """'system', 'user', 'assistant', or 'text' for a plain text outside any conversation."""
    text: str
    learn: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """Something to train on, and the passages it was made from."""

    turns: tuple[Turn, ...]
    passages: tuple[str, ...]
    """Ids of the passages it came from; deletion and provenance follow this chain."""
    generator: str
    """The kind of synthesis that made it, and the variant: 'self_study/direct'."""
    writer: str = ""
    valid_from: str | None = None
    valid_until: str | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A small set of trained tensors, and the base model that they belong to."""

    base: str
    """Name of the base model."""
    revision: str
    """Content hash of the base's configuration and tokenizer: other bases are refused."""
    spec: Mapping[str, Any]
    """How it plugs in: {'kind': 'lora', 'rank': 16, ...}."""
    tensors: Mapping[str, Any]
    """Named torch tensors, with PEFT's names where PEFT knows the method."""


@dataclass(frozen=True, slots=True)
class Material:
    """What an adapter is about to be taught, in token rows, for kinds that begin from it."""

    documents: Sequence[Sequence[int]] = ()
    """The documents' own text."""
    rows: Sequence[Sequence[int]] = ()
    """The training text."""


NO_MATERIAL = Material()


@dataclass(frozen=True, slots=True)
class Score:
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    unit: str = "share"


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured."""

    name: str
    scores: Mapping[str, Score]
    seed: int
    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON values only."""


@dataclass(frozen=True, slots=True)
class Version:
    """A published adapter. Never changes."""

    name: str
    number: int
    adapter_hash: str
    """Content hash of its files."""
    base: str
    corpus_hash: str
    recipe: Mapping[str, Any]
    parent: int | None = None
    created_at: str = ""
    """ISO 8601, UTC."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Plan, audit counts, lineage, seed: JSON values only."""

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


# --- what writers read and write --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a writer is asked to continue."""

    turns: tuple[Turn, ...]
    begun: str = ""
    """The first words of the answer, put in the writer's mouth; not repeated in its text."""
    max_tokens: int = 64
    temperature: float = 0.0
    """0 takes the likeliest token."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    skill: str = ""
    """The skill adapter that a writer which carries it puts on: 'ask', 'read'; '' is none."""
    hint: str = ""
    """What is said besides to a writer that does not carry the skill."""
    top_logprobs: int = 0
    """How many of the likeliest tokens to tell at each place, where the writer can."""

    def plainly(self) -> Prompt:
        """The same for a writer without the skill: told in words what the skill would know."""
        if not self.hint:
            return self
        *before, last = self.turns
        return replace(self, turns=(*before, replace(last, text=f"{last.text}\n{self.hint}")), skill="", hint="")

    @staticmethod
    def ask(question: str, **settings: Any) -> Prompt:
        """A prompt of one user turn."""
        return Prompt((Turn("user", question),), **settings)


@dataclass(frozen=True, slots=True)
class Text:
    """What a writer wrote."""

    text: str
    logprobs: tuple[float, ...] | None = None
    """Natural-log probability of each token written, where the writer can tell."""
    top: tuple[tuple[tuple[str, float], ...], ...] | None = None
    """At each token the likeliest ones with their log-probabilities, likeliest first, where asked for and told."""
    ids: tuple[int, ...] | None = None
    """The tokens written, with the one that ended the text where one did; None where the writer cannot tell."""


# --- contracts --------------------------------------------------------------------------------


@runtime_checkable
class Writer(Protocol):
    """Anything that writes, samples or answers: a model, an adapter on it, a RAG pipeline."""

    @property
    def name(self) -> str: ...

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        """One text per prompt, in the order asked."""


@runtime_checkable
class Reader(Protocol):
    """A writer that can also tell how likely a text is to it."""

    def likelihoods(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        """Mean natural-log probability per token of each text as what follows its prompt."""


@runtime_checkable
class Embedder(Protocol):
    """Makes vectors of texts: what is alike in meaning points the same way.

    Vectors are NumPy arrays of float32, N x D for N texts, each of length 1."""

    @property
    def name(self) -> str:
        """The model and what its vectors hang on: vectors of one name can be compared, others cannot."""

    @property
    def width(self) -> int:
        """How many numbers a vector has."""

    def stretches(self, text: str, *, head: str = "") -> list[str]:
        """The text in parts that the model reads whole, each under the head; at least one."""

    def embed(self, texts: Sequence[str], *, told: Callable[[int, int], None] | None = None) -> Any:
        """A vector for each text that may be found. `told` hears how many of how many are done."""

    def embed_questions(self, questions: Sequence[str]) -> Any:
        """A vector for each question, told to the model as one where it tells the two apart."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What making examples takes and gives, estimated before anything is spent."""

    prompts: int = 0
    """Texts that a writer must write."""
    read_characters: int = 0
    """Characters of those prompts."""
    written_characters: int = 0
    """Characters that come back."""
    taught_characters: int = 0
    """Characters of training text that come of it, after the audit."""

    def __add__(self, other: Effort) -> Effort:
        return Effort(
            self.prompts + other.prompts,
            self.read_characters + other.read_characters,
            self.written_characters + other.written_characters,
            self.taught_characters + other.taught_characters,
        )


@runtime_checkable
class Generator(Protocol):
    """Passages and a writer make examples.

    One call is one round over all passages: it tells each of them in one more way. Called again with another
    seed it tells them differently, so that rounds add up to as much text as is wanted."""

    @property
    def name(self) -> str: ...

    def examples(
        self, passages: Sequence[Passage], writer: Writer, *, seed: int
    ) -> Iterator[Example]: ...

    def effort(self, passage: Passage) -> Effort:
        """What one round of this passage asks of the writer, and what training text comes of it; estimated."""


@runtime_checkable
class AdapterSpec(Protocol):
    """The settings of an adapter; it knows where it plugs into a base model."""

    def fresh(self, base: Any, *, seed: int, material: Material = NO_MATERIAL) -> Adapter:
        """An untrained adapter that leaves the base's output as it was; a cartridge has read the material."""


@runtime_checkable
class Trainer(Protocol):
    """Jobs (one adapter, its examples, its settings) become trained adapters."""

    def train(self, jobs: Sequence[Any], *, seed: int) -> list[Adapter]: ...


@runtime_checkable
class Evaluation(Protocol):
    """Measures an answerer."""

    name: str

    def report(
        self, answerer: Writer, documents: Sequence[Document], *, seed: int
    ) -> Report: ...
