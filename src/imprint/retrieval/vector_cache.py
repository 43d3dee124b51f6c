"""Vectors on disk: a text is embedded once by each model, whatever document, index or proof it comes in.

    FOLDER/<hash of the embedder's name>/<hash of its keys>.safetensors     keys: N uint64, vectors: N x D float32

A file appears whole or not at all and never changes: a kill loses one group of texts at most, and processes may
share the folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from imprint.types import Embedder, content_hash

GROUP = 512
"""Texts of one file: what a kill can lose."""


class VectorCache:
    """The vectors of texts met before, in a folder that can be deleted at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def vectors(
        self, embedder: Embedder, texts: Sequence[str], told: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """N x D: what is known is read, the rest made and kept. `told` hears how many of the rest are done."""
        keys = np.array([_key(text) for text in texts], np.uint64)
        folder = self.folder / content_hash(embedder.name)
        known = _read(folder, keys)
        new = {int(key): text for key, text in zip(keys, texts, strict=True) if int(key) not in known}
        made = list(new)
        for first in range(0, len(made), GROUP):
            group = made[first : first + GROUP]

            def tell(done: int, _: int, before: int = first) -> None:
                if told is not None:
                    told(before + done, len(made))

            vectors = embedder.embed([new[key] for key in group], told=tell)
            _write(folder, np.array(group, np.uint64), vectors)
            known |= zip(group, vectors, strict=True)
        return (
            np.stack([known[int(key)] for key in keys]) if len(keys) else np.empty((0, embedder.width), np.float32)
        )


def _key(text: str) -> int:
    return int(content_hash(text.encode(errors="surrogatepass")), 16)


def _read(folder: Path, keys: np.ndarray) -> dict[int, np.ndarray]:
    """The vectors that are there, by key."""
    known: dict[int, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        read = _open(file, keys)
        if read is not None:
            known |= zip(map(int, read[0]), read[1], strict=True)
    return known


def _open(file: Path, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Keys and vectors of one file, only those asked for; None where it cannot be read, and is made again."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            held = tensors.get_tensor("keys")
            wanted = np.isin(held, keys)
            return (held[wanted], tensors.get_tensor("vectors")[wanted]) if wanted.any() else None
    except (OSError, SafetensorError):  # another process forgot it meanwhile, or the disk lost it
        return None


def _write(folder: Path, keys: np.ndarray, vectors: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".making-", delete=False) as making:
        try:
            making.write(save({"keys": keys, "vectors": np.ascontiguousarray(vectors, np.float32)}))
            making.flush()
            os.fsync(making.fileno())
            os.replace(making.name, folder / f"{content_hash(keys.tobytes())}.safetensors")
        except BaseException:
            Path(making.name).unlink(missing_ok=True)
            raise
