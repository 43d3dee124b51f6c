"""A writer that remembers: what was written once is not written again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imprint.types import Prompt, Reader, Text, Writer, content_hash


@dataclass
class CachedWriter:
    """Passes on only what it has not seen, and keeps the rest in a file.

    Prompts go to the writer in fixed groups, and each group is one line of the file. So a killed run that
    starts again meets the same groups, and gets the same texts as one that was never killed: what a model
    writes hangs, in the last bits, on which rows it computes together."""

    writer: Writer
    file: Path
    """JSON lines: {keys: [...], texts: [...]}; a line cut short by a kill is passed over."""
    group: int = 256
    """Prompts a line."""
    written: int = 0
    """Prompts that the writer was really asked."""
    _known: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.file.exists():
            with open(self.file, encoding="utf-8") as lines:
                for line in lines:
                    record = _record(line)
                    if record is not None:
                        self._known.update(zip(record["keys"], record["texts"], strict=True))

    @property
    def name(self) -> str:
        return self.writer.name

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        """One text per prompt; log-probabilities are not kept."""
        keys = [content_hash(self.name, str(seed), repr(p)) for p in prompts]
        for first in range(0, len(prompts), self.group):
            new = [i for i in range(first, min(first + self.group, len(prompts))) if keys[i] not in self._known]
            if new:
                texts = self.writer.write([prompts[i] for i in new], seed=seed)
                self._keep([keys[i] for i in new], [t.text for t in texts])
                self.written += len(new)
        return [Text(self._known[k]) for k in keys]

    def likelihoods(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        """Passed on as it is, in the same groups each time; reading is cheap."""
        if not isinstance(self.writer, Reader):
            return [0.0] * len(prompts)
        return self.writer.likelihoods(prompts, texts)

    def _keep(self, keys: list[str], texts: list[str]) -> None:
        self._known.update(zip(keys, texts, strict=True))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        torn = self.file.exists() and not _ends_a_line(self.file)
        with open(self.file, "a", encoding="utf-8") as out:
            # A line that a kill cut short must not swallow this one.
            out.write(("\n" if torn else "") + json.dumps({"keys": keys, "texts": texts}) + "\n")
            out.flush()
            os.fsync(out.fileno())


def _record(line: str) -> dict[str, list[str]] | None:
    try:
        return dict(json.loads(line))
    except ValueError:  # cut short by a kill; its group is written again
        return None


def _ends_a_line(file: Path) -> bool:
    with open(file, "rb") as handle:
        handle.seek(0, os.SEEK_END)
        if handle.tell() == 0:
            return True
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) == b"\n"
