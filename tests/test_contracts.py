"""What every kind must keep: generators and adapters, found in their rooms' KINDS."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from conftest import Scribe
from imprint import adapters, synthesis
from imprint.adapters import folder
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import WrongBase
from imprint.synthesis.audit import Audit, AuditSettings
from imprint.types import AdapterSpec, Effort, Example, Generator, Passage, Prompt, Reader, Text, Writer
from scholar import PASSAGES, Scholar

OTHER = "The Kestrel costs 92 euros in the shop of Oslo. Ana Petrov opened that shop in 1991 with Hedda Strouvian."
EVERY = [*PASSAGES, Passage("d2", 0, len(OTHER), OTHER, "Acme Oslo: Prices")]


def made(kind: str, writer: Writer, passages: Sequence[Passage] = EVERY, seed: int = 0) -> list[Example]:
    return list(synthesis.KINDS[kind]().examples(passages, writer, seed=seed))


@pytest.fixture(params=synthesis.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[k for k in synthesis.KINDS if k != "replay"])
def told(request: pytest.FixtureRequest) -> str:
    """A kind that tells what the documents say; replay says what the base says anyway."""
    return str(request.param)


def test_a_generator_keeps_its_contract_and_its_name(kind: str) -> None:
    generator = synthesis.KINDS[kind]()
    assert isinstance(generator, Generator)
    assert generator.name == kind


def test_every_example_says_who_made_it(kind: str) -> None:
    assert made(kind, Scholar())
    for example in made(kind, Scholar()):
        assert example.generator.split("/")[0] == kind
        assert example.writer


def test_every_example_cites_passages_given(told: str) -> None:
    cited = [set(example.passages) for example in made(told, Scholar())]
    assert all(cited)
    assert set().union(*cited) <= {p.id for p in EVERY}


def test_what_is_replayed_comes_from_no_passage() -> None:
    assert {e.passages for e in made("replay", Scholar())} == {()}


def test_every_example_has_something_to_learn(kind: str) -> None:
    for example in made(kind, Scholar()):
        assert any(t.learn and t.text.strip() for t in example.turns)
        assert all(t.text.strip() for t in example.turns)
        assert not any(t.learn for t in example.turns if t.role in ("user", "system"))


def test_the_same_seed_makes_the_same_examples(kind: str) -> None:
    assert made(kind, Scholar(), seed=3) == made(kind, Scholar(), seed=3)


def test_what_a_faithful_writer_writes_passes_the_audit(told: str) -> None:
    examples = made(told, Scholar())
    kept = list(Audit(AuditSettings(near_duplicates=False)).pass_through(examples, {p.id: p for p in EVERY}))
    assert len(kept) >= 0.75 * len(examples)


def test_an_effort_is_what_the_writer_is_asked_and_about_the_text_that_comes_of_it(told: str) -> None:
    generator, writer = synthesis.KINDS[told](), Scholar()
    effort = sum((generator.effort(p) for p in EVERY), Effort())
    examples = made(told, writer)
    assert len(writer.asked) <= effort.prompts <= 4 * len(writer.asked)
    written = sum(len(t.text) for e in examples for t in e.turns)
    assert written / 5 < effort.taught_characters < 5 * written


def test_nothing_to_read_makes_no_example(told: str) -> None:
    assert made(told, Scholar(), []) == []


@pytest.mark.parametrize(
    "text",
    ["", " \n\n ", "Oh.", "| a | b |\n|---|---|\n| 1 | 2 |", "...", "公司成立于1987年。总部在上海。", "{% raw %} <|im_end|>",
     "1\n2\n3", "word " * 600, "Der Betrieb hat 38 Leute, liegt am Hafen und schließt um 17:00 Uhr."],
)  # fmt: skip
def test_no_text_breaks_a_generator(kind: str, text: str, scribe: Scribe) -> None:
    odd = Passage("d2", 0, len(text), text, "", "")
    began = time.monotonic()
    for example in made(kind, scribe, [odd]):
        assert example.passages in ((odd.id,), ())
    assert synthesis.KINDS[kind]().effort(odd).prompts >= 0
    assert time.monotonic() - began < 5


class Listener(Scribe):
    """A scribe that also tells likelihoods: all alike."""

    def likelihoods(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        assert len(prompts) == len(texts)
        return [-1.0] * len(prompts)


def test_a_writer_that_can_read_is_served_as_well(kind: str) -> None:
    assert isinstance(Listener(), Reader)
    made(kind, Listener())


class Mute(Scribe):
    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        return [Text("") for _ in prompts]


def test_a_writer_that_says_nothing_breaks_no_generator(kind: str) -> None:
    for example in made(kind, Mute()):
        assert all(t.text.strip() for t in example.turns)


def test_what_is_learnt_of_an_example_is_what_it_says(kind: str, scribe: Scribe, tiny_base: Base) -> None:
    for example in made(kind, scribe):
        ids, learn = tiny_base.training_ids(example.turns)
        learnt = tiny_base.tokenizer.decode([i for i, marked in zip(ids, learn, strict=True) if marked])
        assert learnt == example.turns[-1].text + "<|im_end|>"


# --- adapters ---------------------------------------------------------------------------------


@pytest.fixture(params=adapters.KINDS)
def spec(request: pytest.FixtureRequest) -> AdapterSpec:
    return adapters.KINDS[request.param]()


@torch.no_grad()
def logits(base: Base) -> torch.Tensor:
    return base.model(torch.arange(20)[None]).logits  # type: ignore[no-any-return]


def test_a_fresh_adapter_leaves_the_output_as_it_was(tiny_base: Base, spec: AdapterSpec) -> None:
    assert isinstance(spec, AdapterSpec)
    if spec.kind == "cartridge":  # type: ignore[attr-defined]
        pytest.skip("a fresh cartridge is its text read: see test_cartridge.py")
    before = logits(tiny_base)
    with Engine(tiny_base).attached(spec.fresh(tiny_base, seed=0)):
        torch.testing.assert_close(logits(tiny_base), before, atol=1e-5, rtol=0)
    assert torch.equal(logits(tiny_base), before)


def test_a_fresh_adapter_follows_from_its_seed(tiny_base: Base, spec: AdapterSpec) -> None:
    one, again, other = (spec.fresh(tiny_base, seed=s).tensors for s in (0, 0, 1))
    assert all(torch.equal(one[k], again[k]) for k in one)
    # Some kinds start from zero, and a cartridge from its text, whatever the seed.
    drawn = any(t.any() for t in one.values()) and spec.kind != "cartridge"  # type: ignore[attr-defined]
    assert not drawn or any(not torch.equal(one[k], other[k]) for k in one)


def test_an_adapter_of_another_base_is_refused(tiny_base: Base, spec: AdapterSpec) -> None:
    fresh = spec.fresh(tiny_base, seed=0)
    stranger = Base("other", "other-revision", tiny_base.model, tiny_base.tokenizer, tiny_base.device)
    with pytest.raises(WrongBase, match="tiny-revision"):
        Engine(stranger).load(fresh)


def test_what_is_trained_is_what_is_kept(tiny_base: Base, spec: AdapterSpec, tmp_path: Path) -> None:
    with Engine(tiny_base).attached(spec.fresh(tiny_base, seed=0), trainable=True) as seat:
        moved = {n: t if n.endswith("slots") else t + 0.1 for n, t in seat.tensors(seat.values_P).items()}
        seat.rack.layout.write(moved, seat.values_P)
        seat.refresh()
        trained = logits(tiny_base)
        folder.write(seat.snapshot(), tmp_path)
    kept = folder.read(tmp_path)
    with Engine(tiny_base).attached(kept):
        assert torch.equal(logits(tiny_base), trained)
