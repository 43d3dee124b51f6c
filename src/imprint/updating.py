"""Stand-in until the core lands: never merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imprint.base import Base
from imprint.pipeline import Lesson, teach_many
from imprint.recipe import Recipe
from imprint.taught import Taught
from imprint.watch import SILENT, Watch


@dataclass(frozen=True)
class Update:
    name: str
    path: str | Path
    budget: str | None = None
    recipe: Recipe | str | Path | None = None
    way: str | None = None
    seed: int = 0
    questions: Any = None


def update_many(
    updates: Sequence[Update],
    *,
    base: str | Base | None = None,
    home: Path | None = None,
    watch: Watch = SILENT,
    service: Any = None,
) -> list[Taught]:
    lessons = [Lesson(u.path, u.name, u.budget, u.recipe, u.seed, u.questions, "ignore") for u in updates]
    return teach_many(lessons, base=base, home=home, watch=watch, service=service)
