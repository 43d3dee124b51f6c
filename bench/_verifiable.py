"""Tasks whose answers a few lines can check, made from a seed; those of GSM8K and SVAMP come from shared/data."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Made = tuple[str, Any, str]
"""A question, what is right (JSON), and the right answer in words for supervised training."""

_COLOURS = ("red", "blue", "green", "black", "white", "brown", "yellow", "grey", "pink", "purple")
_THINGS = ("fox", "car", "house", "bird", "boat", "chair", "door", "horse", "lamp", "shirt", "train", "cup")
_VERBS = ("stood by the river", "was sold on Monday", "is in the garden", "came from Spain", "belongs to Ana",
          "was lost last night", "is older than the town", "waits at the gate")  # fmt: skip
_WORDS = ("apple", "river", "stone", "cloud", "bread", "music", "paper", "glass", "tiger", "sugar", "wheel", "smoke")
_NAMES = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon", "Kim", "Lea", "Max", "Nia")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of question, how it is graded, and how long an answer may be."""

    make: Callable[[random.Random], Made]
    right: Callable[[Any, str], bool]
    max_tokens: int = 16


def questions(name: str, count: int, *, seed: int) -> list[Made]:
    """So many different questions of a kind; the same for the same seed."""
    draw = random.Random(f"{name}:{seed}")
    found: dict[str, Made] = {}
    tries = 0
    while len(found) < count and tries < 50 * count:
        made = KINDS[name].make(draw)
        found.setdefault(made[0], made)
        tries += 1
    if len(found) < count:
        raise SystemExit(f"There are only {len(found)} different questions of {name}; ask for fewer.")
    return list(found.values())


def from_file(name: str, data: Path) -> tuple[list[Made], list[Made]]:
    """GSM8K's questions with their solutions: what is trained on, and the last 400, which are held out."""
    found = []
    for line in (data / "gsm8k" / "train_2000.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        steps, _, last = row["answer"].partition("####")
        gold = last.strip().replace(",", "")
        solution = re.sub(r"<<.*?>>", "", steps).strip()
        asked = f"{row['question']}\nThink step by step, and end with 'The answer is' and the number."
        found.append((asked, gold, f"{solution}\nThe answer is {gold}."))
    return found[:-400], found[-400:]


# --- graders ----------------------------------------------------------------------------------


def exactly(gold: Any, text: str) -> bool:
    """The answer and nothing else, but for a full stop."""
    return text.strip().rstrip(".").strip() == str(gold)


def a_list(gold: Any, text: str) -> bool:
    """The items in order, parted by commas, and nothing else."""
    return [part.strip() for part in text.strip().rstrip(".").split(",")] == list(gold)


def as_json(gold: Mapping[str, Any], text: str) -> bool:
    """A JSON object equal to this one, and nothing else."""
    try:
        return bool(json.loads(text) == gold)
    except ValueError:
        return False


def ends_with(gold: Any, text: str) -> bool:
    """One sentence of five words or more whose last word is this one."""
    words = re.findall(r"[A-Za-z']+", text)
    return len(words) >= 5 and words[-1].lower() == gold and text.strip()[-1] in ".!" and "\n" not in text.strip()


def last_number(gold: Any, text: str) -> bool:
    """The last number of the text is this one."""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return bool(numbers) and float(numbers[-1].replace(",", "")) == float(gold)


# --- the kinds --------------------------------------------------------------------------------


def add(draw: random.Random) -> Made:
    a, b = draw.randint(2, 49), draw.randint(2, 49)
    return f"What is {a} + {b}? Answer with the number only.", str(a + b), str(a + b)


def larger(draw: random.Random) -> Made:
    a, b = draw.sample(range(10, 100), 2)
    return f"Which number is larger, {a} or {b}? Answer with the number only.", str(max(a, b)), str(max(a, b))


def sort(draw: random.Random) -> Made:
    numbers = draw.sample(range(1, 20), 4)
    gold = [str(n) for n in sorted(numbers)]
    shown = ", ".join(map(str, numbers))
    return f"Sort these numbers from smallest to largest: {shown}. Answer with the list only.", gold, ", ".join(gold)


def first(draw: random.Random) -> Made:
    words = draw.sample(_WORDS, 4)
    return f"What is the second word of this list: {', '.join(words)}? Answer with one word.", words[1], words[1]


def copy(draw: random.Random) -> Made:
    words = draw.sample(_WORDS, 4)
    gold = words[::-1]
    return f"Write this list backwards: {', '.join(words)}. Answer with the list only.", gold, ", ".join(gold)


def colour_json(draw: random.Random) -> Made:
    colour, thing = draw.choice(_COLOURS), draw.choice(_THINGS)
    gold = {"thing": thing, "colour": colour}
    text = f"The {colour} {thing} {draw.choice(_VERBS)}."
    return (
        f'{text}\nAnswer with JSON only, with the keys "thing" and "colour".', gold, json.dumps(gold),
    )  # fmt: skip


def ending(draw: random.Random) -> Made:
    about, last = draw.choice(_NAMES), draw.choice(_WORDS)
    gold = f"{about} walked home and saw the {last}."
    return f"Write one short sentence about {about} that ends with the word '{last}'.", last, gold


def count(draw: random.Random) -> Made:
    word, other = draw.sample(_WORDS, 2)
    n = draw.randint(1, 5)
    words = [word] * n + [other] * draw.randint(1, 4)
    draw.shuffle(words)
    return f"How often does '{word}' occur in: {' '.join(words)}? Answer with the number only.", str(n), str(n)


def owner(draw: random.Random) -> Made:
    names, things = draw.sample(_NAMES, 3), draw.sample(_THINGS, 3)
    told = " ".join(f"{n} has the {t}." for n, t in zip(names, things, strict=True))
    i = draw.randrange(3)
    return f"{told} Who has the {things[i]}? Answer with one word.", names[i], names[i]


def upper(draw: random.Random) -> Made:
    words = draw.sample(_WORDS, 2)
    gold = " ".join(words).upper()
    return f"Write '{' '.join(words)}' in capital letters. Answer with the words only.", gold, gold


KINDS: dict[str, Kind] = {
    "add": Kind(add, exactly),
    "larger": Kind(larger, exactly),
    "sort": Kind(sort, a_list, 24),
    "second": Kind(first, exactly),
    "backwards": Kind(copy, a_list, 24),
    "json": Kind(colour_json, as_json, 32),
    "ending": Kind(ending, ends_with, 32),
    "count": Kind(count, exactly),
    "owner": Kind(owner, exactly),
    "upper": Kind(upper, exactly),
}
GSM8K = Kind(add, last_number, 256)
"""GSM8K's questions are read from a file; only how they are graded stands here."""
