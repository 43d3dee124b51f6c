"""The writer in this process: a base model, with or without an adapter on it, batched.

Shape key: B rows, T tokens, V vocabulary."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from imprint.base import Base
from imprint.errors import BadInput, BadSetting
from imprint.types import Prompt, Text

Progress = Callable[[int, int, float], None]
"""Told after each batch: prompts done, prompts in all, tokens written a second."""

_SHARED_TOKENS = 24
"""A common beginning at least this long is computed once for the prompts that share it."""
_BATCH = {"cpu": (64, 12_000), "cuda": (512, 200_000), "mps": (64, 12_000)}
"""Rows and tokens of a batch by device: a step of a GPU takes about as long for 512 rows as for one."""


@dataclass
class LocalWriter:
    """Writes with a model in memory.

    Prompts of one call are sorted by length and padded on the left; what several of them begin with (a passage,
    a document, few-shot examples) is computed once for each batch. Each prompt draws from its own random numbers,
    so what it gets does not hang on its neighbours."""

    base: Base
    name: str = ""
    batch_tokens: int | None = None
    """Keys and values held at once, in tokens: rows times their length; None: what suits the base's device."""
    batch_rows: int | None = None
    """Prompts at once; None: what suits the base's device."""
    top_k: int | None = 40
    """From so many of the likeliest tokens a sampled one is drawn; None: from the whole vocabulary, as
    reinforcement learning asks for."""
    progress: Progress | None = None
    _shared: tuple[tuple[int, ...], Any] = field(default=((), None), repr=False)
    _pieces: dict[int, str] = field(default_factory=dict, repr=False)
    """What single tokens read as: looking it up costs less than decoding it again for every row."""

    def __post_init__(self) -> None:
        self.name = self.name or f"{self.base.name}:{self.base.revision}"
        rows, tokens = _BATCH[self.base.device.torch.type]
        self._most_rows, self._most_tokens = self.batch_rows or rows, self.batch_tokens or tokens
        if self.top_k is not None and self.top_k < 1:
            raise BadSetting(f"top_k is 1 or more, or None for the whole vocabulary; got {self.top_k}.")

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        """One text per prompt. Raises BadInput for a prompt longer than the model's window."""
        return self.draw(prompts, seeds=[seed] * len(prompts))

    def draw(self, prompts: Sequence[Prompt], *, seeds: Sequence[int]) -> list[Text]:
        """The same with a seed for each prompt: one prompt asked with several seeds gets several texts."""
        ids = [self.base.prompt_ids(p.turns, p.begun) for p in prompts]
        for prompt, row in zip(prompts, ids, strict=True):
            if len(row) + prompt.max_tokens > self.base.window_tokens:
                raise BadInput(
                    f"A prompt of {len(row)} tokens and an answer of {prompt.max_tokens} do not fit the "
                    f"{self.base.window_tokens} tokens of {self.base.name}. Shorten the prompt."
                )
        begun = shared_beginnings(ids)
        self._shared = ((), None)  # an adapter may have been attached since the last call
        texts: dict[int, Text] = {}
        began, written = time.monotonic(), 0
        for batch in self._batches(prompts, ids, begun):
            asked, beginnings = [prompts[i] for i in batch], [begun[i] for i in batch]
            rows = self._decode(asked, [ids[i] for i in batch], beginnings, [seeds[i] for i in batch])
            for i, (text, n_tokens) in zip(batch, rows, strict=True):
                texts[i] = text
                written += n_tokens
            if self.progress:
                self.progress(len(texts), len(prompts), written / max(time.monotonic() - began, 1e-9))
        return [texts[i] for i in range(len(prompts))]

    def _batches(
        self, prompts: Sequence[Prompt], ids: Sequence[list[int]], begun: Sequence[tuple[int, ...]]
    ) -> Iterator[list[int]]:
        """Rows of like length together, and those that begin alike."""
        room = [len(row) + p.max_tokens for row, p in zip(ids, prompts, strict=True)]
        longest: dict[tuple[int, ...], int] = {}
        for i, beginning in enumerate(begun):
            longest[beginning] = max(room[i], longest.get(beginning, 0))
        batch: list[int] = []
        longest[()] = beginning_T = rest_T = 0  # the widest beginning of the batch, and the widest of what follows
        for i in sorted(range(len(ids)), key=lambda i: (longest[begun[i]] or room[i], begun[i], room[i], i)):
            mine = len(begun[i]), room[i] - len(begun[i])
            width = max(beginning_T, mine[0]) + max(rest_T, mine[1])
            if batch and (len(batch) == self._most_rows or (len(batch) + 1) * width > self._most_tokens):
                yield batch
                batch, beginning_T, rest_T = [], 0, 0
            batch.append(i)
            beginning_T, rest_T = max(beginning_T, mine[0]), max(rest_T, mine[1])
        if batch:
            yield batch

    @torch.inference_mode()
    def likelihoods(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        """Mean natural-log probability per token of each text as the continuation of its prompt.

        Reading costs a fraction of writing: one pass, no token after token."""
        ids = [self.base.prompt_ids(p.turns, p.begun) for p in prompts]
        tails = [self.base.tokenizer.encode(t, add_special_tokens=False) for t in texts]
        shared = _common_beginning(ids)
        self._shared = ((), None)
        scores = [0.0] * len(prompts)
        for batch in self._by_length([len(i) + len(t) for i, t in zip(ids, tails, strict=True)]):
            rows = [ids[i][len(shared) :] + tails[i] for i in batch]
            cache = self._cache(shared, len(batch))
            width = max(len(r) for r in rows)
            tokens_BT = torch.full((len(rows), width), self.base.tokenizer.pad_token_id)
            for b, row in enumerate(rows):
                tokens_BT[b, : len(row)] = torch.tensor(row)
            tokens_BT = tokens_BT.to(self.base.device.torch)
            with self.base.turns.take():
                hidden_BTD = self.base.model.model(input_ids=tokens_BT, **self._with(cache)).last_hidden_state
                means = []
                for b, i in enumerate(batch):
                    end = len(rows[b])
                    start = end - len(tails[i])
                    logits_TV = self.base.model.lm_head(hidden_BTD[b, start - 1 : end - 1]).float()
                    picked_T = logits_TV.log_softmax(-1).gather(1, tokens_BT[b, start:end, None])
                    means.append(picked_T.mean())
                for i, mean in zip(batch, torch.stack(means).tolist(), strict=True):
                    scores[i] = mean
        return scores

    def _by_length(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Rows of like length together, as many as a batch may hold."""
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
            if batch and (len(batch) == self._most_rows or (len(batch) + 1) * lengths[i] > self._most_tokens):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    @torch.inference_mode()
    def _decode(
        self, prompts: list[Prompt], ids: list[list[int]], begun: list[tuple[int, ...]], seeds: list[int]
    ) -> list[tuple[Text, int]]:
        rows = [
            _Row(prompt, _generator(prompt, seed) if prompt.temperature > 0 else None)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        cache, read_BT = self._read(begun)
        tokens_BT, new_BT = self._padded([row[len(b) :] for row, b in zip(ids, begun, strict=True)])
        mask_BT = torch.cat([read_BT, new_BT], 1)
        device = self.base.device.torch
        alive = rows
        while alive:
            position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)[:, -tokens_BT.shape[1] :]
            with self.base.turns.take():
                output = self.base.model.model(
                    input_ids=tokens_BT,
                    attention_mask=mask_BT,
                    position_ids=position_BT,
                    **self._with(cache),
                    use_cache=True,
                )
                # A contiguous matrix: with a strided one PyTorch copies the whole vocabulary for every row.
                last_BD = output.last_hidden_state[:, -1].contiguous()
                logits_BV = self.base.model.lm_head(last_BD).float()
            tokens_BT = self._take(logits_BV, alive)
            going = [b for b, row in enumerate(alive) if not row.ended]
            # Taking rows out copies the keys of those that stay: done when it pays.
            if len(going) <= 0.75 * len(alive) or not going:
                alive = [alive[b] for b in going]
                keep = torch.tensor(going, dtype=torch.long, device=device)
                tokens_BT, mask_BT = tokens_BT[keep], mask_BT[keep]
                cache.batch_select_indices(keep)
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(alive), 1)], 1)
        return [(row.text(self.base), len(row.ids)) for row in rows]

    def _take(self, logits_BV: torch.Tensor, rows: list[_Row]) -> torch.Tensor:
        """The next token of each row; marks the rows that end with it. Rows that ended before are idle."""
        logprobs_BV = logits_BV.log_softmax(-1)
        taken = logits_BV.argmax(-1)
        if drawing := [b for b, row in enumerate(rows) if row.generator is not None and not row.ended]:
            taken[drawing] = self._draw(logits_BV[drawing], [rows[b] for b in drawing])
        values = logprobs_BV.gather(1, taken[:, None])[:, 0].tolist()
        for b, (row, token, value) in enumerate(zip(rows, taken.tolist(), values, strict=True)):
            if not row.ended:
                if row.prompt.top_logprobs:
                    row.top.append(self._likeliest(logprobs_BV[b], row.prompt.top_logprobs))
                row.add(token, value, self.base, self._piece(token))
        return taken[:, None]

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self.base.tokenizer.decode([token])
        return self._pieces[token]

    def _draw(self, logits_BV: torch.Tensor, rows: list[_Row]) -> torch.Tensor:
        """A token for each row, by its own random number, from its likeliest ones: all rows at once."""
        device = logits_BV.device
        temperature_B1 = torch.tensor([row.prompt.temperature for row in rows], device=device)[:, None]
        drawn_B1 = torch.stack([torch.rand(1, generator=row.generator) for row in rows]).to(device)
        if self.top_k is None:
            return _drawn(logits_BV / temperature_B1, drawn_B1)[:, 0]
        top = logits_BV.topk(min(self.top_k, logits_BV.shape[1]))
        return top.indices.gather(1, _drawn(top.values / temperature_B1, drawn_B1))[:, 0]

    def _likeliest(self, logprobs_V: torch.Tensor, count: int) -> tuple[tuple[str, float], ...]:
        best = logprobs_V.topk(min(count, len(logprobs_V)))
        texts = [self.base.tokenizer.decode([i]) for i in best.indices.tolist()]
        return tuple(zip(texts, best.values.tolist(), strict=True))

    def _with(self, cache: Cache) -> dict[str, Cache]:
        """The cache under the name that this transformers gives it: 'cache' since 5.24."""
        known = inspect.signature(self.base.model.model.forward).parameters
        return {"cache" if "cache" in known else "past_key_values": cache}

    def _read(self, begun: list[tuple[int, ...]]) -> tuple[Cache, torch.Tensor]:
        """Keys and values of each row's beginning, each beginning computed once; and their mask_BT."""
        different = list(dict.fromkeys(begun))
        if len(different) == 1:
            mask_BT = torch.ones(len(begun), len(begun[0]), dtype=torch.long, device=self.base.device.torch)
            return self._cache(list(begun[0]), len(begun)), mask_BT
        tokens_GT, mask_GT = self._padded(different)
        made = Cache(layer_class_to_replicate=_RoomyLayer)
        read = {"attention_mask": mask_GT, "position_ids": (mask_GT.cumsum(1) - 1).clamp(min=0)}
        with self.base.turns.take():
            self.base.model.model(input_ids=tokens_GT, **read, **self._with(made), use_cache=True)
        place = {beginning: g for g, beginning in enumerate(different)}
        picked_B = torch.tensor([place[b] for b in begun], device=self.base.device.torch)
        cache = Cache(layer_class_to_replicate=_RoomyLayer)
        layers: Sequence[Any] = made.layers
        for i, layer in enumerate(layers):
            cache.update(layer.keys[picked_B], layer.values[picked_B], i)
        return cache, mask_GT[picked_B]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """tokens_BT padded on the left, and mask_BT."""
        device, width = self.base.device.torch, max(len(row) for row in rows)
        tokens_BT = torch.full((len(rows), width), self.base.tokenizer.pad_token_id)
        mask_BT = torch.zeros(len(rows), width, dtype=torch.long)
        for b, row in enumerate(rows):
            if row:
                tokens_BT[b, width - len(row) :] = torch.tensor(list(row))
                mask_BT[b, width - len(row) :] = 1
        return tokens_BT.to(device), mask_BT.to(device)

    def _cache(self, shared: list[int], rows: int) -> Cache:
        """Keys and values of the shared beginning, once for each row."""
        cache = Cache(layer_class_to_replicate=_RoomyLayer)
        if not shared:
            return cache
        if self._shared[0] != tuple(shared):
            made = Cache(layer_class_to_replicate=_RoomyLayer)
            tokens_1T = torch.tensor([shared], device=self.base.device.torch)
            with self.base.turns.take():
                self.base.model.model(input_ids=tokens_1T, **self._with(made), use_cache=True)
            self._shared = (tuple(shared), made)
        for i, layer in enumerate(self._shared[1].layers):
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), i)
        return cache


def _drawn(logits_BK: torch.Tensor, drawn_B1: torch.Tensor) -> torch.Tensor:
    """Where among the probabilities, laid one after another, each number between 0 and 1 falls: B 1."""
    reached_BK = logits_BK.softmax(-1).cumsum(-1)
    # Rounding may leave the last sum below 1.
    return torch.searchsorted(reached_BK, drawn_B1, right=True).clamp(max=reached_BK.shape[1] - 1)


class _RoomyLayer(DynamicLayer):
    """Keys and values with room to grow, so that a new token does not copy all the old ones."""

    _key_room: torch.Tensor
    _value_room: torch.Tensor

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if old == 0 or new > self._key_room.shape[-2]:
            room = list(key_states.shape)
            room[-2] = new + 64
            keys, values = key_states.new_empty(room), value_states.new_empty(room)
            if old:
                keys[..., :old, :] = self._key_room[..., :old, :]
                values[..., :old, :] = self._value_room[..., :old, :]
            self._key_room, self._value_room = keys, values
        self._key_room[..., old:new, :] = key_states
        self._value_room[..., old:new, :] = value_states
        return self._see(new)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        length = self.get_seq_length()
        self._key_room = self._key_room[indices]
        self._value_room = self._value_room[indices]
        self._see(length)

    def _see(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys = self._key_room[..., :length, :]
        self.values = self._value_room[..., :length, :]
        return self.keys, self.values


class _Row:
    """One prompt while its text grows."""

    def __init__(self, prompt: Prompt, generator: torch.Generator | None) -> None:
        self.prompt, self.generator = prompt, generator
        self.ids: list[int] = []
        """Without the token that ended the text."""
        self.taken: list[int] = []
        self.logprobs: list[float] = []
        self.top: list[tuple[tuple[str, float], ...]] = []
        self.ended = False

    def add(self, token: int, logprob: float, base: Base, piece: str) -> None:
        self.taken.append(token)
        self.logprobs.append(logprob)
        if token in base.stop_ids:
            self.ended = True
            return
        self.ids.append(token)
        self.ended = len(self.ids) >= self.prompt.max_tokens
        if not self.ended and any(mark[-1] in piece for mark in self.prompt.stop):
            tail = base.tokenizer.decode(self.ids[-8:])
            self.ended = any(mark in tail for mark in self.prompt.stop)

    def text(self, base: Base) -> Text:
        text = base.tokenizer.decode(self.ids, skip_special_tokens=True)
        for mark in self.prompt.stop:
            text = text.split(mark, 1)[0]
        top = tuple(self.top) if self.prompt.top_logprobs else None
        return Text(text.strip(), tuple(self.logprobs), top, tuple(self.taken))


def shared_beginnings(ids: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """What each row begins with in common with others, where that is the larger part of it; () for the rest.

    Rows about one text share the text. Sorted, rows that begin alike stand side by side."""
    found: list[tuple[int, ...]] = [()] * len(ids)
    order = sorted(range(len(ids)), key=lambda i: tuple(ids[i]))
    family: list[int] = []
    length = 0

    def close() -> None:
        if len(family) > 1:
            for i in family:
                found[i] = tuple(ids[i][:length])

    for i in order:
        alike = min(_alike(ids[family[0]][:length], ids[i]), len(ids[i]) - 1) if family else 0
        if alike >= max(_SHARED_TOKENS, length / 2):
            family.append(i)
            length = alike
        else:
            close()
            family, length = [i], len(ids[i]) - 1
    close()
    return found


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows have in common from their first on."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def _common_beginning(ids: Sequence[list[int]]) -> list[int]:
    """Token ids that all rows begin with, leaving each at least one of its own; [] where too short to pay."""
    if len(ids) < 2:
        return []
    first, last = min(ids), max(ids)
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    length = min(length, min(len(row) for row in ids) - 1)
    return first[:length] if length >= _SHARED_TOKENS else []


def _generator(prompt: Prompt, seed: int) -> torch.Generator:
    """Random numbers of this prompt alone."""
    digest = hashlib.sha256(f"{seed}|{prompt!r}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
