"""`imprint audit` and `imprint audit-index`: what a training text is like, and what a search index gives away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import imprint
from imprint.errors import BadInput
from imprint.interfaces.options import Name, stderr, without_nan

if TYPE_CHECKING:
    from imprint.inversion import Settings as AuditSettings
    from imprint.inversion import Stored
    from imprint.types import Embedder


def audit(
    name: Name,
    examples: Annotated[
        int, typer.Option(min=0, metavar="N", help="Also show N items of each kind of the training text.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a report.")] = False,
) -> None:
    """Show what an adapter was taught with, and what was kept out.

    Is the text faithful to the documents, what share of their facts does it cover, is it diverse, is it safe
    (orders to a model, contradictions, names easily confused), and is it enough? Made when the adapter was taught;
    nothing is computed anew.
    """
    from imprint.interfaces import tables

    taught = imprint.open(name)
    report = taught.audit
    if as_json:
        typer.echo(json.dumps(without_nan(report), indent=2))
        return
    for line in taught.audit_lines():
        typer.echo(tables.printable(line))
    for example in taught.examples(examples):
        typer.echo(tables.printable(f"[{example.generator}] " + " / ".join(t.text for t in example.turns)))


def audit_index(
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="A document, or a folder of documents.")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Instead of PATH: {"text": ...} on each line, with "questions": [...] where there are any.',
        ),
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The vectors of --texts (.npy), a row for each text.")
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Embedding model: a folder or a hub name; else the bundled one."),
    ] = None,
    storage: Annotated[
        str, typer.Option(metavar="A,B", help="Ways of storing: float32, int8, binary, noise=0.01.")
    ] = "float32,int8,binary,noise=0.01",
    budget: Annotated[str, typer.Option(metavar="TIME", help="What it may take: 10min, 1h.")] = "10min",
    guessed: Annotated[int, typer.Option(min=1, metavar="N", help="Texts to hold out and guess, at most.")] = 32,
    examples: Annotated[
        int, typer.Option(min=0, metavar="N", help="Also show N texts beside what was read from their vectors.")
    ] = 0,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed holds out the same texts.")] = 0,
    work: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where guesses are kept; else in the adapters' home.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Find out how much of your texts can be read back from the vectors of a search index.

    Some texts are held out. From the others an attack learns how vectors tell of words; then it guesses those from
    their vectors alone, as each way of storing keeps them. Told are the words, names and numbers it got right,
    beside what can be guessed without any vector; what each way of storing costs in retrieval; and a verdict.

    The attack is a small one. What it reads back can be read back; what it does not may be read by a better one.
    Each guess is kept as it comes: killed, the same command goes on where it stopped.
    """
    from imprint import inversion
    from imprint.interfaces import index_page, tables
    from imprint.interfaces.progress import watching
    from imprint.planner import parse_budget

    if (path is None) == (texts is None) or (vectors is not None and texts is None):
        raise BadInput("Name either documents, or a file of texts with or without its vectors: --texts, --vectors.")
    seconds = parse_budget(budget).seconds
    if seconds is None:
        raise BadInput(f"An audit's budget is a time, and '{budget}' is none. Say --budget 10min.")
    settings = inversion.Settings(inversion.parse(storage), seconds, guessed, seed=seed)
    from imprint import embedders

    with watching(stderr()) as watch:
        model = embedders.load(embedder)
        stored = _stored(path, texts, vectors, model, watch.say)
        folder = work or _audit_folder(model.name, settings, stored)
        found = inversion.audit_index(stored, model, settings, folder=folder, watch=watch)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        tables.stdout().print(index_page.audit_page(found))
    if examples:
        tables.stdout().print(index_page.guess_table(found, examples))
    typer.echo(f"Texts and guesses are in {found.folder}; keep it where the documents are.", err=True)


def _stored(
    path: Path | None, texts: Path | None, vectors: Path | None, embedder: Embedder, say: Callable[[str], None]
) -> Stored:
    from imprint import documents, inversion

    if texts is not None:
        return inversion.read_stored(texts, vectors)
    assert path is not None
    loaded = documents.load(path)
    say(loaded.summary())
    return inversion.Stored(inversion.texts_of(loaded.documents, embedder))


def _audit_folder(embedder: str, settings: AuditSettings, stored: Stored) -> Path:
    from imprint.home import home_folder
    from imprint.types import content_hash

    given = b"" if stored.vectors_ND is None else stored.vectors_ND.tobytes()
    return home_folder() / "index-audits" / content_hash(embedder, repr(settings), *stored.texts, given)
