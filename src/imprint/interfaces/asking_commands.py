"""`imprint ask` and `imprint chat`: answers from the weights."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

import imprint
from imprint.errors import BadInput
from imprint.interfaces.options import Name, stderr

if TYPE_CHECKING:
    from imprint.evaluation.citing import Cited


def ask(
    name: Name,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question; - reads it from stdin.")],
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")] = 128,
    all_: Annotated[
        bool, typer.Option("--all", help="Of several adapters, wear all at once; by default the one it is about.")
    ] = False,
    routed: Annotated[
        bool, typer.Option("--routed", help="Let the base answer what is not about the documents.")
    ] = False,
    cite: Annotated[
        bool, typer.Option("--cite", help="Tell the passages behind the answer, and whether they bear it out.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Give an answer that is too unsure all the same.")
    ] = False,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="DATE", help="What held on that day, like 2026-03-01."),
    ] = None,
) -> None:
    """Ask a question, answered from the weights alone.

    No document is in the prompt. Several adapters are joined with '+': the one that the question is about answers.
    With --cite the kept documents are searched for the answer, and what is found is read: an answer that no
    passage bears out is marked.

    With --as-of the version answers that held on that day (imprint update keeps the date of each); where none is
    that old, the oldest is asked with the date in the question.

    Where a certificate (imprint prove) has measured how sure this version's answers are, one that is less sure than
    its line is not given: it says that it does not know. --anyway gives it all the same.
    """
    from imprint.interfaces import tables
    from imprint.interfaces.tables import printable

    asked = (sys.stdin.read() if question == "-" else question).strip()
    if not asked:
        raise BadInput("The question is empty. Write it after the name, or send it to stdin and say '-'.")
    if cite and "+" in name:
        raise BadInput("One adapter cites at a time: name one of them.")
    if routed and "+" in name:
        raise BadInput("--routed sets one adapter beside the base: name one of them, or leave it out.")
    if as_of is not None and ("+" in name or "@" in name):
        raise BadInput("--as-of chooses the version of one name: leave out '@' and '+'.")
    cited: Cited | None = None
    unsure = ""
    with stderr().status("Thinking"):
        if "+" in name:
            how = "all" if all_ else "choose"
            answer = imprint.together(name.split("+")).ask(asked, how=how, max_tokens=max_tokens)
        else:
            taught, day = imprint.open_as_of(name, as_of) if as_of else (imprint.open(name), None)
            asked = f"As of {day}: {asked}" if day else asked
            found = taught.answer(asked, routed=routed, max_tokens=max_tokens)
            answer = found.text if anyway else found.given
            cited = taught.cite(asked, answer) if cite else None
            if found.declined and found.verdict is not None:
                told = "Given all the same" if anyway else "Not given (--anyway shows it)"
                unsure = f"{told}: {taught.name}'s answer is {found.verdict.probability:.0%} likely to be right."
    typer.echo(printable(answer))
    if as_of is not None:
        typer.echo(f"Answered by {taught.name}{f', asked as of {day}' if day else ''}.", err=True)
    if unsure:
        typer.echo(unsure, err=True)
    if cited is not None:
        typer.echo(printable("\n".join(tables.citation_lines(cited))))


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
        with stderr().status("Thinking"):
            answer = taught.chat(turns, max_tokens=max_tokens)
        turns.append(Turn("assistant", answer))
        typer.echo(printable(answer))


def _next_line() -> str:
    """What is said next; empty at the end of input and on Ctrl-C."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - gives input() its history and its arrow keys
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return ""
