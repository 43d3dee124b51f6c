"""What a certificate tells besides the questions: what was forgotten, what is covered, where answers stand, how
context rots; and of trust.py what leaks, how sure answers are, and what a judge says. Each part is a function from
a Hearing to JSON values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from imprint.certifying.hearing import Hearing
from imprint.certifying.trust import confidence, judge, leaks
from imprint.errors import BadSetting
from imprint.evaluation import context_rot, coverage, interference, suites
from imprint.evaluation.certificate import share
from imprint.evaluation.citing import Cited, cite
from imprint.evaluation.closed_book import grade
from imprint.evaluation.context_rot import FOCUSED, Needle
from imprint.evaluation.coverage import Fact
from imprint.evaluation.differences import difference
from imprint.evaluation.forgetting import Perplexity, general_text, perplexity, perplexity_ratio
from imprint.evaluation.open_book import closed
from imprint.evaluation.suites import Item
from imprint.evaluation.systems import CLOSED, RAG, READ, TAUGHT, told
from imprint.skills.writer import SkilledWriter
from imprint.types import Example, content_hash
from imprint.writers.local import LocalWriter

_SHOWN_CHARACTERS = 400_000
"""Documents are shown up to so much text; shares count all."""
_EXCERPT = 400
"""Characters of an example or a passage that are shown."""
_DOCUMENTS = frozenset({"documents"})


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a certificate."""

    measure: Callable[[Hearing], dict[str, Any]]
    needs: frozenset[str] = frozenset()
    """One of these must be there: 'documents', 'canaries', 'judge'. Nothing is needed where none is named."""

    def possible(self, there: set[str]) -> bool:
        return not self.needs or bool(self.needs & there)


def wanted_parts(wanted: Sequence[str] | None, there: set[str]) -> list[str]:
    """Names of parts. Raises BadSetting for one that is not known, or cannot be measured."""
    for name in wanted or ():
        if name not in PARTS:
            raise BadSetting(f"No part '{name}' of a certificate. There are: {', '.join(PARTS)}.")
        if not PARTS[name].possible(there):
            lacking = "a judge: name one" if name == "judge" else "the documents, which are not kept here"
            raise BadSetting(f"Part '{name}' needs {lacking}.")
    possible = [name for name, part in PARTS.items() if part.possible(there)]
    return possible if wanted is None else [name for name in PARTS if name in wanted]


# --- what was forgotten -----------------------------------------------------------------------


def forgotten(hearing: Hearing) -> dict[str, Any]:
    """Before and after: perplexity of general text, suites, talk of the documents where something else is asked."""
    asked, seed = hearing.asked, hearing.asked.seed
    told: dict[str, Any] = {"perplexity": {}, "suites": {}}
    for name, text in {"general": general_text(), **asked.texts}.items():
        before, after = (_perplexity(hearing, name, text, wears) for wears in ("", TAUGHT))
        ratio = perplexity_ratio(before, after, seed=seed)
        told["perplexity"][name] = {"before": before.value, "after": after.value, "ratio": asdict(ratio)}
    for name, items in asked.suites.items():
        bare, worn = (_suite(hearing, name, items, wears) for wears in ("", TAUGHT))
        change = difference(worn, bare, seed=seed)
        told["suites"][name] = {
            "before": share(bare, seed=seed), "after": share(worn, seed=seed), "change": asdict(change)
        }  # fmt: skip
    if hearing.kept.documents:
        stage = "Asking what has nothing to do with the documents"
        told["interference"] = hearing.row("unrelated", stage, lambda: _interference(hearing))
    return told


def _suite(hearing: Hearing, name: str, items: Sequence[Item], wears: str) -> list[float]:
    """Which items the bare base, or the adapter, gets right."""
    label = f"suite-{content_hash(name, repr(items))}-{wears or 'bare'}"
    stage = f"Judging {len(items)} items of {name}: {_who(wears)}"

    def judged() -> list[float]:
        with hearing.wearing(wears) as base:
            return suites.measure(base, items)

    return list(hearing.row(label, stage, judged))


def _who(wears: str) -> str:
    return "with the adapter" if wears else "the untaught base"


def _perplexity(hearing: Hearing, name: str, text: str, wears: str) -> Perplexity:
    label = f"perplexity-{content_hash(name, text)}-{wears or 'bare'}"
    stage = f"Reading {name} text: {_who(wears)}"

    def read() -> dict[str, Any]:
        with hearing.wearing(wears) as base:
            return asdict(perplexity(base, text))

    row = hearing.row(label, stage, read)
    return Perplexity(tuple(row["nats"]), tuple(row["tokens"]))


def _interference(hearing: Hearing) -> dict[str, Any]:
    writer, seed = LocalWriter(hearing.base), hearing.asked.seed
    texts = [document.text for document in hearing.kept.documents]
    with hearing.wearing(""):
        untouched = interference.unrelated_answers(writer, seed=seed)
    with hearing.wearing(TAUGHT):
        found = interference.interference(writer, texts, untouched, seed=seed)
    spoke = [asdict(answer) for answer in found.answers if answer.words]
    return {"share": asdict(found.share), "by_chance": asdict(found.by_chance), "spoke": spoke}


# --- what is covered --------------------------------------------------------------------------


def covered(hearing: Hearing) -> dict[str, Any]:
    """The facts of each passage, whether the weights tell them, what taught them; the documents cut into pieces."""
    asked, kept, seed = hearing.asked, hearing.kept, hearing.asked.seed
    examples = coverage.by_passage(kept.examples())
    facts = coverage.facts(kept.passages, examples, asked.questions, hearing.search, seed=seed)
    prompts = [closed(fact.question.asked) for fact in facts]
    stage = f"Asking {len(facts)} facts of {len(kept.passages)} passages"
    said = hearing.row("facts", stage, lambda: [s.text for s in hearing.desk.write(prompts, TAUGHT).said])
    right = [grade(fact.question, text).contains for fact, text in zip(facts, said, strict=True)]
    cut = [coverage.pieces(d, kept.passages, facts, right) for d in kept.documents]
    states = Counter(p.state for document in cut for p in document if p.state != coverage.BETWEEN)
    documents: list[dict[str, Any]] = []
    for document, pieces in zip(kept.documents, cut, strict=True):
        if sum(len(d["text"]) for d in documents) + len(document.text) <= _SHOWN_CHARACTERS:
            shown = {"id": document.id, "source": document.source, "title": document.title, "text": document.text}
            documents.append(shown | {"pieces": [asdict(piece) for piece in pieces]})

    def told_of(trained: bool) -> dict[str, Any]:
        return share([r for fact, r in zip(facts, right, strict=True) if fact.trained == trained], seed=seed)

    return {
        "held_out": told_of(False),
        "trained": told_of(True),
        "passages": len(kept.passages),
        "states": dict(states),
        "facts": [_fact(f, text, r) for f, text, r in zip(facts, said, right, strict=True)],
        "documents": documents,
        "documents_not_shown": len(kept.documents) - len(documents),
    }


def _fact(fact: Fact, said: str, right: float) -> dict[str, Any]:
    return {
        "question": fact.question.text,
        "right": list(fact.question.answers),
        "answer": said,
        "contains": right,
        "trained": fact.trained,
        "passage": fact.passage,
        "span": fact.span,
        "taught_by": [_example(example) for example in fact.taught_by],
    }


def _example(example: Example) -> dict[str, Any]:
    turns = [{"role": turn.role, "text": _short(turn.text)} for turn in example.turns]
    return {"generator": example.generator, "writer": example.writer, "turns": turns}


def _short(text: str) -> str:
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]} …"


# --- where answers stand ----------------------------------------------------------------------


def citations(hearing: Hearing) -> dict[str, Any]:
    """Whether the documents bear out what the weights answered, and whether that tells right from wrong."""
    graded, seed = hearing.graded("weights"), hearing.asked.seed

    def found() -> list[dict[str, Any]]:
        reader = SkilledWriter(hearing.engine, LocalWriter(hearing.base))
        pairs = [(a.question.asked, a.text) for a in graded]
        with hearing.wearing(""):
            return [cited_json(cited) for cited in cite(pairs, hearing.search, reader, seed=seed)]

    rows = hearing.row("citations", "Looking for the sources of the answers", found)
    answers = [{**row, "contains": a.contains} for row, a in zip(rows, graded, strict=True)]
    spoken = [row for row, a in zip(answers, graded, strict=True) if told(a.text)]
    of_right = [float(row["supported"]) for row in spoken if row["contains"]]
    of_wrong = [float(row["supported"]) for row in spoken if not row["contains"]]
    borne_out = [row["contains"] for row in spoken if row["supported"]]
    left = [row["contains"] for row in spoken if not row["supported"]]
    return {
        "right_supported": share(of_right, seed=seed),
        "wrong_supported": share(of_wrong, seed=seed),
        "right_where_supported": share(borne_out, seed=seed),
        "right_where_not": share(left, seed=seed),
        "answers": answers,
    }


def cited_json(cited: Cited) -> dict[str, Any]:
    """An answer with its sources as JSON values."""
    sources = [
        {
            "passage": s.passage.id,
            "title": s.passage.title,
            "heading": s.passage.heading,
            "page": s.passage.page,
            "text": _short(s.passage.text),
            "read": s.read,
            "supports": s.supports,
        }
        for s in cited.sources
    ]
    return {"question": cited.question, "answer": cited.answer, "supported": cited.supported, "sources": sources}


# --- context rot ------------------------------------------------------------------------------


def rot(hearing: Hearing) -> dict[str, Any]:
    """Full context as its prompt grows, as the base is and with the skill `read`, beside weights and RAG."""
    base, seed = hearing.base, hearing.asked.seed
    needles = context_rot.needles(hearing.asked.questions, hearing.search, base.count_tokens, seed=seed)
    told: dict[str, Any] = {"questions": len(needles), "rows": [], "beside": []}
    if not needles:
        return told | {"ended": "No question's answer was found in a passage, so that nothing could be padded."}
    needed = list({n.passage.id: n.passage for n in needles}.values())
    padding = context_rot.padding_for(needed, hearing.kept.passages, list(hearing.asked.texts.values()), seed=seed)
    told["ended"] = "the window's limit"
    for length in [FOCUSED, *context_rot.lengths(base.window_tokens)]:
        text = context_rot.padded(needed, padding, length, base.count_tokens, seed=seed) if length else None
        if length and text is None:
            told["ended"] = f"less than {length:,} tokens, for want of text: name more with --general-text"
            break
        for wears in ["", READ] if READ in hearing.seats else [""]:
            told["rows"].append(_rot_row(hearing, needles, text, length, wears))
    beside = [("weights", CLOSED, TAUGHT), ("rag", RAG, "")]
    beside += [("rag_read", RAG, READ)] if READ in hearing.seats else []
    told["beside"] = [_beside(hearing, needles, *each) for each in beside]
    return told


def _rot_row(
    hearing: Hearing, needles: Sequence[Needle], text: str | None, length: int, wears: str
) -> dict[str, Any]:
    name = f"full_context{'_read' if wears else ''}"
    row = hearing.row(
        f"rot-{name}-{length}",
        f"Asking {len(needles)} questions after {length:,} tokens: {name.replace('_', ' ')}",
        lambda: asdict(context_rot.read(hearing.desk, needles, text, length, wears)),
    )
    right = share(row["right"], seed=hearing.asked.seed)
    kept = {key: row[key] for key in ("length", "prompt_tokens", "seconds_alone")}
    return {"system": name, "right": right, **kept}


def _beside(hearing: Hearing, needles: Sequence[Needle], name: str, way: str, wears: str) -> dict[str, Any]:
    """What does not read it all, on the same questions."""
    questions = list(hearing.asked.questions)
    said = hearing.earlier(name).said
    right = [grade(n.question, said[questions.index(n.question)].text).contains for n in needles]
    prompt = hearing.desk.prompt(way, needles[0].question.asked)[0]

    def alone() -> dict[str, Any]:
        answers = hearing.desk.write([prompt], wears)
        return {"prompt_tokens": answers.prompt_tokens, "seconds_alone": answers.seconds}

    cost = hearing.row(f"rot-{name}", f"Timing one answer alone: {name}", alone)
    return {"system": name, "right": share(right, seed=hearing.asked.seed), **cost}


PARTS: Mapping[str, Part] = {
    "forgotten": Part(forgotten),
    "leaks": Part(leaks, frozenset({"documents", "canaries"})),
    "confidence": Part(confidence),
    "judge": Part(judge, frozenset({"judge"})),
    "coverage": Part(covered, _DOCUMENTS),
    "citations": Part(citations, _DOCUMENTS),
    "context_rot": Part(rot, _DOCUMENTS),
}
"""By name, in the order in which they are measured and shown."""
