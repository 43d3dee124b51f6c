"""`imprint merge`: several adapters as one. `imprint federate`: one adapter of several sites' documents."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from imprint import clock
from imprint.errors import BadSetting
from imprint.interfaces.options import BaseName, RecipeFile, stderr, words


class How(StrEnum):
    """How updates become one (continual.merging.WAYS)."""

    concat = "concat"
    svd = "svd"
    ties = "ties"
    dare_linear = "dare_linear"
    dare_ties = "dare_ties"


def merge(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Adapters of one base: handbook, prices@2.")
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="What to call the result.")],
    how: Annotated[
        How, typer.Option(help="concat is the exact sum; the others are fitted into a rank.")
    ] = How.concat,
    weights: Annotated[
        str | None, typer.Option(metavar="A,B", help="What each update counts; 1 each is their sum.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(metavar="N", help="Of a fitted result; else the largest of theirs.")
    ] = None,
    density: Annotated[float, typer.Option(metavar="SHARE", help="What TIES and DARE keep of an update.")] = 0.5,
    seed: Annotated[int, typer.Option(metavar="N", help="What DARE drops follows from it.")] = 0,
) -> None:
    """Merge several LoRAs into one, and print what each loses on the others' texts.

    Know before you do: knowledge hardly survives this. Of eight adapters taught a document each, the sum answered
    0 % of the questions rightly and the mean 8 %, where one adapter retrained from all documents answered 29 %, and
    the right one of the eight 32 % (docs/log.md, "Eight documents one after another, distilled"). Better: teach all
    documents as one adapter, or leave the adapters apart and let `imprint ask anna+ben` choose.

    Bases, layers and numbers are checked first; an update more than ten times as long as another is refused.
    docs/merging.md tells what each way does.
    """
    from imprint.continual.merged import merge_versions
    from imprint.continual.merging import Merging
    from imprint.home import home_folder
    from imprint.interfaces import tables
    from imprint.interfaces.progress import watching

    merging = Merging(how.value, _numbers(weights), rank, density, seed)
    with watching(stderr()) as watch:
        found = merge_versions(names, name=name, merging=merging, home=home_folder(), now=clock.now(), watch=watch)
    tables.stdout().print(tables.merged_page(found))


def _numbers(text: str | None) -> tuple[float, ...] | None:
    """'1,0.5' as 1 and 0.5."""
    if text is None:
        return None
    try:
        return tuple(float(word) for word in words(text))
    except ValueError as error:
        raise BadSetting(f"--weights takes numbers with commas between them, as in 1,0.5; got '{text}'.") from error


# --- federation -------------------------------------------------------------------------------

Shared = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that all sites can reach.")]


class Method(StrEnum):
    """How sites' adapters are added up (continual.federated.METHODS)."""

    flora = "flora"
    ffa = "ffa"


def start(
    folder: Shared,
    sites: Annotated[list[str], typer.Option("--site", metavar="NAME", help="A site; say it once for each.")],
    base: BaseName = None,
    method: Annotated[
        Method,
        typer.Option(help="flora stacks every site's A and B; ffa averages B, and all share one A."),
    ] = Method.flora,
    rounds: Annotated[int, typer.Option(metavar="N", help="How often sites train and are added up.")] = 3,
    rank: Annotated[int, typer.Option(metavar="N", help="Of what a site trains in a round.")] = 16,
    equal: Annotated[
        bool, typer.Option("--equal", help="Each site counts the same, not by the tokens it says its text has.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed draws the same first numbers.")] = 0,
) -> None:
    """Write down what sites agree on, and open the first round.

    Sites train on their own documents and put adapters into the folder; documents never come there. With flora the
    result's rank is that of all sites in all rounds; with ffa it stays as it is.
    """
    from imprint import base as bases
    from imprint.continual.federated import agree
    from imprint.continual.shared_folder import SharedFolder

    model = bases.load(base)
    federation = agree(model, sites, method=method.value, rounds=rounds, rank=rank, seed=seed, equal=equal)
    SharedFolder.start(folder, federation, model)
    typer.echo(
        f"A federation of {', '.join(sites)} on {model.name}. At each site: imprint federate site {folder} ..."
    )


def site(
    folder: Shared,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The site's documents. They stay here.")],
    name: Annotated[str, typer.Option("--as", metavar="SITE", help="Which site this is.")],
    base: BaseName = None,
    recipe: RecipeFile = None,
    budget: Annotated[
        str, typer.Option(metavar="BUDGET", help="What writing and the training of all rounds may take.")
    ] = "10min",
) -> None:
    """Train on your documents for the running round, and hand the adapter in.

    Your training text is written once and stays in your own home folder. What leaves is the adapter and a count of
    tokens. An adapter can give away what it learnt: docs/merging.md says what this protects from and what it does
    not.
    """
    from imprint import base as bases
    from imprint.continual.shared_folder import SharedFolder
    from imprint.continual.site import take_part
    from imprint.home import home_folder
    from imprint.interfaces.progress import watching
    from imprint.planner import parse_budget
    from imprint.recipe import opened

    shared = SharedFolder(folder)
    with watching(stderr()) as watch:
        part = take_part(
            shared,
            name,
            path,
            recipe=opened(recipe),
            budget=parse_budget(budget),
            home=home_folder(),
            base=None if base is None else bases.load(base),
            watch=watch,
        )
    standing = shared.standing()
    if part is None:
        typer.echo("All rounds are done." if standing.done else f"{name} has already handed in for this round.")
    else:
        typer.echo(
            f"Handed in for round {part.number}. On its own text {name} lost {part.loss_before:.3f} nats a token "
            f"before, {part.loss_after:.3f} after."
        )
    if standing.missing:
        typer.echo(f"Waiting for {', '.join(standing.missing)}.", err=True)


def aggregate(
    folder: Shared,
    without: Annotated[
        list[str] | None, typer.Option(metavar="SITE", help="Leave this site out of the round.")
    ] = None,
) -> None:
    """Add up what the sites handed in, and open the next round.

    Each adapter is looked at first: base, shapes, numbers that are finite, a length like that of the others. After
    the last round the result is a PEFT folder.
    """
    from imprint.continual.shared_folder import RESULT, SharedFolder

    shared = SharedFolder(folder)
    number = shared.standing().number
    made = shared.aggregate(without=without or ())
    for site, share in made.shares.items():
        typer.echo(f"{site}: counts {share:.1%}; length of its change {made.norms[site]:.4g}")
    if shared.standing().done:
        typer.echo(f"All rounds are done: imprint import {folder / RESULT} --as NAME")
    else:
        typer.echo(f"Round {number + 1} of {shared.federation.rounds} is open.")
