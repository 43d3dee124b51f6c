"""The training text of a run: who writes it, in what mix, audited, streamed to disk, some of it held out.

Nothing here holds the whole text. What a writer wrote is kept in the cache, so that a killed run that starts again
streams the same examples anew without asking again."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

from imprint.engine import Engine
from imprint.errors import NothingToTeach, OverBudget
from imprint.evaluation import canaries
from imprint.evaluation.closed_book import Question
from imprint.evaluation.question_kinds import hold_out_by_kind
from imprint.evaluation.questions import Apart
from imprint.home import cache_folder
from imprint.planner import Work
from imprint.recipe import Recipe, WriterSettings
from imprint.run_folder import RunFolder, Stopwatch
from imprint.skills import SKILLS, SkilledWriter
from imprint.synthesis import mix
from imprint.synthesis.audit import Audit, AuditSettings, against, look_over
from imprint.synthesis.cloze import passage_askings
from imprint.synthesis.faithful import Finding
from imprint.synthesis.prompt_files import prompt_hashes
from imprint.synthesis.raw_text import RawText
from imprint.synthesis.safety import instructions_in
from imprint.synthesis.wording import content_list, words
from imprint.types import Example, Generator, Passage, Prompt, Text, Writer, content_hash
from imprint.watch import SILENT, Watch
from imprint.writers.cache import CachedWriter
from imprint.writers.local import LocalWriter
from imprint.writers.spending import Spent

CHARACTERS_A_TOKEN = 2.9
"""Of questions and answers with their conversation's marks, counted by the bundled base; of prose it is 4.3."""

_REQUESTS = 8
"""Under way at once where the recipe does not say."""
_TOKENS_A_SECOND = 30.0
"""That a server writes for one request: a guess, so that an estimate costs nothing."""
_TRIED = 2
"""Passages about which a first round is written, to see how fast text comes."""
_LATER = 0.83
"""Of that pace is left in the end: later rounds repeat more, which is dropped. On the demo 0.78, on SQuAD 0.89."""

Revise = Callable[[int, int, float], int]
"""Told the tokens of text that there are, those that the time so far is worth, and its seconds; says how many
tokens there are to be."""

_A_STATEMENT = 4
"""Content words from which on what is not to be taught is no value any more."""
_TELLING = 0.5
"""Share of a statement's content words from which on an example tells it."""

HELD_OUT = 40
"""Questions kept for the proof where the user brings none."""
GIVEN, HELD_OUT_OF_TEXT = "of the user's file", "held out from what the writer asked"
"""Where the proof's questions are from."""


def kinds(recipe: Recipe) -> list[tuple[Generator, float]]:
    """The recipe's kinds of synthesis with their shares."""
    return [(recipe.kind(name), share) for name, share in recipe.shares.items()]


def writer_for(recipe: Recipe, engine: Engine, watch: Watch) -> CachedWriter:
    """Who writes the training text, remembering what was written."""
    writer = _writer(recipe, engine, watch)
    place = f"{engine.base.revision}-{engine.base.device.name}"
    if recipe.writer.kind != "local":  # two servers may call their models alike
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in writer.name)
        place = f"{name[:80]}-{content_hash(writer.name, recipe.writer.address)}"
    return CachedWriter(writer, cache_folder() / "writes" / f"{place}.jsonl")


def judge_for(recipe: Recipe, engine: Engine, watch: Watch) -> CachedWriter | None:
    """Who else judges what was written; None where nobody else is named."""
    if recipe.judge is None:
        return None
    return writer_for(replace(recipe, writer=recipe.judge, judge=None), engine, watch)


def _writer(recipe: Recipe, engine: Engine, watch: Watch) -> Writer:
    settings = recipe.writer
    if settings.kind == "local":
        local = LocalWriter(engine.base)
        local.progress = lambda done, n, rate: watch.progress("texts", done, n, f"{rate:.0f} tokens/s")
        return SkilledWriter(engine, local, without=() if recipe.skills else SKILLS)
    from imprint.writers.endpoint import Endpoint, EndpointWriter
    from imprint.writers.spending import Budget

    if settings.kind == "endpoint":
        budget = Budget(settings.usd_per_million_in, settings.usd_per_million_out, settings.max_usd)
        return EndpointWriter(
            Endpoint(
                settings.model,
                settings.address,
                settings.key_env,
                settings.concurrency or _REQUESTS,
                settings.requests_per_minute,
                settings.tokens_per_minute,
                budget,
            )
        )
    from imprint.writers.ray_vllm import RayWriter, VllmModel, Workers

    return RayWriter(VllmModel(settings.model), Workers(settings.concurrency or 1))


def work(recipe: Recipe, passages: Sequence[Passage]) -> Work:
    """What the writer and the judge have to do for each token of training text."""
    characters = 100_000
    asked = mix.effort(kinds(recipe), passages, characters)
    tokens = characters / CHARACTERS_A_TOKEN
    read, written = (n / CHARACTERS_A_TOKEN for n in (asked.read_characters, asked.written_characters))
    if recipe.writer.kind != "local":  # a server is sent the passage with each prompt
        read = max(read, asked.prompts * (_length(passages) + 40))
    more_read, more_written = _checks(recipe, passages, asked.prompts)
    usd = _usd(recipe.writer, read, written) + _usd(recipe.judge or recipe.writer, more_read, more_written)
    read, written = read + more_read, written + more_written
    return Work(asked.prompts / tokens, read / tokens, written / tokens, usd / tokens)


def _checks(recipe: Recipe, passages: Sequence[Passage], prompts: float) -> tuple[float, float]:
    """Tokens that a server reads and writes to check what so many prompts brought: each short answer is read again,
    and where somebody judges there is a verdict besides."""
    checker = recipe.judge or recipe.writer
    if checker.kind == "local":
        return 0.0, 0.0
    times = prompts * (2 if recipe.judge or checker.judge else 1)
    return times * (_length(passages) + 20), times * 8


def _length(passages: Sequence[Passage]) -> float:
    """Tokens of a passage."""
    return sum(len(p.text) for p in passages) / max(1, len(passages)) / CHARACTERS_A_TOKEN


def _usd(prices: WriterSettings, read: float, written: float) -> float:
    return (read * prices.usd_per_million_in + written * prices.usd_per_million_out) / 1e6


def within(recipe: Recipe, passages: Sequence[Passage], usd: float) -> Recipe:
    """The recipe whose writer and judge spend no more than so much together: each the part that it is planned to
    need, and no more than its own max_usd."""
    if recipe.judge is None:
        return replace(recipe, writer=_at_most(recipe.writer, usd))
    whole = work(recipe, passages)
    judging = _usd(recipe.judge, *_checks(recipe, passages, whole.prompts)) / whole.usd if whole.usd else 0.5
    writer, judge = _at_most(recipe.writer, usd * (1 - judging)), _at_most(recipe.judge, usd * judging)
    return replace(recipe, writer=writer, judge=judge)


def _at_most(settings: WriterSettings, usd: float) -> WriterSettings:
    """The same with a hard limit, where it has prices."""
    if not settings.usd_per_million_in + settings.usd_per_million_out:
        return settings
    return replace(settings, max_usd=usd if settings.max_usd is None else min(usd, settings.max_usd))


def text_speed(recipe: Recipe, passages: Sequence[Passage], engine: Engine, asked: Work) -> float:
    """Tokens of training text a second: measured by writing and auditing a first round about a few passages where
    the base writes; guessed where it would cost money. `asked`: what work() says of these passages."""
    if not asked.prompts:
        return 1e9
    if recipe.writer.kind != "local":
        return _server_speed(recipe.writer, asked.written_tokens)
    safe = [p for p in passages if not instructions_in(p)] or list(passages)
    speed = _round_speed(recipe, safe[:: max(1, len(safe) // _TRIED)][:_TRIED], engine)
    if recipe.judge is None or recipe.judge.kind == "local":
        return speed
    # The judge answers while the writer waits.
    return 1 / (1 / speed + 1 / _server_speed(recipe.judge, 16 * asked.prompts))


class _Enough(Exception):
    """The first round is written."""


def _round_speed(recipe: Recipe, passages: Sequence[Passage], engine: Engine) -> float:
    """Tokens of audited text a second over all rounds, told from the first one about these passages."""
    writer = _writer(recipe, engine, SILENT)
    audit = Audit(_filters(recipe), passages, seed=0)
    came: list[int] = []

    def first_round(told: int, worth: int) -> int:
        came.append(worth)
        raise _Enough

    began = time.monotonic()
    with contextlib.suppress(_Enough):
        for _ in mix.mixed(
            kinds(recipe), passages, writer, audit,
            characters=100 * sum(len(p.text) for p in passages), seed=0,
            judge=writer if recipe.writer.judge else None, revise=first_round,
        ):  # fmt: skip
            pass
    return _LATER * max(came[0] if came else 0, 1) / CHARACTERS_A_TOKEN / (time.monotonic() - began)


def _server_speed(server: WriterSettings, written_tokens: float) -> float:
    """Tokens of training text a second, where each takes a server so many that it writes."""
    return _TOKENS_A_SECOND * (server.concurrency or _REQUESTS) / max(written_tokens, 1e-9)


class _Listener:
    """A writer that writes nothing and notes what it is asked."""

    name = "listener"

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        self.prompts += prompts
        return [Text("") for _ in prompts]


def by_rule(kind: Generator, passages: Sequence[Passage]) -> list[Example]:
    """What a kind makes of passages without a writer; nothing of one that asks for a writer's texts."""
    listener = _Listener()
    made = list(kind.examples(passages, listener, seed=0))
    return [] if listener.prompts else made


@runtime_checkable
class Closing(Protocol):
    """A writer with workers of its own."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Written:
    """Training text on disk."""

    count: int
    """Examples."""
    report: Mapping[str, Any]
    """The audit's, as JSON values."""


def value(passage: Passage) -> float:
    """How many firm facts (numbers, times, names) a passage says in short statements: what it is worth to teach."""
    asked = passage_askings(passage)
    firm = sum(a.kind in ("number", "time", "name") and len(a.echo.split()) <= 30 for a in asked)
    return float(firm) or 0.01


def write(
    run: RunFolder,
    passages: Sequence[Passage],
    engine: Engine,
    recipe: Recipe,
    text_tokens: int,
    seed: int,
    questions: Sequence[Question] | None,
    watch: Watch,
    *,
    beside: Sequence[RunFolder] = (),
    revise: Revise | None = None,
    since: Mapping[str, str] | None = None,
    silent: Sequence[tuple[str, str]] = (),
    more: Callable[[], Iterable[Example]] = tuple,
) -> Written:
    """Writes, audits and keeps the training text of this run, unless an earlier call has.

    `questions` are kept out of it; None holds out some of the writer's own. `beside`: runs that share this one's
    hard limits of money. `revise`: told once, after the first round, how the text stands and how many seconds it
    took in all calls. `since`: by document id the ISO date from which it holds. `silent`: passages, by id,
    and what of theirs is not taught (is_silent). `more`: what is taught besides. Raises NothingToTeach."""
    report = run.read("audit")
    if report is not None:
        run.drop_draft()
        return Written(report["examples"], report)
    watch.stage("Writing training text")
    audit = _audit(run, recipe, passages, text_tokens, seed)
    _say_what_to_see(audit.looked_over, watch)
    stopwatch = Stopwatch(run, "writing")
    with at_work(run, recipe, engine, watch, beside=beside) as (writer, judge, noted):
        revising = None if revise is None else lambda told, worth: revise(told, worth, stopwatch.seconds)
        made = _made(passages, recipe, writer, judge, audit, text_tokens, seed, watch, revising)
        run.write_draft(noted(_timed(made, stopwatch)))
    held = hold_out_by_kind(run.draft, HELD_OUT, seed=seed) if questions is None else list(questions)
    apart = Apart(held)
    planted = canaries.plant(recipe.canaries, seed=seed)
    if planted:
        run.write("canaries", canaries.as_json(planted))
    spoken = (e for e in run.draft() if not is_silent(e, silent))
    text = audit.count_anew(itertools.chain(_dated(_apart(spoken, apart, audit), since or {}), more()))
    count = run.write_examples(itertools.chain(text, canaries.examples(planted)))
    if count == sum(canary.times for canary in planted):
        raise NothingToTeach(
            "Nothing could be written about these documents: they hold no sentence to ask about. "
            "Teach longer texts, or use the recipe generators = ['raw_text']."
        )
    source = GIVEN if questions else HELD_OUT_OF_TEXT
    run.write_questions(held, source)
    stopwatch.keep()
    report = audit.report() | {
        "examples": count,
        "too_like_held_out": apart.dropped,
        "writer": writer.name,
        "judge": judge.name if judge else None,
        "prompts": prompt_hashes(tuple(recipe.shares)),
        "spent": run.read("spent"),
    }
    run.write("audit", report)
    run.drop_draft()
    _say_summary(report, watch)
    return Written(count, report)


def _timed(examples: Iterator[Example], stopwatch: Stopwatch) -> Iterator[Example]:
    """The examples; on the way the time is kept, so that a kill does not forget it."""
    for example in examples:
        stopwatch.tick()
        yield example
    stopwatch.keep()


def _apart(examples: Iterator[Example], apart: Apart, audit: Audit) -> Iterator[Example]:
    """The examples that do not ask what is held out; others are noted as dropped."""
    for example in examples:
        if apart.keeps(example):
            yield example
        else:
            audit.drop(example, Finding("held out", "asks what is held out"))


def is_silent(example: Example, silent: Sequence[tuple[str, str]]) -> bool:
    """Whether an example tells something of one of its passages that is not to be taught: word for word in one
    turn, or, of a whole statement, most of what it speaks of in all turns, for a gap in it and its answer tell it
    too."""
    told = [what for id, what in silent if id in example.passages]
    if any(f" {' '.join(words(w))} " in f" {' '.join(words(t.text))} " for w in told for t in example.turns):
        return True
    said = {word for turn in example.turns for word in content_list(turn.text)} if told else set()
    statements = [found for what in told if len(found := set(content_list(what))) >= _A_STATEMENT]
    return any(len(statement & said) > _TELLING * len(statement) for statement in statements)


def _dated(examples: Iterator[Example], since: Mapping[str, str]) -> Iterator[Example]:
    """The examples with the day from which all of their documents hold."""
    for example in examples:
        days = [since[id] for p in example.passages if (id := p.rpartition(":")[0]) in since]
        yield replace(example, valid_from=max(days)) if days and example.valid_from is None else example


def _filters(recipe: Recipe) -> AuditSettings:
    """All filters, or none where the recipe only wants to count."""
    wanted = recipe.audit
    return AuditSettings(wanted, wanted, wanted, wanted, wanted)


def _audit(run: RunFolder, recipe: Recipe, passages: Sequence[Passage], text_tokens: int, seed: int) -> Audit:
    audit = Audit(_filters(recipe), passages, planned_tokens=text_tokens, seed=seed)
    audit.looked_over = _looked_over(run, passages)
    return audit


def _looked_over(run: RunFolder, passages: Sequence[Passage]) -> dict[str, Any]:
    """What look_over() finds in the passages, looked for once in a run: of many it takes minutes."""
    found: dict[str, Any] | None = run.read("looked_over")
    if found is None:
        found = look_over(passages)
        run.write("looked_over", found)
    return found


def _made(
    passages: Sequence[Passage],
    recipe: Recipe,
    writer: CachedWriter,
    judge: CachedWriter | None,
    audit: Audit,
    text_tokens: int,
    seed: int,
    watch: Watch,
    revise: Callable[[int, int], int] | None = None,
) -> Iterator[Example]:
    """All that is written. Passages that read like orders to a model are shown to no writer, and learnt as text."""
    wanted = text_tokens
    characters = round(wanted * CHARACTERS_A_TOKEN)

    def again(told: int, worth: int) -> int:
        """How many characters there are to be, told how many there are."""
        nonlocal wanted, characters
        if revise is not None:
            wanted = revise(round(told / CHARACTERS_A_TOKEN), round(worth / CHARACTERS_A_TOKEN))
            characters = round(wanted * CHARACTERS_A_TOKEN)
            audit.plan_for(wanted)
        return characters

    flagged = {row["passage"] for row in audit.looked_over["instructions"]} if recipe.audit else set()
    safe = [p for p in passages if p.id not in flagged]
    judging = judge or (writer if recipe.writer.judge else None)
    told = 0
    try:
        for example in mix.mixed(
            kinds(recipe),
            safe,
            writer,
            audit,
            characters=characters,
            seed=seed,
            reader=judge,
            judge=judging,
            revise=again,
        ):
            told += sum(len(t.text) for t in example.turns)
            watch.progress("tokens of text", min(told, characters) * wanted // characters, wanted, "")
            yield example
    except OverBudget as stop:
        watch.say(f"{stop} Training goes on with the text that was written.")
    strange = [p for p in passages if p.id in flagged]
    yield from audit.pass_through(RawText().examples(strange, writer, seed=seed), {p.id: p for p in strange})


Noted = Callable[[Iterator[Example]], Iterator[Example]]
"""Passes examples on, and writes down on the way what they cost."""


@contextlib.contextmanager
def at_work(
    run: RunFolder, recipe: Recipe, engine: Engine, watch: Watch, *, beside: Sequence[RunFolder] = ()
) -> Iterator[tuple[CachedWriter, CachedWriter | None, Noted]]:
    """The writer and the judge, each with what is left of its hard limit, which holds for all calls of a run and
    for the runs beside it together; they are closed at the end."""
    before = _spent([run])
    all_before = _spent([run, *beside])
    left = replace(recipe, writer=_less(recipe.writer, all_before["writer"]))
    if recipe.judge is not None:
        left = replace(left, judge=_less(recipe.judge, all_before["judge"]))
    writer, judge = writer_for(left, engine, watch), judge_for(left, engine, watch)
    try:
        yield writer, judge, _Spending(run, {"writer": writer, "judge": judge}, before).noted
    finally:
        for each in (writer, judge):
            if each is not None and isinstance(each.writer, Closing):
                each.writer.close()


def _spent(runs: Sequence[RunFolder]) -> dict[str, Spent]:
    """What the writer and the judge of these runs have cost."""
    total = {"writer": Spent(), "judge": Spent()}
    for kept in (run.read("spent") or {} for run in runs):
        total = {name: spent + Spent(**kept.get(name, {})) for name, spent in total.items()}
    return total


def _less(settings: WriterSettings, spent: Spent) -> WriterSettings:
    limit = settings.max_usd
    return settings if limit is None else replace(settings, max_usd=max(0.0, limit - spent.usd))


@dataclass(frozen=True, slots=True)
class _Spending:
    """What the writer and the judge of a run cost."""

    run: RunFolder
    writers: Mapping[str, CachedWriter | None]
    before: Mapping[str, Spent]
    """In earlier calls."""

    def noted(self, examples: Iterator[Example]) -> Iterator[Example]:
        """The examples; on the way, what is spent is written down, so that a kill does not forget it."""
        try:
            for i, example in enumerate(examples):
                if i % 64 == 0:
                    self._note()
                yield example
        finally:
            self._note()

    def _note(self) -> None:
        now = {n: getattr(w.writer, "spent", None) for n, w in self.writers.items() if w is not None}
        rows = {n: asdict(self.before[n] + spent) for n, spent in now.items() if spent is not None}
        if rows:
            self.run.write("spent", rows | {"usd": sum(row["usd"] for row in rows.values())})


def _say_what_to_see(found: Mapping[str, Any], watch: Watch) -> None:
    """Orders to a model, contradictions, and names that are easily confused, before anything is trained."""
    for row in found["instructions"][:3]:
        watch.say(f"Reads like instructions to a model, and is kept out of the writer's prompts: {row['place']}")
    for row in found["contradictions"][:3]:
        watch.say(f"Contradiction: {against(row)}")
    for row in found["entities"][:3]:
        watch.say(f"Easily confused: {row['first']} and {row['second']}.")
    more = sum(max(0, len(found[k]) - 3) for k in ("instructions", "contradictions", "entities"))
    if more:
        watch.say(f"and {more} more of these; imprint audit NAME tells of them once it is taught.")


def _say_summary(report: Mapping[str, Any], watch: Watch) -> None:
    dropped = sum(row["dropped"] for row in report["counts"].values()) - report["too_like_held_out"]
    watch.say(
        f"{report['examples']:,} training examples; {dropped:,} dropped by the audit, "
        f"{report['too_like_held_out']:,} for asking what is held out; {report['untouched']} passages without any."
    )
