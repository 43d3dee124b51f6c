"""What a certificate is to hold, as somebody wishes it, and who is asked for that at other addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imprint.base import Base
from imprint.certifying.hearing import Judge
from imprint.errors import BadSetting
from imprint.evaluation import judge as judging
from imprint.evaluation import open_book
from imprint.evaluation.open_book import FullContext
from imprint.evaluation.systems import Rival, rivals
from imprint.types import Document, content_hash
from imprint.writers.endpoint import Endpoint, EndpointWriter
from imprint.writers.local import LocalWriter


@dataclass(frozen=True, slots=True)
class Examined:
    """What a certificate is to hold. What is left out is measured as far as it can be."""

    systems: Sequence[str] | None = None
    """Names of certifying.SYSTEMS and of the rivals; None asks all."""
    parts: Sequence[str] | None = None
    """Names of certifying.PARTS; None measures all."""
    suites: Sequence[str | Path] = ()
    """Folders of items judged by log-likelihood, before and after."""
    texts: Sequence[str | Path] = ()
    """Files whose perplexity is taken besides that of the general text that comes along."""
    rivals: Sequence[OtherModel] = ()
    raw_text: bool = False
    """Whether the naive rival is trained too, for as many tokens."""
    usd_per_hour: float | None = None
    """What this machine costs."""
    judge: Endpoint | Literal["base"] | None = None
    """Who reads the answers besides the match grader: a model at an address, or the untaught base."""
    samples: int = 0
    """Answers drawn at random for each question, to see whether they agree."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.usd_per_hour is not None and not 0 <= self.usd_per_hour < 1e6:
            raise BadSetting(f"A machine costs 0 US dollars an hour or more; got {self.usd_per_hour}.")


@dataclass(frozen=True, slots=True)
class OtherModel:
    """A rival behind an OpenAI-compatible address. Its key is read from the environment and kept nowhere."""

    endpoint: Endpoint
    window_tokens: int | None = None
    """How many tokens of the documents it is given at once; None as many as the base."""


def rivals_of(
    rival: OtherModel, writer: EndpointWriter, documents: Sequence[Document], model: Base
) -> list[Rival]:
    """A model behind an address as three systems, each with as much of the documents as its window takes."""
    window, endpoint = rival.window_tokens or model.window_tokens, rival.endpoint
    context: FullContext | None = None
    if documents:
        context = open_book.full_context(documents, window_tokens=window, count_tokens=model.count_tokens)
    kept_as = f"rival-{content_hash(endpoint.address, endpoint.model, str(window))}"
    return rivals(writer, endpoint.model, kept_as, context)


def judge_of(named: Endpoint | str | None, writer: EndpointWriter | None, model: Base) -> Judge | None:
    """Who judges answers: a model at an address, or the base itself."""
    if isinstance(named, Endpoint) and writer is not None:
        return Judge(named.model, content_hash(named.address, named.model, judging.prompt_hash()), writer)
    if named is None:
        return None
    return Judge(f"{model.name} itself", content_hash("base", judging.prompt_hash()), LocalWriter(model))
