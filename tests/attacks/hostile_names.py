"""Names that somebody may give in the hope of harm, as many as are wanted, the same for the same seed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

_WORDS = "handbook prices acme legal-2025 hr.v2 atlas a x7".split()
_RESERVED = "con prn aux nul com1 com9 lpt1 lpt9".split()
# A rule of its own, beside the one that it tests.
_HARMLESS = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9._-]{0,63}")


def hostile_names(n: int, *, seed: int) -> Iterator[str]:
    """So many different names that nothing of ours may take."""
    draw, seen = random.Random(seed), set[str]()
    while len(seen) < n:
        name = draw.choice(_KINDS)(draw)
        reserved = name.partition(".")[0] in _RESERVED
        if name not in seen and (reserved or not _HARMLESS.fullmatch(name)):
            seen.add(name)
            yield name


def _traversal(draw: random.Random) -> str:
    up = draw.choice(["../", "..\\", "..%2f", "%2e%2e/", "..;/", "....//", "．．／", "..\u2215", "/../", "./../"])
    target = draw.choice(["etc/passwd", "registry.db", "adapters", "keys.json", ".ssh/id_rsa", draw.choice(_WORDS)])
    head = draw.choice(["", "", "/", "C:\\", "\\\\server\\share\\", "file:///", "~/", "~root/", draw.choice(_WORDS) + "/"])
    return head + up * draw.randint(0, 9) + target + draw.choice(["", "/", "\0.md", "/."])


def _look_alike(draw: random.Random) -> str:
    word = list(draw.choice(_WORDS))
    at = draw.randrange(len(word))
    odd = ["а", "е", "о", "р", "ｈ", "ı", "ß", "ſ", "K", "\u0301", "\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "Å"]  # fmt: skip
    word[at] = draw.choice(odd) if draw.random() < 0.5 else word[at] + draw.choice(odd)
    return "".join(word)


def _control(draw: random.Random) -> str:
    odd = [chr(draw.randrange(32)), "\x7f", "\x85", "\n", "\r\n", "\x1b[2J", "\x1b]0;owned\x07", "\x9b31m", "\b" * 8]
    word = draw.choice(_WORDS)
    at = draw.randrange(len(word) + 1)
    return word[:at] + draw.choice(odd) + word[at:]


def _turned_round(draw: random.Random) -> str:
    mark = draw.choice(["\u202e", "\u202d", "\u2066", "\u2067", "\u2069", "\u200f", "\u061c", "\u2028", "\u2029"])
    return f"{draw.choice(_WORDS)}{mark}{draw.choice(['gnp.exe', 'txt.sj', 'x'])}{draw.randrange(1000)}"


def _reserved(draw: random.Random) -> str:
    word = draw.choice(_RESERVED)
    word = word.upper() if draw.random() < 0.3 else word
    return word + draw.choice(["", ".", " ", ":", f".{draw.choice(_WORDS)}", f".txt{draw.randrange(100)}"])


def _long(draw: random.Random) -> str:
    return draw.choice(["a", "x.", "é", "../", "-", "a+", "@1", "\0"]) * draw.choice([65, 256, 4096, 100_000])


def _query(draw: random.Random) -> str:
    quote, number = draw.choice("'\"`"), draw.randrange(1000)
    return draw.choice(_WORDS) + quote + draw.choice(
        [f"; DROP TABLE versions; --{number}", f" OR {number}={number} --", " UNION SELECT * FROM names --", f"||{number}||{quote}", "/*", "%"]
    )  # fmt: skip


def _shell(draw: random.Random) -> str:
    return draw.choice(
        ["$(reboot)", "`id`", ";rm -rf ~", "|cat /etc/passwd", "&&curl x", "$IFS", ">owned", "-rf", "--help", "-", "*", "?", "!!", "${jndi:ldap://x}",
         "%s%n", "{0.__class__}", "{{7*7}}", "<script>alert(1)</script>", "%00", "\\x00", "[0-9]"]
    ) + (f" {draw.choice(_WORDS)}{draw.randrange(1000)}" if draw.random() < 0.9 else "")  # fmt: skip


def _dots(draw: random.Random) -> str:
    word = draw.choice(_WORDS)
    return draw.choice(["", " ", ".", "..", "...", f".{word}", f"{word}..", f" {word}", f"{word} ", f"_{word}", f"-{word}", f"{word}/", f"{word}:{draw.randrange(99)}"])  # fmt: skip


def _reference(draw: random.Random) -> str:
    tail = draw.choice(["0", "-1", "1.5", "latest", "1@2", "9" * 30, "\u0661", "0x1", "1e3", "", " 1", "1\n", "²"])
    return draw.choice(_WORDS) + draw.choice(["@", "+", "+../", "@@", "@1+"]) + tail


def _any(draw: random.Random) -> str:
    characters = [draw.choice([draw.randrange(0x80), draw.randrange(0x3000), draw.randrange(0x110000)]) for _ in range(draw.randint(1, 20))]
    return "".join(map(chr, characters))  # halves of surrogate pairs too


_KINDS: tuple[Callable[[random.Random], str], ...] = (
    _traversal, _look_alike, _control, _turned_round, _reserved, _long, _query, _shell, _dots, _reference, _any,
)  # fmt: skip
