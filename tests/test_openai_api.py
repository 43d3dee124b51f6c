"""The laws of the OpenAI-compatible server, held against the real client and a real server."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from imprint.base import Base
from imprint.interfaces.gate import Limits
from imprint.types import Turn
from server_kit import KESTREL, Server, publish, roomy_base, serving, until

HELLO: Any = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(scope="module")
def base() -> Base:
    return roomy_base()


@pytest.fixture(scope="module")
def server(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two adapters of the local tenant, one of which has two versions."""
    root = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMPRINT_CACHE", str(root / "cache"))
        for name, seed in (("handbook", 1), ("handbook", 2), ("atlas", 3)):
            publish(base, root / "home", name, seed)
        with serving(base, root / "home", Limits(body_bytes=100_000), file_bytes=300_000) as running:
            yield running


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return server.client()


def error_of(caught: pytest.ExceptionInfo[openai.APIStatusError]) -> dict[str, Any]:
    """The error as it stood on the wire."""
    body = caught.value.response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


# --- models -----------------------------------------------------------------------------------


def test_models_are_the_base_and_ones_own_adapters(client: openai.OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert ids == ["tiny", "atlas", "atlas@1", "handbook", "handbook@2"]
    assert client.models.retrieve("handbook").id == "handbook@2"
    assert client.models.retrieve("handbook@1").created == 1748779200


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    for call in (
        lambda: client.models.retrieve("handbok"),
        lambda: client.chat.completions.create(model="handbok", messages=HELLO),
        lambda: client.completions.create(model="handbok", prompt="x"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        told = error_of(caught)
        assert (told["code"], told["param"]) == ("model_not_found", "model")
        assert "Did you mean 'handbook'?" in told["message"]


def test_another_base_is_refused_in_so_many_words(server: Server, base: Base, client: openai.OpenAI) -> None:
    publish(base, server.host.home, "foreign", 1, told_base="qwen3-4b")
    with pytest.raises(openai.BadRequestError, match="was taught on qwen3-4b"):
        client.chat.completions.create(model="foreign", messages=HELLO)
    client.models.delete("foreign@1")


def test_an_adapter_that_does_not_fit_after_all_is_told_by_a_status(
    server: Server, base: Base, client: openai.OpenAI
) -> None:
    publish(replace(base, revision="another"), server.host.home, "unfit", 1)
    for stream in (True, False):
        with pytest.raises(openai.BadRequestError, match="was trained on tiny") as caught:
            client.completions.create(model="unfit", prompt="x", stream=stream)
        assert error_of(caught)["code"] == "wrong_base_model"
    client.models.delete("unfit")


def test_a_broken_adapter_is_told_without_saying_where(server: Server, base: Base, client: openai.OpenAI) -> None:
    version = publish(base, server.host.home, "broken", 7)
    for file in server.host.tenants.registry("local").folder(version).iterdir():
        file.parent.chmod(0o755)
        file.unlink()
    with pytest.raises(openai.InternalServerError, match="broken@1 cannot be opened") as caught:
        client.completions.create(model="broken", prompt="x")
    assert str(server.host.home) not in caught.value.response.text
    client.models.delete("broken")


def test_a_deleted_model_is_gone(server: Server, base: Base, client: openai.OpenAI) -> None:
    publish(base, server.host.home, "gone", 1)
    client.completions.create(model="gone", prompt="x", max_tokens=1)
    assert client.models.delete("gone@1").deleted
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gone", prompt="x", max_tokens=1)


# --- answers ----------------------------------------------------------------------------------


def test_a_chat_is_what_the_model_would_say(client: openai.OpenAI, base: Base) -> None:
    ids = base.prompt_ids([Turn("system", "Be brief."), Turn("user", "Hello?")])
    parts: Any = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hello?"}]}]
    said = client.chat.completions.create(model="tiny", messages=parts, max_tokens=9, temperature=0)
    same = client.completions.create(model="tiny", prompt=ids, max_tokens=9, temperature=0)
    assert said.choices[0].message.content == same.choices[0].text
    assert said.usage is not None
    assert said.usage.prompt_tokens == len(ids)
    assert said.usage.total_tokens == len(ids) + said.usage.completion_tokens
    assert said.choices[0].finish_reason in ("length", "stop")


def test_every_model_gives_its_own_answer_and_says_who_it_was(client: openai.OpenAI) -> None:
    said = {}
    for name in ("tiny", "atlas", "handbook@1", "handbook@2", "handbook"):
        answer = client.chat.completions.create(model=name, messages=HELLO, max_tokens=12, temperature=0)
        said[name] = (answer.choices[0].message.content, answer.model)
    assert len({text for text, _ in said.values()}) == 4
    assert said["handbook"] == said["handbook@2"]
    assert [model for _, model in said.values()] == ["tiny", "atlas@1", "handbook@1", "handbook@2", "handbook@2"]


@pytest.mark.parametrize("logprobs", [False, True])
def test_a_stream_says_what_the_whole_says(client: openai.OpenAI, logprobs: bool) -> None:
    asked: Any = {"model": "handbook", "messages": HELLO, "max_tokens": 20, "temperature": 0, "logprobs": logprobs}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason] == [whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1
    if logprobs:
        streamed = [t for c in chunks[:-1] if c.choices[0].logprobs for t in c.choices[0].logprobs.content or []]
        assert whole.choices[0].logprobs is not None
        assert [(t.token, t.bytes) for t in streamed] == [(t.token, t.bytes) for t in whole.choices[0].logprobs.content or []]


def test_a_stream_ends_with_done(server: Server) -> None:
    asked = {"model": "tiny", "prompt": "x", "max_tokens": 3, "stream": True}
    with server.http() as http, http.stream("POST", "/v1/completions", json=asked) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert "usage" not in json.loads(lines[0].removeprefix("data: "))


def test_a_text_ends_before_its_stop_mark(client: openai.OpenAI) -> None:
    asked: Any = {"model": "handbook", "prompt": "The", "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**asked).choices[0].text
    at = len(whole) // 2
    mark = whole[at : at + 3]
    for stop in (mark, ["never said", mark]):
        cut = client.completions.create(**asked, stop=stop)
        assert cut.choices[0].text == whole[: whole.index(mark)]
        assert cut.choices[0].finish_reason == "stop"
    chunks = client.completions.create(**asked, stop=mark, stream=True)
    assert "".join(c.choices[0].text for c in chunks) == whole[: whole.index(mark)]


def test_the_same_seed_gives_the_same_choices(client: openai.OpenAI) -> None:
    def texts(seed: int | None, n: int) -> list[str]:
        answer = client.completions.create(model="atlas", prompt="The", max_tokens=12, seed=seed, n=n, temperature=1.5)
        assert [choice.index for choice in answer.choices] == list(range(n))
        return [choice.text for choice in answer.choices]

    three = texts(7, 3)
    assert len(set(three)) == 3
    assert texts(7, 3) == three
    assert texts(7, 1) == three[:1]
    assert texts(8, 1) != three[:1]
    assert texts(-3, 1) != texts(None, 1) != texts(None, 1)


def test_a_prompt_is_counted_once_for_all_its_choices(client: openai.OpenAI, base: Base) -> None:
    once = len(base.prompt_ids([Turn("user", "Hello?")]))
    answer = client.chat.completions.create(model="tiny", messages=HELLO, n=3, max_tokens=4)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == once
    assert 0 < answer.usage.completion_tokens <= 12


def test_several_prompts_are_answered_in_their_order(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    alone = [client.completions.create(**asked, prompt=text).choices[0].text for text in ("The", "A shop")]
    both = client.completions.create(**asked, prompt=["The", "A shop"], n=2)
    assert [choice.text for choice in both.choices] == [alone[0], alone[0], alone[1], alone[1]]


def test_log_probabilities_belong_to_the_tokens_of_the_text(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "max_tokens": 6, "temperature": 0}
    chat = client.chat.completions.create(**asked, messages=HELLO, logprobs=True, top_logprobs=3).choices[0]
    assert chat.logprobs is not None and chat.logprobs.content is not None
    raw = b"".join(bytes(t.bytes or []) for t in chat.logprobs.content)
    assert raw.decode("utf-8", "replace") == chat.message.content
    for token in chat.logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token
        assert token.logprob == pytest.approx(max(t.logprob for t in token.top_logprobs))
    legacy = client.completions.create(**asked, prompt="The", logprobs=2).choices[0].logprobs
    assert legacy is not None and legacy.tokens and legacy.top_logprobs and legacy.text_offset
    assert [len(top) for top in legacy.top_logprobs] == [2] * len(legacy.tokens)
    assert legacy.text_offset[1] == len(legacy.tokens[0])
    assert client.completions.create(**asked, prompt="The").choices[0].logprobs is None


def test_a_long_conversation_is_refused_as_too_long(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO, max_completion_tokens=4090)
    told = error_of(caught)
    assert told["code"] == "context_length_exceeded"
    assert "maximum context length is 4096 tokens" in told["message"]
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=[5] * 4090, max_tokens=16)
    assert error_of(caught)["code"] == "context_length_exceeded"


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("chat", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ("chat", {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
    ("chat", {"response_format": {"type": "json_object"}}, "response_format"),
    ("chat", {"modalities": ["text", "audio"]}, "modalities"),
    ("chat", {"presence_penalty": 0.5}, "presence_penalty"),
    ("chat", {"logit_bias": {"5": 100}}, "logit_bias"),
    ("chat", {"top_logprobs": 2}, "top_logprobs"),
    ("chat", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("chat", {"extra_body": {"tempreature": 1}}, "tempreature"),
    ("chat", {"temperature": 3}, "temperature"),
    ("chat", {"temperature": "hot"}, "temperature"),
    ("chat", {"top_p": 0}, "top_p"),
    ("chat", {"n": 0}, "n"),
    ("chat", {"n": 1000}, "n"),
    ("chat", {"max_tokens": 0}, "max_tokens"),
    ("chat", {"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ("chat", {"stop": [""]}, "stop"),
    ("chat", {"messages": []}, "messages"),
    ("chat", {"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages[0].role"),
    ("chat", {"messages": [{"role": "text", "content": "x"}]}, "messages[0].role"),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content"),
    ("text", {"echo": True}, "echo"),
    ("text", {"best_of": 3}, "best_of"),
    ("text", {"suffix": "x"}, "suffix"),
    ("text", {"logprobs": 6}, "logprobs"),
    ("text", {"prompt": ""}, "prompt"),
    ("text", {"prompt": [5, 10**9]}, "prompt"),
    ("text", {"prompt": [5, -1]}, "prompt"),
    ("text", {"prompt": []}, "n"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "given", "param"), REFUSED, ids=lambda v: str(v)[:40])
def test_what_is_not_done_is_refused_by_name(kind: str, given: dict[str, Any], param: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        if kind == "chat":
            client.chat.completions.create(**{"model": "tiny", "messages": HELLO, **given})
        else:
            client.completions.create(**{"model": "tiny", "prompt": "x", **given})
    told = error_of(caught)
    assert told["type"] == "invalid_request_error"
    assert str(told["param"]).startswith(param)


def test_what_asks_for_nothing_special_is_taken(client: openai.OpenAI) -> None:
    neutral: Any = {
        "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "tools": [], "tool_choice": "none",
        "response_format": {"type": "text"}, "user": "someone", "store": False, "metadata": {"a": "b"},
        "modalities": ["text"], "parallel_tool_calls": True, "seed": None, "stop": None, "n": None,
    }  # fmt: skip
    assert client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=1, **neutral).choices


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b"", 400),
        ("POST", "/v1/chat/completions", b"\xff\xfe", 400),
        ("GET", "/v1/chat/completions", b"", 405),
        ("GET", "/v1/nowhere", b"", 404),
        ("GET", "/docs", b"", 404),
        ("POST", "/v1/files", b"no form", 400),
        ("GET", "/v1/fine_tuning/jobs?limit=0", b"", 400),
    ],
)
def test_what_cannot_be_understood_is_told_in_the_same_shape(
    method: str, path: str, content: bytes, status: int, server: Server
) -> None:
    with server.http() as http:
        answer = http.request(method, path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


# --- keys and tenants -------------------------------------------------------------------------

ROUTES = [
    ("GET", "/v1/models"), ("GET", "/v1/models/tiny"), ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"),
    ("GET", "/v1/files"), ("POST", "/v1/files"), ("DELETE", "/v1/files/x"), ("GET", "/v1/fine_tuning/jobs"),
    ("POST", "/v1/fine_tuning/jobs"), ("GET", "/metrics"), ("GET", "/nowhere"), ("GET", "/openapi.json"), ("GET", "/"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("header", [None, "Bearer", "Bearer imp-wrong", "Basic imp-wrong", "imp-wrong"])
def test_without_a_key_everything_is_closed(method: str, path: str, header: str | None, server: Server) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = httpx.request(method, server.address + path, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_a_wrong_key_is_an_authentication_error(server: Server) -> None:
    with pytest.raises(openai.AuthenticationError):
        server.client(key="imp-wrong").models.list()


def test_health_is_open_and_tells_nothing_else(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = httpx.get(f"{server.address}/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    monkeypatch.setattr(type(server.host.inference), "alive", False)
    assert httpx.get(f"{server.address}/health").status_code == 503


def test_a_revoked_key_opens_nothing_any_more(server: Server) -> None:
    key, secret = server.host.keys.add("anna", now="2025-06-01T12:00:00+00:00")
    client = server.client(key=secret)
    client.models.list()
    server.host.keys.revoke(key.id)
    with pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_a_tenant_cannot_tell_anothers_things_from_nothing(server: Server, client: openai.OpenAI) -> None:
    file = client.files.create(file=("mine.md", KESTREL), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(training_file=file.id, model="tiny", suffix="mine", extra_body={"budget": "10h"})
    client.fine_tuning.jobs.cancel(job.id)
    ben = server.client("ben")
    assert [model.id for model in ben.models.list()] == ["tiny"]
    assert ben.files.list().data == ben.fine_tuning.jobs.list().data == []

    def told(call: Any, *given: str, **more: Any) -> list[str]:
        answers = []
        for thing in given:
            with pytest.raises(openai.NotFoundError) as caught:
                call(thing, **more)
            answers.append(caught.value.response.text.replace(thing.partition("@")[0], "THING"))
        return answers

    for call, mine, nothing in (
        (ben.models.retrieve, "handbook", "nothing"),
        (ben.models.delete, "handbook@1", "nothing@1"),
        (lambda name: ben.chat.completions.create(model=name, messages=HELLO), "handbook@1", "nothing@1"),
        (ben.files.retrieve, file.id, "file-0"),
        (ben.files.content, file.id, "file-0"),
        (ben.files.delete, file.id, "file-0"),
        (lambda id: ben.fine_tuning.jobs.create(training_file=id, model="tiny"), file.id, "file-0"),
        (ben.fine_tuning.jobs.retrieve, job.id, "ftjob-0"),
        (ben.fine_tuning.jobs.list_events, job.id, "ftjob-0"),
        (ben.fine_tuning.jobs.cancel, job.id, "ftjob-0"),
    ):
        assert len(set(told(call, mine, nothing))) == 1
    assert client.files.content(file.id).read() == KESTREL
    client.files.delete(file.id)


def test_an_id_never_leads_out_of_its_folder(server: Server) -> None:
    home = server.host.tenants.home("local")
    planted = {"file.json": {"name": "x", "bytes": 1, "purpose": "p", "created_at": 1}, "job.json": {}}
    for name, record in planted.items():
        (home / name).write_text(json.dumps(record))
    (home / "content").write_text("secret")
    with server.http() as http:
        for path in ("files/%2e%2e", "files/%2e%2e/content", "fine_tuning/jobs/%2e%2e", "fine_tuning/jobs/%2e%2e/events"):
            assert http.get(f"/v1/{path}").status_code == 404, path


def test_a_list_of_a_million_wrong_things_is_one_error(server: Server) -> None:
    with server.http() as http:
        for body in ({"messages": [0] * 5000}, {"prompt": [None] * 5000}):
            path = "chat/completions" if "messages" in body else "completions"
            answer = http.post(f"/v1/{path}", json={"model": "tiny", **body})
            assert (answer.status_code, len(answer.content) < 1000) == (400, True)


@pytest.mark.parametrize("body", [{"prompt": "\ud800"}, {"prompt": "a", "stop": "b" * 501}, {"prompt": ["a"] * 1000}])
def test_what_would_be_slow_or_cannot_be_text_is_refused(body: dict[str, Any], server: Server) -> None:
    with server.http() as http:
        sent = json.dumps({"model": "tiny", **body})
        answer = http.post("/v1/completions", content=sent, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text


def test_invented_methods_are_counted_as_one(server: Server) -> None:
    with server.http() as http:
        for i in range(3):
            http.request(f"EVIL{i}", "/v1/models")
        assert "EVIL" not in http.get("/metrics").text


@pytest.mark.parametrize("id", ["..", "%2e%2e", "..%2f..%2fregistry.db", "x%00y", "uploads", "a" * 3000])
def test_no_parameter_becomes_a_path(id: str, server: Server) -> None:
    with server.http() as http:
        for path in (f"/v1/files/{id}/content", f"/v1/files/{id}", f"/v1/models/{id}", f"/v1/fine_tuning/jobs/{id}/events"):
            answer = http.get(path)
            assert answer.status_code in (404, 401) or answer.json()["object"] == "list", (path, answer.text)
            assert str(server.host.home) not in answer.text


# --- limits -----------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused(server: Server, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model="tiny", prompt="x" * 200_000)
    assert caught.value.status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    with server.http() as http:  # its length is not announced
        assert http.post("/v1/completions", content=pieces()).status_code == 413
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("large.md", b"x" * 350_000), purpose="fine-tune")
    assert caught.value.status_code == 413
    assert "large.md" not in [file.filename for file in client.files.list()]


def test_too_many_requests_are_told_when_to_come_again(base: Base, home: Path) -> None:
    with serving(base, home, Limits(requests_per_minute=3)) as server:
        anna, ben = server.client("anna"), server.client("ben")
        for _ in range(3):
            anna.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            anna.models.list()
        assert error_of(caught)["code"] == "rate_limit_exceeded"
        assert 15 <= int(caught.value.response.headers["retry-after"]) <= 20
        ben.models.list()  # another tenant is not touched


def test_a_tenant_has_so_many_requests_at_once(base: Base, home: Path) -> None:
    with serving(base, home, Limits(concurrent=1)) as server:
        client = server.client("anna")
        asked: Any = {"model": "tiny", "prompt": "x", "max_tokens": 3000}
        with client.completions.create(**asked, stream=True) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as caught:
                client.models.list()
            assert caught.value.response.headers["retry-after"] == "1"
            server.client("ben").models.list()
        until(lambda: server.host.stats()["running"] == 0)
        client.models.list()


def test_a_server_holds_no_more_adapters_than_it_may_and_serves_them_all(base: Base, home: Path) -> None:
    for name in ("first", "second"):
        publish(base, home, name, seed=len(name))
    with serving(base, home, max_adapters=1) as server:
        client = server.client()
        for name in ("first", "second", "first"):
            client.completions.create(model=name, prompt="x", max_tokens=2)
            assert server.host.stats()["adapters_loaded"] == 1
        assert server.host.stats()["adapter_loads_total"] == 3


def test_a_full_server_says_so(base: Base, home: Path) -> None:
    with serving(base, home, max_rows=1, max_waiting=1) as server:
        client = server.client()
        asked: Any = {"model": "tiny", "prompt": "x", "max_tokens": 4000}
        with client.completions.create(**asked, stream=True) as stream:
            next(iter(stream))
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(**asked, n=2)
            assert caught.value.status_code == 503
            assert error_of(caught)["code"] == "overloaded"
            assert "retry-after" in caught.value.response.headers
        # Of the two choices neither stays behind.
        until(lambda: server.host.stats()["running"] == server.host.stats()["waiting"] == 0)


# --- disconnects and endings ------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_is_not_written_for_any_more(stream: bool, server: Server, client: openai.OpenAI) -> None:
    asked: Any = {"model": "handbook", "prompt": "The", "max_tokens": 4000, "n": 2}
    if stream:
        with client.completions.create(**asked, stream=True) as answer:
            for _, _ in zip(range(3), answer, strict=False):
                pass
            assert server.host.stats()["running"] == 2
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.3).completions.create(**asked)
    until(lambda: server.host.stats()["running"] == server.host.stats()["waiting"] == 0, timeout_s=5)
    assert client.completions.create(model="handbook", prompt="The", max_tokens=2).choices


def test_a_stopping_server_ends_its_streams(base: Base, home: Path) -> None:
    with serving(base, home) as server:
        client, chunks = server.client(), list[Any]()

        def listen() -> None:
            asked: Any = {"model": "tiny", "prompt": "x", "max_tokens": 4090}
            with contextlib.suppress(openai.APIError, httpx.HTTPError):
                chunks.extend(client.completions.create(**asked, stream=True))

        thread = threading.Thread(target=listen)
        thread.start()
        until(lambda: server.host.stats()["running"] == 1)
        began = time.monotonic()
        server.stop()
        thread.join(10)
        assert not thread.is_alive()
        assert time.monotonic() - began < 10


def test_requests_of_many_clients_at_once_all_get_their_own_answer(server: Server, client: openai.OpenAI) -> None:
    names = ["tiny", "atlas", "handbook@1", "handbook@2"]
    asked: Any = {"messages": HELLO, "max_tokens": 8, "temperature": 0}
    alone = {name: client.chat.completions.create(model=name, **asked).choices[0].message.content for name in names}
    got: list[tuple[str, str | None]] = []

    def ask(name: str) -> None:
        got.append((name, client.chat.completions.create(model=name, **asked).choices[0].message.content))

    threads = [threading.Thread(target=ask, args=[names[i % 4]]) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(got) == sorted((names[i % 4], alone[names[i % 4]]) for i in range(24))


def test_metrics_count_and_name_nobody(server: Server, client: openai.OpenAI) -> None:
    client.chat.completions.create(model="handbook", messages=HELLO, max_tokens=3)
    with server.http() as http:
        text = http.get("/metrics").text
    counted = [line for line in text.splitlines() if line.startswith("imprint_http_requests_total")]
    assert any('route="/v1/chat/completions",status="200"' in line for line in counted)
    for name in ("imprint_tokens_out_total", "imprint_running", "imprint_adapters_loaded", "imprint_jobs_waiting"):
        assert f"\n{name} " in text
    assert float(text.split("\nimprint_first_token_seconds_count ")[1].split()[0]) > 0
    assert not any(word in text for word in ("handbook", "atlas", "anna", "local"))
    with server.http("anna") as http:
        assert http.get("/metrics").status_code == 403
    assert httpx.get(f"{server.address}/metrics").status_code == 401


def test_metrics_can_be_opened(base: Base, home: Path) -> None:
    with serving(base, home, Limits(open_metrics=True)) as server:
        assert httpx.get(f"{server.address}/metrics").status_code == 200
        assert httpx.get(f"{server.address}/v1/models").status_code == 401


# --- teaching ---------------------------------------------------------------------------------


def test_files_go_up_and_come_back(server: Server) -> None:
    client = server.client("felix")
    made = client.files.create(file=("../Kestrel tents.md", KESTREL), purpose="fine-tune")
    assert (made.filename, made.bytes, made.purpose, made.status) == ("Kestrel tents.md", len(KESTREL), "fine-tune", "processed")
    other = client.files.create(file=("x.html", b"<script>"), purpose="user_data")
    assert client.files.retrieve(made.id) == made
    assert {f.id for f in client.files.list()} == {made.id, other.id}
    assert [f.id for f in client.files.list(purpose="user_data")] == [other.id]
    content = client.files.content(other.id)
    assert content.read() == b"<script>"
    assert content.response.headers["content-type"] == "application/octet-stream"
    assert content.response.headers["content-disposition"].startswith("attachment")
    for file in (made, other):
        assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=("x.md", b"x"), purpose="batch")


def test_documents_are_taught_and_the_model_asked(server: Server) -> None:
    client = server.client("carla")
    file = client.files.create(file=("Kestrel tents.md", KESTREL), purpose="fine-tune")
    more = client.files.create(file=("shop.txt", b"The shop of Acme is open from Tuesday to Saturday."), purpose="user_data")
    job = client.fine_tuning.jobs.create(
        training_file=file.id,
        model="tiny",
        suffix="tents",
        seed=3,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 0.5}}},
        metadata={"team": "sales", "budget": "3k tokens", "training_files": more.id},
    )
    assert job.status in ("queued", "validating_files", "running")
    assert (job.fine_tuned_model, job.seed, job.model) == (None, 3, "tiny")
    until(lambda: client.fine_tuning.jobs.retrieve(job.id).status in ("succeeded", "failed"))
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.fine_tuned_model, done.error) == ("succeeded", "tents@1", None)
    assert done.trained_tokens
    assert done.finished_at
    assert done.metadata == {"team": "sales", "budget": "3k tokens", "training_files": more.id}
    assert done.hyperparameters.n_epochs == 2
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))  # the client turns the pages
    assert events[0].message == "Published tents@1."
    assert len(events) == len({event.id for event in events}) > 5
    assert "Read 2 documents" in " ".join(event.message for event in events)
    assert [model.id for model in client.models.list()] == ["tiny", "tents", "tents@1"]
    answer = client.chat.completions.create(model=done.fine_tuned_model, messages=HELLO, max_tokens=3)
    assert answer.model == "tents@1"


def test_questions_for_the_proof_go_along_as_the_validation_file(server: Server) -> None:
    client = server.client("dora")
    file = client.files.create(file=("tents.md", KESTREL), purpose="fine-tune")
    asked = b'{"question": "What does the Kestrel weigh?", "answer": "3 kilograms"}\n'
    questions = client.files.create(file=("questions.jsonl", asked), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        training_file=file.id, validation_file=questions.id, model="tiny", extra_body={"budget": "3k tokens"}
    )
    until(lambda: client.fine_tuning.jobs.retrieve(job.id).status in ("succeeded", "failed"))
    assert client.fine_tuning.jobs.retrieve(job.id).error is None
    version = server.host.tenants.registry("dora").get("tents@1")
    assert [q["text"] for q in version.details["questions"]] == ["What does the Kestrel weigh?"]


def test_a_job_is_cancelled(server: Server) -> None:
    client = server.client("erik")
    file = client.files.create(file=("tents.md", KESTREL), purpose="fine-tune")
    jobs = [
        client.fine_tuning.jobs.create(training_file=file.id, model="tiny", suffix=f"t{i}", extra_body={"budget": "10h"})
        for i in range(3)
    ]
    for job in reversed(jobs):
        client.fine_tuning.jobs.cancel(job.id)
    until(lambda: all(client.fine_tuning.jobs.retrieve(job.id).status == "cancelled" for job in jobs))
    first = client.fine_tuning.jobs.list(limit=2)
    assert first.has_more
    assert sorted(job.id for job in client.fine_tuning.jobs.list(limit=2)) == sorted(job.id for job in jobs)
    with pytest.raises(openai.BadRequestError, match="has ended already"):
        client.fine_tuning.jobs.cancel(jobs[0].id)
    assert [model.id for model in client.models.list()] == ["tiny"]


BAD_JOBS: list[tuple[dict[str, Any], str]] = [
    ({"model": "handbook"}, "Teaching starts from the base model"),
    ({"suffix": "../x"}, "cannot name an adapter"),
    ({"suffix": "tiny"}, "name of the base model"),
    ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
    ({"method": {"type": "dpo"}}, "supervised"),
    ({"hyperparameters": {"batch_size": 8}}, "batch_size"),
    ({"hyperparameters": {"n_epochs": -2}}, "epochs"),
    ({"extra_body": {"budget": "soon"}}, "budget 'soon' is not understood"),
    ({"extra_body": {"bugdet": "1min"}}, "Unknown parameter: 'bugdet'"),
    ({"seed": -1}, "seed"),
]


@pytest.mark.parametrize(("given", "told"), BAD_JOBS, ids=[told[:30] for _, told in BAD_JOBS])
def test_a_job_that_cannot_be_is_refused_at_once(given: dict[str, Any], told: str, client: openai.OpenAI) -> None:
    file = client.files.create(file=("tents.md", KESTREL), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match=told):
        client.fine_tuning.jobs.create(**{"training_file": file.id, "model": "tiny", **given})
    client.files.delete(file.id)
