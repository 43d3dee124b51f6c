"""The laws of serving: what is written in company is what is written alone, and nothing crosses tenants."""

import copy
import math
import random
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import replace

import pytest
import torch

from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine, choice
from imprint.errors import BadInput, Overloaded
from imprint.serving.cache import Beginnings
from imprint.serving.inference import Inference
from imprint.serving.requests import Piece, Request, Together
from imprint.serving.scheduler import Live
from imprint.serving.speech import Speech, token_bytes
from imprint.types import Adapter
from test_engine import strong


@pytest.fixture
def exact_base(tiny_base: Base) -> Base:
    return replace(tiny_base, model=copy.deepcopy(tiny_base.model).double())


@pytest.fixture
def adapters(tiny_base: Base) -> dict[Hashable, Adapter]:
    specs = (LoRA(rank=4, alpha=12), LoRA(rank=4, alpha=3), LoRA(rank=8), LoRA(rank=4, top_layers=1))
    return {f"a{i}": strong(tiny_base, spec, i) for i, spec in enumerate(specs)}


class Heard:
    """A listener that keeps everything."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.over = threading.Event()

    def __call__(self, piece: Piece) -> None:
        assert not self.over.is_set(), "nothing comes after the end"
        self.pieces.append(piece)
        if piece.finish:
            self.over.set()

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def ids(self) -> list[int]:
        return [token.id for piece in self.pieces for token in piece.tokens]

    @property
    def finish(self) -> str | None:
        return self.pieces[-1].finish if self.pieces else None


def run(inference: Inference, requests: list[Request]) -> list[Heard]:
    """Serves requests that come at once."""
    heard = [Heard() for _ in requests]
    for request, listener in zip(requests, heard, strict=True):
        inference.submit(request, listener)
    finish(inference, heard)
    return heard


def finish(inference: Inference, heard: list[Heard]) -> None:
    while not all(listener.over.is_set() for listener in heard):
        inference.step()


def plainly(base: Base, adapter: Adapter | None, request: Request) -> list[int]:
    """What the model writes, token by token, with all of the text before it read anew each time."""
    ids = list(request.ids)
    engine = Engine(base)
    seat = None if adapter is None else engine.load(adapter)
    with torch.no_grad(), engine.wearing(seat):
        while len(ids) < len(request.ids) + request.max_tokens:
            token = int(base.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in base.stop_ids:
                break
            ids.append(token)
    return ids[len(request.ids) :]


def test_an_answer_may_wear_several_adapters_at_once(
    exact_base: Base, adapters: dict[Hashable, Adapter]
) -> None:
    several = [None, "a0", Together(("a0", "a1")), Together(("a2", "a0", "a3")), Together(("a1", "a0"))]
    requests = [Request((5, 6, 7, i), adapter=key, max_tokens=8) for i, key in enumerate(several)]
    engine = Engine(exact_base)
    seats = {key: engine.load(adapter) for key, adapter in adapters.items()}
    heard = run(Inference(Engine(exact_base), adapters.__getitem__, max_adapters=4), requests)
    for request, listener in zip(requests, heard, strict=True):
        ids = list(request.ids)
        with torch.no_grad(), engine.wearing([seats[key] for key in request.keys]):
            for _ in range(8):
                ids.append(int(exact_base.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
                if ids[-1] in exact_base.stop_ids:
                    ids.pop()
                    break
        assert listener.ids == ids[4:]


def test_a_routed_prompt_is_answered_by_the_adapter_that_it_is_most_about_or_by_the_bare_base(
    exact_base: Base, adapters: dict[Hashable, Adapter]
) -> None:
    engine, ids = Engine(exact_base), (5, 6, 7, 9, 11)
    seats = [engine.load(adapters[key]) for key in ("a0", "a1")]
    gains = choice.row_gains(engine, seats, [(ids, 1)])[0].tolist()
    best = int(gains[1] > gains[0])
    both = Together(("a0", "a1"))
    requests = [
        Request(ids, adapter=both, max_tokens=6, above=(-math.inf, -math.inf)),
        Request(ids, adapter=both, max_tokens=6, above=(math.inf, math.inf)),
        Request(ids, adapter="a0", max_tokens=6, above=(gains[0] - 1e-3,)),
        Request(ids, adapter="a0", max_tokens=6, above=(gains[0] + 1e-3,)),
    ]
    inference = Inference(Engine(exact_base), adapters.__getitem__)
    heard = run(inference, requests)
    for listener, key in zip(heard, (f"a{best}", None, "a0", None), strict=True):
        adapter = adapters[key] if key else None
        assert listener.ids == plainly(exact_base, adapter, Request(ids, max_tokens=6))
    assert all(held.users == 0 for held in inference._shelf._held.values())


def test_adapters_asked_together_wait_for_room_for_all_of_them(
    exact_base: Base, adapters: dict[Hashable, Adapter]
) -> None:
    keys = [Together(("a0", "a1")), Together(("a2", "a3")), "a1", Together(("a3", "a0"))]
    requests = [Request((5, 6, i), adapter=key, max_tokens=4) for i, key in enumerate(keys)]
    heard = run(Inference(Engine(exact_base), adapters.__getitem__, max_adapters=2), requests)
    assert all(listener.finish in ("stop", "length") for listener in heard)
    with pytest.raises(BadInput, match="Ask fewer"):
        Inference(Engine(exact_base), adapters.__getitem__, max_adapters=1).submit(requests[0], Heard())


def some_requests(keys: list[Hashable | None], n: int, seed: int = 0) -> list[Request]:
    draw = random.Random(seed)
    return [
        Request(
            tuple(draw.randrange(400) for _ in range(draw.choice((1, 2, 5, 30, 60)))),
            adapter=keys[i % len(keys)],
            max_tokens=draw.choice((1, 3, 8, 20)),
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("step_tokens", [4, 40, 1000])
@pytest.mark.parametrize("max_rows", [1, 3, 64])
def test_what_is_written_in_company_is_what_is_written_alone(
    exact_base: Base, adapters: dict[Hashable, Adapter], step_tokens: int, max_rows: int
) -> None:
    inference = Inference(
        Engine(exact_base), adapters.__getitem__, step_tokens=step_tokens, max_rows=max_rows, prefix_tokens=500
    )
    requests = some_requests([None, *adapters], 17)
    for request, heard in zip(requests, run(inference, requests), strict=True):
        assert heard.ids == plainly(exact_base, adapters.get(request.adapter), request)
        assert heard.finish == ("length" if len(heard.ids) == request.max_tokens else "stop")


def test_requests_that_come_and_go_get_what_they_get_alone(
    exact_base: Base, adapters: dict[Hashable, Adapter]
) -> None:
    inference = Inference(Engine(exact_base), adapters.__getitem__, step_tokens=16, max_rows=5, max_adapters=2)
    requests = some_requests([None, *adapters], 40, seed=1)
    draw = random.Random(2)
    heard: list[Heard] = []
    cancelled = []
    for request in requests:
        heard.append(Heard())
        ticket = inference.submit(request, heard[-1])
        if draw.random() < 0.2:
            cancelled.append((ticket, heard[-1]))
        for _ in range(draw.randrange(4)):
            inference.step()
        if cancelled and draw.random() < 0.5:
            cancelled.pop()[0].cancel()
    finish(inference, heard)
    for request, listener in zip(requests, heard, strict=True):
        expected = plainly(exact_base, adapters.get(request.adapter), request)
        if listener.finish == "cancelled":
            assert listener.ids == expected[: len(listener.ids)]
        else:
            assert listener.ids == expected


def test_a_sampled_answer_follows_from_its_seed_whoever_is_served_beside_it(
    exact_base: Base, adapters: dict[Hashable, Adapter]
) -> None:
    request = Request((5, 6, 7), adapter="a1", max_tokens=12, temperature=1.0, top_p=0.9, seed=3)
    alone = run(Inference(Engine(exact_base), adapters.__getitem__), [request])[0]
    others = [replace(r, temperature=1.0) for r in some_requests([None, *adapters], 9)]
    beside = run(Inference(Engine(exact_base), adapters.__getitem__), [*others, request])[-1]
    assert alone.ids == beside.ids
    other_seed = run(Inference(Engine(exact_base), adapters.__getitem__), [replace(request, seed=4)])[0]
    assert other_seed.ids != alone.ids


def test_the_logprobs_told_are_those_of_the_trainer(exact_base: Base, adapters: dict[Hashable, Adapter]) -> None:
    from imprint.engine.passes import PassRow, logprobs

    request = Request((5, 6, 7, 8), adapter="a2", max_tokens=10, top_logprobs=3)
    heard = run(Inference(Engine(exact_base), adapters.__getitem__), [request])[0]
    told = [token.logprob for piece in heard.pieces for token in piece.tokens]
    engine = Engine(exact_base)
    seat = engine.load(adapters["a2"], trainable=True)
    ids = (*request.ids, *heard.ids)
    row = PassRow(seat, ids, tuple(i >= 4 for i in range(len(ids))))
    # The server keeps float32 of its logits.
    assert told == pytest.approx(logprobs(engine, [row])[0].tolist(), abs=1e-5)
    for piece in heard.pieces:
        for token in piece.tokens:
            assert len(token.top) == 3
            assert token.top[0][2] == pytest.approx(token.logprob)


@pytest.fixture
def spoilt_memory() -> Iterator[None]:
    """Whatever is not written yet reads as NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("spoilt_memory")
def test_what_memory_held_before_is_in_no_answer(exact_base: Base, adapters: dict[Hashable, Adapter]) -> None:
    inference = Inference(Engine(exact_base), adapters.__getitem__, max_rows=6, max_waiting=99, step_tokens=40)
    requests = some_requests([None, *adapters], 30, seed=7)
    for request, heard in zip(requests, run(inference, requests), strict=True):
        assert heard.ids == plainly(exact_base, adapters.get(request.adapter), request)


def test_an_adapter_that_gives_nan_spoils_no_later_answer(
    tiny_base: Base, adapters: dict[Hashable, Adapter]
) -> None:
    huge = replace(adapters["a0"], tensors={k: t * 1e30 for k, t in adapters["a0"].tensors.items()})
    inference = Inference(Engine(tiny_base), {**adapters, "huge": huge}.__getitem__, max_rows=3)
    run(inference, [Request(tuple(range(60)), adapter="huge", max_tokens=40) for _ in range(3)])
    # A request that stays keeps the cache from being given back in between.
    long = Request(tuple(range(70)), adapter="a1", max_tokens=60)
    spoiling = Request(tuple(range(60)), adapter="huge", max_tokens=2)
    short = Request((5, 6, 7), adapter="a2", max_tokens=20)
    heard = run(inference, [long, spoiling, spoiling, short, short])
    for request, listener in zip((long, short, short), (heard[0], *heard[3:]), strict=True):
        assert listener.ids == plainly(tiny_base, adapters[str(request.adapter)], request)


def test_an_adapter_that_overflows_is_an_error_for_its_asker_alone(
    tiny_base: Base, adapters: dict[Hashable, Adapter]
) -> None:
    huge = replace(adapters["a0"], tensors={k: t * 1e30 for k, t in adapters["a0"].tensors.items()})
    inference = Inference(Engine(tiny_base), {**adapters, "huge": huge}.__getitem__)
    warm = {"max_tokens": 5, "temperature": 1.0, "top_logprobs": 2}
    heard = run(inference, [Request((1, 2), adapter=name, **warm) for name in ("a1", "huge", "a2")])
    assert [listener.finish for listener in heard] == ["length", "error", "length"]


def test_the_coldest_answer_is_the_likeliest(exact_base: Base, adapters: dict[Hashable, Adapter]) -> None:
    inference = Inference(Engine(exact_base), adapters.__getitem__)
    cold = Request((1, 2, 3), adapter="a0", max_tokens=6, temperature=1e-40)
    (heard,) = run(inference, [cold])
    assert heard.ids == plainly(exact_base, adapters["a0"], cold)


def test_what_nobody_waits_for_any_more_is_not_kept(exact_base: Base, adapters: dict[Hashable, Adapter]) -> None:
    inference = Inference(Engine(exact_base), adapters.__getitem__)
    for name in adapters:
        inference.submit(Request((1, 2), adapter=name), Heard()).cancel()
    inference._shelf._fetcher.submit(lambda: None).result()  # all were read
    inference.step()
    assert not inference._shelf._fetched and not inference._shelf._asked


# --- beginnings -------------------------------------------------------------------------------


def test_a_known_beginning_is_not_read_again_and_changes_nothing(
    exact_base: Base, adapters: dict[Hashable, Adapter]
) -> None:
    inference = Inference(Engine(exact_base), adapters.__getitem__)
    shared = tuple(range(40, 80))
    for tail in ((1, 2), (1, 3), (9,)):
        request = Request((*shared, *tail), adapter="a0", max_tokens=6)
        assert run(inference, [request])[0].ids == plainly(exact_base, adapters["a0"], request)
    assert inference.stats()["prefix_tokens_reused_total"] >= 80


def test_a_conversation_goes_on_from_its_own_answer(exact_base: Base) -> None:
    inference = Inference(Engine(exact_base), {}.__getitem__)
    first = Request(tuple(range(20)), max_tokens=8)
    answer = run(inference, [first])[0].ids
    second = Request((*first.ids, *answer, 1, 2), max_tokens=4)
    assert run(inference, [second])[0].ids == plainly(exact_base, None, second)
    assert inference.stats()["prefix_tokens_reused_total"] >= 20 + len(answer) - 1


def test_requests_come_and_go_after_the_cache_has_grown_in_the_middle_of_an_answer(exact_base: Base) -> None:
    exact_base.model.config.max_position_embeddings = 1024
    inference = Inference(Engine(exact_base), lambda key: pytest.fail())
    known = Request(tuple(range(30)), max_tokens=1)
    run(inference, [known])
    long = [Request(tuple(range(i, i + 250)), max_tokens=60) for i in range(3)]
    heard = [Heard() for _ in long]
    tickets = [inference.submit(request, listener) for request, listener in zip(long, heard, strict=True)]
    while len(heard[0].ids) < 20:  # the room for 256 was too small
        inference.step()
    again = Heard()
    inference.submit(known, again)  # a beginning is put into the grown cache
    inference.step()
    tickets[0].cancel()  # rows move in it
    finish(inference, [*heard, again])
    assert again.ids == plainly(exact_base, None, known)
    for request, listener in list(zip(long, heard, strict=True))[1:]:
        assert listener.ids == plainly(exact_base, None, request)


def test_a_beginning_never_crosses_tenants_or_adapters(
    exact_base: Base, adapters: dict[Hashable, Adapter]
) -> None:
    inference = Inference(Engine(exact_base), adapters.__getitem__)
    ids = tuple(range(40, 80))
    run(inference, [Request(ids, tenant="one", adapter="a0", max_tokens=2)])
    for request in (
        Request(ids, tenant="two", adapter="a0", max_tokens=2),
        Request(ids, tenant="one", adapter="a1", max_tokens=2),
        Request(ids, tenant="one", max_tokens=2),
    ):
        run(inference, [request])
        assert inference.stats()["prefix_tokens_reused_total"] == 0


def test_beginnings_hold_no_more_tokens_than_they_may() -> None:
    kept = Beginnings(100, shortest=4)
    for i in range(50):
        ids = [i, *range(20)]
        assert kept.wants("t", ids)
        kept.keep("t", ids, torch.zeros(1, 2, 1, 21, 2))
    assert sum(len(ids) for _, ids in kept._kept) <= 100
    assert kept.find("t", [49, *range(20), 7]) is not None
    assert kept.find("t", [0, *range(20), 7]) is None


# --- what cannot be served --------------------------------------------------------------------


def test_an_adapter_that_cannot_be_read_ends_its_request_alone(
    exact_base: Base, adapters: dict[Hashable, Adapter]
) -> None:
    def read(key: Hashable) -> Adapter:
        if key == "broken":
            raise BadInput("broken is broken")
        return adapters[key]

    inference = Inference(Engine(exact_base), read)
    good = Request((1, 2, 3), adapter="a0", max_tokens=4)
    bad = replace(good, adapter="broken")
    heard = run(inference, [good, bad, bad, good])
    assert [h.finish for h in heard[1:3]] == ["error", "error"]
    assert "broken is broken" in heard[1].pieces[-1].error
    assert heard[0].ids == heard[3].ids == plainly(exact_base, adapters["a0"], good)


def test_an_adapter_that_is_asked_for_without_a_pause_does_not_keep_another_out(
    exact_base: Base, adapters: dict[Hashable, Adapter]
) -> None:
    inference = Inference(Engine(exact_base), adapters.__getitem__, max_adapters=1)
    often = Request((1, 2, 3), adapter="a0", max_tokens=6)
    run(inference, [often])  # it is in memory
    steady = [Heard(), Heard()]
    inference.submit(often, steady[0])
    inference.step()
    inference.submit(often, steady[1])  # from now on one of them is always being answered
    other = Heard()
    inference.submit(replace(often, adapter="a1"), other)
    for _ in range(10_000):
        if other.over.is_set():
            break
        for i, listener in enumerate(steady):
            if listener.over.is_set():
                steady[i] = Heard()
                inference.submit(often, steady[i])
        if not inference.step():
            time.sleep(0.001)  # it is being read
    assert other.finish is not None
    finish(inference, steady)


def test_a_step_that_fails_ends_its_requests_and_the_next_ones_are_served(
    exact_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    inference = Inference(Engine(exact_base), {}.__getitem__)
    request = Request((1, 2, 3), max_tokens=4)
    with monkeypatch.context() as patch:
        patch.setattr(inference, "_run", failing)
        assert run(inference, [request])[0].finish == "error"
    assert run(inference, [request])[0].ids == plainly(exact_base, None, request)


def failing(*_: object) -> None:
    raise MemoryError("no more")


def test_too_long_and_too_many_are_refused_at_once(exact_base: Base) -> None:
    inference = Inference(Engine(exact_base), {}.__getitem__, max_waiting=2)
    with pytest.raises(BadInput, match="256 tokens"):
        inference.submit(Request((1,) * 250, max_tokens=20), Heard())
    for _ in range(2):
        inference.submit(Request((1,), max_tokens=1), Heard())
    with pytest.raises(Overloaded):
        inference.submit(Request((1,), max_tokens=1), Heard())


@pytest.mark.parametrize(
    "wrong",
    [{"ids": ()}, {"max_tokens": 0}, {"temperature": 3.0}, {"top_p": 0.0}, {"top_logprobs": 99}],
    ids=str,
)
def test_a_wrong_request_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        replace(Request((1,)), **wrong)  # type: ignore[arg-type]


def test_a_tenant_with_many_requests_does_not_keep_another_waiting(exact_base: Base) -> None:
    inference = Inference(Engine(exact_base), {}.__getitem__, max_rows=2)
    many = [Heard() for _ in range(20)]
    for i, listener in enumerate(many):
        inference.submit(Request((i + 1,), tenant="many", max_tokens=4), listener)
    inference.step()
    one = Heard()
    inference.submit(Request((7, 8), tenant="one", max_tokens=4), one)
    while not one.over.is_set():
        inference.step()
    assert sum(listener.over.is_set() for listener in many) <= 4
    finish(inference, many)


def test_a_server_in_a_thread_answers_many_at_once(exact_base: Base, adapters: dict[Hashable, Adapter]) -> None:
    inference = Inference(Engine(exact_base), adapters.__getitem__, max_adapters=3)
    inference.start()
    try:
        requests = some_requests([None, *adapters], 30, seed=5)
        heard = [Heard() for _ in requests]
        for request, listener in zip(requests, heard, strict=True):
            inference.submit(request, listener)
        for request, listener in zip(requests, heard, strict=True):
            assert listener.over.wait(60)
            assert listener.ids == plainly(exact_base, adapters.get(request.adapter), request)
        assert inference.stats()["running"] == 0
    finally:
        inference.close()


def test_requests_may_come_while_a_step_is_planned(
    exact_base: Base, adapters: dict[Hashable, Adapter]
) -> None:
    inference = Inference(Engine(exact_base), adapters.__getitem__)
    request = Request((1, 2), adapter="a0", max_tokens=2)
    late = [Heard() for _ in range(8)]
    coming: list[threading.Thread] = []

    class Watched(deque[Live]):
        """A queue into which another thread puts a request whenever somebody is looking through it."""

        def __iter__(self) -> Iterator[Live]:
            for i, live in enumerate(super().__iter__()):
                if i == 0 and len(coming) < len(late):
                    thread = threading.Thread(target=inference.submit, args=(request, late[len(coming)]))
                    coming.append(thread)
                    thread.start()
                    thread.join(0.1)  # where the queue is locked, it has to wait
                yield live

    inference._scheduler.waiting = Watched()
    while len(coming) < len(late):
        run(inference, [request])
    for thread in coming:
        thread.join()
    finish(inference, late)
    expected = plainly(exact_base, adapters["a0"], request)
    assert all(listener.ids == expected for listener in late)


def test_memory_that_runs_out_ends_who_runs_and_not_the_server(
    exact_base: Base, adapters: dict[Hashable, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    inference = Inference(Engine(exact_base), adapters.__getitem__)
    make_room, left = inference._cache.make_room, [3]

    def fails_once(places: int, rows: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError("no room")
        make_room(places, rows)

    monkeypatch.setattr(inference._cache, "make_room", fails_once)
    request = Request((1, 2, 3), adapter="a0", max_tokens=4)
    heard = [Heard() for _ in range(3)]
    for listener in heard:
        inference.submit(request, listener)
    assert not inference.alive
    inference.start()
    try:
        assert all(listener.over.wait(30) for listener in heard)
        assert {listener.finish for listener in heard} == {"error"}
        last = Heard()
        inference.submit(request, last)
        assert last.over.wait(30)
        assert last.ids == plainly(exact_base, adapters["a0"], request)
        assert inference.alive
    finally:
        inference.close()


def test_one_tenant_leaves_half_of_the_queue_to_others(exact_base: Base) -> None:
    inference = Inference(Engine(exact_base), {}.__getitem__, max_waiting=4)
    for _ in range(2):
        inference.submit(Request((1, 2), tenant="anna"), Heard())
    with pytest.raises(Overloaded):
        inference.submit(Request((1, 2), tenant="anna"), Heard())
    inference.submit(Request((1, 2), tenant="ben"), Heard())


def test_closing_tells_those_who_wait(exact_base: Base) -> None:
    inference = Inference(Engine(exact_base), {}.__getitem__)
    heard = Heard()
    inference.submit(Request((1,), max_tokens=9), heard)
    inference.step()
    inference.close()
    assert heard.finish == "cancelled"


# --- text -------------------------------------------------------------------------------------


def spoken(base: Base, text: str, *stop: str) -> tuple[list[str], Speech]:
    speech = Speech(base.tokenizer, stop)
    shown = []
    for token in base.tokenizer.encode(text, add_special_tokens=False):
        shown.append(speech.add(token))
        if speech.stopped:
            break
    return [*shown, speech.end()], speech


@pytest.mark.parametrize("text", ["The Kestrel is green.", "Grüße, 你好 🙂!", "a\n\nb  c", ""])
def test_pieces_of_text_make_the_text(tiny_base: Base, text: str) -> None:
    shown, _ = spoken(tiny_base, text)
    assert "".join(shown) == text
    assert not any("\ufffd" in piece for piece in shown)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["tw", "three"], "one "),
        ("one two", ["two three"], "one two"),
        ("aab", ["ab"], "a"),
        ("x END y", ["END", "x E"], ""),
    ],
)
def test_a_stop_mark_and_what_follows_are_never_shown(
    tiny_base: Base, text: str, stop: list[str], expected: str
) -> None:
    shown, _ = spoken(tiny_base, text, *stop)
    assert "".join(shown) == expected
    for i in range(len(shown)):
        assert expected.startswith("".join(shown[: i + 1]))


def test_the_bytes_of_tokens_make_the_text(tiny_base: Base) -> None:
    text = "Grüße, 你好 🙂"
    ids = tiny_base.tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(token_bytes(tiny_base.tokenizer, i) for i in ids).decode() == text
