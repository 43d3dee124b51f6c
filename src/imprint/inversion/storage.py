"""How vectors are kept, and what comes back of them.

Shape key: N vectors, D width."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from imprint.errors import BadSetting

KINDS = ("float32", "int8", "binary", "noise")


@dataclass(frozen=True, slots=True)
class Storage:
    """A way of keeping vectors."""

    kind: str
    sigma: float = 0.0
    """Of noise: the standard deviation of what is added to each number of a vector of length 1."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadSetting(f"No way of storing vectors is called '{self.kind}'. There are: {', '.join(KINDS)}.")
        if not 0 <= self.sigma < float("inf"):
            raise BadSetting(f"The noise is {self.sigma}. Give 0 or more: noise=0.01.")

    def __str__(self) -> str:
        return f"noise={self.sigma:g}" if self.kind == "noise" else self.kind

    def bytes_each(self, width: int) -> int:
        """What one vector takes; int8 keeps a scale of its own for each."""
        return {"int8": width + 4, "binary": (width + 7) // 8}.get(self.kind, 4 * width)

    def keep(self, vectors_ND: np.ndarray, *, seed: int) -> np.ndarray:
        """The vectors as this store gives them back, float32; binary ones as signs of length 1."""
        if self.kind == "int8":
            scale_N1 = np.abs(vectors_ND).max(1, keepdims=True) / 127
            scale_N1[scale_N1 == 0] = 1
            return np.round(vectors_ND / scale_N1).astype(np.int8) * scale_N1.astype(np.float32)
        if self.kind == "binary":
            return np.where(vectors_ND >= 0, 1, -1).astype(np.float32) / np.sqrt(
                vectors_ND.shape[1], dtype=np.float32
            )
        if self.kind == "noise" and self.sigma:
            added = np.random.default_rng(seed).standard_normal(vectors_ND.shape, np.float32)
            return vectors_ND + np.float32(self.sigma) * added
        return vectors_ND.astype(np.float32)


def parse(text: str) -> tuple[Storage, ...]:
    """'float32,int8,binary,noise=0.01' as ways of storing. Raises BadSetting for anything else."""
    found = []
    for word in text.replace(" ", "").split(","):
        match = re.fullmatch(r"noise=(\d*\.?\d+(?:e-?\d+)?)", word)
        if word == "noise" or (word.startswith("noise") and not match):
            raise BadSetting(f"'{word}' does not say how much noise. Say it like this: noise=0.01.")
        found.append(Storage("noise", float(match[1])) if match else Storage(word))
    return tuple(dict.fromkeys(found))
