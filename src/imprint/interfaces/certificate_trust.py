"""The sections of a certificate's page that tell how far to trust it: leaks, confidence, the judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imprint.evaluation import plain_words
from imprint.evaluation.certificate import Certificate
from imprint.interfaces import certificate_cells as cell
from imprint.interfaces import certificate_plots as plots
from imprint.interfaces.page import table, text

_ATTACKS = {
    "loss": "by how likely the text is",
    "min_k": "by its least likely fifth of tokens",
    "ratio": "by how much likelier it is than to the untaught base",
}
_SIGNALS = {
    "mean": "mean log-probability of the answer's tokens",
    "least": "that of the least likely one",
    "lift": "how much likelier the answer is than to the untaught base",
    "agreement": "answers drawn at random that say the same",
    "gain": "how much likelier the question is than to the untaught base",
}


def leaks(name: str, part: Mapping[str, Any], made: Certificate) -> list[str]:
    """What can be drawn out of the adapter."""
    shown = [_verbatim(part["verbatim"])] if "verbatim" in part else []
    if "attacks" in part.get("membership", {}):
        shown.append(_membership(part["membership"]))
    if "canaries" in part:
        shown.append(_canaries(part["canaries"]))
    return ["<h2>What leaks</h2>", cell.listed(plain_words.leaks(part)), *shown]


def _verbatim(told: Mapping[str, Any]) -> str:
    heads = [("word for word", ""), ("with the adapter", ""), ("untaught base", "what luck and the world give")]
    rows = [
        ("tokens that are the passage's, in their place", told["agreeing"], told["agreeing_of_base"]),
        ("passages of which 50 tokens in a row are told", told["memorised"], told["memorised_of_base"]),
        ("passages of which all that was looked at is told", told["whole"], None),
    ]
    cells = [[label, *("" if one is None else cell.share(one) for one in both)] for label, *both in rows]
    cells.append(["longest run, in tokens", str(told["longest"]), str(told["longest_of_base"])])
    return table(heads, [("", row) for row in cells])


def _membership(told: Mapping[str, Any]) -> str:
    heads = [
        ("was it taught?", ""),
        ("AUC", "0.5 is guessing"),
        ("AUC of the untaught base", "off 0.5, the two groups differ anyway"),
        ("caught", "of the taught ones, where at most 1 % of the others are named with them"),
    ]
    rows = []
    for key, attack in told["attacks"].items():
        base = told["by_base"].get(key)
        cells = [cell.interval({**one["auc"], "unit": ""}) if one else "" for one in (attack, base)]
        rows.append(("", [text(_ATTACKS.get(key, key)), *cells, cell.share(attack["caught"])]))
    return table(heads, rows)


def _canaries(told: Mapping[str, Any]) -> str:
    heads = [
        ("canary", "a secret line put among the training text"),
        ("times in the text", "each epoch meets it so often again"),
        ("rank", "among itself and 511 others by likelihood"),
        ("exposure", f"in bits, {told['most']:.0f} at most"),
        ("told", "when it is begun"),
    ]
    rows = [
        (
            "",
            [
                f"locker {c['locker']}",
                str(c["times"]),
                str(c["rank"]),
                f"{c['bits']:.1f}",
                "yes" if c["told"] else "no",
            ],
        )
        for c in told["canaries"]
    ]
    return table(heads, rows)


def confidence(name: str, part: Mapping[str, Any], made: Certificate) -> list[str]:
    """How well signals tell right answers from wrong ones, and what the line brings."""
    out = ["<h2>How sure the answers are</h2>", cell.listed(plain_words.confidence(part))]
    if "scores" not in part:
        return out
    signals = [
        ("", [f"{text(key)}<small>{text(_SIGNALS.get(key, ''))}</small>", cell.interval({**score, "unit": ""})])
        for label, score in part["scores"].items()
        if (key := label.removeprefix("auroc of ")) != label
    ]
    covered = [("", [f"{float(share):.0%}", cell.share(right)]) for share, right in part["coverage"].items()]
    about = (
        f"Of {part['answers']} answers; {part['left_out']} that say themselves that they do not know are left out."
    )
    return [
        *out,
        f'<p class="soft">{text(about)}</p>',
        plots.calibration(part["curve"]),
        table([("signal", ""), ("AUROC", "0.5 is guessing")], signals),
        table([("the surest", "of the answers"), ("right", "")], covered),
    ]


def judge(name: str, part: Mapping[str, Any], made: Certificate) -> list[str]:
    """What a judge says beside the match grader."""
    heads = [
        ("", ""),
        ("judged right", "of the answers with a verdict"),
        ("matched as right", "of the same answers"),
        ("kappa", "agreement beyond chance; 1 is full"),
        ("swayed", "the verdict hung on the order"),
        ("unreadable", "no verdict"),
    ]
    rows, apart = [], []
    for key, told in part["systems"].items():
        says = made.systems[key].says if key in made.systems else key.replace("_", " ")
        agreement = told["agreement"]
        cells = [
            cell.share(told["right"]),
            cell.share(told["matched"]),
            cell.interval({**agreement["kappa"], "unit": ""}),
        ]
        rows.append(
            ("", [text(says), *cells, cell.share(agreement["swayed"]), cell.share(agreement["unreadable"])])
        )
        for one in told["apart"]:
            words = (says, one["question"], " / ".join(one["right"]), one["answer"], one["matched"], one["judged"])
            apart.append(("", [text(word) for word in words]))
    named = ("", "question", "a right answer", "answer", "match grader", "judge")
    where = table([(word, "") for word in named], apart)
    differ = f'<details><summary>Where they differ</summary><div class="answers">{where}</div></details>'
    head = ["<h2>What a judge says</h2>", cell.listed(plain_words.judge(part)), table(heads, rows)]
    return [*head, *([differ] if apart else [])]
