"""What was taught and shows where it should not: documents spoken of unasked, and answers made up.

Both are counted on what a Writer says: the model with its adapter, as a user meets it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

from imprint.errors import BadInput
from imprint.evaluation.closed_book import UNANSWERABLE, Answered, Question, abstains, answer_all, interval
from imprint.evaluation.forgetting import general_text
from imprint.evaluation.open_book import closed
from imprint.synthesis.wording import is_common, phrases
from imprint.types import Prompt, Score, Writer

_ANSWER_TOKENS = 48
_TOKEN = re.compile(r"\d[\d.,:]*\d|\w[\w'’-]*")
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th|s)")
_DIGITS = 3
"""A number of fewer is everybody's: 12 stands in any document and in many an answer."""


# --- documents spoken of unasked --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unrelated:
    """What was said to a question that has nothing to do with the documents."""

    question: str
    answer: str
    words: tuple[str, ...]
    """Words of the documents in it, and names of several; empty where it does not speak of them."""


@dataclass(frozen=True, slots=True)
class Interference:
    """How often answers to unrelated questions speak of the documents."""

    share: Score
    by_chance: Score
    """The same of the untouched base's answers, each held against the others: what is found where nothing was
    taught."""
    answers: tuple[Unrelated, ...]


def unrelated_questions() -> list[str]:
    """Everyday questions, small talk and small tasks that come with imprint; training never sees them."""
    return _lines("unrelated_questions.txt")


def unrelated_answers(writer: Writer, *, seed: int) -> list[str]:
    """What a writer says to unrelated_questions(), in their order."""
    prompts = [Prompt.ask(question, max_tokens=_ANSWER_TOKENS) for question in unrelated_questions()]
    return [told.text for told in writer.write(prompts, seed=seed)]


def interference(writer: Writer, documents: Sequence[str], untouched: Sequence[str], *, seed: int) -> Interference:
    """How often a writer speaks of the documents where it is asked about something else.

    An answer does so where it holds words of theirs that are nobody else's: rare words, names, and numbers of three
    digits or more that stand in the documents, and neither among the commonest names, nor in the general text,
    nor in the question, nor in any of the untouched base's answers. Where documents tell of the world that
    everybody knows, some is found though nothing was taught: `by_chance` says how much.

    `documents`: their texts; `untouched`: the base's unrelated_answers()."""
    questions = unrelated_questions()
    if len(untouched) != len(questions):
        raise BadInput(
            f"There are {len(questions)} unrelated questions and {len(untouched)} answers of the untouched base. "
            "Give what unrelated_answers() returns for it."
        )
    terms = distinctive(documents, [general_text()])
    answers = unrelated_answers(writer, seed=seed)
    by_chance = [
        _spoken(terms, answer, [question, *untouched[:i], *untouched[i + 1 :]])
        for i, (question, answer) in enumerate(zip(questions, untouched, strict=True))
    ]
    told = tuple(
        Unrelated(question, answer, tuple(sorted(_spoken(terms, answer, [question, *untouched]))))
        for question, answer in zip(questions, answers, strict=True)
    )
    return Interference(
        interval([float(bool(one.words)) for one in told], seed=seed),
        interval([float(bool(words)) for words in by_chance], seed=seed),
        told,
    )


def distinctive(documents: Iterable[str], others: Iterable[str] = ()) -> frozenset[str]:
    """What is the documents' own, in lower case: rare words, numbers, names of several words; none of `others`."""
    found: set[str] = set()
    for text in documents:
        found |= {word for word in set(_words(text)) if _is_rare(word)}
        found |= {" ".join(name) for phrase in phrases(text) if len(name := _words(phrase)) > 1 and _is_own(name)}
    return frozenset(found.difference(*(_spoken(found, text, ()) for text in others)))


def _spoken(terms: Iterable[str], text: str, others: Sequence[str]) -> set[str]:
    """The terms that stand in a text and in none of the others."""
    here = _flat(text)
    found = {term for term in terms if f" {term} " in here}
    return found - {term for other in others if found for term in found if f" {term} " in _flat(other)}


def _flat(text: str) -> str:
    return f" {' '.join(_words(text))} "


def _words(text: str) -> list[str]:
    """Lower case, without possessive endings; 1,250 is 1250."""
    words = []
    for word in _TOKEN.findall(text.lower()):
        plain = re.sub(r"['’]s?$", "", word)
        words.append(plain.replace(",", "") if plain[0].isdigit() else plain)
    return words


def _is_rare(word: str) -> bool:
    digits = sum(c.isdigit() for c in word)
    if digits and (digits < _DIGITS and not any(c.isalpha() for c in word) or _ORDINAL.fullmatch(word)):
        return False
    return len(word) > 2 and word not in _common_names() and not is_common(word)


def _is_own(name: Sequence[str]) -> bool:
    """Whether a name of several words is nobody else's: not 'South Africa' or 'Queen Elizabeth'."""
    return any(_is_rare(word) for word in name) or not any(word in _common_names() for word in name)


@functools.cache
def _common_names() -> frozenset[str]:
    return frozenset(" ".join(_lines("common_names.txt")).split())


def _lines(file: str) -> list[str]:
    """The lines of a text that comes with imprint, without its comments."""
    text = resources.files("imprint.evaluation").joinpath(file).read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


# --- answers made up --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Abstention:
    """Whether a writer says that it does not know, where it should and where it should not."""

    right: Score
    """Share of the questions that the documents do not answer to which it says so."""
    wrong: Score
    """Share of the questions that they do answer to which it says that they do not."""
    answers: tuple[Answered, ...]
    """Of the unanswerable questions, then of the answerable ones."""


def strangers(texts: Iterable[str]) -> list[Question]:
    """Questions about other documents, as questions that these do not answer."""
    return [Question(text, (), UNANSWERABLE) for text in texts]


def abstention(writer: Writer, questions: Sequence[Question], *, seed: int) -> Abstention:
    """How a writer does on questions with answers and without, asked with no document open.

    Those without are the user's, or strangers(). Of a kind that is missing, the score is of n = 0."""
    unanswerable = [q for q in questions if not q.answers]
    answerable = [q for q in questions if q.answers]
    answered, _ = answer_all(writer, [*unanswerable, *answerable], closed, seed=seed)
    silent = [float(abstains(a.text)) for a in answered]
    cut = len(unanswerable)
    return Abstention(interval(silent[:cut], seed=seed), interval(silent[cut:], seed=seed), tuple(answered))
