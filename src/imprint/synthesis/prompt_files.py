"""The prompt texts, read once each."""

from __future__ import annotations

import functools
from importlib import resources


@functools.cache
def prompt_file(name: str) -> str:
    """The text of a file in prompts/."""
    return resources.files("imprint.synthesis").joinpath("prompts", name).read_text("utf-8")
