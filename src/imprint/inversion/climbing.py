"""A guess made better step by step: it is embedded again, and what its vector lacks of the stored one says what to
change.

The idea of Morris et al. 2023 (Text Embeddings Reveal (Almost) As Much As Text, arXiv 2310.06816), whose corrector
is a trained model; here the difference of the two vectors is read as words to put in or take out, and of some
dozens of changed texts the nearest are kept.

Shape key: N guesses, D width, W words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from imprint.inversion.words import WordReader

BEAM = 3
"""Guesses that are kept from round to round."""
ROUND = 48
"""Changed texts that are embedded at once."""
_CHOICE = 40
"""Words that a round draws from: those whose lack shows most."""

Embed = Callable[[Sequence[str]], np.ndarray]
Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Climbed:
    """The nearest guess that was found."""

    text: str
    nearness: float
    """Cosine between its vector and the stored one."""
    tried: int
    """Texts that were embedded."""


@dataclass(frozen=True, slots=True)
class _Guess:
    words: Words
    nearness: float
    vector: np.ndarray


def climb(
    embed: Embed, target_D: np.ndarray, reader: WordReader, starts: Sequence[Words], *, tries: int, seed: int
) -> Climbed:
    """The best of about so many tries, from several beginnings."""
    draw = np.random.default_rng(seed)
    target_D = target_D / max(float(np.linalg.norm(target_D)), 1e-12)
    seen = {start for start in starts if start}
    beam = _tried(embed, target_D, sorted(seen))[:BEAM]
    while beam and len(seen) < tries:
        changed = _changes(beam, target_D, reader, seen, draw, min(ROUND, tries - len(seen)))
        if not changed:
            break
        seen.update(changed)
        beam = sorted([*beam, *_tried(embed, target_D, changed)], key=_best_first)[:BEAM]
    if not beam:
        return Climbed("", 0.0, 0)
    return Climbed(" ".join(beam[0].words), beam[0].nearness, len(seen))


def _tried(embed: Embed, target_D: np.ndarray, texts: Sequence[Words]) -> list[_Guess]:
    vectors_ND = embed([" ".join(words) for words in texts])
    nearness_N = vectors_ND @ target_D
    found = [_Guess(w, float(n), v) for w, n, v in zip(texts, nearness_N, vectors_ND, strict=True)]
    return sorted(found, key=_best_first)


def _best_first(guess: _Guess) -> tuple[float, Words]:
    return -guess.nearness, guess.words


def _changes(
    beam: Sequence[_Guess],
    target_D: np.ndarray,
    reader: WordReader,
    seen: set[Words],
    draw: np.random.Generator,
    most: int,
) -> list[Words]:
    """Texts not seen before, a few words from a guess of the beam each."""
    lacks_NW = reader.surplus(target_D - np.stack([guess.vector for guess in beam]))
    wanted = [np.argsort(-lacks_W, kind="stable")[:_CHOICE] for lacks_W in lacks_NW]
    changed: dict[Words, None] = {}
    for _ in range(4 * most):  # most draws are new; where few are, the round is small
        n = int(draw.integers(len(beam)))
        words = list(beam[n].words)
        _change(words, [reader.words[i] for i in wanted[n]], partial(_lack, lacks_NW[n], reader), draw)
        if words and tuple(words) not in seen:
            changed[tuple(words)] = None
        if len(changed) == most:
            break
    return list(changed)


def _lack(lacks_W: np.ndarray, reader: WordReader, word: str) -> float:
    """How much the guess lacks the word; nothing is known of a number that was made up."""
    return float(lacks_W[reader.places[word]]) if word in reader.places else 0.0


def _change(
    words: list[str], wanted: Sequence[str], lack: Callable[[str], float], draw: np.random.Generator
) -> None:
    """One change in place: a word put in, put for another, taken out or moved, or a number's digit."""
    word = wanted[int(len(wanted) * draw.random() ** 2)]  # the first are meant most often
    what = draw.random()
    if what < 0.3 or not words:
        words.insert(int(draw.integers(len(words) + 1)), word)
    elif what < 0.6:
        words[_least_wanted(words, lack, draw)] = word
    elif what < 0.75:
        del words[_least_wanted(words, lack, draw)]
    elif what < 0.92:
        moved = words.pop(int(draw.integers(len(words))))
        words.insert(int(draw.integers(len(words) + 1)), moved)
    else:
        _other_digit(words, draw)


def _least_wanted(words: Sequence[str], lack: Callable[[str], float], draw: np.random.Generator) -> int:
    """The place of the word that the guess has too much of, among three drawn."""
    drawn = [int(i) for i in draw.integers(len(words), size=3)]
    return min(drawn, key=lambda i: (lack(words[i]), i))


def _other_digit(words: list[str], draw: np.random.Generator) -> None:
    """Numbers cannot all be met in training; their digits can be tried."""
    places = [(i, j) for i, word in enumerate(words) for j, sign in enumerate(word) if sign.isdigit()]
    if places:
        i, j = places[int(draw.integers(len(places)))]
        words[i] = words[i][:j] + str(draw.integers(10)) + words[i][j + 1 :]
