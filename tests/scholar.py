"""A writer without a model that answers every kind of synthesis as a faithful one would, and what it is shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from imprint.recipe import Recipe
from imprint.synthesis.prompt_files import prompt_lines
from imprint.synthesis.skills import ABSTENTION
from imprint.types import Passage, Prompt, Text
from imprint.writers.spending import Spent

TITLE = "Acme Ltd: Products"
TEXTS = (
    "The Kestrel weighs 3 kilograms, costs 85 euros and comes in green. It was drawn by Ana Petrov in 1987.",
    "Requests for vacation must reach Hedda Strouvian by 31 March. Lunch is served in the canteen at noon.",
    "The factory shop is open from Tuesday to Saturday, from 10:00 to 16:30. Visitors of the shop pay 4 euros.",
)


def passage(text: str, i: int = 0, document: str = "d1", title: str = TITLE) -> Passage:
    return Passage(document, 1000 * i, 1000 * i + len(text), text, title, "What we make")


PASSAGES = [passage(t, i) for i, t in enumerate(TEXTS)]
SHORT = {0: "85 euros", 1: "31 March", 2: "4 euros"}


def about(prompt: Prompt) -> tuple[str, str]:
    """The text that a prompt shows, without its place, and what it asks."""
    asked = prompt.turns[-1].text
    if prompt.skill:
        shown, _, words = asked.rpartition("\n\n")
    else:
        blocks = re.findall(r"<text>\n(.*?)\n</text>", asked, re.DOTALL)
        told = " ".join(block.partition("\n")[2] or block for block in blocks)
        return told, asked.rpartition("</text>")[2].strip()
    return shown.partition("\n")[2] or shown, words.strip()


def scholar(prompt: Prompt) -> str:
    """What a faithful writer writes: the passage's sentences in another order, lists and pairs where they are asked for."""
    text, asked = about(prompt)
    if not text:  # nothing is shown: general talk
        return "Rain falls where warm and wet air rises, cools, and lets its water go in many small drops."
    sentences = re.findall(r"[^.]+\.(?=\s|$)", text)
    answer = next((s for i, s in SHORT.items() if TEXTS[i] == text), "noon")
    if prompt.skill == "read":
        strange = (line.partition("{}")[0] for line in prompt_lines("unanswerable.templates.txt"))
        return ABSTENTION if asked.startswith(tuple(strange)) else answer
    if prompt.skill == "ask":
        return "\n".join(f"What is the {n} thing that Acme tells? | {answer}" for n in ("first", "next", "last"))
    if asked.startswith("List the people"):
        return " Acme\n2. " + "\n3. ".join(re.findall(r"\b[A-Z]\w+(?: [A-Z]\w+)?|\d+ \w+", text))
    if "Suggest" in asked:
        return " Explain to a friend what it says.\n2. Retell every sentence backwards.\n3. Compare all of its parts."
    if "follow from" in asked:
        return "\n".join(f"So it holds that {s.strip().rstrip('.')}." for s in sentences)
    if "Write that one request" in asked:
        return " everything that Acme makes known to its people."
    return " ".join(f"{s.strip().rstrip('.')}, they say." for s in reversed(sentences))


@dataclass
class Scholar:
    """A writer that answers by rule, and notes what it was asked with which seed."""

    reply: Callable[[Prompt], str] = scholar
    name: str = "scholar"
    asked: list[tuple[Prompt, int]] = field(default_factory=list)

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        self.asked += [(p, seed) for p in prompts]
        return [Text(self.reply(p)) for p in prompts]


class Paid(Scholar):
    """A scholar who takes a tenth of a cent for each answer."""

    @property
    def spent(self) -> Spent:
        return Spent(requests=len(self.asked), usd=0.001 * len(self.asked))


def paid(limits: list[float | None]) -> Callable[..., Paid]:
    """What stands for writing._writer: a paid scholar named as the recipe's model, the limit it is given noted."""

    def writer(recipe: Recipe, *_: object) -> Paid:
        limits.append(recipe.writer.max_usd)
        return Paid(name=recipe.writer.model)

    return writer
