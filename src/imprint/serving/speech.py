"""Tokens as text while they come: half characters and what may become a stop mark are held back."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"


class Speech:
    """The text of one answer while it grows."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, [mark for mark in stop if mark]
        self._ids: list[int] = []
        self._from, self._read = 0, 0
        """Tokens before `_from` are not decoded again; those before `_read` are in `_said`."""
        self._said = ""
        self._shown = 0
        self.stopped = False
        """Whether a stop mark was met."""

    def add(self, token: int) -> str:
        """Takes a token; returns the text that is certain now."""
        self._ids.append(token)
        before = self._decode(self._from, self._read)
        now = self._decode(self._from, len(self._ids))
        if now.endswith(_BROKEN):  # the rest of a character is still to come
            return ""
        self._said += now[len(before) :]
        self._from, self._read = self._read, len(self._ids)
        return self._show(self._certain())

    def end(self) -> str:
        """What was held back, now that nothing follows."""
        if self.stopped:
            return ""
        self._said += self._decode(self._from, len(self._ids))[len(self._decode(self._from, self._read)) :]
        self._read = len(self._ids)
        end = self._certain()
        return self._show(end if self.stopped else len(self._said))

    def _certain(self) -> int:
        """How much of what was said can be shown."""
        marks = [at for mark in self._stop if (at := self._said.find(mark, self._shown)) >= 0]
        if marks:
            self.stopped = True
            return min(marks)
        # What is shown already cannot be held back.
        held = max((_overlap(self._said[self._shown :], mark) for mark in self._stop), default=0)
        return len(self._said) - held

    def _show(self, end: int) -> str:
        shown, self._shown = self._said[self._shown : end], max(self._shown, end)
        return shown

    def _decode(self, start: int, end: int) -> str:
        return str(self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True))


def _overlap(said: str, mark: str) -> int:
    """Length of the longest end of `said` that `mark` begins with."""
    return next((n for n in range(min(len(mark) - 1, len(said)), 0, -1) if said.endswith(mark[:n])), 0)


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """The bytes a token stands for; of a byte-level vocabulary exactly, else of its text."""
    piece = tokenizer.convert_ids_to_tokens(token)
    table = _byte_of_character()
    if piece is not None and all(character in table for character in piece):
        return bytes(table[character] for character in piece)
    return str(tokenizer.decode([token])).encode()


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """How byte-level vocabularies write bytes as printable characters (GPT-2, Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
