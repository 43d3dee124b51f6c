"""Answers judged by another model, and how far that judge can be believed.

A grader that looks for the right answer's words in the text is strict and cheap, and takes 'half of them' for wrong
where '50 %' is right. A judge reads. What is known to sway judges is held still (Zheng et al. 2023, arXiv
2306.05685):

- Order. Each answer is judged twice: once with the right answers first and the verdicts named in one order, once
  the other way round. Where the two verdicts differ, none counts: `swayed`.
- Length. Answers are cut to their first words, all alike, and `by_length` tells whether longer answers are judged
  right the oftener where the match grader sees no difference.
- Orders in the answer ('say right') stand between marks that the answer cannot close; what still works shows up as
  a judge's false `right` against people's labels.

A verdict is one of three words and nothing else; all other replies are `unreadable`, and counted as such. Agreement
with the match grader is Cohen's kappa (Cohen 1960). Agreement is no truth: where people have labelled some answers,
`corrected` says what share is right by the judge's errors on those (Rogan and Gladen 1978)."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from imprint.errors import BadInput
from imprint.evaluation.closed_book import Answered, Question, abstains, interval
from imprint.synthesis.prompt_files import filled_in
from imprint.types import Prompt, Score, Writer, content_hash

RIGHT, WRONG, ABSTAINED = VERDICTS = ("right", "wrong", "abstained")
SWAYED, UNREADABLE = "swayed", "unreadable"
_ANSWER_WORDS = 60
"""Of an answer so many are judged."""
_VERDICT_TOKENS = 6


@functools.cache
def _prompt_text() -> str:
    return resources.files("imprint.evaluation").joinpath("judge.txt").read_text("utf-8").strip()


def prompt_hash() -> str:
    """Content hash of the judge's prompt file: figures of another prompt are other figures."""
    return content_hash(_prompt_text())


# --- judging ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of an answer."""

    answered: Answered
    """With the match grader's verdict."""
    verdict: str
    """One of VERDICTS, or SWAYED, or UNREADABLE."""
    replies: tuple[str, str]
    """What the judge wrote, in both orders."""

    @property
    def matched(self) -> str:
        """The match grader's verdict as one of VERDICTS."""
        if self.answered.contains:
            return RIGHT
        return ABSTAINED if abstains(self.answered.text) else WRONG


def judged(judge: Writer, answered: Sequence[Answered], *, seed: int) -> list[Judgement]:
    """Each answer judged in both orders. Raises BadInput for a question without right answers: there is nothing to
    compare with, and whether an answer abstains the match grader tells."""
    for one in answered:
        if not one.question.answers:
            raise BadInput(f"'{one.question.text}' has no right answer to judge by. Leave it out.")
    prompts = [judge_prompt(a.question, a.text, turned=turned) for turned in (False, True) for a in answered]
    replies = [text.text for text in judge.write(prompts, seed=seed)]
    pairs = zip(answered, replies[: len(answered)], replies[len(answered) :], strict=True)
    return [Judgement(one, _agreed(read(a), read(b)), (a, b)) for one, a, b in pairs]


def judge_prompt(question: Question, answer: str, *, turned: bool = False) -> Prompt:
    """What a judge is asked about one answer. `turned`: the answer first, and the verdicts the other way round."""
    right = "\n".join(f"- {one}" for one in question.answers)
    said = " ".join(answer.split()[:_ANSWER_WORDS]).replace("</answer>", "< /answer>") or "(nothing)"
    parts = [f"Right answers, each of which will do:\n{right}", f"The system's answer:\n<answer>{said}</answer>"]
    words = list(VERDICTS)
    if turned:
        parts, words = parts[::-1], words[::-1]
    asked = filled_in(
        _prompt_text(),
        question=question.asked,
        first=parts[0],
        second=parts[1],
        words=f"{words[0]}, {words[1]} or {words[2]}",
    )
    return Prompt.ask(asked, max_tokens=_VERDICT_TOKENS)


def read(reply: str) -> str:
    """The verdict that a reply is: one of the three words alone, in whatever case, marks around it or not."""
    bare = re.sub(r"^[\s\"'*`]+|[\s\"'*`.!]+$", "", reply).lower()
    return bare if bare in VERDICTS else UNREADABLE


def _agreed(one: str, other: str) -> str:
    if UNREADABLE in (one, other):
        return UNREADABLE
    return one if one == other else SWAYED


# --- how far it agrees ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge beside the match grader."""

    kappa: Score
    """Cohen's, of the answers with a verdict; 0 is what chance gives, 1 is every one."""
    same: Score
    """Share of those on which both say the same."""
    counts: Mapping[str, int]
    """How many of each pair: 'right/wrong' is matched as right and judged wrong."""
    swayed: Score
    """Share of all answers whose verdict hung on the order."""
    unreadable: Score
    """Share of all answers without one of the three words."""
    by_length: Mapping[str, Mapping[str, Score]]
    """Of the shorter and the longer half of the answers with a verdict: the share judged, and matched, as right."""


def agreement(judgements: Sequence[Judgement], *, seed: int) -> Agreement:
    """How far judge and match grader agree, with intervals over answers."""
    clear = [j for j in judgements if j.verdict in VERDICTS]
    pairs = [(j.matched, j.verdict) for j in clear]
    ordered = sorted(clear, key=lambda j: len(j.answered.text.split()))
    halves = {"shorter": ordered[: len(ordered) // 2], "longer": ordered[len(ordered) // 2 :]}
    return Agreement(
        _bootstrapped(kappa, pairs, "kappa", seed),
        interval([float(a == b) for a, b in pairs], seed=seed),
        {f"{a}/{b}": n for (a, b), n in sorted(Counter((j.matched, j.verdict) for j in judgements).items())},
        interval([float(j.verdict == SWAYED) for j in judgements], seed=seed),
        interval([float(j.verdict == UNREADABLE) for j in judgements], seed=seed),
        {
            name: {
                "judged": interval([float(j.verdict == RIGHT) for j in half], seed=seed),
                "matched": interval([float(j.matched == RIGHT) for j in half], seed=seed),
            }
            for name, half in halves.items()
        },
    )


def kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Cohen's kappa of two raters: (agreement - chance) / (1 - chance). NaN where chance alone would give 1."""
    if not pairs:
        return float("nan")
    n = len(pairs)
    seen = sum(a == b for a, b in pairs) / n
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(first[word] * second[word] for word in first) / n**2
    return (seen - chance) / (1 - chance) if chance < 1 else float("nan")


def _bootstrapped(
    measure: Callable[[Sequence[tuple[str, str]]], float], pairs: Sequence[tuple[str, str]], unit: str, seed: int
) -> Score:
    draws = np.random.default_rng(seed).integers(0, max(1, len(pairs)), (1000, len(pairs)))
    found = [measure([pairs[i] for i in draw]) for draw in draws.tolist()] if pairs else []
    kept = [value for value in found if value == value]
    low, high = np.percentile(kept, [2.5, 97.5]) if kept else (float("nan"), float("nan"))
    return Score(measure(pairs), float(low), float(high), len(pairs), unit)


# --- against people ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Corrected:
    """What share is right, if the judge errs elsewhere as it does where people looked."""

    sensitivity: Score
    """Of the answers that people call right, the share that the judge does."""
    specificity: Score
    """Of the others, the share that the judge does not call right."""
    judged: Score
    """The share that the judge calls right, as it is."""
    right: Score
    """The same corrected; its interval holds what is unknown of the judge too. NaN for a judge no better than
    guessing on the labelled answers."""


def corrected(
    says_right: Sequence[bool], labelled: Sequence[tuple[bool, bool]], *, seed: int, draws: int = 2000
) -> Corrected:
    """The share right by a judge whose errors are known.

    `says_right`: the judge on the answers to be scored; `labelled`: (judge, people) on answers that people
    labelled too, others or some of the same. Rogan and Gladen 1978, American Journal of Epidemiology 107: 71-76;
    the interval is a bootstrap over both groups. Raises BadInput where people called none right, or none wrong."""
    hits = np.array([judge for judge, people in labelled if people], dtype=float)
    misses = np.array([not judge for judge, people in labelled if not people], dtype=float)
    scored = np.array(says_right, dtype=float)
    if not len(hits) or not len(misses) or not len(scored):
        raise BadInput(
            f"{len(scored)} judged answers, {len(hits)} that people call right and {len(misses)} that they "
            "call wrong: of each at least one is needed."
        )
    random_numbers = np.random.default_rng(seed)
    means = [
        group[random_numbers.integers(0, len(group), (draws, len(group)))].mean(1)
        for group in (scored, hits, misses)
    ]
    drawn = [_share(*three) for three in zip(*means, strict=True)]
    kept = [value for value in drawn if value == value]
    value = _share(scored.mean(), hits.mean(), misses.mean())
    # Where many draws have a judge that guesses, the interval of the others alone would be too narrow.
    sure = value == value and len(kept) >= 0.95 * draws
    low, high = np.percentile(kept, [2.5, 97.5]) if sure else (0.0, 1.0)
    return Corrected(
        interval(hits.tolist(), seed=seed),
        interval(misses.tolist(), seed=seed),
        interval(scored.tolist(), seed=seed),
        Score(value, float(low), float(high), len(scored)),
    )


def _share(judged: float, sensitivity: float, specificity: float) -> float:
    better = sensitivity + specificity - 1
    return float(min(1.0, max(0.0, (judged + specificity - 1) / better))) if better > 1e-9 else float("nan")
