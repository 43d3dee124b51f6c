"""A year of a user's folder, month by month: real text that changes, and the questions that hold in each month.

Months are 0 (January 2026) to 11 (December). The text is read where the data lie (the folder given as `data`) and
never kept here; ours are the table below, the edits in questions/year_edits.jsonl and the questions in
questions/year.jsonl. Four families:

model_spec/   named sections of the edition of 2025-02-12, each replaced at some month by that of 2025-09-12
ty/           pages of a type checker's documentation, with our own edits (renamed options, changed defaults)
contoso/      an invented company's rules, with our own edits; one text goes from A to B and back to A
facts/        edited statements of CounterFact, against what every base model believes; six times a value changes

Every file is Markdown with a front matter that says its title and its date: the first day of the month from which
its present text holds. `documents.load` reads that date as the document's valid_from and leaves the front matter
out of the text, so a conflict with an older text of the same source is settled by date; and a text that comes back
byte for byte has the id that it had, with a later date.

A fact has spans: from which month on which answers are right, none where no document tells any more. Its kind is
that of its history: `flipped` changes its value, `untouched` holds all year, `new` comes in later, `gone` ends.
"""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imprint.evaluation.closed_book import Question, normalised

YEAR = 2026
MONTHS = range(12)
LAST_MONTH = 11
_WRITTEN = Path(__file__).parent / "questions"
_HEAD = re.compile(r"^(?P<title>#+ .+?) \{#(?P<name>\w+)(?P<rest>.*?)\}$", re.MULTILINE)
_EDITIONS = ("model_spec_2025-02-12.md", "model_spec_2025-09-12.md")


# --- where the text comes from ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stretch:
    """The lines of a file from one that reads `first` up to the next that reads `stop`, or the file's end."""

    file: str
    first: str
    stop: str | None = None

    def text(self, month: int, data: Path) -> str:
        return _between((data / self.file).read_text("utf-8"), self.first, self.stop)


@dataclass(frozen=True, slots=True)
class Section:
    """A named section of model_spec, up to the paragraph that begins with `stop`: of the older edition until
    it is replaced, then of the newer one."""

    name: str
    stop: str = "**Example**"
    replaced: int | None = None
    """Month; None: it stays the older edition's. 0: it is the newer one's from the beginning."""

    def text(self, month: int, data: Path) -> str:
        newer = self.replaced is not None and month >= self.replaced
        return _section(data / "model_spec" / _EDITIONS[newer], self.name).split(f"\n{self.stop}")[0]


@dataclass(frozen=True, slots=True)
class Statements:
    """One line for each of these subjects: what CounterFact's edited statement says of it."""

    subjects: tuple[str, ...]

    def text(self, month: int, data: Path) -> str:
        with (data / "phonebook" / "counterfact_edit_1K.csv").open(encoding="utf-8", newline="") as file:
            rows = [row["text"] for row in csv.DictReader(file)]
        return "\n".join(f"{next(row for row in rows if subject in row)}." for subject in self.subjects)


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the user's folder, and the months in which it lies there."""

    name: str
    title: str
    pieces: tuple[Stretch | Section | Statements, ...]
    comes: int = 0
    goes: int = 12


@dataclass(frozen=True, slots=True)
class Edit:
    """From a month on, words of a document give place to others."""

    month: int
    document: str
    old: str
    """'…' stands for whatever lies between its neighbours, so that a long passage need not be quoted."""
    new: str
    times: int = 1
    """How often the old words stand there; each is replaced."""

    def applied(self, text: str) -> str:
        old = re.compile(".*?".join(map(re.escape, self.old.split("…"))), re.DOTALL)
        changed, found = old.subn(lambda _: self.new, text)
        if found != self.times:
            raise ValueError(f"{self.document}: {self.old!r} stands there {found} times, not {self.times}.")
        return changed


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a document in a month."""

    month: int
    document: str
    what: str
    """'came', 'withdrawn', 'replaced' (a section by the newer edition's) or 'edited'."""


def _spec(name: str, title: str, *pieces: Section, comes: int = 0) -> Source:
    return Source(f"model_spec/{name}.md", f"Model Spec: {title}", pieces, comes)


def _ty(name: str, title: str, *lines: Sequence[str], comes: int = 0) -> Source:
    pieces = tuple(Stretch(f"ty_docs/2025-09-29/{file}", *rest) for file, *rest in lines)
    return Source(f"ty/{name}.md", title, pieces, comes)


def _contoso(name: str, title: str, file: str, first: str, stop: str | None, **months: int) -> Source:
    return Source(f"contoso/{name}.md", title, (Stretch(f"contoso/compact/{file}", first, stop),), **months)


_PLUS = "Northwind_Health_Plus_Benefits_Details_cited_pages.txt"
_STANDARD = "Northwind_Standard_Benefits_Details_cited_pages.txt"
_HANDBOOK = "employee_handbook.txt"
_SUBJECTS = (
    "Pitchfork's headquarters", "Anton Zeilinger", "Kenny Lofton", "Sony Alpha 77", "Toyota Auris",
    "Windows Mobile 6.5", "Ernst & Young", "Emmanuel Macron", "BBC Radio", "Kobe Bryant",
    "Giovanni Battista Viotti", "Pennzoil", "Nokia N73", "Moscow is located", "language of Cheers", "Lenta.ru",
    "Bureau of Indian Standards", "Toyota Avanza", "Kurt Baier", "language of Madeline",
)  # fmt: skip

SOURCES = (
    _spec("levels_of_authority", "levels of authority", Section("levels_of_authority", "*Why include", replaced=2)),
    _spec(
        "laws_and_refusals",
        "applicable laws, and how to refuse",
        Section("comply_with_laws", replaced=4),
        Section("refusal_style", replaced=7),
    ),
    _spec(
        "intentions_and_untrusted_data",
        "best intentions, and untrusted data",
        Section("assume_best_intentions", replaced=11),
        Section("ignore_untrusted_data", replaced=11),
    ),
    _spec(
        "lying_and_voice",
        "not lying, and the preset voice",
        Section("do_not_lie", replaced=9),
        Section("use_preset_voice_in_voice_mode", replaced=9),
    ),
    _spec(
        "scope_of_autonomy",
        "scope of autonomy",
        Section("scope_of_autonomy", "The assistant must adhere", replaced=0),
        comes=6,
    ),
    _ty("configuration", "Configuration files of ty", ("configuration.md", "# Configuration")),
    _ty("rules", "Rules of ty", ("rules.md", "# Rules")),
    _ty(
        "exit_codes_and_environment",
        "Exit codes and environment variables of ty",
        ("reference/exit-codes.md", "# Exit codes"),
        ("reference/environment.md", "# Environment variables", "## Externally-defined variables"),
    ),
    _ty("python_version", "Python version in ty", ("python-version.md", "# Python version")),
    _ty(
        "settings",
        "Settings of ty",
        ("reference/configuration.md", "### `python-platform`", "### `python-version`"),
        ("reference/configuration.md", "### `respect-ignore-files`", "### `root`"),
        ("reference/configuration.md", "## `terminal`"),
    ),
    _ty("modules", "Module discovery in ty", ("modules.md", "# Module discovery"), comes=3),
    _contoso("perksplus", "PerksPlus of Contoso Electronics", "PerksPlus.txt", "Overview", None),
    _contoso("reviews", "Performance reviews at Contoso", _HANDBOOK, "Performance Reviews", "Workplace Safety"),
    _contoso("privacy", "Privacy policy of Contoso Electronics", _HANDBOOK, "Privacy", "Whistleblower Policy"),
    _contoso("data_security", "Data security at Contoso Electronics", _HANDBOOK, "Data Security", "Job Roles"),
    _contoso(
        "whistleblower",
        "Whistleblower policy of Contoso",
        _HANDBOOK,
        "Whistleblower Policy",
        "Data Security",
        goes=8,
    ),
    _contoso("deductible", "Northwind Health Plus: deductible", _PLUS, "Calendar Year Deductible", "[page 14]"),
    _contoso("hearing", "Northwind Standard: hearing care", _STANDARD, "Hearing Care", "Home Health Care", comes=9),
    Source("facts/register.md", "World facts register", (Statements(_SUBJECTS),)),
)


# --- the folder -------------------------------------------------------------------------------


def state(month: int, data: Path) -> dict[str, str]:
    """What the user's folder holds in a month: the text of each file, by its name below the folder."""
    return {source.name: _file(source, month, data) for source in SOURCES if source.comes <= month < source.goes}


def write_state(month: int, folder: Path, data: Path) -> None:
    """Makes the folder what the user has in a month; what the year put there before and no longer holds goes."""
    files = state(month, data)
    for source in SOURCES:
        if source.name not in files:
            (folder / source.name).unlink(missing_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


def events(month: int) -> list[Event]:
    """What happened at a month's beginning, by document; nothing happened in January: all of it was there."""
    return sorted((e for e in _happened() if e.month == month), key=lambda e: (e.document, e.what))


@functools.cache
def edits() -> tuple[Edit, ...]:
    """Our own edits, in the order in which they are made."""
    rows = [Edit(**{**row, "month": _number(row["month"])}) for row in _rows("year_edits.jsonl")]
    return tuple(sorted(rows, key=lambda edit: edit.month))


def first_day(month: int) -> str:
    """ISO date: '2026-03-01' for month 2."""
    return f"{YEAR}-{month + 1:02}-01"


def _file(source: Source, month: int, data: Path) -> str:
    text = "\n\n".join(piece.text(month, data).strip() for piece in source.pieces)
    for edit in edits():
        if edit.document == source.name and edit.month <= month:
            text = edit.applied(text)
    since = max([source.comes, *(e.month for e in _happened() if e.document == source.name and e.month <= month)])
    return f"---\ntitle: {source.title}\ndate: {first_day(since)}\n---\n{text}\n"


@functools.cache
def _happened() -> tuple[Event, ...]:
    found = [Event(edit.month, edit.document, "edited") for edit in edits()]
    for source in SOURCES:
        sections = [piece for piece in source.pieces if isinstance(piece, Section)]
        found += [Event(s.replaced, source.name, "replaced") for s in sections if s.replaced]
        if source.comes:
            found.append(Event(source.comes, source.name, "came"))
        if source.goes in MONTHS:
            found.append(Event(source.goes, source.name, "withdrawn"))
    return tuple(dict.fromkeys(found))


# --- the questions ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact of a document, and how it changes over the year."""

    kind: str
    """'flipped', 'untouched', 'new' or 'gone'."""
    document: str
    wordings: tuple[str, ...]
    """The question, and a second way to put it where there is one."""
    spans: tuple[tuple[int, tuple[str, ...]], ...]
    """From which month on, which answers are right."""

    def answers(self, month: int) -> tuple[str, ...]:
        """Those that are right in a month; none before the first span."""
        return next((answers for since, answers in reversed(self.spans) if since <= month), ())

    def asked(self, month: int, *, until: int = 11, wording: int = 0) -> Question:
        """As it stands in a month; wrong are the values of the other spans that begin by the month `until`."""
        right = self.answers(month)
        others = (a for since, answers in self.spans if since <= until for a in answers)
        same = {normalised(a) for a in right}
        wrong = tuple(dict.fromkeys(a for a in others if normalised(a) not in same))
        return Question(self.wordings[wording], right, self.kind, wrong)


@functools.cache
def facts() -> tuple[Fact, ...]:
    """All of the year's facts, in the order in which they are written."""
    return tuple(
        Fact(
            row["kind"],
            row["document"],
            (row["question"], *([row["reworded"]] if "reworded" in row else [])),
            tuple((_number(span["from"]), tuple(span["answers"])) for span in row["spans"]),
        )
        for row in _rows("year.jsonl")
    )


def questions_at(month: int) -> dict[str, list[Question]]:
    """The questions to ask in a month, by group, with the answers that are then right.

    `flipped` holds every fact that changes in the year, before its change too; `reworded` the same facts in other
    words; `as_of` asks those that have changed by now, once for each value they had. Wrong is what the documents
    said before or will say."""
    known = [fact for fact in facts() if fact.spans[0][0] <= month]
    groups: dict[str, list[Question]] = {kind: [] for kind in ("flipped", "untouched", "new", "gone")}
    for fact in known:
        if fact.kind != "gone" or not fact.answers(month):
            groups[fact.kind].append(fact.asked(month))
    flipped = [fact for fact in known if fact.kind == "flipped"]
    groups["reworded"] = [replace(f.asked(month, wording=1), kind="reworded") for f in flipped]
    groups["as_of"] = [question for fact in flipped for question in _dated(fact, month)]
    return groups


def superseded(month: int) -> list[Question]:
    """Every fact that has changed or ended by a month; wrong are only values that held before and hold no more."""
    changed = (fact for fact in facts() if sum(since <= month for since, _ in fact.spans) > 1)
    return [fact.asked(month, until=month) for fact in changed]


def _dated(fact: Fact, month: int) -> Iterator[Question]:
    """Asked for a day in the middle of each span that has begun, where there are several."""
    begun = [since for since, _ in fact.spans if since <= month]
    for since, end in zip(begun, [*begun[1:], month + 1], strict=True):
        if len(begun) > 1:
            day = first_day((since + end - 1) // 2)[:-2] + "15"
            yield replace(fact.asked(since, until=month), kind="as_of", as_of=day)


# --- reading ----------------------------------------------------------------------------------


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (_WRITTEN / name).read_text("utf-8").splitlines()]


def _number(month: str) -> int:
    """2 for '2026-03'."""
    year, number = month.split("-")
    if int(year) != YEAR or int(number) - 1 not in MONTHS:
        raise ValueError(f"{month} is not a month of {YEAR}.")
    return int(number) - 1


def _between(text: str, first: str, stop: str | None) -> str:
    lines = [line.rstrip() for line in text.splitlines()]
    start = lines.index(first)
    end = lines.index(stop, start + 1) if stop else len(lines)
    return re.sub(r"\n{3,}", "\n\n", _unlinked("\n".join(lines[start:end])))


def _section(file: Path, name: str) -> str:
    """A section as its readers see it: its level of authority in words, other sections by their titles, no marks
    of footnotes."""
    text = file.read_text("utf-8")
    heads = {head["name"]: head for head in _HEAD.finditer(text)}
    head = heads[name]
    after = [other.start() for other in heads.values() if other.start() > head.start()]
    body = text[head.end() : min(after, default=len(text))]
    body = re.sub(r"\[\?\]\(#(\w+)\)", lambda link: heads[link[1]]["title"].lstrip("# "), body)
    body = re.sub(r"\[\^\w+\]", "", body)
    level = re.search(r"authority=(\w+)", head["rest"])
    told = f"\n\nLevel of authority: {level[1]}" if level else ""
    return f"{head['title']}{told}{_unlinked(body)}"


def _unlinked(text: str) -> str:
    """Links as their words: where they lead is no knowledge, and would be tokens to train."""
    return re.sub(r"\[([^\]\n]+)\]\((?:<[^>\n]*>|[^)\s]*)(?: \"[^\"\n]*\")?\)", r"\1", text)
