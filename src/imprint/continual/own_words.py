"""What a model said, told apart from what people said: no model is taught its own answers.

A model that learns from what models wrote drifts from the documents with every round (arXiv 2305.17493), and an
answer that it once made up would come back as a fact. So of a kept conversation only what people said counts, and
records of answers and of training text that imprint itself made are no documents. What a model wrote and a person
pasted as prose of their own cannot be told from theirs."""

from __future__ import annotations

import re
from dataclasses import replace

from imprint.types import Document

_SPEAKER = re.compile(
    r"[>*_#\s]*(?:(?P<person>user|human|you|me|customer|visitor)"
    r"|(?P<model>(?:ai |virtual )?assistant|chat ?bot|chat ?gpt|gpt-?\d[\w.-]*|claude|gemini|copilot|llama|imprint)"
    r"|(?P<perhaps>ai|bot|model|system|developer|tool|function))[*_]*\s*:[*_]*(?:\s|$)",
    re.IGNORECASE,
)
"""'System:' may open a specification as well: it speaks only where it opens a paragraph, and people do."""
_RECORDS = (
    (
        re.compile(r"(?m)^(?:[\w .]+\.)?object: (?:chat\.completion(?:\.chunk)?|text_completion|response)$"),
        "it is a kept answer of a served model",
    ),
    (
        re.compile(r"(?ms)^turns 1\.role: .*^generator: \w+(?:/\w+)?$"),
        "it is training text that imprint wrote",
    ),
)


def own_record(document: Document) -> str:
    """What of a model's making a whole document is, in words; '' where it is none."""
    return next((told for pattern, told in _RECORDS if pattern.search(document.text)), "")


def without_own_words(document: Document) -> tuple[Document, int]:
    """A document without what a model says in it, and how many turns were left out.

    Where every paragraph has a speaker, as in an exported conversation, paragraphs are turns. Elsewhere a turn goes
    on to the next speaker, so that rather too much is left out than too little. 'Assistant:' is a speaker where
    people speak too or where it opens the document; else it is a word before a colon."""
    paragraphs = [p for p in re.split(r"\n\s*\n", document.text) if p.strip()]
    opening = [_SPEAKER.match(p) for p in paragraphs]
    if all(opening) and any(s and s["person"] for s in opening):
        kept = [p for p, s in zip(paragraphs, opening, strict=True) if s and s["person"]]
        return _left(document, "\n\n".join(kept), len(paragraphs) - len(kept))
    lines = document.text.splitlines(keepends=True)
    speakers = [_SPEAKER.match(line) for line in lines]
    talks = any(s and s["person"] for s in speakers) or bool(opening and opening[0] and opening[0]["model"])
    kept, turns, is_model = [], 0, False
    for i, (line, speaker) in enumerate(zip(lines, speakers, strict=True)):
        opens = i == 0 or not lines[i - 1].strip()
        if speaker and (speaker["person"] or (talks and (speaker["model"] or (opens and any(opening))))):
            is_model = speaker["person"] is None
            turns += is_model
        if not is_model:
            kept.append(line)
    return _left(document, "".join(kept).strip(), turns)


def _left(document: Document, text: str, turns: int) -> tuple[Document, int]:
    # Pages begin elsewhere in what is left, and nobody needs them in a conversation.
    return (replace(document, text=text, page_starts=()), turns) if turns else (document, 0)
