"""A writer in this process that puts on the skill a prompt asks for.

A skill is an adapter that was taught once, on other documents (bench/skills.py), and comes along with the
package. It belongs to one base; on any other base prompts are answered without it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imprint.adapters import folder as adapter_folder
from imprint.base import Base
from imprint.engine import Engine
from imprint.types import Adapter, Prompt, Text, content_hash
from imprint.writers.local import LocalWriter

SKILLS = ("ask", "read")


@functools.cache
def _kept(name: str) -> Adapter | None:
    folder = Path(__file__).parent / name
    return adapter_folder.read(folder) if (folder / adapter_folder.CONFIG).exists() else None


def skill(name: str, base: Base) -> Adapter | None:
    """The skill of that name for this base; None where there is none."""
    adapter = _kept(name)
    return adapter if adapter is not None and adapter.revision == base.revision else None


@dataclass
class SkilledWriter:
    """Writes as the writer does, wearing a skill adapter for the prompts that name one."""

    engine: Engine
    writer: LocalWriter
    without: Collection[str] = ()
    """Skills not to use, to see what they are worth."""

    @property
    def name(self) -> str:
        """The base's name with the hashes of the skills, so that a cache never mixes them up."""
        worn = [f"{name}:{_fingerprint(name)}" for name in SKILLS if self._skill(name) is not None]
        return "+".join([self.writer.name, *worn])

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        """One text per prompt, those of one skill together."""
        texts: dict[int, Text] = {}
        for name in dict.fromkeys(p.skill for p in prompts):
            chosen = [i for i, p in enumerate(prompts) if p.skill == name]
            bare = self._skill(name) is None
            with self._wearing(name):
                asked = [prompts[i].plainly() if bare else prompts[i] for i in chosen]
                written = self.writer.write(asked, seed=seed)
            texts.update(zip(chosen, written, strict=True))
        return [texts[i] for i in range(len(prompts))]

    def likelihoods(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        """Mean natural-log probability per token of each text as the continuation of its prompt."""
        scores: dict[int, float] = {}
        for name in dict.fromkeys(p.skill for p in prompts):
            chosen = [i for i, p in enumerate(prompts) if p.skill == name]
            with self._wearing(name):
                read = self.writer.likelihoods([prompts[i] for i in chosen], [texts[i] for i in chosen])
            scores.update(zip(chosen, read, strict=True))
        return [scores[i] for i in range(len(prompts))]

    def _skill(self, name: str) -> Adapter | None:
        return None if not name or name in self.without else skill(name, self.engine.base)

    @contextlib.contextmanager
    def _wearing(self, name: str) -> Iterator[None]:
        adapter = self._skill(name)
        if adapter is None:
            yield
            return
        with self.engine.attached(adapter):
            yield


@functools.cache
def _fingerprint(name: str) -> str:
    return content_hash((Path(__file__).parent / name / adapter_folder.WEIGHTS).read_bytes())
