"""What a server does with versions of several adapters, and with what is to be forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from imprint import forgetting, rebasing, updating
from imprint.base import Base
from imprint.continual.tombstones import WITHHELD
from imprint.taught import Taught
from server_kit import Server, roomy_base, serving
from test_forgetting import SECRET
from test_updating import RECIPE, written

ABOUT_IT = "What does Oslin Quorvane earn, and when does the contract of Oslin Quorvane end?"
ABOUT_OTHERS = "How many days of paid vacation has every employee of Acme?"


@pytest.fixture
def base() -> Base:
    return roomy_base()


@pytest.fixture
def taught(base: Base, home: Path, tmp_path: Path) -> Taught:
    folder = written(tmp_path / "d", salary=SECRET)
    return updating.update("acme", folder, base=base, home=home, recipe=RECIPE, shards=2, questions=[])


@pytest.fixture
def server(base: Base, home: Path, taught: Taught) -> Iterator[Server]:
    with serving(base, home) as running:
        yield running


def asked(client: openai.OpenAI, question: str, model: str = "acme", **more: Any) -> str:
    told = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=3, temperature=0, **more
    )
    return told.choices[0].message.content or ""


def test_each_question_is_answered_by_the_shard_that_it_is_about(server: Server, taught: Taught, base: Base) -> None:
    taught.base = base
    for question in (ABOUT_IT, ABOUT_OTHERS):
        assert asked(server.client(), question) == taught.ask(question, max_tokens=3)


def test_what_is_to_be_forgotten_is_withheld_from_the_next_request_on(server: Server, home: Path) -> None:
    client = server.client()
    before = [asked(client, q) for q in (ABOUT_IT, ABOUT_OTHERS)]
    assert WITHHELD not in before
    forgetting.forget("acme", document="salary.md", home=home, later=True)
    assert asked(client, ABOUT_IT) == WITHHELD
    assert asked(client, ABOUT_OTHERS) == before[1]


def test_a_stream_tells_no_part_of_what_is_withheld(server: Server, home: Path) -> None:
    forgetting.forget("acme", document="salary.md", home=home, later=True)
    stream = server.client().chat.completions.create(
        model="acme", messages=[{"role": "user", "content": ABOUT_IT}], max_tokens=3, temperature=0, stream=True,
        logprobs=True,
    )  # fmt: skip
    pieces = [chunk.choices[0] for chunk in stream]
    assert "".join(p.delta.content or "" for p in pieces) == WITHHELD
    assert not any(p.logprobs and p.logprobs.content for p in pieces)


def test_a_destroyed_version_answers_no_more_and_the_next_one_does(server: Server, home: Path, base: Base) -> None:
    client = server.client()
    asked(client, ABOUT_OTHERS)
    forgetting.forget("acme", document="salary.md", home=home, base=base, control=False)
    with pytest.raises(openai.NotFoundError):
        asked(client, ABOUT_IT, model="acme@1")
    assert isinstance(asked(client, ABOUT_OTHERS), str)
    assert client.models.retrieve("acme").id == "acme@2"


def test_a_rollback_answers_the_next_request(server: Server, home: Path, base: Base, tmp_path: Path) -> None:
    client = server.client()
    before = asked(client, ABOUT_OTHERS)
    updating.update("acme", written(tmp_path / "d", salary=SECRET, canteen=None), base=base, home=home, way="shards")
    rebasing.rollback("acme@1", home=home)
    assert client.models.retrieve("acme").id == "acme@3"
    assert asked(client, ABOUT_OTHERS) == before
