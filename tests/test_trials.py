"""The laws of trials: what a plan hangs on is tried anew, what it only tells is tried once."""

from pathlib import Path

import pytest

from imprint import stages, trials
from imprint.base import Base
from imprint.engine import Engine
from imprint.planner import Budget, Speeds
from imprint.recipe import Recipe
from imprint.run_folder import RunFolder
from imprint.types import Passage
from imprint.watch import SILENT

SAID = "Every employee of Acme has 27 days of paid vacation a year."


@pytest.mark.parametrize(("budget", "trials_made"), [(Budget(tokens=20_000), 1), (None, 1), (Budget(seconds=60.0), 3)])
def test_speed_is_tried_once_for_a_recipe_where_no_time_is_to_be_kept_to(
    budget: Budget | None, trials_made: int, tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(recipe: Recipe, passages: list[Passage], *_: object) -> Speeds:
        made.append(passages[0].title)
        return Speeds(100.0, 100.0)

    monkeypatch.setattr(trials, "speeds", counted)
    monkeypatch.setattr(trials, "_TRIED", {})
    for person in ("anna", "bert", "carla"):
        recipe = Recipe(mix={"cloze": 1.0}, text_tokens=len(person) * 20)
        mine = [Passage("d", 0, len(SAID), SAID, person)]
        stages.planned(RunFolder(tmp_path / person), mine, Engine(tiny_base), recipe, budget, SILENT)
    assert made == ["anna", "bert", "carla"][:trials_made]
