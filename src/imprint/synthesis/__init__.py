"""Passages and a writer make examples."""

from __future__ import annotations

from collections.abc import Callable

from imprint.synthesis.raw_text import RawText
from imprint.synthesis.rephrase import Rephrase
from imprint.synthesis.replay import Replay
from imprint.synthesis.self_study import SelfStudy
from imprint.types import Generator

KINDS: dict[str, Callable[..., Generator]] = {
    "self_study": SelfStudy,
    "rephrase": Rephrase,
    "replay": Replay,
    "raw_text": RawText,
}
"""Every kind of synthesis, by the name that recipes use."""
