"""The audit of an index as tables that a person can read."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from imprint.interfaces.tables import printable
from imprint.inversion import IndexAudit
from imprint.run_folder import RunFolder
from imprint.types import Score

_LONGEST = 400
"""Characters of a text that are shown."""


def audit_page(found: IndexAudit) -> RenderableType:
    """What was read back from vectors as each way of storing keeps them, what that costs, and the verdicts."""
    asked = any("hit@1" in each.scores for each in found.storages)
    heads = [
        "bytes a\nvector",
        "words\n(F1)",
        "blindly",
        "nearest\ntext",
        "names,\nnumbers",
        "blindly",
        "word for\nword",
    ]
    heads += ["same ten\nneighbours", *(["answer\nfirst", "lost"] if asked else [])]
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("stored as")
    for head in heads:
        table.add_column(head, justify="right")
    for each in found.storages:
        measures = ["f1", "f1 usual", "f1 nearest", "entities", "entities usual", "exact", "overlap"]
        measures += ["hit@1", "hit@1 lost"] if asked else []
        cells = [_cell(each.scores.get(measure)) for measure in measures]
        table.add_row(each.storage, f"{each.bytes_each:,}", *cells)
    verdicts = [Text(f"{each.storage}: {each.verdict.sentence}") for each in found.storages]
    return Group(table, *verdicts, Text(""), *map(Text, _about(found)))


def _about(found: IndexAudit) -> list[str]:
    plan = found.plan
    lines = [
        f"{len(plan.held_out)} texts were guessed, {plan.tries:,} tries each, after learning from "
        f"{len(plan.training):,} others of {found.texts:,} and some general text. Embedder: {found.embedder}. In "
        "brackets: 95 % intervals.",
        "'blindly' is what the most frequent words get right without any vector.",
    ]
    if found.reachable is not None:
        lines.append(
            f"{found.reachable.value:.0%} of the names and numbers to guess stood in the texts learnt from; "
            "others this attack finds by chance only."
        )
    return lines


def guess_table(found: IndexAudit, count: int) -> Table:
    """Texts beside what was read from their vectors, as the first way of storing keeps them."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for head in ("nearness", "text", f"read from its vector, {found.storages[0].storage}"):
        table.add_column(head, overflow="fold")
    for place in found.plan.held_out[:count]:
        row = RunFolder(found.folder).read(f"guessed/{found.storages[0].storage}/{place}")
        if row is not None:
            shown = [Text(printable(text)[:_LONGEST]) for text in (row["text"], row["attack"]["guess"])]
            table.add_row(f"{row['attack']['nearness']:.2f}", *shown)
    return table


def _cell(score: Score | None) -> str:
    if score is None:
        return "-"
    return f"{100 * score.value:.0f} %\n[{100 * score.low:.0f}, {100 * score.high:.0f}]"
