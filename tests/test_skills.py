"""The laws of skills: a prompt that names one is answered with it, every other prompt without."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine
from imprint.skills import SKILLS, SkilledWriter, skill, writer
from imprint.synthesis import skills
from imprint.types import Adapter, Prompt
from imprint.writers.local import LocalWriter

TEXT = "The Kestrel weighs 3 kilograms and costs 85 euros."


def strong(base: Base, seed: int) -> Adapter:
    fresh = LoRA(rank=4).fresh(base, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    return replace(fresh, tensors={n: torch.randn(t.shape, generator=draw) * 0.2 for n, t in fresh.tensors.items()})


@pytest.fixture
def worn(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Adapter | None]:
    """Skills `ask` and `read` for the tiny base."""
    made = {"ask": strong(tiny_base, 1), "read": strong(tiny_base, 2)}
    monkeypatch.setattr(writer, "_kept", made.get)
    monkeypatch.setattr(writer, "_fingerprint", str)
    return made.get


def test_each_prompt_gets_the_skill_it_names(tiny_base: Base, worn: Callable[[str], Adapter | None]) -> None:
    engine, local = Engine(tiny_base), LocalWriter(tiny_base)
    asked = [
        skills.read(TEXT, "What does it cost?"), Prompt.ask("Who?", max_tokens=9), skills.ask(TEXT, "85 euros"),
        skills.restate(TEXT), skills.read(TEXT, "What weighs 3 kilograms?"),
    ]  # fmt: skip
    texts = SkilledWriter(engine, local).write(asked, seed=0)
    for prompt, text in zip(asked, texts, strict=True):
        adapter = worn(prompt.skill)
        if adapter is None:
            assert text.text == local.write([prompt], seed=0)[0].text
        else:
            with engine.attached(adapter):
                assert text.text == local.write([prompt], seed=0)[0].text


def test_where_a_skill_is_left_out_its_prompt_says_in_words_what_it_would_know(tiny_base: Base, worn: Callable[[str], Adapter | None]) -> None:
    engine, local = Engine(tiny_base), LocalWriter(tiny_base)
    bare = SkilledWriter(engine, local, without=SKILLS)
    prompt = skills.read(TEXT, "What does it cost?")
    assert "Not in the text." in prompt.plainly().turns[-1].text
    assert bare.write([prompt], seed=0)[0].text == local.write([prompt.plainly()], seed=0)[0].text
    assert bare.name == local.name != SkilledWriter(engine, local).name


def test_a_skill_of_another_base_is_none(tiny_base: Base) -> None:
    assert [skill(name, tiny_base) for name in SKILLS] == [None] * len(SKILLS)


@pytest.mark.base
@pytest.mark.parametrize("name", ["ask", "read"])
def test_the_skills_that_come_along_fit_the_bundled_base(bundled_base: Base, name: str) -> None:
    adapter = skill(name, bundled_base)
    assert adapter is not None
    with Engine(bundled_base).attached(adapter):
        pass


@pytest.mark.base
def test_the_skill_to_read_finds_an_answer_and_says_when_there_is_none(bundled_base: Base) -> None:
    reader = SkilledWriter(Engine(bundled_base), LocalWriter(bundled_base))
    text = "Nikola Tesla was born in 1856 in Smiljan. He moved to New York in 1884 and worked for Thomas Edison."
    asked = ["Where was Tesla born?", "In what year did Tesla move to New York?", "What colour is the planet Mars?"]
    answers = [t.text for t in reader.write([skills.read(text, q) for q in asked], seed=0)]
    assert answers == ["Smiljan", "1884", skills.ABSTENTION]


@pytest.mark.parametrize(
    "text",
    [
        "Who flew? | Ana\nWhen? | in 1987",
        "1. Who flew? | Ana\n2. When? | in 1987",
        "Q: Who flew?\nA: Ana\n\nQ: When?\nA: in 1987",
        "**Question 1:** Who flew?\n**Answer:** Ana\n**Question 2:** When?\n**Answer:** in 1987",
        "1. Who flew?\nAnswer 1: Ana\n\nQuestion 2: 2. When?\nAnswer 2: in 1987",
        "- Who flew? Ana\n- When? - in 1987",
    ],
)
def test_questions_with_answers_are_found_however_they_are_set_down(text: str) -> None:
    assert skills.pairs(text) == [("Who flew?", "Ana"), ("When?", "in 1987")]


@pytest.mark.parametrize("text", ["", "Who?", "No question here.", "Who flew?\n\nWhen?"])
def test_where_there_are_no_pairs_none_are_found(text: str) -> None:
    assert skills.pairs(text) == []
