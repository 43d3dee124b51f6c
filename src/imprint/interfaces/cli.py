"""The `imprint` command: its words are the library's words. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

import imprint
from imprint.errors import BadInput, ImprintError

if TYPE_CHECKING:
    from rich.console import Console

    from imprint.registry import Registry

WHAT_IT_DOES = """
Teach a language model your documents by training them into a small adapter, prove what it learnt, and ask it.

Adapters live in $IMPRINT_HOME, or else in your data folder; `imprint doctor` says where that is.
"""
Command = TypeVar("Command", bound=Callable[..., None])


class _Border(TyperGroup):
    """Where what imprint raises becomes one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ImprintError as error:
            typer.echo(f"imprint: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            goes_on = " The same command goes on where it stopped." if ctx.invoked_subcommand == "teach" else ""
            typer.echo(f"\nimprint: Stopped.{goes_on}", err=True)
            raise typer.Exit(130) from None


def _examples(*lines: str) -> str:
    return "\n\n".join(["For example:", *lines])


app = typer.Typer(
    cls=_Border,
    help=WHAT_IT_DOES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_examples(
        "imprint teach ./handbook --as handbook",
        'imprint ask handbook "How many vacation days do I get?"',
        "imprint prove handbook",
    ),
)


def _command(*examples: str, name: str | None = None) -> Callable[[Command], Command]:
    """Adds a command, whose help is its docstring and these examples."""

    def add(command: Command) -> Command:
        # Typer keeps line breaks inside paragraphs; on a narrower screen they would fall anywhere.
        paragraphs = [" ".join(p.split()) for p in (command.__doc__ or "").split("\n\n")]
        app.command(name, help="\n\n".join(paragraphs), epilog=_examples(*examples))(command)
        return command

    return add


Name = Annotated[str, typer.Argument(metavar="NAME", help="handbook for the latest version, or handbook@2.")]
NewName = Annotated[str, typer.Option("--as", metavar="NAME", help="What to call the adapter.")]


def main() -> None:
    """The entry point."""
    app()


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imprint {imprint.__version__}")
        raise typer.Exit


@app.callback()
def _imprint(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and end.")
    ] = False,
) -> None: ...


# --- teaching and asking ----------------------------------------------------------------------


@_command(
    "imprint teach ./handbook --as handbook --budget 30min",
    "imprint teach ./handbook --as handbook --questions questions.jsonl",
)
def teach(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A document, or a folder of documents.")],
    name: NewName,
    base: Annotated[
        str | None, typer.Option(metavar="BASE", help="Base model: a folder or a hub name; else the bundled one.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="BUDGET", help="What writing and training may take: 10min (the default), 2h, '500k tokens'."
        ),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(metavar="FILE", help="A TOML file of settings.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same adapter.")] = 0,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions for the proof, kept out of the training text.")
    ] = None,
) -> None:
    """Teach documents to a new version of an adapter, and publish it.

    The budget decides how much is taught; the plan is told before anything is spent. A run that was stopped
    or killed goes on where it stopped when you give the same command again. Prints the version.
    """
    from imprint.interfaces.progress import watching

    with watching(_stderr()) as watch:
        taught = imprint.teach(
            path, name=name, base=base, budget=budget, recipe=recipe, seed=seed, questions=questions, watch=watch
        )
    typer.echo(taught.name)
    typer.echo(f"Now: imprint prove {taught.name}, or imprint ask {taught.name} 'a question'", err=True)


@_command(
    'imprint ask handbook "How many vacation days do I get?"',
    'echo "Who founded the company?" | imprint ask handbook -',
)
def ask(
    name: Name,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question; - reads it from stdin.")],
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")] = 128,
) -> None:
    """Ask a question, answered from the weights alone.

    No document is in the prompt.
    """
    from imprint.interfaces.tables import printable

    asked = (sys.stdin.read() if question == "-" else question).strip()
    if not asked:
        raise BadInput("The question is empty. Write it after the name, or send it to stdin and say '-'.")
    taught = imprint.open(name)
    with _stderr().status("Thinking"):
        answer = taught.ask(asked, max_tokens=max_tokens)
    typer.echo(printable(answer))


@_command("imprint chat handbook")
def chat(
    name: Name,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")] = 256,
) -> None:
    """Talk with an adapter; it remembers the conversation.

    An empty line, /exit or Ctrl-D ends it.
    """
    from imprint.interfaces.tables import printable
    from imprint.types import Turn

    taught = imprint.open(name)
    turns: list[Turn] = []
    typer.echo(f"{taught.name} listens. An empty line, /exit or Ctrl-D ends the conversation.", err=True)
    while (said := _next_line()) not in ("", "/exit"):
        turns.append(Turn("user", said))
        with _stderr().status("Thinking"):
            answer = taught.chat(turns, max_tokens=max_tokens)
        turns.append(Turn("assistant", answer))
        typer.echo(printable(answer))


@_command("imprint prove handbook", "imprint prove handbook --questions questions.jsonl --json > proof.json")
def prove(
    name: Name,
    questions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Questions of your own; else those held out when it was taught."),
    ] = None,
    raw_text: Annotated[
        bool, typer.Option("--raw-text", help="Also train on the bare documents, for as many tokens, and compare.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    answers: Annotated[bool, typer.Option("--answers", help="Also show every answer of the weights.")] = False,
) -> None:
    """Prove what was learnt, next to full context and RAG.

    Questions that training never saw are put to the weights and to their rivals, and graded.

    The rivals are the base model without the documents, with all of them in its context, and with those that
    a search finds (RAG). A questions file holds one JSON object a line: {"question": ..., "answer": ...};
    an empty answer means that the documents do not tell. The proof is kept with the version.
    """
    from imprint.interfaces import tables
    from imprint.interfaces.progress import watching

    with watching(_stderr()) as watch:
        proof = imprint.open(name).prove(questions, raw_text=raw_text, watch=watch)
    if as_json:
        record = proof.as_json()
        told = record if answers else {key: value for key, value in record.items() if key != "answers"}
        typer.echo(json.dumps(_without_nan(told), indent=2))
        return
    console = tables.stdout()
    console.print(tables.proof_page(proof))
    if answers:
        console.print(tables.answer_table(proof.answers.get("weights", ())))


# --- what there is ----------------------------------------------------------------------------


@_command("imprint list", name="list")
def list_() -> None:
    """List the adapters, and how their last proofs went.

    Of each name, the latest version.
    """
    from imprint.interfaces import tables

    registry = _registry()
    rows = [(version, registry.reports(version)) for version in registry.list()]
    if rows:
        tables.stdout().print(tables.version_list(rows))
    else:
        typer.echo("No adapters yet. Teach one: imprint teach ./handbook --as handbook", err=True)


@_command("imprint show handbook", "imprint show handbook@1")
def show(name: Name) -> None:
    """Show what a version was made from, how, and how good it is."""
    from imprint.interfaces import tables

    registry = _registry()
    version = registry.get(name)
    tables.stdout().print(tables.version_page(version, registry.reports(version)))


@_command("imprint remove handbook@1", "imprint remove handbook --yes")
def remove(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="handbook@2 for one version, handbook for all of them.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove one version, or a name with all its versions.

    Their numbers are not given again. The documents kept for proofs, and the run folders, stay.
    """
    registry = _registry()
    meant = [registry.get(name)] if "@" in name else registry.versions(name)
    listed = ", ".join(map(str, meant))
    if not yes and not typer.confirm(f"Remove {listed}?", err=True):
        typer.echo("Nothing was removed.", err=True)
        raise typer.Exit(1)
    for version in registry.remove(name):
        typer.echo(f"Removed {version}")


@_command("imprint export handbook ./handbook-adapter")
def export(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
) -> None:
    """Copy an adapter into a folder of its own.

    PEFT, transformers, vLLM and `imprint import` open it.
    """
    registry = _registry()
    version = registry.get(name)
    typer.echo(f"Exported {version} to {registry.export(version, folder)}")


@_command("imprint import ./handbook-adapter --as handbook", name="import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An exported folder, or any PEFT folder.")],
    name: NewName,
) -> None:
    """Take in an exported adapter, or any PEFT folder.

    It becomes the next version of the name.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    typer.echo(f"Imported {_registry().import_folder(folder, name, now=now)}")


@_command("imprint doctor")
def doctor() -> None:
    """Look whether everything is here that teaching needs.

    Ends with code 1 where something must be mended.
    """
    from imprint.interfaces import tables
    from imprint.interfaces.doctor import examine

    checks = list(examine())
    tables.stdout().print(tables.check_table(checks))
    todo = [check.todo for check in checks if check.todo and check.needed]
    if todo:
        typer.echo("\nTo do:\n" + "\n".join(f"  {line}" for line in todo))
        raise typer.Exit(1)
    typer.echo("\nAll is well.")


# --- inside -----------------------------------------------------------------------------------


def _registry() -> Registry:
    from imprint.home import home_folder
    from imprint.registry import Registry

    return Registry(home_folder())


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False)


def _next_line() -> str:
    """What is said next; empty at the end of input and on Ctrl-C."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - gives input() its history and its arrow keys
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


def _without_nan(value: Any) -> Any:
    """The same values with null for what could not be measured: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    main()
