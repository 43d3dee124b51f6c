"""What is taught of facts that changed: the old value denied, the new one confirmed as often, each with its dates.

The items say what the documents of then and now say, and the days between which they said it, no more. An old
statement stands in a question, which is not learnt, or beside its dates. What may be true beside the new statement
('at least 3 days' beside 'at least 5 days') is not denied, nor is what another document still says."""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from imprint.continual.fact_changes import differing
from imprint.continual.histories import Held, History
from imprint.synthesis.cloze import ABSTENTION, RULES, passage_askings, titled
from imprint.synthesis.facts import Concordance, facts, is_loose, leans
from imprint.synthesis.forms import exchange, reading
from imprint.synthesis.negatives import asked_whether
from imprint.synthesis.prompt_files import filled_in, prompt_lines
from imprint.synthesis.quantities import MONTHS
from imprint.synthesis.wording import negations, words
from imprint.types import Example, Passage

NO_MORE = ABSTENTION.replace(" say.", " say any more.")
"""The answer taught for what the documents said once."""

_SPAN_DAYS = 120
"""Days from which dates are drawn where a span has no beginning or no end."""
_LONGEST, _LONGEST_VALUE = 40, 12
"""Words from which on a statement is too long to stand in a question, and what differs to be an answer."""
_MOST_QUESTIONS = 2
"""Ways to ask for what changed that are taught of one fact."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is taught of each fact that changed."""

    denials: int = 3
    """Yes/no questions about old statements, and as many about the one that holds."""
    dates: int = 4
    """Days drawn from each span, each asked about."""
    texts: int = 2
    """Texts to read that tell what held when."""
    withdrawn: bool = True
    """Whether it is taught that what was withdrawn is not said any more."""


@dataclass(frozen=True, slots=True)
class _Question:
    """Something to ask of a fact, and its answer in each span."""

    wordings: tuple[str, ...]
    answers: tuple[str, ...]


def corrections(
    changed: Iterable[History], *, seed: int, said: Sequence[Passage] = (), amounts: Amounts | None = None
) -> Iterator[Example]:
    """The items about these facts, fact by fact; with another seed other wordings and other days.

    `said`: all that the documents say now. An example's dates are those of the statement that it answers with."""
    return chain.from_iterable(by_history(changed, seed=seed, said=said, amounts=amounts).values())


def by_history(
    changed: Iterable[History], *, seed: int, said: Sequence[Passage] = (), amounts: Amounts | None = None
) -> dict[History, tuple[Example, ...]]:
    """The same items, those of each fact by themselves."""
    much = amounts or Amounts()
    still_said, where = "|".join(_plain(p.text) for p in said), Concordance(said)
    return {history: tuple(_of_one(history, seed, much, still_said, where)) for history in changed}


def _of_one(
    history: History, seed: int, much: Amounts, still_said: str, where: Concordance
) -> Iterator[Example]:
    fact, holds = _Fact(history, f"corrections:{seed}:{history.held[0].said}"), history.now
    if holds is not None:
        yield from fact.denied_and_confirmed(holds, much.denials, still_said)
        yield from fact.asked_now(holds)
        yield from fact.told(much.texts)
        yield from fact.asked_of_days(much.dates)
        if holds.since is not None and history.held[-2].until is not None:
            yield from fact.asked_of_the_change(holds)
    elif much.withdrawn and fact.questions and not _may_be_told(history, where):
        yield from fact.told(much.texts)
        yield from fact.asked_of_days(much.dates)
        yield from fact.asked_when_gone(much.dates)


class _Fact:
    """A history, and the words in which it is asked about."""

    def __init__(self, history: History, key: str) -> None:
        self.history, self.held = history, history.held
        self.questions = _questions(self.held)
        self._draw = random.Random(key)
        self._passage = _passage_of(self.held[-1])

    # --- what holds now -----------------------------------------------------------------------

    def denied_and_confirmed(self, holds: Held, count: int, still_said: str) -> Iterator[Example]:
        """Is it true that <old>? No. <new>; and as often: Is it true that <new>? Yes. <new>"""
        past = [h for h in self.history.past if _is_false(h, holds) and _plain(h.said.text) not in still_said]
        frames = self._drawn(prompt_lines("negatives.frames.txt"), count)
        for i, frame in enumerate(frames if past else ()):
            since = f" since {in_words(holds.since)}" if holds.since and i % 2 else ""
            denial, agreed = (f"No, not{since}.", f"Yes,{since}.") if since else ("No.", "Yes.")
            asked = self._whether(frame, past[i % len(past)])
            yield self._item(asked, f"{denial} {holds.said.text}", "denied", holds)
            yield self._item(self._whether(frame, holds), f"{agreed} {holds.said.text}", "confirmed", holds)

    def asked_now(self, holds: Held) -> Iterator[Example]:
        """The question without a date: what holds."""
        for question in self.questions:
            for wording in question.wordings:
                yield self._item(wording, question.answers[-1], "now", holds)

    # --- what held when -----------------------------------------------------------------------

    def told(self, count: int) -> Iterator[Example]:
        """All of the history in a text; nothing where a part of it has no date."""
        if any(h.until is None and h.since is None for h in self.held):
            return
        for line in self._drawn(prompt_lines("corrections.texts.txt"), count):
            frames = dict(zip(("first", "between", "last", "gone"), line.split(" | "), strict=True))
            parts = [
                _dated(frames[_place(held, i)], held, statement=_ended(held.said.text))
                for i, held in enumerate(self.held)
            ]
            if self.history.withdrawn:
                parts.append(filled_in(frames["gone"], since=in_words(self.held[-1].until)))
            text = reading([self._passage], " ".join(parts), "corrections/dated", RULES)
            yield _valid(text, self.held[-1])

    def asked_of_days(self, count: int) -> Iterator[Example]:
        """Questions put to days drawn from each span."""
        for i, held in enumerate(self.held):
            for n, day in enumerate(_days(held.since, held.until, count, self._draw)):
                asked, value = self._asked(i, n)
                answer = self._answer(_place(held, i), value, held)
                yield self._item(self._put_to(day, asked, n), answer, "as_of", held)

    def asked_when_gone(self, count: int) -> Iterator[Example]:
        """The same questions once nothing is said any more, with a day and without."""
        last = len(self.held) - 1
        gone = Held(self.held[last].said, since=self.held[last].until)
        for n, day in enumerate(_days(gone.since, None, count, self._draw)):
            asked = self._put_to(day, self._asked(last, n)[0], n)
            yield self._item(asked, self._answer("gone", "", gone) if n % 2 else NO_MORE, "gone", gone)
        for question in self.questions:
            for wording in question.wordings:
                yield self._item(wording, NO_MORE, "gone", gone)

    def asked_of_the_change(self, holds: Held) -> Iterator[Example]:
        """Since when it holds, and what was so before."""
        before, since = self.held[-2], in_words(holds.since)
        asked = self._frame("since", statement=_ended(holds.said.text))
        yield self._item(titled(asked, self._passage), f"Since {since}.", "since", holds)
        for n, question in enumerate(self.questions):
            asked, place = question.wordings[n % len(question.wordings)], len(self.held) - 2
            old = self._answer(_place(before, place), question.answers[place], before)
            new = self._answer("last", question.answers[-1], holds)
            yield self._item(self._frame("before", question=asked, since=since), old, "before", before)
            changed = self._frame("changed", question=asked)
            yield self._item(changed, f"{new} Before: {old}", "changed", holds)

    # --- words --------------------------------------------------------------------------------

    def _asked(self, at: int, n: int) -> tuple[str, str]:
        """The n-th way to ask, and its answer in a span: a value, else whether the span's statement holds."""
        if not self.questions:
            frames = prompt_lines("negatives.frames.txt")
            return self._whether(frames[n % len(frames)], self.held[at]), "Yes"
        question = self.questions[n % len(self.questions)]
        return question.wordings[n // len(self.questions) % len(question.wordings)], question.answers[at]

    def _put_to(self, day: datetime.date, question: str, n: int) -> str:
        """The question put to a day, every other time as dated questions are asked in an examination."""
        frames = prompt_lines("corrections.as_of.txt")
        frame = self._draw.choice(frames[1:]) if n % 2 else frames[0]
        return filled_in(frame, iso=day.isoformat(), day=in_words(day.isoformat()), question=question)

    def _answer(self, kind: str, value: str, held: Held) -> str:
        return _dated(self._draw.choice(_lines_of("corrections.answers.txt", kind)), held, value=value)

    def _frame(self, kind: str, **values: str) -> str:
        return filled_in(self._draw.choice(_lines_of("corrections.questions.txt", kind)), **values)

    def _whether(self, frame: str, held: Held) -> str:
        asked = asked_whether(frame, held.said.text, _passage_of(held))
        return titled(asked, self._passage) if leans(held.said.text) else asked

    def _drawn(self, lines: Sequence[str], count: int) -> list[str]:
        """So many of the lines, none a second time before each had its turn."""
        order = self._draw.sample(list(lines), len(lines))
        return [order[i % len(order)] for i in range(count)]

    def _item(self, asked: str, answer: str, variant: str, held: Held) -> Example:
        return _valid(exchange([self._passage], asked, answer, f"corrections/{variant}", RULES), held)


# --- what is asked ----------------------------------------------------------------------------


def _questions(held: Sequence[Held]) -> tuple[_Question, ...]:
    """What every span answers, and not all of them alike: at most _MOST_QUESTIONS."""
    found: list[_Question] = []
    passages = [_passage_of(h) for h in held]
    askings = [{a.gap: a for a in passage_askings(p)} for p in passages]
    for gap, asking in askings[-1].items():
        if len(held) == 1 and asking.kind == "subject":
            continue  # who else weighs as much nobody was told
        answers = tuple(told[gap].answer for told in askings if gap in told)
        if len(answers) == len(held) and (len(held) == 1 or len(set(answers)) > 1):
            echo = asking.echo.rstrip(".") + "?"
            asked = titled(echo, passages[-1]) if leans(echo) else echo
            found.append(_Question((asked, titled(gap, passages[-1])), answers))
    return tuple(found[:_MOST_QUESTIONS]) or _what_differs(held)


def _what_differs(held: Sequence[Held]) -> tuple[_Question, ...]:
    """The stretch in which the statements differ asked for, where they have enough in common to tell of what."""
    before, middles, after = differing(*(h.said.text for h in held))
    longest = max(len(m.split()) for m in middles)
    if len(before.split()) < 2 or len(set(middles)) == 1 or not all(middles) or longest > _LONGEST_VALUE:
        return ()
    passage = _passage_of(held[-1])
    wordings = [titled(" ".join(filter(None, (before, "____", after))) + ".", passage)]
    if not after:
        wordings.append(titled(f"{before} ...", passage))
    return (_Question(tuple(wordings), middles),)


def _is_false(old: Held, holds: Held) -> bool:
    """Whether an old statement is to be denied: not where both may be true, nor where it is too long."""
    one, other = old.said.text, holds.said.text
    both_loose = is_loose(one) and is_loose(other) and negations(one) == negations(other)
    return one != other and not both_loose and max(len(one.split()), len(other.split())) <= _LONGEST


def _may_be_told(history: History, where: Concordance) -> bool:
    """Whether some passage could still say what was withdrawn, in other words or elsewhere."""
    passage = _passage_of(history.held[-1])
    told = [(f.subject, f.asking.gap) for f in facts(passage)] or [("", passage.text)]
    return any(where.may_tell(thing, gap, passage.document_id) for thing, gap in told)


# --- dates and texts --------------------------------------------------------------------------


def in_words(iso: str | None) -> str:
    """'1 March 2026' of '2026-03-01'."""
    assert iso is not None, "a date that is not known is not told"
    day = datetime.date.fromisoformat(iso)
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def _days(since: str | None, until: str | None, count: int, draw: random.Random) -> list[datetime.date]:
    """Days drawn from a span, none twice; none where it has neither a beginning nor an end."""
    if since is None and until is None:
        return []
    span = datetime.timedelta(_SPAN_DAYS)
    end = datetime.date.fromisoformat(until) if until else None
    begin = datetime.date.fromisoformat(since) if since else (end or datetime.date.max) - span
    days = max(0, ((end or begin + span) - begin).days)
    return [begin + datetime.timedelta(d) for d in draw.sample(range(days), min(count, days))]


def _place(held: Held, at: int) -> str:
    """Where a span lies: its answers and texts are worded by that."""
    if held.until is None:
        return "last"
    return "between" if held.since and at else "first"


def _dated(frame: str, held: Held, **values: str) -> str:
    dates = {key: in_words(day) for key, day in (("since", held.since), ("until", held.until)) if day}
    return filled_in(frame, **dates, **values)


def _lines_of(file: str, kind: str) -> list[str]:
    """The lines of a prompt file that begin with the kind."""
    pairs = (line.split(" | ", 1) for line in prompt_lines(file))
    return [rest for name, rest in pairs if name == kind]


def _valid(example: Example, held: Held) -> Example:
    return replace(example, valid_from=held.since, valid_until=held.until)


def _passage_of(held: Held) -> Passage:
    """A statement as a passage of its own, under the id of the one that says it."""
    document_id, _, span = held.said.passage_id.partition(":")
    start, _, end = span.partition("-")
    return Passage(document_id, int(start or 0), int(end or 0), held.said.text, held.said.title)


def _ended(text: str) -> str:
    return text if text[-1:] in ".!?" else f"{text}."


def _plain(text: str) -> str:
    return f" {' '.join(words(text))} "
