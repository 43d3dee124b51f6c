"""A file that says what is to be done for many adapters in one command: taught, or looked at every night."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imprint.errors import BadSetting
from imprint.pipeline import Lesson
from imprint.recipe import read_toml, unknown_key
from imprint.updating import Update

_LESSON: dict[str, type] = {
    "path": str, "as": str, "budget": str, "recipe": str, "seed": int, "questions": str, "personal": str,
}  # fmt: skip
_PERSON: dict[str, type] = {
    "path": str, "name": str, "budget": str, "recipe": str, "way": str, "seed": int, "questions": str,
    "personal": str,
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
    return [Lesson(name=entry.pop("as"), **entry) for entry in _entries(file, "teach", "as", _LESSON, usual)]


def read_people(file: Path, usual: Mapping[str, Any]) -> list[Update]:
    """The people of a TOML file, in sections [[person]] with name and path; else as for `read`.

    Keys: name, path, and where wanted budget, recipe, way, seed, questions, personal."""
    return [Update(**entry) for entry in _entries(file, "person", "name", _PERSON, usual)]


def _entries(
    file: Path, section: str, name: str, keys: Mapping[str, type], usual: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The sections of a job file, with what stands in for what they do not say."""
    said = read_toml(file, "job file")
    entries = said.pop(section, [])
    if not (isinstance(entries, list) and entries and all(isinstance(entry, dict) for entry in entries)):
        raise BadSetting(f"{file} names nothing to teach. It needs a section [[{section}]] for each adapter.")
    common = {key: kind for key, kind in keys.items() if key not in ("path", name)}
    _check(said, f"{file}, above its first [[{section}]],", common)
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"[[{section}]] number {number} of {file}"
        given = said | entry
        _check(given, where, keys)
        for key in ("path", name):
            if key not in given:
                raise BadSetting(
                    f"{where} has no '{key}'. It needs path (the documents) and {name} (the adapter's name)."
                )
        files = {key: file.parent / Path(given[key]).expanduser() for key in _FILES if key in given}
        found.append(dict(usual) | given | files)
    return found


def _check(entry: Mapping[str, Any], where: str, keys: Mapping[str, type]) -> None:
    for key, value in entry.items():
        if key not in keys:
            raise unknown_key(key, keys, where)
        if isinstance(value, bool) or not isinstance(value, keys[key]):
            raise BadSetting(f"'{key}' in {where} must be {keys[key].__name__}; it is {value!r}.")
