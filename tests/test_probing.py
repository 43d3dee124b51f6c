"""The laws of probing: a new adapter that costs right answers is held, and one that does not is not."""

from dataclasses import replace

import pytest
import torch

from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.continual.probing import Limits, probe
from imprint.engine import Engine
from imprint.errors import BadInput, BadSetting
from imprint.evaluation.closed_book import Question, answer_all
from imprint.evaluation.open_book import closed
from imprint.types import Adapter
from imprint.writers.local import LocalWriter

ASKED = ("How much does the Kestrel weigh?", "Who founded the company?", "When is the shop open?")


def fresh(base: Base) -> Adapter:
    """Leaves the base as it is."""
    return LoRA(rank=2).fresh(base, seed=0)


def wild(base: Base, strength: float = 1.0) -> Adapter:
    """Changes everything that is said."""
    draw = torch.Generator().manual_seed(1)
    adapter = fresh(base)
    moved = {k: t + strength * torch.randn(t.shape, generator=draw) for k, t in adapter.tensors.items()}
    return replace(adapter, tensors=moved)


def questions_that(engine: Engine, adapter: Adapter) -> list[Question]:
    """Questions whose right answer is what the model says with this adapter on."""
    asked = [Question(text, ("?",)) for text in ASKED]
    with engine.attached(adapter):
        answered, _ = answer_all(LocalWriter(engine.base), asked, closed, seed=0)
    return [Question(a.question.text, (a.text,)) for a in answered]


def test_an_adapter_that_changes_nothing_is_not_held(tiny_base: Base) -> None:
    engine = Engine(tiny_base)
    found = probe(engine, (), [fresh(tiny_base)], questions_that(engine, fresh(tiny_base)))
    assert not found.held and found.before == found.after == found.base and found.after.value == 1
    assert found.general.value == pytest.approx(1) and not found.lost


def test_right_answers_that_become_wrong_hold_an_adapter(tiny_base: Base) -> None:
    engine = Engine(tiny_base)
    asked = questions_that(engine, fresh(tiny_base))
    found = probe(engine, [fresh(tiny_base)], [wild(tiny_base)], asked)
    assert found.held and len(found.lost) > 1 and found.change.value < 0
    assert f"{len(found.lost)} of {len(asked)} questions" in found.reasons[0]
    generous = Limits(lost=1, worse=1e9)
    assert not probe(engine, [fresh(tiny_base)], [wild(tiny_base)], asked, limits=generous).held


def test_a_known_wrong_value_in_the_place_of_a_right_one_is_counted(tiny_base: Base) -> None:
    engine = Engine(tiny_base)
    right = questions_that(engine, fresh(tiny_base))
    said = questions_that(engine, wild(tiny_base))
    asked = [replace(q, wrong=w.answers) for q, w in zip(right, said, strict=True)]
    found = probe(engine, (), [wild(tiny_base)], asked, limits=Limits(lost=1, spared=0, worse=1e9))
    assert found.hostile == len(found.lost) > 0 and "known to be wrong" in found.reasons[0]


def test_the_present_version_is_what_a_new_one_is_held_against(tiny_base: Base) -> None:
    engine = Engine(tiny_base)
    asked = questions_that(engine, wild(tiny_base))
    found = probe(engine, [wild(tiny_base)], [wild(tiny_base)], asked)
    assert not found.held and found.base.value < found.before.value == 1


def test_speaking_worse_in_general_holds_an_adapter(tiny_base: Base) -> None:
    engine = Engine(tiny_base)
    # A random base reads a general text better with this adapter on than without.
    asked, strict = questions_that(engine, fresh(tiny_base)), Limits(worse=1.05)
    found = probe(engine, [wild(tiny_base, 5)], [fresh(tiny_base)], asked, limits=strict)
    assert found.won > 0 and not found.lost and found.general.value > 1.05
    assert found.held and "general text" in found.reasons[0]


def test_a_probe_needs_an_answer(tiny_base: Base) -> None:
    with pytest.raises(BadInput, match="no question has a right answer"):
        probe(Engine(tiny_base), (), [fresh(tiny_base)], [Question("Who?", ())])


def test_limits_that_mean_nothing_are_refused() -> None:
    with pytest.raises(BadSetting):
        Limits(lost=1.5)
