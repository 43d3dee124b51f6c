"""The laws of the writer that asks a server: our own over real HTTP, and one that misbehaves as it is told."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from conftest import Scribe
from imprint.base import Base
from imprint.errors import BadSetting, OverBudget, WriterFailed
from imprint.synthesis import KINDS
from imprint.types import Prompt, Text, Turn, Writer
from imprint.writers.cache import CachedWriter
from imprint.writers.endpoint import Endpoint, EndpointWriter
from imprint.writers.local import LocalWriter
from imprint.writers.spending import Budget, Ledger, Pace, Spent, guessed_tokens, most_tokens
from scholar import PASSAGES
from server_kit import Server, roomy_base, serving

KEY = "sk-secret-of-this-test"
QUESTIONS = [Prompt.ask(f"{q} How many days?", max_tokens=5 + i) for i, q in enumerate(("Who?", "What?", "When?"))]


# --- against our own server -------------------------------------------------------------------


@pytest.fixture(scope="module")
def base() -> Base:
    return roomy_base()


@pytest.fixture(scope="module")
def server(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMPRINT_CACHE", str(root / "cache"))
        with serving(base, root / "home") as running:
            yield running


@pytest.fixture(scope="module")
def ours(server: Server) -> EndpointWriter:
    return EndpointWriter(Endpoint("tiny", f"{server.address}/v1", retries=1), key=server.key("local"))


def test_what_a_server_writes_is_what_its_base_writes(ours: EndpointWriter, base: Base) -> None:
    prompts = [*QUESTIONS, Prompt((Turn("system", "Be brief."), Turn("user", "Hello?")), max_tokens=12)]
    prompts += [Prompt((Turn("text", "The Kestrel weighs"),), " 3 kilo", max_tokens=12)]
    assert isinstance(ours, Writer)
    assert [t.text for t in ours.write(prompts, seed=0)] == [
        t.text for t in LocalWriter(base).write(prompts, seed=0)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_synthesis_writes_through_a_server(ours: EndpointWriter, kind: str) -> None:
    generator = KINDS[kind]()
    asks = generator.effort(PASSAGES[0]).prompts > 0
    before = ours.spent.requests
    for example in generator.examples(PASSAGES, ours, seed=0):
        assert example.turns
        assert example.writer in (ours.name, "rules", "document")
    assert (ours.spent.requests > before) == (asks and kind != "multi_document")  # which finds no pair here


@pytest.mark.parametrize("turn", [Turn("user", "Who is it?"), Turn("text", "It was")], ids=["chat", "completion"])
def test_the_likeliest_tokens_are_those_that_the_base_tells(ours: EndpointWriter, base: Base, turn: Turn) -> None:
    prompt = Prompt((turn,), max_tokens=10, top_logprobs=3)
    told, local = (writer.write([prompt], seed=0)[0] for writer in (ours, LocalWriter(base)))
    assert told.logprobs is not None
    assert told.top is not None
    assert local.top is not None
    assert told.logprobs == pytest.approx(local.logprobs, abs=1e-4)
    assert len(told.top) == len(told.logprobs) == 10
    for ours_there, local_there in zip(told.top, local.top, strict=True):
        assert [token for token, _ in ours_there] == [token for token, _ in local_there]
        assert [v for _, v in ours_there] == pytest.approx([v for _, v in local_there], abs=1e-4)


def test_the_local_writer_tells_the_likeliest_first_and_the_taken_token_is_it(base: Base) -> None:
    prompts = [replace(QUESTIONS[0], top_logprobs=4), QUESTIONS[1]]
    told, silent = LocalWriter(base).write(prompts, seed=0)
    assert silent.top is None
    assert told.top is not None
    assert [len(place) for place in told.top] == [4] * 5
    assert [place[0][1] for place in told.top] == list(told.logprobs or ())
    assert all([v for _, v in place] == sorted((v for _, v in place), reverse=True) for place in told.top)
    assert told.text == LocalWriter(base).write([QUESTIONS[0]], seed=0)[0].text


def test_the_same_seed_draws_the_same_and_another_differs(ours: EndpointWriter) -> None:
    prompts = [replace(prompt, temperature=1.0, max_tokens=12) for prompt in QUESTIONS]
    drawn = ours.write(prompts, seed=1)
    assert ours.write(prompts, seed=1) == drawn
    assert ours.write(prompts, seed=2) != drawn


def test_stop_ends_a_text(ours: EndpointWriter) -> None:
    whole = ours.write([Prompt.ask("Who?", max_tokens=20)], seed=0)[0].text
    stop = whole[len(whole) // 2 :][:2]
    assert ours.write([Prompt.ask("Who?", max_tokens=20, stop=(stop,))], seed=0)[0].text == whole.split(stop)[0].strip()


def test_what_is_spent_is_what_the_server_counts(server: Server, base: Base) -> None:
    budget = Budget(usd_per_million_in=2.0, usd_per_million_out=8.0)
    endpoint = Endpoint("tiny", f"{server.address}/v1", budget=budget)
    writer = EndpointWriter(endpoint, key=server.key("local"))
    texts = LocalWriter(base).write(QUESTIONS, seed=0)
    writer.write(QUESTIONS, seed=0)
    read = sum(len(base.prompt_ids(p.turns)) for p in QUESTIONS)
    written = sum(len(t.logprobs or ()) for t in texts)
    assert (writer.spent.prompt_tokens, writer.spent.completion_tokens) == (read, written)
    assert writer.spent.usd == pytest.approx((2 * read + 8 * written) / 1e6)
    assert (writer.spent.requests, writer.spent.estimated) == (3, 0)


def test_a_key_that_the_server_refuses_is_said_without_the_key(server: Server) -> None:
    writer = EndpointWriter(Endpoint("tiny", f"{server.address}/v1"), key=KEY)
    with pytest.raises(WriterFailed, match=r"refuses the API key \(401\). Look at \$OPENAI_API_KEY") as caught:
        writer.write(QUESTIONS, seed=0)
    assert KEY not in f"{caught.value}{caught.value!r}"


def test_a_model_that_is_not_there_is_named(server: Server) -> None:
    writer = EndpointWriter(Endpoint("huge", f"{server.address}/v1"), key=server.key("local"))
    for prompt in (QUESTIONS[0], Prompt((Turn("text", "It was"),))):
        with pytest.raises(WriterFailed, match="Look at the model's name, huge"):
            writer.write([prompt], seed=0)


# --- a server that does as it is told ---------------------------------------------------------


Answer = tuple[int, dict[str, str], Any]
Told = Callable[[dict[str, Any]], Answer]


class Odd:
    """A real HTTP server in a thread; `answer` says what it answers to a request's body."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.under_way = self.most_under_way = 0
        self.answer: Told = lambda body: said("Yes.")
        self._lock = threading.Lock()
        odd = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                body["path"] = self.path
                with odd._lock:
                    odd.asked.append(body)
                    odd.under_way += 1
                    odd.most_under_way = max(odd.most_under_way, odd.under_way)
                status, headers, answer = odd.answer(body)
                with odd._lock:
                    odd.under_way -= 1
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data))}.items():
                    self.send_header(name, headers.get(name, value))
                for name, value in headers.items():
                    if name != "Content-Type":
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None: ...

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def writer(self, **settings: Any) -> EndpointWriter:
        return EndpointWriter(Endpoint("odd", self.address, **{"retries": 3} | settings), key=KEY)

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def said(text: str, **more: Any) -> Answer:
    """A chat completion of 10 tokens read and 5 written."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "odd", "choices": [choice | more.pop("choice", {})]}
    return 200, {}, whole | {"usage": usage} | more


def refused(status: int, message: str = "no", headers: dict[str, str] | None = None, **more: Any) -> Answer:
    return status, headers or {}, {"error": {"message": message, "type": "x", "param": None, "code": None} | more}


@pytest.fixture
def odd() -> Iterator[Odd]:
    server = Odd()
    yield server
    server.stop()


def in_turn(*answers: Answer) -> Told:
    waiting = list(answers)
    return lambda body: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def test_who_is_told_to_come_again_waits_that_long_and_comes(odd: Odd) -> None:
    odd.answer = in_turn(refused(429, headers={"Retry-After": "1"}), said("Here."))
    began = time.monotonic()
    assert odd.writer().write(QUESTIONS[:1], seed=0) == [Text("Here.")]
    assert time.monotonic() - began >= 1
    assert len(odd.asked) == 2


def test_a_server_that_stumbles_twice_is_asked_a_third_time(odd: Odd) -> None:
    odd.answer = in_turn(refused(500), refused(503), said("Here."))
    assert odd.writer().write(QUESTIONS[:1], seed=0) == [Text("Here.")]
    assert len(odd.asked) == 3


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (refused(401, f"Incorrect API key provided: {KEY}"), "refuses the API key"),
        (refused(400, f"You sent {KEY}, and that is too long."), r"You sent \*\*\*, and that is too long"),
        (refused(404, "There is no model odd."), "Look at the model's name, odd"),
        (refused(429, "You exceeded your quota.", {"Retry-After-Ms": "1"}), "You exceeded your quota.*requests_per_minute"),
        (refused(500, "Out of memory.", {"Retry-After-Ms": "1"}), "Out of memory. Try again later"),
        ((200, {"Content-Type": "text/html"}, b"<html>Welcome</html>"), "Should the address end in /v1"),
        ((200, {}, b"{ cut"), "Should the address end in /v1"),
        ((200, {}, {"choices": []}), "Should the address end in /v1"),
    ],
    ids=["401", "400", "404", "429", "500", "html", "cut", "empty"],
)  # fmt: skip
def test_what_goes_wrong_is_said_with_what_to_do_and_never_with_the_key(odd: Odd, answer: Answer, told: str) -> None:
    odd.answer = lambda body: answer
    with pytest.raises(WriterFailed, match=told) as caught:
        odd.writer(retries=1).write(QUESTIONS[:1], seed=0)
    assert KEY not in f"{caught.value}{caught.value.__cause__}"


def test_a_server_that_is_not_there_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(WriterFailed, match="cannot be reached"):
        EndpointWriter(Endpoint("odd", address, retries=0), key=KEY).write(QUESTIONS, seed=0)


def test_a_server_that_takes_too_long_is_named_with_the_seconds(odd: Odd) -> None:
    def slowly(body: dict[str, Any]) -> Answer:
        time.sleep(0.5)
        return said("Late.")

    odd.answer = slowly
    with pytest.raises(WriterFailed, match="did not answer within 0.1 s, asked 1 times"):
        odd.writer(retries=0, timeout_s=0.1).write(QUESTIONS[:1], seed=0)


def test_requests_are_under_way_together_and_come_back_in_the_order_asked(odd: Odd) -> None:
    together = threading.Barrier(4)

    def all_at_once(body: dict[str, Any]) -> Answer:
        together.wait(10)  # nobody is answered before four are here
        return said(body["messages"][0]["content"])

    odd.answer = all_at_once
    prompts = [Prompt.ask(f"Question {i}") for i in range(12)]
    texts = odd.writer(concurrency=4, retries=0).write(prompts, seed=0)
    assert [t.text for t in texts] == [f"Question {i}" for i in range(12)]
    assert odd.most_under_way == 4


def test_a_prompt_says_all_it_asks_for(odd: Odd) -> None:
    prompt = Prompt.ask("Who?", max_tokens=9, temperature=0.7, stop=("\n", "##"), top_logprobs=2)
    odd.writer().write([prompt], seed=11)
    assert odd.asked[0] == {
        "path": "/v1/chat/completions",
        "model": "odd",
        "messages": [{"role": "user", "content": "Who?"}],
        "max_tokens": 9,
        "temperature": 0.7,
        "seed": 11,
        "stop": ["\n", "##"],
        "logprobs": True,
        "top_logprobs": 2,
    }


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("In short, it is green.", "it is green."),
        ('"in  short," it is green.', "it is green."),
        ("**In short,** it is green.", "it is green."),
        ("It is green, in short, or not.", "It is green, in short, or not."),
    ],
)
def test_words_to_begin_with_are_asked_for_and_not_repeated(odd: Odd, answer: str, text: str) -> None:
    odd.answer = lambda body: said(answer)
    assert odd.writer().write([Prompt.ask("Tell.", begun="In short,")], seed=0) == [Text(text)]
    assert odd.asked[0]["messages"] == [{"role": "user", "content": "Tell.\n\nBegin your answer with the words: In short,"}]


def test_a_word_is_not_taken_for_its_beginning(odd: Odd) -> None:
    odd.answer = lambda body: said("Bothersome.")
    assert odd.writer().write([Prompt.ask("Tell.", begun="Both")], seed=0) == [Text("Bothersome.")]


def test_a_server_that_continues_is_handed_the_beginning(odd: Odd) -> None:
    odd.answer = lambda body: said(" In short, twice.")
    texts = odd.writer(continues=True).write([Prompt.ask("Tell.", begun="In short,")], seed=0)
    assert texts == [Text("In short, twice.")]
    assert odd.asked[0]["messages"][-1] == {"role": "assistant", "content": "In short,"}
    assert odd.asked[0]["continue_final_message"] is True
    assert odd.asked[0]["add_generation_prompt"] is False


def test_where_there_are_no_completions_a_chat_continues_the_text(odd: Odd) -> None:
    odd.answer = lambda body: refused(404) if body["path"] == "/v1/completions" else said("3 kilograms.")
    writer = odd.writer()
    prompt = Prompt((Turn("text", "The Kestrel weighs"),))
    assert writer.write([prompt], seed=0) == writer.write([prompt], seed=0) == [Text("3 kilograms.")]
    assert [body["path"].rpartition("/v1/")[2] for body in odd.asked] == ["completions", *["chat/completions"] * 2]
    assert odd.asked[1]["messages"][0]["content"].endswith("The Kestrel weighs")


CHOOSY = [
    ("logprobs", "This model does not support logprobs.", {}),
    ("seed", "Unknown parameter: 'seed'.", {}),
    ("stop", "no", {"param": "stop"}),
    ("temperature", "Unsupported value: 'temperature' does not support 0.5 with this model.", {}),
    ("max_tokens", "Use 'max_completion_tokens' instead of 'max_tokens'.", {}),
]


@pytest.mark.parametrize(("name", "message", "more"), CHOOSY, ids=[name for name, _, _ in CHOOSY])
@pytest.mark.parametrize("status", [400, 422])
def test_what_a_server_refuses_it_is_asked_without_from_then_on(
    odd: Odd, name: str, message: str, more: dict[str, Any], status: int
) -> None:
    odd.answer = lambda body: refused(status, message, **more) if name in body else said("Here.")
    writer = odd.writer()
    prompt = Prompt.ask("Who?", stop=("\n",), temperature=0.5, top_logprobs=2)
    assert [t.text for _ in range(2) for t in writer.write([prompt], seed=0)] == ["Here.", "Here."]
    assert [name in body for body in odd.asked] == [True, False, False]
    assert writer.refused == {name}
    assert ("max_completion_tokens" in odd.asked[-1]) == (name == "max_tokens")


def test_likeliest_tokens_come_likeliest_first(odd: Odd) -> None:
    likely = [{"token": "No", "logprob": -2.0, "bytes": None}, {"token": "Yes", "logprob": -0.2, "bytes": None}]
    place = {"token": "Yes", "logprob": -0.2, "bytes": None, "top_logprobs": likely}
    odd.answer = lambda body: said("Yes", choice={"logprobs": {"content": [place], "refusal": None}})
    text = odd.writer().write([Prompt.ask("Is it?", top_logprobs=2)], seed=0)[0]
    assert text == Text("Yes", (-0.2,), ((("Yes", -0.2), ("No", -2.0)),))


def test_tokens_that_a_server_does_not_tell_are_guessed(odd: Odd) -> None:
    odd.answer = lambda body: said("y" * 36, usage=None)
    writer = odd.writer()
    writer.write([Prompt.ask("x" * 72)], seed=0)
    assert writer.spent == Spent(1, 20, 10, 0.0, estimated=1)


def test_an_answer_that_is_withheld_is_an_empty_text(odd: Odd) -> None:
    odd.answer = lambda body: said("", choice={"message": {"role": "assistant", "content": None, "refusal": "no"}})
    assert odd.writer().write(QUESTIONS[:1], seed=0) == [Text("")]


# --- money ------------------------------------------------------------------------------------


def numbered(n: int) -> list[Prompt]:
    return [Prompt.ask(f"Question {i}", max_tokens=5) for i in range(n)]


def test_a_budget_ends_before_it_is_overrun_and_what_was_written_stays(odd: Odd, tmp_path: Path) -> None:
    odd.answer = lambda body: said(body["messages"][0]["content"])
    budget = Budget(max_tokens=300)
    writer = odd.writer(budget=budget, concurrency=3)
    with pytest.raises(OverBudget, match=r"of 300 tokens are spent, and it may take") as caught:
        CachedWriter(writer, tmp_path / "texts.jsonl").write(numbered(40), seed=0)
    there = dict(caught.value.texts)
    assert 5 < len(there) == len(odd.asked) < 40
    assert all(text == Text(f"Question {i}") for i, text in there.items())
    assert writer.spent.tokens == 15 * len(there) <= 300
    after = CachedWriter(odd.writer(), tmp_path / "texts.jsonl")
    assert [t.text for t in after.write(numbered(40), seed=0)] == [f"Question {i}" for i in range(40)]
    assert len({body["messages"][0]["content"] for body in odd.asked}) == len(odd.asked) == 40


def test_a_budget_in_money_is_kept_even_with_many_under_way(odd: Odd) -> None:
    def slowly(body: dict[str, Any]) -> Answer:
        time.sleep(0.01)
        return said("Yes.")

    odd.answer = slowly
    budget = Budget(usd_per_million_in=100.0, usd_per_million_out=1000.0, max_usd=0.05)
    writer = odd.writer(budget=budget, concurrency=16)
    with pytest.raises(OverBudget, match="of 0.0500 US dollars") as caught:
        writer.write(numbered(100), seed=0)
    assert 0 < writer.spent.usd <= 0.05
    assert len(caught.value.texts) == len(odd.asked)


def test_a_failure_keeps_what_was_paid_for(odd: Odd, tmp_path: Path) -> None:
    def ten_times(body: dict[str, Any]) -> Answer:
        question = body["messages"][0]["content"]
        return said(question) if int(question.split()[1]) < 10 else refused(401)

    odd.answer = ten_times
    with pytest.raises(WriterFailed) as caught:
        CachedWriter(odd.writer(concurrency=4), tmp_path / "texts.jsonl").write(numbered(40), seed=0)
    assert len(caught.value.texts) == 10
    assert len(odd.asked) <= 14  # nobody new is asked after the failure
    odd.answer = lambda body: said("Later.")
    odd.asked.clear()
    CachedWriter(odd.writer(), tmp_path / "texts.jsonl").write(numbered(40), seed=0)
    assert len(odd.asked) == 30


class Poor(Scribe):
    """A writer that gives its texts all at once, and stops at the third of each call."""

    def write(self, prompts: Any, *, seed: int) -> list[Text]:
        error = OverBudget("no money")
        error.texts = {0: Text("first"), 2: Text("third", (-1.0,))}
        raise error


def test_texts_that_an_error_carries_are_kept_by_place(tmp_path: Path, scribe: Scribe) -> None:
    file = tmp_path / "texts.jsonl"
    with pytest.raises(OverBudget) as caught:
        CachedWriter(Poor(), file).write(numbered(4), seed=0)
    assert caught.value.texts == {0: Text("first"), 2: Text("third", (-1.0,))}
    scribe_after = CachedWriter(scribe, file)
    texts = scribe_after.write(numbered(4), seed=0)
    assert (texts[0].text, texts[2].text, scribe_after.written) == ("first", "third", 2)


def test_the_most_that_a_request_can_read_is_more_than_it_reads(base: Base) -> None:
    for text in ("", "Who?", "公司成立于1987年。", "\n\n\n  🙂🙂", "word " * 50):
        assert most_tokens([text]) >= len(base.prompt_ids([Turn("user", text)]))


def test_what_was_promised_and_not_used_can_be_promised_again() -> None:
    ledger = Ledger(Budget(max_tokens=100))
    first = ledger.promise(40, 20)
    assert first is not None
    assert ledger.promise(40, 20) is None
    ledger.settle(first, Spent(1, 10, 5))
    assert ledger.promise(40, 20) is not None
    assert ledger.spent == Spent(1, 10, 5)


# --- what is remembered -----------------------------------------------------------------------


class Teller(Scribe):
    """A writer that tells log-probabilities of every second text."""

    def write(self, prompts: Any, *, seed: int) -> list[Text]:
        texts = super().write(prompts, seed=seed)
        full = Text("Yes", (-0.25,), ((("Yes", -0.25), ("No", -1.5)),))
        return [full if i % 2 else text for i, text in enumerate(texts)]


def test_logprobs_are_remembered_with_the_text(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    first = CachedWriter(Teller(), file, group=4).write(numbered(10), seed=0)
    again = CachedWriter(Teller(), file, group=4)
    assert again.write(numbered(10), seed=0) == first
    assert (again.written, first[1].top, first[0].logprobs) == (0, ((("Yes", -0.25), ("No", -1.5)),), None)


def test_lines_without_logprobs_are_still_read(tmp_path: Path, scribe: Scribe) -> None:
    file = tmp_path / "texts.jsonl"
    texts = CachedWriter(scribe, file).write(numbered(3), seed=0)
    assert set(json.loads(file.read_text())) == {"keys", "texts"}
    assert CachedWriter(Teller(), file).write(numbered(3), seed=0) == texts


# --- pace -------------------------------------------------------------------------------------


class Clock:
    """Time that passes when somebody sleeps, and not else."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("limit", [1, 3, 10, 60, 500])
def test_no_minute_has_more_requests_than_the_limit(limit: int) -> None:
    clock = Clock()
    pace = Pace(limit, clock, clock.sleep)
    taken = []
    for _ in range(3 * limit + 2):
        pace.take()
        taken.append(clock.now)
    assert max(sum(t <= u < t + 60 for u in taken) for t in taken) <= limit
    assert taken[-1] <= 66.7 * 4  # and not much fewer


def test_no_minute_has_more_tokens_than_the_limit() -> None:
    clock = Clock()
    pace = Pace(1000, clock, clock.sleep)
    taken = []
    for amount in [100, 20, 70, 100, 3] * 20:
        pace.take(amount)
        taken.append((clock.now, amount))
    assert max(sum(n for u, n in taken if t <= u < t + 60) for t, _ in taken) <= 1000


def test_a_writer_keeps_its_pace_with_the_clock_it_is_given(odd: Odd) -> None:
    clock = Clock()
    endpoint = Endpoint("odd", odd.address, requests_per_minute=60, concurrency=1)
    EndpointWriter(endpoint, key=KEY, clock=clock, sleep=clock.sleep).write(numbered(30), seed=0)
    assert 20 < clock.now < 40


# --- settings ---------------------------------------------------------------------------------


def test_the_key_stands_in_no_setting_no_name_and_no_text_about_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    endpoint = Endpoint("gpt", "https://example.org:8443/v1", key_env="MY_KEY")
    writer = EndpointWriter(endpoint)
    assert KEY not in f"{writer!r}{writer.name}{endpoint!r}{asdict(endpoint)}"
    assert writer.name == "gpt@example.org"


def test_without_a_key_it_is_said_where_one_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadSetting, match=r"\$OPENAI_API_KEY.*key_env=''"):
        EndpointWriter(Endpoint("gpt"))
    EndpointWriter(Endpoint("gpt", key_env=""))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"address": "api.example.org"}, "looks like https"),
        ({"address": "https://me:pw@example.org/v1"}, "holds no password"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSetting, match=told):
        Endpoint("gpt", **settings)


@pytest.mark.parametrize("settings", [{"max_usd": 1.0}, {"max_tokens": -1}, {"usd_per_million_in": float("nan")}])
def test_a_budget_that_cannot_be_kept_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadSetting):
        Budget(**settings)


def test_a_guess_of_tokens_is_a_token_for_each_3_6_characters() -> None:
    assert [guessed_tokens("x" * n) for n in (0, 1, 36)] == [0, 1, 10]
