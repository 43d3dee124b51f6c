"""vLLM over our registry: what its gate lets through, and against the real vLLM the answers that imprint gives.

The second half needs the Python of an environment with vLLM and imprint (docs/vllm.md) in $IMPRINT_VLLM_PYTHON."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import imprint
from imprint.adapters import folder as adapter_folder
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.errors import BadInput, BadSetting, ImprintError, MissingPackage, WrongBase
from imprint.interfaces import cli, vllm_engine, vllm_gate
from imprint.interfaces.vllm_engine import VllmServer
from imprint.registry import Registry
from imprint.serving.vllm_resolver import Catalogue, Resolver, fitting_rank, skipping_base_rows
from imprint.types import Prompt, Version
from imprint.writers.local import LocalWriter

NOW = "2026-11-01T12:00:00+00:00"
KEY = "a-key-of-this-test"

log = logging.getLogger(__name__)


def publish(home: Path, name: str, base: Base, *, seed: int = 1, size: float = 0.1, **spec: Any) -> Version:
    """A new version with random tensors, which changes what the base says."""
    fresh = LoRA(**{"rank": 4, "alpha": 8.0} | spec).fresh(base, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    tensors = {k: t + size * torch.randn(t.shape, generator=draw) for k, t in fresh.tensors.items()}
    folder = home / "made" / f"{name}-{seed}"
    adapter_folder.write(replace(fresh, tensors=tensors), folder)
    return Registry(home).publish(name, folder, base=base.name, corpus_hash="", recipe={}, now=NOW)


# --- what the catalogue serves ----------------------------------------------------------------


@pytest.fixture
def catalogue(home: Path, tiny_base: Base) -> Catalogue:
    """Of the tiny base, with handbook@1 and handbook@2."""
    publish(home, "handbook", tiny_base, seed=1)
    publish(home, "handbook", tiny_base, seed=2)
    return Catalogue(Registry(home), "tiny", 16, "tiny-revision")


def test_a_name_is_its_latest_version_and_the_folder_holds_its_files(catalogue: Catalogue) -> None:
    for asked, meant in (("handbook", "handbook@2"), ("handbook@1", "handbook@1")):
        version, folder = catalogue.find(asked)
        assert str(version) == meant
        assert folder == catalogue.shelf.folder(version)


def test_an_adapter_of_another_base_is_refused_by_name(catalogue: Catalogue, home: Path, tiny_base: Base) -> None:
    publish(home, "foreign", replace(tiny_base, name="qwen3-4b"))
    with pytest.raises(WrongBase, match="foreign@1 was taught on qwen3-4b, but this server runs tiny"):
        catalogue.find("foreign")
    assert [str(version) for version in catalogue.listed()] == ["handbook@2"]


def test_an_adapter_of_another_base_of_the_same_name_is_refused(
    catalogue: Catalogue, home: Path, tiny_base: Base
) -> None:
    publish(home, "foreign", replace(tiny_base, revision="other-revision"))
    with pytest.raises(WrongBase, match="another model that is called tiny too"):
        catalogue.find("foreign")


def test_a_rank_without_room_is_refused(catalogue: Catalogue, home: Path, tiny_base: Base) -> None:
    publish(home, "wide", tiny_base, rank=17)
    with pytest.raises(BadInput, match=r"wide@1 has rank 17, and this server takes ranks up to 16"):
        catalogue.find("wide")


@pytest.mark.parametrize("change", [{"peft_type": "IA3"}, {"use_dora": True}])
def test_a_kind_that_vllm_does_not_serve_is_refused(
    catalogue: Catalogue, home: Path, tiny_base: Base, change: dict[str, Any]
) -> None:
    publish(home, "other", tiny_base, seed=3)
    made = home / "made" / "other-3"
    config = json.loads((made / "adapter_config.json").read_text()) | change
    (made / "adapter_config.json").write_text(json.dumps(config))
    Registry(home).publish("other", made, base="tiny", corpus_hash="", recipe={}, now=NOW)
    with pytest.raises(BadInput, match="vLLM serves plain LoRA"):
        catalogue.find("other")


def test_there_is_room_for_every_rank_in_one_that_vllm_knows() -> None:
    assert [fitting_rank(ranks) for ranks in ([], [4], [16, 17], [256, 300], [512])] == [16, 16, 32, 320, 512]


@pytest.mark.base
def test_the_revision_of_a_folder_is_the_one_that_the_loaded_base_has(bundled_base: Base) -> None:
    name, folder = vllm_engine._base(None)
    assert name == bundled_base.name
    assert vllm_engine._revision(folder) == bundled_base.revision


# --- the resolver -----------------------------------------------------------------------------


def test_the_resolver_gives_full_names_only_and_none_for_all_others(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = types.ModuleType("vllm.lora.request")
    request.LoRARequest = types.SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.lora.request", request)
    resolve = Resolver(catalogue).resolve_lora
    found = asyncio.run(resolve("folder", "handbook@1"))
    version, folder = catalogue.find("handbook@1")
    assert (found.lora_name, found.lora_path) == ("handbook@1", str(folder))
    for name in ("handbook", "handbook@3", "nobody", "../handbook@1", str(folder)):
        assert asyncio.run(resolve("folder", name)) is None


def test_a_vllm_that_imprint_did_not_start_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(vllm_gate.SERVES, raising=False)
    vllm_gate.register()  # without vllm in this environment, plugging in would fail


def test_a_row_without_an_adapter_meets_none() -> None:
    def product(x_BI: Any, down_NOI: Any, y_BO: Any, index_B: Any, scale: float) -> None:
        y_BO[:] = scale * torch.einsum("bi,boi->bo", x_BI, down_NOI[index_B])  # as vLLM does: -1 is the last one

    x, down, index = torch.randn(4, 5), torch.randn(2, 3, 5), torch.tensor([0, -1, 1, -1])
    plain, bare = torch.empty(4, 3), torch.empty(4, 3)
    product(x, down, plain, index, 2.0)
    skipping_base_rows(product)(x, down, bare, index, 2.0)
    assert torch.equal(bare[[0, 2]], plain[[0, 2]])
    assert bare[[1, 3]].eq(0).all()
    assert plain[[1, 3]].ne(0).all()


# --- the gate ---------------------------------------------------------------------------------


@dataclass
class Behind:
    """What stands behind the gate: notes what came through, and says yes."""

    came: list[tuple[str, Any]] = field(default_factory=list)
    after: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        assert dict(scope["headers"]).get(b"content-length", b"0") == str(len(body)).encode()
        self.came.append((scope["path"], json.loads(body) if body else None))
        self.after = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def gate(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> vllm_gate.Gate:
    monkeypatch.setattr(vllm_gate, "catalogue", lambda: catalogue)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    return vllm_gate.Gate(Behind())


def knock(
    gate: vllm_gate.Gate, method: str, path: str, body: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = ()
) -> tuple[int, Any]:
    """Status and content of what comes back. The body is sent in two pieces; then the asker goes away."""
    said: list[dict[str, Any]] = []
    half = len(body) // 2
    coming = [
        {"type": "http.request", "body": body[:half], "more_body": True},
        {"type": "http.request", "body": body[half:], "more_body": False},
        {"type": "http.disconnect"},
    ]
    if not body:
        coming = coming[1:]

    async def receive() -> Any:
        return coming.pop(0)

    async def send(message: Any) -> None:
        said.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [*headers]}
    asyncio.run(gate(scope, receive, send))
    return said[0]["status"], json.loads(said[1]["body"])


def ask_for(gate: vllm_gate.Gate, model: Any) -> tuple[int, Any]:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hé?"}]}).encode()
    return knock(gate, "POST", "/v1/chat/completions", body)


def test_a_name_means_its_latest_version_at_each_request(gate: Any, home: Path, tiny_base: Base) -> None:
    assert ask_for(gate, "handbook")[0] == 200
    publish(home, "handbook", tiny_base, seed=3)
    assert ask_for(gate, "handbook")[0] == 200
    assert ask_for(gate, "handbook@1")[0] == 200
    assert ask_for(gate, "tiny")[0] == 200
    assert [request["model"] for _, request in gate.app.came] == ["handbook@2", "handbook@3", "handbook@1", "tiny"]
    assert all(request["messages"][0]["content"] == "Hé?" for _, request in gate.app.came)
    assert gate.app.after == {"type": "http.disconnect"}


@pytest.mark.parametrize(
    "name",
    ["nobody", "handbook@3", "handbook@0", "HANDBOOK", "", "..", "../handbook", "/etc/passwd", "handbook@1/../2",
     "handbook\x00", "\ud800", "Qwen/Qwen3-4B", "a" * 100_000],
)  # fmt: skip
def test_an_unknown_or_crafted_name_is_404_and_never_comes_through(gate: Any, name: str) -> None:
    status, content = ask_for(gate, name)
    assert (status, content["error"]["code"]) == (404, "model_not_found")
    assert not gate.app.came


@pytest.mark.parametrize("model", [None, 7, ["handbook"], {"path": "/etc"}])
def test_a_model_that_is_no_text_is_400(gate: Any, model: Any) -> None:
    assert ask_for(gate, model)[0] == 400
    assert not gate.app.came


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_400(gate: Any, body: bytes) -> None:
    assert knock(gate, "POST", "/v1/completions", body)[0] == 400
    assert not gate.app.came


def test_a_body_without_end_is_413(gate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_gate, "MAX_BODY_BYTES", 100)
    assert knock(gate, "POST", "/v1/completions", b" " * 101)[0] == 413


def test_an_adapter_of_another_base_is_told_so(gate: Any, home: Path, tiny_base: Base) -> None:
    publish(home, "foreign", replace(tiny_base, name="qwen3-4b"))
    status, content = ask_for(gate, "foreign")
    assert (status, content["error"]["code"]) == (400, "wrong_base_model")
    assert "qwen3-4b" in content["error"]["message"]
    assert not gate.app.came


def test_a_removed_version_is_not_served_any_more(gate: Any, home: Path) -> None:
    Registry(home).remove("handbook@2")
    assert ask_for(gate, "handbook@2")[0] == 404
    assert ask_for(gate, "handbook")[0] == 200
    assert gate.app.came[0][1]["model"] == "handbook@1"


def test_damaged_files_are_told_without_their_path(gate: Any, catalogue: Catalogue, home: Path) -> None:
    (catalogue.find("handbook")[1] / "adapter_config.json").unlink()
    status, content = ask_for(gate, "handbook")
    assert status == 500
    assert str(home) not in content["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("POST", "/v1/load_lora_adapter/"),
        ("POST", "/adapters"),
        ("DELETE", "/adapters/handbook"),
        ("POST", "/invocations"),
        ("POST", "/tokenize"),
        ("POST", "/collective_rpc"),
        ("GET", "/v1/chat/completions"),
        ("GET", "/docs"),
        ("OPTIONS", "/v1/chat/completions"),
    ],
)
def test_a_route_that_is_not_listed_does_not_exist(gate: Any, method: str, path: str) -> None:
    body = json.dumps({"model": "handbook", "lora_name": "x", "lora_path": "/etc"}).encode()
    assert knock(gate, method, path, body)[0] == 404
    assert not gate.app.came


def test_a_websocket_is_closed(gate: Any) -> None:
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(gate({"type": "websocket", "path": "/v1/realtime"}, None, send))
    assert said == [{"type": "websocket.close", "code": 1008}]


def test_the_models_are_the_base_and_what_was_taught_on_it(gate: Any, home: Path, tiny_base: Base) -> None:
    publish(home, "foreign", replace(tiny_base, name="qwen3-4b"))
    status, content = knock(gate, "GET", "/v1/models")
    assert status == 200
    assert [card["id"] for card in content["data"]] == ["tiny", "handbook@2"]


@pytest.mark.parametrize("sent", [None, b"", b"Bearer", b"Bearer wrong", b"Basic " + KEY.encode(), KEY.encode()])
def test_without_the_key_only_health_answers(
    catalogue: Catalogue, gate: Any, monkeypatch: pytest.MonkeyPatch, sent: bytes | None
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    closed: Any = vllm_gate.Gate(Behind())
    headers = () if sent is None else ((b"authorization", sent),)
    for method, path in sorted(vllm_gate.ROUTES - {vllm_gate.HEALTH}):
        assert knock(closed, method, path, b'{"model": "handbook"}', headers)[0] == 401
    assert not closed.app.came
    assert knock(closed, "GET", "/health")[0] == 200
    right = ((b"authorization", b"Bearer " + KEY.encode()),)
    assert knock(closed, "POST", "/v1/completions", b'{"model": "handbook"}', right)[0] == 200


# --- the launcher -----------------------------------------------------------------------------


@pytest.fixture
def started(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Starts a server, and gives the command and environment that would have run."""
    ran: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(vllm_engine, "find_python", lambda named: "python-of-vllm")
    monkeypatch.setattr(os, "execve", lambda python, command, environment: ran.append((command, environment)))
    for name in ("VLLM_API_KEY", "VLLM_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tiny").mkdir()

    def start(**settings: Any) -> tuple[list[str], dict[str, str]]:
        vllm_engine.serve_with_vllm(VllmServer(base=str(tmp_path / "tiny"), home=home, **settings))
        return ran[-1]

    return start


def test_the_key_is_not_on_the_command_line(started: Any) -> None:
    command, environment = started(api_key=KEY, host="0.0.0.0")
    assert KEY not in " ".join(command)
    assert environment["VLLM_API_KEY"] == KEY


def test_it_makes_room_for_the_largest_rank_of_its_base(started: Any, home: Path, tiny_base: Base) -> None:
    publish(home, "wide", tiny_base, rank=33)
    publish(home, "wider", replace(tiny_base, name="qwen3-4b"), rank=100)
    command, environment = started()
    assert command[command.index("--max-lora-rank") + 1] == "64"
    assert json.loads(environment[vllm_gate.SERVES])["max_rank"] == 64


def test_our_plugin_is_loaded_beside_those_that_the_user_named(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert started()[1]["VLLM_PLUGINS"] == "imprint"
    monkeypatch.setenv("VLLM_PLUGINS", "ascend,imprint")
    assert started()[1]["VLLM_PLUGINS"] == "ascend,imprint"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_an_address_that_others_reach_needs_a_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(BadSetting, match="no API key"):
        VllmServer(host=host)
    assert VllmServer(host=host, api_key=KEY).key == KEY


def test_what_the_user_gives_to_vllm_comes_after_what_imprint_gives(started: Any) -> None:
    command, _ = started(vllm_args=["--max-loras", "16", "--dtype", "float32"])
    assert command[-4:] == ["--max-loras", "16", "--dtype", "float32"]
    assert command.index("--max-loras") < len(command) - 4


@pytest.mark.parametrize("given", [["--max-rows", "64"], ["--jobs", "1"], ["--open-metrics"]])
def test_an_option_of_our_own_engine_is_refused_with_vllm(started: Any, given: list[str]) -> None:
    ended = CliRunner().invoke(cli.app, ["serve", "--engine", "vllm", *given])
    assert ended.exit_code == 2
    assert f"{given[0]} is for imprint's own engine" in ended.stderr


def test_the_command_hands_on_what_it_is_given(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[VllmServer] = []
    monkeypatch.setattr(vllm_engine, "serve_with_vllm", given.append)
    words = "serve --engine vllm --base there --port 9000 --vllm-python python-of-vllm -- --dtype float32"
    CliRunner().invoke(cli.app, words.split())
    assert given == [
        VllmServer(base="there", port=9000, python=Path("python-of-vllm"), vllm_args=("--dtype", "float32"))
    ]


def test_a_port_that_nobody_is_told_is_refused() -> None:
    with pytest.raises(BadSetting, match="free port"):
        VllmServer(port=0)


@pytest.mark.parametrize("given", ["--api-key", "--api_key=x", "--middleware", "--mod=x", "--config=x.yaml", "--grpc-port"])
def test_what_imprint_sets_cannot_be_set_beside_it(given: str) -> None:
    with pytest.raises(BadSetting, match="imprint sets it"):
        VllmServer(vllm_args=[given])


def test_where_vllm_is_missing_the_error_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(vllm_engine.PYTHON, raising=False)
    for named in (None, tmp_path / "nowhere", Path(sys.executable)):
        with pytest.raises(MissingPackage, match="pip install vllm platformdirs"):
            vllm_engine.find_python(named)


# --- the real vLLM ----------------------------------------------------------------------------

QUESTIONS = (
    "How many days of paid vacation do I get?",
    "What is the capital of France?",
    "Who founded the company, and when?",
    "Write a short poem about the sea.",
    "Why is the sky blue?",
    "Name three kinds of trees.",
    "What does a baker do in the morning?",
    "Tell me about the history of Rome.",
)
TOKENS = 24
START_TIMEOUT_S = 600
SMALL = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
"""For vLLM on a CPU: no core of its own for each thread, and 1 GiB of keys and values."""


class Server:
    """A vLLM that our launcher started, in a process of its own."""

    def __init__(self, home: Path, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.log = log
        code = (
            "import sys, json; from imprint.interfaces.vllm_engine import VllmServer, serve_with_vllm; "
            "serve_with_vllm(VllmServer(**json.loads(sys.argv[1])))"
        )
        small = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "8"]
        # Every place for an adapter is taken, so that rows of the base meet what is in the last one.
        small += ["--max-loras", "2", "--max-cpu-loras", "2"]
        settings = {"port": self.port, "max_rank": 16, "vllm_args": small}
        environment = {
            **SMALL,
            **os.environ,
            "IMPRINT_HOME": str(home),
            "VLLM_API_KEY": KEY,
        }
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, json.dumps(settings)], env=environment, stdout=output, stderr=output
            )

    def wait(self) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if self.call("/health")[0] == 200:
                    return
            except OSError:
                time.sleep(1)
        raise AssertionError(f"vLLM did not start:\n{self.log.read_text('utf-8', 'replace')[-4000:]}")

    def call(self, path: str, content: Any = None, key: str | None = KEY) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, _content(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _content(error.read())

    def answer(self, model: str, question: str, max_tokens: int = TOKENS) -> tuple[str, str]:
        """The greedy answer, and the model that gave it."""
        asked = {"model": model, "messages": [{"role": "user", "content": question}]}
        status, told = self.call("/v1/chat/completions", asked | {"temperature": 0, "max_tokens": max_tokens})
        assert status == 200, told
        return told["choices"][0]["message"]["content"], told["model"]

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def _content(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


@pytest.fixture(scope="module")
def real(bundled_base: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """The real vLLM with handbook@1 (all layers), top@1 (the upper three) and foreign@1 (another base)."""
    try:
        vllm_engine.find_python()
    except ImprintError as error:
        pytest.skip(str(error))
    home = tmp_path_factory.mktemp("vllm")
    publish(home, "handbook", bundled_base, seed=1, size=0.02, rank=8, alpha=16.0)
    publish(home, "top", bundled_base, seed=2, size=0.05, top_layers=3)
    publish(home, "foreign", replace(bundled_base, name="qwen3-4b"), top_layers=1)
    server = Server(home, home / "vllm.log")
    try:
        server.wait()
        yield server, home
    finally:
        server.stop()


def ours(home: Path, base: Base, model: str) -> list[str]:
    """imprint's greedy answers, asked one by one as a server is."""
    if model == base.name:
        writer: Any = LocalWriter(base)
        return [writer.write([Prompt.ask(q, max_tokens=TOKENS)], seed=0)[0].text for q in QUESTIONS]
    taught = imprint.open(model, home=home)
    taught.base = base
    return [taught.ask(question, max_tokens=TOKENS) for question in QUESTIONS]


@pytest.mark.base
def test_vllm_gives_the_greedy_answers_that_imprint_gives(real: tuple[Server, Path], bundled_base: Base) -> None:
    server, home = real
    models = ("handbook", "top", bundled_base.name)
    expected = {model: ours(home, bundled_base, model) for model in models}
    with ThreadPoolExecutor() as askers:  # all at once: vLLM mixes the adapters in its batches
        asked = {model: [askers.submit(server.answer, model, q) for q in QUESTIONS] for model in models}
    given = {model: [answer.result()[0] for answer in answers] for model, answers in asked.items()}
    for model in models:
        log.info("%s: %s", model, agreement(bundled_base, expected[model], given[model]))
    assert given == expected
    for one, other in itertools.combinations(models, 2):
        assert sum(a != b for a, b in zip(given[one], given[other], strict=True)) >= 6


def agreement(base: Base, expected: list[str], given: list[str]) -> str:
    pairs = [[base.tokenizer.encode(text) for text in pair] for pair in zip(expected, given, strict=True)]
    same = sum(a == b for x, y in pairs for a, b in zip(x, y, strict=False))
    answers = sum(x == y for x, y in pairs)
    return f"{answers} of {len(pairs)} answers, {same} of {sum(len(x) for x, _ in pairs)} tokens agree"


@pytest.mark.base
def test_a_version_that_is_published_meanwhile_answers_at_once(real: tuple[Server, Path], bundled_base: Base) -> None:
    server, home = real
    before, answered_by = server.answer("handbook", QUESTIONS[0])
    assert answered_by == "handbook@1"
    publish(home, "handbook", bundled_base, seed=5, size=0.02, rank=16, alpha=16.0)
    took = []
    for _ in range(2):
        began = time.monotonic()
        assert server.answer("handbook", QUESTIONS[0], max_tokens=1)[1] == "handbook@2"
        took.append(time.monotonic() - began)
    log.info("first token of a new version after %.2f s; of one in memory after %.2f s", *took)
    after = server.answer("handbook", QUESTIONS[0])[0]
    assert after == ours(home, bundled_base, "handbook@2")[0] != before
    assert server.answer("handbook@1", QUESTIONS[0]) == (before, "handbook@1")


@pytest.mark.base
def test_an_answer_comes_as_a_stream_through_the_gate(real: tuple[Server, Path]) -> None:
    server, _ = real
    asked = {"model": "top", "messages": [{"role": "user", "content": QUESTIONS[3]}], "stream": True}
    status, told = server.call("/v1/chat/completions", asked | {"temperature": 0, "max_tokens": TOKENS})
    events = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: {")]
    assert status == 200
    assert len(events) > TOKENS / 2
    text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    assert text == server.answer("top", QUESTIONS[3])[0]


@pytest.mark.base
def test_the_real_server_refuses_what_the_gate_refuses(real: tuple[Server, Path]) -> None:
    server, _ = real
    hello = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    asked = "/v1/chat/completions"
    assert server.call(asked, hello | {"model": "nobody"})[0] == 404
    assert server.call(asked, hello | {"model": "../../etc"})[0] == 404
    status, told = server.call(asked, hello | {"model": "foreign"})
    assert (status, told["error"]["code"]) == (400, "wrong_base_model")
    assert server.call(asked, hello | {"model": "handbook"}, key="wrong")[0] == 401
    for path in ("/v1/load_lora_adapter", "/adapters", "/invocations"):
        assert server.call(path, {"lora_name": "x", "lora_path": "/etc", "name": "x", "src": "/etc"})[0] == 404
    status, models = server.call("/v1/models")
    assert {"top@1"} <= {card["id"] for card in models["data"]}
    command = Path(f"/proc/{server.process.pid}/cmdline")
    assert not command.exists() or KEY.encode() not in command.read_bytes()


PLAIN = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
model, folder, questions, tokens, answers = json.loads(sys.argv[1])
small = dict(dtype="float32", max_model_len=512, max_num_seqs=8, enforce_eager=True)
llm = LLM(model, enable_lora=True, max_lora_rank=16, **small)
asked = [[{"role": "user", "content": question}] for question in questions]
greedy = SamplingParams(temperature=0, max_tokens=tokens)
told = llm.chat(asked, greedy, lora_request=LoRARequest("exported", 1, folder))
open(answers, "w").write(json.dumps([answer.outputs[0].text for answer in told]))
"""


@pytest.mark.base
def test_an_exported_folder_opens_in_a_vllm_that_knows_nothing_of_imprint(
    real: tuple[Server, Path], bundled_base: Base
) -> None:
    server, home = real
    server.stop()  # two of them are much for a small machine; this is the last test
    registry = Registry(home)
    folder = registry.export(registry.get("top@1"), home / "exported")
    answers = home / "answers.json"  # standard output holds vLLM's log
    arguments = json.dumps([vllm_engine._base(None)[1], str(folder), QUESTIONS, TOKENS, str(answers)])
    done = subprocess.run(
        [vllm_engine.find_python(), "-c", PLAIN, arguments],
        env={**SMALL, **os.environ, "VLLM_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    given = json.loads(answers.read_text())
    expected = ours(home, bundled_base, "top@1")
    log.info("exported: %s", agreement(bundled_base, expected, given))
    assert given == expected
