"""The laws of the writer of many workers, on a real Ray cluster of two.

Ray is large and no part of `imprint[dev]`: install 'imprint[ray]' to run these. The last one needs in
$IMPRINT_RAY_VLLM_PYTHON the Python of an environment with vLLM, Ray and imprint (docs/writers.md)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from conftest import make_tiny_base
from imprint import base as bases
from imprint.adapters import folder as adapter_folder
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadSetting, MissingPackage, OverBudget, WriterFailed
from imprint.types import Adapter, Prompt, Text, Turn, Writer
from imprint.writers import ray_vllm
from imprint.writers.cache import CachedWriter
from imprint.writers.endpoint import Endpoint
from imprint.writers.local import LocalWriter
from imprint.writers.ray_vllm import RayWriter, VllmModel, Workers
from imprint.writers.spending import Budget
from server_kit import roomy_base, serving
from test_endpoint_writer import KEY, Answer, Odd, numbered, refused, said

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'imprint[ray]'"
)
TWO = Workers(count=2, gpus=0, batch_rows=4)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of two cores, for all tests of this page but one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def odd() -> Iterator[Odd]:
    server = Odd()
    server.answer = lambda body: said(body["messages"][0]["content"])
    yield server
    server.stop()


def writer(odd: Odd, workers: Workers = TWO, **settings: Any) -> RayWriter:
    return RayWriter(Endpoint("odd", odd.address, **{"retries": 0} | settings), workers, key=KEY)


# --- two workers that ask a server ------------------------------------------------------------


@needs_ray
def test_two_workers_that_ask_our_server_write_what_its_base_writes(cluster: None, tmp_path: Path) -> None:
    import ray

    base = roomy_base()
    prompts = [Prompt.ask(f"How many days, {i}?", max_tokens=4 + i % 5) for i in range(20)]
    prompts += [Prompt((Turn("text", "The Kestrel"),), " weighs", max_tokens=8)]
    with serving(base, tmp_path / "home") as server:
        asked = Endpoint("tiny", f"{server.address}/v1", retries=2)
        with RayWriter(asked, TWO, key=server.key("local")) as many:
            assert isinstance(many, Writer)
            texts = many.write(prompts, seed=0)
            shares = [spent.requests for spent in ray.get([desk.spent.remote() for desk in many._desks])]
            assert many.spent.requests == sum(shares) == 21
    assert many.spent.requests == 21  # known when the workers are gone, too
    assert [t.text for t in texts] == [t.text for t in LocalWriter(base).write(prompts, seed=0)]
    assert min(shares) >= 8


@needs_ray
def test_texts_come_while_others_are_still_written(cluster: None, odd: Odd) -> None:
    first_is_here = threading.Event()

    def held_up(body: dict[str, Any]) -> Answer:
        question = body["messages"][0]["content"]
        if question == "Question 39":
            assert first_is_here.wait(60)
        return said(question)

    odd.answer = held_up
    came: dict[int, Text] = {}
    with writer(odd) as many:
        for place, text in many.each(numbered(40), seed=0):
            first_is_here.set()
            came[place] = text
    assert came == {i: Text(f"Question {i}") for i in range(40)}


@needs_ray
def test_workers_outlive_a_call(cluster: None, odd: Odd) -> None:
    with writer(odd) as many:
        assert many.write([], seed=0) == []
        many.write(numbered(3), seed=0)
        desks = many._desks
        assert [t.text for t in many.write(numbered(9), seed=1)] == [f"Question {i}" for i in range(9)]
        assert many._desks is desks


@needs_ray
def test_a_worker_that_runs_out_of_money_loses_no_text(cluster: None, odd: Odd, tmp_path: Path) -> None:
    with writer(odd, budget=Budget(max_tokens=600)) as many:
        with pytest.raises(OverBudget, match="of 300 tokens are spent") as caught:  # half of it is each one's
            CachedWriter(many, tmp_path / "texts.jsonl").write(numbered(60), seed=0)
        assert many.spent.tokens == 15 * len(odd.asked) <= 600
    assert len(caught.value.texts) == len(odd.asked) > 10
    with writer(odd) as many:
        texts = CachedWriter(many, tmp_path / "texts.jsonl").write(numbered(60), seed=0)
    assert [t.text for t in texts] == [f"Question {i}" for i in range(60)]
    assert len(odd.asked) == 60


@needs_ray
def test_what_a_server_says_to_a_worker_is_heard_here(cluster: None, odd: Odd) -> None:
    odd.answer = lambda body: refused(404, f"No model odd for {KEY}.")
    with writer(odd) as many, pytest.raises(WriterFailed, match="Look at the model's name, odd") as caught:
        many.write(numbered(5), seed=0)
    assert KEY not in str(caught.value)


@needs_ray
def test_workers_that_the_cluster_has_no_room_for_are_refused(cluster: None, odd: Odd) -> None:
    with pytest.raises(BadSetting, match=r"2 workers of 1 GPU need 2, and the cluster has 0\. .*gpus=0"):
        writer(odd, Workers(count=2)).write(numbered(1), seed=0)


@needs_ray
def test_what_keeps_a_worker_from_starting_is_said(cluster: None, odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadSetting, match=r"no API key in \$OPENAI_API_KEY"):
        RayWriter(Endpoint("odd", odd.address), TWO).write(numbered(1), seed=0)
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(MissingPackage, match="has no vLLM"):
            RayWriter(VllmModel("some-model"), TWO).write(numbered(1), seed=0)


@needs_ray
def test_a_cluster_that_was_there_before_stays(cluster: None, odd: Odd) -> None:
    import ray

    with writer(odd) as many:
        many.write(numbered(2), seed=0)
    assert ray.is_initialized()


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_a_cluster_that_is_not_there_is_named(odd: Odd, address: str) -> None:
    import ray

    ray.shutdown()
    with pytest.raises(BadSetting, match=f"no Ray cluster at '{address}'"):
        writer(odd, Workers(gpus=0, address=address)).write(numbered(1), seed=0)


@needs_ray
def test_a_cluster_of_its_own_ends_with_the_writer(odd: Odd) -> None:
    import ray

    ray.shutdown()
    with writer(odd) as many:
        assert [t.text for t in many.write(numbered(9), seed=0)] == [f"Question {i}" for i in range(9)]
        assert ray.is_initialized()
    assert not ray.is_initialized()


# --- two workers with vLLM --------------------------------------------------------------------


def small_base(folder: Path) -> Base:
    """A random model that vLLM's kernels for CPUs take (heads of 32), as a folder and loaded from it."""
    torch.manual_seed(1)
    tokenizer = make_tiny_base().tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return bases.load(str(folder), device="cpu")


WRITE = """
import json, sys
from imprint.types import Prompt, Turn
from imprint.writers.ray_vllm import RayWriter, VllmModel, Workers

if __name__ == "__main__":
    model, skill, prompts = json.loads(sys.stdin.read())
    prompts = [Prompt(**p | {"turns": tuple(Turn(**t) for t in p["turns"]), "stop": tuple(p["stop"])}) for p in prompts]
    options = {"dtype": "float32", "max_model_len": 512, "enforce_eager": True}
    engine = VllmModel(model, {"read": skill}, options=options)
    with RayWriter(engine, Workers(count=2, gpus=0, batch_rows=4)) as writer:
        texts = writer.write(prompts, seed=0)
        print("told " + json.dumps([[[t.text, t.logprobs, t.top] for t in texts], writer.spent.requests]))
"""


@pytest.mark.skipif(
    "IMPRINT_RAY_VLLM_PYTHON" not in os.environ, reason="$IMPRINT_RAY_VLLM_PYTHON names no Python with vLLM and Ray"
)
def test_two_workers_with_vllm_write_what_the_local_writer_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPRINT_DTYPE", "float32")
    base = small_base(tmp_path / "small")
    fresh = LoRA(rank=4, alpha=8.0).fresh(base, seed=1)
    draw = torch.Generator().manual_seed(1)
    tensors = {k: t + 0.3 * torch.randn(t.shape, generator=draw) for k, t in fresh.tensors.items()}
    skill = Adapter(fresh.base, fresh.revision, fresh.spec, tensors)
    adapter_folder.write(skill, tmp_path / "read")

    prompts = [Prompt.ask(f"How many days, {i}?", max_tokens=6 + i % 5, skill=["", "read"][i % 2]) for i in range(14)]
    prompts += [Prompt((Turn("text", "The Kestrel"),), " weighs", max_tokens=8, top_logprobs=3)]
    told, requests = vllm_told(tmp_path, [str(tmp_path / "small"), str(tmp_path / "read"), [asdict(p) for p in prompts]])

    local = LocalWriter(base).write(prompts, seed=0)
    with Engine(base).attached(skill):
        skilled = LocalWriter(base).write(prompts, seed=0)
    expected = [skilled[i] if p.skill else local[i] for i, p in enumerate(prompts)]
    # vLLM leaves out half a character at the end.
    assert [text.strip() for text, _, _ in told] == [t.text.rstrip("\ufffd").strip() for t in expected]
    assert any(a.text != b.text for a, b in zip(local, skilled, strict=True))
    assert requests == len(prompts)
    assert told[-1][1] == pytest.approx(expected[-1].logprobs, abs=1e-3)
    assert expected[-1].top is not None
    for theirs, ours in zip(told[-1][2], expected[-1].top, strict=True):
        assert [v for _, v in theirs] == pytest.approx([v for _, v in ours], abs=1e-3)


def vllm_told(folder: Path, asked: Any) -> Any:
    """What the script says in an environment of its own, with one core's worth of threads."""
    quiet = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    (folder / "write.py").write_text(WRITE)
    done = subprocess.run(
        [os.environ["IMPRINT_RAY_VLLM_PYTHON"], str(folder / "write.py")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | quiet | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("told ")]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(lines[0].removeprefix("told "))


# --- without Ray ------------------------------------------------------------------------------


def test_without_ray_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_vllm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"pip install 'imprint\[ray\]'"):
        RayWriter(VllmModel("m"))


def test_the_name_tells_models_and_skills_apart_by_what_they_are(tmp_path: Path) -> None:
    for name, size in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name / "m").mkdir(parents=True)
        (tmp_path / name / "m" / "model.safetensors").write_bytes(b"x" * size)
    a, b, c = (VllmModel(str(tmp_path / name / "m")).name for name in "abc")
    assert a == b != c
    assert a.startswith("m:")
    assert VllmModel("org/hub-name").name == "org/hub-name@vllm"
    assert "+read:" in VllmModel("org/hub-name", {"read": str(tmp_path / "a" / "m")}).name


@pytest.mark.parametrize("settings", [{"count": 0}, {"batch_rows": 0}, {"gpus": -1}, {"gpus": 1.5}])
def test_workers_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadSetting):
        Workers(**settings)


def test_a_limit_too_small_to_share_is_refused() -> None:
    with pytest.raises(BadSetting, match="3 workers cannot share a limit of 2 a minute"):
        ray_vllm._share(Endpoint("m", requests_per_minute=2), 3)
    shared = ray_vllm._share(Endpoint("m", tokens_per_minute=90, budget=Budget(1.0, 1.0, 6.0, 300)), 3)
    assert (shared.tokens_per_minute, shared.budget.max_usd, shared.budget.max_tokens) == (30, 2.0, 100)
