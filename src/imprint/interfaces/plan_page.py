"""An advice as a page: the documents, each way in a row, from when on teaching pays, and what we would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from imprint.advice.ways import HERE
from imprint.interfaces.tables import printable

if TYPE_CHECKING:
    from imprint.advice import Advice, Quality, Way


def plan_page(found: Advice) -> RenderableType:
    """The whole page."""
    here = [w for w in found.ways if w.where == HERE]
    elsewhere = [w for w in found.ways if w.where != HERE]
    parts: list[RenderableType] = [Text(line) for line in _head(found)]
    parts.append(_ways_table(f"on this machine ({found.pace.device}, {found.pace.base})", here, found))
    if elsewhere:
        parts.append(_ways_table("at a hosted model", elsewhere, found))
    parts.append(_break_even_table(here))
    parts += [Text(line) for line in _foot(found)]
    parts.append(Text(f"\n{printable(found.recommendation.words)}", style="bold"))
    parts += [Text(f"  {printable(reason)}") for reason in found.recommendation.reasons]
    return Group(*parts)


def _head(found: Advice) -> Iterator[str]:
    size, use, teaching = found.size, found.use, found.teaching
    yield f"{size.tokens:,} tokens in {size.passages:,} passages, which give {size.facts:,} firm facts"
    yield (
        f"Questions: {use.questions_per_day:,g} a day; updates: {use.updates_per_month:g} a month; so "
        f"{use.questions_per_version:,.0f} questions per version"
    )
    if teaching.impossible:
        yield f"Teaching: {printable(teaching.impossible)}"
    else:
        yield (
            f"Teaching a version: {teaching.times:.1f} times the text of {teaching.taught:.0%} of the documents, "
            f"{teaching.write_s:,.0f} s of writing and {teaching.train_s:,.0f} s of training"
        )


def _ways_table(title: str, ways: Sequence[Way], found: Advice) -> Table:
    heads = ["expected\nright", "USD a\nquestion", "USD an\nupdate", "s an\nupdate", "USD a\nmonth"]
    heads += ["first\ntoken, s", "whole\nanswer, s", "memory", ""]
    table = Table(title=title, box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, title_justify="left")
    table.add_column("way", overflow="fold")
    for head in heads:
        table.add_column(head, justify="left" if not head else "right", overflow="fold")
    for way in ways:
        taken = (way.way, way.where) == (found.recommendation.way, found.recommendation.where)
        cells = [way.name, _quality(way.quality), _usd(way.usd_per_question), _usd(way.update_usd)]
        cells += [f"{way.update_s:,.1f}", _usd(way.usd_per_month(found.use)), _seconds(way.first_token_s)]
        cells += [_seconds(way.answer_s), _bytes(way.memory_bytes), "cannot be" if way.impossible else ""]
        style = "bold" if taken else "dim" if way.impossible else ""
        table.add_row(*(Text(printable(cell)) for cell in cells), style=style)
    return table


def _break_even_table(ways: Sequence[Way]) -> Table:
    """From how many questions per version on the way of a row costs no more than that of a column."""
    table = Table(
        title="cheaper from so many questions per version on",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
    )
    table.add_column("this way")
    for other in ways:
        table.add_column(f"than\n{other.name}", justify="right")
    for way in ways:
        cells = ["" if o is way else _questions(way.breaks_even.get(o.way)) for o in ways]
        table.add_row(way.name, *cells)
    return table


def _foot(found: Advice) -> Iterator[str]:
    known = {way.name: way.quality.known_from for way in found.ways if way.where == HERE and way.quality.n}
    for source in dict.fromkeys(known.values()):
        names = ", ".join(name for name, of in known.items() if of == source)
        yield printable(f"Expected of {names}: {source}")
    for note in found.notes:
        yield printable(note)


def _quality(quality: Quality) -> str:
    if quality.right is None:
        return "not measured"
    return f"{quality.right:.0%} [{quality.low or 0:.0%}, {quality.high or 0:.0%}]"


def _usd(amount: float) -> str:
    return "0" if amount == 0 else f"{amount:.2g}" if amount < 1 else f"{amount:,.2f}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:,.2f}"


def _bytes(size: int) -> str:
    return "-" if not size else f"{size / 1e6:,.0f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def _questions(count: float | None) -> str:
    return "never" if count is None else f"{count:,.0f}" if count else "the first"
