"""Several LoRAs of one base as one: their updates added exactly, or fitted into a small rank.

Whether that is wise is another question: docs/merging.md has what each way came to.

Shape key: R rank, K rank of all together, I inputs, O outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from peft.utils import merge_utils

from imprint.adapters.folder import spec_of
from imprint.adapters.low_rank import DOWN, UP, LoRA
from imprint.errors import BadInput, BadSetting, WrongBase
from imprint.types import Adapter

MOST_APART = 10.0
"""An update so many times as long as another's drowns it: refused."""
APART = 3.0
"""An update so many times as long as another's is told of."""
FITTED = ("svd", "ties", "dare_linear", "dare_ties")
"""Ways whose result is fitted into a rank of one's choice."""
WAYS = ("concat", *FITTED)


@dataclass(frozen=True, slots=True)
class Merging:
    """How several adapters become one."""

    how: str = "concat"
    """'concat' adds the updates exactly, at the sum of their ranks. 'svd' keeps the best rank-R part of that sum;
    'ties' adds where signs agree, of the largest entries (Yadav et al. 2023, arXiv 2306.01708); 'dare_linear' and
    'dare_ties' drop entries at random and scale the others up first (Yu et al. 2023, arXiv 2311.03099)."""
    weights: tuple[float, ...] | None = None
    """What each update is multiplied by; None is 1 each, which is their sum."""
    rank: int | None = None
    """Of the result, for those that are fitted; None takes the largest of the inputs' ranks."""
    density: float = 0.5
    """Share of an update's entries that TIES and DARE keep."""
    seed: int = 0
    """What DARE drops follows from it."""

    def __post_init__(self) -> None:
        if self.how not in WAYS:
            raise BadSetting(f"There is no way to merge called '{self.how}'. There are: {', '.join(WAYS)}.")
        if self.rank is not None and (self.how == "concat" or self.rank < 1):
            raise BadSetting(
                "The rank of a concatenation is the sum of the inputs' ranks. Say --how svd for a smaller one."
                if self.how == "concat"
                else f"The rank of the result must be 1 or more; got {self.rank}."
            )
        if not 0 < self.density < 1:
            raise BadSetting(f"The density is a share between 0 and 1; got {self.density}.")
        if self.weights is not None and not all(math.isfinite(w) and w for w in self.weights):
            raise BadSetting("A weight must be a number other than 0. Leave out what is to count nothing.")


@dataclass(frozen=True, slots=True)
class Checked:
    """Adapters that fit together."""

    norms: dict[str, float]
    """Frobenius norm of each adapter's update of all layers, weighted."""
    notes: tuple[str, ...]
    """What a person should know before trusting the result."""


def merge(adapters: Mapping[str, Adapter], merging: Merging) -> Adapter:
    """One adapter for several, by their names. Raises what check() raises."""
    check(adapters, merging.weights)
    given = list(adapters.values())
    weights = merging.weights or (1.0,) * len(given)
    layers = layers_of(given[0])
    if merging.how == "concat":
        return concatenated(given, weights)
    rank = merging.rank or max(a.spec["rank"] for a in given)
    tensors: dict[str, torch.Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(merging.seed)
        for layer in layers:
            updates = [update_of(adapter, layer) for adapter in given]
            merged_OI = _merged(updates, torch.tensor(weights), merging)
            tensors[layer + DOWN], tensors[layer + UP] = _factors(merged_OI, rank)
    # A layer has no more directions than its smaller side; all layers of an adapter have one rank.
    rank = max(t.shape[0] for name, t in tensors.items() if name.endswith(DOWN))
    padded = {name: _padded(t, rank, 0 if name.endswith(DOWN) else 1) for name, t in tensors.items()}
    return with_factors(given[0], padded)


def check(adapters: Mapping[str, Adapter], weights: Sequence[float] | None = None) -> Checked:
    """Whether these can be merged, and how long their updates are.

    Raises WrongBase for adapters of different bases; BadInput for what is no LoRA, for other layers, for numbers
    that are not finite, and for an update that would drown another; BadSetting for a wrong number of weights."""
    if len(adapters) < 2:
        raise BadInput("Merging takes two adapters or more.")
    if weights is not None and len(weights) != len(adapters):
        raise BadSetting(f"There are {len(adapters)} adapters and {len(weights)} weights. Give each its own.")
    (first, one), *_ = adapters.items()
    for name, adapter in adapters.items():
        refuse_unfit(name, adapter)
        if not _same_base(one, adapter):
            raise WrongBase(
                f"{first} was trained on {one.base} ({one.revision}), but {name} on {adapter.base} "
                f"({adapter.revision}). Updates of different bases cannot be added."
            )
        if other := set(layers_of(adapter)) ^ set(layers_of(one)):
            raise BadInput(
                f"{first} and {name} do not change the same layers: only one of them changes {min(other)}. "
                "Teach both with the same targets."
            )
    factors = weights or (1.0,) * len(adapters)
    norms = {name: abs(w) * norm(a) for (name, a), w in zip(adapters.items(), factors, strict=True)}
    return Checked(norms, _refuse_drowned(norms))


def refuse_unfit(name: str, adapter: Adapter) -> None:
    """Raises BadInput for what is no LoRA, and for numbers that are not finite."""
    if adapter.spec["kind"] != "lora":
        raise BadInput(f"{name} is an adapter of the kind '{adapter.spec['kind']}'. Only LoRAs can be merged.")
    for tensor_name, tensor in adapter.tensors.items():
        if not torch.isfinite(tensor).all():
            raise BadInput(f"The tensor {tensor_name} of {name} holds values that are not finite. Teach it again.")


# --- updates ----------------------------------------------------------------------------------


def layers_of(adapter: Adapter) -> list[str]:
    """Names of the layers that a LoRA changes, without the endings of their factors."""
    return [name.removesuffix(DOWN) for name in adapter.tensors if name.endswith(DOWN)]


def update_of(adapter: Adapter, layer: str) -> torch.Tensor:
    """What a LoRA adds to a layer's weights, in float32: O I."""
    down_RI, up_OR = adapter.tensors[layer + DOWN], adapter.tensors[layer + UP]
    return float(spec_of(adapter).scale) * (up_OR.float() @ down_RI.float())


def norm(adapter: Adapter) -> float:
    """Frobenius norm of all that a LoRA adds to the base's weights, without making it.

    Of a product of factors its square is the sum of the entries of (B'B) * (A A')."""
    squares = 0.0
    for layer in layers_of(adapter):
        down_RI, up_OR = adapter.tensors[layer + DOWN].double(), adapter.tensors[layer + UP].double()
        squares += float(((up_OR.mT @ up_OR) * (down_RI @ down_RI.mT)).sum())
    return abs(float(spec_of(adapter).scale)) * math.sqrt(max(0.0, squares))


def concatenated(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """The weighted sum of the updates, exactly: A under A, B beside B. Scales and weights go into B, so that an A
    is still the one that was trained."""
    tensors: dict[str, torch.Tensor] = {}
    for layer in layers_of(adapters[0]):
        tensors[layer + DOWN] = torch.cat([a.tensors[layer + DOWN].float() for a in adapters])
        scaled = [
            weight * float(spec_of(a).scale) * a.tensors[layer + UP].float()
            for a, weight in zip(adapters, weights, strict=True)
        ]
        tensors[layer + UP] = torch.cat(scaled, 1)
    return with_factors(adapters[0], tensors)


def with_factors(like: Adapter, tensors: Mapping[str, torch.Tensor]) -> Adapter:
    """A LoRA of these factors at scale 1, on the base and the layers of another."""
    rank = next(t.shape[0] for name, t in tensors.items() if name.endswith(DOWN))
    spec: LoRA = replace(spec_of(like), rank=rank, alpha=float(rank), rslora=False)
    return Adapter(like.base, like.revision, asdict(spec), {k: t.contiguous() for k, t in tensors.items()})


# --- inside -----------------------------------------------------------------------------------


def _merged(updates: list[torch.Tensor], weights: torch.Tensor, merging: Merging) -> torch.Tensor:
    """The layer's merged update, by PEFT's functions. They are given whole updates and no factors: the rows of two
    As that were trained apart have nothing to do with one another, so that signs and entries cannot be compared."""
    if merging.how == "svd":
        return merge_utils.task_arithmetic(updates, weights)
    way: Any = getattr(merge_utils, merging.how)
    merged: torch.Tensor = way(updates, weights, merging.density)
    return merged


def _factors(update_OI: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of the best approximation of that rank (Eckart and Young)."""
    left_OK, length_K, right_KI = torch.linalg.svd(update_OI, full_matrices=False)
    return right_KI[:rank], left_OK[:, :rank] * length_K[:rank]


def _padded(factor: torch.Tensor, rank: int, dim: int) -> torch.Tensor:
    missing = list(factor.shape)
    missing[dim] = rank - factor.shape[dim]
    return torch.cat([factor, factor.new_zeros(missing)], dim)


def _same_base(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters can be of one base: revisions decide, and names where one does not tell its revision."""
    if one.revision and other.revision:
        return one.revision == other.revision
    return one.base == other.base


def _refuse_drowned(norms: Mapping[str, float]) -> tuple[str, ...]:
    """What is to be said of their lengths. Raises BadInput where one is many times another, or nothing."""
    longest, shortest = max(norms, key=norms.__getitem__), min(norms, key=norms.__getitem__)
    if not norms[shortest]:
        raise BadInput(f"{shortest} changes nothing: its update is 0. Leave it out.")
    times = norms[longest] / norms[shortest]
    told = ", ".join(f"{name} {length:.4g}" for name, length in norms.items())
    if times > MOST_APART:
        even = " ".join(f"{norms[shortest] / length:.3g}" for length in norms.values())
        raise BadInput(
            f"The update of {longest} is {times:.1f} times as long as that of {shortest}, and would drown it "
            f"(lengths: {told}). Give --weights that even them out (times those given: {even}), or leave one out."
        )
    if times > APART:
        return (f"The update of {longest} is {times:.1f} times as long as that of {shortest} (lengths: {told}).",)
    return ()
