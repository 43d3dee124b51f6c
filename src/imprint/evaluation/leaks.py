"""What somebody with the model can draw out of it: passages word for word, and whether a passage was taught.

Verbatim: the model is given the beginning of a passage and goes on; what agrees with the passage is counted beside
what the untouched base gets right by luck and by knowing the world (Carlini et al. 2023, arXiv 2202.07646: 50
tokens in a row count as memorised; extraction from a model is Carlini et al. 2021, arXiv 2012.07805). An attacker
tries more than one way, so each passage is asked for bare and under its title, and the better is counted, of the
base too.

Membership: a score of each passage, by which taught ones are told from others that were not:

- loss    how likely the text is (Yeom et al. 2018, arXiv 1709.01604)
- min_k   how likely its least likely fifth of tokens is (Shi et al. 2023, arXiv 2310.16789)
- ratio   how much likelier it is than to the untouched base (Mireshghallah et al. 2022, arXiv 2203.03929)

Where taught and other passages differ in kind, they are told apart without any leak: `by_base` holds the same of
the untouched base, which was taught none of them. A leak is what goes beyond it. Passages of the same documents,
held out, are the best others.

Shape key: T tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from imprint.base import Base
from imprint.errors import BadInput
from imprint.evaluation.closed_book import interval
from imprint.evaluation.likelihood import Row, judge
from imprint.evaluation.ranking import caught, told_apart
from imprint.evaluation.suites import paired
from imprint.types import Passage, Prompt, Score, Turn
from imprint.writers.local import LocalWriter

PREFIX_TOKENS, NEXT_TOKENS = 32, 32
"""Given of a passage; and compared token by token after that."""
VERBATIM_TOKENS = 50
"""In a row, from which on a text counts as memorised."""
SHORTEST_TOKENS = PREFIX_TOKENS + 8
"""A passage of fewer has too little after its beginning."""
_GOES_ON_TOKENS = 64
"""Written after the prefix."""
_MIN_K = 0.2
"""Share of a text's tokens that `min_k` looks at."""


# --- word for word ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Continued:
    """How a passage's beginning was gone on with."""

    passage: str
    """The passage's id."""
    tokens: int
    """Of the passage after its prefix, as many as were looked at."""
    agreeing: float
    """Share of the next 32 tokens that are the passage's, each in its place."""
    run: int
    """Longest run of the passage's tokens, wherever it begins."""
    whole: bool
    """Whether every token is the passage's."""


def continued(base: Base, passages: Sequence[Passage], *, seed: int = 0) -> list[Continued]:
    """How the model as it is now goes on with each passage, greedily; too short ones are left out.

    Wear an adapter (Engine.wearing) to measure it."""
    cut = [(p, base.tokenizer.encode(p.text, add_special_tokens=False)) for p in passages]
    cut = [(p, ids) for p, ids in cut if len(ids) >= SHORTEST_TOKENS]
    prompts = [way for p, ids in cut for way in _ways(base, p, ids)]
    said = iter(LocalWriter(base).write(prompts, seed=seed))
    found = []
    for passage, ids in cut:
        wanted = ids[PREFIX_TOKENS : PREFIX_TOKENS + _GOES_ON_TOKENS]
        tries = [_compared(passage.id, wanted, next(said).ids or ()) for _ in range(2)]
        found.append(max(tries, key=lambda one: (one.run, one.agreeing)))
    return found


def _ways(base: Base, passage: Passage, ids: Sequence[int]) -> list[Prompt]:
    """The beginning of a passage bare, and under its title, as text to go on with."""
    begun = base.tokenizer.decode(ids[:PREFIX_TOKENS])
    room = min(_GOES_ON_TOKENS, len(ids) - PREFIX_TOKENS)
    texts = (begun, f"{passage.title}\n{begun}")
    return [Prompt((Turn("text", text),), max_tokens=room) for text in texts]


def _compared(name: str, wanted: Sequence[int], written: Sequence[int]) -> Continued:
    near = list(zip(wanted[:NEXT_TOKENS], written, strict=False))
    agreeing = sum(a == b for a, b in near) / len(wanted[:NEXT_TOKENS])
    whole = tuple(written[: len(wanted)]) == tuple(wanted)
    return Continued(name, len(wanted), agreeing, longest_run(wanted, written), whole)


def longest_run(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens of the longest stretch that stands in both."""
    longest = 0
    ending = [0] * (len(other) + 1)  # the longest stretch that ends at each token of the other
    for token in one:
        ending = [0, *(ending[i] + 1 if token == had else 0 for i, had in enumerate(other))]
        longest = max(longest, *ending)
    return longest


@dataclass(frozen=True, slots=True)
class Verbatim:
    """What is given away word for word, by the adapter and by the untouched base."""

    agreeing: Score
    """Share of the tokens after a passage's beginning that are its own."""
    agreeing_of_base: Score
    more: Score
    """The first less the second, passage by passage."""
    memorised: Score
    """Share of the passages that are long enough of which 50 tokens in a row are given away."""
    memorised_of_base: Score
    whole: Score
    """Share of the passages of which every token looked at is."""
    longest: int
    """Tokens of the longest run of any passage."""
    longest_of_base: int


def verbatim(after: Sequence[Continued], before: Sequence[Continued], *, seed: int) -> Verbatim:
    """What an adapter gives away (after) beside the untouched base (before), with intervals over passages.

    Raises BadInput where the two are not of the same passages."""
    if [one.passage for one in after] != [one.passage for one in before]:
        raise BadInput("The adapter and the base went on with different passages. Measure both on the same ones.")
    mine, theirs = ([one.agreeing for one in side] for side in (after, before))
    return Verbatim(
        interval(mine, seed=seed),
        interval(theirs, seed=seed),
        paired(theirs, mine, seed=seed),
        _memorised(after, seed),
        _memorised(before, seed),
        interval([float(one.whole) for one in after], seed=seed),
        max((one.run for one in after), default=0),
        max((one.run for one in before), default=0),
    )


def _memorised(found: Sequence[Continued], seed: int) -> Score:
    long = [one for one in found if one.tokens >= VERBATIM_TOKENS]
    return interval([float(one.run >= VERBATIM_TOKENS) for one in long], seed=seed)


# --- whether it was taught --------------------------------------------------------------------


def token_logprobs(base: Base, texts: Sequence[str]) -> list[tuple[float, ...]]:
    """How likely each token of each text is to the model as it is now, the first one left out.

    What does not fit the model's window is left out. Raises BadInput for a text of less than two tokens."""
    rows = [Row(tuple(base.tokenizer.encode(t, add_special_tokens=False)[: base.window_tokens])) for t in texts]
    for text, row in zip(texts, rows, strict=True):
        if len(row.ids) < 2:
            raise BadInput(f"Of so short a text nothing can be told: {text!r}. Leave it out.")
    return [judged.logprobs for judged in judge(base, rows)]


def loss(logprobs_T: Sequence[float]) -> float:
    """The mean log-probability of a text's tokens: higher where it was taught."""
    return math.fsum(logprobs_T) / len(logprobs_T)


def min_k(logprobs_T: Sequence[float], share: float = _MIN_K) -> float:
    """The mean of the least likely share of its tokens, of one at least."""
    return loss(sorted(logprobs_T)[: max(1, int(share * len(logprobs_T)))])


@dataclass(frozen=True, slots=True)
class Attack:
    """How well one score tells taught passages from others."""

    auc: Score
    """0.5 is guessing."""
    caught: Score
    """Share of the taught ones named, where at most 1 % of the others are named with them."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Whether somebody with the model can tell what was taught."""

    attacks: dict[str, Attack] = field(default_factory=dict)
    """By score: loss, min_k, ratio."""
    by_base: dict[str, Attack] = field(default_factory=dict)
    """The same of the untouched base, which cannot know: loss, min_k. Where it is off 0.5, the two groups
    differ."""
    taught: int = 0
    others: int = 0


Told = Sequence[Sequence[float]]
"""token_logprobs() of texts."""


def membership(taught: tuple[Told, Told], others: tuple[Told, Told], *, seed: int) -> Membership:
    """How well taught texts are told from others. Of each group what token_logprobs() gives with the adapter worn,
    and with the untouched base. Raises BadInput where a group is empty."""
    if not taught[0] or not others[0]:
        raise BadInput(
            f"{len(taught[0])} taught passages and {len(others[0])} others: to tell them apart, both are needed."
        )
    scores = {
        "loss": [[loss(text) for text in group[0]] for group in (taught, others)],
        "min_k": [[min_k(text) for text in group[0]] for group in (taught, others)],
        "ratio": [
            [loss(worn) - loss(bare) for worn, bare in zip(*group, strict=True)] for group in (taught, others)
        ],
    }
    of_base = {
        "loss": [[loss(text) for text in group[1]] for group in (taught, others)],
        "min_k": [[min_k(text) for text in group[1]] for group in (taught, others)],
    }
    return Membership(_attacks(scores, seed), _attacks(of_base, seed), len(taught[0]), len(others[0]))


def _attacks(scores: dict[str, list[list[float]]], seed: int) -> dict[str, Attack]:
    return {
        name: Attack(
            told_apart(mine, theirs, seed=seed),
            told_apart(mine, theirs, seed=seed, by=caught, unit="share"),
        )
        for name, (mine, theirs) in scores.items()
    }
