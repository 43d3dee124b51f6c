"""What a writer wrote, as a text that can stand alone: begun where it was begun, ended where a sentence ends."""

from __future__ import annotations

import re
from collections.abc import Sequence

from imprint.documents import sentences
from imprint.types import Prompt

_ENDED = re.compile(r"[.!?。！？][\"'”’»)\]*]*$")
_POLITE = re.compile(r"^(?:sure|certainly|of course|okay|here(?:'s| is| are))\b[^\n:]{0,80}[:!]\s*", re.IGNORECASE)
_REFUSAL = re.compile(r"^(?:i'm sorry|i am sorry|sorry,|i cannot|i can't|i'm unable)|\bas an ai\b", re.IGNORECASE)
_OF_ITSELF = re.compile(
    r"text>|\bboth texts\b|\b(?:the|this|that|your|following) (?:first |second )?"
    r"(?:text|passage|summary|paragraph|blog post|sentence)s?\b",
    re.IGNORECASE,
)


def whole_sentences(text: str) -> str:
    """The text up to its last whole sentence, for the room for an answer may have cut it short."""
    spans = sentences(text.strip())
    while spans and not _ENDED.search(text.strip()[slice(*spans[-1])]):
        spans.pop()
    return text.strip()[: spans[-1][1]] if spans else ""


def continued(prompt: Prompt, text: str) -> str:
    """The whole of what was written: the words it was begun with, then the rest."""
    begun, rest = prompt.begun.strip(), text.strip()
    if not begun or not rest or rest.lower().startswith(begun.lower()):
        return rest  # some writers say the first words again
    return f"{begun}{'' if rest[0] in ',.;:?!' else ' '}{rest}"


def prose(prompt: Prompt, text: str, *, least_words: int = 6) -> str:
    """What was written, from the words it was begun with to its last whole sentence; '' where it is broken.

    Broken is what is too short, goes in circles, refuses, speaks of the text in place of what it says, or copies
    the prompt: its instruction or its passage."""
    body = continued(prompt, _POLITE.sub("", text.strip()))
    spans = sentences(body)
    while spans and not _ENDED.search(body[slice(*spans[-1])]):
        spans.pop()  # cut short, for the room for it was used up
    said = [body[start:end] for start, end in spans]
    whole = body[: spans[-1][1]] if spans else ""
    if len(set(said)) < len(said):
        whole = " ".join(dict.fromkeys(said))
    words = whole.split()
    if len(words) < least_words or _circles(words) or _REFUSAL.search(text.strip()):
        return ""
    given = " ".join(prompt.turns[-1].text.split())
    shown = prompt.turns[-1].text.rpartition("</text>")[0].lower()
    if any(match.group().lower() not in shown for match in _OF_ITSELF.finditer(whole)):
        return ""
    asked = prompt.turns[-1].text.rsplit("</text>", 1)[-1].strip().splitlines()
    copied = " ".join(words) in given or any(len(line) > 20 and line in whole for line in asked)
    return "" if copied else whole


def first_sentence(text: str) -> str:
    """The first sentence of a text."""
    return next((text[start:end] for start, end in sentences(text)), "")


def _circles(words: Sequence[str]) -> bool:
    """Whether more than a quarter of all runs of four words were there before."""
    runs = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return len(set(runs)) < 0.75 * len(runs)
