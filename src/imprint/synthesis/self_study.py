"""One voice asks about a document it cannot show, one answers with the text open: five families of requests.

A seed prompt says what kind of request is wanted (structuring, summarisation, question, use case, creative); the
writer sees the passage and makes the request, then answers it. Families and seed prompts are dealt out, so that
over the rounds a passage meets all of them; a fifth of the requests also ask for a format or for reasoning. After
the self-study of Cartridges (arXiv 2506.06266)."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.errors import BadSetting
from imprint.synthesis import skills
from imprint.synthesis.cloze import titled
from imprint.synthesis.focal import on_its_own
from imprint.synthesis.forms import exchange, groups, listed, shown
from imprint.synthesis.prompt_files import filled, prompt_file, prompt_lines
from imprint.synthesis.prose import continued, first_sentence, prose
from imprint.types import Effort, Example, Passage, Prompt, Text, Writer

FAMILIES = ("structuring", "summarisation", "question", "use_case", "creative")

_ASK_TOKENS, _ANSWER_TOKENS, _MANNERED_TOKENS = 48, 120, 160
_ASKED_CHARACTERS, _SHORT_CHARACTERS, _ANSWERED_CHARACTERS = 90, 30, 330
_KEPT = 0.6
"""Share of the exchanges that stand on their own and pass the audit; a guess until a run has told."""
_USUAL = "Answer in 1 to 4 sentences."
_BEGUN = {"list": "-", "numbered": "1.", "table": "|", "json": "{"}
"""What an answer of each shape begins with; small writers keep to a shape that was begun."""

_ACCORDING = re.compile(
    r"^(?:according to|based on|as (?:stated|described|mentioned) in) (?:the|this)(?: \w+)? "
    r"(?:text|passage|document|article|information)[^,.]{0,20},\s*(\w)",
    re.IGNORECASE,
)
_ABSTAINS = re.compile(
    r"^not in the text|\b(?:text|passage|document|article|information)\b[^.]{0,40}\b(?:does|do)(?: not|n't) "
    r"|\b(?:is|are|was|were)(?: not|n't) (?:\w+ )?(?:mentioned|specified|stated|given|provided) in\b"
    r"|\bno (?:information|mention)\b|\bnot enough information\b|\bi (?:do not|don't) know\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Seed:
    """What kind of request is wanted."""

    family: str
    wish: str
    opening: str
    manner: str = ""
    """The instruction on format or reasoning that goes with the request; '' is none."""
    shape: str = "prose"
    """What the answer has to look like: 'prose', 'sentence', 'list', 'numbered', 'table' or 'json'."""
    begun: str = ""


@dataclass(frozen=True, slots=True)
class SelfStudy:
    """Requests of five families with their answers."""

    name: str = "self_study"
    requests: int = 2
    """Exchanges of a round, for each passage."""
    mannered: float = 0.2
    """Share of the requests that ask for a format or for reasoning."""
    titled: float = 0.5
    """Share of the requests put under the document's title, of those that do not name it."""
    temperature: float = 0.8

    def __post_init__(self) -> None:
        if self.requests < 1 or not 0 <= self.mannered <= 1 or not 0 <= self.titled <= 1:
            raise BadSetting(
                f"self_study needs requests of 1 or more and shares from 0 to 1; requests = {self.requests}, "
                f"mannered = {self.mannered} and titled = {self.titled} were given."
            )

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """One round: one exchange for each request that stands on its own and was answered."""
        for group in groups([p for p in passages if p.text.strip()]):
            wanted = [(p, s) for p in group for s in self._seeds(p, seed)]
            prompts = [self._asking(p, s) for p, s in wanted]
            texts = writer.write(prompts, seed=seed)
            asked = [
                (passage, sought, request)
                for (passage, sought), prompt, text in zip(wanted, prompts, texts, strict=True)
                if (request := on_its_own(as_request(continued(prompt, text.text)), passage))
            ]
            prompts = [self._answering(*turn) for turn in asked]
            answers = writer.write(prompts, seed=seed) if prompts else []
            for (passage, sought, request), prompt, text in zip(asked, prompts, answers, strict=True):
                answer = _answer(sought, prompt, text, passage)
                if answer and answer.lower() not in request.lower():
                    words = self._said(request, sought, passage, seed)
                    yield exchange([passage], words, answer, f"{self.name}/{sought.family}", writer.name)

    def effort(self, passage: Passage) -> Effort:
        """A fifth of the answers are short."""
        short = (1 - self.mannered) / len(FAMILIES)
        answer = short * _SHORT_CHARACTERS + (1 - short) * _ANSWERED_CHARACTERS
        templates = sum(len(prompt_file(f"self_study.{part}.txt")) for part in ("ask", "answer"))
        read = 2 * len(shown(passage)) + templates
        taught = _ASKED_CHARACTERS + answer + self.titled * len(passage.title)
        return Effort(
            prompts=2 * self.requests,
            read_characters=self.requests * (read + _ASKED_CHARACTERS + 60),
            written_characters=round(self.requests * (_ASKED_CHARACTERS + answer)),
            taught_characters=round(self.requests * _KEPT * taught),
        )

    def _seeds(self, passage: Passage, seed: int) -> list[_Seed]:
        """The seed prompts of this round, each with or without an instruction on the answer."""
        draw = random.Random(f"self_study:{passage.id}:{seed}")
        return [_mannered(s, draw) if draw.random() < self.mannered else s for s in self._dealt(passage, seed)]

    def _dealt(self, passage: Passage, seed: int) -> list[_Seed]:
        """Seed prompts in an order of the passage's own, in which each five are of the five families."""
        draw = random.Random(f"self_study:{passage.id}")
        packs = [draw.sample(pack, len(pack)) for pack in _packs()]
        draw.shuffle(packs)
        deck = [s for together in zip(*packs, strict=True) for s in together]
        return [deck[(seed * self.requests + i) % len(deck)] for i in range(self.requests)]

    def _asking(self, passage: Passage, sought: _Seed) -> Prompt:
        asked = filled("self_study.ask.txt", passage=shown(passage), title=passage.title, wish=sought.wish)
        return Prompt.ask(
            asked, begun=sought.opening, max_tokens=_ASK_TOKENS, temperature=self.temperature, stop=("\n",)
        )

    def _answering(self, passage: Passage, sought: _Seed, request: str) -> Prompt:
        if sought.family == "question" and not sought.manner:
            return skills.read(shown(passage), request)
        asked = filled(
            "self_study.answer.txt", passage=shown(passage), request=request, manner=sought.manner or _USUAL
        )
        room = _MANNERED_TOKENS if sought.manner else _ANSWER_TOKENS
        temperature = self.temperature if sought.family == "creative" else 0.3
        return Prompt.ask(asked, begun=sought.begun, max_tokens=room, temperature=temperature)

    def _said(self, request: str, sought: _Seed, passage: Passage, seed: int) -> str:
        """The request as it is learnt from."""
        draw = random.Random(f"{seed}:{passage.id}:{request}")
        named = not passage.title or passage.title in request or draw.random() >= self.titled
        words = request if named else titled(request, passage)
        return f"{words} {sought.manner}".strip()


def _packs() -> list[list[_Seed]]:
    """The seed prompts of each family."""
    packs = []
    for family in FAMILIES:
        lines = (line.split(" | ") for line in prompt_lines(f"self_study.{family}.txt"))
        packs.append([_Seed(family, wish, opening) for wish, opening in lines])
    return packs


def _mannered(sought: _Seed, draw: random.Random) -> _Seed:
    """The same with an instruction: how to put the answer, or how to reach it."""
    kind = draw.choice(("formats", "reasoning"))
    manner, _, last = draw.choice(prompt_lines(f"self_study.{kind}.txt")).partition(" |")
    shape, begun = (last.strip(), "") if kind == "formats" else ("prose", last.strip())
    return _Seed(sought.family, sought.wish, sought.opening, manner, shape, begun or _BEGUN.get(shape, ""))


def as_request(written: str) -> str:
    """The one request that was written, up to its end; '' where it is none."""
    line = (written.strip().splitlines() or [""])[0].strip("\"'“” ")
    line = re.sub(r"^(?:request|question)\s*:\s*", "", line, flags=re.IGNORECASE)
    request = f"{line.partition('?')[0]}?" if "?" in line else first_sentence(line)
    words = request.split()
    if not 4 <= len(words) <= 40:
        return ""
    if request[-1] in ".?!":
        return request
    return f"{request}." if len(words) < 25 else ""  # a longer one was cut short


def _answer(sought: _Seed, prompt: Prompt, text: Text, passage: Passage) -> str:
    """The answer in its shape, without 'according to the text'; '' where it is none."""
    if prompt.skill:
        short = (text.text.strip().splitlines() or [""])[0].strip()
        return "" if _ABSTAINS.search(short) or len(short) > 200 else short
    written = _ACCORDING.sub(lambda m: m.group(1).upper(), continued(prompt, text.text))
    if _ABSTAINS.search(written):
        return ""
    shaped = _shaped(sought.shape, Prompt(prompt.turns), written)
    return on_its_own(shaped, passage) if shaped else ""


def _shaped(shape: str, prompt: Prompt, written: str) -> str:
    """What was written if it has the shape asked for, without an end that was cut short."""
    if shape == "json":
        return _json(written)
    if shape in ("list", "numbered"):
        return _list(written, shape)
    if shape == "table":
        return _table(written)
    whole = prose(prompt, written, least_words=3)
    return first_sentence(whole) if shape == "sentence" else whole


def _json(written: str) -> str:
    inside = re.search(r"[{\[].*[}\]]", written, re.DOTALL)
    try:
        return inside.group() if inside and json.loads(inside.group()) else ""
    except ValueError:
        return ""


def _list(written: str, shape: str) -> str:
    items = listed(written)
    stopped = [item[-1] in ".!?" for item in items]
    if any(stopped) and not stopped[-1]:
        items.pop()  # the others end in a full stop, so that this one was cut short
    if len(items) < 2:
        return ""
    return "\n".join(f"{i}. {item}" if shape == "numbered" else f"- {item}" for i, item in enumerate(items, 1))


def _table(written: str) -> str:
    rows = [line.strip() for line in written.splitlines() if line.strip().startswith("|")]
    whole = [row for row in rows if row.endswith("|") and row.count("|") == rows[0].count("|")]
    said = [row for row in whole if re.search(r"\w", row)]
    return "\n".join(whole) if len(said) >= 2 and rows[0].count("|") >= 3 else ""
