"""A simulated year: the next version made month by month in several ways, and what each answers.

    python bench/year.py in_order --work ../year --data ../../shared/data
    python bench/year.py shards --work ../year --data ../../shared/data
    python bench/year.py retrain --work ../year --data ../../shared/data
    python bench/year.py report --work ../year --json year.json
    python bench/year.py kept --rows ../year/in_order.json,../year/retrain.json,../again/retrain.json

The folder of _year.py is taught in January and updated in every month in which it changes. `in_order` goes on with
one adapter, old text met again; `shards` has --shards adapters, of which those of changed documents are trained
anew; `planned` is what `imprint update` takes by itself (continual/ways.py), from one adapter on; `retrain` trains
one adapter from nothing on the whole text of the months in --retrained, the truth that the others are held to. It
takes up the text that `in_order` wrote, so that these two differ in training alone. All arms tell passages as often
and meet examples as often; --text is what there is in January in tokens.

In each month every question of the month is asked (in --asked all groups, else only those whose answer changed):
flipped and reworded (facts that change within the year, with the answer of the month, in two wordings), untouched,
new, gone, as_of (dated questions), and superseded: the share of answers in which a value stands that holds no more.
In the last month as_of is asked once more, of the version that held on that day. Perplexity is of a general text;
suites are judged by log-likelihood in the first and the last month. A row is written as each month ends; the same
command goes on.

`kept` asks how far the changed facts that a retrained version has right are more than its luck: of those that each
retrained one of the last month has right (other seeds, objectives, machines), how many every other version has,
retrained ones too. What two retrained ones that differ in their seed alone share is the most that can be asked of
any other way. Intervals are bootstrapped over facts."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _common import Results, commit, header_of, parser, quieten, say, use_threads
from _map import suite_of
from _year import LAST_MONTH as LAST
from _year import MONTHS, events, first_day, questions_at, superseded, write_state
from learning import Lines

NAME = "year"
HOLDING = ("flipped", "untouched", "new")
"""Groups that hold all facts of a month, each asked once."""
UPDATED = ("in_order", "shards", "planned")
"""Arms that are updated month by month."""

GROUPS = ("flipped", "reworded", "untouched", "new", "gone", "as_of", "superseded")


class Year:
    """One arm, its home and its rows."""

    def __init__(self, options: argparse.Namespace, threads: int) -> None:
        from imprint import base as bases

        self.options, self.arm = options, str(options.arm)
        self.base = bases.load(options.base)
        header = header_of(self.base, threads)
        keys = ("text", "epochs", "batch_tokens", "replay", "shards", "objective", "hard", "seed")
        header["asked"] = {key: str(getattr(options, key)) for key in keys}
        self.results = Results(options.work / f"{self.arm}.json", header, resume=True)
        self.home = options.work / self.arm / "home"

    def have(self, row: str) -> bool:
        return any(r["row"] == row for r in self.results.rows)

    def keep(self, row: str, **told: Any) -> None:
        self.results.add({"row": row, "arm": self.arm, **told})
        scores = told["scores"]
        say(f"{row}: " + ", ".join(f"{g} {scores[g]['score']:.1%} of {scores[g]['n']}" for g in scores))

    # --- the arms -----------------------------------------------------------------------------

    def go(self) -> None:
        """Every month of an arm that is updated."""
        for month in MONTHS:
            row = f"{self.arm} {first_day(month)}"
            if month and not events(month):
                continue
            taught = self.updated(month)
            if not self.have(row):
                self.keep(row, **self.measured(taught, month))
            if self.arm == "in_order" and month in self.options.retrained:
                self.leave_for_retraining(month)
        if not self.have(f"{self.arm} by version"):
            self.keep(f"{self.arm} by version", month=LAST, scores={"as_of": self.asked_of_versions()})

    def updated(self, month: int) -> Any:
        """The version of a month, made now or before."""
        import imprint
        from imprint import updating
        from imprint.registry import Registry

        for version in Registry(self.home).versions(NAME) if self.have_any() else []:
            if version.details["as_of"] == first_day(month):
                taught = imprint.open(f"{NAME}@{version.number}", home=self.home)
                taught.base = self.base
                return taught
        folder = self.options.work / self.arm / "documents"
        write_state(month, folder, self.options.data)
        first = month == 0
        return updating.update(
            NAME,
            folder,
            base=self.base,
            home=self.home,
            watch=Lines(),
            way=None if first or self.arm == "planned" else self.arm,
            date=first_day(month),
            recipe=self.recipe(),
            seed=self.options.seed,
            questions=every_question(),
            shards=self.options.shards if first and self.arm == "shards" else None,
            replay=self.options.replay,
            personal="ignore",
        )

    def have_any(self) -> bool:
        return (self.home / "registry.db").exists()

    def recipe(self) -> Any:
        from imprint.recipe import Recipe

        options = self.options
        return Recipe(
            text_tokens=options.text,
            epochs=options.epochs,
            batch_tokens=options.batch_tokens,
            objective=options.objective,
            hard_labels=options.hard,
        )

    def leave_for_retraining(self, month: int) -> None:
        left = self.options.work / f"retrain-{month}"
        if not left.exists():
            making = left.with_name(f"{left.name}.making")
            shutil.rmtree(making, ignore_errors=True)
            shutil.copytree(self.home, making / "home")
            making.rename(left)

    def retrained(self) -> None:
        """What `in_order` left of each month in --retrained, trained from nothing."""
        from imprint import updating

        for month in self.options.retrained:
            home, row = self.options.work / f"retrain-{month}" / "home", f"retrain {first_day(month)}"
            if self.have(row):
                continue
            if not home.exists():
                raise SystemExit(f"{home} is not there yet: run in_order first.")
            folder = self.options.work / f"retrain-{month}" / "documents"
            write_state(month, folder, self.options.data)
            taught = updating.update(
                NAME,
                folder,
                base=self.base,
                home=home,
                watch=Lines(),
                way="retrain",
                date=first_day(month),
                recipe=self.recipe(),
                seed=self.options.seed,
                questions=every_question(),
                personal="ignore",
            )
            self.keep(row, **self.measured(taught, month))

    # --- measuring ----------------------------------------------------------------------------

    def measured(self, taught: Any, month: int) -> dict[str, Any]:
        """Scores by group, what the version took, and general ability."""
        details = taught.version.details
        scores = self.scores(taught, month)
        told = {
            key: details.get(key)
            for key in ("way", "tokens", "written_tokens", "text_tokens", "seconds", "foreseen")
        }
        told |= {"adapters": len(details.get("shards") or [0])}
        return {"month": month, "scores": scores, **told, **self.general(taught, month)}

    def scores(self, taught: Any, month: int) -> dict[str, Any]:
        groups = dict(questions_at(month)) | {"superseded": superseded(month)}
        wanted = GROUPS if month in self.options.asked else ("flipped", "superseded")
        return {g: self.score(taught, g, groups[g], month) for g in wanted if groups[g]}

    def score(self, writer: Any, group: str, questions: Sequence[Any], month: int) -> dict[str, Any]:
        """Shares of right answers; of superseded questions, of answers in which an old value stands."""
        from imprint.evaluation import open_book
        from imprint.evaluation.closed_book import answer_all, grade

        answered, _ = answer_all(writer, questions, open_book.closed, seed=self.options.seed)
        if group == "superseded":
            marks = [
                max(grade(_asking(a.question, w), a.text).contains for w in a.question.wrong) for a in answered
            ]
        elif group == "gone":
            marks = [float(a.contains) for a in answered]
        else:
            marks = [a.contains for a in answered]
        self.write_answers(group, month, answered)
        return _scored(marks, [a.question.asked for a in answered])

    def write_answers(self, group: str, month: int, answered: Sequence[Any]) -> None:
        rows = [{"question": a.question.asked, "right": a.question.answers, "said": a.text} for a in answered]
        file = self.options.work / "answers" / f"{self.arm}-{month}-{group}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows, indent=1, ensure_ascii=False), "utf-8")

    def asked_of_versions(self) -> dict[str, Any]:
        """Dated questions put, without their date, to the version that held on that day."""
        import dataclasses

        import imprint
        from imprint.registry import Registry

        versions = Registry(self.home).versions(NAME)
        by_version: dict[int, list[Any]] = {}
        for question in questions_at(LAST)["as_of"]:
            held = [v.number for v in versions if v.details["as_of"] <= question.as_of]
            by_version.setdefault(max(held), []).append(question)
        marks, asked = [], []
        for number, questions in by_version.items():
            taught = imprint.open(f"{NAME}@{number}", home=self.home)
            taught.base = self.base
            undated = [dataclasses.replace(q, as_of=None) for q in questions]
            row = self.score(taught, "as_of_version", undated, number)
            marks += row["marks"]
            asked += [q.asked for q in questions]
        return _scored(marks, asked)

    def general(self, taught: Any, month: int) -> dict[str, Any]:
        """Perplexity of a general text, and the gauntlet in the first and last month: the mean over adapters."""
        from imprint.engine import Engine
        from imprint.evaluation.forgetting import general_perplexity
        from imprint.evaluation.suites import measure, read_suite

        engine = Engine(self.base)
        suite = None
        if month in (0, LAST) and self.options.items:
            folder = suite_of(self.options.data, "general_gauntlet", self.options.work, self.options.items)
            suite = [item for items in _listed(read_suite(folder)) for item in items]
        found, right = [], []
        for adapter in taught.adapters():
            with engine.attached(adapter):
                found.append(general_perplexity(self.base))
                if suite is not None:
                    right.append(measure(self.base, suite))
        told: dict[str, Any] = {"perplexity": sum(found) / len(found)}
        if suite is not None:
            mean = [sum(marks) / len(right) for marks in zip(*right, strict=True)]
            told["gauntlet"] = _scored(mean, [])
        return told


def _listed(suite: Any) -> list[list[Any]]:
    return [list(suite)] if not isinstance(suite, dict) else [list(items) for items in suite.values()]


def _asking(question: Any, wrong: str) -> Any:
    """The question with a value that holds no more as its answer."""
    import dataclasses

    return dataclasses.replace(question, answers=(wrong,), wrong=())


def _scored(marks: Sequence[float], asked: Sequence[str]) -> dict[str, Any]:
    from imprint.evaluation.closed_book import interval

    score = interval(list(marks), seed=0)
    told = {"score": score.value, "low": score.low, "high": score.high, "n": score.n, "marks": list(marks)}
    return told | ({"asked": list(asked)} if asked else {})


def every_question() -> list[Any]:
    """All questions of the year, so that none of them is in the training text of any month."""
    found: dict[str, Any] = {}
    for month in MONTHS:
        for group, questions in questions_at(month).items():
            for question in questions:
                if group != "as_of":  # the same question with a date before it
                    found.setdefault(question.text, question)
    return list(found.values())


# --- the report -------------------------------------------------------------------------------


def report(options: argparse.Namespace) -> None:
    """The arms side by side: in the months in which all was retrained, paired question by question."""
    arms = {arm: _rows(options.work / f"{arm}.json") for arm in (*UPDATED, "retrain")}
    header = json.loads((options.work / "in_order.json").read_text("utf-8"))
    header.pop("rows")
    results = Results(options.json, header)
    paired = []
    for month in options.retrained:
        truth = arms["retrain"].get(f"retrain {first_day(month)}")
        for arm in UPDATED if truth is not None else ():
            row = arms[arm].get(f"{arm} {first_day(month)}")
            if row is not None:
                paired.append(_beside(arm, month, row, truth, arms[arm]))
    for row in [*paired, *(row for rows in arms.values() for row in rows.values())]:
        results.add(row | ({"scores": _without_questions(row["scores"])} if "scores" in row else {}))
    shown = [r | {g: s["score"] for g, s in r["scores"].items()} for r in results.rows if "scores" in r]
    results.show("right by group (superseded: still said)", ["row", *GROUPS, "perplexity", "tokens"], shown)
    flat = [
        {"row": r["row"], "compute": r["compute"]} | {g: _short(s) for g, s in r["less"].items()} for r in paired
    ]
    results.show("less the retrained one, in points", list(flat[0]) if flat else ["row"], flat)
    results.show("changed facts that it has right, kept", ["row", "kept"], [
        {"row": r["row"], "kept": f"{_short(r['flipped_kept'])} of {r['flipped_kept']['n']}"} for r in paired
    ])  # fmt: skip


def _short(score: Mapping[str, float]) -> str:
    return f"{score['score'] * 100:.1f} [{score['low'] * 100:.1f}, {score['high'] * 100:.1f}]"


def _beside(arm: str, month: int, row: Any, truth: Any, rows: Mapping[str, Any]) -> dict[str, Any]:
    """An arm less the retrained one, and what it took; `current` is all facts that hold, each asked once."""
    scores, theirs = (dict(r["scores"]) for r in (row, truth))
    for some in (scores, theirs):
        some["current"] = _pooled([some[g] for g in HOLDING if g in some])
    made = [r for r in rows.values() if "tokens" in r and 0 < r["month"] <= month]
    foreseen = sum(r["foreseen"]["retrain"]["trained_tokens"] for r in made)
    return {
        "row": f"{arm} less retrain, {first_day(month)}",
        "less": {g: _difference(scores[g], theirs[g]) for g in ("current", *GROUPS) if g in scores and g in theirs},
        "current": {name: _pooled_score(some["current"]) for name, some in ((arm, scores), ("retrain", theirs))},
        "flipped_kept": _kept(row["scores"]["flipped"], truth["scores"]["flipped"]),
        "tokens": sum(r["tokens"] for r in made),
        "retraining_each_time": foreseen,
        "compute": sum(r["tokens"] for r in made) / max(1, foreseen),
    }


def _pooled(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: [value for score in scores for value in score[key]] for key in ("marks", "asked")}


def _pooled_score(pooled: Mapping[str, Any]) -> dict[str, Any]:
    found = _scored(pooled["marks"], [])
    return {key: found[key] for key in ("score", "low", "high", "n")}


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    theirs = dict(zip(other["asked"], other["marks"], strict=True))
    pairs = [m - theirs[q] for q, m in zip(one["asked"], one["marks"], strict=True) if q in theirs]
    found = _scored(pairs, [])
    return {key: found[key] for key in ("score", "low", "high", "n")}


def _kept(one: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, float]:
    """Of the changed facts that the retrained one has right, the share that this one has."""
    right = {q for q, m in zip(truth["asked"], truth["marks"], strict=True) if m}
    found = _scored([m for q, m in zip(one["asked"], one["marks"], strict=True) if q in right], [])
    return {key: found[key] for key in ("score", "low", "high", "n")}


# --- what chance leaves ------------------------------------------------------------------------


def kept(options: argparse.Namespace) -> None:
    """Every version of the last month beside every retrained one, fact by fact."""
    base = json.loads(options.rows[0].read_text("utf-8"))["base"]
    results = Results(options.json, {"base": base, "machine": {}, "commit": commit()})
    rows = {label: row for file in options.rows for label, row in _last_ones(file)}
    marks = {label: row["scores"]["flipped"]["marks"] for label, row in rows.items()}
    holding = {label: [m for g in HOLDING for m in row["scores"][g]["marks"]] for label, row in rows.items()}
    truths = [label for label in marks if label.startswith("retrain")]
    for label, mine in marks.items():
        against = {t: marks[t] for t in truths if t != label}
        if against:
            told = {"row": label, "right": sum(mine) / len(mine), "n": len(mine)}
            told |= _kept_of([(mine, theirs) for theirs in against.values()])
            of = {t: f"{sum(map(min, mine, theirs)):.0f} of {sum(theirs):.0f}" for t, theirs in against.items()}
            mean = [sum(each) / len(against) for each in zip(*(holding[t] for t in against), strict=True)]
            less = _scored([m - t for m, t in zip(holding[label], mean, strict=True)], [])
            told["less"] = {key: less[key] for key in ("score", "low", "high", "n")}
            told |= {"of": of, "perplexity": rows[label]["perplexity"], "tokens": rows[label]["tokens"]}
            results.add(told | {"scores": _without_questions(rows[label]["scores"])})
    if len(truths) > 1:
        pairs = [(marks[one], marks[other]) for one in truths for other in truths if one != other]
        results.add({"row": "a retrained one, of another", "n": len(pairs[0][0]), **_kept_of(pairs)})
    columns = ("row", "right", "kept", "low", "high", "perplexity")
    results.show("changed facts that a retrained version has right, kept", columns)
    for row in results.rows:
        if "less" in row:
            say(f"{row['row']}: {_short(row['less'])} points on all facts that hold less the mean of the retrained")
        say(f"{row['row']}: " + "; ".join(f"{n} of {label}" for label, n in row.get("of", {}).items()))


def _last_ones(file: Path) -> Iterator[tuple[str, Any]]:
    """The rows of the last month, called by what was asked and by the machine."""
    told = json.loads(file.read_text("utf-8"))
    asked = told["asked"]
    chip = told["machine"].get("gpu") or told["machine"]["cpu"]
    for row in told["rows"]:
        if row.get("month") == _done(LAST) and "flipped" in row["scores"]:
            objective = f"{asked['objective']} {asked.get('hard', '')}".strip()
            yield f"{row['arm']}, {objective}, replay {asked['replay']}, seed {asked['seed']}, {chip}", row


def _kept_of(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> dict[str, float]:
    """Of what is right in the second of each pair, the share that is in the first, with its interval over facts."""
    import numpy as np

    mine, right = (np.array(marks) for marks in zip(*pairs, strict=True))
    both = (right * mine).sum(axis=0)
    picks = np.random.default_rng(0).integers(0, len(both), (10_000, len(both)))
    drawn = both[picks].sum(axis=1) / np.maximum(1, right.sum(axis=0)[picks].sum(axis=1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"kept": float(both.sum() / max(1, right.sum())), "low": float(low), "high": float(high)}


def _without_questions(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {g: {k: v for k, v in s.items() if k != "asked"} for g, s in scores.items()}


def _rows(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    return {row["row"]: row for row in json.loads(file.read_text("utf-8"))["rows"]}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("arm", choices=(*UPDATED, "retrain", "report", "kept"))
    made.add_argument("--work", type=Path, default=Path("../year"), help="where homes and rows are kept")
    made.add_argument("--rows", type=_files, default=(), help="kept: what the arms or a report wrote")
    made.add_argument("--data", type=Path, default=Path("../shared/data"))
    made.add_argument("--text", type=int, default=80_000, help="tokens of training text in January")
    made.add_argument("--epochs", type=float, default=4.0)
    made.add_argument("--batch-tokens", type=int, default=256)
    made.add_argument("--replay", type=float, default=0.5)
    made.add_argument("--shards", type=int, default=8)
    made.add_argument("--objective", default="sft")
    made.add_argument("--hard", type=float, default=0.0, help="distilled: the part that is the text's own token")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--items", type=int, default=20, help="of each task of the gauntlet; 0 leaves it out")
    made.add_argument("--retrained", type=_months, default=(5, 11), help="months, counted from 0")
    made.add_argument(
        "--asked", type=_months, default=(0, 2, 5, 8, 11), help="months in which all groups are asked"
    )
    options = made.parse_args()
    if options.quick:
        options.text, options.epochs, options.items = 1500, 0.2, 0
    threads = use_threads(options.threads)
    options.retrained = tuple(_done(month) for month in options.retrained)
    options.asked = tuple(_done(month) for month in options.asked)
    quieten()
    if options.arm in ("report", "kept"):
        (report if options.arm == "report" else kept)(options)
        return
    year = Year(options, threads)
    if options.arm == "retrain":
        year.retrained()
    else:
        year.go()


def _files(text: str) -> tuple[Path, ...]:
    return tuple(Path(part) for part in text.split(","))


def _months(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _done(month: int) -> int:
    """The month, or the one before in which something last happened."""
    return month if not month or events(month) else _done(month - 1)


if __name__ == "__main__":
    main()
