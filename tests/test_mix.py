"""The laws of mixes: shares are kept, every passage is met, and nothing goes on when nothing new comes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from imprint.synthesis import mix
from imprint.synthesis.audit import Audit, AuditSettings
from imprint.synthesis.forms import reading
from imprint.types import Effort, Example, Generator, Passage, Writer
from scholar import Scholar, passage

PASSAGES = [passage(f"The house number {i} of this street has {i + 3} windows.", i) for i in range(40)]


@dataclass
class Says:
    """A kind that tells each passage once a round, in new words for so many rounds."""

    name: str
    rounds: int = 10**6
    length: int = 100
    prompts: int = 0

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        if seed % 1000 < self.rounds or seed % 1000 == 999:
            for p in passages:
                yield reading([p], f"{seed} {p.start} ".ljust(self.length, "."), f"{self.name}/x", "rules")

    def effort(self, passage: Passage) -> Effort:
        return Effort(self.prompts, 100, self.length, self.length)


def mixed(kinds: Sequence[tuple[Generator, float]], characters: int, seed: int = 0) -> list[Example]:
    plain = AuditSettings(faithful=False, quotas=False, near_duplicates=False)
    return list(mix.mixed(kinds, PASSAGES, Scholar(), Audit(plain), characters=characters, seed=seed))


def revised_mix(kinds: Sequence[tuple[Generator, float]], planned: int, wanted: int) -> tuple[int, list[int]]:
    """Characters of a mix that is told once to have others, and what it said that it had then."""
    met: list[int] = []

    def revise(told: int, worth: int) -> int:
        met.extend((told, worth))
        return wanted

    plain = AuditSettings(faithful=False, quotas=False, near_duplicates=False)
    made = mix.mixed(kinds, PASSAGES, Scholar(), Audit(plain), characters=planned, seed=0, revise=revise)
    return sum(characters(list(made)).values()), met


def characters(examples: Sequence[Example]) -> Counter[str]:
    told: Counter[str] = Counter()
    for example in examples:
        told[example.generator.partition("/")[0]] += sum(len(t.text) for t in example.turns)
    return told


@pytest.mark.parametrize("amount", [3_000, 30_000, 200_000])
def test_shares_are_kept(amount: int) -> None:
    told = characters(mixed([(Says("a"), 3.0), (Says("b", length=250), 1.0)], amount))
    assert told["a"] == pytest.approx(0.75 * amount, rel=0.1, abs=300)
    assert told["b"] == pytest.approx(0.25 * amount, rel=0.15, abs=600)


def test_what_a_dry_kind_leaves_the_others_take_over() -> None:
    told = characters(mixed([(Says("a", rounds=1), 1.0), (Says("b"), 1.0)], 100_000))
    assert told["a"] < 10_000
    assert sum(told.values()) == pytest.approx(100_000, rel=0.05)


def test_when_all_are_dry_it_ends() -> None:
    assert len(mixed([(Says("a", rounds=2), 1.0)], 10**9)) == 2 * len(PASSAGES)


def test_a_kind_is_not_dry_because_of_a_few_items_chance_left_none() -> None:
    kinds = [(Says("a"), 30.0), (Says("b"), 1.0)]
    told = [characters(mixed(kinds, 6_000, seed))["b"] for seed in range(20)]
    assert all(told)
    assert max(told) <= 450


def test_what_is_whole_only_with_all_its_passages_is_given_all_of_them() -> None:
    class Listens(Says):
        def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
            assert len(passages) == len(PASSAGES)
            yield from super().examples(passages, writer, seed=seed)

    for name in ("back_translation", "reversal"):
        assert mixed([(Listens(name, prompts=1), 1.0)], 1_000)


def test_every_passage_is_met_about_as_often_as_any_other() -> None:
    met = Counter(e.passages[0] for e in mixed([(Says("a"), 1.0)], 50_000))
    assert set(met) == {p.id for p in PASSAGES}
    assert max(met.values()) - min(met.values()) <= 2


class Thick(Says):
    """Ten items of each passage."""

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        for p in passages:
            for i in range(10):
                yield reading([p], f"{seed} {p.start} {i}".ljust(100, "."), f"{self.name}/x", "rules")

    def effort(self, passage: Passage) -> Effort:
        return Effort(self.prompts, 100, 1200, 1200)


def test_of_what_rules_make_every_passage_has_some() -> None:
    met = Counter(e.passages[0] for e in mixed([(Thick("a"), 1.0)], 15_000))
    assert len(met) >= 0.9 * len(PASSAGES)
    assert max(met.values()) <= 8


def test_rounds_over_some_passages_take_turns() -> None:
    part = mix._Part(Says("a"), 1.0, True, 100.0)
    met = Counter(p.id for i in range(10) for p in part.deal(PASSAGES, 0.3, str(i)))
    assert set(met.values()) == {3}
    assert len(part.deal(PASSAGES, 0.001, "x")) == 1


def test_the_same_seed_makes_the_same_mix() -> None:
    kinds = [(Says("a"), 1.0), (Says("b"), 2.0)]
    assert mixed(kinds, 20_000) == mixed(kinds, 20_000)
    assert mixed(kinds, 20_000) != mixed(kinds, 20_000, seed=1)


def test_passages_of_which_little_was_told_are_written_about_again() -> None:
    class Half(Says):
        def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
            for p in passages:
                if seed % 1000 == 999 or p.start < 20_000:
                    yield reading([p], f"{seed} {p.text}", "questions/x", "rules")

    examples = mixed([(Half("questions"), 1.0)], 60_000)
    assert {e.passages[0] for e in examples} == {p.id for p in PASSAGES}


def test_an_effort_grows_with_the_text_wanted() -> None:
    kinds = [(Says("a", prompts=1), 1.0), (Says("b"), 1.0)]
    small, large = (mix.effort(kinds, PASSAGES, n) for n in (40_000, 80_000))
    assert (small.prompts, large.prompts) == (200, 400)
    assert large.taught_characters == pytest.approx(80_000, rel=0.01)


@pytest.mark.parametrize("wanted", [20_000, 60_000, 110_000])
def test_a_mix_may_be_told_once_to_be_longer_or_shorter(wanted: int) -> None:
    kinds = [(Says("a"), 3.0), (Says("b", prompts=1), 1.0)]
    total, met = revised_mix(kinds, 60_000, wanted)
    assert total == pytest.approx(wanted, rel=0.1)
    # A round of each told as much; b alone is written, and a quarter of the mix: four times its half.
    assert met[1] == 2 * met[0] and 0 < met[0] < 20_000
    assert revised_mix(kinds, 60_000, 60_000)[0] == sum(characters(mixed(kinds, 60_000)).values())
