"""Models that make vectors of texts: a folder in sentence-transformers' form, or any server's `/embeddings`.

embedder = load()                                       all-MiniLM-L6-v2, which comes as a package
embedder = load("BAAI/bge-small-en-v1.5")               a folder, or a name on the model hub
embedder = EndpointEmbedder(Endpoint("text-embedding-3-small"))
"""

from __future__ import annotations

from imprint.embedders.endpoint import EndpointEmbedder
from imprint.embedders.local import BUNDLED, LocalEmbedder, is_bundled, load

__all__ = ["BUNDLED", "EndpointEmbedder", "LocalEmbedder", "is_bundled", "load"]
