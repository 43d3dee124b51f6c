"""The laws of a curve: each size is twice the one before, all are asked the same, and nothing is measured twice."""

from pathlib import Path

import pytest

from imprint import scaling, writing
from imprint.base import Base
from imprint.engine import Engine
from imprint.evaluation.closed_book import Question
from imprint.recipe import Recipe
from imprint.run_folder import RunFolder
from imprint.scaling import Curve, curve
from imprint.watch import SILENT
from scholar import PASSAGES, Scholar

RECIPE = Recipe(mix={"questions": 1.0, "cloze": 2.0}, rank=2, epochs=1)
ASKED = [Question("How many kilograms does the Kestrel weigh?", ("3",)), Question("Who drew it?", ("Ana Petrov",))]


@pytest.fixture(autouse=True)
def scholar(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_writer", lambda *_: Scholar())


def made(folder: Path, base: Base, most_tokens: int, questions: list[Question] | None = ASKED) -> Curve:
    return curve(
        RunFolder(folder), PASSAGES, Engine(base), RECIPE, sample=2, most_tokens=most_tokens, seed=0,
        questions=questions, watch=SILENT,
    )  # fmt: skip


def test_the_text_doubles_until_the_most_that_was_allowed(tiny_base: Base, tmp_path: Path) -> None:
    found = made(tmp_path, tiny_base, 4_000)
    sizes = [p.tokens for p in found.points]
    assert sizes == [sizes[0] * 2**i for i in range(len(sizes))]
    assert found.decision.stop
    assert sizes[-1] <= 4_000
    assert (found.passages, found.n) == (2, 2)


def test_what_was_measured_is_not_measured_again(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(tmp_path, tiny_base, 1_500)
    monkeypatch.setattr(scaling, "_measured", lambda *_: pytest.fail("it was measured again"))
    assert made(tmp_path, tiny_base, 1_500) == first


def test_without_questions_the_writer_asks_some_and_they_are_kept_out_of_the_text(
    tiny_base: Base, tmp_path: Path
) -> None:
    found = made(tmp_path, tiny_base, 1_500, questions=None)
    asked, _ = RunFolder(tmp_path).read_questions() or ([], "")
    assert found.n == len(asked) > 0
    for point in found.points:
        taught = {e.turns[0].text for e in RunFolder(tmp_path / str(point.tokens)).examples()}
        assert not taught & {q.text for q in asked}
