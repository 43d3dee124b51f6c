"""Which names the registry takes, and what an unknown one may have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from imprint.errors import BadName, NoSuchAdapter

RULE = (
    "1 to 64 characters, each a lower-case letter a-z, a digit, '-', '_' or '.'; the first is a letter or a "
    "digit; '..' and names that Windows reserves (con, nul, com1 ...) are not taken"
)

# Windows opens a device for these, whatever follows the first dot.
WINDOWS_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))]
)

_SHAPE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_SHOWN = 10
NEARBY = 1000
"""Among so many names close ones are looked for; among tens of thousands it would take longer than any answer."""


def fits(name: str) -> bool:
    """Whether the registry takes this name."""
    return (
        _SHAPE.fullmatch(name) is not None and ".." not in name and name.split(".")[0] not in WINDOWS_DEVICES
    )


def check_name(name: str) -> str:
    """The name itself, where the registry takes it; BadName with the rule where not."""
    if not fits(name):
        raise BadName(f"{_quoted(name)} cannot name an adapter. The rule: {RULE}.")
    return name


def parse(reference: str) -> tuple[str, int | None]:
    """'handbook@3' as a name and a number; the number is None where none is given."""
    name, at, number = reference.partition("@")
    if not at:
        return name, None
    if not _NUMBER.fullmatch(number):
        raise BadName(
            f"{_quoted(reference)} names no version: after '@' comes a number from 1 up, as in 'handbook@3'."
        )
    return name, int(number)


def no_such_name(name: str, first: Sequence[str], nearby: Sequence[str], count: int) -> NoSuchAdapter:
    """The error for an unknown name, with what it may have meant, and what there is: the first of so many names."""
    if not count:
        return NoSuchAdapter(f"No adapter is named {_quoted(name)}: this registry holds none yet.")
    close = difflib.get_close_matches(name.lower(), nearby, n=3)
    meant = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return NoSuchAdapter(f"No adapter is named {_quoted(name)}.{meant} There are: {_some(first, count)}.")


def no_such_number(name: str, number: int, numbers: Sequence[int]) -> NoSuchAdapter:
    """The error for a version that a known name does not have."""
    return NoSuchAdapter(
        f"'{name}' has no version {number}. There are: {_some([f'{name}@{n}' for n in numbers])}."
    )


def _quoted(given: str) -> str:
    return repr(given if len(given) <= 80 else given[:80] + "...")


def _some(things: Sequence[str], count: int | None = None) -> str:
    """The first few of a count of things, which is that of those given unless there are more."""
    shown, count = things[:_SHOWN], count or len(things)
    return ", ".join(shown) + (f" and {count - len(shown):,} more" if count > len(shown) else "")
