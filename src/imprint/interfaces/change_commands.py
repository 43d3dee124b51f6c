"""`imprint diff` and `imprint conflicts`: which facts changed between versions, and which statements disagree."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imprint import clock
from imprint.errors import BadInput
from imprint.interfaces.options import Name, stderr, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imprint.continual.changes import Changes
    from imprint.continual.conflicts import Conflict, Settled, Side
    from imprint.continual.fact_changes import FactChange
    from imprint.types import Document, Passage, Version

_SHOWN = 10
"""New and withdrawn statements of one document that are shown without --all."""


def diff(
    old: Name,
    new: Name,
    all_: Annotated[bool, typer.Option("--all", help="Show every new and withdrawn statement.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a report.")] = False,
) -> None:
    """Tell which facts changed between two versions, in words.

    The documents that both were taught are compared, not the weights: what is new, changed or withdrawn, and of the
    changed ones which numbers, dates, names and other statements are not what they were.
    """
    from imprint.continual.changes import compare
    from imprint.continual.fact_changes import fact_changes
    from imprint.interfaces import tables

    (before, old_documents), (now, new_documents) = _taught(old), _taught(new)
    changes = compare(old_documents, new_documents)
    size = int(now.recipe.get("passage_tokens", 160))
    gone = [*(o for o, _ in changes.changed), *changes.withdrawn]
    come = [*(n for _, n in changes.changed), *changes.new]
    facts = fact_changes(_passages(gone, size), _passages(come, size))
    if as_json:
        typer.echo(json.dumps(_diff_record(before, now, changes, facts), indent=2, ensure_ascii=False))
        return
    for line in [f"{before} -> {now}", *changes.lines(), *_fact_lines(facts, changes, None if all_ else _SHOWN)]:
        typer.echo(tables.printable(line))


def conflicts(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A document, or a folder of documents.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Also against what this version was taught.")
    ] = None,
    rules: Annotated[
        str, typer.Option(metavar="A,B", help="What settles them, in this order: newer, order, ask.")
    ] = "newer,order",
    source_order: Annotated[
        str, typer.Option(metavar="A,B", help="Patterns of files, those that hold first: 'policies/*,faq.md'.")
    ] = "",
    beliefs: Annotated[
        bool, typer.Option("--beliefs", help="Also ask the base model what it believes; takes minutes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a report.")] = False,
) -> None:
    """Find statements that cannot both be true, before they are taught.

    In a folder, against the documents that an adapter was taught (--name), and against what the base model believes
    (--beliefs). Each is shown with both sides, where they come from and since when they hold, and which of them the
    rules let hold: the newer one, the one whose file comes first in an order, or the one you name when asked. What
    no rule settles is open.
    """
    from imprint import documents
    from imprint.continual.conflicts import conflicts_of, rules_of, settle
    from imprint.continual.manifest import current, of_version
    from imprint.interfaces import tables

    asked = {"conflicts": words(rules), "source_order": words(source_order)}
    given = rules_of(asked, source="the command line")
    loaded = documents.load(path).documents
    version, kept = _taught(name) if name is not None else (None, ())
    since = {e.document: e.since for e in current(of_version(version, kept))} if version else {}
    found = conflicts_of(loaded, kept, today=clock.now()[:10], since=since)
    if beliefs:
        found += _beliefs(loaded, since)
    settled = settle(found, given, _ask)
    if as_json:
        typer.echo(json.dumps([asdict(s) for s in settled], indent=2, ensure_ascii=False))
        return
    for line in _conflict_lines(settled):
        typer.echo(tables.printable(line))


def _taught(name: str) -> tuple[Version, tuple[Document, ...]]:
    """A version and the documents that it was taught, without what is to be forgotten of them."""
    from imprint.continual.tombstones import not_to_be_forgotten
    from imprint.corpus import Corpus
    from imprint.home import home_folder
    from imprint.registry import Registry

    registry = Registry(home_folder())
    version = registry.get(name)
    kept = Corpus.kept(home_folder(), version.corpus_hash)
    if kept is None:
        raise BadInput(
            f"The documents of {version} are not kept here, as with an imported adapter: its facts are not known."
        )
    return version, tuple(not_to_be_forgotten(registry, version, kept.documents))


def _passages(documents: Sequence[Document], max_tokens: int) -> list[Passage]:
    # Their length is estimated: to load a tokenizer takes longer than all the rest.
    from imprint.documents import split

    return [p for d in documents for p in split(d, max_tokens=max_tokens)]


def _beliefs(documents: Sequence[Document], since: dict[str, str]) -> list[Conflict]:
    from imprint import base
    from imprint.continual.beliefs import beliefs
    from imprint.continual.conflicts import Sources
    from imprint.writers.local import LocalWriter

    with stderr().status("Asking the base model"):
        writer = LocalWriter(base.load())
        return beliefs(_passages(documents, 160), writer, seed=0, sources=Sources.of(documents, since))


# --- in words ---------------------------------------------------------------------------------


def _fact_lines(facts: Sequence[FactChange], changes: Changes, shown: int | None) -> Iterator[str]:
    """The changed facts of each document, then what it says newly and what it says no more."""
    from imprint.continual.fact_changes import in_words

    for title in dict.fromkeys(f.title for f in facts):
        own = [f for f in facts if f.title == title]
        yield f"\n{title}"
        yield from (f"  {in_words(f)}" for f in own if f.kind not in ("new", "gone"))
        for kind, word in (("new", "new"), ("gone", "withdrawn")):
            some = [f for f in own if f.kind == kind]
            yield from (f"  {in_words(f)}" for f in some[:shown])
            if shown is not None and len(some) > shown:
                yield f"  ... and {len(some) - shown} more {word} statements (--all shows them)"


def _diff_record(old: Version, new: Version, changes: Changes, facts: Sequence[FactChange]) -> dict[str, Any]:
    from imprint.continual.fact_changes import in_words

    return {
        "old": str(old),
        "new": str(new),
        "documents": {
            "new": [d.source for d in changes.new],
            "changed": [{"old": a.source, "new": b.source} for a, b in changes.changed],
            "withdrawn": [d.source for d in changes.withdrawn],
            "unchanged": len(changes.unchanged),
        },
        "facts": [{**asdict(f), "title": f.title, "in_words": in_words(f)} for f in facts],
    }


def _conflict_lines(settled: Sequence[Settled]) -> Iterator[str]:
    open_ = sum(s.winner is None for s in settled)
    some = "1 conflict" if len(settled) == 1 else f"{len(settled)} conflicts"
    yield f"{some}, {open_} of them open." if settled else "No conflicts were found."
    for one in settled:
        conflict = one.conflict
        yield f"\n'{conflict.values[0]}' or '{conflict.values[1]}' ({conflict.kind})"
        for side in (conflict.first, conflict.second):
            yield f"  {'*' if side == one.winner else ' '} {_side_line(side)}"
        yield f"    {one.why}"


def _side_line(side: Side) -> str:
    since = f", since {side.since}" if side.since else ""
    return f"{side.source}{since}: {side.said.text}"


def _ask(conflict: Conflict) -> int | None:
    """The side that a person names at the terminal; None where they leave it open."""
    typer.echo(f"\n1  {_side_line(conflict.first)}\n2  {_side_line(conflict.second)}", err=True)
    answer = typer.prompt(
        "Which holds? 1, 2, or nothing to leave it open", default="", show_default=False, err=True
    )
    return {"1": 0, "2": 1}.get(answer.strip())
