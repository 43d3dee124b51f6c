"""The serving loop: schedule, run, emit.

Rows of different adapters share one pass of the base. Requests join and leave between steps; long prompts are
read in parts; adapters are fetched when they are first asked for, and the longest unused make room.

Shape key: N tokens of a step, W rows whose next token is due, V vocabulary."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from imprint import attention
from imprint.base import Base
from imprint.engine import Engine, Seat, choice, place
from imprint.errors import BadInput, ImprintError
from imprint.serving.cache import Beginnings, Cache, PromptPart, StepLayout
from imprint.serving.requests import Listener, Piece, Request, Token
from imprint.serving.scheduler import Live, Scheduler, Share, Ticket
from imprint.serving.speech import Speech, token_bytes
from imprint.types import Adapter

log = logging.getLogger(__name__)

_UNFORESEEN = "Something went wrong on the server; its log says what."
MAX_ROWS = 64
MAX_WAITING = 1024
MAX_ADAPTERS = 64
STEP_TOKENS = 512
CACHE_TOKENS = 65_536
BEGINNING_TOKENS = 8_192

Read = Callable[[Hashable], Adapter]
"""Fetches the adapter of a key. Called outside the serving thread; what it raises ends the request."""


class Inference:
    """Answers requests with one base model and many adapters."""

    def __init__(
        self,
        engine: Engine,
        read: Read,
        *,
        max_rows: int = MAX_ROWS,
        max_waiting: int = MAX_WAITING,
        max_adapters: int = MAX_ADAPTERS,
        step_tokens: int = STEP_TOKENS,
        cache_tokens: int = CACHE_TOKENS,
        prefix_tokens: int = BEGINNING_TOKENS,
    ) -> None:
        """`max_rows`: requests written at once. `max_adapters`: held in memory. `step_tokens`: computed in a
        step at most. `cache_tokens`: prompts and answers of running requests. `prefix_tokens`: kept of
        requests that ended."""
        self.engine, self.max_adapters = engine, max_adapters
        self._scheduler = Scheduler(
            max_rows=max_rows, max_waiting=max_waiting, step_tokens=step_tokens, cache_tokens=cache_tokens
        )
        self._shelf = _Shelf(engine, read, max_adapters, self._scheduler.wake)
        self._cache = Cache(engine.base, max_rows)
        self._beginnings = Beginnings(prefix_tokens)
        self._counts = dict.fromkeys(
            ("requests", "tokens_in", "tokens_out", "prefix_tokens_reused", "steps", "rows_written"), 0
        )
        self._closing = False
        self._thread: threading.Thread | None = None

    # --- from other threads -------------------------------------------------------------------

    def start(self) -> None:
        """Serves in a thread of its own until close()."""
        self._thread = threading.Thread(target=self._work, name="imprint-serving", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; requests that are not done are told 'cancelled'."""
        self._closing = True
        self._scheduler.wake()
        if self._thread is not None:
            self._thread.join()
        for live in [*self._scheduler.running, *self._scheduler.waiting]:
            live.tell(Piece(finish="cancelled"))
        self._shelf.close()

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Takes a request in; its listener hears all of it. Raises Overloaded, or BadInput where it is too long."""
        window = self.engine.base.window_tokens
        if len(request.ids) + request.max_tokens > window:
            raise BadInput(
                f"A prompt of {len(request.ids)} tokens and an answer of {request.max_tokens} do not fit the "
                f"{window} tokens of {self.engine.base.name}. Shorten the prompt or ask for fewer tokens."
            )
        if len(request.keys) > self.max_adapters:
            raise BadInput(
                f"An answer of {len(request.keys)} adapters at once needs more than the {self.max_adapters} that "
                "this server holds in memory. Ask fewer of them together."
            )
        live = Live(request, listener, list(request.ids))
        live.state = _Writing(self.engine, request)
        ticket = self._scheduler.add(live)
        self._counts["requests"] += 1
        self._shelf.fetch(live)
        self._scheduler.wake()
        return ticket

    @property
    def alive(self) -> bool:
        """Whether the thread that answers is at work."""
        return self._thread is not None and self._thread.is_alive()

    def stats(self) -> dict[str, float]:
        """Counters since the start (`_total`) and what is going on now."""
        now = {
            "running": len(self._scheduler.running),
            "waiting": len(self._scheduler.waiting),
            "adapters_loaded": self._shelf.held,
            "adapter_loads_total": self._shelf.loads,
        }
        counts = {f"{name}_total": n for name, n in self._counts.items()}
        return {name: float(n) for name, n in (counts | now).items()}

    # --- the loop -----------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing:
            try:
                busy = self.step()
            except Exception:  # whatever it was, who asks next must be answered
                log.exception("A step could not be planned.")
                self._drop_all()
                busy = True
            if not busy:
                self._scheduler.wait(lambda: self._closing)

    def _drop_all(self) -> None:
        """Ends every running request and begins with an empty cache; who waits goes on waiting."""
        dropped = list(self._scheduler.running)
        for live in dropped:
            self._scheduler.leave(live)
            self._shelf.release(live)
            live.tell(Piece(finish="error", error=_UNFORESEEN))
        self._cache.give_back()

    def step(self) -> bool:
        """Schedules, runs and emits once; False where there is nothing to do."""
        shares = self._schedule()
        if not shares:
            return False
        try:
            logits_WV, due = self._run(shares)
            self._emit(shares, logits_WV, due)
        except Exception:  # memory that ran out, say: those in the step are told, the others go on
            log.exception("A step failed.")
            for live in {share.live: None for share in shares}:
                self._end(live, Piece(finish="error", error=_UNFORESEEN))
        return True

    def _schedule(self) -> list[Share]:
        for live in self._scheduler.gone():
            error = live.problem
            self._shelf.release(live)
            # What others than we raise may name paths of this machine.
            told = str(error) if isinstance(error, ImprintError) else _UNFORESEEN
            live.tell(Piece(finish="cancelled") if error is None else Piece(finish="error", error=told))
        for live in [r for r in self._scheduler.running if r.cancelled]:
            self._end(live, Piece(finish="cancelled"))
        unready = self._scheduler.unready()
        self._shelf.forget(unready)
        self._shelf.seat(unready)
        for live in self._scheduler.admit():
            try:
                self._route(live)
            except Exception:  # it alone is told; the others go on
                log.exception("A request could not be routed.")
                self._end(live, Piece(finish="error", error=_UNFORESEEN))
                continue
            self._begin(live)
        if not self._scheduler.running:
            self._cache.give_back()
        return self._scheduler.plan()

    def _route(self, live: Live) -> None:
        """Leaves the request only the adapter that its prompt is about, where it asks for that."""
        above = live.request.above
        if above is None or not live.seats:
            return
        opened = live.request.about or (live.request.ids[-choice.END_TOKENS :], 1)
        best = choice.best_above(choice.row_gains(self.engine, live.seats, [opened])[0], above)
        kept = () if best is None else (live.request.keys[best],)
        self._shelf.release(live, kept)

    @torch.inference_mode()  # all that touches the cache: what grew in a step can be written in that mode only
    def _begin(self, live: Live) -> None:
        """Takes over what is known of the prompt's beginning."""
        self._cache.make_room(len(live.ids) + 1, len(self._scheduler.running))
        self._cache.begin(live.row)
        known_L2KSD = self._beginnings.find(_owner(live), live.ids)
        if known_L2KSD is not None:
            self._cache.write(live.row, known_L2KSD)
            live.done = known_L2KSD.shape[3]
            self._counts["prefix_tokens_reused"] += live.done
        self._counts["tokens_in"] += len(live.ids)

    @torch.inference_mode()
    def _run(self, shares: Sequence[Share]) -> tuple[torch.Tensor, list[Live]]:
        """Computes a step: logits of each row whose next token is due."""
        base = self.engine.base
        placed = sorted(shares, key=lambda s: place(s.live.seats))
        at: dict[Live, int] = {}
        tokens: list[int] = []
        places: list[int] = []
        for share in placed:
            at[share.live] = len(tokens)
            tokens += share.live.ids[share.start : share.start + share.count]
            places += range(share.start, share.start + share.count)
        longest = max(share.start + share.count for share in shares)
        self._cache.make_room(longest, len(self._scheduler.running))
        writing = [(at[s.live], s.start) for s in shares if s.live.decoding]
        parts = [PromptPart(s.live.row, at[s.live], s.start, s.count) for s in shares if not s.live.decoding]
        due = [s for s in shares if s.start + s.count == len(s.live.ids)]
        device = base.device.torch
        with (
            base.turns.take(urgent=True),
            self.engine.routed([(s.live.seats, s.count) for s in placed]),
            attention.laid_out(StepLayout(self._cache, writing, parts, base)),
        ):
            hidden_ND = base.model.model(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=torch.tensor([places], device=device),
                use_cache=False,
            ).last_hidden_state[0]
            last_W = torch.tensor([at[s.live] + s.count - 1 for s in due], dtype=torch.long, device=device)
            logits_WV = base.model.lm_head(hidden_ND.index_select(0, last_W)).float()
        self._counts["steps"] += 1
        self._counts["rows_written"] += len(due)
        return logits_WV, [s.live for s in due]

    @torch.inference_mode()
    def _emit(self, shares: Sequence[Share], logits_WV: torch.Tensor, due: Sequence[Live]) -> None:
        for share in shares:
            share.live.done = share.start + share.count
        drawn = _draw(logits_WV, [live.state for live in due])
        pieces: list[tuple[Live, Piece]] = []
        for live, token in zip(due, drawn, strict=True):
            if token is None:
                told = "The adapter's numbers are not finite: no next token can be told. Teach it again."
                pieces.append((live, Piece(finish="error", error=told)))
                continue
            self._remember(live)
            piece = live.state.take(token, self.engine.base)
            live.ids.append(token.token)
            self._counts["tokens_out"] += len(piece.tokens)
            pieces.append((live, piece))
        for live, piece in pieces:
            if piece.finish is not None:
                self._end(live, piece)
            elif piece.tokens or piece.text:
                live.tell(piece)

    def _remember(self, live: Live) -> None:
        """Keeps the beginning of a prompt that was just read, for requests that begin alike."""
        if live.written == 0 and self._beginnings.wants(_owner(live), live.request.ids):
            kept = self._cache.read(live.row, len(live.request.ids))
            self._beginnings.keep(_owner(live), live.request.ids, kept)

    @torch.inference_mode()
    def _end(self, live: Live, piece: Piece) -> None:
        if live.row >= 0:
            if piece.finish in ("stop", "length") and self._beginnings.wants(_owner(live), live.ids[: live.done]):
                # A conversation goes on from here.
                self._beginnings.keep(_owner(live), live.ids[: live.done], self._cache.read(live.row, live.done))
            for source, target in self._scheduler.leave(live):
                self._cache.move(source, target, self._scheduler.running[target].done)
        self._shelf.release(live)
        live.tell(piece)


# --- one answer -------------------------------------------------------------------------------


class _Writing:
    """What is kept with a request while its answer grows."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self.request = request
        self.speech = Speech(engine.base.tokenizer, request.stop)
        self.random = torch.Generator().manual_seed(request.seed) if request.temperature > 0 else None
        self.n = 0

    def take(self, drawn: _Drawn, base: Base) -> Piece:
        """Adds a token; says what can be shown, and whether the answer ends."""
        if drawn.token in base.stop_ids:
            return Piece(self.speech.end(), finish="stop")
        self.n += 1
        text = self.speech.add(drawn.token)
        shown = [(*_shown(base, token), logprob) for token, logprob in drawn.top]
        told = Token(drawn.token, *_shown(base, drawn.token), drawn.logprob, tuple(shown))
        if self.speech.stopped:
            return Piece(text, (told,), "stop")
        if self.n >= self.request.max_tokens:
            return Piece(text + self.speech.end(), (told,), "length")
        return Piece(text, (told,))


@dataclass(frozen=True, slots=True)
class _Drawn:
    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def _draw(logits_WV: torch.Tensor, answers: Sequence[_Writing]) -> list[_Drawn | None]:
    """The next token of each answer, from its own random numbers; with the model's own log-probabilities.

    None where they are not finite: an adapter that overflows is its own asker's trouble."""
    if not answers:
        return []
    total_W = logits_WV.logsumexp(1)
    taken_W = logits_WV.argmax(1)
    sound = total_W.isfinite().tolist()
    for w, answer in enumerate(answers):
        if answer.random is not None and sound[w]:
            taken_W[w] = _sample(logits_WV[w], answer.request, answer.random)
    logprob_W = logits_WV.gather(1, taken_W[:, None])[:, 0] - total_W
    drawn: list[_Drawn | None] = []
    for w, (token, logprob) in enumerate(zip(taken_W.tolist(), logprob_W.tolist(), strict=True)):
        top: tuple[tuple[int, float], ...] = ()
        if sound[w] and answers[w].request.top_logprobs:
            best = logits_WV[w].topk(answers[w].request.top_logprobs)
            top = tuple(zip(best.indices.tolist(), (best.values - total_W[w]).tolist(), strict=True))
        drawn.append(_Drawn(token, logprob, top) if sound[w] else None)
    return drawn


def _shown(base: Base, token: int) -> tuple[str, bytes]:
    """A token as text and as bytes."""
    return str(base.tokenizer.decode([token])), token_bytes(base.tokenizer, token)


def _sample(logits_V: torch.Tensor, request: Request, random: torch.Generator) -> torch.Tensor:
    """One token of the fewest that hold top_p of the probability (Holtzman et al. 2019, arXiv 1904.09751)."""
    logits_V = logits_V.cpu().double()
    weights_V = ((logits_V - logits_V.max()) / request.temperature).softmax(0)
    if request.top_p < 1:
        ordered_V, order_V = weights_V.sort(descending=True)
        beyond_V = ordered_V.cumsum(0) - ordered_V >= request.top_p
        weights_V[order_V[beyond_V]] = 0
    return torch.multinomial(weights_V, 1, generator=random)[0]


def _owner(live: Live) -> Hashable:
    return live.request.tenant, live.worn


# --- adapters in memory -----------------------------------------------------------------------


@dataclass
class _Held:
    seat: Seat
    users: int = 0


class _Full(Exception):
    """All adapters in memory are in use."""


class _Shelf:
    """The adapters in memory: fetched when first asked for; the longest unused makes room."""

    def __init__(self, engine: Engine, read: Read, size: int, wake: Callable[[], None]) -> None:
        self._engine, self._read, self._size, self._wake = engine, read, size, wake
        self._held: OrderedDict[Hashable, _Held] = OrderedDict()
        self._fetched: dict[Hashable, Adapter | BaseException] = {}
        self._asked: set[Hashable] = set()
        self._lock = threading.Lock()
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="imprint-adapters")
        self.loads = 0

    @property
    def held(self) -> int:
        return len(self._held)

    def fetch(self, live: Live) -> None:
        """Sees to it that the request's adapters are read from their files, where they are not in memory."""
        for key in live.request.keys:
            with self._lock:
                if key in self._held or key in self._asked:
                    continue
                self._asked.add(key)
            self._fetcher.submit(self._fetch, key)

    def forget(self, waiting: Sequence[Live]) -> None:
        """Lets go what was fetched for requests that went away meanwhile."""
        wanted = {key for live in waiting for key in live.request.keys}
        with self._lock:
            for key in [key for key in self._fetched if key not in wanted]:
                del self._fetched[key]
                self._asked.discard(key)

    def seat(self, waiting: Sequence[Live]) -> None:
        """Gives waiting requests their adapters, as far as there is room. In the serving thread only.

        Who finds no room is waited for: an adapter that is asked for without a pause would never make any."""
        full = False
        for live in waiting:
            if full and live.request.keys:
                continue
            try:
                live.ready = self._seat(live)
            except _Full:
                full = True

    def _seat(self, live: Live) -> bool:
        """Seats all of a request's adapters, or none. Raises _Full."""
        taken: list[_Held] = []
        try:
            for key in live.request.keys:
                held = self._held.get(key) or self._place(key, live)
                if held is None:
                    return False
                held.users += 1  # or the next one might be given its room
                taken.append(held)
                self._held.move_to_end(key)
            live.seats, taken = tuple(held.seat for held in taken), []
            live.worn = live.request.keys
            return True
        finally:
            for held in taken:
                held.users -= 1

    def release(self, live: Live, kept: tuple[Hashable, ...] = ()) -> None:
        """The request needs its adapters no more, but for those that it keeps."""
        for key in live.worn:
            if key not in kept:
                self._held[key].users -= 1
        live.worn = tuple(key for key in live.worn if key in kept)
        live.seats = tuple(self._held[key].seat for key in live.worn)

    def close(self) -> None:
        self._fetcher.shutdown(wait=True, cancel_futures=True)
        for held in self._held.values():
            self._engine.unload(held.seat)
        self._held.clear()

    def _fetch(self, key: Hashable) -> None:
        try:
            found: Adapter | BaseException = self._read(key)
        except Exception as error:  # told to those who asked
            found = error
        with self._lock:
            self._fetched[key] = found
        self._wake()

    def _place(self, key: Hashable, live: Live) -> _Held | None:
        """Loads a fetched adapter, if it is there; marks the request where it cannot be. Raises _Full."""
        with self._lock:
            found = self._fetched.get(key)
        if found is None:
            self.fetch(live)  # it was in memory when the request came, and had to go since
            return None
        if not isinstance(found, BaseException) and not self._has_room():
            raise _Full
        with self._lock:
            self._fetched.pop(key, None)
            self._asked.discard(key)
        try:
            if isinstance(found, BaseException):
                raise found
            seat = self._engine.load(found)
        except Exception as error:
            if not isinstance(error, ImprintError):
                log.error("The adapter %s cannot be loaded.", key, exc_info=error)
            live.problem = error
            return None
        self.loads += 1
        self._held[key] = _Held(seat)
        return self._held[key]

    def _has_room(self) -> bool:
        while len(self._held) >= self._size:
            unused = next((key for key, held in self._held.items() if held.users == 0), None)
            if unused is None:
                return False
            self._engine.unload(self._held.pop(unused).seat)
        return True
