"""Adapters before the first token: keys and values that a row finds as if a text had been read.

A cartridge holds keys as a cache holds them: turned by rotary embeddings to the places 0 .. p-1. In use they stand
before the row, at -p .. -1: turned by -p they give what the row would see at places p and beyond, for rotary scores
hang on distances only. So rows, their caches and their positions are what they are without.

Shape key: S slots or adapters, K key heads, P tokens of a prefix, D head width, F pairs that turn, L layers."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch

from imprint.adapters.feed_forward import general_rows
from imprint.adapters.layout import FlatLayout, refuse_other_shapes
from imprint.base import Base
from imprint.errors import BadInput, BadSetting
from imprint.types import NO_MATERIAL, Adapter, Material

TENSOR = "prompt_embeddings"
"""PEFT's name: tokens x (layers, keys then values, heads, width)."""
_STARTS = ("documents", "general")
_FRAGMENT = 8
"""Of fewer tokens little is said: where documents would get less, the later ones get none."""
_MOVED_BY = 5


@dataclass(frozen=True, slots=True)
class Cartridge:
    """Trained keys and values of a prefix, begun from those of a text (Eyuboglu et al. 2025, arXiv 2506.06266)."""

    LR: ClassVar[float] = 2e-2
    SIZES: ClassVar[tuple[Mapping[str, Any], ...]] = ({"tokens": 16}, {"tokens": 64}, {"tokens": 256})
    PEFT_TYPE: ClassVar[tuple[str, ...]] = ("CARTRIDGE", "PREFIX_TUNING")

    tokens: int = 128
    """Length of the prefix."""
    frozen: int = 1
    """So many of its first tokens are not trained: models park attention on the first, and moving it
    unsettles every head (section 3.2)."""
    start: str = "documents"
    """Whose keys and values it begins with: 'documents', or 'general' for the text that comes with imprint."""
    kind: str = "cartridge"

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise BadSetting(f"A cartridge needs 1 token or more; got {self.tokens}.")
        if not 0 <= self.frozen < self.tokens:
            raise BadSetting(
                f"Of a cartridge's {self.tokens} tokens, 0 to {self.tokens - 1} can be frozen; got {self.frozen}."
            )
        if self.start not in _STARTS:
            raise BadSetting(f"A cartridge starts from {' or '.join(_STARTS)}; got {self.start!r}.")

    def fresh(self, base: Base, *, seed: int, material: Material = NO_MATERIAL) -> Adapter:
        """What the bare base holds after it read the first tokens of the documents; nothing is drawn.

        Several documents share the tokens evenly, one after another; without documents the training text is read
        from its beginning. Where all ends before, it is read again: the prefix is as long as was asked for."""
        turning_of(base)  # or it could not be used
        if self.tokens >= base.window_tokens:
            raise BadSetting(
                f"A cartridge of {self.tokens} tokens leaves no room for a question in the {base.window_tokens} "
                f"tokens of {base.name}. Set fewer tokens."
            )
        ids = self._text(material) or _general_ids(base)
        ids = (ids * math.ceil(self.tokens / len(ids)))[: self.tokens]
        keys_values = torch.stack([torch.stack(pair) for pair in _read(base, [ids])])[:, :, 0]  # L 2 K P D
        flat_PX = keys_values.permute(3, 0, 1, 2, 4).reshape(self.tokens, -1)
        kept = torch.promote_types(torch.float32, flat_PX.dtype)
        tensors = {TENSOR: flat_PX.to("cpu", kept).contiguous()}
        return Adapter(base.name, base.revision, asdict(self), tensors)

    def _text(self, material: Material) -> list[int]:
        """What is read of the material; nothing where there is none."""
        if self.start == "general":
            return []
        if texts := [ids for ids in material.documents if len(ids)]:
            return _shared_evenly(texts[: max(1, self.tokens // _FRAGMENT)], self.tokens)
        ids: list[int] = []
        for row in material.rows:
            if len(ids) >= self.tokens:
                break
            ids += row
        return ids

    @staticmethod
    def layout_of(base: Base, adapter: Adapter) -> PrefixLayout:
        """Raises WrongBase where the adapter does not fit the base's layers, BadSetting where no prefix can."""
        turning_of(base)
        layout = PrefixLayout(int(adapter.spec["tokens"]), int(adapter.spec["frozen"]), *_shape(base))
        refuse_other_shapes(base, adapter, layout)
        return layout

    def config(self, adapter: Adapter) -> dict[str, Any]:
        """PEFT's adapter_config.json; layers, heads and width PEFT takes from the base."""
        return {
            "peft_type": "CARTRIDGE",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": adapter.base,
            "inference_mode": True,
            "num_virtual_tokens": self.tokens,
            "num_frozen_tokens": self.frozen,
            "num_transformer_submodules": 1,
        }

    def opened(self, adapter: Adapter, base: Base) -> tuple[dict[str, Any], Mapping[str, torch.Tensor]]:
        """The same with what the base tells."""
        names, heads, width = _shape(base)
        told = {"num_layers": len(names), "num_attention_heads": heads, "token_dim": heads * width}
        return self.config(adapter) | told, adapter.tensors

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Cartridge:
        """The settings of a CARTRIDGE folder, or of one of PREFIX_TUNING: both hold keys and values, for PEFT
        projects what is to be projected when it saves."""
        if TENSOR not in tensors:
            raise BadInput(f"It has no tensor {TENSOR}. Save it with PEFT's save_pretrained.")
        if tensors[TENSOR].dim() != 2:
            raise BadInput(
                f"Its tensor {TENSOR} has the shape {tuple(tensors[TENSOR].shape)}; two sides belong to it."
            )
        return cls(tokens=int(tensors[TENSOR].shape[0]), frozen=int(config.get("num_frozen_tokens") or 0))


@dataclass(frozen=True)
class PrefixLayout(FlatLayout):
    """Where a cartridge's numbers lie in one flat vector: layer after layer, keys, then values, head after head."""

    place: ClassVar[str] = "attention"

    tokens: int
    frozen: int
    names: tuple[str, ...]
    """The attention of each block."""
    heads: int
    width: int

    @cached_property
    def layers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @property
    def size(self) -> int:
        return len(self.names) * 2 * self.heads * self.tokens * self.width

    @property
    def trainable(self) -> int:
        return self.size * (self.tokens - self.frozen) // self.tokens

    @property
    def most_slots(self) -> int:
        """A GPU takes the memory of all slots at once: 1 GB in float32 here."""
        return max(1, (256 << 20) // self.size)

    def whole(self, flat_SP: torch.Tensor) -> torch.Tensor:
        """All numbers by their meaning, a view: S L 2 K P D."""
        return flat_SP.view(len(flat_SP), len(self.names), 2, self.heads, self.tokens, self.width)

    def parts(self, layer: str, flat_SP: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A layer's keys and values: S 2 K P D. Their first `frozen` tokens are not trained; see `sealed`."""
        return (self.whole(flat_SP)[:, self.layers[layer]],)

    def sealed(self, pair_2KPD: torch.Tensor) -> torch.Tensor:
        """The same numbers; no gradient comes back to those of the frozen tokens."""
        if not self.frozen:
            return pair_2KPD
        return torch.cat([pair_2KPD[:, :, : self.frozen].detach(), pair_2KPD[:, :, self.frozen :]], 2)

    def named(self, flat_P: torch.Tensor) -> dict[str, torch.Tensor]:
        """As it stands on disk, where tokens come first: a copy."""
        return {TENSOR: self.whole(flat_P[None])[0].permute(3, 0, 1, 2, 4).reshape(self.tokens, -1)}

    def write(self, tensors: Mapping[str, torch.Tensor], flat_P: torch.Tensor) -> None:
        by_token = tensors[TENSOR].reshape(self.tokens, len(self.names), 2, self.heads, self.width)
        self.whole(flat_P[None])[0].copy_(by_token.permute(1, 2, 3, 0, 4))

    def update(self, *_: Any) -> torch.Tensor:
        raise AssertionError("a prefix is seen by attention; it adds to no module's output")


# --- turning keys -----------------------------------------------------------------------------


class Turning:
    """Moves keys to other places, as the model's own rotary embeddings would."""

    def __init__(self, speed_F: torch.Tensor) -> None:
        """`speed_F`: by how much each pair turns from one place to the next, in radians."""
        with torch.inference_mode(False):
            self._speed_F = speed_F.double().clone()
        self._known: dict[tuple[int, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}

    def moved(self, keys_SKPD: torch.Tensor, places: int) -> torch.Tensor:
        """The keys as they are so many places further on."""
        cos_F, sin_F = self._turn(places, keys_SKPD.dtype)
        F = len(cos_F)
        one, other, still = keys_SKPD[..., :F], keys_SKPD[..., F : 2 * F], keys_SKPD[..., 2 * F :]
        return torch.cat([one * cos_F - other * sin_F, other * cos_F + one * sin_F, still], -1)

    def _turn(self, places: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        key = (places, dtype)
        if key not in self._known:
            with torch.inference_mode(False):  # serving and training share them
                angle_F = places * self._speed_F
                self._known[key] = angle_F.cos().to(dtype), angle_F.sin().to(dtype)
        return self._known[key]


_turnings: weakref.WeakKeyDictionary[Any, Turning] = weakref.WeakKeyDictionary()


def turning_of(base: Base) -> Turning:
    """How keys of this base are moved. Raises BadSetting for a base whose keys cannot be, such as GPT-2."""
    if base.model not in _turnings:
        rotary = getattr(getattr(base.model, "model", None), "rotary_emb", None)
        speed_F = getattr(rotary, "inv_freq", None)
        fixed = getattr(rotary, "rope_type", "default") not in ("dynamic", "longrope")
        turning = Turning(speed_F) if isinstance(speed_F, torch.Tensor) and fixed else None
        if turning is None or not _moves(base, turning):
            raise BadSetting(
                f"{base.name} does not tell places by rotary embeddings that are the same in every layer and for "
                "every length, so a cartridge cannot stand before its rows. Choose another kind, such as 'lora'."
            )
        _turnings[base.model] = turning
    return _turnings[base.model]


def _moves(base: Base, turning: Turning) -> bool:
    """Whether the model itself gives what turning gives, seen on one token at two places; and whether all of its
    layers hold keys and values of one shape."""
    names, heads, width = _shape(base)
    token = int(base.tokenizer.eos_token_id or 0)
    held = _read(base, [[token], [token]], [[0], [_MOVED_BY]])
    if not {*names} <= {name for name, _ in base.model.named_modules()} or len(held) != len(names):
        return False
    if any(x is None or x.shape != (2, heads, 1, width) for pair in held for x in pair):
        return False
    keys_2K1D, values_2K1D = held[0]
    exact = torch.promote_types(torch.float32, keys_2K1D.dtype)
    moved_K1D = turning.moved(keys_2K1D[0].to(exact), _MOVED_BY)
    slack = 0.05 if keys_2K1D.dtype.itemsize < 4 else 1e-4
    pairs = ((moved_K1D, keys_2K1D[1]), (values_2K1D[0], values_2K1D[1]))
    return all(bool((a - b).norm() <= slack * b.norm()) for a, b in pairs)


# --- what the base holds of a text ------------------------------------------------------------


@torch.no_grad()
def _read(
    base: Base, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]] | None = None
) -> list[tuple[Any, Any]]:
    """Each layer's keys and values (B K T D) of rows of one length, as the bare base holds them; None in a layer
    that holds none."""
    inputs = {"input_ids": torch.tensor([list(ids) for ids in rows], device=base.device.torch)}
    if places is not None:
        inputs["position_ids"] = torch.tensor(places, device=base.device.torch)
    found = base.model.model(**inputs, use_cache=True)
    cache: Any = found["cache"] if "cache" in found else found["past_key_values"]  # by that name since 5.24
    return [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers]


def _shape(base: Base) -> tuple[tuple[str, ...], int, int]:
    """Names of the attentions, key heads, head width."""
    return attentions(base), base.key_heads, base.head_width


def attentions(base: Base) -> tuple[str, ...]:
    """Names of the modules that attend, block after block."""
    return tuple(f"model.layers.{i}.self_attn" for i in range(int(base.model.config.num_hidden_layers)))


def _general_ids(base: Base) -> list[int]:
    prose, _ = general_rows(base)  # not what forgetting is measured by
    return [token for row in prose for token in row]


def _shared_evenly(texts: Sequence[Sequence[int]], tokens: int) -> list[int]:
    """The beginnings of texts one after another, so many tokens in all or fewer; a short one leaves its room to
    others."""
    left = list(range(len(texts)))
    taken = [0] * len(texts)
    room = tokens
    while room and left:
        share = math.ceil(room / len(left))
        for i in left:
            more = min(share, len(texts[i]) - taken[i], room)
            taken[i] += more
            room -= more
        left = [i for i in left if taken[i] < len(texts[i])]
    return [token for text, count in zip(texts, taken, strict=True) for token in text[:count]]
