"""Memory layer: a sparse table of values beside the MLP, looked up by product keys; an adapter owns a part of it.

Written from the papers: product keys (Lample et al. 2019, arXiv 1907.05242, section 3), memory at a few MLPs only
(Berges et al. 2024, arXiv 2412.09764), training only the slots that the new text uses far more than general text
does (Lin et al. 2025, "Continual Learning via Sparse Memory Finetuning", arXiv 2510.15103).

A pretrained base has no memory, so queries and keys are not learnt but found: queries are a fixed random projection
of what the MLP reads; sub-keys are centres of the base's own queries on general text and on the text to be learnt,
so that lookups spread over the table. Only the values of the adapter's own slots are learnt; all others are zero.

Shape key: S slots of a rack, G adapters, M rows, I inputs, O outputs, T slots that an adapter owns, C halves of all
heads, K sub-keys of a half, W width of a half-query, L lookups of a row, N tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from imprint.adapters import layout as layouts
from imprint.adapters.feed_forward import BesideMLP, general_rows, mlp_inputs, some_mlps, some_rows
from imprint.adapters.layout import block_of, refuse_other_shapes, settings_of
from imprint.adapters.own_format import OwnFormat
from imprint.base import Base
from imprint.errors import BadInput, BadSetting
from imprint.types import NO_MATERIAL, Adapter, Material

_READ_TOKENS = 8192
"""Of the training text, to count which slots it uses."""
_ROUNDS = 8
"""Of Lloyd's algorithm; more change little."""
_SHARPNESS = 1.0
"""What halved squared distances between a whitened half-query and sub-keys are multiplied by in scores."""
_EXACT_TO = 1 << 24
"""Slot ids stand among floats: so far every integer is one."""


@dataclass(frozen=True, slots=True)
class Memory(OwnFormat):
    """y = MLP(x) + sum of w_s(x) v_s over the few slots s that x looks up; v is learnt for the adapter's own."""

    LR: ClassVar[float] = 1e-1
    SIZES: ClassVar[tuple[Mapping[str, Any], ...]] = ({"slots": 64}, {"slots": 256}, {"slots": 1024})
    PEFT_TYPE: ClassVar[str] = "IMPRINT_MEMORY"

    slots: int = 256
    """Slots that the adapter owns at each memory: those that its text uses far more than general text does."""
    blocks: int = 3
    """Blocks with a memory, spread over the upper two thirds of the base."""
    sub_keys: int = 128
    """Sub-keys of each half; the table has the square of it in slots."""
    heads: int = 4
    """Queries of a token. All heads look into one table."""
    width: int = 16
    """Width of half a query."""
    top: int = 8
    """Slots that one query looks up."""
    kind: str = "memory"

    def __post_init__(self) -> None:
        if min(self.slots, self.blocks, self.heads, self.width, self.top) < 1:
            raise BadSetting(f"The numbers that make a memory must be 1 or more; got {asdict(self)}.")
        if self.top >= self.sub_keys:
            raise BadSetting(f"A memory with {self.sub_keys} sub-keys looks up fewer slots; got top = {self.top}.")
        if self.sub_keys**2 > _EXACT_TO:
            raise BadSetting(f"A memory has at most 4096 sub-keys; got {self.sub_keys}.")
        if self.slots > self.sub_keys**2:
            raise BadSetting(f"The table has {self.sub_keys**2} slots; an adapter cannot own {self.slots}.")

    @torch.no_grad()
    def fresh(self, base: Base, *, seed: int, material: Material = NO_MATERIAL) -> Adapter:
        """An untrained adapter: values zero. Its slots are chosen by what the material's rows look up (without rows
        its documents, without these the general text), ranked by TF-IDF against general text."""
        draw = torch.Generator().manual_seed(seed)
        layout = self._layout(base)
        prose, asked = general_rows(base)
        general = [*prose, *asked]
        told = some_rows(material.rows if len(material.rows) else material.documents, _READ_TOKENS, draw)
        read: dict[str, list[torch.Tensor]] = {name: [] for name in layout.names}
        lengths: list[int] = []
        for some, inputs in mlp_inputs(base, layout.names, [*general, *told]):
            lengths += some
            for name, x_NI in inputs.items():
                read[name].append(x_NI)
        new_N = _first_met([*general, *told], lengths)
        stretches = [*lengths[: len(general)], sum(lengths[len(general) :])]
        tensors: dict[str, torch.Tensor] = {}
        for name in layout.names:
            query_NCW = layout.query(torch.cat(read.pop(name)), *layout.constants(name, base))
            keys_CKW, bias_CK = _sub_keys(query_NCW.cpu()[new_N], self.sub_keys, draw)
            slot_1NL, weight_1NL = layout.lookup(query_NCW.cpu()[None], keys_CKW[None], bias_CK[None])
            use_RS = _use(slot_1NL[0], weight_1NL[0], stretches, self.sub_keys**2)
            owned_T = _most_used(use_RS[: len(general)], use_RS[len(general)] if told else None, self.slots)
            values_TO = torch.zeros(self.slots, layout.inputs)
            found = (values_TO, owned_T.float(), keys_CKW, bias_CK)
            tensors |= {f"{name}.memory.{p}": t for p, t in zip(layout.shapes, found, strict=True)}
        return Adapter(base.name, base.revision, asdict(self), tensors)

    @staticmethod
    def layout_of(base: Base, adapter: Adapter) -> Tables:
        """The adapter's layout on this base. Raises WrongBase where its tensors do not fit."""
        layout = Memory(**settings_of(adapter))._layout(base)
        refuse_other_shapes(base, adapter, layout)
        for name in layout.names:
            ids_T = adapter.tensors[f"{name}.memory.slots"]
            rising = ids_T.frac().eq(0).all() and ids_T.diff().gt(0).all()
            if not rising or ids_T[0] < 0 or ids_T[-1] >= layout.sub_keys**2:
                raise BadInput(f"The slots of {name} must be integers in rising order below {layout.sub_keys**2}.")
        return layout

    def _layout(self, base: Base) -> Tables:
        names = some_mlps(base, _spread(self.blocks, layouts.blocks(base)))
        width = int(base.model.config.hidden_size)
        return Tables(names, width, self.slots, self.sub_keys, self.heads, self.width, self.top)


@dataclass(frozen=True)
class Tables(BesideMLP):
    """Values of the adapter's slots, the slots' ids in rising order, and the keys."""

    slots: int
    sub_keys: int
    heads: int
    width: int
    top: int

    exact: ClassVar[bool] = True
    family: ClassVar[str] = "memory"

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """values T O, slots T, keys C K W, biases C K."""
        halves = 2 * self.heads
        return {
            "values": (self.slots, self.inputs),
            "slots": (self.slots,),
            "keys": (halves, self.sub_keys, self.width),
            "biases": (halves, self.sub_keys),
        }

    @property
    def learnt(self) -> tuple[bool, ...]:
        """The values only."""
        return True, False, False, False

    def constants(self, layer: str, base: Base) -> tuple[torch.Tensor, ...]:
        """The projection to queries: I x C W, drawn from the block's number alone."""
        draw = torch.Generator().manual_seed(block_of(layer))
        down_IQ = torch.randn(self.inputs, 2 * self.heads * self.width, generator=draw) / self.inputs**0.5
        return (down_IQ.to(base.device.torch),)

    def update(
        self,
        layer: str,
        x_GMI: torch.Tensor,
        parts_G: tuple[torch.Tensor, ...],
        scale_G11: torch.Tensor,
        constants: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """The weighted sum of the values looked up; slots of others give nothing but take their share of weight.

        The gradient reaches x through the weights, and no value that was not looked up."""
        values_GTO, slots_GT, keys_GCKW, bias_GCK = parts_G
        G, M, T = len(x_GMI), x_GMI.shape[1], self.slots
        query_GMCW = self.query(x_GMI.to(keys_GCKW.dtype), constants[0])
        slot_GML, weight_GML = self.lookup(query_GMCW, keys_GCKW, bias_GCK)
        wanted_GX = slot_GML.view(G, -1).to(slots_GT.dtype)
        at_GX = torch.searchsorted(slots_GT.contiguous(), wanted_GX).clamp_(max=T - 1)
        owned_GX = slots_GT.gather(1, at_GX) == wanted_GX
        weight_XL = (weight_GML.view(G, -1) * owned_GX).view(G * M, -1)
        place_XL = (at_GX + torch.arange(G, device=at_GX.device)[:, None] * T).view(G * M, -1)
        y_XO = nn.functional.embedding_bag(
            place_XL, values_GTO.reshape(G * T, -1), per_sample_weights=weight_XL, mode="sum"
        )
        return (y_XO.view(G, M, -1) * scale_G11).to(x_GMI.dtype)

    def query(self, x_MI: torch.Tensor, down_IQ: torch.Tensor) -> torch.Tensor:
        """The half-queries of inputs brought to length 1 per number: ... C W, two halves of each head in turn."""
        even_MI = x_MI * (x_MI.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return (even_MI @ down_IQ.to(x_MI.dtype)).unflatten(-1, (2 * self.heads, self.width))

    def lookup(
        self, query_GMCW: torch.Tensor, keys_GCKW: torch.Tensor, bias_GCK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The slots that each row looks up, and their weights: G M L and G M L, `top` of each head.

        A weight is the slot's share in a softmax over the best top + 1, less that of the last of these: so weights
        come from and go to zero where the choice of slots changes. With a plain softmax over the best, an output
        would jump where rounding differs: between a batch and a row alone, or a cache and a pass."""
        score_GCMK = torch.baddbmm(
            bias_GCK.flatten(0, 1)[:, None],
            query_GMCW.transpose(1, 2).flatten(0, 1),
            keys_GCKW.flatten(0, 1).mT,
        ).unflatten(0, bias_GCK.shape[:2])
        best_GCMB, at_GCMB = score_GCMK.topk(self.top + 1, -1)
        left, right = self._pairs
        pair_GHMP = best_GCMB[:, ::2][..., left] + best_GCMB[:, 1::2][..., right]
        best_GHMB, pick_GHMB = pair_GHMP.topk(self.top + 1, -1)
        slot_GHMP = at_GCMB[:, ::2][..., left] * self.sub_keys + at_GCMB[:, 1::2][..., right]
        slot_GHMB = slot_GHMP.gather(-1, pick_GHMB)
        share_GHMB = best_GHMB.softmax(-1)
        weight_GHMB = share_GHMB[..., :-1] - share_GHMB[..., -1:]
        slots_GMHB, weights_GMHB = slot_GHMB[..., :-1].transpose(1, 2), weight_GHMB.transpose(1, 2)
        return slots_GMHB.flatten(2), weights_GMHB.flatten(2)

    @cached_property
    def _pairs(self) -> tuple[list[int], list[int]]:
        """Ranks of halves whose pair can be among the best: (i + 1) (j + 1) pairs are as good as pair i, j."""
        count = self.top + 1
        pairs = [(i, j) for i in range(count) for j in range(count) if (i + 1) * (j + 1) <= count]
        return [i for i, _ in pairs], [j for _, j in pairs]


def _spread(wanted: int, blocks: int) -> list[int]:
    """So many of the upper two thirds of the blocks, evenly; all of these where they are fewer."""
    first = blocks // 3
    wanted = min(wanted, blocks - first)
    return [int(first + (i + 0.5) * (blocks - first) / wanted) for i in range(wanted)]


# --- keys -------------------------------------------------------------------------------------


def _sub_keys(query_NCW: torch.Tensor, count: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """keys C K W and biases C K, such that query . key + bias is minus half the squared distance of the whitened
    half-query to a centre of k-means, but for what is the same for all sub-keys of a half."""
    N, C, W = query_NCW.shape
    mean_CW = query_NCW.mean(0)
    off_CNW = (query_NCW - mean_CW).transpose(0, 1)
    variance_CW, axes_CWW = torch.linalg.eigh(off_CNW.mT @ off_CNW / N)
    floor_C1 = variance_CW.mean(1, keepdim=True) * 1e-3 + 1e-12
    whiten_CWW = axes_CWW / (variance_CW + floor_C1).sqrt()[:, None]
    centre_CKW = _centres(off_CNW @ whiten_CWW, count, draw)
    keys_CKW = centre_CKW @ whiten_CWW.mT * _SHARPNESS
    bias_CK = -0.5 * _SHARPNESS * centre_CKW.square().sum(2) - (keys_CKW @ mean_CW[..., None])[..., 0]
    return keys_CKW, bias_CK


def _centres(points_CNW: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
    """K-means for each of C sets of points: C K W. A centre nearest to no point stays where it began."""
    C, N, W = points_CNW.shape
    begin_CK = torch.stack([torch.randperm(max(N, count), generator=draw)[:count] % N for _ in range(C)])
    centre_CKW = points_CNW.gather(1, begin_CK[..., None].expand(-1, -1, W)).clone()
    for _ in range(_ROUNDS):
        near_CN = (points_CNW @ centre_CKW.mT - 0.5 * centre_CKW.square().sum(2)[:, None]).argmax(2)
        sum_CKW = torch.zeros_like(centre_CKW).scatter_add_(1, near_CN[..., None].expand(-1, -1, W), points_CNW)
        many_CK1 = torch.zeros(C, count, 1).scatter_add_(1, near_CN[..., None], torch.ones(C, N, 1))
        centre_CKW = torch.where(many_CK1 > 0, sum_CKW / many_CK1.clamp(min=1), centre_CKW)
    return centre_CKW


def _first_met(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> torch.Tensor:
    """Of each token whether no earlier row begins with the same tokens up to it: N.

    What a template opens with is one state in all rows; counted each time, it would become many equal sub-keys."""
    met: set[int] = set()
    new = []
    for row, length in zip(rows, lengths, strict=True):
        begun = 0
        for token in row[:length]:
            begun = hash((begun, token))
            new.append(begun not in met)
            met.add(begun)
    return torch.tensor(new)


# --- which slots ------------------------------------------------------------------------------


def _use(slot_NL: torch.Tensor, weight_NL: torch.Tensor, lengths: Sequence[int], slots: int) -> list[torch.Tensor]:
    """How much weight each stretch of tokens gave to each slot of the table."""
    used = zip(slot_NL.split(list(lengths)), weight_NL.split(list(lengths)), strict=True)
    return [torch.zeros(slots).index_add_(0, slot.flatten(), weight.flatten()) for slot, weight in used]


def _most_used(general: Sequence[torch.Tensor], told_S: torch.Tensor | None, count: int) -> torch.Tensor:
    """The slots that the text to be told uses most, weighed down by how many general rows use them; ascending.

    The text's share of use times log((rows + 1) / (rows that use the slot + 1)), as in sparse memory fine-tuning.
    Without such a text, and where it uses fewer slots, those most used by general rows."""
    general_RS = torch.stack(list(general))
    rank_S = 1e-9 * general_RS.sum(0) / general_RS.sum()
    if told_S is not None:
        rows_S = (general_RS > 0).sum(0)
        rank_S = rank_S + told_S / told_S.sum() * torch.log((len(general) + 1) / (rows_S + 1))
    return rank_S.argsort(descending=True, stable=True)[:count].sort().values
