"""An adapter that is worn only where a text is about its documents; everything else is the bare base's.

Nothing is asked again: of every question, item and window either the adapter's result counts or the untouched
base's, as the router would choose. The router is engine.choice: the text before an answer must have become
likelier, by more than most general text does. It reads what is known before the answer: a question, what
an item's continuations have in common (or, where that is nothing, the continuations), a window's first tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from imprint.base import Base
from imprint.engine import Engine, Seat, choice
from imprint.engine.choice import READ_TOKENS, Opened
from imprint.evaluation.closed_book import interval
from imprint.evaluation.examination import Examination
from imprint.evaluation.forgetting import Perplexity, windows_of
from imprint.evaluation.interference import unrelated_questions
from imprint.evaluation.suites import Item

Row = Mapping[str, Any]


def routed(engine: Engine, seat: Seat, examination: Examination, bare: Row, worn: Row) -> dict[str, Any]:
    """What the adapter with a router before it comes to, from the rows (examine()) of the bare base and of the
    adapter: learnt, perplexity and suites as they have them, interference, and `accepted`, the share of each kind
    of text that the adapter was given."""
    limit, seed = choice.threshold(engine, seat), examination.seed

    def accepts(rows: Sequence[Opened]) -> list[bool]:
        return [gain > limit for gain in choice.row_gains(engine, [seat], rows)[:, 0].tolist()]

    def about(questions: Sequence[str]) -> list[bool]:
        return accepts([choice.asked(engine, q) for q in questions])

    asked = [q.asked for q in examination.questions]
    accepted = {
        "questions": about(asked),
        "strangers": about([q.text for q in examination.strangers]),
        "unrelated": about(unrelated_questions()) if worn["interference"] else [],
    }
    pairs = zip(accepted["questions"], worn["answers"], bare["answers"], strict=True)
    right = [(mine if take else theirs)["contains"] for take, mine, theirs in pairs if mine["right"]]
    found: dict[str, Any] = {"threshold": limit, "suites": {}, "perplexity": {}}
    for name, items in examination.suites.items():
        takes = _items(engine.base, items, accepts)
        accepted[name] = takes
        found["suites"][name] = _mixed_suite(takes, worn["suites"][name], bare["suites"][name], seed)
    for name, text in examination.texts.items():
        takes = accepts([(piece[:READ_TOKENS], 1) for piece in windows_of(engine.base, text)])
        accepted[name] = takes
        found["perplexity"][name] = _mixed_text(takes, worn["perplexity"][name], bare["perplexity"][name])
    score = interval(right, seed=seed)
    found["learnt"] = {"score": score.value, "low": score.low, "high": score.high, "n": score.n}
    if worn["interference"]:
        found["interference"] = _interference(accepted["unrelated"], worn, seed)
    found["accepted"] = {name: asdict(interval(list(map(float, t)), seed=seed)) for name, t in accepted.items()}
    return found


def _items(base: Base, items: Sequence[Item], accepts: Any) -> list[bool]:
    """Whether the adapter is given each item."""
    rows: list[Opened] = []
    owners: list[int] = []
    for i, item in enumerate(items):
        before = list(dict.fromkeys(text for text, _ in item.texts if len(text.split()) >= 2))
        for text in before or [after for _, after in item.texts]:
            rows.append(_opened(base, text))
            owners.append(i)
    found = [False] * len(items)
    for i, take in zip(owners, accepts(rows), strict=True):
        found[i] = found[i] or take
    return found


def _opened(base: Base, text: str) -> Opened:
    return tuple(base.tokenizer.encode(text, add_special_tokens=False)[:READ_TOKENS]), 1


def _mixed_suite(takes: Sequence[bool], worn: Row, bare: Row, seed: int) -> dict[str, Any]:
    right = [a if take else b for take, a, b in zip(takes, worn["right"], bare["right"], strict=True)]
    return asdict(interval(right, seed=seed)) | {"right": right, "tasks": worn["tasks"]}


def _mixed_text(takes: Sequence[bool], worn: Row, bare: Row) -> dict[str, Any]:
    nats = [a if take else b for take, a, b in zip(takes, worn["nats"], bare["nats"], strict=True)]
    return {"nats": nats, "tokens": worn["tokens"], "value": Perplexity(tuple(nats), tuple(worn["tokens"])).value}


def _interference(takes: Sequence[bool], worn: Row, seed: int) -> dict[str, Any]:
    """Answers that speak of the documents, of those that the adapter was given."""
    spoke = {told["question"] for told in worn["spoke"]}
    pairs = zip(takes, unrelated_questions(), strict=True)
    return asdict(interval([float(take and question in spoke) for take, question in pairs], seed=seed))
