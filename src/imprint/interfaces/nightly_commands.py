"""`imprint nightly`: many people's documents, and those that changed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imprint.errors import BadInput
from imprint.interfaces.options import BaseName, RecipeFile, stderr

if TYPE_CHECKING:
    from imprint.nightly import Night, Outcome
    from imprint.updating import Update


def nightly(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="It holds a folder for each person, called as they are.")
    ] = None,
    jobs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A TOML file instead: a section \\[\\[person]] for each, with name, path, and where wanted "
            "budget, recipe, way, seed, questions, personal. What is said here is for those without their own.",
        ),
    ] = None,
    base: BaseName = None,
    budget: Annotated[
        str | None, typer.Option(metavar="BUDGET", help="What each person's update may take: 10min, '50k tokens'.")
    ] = None,
    recipe: RecipeFile = None,
    way: Annotated[
        str | None, typer.Option(metavar="WAY", help="How the next version is made, as for imprint update.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="The same seed gives the same adapters; 0 if not said.")
    ] = None,
    wave: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="People trained together; else as many as half the memory holds."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Versions that stay of who is updated, the newest ones; else all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Update everybody whose documents changed, in shared training passes.

    Folders are compared with what each person's latest version was taught: new and changed documents make an
    update, new people are taught, everybody else costs a look. One person's failure stops nobody else. Killed, the
    same command goes on where it stopped.

    Ends with code 1 where somebody failed.
    """
    from imprint import nightly as nights
    from imprint.interfaces.progress import watching

    usual: dict[str, Any] = {"budget": budget, "recipe": recipe, "way": way, "seed": seed}
    people, unfit = _people(folder, jobs, {key: value for key, value in usual.items() if value is not None})
    with watching(stderr()) as watch:
        night = nights.nightly(people, base=base, wave=wave, keep=keep, watch=watch)
    night = replace(night, outcomes=(*night.outcomes, *unfit))
    _tell(night, as_json)
    if night.of("failed"):
        raise typer.Exit(1)


def _people(folder: Path | None, jobs: Path | None, usual: dict[str, Any]) -> tuple[list[Update], list[Outcome]]:
    from imprint import nightly as nights
    from imprint.interfaces import job_file

    if (folder is None) == (jobs is None):
        raise BadInput("Name either a job file or a folder of folders: --jobs FILE, or FOLDER.")
    if jobs is not None:
        return job_file.read_people(jobs, usual), []
    return nights.people_in(folder or Path(), **usual)


def _tell(night: Night, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(night), indent=2))
        return
    for outcome in night.outcomes:
        if outcome.what != "unchanged":
            told = f": {outcome.reason}" if outcome.reason else ""
            typer.echo(f"{outcome.what} {outcome.version or outcome.name}{told}")
    typer.echo(night.summary(), err=True)
