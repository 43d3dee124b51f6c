"""`imprint teach`, and what tells how to teach: `imprint curve` and `imprint map`."""

from __future__ import annotations

import dataclasses
import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import imprint
from imprint.errors import BadInput
from imprint.interfaces.options import (
    BaseName,
    RecipeFile,
    WriterAddress,
    WriterModel,
    stderr,
    with_others,
    without_nan,
    words,
)

if TYPE_CHECKING:
    from imprint import Lesson
    from imprint.learning_map import LearningMap
    from imprint.recipe import Recipe


class Personal(StrEnum):
    """What to do about personal data (documents.personal.WISHES)."""

    report = "report"
    refuse = "refuse"
    ignore = "ignore"


def teach(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="A document, or a folder of documents.")
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--as", metavar="NAME", help="What to call the adapter; one for each PATH, in their order."),
    ] = None,
    jobs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A TOML file instead of PATHs: a section \\[\\[teach]] for each adapter, with path, as, and "
            "where wanted budget, recipe, seed, questions and personal. What is said here too is said for those "
            "without their own.",
        ),
    ] = None,
    base: BaseName = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="BUDGET", help="What it may take: 10min (the default), 2h, '500k tokens', '5 USD'."),
    ] = None,
    recipe: RecipeFile = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="The same seed gives the same adapter; 0 if not said.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions for the proof, kept out of the training text.")
    ] = None,
    writer: WriterAddress = None,
    writer_model: WriterModel = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="An OpenAI-compatible endpoint that judges what the writer writes."),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's name at the judge's address.")
    ] = None,
    personal: Annotated[
        Personal | None,
        typer.Option(help="Personal data in the documents: report it (if not said), refuse it, or ignore it."),
    ] = None,
    canaries: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Put N secret lines among the training text, to measure how they can be drawn out."
        ),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Tell the plan (tokens, minutes, money) and stop; nothing is spent.")
    ] = False,
) -> None:
    """Teach documents to a new version of an adapter, and publish it.

    The budget decides how much is taught; the plan is told before anything is spent. Several adapters are
    trained side by side, in shared passes over one base model; the budget is each one's own. A run that was
    stopped or killed goes on where it stopped when you give the same command again. Prints the versions.
    """
    from imprint.interfaces.progress import watching

    usual: dict[str, Any] = {
        "budget": budget, "recipe": recipe, "seed": seed, "questions": questions, "personal": personal,
    }  # fmt: skip
    usual = {key: value for key, value in usual.items() if value is not None}
    asked = {"writer": (writer, writer_model), "judge": (judge, judge_model)}
    if canaries is not None or any(word is not None for words in asked.values() for word in words):
        if jobs is not None:
            raise BadInput(
                "A job file names its writers and canaries in its recipes: leave out --writer, --judge and "
                "--canaries, or name PATHs."
            )
        usual["recipe"] = with_others(recipe, asked, canaries)
    lessons = _lessons(paths or [], names or [], jobs, usual)
    if estimate:
        with watching(stderr()) as watch:
            imprint.estimate(lessons, base=base, watch=watch)
        return
    with watching(stderr()) as watch:
        taught = imprint.teach_many(lessons, base=base, watch=watch)
    for each in taught:
        typer.echo(each.name)
    first = taught[0].name
    typer.echo(f"Now: imprint prove {first}, or imprint ask {first} 'a question'", err=True)


def _lessons(paths: list[Path], names: list[str], jobs: Path | None, usual: dict[str, Any]) -> list[Lesson]:
    from imprint.interfaces import job_file

    if jobs is not None:
        if paths or names:
            raise BadInput("Name either a job file or documents: --jobs FILE, or PATH --as NAME.")
        return job_file.read(jobs, usual)
    if not paths:
        raise BadInput("There is nothing to teach. Name documents and an adapter: imprint teach PATH --as NAME.")
    if len(paths) != len(names):
        raise BadInput(
            f"There are {len(paths)} PATHs and {len(names)} --as NAMEs. Each PATH needs a name: "
            "imprint teach A --as a B --as b."
        )
    return [imprint.Lesson(path, name, **usual) for path, name in zip(paths, names, strict=True)]


def curve(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A document, or a folder of documents.")],
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="Passages to try it on.")] = 12,
    most_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Training text at which it ends at the latest.")
    ] = 200_000,
    base: BaseName = None,
    recipe: RecipeFile = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same curve.")] = 0,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions about the documents; else the writer asks some.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Find out how much training text is enough.

    A sample of the passages is taught with twice the text again and again, and asked the same held-out questions
    each time, until two doublings in a row gain less than one point. Nothing is published; `imprint audit` tells
    of it for what is taught from the same documents. Killed, the same command goes on where it stopped.
    """
    from imprint.interfaces import tables
    from imprint.interfaces.progress import watching

    asked: dict[str, Any] = {"sample": sample, "most_tokens": most_tokens, "seed": seed, "questions": questions}
    with watching(stderr()) as watch:
        found = imprint.curve(path, base=base, recipe=recipe, watch=watch, **asked)
    if as_json:
        typer.echo(json.dumps(without_nan(dataclasses.asdict(found)), indent=2))
    else:
        tables.stdout().print(tables.curve_page(found))


def map_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A document, or a folder of documents.")],
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions about the documents; else the writer's own.")
    ] = None,
    strangers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions that the documents do not answer.")
    ] = None,
    suite: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Tasks judged by log-likelihood, before and after; may be said again."),
    ] = None,
    general_text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A text whose perplexity is taken besides; may be said again."),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Kinds of adapters; else all, 'full' only with memory for it."),
    ] = None,
    sizes: Annotated[str, typer.Option(metavar="A,B", help="Sizes of each kind.")] = "small,middle,large",
    budget: Annotated[
        str | None,
        typer.Option(metavar="BUDGET", help="What writing the text and one training may take; 10min if not said."),
    ] = None,
    text_tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Training text to write, in tokens: 20000, 20k.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Training tokens of each adapter, visits counted: 100k.")
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune/--no-tune", help="Find each kind's learning rate on a tenth of the text first.")
    ] = True,
    base: BaseName = None,
    recipe: RecipeFile = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same map.")] = 0,
    work: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the map is kept; else in the adapters' home.")
    ] = None,
    only_report: Annotated[
        bool, typer.Option("--only-report", help="Measure nothing: plots and page of what stands in --work.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Find out which kind of adapter learns most of your documents, and what each forgets.

    The training text is written once; every kind at every size is trained on it for as many tokens, and asked the
    same questions, beside the untouched base, full context and RAG. Measured are what it learnt, what it forgot of
    general text and of suites, whether it speaks of the documents where it should not, its size and its cost.

    Each result is kept as it comes: killed, the same command goes on where it stopped. Leaves two plots and one
    page, map.html, beside the rows. Nothing is published.
    """
    from imprint.interfaces import map_plots
    from imprint.interfaces.progress import watching

    map_plots.check()
    if only_report:
        if work is None:
            raise BadInput("--only-report needs the folder of a map: --work FOLDER.")
        from imprint import learning_map

        _tell_map(learning_map.kept(work), as_json)
        return
    settings = imprint.MapSettings(
        kinds=words(kinds) if kinds else None,
        sizes=words(sizes),
        tokens=_count(tokens, "--tokens"),
        tune=tune,
        seed=seed,
    )
    asked: dict[str, Any] = {"questions": questions, "strangers": strangers, "base": base, "budget": budget}
    with watching(stderr()) as watch:
        found = imprint.draw_map(
            path,
            settings=settings,
            recipe=_with_text(recipe, _count(text_tokens, "--text-tokens")),
            suites=suite or [],
            texts=general_text or [],
            work=work,
            watch=watch,
            **asked,
        )
    _tell_map(found, as_json)


def _tell_map(found: LearningMap, as_json: bool) -> None:
    from imprint.evaluation import trade_off
    from imprint.interfaces import map_page, tables

    files = map_page.write(found, found.folder)
    if as_json:
        typer.echo(json.dumps(without_nan({"about": found.about, "rows": list(found.rows)}), indent=2))
    else:
        tables.stdout().print(tables.map_page(found, trade_off.read(found.rows, seed=int(found.about["seed"]))))
    typer.echo(f"Written: {', '.join(str(file) for file in files)}", err=True)


def _with_text(recipe: Path | None, text_tokens: int | None) -> Recipe | Path | None:
    """A recipe that asks for so much text."""
    if text_tokens is None:
        return recipe
    from imprint import recipe as recipes

    settings = recipes.read_toml(recipe, "recipe") if recipe else {}
    return recipes.from_mapping(settings | {"text_tokens": text_tokens}, source=str(recipe or "the command line"))


def _count(text: str | None, option: str) -> int | None:
    """'20000', '20k' or '2M'."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", text.strip())
    if found is None:
        raise BadInput(f"{option} is '{text}'. Say a number of tokens, such as 20000, 20k or 2M.")
    return int(float(found[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[found[2].lower()])
