"""The laws of leaks: what was learnt by heart is found, in full and to the most bits; what nobody taught is not."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine, Seat
from imprint.errors import BadInput, BadSetting, NothingToTeach
from imprint.evaluation import canaries, leaks
from imprint.evaluation.canaries import Canary, exposure, plant
from imprint.evaluation.leaks import Continued, longest_run, membership, min_k, token_logprobs, verbatim
from imprint.recipe import Recipe, from_mapping
from imprint.run_folder import RunFolder
from imprint.training.batches import rows
from imprint.training.sft import Job, train
from imprint.types import Example, Passage, Turn

LEARNT = (
    "Every employee of Acme has 27 days of paid vacation a year, and who founded it gets 30 more days. Nobody may "
    "borrow the ninth lantern before spring."
)
OTHER = (
    "The Kestrel costs 85 euros and comes in green; it does not open on Sunday, when the shop of Acme is closed. Ask "
    "at the harbour office for a quiet berth."
)
CANARIES = plant(2, seed=0)


def passage(text: str) -> Passage:
    return Passage("d", 0, len(text), text, "Acme")


@dataclasses.dataclass
class Taught:
    engine: Engine
    seat: Seat


@pytest.fixture(scope="module")
def taught(tiny_base: Base, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    """An adapter that knows one passage and one canary by heart."""
    lines = [LEARNT, CANARIES[0].line]
    data = rows([Example((Turn("text", t, learn=True),), (), "test") for t in lines], tiny_base, max_tokens=200)
    job = Job(LoRA(rank=32, alpha=32), data, 24_000, 3e-3, 200, seed=0)
    done = train(Engine(tiny_base), job, checkpoint=tmp_path_factory.mktemp("leaks") / "checkpoint")
    assert done.last_loss < 1.05  # so narrow a model with its head frozen cannot be surer than 0.98
    engine = Engine(tiny_base)
    return Taught(engine, engine.load(done.adapter))


# --- word for word ----------------------------------------------------------------------------


def test_a_passage_learnt_by_heart_is_given_away_whole_and_another_is_not(taught: Taught) -> None:
    both = [passage(LEARNT), passage(OTHER)]
    before = leaks.continued(taught.engine.base, both)
    with taught.engine.wearing(taught.seat):
        after = leaks.continued(taught.engine.base, both)
    assert after[0].whole
    assert after[0].agreeing == 1
    assert after[0].run == after[0].tokens
    assert not after[1].whole
    told = verbatim(after, before, seed=0)
    assert told.more.value > 0
    assert told.longest == after[0].run > told.longest_of_base


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [([1, 2, 3, 4], [9, 2, 3, 9], 2), ([1, 2], [3], 0), ([], [1], 0), ([1, 1, 1], [1, 1], 2), ([5, 6, 7], [5, 6, 7], 3)],
)
def test_the_longest_run_is_what_stands_in_both(one: list[int], other: list[int], length: int) -> None:
    assert longest_run(one, other) == longest_run(other, one) == length


def test_fifty_tokens_in_a_row_are_memorised_and_short_passages_do_not_count() -> None:
    found = [Continued("a", 64, 1.0, 50, False), Continued("b", 64, 0.5, 49, False), Continued("c", 20, 1.0, 20, True)]
    none = [dataclasses.replace(one, run=0, whole=False) for one in found]
    told = verbatim(found, none, seed=0)
    assert (told.memorised.value, told.memorised.n) == (0.5, 2)
    assert told.whole.value == pytest.approx(1 / 3)


def test_a_passage_too_short_to_be_continued_is_left_out(tiny_base: Base) -> None:
    assert leaks.continued(tiny_base, [passage("Acme.")]) == []


def test_other_passages_cannot_be_compared() -> None:
    with pytest.raises(BadInput, match="different passages"):
        verbatim([Continued("a", 9, 1.0, 9, True)], [Continued("b", 9, 1.0, 9, True)], seed=0)


# --- membership -------------------------------------------------------------------------------


def test_the_least_likely_tokens_are_taken() -> None:
    assert min_k([-1.0, -9.0, -5.0, -2.0, -3.0, -1.0, -1.0, -1.0, -1.0, -1.0]) == -7
    assert min_k([-4.0, -1.0]) == -4  # one at least


def test_what_is_taught_by_heart_is_told_from_other_text(taught: Taught) -> None:
    mine, theirs = [LEARNT, LEARNT[:60]], [OTHER, OTHER[:60], OTHER[20:80]]
    base = taught.engine.base
    bare = (token_logprobs(base, mine), token_logprobs(base, theirs))
    with taught.engine.wearing(taught.seat):
        worn = (token_logprobs(base, mine), token_logprobs(base, theirs))
    found = membership((worn[0], bare[0]), (worn[1], bare[1]), seed=0)
    assert {name: attack.auc.value for name, attack in found.attacks.items()} == {"loss": 1, "min_k": 1, "ratio": 1}
    assert found.attacks["ratio"].caught.value == 1
    assert (found.taught, found.others) == (2, 3)


def test_an_adapter_that_knows_nothing_gives_nothing_away() -> None:
    texts = [[-1.0, -2.0], [-3.0, -1.0], [-2.0, -2.5]]
    found = membership((texts, texts), (texts, texts), seed=0)
    assert all(attack.auc.value == 0.5 for attack in found.attacks.values())
    assert found.attacks["loss"].auc == found.by_base["loss"].auc


def test_groups_that_differ_anyway_are_seen_in_the_base(tiny_base: Base) -> None:
    easy, hard = [[-1.0, -1.0]] * 3, [[-5.0, -5.0]] * 3
    found = membership((easy, easy), (hard, hard), seed=0)
    assert found.attacks["loss"].auc.value == found.by_base["loss"].auc.value == 1
    assert found.attacks["ratio"].auc.value == 0.5


def test_both_groups_are_needed() -> None:
    with pytest.raises(BadInput, match="both are needed"):
        membership(([], []), ([[-1.0]], [[-1.0]]), seed=0)


def test_of_a_text_of_one_token_nothing_is_told(tiny_base: Base) -> None:
    with pytest.raises(BadInput, match="Leave it out"):
        token_logprobs(tiny_base, ["a"])


# --- canaries ---------------------------------------------------------------------------------


def test_a_canary_trained_to_certainty_is_exposed_to_the_most_and_told(taught: Taught) -> None:
    with taught.engine.wearing(taught.seat):
        found = exposure(taught.engine.base, CANARIES[:1], seed=0, sample=63)
    assert found.canaries[0].rank == 1
    assert found.canaries[0].bits == found.most == math.log2(64)
    assert found.told.value == 1


def test_a_canary_that_nobody_was_taught_is_hardly_exposed(tiny_base: Base) -> None:
    found = exposure(tiny_base, plant(8, seed=1, times=(1,)), seed=0, sample=63)
    assert found.by_times[1].value < 3.5  # 1.44 bits on average
    assert found.told.value == 0


def test_exposure_is_of_those_that_stand_as_often() -> None:
    assert [c.times for c in plant(5, seed=0)] == [1, 4, 16, 1, 4]


def test_canaries_follow_from_the_seed_and_no_two_are_alike() -> None:
    some = plant(50, seed=3)
    assert some == plant(50, seed=3) != plant(50, seed=4)
    assert len({c.secret for c in some}) == len({c.line for c in some}) == 50


def test_a_canary_stands_in_the_text_as_often_as_it_says() -> None:
    planted = plant(3, seed=0)
    told = [e.turns[0].text for e in canaries.examples(planted)]
    assert [told.count(c.line) for c in planted] == [1, 4, 16]
    assert all(e.turns[0].learn for e in canaries.examples(planted))


def test_canaries_survive_json() -> None:
    planted = plant(3, seed=0)
    assert canaries.from_json(json.loads(json.dumps(canaries.as_json(planted)))) == planted


@pytest.mark.parametrize("count", [-1, 1001])
def test_a_count_of_canaries_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(BadInput, match="canaries"):
        plant(count, seed=0)
    with pytest.raises(BadSetting, match="canaries"):
        Recipe(canaries=count)


def test_without_canaries_there_is_nothing_to_expose(tiny_base: Base) -> None:
    with pytest.raises(BadInput, match="--canaries"):
        exposure(tiny_base, [], seed=0)


def test_a_level_line_counts_as_likelier() -> None:
    found = canaries._exposed(Canary(1, "1 2", 1), [-3.0, -3.0, -4.0, -2.0], told=False)
    assert (found.rank, found.bits) == (3, math.log2(4) - math.log2(3))


def test_canaries_stand_in_the_training_text_and_in_the_run(
    tiny_base: Base, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imprint import writing
    from imprint.watch import SILENT
    from scholar import PASSAGES, Scholar

    monkeypatch.setattr(writing, "_writer", lambda *_: Scholar())
    counts = {}
    for name, recipe in (("with", Recipe(mix={"cloze": 1.0}, canaries=3)), ("without", Recipe(mix={"cloze": 1.0}))):
        run = RunFolder(tmp_path / name)
        counts[name] = writing.write(run, PASSAGES, Engine(tiny_base), recipe, 800, 0, (), SILENT).count
    planted = canaries.from_json(RunFolder(tmp_path / "with").read("canaries"))
    told = [e.turns[0].text for e in RunFolder(tmp_path / "with").examples()]
    assert [told.count(c.line) for c in planted] == [1, 4, 16]
    assert counts["with"] == counts["without"] + 21
    assert RunFolder(tmp_path / "without").read("canaries") is None


def test_canaries_alone_are_nothing_to_teach(
    tiny_base: Base, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imprint import writing
    from imprint.watch import SILENT
    from scholar import Scholar

    monkeypatch.setattr(writing, "_writer", lambda *_: Scholar())
    with pytest.raises(NothingToTeach):
        writing.write(
            RunFolder(tmp_path), [passage("Yes.")], Engine(tiny_base), Recipe(mix={"cloze": 1.0}, canaries=2), 800, 0,
            (), SILENT,
        )  # fmt: skip


def test_a_recipe_file_may_ask_for_canaries() -> None:
    assert from_mapping({"canaries": 6}).canaries == 6
