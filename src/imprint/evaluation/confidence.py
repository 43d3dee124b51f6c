"""How sure an answer is: signals of it, a calibrator that makes a probability of one, and a line below which it is
better to say that one does not know.

Signals (each is higher where the answer is surer):

- mean       mean log-probability of the answer's tokens, its end among them
- least      that of its least likely token
- lift       how much likelier the answer is, for each token, than to the untouched base: what was taught, and not
             what reads well
- agreement  share of the answers drawn at random that say the same
- gain       how much likelier the question is than to the untouched base (engine.choice): whether it is about the
             documents at all

`mean` and `least` are free: writers tell them with the answer. `lift` and `gain` read once more; `agreement` writes
several answers.

The line (`Confidence.line`) is where the answers given are the more often right while no more than a stated share
of the questions is declined: the highest precision at a stated coverage. A stated precision would be the plainer
wish, but a weak adapter never reaches it, and would decline everything; and how precise the few surest answers of
forty are, forty questions do not tell. The precision that comes of it is measured by cross-fitting, on questions
that had no part in the choice, and reported beside what it is without a line.

Sources: isotonic regression by pooling adjacent violators (Ayer et al. 1955; Zadrozny and Elkan 2002 for
probabilities); expected calibration error (Guo et al. 2017, arXiv 1706.04599), here with bins of equal size;
declining by confidence (El-Yaniv and Wiener 2010, JMLR 11).

Shape key: Q questions, S samples of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from imprint.engine import Engine, Seat, choice
from imprint.errors import BadInput
from imprint.evaluation.closed_book import interval, normalised
from imprint.evaluation.open_book import closed
from imprint.evaluation.ranking import told_apart
from imprint.types import Prompt, Report, Score, Text, Writer
from imprint.writers.local import LocalWriter

REPORT = "confidence"
"""What the registry calls it."""
DECLINED = "I do not know."
"""What is said in the place of an answer below the line."""
SIGNALS = ("mean", "least", "lift", "agreement", "gain")
COVERAGE = 0.8
"""Questions that are answered at least, where nobody says otherwise: one of five may be declined."""
_FOLDS = 5
_BINS = 5
_SAMPLES, _TEMPERATURE = 5, 0.7


# --- signals ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signals:
    """What speaks for an answer; None where it was not looked at."""

    mean: float
    least: float
    lift: float | None = None
    agreement: float | None = None
    gain: float | None = None


def of_text(text: Text) -> Signals:
    """What a writer tells with its answer. Raises BadInput for one that tells no log-probabilities."""
    if not text.logprobs:
        raise BadInput("This writer tells no log-probabilities, so that nothing says how sure its answers are.")
    return Signals(sum(text.logprobs) / len(text.logprobs), min(text.logprobs))


def answers(
    engine: Engine, seat: Seat, questions: Sequence[str], *, seed: int, samples: int = _SAMPLES
) -> tuple[list[Text], list[Signals]]:
    """What the adapter answers from its weights, greedily, and every signal of it. No `samples`: no agreement."""
    writer = LocalWriter(engine.base)
    asked = [closed(question) for question in questions]
    with engine.wearing(seat):
        said = writer.write(asked, seed=seed)
        drawn: Sequence[float | None] = [None] * len(said)
        if samples:
            drawn = agreement(writer, asked, said, seed=seed, samples=samples)
        worn = _likelihoods(writer, asked, said)
    with engine.wearing(None):  # whoever calls may have it on
        bare = _likelihoods(writer, asked, said)
    gains = choice.gains(engine, [seat], questions)[:, 0].tolist() if questions else []
    found = []
    for text, share, likely, unlikely, gain in zip(said, drawn, worn, bare, gains, strict=True):
        free = of_text(text)
        found.append(Signals(free.mean, free.least, likely - unlikely, share, gain))
    return said, found


def agreement(
    writer: Writer, asked: Sequence[Prompt], said: Sequence[Text], *, seed: int, samples: int = _SAMPLES
) -> list[float]:
    """The share of answers drawn at random that are the answer given, or stand in it as whole words, or it in
    them."""
    counts = [0] * len(said)
    drawn = [replace(prompt, temperature=_TEMPERATURE) for prompt in asked]
    for turn in range(samples):
        for i, text in enumerate(writer.write(drawn, seed=seed + 1 + turn)):
            counts[i] += _same(said[i].text, text.text)
    return [count / samples for count in counts]


def _same(one: str, other: str) -> bool:
    a, b = f" {normalised(one)} ", f" {normalised(other)} "
    return bool(a.strip()) and bool(b.strip()) and (a in b or b in a)


def _likelihoods(writer: LocalWriter, asked: Sequence[Prompt], said: Sequence[Text]) -> list[float]:
    """Of an empty answer 0: it has no token that one model could find likelier than another."""
    told = [i for i, text in enumerate(said) if text.text]
    found = [0.0] * len(said)
    read = writer.likelihoods([asked[i] for i in told], [said[i].text for i in told])
    for i, value in zip(told, read, strict=True):
        found[i] = value
    return found


# --- calibration ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A signal as the probability that the answer is right: it never falls where the signal rises."""

    at: tuple[float, ...]
    """Values of the signal, rising."""
    share: tuple[float, ...]
    """The share right at each; between two of them a straight line, beyond the last ones level."""

    def probability(self, value: float) -> float:
        return float(np.interp(value, self.at, self.share))


def calibrated(values: Sequence[float], right: Sequence[float]) -> Calibrator:
    """The rising steps nearest to the answers seen, by pooling adjacent violators. Raises BadInput for none."""
    if not values:
        raise BadInput("No answer was given to calibrate on. Ask questions that have right answers.")
    places: dict[float, list[float]] = {}  # equal values are one place, whatever they came to
    for value, came in sorted(zip(values, right, strict=True)):
        places.setdefault(value, []).append(came)
    pooled: list[list[float]] = []  # how many are right, of how many, the first value, the last
    for value, here in places.items():
        pooled.append([sum(here), float(len(here)), value, value])
        while len(pooled) > 1 and pooled[-2][0] * pooled[-1][1] >= pooled[-1][0] * pooled[-2][1]:
            hits, count, _, last = pooled.pop()
            pooled[-1] = [pooled[-1][0] + hits, pooled[-1][1] + count, pooled[-1][2], last]
    ends = [(value, hits / count) for hits, count, *span in pooled for value in dict.fromkeys(span)]
    return Calibrator(tuple(value for value, _ in ends), tuple(share for _, share in ends))


def folds(count: int, *, seed: int, parts: int = _FOLDS) -> list[list[int]]:
    """Places 0 ... count - 1 dealt at random into so many parts of like size; none is empty."""
    order = np.random.default_rng(seed).permutation(count).tolist()
    return [order[part::parts] for part in range(min(parts, count))]


def cross_fitted(values: Sequence[float], right: Sequence[float], *, seed: int) -> list[float]:
    """The probability of each answer by a calibrator that was fitted without it. Raises BadInput for fewer than
    two."""
    found = [0.0] * len(values)
    for held, rest in _splits(len(values), seed):
        fitted = calibrated([values[i] for i in rest], [right[i] for i in rest])
        for i in held:
            found[i] = fitted.probability(values[i])
    return found


def _splits(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Each part with all the others."""
    if count < 2:
        raise BadInput(f"There are {count} answers; to calibrate, two or more are needed. Ask more questions.")
    parts = folds(count, seed=seed)
    return [(held, [i for part in parts if part is not held for i in part]) for held in parts]


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of like confidence."""

    said: float
    """Their mean probability."""
    right: Score
    """The share of them that is right."""


def curve(probabilities: Sequence[float], right: Sequence[float], *, seed: int, bins: int = _BINS) -> list[Bin]:
    """What was said beside what came true, in bins of like size, the least sure first."""
    order = sorted(range(len(right)), key=lambda i: probabilities[i])
    parts = [part.tolist() for part in np.array_split(np.array(order, dtype=int), bins) if len(part)]
    return [
        Bin(float(np.mean([probabilities[i] for i in part])), interval([right[i] for i in part], seed=seed))
        for part in parts
    ]


def calibration_error(
    probabilities: Sequence[float], right: Sequence[float], *, seed: int, draws: int = 1000
) -> Score:
    """How far what was said is from what came true, over the bins of curve(): 0 is best.

    Of few answers it is above 0 by chance alone, and its bootstrap interval more so."""
    said, came = np.asarray(probabilities, dtype=float), np.asarray(right, dtype=float)
    random_numbers = np.random.default_rng(seed)
    drawn = [_error(said[p], came[p]) for p in random_numbers.integers(0, len(said), (draws, len(said)))]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Score(_error(said, came), float(low), float(high), len(said), "calibration error")


def _error(said: np.ndarray, came: np.ndarray) -> float:
    parts = [part for part in np.array_split(np.argsort(said, kind="stable"), _BINS) if len(part)]
    return float(sum(abs(said[p].mean() - came[p].mean()) * len(p) for p in parts) / len(said))


# --- the line ---------------------------------------------------------------------------------


def line(values: Sequence[float], right: Sequence[float], *, coverage: float = COVERAGE) -> float:
    """The value from which on an answer is given: with the highest share right, of all lines that let at least this
    share of the answers through; of equals the lowest. -inf answers everything."""
    if not 0 < coverage <= 1:
        raise BadInput(f"Coverage is a share above 0 and up to 1; got {coverage}.")
    order = sorted(range(len(values)), key=lambda i: -values[i])
    best, at = -1.0, -math.inf
    hits = 0.0
    for count, i in enumerate(order, 1):
        hits += right[i]
        last = count == len(order)
        whole = last or values[order[count]] < values[i]  # a line cannot part equal values
        if whole and count >= coverage * len(order) - 1e-9 and hits / count >= best:
            best, at = hits / count, -math.inf if last else values[i]
    return at


def answered(
    values: Sequence[float], right: Sequence[float], *, seed: int, coverage: float = COVERAGE
) -> list[bool]:
    """Whether each answer would be given, by a line that was drawn without it."""
    found = [False] * len(values)
    for held, rest in _splits(len(values), seed):
        at = line([values[i] for i in rest], [right[i] for i in rest], coverage=coverage)
        for i in held:
            found[i] = values[i] >= at
    return found


def coverage_curve(
    values: Sequence[float], right: Sequence[float], *, seed: int, shares: Sequence[float] = (1, 0.8, 0.6, 0.4, 0.2)
) -> dict[str, Score]:
    """The share right of the surest answers, for several shares of them; of equal values the earlier comes
    first."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    parts = {f"{share:g}": order[: max(1, round(share * len(order)))] for share in shares}
    return {name: interval([right[i] for i in part], seed=seed) for name, part in parts.items()}


# --- what a version keeps, and what asking does with it ----------------------------------------


@dataclass(frozen=True, slots=True)
class Confidence:
    """What is kept with a version: how sure its answers are, and from where on it gives them."""

    signal: str
    """One of SIGNALS."""
    calibrator: Calibrator
    line: float
    coverage: float
    """Of the questions that were stated to be answered at least."""

    def as_json(self) -> dict[str, Any]:
        """JSON values; a line that answers everything is null."""
        told = asdict(self)
        return told | {"line": None if math.isinf(self.line) else self.line}


def from_json(record: Mapping[str, Any]) -> Confidence:
    """As it was kept."""
    kept = Calibrator(tuple(record["calibrator"]["at"]), tuple(record["calibrator"]["share"]))
    at = -math.inf if record["line"] is None else float(record["line"])
    return Confidence(record["signal"], kept, at, record["coverage"])


def kept(reports: Sequence[Report]) -> Confidence | None:
    """Of a version's reports the latest on confidence; None where none was made."""
    found = [report for report in reports if report.name == REPORT]
    return from_json(found[-1].details["confidence"]) if found else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is to be given, and how likely it is right."""

    known: bool
    probability: float


def verdict(confidence: Confidence | Mapping[str, Any], signals: Signals) -> Verdict:
    """What is to be done with an answer: where it is not `known`, say so in its place.

    Raises BadInput where the signal that the version was calibrated on was not looked at."""
    kept = confidence if isinstance(confidence, Confidence) else from_json(confidence)
    value = getattr(signals, kept.signal)
    if value is None:
        raise BadInput(f"This version's answers are judged by '{kept.signal}', which was not looked at.")
    return Verdict(value >= kept.line, kept.calibrator.probability(value))


def report(
    found: Sequence[Signals],
    right: Sequence[float],
    *,
    seed: int,
    signal: str = "mean",
    coverage: float = COVERAGE,
) -> Report:
    """How well each signal tells right answers from wrong ones, and of one of them all the rest: its calibration
    (cross-fitted), coverage against accuracy, and what declining brings. `details["confidence"]` is what verdict()
    takes.

    `right`: 1 or 0 for each answer. Leave out answers that say themselves that they do not know: they need no
    line."""
    if signal not in SIGNALS:
        raise BadInput(f"No signal '{signal}'. There are: {', '.join(SIGNALS)}.")
    by_signal = {name: [getattr(one, name) for one in found] for name in SIGNALS}
    by_signal = {name: values for name, values in by_signal.items() if None not in values}
    if signal not in by_signal:
        raise BadInput(f"The signal '{signal}' was not looked at for every answer.")
    values = by_signal[signal]
    scores = {f"auroc of {name}": auroc(own, right, seed=seed) for name, own in by_signal.items()}
    likely = cross_fitted(values, right, seed=seed)
    given = answered(values, right, seed=seed, coverage=coverage)
    scores |= {
        "calibration error": calibration_error(likely, right, seed=seed),
        "right of all": interval(right, seed=seed),
        "answered": interval([float(g) for g in given], seed=seed),
        "right of those answered": interval([r for r, g in zip(right, given, strict=True) if g], seed=seed),
    }
    kept = Confidence(signal, calibrated(values, right), line(values, right, coverage=coverage), coverage)
    details = {
        "confidence": kept.as_json(),
        "curve": [asdict(one) for one in curve(likely, right, seed=seed)],
        "coverage": {share: asdict(s) for share, s in coverage_curve(values, right, seed=seed).items()},
    }
    return Report(REPORT, scores, seed, details)


def auroc(values: Sequence[float], right: Sequence[float], *, seed: int) -> Score:
    """The chance that a right answer has a higher value than a wrong one; NaN where all are alike."""
    hits = [v for v, r in zip(values, right, strict=True) if r]
    misses = [v for v, r in zip(values, right, strict=True) if not r]
    return told_apart(hits, misses, seed=seed, unit="AUROC")
