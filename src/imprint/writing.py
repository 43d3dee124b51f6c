"""The training text of a run: who writes it, in what mix, audited, streamed to disk, some of it held out.

Nothing here holds the whole text. What a writer wrote is kept in the cache, so that a killed run that starts again
streams the same examples anew without asking again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

from imprint import synthesis
from imprint.engine import Engine
from imprint.errors import BadSetting, NothingToTeach, OverBudget
from imprint.evaluation.closed_book import Question
from imprint.evaluation.questions import Apart, hold_out
from imprint.home import cache_folder
from imprint.planner import Work
from imprint.recipe import Recipe
from imprint.run_folder import RunFolder
from imprint.skills import SKILLS, SkilledWriter
from imprint.synthesis import mix
from imprint.synthesis.audit import Audit, AuditSettings, against, look_over
from imprint.synthesis.cloze import passage_askings
from imprint.synthesis.prompt_files import prompt_hashes
from imprint.synthesis.raw_text import RawText
from imprint.synthesis.safety import instructions_in
from imprint.types import Example, Generator, Passage, Prompt, Text, Writer, content_hash
from imprint.watch import SILENT, Watch
from imprint.writers.cache import CachedWriter
from imprint.writers.local import LocalWriter

CHARACTERS_A_TOKEN = 2.9
"""Of questions and answers with their conversation's marks, counted by the bundled base; of prose it is 4.3."""

_REQUESTS = 8
"""Under way at once where the recipe does not say."""
_TOKENS_A_SECOND = 30.0
"""That a server writes for one request: a guess, so that an estimate costs nothing."""

HELD_OUT = 40
"""Questions kept for the proof where the user brings none."""


def kinds(recipe: Recipe) -> list[tuple[Generator, float]]:
    """The recipe's kinds of synthesis with their shares. Raises BadSetting for one that there is not."""
    made = []
    for name, share in recipe.shares.items():
        kind = synthesis.KINDS.get(name)
        if kind is None:
            raise BadSetting(f"No kind of synthesis '{name}'. There are: {', '.join(synthesis.KINDS)}.")
        made.append((kind(), share))
    return made


def writer_for(recipe: Recipe, engine: Engine, watch: Watch) -> CachedWriter:
    """Who writes the training text, remembering what was written."""
    writer = _writer(recipe, engine, watch)
    place = f"{engine.base.revision}-{engine.base.device.name}"
    if recipe.writer.kind != "local":  # two servers may call their models alike
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in writer.name)
        place = f"{name[:80]}-{content_hash(writer.name, recipe.writer.address)}"
    return CachedWriter(writer, cache_folder() / "writes" / f"{place}.jsonl")


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
    """What a writer has to do for each token of training text."""
    characters = 100_000
    asked = mix.effort(kinds(recipe), passages, characters)
    tokens = characters / CHARACTERS_A_TOKEN
    read, written = (n / CHARACTERS_A_TOKEN for n in (asked.read_characters, asked.written_characters))
    prices = recipe.writer
    if prices.kind != "local":
        # A server is sent the passage with each prompt, and once more for each answer that the audit reads again.
        each = sum(len(p.text) for p in passages) / max(1, len(passages)) / CHARACTERS_A_TOKEN
        read = max(read, asked.prompts * (each + 40)) + asked.prompts * (each + 20) * (2 if prices.judge else 1)
        written += asked.prompts * 8 * (2 if prices.judge else 1)
    usd = (read * prices.usd_per_million_in + written * prices.usd_per_million_out) / 1e6
    return Work(asked.prompts / tokens, read / tokens, written / tokens, usd / tokens)


def text_speed(recipe: Recipe, passages: Sequence[Passage], engine: Engine, asked: Work) -> float:
    """Tokens of training text a second: measured by writing a sample of the recipe's prompts where the base writes;
    guessed where it would cost money. `asked`: what work() says of these passages."""
    if not asked.prompts:
        return 1e9
    if recipe.writer.kind != "local":
        return _TOKENS_A_SECOND * (recipe.writer.concurrency or _REQUESTS) / max(asked.written_tokens, 1e-9)
    safe = [p for p in passages if not instructions_in(p)] or list(passages)
    prompts = _prompts(recipe, safe[:: max(1, len(safe) // 6)][:6])
    if not prompts:
        return 1e9
    writer = _writer(recipe, engine, SILENT)
    began = time.monotonic()
    texts = writer.write(prompts, seed=0)
    seconds = time.monotonic() - began
    done = _load(sum(len(t.text) for p in prompts for t in p.turns), sum(len(t.text) for t in texts))
    needed = _load(asked.read_tokens, asked.written_tokens) * CHARACTERS_A_TOKEN
    # The audit reads answers again, and the last batches are half empty.
    return 0.68 * done / seconds / needed


def _load(read: float, written: float) -> float:
    """Reading costs a writer about a sixth of writing."""
    return written + read / 6


class _Listener:
    """A writer that writes nothing and notes what it is asked."""

    name = "listener"

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        self.prompts += prompts
        return [Text("") for _ in prompts]


def _prompts(recipe: Recipe, passages: Sequence[Passage]) -> list[Prompt]:
    """Some of what the kinds ask first, by their shares."""
    found: list[Prompt] = []
    whole = sum(recipe.shares.values())
    for kind, share in kinds(recipe):
        listener = _Listener()
        for _ in kind.examples(passages, listener, seed=0):
            pass
        found += listener.prompts[: max(2, round(48 * share / whole))] if listener.prompts else []
    return found


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
) -> Written:
    """Writes, audits and keeps the training text of this run, unless an earlier call has.

    `questions` are kept out of it; None holds out some of the writer's own. Raises NothingToTeach."""
    report = run.read("audit")
    if report is not None:
        run.drop_draft()
        return Written(report["examples"], report)
    watch.stage("Writing training text")
    before = float((run.read("spent") or {}).get("usd", 0.0))
    writer = writer_for(_with_what_is_left(recipe, before), engine, watch)
    audit = _audit(recipe, passages, text_tokens, seed)
    _say_what_to_see(audit.looked_over, watch)
    try:
        made = _made(passages, recipe, writer, audit, text_tokens, seed, watch)
        run.write_draft(_noting_what_is_spent(made, run, writer, before))
    finally:
        if isinstance(writer.writer, Closing):
            writer.writer.close()
    held = hold_out(run.draft(), HELD_OUT, seed=seed) if questions is None else list(questions)
    apart = Apart(held)
    count = run.write_examples(e for e in run.draft() if apart.keeps(e))
    if not count:
        raise NothingToTeach(
            "Nothing could be written about these documents: they hold no sentence to ask about. "
            "Teach longer texts, or use the recipe generators = ['raw_text']."
        )
    source = "of the user's file" if questions else "held out from what the writer asked"
    run.write_questions(held, source)
    report = audit.report() | {
        "examples": count,
        "too_like_held_out": apart.dropped,
        "writer": writer.name,
        "prompts": prompt_hashes(tuple(recipe.shares)),
        "spent": run.read("spent"),
    }
    run.write("audit", report)
    run.drop_draft()
    _say_summary(report, watch)
    return Written(count, report)


def _audit(recipe: Recipe, passages: Sequence[Passage], text_tokens: int, seed: int) -> Audit:
    wanted = recipe.audit
    settings = AuditSettings(wanted, wanted, wanted, wanted, wanted)
    audit = Audit(settings, passages, planned_tokens=text_tokens, seed=seed)
    audit.looked_over = look_over(passages)
    return audit


def _made(
    passages: Sequence[Passage],
    recipe: Recipe,
    writer: CachedWriter,
    audit: Audit,
    text_tokens: int,
    seed: int,
    watch: Watch,
) -> Iterator[Example]:
    """All that is written. Passages that read like orders to a model are shown to no writer, and learnt as text."""
    characters = round(text_tokens * CHARACTERS_A_TOKEN)
    flagged = {row["passage"] for row in audit.looked_over["instructions"]} if recipe.audit else set()
    safe = [p for p in passages if p.id not in flagged]
    told = 0
    try:
        for example in mix.mixed(
            kinds(recipe), safe, writer, audit, characters=characters, seed=seed, judged=recipe.writer.judge
        ):
            told += sum(len(t.text) for t in example.turns)
            watch.progress("tokens of text", min(told, characters) * text_tokens // characters, text_tokens, "")
            yield example
    except OverBudget as stop:
        watch.say(f"{stop} Training goes on with the text that was written.")
    strange = [p for p in passages if p.id in flagged]
    yield from audit.pass_through(RawText().examples(strange, writer, seed=seed), {p.id: p for p in strange})


def _with_what_is_left(recipe: Recipe, spent_usd: float) -> Recipe:
    """A hard limit holds for all calls of a run together."""
    limit = recipe.writer.max_usd
    if limit is None or not spent_usd:
        return recipe
    return replace(recipe, writer=replace(recipe.writer, max_usd=max(0.0, limit - spent_usd)))


def _noting_what_is_spent(
    examples: Iterator[Example], run: RunFolder, writer: CachedWriter, before_usd: float
) -> Iterator[Example]:
    """The examples; on the way, what the writer cost is written down, so that a kill does not forget it."""

    def note() -> None:
        spent = getattr(writer.writer, "spent", None)
        if spent is not None:
            run.write("spent", asdict(spent) | {"usd": before_usd + spent.usd})

    try:
        for i, example in enumerate(examples):
            if i % 64 == 0:
                note()
            yield example
    finally:
        note()


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
    dropped = sum(row["dropped"] for row in report["counts"].values())
    watch.say(
        f"{report['examples']:,} training examples; {dropped:,} dropped by the audit, "
        f"{report['too_like_held_out']:,} for asking what is held out; {report['untouched']} passages without any."
    )
