"""The writer behind any OpenAI-compatible address: many requests at once, evenly paced, within a hard budget.

Retries with exponential backoff, jitter and Retry-After are the official client's own."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from imprint.errors import BadSetting, MissingPackage, Unwritten, WriterFailed
from imprint.types import Prompt, Text
from imprint.writers.cache import gathered
from imprint.writers.spending import Budget, Ledger, Pace, Spent, guessed_tokens, most_tokens

if TYPE_CHECKING:
    import openai

_MOST_COMPLETION_LOGPROBS = 5
"""What /v1/completions tells at a place; /v1/chat/completions tells 20."""
_MOST_CHAT_LOGPROBS = 20
_NO_KEY = "none"
"""The client insists on one."""
_CAN_DO_WITHOUT = ("logprobs", "seed", "stop", "temperature", "max_tokens")
"""Parameters that some servers refuse; max_tokens is called max_completion_tokens then."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Which model to ask, where, and how hard."""

    model: str
    """As the server calls it."""
    address: str = "https://api.openai.com/v1"
    """Up to and with /v1."""
    key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the API key; '' for a server that asks for none."""
    concurrency: int = 8
    """Requests under way at once."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Tokens of prompts (estimated) and the most that answers may have. None is no limit, for requests too."""
    budget: Budget = field(default_factory=Budget)
    """Prices, and what may be spent in all."""
    continues: bool = False
    """Whether the server goes on with an assistant's message that is begun, as vLLM does. Others are asked to
    begin with the words."""
    retries: int = 8
    """How often a request is sent again after 408, 409, 429, 5xx, a timeout or a lost connection."""
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadSetting(f"An address looks like https://api.openai.com/v1; got {self.address!r}.")
        if "@" in parts.netloc or parts.query:
            raise BadSetting("An address holds no password and no key: put the key into the variable of key_env.")
        if self.concurrency < 1 or self.retries < 0 or not self.timeout_s > 0:
            raise BadSetting("concurrency is at least 1, retries at least 0, and timeout_s above 0.")

    @property
    def name(self) -> str:
        return f"{self.model}@{urlsplit(self.address).hostname}"


class EndpointWriter:
    """Writes by asking a server. Holds the key in its client and nowhere else.

    A conversation is a chat completion. A plain text to continue is a completion; where the server has none,
    a chat in which the user asks to continue the text, from the first refusal on."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        key: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`key` goes before the environment. Raises BadSetting without a key, MissingPackage without the client."""
        self.endpoint = endpoint
        self.refused: set[str] = set()
        """What the server turned out not to take: 'logprobs', 'seed', 'completions', ..."""
        self._client = connect(endpoint, key)
        self._ledger = Ledger(endpoint.budget)
        self._requests = Pace(endpoint.requests_per_minute, clock, sleep)
        self._tokens = Pace(endpoint.tokens_per_minute, clock, sleep)

    @property
    def name(self) -> str:
        return self.endpoint.name

    @property
    def spent(self) -> Spent:
        """Tokens and money of all answers so far. What a failed request cost, no server tells."""
        return self._ledger.spent

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        """One text per prompt. Raises OverBudget or WriterFailed with the texts that came before."""
        return gathered(self.each(prompts, seed=seed), len(prompts))

    def each(self, prompts: Sequence[Prompt], *, seed: int) -> Iterator[tuple[int, Text]]:
        """Each text with the place of its prompt, as it comes.

        What is under way when something fails is waited for and given first, for it is paid for."""
        prompts = [p.plainly() for p in prompts]
        failed: Unwritten | None = None
        running: dict[Future[Text], int] = {}
        place = 0
        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            while running or (place < len(prompts) and failed is None):
                while failed is None and place < len(prompts) and len(running) < self.endpoint.concurrency:
                    promised = self._ledger.promise(*_most(prompts[place]))
                    if promised is None:
                        # What is under way may take less than was set aside for it.
                        failed = None if running else self._ledger.refusal(*_most(prompts[place]))
                        break
                    running[pool.submit(self._paid, prompts[place], seed, promised)] = place
                    place += 1
                for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                    done = running.pop(future)
                    try:
                        text = future.result()
                    except Unwritten as error:
                        failed = failed or error
                    else:
                        yield done, text
        if failed is not None:
            raise failed

    def _paid(self, prompt: Prompt, seed: int, promised: Spent) -> Text:
        """One text, and its price in the ledger."""
        paid: Spent | None = None
        try:
            self._requests.take()
            self._tokens.take(guessed_tokens(_all_words(prompt)) + prompt.max_tokens)
            reply, text = self._asked(prompt, seed)
            paid = self._price(prompt, reply, text)
        finally:
            self._ledger.settle(promised, paid)
        return text

    def _asked(self, prompt: Prompt, seed: int) -> tuple[Any, Text]:
        """The server's reply and the text in it, asked again where it refuses a parameter it can do without."""
        import openai

        while True:
            plain = prompt.turns[0].role == "text" and "completions" not in self.refused
            refused = set(self.refused)
            try:
                if plain:
                    reply: Any = self._client.completions.create(**self._completion(prompt, seed, refused))
                else:
                    reply = self._client.chat.completions.create(**self._chat(prompt, seed, refused))
                text = _completion_text(reply, prompt) if plain else _chat_text(reply, prompt)
                return reply, text if plain or self._continues(prompt) else _after_beginning(text, prompt.begun)
            except openai.APIStatusError as error:
                refusal = _refused_parameter(error, plain)
                if refusal is None or refusal in refused:
                    raise failure(self.endpoint, self._client.api_key, error) from None
                self.refused.add(refusal)
            except (openai.OpenAIError, ValueError) as error:  # ValueError: no JSON, or another's
                raise failure(self.endpoint, self._client.api_key, error) from None

    def _completion(self, prompt: Prompt, seed: int, refused: set[str]) -> dict[str, Any]:
        asked = self._sampling(prompt, seed, refused) | {"prompt": prompt.turns[0].text + prompt.begun}
        if prompt.top_logprobs and "logprobs" not in refused:
            asked["logprobs"] = min(prompt.top_logprobs, _MOST_COMPLETION_LOGPROBS)
        return asked

    def _chat(self, prompt: Prompt, seed: int, refused: set[str]) -> dict[str, Any]:
        asked = self._sampling(prompt, seed, refused) | {"messages": _messages(prompt, self._continues(prompt))}
        if self._continues(prompt):
            asked["extra_body"] = {"add_generation_prompt": False, "continue_final_message": True}
        if prompt.top_logprobs and "logprobs" not in refused:
            asked |= {"logprobs": True, "top_logprobs": min(prompt.top_logprobs, _MOST_CHAT_LOGPROBS)}
        return asked

    def _continues(self, prompt: Prompt) -> bool:
        """Whether the server is to go on with an assistant's message."""
        return self.endpoint.continues and prompt.begun != "" and prompt.turns[0].role != "text"

    def _sampling(self, prompt: Prompt, seed: int, refused: set[str]) -> dict[str, Any]:
        most = "max_completion_tokens" if "max_tokens" in refused else "max_tokens"
        asked = {"model": self.endpoint.model, most: prompt.max_tokens}
        asked |= {} if "temperature" in refused else {"temperature": prompt.temperature}
        asked |= {} if "seed" in refused else {"seed": seed}
        return asked | ({"stop": list(prompt.stop[:4])} if prompt.stop and "stop" not in refused else {})

    def _price(self, prompt: Prompt, reply: Any, text: Text) -> Spent:
        usage = getattr(reply, "usage", None)
        read, written = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        if told := read is not None and written is not None:
            tokens = (int(read), int(written))
        else:
            tokens = (guessed_tokens(_all_words(prompt)), guessed_tokens(text.text))
        return Spent(1, *tokens, self.endpoint.budget.usd(*tokens), estimated=int(not told))


def connect(endpoint: Endpoint, key: str | None) -> openai.OpenAI:
    """A client of that server. Raises BadSetting without a key, MissingPackage without the package."""
    try:
        import openai
    except ImportError:
        told = "Asking a server needs openai. Install with: pip install 'imprint[endpoint]'"
        raise MissingPackage(told) from None
    key = key or (os.environ.get(endpoint.key_env) if endpoint.key_env else _NO_KEY)
    if not key:
        raise BadSetting(
            f"There is no API key in ${endpoint.key_env}. Put it there, or give key_env='' for a server "
            "that asks for none."
        )
    return openai.OpenAI(
        base_url=endpoint.address, api_key=key, max_retries=endpoint.retries, timeout=endpoint.timeout_s
    )


def failure(endpoint: Endpoint, key: str, error: Exception) -> WriterFailed:
    """What went wrong and what to do. A server's words may quote the key: it is taken out."""
    import openai

    where = endpoint.address
    if isinstance(error, openai.APITimeoutError):
        return WriterFailed(
            f"{where} did not answer within {endpoint.timeout_s:g} s, asked {endpoint.retries + 1} times. "
            "Raise timeout_s, or lower concurrency."
        )
    if isinstance(error, openai.APIConnectionError):
        return WriterFailed(f"{where} cannot be reached. Look at the address, and whether the server runs.")
    if not isinstance(error, openai.APIStatusError):
        return WriterFailed(f"{where} answers, but not as OpenAI's API does. Should the address end in /v1?")
    said = str(error.message).replace(key, "***") if key != _NO_KEY else str(error.message)
    if error.status_code in (401, 403):
        given = f"${endpoint.key_env}" if endpoint.key_env else "key_env, which is empty"
        return WriterFailed(f"{where} refuses the API key ({error.status_code}). Look at {given}.")
    todo = {
        404: f"Look at the model's name, {endpoint.model}, and at the end of the address (/v1).",
        429: "Set requests_per_minute or tokens_per_minute, or look at the account's quota.",
    }.get(error.status_code, "Try again later." if error.status_code >= 500 else "Change what is asked.")
    return WriterFailed(f"{where} refuses the request ({error.status_code}): {said[:500]} {todo}")


# --- what is asked ----------------------------------------------------------------------------


def _messages(prompt: Prompt, continues: bool) -> list[dict[str, str]]:
    if prompt.turns[0].role == "text":
        told = f"Continue this text. Write only what follows.\n\n{prompt.turns[0].text}{prompt.begun}"
        return [{"role": "user", "content": told}]
    messages = [{"role": t.role, "content": t.text} for t in prompt.turns]
    if not prompt.begun:
        return messages
    if continues:
        return [*messages, {"role": "assistant", "content": prompt.begun}]
    told = f"Begin your answer with the words: {prompt.begun.strip()}"
    if messages[-1]["role"] == "user":
        messages[-1]["content"] += f"\n\n{told}"
        return messages
    return [*messages, {"role": "user", "content": told}]


def _all_words(prompt: Prompt) -> str:
    return "".join(t.text for t in prompt.turns) + prompt.begun


def _most(prompt: Prompt) -> tuple[int, int]:
    """The most tokens that a request can read and write."""
    return most_tokens([*(t.text for t in prompt.turns), prompt.begun]), prompt.max_tokens


def _refused_parameter(error: openai.APIStatusError, plain: bool) -> str | None:
    """What the server will not take, of what can be done without; None where it is something else."""
    if plain and error.status_code in (404, 405, 501):
        return "completions"
    if error.status_code not in (400, 422):
        return None
    said = str(error.message) + str(error.body)
    for name in _CAN_DO_WITHOUT:
        if name == "max_tokens":
            named = "max_completion_tokens" in said
        elif name == "logprobs":
            named = name in said
        else:
            named = error.param == name or re.search(rf"['\"`]{name}['\"`]", said) is not None
        if named:
            return name
    return None


# --- what is answered -------------------------------------------------------------------------


def _chat_text(reply: Any, prompt: Prompt) -> Text:
    """A refusal to answer is an empty text."""
    choice = _choice(reply)
    text = _tidy(choice.message.content or "", prompt)
    told = choice.logprobs.content if choice.logprobs else None
    if not prompt.top_logprobs or not told:
        return Text(text)
    top = tuple(_likeliest((t.token, t.logprob) for t in token.top_logprobs or ()) for token in told)
    return Text(text, tuple(token.logprob for token in told), top)


def _choice(reply: Any) -> Any:
    choices = getattr(reply, "choices", None)  # of a page of HTML the client makes a str
    if not choices:
        raise ValueError("no choices in the reply")
    return choices[0]


def _completion_text(reply: Any, prompt: Prompt) -> Text:
    choice = _choice(reply)
    text, told = _tidy(choice.text or "", prompt), choice.logprobs
    if not prompt.top_logprobs or not told or not told.token_logprobs:
        return Text(text)
    top = tuple(_likeliest((place or {}).items()) for place in told.top_logprobs or ())
    return Text(text, tuple(told.token_logprobs), top or None)


def _likeliest(pairs: Any) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(((str(token), float(value)) for token, value in pairs), key=lambda pair: -pair[1]))


def _tidy(text: str, prompt: Prompt) -> str:
    """The text up to the first stop; not every server takes as many as there are."""
    for mark in prompt.stop:
        text = text.split(mark, 1)[0]
    return text.strip()


def _after_beginning(text: Text, begun: str) -> Text:
    """What follows the words, where the text repeats them: in any case, spacing or quotes."""
    words = [re.escape(word) for word in begun.split()]
    if not words:
        return text
    marks = r"[\"'“”*`]*"
    end = r"(?!\w)" if begun.strip()[-1].isalnum() else ""
    found = re.match(marks + r"\s+".join(words) + end + marks, text.text, re.IGNORECASE)
    return replace(text, text=text.text[found.end() :].strip()) if found else text
