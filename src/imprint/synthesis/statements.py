"""Sentences taken apart: single statements, the spans in them worth asking for, and the words that ask.

A small writer asks good questions only about short statements, so that compound sentences are split first.
The rules know English; in other languages a sentence stays whole, and its numbers and names are still found.
A table's cell is a statement too, under its column and its row: 'Deductible of Plus: $500'."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from imprint.documents import sentences
from imprint.synthesis.cells import rows
from imprint.types import Passage

_AUXILIARIES = frozenset(
    "is are was were be been has have had does do did can could may might must shall should will would".split()
)
_IRREGULAR = frozenset(
    "became began came gave got grew held kept knew led left lost made met paid put ran rose said sat sold sent "
    "set shut spent stood took taught told thought went won wore wrote built bought brought found fell felt".split()
)
_BARE = frozenset(
    "wear receive get give make take need cost weigh pay offer cover include provide contain require show say "
    "keep hold use work live begin start end open close buy sell send meet call apply allow come go run".split()
)
_NOT_VERBS = frozenset(
    "this its his has was is as thus plus always across less unless various previous famous business process "
    "access address series news days hours weeks months years percent based days' red hundred need speed".split()
)
_PREPOSITIONS = frozenset(
    "in on at by of for from to with without within into onto under over above below after before until till "
    "since during through between among against about per as than like near".split()
)
_DETERMINERS = frozenset("a an the its his her their our your every each any this that these those all".split())
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
_NUMBER_WORDS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
    "seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred"
)
_SHORTENED = "St|Mt|Ft|Dr|Mr|Mrs|Ms|Prof|Rev|Gen|Col|Capt|Sgt|Lt|Sen"
"""What stands before a name with a full stop; initials do too."""
_FILLERS = frozenset("also only least most more be been not so very and or then there up".split())
_EMPTY = frozenset(("a year", "a month", "a week", "a day", "the age", "the whole", "the end", "the day"))
_PRONOUNS = frozenset("It They He She This These That Those There You We I If When What How".split())
_MARKER = re.compile(r"^(?:[-*•|#]+\s*|\(?(?:\d{1,2}(?:\.\d+)*|[a-z]|[ivx]+)[.)]\s+)+")
_HOLDS_ALL = re.compile(
    r"\b(?:not|n't|never|no|nor|neither|without|if|unless|until|whether|when|may|might|can|cannot|could|must|should|"
    r"would|only|claims?|claimed|denies|denied|alleges?|alleged|believes?|believed|says?|said|argues?|argued|reports?|"
    r"reported|suggests?|suggested|hopes?|hoped|expects?|expected|intends?|intended|plans? to|planned to)\b|n't\b",
    re.IGNORECASE,
)
"""Words whose reach a rule cannot tell."""
_LONG = 40
"""Words from which on a statement is asked only for its numbers, times and names."""
_THINGS = 3
"""Phrases, beside numbers, times, names and the subject, that one statement is asked for at most."""
_LABELLED = re.compile(r"(?<=\s)(?:extension|room|number|page|form|code|gate|line|level|phase) $")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that a passage says, in a sentence of its own."""

    text: str
    passage: Passage
    whole: str
    """The sentence it comes from, in which it may be one of several."""
    cell: int = 0
    """Where the value of a table's cell begins, which alone is asked for; 0 in a sentence."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A span of a statement, and the words that ask for it."""

    statement: Statement
    start: int
    end: int
    words: str
    """'how many grams', 'who', 'what year'."""
    kind: str
    """'number', 'time', 'name', 'thing' or 'subject'."""

    @property
    def answer(self) -> str:
        return self.statement.text[self.start : self.end]

    @property
    def echo(self) -> str:
        """The statement with the span asked for in its place: 'The Kestrel weighs how many grams.'"""
        text = self.statement.text
        words = self.words if self.start else self.words[:1].upper() + self.words[1:]
        return text[: self.start] + words + text[self.end :]

    @property
    def gap(self) -> str:
        """The statement with a blank in the span's place."""
        return self.statement.text[: self.start] + "____" + self.statement.text[self.end :]


def statements(passage: Passage) -> list[Statement]:
    """The sentences of a passage, each followed by the simple statements it was split into; cells of its tables."""
    found: list[Statement] = []
    told, first = (rows(passage.whole), passage.start) if passage.whole else (rows(passage.text), 0)
    row_end = 0
    for start, end in sentences(passage.text):
        row = told.get(first + start)
        if row and start + row.characters <= len(passage.text):
            row_end = start + row.characters
            # No sentence of the document: nobody is to recite it.
            found += [Statement(text, passage, f"{text}.", value) for text, value in row.said]
        if start < row_end:
            continue
        whole = _MARKER.sub("", " ".join(passage.text[start:end].split())).strip()
        if len(whole.split()) < 3 or whole.endswith(":") or whole.count("|") > 1:
            continue  # nothing said, or a row of a table, which means little without its head
        parts = [part for part in split(whole) if part != whole]
        found += [Statement(text, passage, whole) for text in [*parts, whole]]
    return found


def split(sentence: str) -> list[str]:
    """A compound sentence as simple ones that share its subject; the sentence alone if it is simple."""
    body = sentence.rstrip(".")
    subject, verb = _subject(body)
    parts = _segments(body)
    if not subject or len(subject.split()) > len(parts[0][1].split()):
        return [sentence]  # no verb found, or several subjects that share one
    if len(parts) > 1 and _HOLDS_ALL.search(f" {body} "):
        return [sentence]  # what follows may stand under a 'not', an 'if' or a 'he claims', and be false alone
    simple: list[str] = []
    current = ""
    for joint, part in parts:
        words = part.split()
        relative = re.match(r"(who|which)\s+(.+)", part)
        if joint and relative and _verb_like(relative.group(2).split()[0]):
            antecedent = _antecedent(current)
            if antecedent:
                simple.append(f"{antecedent} {relative.group(2)}")
                continue
        if joint and words and _verb_like(words[0]) and not _verb_at(words, 1):
            carried = subject
            if words[0].endswith("ed") and verb in _AUXILIARIES and words[0] not in _AUXILIARIES:
                carried = f"{subject} {verb}"  # 'is turned from pipe and packed in a bag'
            simple.append(current)
            current = f"{carried} {part}"
        elif joint.strip() in ("and", ", and", "while", ", while", "but", ", but") and _clause(part):
            simple.append(current)
            current = part
        else:
            current += joint + part
    simple.append(current)
    tidy = [s.strip(" ,;") for s in simple if len(s.split()) >= 3]
    return [s[:1].upper() + s[1:] + "." for s in tidy] or [sentence]


def askings(statement: Statement) -> list[Asking]:
    """Every span of the statement worth asking for, with its question words; no two alike."""
    if statement.cell:
        return _cell_asking(statement)
    seen: set[tuple[int, int]] = set()
    found: list[Asking] = []
    long = len(statement.text.split()) > _LONG
    for start, end, words, kind in _spans(statement.text):
        things = sum(a.kind == "thing" for a in found)
        if kind in ("thing", "subject") and (long or (kind == "thing" and things >= _THINGS)):
            continue
        answer = statement.text[start:end].strip()
        if not answer or len(answer) > 0.7 * len(statement.text) or answer in statement.passage.title:
            continue
        if kind in ("thing", "name") and any(start < e and s < end for s, e in seen):
            continue  # a time, a number or a longer name already covers it
        if (start, end) not in seen:
            seen.add((start, end))
            found.append(Asking(statement, start, end, words, kind))
    return found


def _cell_asking(statement: Statement) -> list[Asking]:
    """A table's cell asked for as a whole, by what it is."""
    value = statement.text[statement.cell :]
    if value in statement.passage.title:
        return []
    known = {(start, end): (words, kind) for start, end, words, kind in _spans(value)}
    words, kind = known.get((0, len(value)), ("what", "thing"))
    return [Asking(statement, statement.cell, len(statement.text), words, kind)]


def _spans(text: str) -> Iterator[tuple[int, int, str, str]]:
    yield from _times(text)
    yield from _numbers(text)
    yield from _names(text)
    yield from _things(text)
    subject, verb = _subject(text.rstrip("."))
    if subject:
        person = bool(re.fullmatch(r"([A-Z][\w'-]+ )+[A-Z][\w'-]+", subject)) and not subject.startswith(
            ("The ", "A ", "Today ", "Our ")
        )
        if subject.split()[0] not in _PRONOUNS:
            yield 0, len(subject), "who" if person else "what", "subject"


def _times(text: str) -> Iterator[tuple[int, int, str, str]]:
    patterns = (
        (rf"\b(?:\d{{1,2}} (?:{_MONTHS})|(?:{_MONTHS}) \d{{1,2}})(?:,? \d{{4}})?\b", "what date"),
        (rf"\b(?:{_MONTHS}),? \d{{4}}\b", "what month"),
        (r"(?<=\bin )(?:1[5-9]|20)\d\d\b|(?<=\bsince )(?:1[5-9]|20)\d\d\b", "what year"),
        (rf"\b(?:{_MONTHS})\b(?! \d)(?<!\d )", "what month"),
        (rf"\b(?:{_DAYS})s?\b", "what day"),
        (r"\b\d{1,2}:\d\d(?: ?[ap]\.?m\.?)?", "what time"),
    )
    for pattern, words in patterns:
        for match in re.finditer(pattern, text):
            yield match.start(), match.end(), words, "time"


def _numbers(text: str) -> Iterator[tuple[int, int, str, str]]:
    digits = r"[$€£]?\d[\d,.]*(?<![,.])"
    number = rf"(?:{digits}|\b(?:{_NUMBER_WORDS})(?:[- ](?:{_NUMBER_WORDS}|and a half))*)"
    for match in re.finditer(rf"(?<![\w:-]){number}(?![\w:])(?P<unit>\s?%| [a-z]+(?: [a-z]+)?)?", text):
        unit = (match.group("unit") or "").strip()
        start, bare_end = match.start(), match.end() - len(match.group("unit") or "")
        value = text[start:bare_end]
        scale = re.match(r" (?:million|billion|trillion|thousand)\b", text[bare_end:])
        if scale:
            end = bare_end + scale.end()
            money = value[0] in "$€£" or text[end:].startswith((" dollars", " euros", " pounds"))
            yield start, end, "how much" if money else "how many", "number"
            continue
        if re.fullmatch(r"(?:1[5-9]|20)\d\d", value) and not unit.startswith(("days", "percent")):
            continue  # a year
        if re.match(rf" (?:{_MONTHS})\b", text[bare_end:]) or re.match(r"-| [A-Z]", text[bare_end:]):
            continue  # a day of a month, half of a word, or part of a name
        first = unit.split()[0] if unit else ""
        if value[0] in "$€£":
            yield start, bare_end, "how much", "number"
        elif unit == "%" or first in ("percent", "per"):
            width = len(match.group("unit")) if unit == "%" else 1 + len(first)
            end = bare_end + (width if unit == "%" or first == "percent" else 0)
            yield start, end, "what percent" if end > bare_end else "how much", "number"
        elif first and first not in _PREPOSITIONS and first not in _AUXILIARIES and first != "and":
            second = unit.split()[1] if " " in unit else ""
            both = second.endswith("s") and not first.endswith("s") and not _verb_at([second], 0)
            noun = unit if both else first
            end = bare_end + 1 + len(noun)
            yield start, end, f"how many {noun}", "number"
        else:
            noun = _LABELLED.search(text[:start])
            if noun:
                yield noun.start(), bare_end, f"which {noun.group().strip()}", "number"
            else:
                yield start, bare_end, "how many" if value.isalpha() else "what number", "number"


def _names(text: str) -> Iterator[tuple[int, int, str, str]]:
    word = rf"(?:(?:{_SHORTENED}|[A-Z])\.(?= [A-Z])|[A-Z][\w'’-]*|\d+(?= [A-Z]))"
    for match in re.finditer(rf"(?<![\w.-]){word}(?:(?: & | of the | of | ){word})*", text):
        name = match.group()
        if re.fullmatch(rf"(?:{_MONTHS}|{_DAYS})s?|[A-Z]", name) or match.start() == 0:
            continue
        before = text[: match.start()].split()[-1:] or [""]
        if re.fullmatch(r"[A-Z]+-?\d+", name) and before[0].isalpha() and before[0] not in _PREPOSITIONS:
            yield match.start() - len(before[0]) - 1, match.end(), f"which {before[0]}", "name"
            continue
        if " " not in name and name.isupper():
            words = "what"
        elif before[0] in ("in", "at", "near", "to", "from"):
            words = "where" if before[0] in ("in", "at", "near") else "what"
        elif " " in name and before[0] not in ("the", "a", "an", "The"):
            words = "who"
        else:
            words = "what"
        yield match.start(), match.end(), words, "name"


def _things(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Phrases that close a clause: after a preposition, a verb of being, or from a determiner on."""
    words = [(m.group(), m.start(), m.end()) for m in _WORD.finditer(text)]
    for i, (word, _, _) in enumerate(words[:-1]):
        lower = word.lower()
        verb = i > 0 and _verb_like(word) and not _noun_before_verb([w for w, _, _ in words], i)
        opens = lower in _PREPOSITIONS or verb or (i > 0 and lower in _DETERMINERS)
        if not opens or word[-1] in ".,;:":
            continue
        first = i if lower in _DETERMINERS else i + 1
        if lower not in _DETERMINERS and words[first][0].lower() in (_DETERMINERS | _PREPOSITIONS):
            continue  # the determiner opens it
        opening = words[first][0]
        following = words[first + 1][0].lower() if first + 1 < len(words) else ""
        adjective = opening.endswith("ed") and following.strip(".,").isalpha() and not _joint(following)
        participle = _verb_like(opening) and not (adjective and following not in _PREPOSITIONS)
        if participle or opening.lower() in _FILLERS or _joint(opening) or opening[0] in "“\"(":
            continue
        last = first
        while last < len(words):
            bare = words[last][0].rstrip(".,;:")
            if last > first and (bare.lower() in _PREPOSITIONS or _joint(bare) or _verb_like(bare)):
                plural = bare.endswith("s") and bare.lower() not in _AUXILIARIES and lower not in _DETERMINERS
                last -= 0 if plural else 1  # 'for demanding applications': a noun that only looks like a verb
                break
            if words[last][0][-1] in ".,;:" or last - first >= 5:
                break
            last += 1
        last = min(last, len(words) - 1)
        start, end = words[first][1], words[last][2]
        phrase = text[start:end].rstrip(".,;:")
        if len(phrase) > 2 and not phrase[0].isdigit() and phrase.lower() not in (_DETERMINERS | _EMPTY):
            yield start, start + len(phrase), "what", "thing"


def _subject(sentence: str) -> tuple[str, str]:
    """The words before the first verb, and that verb; empty where no verb is recognised."""
    words = sentence.split()
    if not words or words[0].lower() in (_PREPOSITIONS | {"if", "when", "there", "although", "because"}):
        return "", ""
    relative = False
    for i, word in enumerate(words[1:10], start=1):
        before = words[i - 1].lower()
        if word.lower() in _AUXILIARIES and before in ("who", "which", "that"):
            relative = True
        elif _verb_like(word) and not _noun_before_verb(words, i) and before not in ("who", "which", "that"):
            if relative and word.endswith("ed"):
                continue  # 'a bell that is only scratched is ...'
            subject = " ".join(words[:i])
            return ("", "") if subject.endswith(",") else (subject, word)
    return "", ""


def _noun_before_verb(words: list[str], i: int) -> bool:
    """Whether a word that looks like a verb is a noun: a verb follows it, or a number or the like precedes."""
    before = words[i - 1].lower()
    fixed = words[i].lower() in _AUXILIARIES
    if fixed:
        return False
    return _verb_at(words, i + 1) or before in _DETERMINERS or before in _PREPOSITIONS or before[0].isdigit()


def _verb_like(word: str) -> bool:
    bare = word.lower().strip(",;.")
    if bare in _AUXILIARIES or bare in _IRREGULAR or bare in _BARE:
        return True
    if bare in _NOT_VERBS or not bare.isalpha() or word[0].isupper():
        return False
    return (bare.endswith("ed") and len(bare) > 4) or (bare.endswith("s") and not bare.endswith(("ss", "us")))


def _verb_at(words: list[str], i: int) -> bool:
    return len(words) > i and (words[i].lower() in _AUXILIARIES or words[i].lower() in _BARE)


def _joint(word: str) -> bool:
    return word.lower() in ("and", "or", "but", "while", "who", "which", "that", "when", "where", "if", "how")


def _clause(part: str) -> bool:
    """Whether a segment has a subject and a verb of its own."""
    subject, _ = _subject(part)
    return bool(subject) and not _verb_like(part.split()[0])


def _antecedent(text: str) -> str:
    """What a following ', who ...' speaks of: a name at the end, else the last phrase from a determiner on."""
    name = re.search(r"((?:[A-Z][\w'-]+ )*[A-Z][\w'-]+),?$", text.strip(" ,"))
    if name:
        return name.group(1)
    phrase = re.search(r"\b((?:the|a|an|our|its|their) (?:[\w'-]+ ?){1,4})$", text.strip(" ,"), re.I)
    return phrase.group(1) if phrase else ""


def _segments(body: str) -> list[tuple[str, str]]:
    """(joint, text) pairs: cut at commas, 'and', 'but' and 'while' that do not stand between digits."""
    pieces = re.split(r"(, (?:and |but |while )?| and | but | while |; )", body)
    joints = ["", *pieces[1::2]]
    return list(zip(joints, pieces[0::2], strict=True))
