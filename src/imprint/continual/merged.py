"""Published versions merged into a new one, and how likely the training text of each is to all of them."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from imprint import base as bases
from imprint.adapters import folder as adapter_folder
from imprint.base import Base, in_passes
from imprint.continual import manifest
from imprint.continual.entries import adapters_of, base_of
from imprint.continual.merging import Merging, check, merge
from imprint.corpus import Corpus
from imprint.engine import Engine, choice
from imprint.engine.multi_adapter import Worn
from imprint.engine.passes import PassRow, logprobs
from imprint.errors import BadInput, NoSuchAdapter
from imprint.registry import Registry, check_name
from imprint.run_folder import questions_from_json
from imprint.stages import ROW_TOKENS
from imprint.training.batches import Row, rows
from imprint.training.row_file import RowFile
from imprint.types import Adapter, Example, Turn, Version
from imprint.watch import SILENT, Watch

UNTOUCHED = "untouched base"
_SAMPLE = 64
"""Rows of each text that a loss is taken on."""
_PASS_TOKENS = 1024

Losses = dict[str, dict[str, float]]
"""By adapter, then by text: nats for each learnt token."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A version that was made of others."""

    version: Version
    norms: Mapping[str, float]
    """Length of each input's weighted update."""
    losses: Losses
    """Of the untouched base, of each input, and of the result."""
    notes: tuple[str, ...]


def merge_versions(
    references: Sequence[str],
    *,
    name: str,
    merging: Merging,
    home: Path,
    now: str,
    base: Base | None = None,
    sample: int = _SAMPLE,
    watch: Watch = SILENT,
) -> Merged:
    """Merges published versions ('handbook', 'prices@2') into the next version of a name. A version of several
    shards gives each of them.

    Raises BadName, NoSuchAdapter, or what merging.check() raises, before the base is opened."""
    check_name(name)
    registry = Registry(home)
    versions = [registry.get(reference) for reference in references]
    if len({str(v) for v in versions}) < len(versions):
        raise BadInput(f"'{' '.join(references)}' names one version twice. Give it a weight instead.")
    _refuse_buried(registry, versions)
    given, merging = _opened(registry, versions, merging)
    checked = check(given, merging.weights)
    watch.stage("Merging")
    for note in checked.notes:
        watch.say(note)
    made = merge(given, merging)
    watch.stage("Opening the base model")
    engine = Engine(base or bases.load(base_of(versions[0])), slots=1)
    watch.stage("Measuring the losses")
    texts = {key: some for v in versions for key, some in texts_of(v, home, engine.base, sample=sample).items()}
    losses = losses_on(engine, {UNTOUCHED: None, **given, name: made}, texts)
    with engine.attached(made) as seat:
        threshold = choice.threshold(engine, seat)
    told = asdict(merging) | {
        "from": [str(v) for v in versions],
        "rank": made.spec["rank"],
        "norms": checked.norms,
        "notes": list(checked.notes),
        "losses": losses,
    }
    details = {"merged": told, "router": {"threshold": threshold}, "base_source": engine.base.source}
    corpora = [Corpus.kept(home, v.corpus_hash) for v in versions]
    version = _publish(registry, versions[0].base, corpora, made, name, details | _together(versions, corpora), now)
    watch.say(f"Published {version}.")
    return Merged(version, checked.norms, losses, checked.notes)


def losses_on(engine: Engine, adapters: Mapping[str, Adapter | None], texts: Mapping[str, Sequence[Row]]) -> Losses:
    """What each adapter (None is the bare base) loses on each text, in nats for each learnt token."""
    found: Losses = {}
    for name, adapter in adapters.items():
        with contextlib.nullcontext() if adapter is None else engine.attached(adapter) as seat:
            found[name] = {text: loss_on(engine, seat, some) for text, some in texts.items()}
    return found


def loss_on(engine: Engine, worn: Worn, rows: Sequence[Row]) -> float:
    """Nats that what is worn loses for each learnt token of these rows."""
    nats, tokens = 0.0, 0
    for places in in_passes([len(row.ids) for row in rows], _PASS_TOKENS):
        batch = [PassRow(worn, rows[i].ids, rows[i].learn) for i in places]
        with engine.base.turns.take():
            read = logprobs(engine, batch)
        nats -= sum(float(row_L.double().sum()) for row_L in read)
        tokens += sum(len(row_L) for row_L in read)
    return nats / tokens


def texts_of(
    version: Version, home: Path, base: Base, *, sample: int = _SAMPLE, seed: int = 0
) -> dict[str, list[Row]]:
    """Rows of a version's own training text and of the questions held out of it, so far as they are kept here."""
    found: dict[str, list[Row]] = {}
    shards = adapters_of(version)
    runs = [home / "runs" / str(shard.get("run")) / "rows" for shard in shards]
    taught = [row for run in runs if (run / "done.json").exists() for row in _some(RowFile(run), sample, seed)]
    if taught:
        found[f"text of {version}"] = taught
    asked = [q for q in questions_from_json(version.details.get("questions", [])) if q.answers]
    examples = [
        Example((Turn("user", q.asked), Turn("assistant", q.answers[0], learn=True)), (), "held_out") for q in asked
    ]
    if held := rows(examples, base, max_tokens=ROW_TOKENS):
        found[f"questions of {version}"] = held
    return found


def _some(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    picked = random.Random(seed).sample(range(len(rows)), min(count, len(rows)))
    return [rows[i] for i in sorted(picked)]


# --- inside -----------------------------------------------------------------------------------


def _opened(
    registry: Registry, versions: Sequence[Version], merging: Merging
) -> tuple[dict[str, Adapter], Merging]:
    """The versions' adapters by name, and the merging with a weight for each of them, where weights were given."""
    folders = [registry.folders(version) for version in versions]
    given: dict[str, Adapter] = {}
    for version, some in zip(versions, folders, strict=True):
        for i, folder in enumerate(some, 1):
            given[str(version) if len(some) == 1 else f"{version} shard {i}"] = adapter_folder.read(folder)
    if merging.weights is not None and len(merging.weights) == len(versions):
        spread = tuple(w for w, some in zip(merging.weights, folders, strict=True) for _ in some)
        merging = replace(merging, weights=spread)
    return given, merging


def _refuse_buried(registry: Registry, versions: Sequence[Version]) -> None:
    """Raises BadInput where something is to be forgotten: a merge would carry it on under another name."""
    for name in {v.name for v in versions}:
        if any(tombstone.ended is None for tombstone in registry.tombstones(name)):
            raise BadInput(
                f"Something of '{name}' is to be forgotten and is only withheld yet. Merge it after that."
            )


def _together(versions: Sequence[Version], corpora: Sequence[Corpus | None]) -> dict[str, Any]:
    """What a version of all these documents tells of itself."""
    parts = [v.details for v in versions]
    told: dict[str, Any] = {
        "questions": [q for part in parts for q in part.get("questions", [])],
        "questions_from": f"of {', '.join(map(str, versions))}",
        "taught": [p for part in parts for p in part.get("taught", [])],
    }
    if None not in corpora:
        pairs = zip(versions, corpora, strict=True)
        entries = [e for v, some in pairs if some for e in manifest.of_version(v, some.documents)]
        told["manifest"] = manifest.as_json([replace(e, shard=0) for e in entries])
    return told


def _publish(
    registry: Registry,
    base: str,
    corpora: Sequence[Corpus | None],
    made: Adapter,
    name: str,
    details: dict[str, Any],
    now: str,
) -> Version:
    """The next version of a name. Its documents are those of all, where all are kept."""
    corpus = Corpus(tuple(dict.fromkeys(d for some in corpora if some for d in some.documents)))
    if whole := None not in corpora:
        corpus.keep(registry.home)
    try:
        parent = registry.latest(name).number
    except NoSuchAdapter:
        parent = None
    with tempfile.TemporaryDirectory() as folder:
        adapter_folder.write(made, Path(folder))
        return registry.publish(
            name,
            Path(folder),
            base=base,
            corpus_hash=corpus.hash if whole else "",
            recipe={},
            parent=parent,
            details=details,
            now=now,
        )
