"""A file that says what is to be taught: many adapters in one command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imprint.errors import BadSetting
from imprint.pipeline import Lesson
from imprint.recipe import read_toml, unknown_key

_KEYS: dict[str, type] = {
    "path": str, "as": str, "budget": str, "recipe": str, "seed": int, "questions": str, "personal": str,
}  # fmt: skip
_FILES = ("path", "recipe", "questions")


def read(file: Path, usual: Mapping[str, Any]) -> list[Lesson]:
    """The lessons of a TOML file; its relative paths start where the file lies.

        budget = "30min"        # for every one that does not say otherwise

        [[teach]]
        path = "handbook"
        as = "handbook"

    Keys: path, as, and where wanted budget, recipe, seed, questions, personal, for which `usual` stands in where
    neither the entry nor the file's head says. Raises BadSetting, naming the entry."""
    said = read_toml(file, "job file")
    entries = said.pop("teach", [])
    if not (isinstance(entries, list) and entries and all(isinstance(entry, dict) for entry in entries)):
        raise BadSetting(f"{file} names nothing to teach. It needs a section [[teach]] for each adapter.")
    _check(said, f"{file}, above its first [[teach]],", refused=("path", "as"))
    return [_lesson(said | entry, file, number, usual) for number, entry in enumerate(entries, 1)]


def _lesson(entry: Mapping[str, Any], file: Path, number: int, usual: Mapping[str, Any]) -> Lesson:
    where = f"[[teach]] number {number} of {file}"
    _check(entry, where)
    for key in ("path", "as"):
        if key not in entry:
            raise BadSetting(f"{where} has no '{key}'. It needs path (the documents) and as (the adapter's name).")
    given = dict(entry)
    for key in _FILES:
        if key in given:
            given[key] = file.parent / Path(given[key]).expanduser()
    return Lesson(name=given.pop("as"), **(dict(usual) | given))


def _check(entry: Mapping[str, Any], where: str, refused: tuple[str, ...] = ()) -> None:
    known = [key for key in _KEYS if key not in refused]
    for key, value in entry.items():
        if key not in known:
            raise unknown_key(key, known, where)
        if isinstance(value, bool) or not isinstance(value, _KEYS[key]):
            raise BadSetting(f"'{key}' in {where} must be {_KEYS[key].__name__}; it is {value!r}.")
