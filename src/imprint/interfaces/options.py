"""What several commands make of their options, and where they talk to a person."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from imprint.recipe import Recipe

Name = Annotated[str, typer.Argument(metavar="NAME", help="handbook for the latest version, or handbook@2.")]
NameAlone = Annotated[
    str, typer.Argument(metavar="NAME", help="The adapter, without '@': its next version is made.")
]
BaseName = Annotated[
    str | None, typer.Option(metavar="BASE", help="Base model: a folder or a hub name; else the bundled one.")
]
RecipeFile = Annotated[Path | None, typer.Option(metavar="FILE", help="A TOML file of settings.")]
WriterAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="An OpenAI-compatible endpoint that writes; else the base does."),
]
WriterModel = Annotated[str | None, typer.Option(metavar="NAME", help="The model's name at the writer's address.")]


def with_others(
    recipe: Path | None, asked: dict[str, tuple[str | None, str | None]], canaries: int | None = None
) -> Recipe:
    """A recipe with another writer or judge, each an address and a model, or another model of its own; and with so
    many canaries."""
    from imprint import recipe as recipes

    settings = recipes.read_toml(recipe, "recipe") if recipe else {}
    for role, (address, model) in asked.items():
        if address is None and model is None:
            continue
        named = dict(settings.get(role, {}))
        if address is not None:
            named |= {"kind": "endpoint", "address": address}
        if model is not None:
            named |= {"model": model, "kind": named.get("kind", "endpoint")}
        settings |= {role: named}
    if canaries is not None:
        settings["canaries"] = canaries
    return recipes.from_mapping(settings, source=str(recipe or "the command line"))


def words(text: str) -> tuple[str, ...]:
    """'a, b' as a and b."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def stderr() -> Console:
    """Where everything goes that is no result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False)


def without_nan(value: Any) -> Any:
    """The same values with null for what could not be measured: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
