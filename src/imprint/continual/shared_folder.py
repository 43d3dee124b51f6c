"""A federation as plain files: a folder that all sites can reach, in which only adapters and JSON lie.

    federation.json            what the sites have agreed on
    round-1/start/             what the round begins from, as a PEFT folder (flora's first begins from nothing)
    round-1/sites/anna/        what a site handed in: a PEFT folder, and update.json with its count of tokens
    round-1/aggregated.json    what each site counted, and how long its change was
    round-2/ ...
    result/                    after the last round, as a PEFT folder

Each folder appears under its name in one rename. Where a call was killed, the same call goes on. What others put
there is not trusted: no links, nothing else than those files, no larger than what was agreed, and then the checks
of federated.py."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from imprint.adapters import folder as adapter_folder
from imprint.base import Base
from imprint.continual import federated
from imprint.continual.federated import Federation, Round, Update
from imprint.errors import BadInput, NotFound, StaleRun
from imprint.run_folder import write_whole
from imprint.training.sft import Job
from imprint.types import Adapter

FEDERATION, UPDATE, RESULT = "federation.json", "update.json", "result"
_MOST_JSON_BYTES = 1 << 20
_HEADER_BYTES = 1 << 20
"""Room for names and shapes before the numbers of a safetensors file."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a federation is."""

    number: int
    """The round that runs now, from 1 up; one more than there are when all are done."""
    handed_in: tuple[str, ...]
    missing: tuple[str, ...]
    done: bool


class SharedFolder:
    """The folder of one federation."""

    def __init__(self, path: Path) -> None:
        """Raises NotFound where no federation was started there, BadInput where what it says cannot be used."""
        self.path = path
        self.federation = _read_federation(path / FEDERATION)

    @staticmethod
    def start(path: Path, federation: Federation, base: Base) -> SharedFolder:
        """Writes down what was agreed, and opens the first round. The same again changes nothing."""
        if (path / FEDERATION).exists():
            there = SharedFolder(path)
            if there.federation != federation:
                raise StaleRun(f"{path} holds a federation with other settings. Start this one in another folder.")
        else:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise BadInput(f"{path} is not empty. A federation starts in a folder of its own.")
            write_whole(path / FEDERATION, json.dumps(asdict(federation), indent=1))
            there = SharedFolder(path)
        if not there._round(1).exists():
            there._open_round(1, federated.begin(federation, base))
        return there

    # --- where it stands ----------------------------------------------------------------------

    def standing(self) -> Standing:
        """Which round runs, and who has handed in."""
        last = self.federation.rounds
        number = max((n for n in range(1, last + 1) if self._round(n).is_dir()), default=1)
        if (self.path / RESULT).is_dir():
            return Standing(last + 1, (), (), True)
        there = tuple(s for s in self.federation.sites if (self._sites(number) / s).is_dir())
        missing = tuple(s for s in self.federation.sites if s not in there)
        return Standing(number, there, missing, False)

    def common(self, number: int) -> Adapter | None:
        """What a round begins from; None for the first of flora."""
        folder = self._round(number) / "start"
        if not folder.exists() and self.federation.method == "flora" and number == 1:
            return None
        most = self.federation.rank * (1 if self.federation.method == "ffa" else self._stacked(number))
        return self.federation.common(self._read(folder, (), most).tensors)

    # --- what a site does ---------------------------------------------------------------------

    def refuse_stranger(self, site: str) -> None:
        """Raises BadInput for a name that the sites did not agree on."""
        if site not in self.federation.sites:
            raise BadInput(
                f"'{site}' is no site of this federation. There are: {', '.join(self.federation.sites)}."
            )

    def job(self, site: str, number: int, job: Job) -> Job:
        """A site's training in this round, on the rows of a job."""
        self.refuse_stranger(site)
        return federated.job_of(self.federation, self.common(number), site, number, job)

    def hand_in(self, number: int, update: Update) -> None:
        """Puts a site's update where the others find it."""

        def fill(folder: Path) -> None:
            adapter_folder.write(update.adapter, folder)
            told = {"federation": self.federation.id, "round": number, "tokens": update.tokens}
            (folder / UPDATE).write_text(json.dumps(told), "utf-8")

        self.refuse_stranger(update.site)
        _appear(self._sites(number) / update.site, fill)

    # --- what the keeper does -----------------------------------------------------------------

    def aggregate(self, *, without: Collection[str] = ()) -> Round:
        """The updates of the running round as one; opens the next round, or leaves the result.

        Raises BadInput where a site has not handed in yet (`without` leaves sites out), or handed in what cannot be
        taken."""
        standing = self.standing()
        if standing.done:
            raise BadInput(f"All {self.federation.rounds} rounds are done. The result is in {self.path / RESULT}.")
        for site in without:
            self.refuse_stranger(site)
        if waiting := [site for site in standing.missing if site not in without]:
            raise BadInput(
                f"Round {standing.number} waits for {', '.join(waiting)}. Ask there, or leave them out of this "
                "round with --without."
            )
        number = standing.number
        there = [site for site in standing.handed_in if site not in without]
        updates = [self._update(number, site) for site in there]
        made = federated.aggregate(self.federation, self.common(number), updates)
        told = {"shares": made.shares, "norms": made.norms}
        write_whole(self._round(number) / "aggregated.json", json.dumps(told, indent=1))
        if number < self.federation.rounds:
            self._open_round(number + 1, made.common)
        else:
            _appear(self.path / RESULT, lambda folder: adapter_folder.write(made.common, folder))
        return made

    # --- inside -------------------------------------------------------------------------------

    def _round(self, number: int) -> Path:
        return self.path / f"round-{number}"

    def _sites(self, number: int) -> Path:
        return self._round(number) / "sites"

    def _stacked(self, number: int) -> int:
        """How many sites' ranks a stack may have when a round begins."""
        return len(self.federation.sites) * (number - 1)

    def _open_round(self, number: int, common: Adapter | None) -> None:
        def fill(folder: Path) -> None:
            (folder / "sites").mkdir(parents=True)
            if common is not None:
                adapter_folder.write(common, folder / "start")

        _appear(self._round(number), fill)

    def _update(self, number: int, site: str) -> Update:
        """What a site handed in, opened with care."""
        folder = self._sites(number) / site
        adapter = self._read(folder, (UPDATE,), self.federation.rank)
        told = _read_json(folder / UPDATE)
        if (told.get("federation"), told.get("round")) != (self.federation.id, number):
            raise BadInput(f"What {site} handed in belongs to another federation or round. Train there again.")
        tokens = told.get("tokens")
        if type(tokens) is not int:
            raise BadInput(f"{folder / UPDATE} does not tell a whole number of tokens.")
        return Update(site, adapter, tokens)

    def _read(self, folder: Path, others: Sequence[str], rank: int) -> Adapter:
        """The adapter in a folder that others may have written to."""
        numbers = sum(inputs + outputs for _, inputs, outputs in self.federation.shapes) * rank
        most = {adapter_folder.WEIGHTS: 4 * numbers + _HEADER_BYTES, adapter_folder.CONFIG: _MOST_JSON_BYTES}
        _only(folder, most | dict.fromkeys(others, _MOST_JSON_BYTES))
        return adapter_folder.read(folder)


def _appear(target: Path, fill: Callable[[Path], None]) -> None:
    """A folder that is filled beside its place and renamed into it; one that is there already stays."""
    making = target.with_name(f".making-{target.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    fill(making)
    if target.exists():
        shutil.rmtree(making)
    else:
        os.replace(making, target)


def _only(folder: Path, most_bytes: dict[str, int]) -> None:
    """Raises BadInput unless a folder holds these plain files alone, none larger than it may be."""
    if folder.is_symlink() or not folder.is_dir():
        raise BadInput(f"{folder} is no folder.")
    for entry in list(os.scandir(folder)):
        if entry.name not in most_bytes or not entry.is_file(follow_symlinks=False):
            raise BadInput(f"{entry.path} does not belong there: only {', '.join(most_bytes)} do, as plain files.")
        size, most = entry.stat(follow_symlinks=False).st_size, most_bytes[entry.name]
        if size > most:
            raise BadInput(f"{entry.path} has {size:,} bytes; what was agreed takes no more than {most:,}.")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadInput(f"{file} holds no object.")
    return found


def _read_federation(file: Path) -> Federation:
    if not file.is_file():
        raise NotFound(f"No federation was started in {file.parent}: imprint federate start {file.parent} ...")
    if file.stat().st_size > _MOST_JSON_BYTES:
        raise BadInput(f"{file} is too large for what sites agree on.")
    found = _read_json(file)
    if unknown := set(found) ^ {field.name for field in fields(Federation)}:
        raise BadInput(
            f"{file} is not what this version of imprint writes: '{min(unknown)}' is missing or unknown."
        )
    try:
        shapes = tuple((str(name), int(inputs), int(outputs)) for name, inputs, outputs in found["shapes"])
        sites = tuple(map(str, found["sites"]))
        numbers = {key: int(found[key]) for key in ("rounds", "rank", "seed")}
        settings = found | {"shapes": shapes, "sites": sites, "alpha": float(found["alpha"])} | numbers
        return Federation(**settings)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{file} cannot be used: {error}") from error
