"""`imprint merge`: several adapters as one. `imprint federate`: one adapter of several sites' documents."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from imprint import clock
from imprint.errors import BadSetting
from imprint.interfaces.options import stderr, words


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
