"""`imprint admit` and `imprint promote`: what other people bring, the gate it passes, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imprint import clock
from imprint.errors import BadInput

if TYPE_CHECKING:
    from rich.table import Table

    from imprint.continual.pending import Brought

Adapter = Annotated[str, typer.Argument(metavar="NAME", help="The adapter that it is brought to.")]


def admit(
    name: Adapter,
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="The file or folder that was brought.")
    ] = None,
    owner: Annotated[str, typer.Option("--from", metavar="WHO", help="Who brought it.")] = "",
    list_: Annotated[bool, typer.Option("--list", help="List what was brought, and where it stands.")] = False,
    release: Annotated[
        str, typer.Option("--release", metavar="ID", help="Let a quarantined document through all the same.")
    ] = "",
) -> None:
    """Let other people's documents in through a gate.

    What speaks to a model, corrects or contradicts NAME's own documents, says what is there already, says one thing
    too often, or is too much, waits in quarantine, each with its reason. What passes is pending: it is taught to
    NAME.WHO alone, until `imprint promote` hands it over to NAME.

    What a model said in a kept conversation is left out, and never taught.
    """
    from imprint.continual import pending
    from imprint.home import home_folder
    from imprint.interfaces import tables

    if sum((path is not None, list_, bool(release))) != 1:
        raise BadInput(
            "Name what was brought (imprint admit NAME PATH --from WHO), or say --list, or --release ID."
        )
    if path is not None:
        if not owner:
            raise BadInput("Say who brought it, so that it can be taken back: --from anna.")
        _bring(name, path, owner)
        return
    if release:
        freed = pending.release(home_folder(), name, release, now=clock.now())
        typer.echo(
            tables.printable(f"Released {freed.document.source} of {freed.document.owner}: it is pending now.")
        )
        return
    rows = pending.brought(home_folder(), name, owner=owner or None)
    if rows:
        tables.stdout().print(_table(rows))
    else:
        typer.echo(f"Nobody has brought anything to '{name}'.", err=True)


def promote(
    name: Adapter,
    owner: Annotated[str, typer.Option("--from", metavar="WHO", help="Whose documents.")],
) -> None:
    """Hand what somebody brought over to NAME.

    Their pending documents are among NAME's own from its next update on; `imprint forget NAME --from WHO` takes
    them back.
    """
    from imprint.continual import pending
    from imprint.home import home_folder
    from imprint.interfaces import tables

    handed = pending.promote(home_folder(), name, owner, now=clock.now())
    for one in handed:
        typer.echo(tables.printable(f"Promoted {one.document.source} of {owner}"))
    typer.echo(f"{name} learns of them at its next update.", err=True)


def _bring(name: str, path: Path, owner: str) -> None:
    from imprint.continual import pending
    from imprint.continual.bringing import bring
    from imprint.home import home_folder
    from imprint.interfaces import tables

    rows, summary = bring(home_folder(), name, path, owner, now=clock.now())
    typer.echo(tables.printable(summary), err=True)
    tables.stdout().print(_table(rows))
    passed = sum(row.state == "pending" for row in rows)
    waiting = sum(row.state == "quarantined" for row in rows)
    typer.echo(
        f"{passed} of {len(rows)} pending for {pending.own_adapter(name, owner)}, {waiting} in quarantine.",
        err=True,
    )
    if passed:
        typer.echo(f"To teach it to them alone: imprint update {pending.own_adapter(name, owner)}", err=True)
    if waiting:
        typer.echo(f"To let one through all the same: imprint admit {name} --release ID", err=True)


def _table(rows: list[Brought]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from imprint.interfaces.tables import printable

    table = Table(box=box.SIMPLE)
    for column in ("id", "from", "stands", "since", "why"):
        table.add_column(column, no_wrap=column in ("id", "stands"))
    for row in rows:
        stands = f"{row.state}, released" if row.released else row.state
        cells = (row.id, row.document.owner, stands, row.since[:10], row.line)
        table.add_row(*[Text(printable(cell)) for cell in cells])
    return table
