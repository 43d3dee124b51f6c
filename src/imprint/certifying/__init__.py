"""A certificate made: every system and every part is a row that is kept as it ends, so that a killed proof goes on.

    system-weights-0.json                       what a system said, and what that took
    perplexity-*, suite-*, unrelated-*.json     what was forgotten: of the bare base, and of the adapter
    continued-*, membership-*, canaries.json    what leaks
    signals-*, verdicts-*.json                  how sure the answers are, what a judge said of them
    facts.json, citations.json, rot-*.json      coverage, sources, context rot

A new system is a small object (evaluation/systems.py) and a line in SYSTEMS; a new part is a function from a
Hearing to JSON values and a line in PARTS."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from imprint.certifying.hearing import SYSTEMS, Asked, Hearing, Judge, Kept
from imprint.certifying.parts import PARTS, wanted_parts
from imprint.certifying.trust import kept_confidence
from imprint.engine import Engine, Seat
from imprint.errors import BadSetting
from imprint.evaluation import certificate, open_book
from imprint.evaluation.certificate import Certificate, Measured
from imprint.evaluation.systems import FULL_CONTEXT, RAG, RAW_TEXT, READ, TAUGHT, Rival, System, named
from imprint.run_folder import RunFolder
from imprint.skills import skill
from imprint.types import Adapter
from imprint.watch import SILENT, Watch

__all__ = ["PARTS", "SYSTEMS", "Asked", "Judge", "Kept", "certify", "kept_confidence"]


def certify(
    titled: tuple[str, int],
    adapter: Adapter,
    engine: Engine,
    asked: Asked,
    kept: Kept,
    rows: RunFolder,
    *,
    raw_text: Callable[[], Adapter] | None = None,
    about: Mapping[str, Any] | None = None,
    watch: Watch = SILENT,
) -> Certificate:
    """Asks the systems, measures the parts, and puts the certificate together; what `rows` hold is not made again.

    `titled`: the version's name and number. `raw_text` trains the naive rival, where it is to be asked too."""
    base = engine.base
    reader = skill("read", base)
    there = {TAUGHT} | ({READ} if reader else set()) | ({RAW_TEXT} if raw_text else set())
    there |= {"documents"} if kept.search else set()
    there |= ({"canaries"} if kept.canaries else set()) | ({"judge"} if asked.judge else set())
    wanted = _wanted_systems(asked, there)
    parts = wanted_parts(asked.parts, there)
    with contextlib.ExitStack() as stack:
        seats = {TAUGHT: stack.enter_context(_loaded(engine, adapter))}
        if reader is not None:
            seats[READ] = stack.enter_context(_loaded(engine, reader))
        naive = any(system.name == RAW_TEXT for system in wanted) and rows.read(f"system-{RAW_TEXT}-0") is None
        if naive and raw_text is not None:
            seats[RAW_TEXT] = stack.enter_context(_loaded(engine, raw_text()))
        context = open_book.full_context(
            kept.documents, window_tokens=base.window_tokens, count_tokens=base.count_tokens
        )
        hearing = Hearing(engine, seats, asked, kept, rows, watch, context if kept.search else None)
        systems = {system.name: _measured(system, hearing) for system in wanted}
        found = {name: PARTS[name].measure(hearing) for name in parts}
    return Certificate(
        name=titled[0],
        version=titled[1],
        base=base.name,
        about=certificate.jsonable({**_about(hearing), **(about or {})}),
        questions_from=asked.questions_from,
        n=sum(bool(question.answers) for question in asked.questions),
        systems=systems,
        differences=certificate.differences(systems, _pairs(systems), seed=asked.seed),
        parts=certificate.jsonable(found),
        notes=_notes(hearing, wanted, there),
        seed=asked.seed,
    )


@contextlib.contextmanager
def _loaded(engine: Engine, adapter: Adapter) -> Iterator[Seat]:
    seat = engine.load(adapter)
    try:
        yield seat
    finally:
        engine.unload(seat)


def _wanted_systems(asked: Asked, there: set[str]) -> list[System]:
    offered = [*SYSTEMS, *asked.rivals]
    if asked.systems is None:
        return [system for system in offered if system.needs <= there]
    wanted = named(offered, asked.systems)
    for system in wanted:
        if missing := sorted(system.needs - there):
            told = {
                READ: "the base does not carry the skill `read`",
                RAW_TEXT: "it is trained with --raw-text only",
                "documents": "the documents are not kept here",
            }
            raise BadSetting(f"System '{system.name}' cannot be asked: {told.get(missing[0], missing[0])}.")
    return wanted


def _measured(system: System, hearing: Hearing) -> Measured:
    asked = hearing.asked
    answers = hearing.answers(system)
    return certificate.measured(
        system.says, system.means, answers, asked.questions, seed=asked.seed, usd_per_hour=asked.usd_per_hour
    )


def _pairs(systems: Mapping[str, Measured]) -> list[tuple[str, str]]:
    """What is compared: the weights with all others, and what joins weights and reader with the better of both."""
    pairs = [("weights", name) for name in systems if name != "weights"] if "weights" in systems else []
    for name, way in (("weights_rag", RAG), ("weights_full_context", FULL_CONTEXT)):
        reader = next((r for r in (f"{way}_read", way) if r in systems), None)
        if name in systems and reader:
            pairs.append((name, reader))
    return pairs


def _about(hearing: Hearing) -> dict[str, Any]:
    base, asked, kept = hearing.base, hearing.asked, hearing.kept
    return {
        "device": base.device.description,
        "dtype": str(base.device.dtype).removeprefix("torch."),
        "base_revision": base.revision,
        "documents": [d.title for d in kept.documents],
        "passages": len(kept.passages),
        "questions": len(asked.questions),
        "window_tokens": base.window_tokens,
        "suites": {name: len(items) for name, items in asked.suites.items()},
        "usd_per_hour": asked.usd_per_hour,
        "answer_tokens": open_book.ANSWER_TOKENS,
        "seed": asked.seed,
    }


def _notes(hearing: Hearing, wanted: Sequence[System], there: set[str]) -> list[str]:
    notes = []
    if "documents" not in there:
        notes.append("The documents are not kept here: nothing that reads or searches them could be asked.")
    elif hearing.context is not None and hearing.context.left_out:
        notes.append(f"Full context did not fit; cut: {', '.join(hearing.context.left_out)}.")
    if READ not in there and any(system.needs & {"documents"} for system in wanted):
        notes.append("This base carries no skill `read`: what reads is the base as it is.")
    for system in wanted:
        if isinstance(system, Rival) and system.context is not None and system.context.left_out:
            notes.append(f"{system.says}: cut to its window: {', '.join(system.context.left_out)}.")
    return notes
