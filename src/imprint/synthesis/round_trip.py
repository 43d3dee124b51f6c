"""Answers checked with the passage open: by answering again, and by a stronger writer's yes or no.

An answer that a reader of the passage would not give is likely wrong, or its question unclear (round-trip
filtering, Alberti et al. 2019, arXiv 1906.05416). Both work on some examples at a time and tell `drop` what
they hold back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from imprint.errors import Unwritten
from imprint.synthesis import skills
from imprint.synthesis.cloze import ABSTENTION
from imprint.synthesis.faithful import Finding
from imprint.synthesis.forms import shown
from imprint.synthesis.prompt_files import filled
from imprint.synthesis.quantities import numbers
from imprint.types import Example, Passage, Prompt, Turn, Writer

TOGETHER = 64
"""Examples asked about in one call."""
_SHORT = 12
"""Words up to which an answer can be compared with another by its words."""

_HELD = 0.8
"""Share of the words of a short answer that sentences must hold."""

READ_ALREADY = ("self_study/question",)
"""Variants whose answer is itself what a reading of the passage gave: their writer, asked the same again, would say
the same, right or wrong."""

Drop = Callable[[Example, Finding], None]
"""Told of each example that is held back, and why."""


def round_trip(
    examples: Iterable[Example], passages: Mapping[str, Passage], reader: Writer, *, seed: int, drop: Drop
) -> Iterator[Example]:
    """The examples whose short answers a reader of their passages gives too; others pass through.

    What its own writer read already it reads again below another passage, and has to find it anew."""
    order = list(passages)
    places = {passage_id: i for i, passage_id in enumerate(order)}

    def text(example: Example) -> str:
        if example.generator not in READ_ALREADY or example.writer != reader.name:
            return _open(example, passages)
        first = min(places[i] for i in example.passages)
        beside = (i for i in order[max(0, first - 1) : first + 2] if i not in example.passages)
        return "\n\n".join([*(shown(passages[i]) for i in beside)][:1] + [_open(example, passages)])

    for group in _groups(examples):
        asked = [e for e in group if is_short_answer(e) and _known(e, passages)]
        prompts = [skills.read(text(e), e.turns[0].text) for e in asked]
        texts, stopped = _written(reader, prompts, seed)
        answers = {id(e): texts.get(i) for i, e in enumerate(asked)}
        for example in group:
            if id(example) not in answers:
                yield example
            elif (again := answers[id(example)]) is None:
                continue  # what was not read is not known to be right
            elif (holds if _in_sentences(example) else agree)(example.turns[1].text, again):
                yield example
            else:
                drop(example, Finding("round trip", f"read again: {again.strip()[:80] or 'nothing'}"))
        if stopped is not None:
            raise stopped


def judged(
    examples: Iterable[Example], passages: Mapping[str, Passage], judge: Writer, *, seed: int, drop: Drop
) -> Iterator[Example]:
    """The examples that a stronger writer, asked yes or no, does not find unsupported by their passages."""
    for group in _groups(examples):
        asked = [e for e in group if may_be_judged(e) and _known(e, passages)]
        prompts = [judge_prompt(e, passages) for e in asked]
        texts, stopped = _written(judge, prompts, seed)
        verdicts = {id(e): texts.get(i) for i, e in enumerate(asked)}
        for example in group:
            if id(example) not in verdicts:
                yield example
            elif (verdict := verdicts[id(example)]) is None:
                continue  # what was not judged is not known to be right
            elif says_no(verdict):
                drop(example, Finding("judged", f"{judge.name} says no"))
            else:
                yield example
        if stopped is not None:
            raise stopped


def judge_prompt(example: Example, passages: Mapping[str, Passage]) -> Prompt:
    """Whether the passages support an item, as the judge is asked it."""
    told = [f"{'Question' if t.role == 'user' else 'Answer'}: {t.text}" for t in example.turns if t.role != "text"]
    item = "\n".join(told or [t.text for t in example.turns])
    return Prompt(
        (Turn("user", filled("audit.judge.txt", passage=_open(example, passages), item=item)),), max_tokens=8
    )


def says_no(text: str) -> bool:
    """Whether a verdict is no; an unclear one is none."""
    first = re.search(r"[a-z]+", text.lower())
    return first is not None and first.group() == "no"


_DENIES = frozenset(("not", "no", "never", "none", "without", "cannot"))


def may_be_judged(example: Example) -> bool:
    """Whether an example states something that passages could support."""
    return bool(example.passages) and not _abstains(example)


def is_short_answer(example: Example) -> bool:
    """Whether an example is a question and an answer that the text gives: few words or their sentences."""
    if [t.role for t in example.turns] != ["user", "assistant"] or _abstains(example):
        return False
    question, answer = example.turns
    short = 0 < len(answer.text.split()) <= _SHORT or _in_sentences(example)
    return answer.learn and "?" in question.text and short


def _in_sentences(example: Example) -> bool:
    return example.generator.endswith(("/sentence", "/paragraph"))


def holds(told: str, read: str) -> bool:
    """Whether sentences hold what was read: nearly all of its words, and every number."""
    a, b = answer_words(told), answer_words(read)
    if not {w for w in b if any(c.isdigit() for c in w)} <= set(a):
        return False
    return bool(b) and sum((Counter(a) & Counter(b)).values()) >= _HELD * len(b)


def agree(one: str, other: str) -> bool:
    """Whether two answers are the same in other words: half of their words in common, or one within the other, and
    no number or 'not' that only one of them has."""
    a, b = answer_words(one), answer_words(other)
    figures = [{w for w in words if any(c.isdigit() for c in w)} for words in (a, b)]
    if figures[0] and figures[1] and figures[0] != figures[1]:
        return False
    if bool(_DENIES & set(a)) != bool(_DENIES & set(b)):
        return False
    if not a or not b:
        return a == b
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) >= 0.5 or _within(a, b) or _within(b, a)


def answer_words(text: str) -> list[str]:
    """The words of an answer as answers are compared: lower case, numbers in digits, no articles or punctuation."""
    for number in reversed(numbers(text)):
        unit = " percent" if text[number.end :].lstrip().startswith("%") else ""
        text = f"{text[: number.start]} {number.value} {unit}{text[number.end :]}"
    found = re.findall(r"\d+(?:[.:]\d+)*|[^\W\d_]+", text.lower())
    return [w for w in found if w not in ("a", "an", "the")]


def _within(some: Sequence[str], others: Sequence[str]) -> bool:
    return f" {' '.join(some)} " in f" {' '.join(others)} "


def _written(writer: Writer, prompts: Sequence[Prompt], seed: int) -> tuple[dict[int, str], Unwritten | None]:
    """The texts by the places of their prompts, and what stopped the writer before all were there."""
    try:
        texts = writer.write(prompts, seed=seed) if prompts else []
    except Unwritten as error:
        return {i: text.text for i, text in error.texts.items()}, error
    return {i: text.text for i, text in enumerate(texts)}, None


def _groups(examples: Iterable[Example]) -> Iterator[list[Example]]:
    group: list[Example] = []
    try:
        for example in examples:
            group.append(example)
            if len(group) == TOGETHER:
                yield group
                group = []
    except Unwritten:  # what was written before is paid for
        if group:
            yield group
        raise
    if group:
        yield group


def _open(example: Example, passages: Mapping[str, Passage]) -> str:
    return "\n\n".join(shown(passages[i]) for i in example.passages)


def _known(example: Example, passages: Mapping[str, Passage]) -> bool:
    return bool(example.passages) and all(i in passages for i in example.passages)


def _abstains(example: Example) -> bool:
    return any(t.learn and t.text.strip() == ABSTENTION for t in example.turns)
