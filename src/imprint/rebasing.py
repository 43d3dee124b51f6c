"""Moving a name to a new base model, and back to an older version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imprint import clock
from imprint.base import Base
from imprint.continual.changes import Changes
from imprint.continual.entries import entries_of, parts_told, told_and_met
from imprint.continual.lessons import REPLAY
from imprint.corpus import to_teach
from imprint.engine import Engine
from imprint.errors import BadInput, BadSetting, NoSuchAdapter
from imprint.home import home_folder
from imprint.next_version import Next, Part, make
from imprint.recipe import recipe_of
from imprint.registry import Registry
from imprint.run_folder import RunFolder, questions_from_json
from imprint.stages import job_of, taught_by_reader, text_tokens_of
from imprint.taught import Taught
from imprint.training.service import Service
from imprint.types import Example, Passage, content_hash
from imprint.watch import SILENT, Watch


def rollback(reference: str, *, home: Path | None = None) -> Taught:
    """The next version of a name, with everything that an older one has: 'handbook@3'. Nothing is trained, and no
    version is lost. Raises NoSuchAdapter, or BadInput where no older version is named."""
    where = home or home_folder()
    registry = Registry(where)
    if "@" not in reference:
        numbers = ", ".join(str(v) for v in registry.versions(reference))
        raise BadInput(f"Say to which version: {numbers}.")
    version = registry.get(reference)
    if version.number == registry.latest(version.name).number:
        raise BadInput(f"{version} is what is served already.")
    now = clock.now()
    told = {"rolled_back_to": version.number, "rolled_back_on": now[:10], "as_of": now[:10]}
    again = registry.again(version, details=told, now=now)
    return Taught(again, registry, where)


def rebase(
    name: str,
    base: str | Base,
    *,
    home: Path | None = None,
    watch: Watch = SILENT,
    service: Service | None = None,
    seed: int = 0,
) -> Taught:
    """The next version of a name on another base model: the same documents and the same training text, trained as
    often. Nothing is written anew. Raises BadInput where the text is not kept here."""
    return make([_Rebase(name, home or home_folder(), watch, seed)], base, watch, service)[0]


class _Rebase(Next):
    """A name on its way to another base."""

    way, replay = "rebase", REPLAY

    def __init__(self, name: str, home: Path, watch: Watch, seed: int) -> None:
        super().__init__(name, home, watch, seed)
        if self.parent is None:
            raise NoSuchAdapter(f"No adapter is named '{name}'.")
        self.recipe, self.now = recipe_of(self.parent), self.old
        self.changes = Changes(unchanged=self.old.documents)
        self.date = self.parent.details.get("as_of", self.parent.created_at[:10])
        self.entries = entries_of(self.parent, self.old.documents)
        missing = [e["run"] for e in self.entries if not RunFolder(home / "runs" / e["run"]).has_examples]
        if missing:
            raise BadInput(
                f"The training text of {self.parent} is not kept here: it cannot be taught to another base. "
                f"Teach the documents again: imprint teach PATH --as {name} --base BASE."
            )

    def unchanged(self) -> bool:
        return False

    def prepare(self, engine: Engine) -> None:
        parent, base = self.parent, engine.base
        assert parent is not None
        if parent.base == base.name:
            raise BadSetting(f"{parent} was taught on {base.name} already.")
        self.asked = questions_from_json(parent.details.get("questions", ()))
        passages, _ = to_teach(self.now, self.recipe, base)
        recipe = self._sized()
        visits = told_and_met(parent)[1]
        key = content_hash(str(parent), parent.adapter_hash, base.revision, str(base.device.dtype), str(self.seed))
        for place, entry in enumerate(self.entries):
            here = tuple(d for d in self.now.documents if d.id in entry["documents"])
            mine = [p for p in passages if p.document_id in entry["documents"]]
            run = RunFolder(self.home / "runs" / key / f"shard-{place}")
            if not run.has_examples:
                run.write_examples(_moved(RunFolder(self.home / "runs" / entry["run"]).examples(), mine))
            job = job_of(run, base, recipe, self.seed, mine)
            job = taught_by_reader(job, run, engine, recipe, mine, self.watch)
            text = text_tokens_of(job)
            told = entry | {"run": f"{key}/shard-{place}", "taught": [p.id for p in mine], "in_order": 0}
            told |= {"text_tokens": text, "written_tokens": 0}
            job = replace(job, tokens=max(1, round(visits * text)))
            self.parts.append(Part(here, told, run=run, job=job))

    def details(self, base: Base) -> dict[str, Any]:
        assert self.parent is not None
        trained = [part.entry for part in self.parts]
        kept = {k: v for k, v in self.parent.details.items() if k not in ("shards", "plan_and_actual", "audit")}
        return (
            kept
            | {
                "way": "rebase",
                "rebased_from": str(self.parent),
                "times": told_and_met(self.parent)[0],
                "visits": told_and_met(self.parent)[1],
                "tokens": sum(e["tokens"] for e in trained),
                "steps": sum(e["steps"] for e in trained),
                "seconds": {"training": round(sum(e["seconds"] for e in trained), 1), "writing": 0.0},
                "trained": [e["run"] for e in trained],
                "seed": self.seed,
                "base_source": base.source,
            }
            | parts_told(trained)
        )


def _moved(examples: Iterator[Example], passages: Sequence[Passage]) -> Iterator[Example]:
    """The examples under the ids of passages that another tokenizer cuts: those that overlap the old ones."""
    by_document: dict[str, list[Passage]] = {}
    for passage in passages:
        by_document.setdefault(passage.document_id, []).append(passage)
    found: dict[str, tuple[str, ...]] = {}
    for example in examples:
        ids: list[str] = []
        for id in example.passages:
            if id not in found:
                found[id] = _overlapping(id, by_document)
            ids += found[id]
        yield replace(example, passages=tuple(dict.fromkeys(ids)))


def _overlapping(id: str, by_document: Mapping[str, Sequence[Passage]]) -> tuple[str, ...]:
    document, _, span = id.rpartition(":")
    start, end = map(int, span.split("-"))
    return tuple(p.id for p in by_document.get(document, ()) if p.start < end and start < p.end)
