"""Learn from rewards that can be checked: GRPO on one adapter.

A round: of each question a group of answers is sampled by the model as it is now, each is given a reward, and what
an answer is better than its group becomes the weight of its tokens (DeepSeekMath, arXiv 2402.03300, section 4.1).

    rollouts -> graded -> advantages -> credited -> update

Each can be called alone. Departures that are offered and said where they stand: those of Dr. GRPO
(arXiv 2503.20783), which does without the spread and the answers' lengths."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from imprint.base import Base, in_passes
from imprint.engine import Engine, Seat
from imprint.engine.passes import PassRow, logprobs
from imprint.engine.passes import forward_backward as shared_pass
from imprint.errors import BadInput, BadSetting
from imprint.training import loop as loops
from imprint.training.loop import Loop
from imprint.types import Adapter, Prompt, Text, Turn, content_hash
from imprint.writers.local import LocalWriter

PASS_TOKENS = {"cpu": 1024, "cuda": 16_384, "mps": 1024}
"""Tokens of answers and their questions in one pass, by device, as in service.py; a step takes as many as it
needs."""
_ALIKE = 1e-8
"""Rewards that differ by less are the same."""


@dataclass(frozen=True, slots=True)
class Item:
    """A question, and what its grader must know."""

    turns: tuple[Turn, ...]
    gold: Any = None
    """JSON values, so that a checkpoint can tell other items."""


class Task(Protocol):
    """Questions whose answers can be checked."""

    @property
    def items(self) -> Sequence[Item]:
        """What is trained on."""

    def reward(self, item: Item, text: str) -> float:
        """How good a text is as an answer: any finite number, mostly 1 where it is right and 0 where not."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to learn from rewards."""

    lr: float = 1e-3
    """Highest learning rate; it warms up and falls as loop.Settings says."""
    rounds: int = 50
    """How often answers are sampled and learnt from."""
    prompts: int = 32
    """Items asked in a round; all are met before one is met again."""
    group: int = 8
    """Answers sampled to each."""
    max_tokens: int = 64
    """Tokens an answer may have; a longer one is cut there and graded as it stands."""
    updates: int = 1
    """Optimizer steps on the answers of a round. The first is on-policy; in the others the ratio is clipped."""
    clip: float = 0.2
    """An answer's token that became this much likelier or less likely in its favour is not pushed on."""
    kl: float = 0.0
    """How much a token's distance from the untouched base costs beside its advantage; see `weights`."""
    spread: bool = True
    """Advantages are divided by the group's standard deviation. Dr. GRPO: False, for it makes much of questions
    that nearly all or nearly no answers get right."""
    length: str = "constant"
    """By what an answer's tokens are divided: 'answer' is its own length (GRPO: a token of a long answer counts
    less), 'constant' is max_tokens (Dr. GRPO: every token counts the same)."""
    save_every: int = 1
    """Rounds between two checkpoints."""

    def __post_init__(self) -> None:
        counts = ("rounds", "prompts", "max_tokens", "updates", "save_every")
        wrong = [f"{name} of 1 or more; got {getattr(self, name)}" for name in counts if getattr(self, name) < 1]
        if self.group < 2:
            wrong.append(f"group of 2 or more, for an answer is judged beside others; got {self.group}")
        if not (self.lr > 0 and self.clip > 0 and self.kl >= 0):
            wrong.append(f"lr > 0, clip > 0 and kl >= 0; got {self.lr}, {self.clip} and {self.kl}")
        if self.length not in ("answer", "constant"):
            wrong.append(f"length 'answer' or 'constant'; got {self.length!r}")
        if wrong:
            raise BadSetting(f"GRPO needs {'; '.join(wrong)}.")


@dataclass(frozen=True, slots=True)
class Round:
    """What a round was like."""

    number: int
    """From 1; 0 stands for a look before the first."""
    reward: float | None
    """Mean of all answers sampled; None where none were."""
    skipped: int
    """Groups whose answers all had the same reward: they teach nothing."""
    tokens: int
    """Tokens sampled."""
    clipped: float
    """Share of the tokens that were not pushed on in the last update."""
    kl: float | None
    """Mean distance from the base in nats per token; None where it was not asked for."""
    seconds: float
    check: Any = None
    """What `check` said after this round, where it was asked."""


Progress = Callable[[Round, int], None]
"""Told after each round, with the rounds in all."""
Check = Callable[[LocalWriter], Any]
"""Looks at the model as it is by now, through a writer that wears the adapter; gives JSON values."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """A trained adapter, and its way."""

    adapter: Adapter
    rounds: tuple[Round, ...]


# --- the parts of a round ---------------------------------------------------------------------


def rollouts(writer: LocalWriter, items: Sequence[Item], settings: Settings, *, seed: int) -> list[list[Text]]:
    """To each item a group of answers, sampled together.

    At temperature 1 from the whole vocabulary: any other choice would sample from another policy than the one that
    is trained. Raises BadSetting for a writer that cuts the vocabulary."""
    if writer.top_k is not None:
        raise BadSetting(f"Rollouts need LocalWriter(top_k=None): this one draws from {writer.top_k} tokens only.")
    prompts = [Prompt(item.turns, max_tokens=settings.max_tokens, temperature=1.0) for item in items]
    draw = random.Random(seed)
    seeds = [draw.getrandbits(62) for _ in range(len(items) * settings.group)]
    asked = [prompt for prompt in prompts for _ in range(settings.group)]
    texts = writer.draw(asked, seeds=seeds)
    return [texts[i : i + settings.group] for i in range(0, len(texts), settings.group)]


def graded(task: Task, items: Sequence[Item], texts: Sequence[Sequence[Text]]) -> list[list[float]]:
    """The reward of each answer of each group. Raises BadInput for one that is no finite number."""
    rewards = [[float(task.reward(i, t.text)) for t in group] for i, group in zip(items, texts, strict=True)]
    for item, group in zip(items, rewards, strict=True):
        if not all(map(math.isfinite, group)):
            raise BadInput(
                f"The grader gave {group} for answers to '{item.turns[-1].text[:60]}'. Every reward must be a "
                "finite number; give 0 to an answer that cannot be graded."
            )
    return rewards


def advantages(rewards: Sequence[Sequence[float]], *, spread: bool) -> list[list[float]]:
    """How much better each answer is than its group; a group whose rewards are all the same gets zeros.

    `spread`: divided by the group's standard deviation (of the population, as in n, not n - 1)."""
    made = []
    for group in rewards:
        mean, deviation = statistics.fmean(group), statistics.pstdev(group)
        if deviation < _ALIKE:
            made.append([0.0] * len(group))
        else:
            made.append([(r - mean) / (deviation if spread else 1.0) for r in group])
    return made


@dataclass(frozen=True, slots=True)
class Credited:
    """A sampled answer after its question, in tokens, and how much better it was than its group."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    advantage: float

    def row(self, seat: Seat | None, weights: tuple[float, ...] | None = None) -> PassRow:
        return PassRow(seat, self.ids, self.learn, weights=weights)

    @property
    def written(self) -> int:
        """Tokens of the answer."""
        return sum(self.learn)


def credited(
    base: Base, items: Sequence[Item], texts: Sequence[Sequence[Text]], better: Sequence[Sequence[float]]
) -> list[Credited]:
    """The answers of all groups in which one was better than another."""
    made = []
    for item, group, by in zip(items, texts, better, strict=True):
        if any(by):
            asked = base.prompt_ids(item.turns)
            for text, advantage in zip(group, by, strict=True):
                assert text.ids is not None, "a local writer tells what it wrote"
                learn = (False,) * len(asked) + (True,) * len(text.ids)
                made.append(Credited((*asked, *text.ids), learn, advantage))
    return made


def weights(
    answer: Credited,
    settings: Settings,
    ratio_T: torch.Tensor | None = None,
    away_T: torch.Tensor | None = None,
) -> tuple[tuple[float, ...], int]:
    """What each token's nats count in the gradient, and how many tokens the clip holds back. T: tokens written.

    `ratio_T`: how much likelier each became since it was sampled (None: 1). The gradient of the clipped surrogate
    min(ratio * A, clip(ratio) * A) is A * ratio times that of the log-probability where the first is taken, and
    0 where the clip is (arXiv 1707.06347, section 3).

    `away_T`: the policy's log-probability of each less the base's (None: no cost). The cost is the estimator
    exp(-away) + away - 1 of the KL divergence, differentiated as DeepSeekMath does (equation 4): its
    gradient is 1 - exp(-away) times that of the log-probability."""
    T = answer.written
    pushed_T = torch.full((T,), answer.advantage, dtype=torch.float64)
    held_T = torch.zeros(T, dtype=torch.bool)
    if ratio_T is not None:
        above_T, below_T = ratio_T > 1 + settings.clip, ratio_T < 1 - settings.clip
        held_T = above_T if answer.advantage > 0 else below_T
        pushed_T = (pushed_T * ratio_T.double()).where(~held_T, 0.0)
    if away_T is not None:
        pushed_T = pushed_T - settings.kl * (1 - (-away_T.double()).exp())
    pushed_T = pushed_T / (T if settings.length == "answer" else settings.max_tokens)
    return (0.0,) * (len(answer.ids) - T) + tuple(pushed_T.tolist()), int(held_T.sum())


@dataclass(frozen=True, slots=True)
class Known:
    """Log-probabilities of each answer's tokens before anything was learnt from them, where they are needed."""

    sampled: tuple[torch.Tensor, ...] | None = None
    """By the policy that wrote them: for the ratio."""
    base: tuple[torch.Tensor, ...] | None = None
    """By the untouched base: for the distance from it."""


def known(loop: Loop, answers: Sequence[Credited], settings: Settings) -> Known:
    """Reads the answers once before the updates of a round; nothing where one on-policy update is all."""
    sampled = _read(loop, answers, loop.seat) if settings.updates > 1 else None
    base = _read(loop, answers, None) if settings.kl else None
    return Known(sampled, base)


def update(
    loop: Loop, answers: Sequence[Credited], settings: Settings, before: Known
) -> tuple[float, float | None]:
    """One optimizer step on all answers; the share of tokens held back by the clip, and the mean distance from the
    base. Raises Diverged."""
    tokens = sum(answer.written for answer in answers)
    held, distance = 0, 0.0
    for part in _passes(loop, answers):
        chosen = [answers[i] for i in part]
        now = None
        if before.sampled is not None or before.base is not None:
            now = _read(loop, chosen, loop.seat)
        rows = []
        for at, (i, answer) in enumerate(zip(part, chosen, strict=True)):
            ratio_T = away_T = None
            if now is not None and before.sampled is not None:
                ratio_T = (now[at] - before.sampled[i]).exp()
            if now is not None and before.base is not None:
                away_T = now[at] - before.base[i]
                distance += float(((-away_T).exp() + away_T - 1).sum())
            its, stopped = weights(answer, settings, ratio_T, away_T)
            held += stopped
            rows.append(answer.row(loop.seat, tuple(w / len(answers) for w in its)))
        with loop.engine.base.turns.take():
            loop.gather(sum(shared_pass(loop.engine, rows)) / tokens)
    loop.step()
    return held / tokens, None if before.base is None else distance / tokens


def _read(loop: Loop, answers: Sequence[Credited], seat: Seat | None) -> tuple[torch.Tensor, ...]:
    found: list[torch.Tensor | None] = [None] * len(answers)
    for part in _passes(loop, answers):
        with loop.engine.base.turns.take():
            read = logprobs(loop.engine, [answers[i].row(seat) for i in part])
        for i, nats_T in zip(part, read, strict=True):
            found[i] = nats_T.cpu()
    return tuple(nats_T for nats_T in found if nats_T is not None)


def _passes(loop: Loop, answers: Sequence[Credited]) -> list[list[int]]:
    """Which answers are computed together."""
    return in_passes([len(answer.ids) for answer in answers], PASS_TOKENS[loop.engine.base.device.torch.type])


# --- all rounds -------------------------------------------------------------------------------


def train(
    engine: Engine,
    adapter: Adapter,
    task: Task,
    settings: Settings,
    *,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    check: Check | None = None,
    check_every: int = 10,
) -> Learnt:
    """The adapter after all rounds, from the checkpoint if there is one; the one given stays as it is.

    What is asked and drawn in a round follows from the seed and the round's number, so that a resumed run ends with
    the same adapter as one that was never stopped. `check` is called before the first round, after every
    `check_every` rounds and after the last. Raises BadSetting, StaleRun, WrongBase or Diverged."""
    if not task.items:
        raise BadSetting("There is nothing to train on: the task has no items.")
    data = content_hash(repr(settings), repr(seed), repr([(i.turns, i.gold) for i in task.items]))
    with engine.base.turns.take():
        seat = engine.load(adapter, trainable=True)
    try:
        steps = loops.Settings(lr=settings.lr, steps=settings.rounds * settings.updates)
        loop = Loop(engine, seat, steps, data=data)
        if checkpoint is not None:
            loop.resume(checkpoint)
        rounds = [Round(**told) for told in loop.notes.get("rounds", ())]
        if not rounds and check is not None:
            rounds.append(Round(0, None, 0, 0, 0.0, None, 0.0, _looked(engine, seat, check)))
        for number in range(loop.notes.get("round", 0) + 1, settings.rounds + 1):
            due = check if number % check_every == 0 or number == settings.rounds else None
            rounds.append(one_round(loop, task, settings, number, seed=seed, check=due))
            loop.notes = {"round": number, "rounds": [asdict(r) for r in rounds]}
            if checkpoint is not None and (number % settings.save_every == 0 or number == settings.rounds):
                loop.save(checkpoint)
            if progress is not None:
                progress(rounds[-1], settings.rounds)
        return Learnt(seat.snapshot(), tuple(rounds))
    finally:
        engine.unload(seat)


def one_round(
    loop: Loop, task: Task, settings: Settings, number: int, *, seed: int, check: Check | None = None
) -> Round:
    """Samples, grades and learns once."""
    began = time.monotonic()
    engine = loop.engine
    items = asked(task.items, settings.prompts, number, seed=seed)
    writer = LocalWriter(engine.base, top_k=None)
    with engine.wearing(loop.seat):
        texts = rollouts(writer, items, settings, seed=_seed(seed, number))
    rewards = graded(task, items, texts)
    better = advantages(rewards, spread=settings.spread)
    answers = credited(engine.base, items, texts, better)
    clipped, kl = 0.0, None
    if answers:
        before = known(loop, answers, settings)
        for _ in range(settings.updates):
            clipped, kl = update(loop, answers, settings, before)
    return Round(
        number,
        statistics.fmean(r for group in rewards for r in group),
        sum(not any(group) for group in better),
        sum(len(t.ids or ()) for group in texts for t in group),
        clipped,
        kl,
        time.monotonic() - began,
        None if check is None else _looked(engine, loop.seat, check),
    )


def asked(items: Sequence[Item], count: int, number: int, *, seed: int) -> list[Item]:
    """The items of a round: the next so many of an endless deck that is shuffled anew each time it is through."""
    found: list[Item] = []
    at = (number - 1) * count
    while len(found) < count:
        deck, start = divmod(at, len(items))
        order = list(range(len(items)))
        random.Random(f"{seed}:{deck}").shuffle(order)
        taken = order[start : start + count - len(found)]
        found += [items[i] for i in taken]
        at += len(taken)
    return found


def greedy(writer: LocalWriter, task: Task, items: Sequence[Item], *, max_tokens: int) -> list[float]:
    """The reward of the likeliest answer to each item: for items that are held out."""
    texts = writer.write([Prompt(item.turns, max_tokens=max_tokens) for item in items], seed=0)
    return [task.reward(item, t.text) for item, t in zip(items, texts, strict=True)]


def _looked(engine: Engine, seat: Seat, check: Check) -> Any:
    with engine.wearing(seat):
        return check(LocalWriter(engine.base, top_k=None))


def _seed(seed: int, number: int) -> int:
    return int(content_hash(str(seed), str(number)), 16) >> 2
