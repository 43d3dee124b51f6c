"""The prompt texts, one file each: KIND.txt or KIND.PART.txt belongs to the kind of synthesis of that name, those
of SHARED to all."""

from __future__ import annotations

import functools
import re
from importlib import resources

from imprint.types import content_hash

SHARED = ("audit", "design", "skills")
"""What every kind may use: how items are judged, in which forms texts are told, what the skills are asked."""


@functools.cache
def prompt_file(name: str) -> str:
    """The text of a file in prompts/."""
    return resources.files("imprint.synthesis").joinpath("prompts", name).read_text("utf-8")


@functools.cache
def prompt_lines(name: str) -> tuple[str, ...]:
    """The lines of a file in prompts/ without empty ones and comments (#)."""
    return tuple(line for line in prompt_file(name).splitlines() if line.strip() and not line.startswith("#"))


def filled(name: str, **values: str) -> str:
    """A prompt file with {key} replaced by each value; other braces, as documents have them, stay."""
    return filled_in(prompt_file(name).strip(), **values)


def filled_in(text: str, **values: str) -> str:
    """A line of a prompt file in the same way; braces in a value stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m.group(1), m.group()), text)


def prompt_hashes(kinds: tuple[str, ...]) -> dict[str, str]:
    """Content hashes of the prompt files of these kinds, and of those that all share: lineage."""
    folder = resources.files("imprint.synthesis").joinpath("prompts")
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".txt"))
    return {n: content_hash(prompt_file(n)) for n in names if n.split(".")[0] in (*kinds, *SHARED)}
