"""`imprint verify`, `imprint backup` and `imprint restore`: a home looked over, put into one file, brought back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imprint import clock
from imprint.home import home_folder
from imprint.interfaces.options import stderr

if TYPE_CHECKING:
    from imprint.housekeeping import Verified


def verify(
    repair: Annotated[
        bool, typer.Option("--repair", help="Take away what crashes left, where it is older than a day.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only look whether all is there; read no contents.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Look whether everything that was published is there and as it was.

    Files against their hashes, rows against files, documents against theirs, of every tenant. Ends with code 1
    where something is damaged or lost; what a crash left half done is told, and harms nothing.
    """
    from imprint import housekeeping
    from imprint.interfaces.progress import watching

    home = home_folder()
    if repair:
        housekeeping.sweep(home, now=clock.now())
    with watching(stderr()) as watch:
        found = housekeeping.verify(home, deep=not quick, watch=watch)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        _tell(found)
    if not found.whole:
        raise typer.Exit(1)


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup to write; a name that is free.")],
    without_runs: Annotated[
        bool, typer.Option("--without-runs", help="Leave out the training text, which an update goes on from.")
    ] = False,
) -> None:
    """Put everything that was published into one file.

    Adapters, their documents and training text, proofs, tenants and the hashes of their keys: as they are at one
    moment, while others may publish. Caches, checkpoints and base models are not in it. Whoever can read the file
    can read the documents.
    """
    from imprint import housekeeping
    from imprint.interfaces.progress import watching

    with watching(stderr()) as watch:
        made = housekeeping.backup(home_folder(), file, now=clock.now(), runs=not without_runs, watch=watch)
    typer.echo(f"{made.file}: {made.versions:,} versions, {made.members:,} files, {made.size_bytes:,} bytes")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that imprint backup has written.")],
    into: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder that is new or empty; else $IMPRINT_HOME.")
    ] = None,
    tombstones: Annotated[
        Path | None,
        typer.Option(
            metavar="HOME", help="The home in whose place this one comes: what it forgot stays forgotten."
        ),
    ] = None,
) -> None:
    """Bring a home back from a backup.

    Every file is checked before anything stands in its place; a home that is not empty is left as it is. A backup
    knows nothing of what was forgotten after it was made: say with --tombstones which home does.
    """
    from imprint import housekeeping
    from imprint.interfaces.progress import watching

    home = into or home_folder()
    with watching(stderr()) as watch:
        found = housekeeping.restore(file, home, tombstones=tombstones, watch=watch)
    typer.echo(f"Restored into {found.home}")
    _tell(found)


def _tell(found: Verified) -> None:
    from imprint.interfaces.tables import printable

    typer.echo(", ".join(f"{n:,} {kind}" for kind, n in found.counted.items()))
    for title, lines in (
        ("Damaged", found.damaged),
        ("Left over by crashes (--repair takes away what is older than a day)", found.left_over),
        ("Told", found.told),
    ):
        if lines:
            typer.echo("\n" + "\n".join([f"{title}:", *(f"  {printable(line)}" for line in lines)]))
    typer.echo(
        "\nWhole." if found.whole else "\nNot whole: bring it back from a backup, or remove what is damaged."
    )
