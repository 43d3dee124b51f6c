"""One adapter of several sites' documents, of which only trained adapters travel.

Averaging A and B apart is wrong: the mean of the Bs times the mean of the As is not the mean of the products. Two
ways are right, and exact:

    flora   each site trains an A and a B of its own. They are stacked, A under A and B beside B, which is the
            weighted sum of the updates. The next round's are trained on top of the stack, as if it were folded into
            the base (Wang et al. 2024, arXiv 2409.05976). The stack grows by every site's rank in every round.
    ffa     all sites share one A, drawn at the start and never trained; each trains B, and the Bs are averaged. The
            next round begins with the mean. The rank stays (Sun et al. 2024, arXiv 2403.12313).

Shape key: R rank, I inputs, O outputs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from imprint.adapters.folder import spec_of
from imprint.adapters.layout import ALL_LINEAR, PEFT_PREFIX, Shapes, shapes_of
from imprint.adapters.low_rank import DOWN, UP, LoRA
from imprint.base import Base
from imprint.continual.merging import MOST_APART, concatenated, norm, refuse_unfit, with_factors
from imprint.errors import BadInput, BadSetting, WrongBase
from imprint.registry import check_name
from imprint.training.sft import Begun, Job, lengths_of
from imprint.types import Adapter, content_hash

METHODS = ("flora", "ffa")
MOST_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class Federation:
    """What the sites have agreed on."""

    base: str
    """Name of the base model."""
    revision: str
    """Content hash of it: a site with another is refused."""
    shapes: Shapes
    """Name, inputs and outputs of each layer that is changed, so that no base is needed to check what comes."""
    sites: tuple[str, ...]
    method: str = "flora"
    rounds: int = 3
    rank: int = 16
    """Of what a site trains in a round."""
    alpha: float = 32.0
    seed: int = 0
    equal: bool = False
    """Whether each site counts the same. If not, it counts by the tokens of its training text, as it tells them."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise BadSetting(
                f"There is no way to federate called '{self.method}'. There are: {', '.join(METHODS)}."
            )
        for site in self.sites:
            check_name(site)
        if len(set(self.sites)) < max(2, len(self.sites)):
            raise BadSetting(f"A federation has two or more sites of different names; got {', '.join(self.sites)}.")
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise BadSetting(f"A federation takes 1 to {MOST_ROUNDS} rounds; got {self.rounds}.")
        LoRA(rank=self.rank, alpha=self.alpha)  # checks both

    @property
    def id(self) -> str:
        """What it is told by from others."""
        return content_hash(repr(asdict(self)))

    @property
    def spec(self) -> LoRA:
        """What a site trains."""
        targets = tuple(sorted({name.split(".")[-1] for name, _, _ in self.shapes}))
        return LoRA(rank=self.rank, alpha=self.alpha, targets=targets)

    def adapter(self, tensors: Mapping[str, torch.Tensor]) -> Adapter:
        """What a site trained, of its tensors."""
        return Adapter(self.base, self.revision, asdict(self.spec), tensors)

    def common(self, tensors: Mapping[str, torch.Tensor]) -> Adapter | None:
        """What all sites have in common, of its tensors; None where there are none yet."""
        if not tensors:
            return None
        return self.adapter(tensors) if self.method == "ffa" else with_factors(self.adapter({}), tensors)


@dataclass(frozen=True, slots=True)
class Update:
    """What a site hands in after a round."""

    site: str
    adapter: Adapter
    tokens: int
    """Of the site's training text."""


@dataclass(frozen=True, slots=True)
class Round:
    """What came of the updates of a round."""

    common: Adapter
    """What the next round begins from; after the last one the result."""
    shares: dict[str, float]
    """What each site counted."""
    norms: dict[str, float]
    """Length of what each site changed."""


def agree(
    base: Base,
    sites: Sequence[str],
    *,
    method: str = "flora",
    rounds: int = 3,
    rank: int = 16,
    seed: int = 0,
    equal: bool = False,
    targets: Sequence[str] = ALL_LINEAR,
) -> Federation:
    """A federation on this base."""
    shapes, alpha = shapes_of(base, targets, None), 2.0 * rank
    return Federation(base.name, base.revision, shapes, tuple(sites), method, rounds, rank, alpha, seed, equal)


def begin(federation: Federation, base: Base) -> Adapter | None:
    """What the first round begins from: nothing for flora; for ffa the A that all share, and a B of zeros."""
    return federation.spec.fresh(base, seed=federation.seed) if federation.method == "ffa" else None


def job_of(federation: Federation, common: Adapter | None, site: str, number: int, job: Job) -> Job:
    """A site's training as its round has it: of what all have in common by now, on the job's rows."""
    if federation.method == "ffa":
        assert common is not None, "an ffa begins with an adapter"
        return replace(job, spec=Begun(replace(common, spec=asdict(federation.spec))), frozen=(DOWN,))
    seed = int(content_hash(str(federation.seed), str(number), site)[:8], 16)
    return replace(job, spec=federation.spec, seed=seed, beneath=(common,) if common else ())


def update_of(federation: Federation, site: str, adapter: Adapter, job: Job) -> Update:
    """What a site hands in."""
    return Update(site, adapter, sum(lengths_of(job.rows)))


def aggregate(federation: Federation, common: Adapter | None, updates: Sequence[Update]) -> Round:
    """The updates of a round as one, exactly. Raises what check() raises."""
    norms = check(federation, common, updates)
    counts = {u.site: 1 if federation.equal else u.tokens for u in updates}
    shares = {site: count / sum(counts.values()) for site, count in counts.items()}
    if federation.method == "ffa":
        assert common is not None
        return Round(federation.adapter(_mean_of_ups(common, updates, shares)), shares, norms)
    stack = concatenated([u.adapter for u in updates], [shares[u.site] for u in updates])
    return Round(concatenated([common, stack], (1.0, 1.0)) if common else stack, shares, norms)


def check(federation: Federation, common: Adapter | None, updates: Sequence[Update]) -> dict[str, float]:
    """How long each site's change is.

    Raises WrongBase, or BadInput that names the site and what is wrong: a stranger, other shapes, numbers that are
    not finite, a changed A, a change that would drown those of the others."""
    if not updates:
        raise BadInput("No site has handed anything in for this round.")
    norms: dict[str, float] = {}
    for update in updates:
        if update.site not in federation.sites or update.site in norms:
            raise BadInput(f"'{update.site}' is no site of this federation, or handed in twice.")
        if update.tokens < 1:
            raise BadInput(f"{update.site} tells of {update.tokens} tokens of training text; it must be 1 or more.")
        refuse_unfit(update.site, update.adapter)
        _refuse_other_shapes(federation, update)
        norms[update.site] = norm(_changed(federation, common, update))
    for site, length in norms.items():
        others = [other for name, other in norms.items() if name != site]
        usual = statistics.median(others) if others else 0.0
        if usual and length > MOST_APART * usual:
            raise BadInput(
                f"What {site} changed is {length / usual:.1f} times as long as what the others did "
                f"({length:.4g}; theirs {usual:.4g} in the middle). Leave {site} out of this round, and ask there."
            )
    return norms


# --- inside -----------------------------------------------------------------------------------


def _mean_of_ups(
    common: Adapter, updates: Sequence[Update], shares: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """The common As, and the weighted mean of the sites' Bs."""
    tensors = dict(common.tensors)
    for name in [name for name in tensors if name.endswith(UP)]:
        up_OR = sum(shares[u.site] * u.adapter.tensors[name].double() for u in updates)
        assert isinstance(up_OR, torch.Tensor)
        tensors[name] = up_OR.float()
    return tensors


def _changed(federation: Federation, common: Adapter | None, update: Update) -> Adapter:
    """What a site changed: for flora its whole update; for ffa what its Bs are away from those it began with.

    Raises BadInput where it changed an A that all share."""
    if federation.method == "flora":
        return update.adapter
    assert common is not None
    tensors: dict[str, Any] = {}
    for name, tensor in update.adapter.tensors.items():
        if name.endswith(UP):
            tensors[name] = tensor - common.tensors[name]
        elif torch.equal(tensor, common.tensors[name]):
            tensors[name] = tensor
        else:
            raise BadInput(f"{update.site} changed {name}, which all sites share. Only the Bs are trained.")
    return replace(update.adapter, tensors=tensors)


def _refuse_other_shapes(federation: Federation, update: Update) -> None:
    adapter, spec = update.adapter, federation.spec
    if adapter.revision != federation.revision:
        raise WrongBase(
            f"{update.site} trained on {adapter.base} ({adapter.revision}), but this federation is of "
            f"{federation.base} ({federation.revision}). Train on that base there."
        )
    if (adapter.spec["rank"], spec_of(adapter).scale) != (spec.rank, spec.scale):
        raise BadInput(
            f"{update.site} trained a rank of {adapter.spec['rank']} at a scale of {spec_of(adapter).scale:g}; "
            f"agreed were {spec.rank} and {spec.scale:g}."
        )
    wanted = {}
    for layer, inputs, outputs in federation.shapes:
        wanted[f"{PEFT_PREFIX}{layer}{DOWN}"] = (spec.rank, inputs)
        wanted[f"{PEFT_PREFIX}{layer}{UP}"] = (outputs, spec.rank)
    found = {name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()}
    if wanted != found:
        name = next(n for n in {**wanted, **found} if wanted.get(n) != found.get(n))
        raise BadInput(
            f"What {update.site} handed in does not fit: {name} has the shape {found.get(name)} where "
            f"{wanted.get(name)} was agreed."
        )
