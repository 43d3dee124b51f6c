"""Agentic search: the model searches several times in turn, reads what it found, and stops when it knows.

First it searches for the question; then for the question with what its weights answer closed book, which may be
wrong and yet lead to the right place; then for what it writes itself, seeing what has been found. What all searches
found is put in one order by reciprocal rank fusion (Cormack et al. 2009, doi 10.1145/1571941.1572114)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources

from imprint.evaluation.citing import stands_in
from imprint.evaluation.open_book import rag
from imprint.evaluation.systems import READ, TAUGHT, Answers, Desk, Said
from imprint.evaluation.systems import told as tells
from imprint.synthesis.prompt_files import filled_in
from imprint.types import Passage, Prompt

ROUNDS = 4
"""Searches for one question at most."""
SHOWN = 6
"""Passages that are read after each."""
_RANK = 60
"""Of reciprocal rank fusion: how little the first places count for more than the next."""
_QUERY_TOKENS = 24


@dataclass
class _Trail:
    """One question on its way."""

    question: str
    recalled: str
    """What the weights say, closed book."""
    queries: list[str] = field(default_factory=list)
    known: dict[str, Passage] = field(default_factory=dict)
    votes: dict[str, float] = field(default_factory=dict)
    said: Said = field(default_factory=lambda: Said(""))
    ended: bool = False

    def look(self, query: str, found: Sequence[Passage]) -> None:
        self.queries.append(query)
        for place, passage in enumerate(found, 1):
            self.known[passage.id] = passage
            self.votes[passage.id] = self.votes.get(passage.id, 0.0) + 1 / (_RANK + place)

    @property
    def shown(self) -> list[Passage]:
        return [self.known[id] for id in sorted(self.votes, key=lambda id: -self.votes[id])[:SHOWN]]

    @property
    def text(self) -> str:
        return "\n\n".join(passage.text for passage in self.shown)


@dataclass(frozen=True, slots=True)
class Searches:
    """Several searches for each question, guided by what the weights recall."""

    name: str = "agentic"
    says: str = "agentic search"
    means: str = f"up to {ROUNDS} searches in turn, the weights' answer and the model's own words among them"
    needs: frozenset[str] = frozenset({TAUGHT, "documents"})

    def answers(self, questions: Sequence[str], desk: Desk) -> Answers:
        recalled = desk.earlier("weights")
        total = replace(recalled, said=())
        pairs = zip(questions, recalled.said, strict=True)
        trails = [_Trail(question, said.text) for question, said in pairs]
        for turn in range(ROUNDS):
            going = [trail for trail in trails if not trail.ended]
            if not going:
                break
            queries, asking = _queries(turn, going, desk)
            for trail, query in zip(going, queries, strict=True):
                if query in trail.queries:  # nothing new would be found
                    trail.ended = True
                else:
                    trail.look(query, desk.find(query))
            reading = [trail for trail in going if not trail.ended]
            wears = READ if READ in desk.seats else ""
            read = desk.write([_prompt(trail) for trail in reading], wears) if reading else Answers()
            for trail, said in zip(reading, read.said, strict=True):
                trail.said = said
                trail.ended = tells(said.text) and stands_in(said.text, trail.text)
            total = total + replace(asking, said=()) + replace(read, said=())
        return replace(total, said=tuple(_answer(trail, self.name) for trail in trails))


def _queries(turn: int, trails: Sequence[_Trail], desk: Desk) -> tuple[list[str], Answers]:
    """What to search for next, and what it took to think of it."""
    if turn == 0:
        return [trail.question for trail in trails], Answers()
    if turn == 1:
        return [f"{trail.question} {trail.recalled}".strip() for trail in trails], Answers()
    form = resources.files("imprint.evaluation").joinpath("next_query.txt").read_text("utf-8").strip()
    prompts = []
    for trail in trails:
        headings = dict.fromkeys(" > ".join(filter(None, (p.title, p.heading))) for p in trail.shown)
        asked = filled_in(form, question=trail.question, found="; ".join(headings) or "nothing")
        prompts.append(Prompt.ask(asked, max_tokens=_QUERY_TOKENS, stop=("\n",)))
    written = desk.write(prompts)
    pairs = zip(written.said, trails, strict=True)
    return [said.text.strip() or trail.question for said, trail in pairs], written


def _prompt(trail: _Trail) -> Prompt:
    shown = trail.shown
    return rag(trail.question, lambda _: shown)


def _answer(trail: _Trail, name: str) -> Said:
    """What was read; where that tells nothing, what the weights recall."""
    read = tells(trail.said.text)
    text = trail.said.text if read or not tells(trail.recalled) else trail.recalled
    return replace(
        trail.said,
        text=text,
        found=tuple(p.id for p in trail.shown),
        chosen=name if text == trail.said.text else "weights",
        queries=tuple(trail.queries),
    )
