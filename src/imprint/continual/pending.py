"""What others brought and where it stands: one file for each document, under the adapter it was brought to.

    <home>/admissions/<name>/<owner>/<document id>.json

    pending       it passed the gate, or was released; taught to its owner's own adapter only
    quarantined   it waits for a person
    refused       a model's own words: never taught
    promoted      handed over to <name>: part of its documents from its next update on

What the same person brings of the same path is the next edition, and takes the place of the one before once it
stands where that one did.

A document's file is written whole or not at all, and taking one away is one unlink, so that a kill leaves each
document where it was or where it should be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from imprint.continual.admission import Admission, Decision
from imprint.errors import BadInput, BadName, NotFound
from imprint.registry.names import RULE, check_name, fits
from imprint.run_folder import write_whole
from imprint.types import Document

STATES = ("pending", "quarantined", "refused", "promoted")


@dataclass(frozen=True, slots=True)
class Brought:
    """A document that somebody brought, and where it stands."""

    document: Document
    state: str
    """One of STATES."""
    line: str
    """What the gate decided, in words."""
    since: str
    """When it came to stand there: ISO 8601, UTC."""
    released: bool = False
    """Whether a person overruled the gate."""

    @property
    def id(self) -> str:
        return self.document.id


def own_adapter(name: str, owner: str) -> str:
    """The adapter that what somebody brought is taught to until it is promoted: 'handbook.anna'.

    Raises BadName for an owner with a dot, which parts names here, and for what the registry does not take."""
    if not fits(owner):
        raise BadName(f"{owner[:80]!r} cannot say who brought something. The rule: {RULE}.")
    if "." in owner:
        raise BadName(f"'{owner}' cannot say who brought something: a dot parts names here. Write it without.")
    return check_name(f"{check_name(name)}.{owner}")


def keep(home: Path, name: str, admission: Admission, *, now: str) -> list[Brought]:
    """Writes down what the gate decided. What was promoted, or released by a person, stays as it is."""
    kept = []
    for decision in admission.decisions:
        document = decision.document
        before = _read(_file(home, name, document.owner, document.id))
        if before is None or not (before.released or before.state == "promoted"):
            before = Brought(document, _state(decision), decision.line, now)
            write(home, name, before)
        kept.append(before)
    _take_the_places(home, name, kept)
    return kept


def brought(home: Path, name: str, *, owner: str | None = None, state: str | None = None) -> list[Brought]:
    """What was brought to an adapter, of an owner and in a state if these are said; by owners and sources."""
    found = [b for b in _all(home, name) if owner in (None, b.document.owner) and state in (None, b.state)]
    return sorted(found, key=lambda b: (b.document.owner, b.document.source, b.id))


def pending(home: Path, name: str, owner: str) -> list[Document]:
    """What own_adapter() is taught: what somebody brought that passed, promoted or not."""
    found = brought(home, name, owner=owner)
    newest = {b.document.source: b for state in ("promoted", "pending") for b in found if b.state == state}
    return [b.document for b in found if b in newest.values()]


def promoted(home: Path, name: str) -> list[Document]:
    """What others brought that is to be among an adapter's own documents, as long as it is not withdrawn."""
    return [b.document for b in brought(home, name, state="promoted")]


def release(home: Path, name: str, document_id: str, *, now: str) -> Brought:
    """Lets a quarantined document through: a person overrules the gate.

    The first characters of its id will do. Raises NotFound where none waits under that id, and BadInput where
    several do or where it is a model's own words."""
    every = [b for b in brought(home, name) if b.id.startswith(document_id)]
    waiting = [b for b in every if b.state in ("quarantined", "refused")]
    if not waiting or not document_id:
        there = ", ".join(b.id for b in brought(home, name, state="quarantined")) or "none"
        raise NotFound(f"No document of '{name}' waits under the id '{document_id}'. Quarantined are: {there}.")
    if len(waiting) > 1:
        raise BadInput(f"{len(waiting)} documents of '{name}' begin with '{document_id}'. Write more of the id.")
    (one,) = waiting
    if one.state == "refused":
        raise BadInput(f"{one.document.source} cannot be released: {one.line}")
    freed = replace(one, state="pending", since=now, released=True)
    write(home, name, freed)
    _take_the_places(home, name, [freed])
    return freed


def promote(home: Path, name: str, owner: str, *, now: str) -> list[Brought]:
    """Hands what somebody brought, and passed, over to the adapter. Raises NotFound where there is nothing."""
    waiting = brought(home, name, owner=owner, state="pending")
    if not waiting:
        raise NotFound(
            f"Nothing of '{owner}' is pending for '{name}'. See what was brought: imprint admit {name} --list"
        )
    handed = [replace(b, state="promoted", since=now) for b in waiting]
    for one in handed:
        write(home, name, one)
    _take_the_places(home, name, handed)
    return handed


def withdraw(home: Path, name: str, *, owner: str | None = None, document_id: str | None = None) -> list[Brought]:
    """Takes what was brought out of the home, of an owner, or a document by its whole id; returns what went.

    Raises BadInput where neither is said: everything of everybody is not forgotten by a slip."""
    if owner is None and document_id is None:
        raise BadInput("Say whose documents to withdraw, or which one.")
    gone = [b for b in brought(home, name, owner=owner) if document_id in (None, b.id)]
    for one in gone:
        _file(home, name, one.document.owner, one.id).unlink(missing_ok=True)
    return gone


def owners(home: Path, name: str) -> Sequence[str]:
    """Who brought something to an adapter."""
    return sorted({b.document.owner for b in _all(home, name)})


# --- files ------------------------------------------------------------------------------------


def _take_the_places(home: Path, name: str, come: Sequence[Brought]) -> None:
    """Takes away the editions before: of what is pending the pending ones, of what is promoted all that passed."""
    places = {"pending": ("pending",), "promoted": ("pending", "promoted")}
    newest = {(b.document.owner, b.document.source): b for b in come if b.state in places}
    for old in brought(home, name):
        new = newest.get((old.document.owner, old.document.source))
        if new is not None and old.id != new.id and old.state in places[new.state]:
            _file(home, name, old.document.owner, old.id).unlink(missing_ok=True)


def _state(decision: Decision) -> str:
    return "pending" if decision.admitted else "refused" if decision.refused else "quarantined"


def _all(home: Path, name: str) -> Iterator[Brought]:
    for file in (home / "admissions" / check_name(name)).glob("*/*.json"):
        if not file.name.startswith(".") and (one := _read(file)) is not None:
            yield one


def _file(home: Path, name: str, owner: str, document_id: str) -> Path:
    own_adapter(name, owner)  # both are names of folders here
    return home / "admissions" / name / owner / f"{document_id}.json"


def write(home: Path, name: str, one: Brought) -> None:
    """Writes a document's file, whole or not at all."""
    file = _file(home, name, one.document.owner, one.id)
    write_whole(file, json.dumps(asdict(one), indent=1, ensure_ascii=False))


def _read(file: Path) -> Brought | None:
    try:
        record: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    told = record.pop("document")
    return Brought(Document(**told | {"page_starts": tuple(told["page_starts"])}), **record)
