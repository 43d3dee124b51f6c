"""What the experiments of map.py share: the data, one base, rows that are made once, adapters that are kept."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _common import Results, header_of, say
from learning import Lines, by_article, squad_passages, write_article

SEED = 17
_SAME = ("seed", "text_tokens", "batch_tokens", "passages", "lr", "data")
_FIXED = {
    "map": (*_SAME, "tokens", "items", "characters", "no_tune", "objective"),
    "objectives": (*_SAME, "items", "characters"),
    "sequence": (*_SAME, "tokens", "documents", "replay"),
    "together": (*_SAME, "tokens", "documents"),
    "capacity": ("seed", "batch_tokens", "lr", "visits", "most_facts"),
}
"""Options that all rows of an experiment must have in common."""


# --- the data ---------------------------------------------------------------------------------


def passages_of(data: Path) -> dict[str, list[dict[str, Any]]]:
    """The passages of squad_eval.json by article."""
    return by_article(squad_passages(data))


def write_document(title: str, passages: Sequence[dict[str, Any]], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_article(title, passages, folder)


def suite_of(data: Path, name: str, work: Path, items: int | None) -> Path:
    """A suite's folder; with `items`, one of so many of each task (an even draw)."""
    if items is None:
        return data / name
    folder = work / "suites" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((data / name).glob("*.jsonl")):
        lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
        some = random.Random(SEED).sample(lines, min(items, len(lines)))
        (folder / file.name).write_text("\n".join(some) + "\n", "utf-8")
    return folder


def general_text_of(data: Path, work: Path, characters: int | None) -> Path:
    """wikitext2, or its beginning."""
    text = (data / "wikitext2" / "valid_300kB.txt").read_text("utf-8")
    work.mkdir(parents=True, exist_ok=True)
    file = work / "wikitext2.txt"
    file.write_text(text[:characters], "utf-8")
    return file


# --- running ----------------------------------------------------------------------------------


class Bench:
    """One experiment: its rows, and what all of them share."""

    def __init__(self, options: argparse.Namespace, threads: int) -> None:
        from imprint import base as bases
        from imprint.engine import Engine

        self.options, self.watch = options, Lines()
        # The same adapters are taught for both of these.
        shared = options.experiment in ("sequence", "together")
        self.work: Path = options.work / ("documents" if shared else options.experiment)
        self.base = bases.load(options.base)
        self.engine = Engine(self.base)
        header = header_of(self.base, threads)
        header["asked"] = {key: str(getattr(options, key)) for key in _FIXED[options.experiment]}
        file = options.json or options.work / f"{options.experiment}.json"
        if file.exists() and (before := json.loads(file.read_text("utf-8"))["asked"]) != header["asked"]:
            raise SystemExit(f"{file} was measured with {before}, not {header['asked']}. Name another --json FILE.")
        self.results = Results(file, header, resume=True)

    def have(self, name: str) -> bool:
        return any(row["row"] == name for row in self.results.rows)

    def row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.results.rows if row["row"] == name)

    def keep(self, name: str, row: Mapping[str, Any], *shown: str) -> None:
        """Writes a row and says what is in it."""
        self.results.add({"row": name, **row})
        say(f"{name}: {', '.join(f'{key} {_short(row[key])}' for key in shown if key in row)}")

    def examination(self, questions: Sequence[Any], documents: Sequence[str] = ()) -> Any:
        """The questions, a general text and the suites."""
        from imprint.evaluation.examination import Examination
        from imprint.evaluation.forgetting import general_text
        from imprint.evaluation.suites import read_suite

        options = self.options
        names = ("general_gauntlet", "blimp")
        wiki = general_text_of(options.data, self.work, options.characters or 60_000).read_text("utf-8")
        read = {n: read_suite(suite_of(options.data, n, options.work, options.items)) for n in names}
        return Examination(
            questions=questions,
            documents=documents,
            suites=read,
            texts={"general": general_text(), "wikitext2": wiki},
            seed=options.seed,
        )

    def written(
        self,
        name: str,
        passages: Sequence[Any],
        questions: Sequence[Any],
        text_tokens: int,
        replay: float | None = None,
    ) -> Any:
        """The training text about some passages, ready to be trained, with these questions kept out of it.

        `replay`: the share of the base's own talk in the mix, in place of the usual one."""
        from imprint.recipe import LOCAL_MIX, Recipe
        from imprint.run_folder import RunFolder
        from imprint.stages import prepare

        run = RunFolder(self.work / "texts" / name)
        mix = None if replay is None else LOCAL_MIX | {"replay": replay}
        recipe = Recipe(mix=mix, text_tokens=text_tokens, batch_tokens=self.options.batch_tokens)
        return prepare(run, passages, self.engine, recipe, None, self.options.seed, questions, self.watch)

    def trained(self, jobs: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Named adapters as their trainings end. Raises what one ended with otherwise."""
        for name, ended in self.tried(jobs):
            if isinstance(ended, Exception):
                raise ended
            yield name, ended

    def tried(self, jobs: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """The same, with Diverged or BadSetting in place of an adapter that came to nothing; the others are kept in
        WORK/EXPERIMENT/adapters, where they are found again."""
        from imprint.adapters import folder as adapter_folder
        from imprint.learning_map import each_trained

        there = [name for name, job in jobs if self._made_of(name) == key_of(job)]
        for name in there:
            yield name, adapter_folder.read(self.adapter_at(name))
        wanted = [(name, job) for name, job in jobs if name not in there]
        for name, ended, _ in each_trained(self.engine, wanted, self.work / "checkpoints", self.watch):
            if isinstance(ended, Exception):
                yield name, ended
                continue
            adapter_folder.write(ended.adapter, self.adapter_at(name))
            (self.adapter_at(name) / "made_of").write_text(key_of(dict(wanted)[name]), "utf-8")
            yield name, ended.adapter

    def _made_of(self, name: str) -> str:
        file = self.adapter_at(name) / "made_of"
        return file.read_text("utf-8") if file.exists() else ""

    def adapter_at(self, name: str) -> Path:
        return self.work / "adapters" / name

    def specs(self) -> list[tuple[str, Any, float]]:
        """(name, settings, learning rate) of each kind and size that was asked for."""
        from imprint import adapters
        from imprint.learning_map import each_spec

        found = []
        for kind, size, spec in each_spec(self.options.kinds.split(","), self.options.sizes.split(",")):
            found.append((f"{kind}-{size}", spec, self.options.lr or adapters.KINDS[kind].LR))
        return found


def key_of(job: Any) -> str:
    """What a training is made of: the same settings on the same rows give the same adapter."""
    from imprint.types import content_hash

    spec = job.spec.key if hasattr(job.spec, "key") else repr(job.spec)
    return content_hash(spec, repr(job.rows), str(job.tokens), str(job.lr), str(job.batch_tokens), str(job.seed))


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "score" in value:
        return f"{value['score']:.1%} [{value['low']:.1%}, {value['high']:.1%}] n={value['n']}"
    if isinstance(value, Mapping):
        return " ".join(f"{k} {v['value']:.3g}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
