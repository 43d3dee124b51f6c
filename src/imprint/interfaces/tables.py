"""Versions, proofs and check-ups as tables that a person can read. Cells are Text: what documents and models
say is shown as it is, and never read as markup."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from imprint.interfaces.progress import duration
from imprint.types import Report, Score, Version

if TYPE_CHECKING:
    from imprint.continual.merged import Merged
    from imprint.evaluation.certificate import Certificate
    from imprint.evaluation.citing import Cited
    from imprint.evaluation.proof import Proof
    from imprint.evaluation.trade_off import Reading
    from imprint.hosting.keys import Key
    from imprint.interfaces.doctor import Check
    from imprint.learning_map import LearningMap
    from imprint.registry import Head
    from imprint.scaling import Curve

SYSTEMS = {
    "untouched": "untaught base",
    "raw_text": "raw text",
    "weights": "weights alone",
    "full_context": "full context",
    "rag": "RAG",
}
"""What a table calls the systems of a proof."""

_MEANS = {
    "untouched": "no documents anywhere",
    "raw_text": "trained on the bare documents, for as many tokens",
    "weights": "taught by imprint, no documents in the prompt",
    "full_context": "all documents in the prompt",
    "rag": "what a search finds in the prompt",
}

_PROOFS = ("proof", "certificate")
"""Reports that tell how the weights answer."""

_WIDTH_WITHOUT_TERMINAL = 160


def stdout() -> Console:
    """Where results go. Wider than a terminal where there is none, so that rows stay whole."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH_WITHOUT_TERMINAL)
    return console


def printable(text: str) -> str:
    """The text without control characters, which could drive the terminal of who reads it."""
    return "".join(c for c in text if c in "\n\t" or c.isprintable())


# --- versions ---------------------------------------------------------------------------------


def version_list(rows: Sequence[tuple[Head, Sequence[Report]]]) -> Table:
    """The latest version of each name, with what its last proof said of the weights."""
    table = _table("name", "base", "created", "right, weights alone", justify="left")
    for version, reports in rows:
        scores = [r.scores["weights"] for r in reports if r.name in _PROOFS and "weights" in r.scores]
        last = f"{_share(scores[-1].value)} of {scores[-1].n}" if scores else "not proven yet"
        _row(table, str(version), version.base, _when(version.created_at), last)
    return table


def version_page(version: Version, reports: Sequence[Report]) -> RenderableType:
    """Everything that is known of one version."""
    page = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for label, value in _facts(version):
        _row(page, label, value)
    if not reports:
        return Group(page, Text(f"\nNot proven yet: imprint prove {version}"))
    return Group(page, *(_report_table(report) for report in reports))


def _facts(version: Version) -> Iterator[tuple[str, str]]:
    details = version.details
    yield "version", str(version)
    yield "base", version.base
    yield "parent", f"{version.name}@{version.parent}" if version.parent else "none"
    yield "created", _when(version.created_at)
    if details.get("read"):
        yield "documents", str(details["read"])
    yield "recipe", _pairs(version.recipe) or "unknown"
    if "way" in details:
        yield "made", _made(details)
    if "shards" in details:
        sizes = ", ".join(f"{len(s['documents'])}" for s in details["shards"])
        yield "shards", f"{len(details['shards'])} adapters, of {sizes} documents"
    if "rolled_back_to" in details:
        yield "rolled back", f"to what {version.name}@{details['rolled_back_to']} is"
    if "budget" in details:
        yield "budget", f"{details['budget']}, seed {details.get('seed', 0)}"
    if details.get("plan"):
        yield "plan", _plan(details["plan"])
    if "tokens" in details:
        yield "trained", f"{details['tokens']:,} tokens in {details.get('steps', 0):,} steps"
    if details.get("audit"):
        yield "audit", _audit(details["audit"])
    if "seconds" in details:
        yield "time", ", ".join(f"{stage} {duration(s)}" for stage, s in details["seconds"].items())
    if details.get("plan_and_actual"):
        yield "estimated", _beside(details["plan_and_actual"])
    if details.get("questions"):
        yield "questions", f"{len(details['questions'])} questions {details.get('questions_from', '')}"
    if "imported" in details:
        yield "imported", _pairs(details["imported"])


def _made(details: Mapping[str, Any]) -> str:
    """How a version was made from the one before, and from when it holds."""
    changes = ", ".join(f"{n} {what}" for what, n in details.get("changes", {}).items())
    way = f"{details['way'].replace('_', ' ')}, holds from {details['as_of']}"
    return f"{way}; {changes}" if changes else way


def _plan(plan: Mapping[str, Any]) -> str:
    taught, left_out = len(plan["taught"]), len(plan["left_out"])
    return (
        f"{taught} passages taught, {left_out} left out; {plan['prompts']:,} texts to write; "
        f"{plan['tokens']:,} tokens in {plan['steps']:,} steps, each example {plan['epochs']:.1f} times"
    )


def _beside(kept: Mapping[str, Any]) -> str:
    """The first estimate beside what happened."""
    first, happened = kept["estimate"], kept["actual"]
    parts = [
        f"{what} {duration(first[key])}, took {duration(happened[key])}"
        for key, what in (("write_seconds", "writing"), ("train_seconds", "training"))
    ]
    parts.append(f"training {first['tokens']:,} tokens, {happened['tokens']:,} were trained")
    return "; ".join(parts)


def _audit(audit: Mapping[str, Any]) -> str:
    kinds = [f"{k}: {c['kept']:,} kept, {c['dropped']:,} dropped" for k, c in audit["counts"].items()]
    return "\n".join([*kinds, f"{audit['untouched']} passages without any example"])


def _report_table(report: Report) -> Table:
    table = _table(report.name, "value", "95 % interval", "n")
    for key, name in _named(report.scores):
        _row(table, name, *_score_cells(report.scores[key]))
    return table


def _score_cells(score: Score) -> tuple[str, str, str]:
    if score.unit == "share":
        return _share(score.value), _interval(score.low, score.high), str(score.n)
    return f"{score.value:.3g} {score.unit}", f"{score.low:.3g} to {score.high:.3g}", str(score.n)


def key_list(keys: Sequence[Key]) -> Table:
    """What is known of each key; the keys themselves are not."""
    table = _table("id", "tenant", "created", justify="left")
    for key in keys:
        _row(table, key.id, key.tenant, _when(key.created_at))
    return table


def curve_page(curve: Curve) -> RenderableType:
    """A curve of score against training text, and what it says."""
    table = _table("tokens of text", "times the passages", "right", "95 % interval", "")
    for point in curve.points:
        bar = "#" * round(30 * point.score)
        times = f"{point.tokens / max(1, curve.passage_tokens):.0f}"
        _row(table, f"{point.tokens:,}", times, _share(point.score), _interval(point.low, point.high), bar)
    decision = curve.decision
    told = f"\n{'Enough' if decision.stop else 'Go on'}: {decision.reason}."
    if decision.predicted is not None:
        told += f" Twice the text would give about {_share(decision.predicted)}."
    return Group(table, Text(f"{told}\n{curve.passages} passages, {curve.n} questions at each size."))


def map_page(found: LearningMap, reading: Reading) -> RenderableType:
    """A map in a table, and what it says; map.html tells more."""
    from imprint.evaluation import trade_off
    from imprint.interfaces.map_page import caveats

    text = ([""] + [name for p in reading.placed[:1] for name in p.rises])[-1]
    suites = list(reading.placed[0].lost) if reading.placed else []
    heads = ["right", "95 % interval", "parameters", f"perplexity\n{text}", *(f"lost on\n{s}" for s in suites)]
    table = _table("adapter", *heads, "speaks of\nthem", "abstains", "x the bare\nbase", "tokens")
    good = {p.name for p in reading.good}
    placed = {p.name: p for p in reading.placed}
    for row in [r for r in found.rows if "learnt" in r]:
        at, learnt = placed.get(row["row"]), row["learnt"]
        cells = [_share(learnt["score"]), _interval(learnt["low"], learnt["high"])]
        cells += [f"{row['parameters']:,}" if row.get("parameters") else ""]
        cells += [f"{at.rises[text].value:+.1%}" if at and text in at.rises else ""]
        cells += [f"{at.lost[s].value:+.1f}" if at and s in at.lost else "" for s in suites]
        cells += [_share(row[key]["value"]) if row.get(key) else "" for key in ("interference", "abstention")]
        cells += [f"{row['cost']['ratio']:.2f}", f"{row['tokens']:,}" if row.get("tokens") else ""]
        name = row["row"] if row["what"] == "adapter" else SYSTEMS.get(row["row"], row["row"])
        _row(table, name, *cells, style="bold" if row["row"] in good else "")
    failed = [f"{r['row']} ended: {r['error']}" for r in trade_off.failed(found.rows)]
    said = [*caveats(found), *trade_off.sentences(reading), *failed]
    return Group(table, *(Text(line) for line in said))


def merged_page(found: Merged) -> RenderableType:
    """What a merged version and those it was made of lose on each other's texts."""
    texts = list(next(iter(found.losses.values())))
    table = _table("nats for each learnt token", "length of\nits update", *texts)
    for name, losses in found.losses.items():
        length = f"{found.norms[name]:.4g}" if name in found.norms else ""
        merged = name == found.version.name
        cells = [f"{losses[text]:.3f}" for text in texts]
        _row(table, str(found.version) if merged else name, length, *cells, style="bold" if merged else "")
    none = [] if texts else [Text("No training text of these is kept here, so that no loss could be measured.")]
    return Group(table, *none, *(Text(f"Note: {note}") for note in found.notes))


# --- what was forgotten -----------------------------------------------------------------------

_PROBES = {
    "right": "probe questions answered with the forgotten value",
    "likelihood": "mean log-probability of its tokens",
    "verbatim": "longest run of its tokens that is given away",
    "exposure": "bits by which its numbers stand before others",
}


def deletion_page(report: Report) -> RenderableType:
    """What is still known of what was forgotten, beside the control."""
    names = ("before", "after", "control", "after_less_control")
    table = _table("", *(n.replace("_", " ") for n in names), "within the control's interval")
    for kind, what in _PROBES.items():
        found = [report.scores.get(f"{kind}_{name}") for name in names]
        if any(found):
            cells = [_with_interval(s) for s in found]
            within = _yes(report.details["within_control"].get(kind))
            _row(table, f"{what} ({found[1].n if found[1] else 0})", *cells, within)
    return Group(table, Text(f"Control: {report.details['control']}."))


def _with_interval(score: Score | None) -> str:
    """The value and its interval, which a single one has not."""
    if score is None:
        return "-"
    return f"{score.value:.3g}" + (f" [{score.low:.3g}, {score.high:.3g}]" if score.n > 1 else "")


def _yes(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"


# --- proofs -----------------------------------------------------------------------------------


def proof_page(proof: Proof) -> RenderableType:
    """The certificate: the systems on the same questions, then by kind of question, then what it cost."""
    perplexity = proof.general_perplexity
    means = [f"{name}: {_MEANS[key]}" for key, name in _named(proof.systems) if key in _MEANS]
    below = [
        "; ".join(means) + ".",
        '"Right": the answer contains the right one as whole words. Unanswerable questions are not in the first '
        "table; there, right is an answer that says the documents do not tell.",
        f"Answerable questions of which the weights say that the documents do not tell: "
        f"{_share(proof.systems['weights'].wrongly_abstained)}",
        *proof.twin_lines(),
        f"Perplexity on general text: {perplexity['before']:.2f} before, {perplexity['after']:.2f} after",
        *(f"Note: {note}" for note in proof.notes),
    ]
    return Group(
        Text(f"{proof.name}@{proof.version} on {proof.base}", style="bold"),
        Text(f"{proof.n} questions with an answer, {proof.questions_from}"),
        _systems_table(proof),
        _kinds_table(proof),
        *(Text(line) for line in below),
    )


def _systems_table(proof: Proof) -> Table:
    table = _table("system", "right", "95 % interval", "F1", "exact", "prompt\ntokens", "s/answer")
    for key, name in _named(proof.systems):
        s = proof.systems[key]
        cells = [_share(s.score), _interval(s.low, s.high), _figure(s.f1, ".2f"), _share(s.exact)]
        cells += [f"{s.prompt_tokens:,.0f}", f"{s.seconds_per_answer:.2f}"]
        _row(table, name, *cells, style="bold" if key == "weights" else "")
    return table


def _kinds_table(proof: Proof) -> Table:
    named = _named(proof.systems)
    table = _table("right, by kind", "n", *(name for _, name in named))
    for kind, part in proof.systems["weights"].by_kind.items():
        shares = [_share(proof.systems[key].by_kind[kind]["score"]) for key, _ in named]
        _row(table, kind, f"{part['n']:.0f}", *shares)
    return table


def _named(systems: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Keys and readable names, in the order of SYSTEMS; what is not among those comes last."""
    order = [*SYSTEMS, *(key for key in systems if key not in SYSTEMS)]
    return [(key, SYSTEMS.get(key, key)) for key in order if key in systems]


def certificate_page(made: Certificate) -> RenderableType:
    """A certificate in tables; its HTML page tells more."""
    from imprint.evaluation.certificate import sentences

    said = [*sentences(made), *(f"Note: {note}" for note in made.notes)]
    return Group(
        Text(f"{made.name}@{made.version} on {made.base}", style="bold"),
        Text(f"{made.n} questions with an answer, {made.questions_from}"),
        _certified_table(made),
        _certified_kinds(made),
        *(Text(printable(line)) for line in said),
    )


def _certified_table(made: Certificate) -> Table:
    besides = {"answers\nfalsely": "answered_falsely", "twin's\nvalue": "twins"}
    besides = {
        head: key for head, key in besides.items() if any(getattr(s, key)["n"] for s in made.systems.values())
    }
    heads = ["right", "95 % interval", "points\nto weights", "p, Holm", *besides, "tokens\nread", "s/answer"]
    table = _table("system", *heads)
    ahead = {d["other"]: d for d in made.differences if d["one"] == "weights"}
    for key, s in made.systems.items():
        right, against = s.right, ahead.get(key)
        cells = [_share(right["value"]), _interval(right["low"], right["high"])] if right["n"] else ["-", "-"]
        cells += [f"{-100 * against['value']:+.1f}", f"{against['p_holm']:.3f}"] if against else ["", ""]
        cells += [_share(part["value"]) if (part := getattr(s, key))["n"] else "-" for key in besides.values()]
        cells += [f"{s.prompt_tokens:,.0f}", f"{s.seconds_per_answer:.2f}"]
        _row(table, s.says, *cells, style="bold" if key == "weights" else "")
    return table


def _certified_kinds(made: Certificate) -> Table:
    kinds = list(dict.fromkeys(kind for s in made.systems.values() for kind in s.by_kind))
    table = _table("right, by kind", *kinds)
    for key, s in made.systems.items():
        shares = [_share(part["value"]) if (part := s.by_kind.get(kind)) and part["n"] else "-" for kind in kinds]
        _row(table, s.says, *shares, style="bold" if key == "weights" else "")
    return table


def citation_lines(cited: Cited) -> list[str]:
    """The passages behind an answer, and whether they bear it out."""
    if not cited.sources:
        return ["No passage: nothing was answered, or nothing was found."]
    borne_out = [source for source in cited.sources if source.supports]
    lines = [] if borne_out else ["NOT BORNE OUT by the documents. What was found instead:"]
    for source in borne_out or cited.sources:
        passage = source.passage
        page = f", page {passage.page}" if passage.page else ""
        where = " > ".join(filter(None, (passage.title, passage.heading)))
        lines.append(f"[{where}{page}] {' '.join(passage.text.split())[:300]}")
    return lines


def answer_table(answers: Sequence[Mapping[str, Any]]) -> Table:
    """Every answer of one system, with its grade."""
    table = _table("right?", "kind", "question", "answer", "a right answer", "F1", justify="left")
    for a in answers:
        grade = "yes" if a["contains"] else "no"
        right = " / ".join(a["right"]) or "(not told)"
        style = "" if a["contains"] else "red"
        _row(table, grade, a["kind"], a["question"], a["answer"], right, f"{a['f1']:.2f}", style=style)
    return table


# --- check-ups --------------------------------------------------------------------------------


def check_table(checks: Sequence[Check]) -> Table:
    """What the doctor found."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for check in checks:
        style = "red" if check.todo and check.needed else ""
        _row(table, check.what, check.found, style=style)
    return table


# --- inside -----------------------------------------------------------------------------------


def _table(first: str, *others: str, justify: JustifyMethod = "right") -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify=justify, overflow="fold")
    return table


def _row(table: Table, *cells: str, style: str = "") -> None:
    table.add_row(*(Text(printable(cell)) for cell in cells), style=style)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_plain(value)}" for key, value in values.items() if value not in (None, [], {}))


def _plain(value: Any) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)


def _share(value: float) -> str:
    return _figure(value, ".1%")


def _figure(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _interval(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{low * 100:.1f} to {high:.1%}"


def _when(iso: str) -> str:
    return f"{iso[:10]} {iso[11:16]} UTC" if len(iso) >= 16 else iso or "unknown"
