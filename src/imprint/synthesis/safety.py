"""What keeps a training set safe: no document becomes most of it, and no passage gives the writer orders.

Documents may hold text meant for a model that reads them (indirect prompt injection, arXiv 2302.12173).
Handbooks and manuals are full of orders to people, so that only what speaks to a model, or hides from people,
is flagged."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from imprint.errors import BadSetting
from imprint.synthesis.faithful import Finding
from imprint.types import Example, Passage

_CHARACTERS_A_TOKEN = 3.6


class Quotas:
    """How much of a planned set each document may take.

    A document with a share s of the source may take 2s of the set, but never more than (1 + s) / 2, so that the
    others keep at least half of their share; and a small one of N may always take 1/N. The allowances add up to
    more than the whole, so that a set can always be filled. They hold against the planned total, for the end of
    a stream is not known while it runs."""

    def __init__(self, passages: Iterable[Passage], planned_tokens: int) -> None:
        if planned_tokens <= 0:
            raise BadSetting(
                f"A set of {planned_tokens} tokens is planned. Quotas need the tokens that it is to have."
            )
        self._source = Counter[str]()
        for passage in passages:
            self._source[passage.document_id] += len(passage.text)
        self.taken = Counter[str]()
        self.plan_for(planned_tokens)

    def plan_for(self, planned_tokens: int) -> None:
        """From now on the whole set is to have so many tokens."""
        self.planned_tokens = planned_tokens
        self.allowed = allowances(self._source, planned_tokens)
        """Tokens, by document."""

    def has_room(self, example: Example) -> bool:
        """Whether each document that an example is of may take it; one of no document always fits."""
        each = _shares(example)
        return all(self.taken[d] + t <= self.allowed.get(d, t) for d, t in each.items())

    def add(self, example: Example) -> None:
        """Counts an example, whose tokens its documents share evenly."""
        self.taken.update(_shares(example))


def allowances(source: Mapping[str, int], planned_tokens: float) -> dict[str, float]:
    """Tokens that each document may take of a set, by what it has of the source."""
    whole = sum(source.values()) or 1
    shares = {d: n / whole for d, n in source.items()}
    return {d: planned_tokens * max(min(2 * s, (1 + s) / 2), 1 / len(shares)) for d, s in shares.items()}


def tokens(example: Example) -> float:
    """About how many tokens an example has."""
    return sum(len(t.text) for t in example.turns) / _CHARACTERS_A_TOKEN


def _shares(example: Example) -> dict[str, float]:
    documents = {i.partition(":")[0] for i in example.passages}
    return {d: tokens(example) / len(documents) for d in documents}


# --- orders to a model ------------------------------------------------------------------------

_MODEL = (
    r"(?:chat ?gpt|gpt-?\d\w*|gemini|llama|copilot|ai|a\.i\.|(?:large |small )?language model|llm"
    r"|chat ?bots?|(?:ai|virtual|helpful|digital) (?:assistant|agent|model))"
)
_ORDERS: tuple[tuple[str, str], ...] = (
    (
        "override",
        r"\b(?:ignore|disregard|forget)\b(?: (?:all|any|every|each|everything)(?: of)?)?"
        r"(?: (?:the|your|my|these|those))?"
        r"(?: (?:previous|prior|preceding|above|earlier|original|system|developer))+"
        r" (?:instructions?|prompts?|directions?|directives|guidelines|commands?|rules|context)\b"
        r"(?! (?:if|when|unless|for|in case)\b)",
    ),
    (
        "override",
        r"\b(?:ignore|disregard|forget) (?:everything|anything|all)"
        r" (?:you (?:were|have been)|that was) (?:told|said|given)\b",
    ),
    ("override", r"\bnew (?:system )?instructions? (?:follow|for the (?:ai|assistant|model)|are as follows)\b"),
    ("role", rf"\byou are (?:now |no longer |actually |really )+(?:an? |the )?(?:\w+ )?{_MODEL}\b"),
    (
        "role",
        rf"\byou are (?:an? |the )?(?:helpful |harmless |large |very |intelligent )*{_MODEL}\b"
        r"(?! (?:user|customer|developer))",
    ),
    (
        "role",
        r"\b(?:act|behave|respond|reply|answer) as (?:if you (?:are|were) )?(?:an? |the )?"
        rf"(?:unrestricted |uncensored )?{_MODEL}\b",
    ),
    ("role", r"\b(?:[Yy]ou are|act as|behave as) (?:now )?(?-i:DAN)\b"),
    ("role", r"\b(?:enter|enable|switch to|activate) (?:developer|jailbreak|dan|god|unrestricted) mode\b"),
    ("role", r"\bfrom now on,? (?:you|your) (?:\w+ )?(?:respond|reply|answer|act as|behave|obey|speak as)\b"),
    (
        "prompt",
        r"\b(?:reveal|print|show|repeat|output|leak|display|disclose|tell me|write out)\b(?: \w+){0,3}"
        r" (?:system|hidden|initial|developer) (?:prompt|instructions?|messages?)\b",
    ),
    (
        "markup",
        r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id)\|>"
        r"|\[/?INST\]|<</?SYS>>|<start_of_turn>",
    ),
    ("markup", r"(?m)^#{2,3} ?(?:instruction|response|system)s?:[ \t]*$"),
    ("turns", r"(?ms)^[ \t>*]*(?:system|user|human)[*]{0,2}: .{1,2000}?^[ \t>*]*(?:assistant|ai)[*]{0,2}:"),
    (
        "concealment",
        r"\b(?:do not|don't|never|without)"
        r" (?:tell|telling|inform|informing|mention|mentioning|reveal|revealing|alert|alerting)\b"
        r"(?: (?:this|it|these|that|any of this))?(?: to)? (?:the |your )(?:user|human|reader)s?\b"
        r"(?= (?:about |that |of )?(?:this|these|you|your|what you)|[.!]?\s*$)",
    ),
    ("address", rf"\b(?:if|when|in case) you are (?:an? |the )?{_MODEL}\b"),
    (
        "address",
        r"\b(?:attention|note to|instructions? (?:for|to)|dear|hey|hello),? (?:any |all |the |an? )?"
        rf"{_MODEL}s?(?: (?:model|assistant|agent|reader|reviewer)s?)?(?: reading| processing|[:,!])",
    ),
    (
        "exfiltration",
        r"\b(?:send|post|forward|upload|transmit)\b(?: \w+){0,4}"
        r" (?:conversation|chat history|chat|context|system prompt|api keys?)"
        r"(?: \w+){0,3} to (?:https?://|\S+@\S+)",
    ),
)
_COMPILED = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _ORDERS)
_BLOB = re.compile(r"(?<![\w/+])[A-Za-z0-9+/]{48,}={0,2}(?![\w/+])")
_DECODE = re.compile(
    r"\b(?:decode|base ?64|decrypt|execute|eval|run the following|follow the (?:encoded|decoded))\b", re.IGNORECASE
)
_INVISIBLE = re.compile("[\u200b\u2060\u2062-\u2064\u202a-\u202e\u2066-\u2069]{3,}|[\U000e0020-\U000e007f]{4,}")
_HIDDEN = re.compile(
    r"<(?P<tag>\w+)[^>]*style\s*=\s*[\"'][^\"']*(?:display:\s*none|visibility:\s*hidden|font-size:\s*0(?![.\d]*[1-9])|opacity:\s*0(?![.\d]))"
    r"[^>]*>(?P<text>[^<]{12,})",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"<!--((?:(?!-->).){12,600})-->", re.DOTALL)
_TO_A_MODEL = re.compile(
    rf"\b(?:{_MODEL}|you must|your (?:answer|response|reply)|ignore|system prompt)\b", re.IGNORECASE
)


def instructions_in(passage: Passage) -> list[Finding]:
    """What in a passage reads like instructions to a model, one finding for each kind: its words, shortened."""
    found: dict[str, Finding] = {}
    for kind, text in _orders(passage.text):
        found.setdefault(kind, Finding(kind, " ".join(text.split())[:120]))
    return list(found.values())


def _orders(text: str) -> Iterator[tuple[str, str]]:
    for kind, pattern in _COMPILED:
        match = pattern.search(text)
        if match:
            yield kind, match.group()
    for blob in _BLOB.finditer(text):
        around = text[max(0, blob.start() - 200) : blob.start()] + text[blob.end() : blob.end() + 200]
        if _is_code(blob.group()) and _DECODE.search(around):
            yield "encoded", blob.group()
    if _INVISIBLE.search(text):
        yield "hidden", "invisible characters"
    for hidden in _HIDDEN.finditer(text):
        yield "hidden", hidden["text"]
    for comment in _COMMENT.finditer(text):
        if _TO_A_MODEL.search(comment.group(1)):
            yield "hidden", comment.group(1)


def _is_code(blob: str) -> bool:
    """Whether a long run of letters and digits is encoded text rather than a path or a rule of one letter."""
    return (
        len(set(blob)) > 12
        and any(c.isdigit() for c in blob)
        and any(c.isupper() for c in blob)
        and "//" not in blob
    )


def flagged(passages: Iterable[Passage]) -> dict[str, list[Finding]]:
    """The passages that read like instructions to a model, by id: show them as data only, or not at all."""
    every = ((p.id, instructions_in(p)) for p in passages)
    return {i: found for i, found in every if found}
