"""A map as one HTML page that needs nothing beside it, and its plots as files."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imprint.evaluation import trade_off
from imprint.evaluation.trade_off import MOST_PERPLEXITY, MOST_POINTS, Placed, Reading
from imprint.interfaces import map_plots
from imprint.interfaces.page import STYLE
from imprint.interfaces.page import text as _text
from imprint.interfaces.progress import duration
from imprint.learning_map import LearningMap
from imprint.run_folder import write_whole
from imprint.types import Score

PAGE, FORGOTTEN, PARAMETERS = "map.html", "learnt-forgotten.png", "learnt-parameters.png"

_STYLE = """
th { cursor: pointer }
th[aria-sort=ascending]::after { content: " ▲" } th[aria-sort=descending]::after { content: " ▼" }
"""

_SORT = """
for (const table of document.querySelectorAll('table.sorts')) table.querySelectorAll('th').forEach((head, i) => {
  head.addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') === 'descending';
    table.querySelectorAll('th').forEach(h => h.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const value = row => { const v = row.cells[i].dataset.v; return i ? parseFloat(v) : v };
    const missing = v => typeof v === 'number' && isNaN(v);
    const body = table.tBodies[0];
    [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      return (x > y ? 1 : x < y ? -1 : 0) * (up ? 1 : -1);
    }).forEach(row => body.append(row));
  });
});
"""

Cell = tuple[float | str, str]
"""What a cell is sorted by, and what it shows (HTML)."""
Column = tuple[str, str, Callable[[Mapping[str, Any], Placed | None], Cell]]
"""Heading, what it means, and the cell of a row."""


def write(found: LearningMap, folder: Path) -> list[Path]:
    """Writes the page and its plots into a folder; returns their paths, the page first. Raises MissingPackage."""
    reading = trade_off.read(found.rows, seed=int(found.about.get("seed", 0)))
    drawn = {FORGOTTEN: map_plots.learnt_against_forgotten, PARAMETERS: map_plots.learnt_against_parameters}
    plots = {name: draw(reading, found.rows) for name, draw in drawn.items()}
    dark = {name: draw(reading, found.rows, dark=True) for name, draw in drawn.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in plots.items():
        (folder / name).write_bytes(png)
    write_whole(folder / PAGE, page(found, reading, plots, dark))
    return [folder / PAGE, *(folder / name for name in plots)]


def page(found: LearningMap, reading: Reading, plots: Mapping[str, bytes], dark: Mapping[str, bytes]) -> str:
    """The page as text. `plots` and `dark`: PNGs by file name, for either ground."""
    told = [f"<li>{_text(sentence)}</li>" for sentence in [*caveats(found), *trade_off.sentences(reading)]]
    failed = [
        f"<li>{_text(r['row'])} came to nothing: {_text(r['error'])}</li>" for r in trade_off.failed(found.rows)
    ]
    tuned = [r for r in found.rows if r["what"] == "tuning"]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            "<title>What each kind of adapter learns and forgets</title>",
            f"<style>{STYLE}{_STYLE}</style></head><body>",
            "<h1>What each kind of adapter learns and forgets</h1>",
            f'<p class="soft">{_text(_about(found.about))}</p>',
            f'<ul class="summary">{"".join([*told, *failed])}</ul>',
            "<h2>Learnt against forgotten</h2>",
            _picture(plots[FORGOTTEN], dark[FORGOTTEN], "learnt against forgotten"),
            "<h2>Learnt against trainable parameters</h2>",
            _picture(plots[PARAMETERS], dark[PARAMETERS], "learnt against trainable parameters"),
            "<h2>All rows</h2>",
            '<p class="soft">A click on a heading sorts. Small figures are 95 % intervals, of differences to the '
            "untouched base by pairs. Green rows meet the goal.</p>",
            _table(_columns(reading), [(r, _place(reading, r)) for r in found.rows if "learnt" in r], reading),
            *_routed(found),
            "<h2>Right, by kind of question</h2>",
            _kinds(found.rows),
            *(["<h2>Learning rates tried</h2>", _tuning(tuned)] if tuned else []),
            f"<script>{_SORT}</script></body></html>",
        ]
    )


def _routed(found: LearningMap) -> list[str]:
    """The same adapters, worn only where a text is about the documents."""
    reading = trade_off.read(found.rows, seed=int(found.about.get("seed", 0)), routed=True)
    if not reading.placed:
        return []
    told = [f"<li>{_text(sentence)}</li>" for sentence in trade_off.sentences(reading)]
    rows = [(p.row, p) for p in reading.placed]
    return [
        "<h2>With a router before each</h2>",
        '<p class="soft">The adapter is worn only where the question (or the beginning of a text) has become '
        "likelier to it than to the untouched base, by more than most general text; everything else the "
        "untouched base answers.</p>",
        f'<ul class="summary">{"".join(told)}</ul>',
        _table([*_columns(reading), *_accepted(rows)], rows, reading),
    ]


def _accepted(rows: Sequence[tuple[Mapping[str, Any], Placed]]) -> list[Column]:
    """What share of each kind of text the adapter is given."""
    names = list(dict.fromkeys(name for row, _ in rows for name in row["accepted"]))

    def given(name: str) -> Callable[[Mapping[str, Any], Placed | None], Cell]:
        return lambda r, _: _share(r["accepted"].get(name))

    return [(f"given {name}", "share", given(name)) for name in names]


def caveats(found: LearningMap) -> list[str]:
    """What a reader must know before comparing rows."""
    told = []
    if len(found.measured_on) > 1:
        where = "; ".join(f"{', '.join(rows)} on {machine}" for machine, rows in found.measured_on.items())
        told.append(
            f"These rows were not measured on one machine: {where}. Differences between them may be the machine's; "
            "forgetting and cost are to be read only within one."
        )
    if found.about["tuned"]:
        told.append(
            "Learning rates were chosen by some of the same questions that are asked here, so that learnt scores "
            "flatter every adapter a little; the rivals have nothing of that kind."
        )
    return told


# --- tables -----------------------------------------------------------------------------------


def _columns(reading: Reading) -> list[Column]:
    texts = list(dict.fromkeys(name for p in reading.placed for name in p.rises))
    suites = list(dict.fromkeys(name for p in reading.placed for name in p.lost))
    return [
        ("", "", lambda r, _: _named(r)),
        ("right", "answerable questions answered rightly, closed book", lambda r, _: _learnt(r["learnt"])),
        (
            "nats a token",
            "what the right answers cost; less is better",
            lambda r, _: _number(r["learnt"].get("nats"), ".2f"),
        ),
        *(
            (
                f"perplexity of {t}",
                "against the untouched base",
                lambda _, p, t=t: _signed(p and p.rises.get(t), 100, "%"),
            )
            for t in texts
        ),
        *((f"lost on {s}", "points", lambda _, p, s=s: _signed(p and p.lost.get(s), 1, "")) for s in suites),
        ("speaks of the documents", "answers to unrelated questions", lambda r, _: _share(r.get("interference"))),
        ("abstains", "on what the documents do not tell", lambda r, _: _share(r.get("abstention"))),
        ("wrongly abstains", "on what they do tell", lambda r, _: _share(r.get("wrongly_abstained"))),
        ("parameters", "trained", lambda r, _: _number(r.get("parameters") or None, ",")),
        ("on disk", "bytes", lambda r, _: _bytes(r.get("bytes"))),
        ("learning rate", "highest", lambda r, _: _number(r.get("lr"), ".2g")),
        ("tokens", "trained on, visits counted", lambda r, _: _number(r.get("tokens") or None, ",")),
        ("training", "of this process; beside others in shared passes where there is a GPU", _seconds),
        ("s/answer", "many at once", lambda r, _: _number(r["cost"]["seconds_per_answer"], ".3g")),
        (
            "× the bare base",
            "seconds of an answer, measured in turns",
            lambda r, _: _number(r["cost"]["ratio"], ".2f"),
        ),
    ]


def _table(
    columns: Sequence[Column], rows: Sequence[tuple[Mapping[str, Any], Placed | None]], reading: Reading
) -> str:
    heads = "".join(f'<th title="{_text(means)}">{_text(name)}</th>' for name, means, _ in columns)
    good = {p.name for p in reading.good}
    lines = []
    for row, placed in rows:
        cells = [cell(row, placed) for _, _, cell in columns]
        shown = "".join(f'<td data-v="{_text(str(value))}">{text}</td>' for value, text in cells)
        lines.append(f'<tr class="{"good" if row["row"] in good else ""}">{shown}</tr>')
    body = "\n".join(lines)
    table = f'<table class="sorts"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _kinds(rows: Sequence[Mapping[str, Any]]) -> str:
    asked = [r for r in rows if "learnt" in r]
    kinds = list(dict.fromkeys(kind for r in asked for kind in r["learnt"]["by_kind"]))
    columns: list[Column] = [("", "", lambda r, _: _named(r))]
    for kind in kinds:
        n = next(r["learnt"]["by_kind"][kind]["n"] for r in asked if kind in r["learnt"]["by_kind"])
        columns.append((f"{kind} ({n:.0f})", "right", lambda r, _, k=kind: _learnt(r["learnt"]["by_kind"].get(k))))  # type: ignore[misc]
    return _table(columns, [(r, None) for r in asked], Reading((), None, None, ()))


def _tuning(rows: Sequence[Mapping[str, Any]]) -> str:
    columns: list[Column] = [
        ("kind", "", lambda r, _: (str(r["kind"]), _text(r["kind"]))),
        ("learning rate", "highest", lambda r, _: _number(r["lr"], ".3g")),
        ("nats a token", "what the right answers cost; less is better", lambda r, _: _number(r.get("nats"), ".3f")),
        ("tokens", "trained on", lambda r, _: _number(r.get("tokens"), ",")),
        ("questions", "asked", lambda r, _: _number(r.get("questions"), ",")),
        ("", "what ended it", lambda r, _: (0.0, _text("diverged" if "error" in r else ""))),
    ]
    return _table(columns, [(r, None) for r in rows], Reading((), None, None, ()))


# --- cells ------------------------------------------------------------------------------------


def _named(row: Mapping[str, Any]) -> Cell:
    shown = row["row"] if row["what"] == "adapter" else str(row["row"]).replace("_", " ")
    return str(row["row"]), _text(shown)


def _learnt(score: Mapping[str, Any] | None) -> Cell:
    if score is None or math.isnan(score["score"]):
        return math.nan, "-"
    return score[
        "score"
    ], f"{score['score']:.1%}<small>{100 * score['low']:.1f} to {100 * score['high']:.1f}</small>"


def _share(score: Mapping[str, Any] | None) -> Cell:
    return _learnt(None if score is None else {**score, "score": score["value"]})


def _signed(score: Score | None, times: float, unit: str) -> Cell:
    if score is None:
        return math.nan, "-"
    low, high = times * score.low, times * score.high
    return score.value, f"{times * score.value:+.1f}{unit}<small>{low:+.1f} to {high:+.1f}</small>"


def _number(value: float | None, form: str) -> Cell:
    return (math.nan, "-") if value is None else (value, format(value, form))


def _bytes(size: int | None) -> Cell:
    if size is None:
        return math.nan, "-"
    return size, f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _seconds(row: Mapping[str, Any], _: Placed | None) -> Cell:
    told = row.get("seconds")
    return (math.nan, "-") if told is None else (told["training"], duration(told["training"]))


def _place(reading: Reading, row: Mapping[str, Any]) -> Placed | None:
    return next((p for p in reading.placed if p.name == row["row"]), None)


def _about(about: Mapping[str, Any]) -> str:
    documents = about["documents"]
    named = ", ".join(documents[:3]) + (f" and {len(documents) - 3} more" if len(documents) > 3 else "")
    rates = "tuned for each kind" if about["tuned"] else "each kind's usual one"
    return (
        f"{named} · {about['base']} · {about['questions']} questions with an answer, {about['questions_from']} · "
        f"{about['text_tokens']:,} tokens of training text, {about['tokens']:,} training tokens for each adapter · "
        f"learning rates {rates} · seed {about['seed']} · {about['device']}, {about['dtype']} · the goal: "
        f"{trade_off.LEAST_LEARNT:.0%} of the best learnt score, at most {MOST_PERPLEXITY:.0%} perplexity more and "
        f"{MOST_POINTS:g} point lost on each suite"
    )


def _picture(light: bytes, dark: bytes, named: str) -> str:
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{_embedded(dark)}">'
        f'<img alt="{_text(named)}" src="{_embedded(light)}"></picture>'
    )


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
