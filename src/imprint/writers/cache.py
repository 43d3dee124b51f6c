"""A writer that remembers: what was written once is not written again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from imprint.errors import Unwritten
from imprint.types import Prompt, Reader, Text, Writer, content_hash


@runtime_checkable
class Streaming(Protocol):
    """A writer that gives each text as it comes, so that what ends the work loses none that was paid for."""

    def each(self, prompts: Sequence[Prompt], *, seed: int) -> Iterator[tuple[int, Text]]:
        """Each text with the place of its prompt, in any order."""


def gathered(each: Iterable[tuple[int, Text]], count: int) -> list[Text]:
    """The texts in their prompts' order. What stops the writer is raised with the texts that came before."""
    texts: dict[int, Text] = {}
    try:
        texts.update(each)
    except Unwritten as error:
        error.texts = texts
        raise
    return [texts[i] for i in range(count)]


@dataclass
class CachedWriter:
    """Passes on only what it has not seen, and keeps the rest in a file.

    Prompts go to the writer in fixed groups, and each group is one line of the file. So a killed run that
    starts again meets the same groups, and gets the same texts as one that was never killed: what a model
    writes hangs, in the last bits, on which rows it computes together. A writer that gives each text as it
    comes gets all prompts at once, and each of its texts is a line."""

    writer: Writer
    file: Path
    """JSON lines: {keys: [...], texts: [...]}, and where the writer told them logprobs, top and ids, each in the
    order of the keys; a line cut short by a kill is passed over."""
    group: int = 256
    """Prompts a line."""
    written: int = 0
    """Prompts that the writer was really asked."""
    _places: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)
    """Where a text stands: the byte at which its line begins, and which of the line it is. The texts
    themselves stay in the file: with log-probabilities they are many times as large. A place takes up to 200 bytes,
    so that memory grows with the texts of all runs in the file: 200 MB for a million."""

    def __post_init__(self) -> None:
        if self.file.exists():
            with open(self.file, "rb") as lines:
                start = 0
                for line in lines:
                    record = _record(line)
                    if record is not None:
                        self._note(record["keys"], start)
                    start += len(line)

    @property
    def name(self) -> str:
        return self.writer.name

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        """One text per prompt. Raises what the writer raises, once what came before is kept."""
        keys = [content_hash(self.name, str(seed), repr(p)) for p in prompts]
        group = max(1, len(prompts)) if isinstance(self.writer, Streaming) else self.group
        try:
            for first in range(0, len(prompts), group):
                new = [i for i in range(first, min(first + group, len(prompts))) if keys[i] not in self._places]
                if new:
                    self._write([prompts[i] for i in new], [keys[i] for i in new], seed)
        except Unwritten as error:
            there = [i for i, key in enumerate(keys) if key in self._places]
            error.texts = dict(zip(there, self._read([keys[i] for i in there]), strict=True))
            raise
        return self._read(keys)

    def likelihoods(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        """Passed on as it is, in the same groups each time; reading is cheap."""
        if not isinstance(self.writer, Reader):
            return [0.0] * len(prompts)
        return self.writer.likelihoods(prompts, texts)

    def _write(self, prompts: list[Prompt], keys: list[str], seed: int) -> None:
        if isinstance(self.writer, Streaming):
            for i, text in self.writer.each(prompts, seed=seed):
                self._keep([keys[i]], [text])
            return
        try:
            texts = self.writer.write(prompts, seed=seed)
        except Unwritten as error:
            if error.texts:
                self._keep([keys[i] for i in error.texts], list(error.texts.values()))
            raise
        self._keep(keys, texts)

    def _keep(self, keys: list[str], texts: list[Text]) -> None:
        record: dict[str, Any] = {"keys": keys, "texts": [t.text for t in texts]}
        if any(t.logprobs is not None for t in texts):
            record["logprobs"] = [t.logprobs for t in texts]
        if any(t.top is not None for t in texts):
            record["top"] = [t.top for t in texts]
        if any(t.ids is not None for t in texts):
            record["ids"] = [t.ids for t in texts]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        torn = self.file.exists() and not _ends_a_line(self.file)
        line = json.dumps(record).encode() + b"\n"
        with open(self.file, "ab", buffering=0) as out:
            # A line that a kill cut short must not swallow this one.
            out.write(b"\n" + line if torn else line)
            os.fsync(out.fileno())
            # Asked afterwards: another process may have appended to the file since it was opened.
            start = out.tell() - len(line)
        self._note(keys, start)
        self.written += len(keys)

    def _note(self, keys: Sequence[str], start: int) -> None:
        self._places.update({key: (start, i) for i, key in enumerate(keys)})

    def _read(self, keys: Sequence[str]) -> list[Text]:
        """The texts of these keys. Each line is read once: those of one call stand together."""
        starts = {self._places[key][0] for key in keys}
        lines: dict[int, Mapping[str, Any]] = {}
        if starts:
            with open(self.file, "rb") as file:
                for start in sorted(starts):
                    file.seek(start)
                    lines[start] = json.loads(file.readline())
        return [_text(lines[start], i) for start, i in (self._places[key] for key in keys)]


def _text(record: Mapping[str, Any], i: int) -> Text:
    logprobs = record.get("logprobs", {i: None})[i]
    top = record.get("top", {i: None})[i]
    ids = record.get("ids", {i: None})[i]
    return Text(
        record["texts"][i],
        None if logprobs is None else tuple(logprobs),
        None if top is None else tuple(tuple((token, value) for token, value in place) for place in top),
        None if ids is None else tuple(ids),
    )


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # cut short by a kill; its group is written again
        return None
    return record if isinstance(record, dict) and "keys" in record else None


def _ends_a_line(file: Path) -> bool:
    with open(file, "rb") as handle:
        handle.seek(0, os.SEEK_END)
        if handle.tell() == 0:
            return True
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) == b"\n"
