"""The laws of `imprint serve`, held against the real process: how it begins, ends, and comes back."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from typer.testing import CliRunner

from imprint import base as bases
from imprint.errors import MissingPackage
from imprint.interfaces import cli, serve
from server_kit import publish, roomy_base, until

KESTREL = b"# Kestrel tents\n\nThe Kestrel weighs 3 kilograms, costs 85 euros and comes in green.\n"


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    base = roomy_base()
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


class Process:
    """`imprint serve` as a child process; what it says is read from its stderr."""

    def __init__(self, base: Path, *words: str) -> None:
        command = [sys.executable, "-m", "imprint.interfaces.cli", "serve", "--base", str(base), "--port", "0", *words]
        self._said = open(base.parent / "said", "w+b")  # noqa: SIM115
        self.child = subprocess.Popen(command, stderr=self._said, stdout=self._said)
        until(lambda: "http://" in self.said or self.child.poll() is not None, timeout_s=60)
        found = re.search(r"http://\S+", self.said)
        assert found, self.said
        self.address = found.group()
        until(lambda: _answers(self.address))

    @property
    def said(self) -> str:
        return (Path(self._said.name)).read_text()

    @property
    def key(self) -> str:
        found = re.search(r"imp-\S+", self.said)
        assert found, self.said
        return found.group()

    def end(self, number: int) -> int:
        self.child.send_signal(number)
        return self.child.wait(30)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address.removesuffix('/v1')}/health").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def processes(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Process]]:
    monkeypatch.setenv("IMPRINT_DTYPE", "float32")
    started: list[Process] = []
    yield started
    for process in started:
        if process.child.poll() is None:
            process.child.kill()
            process.child.wait()


def test_a_server_makes_a_key_serves_and_ends_gracefully(
    processes: list[Process], base_folder: Path, home: Path
) -> None:
    publish(bases.load(str(base_folder)), home, "handbook", 1)
    first = Process(base_folder)
    processes.append(first)
    assert first.said.startswith("Serving tiny at http://127.0.0.1:")
    client = openai.OpenAI(base_url=first.address, api_key=first.key, max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny", "handbook", "handbook@1"]
    stream = client.completions.create(model="handbook", prompt="The", max_tokens=300, stream=True)
    next(iter(stream))
    first.child.send_signal(signal.SIGTERM)
    chunks = list(stream)  # an answer on its way is written to its end
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")
    assert first.child.wait(30) == 0
    second = Process(base_folder)
    processes.append(second)
    assert "imp-" not in second.said  # a key is shown once
    assert second.end(signal.SIGINT) == 0
    assert "Stopping" in second.said


def test_a_job_survives_the_death_of_its_server(processes: list[Process], base_folder: Path, home: Path) -> None:
    first = Process(base_folder)
    processes.append(first)
    client = openai.OpenAI(base_url=first.address, api_key=first.key, max_retries=0)
    file = client.files.create(file=("tents.md", KESTREL), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(training_file=file.id, model="tiny", extra_body={"budget": "30k tokens"})
    until(lambda: any(event.type == "metrics" and "steps" in event.message for event in client.fine_tuning.jobs.list_events(job.id)))
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    second = Process(base_folder)
    processes.append(second)
    client = openai.OpenAI(base_url=second.address, api_key=client.api_key, max_retries=0)
    assert client.fine_tuning.jobs.list().data[0].id == job.id
    until(lambda: client.fine_tuning.jobs.retrieve(job.id).status not in ("queued", "validating_files", "running"), 60)
    assert client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model == "tents@1"
    assert client.completions.create(model="tents", prompt="The", max_tokens=2).model == "tents@1"


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        began = time.monotonic()
        ended = CliRunner().invoke(cli.app, ["serve", "--port", str(taken.getsockname()[1]), "--base", "/nowhere"])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "Choose another with --port" in ended.stderr
    assert time.monotonic() - began < 5


def test_a_missing_package_comes_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(serve._PACKAGES, "there_is_none", "there-is-none")
    with pytest.raises(MissingPackage, match=r"there-is-none. Install with: pip install 'imprint\[serve\]'"):
        serve.need_packages()


def test_options_for_vllm_are_refused_without_it(home: Path) -> None:
    ended = CliRunner().invoke(cli.app, ["serve", "--", "--max-model-len", "4096"])
    assert ended.exit_code == 2
    assert "--engine vllm" in ended.stderr


def test_only_this_machine_is_let_in_unless_told() -> None:
    assert serve.Address().host == "127.0.0.1"
    assert not serve._is_loopback("0.0.0.0")
