"""The certificate: what an adapter learnt, what its rivals do on the same questions, what was forgotten.

All values are JSON's, so that what is kept, printed and shown on a page is one thing. `parts` holds what was
measured besides the questions, each by its name; a reader that does not know a part passes it on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from imprint.errors import BadInput
from imprint.evaluation.closed_book import Answered, Question, abstains, grade, interval
from imprint.evaluation.differences import Difference, corrected, difference
from imprint.evaluation.plain_words import of_parts
from imprint.evaluation.systems import Answers, told
from imprint.types import Report, Score

FORMAT = 1
"""Grows when an older reader would misread what a newer one writes."""
REPORT = "certificate"
"""What the registry calls it."""

_BESIDES = ("certainty", "found", "chosen", "queries", "weighed")
"""What is shown of an answer besides its text and grade, where there is any."""

Share = Mapping[str, Any]
"""value, low, high and n; the first three None where n is 0."""


@dataclass(frozen=True, slots=True)
class Measured:
    """How one system did."""

    says: str
    """What a table calls it."""
    means: str
    right: Share
    """Of the answerable questions: the answer contains a right one."""
    exact: float | None
    f1: float | None
    by_kind: Mapping[str, Share]
    """Of each kind of question; of unanswerable ones, right is an answer that says so."""
    abstained: Share
    """Of the questions that the documents do not answer: it says so."""
    wrongly_abstained: Share
    """Of the answerable questions, those to which it says that the documents do not tell."""
    seconds_per_answer: float
    """Wall time of all, shared by them."""
    prompt_tokens: float
    """For each answer, all prompts that it took."""
    written_tokens: float
    usd_per_answer: float | None
    """What a server charged, or this machine's time at the price that was said; None where none was."""
    answers: Sequence[Mapping[str, Any]] = ()
    """Every answer with its grade."""
    twins: Share = field(default_factory=lambda: share([], seed=0))
    """Of the questions that a near-duplicate answers otherwise, those answered with its value and no right one."""
    answered_falsely: Share = field(default_factory=lambda: share([], seed=0))
    """Of the questions that the documents do not answer, those that were answered all the same."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was found about one version."""

    name: str
    version: int
    base: str
    about: Mapping[str, Any]
    """What all figures hang on: device, precision, documents, search, seed, prices, when."""
    questions_from: str
    n: int
    """Questions with an answer."""
    systems: Mapping[str, Measured]
    differences: Sequence[Mapping[str, Any]]
    """Of each pair `one`, `other` that is compared: a Difference of shares right."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    seed: int = 0
    format: int = FORMAT

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return jsonable(asdict(self))

    def report(self) -> Report:
        """As the registry keeps it and exports carry it: without the documents' own text."""
        scores = {
            key: Score(s.right["value"], s.right["low"], s.right["high"], s.right["n"])
            for key, s in self.systems.items()
            if s.right["n"]
        }
        return Report(REPORT, scores, self.seed, without_documents(self.as_json()))


def from_json(record: Mapping[str, Any]) -> Certificate:
    """A certificate as it was kept. Raises BadInput for one of a later imprint."""
    if record.get("format", 0) > FORMAT:
        raise BadInput(
            f"The certificate has format {record['format']}, and this imprint reads up to {FORMAT}. "
            "Upgrade imprint."
        )
    systems = {key: Measured(**_known(Measured, value)) for key, value in record["systems"].items()}
    return Certificate(**{**_known(Certificate, record), "systems": systems})


def without_documents(record: Mapping[str, Any]) -> dict[str, Any]:
    """The same without what quotes the documents at length; an exported adapter does not carry them."""
    parts = dict(record["parts"])
    if "coverage" in parts:
        kept = {key: value for key, value in parts["coverage"].items() if key not in ("documents", "facts")}
        parts["coverage"] = kept
    if "citations" in parts:
        parts["citations"] = {key: value for key, value in parts["citations"].items() if key != "answers"}
    return {**record, "parts": parts}


def measured(
    says: str,
    means: str,
    answers: Answers,
    questions: Sequence[Question],
    *,
    seed: int,
    usd_per_hour: float | None = None,
) -> Measured:
    """One system's answers, graded."""
    graded = [grade(question, said.text) for question, said in zip(questions, answers.said, strict=True)]
    asked = [a for a in graded if a.question.answers]
    stranger = [a for a in graded if not a.question.answers]
    kinds = dict.fromkeys(question.kind for question in questions)
    n = max(1, len(questions))
    usd = answers.usd
    if usd is None and usd_per_hour is not None:
        usd = answers.seconds * usd_per_hour / 3600
    return Measured(
        says=says,
        means=means,
        right=share([a.contains for a in asked], seed=seed),
        exact=_mean([a.exact for a in asked]),
        f1=_mean([a.f1 for a in asked]),
        by_kind={k: share([a.contains for a in graded if a.question.kind == k], seed=seed) for k in kinds},
        abstained=share([float(abstains(a.text)) for a in stranger], seed=seed),
        wrongly_abstained=share([float(abstains(a.text)) for a in asked], seed=seed),
        seconds_per_answer=answers.seconds / n,
        prompt_tokens=answers.prompt_tokens / n,
        written_tokens=answers.written_tokens / n,
        usd_per_answer=None if usd is None else usd / n,
        answers=[_shown(a, asdict(said)) for a, said in zip(graded, answers.said, strict=True)],
        twins=share([a.twin for a in graded if a.question.wrong], seed=seed),
        answered_falsely=share([float(told(a.text)) for a in stranger], seed=seed),
    )


def differences(
    systems: Mapping[str, Measured], pairs: Sequence[tuple[str, str]], *, seed: int
) -> list[dict[str, Any]]:
    """Each pair compared on the answerable questions, with Holm's correction for all of them."""
    found: dict[str, Difference] = {}
    for one, other in pairs:
        ours, theirs = _right(systems[one]), _right(systems[other])
        if ours:
            found[f"{one}\n{other}"] = difference(ours, theirs, seed=seed)
    named = ((key.split("\n"), each) for key, each in corrected(found).items())
    return [{"one": one, "other": other, **asdict(each)} for (one, other), each in named]


def sentences(made: Certificate) -> list[str]:
    """The most important of it in plain words."""
    said = []
    weights = made.systems.get("weights")
    if weights and weights.right["n"]:
        said.append(f"Closed book, the weights answer {in_words(weights.right)} of the questions rightly.")
    asked = {key: s for key, s in made.systems.items() if s.right["n"]}
    best = max(asked, key=lambda key: asked[key].right["value"], default="")
    if len(asked) > 1 and asked[best].right["value"]:
        said.append(f"Of all {len(asked)} systems, most right: {asked[best].says}, {in_words(asked[best].right)}.")
    for d in made.differences:
        if d["one"] == "weights" and d["p_holm"] is not None and d["p_holm"] < 0.05:
            how = "ahead of" if d["value"] > 0 else "behind"
            other = made.systems[d["other"]].says
            said.append(
                f"The weights are {how} {other} by {abs(100 * d['value']):.1f} points (p = {d['p_holm']:.2g})."
            )
    if weights and weights.abstained["n"]:
        said.append(
            f"Of questions that the documents do not answer, the weights decline {in_words(weights.abstained)}."
        )
    if weights and weights.twins["n"]:
        said.append(f"A near-duplicate's value is what the weights tell of {in_words(weights.twins)}.")
    for name, perplexity in made.parts.get("forgotten", {}).get("perplexity", {}).items():
        ratio = perplexity["ratio"]
        span = f"{ratio['low'] - 1:+.1%} to {ratio['high'] - 1:+.1%}"
        said.append(f"Perplexity of {name} text changed by {ratio['value'] - 1:+.1%} ({span}).")
    return [*said, *of_parts(made.parts)]


def in_words(share: Share) -> str:
    """A share in a sentence."""
    return f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%}, {share['n']} questions)"


def share(values: Sequence[float], *, seed: int) -> dict[str, Any]:
    """A share with its interval, as JSON values."""
    found = interval(values, seed=seed)
    return jsonable({"value": found.value, "low": found.low, "high": found.high, "n": found.n})


def jsonable(value: Any) -> Any:
    """The same as JSON holds it: tuples are lists, and what is no number is null."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_text(certificate: Certificate) -> str:
    """The JSON file."""
    return json.dumps(certificate.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _right(system: Measured) -> list[float]:
    return [answer["contains"] for answer in system.answers if answer["right"]]


def _shown(answered: Answered, said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "question": answered.question.text,
        "kind": answered.question.kind,
        "right": list(answered.question.answers),
        "answer": answered.text,
        "contains": answered.contains,
        "exact": answered.exact,
        "f1": round(answered.f1, 3),
        **({"wrong": list(answered.question.wrong), "twin": answered.twin} if answered.question.wrong else {}),
        **({"as_of": answered.question.as_of} if answered.question.as_of else {}),
        **{key: said[key] for key in _BESIDES if said[key] not in (None, "", ())},
    }


def _known(kind: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this build knows."""
    names = {each.name for each in fields(kind)}
    return {key: value for key, value in record.items() if key in names}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
