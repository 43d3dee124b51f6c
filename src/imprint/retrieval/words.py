"""Texts as words to be looked up, in any script."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Container

MAX_WORDS = 256
"""Words of a question that are looked up; a longer one is most likely a pasted document."""

_ENGLISH = """
a about an and any are as at be been by can could did do does for from had has have how i if in into is it its
may me my no not of on or our s shall should so t than that the their them then there these they this those to
us was we were what when where which who whom whose why will with would you your
"""
STOP_WORDS = frozenset(_ENGLISH.split())
"""Words that say little about what is asked; 's' and 't' are what is left of "what's" and "don't"."""

# Scripts in which a word's edges do not show, and Korean, whose particles hang on the word. Where one script
# ends and another begins, in Japanese a word mostly ends too.
_SCRIPTS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff",  # Thai, Lao, Burmese, Khmer
    "\u3040-\u309f",  # Hiragana
    "\u30a0-\u30ff\u31f0-\u31ff",  # Katakana
    "\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",  # Han
    "\uac00-\ud7af",  # Hangul
)
_UNSPACED = re.compile("|".join(f"[{letters}]+" for letters in _SCRIPTS))
_LONE_LETTER = re.compile("|".join(f"[{letters}]" for letters in _SCRIPTS))


def words_sought(question: str) -> list[str]:
    """The words to look up, each once: without stop words, where anything else remains."""
    found = dict.fromkeys(_words_asked(question))
    telling = [word for word in found if word not in STOP_WORDS]
    return (telling or list(found))[:MAX_WORDS]


def pairs_sought(question: str, common: Container[str] = ()) -> list[str]:
    """Words to look up that stand side by side in the question, each pair once; none with a common word."""
    words, sought = _words_asked(question), {word for word in words_sought(question) if word not in common}
    pairs = (f"{a} {b}" for a, b in itertools.pairwise(words) if a in sought and b in sought)
    return list(dict.fromkeys(pairs))[:MAX_WORDS]


def is_beginning(word: str) -> bool:
    """Whether a word is a single letter of an unspaced script: it begins one of the indexed pairs."""
    return _LONE_LETTER.fullmatch(word) is not None


def indexed(text: str) -> str:
    """The text with each run of an unspaced script as overlapping pairs of letters.

    So a word is found wherever it stands in a sentence. The run's last letter, which begins no pair, comes
    alone."""
    return _UNSPACED.sub(lambda run: f" {' '.join([*_pairs(run[0]), run[0][-1]])} ", _plain(text))


def _words_asked(question: str) -> list[str]:
    return _split(_UNSPACED.sub(lambda run: f" {' '.join(_pairs(run[0]) or [run[0]])} ", _plain(question)))


def _pairs(run: str) -> list[str]:
    return [first + second for first, second in itertools.pairwise(run)]


def _plain(text: str) -> str:
    """Wide, joined and capital letters as plain small ones, and only what UTF-8 can hold."""
    return unicodedata.normalize("NFKC", text.encode(errors="replace").decode()).casefold()


def _split(text: str) -> list[str]:
    """The words of a text: letters, marks and digits, wherever anything else parts them."""
    parted = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text).split()
    return [word for word in parted if any(map(str.isalnum, word))]
