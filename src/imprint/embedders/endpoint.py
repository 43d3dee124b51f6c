"""The embedder behind any OpenAI-compatible address: `/embeddings`, some at a time, within a hard budget."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from typing import Any

import numpy as np

from imprint.errors import BadSetting
from imprint.writers.endpoint import Endpoint, connect, failure
from imprint.writers.spending import Ledger, Pace, Spent, guessed_tokens, most_tokens

TEXTS_A_REQUEST = 64
OVERLAP_CHARACTERS = 200
"""How far a stretch of a long text reaches into the next."""


class EndpointEmbedder:
    """Texts as unit vectors of float32, by asking a server. Holds the key in its client and nowhere else."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        key: str | None = None,
        stretch_characters: int = 6_000,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`key` goes before the environment. `stretch_characters`: the longest text that the model reads whole;
        OpenAI's read 8,191 tokens, others 512. Raises BadSetting without a key, MissingPackage without openai."""
        if stretch_characters < 4 * OVERLAP_CHARACTERS:
            raise BadSetting(
                f"A stretch has at least {4 * OVERLAP_CHARACTERS} characters; got {stretch_characters}."
            )
        self.endpoint, self._stretch_characters = endpoint, stretch_characters
        self._client = connect(endpoint, key)
        self._ledger = Ledger(endpoint.budget)
        self._requests = Pace(endpoint.requests_per_minute, clock, sleep)
        self._tokens = Pace(endpoint.tokens_per_minute, clock, sleep)

    @property
    def name(self) -> str:
        return self.endpoint.name

    @cached_property
    def width(self) -> int:
        """Asked of the server, by one word."""
        return int(self.embed(["width"]).shape[1])

    @property
    def spent(self) -> Spent:
        """Tokens and money of all answers so far."""
        return self._ledger.spent

    def stretches(self, text: str, *, head: str = "") -> list[str]:
        """The text in parts that overlap a little, each with the head, of at most so many characters."""
        # A head of any length leaves most of the stretch to the text.
        opened = f"{head[: self._stretch_characters // 4]}\n" if head else ""
        room = self._stretch_characters - len(opened)
        starts = range(0, max(1, len(text) - OVERLAP_CHARACTERS), room - OVERLAP_CHARACTERS)
        return [opened + text[start : start + room] for start in starts]

    def embed(self, texts: Sequence[str], *, told: Callable[[int, int], None] | None = None) -> np.ndarray:
        """N x D. Raises OverBudget or WriterFailed."""
        if not texts:
            return np.empty((0, self.width), np.float32)
        groups = [range(i, min(i + TEXTS_A_REQUEST, len(texts))) for i in range(0, len(texts), TEXTS_A_REQUEST)]
        made: dict[int, np.ndarray] = {}
        done = 0
        ended = threading.Event()
        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            asked = {pool.submit(self._paid, [texts[i] for i in group], ended): group for group in groups}
            try:
                for future in as_completed(asked):
                    made[asked[future].start] = future.result()
                    done += len(asked[future])
                    if told is not None:
                        told(done, len(texts))
            finally:
                ended.set()  # where one failed, those that wait must not be paid for
        return np.concatenate([made[group.start] for group in groups])

    def embed_questions(self, questions: Sequence[str]) -> np.ndarray:
        return self.embed(questions)

    def _paid(self, texts: Sequence[str], ended: threading.Event) -> np.ndarray:
        """The vectors of one request, and its price in the ledger."""
        if ended.is_set():
            return np.empty((0, 0), np.float32)
        promised = self._ledger.promise(most_tokens(texts), 0)
        if promised is None:
            raise self._ledger.refusal(most_tokens(texts), 0)
        paid: Spent | None = None
        try:
            self._requests.take()
            self._tokens.take(guessed_tokens("".join(texts)))
            reply, vectors = self._asked(texts)
            paid = self._price(texts, reply)
        finally:
            self._ledger.settle(promised, paid)
        return vectors

    def _asked(self, texts: Sequence[str]) -> tuple[Any, np.ndarray]:
        import openai

        try:
            reply = self._client.embeddings.create(
                model=self.endpoint.model,
                input=[text.strip() and text or " " for text in texts],  # an empty text is refused
                encoding_format="float",
            )
            return reply, _vectors(reply, len(texts))
        # The last three: no JSON, or another's.
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise failure(self.endpoint, self._client.api_key, error) from None

    def _price(self, texts: Sequence[str], reply: Any) -> Spent:
        read = getattr(getattr(reply, "usage", None), "prompt_tokens", None)
        tokens = int(read) if read else sum(map(guessed_tokens, texts))
        return Spent(1, tokens, 0, self.endpoint.budget.usd(tokens, 0), estimated=int(not read))


def _vectors(reply: Any, count: int) -> np.ndarray:
    """Unit vectors in the order of the texts, whatever order the server tells them in."""
    rows = sorted(reply.data, key=lambda row: row.index)
    vectors = np.array([row.embedding for row in rows], np.float32)
    if vectors.ndim != 2 or len(vectors) != count or not np.isfinite(vectors).all():
        raise ValueError(f"{count} texts were sent, and what came are no {count} vectors")
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
