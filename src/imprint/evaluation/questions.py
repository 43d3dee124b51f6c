"""Questions for the proof: read from the user's file, or held out from what the writer wrote."""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from imprint.errors import BadQuestions
from imprint.evaluation.closed_book import UNANSWERABLE, Question, normalised
from imprint.types import Example, content_hash

_ALIKE = 0.8
"""Share of words in common (Jaccard) from which a training question is too like a held-out one."""
_OWN_QUESTIONS = ("/short", "/question")
"""Variants of generators that ask a question with a short answer."""
_WITHIN = 0.95
"""Share of a held-out question's words that make a longer one of up to 40 words too like it."""


def read_questions(path: Path) -> list[Question]:
    """Questions of a JSONL, JSON or CSV file with the fields question, answer and, if given, also, kind, wrong and
    as_of.

    An empty answer means that the documents do not tell. `wrong`: what a near-duplicate says in its place; `as_of`:
    the ISO date for which is asked. Raises BadQuestions naming the line."""
    records = _records(path, _read(path))
    questions = [_question(record, f"{path}, item {i}") for i, record in enumerate(records, 1)]
    if not questions:
        raise BadQuestions(f"{path} holds no question. Give one JSON object a line: question, answer.")
    if not any(q.answers for q in questions):
        raise BadQuestions(f"No question of {path} has an answer, so that nothing can be scored. Add some that do.")
    return questions


def given_questions(questions: str | Path | Sequence[Question] | None) -> list[Question] | None:
    """The questions that were given, in a file or as they are; None where none were."""
    if questions is None:
        return None
    return read_questions(Path(questions)) if isinstance(questions, str | Path) else list(questions)


def read_strangers(path: Path) -> list[Question]:
    """Questions that the documents do not answer: of a text file one a line, else of a questions file, where
    answers are set aside. Raises BadQuestions."""
    if path.suffix == ".txt":
        found = [Question(line.strip(), (), UNANSWERABLE) for line in _read(path).splitlines() if line.strip()]
    else:
        records = _records(path, _read(path))
        found = [_stranger(record, f"{path}, item {i}") for i, record in enumerate(records, 1)]
    if not found:
        raise BadQuestions(f"{path} holds no question. Give one a line.")
    return found


def _stranger(record: Any, where: str) -> Question:
    asked = record.get("question") if isinstance(record, dict) else None
    if not isinstance(asked, str) or not asked.strip():
        raise BadQuestions(f"{where}: expected an object with 'question'; found {record!r:.80}")
    return Question(asked.strip(), (), UNANSWERABLE)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise BadQuestions(f"There is no questions file at {path}.") from None
    except (UnicodeDecodeError, OSError) as error:
        raise BadQuestions(f"{path} cannot be read as UTF-8 text: {error}") from None


def _records(path: Path, text: str) -> list[Any]:
    try:
        if path.suffix == ".csv":
            return list(csv.DictReader(io.StringIO(text, newline="")))
        if path.suffix == ".json":
            data = json.loads(text)
            return data if isinstance(data, list) else [data]
        return [_parsed(line, path, i) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    except ValueError as error:
        raise BadQuestions(f"{path} is not valid {path.suffix.lstrip('.') or 'JSONL'}: {error}") from None


def _parsed(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise BadQuestions(f"{path}, line {number} is not JSON ({error}). Give one object a line.") from None


def _question(record: Any, where: str) -> Question:
    fine = isinstance(record, dict) and isinstance(record.get("question"), str) and record["question"].strip()
    if not fine or not ("answer" in record or "answers" in record):
        raise BadQuestions(f"{where}: expected an object with 'question' and 'answer'; found {record!r:.80}")
    kept = _values(record.get("answer", record.get("answers")), record.get("also"))
    kind = str(record.get("kind") or ("direct" if kept else UNANSWERABLE))
    wrong = _values(record.get("wrong"))
    for value in wrong:
        if normalised(value) in map(normalised, kept):
            raise BadQuestions(f"{where}: '{value}' is both a right answer and a wrong one. Say one of the two.")
    return Question(record["question"].strip(), kept, kind, wrong, _date(record.get("as_of"), where))


def _values(*given: Any) -> tuple[str, ...]:
    """One value or lists of them, as texts, none of them empty or twice."""
    every = [one for some in given for one in (some if isinstance(some, list) else [some])]
    return tuple(dict.fromkeys(str(one).strip() for one in every if one is not None and str(one).strip()))


def _date(given: Any, where: str) -> str | None:
    if given is None or not str(given).strip():
        return None
    try:
        return datetime.date.fromisoformat(str(given).strip()).isoformat()
    except ValueError:
        raise BadQuestions(f"{where}: as_of must be a date like 2025-09-12; found {given!r}.") from None


def hold_out(examples: Iterable[Example], wanted: int, *, seed: int, most: float = 0.1) -> list[Question]:
    """Some of the writer's own questions: one for a fact, and never more than a share `most` of them.

    One look at each example, as they come: of those with the same fact and of all, those stay that a hash of the
    seed ranks first, so that memory holds no more than are wanted."""
    drawn = Drawn(wanted, seed)
    for example in examples:
        if asks_shortly(example):
            drawn.offer(example, Question(example.turns[0].text, (example.turns[1].text,), "written"))
    return drawn.chosen(most)


Fact = tuple[str, str]
"""The passage that tells it, and the answer in plain words."""


def fact_of(example: Example) -> Fact:
    return example.passages[0], normalised(example.turns[1].text)


def asks_for_short_answer(example: Example) -> bool:
    """Whether an example is one question with one short answer."""
    return example.generator.endswith(_OWN_QUESTIONS) and len(example.turns) > 1


def asks_shortly(example: Example) -> bool:
    """Whether it is such a question about a passage, no title before it."""
    return asks_for_short_answer(example) and bool(example.passages) and ":" not in example.turns[0].text


class Drawn:
    """Questions drawn from a stream, one for a fact, by a hash of the seed."""

    def __init__(self, wanted: int, seed: int) -> None:
        self.wanted, self.seed = wanted, seed
        self.candidates = 0
        self._ranked: dict[Fact, tuple[str, Question]] = {}

    def offer(self, example: Example, question: Question) -> None:
        self.candidates += 1
        fact = fact_of(example)
        rank = content_hash(str(self.seed), question.text, *fact)
        if fact not in self._ranked or rank < self._ranked[fact][0]:
            self._ranked[fact] = (rank, question)
        if len(self._ranked) > 2 * self.wanted:
            self._ranked = dict(self._best()[: self.wanted])

    def chosen(self, most: float) -> list[Question]:
        """Those that rank first, as many as are wanted and no more than a share `most` of all that were offered."""
        return [question for _, question in self.facts(most)]

    def facts(self, most: float) -> list[tuple[Fact, Question]]:
        """The same with their facts."""
        first = self._best()[: min(self.wanted, int(self.candidates * most))]
        return [(fact, question) for fact, (_, question) in first]

    def _best(self) -> list[tuple[Fact, tuple[str, Question]]]:
        return sorted(self._ranked.items(), key=lambda item: item[1][0])


class Apart:
    """Tells which examples do not ask what is held out in the same or nearly the same words."""

    def __init__(self, questions: Iterable[Question]) -> None:
        self._held = [_words(q.text) for q in questions]
        self.dropped = 0

    def keeps(self, example: Example) -> bool:
        asked = _words(example.turns[0].text)
        alike = any(_alike(asked, held) for held in self._held)
        self.dropped += alike
        return not alike


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", normalised(text)))


def _alike(asked: frozenset[str], held: frozenset[str]) -> bool:
    """Whether two questions are nearly the same, or the held-out one stands within the other.

    The second finds it under a title or with a place behind it."""
    same = len(asked & held)
    return bool(held) and (same >= _ALIKE * len(asked | held) or (len(asked) <= 40 and same >= _WITHIN * len(held)))
