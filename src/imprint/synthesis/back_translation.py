"""From a person's own texts to the requests they answer, so that a style and a field's own terms are learnt.

After instruction back-translation (arXiv 2308.06259): the writer sees a text and says what was asked for; what is
learnt is the text itself, word for word, as the answer to that request: a letter as a whole, a longer text passage
by passage. Beside it, terms that a text explains."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from imprint.documents import sentences
from imprint.errors import BadSetting
from imprint.synthesis.cloze import RULES, titled
from imprint.synthesis.facts import by_document, dealt, key_words, read_characters, stems
from imprint.synthesis.faithful import unsupported
from imprint.synthesis.forms import exchange, groups, reading, shown
from imprint.synthesis.prompt_files import filled, filled_in, prompt_lines
from imprint.synthesis.prose import continued
from imprint.synthesis.safety import instructions_in
from imprint.types import Effort, Example, Passage, Prompt, Writer

_SHORTEST = 12
"""Words below which a passage is no text that anybody would ask for."""
_LETTER = 2500
"""Characters up to which a document is one answer."""
_COVERED = 0.7
"""Share of a document's characters that must be taught for it to be one answer."""


@dataclass(frozen=True, slots=True)
class BackTranslation:
    """Requests with the person's own text as the answer, and questions for terms with their explanation."""

    name: str = "back_translation"
    author: str = ""
    """Whose texts they are, for requests that ask for a style; '' takes the document's title."""
    in_style: float = 0.4
    """Share of the requests that ask for the author's style."""
    terms: int = 1
    """Terms of each passage asked for in one round."""
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.in_style <= 1:
            raise BadSetting(f"back_translation: in_style is {self.in_style}; give a share from 0 to 1.")

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """Items of one round, group by group."""
        for group in groups([t for own in by_document(passages) for t in _texts(own)]):
            answers = [(own, text) for own, text in group if len(text.text.split()) >= _SHORTEST]
            prompts = [self.prompt(text, seed) for _, text in answers]
            written = writer.write(prompts, seed=seed) if prompts else []
            for (own, answer), prompt, text in zip(answers, prompts, written, strict=True):
                request = _one_request(continued(prompt, text.text))
                if _asks_for(request, prompt.begun, answer):
                    asked = self._styled(request, answer, seed)
                    yield exchange(own, asked, answer.text, f"{self.name}/request", writer.name)
            for passage in (p for own, _ in group for p in own):
                yield from self._terms(passage, seed)

    def effort(self, passage: Passage) -> Effort:
        """As if it were asked for by itself; of a letter there are fewer prompts than passages."""
        terms = sum(len(answer) + 40 for _, answer in explained(passage)[: self.terms])
        if len(passage.text.split()) < _SHORTEST:
            return Effort(taught_characters=terms)
        return Effort(
            1, read_characters([self.prompt(passage, 0)]), 90, terms + round(0.7 * (len(passage.text) + 100))
        )

    def prompt(self, passage: Passage, seed: int) -> Prompt:
        """What the writer is asked; the request's first words say what kind of text it is."""
        kind = kind_of(passage)
        openings = prompt_lines("back_translation.openings.txt")
        opening = dealt(openings, 1, key=f"{self.name}:{passage.id}", seed=seed)[0].replace("{kind}", kind)
        asked = filled("back_translation.request.txt", passage=shown(passage), kind=kind)
        return Prompt.ask(asked, begun=opening, max_tokens=40, temperature=self.temperature, stop=("\n",))

    def _styled(self, request: str, passage: Passage, seed: int) -> str:
        """The request, in a share of the cases for the style of its author."""
        draw = random.Random(f"{self.name}:{seed}:{passage.id}")
        if draw.random() >= self.in_style:
            return request
        way = draw.choice(prompt_lines("back_translation.styles.txt"))
        bare = request.rstrip(".?!")
        mark = request[len(bare) :] or "."
        return filled_in(way, author=self.author or passage.title, request=bare, mark=mark)

    def _terms(self, passage: Passage, seed: int) -> Iterator[Example]:
        key = f"{self.name}:term:{passage.id}"
        questions = prompt_lines("back_translation.questions.txt")
        for term, answer in dealt(explained(passage), self.terms, key=key, seed=seed):
            question = dealt(questions, 1, key=f"{key}:{term}", seed=seed)[0].replace("{term}", term)
            question = titled(question, passage) if seed % 2 else question
            yield exchange([passage], question, answer, f"{self.name}/term", RULES)


# --- letters ----------------------------------------------------------------------------------


def _texts(own: Sequence[Passage]) -> list[tuple[list[Passage], Passage]]:
    """What of a document is an answer, with the passages in it: all of it where it is short, else each passage."""
    letter = _letter(sorted(own, key=lambda p: p.start))
    return [(list(own), letter)] if letter else [([p], p) for p in own]


def _letter(own: Sequence[Passage]) -> Passage | None:
    """A short document in one; None where it is long, or much of it is not among the passages.

    Lines set aside since others repeat them are in it where the passages bear them out: what the audit finds in no
    passage would cost the whole letter."""
    whole = own[0].whole.rstrip()
    if not 0 < len(whole) <= _LETTER or sum(len(p.text) for p in own) < _COVERED * len(whole):
        return None
    text, at = "", 0
    for passage in own:
        text += f"{_between(whole[at : passage.start], own)}{passage.text}"
        at = passage.end
    text = f"{text}{_between(whole[at:], own)}".strip()
    letter = replace(own[0], start=0, end=len(whole), text=text, heading="")
    return None if instructions_in(letter) else letter


def _between(gap: str, own: Sequence[Passage]) -> str:
    is_borne_out = not gap.strip() or not unsupported(reading(own, gap, "", ""), own)
    return gap if is_borne_out else "\n\n"


# --- requests ---------------------------------------------------------------------------------

_SIGNS = (
    (
        "an email",
        r"(?im)^(?:subject|from|to|cc):|^(?:dear|hi|hello|hey)\b[^.\n]{0,40},|(?:best|kind|warm) regards|sincerely",
    ),
    ("a post", r"(?<!\w)[#@][a-zA-Z]\w+"),
    ("a list", r"(?m)(?:^\s*(?:[-*•]|\d{1,2}[.)])\s.*\n?){3}"),
)
_TITLED = ("email", "letter", "post", "note", "memo", "diary", "report", "speech", "story", "poem", "review")


def kind_of(passage: Passage) -> str:
    """What kind of text it is, with its article: as its title says, else by its signs."""
    words = re.findall(r"[a-z]+", f"{passage.title} {passage.heading}".lower())
    named = next((kind for kind in _TITLED if kind in words or f"{kind}s" in words), "")
    if named:
        return f"an {named}" if named[0] in "aeiou" else f"a {named}"
    signed = next((kind for kind, sign in _SIGNS if re.search(sign, passage.text)), "")
    return signed or ("a note" if len(passage.text.split()) < 60 else "a text")


def _one_request(text: str) -> str:
    """The first sentence, without the quotes that models put around requests."""
    line = text.strip().split("\n")[0].strip("\"'“” ")
    found = re.match(r".+?[.?!](?=\s|$)", line)
    return (found.group() if found else line).strip("\"'“” ")


def _asks_for(request: str, begun: str, passage: Passage) -> bool:
    """Whether a request goes on after its first words, names a topic, and does not give the text away."""
    rest = request[len(begun) :]
    if request[-1:] not in ".?!" or not request.startswith(begun) or not 3 <= len(rest.split()) <= 40:
        return False
    topic, said = stems(passage.text), stems(rest)
    if not any(len(w) >= 4 and w[:5] in topic for w in key_words(rest)) or len(said & topic) > 0.5 * len(topic):
        return False
    words, source = request.split(), " ".join(passage.text.split())
    return not any(" ".join(words[i : i + 8]) in source for i in range(len(words) - 7))


# --- terms ------------------------------------------------------------------------------------

_EXPLAINS = re.compile(
    r"^[\"“]?(?:(?:The|A|An) )?(?P<term>[A-Za-z][\w-]*(?: [\w-]+){0,4}?)[\"”]?,? "
    r"(?:(?:is|are) (?:a|an|any|defined as|the (?:term|name|word|process|practice|act|study|share|ratio|amount))\b"
    r"|means?\b|refers? to\b|stands? for\b|denotes?\b)"
)
_SHORT_FORM = re.compile(r"((?:[A-Za-z][\w-]*[ ,]+){1,7})\(([A-Z][A-Za-z]{1,7})s?\)")
_LONG_FORM = re.compile(r"\b([A-Z]{2,8})s? \(([A-Za-z][\w-]*(?:[ -][\w-]+){1,6})\)")
_NO_DEFINITION = re.compile(
    r" (?:important|essential|key|vital|great|good|better|covered|common|valuable|useful|necessary|few|lot|must)\b"
)
_NO_TERM = frozenset(
    "the a an our your its their it this that he she they there which what who we you here one i these "
    "those".split()
)


def _defines(match: re.Match[str]) -> bool:
    """Whether it says what something is, not how much it matters."""
    return _NO_DEFINITION.match(match.string, match.end()) is None


_LONGEST = 35
"""Words up to which the sentence that brings a short form is told along with it."""


def explained(passage: Passage) -> list[tuple[str, str]]:
    """Terms with what a passage says they mean: defining sentences, and short forms with their long ones."""
    found: dict[str, str] = {}
    for start, end in sentences(passage.text):
        sentence = " ".join(passage.text[start:end].split())
        for short, long in _short_forms(sentence):
            said = f" {sentence}" if len(sentence.split()) <= _LONGEST else ""
            found.setdefault(short, f"{short} stands for {long}.{said}")
        match = _EXPLAINS.match(sentence)
        if match and sentence[-1] in ".!" and not set(match["term"].lower().split()) & _NO_TERM and _defines(match):
            found.setdefault(match["term"], sentence)
    return list(found.items())


def _short_forms(sentence: str) -> Iterator[tuple[str, str]]:
    """'PTO' with 'paid time off', whichever stands in brackets."""
    for match in _LONG_FORM.finditer(sentence):
        if _initials(match.group(2).split(), match.group(1)):
            yield match.group(1), match.group(2)
    for match in _SHORT_FORM.finditer(sentence):
        words, short = match.group(1).split(), match.group(2)
        for first in range(len(words)):
            if _initials(words[first:], short):
                yield short, " ".join(words[first:])
                break


def _initials(words: Sequence[str], short: str) -> bool:
    """Whether the words' first letters spell the short form; small words such as 'of' may be passed over."""
    parts = [p for word in words for p in word.split("-") if p]
    every = "".join(p[0] for p in parts).upper()
    main = "".join(p[0] for p in parts if p not in ("of", "the", "and", "for", "in", "to", "on")).upper()
    return short.upper() in (every, main) and parts[0] not in ("of", "the", "and", "for", "in", "to", "on")
