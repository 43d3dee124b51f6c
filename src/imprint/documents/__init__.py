"""What the user brings: files and folders become Documents, Documents become Passages.

loaded = load("./handbook")
passages = [passage for document in loaded.documents for passage in split(document)]
"""

from imprint.documents.chunking import split
from imprint.documents.kinds import KINDS
from imprint.documents.loaders import Loaded, listed, load
from imprint.documents.sentences import sentences

__all__ = ["KINDS", "Loaded", "listed", "load", "sentences", "split"]
