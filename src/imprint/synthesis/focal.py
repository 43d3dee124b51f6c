"""A passage rewritten so that one question stands in front, and that question with its answer.

Different questions draw different facts to the fore, so that rewrites differ in what they tell, not in words alone.
After the Focal Rewriting of Synthetic Mixed Training (arXiv 2603.23562)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.errors import BadSetting
from imprint.synthesis import design, skills
from imprint.synthesis.cloze import titled
from imprint.synthesis.entigraph import is_named
from imprint.synthesis.forms import exchange, groups, place, reading, shown
from imprint.synthesis.prompt_files import filled, prompt_file
from imprint.synthesis.prose import prose
from imprint.types import Effort, Example, Passage, Prompt, Writer

_REWRITE_TOKENS = 160
_PAIR_CHARACTERS, _REWRITE_CHARACTERS = 85, 480
_KEPT = 0.6
"""Share of the rewrites and pairs that are whole and pass the audit; a guess until a run has told."""
_COUNTS = 3
"""Numbers of questions that rounds ask for in turn."""

_NOUNS = r"(?:text|passage|excerpt|extract|paragraph|article|document|section)"
_TEXT = re.compile(
    rf"\b(?:the|this|that)(?: (?:above|given|provided|following|short))? ({_NOUNS})\b"
    r"(?: (?:above|below|given|provided))?",
    re.IGNORECASE,
)
_OPENLY = ("text", "passage", "excerpt", "extract")
"""Words for what the writer was shown; a document may speak of documents, articles and sections of its own."""
_POINTS = re.compile(
    rf"\b(?:above|given|provided|following|these|those) {_NOUNS}s?\b|\bthe author\b"
    r"|\b(?:mentioned|described|listed|stated|given|shown|discussed|named|said|see|as|information|details?|facts?) "
    r"(?:above|below)\b|\b(?:above|below)[.?!]?$",
    re.IGNORECASE,
)
_TITLE = "\x00"
_UNNAMED = re.compile(r"\b(?:he|she|him|his|her|hers)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Focal:
    """Questions with their answers, and the passage rewritten for one of them."""

    name: str = "focal"
    questions: int = 2
    """Fewest questions asked for in a round; the rounds ask for up to two more in turn."""
    temperature: float = 0.8

    def __post_init__(self) -> None:
        if self.questions < 1:
            raise BadSetting(f"focal needs questions of 1 or more; {self.questions} was given.")

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """One round: the questions of each passage, and a rewrite for one of them."""
        passages = [p for p in passages if p.text.strip()]
        cells = iter(design.cells(len(passages), seed=seed))
        count = self.questions + seed % _COUNTS
        for group in groups(passages):
            asked = [skills.ask_several(shown(p), count, temperature=self.temperature) for p in group]
            texts = writer.write(asked, seed=seed)
            pairs = [(p, usable(skills.pairs(t.text), p)) for p, t in zip(group, texts, strict=True)]
            told = [(p, found[seed % len(found)], next(cells)) for p, found in pairs if found]
            prompts = [self._prompt(*focus) for focus in told]
            for passage, found in pairs:
                for question, answer in found:
                    asking = _for_a_reader(question, passage, seed)
                    yield exchange([passage], asking, answer, f"{self.name}/question", writer.name)
            texts = writer.write(prompts, seed=seed) if prompts else []
            for (passage, (_, answer), _), prompt, text in zip(told, prompts, texts, strict=True):
                body = prose(prompt, text.text)
                if body and is_named(answer, body):
                    yield reading([passage], body, f"{self.name}/rewrite", writer.name)

    def effort(self, passage: Passage) -> Effort:
        """A round of the middle number of questions."""
        pairs = (self.questions + _COUNTS // 2) * _PAIR_CHARACTERS
        read = 2 * len(shown(passage)) + len(prompt_file("focal.rewrite.txt")) + 120
        taught = _KEPT * (pairs + _REWRITE_CHARACTERS + len(place(passage)))
        return Effort(2, read, pairs + _REWRITE_CHARACTERS, round(taught))

    def _prompt(self, passage: Passage, pair: tuple[str, str], cell: design.Cell) -> Prompt:
        asked = filled(
            "focal.rewrite.txt", passage=shown(passage), question=pair[0], form=cell.form, voice=cell.voice
        )
        return Prompt.ask(asked, begun=cell.opening, max_tokens=_REWRITE_TOKENS, temperature=self.temperature)


def usable(pairs: Sequence[tuple[str, str]], passage: Passage) -> list[tuple[str, str]]:
    """The pairs whose question stands on its own, with an answer that it does not give away."""
    found: dict[str, str] = {}
    for question, answer in pairs:
        alone = on_its_own(question, passage)
        bare = answer.strip().rstrip(".").lower()
        if alone and bare and answer != skills.ABSTENTION and bare not in alone.lower() and len(alone.split()) >= 3:
            found.setdefault(alone, answer)
    return list(found.items())


def on_its_own(words: str, passage: Passage) -> str:
    """Words that can be understood without the passage: 'the text' becomes its title; '' where they cannot be."""
    own = passage.text.lower()

    def points(match: re.Match[str]) -> bool:
        noun = match.group(1).lower()
        return noun in _OPENLY or noun not in own  # else a document that the document speaks of

    # The title is set aside meanwhile, for it may itself be called "The Passage".
    bare = words.replace(passage.title, _TITLE) if passage.title else words
    if passage.title:
        bare = _TEXT.sub(lambda m: _TITLE if points(m) else m.group(), bare)
    if _POINTS.search(bare) or any(points(m) for m in _TEXT.finditer(bare)):
        return ""
    if _UNNAMED.search(bare) and not re.search(rf"\s(?:[A-Z]\w+|{_TITLE})", bare):
        return ""  # 'When did he leave?' leaves open who
    return bare.replace(_TITLE, passage.title).strip()


def _for_a_reader(question: str, passage: Passage, seed: int) -> str:
    """The question, under its document's title half of the time."""
    draw = random.Random(f"{seed}:{passage.id}:{question}")
    return titled(question, passage) if passage.title not in question and draw.random() < 0.5 else question
