"""Names, negations and the words that carry meaning: what one text is compared with another by."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from imprint.synthesis.prompt_files import prompt_lines
from imprint.synthesis.quantities import dates, numbers

_NAME = re.compile(r"(?<![\w'’-])[^\W\d_a-zß-öø-ÿ][\w'’-]*")
_WORD = re.compile(r"\w[\w'’-]*")
_OPENING = '.?!:;\n"“”‘(*_#>|-–—•/[…'
_POSSESSIVE = re.compile(r"(?:['’]s|['’])$")
_DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
FUNCTION_WORDS = frozenset(
    "a an the this that these those there here it its he she they them his her their theirs we us our you "
    "your i my me what who whom whose which how when where why in on at of to for by from with as and or but "
    "nor so than then also too very just only even both each such same is are was were be been being am do "
    "does did done can could may might must shall should will would have has had having if while because "
    "although though since until into onto over under about after before during between among through per not "
    "no any some all more most other much many up out down off again once s t".split()
)
_NEGATORS = re.compile(
    # What follows a comma ('a fruit, not a root') or 'not' before 'just' sets apart more than it denies.
    r"\b(?:(?<!, )(?<!and )not(?! (?:only|just|merely|simply|necessarily|yet)\b)"
    r"|never|nobody|nothing|none|nowhere|neither|nor|cannot|without|no(?!\.? ?\d))\b|n['’]t\b",
    re.IGNORECASE,
)
_LIKE_NEGATORS = re.compile(
    r"\b(?:un(?:able|likely|willing|available)|lacks?|lacking|fail(?:s|ed|ure)?|refus\w+|exclud\w+|except\w*|prohibit\w*"
    r"|forbid\w*|forbade|ban(?:s|ned)?|den(?:y|ies|ied)|avoid\w*|prevent\w*|exempt\w*|impossible|hardly|rarely|seldom"
    r"|barely|little|few|only|unless|rather|instead|reject\w*|absen\w+|oppos\w+|discourag\w+|stop\w*|non-?\w+|im?possible"
    r"|los(?:t|e|es|ing)|replac\w+|in(?:eligible|capable|valid|sufficient)|dis\w+|il?legal|free of|less)\b",
    re.IGNORECASE,
)


@functools.cache
def common_words() -> frozenset[str]:
    """English words that may open a sentence without naming anybody."""
    return frozenset(" ".join(prompt_lines("audit.words.txt")).split()) | FUNCTION_WORDS


@functools.cache
def _common_stems() -> frozenset[str]:
    return frozenset(stem(w) for w in common_words())


_DERIVED = re.compile(
    r"[a-z]{3,}(?:[ts]ion(?:al|s)?|ments?|ness|it(?:y|ies)|ical|ally|ously|i[sz](?:ation|ed|ing)|ively|ability|ing)$"
)


@dataclass(frozen=True, slots=True)
class Name:
    """A capitalised word as it stands in a text."""

    start: int
    end: int
    text: str
    opens: bool
    """It opens a sentence, a line or a quotation, and may be capitalised for that alone."""


def names(text: str) -> list[Name]:
    """The capitalised words of a text, without a possessive ending."""
    found = []
    for match in _NAME.finditer(text):
        word = _POSSESSIVE.sub("", match.group())
        if word[:1].isupper():
            before = text[max(0, match.start() - 12) : match.start()].rstrip(" \t")
            opens = not before.strip() or before[-1] in _OPENING or before.endswith(("...", ". '", " '"))
            found.append(Name(match.start(), match.start() + len(word), word, opens))
    return found


_PHRASE = re.compile(r"(?:of|the|and|de|la|du|von|van|der|for|&)")


def phrases(text: str) -> list[str]:
    """The names of a text, of one word or several: 'Hedda Strouvian', 'Bank of England', 'T-19'.

    A single word that opens a sentence counts where no dictionary word looks like it."""
    runs: list[list[Name]] = []
    for name in names(text):
        between = text[runs[-1][-1].end : name.start] if runs else "\n"
        joins = re.fullmatch(r"(?:['’]s)?[ ](?:(?:of|of the|&|de|la|du|von|van|der) )?", between)
        if joins and not (runs[-1][-1].opens and is_common(runs[-1][-1].text)) and not name.opens:
            runs[-1].append(name)
        else:
            runs.append([name])
    found = []
    for run in runs:
        while run and (is_function_word(run[0].text) or (run[0].opens and is_common(run[0].text))):
            run = run[1:]
        shouted = len(run) > 2 and all(n.text.isupper() for n in run)  # a heading, not a name
        if run and not shouted and not (len(run) == 1 and _is_calendar(run[0].text)):
            found.append(text[run[0].start : run[-1].end])
    return found


def is_function_word(word: str) -> bool:
    """Whether a word only holds sentences together: 'of', 'the', 'I', 'they're'."""
    return len(word) == 1 or re.split(r"['’]", word.lower())[0] in FUNCTION_WORDS


def is_common(word: str) -> bool:
    """Whether this is an everyday English word, or has an ending by which such words are made of others."""
    lower = word.lower().replace("’", "'")
    known = common_words()
    if lower in known or len(lower) == 1 or stem(lower) in _common_stems() or _DERIVED.search(lower):
        return True
    parts = re.split(r"['-]", lower)
    return len(parts) > 1 and all(p in known or p in ("s", "t", "ll", "re", "ve", "d", "m") for p in parts)


def _is_calendar(word: str) -> bool:
    return word.lower() in _DAYS or bool(dates(f"in {word}"))


def weekdays(text: str) -> set[str]:
    """The days of the week that a text names, in short or as part of a span ('Tuesday to Saturday')."""
    short = "|".join(d[:3].capitalize() for d in _DAYS)
    pattern = rf"\b({short})[a-z]*\.?(?:\s*(?:-|–|to|through|until|till)\s*({short})[a-z]*)?"
    found: set[str] = set()
    order = [d[:3] for d in _DAYS]
    for match in re.finditer(pattern, text):
        first = order.index(match.group(1).lower())
        last = order.index(match.group(2).lower()) if match.group(2) else first
        found |= {_DAYS[(first + i) % 7] for i in range((last - first) % 7 + 1)}
    return found


def is_weekday(word: str) -> bool:
    return word.lower().removesuffix("s") in _DAYS


def stem(word: str) -> str:
    """A word without the endings that grammar puts on it: 'opens', 'opened' and 'opening' are one."""
    word = _POSSESSIVE.sub("", word.lower())
    for ending in ("ings", "ing", "edly", "ed", "ies", "es", "s", "ly", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 4 - (len(ending) == 1):
            return word[: len(word) - len(ending)]
    return word


def content_words(text: str) -> set[str]:
    """Stems of the words that carry meaning, numbers in plain form among them."""
    return set(content_list(text))


def content_list(text: str) -> Iterator[str]:
    """As content_words(), in order and as often as they occur."""
    for word in _WORD.findall(text.lower()):
        if word not in FUNCTION_WORDS and not word.endswith("n't"):
            yield word.replace(",", "") if word[0].isdigit() else stem(word)


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return [_POSSESSIVE.sub("", w) for w in _WORD.findall(text.lower())]


def negations(text: str) -> int:
    """How many words of a text deny: not, never, no, without."""
    return len(_NEGATORS.findall(text))


def denies_softly(text: str) -> bool:
    """Whether a text may deny without such a word ('is prohibited', 'only', 'fails to')."""
    return bool(_LIKE_NEGATORS.search(text))


def firm(text: str) -> frozenset[str]:
    """What must agree before two texts may count as saying the same: numbers, units, dates, names and negations."""
    found = {f"{n.value} {n.unit}" for n in numbers(text)} | {d.key for d in dates(text)}
    found |= {n.text.lower() for n in names(text) if not (n.opens and is_common(n.text)) and len(n.text) > 1}
    return frozenset(found | {f"negated {negations(text) % 2}"})
