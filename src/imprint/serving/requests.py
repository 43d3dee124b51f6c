"""What is asked of a server, and what comes back piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from imprint.errors import BadInput


@dataclass(frozen=True, slots=True)
class Together:
    """Several adapters that one answer wears at once: their updates add up, cartridges stand one after another."""

    keys: tuple[Hashable, ...]
    """Each as `Request.adapter` names one."""


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to be written."""

    ids: tuple[int, ...]
    """The prompt in tokens."""
    tenant: str = ""
    """Whose request it is: nothing computed for one tenant is used again for another."""
    adapter: Hashable | None = None
    """The adapter by the key that the server's `read` understands, several Together, or None: the bare base."""
    above: tuple[float, ...] | None = None
    """Of each adapter the gain (engine.choice) from which a prompt is about its documents. Then only the adapter
    that the prompt is most about answers, or the bare base. None: all are worn, whatever is asked."""
    about: tuple[tuple[int, ...], int] | None = None
    """What of the prompt says what it is about: tokens, and the first of them that counts. None: its end."""
    max_tokens: int = 128
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Tokens are drawn from the smallest set that holds this share of the probability."""
    seed: int = 0
    """The same request with the same seed gives the same text, whoever is served beside it."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    top_logprobs: int = 0
    """How many of the likeliest tokens are told at each place."""

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """The keys of the adapters it wears."""
        if isinstance(self.adapter, Together):
            return self.adapter.keys
        return () if self.adapter is None else (self.adapter,)

    def __post_init__(self) -> None:
        if not self.ids:
            raise BadInput("The prompt is empty. Send at least one token.")
        if self.max_tokens < 1:
            raise BadInput(f"max_tokens must be 1 or more; got {self.max_tokens}.")
        if not 0 <= self.temperature <= 2:
            raise BadInput(f"temperature must lie between 0 and 2; got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise BadInput(f"top_p must be above 0 and at most 1; got {self.top_p}.")
        if not 0 <= self.top_logprobs <= 20:
            raise BadInput(f"top_logprobs must lie between 0 and 20; got {self.top_logprobs}.")


@dataclass(frozen=True, slots=True)
class Token:
    """One token that was written."""

    id: int
    text: str
    """Alone; a character may be spread over several tokens, see `raw`."""
    raw: bytes
    logprob: float
    """Natural log of its probability before temperature and top_p."""
    top: tuple[tuple[str, bytes, float], ...] = ()
    """The likeliest tokens at this place, best first: text, bytes, logprob."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step gave to one request."""

    text: str = ""
    """Text that is certain by now: what may yet become a stop mark, or half a character, is held back."""
    tokens: tuple[Token, ...] = ()
    finish: str | None = None
    """None while it goes on; then 'stop', 'length', 'cancelled' or 'error'."""
    error: str = ""
    """What happened, where `finish` is 'error'."""


Listener = Callable[[Piece], None]
"""Called in the serving thread with every piece; it must return at once."""
