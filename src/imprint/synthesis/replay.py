"""What the base says anyway, trained along with the documents so that it keeps saying it.

Without it, training on short answers alone made the demo's model four times as perplexed by general text
(docs/log.md). The texts are the base's own, so that nothing new is taught (a share of general data against
forgetting, as in Cartridges, arXiv 2506.06266)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imprint.synthesis.prompt_files import prompt_file
from imprint.synthesis.prose import whole_sentences
from imprint.types import Effort, Example, Passage, Prompt, Turn, Writer

_TOKENS = 72


@dataclass(frozen=True, slots=True)
class Replay:
    """The writer's answers to general requests; about a twentieth of the training text."""

    name: str = "replay"
    a_passage: float = 2.0
    """Answers for each passage taught."""
    temperature: float = 0.9

    def examples(self, passages: Sequence[Passage], writer: Writer, *, seed: int) -> Iterator[Example]:
        """Conversations and plain texts in turn; none belongs to a passage."""
        if not passages:
            return
        requests = _requests()
        wanted = max(1, round(self.a_passage * len(passages)))
        for first in range(0, wanted, len(requests)):
            asked = requests[: wanted - first]
            prompts = [Prompt.ask(r, max_tokens=_TOKENS, temperature=self.temperature) for r in asked]
            for i, written in enumerate(writer.write(prompts, seed=seed + first)):
                text = whole_sentences(written.text)
                if len(text.split()) < 8:
                    continue
                if i % 2:
                    turns: tuple[Turn, ...] = (Turn("text", text, learn=True),)
                else:
                    turns = (Turn("user", asked[i]), Turn("assistant", text, learn=True))
                yield Example(turns, (), self.name, writer.name)

    def effort(self, passage: Passage) -> Effort:
        written = round(self.a_passage * _TOKENS * 4)
        return Effort(round(self.a_passage), 40 * round(self.a_passage), written, written)


def _requests() -> list[str]:
    text = prompt_file("replay.general.txt")
    return text.splitlines()
