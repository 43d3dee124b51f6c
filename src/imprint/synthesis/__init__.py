"""Passages and a writer make examples."""

from __future__ import annotations

from collections.abc import Callable

from imprint.synthesis.active_reading import ActiveReading
from imprint.synthesis.back_translation import BackTranslation
from imprint.synthesis.cloze import Cloze
from imprint.synthesis.entigraph import EntiGraph
from imprint.synthesis.excerpts import Excerpts
from imprint.synthesis.focal import Focal
from imprint.synthesis.multi_document import MultiDocument
from imprint.synthesis.negatives import Negatives
from imprint.synthesis.questions import Questions
from imprint.synthesis.raw_text import RawText
from imprint.synthesis.rephrase import Rephrase
from imprint.synthesis.replay import Replay
from imprint.synthesis.reversal import Reversal
from imprint.synthesis.self_edit import SelfEdit
from imprint.synthesis.self_study import SelfStudy
from imprint.synthesis.summaries import Summaries
from imprint.synthesis.unanswerable import Unanswerable
from imprint.types import Generator

KINDS: dict[str, Callable[..., Generator]] = {
    "questions": Questions,
    "cloze": Cloze,
    "self_study": SelfStudy,
    "reversal": Reversal,
    "negatives": Negatives,
    "unanswerable": Unanswerable,
    "multi_document": MultiDocument,
    "rephrase": Rephrase,
    "summaries": Summaries,
    "focal": Focal,
    "entigraph": EntiGraph,
    "active_reading": ActiveReading,
    "self_edit": SelfEdit,
    "back_translation": BackTranslation,
    "excerpts": Excerpts,
    "raw_text": RawText,
    "replay": Replay,
}
"""Every kind of synthesis, by the name that recipes use: questions first, then texts."""
