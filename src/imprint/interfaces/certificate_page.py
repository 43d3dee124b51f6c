"""A certificate as one HTML page that needs nothing beside it and runs no script, and as JSON.

A click on an answer in a document opens its card, by CSS alone: what was asked, what the weights said, and which
examples and passages taught it. A part that no section here knows is shown plainly."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imprint.evaluation import certificate
from imprint.evaluation.certificate import Certificate, Measured
from imprint.evaluation.coverage import BETWEEN
from imprint.interfaces import certificate_cells as cell
from imprint.interfaces import certificate_plots as plots
from imprint.interfaces import certificate_trust as trust
from imprint.interfaces.page import opened, table
from imprint.interfaces.page import text as _text
from imprint.run_folder import write_whole

_STYLE = """
svg { max-width: 100%; height: auto; font: 13px system-ui, sans-serif } svg text { fill: var(--ink) }
svg .soft { fill: var(--soft) } svg .grid { stroke: var(--line) } svg .axis { stroke: var(--soft) }
svg .c0 { stroke: var(--mark); fill: var(--mark) } svg .c1 { stroke: var(--other); fill: var(--other) }
svg .c2 { stroke: var(--third); fill: var(--third) } svg .c3 { stroke: var(--ink); fill: var(--ink) }
svg .c4 { stroke: var(--soft); fill: var(--soft) } svg path { fill: none !important }
.document { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); padding: .8rem 1rem;
  max-height: 40rem; overflow-y: auto }
.learnt { background: var(--good) } .partly { background: var(--some) } .missed { background: var(--bad) }
.piece a, .key span { color: inherit; padding: 0 .15em }
.piece a { text-decoration: underline; text-decoration-thickness: 2px; text-underline-offset: 3px }
.piece a.right { text-decoration-color: var(--third) } .piece a.wrong { text-decoration-color: var(--other) }
.piece .more a { font-size: .75rem; vertical-align: super } .yes { color: var(--third) } .no { color: var(--other) }
.cards section { display: none }
.cards section:target { display: block; position: fixed; right: 1rem; bottom: 1rem; width: min(34rem, 92vw);
  max-height: 75vh; overflow: auto; background: var(--ground); border: 2px solid var(--mark); border-radius: 6px;
  padding: .6rem 1rem; box-shadow: 0 4px 24px #0006; font-size: .9rem }
.cards .close { float: right }
blockquote { border-left: 3px solid var(--line); margin: .4rem 0; padding-left: .7rem }
td.wide, .answers td { white-space: normal; text-align: left; min-width: 8rem } a { color: var(--mark) }
td small { white-space: normal; max-width: 16rem } .answers td small { max-width: none }
details { margin: .6rem 0 } summary { cursor: pointer } .scroll + .scroll { margin-top: 1rem }
"""

_SHOWN_ANSWERS = ("weights", "weights_rag", "rag_read", "rag", "untouched")
"""Whose answers stand side by side, the first of them that were asked."""


def write(made: Certificate, folder: Path) -> list[Path]:
    """Writes NAME-N.certificate.json and .html into a folder; returns their paths."""
    stem = f"{made.name}-{made.version}.certificate"
    files = [folder / f"{stem}.json", folder / f"{stem}.html"]
    for file, content in zip(files, (certificate.as_text(made), page(made)), strict=True):
        write_whole(file, content)
    return files


def page(made: Certificate) -> str:
    """The page as text."""
    sections: list[str] = []
    for name, part in made.parts.items():
        shown = _SECTIONS.get(name, _any_part)(name, part, made)
        sections += shown
    return "\n".join(
        [
            *opened(f"{made.name}@{made.version}: what it learnt, and what its rivals do", _STYLE),
            f'<p class="soft">{_text(_about(made))}</p>',
            cell.listed([*certificate.sentences(made), *made.notes]),
            "<h2>The same questions, put to everybody</h2>",
            plots.shares([(s.says, s.right, key == "weights") for key, s in made.systems.items()]),
            _systems(made),
            *_differences(made),
            "<h2>Right, by kind of question</h2>",
            _kinds(made),
            *sections,
            "<h2>Answers</h2>",
            _answers(made),
            "</body></html>",
        ]
    )


# --- the systems ------------------------------------------------------------------------------


def _systems(made: Certificate) -> str:
    money = any(s.usd_per_answer is not None for s in made.systems.values())
    twins = any(s.twins["n"] for s in made.systems.values())
    heads = [
        ("", ""),
        ("right", "answerable questions whose answer contains a right one"),
        ("F1", "words in common with the nearest right answer"),
        ("exact", "answers that are a right one and nothing else"),
        ("abstains", "on what the documents do not tell"),
        ("answers falsely", "what the documents do not tell"),
        *([("tells the twin's value", "of what a near-duplicate answers otherwise")] if twins else []),
        ("wrongly abstains", "on what they do tell"),
        ("tokens read", "for each answer, all prompts that it took"),
        ("tokens written", "for each answer"),
        ("s/answer", "wall time of all, shared by them"),
        *([("US dollars for 1,000", "answers")] if money else []),
    ]
    rows = []
    for key, s in made.systems.items():
        cells = [
            f"{_text(s.says)}<small>{_text(s.means)}</small>",
            cell.share(s.right),
            cell.number(s.f1, ".2f"),
            cell.number(s.exact, ".1%"),
            cell.share(s.abstained),
            cell.share(s.answered_falsely),
            *([cell.share(s.twins)] if twins else []),
            cell.share(s.wrongly_abstained),
            cell.number(s.prompt_tokens, ",.0f"),
            cell.number(s.written_tokens, ",.0f"),
            cell.number(s.seconds_per_answer, ".3g"),
            *([cell.number(None if s.usd_per_answer is None else 1000 * s.usd_per_answer, ".3g")] if money else []),
        ]
        rows.append(("good" if key == "weights" else "", cells))
    return table(heads, rows)


def _differences(made: Certificate) -> list[str]:
    if not made.differences:
        return []
    heads = [
        ("", ""),
        ("points", "hundredths of the questions more right, of the same questions"),
        ("p", "how likely so large a difference is by chance alone"),
        ("p, Holm", "the same, where all of this table are counted"),
        ("test", ""),
    ]
    rows = []
    for d in made.differences:
        pair = f"{_says(made, d['one'])} less {_says(made, d['other'])}"
        points = {key: None if d[key] is None else d[key] for key in ("value", "low", "high")} | {"n": d["n"]}
        rows.append(
            ("", [pair, cell.points(points), cell.p_value(d["p"]), cell.p_value(d["p_holm"]), _text(d["test"])])
        )
    return ["<h2>Differences</h2>", table(heads, rows)]


def _kinds(made: Certificate) -> str:
    kinds = list(dict.fromkeys(kind for s in made.systems.values() for kind in s.by_kind))
    heads = [("", "")]
    for kind in kinds:
        n = next(s.by_kind[kind]["n"] for s in made.systems.values() if kind in s.by_kind)
        heads.append((f"{kind} ({n})", "right; of unanswerable questions: says so"))
    rows = [
        ("good" if key == "weights" else "", [_text(s.says), *(cell.share(s.by_kind[kind]) for kind in kinds)])
        for key, s in made.systems.items()
    ]
    return table(heads, rows)


def _answers(made: Certificate) -> str:
    """Every question with what some of the systems said."""
    keys = [key for key in _SHOWN_ANSWERS if key in made.systems] + [
        k for k in made.systems if k.startswith("rival_")
    ]
    if not keys:
        return ""
    cards = {
        f["question"]: i for i, f in enumerate(made.parts.get("coverage", {}).get("facts", ())) if not f["trained"]
    }
    heads = [
        ("question", ""),
        ("kind", ""),
        ("a right answer", ""),
        *((_plain_says(made, key), "") for key in keys),
    ]
    rows = []
    for i, first in enumerate(made.systems[keys[0]].answers):
        question = _text(first["question"])
        dated = f"<small>as of {_text(first['as_of'])}</small>" if first.get("as_of") else ""
        if first["question"] in cards:
            question = f'<a href="#fact-{cards[first["question"]]}">{question}</a>'
        right = " / ".join(first["right"]) or "(not told)"
        said = [_graded(made.systems[key].answers[i]) for key in keys]
        rows.append(("", [question + dated, _text(first["kind"]), _text(right), *said]))
    return f'<div class="answers">{table(heads, rows)}</div>'


def _graded(answer: Mapping[str, Any]) -> str:
    mark = '<span class="yes">✓</span>' if answer["contains"] else '<span class="no">✗</span>'
    notes = ["the value of a near-duplicate"] if answer.get("twin") else []
    notes += [f"then searched: {'; '.join(answer['queries'][1:])}"] if answer.get("queries", ())[1:] else []
    small = "".join(f"<small>{_text(note)}</small>" for note in notes)
    return f"{mark} {_text(answer['answer'])}{small}"


# --- the parts --------------------------------------------------------------------------------


def _forgotten(name: str, part: Mapping[str, Any], made: Certificate) -> list[str]:
    heads = [("", ""), ("before", ""), ("after", ""), ("change", "with its 95 % interval, by pairs"), ("p", "")]
    rows = []
    for text, told in part["perplexity"].items():
        ratio = told["ratio"]
        change = {key: ratio[key] - 1 for key in ("value", "low", "high")} | {"n": ratio["n"]}
        before, after = (f"{told[key]:.2f}" for key in ("before", "after"))
        rows.append(("", [f"perplexity of {_text(text)}", before, after, cell.signed(change, "%"), ""]))
    for suite, told in part["suites"].items():
        change = told["change"]
        cells = [
            cell.share(told["before"]),
            cell.share(told["after"]),
            cell.points(change),
            cell.p_value(change["p"]),
        ]
        rows.append(("", [f"right of {_text(suite)}", *cells]))
    if "interference" in part:
        told = part["interference"]
        rows.append(
            (
                "",
                [
                    "speaks of the documents unasked",
                    cell.share(told["by_chance"]),
                    cell.share(told["share"]),
                    "",
                    "",
                ],
            )
        )
    return ["<h2>What was forgotten</h2>", table(heads, rows)]


def _coverage(name: str, part: Mapping[str, Any], made: Certificate) -> list[str]:
    states = ", ".join(f"{n} {state}" for state, n in part["states"].items())
    told = [
        f"Facts asked in the training text's own words: {cell.told_share(part['trained'])} told.",
        f"Held-out questions whose passage was found: {cell.told_share(part['held_out'])} told.",
        f"Passages: {states}, of {part['passages']}.",
    ]
    facts = part.get("facts", ())
    shown = [_document(document, facts) for document in part.get("documents", ())]
    if part.get("documents_not_shown"):
        told.append(f"{part['documents_not_shown']} documents are not shown: there is too much text.")
    key = (
        '<p class="key">A passage of which the weights tell <span class="learnt">all</span>, '
        '<span class="partly">some</span>, <span class="missed">none</span> of what was asked. '
        "A click on an underlined answer shows what taught it.</p>"
    )
    passages = {
        f"{document['id']}:{piece['start']}-{piece['end']}": document["text"][piece["start"] : piece["end"]]
        for document in part.get("documents", ())
        for piece in document["pieces"]
    }
    cards = [_card(i, fact, passages.get(fact["passage"], "")) for i, fact in enumerate(facts)]
    return [
        '<h2 id="documents">What of the documents was learnt</h2>', cell.listed(told), key, *shown,
        f'<div class="cards">{"".join(cards)}</div>',
    ]  # fmt: skip


def _document(document: Mapping[str, Any], facts: Sequence[Mapping[str, Any]]) -> str:
    pieces = "".join(_piece(piece, document["text"], facts) for piece in document["pieces"])
    return f'<h3>{_text(document["title"])}</h3><div class="document">{pieces}</div>'


def _piece(piece: Mapping[str, Any], text: str, facts: Sequence[Mapping[str, Any]]) -> str:
    """A stretch of the document with its answers marked; those that cannot be placed follow it as numbers."""
    if piece["state"] == BETWEEN:
        return _text(text[piece["start"] : piece["end"]])
    out: list[str] = []
    unplaced: list[int] = []
    reached = piece["start"]
    for i in sorted(piece["facts"], key=lambda i: facts[i]["span"] or [piece["end"]]):
        span = facts[i]["span"]
        if span is None or span[0] < reached:
            unplaced.append(i)
            continue
        out.append(_text(text[reached : span[0]]) + _link(i, facts[i], text[span[0] : span[1]]))
        reached = span[1]
    out.append(_text(text[reached : piece["end"]]))
    more = " ".join(_link(i, facts[i], str(n)) for n, i in enumerate(unplaced, 1))
    more = f'<span class="more"> {more}</span>' if more else ""
    return f'<span class="piece {_text(piece["state"].replace(" ", "-"))}">{"".join(out)}{more}</span>'


def _link(place: int, fact: Mapping[str, Any], shown: str) -> str:
    look = "right" if fact["contains"] else "wrong"
    return f'<a class="{look}" href="#fact-{place}" title="{_text(fact["question"])}">{_text(shown)}</a>'


def _card(place: int, fact: Mapping[str, Any], passage: str) -> str:
    """What was asked and said, and what taught it."""
    taught = "".join(
        f"<blockquote>{'<br>'.join(_text(t['text']) for t in e['turns'])}"
        f'<br><small class="soft">{_text(e["generator"])} by {_text(e["writer"] or "rule")}</small></blockquote>'
        for e in fact["taught_by"]
    )
    kind = "asked in training" if fact["trained"] else "held out of training"
    mark = '<span class="yes">✓</span>' if fact["contains"] else '<span class="no">✗</span>'
    return (
        f'<section id="fact-{place}"><a class="close" href="#documents">close</a>'
        f"<p><b>{_text(fact['question'])}</b> <span class='soft'>({kind})</span><br>"
        f"weights: {mark} {_text(fact['answer'])}<br>right: {_text(' / '.join(fact['right']))}</p>"
        f"<p>Taught by {'these examples' if taught else 'no example that tells the answer'}</p>{taught}"
        f"<p>of passage <code>{_text(fact['passage'])}</code></p>"
        f"<blockquote>{_text(passage)}</blockquote></section>"
    )


def _citations(name: str, part: Mapping[str, Any], made: Certificate) -> list[str]:
    told = [
        f"Of the weights' right answers, {cell.told_share(part['right_supported'])} are borne out by a passage; "
        f"of the wrong ones, {cell.told_share(part['wrong_supported'])}.",
        f"Of the answers that are borne out, {cell.told_share(part['right_where_supported'])} are right; "
        f"of the others, {cell.told_share(part['right_where_not'])}.",
    ]
    rows = []
    for row in part.get("answers", ()):
        sources = [s for s in row["sources"] if s["supports"]] or row["sources"][:1]
        shown = "<br>".join(f"{_text(s['title'])}: {_text(s['text'])}" for s in sources[:1])
        mark = '<span class="yes">borne out</span>' if row["supported"] else '<span class="no">not borne out</span>'
        rows.append(("", [_text(row["question"]), _text(row["answer"]), mark, f"<small>{shown}</small>"]))
    heads = [("question", ""), ("the weights say", ""), ("", ""), ("passage", "")]
    shown = f'<div class="answers">{table(heads, rows)}</div>'
    body = f"<details><summary>Every answer with its source</summary>{shown}</details>"
    return ["<h2>Where the answers stand</h2>", cell.listed(told), *([body] if rows else [])]


def _rot(name: str, part: Mapping[str, Any], made: Certificate) -> list[str]:
    rows = part["rows"]
    head = "<h2>Context rot</h2>"
    if not rows:
        return [head, f"<p>{_text(part.get('ended', 'Nothing was measured.'))}</p>"]
    about = (
        f"{part['questions']} questions after ever longer texts, up to {part['ended']}. The text holds what they "
        "need, among other passages; focused, it is the needed passage alone. Dashed: weights and RAG on the same "
        "questions."
    )
    heads = [("", ""), ("tokens of text", ""), ("right", ""), ("prompt", "tokens"), ("s", "of one answer, alone")]
    cells = [("", _rot_cells(row, made)) for row in [*rows, *part["beside"]]]
    drawn = plots.rot(rows, part["beside"], lambda key: _plain_says(made, key))
    return [head, f'<p class="soft">{_text(about)}</p>', drawn, table(heads, cells)]


def _rot_cells(row: Mapping[str, Any], made: Certificate) -> list[str]:
    length = "-" if "length" not in row else f"{row['length']:,}" if row["length"] else "focused"
    figures = [cell.number(row["prompt_tokens"], ",.0f"), cell.number(row["seconds_alone"], ".3g")]
    return [_says(made, row["system"]), length, cell.share(row["right"]), *figures]


def _any_part(name: str, part: Any, made: Certificate) -> list[str]:
    """A part that has no section of its own yet, as it is."""
    return [f"<h2>{_text(name.replace('_', ' ').capitalize())}</h2>", _any(part)]


def _any(value: Any) -> str:
    if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
        return cell.share(value) if value.get("unit", "share") == "share" else cell.interval(value)
    if isinstance(value, Mapping):
        rows = [("", [_text(str(k).replace("_", " ")), _any(v)]) for k, v in value.items()]
        return table([("", ""), ("", "")], rows)
    if isinstance(value, list):
        shown = "".join(f"<li>{_any(each)}</li>" for each in value[:20])
        return f"<details><summary>{len(value)}</summary><ul>{shown}</ul></details>" if value else "-"
    return _text(f"{value:.3g}" if isinstance(value, float) else "-" if value is None else value)


_Section = Callable[[str, Any, Certificate], list[str]]
_SECTIONS: Mapping[str, _Section] = {
    "forgotten": _forgotten,
    "leaks": trust.leaks,
    "confidence": trust.confidence,
    "judge": trust.judge,
    "coverage": _coverage,
    "citations": _citations,
    "context_rot": _rot,
}


# --- names ------------------------------------------------------------------------------------


def _about(made: Certificate) -> str:
    a = made.about
    documents = a.get("documents", [])
    named = ", ".join(documents[:3]) + (f" and {len(documents) - 3} more" if len(documents) > 3 else "")
    parts = [
        named or "documents not kept here",
        made.base,
        f"{made.n} questions with an answer, {made.questions_from}",
        f"{a.get('device')}, {a.get('dtype')}",
        f"seed {made.seed}",
        str(a.get("made_at", ""))[:16].replace("T", " "),
        "small figures are 95 % intervals",
    ]
    return " · ".join(part for part in parts if part)


def _says(made: Certificate, key: str) -> str:
    return _text(_plain_says(made, key))


def _plain_says(made: Certificate, key: str) -> str:
    system: Measured | None = made.systems.get(key)
    return system.says if system else re.sub(r"_", " ", key)
