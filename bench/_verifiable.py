"""Tasks whose answers a few lines can check, made from a seed; those of GSM8K and SVAMP come from shared/data."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imprint.types import Turn

Made = tuple[str, Any, str]
"""A question, what is right (JSON), and the right answer in words for supervised training."""

_COLOURS = ("red", "blue", "green", "black", "white", "brown", "yellow", "grey", "pink", "purple")
_THINGS = ("fox", "car", "house", "bird", "boat", "chair", "door", "horse", "lamp", "shirt", "train", "cup")
_VERBS = ("stood by the river", "was sold on Monday", "is in the garden", "came from Spain", "belongs to Ana",
          "was lost last night", "is older than the town", "waits at the gate")  # fmt: skip
_WORDS = ("apple", "river", "stone", "cloud", "bread", "music", "paper", "glass", "tiger", "sugar", "wheel",
          "smoke")  # fmt: skip
_NAMES = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon", "Kim", "Lea", "Max", "Nia")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of question, how it is graded, and how long an answer may be."""

    make: Callable[[random.Random], Made]
    right: Callable[[Any, str], bool]
    max_tokens: int = 16
    shown: tuple[str, str] | None = None
    """An exchange that goes before: a question with its right answer."""

    def turns(self, question: str) -> tuple[Turn, ...]:
        """What is asked, after what is shown."""
        before = () if self.shown is None else (Turn("user", self.shown[0]), Turn("assistant", self.shown[1]))
        return (*before, Turn("user", question))


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


def gsm8k(data: Path) -> tuple[list[Made], list[Made]]:
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


def names_only(gold: Mapping[str, Any], text: str) -> bool:
    """Of the things that could be named, the right one and no other."""
    words = set(re.findall(r"[A-Za-z]+|\d+", text.lower()))
    return gold["right"].lower() in words and not words & {w.lower() for w in gold["others"]}


def holds(gold: Any, text: str) -> bool:
    """These words stand in the text, written like this."""
    return str(gold) in text


def brief(gold: Any, text: str) -> bool:
    """One whole sentence of 4 to 10 words that names the thing."""
    words = re.findall(r"[A-Za-z']+", text)
    ended = text.strip()[-1:] in (".", "!") and not re.search(r"[.!?]\s|\n", text.strip())
    return ended and 4 <= len(words) <= 10 and gold in text.lower()


def both(gold: Any, text: str) -> bool:
    """One whole sentence with both words."""
    ended = text.strip()[-1:] in (".", "!") and not re.search(r"[.!?]\s|\n", text.strip())
    return ended and set(gold) <= set(re.findall(r"[a-z']+", text.lower()))


def in_json(gold: Mapping[str, Any], text: str) -> bool:
    """A JSON object equal to this one, with or without a fence around it."""
    found = re.search(r"\{.*?\}", text, re.DOTALL)
    return found is not None and as_json(gold, found.group())


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
    return f"What is {a} + {b}?", str(a + b), f"{a} + {b} = {a + b}"


def sort(draw: random.Random) -> Made:
    numbers = draw.sample(range(1, 30), 3)
    gold = [str(n) for n in sorted(numbers)]
    return f"Sort from smallest to largest: {', '.join(map(str, numbers))}", gold, ", ".join(gold)


def backwards(draw: random.Random) -> Made:
    words = draw.sample(_WORDS, 3)
    return f"Write this list backwards: {', '.join(words)}", words[::-1], ", ".join(words[::-1])


def count(draw: random.Random) -> Made:
    word, other = draw.sample(_WORDS, 2)
    n = draw.randint(1, 4)
    words = [word] * n + [other] * draw.randint(1, 3)
    draw.shuffle(words)
    return f"How often does '{word}' occur in: {' '.join(words)}", str(n), str(n)


def larger(draw: random.Random) -> Made:
    a, b = draw.sample(range(10, 100), 2)
    gold = {"right": str(max(a, b)), "others": [str(min(a, b))]}
    return f"Which number is larger, {a} or {b}? Name only that number.", gold, f"{max(a, b)}"


def second(draw: random.Random) -> Made:
    words = draw.sample(_WORDS, 4)
    gold = {"right": words[1], "others": words[:1] + words[2:]}
    return f"What is the second word of this list: {', '.join(words)}?", gold, words[1]


def owner(draw: random.Random) -> Made:
    names, things = draw.sample(_NAMES, 3), draw.sample(_THINGS, 3)
    told = " ".join(f"{n} has the {t}." for n, t in zip(names, things, strict=True))
    i = draw.randrange(3)
    gold = {"right": names[i], "others": names[:i] + names[i + 1 :]}
    return f"{told} Who has the {things[i]}?", gold, f"{names[i]} has the {things[i]}."


def colour(draw: random.Random) -> Made:
    colours, things = draw.sample(_COLOURS, 3), draw.sample(_THINGS, 3)
    told = " ".join(f"The {t} is {c}." for c, t in zip(colours, things, strict=True))
    i = draw.randrange(3)
    gold = {"right": colours[i], "others": colours[:i] + colours[i + 1 :]}
    return f"{told} What colour is the {things[i]}?", gold, f"The {things[i]} is {colours[i]}."


def json_of(draw: random.Random) -> Made:
    colour, thing = draw.choice(_COLOURS), draw.choice(_THINGS)
    gold = {"thing": thing, "colour": colour}
    return f"The {colour} {thing} {draw.choice(_VERBS)}.", gold, json.dumps(gold)


def ending(draw: random.Random) -> Made:
    about, last = draw.choice(_NAMES), draw.choice(_WORDS)
    gold = f"{about} walked home and saw the {last}."
    return f"Write one short sentence about {about} that ends with the word '{last}'.", last, gold


def short(draw: random.Random) -> Made:
    colour, thing = draw.choice(_COLOURS), draw.choice(_THINGS)
    asked = f"Write one sentence of at most ten words about a {colour} {thing}."
    return asked, thing, f"The {colour} {thing} {draw.choice(_VERBS)}."


def pair(draw: random.Random) -> Made:
    one, other = draw.sample(_WORDS, 2)
    asked = f"Write one short sentence with the words '{one}' and '{other}'."
    return asked, [one, other], f"{draw.choice(_NAMES)} saw the {one} and the {other}."


def upper(draw: random.Random) -> Made:
    words = draw.sample(_WORDS, 2)
    gold = " ".join(words).upper()
    return f"Write '{' '.join(words)}' in capital letters.", gold, gold


KINDS: dict[str, Kind] = {
    "add": Kind(add, last_number, 24),
    "add_shown": Kind(add, last_number, 16, ("What is 12 + 7?", "12 + 7 = 19")),
    "sort_shown": Kind(sort, a_list, 16, ("Sort from smallest to largest: 7, 2, 11", "2, 7, 11")),
    "larger_shown": Kind(larger, names_only, 16, ("Which number is larger, 17 or 80?", "80")),
    "second_shown": Kind(
        second, names_only, 16, ("What is the second word of this list: tree, king, milk, rope?", "king")
    ),
    "backwards_shown": Kind(
        backwards, a_list, 16, ("Write this list backwards: tree, king, milk", "milk, king, tree")
    ),
    "owner_shown": Kind(
        owner, names_only, 16, ("Tom has the ball. Sue has the clock. Who has the clock?", "Sue has the clock.")
    ),
    "colour_shown": Kind(
        colour, names_only, 16,
        ("The sofa is orange. The roof is teal. What colour is the sofa?", "The sofa is orange."),
    ),  # fmt: skip
    "json_shown": Kind(json_of, in_json, 24, ("The orange cat sleeps.", '{"thing": "cat", "colour": "orange"}')),
    "upper_shown": Kind(upper, holds, 16, ("Write 'old tree' in capital letters.", "OLD TREE")),
    "count_shown": Kind(count, last_number, 16, ("How often does 'tree' occur in: tree king tree", "2")),
    "larger": Kind(larger, names_only, 24),
    "second": Kind(second, names_only, 24),
    "owner": Kind(owner, names_only, 24),
    "colour": Kind(colour, names_only, 24),
    "ending": Kind(ending, ends_with, 32),
    "short": Kind(short, brief, 32),
    "pair": Kind(pair, both, 32),
    "upper": Kind(upper, holds, 24),
}
GSM8K = Kind(add, last_number, 256)
"""GSM8K's questions are read from a file; only how they are graded stands here."""
