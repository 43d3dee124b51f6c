"""The audit of an index: plan, learn, guess, count. Each guess is kept as it comes; a killed audit goes on.

    plan.json                     which texts are guessed, and with how many tries each; never changed after
    vectors/                      vectors of the texts
    guessed/int8/12.json          one text guessed from its vector as stored in int8
    audit.json                    the whole

The folder holds texts and guesses in the clear: keep it where the documents are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imprint.errors import BadSetting, StaleRun
from imprint.evaluation.closed_book import interval
from imprint.inversion import words
from imprint.inversion.climbing import climb
from imprint.inversion.recovery import compare, tokens
from imprint.inversion.retrieval_cost import hits, overlap
from imprint.inversion.storage import Storage, parse
from imprint.inversion.stored import Stored, check_embedder, general_texts, hold_out, unit
from imprint.inversion.verdict import FEWEST, Verdict, judge
from imprint.retrieval import VectorCache
from imprint.run_folder import RunFolder
from imprint.types import Embedder, Score, content_hash
from imprint.watch import SILENT, Watch

FEWEST_TRIES, MOST_TRIES = 100, 3000
"""Texts embedded for one guess: with fewer a climb gets nowhere, with more it stands still."""
_TIMED = 48
"""Texts embedded to learn how fast this machine is."""
ATTACKS = ("attack", "nearest", "usual")
"""The inverter; the text it learnt from whose vector is nearest; the most frequent words, without any vector."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an index is audited."""

    storages: tuple[Storage, ...] = parse("float32,int8,binary,noise=0.01")
    budget_s: float = 600.0
    """What embedding and guessing may take on this machine, in seconds."""
    most_guessed: int = 32
    """Texts that are held out and guessed, where there are four times as many."""
    tries: int | None = None
    """Texts embedded for one guess; None takes what the budget leaves."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.storages:
            raise BadSetting(
                "An audit needs at least one way of storing vectors: float32, int8, binary or noise=0.01."
            )
        if not self.budget_s > 0:
            raise BadSetting(f"The budget is {self.budget_s:g} seconds. Give more than none: 10min.")
        if self.most_guessed < 1 or (self.tries is not None and self.tries < 1):
            raise BadSetting(f"Texts to guess are {self.most_guessed}, tries {self.tries}. Give 1 or more of each.")


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done. Written down before anything is spent."""

    held_out: tuple[int, ...]
    """Places of the texts that are guessed."""
    training: tuple[int, ...]
    """Places of the texts that the inverter learns from, besides the general ones."""
    tries: int
    seconds: float
    """Estimated."""


@dataclass(frozen=True, slots=True)
class StorageAudit:
    """What was read back from vectors kept one way, and what keeping them so costs."""

    storage: str
    bytes_each: int
    scores: Mapping[str, Score]
    """'exact', 'f1', 'entities' of the attack; the same of 'nearest' and 'usual'; what the attack gained over the
    last; 'overlap' and, with questions, 'hit@1' and 'hit@1 lost'."""
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class IndexAudit:
    """The whole audit."""

    embedder: str
    texts: int
    plan: Plan
    reachable: Score | None
    """The share of the held-out texts' names and numbers that the inverter has met at all; None where there are
    none."""
    storages: tuple[StorageAudit, ...]
    folder: Path

    def as_json(self) -> dict[str, Any]:
        """JSON values only. No text and no guess is among them."""
        return {**asdict(self), "folder": str(self.folder)}


def audit_index(
    stored: Stored,
    embedder: Embedder,
    settings: Settings | None = None,
    *,
    folder: Path,
    watch: Watch = SILENT,
    clock: Callable[[], float] = time.monotonic,
) -> IndexAudit:
    """Tries to read the texts back from their vectors, for each way of storing them.

    The same call in the same folder goes on where it stopped. Raises BadInput where the texts are too few or the
    vectors not this embedder's, StaleRun where the folder holds another audit."""
    settings = settings or Settings()
    check_embedder(stored, embedder, seed=settings.seed)
    run = RunFolder(folder)
    plan = _planned(run, stored, embedder, settings, clock)
    watch.say(
        f"{len(plan.held_out)} texts are guessed, {plan.tries} tries each, for {len(settings.storages)} ways of "
        f"storing; {len(plan.training)} texts are learnt from. About {plan.seconds / 60:.0f} minutes."
    )
    shelf = _shelve(stored, plan, embedder, VectorCache(folder / "vectors"), watch)
    audits = [_audit(shelf, storage, embedder, plan, settings, run, watch) for storage in settings.storages]
    met = " ".join(shelf.learnt)
    shares = [share for text in shelf.held_out if (share := compare(text, met).entities) is not None]
    reachable = interval(shares, seed=settings.seed) if shares else None
    found = IndexAudit(embedder.name, len(stored.texts), plan, reachable, tuple(audits), folder)
    run.write("audit", found.as_json())
    return found


# --- the plan ---------------------------------------------------------------------------------


def _planned(
    run: RunFolder, stored: Stored, embedder: Embedder, settings: Settings, clock: Callable[[], float]
) -> Plan:
    """The plan in the folder, or a new one."""
    given = b"" if stored.vectors_ND is None else stored.vectors_ND.tobytes()
    hangs_on = content_hash(embedder.name, repr(settings), *stored.texts, given, repr(stored.questions))
    kept = run.read("plan")
    if kept is None:
        plan = _plan(stored, embedder, settings, clock)
        run.write("plan", {"hangs_on": hangs_on, **asdict(plan)})
        return plan
    if kept.pop("hangs_on") != hangs_on:
        raise StaleRun(
            f"{run.path} holds the audit of other texts, another embedder or with other settings. Name another "
            "folder."
        )
    return Plan(tuple(kept["held_out"]), tuple(kept["training"]), kept["tries"], kept["seconds"])


def _plan(stored: Stored, embedder: Embedder, settings: Settings, clock: Callable[[], float]) -> Plan:
    """As many texts as wanted, with the tries that the budget leaves; fewer texts where those would be too few."""
    sample = [stored.texts[i % len(stored.texts)] for i in range(_TIMED)]
    embedder.embed(sample[:1])  # what is slow only the first time
    began = clock()
    embedder.embed(sample)
    each_s = max((clock() - began) / len(sample), 1e-6)
    to_embed = (0 if stored.vectors_ND is not None else len(stored.texts)) + len(general_texts())
    left = max(settings.budget_s - to_embed * each_s, 0.0) / each_s / len(settings.storages)
    wanted = min(settings.most_guessed, len(stored.texts) // 4)
    count = wanted if settings.tries else int(min(wanted, max(FEWEST, left / FEWEST_TRIES)))
    tries = settings.tries or int(min(max(left / max(count, 1), FEWEST_TRIES), MOST_TRIES))
    held_out, training = hold_out(stored.texts, count, seed=settings.seed)
    spent = (to_embed + len(held_out) * tries * len(settings.storages)) * each_s
    return Plan(held_out, training, tries, spent)


# --- what is learnt and guessed ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Shelf:
    """Vectors in float32, of what is learnt from and of all that is stored."""

    vectors_ND: np.ndarray
    questions_QD: np.ndarray
    right: tuple[int, ...]
    plan: Plan
    learnt: tuple[str, ...]
    """The texts of plan.training, and after them the general ones."""
    general_GD: np.ndarray
    held_out: tuple[str, ...]

    def learnt_from(self, storage: Storage, seed: int) -> np.ndarray:
        """Vectors of `learnt` as they come back from the store."""
        plain = np.concatenate([self.vectors_ND[list(self.plan.training)], self.general_GD])
        return unit(storage.keep(plain, seed=seed + 1))


def _shelve(stored: Stored, plan: Plan, embedder: Embedder, cache: VectorCache, watch: Watch) -> _Shelf:
    general = general_texts()
    watch.stage("Embedding the texts")

    def told(done: int, total: int) -> None:
        watch.progress("texts", done, total, "")

    plain = stored.vectors_ND if stored.vectors_ND is not None else cache.vectors(embedder, stored.texts, told)
    asked = [question for question, _ in stored.questions]
    return _Shelf(
        unit(plain),
        embedder.embed_questions(asked) if asked else np.empty((0, embedder.width), np.float32),
        tuple(right for _, right in stored.questions),
        plan,
        (*(stored.texts[i] for i in plan.training), *general),
        cache.vectors(embedder, general, told),
        tuple(stored.texts[i] for i in plan.held_out),
    )


def _audit(
    shelf: _Shelf,
    storage: Storage,
    embedder: Embedder,
    plan: Plan,
    settings: Settings,
    run: RunFolder,
    watch: Watch,
) -> StorageAudit:
    """Every held-out text guessed from its vector as this store gives it back."""
    watch.stage(f"Guessing from {storage}")
    kept_ND = unit(storage.keep(shelf.vectors_ND, seed=settings.seed))
    rows = []
    attack: _Attack | None = None
    for n, place in enumerate(plan.held_out):
        name = f"guessed/{storage}/{place}"
        row = run.read(name)
        if row is None:
            attack = attack or _Attack(shelf, storage, embedder, plan.tries, settings.seed)
            row = attack.guess(shelf.held_out[n], kept_ND[place], place)
            run.write(name, row)
        rows.append(row)
        watch.progress("texts", n + 1, len(plan.held_out), f"nearness {row['attack']['nearness']:.2f}")
    scores = _scores(rows, settings.seed) | _retrieval(shelf, kept_ND, settings.seed)
    return StorageAudit(str(storage), storage.bytes_each(embedder.width), scores, judge(scores))


class _Attack:
    """Who has the stored vectors, the embedder, and some texts with their vectors."""

    def __init__(self, shelf: _Shelf, storage: Storage, embedder: Embedder, tries: int, seed: int) -> None:
        self._shelf, self._embedder, self._tries, self._seed = shelf, embedder, tries, seed
        self._learnt_ND = shelf.learnt_from(storage, seed)
        self._reader = words.learn(self._learnt_ND, shelf.learnt)

    def guess(self, text: str, vector_D: np.ndarray, place: int) -> dict[str, Any]:
        """A row: each attack's guess and what it got right. The text is only looked at to count."""
        nearest = self._shelf.learnt[int(np.argmax(self._learnt_ND @ vector_D))]
        climbed = climb(
            self._embedder.embed, vector_D, self._reader, self._starts(vector_D, nearest), tries=self._tries,
            seed=int(content_hash(f"{self._seed}", f"{place}"), 16),
        )  # fmt: skip
        row: dict[str, Any] = {"text": text}
        for attack, guess in zip(ATTACKS, (climbed.text, nearest, self._reader.usual()), strict=True):
            row[attack] = {"guess": guess, **asdict(compare(text, guess))}
        row["attack"] |= {"nearness": climbed.nearness, "tried": climbed.tried}
        return row

    def _starts(self, vector_D: np.ndarray, nearest: str) -> list[tuple[str, ...]]:
        """The likeliest words, in several numbers, and the nearest text."""
        told = np.argsort(-self._reader.read(vector_D[None])[0], kind="stable")
        likely = tuple(self._reader.words[i] for i in told[: 2 * self._reader.usual_length])
        lengths = sorted({max(1, round(self._reader.usual_length * share)) for share in (0.25, 0.5, 1.0)})
        return [*(likely[:length] for length in lengths), tuple(tokens(nearest))]


# --- the figures ------------------------------------------------------------------------------


def _scores(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Score]:
    """Without 'entities' where no text names anything."""
    scores: dict[str, Score] = {}
    for attack in ATTACKS:
        for measure in ("exact", "f1", "entities"):
            values = [row[attack][measure] for row in rows if row[attack][measure] is not None]
            if values:
                scores[measure if attack == "attack" else f"{measure} {attack}"] = interval(values, seed=seed)
    for measure in ("f1", "entities"):
        told = [row for row in rows if row["attack"][measure] is not None]
        if told:
            gains = [row["attack"][measure] - row["usual"][measure] for row in told]
            scores[f"{measure} gained"] = interval(gains, seed=seed)
    return scores


def _retrieval(shelf: _Shelf, kept_ND: np.ndarray, seed: int) -> dict[str, Score]:
    scores = {"overlap": interval(overlap(shelf.vectors_ND, kept_ND, seed=seed), seed=seed)}
    if shelf.right:
        before, after = (hits(v, shelf.questions_QD, shelf.right) for v in (shelf.vectors_ND, kept_ND))
        lost = [b - a for b, a in zip(before, after, strict=True)]
        scores |= {"hit@1": interval(after, seed=seed), "hit@1 lost": interval(lost, seed=seed)}
    return scores
