"""How much of the texts can be read back from their vectors alone (docs/vectors.md).

Stored vectors look like numbers and are taken for harmless. The audit plays who stole them: it learns from some of
the texts how the embedder's vectors tell of words, guesses others from their vectors, and counts what it got
right.

    audit = audit_index(Stored(texts), embedders.load(), Settings(budget_s=600), folder=Path("audit"))
    audit.storages[0].verdict
"""

from imprint.inversion.audit import IndexAudit, Settings, StorageAudit, audit_index
from imprint.inversion.storage import Storage, parse
from imprint.inversion.stored import Stored, read_stored, texts_of
from imprint.inversion.verdict import Verdict

__all__ = [
    "IndexAudit", "Settings", "Storage", "StorageAudit", "Stored", "Verdict", "audit_index", "parse", "read_stored",
    "texts_of",
]  # fmt: skip
