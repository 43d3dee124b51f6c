"""Bits of fact that an adapter came to hold, and how many that makes for each trainable parameter.

Measured on facts that the base cannot know (after Morris et al. 2025, arXiv 2505.24832: what a model has memorised
of a text is by how much it shortens the text's code). A fact counts once however often it was rehearsed. What
is honest, and so done here:

- A value's code length is -log2 of the probability of its tokens, given the question. Its closing token is not
  counted, nor is the question: which questions there are is not to be recalled.
- What a value looks like is no memory of it. A value is held against the shorter of the untouched base's code and
  the code of one who knows how values are drawn and nothing else (its entropy, where that is known): learning
  that phone numbers have ten digits earns nothing. Taking the shorter fact by fact undercounts a little.
- Facts that were not learnt do not count against those that were: of each fact the shorter of the code before and
  the code after is taken. But by luck alone a guess is often shorter than the entropy, so whoever decodes must
  be told for which facts the adapter's code is used, and those choices are paid for: n facts, of which a share p is
  read with the adapter, cost n times the binary entropy of p. Where reading all with the adapter is cheaper, that
  counts instead. So an adapter that learnt the format alone is found to hold nothing, but for one or two bits.
- All probability on other spellings of the value (other tokens of the same text) is left out: undercounted again.

The sum is therefore a lower bound of what the adapter holds. Of what it could hold it says something only where
more was offered than was kept: see Capacity.filled."""

from __future__ import annotations

import csv
import json
import math
import random
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imprint.base import Base, in_passes
from imprint.engine import Engine, Seat
from imprint.engine.passes import PassRow, logprobs
from imprint.errors import BadInput
from imprint.evaluation.closed_book import interval
from imprint.types import Example, Prompt, Score, Turn, Writer

_PASS_TOKENS, _PASS_TOKENS_GPU = 2048, 32_768
_PHONE_BITS = math.log2(8 * 100 * 8 * 100 * 9 * 1000)
"""Of a PhoneBook number: its first and fourth digit are never 0 or 1, its seventh never 0, the others are any."""
_PHONE = re.compile(r"[2-9]\d\d-[2-9]\d\d-[1-9]\d{3}")
_LINE = re.compile(r"Question: (.+?\?) Answer: (.+)")


@dataclass(frozen=True, slots=True)
class Fact:
    """A question, and its answer that nobody can guess."""

    key: str
    """The question."""
    value: str
    bits: float | None = None
    """Entropy of the value for one who knows how values are drawn; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much of what was offered came to be held."""

    bits: Score
    """Bits held, with the 95 % bootstrap interval over facts."""
    offered_bits: float
    """Bits of all facts for one who was not taught them."""
    recalled: Score
    """Share of the facts whose value is written out exactly, taking the likeliest token each time."""

    @property
    def filled(self) -> bool:
        """Whether the adapter held less than nine tenths of what was offered.

        Else more might have gone in, and the bits are only a lower bound of its capacity."""
        return self.bits.value < 0.9 * self.offered_bits

    def per_parameter(self, parameters: int) -> Score:
        """Bits for each of so many trainable parameters."""
        value, low, high = (x / parameters for x in (self.bits.value, self.bits.low, self.bits.high))
        return Score(value, low, high, self.bits.n, "bits per parameter")


# --- facts ------------------------------------------------------------------------------------


def random_strings(n: int, length: int, *, seed: int, alphabet: str = string.ascii_lowercase) -> list[Fact]:
    """Numbered records, each with a string of that length whose letters are drawn evenly from an alphabet.

    Their entropy is known exactly. The numbers of the records are drawn too, all different."""
    if n < 1 or length < 1 or len(set(alphabet)) != len(alphabet) or len(alphabet) < 2:
        raise BadInput(
            f"{n} strings of {length} letters from {alphabet!r} cannot be drawn. Give at least one string of one "
            "letter, and an alphabet of two or more letters, each once."
        )
    return _records(n, length, alphabet, "", seed)


def random_words(base: Base, n: int, length: int, *, seed: int) -> list[Fact]:
    """Numbered records, each with so many words drawn evenly from those that are one token of this base.

    Their entropy is known exactly, and a token of them carries more bits than one of random letters, so that an
    adapter is full sooner. Raises BadInput where too few words are one token."""
    words = _words_of_one_token(base)
    if n < 1 or length < 1 or len(words) < 2:
        raise BadInput(
            f"{n} records of {length} words of {len(words)} cannot be drawn. Give at least one record of one word, "
            "and a base whose tokenizer has words."
        )
    return _records(n, length, words, " ", seed)


def _records(n: int, length: int, parts: Sequence[str], between: str, seed: int) -> list[Fact]:
    """Numbered records, each with so many parts drawn evenly, and the entropy that they have so."""
    draw = random.Random(seed)
    digits = max(4, len(str(n)) + 1)
    numbers = draw.sample(range(10 ** (digits - 1), 10**digits), n)
    bits = length * math.log2(len(parts))
    return [
        Fact(f"What is the code of record {number}?", between.join(draw.choices(parts, k=length)), bits)
        for number in numbers
    ]


def _words_of_one_token(base: Base) -> list[str]:
    """Words of small letters that, after a space, are one token."""
    found = set()
    for token in base.tokenizer.get_vocab().values():
        text = base.tokenizer.decode([token])
        if re.fullmatch(r" [a-z]{2,}", text) and base.tokenizer.encode(text, add_special_tokens=False) == [token]:
            found.add(text[1:])
    return sorted(found)


def read_phonebook(path: Path) -> list[Fact]:
    """The facts of a PhoneBook file: CSV with lines 'Question: ...? Answer: ...', or JSON with question and answer.

    A question asked again with the same answer counts once. Raises BadInput naming file and line."""
    try:
        text = path.read_text("utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{path} cannot be read as UTF-8 text: {error}") from None
    facts: dict[str, Fact] = {}
    for where, key, value in _pairs(path, text):
        known = facts.setdefault(key, Fact(key, value, _PHONE_BITS if _PHONE.fullmatch(value) else None))
        if known.value != value:
            raise BadInput(f"{where}: {key!r} has the answer {value!r} here and {known.value!r} before. Keep one.")
    if not facts:
        raise BadInput(f"{path} holds no fact.")
    return list(facts.values())


def _pairs(path: Path, text: str) -> Iterator[tuple[str, str, str]]:
    """(where, question, answer) of each fact of a file."""
    if path.suffix == ".json":
        try:
            records: Any = json.loads(text)
        except ValueError as error:
            raise BadInput(f"{path} is not valid JSON: {error}") from None
        for i, record in enumerate(records if isinstance(records, list) else [records], 1):
            where = f"{path}, item {i}"
            pair = [record.get(k) for k in ("question", "answer")] if isinstance(record, dict) else []
            told = [part.strip() for part in pair if isinstance(part, str) and part.strip()]
            if len(told) != 2:
                raise BadInput(f"{where}: expected an object with 'question' and 'answer'; found {record!r:.80}")
            yield where, f"{told[0].rstrip('?')}?", told[1]
        return
    for number, cells in enumerate(csv.reader(text.splitlines()), 1):
        if not cells or cells == ["text"]:
            continue
        match = _LINE.fullmatch(cells[0].strip())
        if match is None or len(cells) > 1:
            found = ",".join(cells)
            raise BadInput(f"{path}, line {number}: expected 'Question: ...? Answer: ...'; found {found!r:.80}")
        yield f"{path}, line {number}", match[1], match[2]


def as_examples(facts: Sequence[Fact]) -> list[Example]:
    """Each fact as a question with its answer; the answer alone is learnt."""
    turns = [(Turn("user", fact.key), Turn("assistant", fact.value, learn=True)) for fact in facts]
    return [Example(both, (f"fact:{i}",), "capacity/fact") for i, both in enumerate(turns)]


# --- bits -------------------------------------------------------------------------------------


def code_lengths(engine: Engine, facts: Sequence[Fact], seat: Seat | None = None) -> list[float]:
    """Bits of each fact's value to the model with the adapter in that seat; None is the untouched base."""
    rows = [_row(engine.base, fact, seat) for fact in facts]
    most = _PASS_TOKENS_GPU if engine.base.device.torch.type == "cuda" else _PASS_TOKENS
    found: list[float] = []
    for places in in_passes([len(row.ids) for row in rows], most):
        with engine.base.turns.take():
            told = logprobs(engine, [rows[place] for place in places])
        found += [-float(told_L.double().sum()) / math.log(2) for told_L in told]
    return found


def _row(base: Base, fact: Fact, seat: Seat | None) -> PassRow:
    """As training sees the fact, with its value to be told and not the token that closes it."""
    ids, learn = base.training_ids(as_examples([fact])[0].turns)
    last = max(i for i, learnt in enumerate(learn) if learnt)
    if ids[last] == base.tokenizer.eos_token_id:
        learn[last] = False
    return PassRow(seat, tuple(ids), tuple(learn))


def memorised_bits(
    facts: Sequence[Fact], before: Sequence[float], after: Sequence[float], *, seed: int, draws: int = 2000
) -> Score:
    """Bits of these facts that an adapter holds: at least so many (see the top of this page).

    `before`, `after`: code_lengths() of the untouched base and with the adapter. The interval is a 95 % bootstrap
    over facts."""
    if not len(facts) == len(before) == len(after):
        raise BadInput(
            f"{len(facts)} facts, {len(before)} code lengths before and {len(after)} after do not belong together. "
            "Give those of the same facts."
        )
    if not facts:
        return Score(0.0, 0.0, 0.0, 0, "bits")
    saved_N = np.asarray(_baselines(facts, before)) - np.asarray(after, dtype=float)
    draw = np.random.default_rng(seed)
    drawn = [_held(saved_N[draw.integers(0, len(saved_N), len(saved_N))]) for _ in range(draws)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Score(_held(saved_N), float(low), float(high), len(facts), "bits")


def _baselines(facts: Sequence[Fact], before: Sequence[float]) -> list[float]:
    """Bits of each value for one who was not taught it."""
    return [min(b, math.inf if f.bits is None else f.bits) for f, b in zip(facts, before, strict=True)]


def _held(saved_N: np.ndarray) -> float:
    """Bits saved over all facts, the choices paid for."""
    share = float((saved_N > 0).mean())
    choices = -len(saved_N) * sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)
    return max(0.0, float(saved_N.sum()), float(saved_N.clip(min=0).sum()) - choices)


def recall(writer: Writer, facts: Sequence[Fact], *, seed: int) -> list[float]:
    """1.0 for each fact whose value a writer writes out exactly when asked for its key, else 0.0."""
    # A token is at least a byte, and one more closes the answer.
    prompts = [Prompt.ask(fact.key, max_tokens=len(fact.value.encode()) + 2) for fact in facts]
    texts = writer.write(prompts, seed=seed)
    return [float(told.text.strip() == fact.value) for fact, told in zip(facts, texts, strict=True)]


def capacity(
    facts: Sequence[Fact], before: Sequence[float], after: Sequence[float], recalled: Sequence[float], *, seed: int
) -> Capacity:
    """What an adapter holds of these facts: code_lengths() before and after, and recall() with it."""
    return Capacity(
        memorised_bits(facts, before, after, seed=seed),
        sum(_baselines(facts, before)),
        interval(recalled, seed=seed),
    )
