"""Several adapters that answer as one: each prompt by the adapter that it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from imprint.engine import Engine, Seat, choice
from imprint.types import Adapter, Prompt, Text
from imprint.writers.local import LocalWriter


@dataclass
class ChosenWriter:
    """A writer that wears for each prompt the one of its adapters to which what is asked has become likelier most.

    What a single one writes is what LocalWriter writes with it."""

    engine: Engine
    seats: Sequence[Seat]
    name: str
    progress: Callable[[int, int, float], None] | None = field(default=None, repr=False)

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        """One text per prompt, in the order asked."""
        texts: dict[int, Text] = {}
        for place, mine in self._by_adapter(prompts).items():
            writer = LocalWriter(self.engine.base, self.name)
            if self.progress is not None:
                writer.progress = self.progress
            with self.engine.wearing([self.seats[place]]):
                written = writer.write([prompts[i] for i in mine], seed=seed)
            texts.update(zip(mine, written, strict=True))
        return [texts[i] for i in range(len(prompts))]

    def _by_adapter(self, prompts: Sequence[Prompt]) -> dict[int, list[int]]:
        """The places of the prompts that each adapter is to answer."""
        if len(self.seats) == 1:
            return {0: list(range(len(prompts)))} if prompts else {}
        rows = [choice.opened(self.engine, prompt.turns) for prompt in prompts]
        picks = choice.row_gains(self.engine, self.seats, rows).argmax(1)
        found: dict[int, list[int]] = {}
        for i, pick in enumerate(picks.tolist()):
            found.setdefault(pick, []).append(i)
        return found


@contextmanager
def speaking(engine: Engine, adapters: Sequence[Adapter], name: str) -> Iterator[ChosenWriter]:
    """These adapters in memory, answering as one, until the block ends."""
    seats: list[Seat] = []
    try:
        for adapter in adapters:
            seats.append(engine.load(adapter))
        yield ChosenWriter(engine, seats, name)
    finally:
        for seat in seats:
            engine.unload(seat)
