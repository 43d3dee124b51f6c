"""What one shard of the next version is trained on: what still stands of the old text, what is written about the
new passages, and corrections."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from imprint import writing
from imprint.adapters import folder as adapter_folder
from imprint.continual.admission import capped
from imprint.engine import Engine
from imprint.errors import NothingToTeach
from imprint.evaluation.closed_book import Question
from imprint.recipe import Recipe
from imprint.run_folder import RunFolder
from imprint.stages import job_of, taught_by_reader, text_tokens_of
from imprint.synthesis.audit import Audit, AuditSettings, look_over
from imprint.training.sft import Begun, Job
from imprint.types import Document, Example, Passage
from imprint.watch import Watch

REPLAY = 0.5
"""Share of an adapter's further training that is of what it learnt before: with a quarter of it half of the older
documents' answers were lost (docs/log.md, eight documents one after another)."""

_COUNTED = AuditSettings(False, False, False, False, False)


@dataclass(frozen=True, slots=True)
class Shard:
    """Documents of the next version that share an adapter, and what became of their passages."""

    place: int
    documents: tuple[Document, ...]
    passages: tuple[Passage, ...]
    """What there is to teach of them."""
    fresh: tuple[Passage, ...]
    """Those that nothing was written about."""
    gone: bool
    """Whether something that its adapter was taught stands no more."""
    kept: Callable[[], Iterator[Example]]
    """The old text of what still stands."""
    begun: Path | None = None
    """The folder of the adapter that is to go on learning; None begins anew."""
    corrections: tuple[Example, ...] = ()
    """What is taught of all changes so far."""
    news: tuple[Example, ...] = ()
    """Those of them that were never taught."""
    heir: int | None = None
    """The place of the adapter before from which most of its documents come."""
    told_of: frozenset[str] = frozenset()
    """Ids of those that its corrections speak of."""

    @property
    def touched(self) -> bool:
        """Whether its adapter is not what it should be."""
        return bool(self.fresh or self.gone or self.news)

    def before(self) -> Iterator[Example]:
        """All that its adapter was taught before, as far as it still stands."""
        news = set(self.news)
        yield from self.kept()
        yield from (e for e in self.corrections if e not in news)


@dataclass(frozen=True, slots=True)
class Lesson:
    """The training of one shard, ready to be handed in."""

    shard: Shard
    run: RunFolder
    """Its examples.jsonl holds all that the shard is taught by, not only what is trained now."""
    job: Job
    text_tokens: int
    """Of the text that is trained on, once."""
    written_tokens: int
    """Of the text that was written for it."""
    examples: int
    """Of the whole text."""
    audit: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is written and trained."""

    times: float
    """Text about fresh passages in multiples of their length."""
    visits: float
    """How often each example that is trained on is met."""
    replay: float = REPLAY
    """Share of what is trained that an adapter which goes on learning has met before."""


def write(
    run: RunFolder,
    shard: Shard,
    amount: Amount,
    engine: Engine,
    recipe: Recipe,
    seed: int,
    questions: Sequence[Question],
    watch: Watch,
    *,
    since: Mapping[str, str],
    silent: Sequence[tuple[str, str]] = (),
) -> Shard:
    """Writes about the shard's fresh passages, unless an earlier call has; the shard without them where nothing can
    be said of any. `since`: by document id the day from which it holds. `silent` as in writing.write()."""
    run.claim()
    written = _written(run)
    _write(written, shard.fresh, amount, engine, recipe, seed, questions, watch, since, silent)
    told = next(iter(within_caps(shard, written)()), None)
    return shard if told is not None else replace(shard, fresh=())


def prepare(
    run: RunFolder, shard: Shard, amount: Amount, engine: Engine, recipe: Recipe, seed: int, watch: Watch
) -> Lesson:
    """Makes the shard's training of what was written about it and of what still stands; what an earlier call has
    made is read. Raises NothingToTeach."""
    written = _written(run)
    new = within_caps(shard, written)
    audit = _join(run, shard, written, new)
    lesson = run
    if shard.begun is not None:
        lesson = RunFolder(run.path / "lesson")
        if not lesson.has_examples:
            told = [*new(), *shard.news]
            size = sum(map(characters, told))
            again = replayed(shard.before, round(size * amount.replay / (1 - amount.replay)), seed)
            lesson.write_examples(chain(told, again))
    if not audit["examples"]:
        named = ", ".join(d.source for d in shard.documents[:5])
        raise NothingToTeach(f"Nothing can be taught of {named}: no sentence stands there. Leave that out.")
    job = job_of(lesson, engine.base, recipe, seed, shard.passages)
    job = taught_by_reader(job, lesson, engine, recipe, shard.passages, watch)
    if shard.begun is not None:
        job = replace(job, spec=Begun(adapter_folder.read(shard.begun)))
    text_tokens = text_tokens_of(job)
    job = replace(job, tokens=max(1, round(amount.visits * text_tokens)))
    written_tokens = round(sum(map(characters, new())) / writing.CHARACTERS_A_TOKEN)
    return Lesson(shard, run, job, text_tokens, written_tokens, audit["examples"], audit)


def _written(run: RunFolder) -> RunFolder:
    """Where the text about a shard's fresh passages is."""
    return RunFolder(run.path / "written")


def within_caps(shard: Shard, written: RunFolder) -> Callable[[], Iterable[Example]]:
    """What was written, without what would tell others' documents more often than the keeper's own."""
    if not any(document.owner for document in shard.documents):
        return written.examples
    every = [*shard.kept(), *written.examples()]
    new = set(written.examples())
    kept = [e for e in capped(every, documents=shard.documents, passages=shard.passages).examples if e in new]
    return lambda: kept


def replayed(examples: Callable[[], Iterable[Example]], wanted: int, seed: int) -> Iterator[Example]:
    """Examples drawn at random until there are about so many characters of them."""
    whole = sum(map(characters, examples()))
    draw = random.Random(f"replay:{seed}")
    return (e for e in examples() if whole <= wanted or draw.random() < wanted / whole)


def characters(example: Example) -> int:
    return sum(len(turn.text) for turn in example.turns)


def _write(
    run: RunFolder,
    fresh: Sequence[Passage],
    amount: Amount,
    engine: Engine,
    recipe: Recipe,
    seed: int,
    questions: Sequence[Question],
    watch: Watch,
    since: Mapping[str, str],
    silent: Sequence[tuple[str, str]],
) -> None:
    """Writes about these passages into a run; nothing about such as nothing can be said of."""
    if fresh and run.read("nothing") is None:
        wanted = round(amount.times * sum(engine.base.count_tokens(p.text) for p in fresh))
        try:
            writing.write(
                run, fresh, engine, recipe, max(1, wanted), seed, questions, watch, since=since, silent=silent
            )
        except NothingToTeach:
            run.write("nothing", {})


def _join(
    run: RunFolder, shard: Shard, written: RunFolder, new: Callable[[], Iterable[Example]]
) -> dict[str, Any]:
    """Writes all that the shard is taught by into its run; returns what the audit counts in it."""
    report: dict[str, Any] | None = run.read("audit")
    if report is None or not run.has_examples:
        audit = Audit(_COUNTED, shard.passages, seed=0)
        audit.looked_over = look_over(shard.passages)
        count = run.write_examples(audit.count_anew(chain(shard.kept(), new(), shard.corrections)))
        told = written.read("audit") or {}
        report = audit.report() | {"examples": count, "too_like_held_out": told.get("too_like_held_out", 0)}
        report |= {key: told.get(key) for key in ("writer", "judge", "prompts", "spent")}
        run.write("audit", report)
    return report
