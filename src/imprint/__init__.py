"""imprint teaches a language model your documents by training them into a small adapter.

    documents.load      files            -> Documents
    documents.split     a Document       -> Passages
    synthesis           Passages         -> Examples, audited
    training            Examples         -> an adapter
    registry            an adapter       -> handbook@1
    evaluation          handbook@1       -> a Proof, next to full context and RAG

    import imprint
    handbook = imprint.teach("./handbook", name="handbook")
    print(handbook.ask("How many vacation days do I get?"))
    print(handbook.proof)

Teaching reads top to bottom in pipeline.py, asking and proving in taught.py. The names below are promised to
stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imprint.advice import Advice, Use
    from imprint.advising import advise
    from imprint.certifying.examined import Examined, OtherModel
    from imprint.evaluation.certificate import Certificate
    from imprint.evaluation.closed_book import Question
    from imprint.evaluation.proof import Proof
    from imprint.forgetting import Forgotten, forget
    from imprint.learning_map import LearningMap, MapSettings
    from imprint.pipeline import Lesson, curve, draw_map, estimate, teach, teach_many
    from imprint.rebasing import rebase, rollback
    from imprint.recipe import Recipe
    from imprint.scaling import Curve
    from imprint.taught import Answer, Taught, Together, open, open_as_of, together
    from imprint.updating import Update, update, update_many

__version__ = "0.1.0"
__all__ = [
    "Advice", "Answer", "Certificate", "Curve", "Examined", "Forgotten", "LearningMap", "Lesson", "MapSettings",
    "OtherModel", "Proof", "Question", "Recipe", "Taught", "Together", "Update", "Use",
    "advise", "curve", "draw_map", "estimate", "forget", "open", "open_as_of", "rebase", "rollback", "teach",
    "teach_many", "together", "update", "update_many",
]  # fmt: skip

_HOMES = {
    "Advice": "imprint.advice",
    "Answer": "imprint.taught",
    "Certificate": "imprint.evaluation.certificate",
    "Curve": "imprint.scaling",
    "Examined": "imprint.certifying.examined",
    "Forgotten": "imprint.forgetting",
    "LearningMap": "imprint.learning_map",
    "Lesson": "imprint.pipeline",
    "MapSettings": "imprint.learning_map",
    "OtherModel": "imprint.certifying.examined",
    "Proof": "imprint.evaluation.proof",
    "Question": "imprint.evaluation.closed_book",
    "Recipe": "imprint.recipe",
    "Taught": "imprint.taught",
    "Together": "imprint.taught",
    "Update": "imprint.updating",
    "Use": "imprint.advice",
    "advise": "imprint.advising",
    "curve": "imprint.pipeline",
    "draw_map": "imprint.pipeline",
    "estimate": "imprint.pipeline",
    "forget": "imprint.forgetting",
    "open": "imprint.taught",
    "open_as_of": "imprint.taught",
    "rebase": "imprint.rebasing",
    "rollback": "imprint.rebasing",
    "teach": "imprint.pipeline",
    "teach_many": "imprint.pipeline",
    "together": "imprint.taught",
    "update": "imprint.updating",
    "update_many": "imprint.updating",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used: `imprint --help` must not wait for torch.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'imprint' has no attribute '{name}'")
