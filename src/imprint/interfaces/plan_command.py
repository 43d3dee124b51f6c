"""`imprint plan`: whether to paste the documents, search them, or teach them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

import imprint
from imprint.interfaces.options import (
    BaseName,
    RecipeFile,
    WriterAddress,
    WriterModel,
    stderr,
    with_others,
    without_nan,
)


def plan(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A document, or a folder of documents.")],
    questions_per_day: Annotated[float, typer.Option(metavar="N", help="How often the documents are asked.")] = 100,
    updates_per_month: Annotated[
        float, typer.Option(metavar="N", help="How often they change; 0 is never, counted over a year.")
    ] = 1,
    latency: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="The longest that a whole answer may take.")
    ] = None,
    right: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="The least share of right answers that is of use.")
    ] = 0.5,
    local_only: Annotated[
        bool, typer.Option("--local-only", help="The documents must not be sent to a hosted model.")
    ] = False,
    base: BaseName = None,
    budget: Annotated[
        str | None, typer.Option(metavar="BUDGET", help="What teaching a version may take; 10min if not said.")
    ] = None,
    recipe: RecipeFile = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="KIND", help="Kind of adapter, in place of the recipe's.")
    ] = None,
    writer: WriterAddress = None,
    writer_model: WriterModel = None,
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A TOML file of prices, above those that come along.")
    ] = None,
    usd_per_hour: Annotated[
        float | None, typer.Option(metavar="USD", min=0, help="What an hour of this machine costs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Find out whether to paste the documents, search them, or teach them.

    Counts the documents, tries this machine's speeds (kept for a day), looks up prices, and tells for each way
    how good it is expected to be, what a question and an update cost, how long an answer takes, the memory, and
    from how many questions per version teaching pays. Then it recommends one, which may be not to train at all.

    How good a way is comes from your own proofs on the same base, where there are any; else from ours.
    """
    from imprint.interfaces import tables
    from imprint.interfaces.plan_page import plan_page
    from imprint.interfaces.progress import watching

    use = imprint.Use(
        questions_per_day=questions_per_day,
        updates_per_month=updates_per_month,
        latency_s=latency,
        least_right=right,
        hosted=not local_only,
    )
    wanted = with_others(recipe, {"writer": (writer, writer_model)})
    with watching(stderr()) as watch:
        found = imprint.advise(
            path,
            use=use,
            base=base,
            budget=budget,
            recipe=wanted if adapter is None else dataclasses.replace(wanted, adapter=adapter),
            price_file=prices,
            usd_per_hour=usd_per_hour,
            watch=watch,
        )
    if as_json:
        typer.echo(json.dumps(without_nan(found.as_json()), indent=2))
    else:
        tables.stdout().print(plan_page(found))
