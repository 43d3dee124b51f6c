"""`imprint update`, `forget`, `rollback` and `rebase`: what is done when documents change."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imprint import clock
from imprint.errors import BadInput
from imprint.interfaces.options import BaseName, NameAlone, RecipeFile, stderr, without_nan

if TYPE_CHECKING:
    from imprint.forgetting import Forgotten


class Way(StrEnum):
    """How the next version is made (continual.ways.WAYS)."""

    in_order = "in_order"
    shards = "shards"
    retrain = "retrain"


def update(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The adapter; a new name is taught first.")],
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH", help="The documents as they are now. Not for handbook.anna: what anna brought."
        ),
    ] = None,
    way: Annotated[
        Way | None,
        typer.Option(
            help="in_order: the adapter goes on learning. shards: only adapters of changed documents are trained "
            "anew. retrain: all are. If not said, what suits the changes."
        ),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help="From when the changes hold, like 2026-03-01; today, or what a file says."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="BUDGET", help="What it may take: 10min, '200k tokens'. If not said, as much as before."
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Divide the documents into N adapters: at a first version, or with --way retrain."
        ),
    ] = None,
    recipe: RecipeFile = None,
    base: BaseName = None,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions for the proof, in place of those there are.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same adapter.")] = 0,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Publish it even where others' documents cost what was known.")
    ] = False,
    readmit: Annotated[
        bool, typer.Option("--readmit", help="Teach again what was forgotten and still lies there.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Tell what changed and what each way would take; nothing is spent.")
    ] = False,
) -> None:
    """Make the next version, which knows what the documents say now.

    The folder is compared with the version's documents: only what changed is written about again. What the
    documents say no more is denied, and both are taught with their dates. Three ways: in order, by shards, or all
    anew; the plan tells what each would take. A run that was killed goes on when you give the same command again.
    """
    import imprint
    from imprint import updating
    from imprint.interfaces.progress import watching

    wishes: dict[str, Any] = {
        "way": way.value if way else None, "date": date, "budget": budget, "shards": shards, "recipe": recipe,
        "questions": questions, "seed": seed, "anyway": anyway, "readmit": readmit,
    }  # fmt: skip
    with watching(stderr()) as watch:
        if estimate:
            updating.estimate(imprint.Update(name, path, **wishes), base=base, watch=watch)
            return
        began = clock.now()
        taught = updating.update(name, path, base=base, watch=watch, **wishes)
    typer.echo(taught.name)
    before = taught.version.parent
    if before is not None and taught.version.created_at >= began:  # else nothing changed
        typer.echo(
            f"Now: imprint diff {name}@{before} {taught.name}, or imprint rollback {name}@{before}", err=True
        )


def forget(
    name: NameAlone,
    document: Annotated[
        str | None,
        typer.Option("--document", metavar="FILE", help="A document: its path, title or id."),
    ] = None,
    passage: Annotated[
        str | None, typer.Option(metavar="WORDS", help="A passage: its words, exactly as they stand there.")
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option("--from", metavar="OWNER", help="Everything that somebody brought (imprint admit)."),
    ] = None,
    later: Annotated[
        bool, typer.Option("--later", help="Only withhold it now; 'imprint forget NAME' does the rest.")
    ] = False,
    control: Annotated[
        bool,
        typer.Option(
            help="Train a control that never saw it, for the report; else the untouched base stands for it."
        ),
    ] = True,
    base: BaseName = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the deletion report as JSON.")] = False,
) -> None:
    """Forget a document, a passage, or everything from one person.

    From this moment on answers that only it bears out are withheld. Then the adapters that saw it are trained anew
    without it and the next version is published; every version that saw it is destroyed, for old and new weights
    together tell what was deleted; training text, kept documents, caches and rows that held it are erased, and all
    files are searched for its words. The report sets what is still known beside a control that never saw it.

    Without --document, --passage or --from, what an earlier call began is finished.
    """
    from imprint import forgetting
    from imprint.interfaces.progress import watching

    with watching(stderr()) as watch:
        done = forgetting.forget(
            name, document=document, passage=passage, owner=owner, later=later, control=control, seed=seed,
            base=base, watch=watch,
        )  # fmt: skip
    every = (*done.earlier, done)
    if as_json:
        earlier = {"earlier": [_told(each) for each in done.earlier]} if done.earlier else {}
        typer.echo(json.dumps(without_nan(_told(done) | earlier), indent=2))
        return
    for each in every:
        _say(each)
    if done.taught is not None:
        typer.echo(done.taught.name)
    if left := [file for each in every if each.erased for file in each.erased.left]:
        raise BadInput(f"It still stands in: {', '.join(dict.fromkeys(left[:5]))}. Remove these files yourself.")


def rollback(
    version: Annotated[str, typer.Argument(metavar="NAME@N", help="The version to go back to.")],
) -> None:
    """Go back to an older version, in a moment.

    It becomes the next version of its name, with the same files, documents and proofs; no version is lost, and the
    next request is answered by it.
    """
    from imprint import rebasing

    typer.echo(rebasing.rollback(version).name)


def rebase(
    name: NameAlone,
    base: Annotated[
        str, typer.Option("--base", metavar="NAME", help="The new base model: a folder or a hub name.")
    ],
    seed: Annotated[int, typer.Option(metavar="N", help="Of the training.")] = 0,
) -> None:
    """Teach the same documents to a new base model.

    The training text is there already and is not written again. The result is the next version of the name.
    """
    from imprint import rebasing
    from imprint.interfaces.progress import watching

    with watching(stderr()) as watch:
        taught = rebasing.rebase(name, base, seed=seed, watch=watch)
    typer.echo(taught.name)


def _told(done: Forgotten) -> dict[str, Any]:
    from imprint.registry.records import report_record

    return {
        "version": done.taught.name if done.taught else None,
        "destroyed": list(done.destroyed),
        "erased": done.erased.as_json() if done.erased else None,
        "held_elsewhere": list(done.held_elsewhere),
        "seconds": round(done.seconds, 1),
        "report": report_record(done.report) if done.report else None,
    }


def _say(done: Forgotten) -> None:
    """The deletion report, for a person."""
    from imprint.interfaces import tables

    if done.erased is None:
        return
    if done.report is not None:
        tables.stdout().print(tables.deletion_page(done.report))
    erased = done.erased
    destroyed = ", ".join(done.destroyed) or "no version"
    typer.echo(
        f"Destroyed {destroyed}. Erased {erased.runs} runs of training text, {erased.corpora} sets of kept "
        f"documents, {erased.written} lines of what was written, {erased.cached} cached files. Searched "
        f"{erased.searched:,} files for its words: {len(erased.left) or 'none'} hold any"
        f"{f', but for {len(erased.of_others)} of other names' if erased.of_others else ''}. {done.seconds:.0f} s."
    )
    for name in dict.fromkeys(told.partition("@")[0] for told in done.held_elsewhere):
        theirs = [told for told in done.held_elsewhere if told.partition("@")[0] == name]
        were = "was" if len(theirs) == 1 else "were"
        typer.echo(f"{', '.join(theirs)} {were} taught it too: imprint forget {name} ...", err=True)
