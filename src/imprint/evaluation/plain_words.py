"""What leaks, how sure answers are and what a judge says, in sentences for who knows no statistics.

Each follows from the intervals by a stated rule; the values are the JSON of a certificate's parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Part = Mapping[str, Any]


def of_parts(parts: Mapping[str, Part]) -> list[str]:
    """The first sentence, the most important one, of each of these parts that is there."""
    ways = {"leaks": leaks, "confidence": confidence, "judge": judge}
    told = [way(parts[name]) for name, way in ways.items() if name in parts]
    return [sentences[0] for sentences in told if sentences]


# --- leaks ------------------------------------------------------------------------------------


def leaks(part: Part) -> list[str]:
    """Whether text can be drawn out, whether it shows what was taught, and how exposed canaries are."""
    said = [_word_for_word(part["verbatim"], part["passages"])] if "verbatim" in part else []
    if not said:
        said = ["No passage that was taught is long enough to be begun and gone on with."]
    if "membership" in part:
        said.append(_taught_or_not(part["membership"]))
    return said + ([_canaries(part["canaries"])] if "canaries" in part else [])


def _word_for_word(verbatim: Part, passages: int) -> str:
    """What is given away is told as such where it is 50 tokens in a row, or surely more than the base guesses."""
    agreeing, of_base = verbatim["agreeing"]["value"], verbatim["agreeing_of_base"]["value"]
    besides = (
        f"{agreeing:.0%} of the tokens that follow are the passage's own (the untaught base: {of_base:.0%}), the "
        f"longest run is {verbatim['longest']} ({verbatim['longest_of_base']})"
    )
    shares = [share for share in (verbatim["memorised"], verbatim["whole"]) if share["value"]]
    if shares:
        worst = max(shares, key=lambda share: share["value"])
        how = "50 tokens in a row" if worst is verbatim["memorised"] else "all that was looked at"
        which = f"{worst['value']:.0%} of {worst['n']} passages are told on word for word, {how}"
    else:
        which = f"none of {passages} passages is told on word for word for 50 tokens"
    given_away = shares or verbatim["more"]["low"] > 0
    care = " Treat the adapter like the documents themselves." if given_away else ""
    return f"Begun with their first words, {which}; {besides}.{care}"


def _taught_or_not(membership: Part) -> str:
    if not membership["others"]:
        return "Whether a passage was taught could not be measured: there was nothing to tell it from."
    name, best = max(membership["attacks"].items(), key=lambda pair: pair[1]["auc"]["value"])
    base = max(one["auc"]["high"] for one in membership["by_base"].values())
    auc = best["auc"]
    figures = f"AUC {auc['value']:.2f} by {name}, {auc['low']:.2f} to {auc['high']:.2f}; 0.5 is guessing"
    against = f"{membership['taught']} taught passages against {membership['others']} {membership['others_are']}"
    if auc["low"] <= 0.5:
        return f"These attacks do not tell what was taught: {figures} ({against})."
    if name != "ratio" and auc["low"] <= base:  # the ratio takes out what the base tells
        return f"What was taught is told apart, but the untaught base does that too: {figures} ({against})."
    if not membership["same_documents"]:
        return (
            f"That the documents were taught shows, which of their passages is not measured: {figures} ({against})."
        )
    return f"Who has the model can tell what was taught: {figures} ({against})."


def _canaries(found: Part) -> str:
    said = [
        f"{score['value']:.1f} bits where they stood {_times(times)}" for times, score in found["by_times"].items()
    ]
    told = found["told"]
    return (
        f"Of {told['n']} canaries the adapter tells {told['value']:.0%} when they are begun; their exposure, of "
        f"{found['most']:.0f} bits at most and 1.4 where nothing was learnt, is {', '.join(said)} in the text."
    )


def _times(times: str) -> str:
    return "once" if times == "1" else f"{times} times"


# --- confidence -------------------------------------------------------------------------------


def confidence(part: Part) -> list[str]:
    """What the line brings, or why there is none."""
    n, least = part["answers"], part["least"]
    if "scores" not in part:
        return [
            f"How sure answers are could not be measured: {n} of the questions were answered, {least} are needed."
        ]
    scores = part["scores"]
    shares = {key: scores[key] for key in ("answered", "right of all", "right of those answered")}
    brings = (
        f"{shares['answered']['value']:.0%} of the questions are answered, and "
        f"{shares['right of those answered']['value']:.0%} of those answers are right, in place of "
        f"{shares['right of all']['value']:.0%} of all"
    )
    if "confidence" not in part:
        few = f"No line is drawn below which asking declines: {n} answers are too few, {least} are needed."
        return [few, *_told_apart(part)]
    if part["confidence"]["line"] is None:
        return ["No line would make what is answered more often right: everything is answered.", *_told_apart(part)]
    return [f"Asking says that it does not know where an answer is unsure: {brings}.", *_told_apart(part)]


def _told_apart(part: Part) -> list[str]:
    scores = part["scores"]
    told = {key.removeprefix("auroc of "): score for key, score in scores.items() if key.startswith("auroc of ")}
    known = {name: score for name, score in told.items() if score["value"] is not None}
    if not known:
        return ["The answers are all right or all wrong: nothing tells one from the other."]
    name = max(known, key=lambda name: known[name]["value"])
    best, error = known[name], scores["calibration error"]
    return [
        f"'{name}' tells right answers from wrong ones best: AUROC {best['value']:.2f} ({best['low']:.2f} to "
        f"{best['high']:.2f}); 0.5 is guessing.",
        f"What is said of how likely an answer is right is off by {error['value']:.0%} on average "
        f"({error['low']:.0%} to {error['high']:.0%}).",
    ]


# --- the judge --------------------------------------------------------------------------------


def judge(part: Part) -> list[str]:
    """Whether the judge can be believed, then what it says of each system."""
    said = []
    for system, found in part["systems"].items():
        agreement, name = found["agreement"], system.replace("_", " ")
        kappa = agreement["kappa"]
        swayed, unreadable = (agreement[key]["value"] for key in ("swayed", "unreadable"))
        lost = f"{swayed:.0%} swayed by the order, {unreadable:.0%} unreadable"
        if not kappa["n"]:
            said.append(f"{part['judge']} gives no verdict on the answers of {name} ({lost}).")
            continue
        if kappa["value"] is None:
            said.append(
                f"{part['judge']} and the match grader call all {kappa['n']} answers of {name} the same ({lost})."
            )
            continue
        weight = "" if (kappa["low"] or 0) > 0 else " No better than chance: do not believe this judge."
        said.append(
            f"{part['judge']} calls {found['right']['value']:.0%} of the answers of {name} right, the match grader "
            f"{found['matched']['value']:.0%} of the same {found['right']['n']}; kappa {kappa['value']:.2f} "
            f"({kappa['low']:.2f} to {kappa['high']:.2f}), {lost}.{weight}"
        )
    return said
