"""General ability by log-likelihood: what the model could do before and no longer can, task by task.

Nothing is written and nothing is read out of an answer: an item is right where the right words are the likelier
ones. That is cheap, has no grader, and sees damage that a greedy answer hides.

How an item is scored (Rule):

- CHARACTERS  Of several continuations the right one has the highest log-likelihood for each of its characters, so
              that long choices are not punished for their length; lm-evaluation-harness calls it acc_norm. ARC,
              OpenBookQA, PIQA, COPA, BoolQ, CommonsenseQA, MMLU, SVAMP.
- WHOLE       The right one has the highest log-likelihood as a whole. BLiMP's sentences, which differ in little;
              and Winogrande, where one and the same ending is read after either name (partial scoring, Trinh and
              Le 2018, arXiv 1806.02847): there is no length to even out.
- GREEDY      Each token of the one continuation is the likeliest in its turn. LAMBADA's last word, as it is
              commonly scored.

SVAMP's numbers are chosen among four: the right one, and what other operations make of the problem's own numbers,
filled up with near ones drawn by the problem's hash. It is easier than writing the number, and it is measurable
where a small model writes hardly any.

MMLU and CommonsenseQA show their choices by letter and ask for the letter; no examples precede any question."""

from __future__ import annotations

import enum
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imprint.base import Base
from imprint.errors import BadInput
from imprint.evaluation.closed_book import interval
from imprint.evaluation.likelihood import Judged, Row, judge
from imprint.types import Score, content_hash


class Rule(enum.Enum):
    """What makes an item right."""

    CHARACTERS = "characters"
    WHOLE = "whole"
    GREEDY = "greedy"


@dataclass(frozen=True, slots=True)
class Item:
    """Continuations, each with the text that it continues, of which one is right."""

    task: str
    texts: tuple[tuple[str, str], ...]
    """(what stands before, what is judged); the second with the space it begins with."""
    right: int
    rule: Rule = Rule.CHARACTERS


# --- reading ----------------------------------------------------------------------------------


def read_suite(folder: Path) -> list[Item]:
    """The items of all JSONL files of a folder, or of one such file; a file's name is its task's.

    A line's fields tell what it is: query, choices and gold; context and continuation; context, chain_of_thought
    and answer; context_options, continuation and gold; question, choices and answer; sentence_good and
    sentence_bad. Raises BadInput naming file and line."""
    paths = [folder] if folder.is_file() else sorted(folder.glob("*.jsonl"))
    if not paths:
        raise BadInput(f"There is no suite at {folder}. Name a folder of JSONL files, one a task, or one file.")
    items = [item for path in paths for item in _read(path)]
    if not items:
        raise BadInput(f"The files of {folder} hold no item. Give one JSON object a line.")
    return items


def _read(path: Path) -> list[Item]:
    task = re.sub(r"_\d.*$", "", path.stem)
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{path} cannot be read as UTF-8 text: {error}") from None
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{where} is not JSON ({error}). Give one object a line.") from None
        items.append(_item(record, task, where))
    return items


def _item(record: Any, task: str, where: str) -> Item:
    made = next((make for fields, make in _FORMS if isinstance(record, dict) and fields <= record.keys()), None)
    if made is None:
        known = "; ".join(", ".join(sorted(fields)) for fields, _ in _FORMS)
        raise BadInput(f"{where}: expected an object with the fields of one of: {known}. Found {record!r:.60}")
    try:
        item = made(record, task)
    except (TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{where}: a field does not hold what it should ({error}). Found {record!r:.80}") from None
    if not 0 <= item.right < len(item.texts):
        raise BadInput(f"{where}: the right one is number {item.right} of {len(item.texts)}, counted from 0.")
    if not all(judged.strip() for _, judged in item.texts):
        raise BadInput(f"{where}: one of the texts to judge is empty. Found {record!r:.80}")
    return item


def _chosen(record: Mapping[str, Any], task: str) -> Item:
    """A question with its choices, or a sentence with its ends."""
    query = _text(record["query"]).strip()
    asks = re.match(r"(?:Question|Passage):", query) and not query.endswith("Answer:")
    before = f"{query}\nAnswer:" if asks else query
    return Item(task, tuple((before, f" {_text(c)}") for c in record["choices"]), int(record["gold"]))


def _lettered(record: Mapping[str, Any], task: str) -> Item:
    """A question of MMLU: the choices are shown, and their letters are judged."""
    letters = "ABCDEFGHIJ"[: len(record["choices"])]
    shown = "".join(f"\n{letter}. {_text(c)}" for letter, c in zip(letters, record["choices"], strict=True))
    before = f"Question: {_text(record['question']).strip()}{shown}\nAnswer:"
    return Item(task, tuple((before, f" {letter}") for letter in letters), int(record["answer"]))


def _last_word(record: Mapping[str, Any], task: str) -> Item:
    return Item(task, ((_text(record["context"]), f" {_text(record['continuation']).strip()}"),), 0, Rule.GREEDY)


def _either_name(record: Mapping[str, Any], task: str) -> Item:
    end = _text(record["continuation"]).strip()
    judged = f" {end}" if end[:1].isalnum() else end
    return Item(task, tuple((_text(o), judged) for o in record["context_options"]), int(record["gold"]), Rule.WHOLE)


def _pair(record: Mapping[str, Any], task: str) -> Item:
    return Item(task, (("", _text(record["sentence_good"])), ("", _text(record["sentence_bad"]))), 0, Rule.WHOLE)


def _sum(record: Mapping[str, Any], task: str) -> Item:
    """A word problem with four numbers to choose from."""
    problem, right = _text(record["context"]), float(record["answer"])
    draw = random.Random(content_hash(problem))
    own = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", problem)]
    others = {x for a in own for b in own for x in (a + b, a - b, a * b, a / (b or 1), a)}
    wrong = sorted(x for x in others if x >= 0 and x != right and (x == int(x)) == (right == int(right)))
    draw.shuffle(wrong)
    near = [right + step for step in (1, 2, -1, 10, 3)]
    wrong = list(dict.fromkeys([*wrong, *(x for x in near if x >= 0)]))[:3]
    numbers = [f"{x:.10g}" for x in (right, *wrong)]
    return Item(task, tuple((f"Question: {problem}\nAnswer:", f" {n}") for n in numbers), 0)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


_FORMS: tuple[tuple[frozenset[str], Callable[[Mapping[str, Any], str], Item]], ...] = (
    (frozenset({"query", "choices", "gold"}), _chosen),
    (frozenset({"question", "choices", "answer"}), _lettered),
    (frozenset({"context_options", "continuation", "gold"}), _either_name),
    (frozenset({"context", "continuation"}), _last_word),
    (frozenset({"context", "chain_of_thought", "answer"}), _sum),
    (frozenset({"sentence_good", "sentence_bad"}), _pair),
)


# --- measuring --------------------------------------------------------------------------------


def measure(base: Base, items: Sequence[Item]) -> list[float]:
    """1.0 for each item that the model as it is now gets right, else 0.0.

    Wear an adapter (Engine.wearing) to measure it. What does not fit the model's window loses its beginning."""
    rows = [_row(base, before, judged) for item in items for before, judged in item.texts]
    verdicts = iter(judge(base, rows))
    return [float(_right(item, [next(verdicts) for _ in item.texts])) for item in items]


def _row(base: Base, before: str, judged: str) -> Row:
    tail = base.tokenizer.encode(judged, add_special_tokens=False)
    head = base.tokenizer.encode(before, add_special_tokens=False) if before else []
    if not head:  # what opens a text is predicted from the token that parts texts
        special = (base.tokenizer.bos_token_id, base.tokenizer.eos_token_id)
        head = [next(i for i in special if i is not None)]
    tail = tail[: base.window_tokens - 1]
    head = head[max(0, len(head) + len(tail) - base.window_tokens) :]
    return Row((*head, *tail), len(head))


def _right(item: Item, verdicts: Sequence[Judged]) -> bool:
    if item.rule is Rule.GREEDY:
        return verdicts[item.right].greedy
    scores = [sum(v.logprobs) for v in verdicts]
    if item.rule is Rule.CHARACTERS:
        scores = [score / len(text.strip()) for score, (_, text) in zip(scores, item.texts, strict=True)]
    # Where two are as likely as each other, neither was preferred.
    return all(scores[item.right] > score for i, score in enumerate(scores) if i != item.right)


def by_task(items: Sequence[Item], right: Sequence[float], *, seed: int) -> dict[str, Score]:
    """The share right of each task with its interval, in the order in which tasks come."""
    tasks = dict.fromkeys(item.task for item in items)
    pairs = list(zip(items, right, strict=True))
    return {task: interval([r for item, r in pairs if item.task == task], seed=seed) for task in tasks}


def paired(
    before: Sequence[float],
    after: Sequence[float],
    *,
    seed: int,
    tasks: Sequence[str] | None = None,
    draws: int = 2000,
) -> Score:
    """The mean difference after - before over the same items, with its 95 % paired bootstrap interval.

    The same items are drawn for both, so that what is hard for both does not widen the interval; with `tasks` (one
    name for each item) as many of each task as there are. Every item counts the same."""
    if len(before) != len(after) or (tasks is not None and len(tasks) != len(before)):
        raise BadInput(
            f"{len(before)} items before and {len(after)} after cannot be paired. Measure both on the same items."
        )
    change = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    if not len(change):
        return Score(float("nan"), float("nan"), float("nan"), 0)
    random_numbers = np.random.default_rng(seed)
    strata = np.asarray(tasks if tasks is not None else [""] * len(change))
    sums = np.zeros(draws)
    for task in dict.fromkeys(strata.tolist()):
        part = change[strata == task]
        sums += part[random_numbers.integers(0, len(part), (draws, len(part)))].sum(1)
    low, high = np.percentile(sums / len(change), [2.5, 97.5])
    return Score(float(change.mean()), float(low), float(high), len(change))
