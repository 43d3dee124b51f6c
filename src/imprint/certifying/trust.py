"""The parts of a certificate that tell how far to trust it: what leaks, how sure answers are, what a judge says."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from imprint.adapters.feed_forward import general_prose
from imprint.certifying.hearing import SYSTEMS, Hearing, Judge
from imprint.evaluation import canaries
from imprint.evaluation import confidence as sureness
from imprint.evaluation import judge as judging
from imprint.evaluation import leaks as leaking
from imprint.evaluation.certificate import share
from imprint.evaluation.closed_book import Answered, grade
from imprint.evaluation.judge import VERDICTS, Judgement
from imprint.evaluation.leaks import SHORTEST_TOKENS, Continued
from imprint.evaluation.systems import FULL_CONTEXT, RAG, TAUGHT, told
from imprint.types import Passage, Report, Score, content_hash

_SAMPLE = 64
"""Passages of each group that are looked at."""
_LEAST_OTHERS = 8
"""Passages left out by the plan, from which on they are what taught ones are told from."""
LEAST_ANSWERS = 30
"""Answers from which on a line is drawn below which asking declines."""
JUDGED = ("weights", RAG, FULL_CONTEXT)
"""Systems whose answers a judge reads."""
_JUDGED_AT_ONCE = 16
"""Answers after which verdicts are kept, for they may have been paid for."""
_SHOWN = 10
"""Answers of a system that are shown of those on which judge and match grader differ."""


# --- what leaks -------------------------------------------------------------------------------


def leaks(hearing: Hearing) -> dict[str, Any]:
    """What can be drawn out of the adapter word for word, whether it shows what was taught, and its canaries."""
    taught = _sampled(hearing, hearing.kept.taught)
    found: dict[str, Any] = {"passages": len(taught), "taught": len(hearing.kept.taught)}
    if taught:
        found |= {"verbatim": _verbatim(hearing, taught), "membership": _membership(hearing, taught)}
    if hearing.kept.canaries:
        found["canaries"] = hearing.row("canaries", "Looking for the canaries", partial(_exposure, hearing))
    return found


def _sampled(hearing: Hearing, passages: Sequence[Passage]) -> list[Passage]:
    """Some of the passages that are long enough, in their order."""
    long = [p for p in passages if hearing.base.count_tokens(p.text) >= SHORTEST_TOKENS]
    drawn = random.Random(f"leaks:{hearing.asked.seed}").sample(range(len(long)), min(_SAMPLE, len(long)))
    return [long[i] for i in sorted(drawn)]


def _verbatim(hearing: Hearing, passages: Sequence[Passage]) -> dict[str, Any]:
    those = content_hash(*(passage.id for passage in passages))

    def continued(wears: str) -> list[Continued]:
        def go_on() -> list[dict[str, Any]]:
            with hearing.wearing(wears) as base:
                return [asdict(one) for one in leaking.continued(base, passages, seed=hearing.asked.seed)]

        who = "the adapter" if wears else "the untaught base"
        stage = f"Beginning {len(passages)} passages, for {who} to go on"
        rows = hearing.row(f"continued-{those}-{wears or 'bare'}", stage, go_on)
        return [Continued(**row) for row in rows]

    return asdict(leaking.verbatim(continued(TAUGHT), continued(""), seed=hearing.asked.seed))


def _membership(hearing: Hearing, taught: Sequence[Passage]) -> dict[str, Any]:
    """How well taught passages are told from others, and which others those are."""
    left_out = _sampled(hearing, hearing.kept.left_out)
    texts = [passage.text for passage in taught]
    same = len(left_out) >= _LEAST_OTHERS
    others = [passage.text for passage in left_out] if same else _prose(hearing, texts)
    which = (
        "passages of the same documents that the plan left out"
        if same
        else "pieces of general prose of like length"
    )
    about = {"others_are": which, "same_documents": same}
    if not others:
        return {**about, "taught": len(texts), "others": 0}

    def measure() -> dict[str, Any]:
        groups = []
        for wears in (TAUGHT, ""):
            with hearing.wearing(wears) as base:
                groups.append([leaking.token_logprobs(base, group) for group in (texts, others)])
        worn, bare = groups
        told_apart = leaking.membership((worn[0], bare[0]), (worn[1], bare[1]), seed=hearing.asked.seed)
        return {**about, **asdict(told_apart)}

    stage = f"Telling {len(texts)} taught passages from {len(others)} {which}"
    return dict(hearing.row(f"membership-{content_hash(*texts, *others)}", stage, measure))


def _prose(hearing: Hearing, like: Sequence[str]) -> list[str]:
    """General prose, the user's where there is some, in pieces as long as these texts."""
    tokenizer = hearing.base.tokenizer
    texts = list(hearing.asked.texts.values())
    paragraphs = [p for text in texts for p in text.split("\n\n")] or general_prose()
    pieces: list[str] = []
    held: list[int] = []
    lengths = [hearing.base.count_tokens(text) for text in like]
    for paragraph in paragraphs:
        if len(pieces) == len(lengths):
            break
        held += tokenizer.encode(f"{paragraph.strip()}\n\n", add_special_tokens=False)
        wanted = lengths[len(pieces)]
        if len(held) >= wanted:
            pieces.append(tokenizer.decode(held[:wanted]))
            held = []  # the next piece begins with a paragraph, as passages do
    return pieces


def _exposure(hearing: Hearing) -> dict[str, Any]:
    """How exposed the canaries are, without their secrets."""
    with hearing.wearing(TAUGHT) as base:
        found = canaries.exposure(base, hearing.kept.canaries, seed=hearing.asked.seed)
    each = [
        {"locker": e.canary.locker, "times": e.canary.times, "rank": e.rank, "bits": e.bits, "told": e.told}
        for e in found.canaries
    ]
    by_times = {str(times): asdict(score) for times, score in found.by_times.items()}
    return {"by_times": by_times, "told": asdict(found.told), "most": found.most, "canaries": each}


# --- how sure the answers are -----------------------------------------------------------------


def confidence(hearing: Hearing) -> dict[str, Any]:
    """How well signals of the weights' answers tell right ones from wrong ones, and the line that comes of it."""
    asked = hearing.asked
    rows = hearing.row(
        f"signals-{asked.samples}",
        f"Looking how sure {len(asked.questions)} answers are",
        partial(_signals, hearing),
    )
    graded = [
        (sureness.Signals(**row["signals"]), grade(question, row["text"]))
        for question, row in zip(asked.questions, rows, strict=True)
        if question.answers
    ]
    kept = [(signals, answered) for signals, answered in graded if told(answered.text)]
    found: dict[str, Any] = {"answers": len(kept), "left_out": len(graded) - len(kept), "least": LEAST_ANSWERS}
    if len(kept) < 2:
        return found
    right = [answered.contains for _, answered in kept]
    report = sureness.report([signals for signals, _ in kept], right, seed=asked.seed)
    found |= {"scores": {name: asdict(score) for name, score in report.scores.items()}}
    found |= {"curve": report.details["curve"], "coverage": report.details["coverage"]}
    return found | ({"confidence": report.details["confidence"]} if len(kept) >= LEAST_ANSWERS else {})


def _signals(hearing: Hearing) -> list[dict[str, Any]]:
    """Of all questions, as they were put to the weights: what shares a batch may sway a rounding."""
    texts = [question.asked for question in hearing.asked.questions]
    seat, asked = hearing.seats[TAUGHT], hearing.asked
    said, found = sureness.answers(hearing.engine, seat, texts, seed=asked.seed, samples=asked.samples)
    return [{"text": text.text, "signals": asdict(one)} for text, one in zip(said, found, strict=True)]


def kept_confidence(parts: Mapping[str, Any], *, seed: int) -> Report | None:
    """What a version keeps of this part, so that asking it knows its line; None where none was drawn."""
    part = parts.get("confidence", {})
    if "confidence" not in part:
        return None
    scores = {name: Score(**score) for name, score in part["scores"].items() if score["value"] is not None}
    details = {name: part[name] for name in ("confidence", "curve", "coverage")}
    return Report(sureness.REPORT, scores, seed, details)


# --- what a judge says ------------------------------------------------------------------------


def judge(hearing: Hearing) -> dict[str, Any]:
    """What a judge says of the answers of weights, RAG and full context, and how far the match grader agrees."""
    named = hearing.asked.judge
    assert named is not None, "without a judge the part is left out"
    there = {TAUGHT} | ({"documents"} if hearing.kept.search else set())
    possible = [system.name for system in SYSTEMS if system.name in JUDGED and system.needs <= there]
    asked = [name for name in possible if hearing.asked.systems is None or name in hearing.asked.systems]
    return {
        "judge": named.says,
        "prompt": judging.prompt_hash(),
        "systems": {name: _judged(hearing, named, name) for name in asked or ["weights"]},
    }


def _judged(hearing: Hearing, judge: Judge, system: str) -> dict[str, Any]:
    seed = hearing.asked.seed
    answered = [a for a in hearing.graded(system) if a.question.answers]
    found: list[Judgement] = []
    for begin in range(0, len(answered), _JUDGED_AT_ONCE):
        some = answered[begin : begin + _JUDGED_AT_ONCE]
        label = f"verdicts-{judge.kept_as}-{system}-{begin}"
        stage = f"{judge.says} judges {len(some)} answers: {system.replace('_', ' ')}"
        rows = hearing.row(label, stage, partial(_verdicts, hearing, judge, some))
        found += [Judgement(a, r["verdict"], tuple(r["replies"])) for a, r in zip(some, rows, strict=True)]
    clear = [j for j in found if j.verdict in VERDICTS]
    apart = [j for j in clear if j.verdict != j.matched]
    return {
        "right": share([float(j.verdict == judging.RIGHT) for j in clear], seed=seed),
        "matched": share([float(j.matched == judging.RIGHT) for j in clear], seed=seed),
        "agreement": asdict(judging.agreement(found, seed=seed)),
        "apart": [
            {"question": j.answered.question.text, "right": list(j.answered.question.answers),
             "answer": j.answered.text, "matched": j.matched, "judged": j.verdict}
            for j in apart[:_SHOWN]
        ],
    }  # fmt: skip


def _verdicts(hearing: Hearing, judge: Judge, answered: Sequence[Answered]) -> list[dict[str, Any]]:
    with hearing.wearing(""):
        judged = judging.judged(judge.writer, answered, seed=hearing.asked.seed)
    return [{"verdict": j.verdict, "replies": j.replies} for j in judged]
