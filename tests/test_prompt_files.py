"""The laws of prompt files: whatever words a writer is asked in stand in a file, and its hash in the lineage."""

import pytest

from imprint.synthesis import prompt_files, skills
from imprint.synthesis.prompt_files import prompt_hashes

PROMPTS = (skills.read("T", "Q?"), skills.ask("T", "5"), skills.ask_several("T", 4), skills.restate("T"))


def test_what_every_kind_uses_is_hashed_beside_its_own_prompts() -> None:
    assert set(prompt_hashes(("reversal",))) == {
        "audit.judge.txt", "audit.words.txt", "design.forms.txt", "design.openings.txt", "design.voices.txt",
        "reversal.statement.txt", "skills.ask.txt", "skills.ask_hint.txt", "skills.ask_several.txt",
        "skills.ask_several_hint.txt", "skills.read_hint.txt", "skills.restate.txt",
    }  # fmt: skip


def test_the_words_of_a_skill_are_those_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_files, "prompt_file", lambda name: f"<{name}>")
    read, ask, several, restate = (
        skills.read("T", "Q?"), skills.ask("T", "5"), skills.ask_several("T", 4), skills.restate("T")
    )  # fmt: skip
    assert [read.turns[0].text, read.hint] == ["T\n\nQ?", "<skills.read_hint.txt>"]
    assert [ask.turns[0].text, ask.hint] == ["T\n\n<skills.ask.txt>", "<skills.ask_hint.txt>"]
    assert [several.turns[0].text, several.hint] == ["T\n\n<skills.ask_several.txt>", "<skills.ask_several_hint.txt>"]
    assert restate.turns[0].text == "T\n\n<skills.restate.txt>"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_no_place_in_a_prompt_is_left_open(prompt: object) -> None:
    assert "{" not in repr(prompt)
