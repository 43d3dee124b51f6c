"""The whole product on a tiny real model: taught, asked, proved, and killed on the way."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import imprint
from conftest import make_tiny_base
from imprint import adapters, planner
from imprint.errors import BadInput, BadSetting, NothingToTeach
from imprint.evaluation.closed_book import Question
from imprint.recipe import Recipe
from imprint.registry import Registry
from imprint.stages import beside

_TEACH = """
import functools, os, signal, sys
import imprint
from imprint import pipeline

pipeline.Service = functools.partial(pipeline.Service, every_s=-1)

class Watch:
    def __init__(self, when):
        self.what, _, nth = when.partition("#")
        self.left = int(nth or 1)

    def stage(self, text):
        self.die(text)

    def say(self, text):
        self.die(text.split(":")[0])

    def progress(self, unit, done, total, detail):
        self.die(f"{unit} {done}")

    def die(self, what):
        self.left -= what.startswith(self.what)
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

folder, base, when = sys.argv[1:]
print(imprint.teach(folder, name="tiny", base=base, budget="12k tokens", watch=Watch(when)).version.adapter_hash)
"""

_STAGES = {
    "planned": "Plan",
    "writing the second kind of text": "texts#2",
    "the text is complete": "Training",
    "half trained": "steps 5",
}


ASKED = [Question("What does the Kestrel weigh?", ("3 kilograms",))]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base on disk, with a window that the few-shot prompts fit."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    base = make_tiny_base()
    base.model.config.max_position_embeddings = 4096
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "kestrel.md").write_text(
        "# Kestrel tents\n\nThe Kestrel weighs 3 kilograms, costs 85 euros and comes in green. "
        "It was designed by Maren Tollifax in 1987.\n\n## Shop\n\nThe shop opens at 10:00.\n",
        "utf-8",
    )
    return folder


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Path]:
    monkeypatch.setenv("IMPRINT_DTYPE", "float32")
    yield home


def teach_in_a_process(documents: Path, base: Path, when: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _TEACH, str(documents), str(base), when]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)


def test_killed_at_any_stage_the_same_command_ends_with_the_same_adapter(
    cpu: Path, documents: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = teach_in_a_process(documents, base_folder, "never")
    assert whole.returncode == 0, whole.stderr
    monkeypatch.setenv("IMPRINT_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path / "other-cache"))
    for when in _STAGES.values():
        killed = teach_in_a_process(documents, base_folder, when)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert Registry(tmp_path / "other").list() == []
    resumed = teach_in_a_process(documents, base_folder, "never")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == whole.stdout


def test_canaries_and_who_looked_for_personal_data_stand_in_the_version(
    cpu: Path, documents: Path, base_folder: Path
) -> None:
    taught = imprint.teach(
        documents, name="tiny", base=str(base_folder), budget="2k tokens", recipe=Recipe(canaries=2), questions=ASKED,
        personal="ignore",
    )  # fmt: skip
    assert [canary["times"] for canary in taught.version.details["canaries"]] == [1, 4]
    assert taught.version.details["personal"] == {"looked": False}


def test_a_wish_for_personal_data_that_cannot_be_met_is_refused_before_the_base_is_opened(
    cpu: Path, documents: Path
) -> None:
    with pytest.raises(BadSetting, match="delete"):
        imprint.teach(documents, name="tiny", base="there-is-no-such-base", personal="delete")


def test_what_is_taught_is_published_asked_and_proved(cpu: Path, documents: Path, base_folder: Path) -> None:
    questions = [Question("What does the Kestrel weigh?", ("3 kilograms",)), Question("Who sings?", (), "none")]
    taught = imprint.teach(
        documents, name="tiny", base=str(base_folder), budget="3k tokens", questions=questions
    )
    assert str(taught.version) == "tiny@1"
    again = imprint.open("tiny")
    asked = "What does the Kestrel weigh?"
    assert isinstance(again.ask(asked, max_tokens=4), str)
    kept = again.ask(asked, routed=True, max_tokens=4)
    assert (kept == again.ask(asked, max_tokens=4)) or not again.is_about(asked)
    proof = again.prove(raw_text=True)
    assert set(proof.systems) == {"untouched", "raw_text", "weights", "full_context", "rag"}
    assert proof.n == 1
    assert set(proof.general_perplexity) == {"before", "after"}
    assert imprint.open("tiny").proof.as_json() == proof.as_json()


class Stages:
    """A watch that notes what was done."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def stage(self, text: str) -> None:
        self.told.append(text)

    def progress(self, unit: str, done: int, total: int, detail: str) -> None: ...

    def say(self, text: str) -> None: ...


def test_a_certificate_is_kept_with_its_version_and_nothing_is_asked_twice(
    cpu: Path, documents: Path, base_folder: Path
) -> None:
    questions = [Question("What does the Kestrel weigh?", ("3 kilograms",)), Question("Who sings?", (), "none")]
    taught = imprint.teach(
        documents, name="tiny", base=str(base_folder), budget="2k tokens", questions=questions
    )
    examined = imprint.Examined(systems=("weights", "rag"), parts=("leaks", "confidence", "judge", "coverage"), judge="base")
    made = taught.certify(examined=examined)
    assert (list(made.systems), made.n) == (["weights", "rag"], 1)
    assert made.parts["coverage"]["documents"][0]["title"] == "Kestrel tents"
    assert made.parts["coverage"]["held_out"]["n"] == 1
    assert made.parts["leaks"]["taught"] == len(taught.version.details["taught"])
    assert list(made.parts["judge"]["systems"]) == ["weights", "rag"]
    kept = [report for report in Registry(cpu).reports(taught.version) if report.name == "certificate"]
    assert [report.details for report in kept] == [made.report().details]
    again = Stages()
    assert taught.certify(examined=examined, watch=again).systems == made.systems
    assert set(again.told) <= {"Opening the base model", "Embedding 2 passages"}  # vectors are read from their cache
    assert taught.cite("What does the Kestrel weigh?", "3 kilograms").sources


@pytest.mark.parametrize("kind", adapters.KINDS)
def test_every_kind_of_adapter_is_taught_published_and_asked(
    kind: str, cpu: Path, documents: Path, base_folder: Path, tmp_path: Path
) -> None:
    small = {"lora_xs": {"rank": 4}, "cartridge": {"tokens": 8}, "full": {"top_layers": 1}}
    recipe = Recipe(adapter=kind, adapters={kind: small.get(kind, {})})
    taught = imprint.teach(documents, name="tiny", base=str(base_folder), budget="2k tokens", recipe=recipe)
    assert taught.version.recipe["adapter"] == kind
    assert isinstance(imprint.open("tiny").ask("What does the Kestrel weigh?", max_tokens=4), str)
    exported = taught.registry.export(taught.version, tmp_path / "out")
    assert str(taught.registry.import_folder(exported, "again", now="2026-01-01")) == "again@1"
    assert isinstance(imprint.open("again").ask("What does the Kestrel weigh?", max_tokens=4), str)


def test_adapters_asked_together_answer_as_the_one_that_the_question_is_about(
    cpu: Path, documents: Path, base_folder: Path
) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        imprint.teach(documents, name=name, base=str(base_folder), budget="2k tokens", seed=seed)
    both = imprint.together(["one", "two"])
    asked = "What does the Kestrel weigh?"
    alone = [imprint.open(name).ask(asked, max_tokens=6) for name in ("one", "two")]
    assert both.ask(asked, max_tokens=6) in alone
    assert isinstance(both.ask(asked, how="all", max_tokens=6), str)
    with pytest.raises(BadInput, match="two or more"):
        imprint.together(["one", "one@1"])
    with pytest.raises(BadSetting, match="choose"):
        both.ask(asked, how="sum")


def test_an_estimate_stands_beside_what_happened(cpu: Path, documents: Path, base_folder: Path) -> None:
    taught = imprint.teach(documents, name="tiny", base=str(base_folder), budget="20s")
    kept = taught.version.details["plan_and_actual"]
    assert kept["actual"]["tokens"] == taught.version.details["tokens"]
    assert kept["revised"]["tokens"] <= kept["actual"]["tokens"] < kept["revised"]["tokens"] + 300
    assert kept["actual"]["write_seconds"] > 0 and kept["actual"]["train_seconds"] > 0
    assert kept["calls"] == {"writing": 1, "training": 1}
    assert kept["actual"]["times"] > 0
    assert "estimated" in beside(kept) and "stopped" not in beside(kept)
    twice = {**kept, "calls": {"writing": 1, "training": 2}}
    assert "stopped and went on" in beside(twice)


def test_a_rank_that_the_facts_ask_for_is_trained(
    cpu: Path, documents: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "BITS_A_FACT", 1e5)
    taught = imprint.teach(documents, name="tiny", base=str(base_folder), budget="2k tokens")
    rank = taught.version.details["plan"]["rank"]
    spec = adapters.folder.read(taught.registry.folder(taught.version)).spec
    assert rank > 16 and (spec["rank"], spec["alpha"]) == (rank, 2.0 * rank)
    said = Recipe(rank=4)
    kept = imprint.teach(documents, name="tiny", base=str(base_folder), budget="2k tokens", recipe=said)
    assert kept.version.details["plan"]["rank"] is None


def test_advice_tries_the_machine_once_a_day(cpu: Path, documents: Path, base_folder: Path) -> None:
    now = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)

    def advise(after: datetime.timedelta) -> imprint.Advice:
        return imprint.advise(documents, base=str(base_folder), budget="1h", now=now + after)

    def tried_at() -> float:
        (file,) = (cpu.parent / "cache" / "speeds").iterdir()
        return float(json.loads(file.read_text())["at_s"])

    first, second = advise(datetime.timedelta(0)), advise(datetime.timedelta(hours=23))
    assert tried_at() == now.timestamp()
    assert (first.pace.read_s, first.teaching) == (second.pace.read_s, second.teaching)
    advise(datetime.timedelta(hours=25))
    assert tried_at() == now.timestamp() + 25 * 3600
    assert first.size.facts > 0 and all(w.answer_s and w.answer_s > 0 for w in first.ways if w.where == "this machine")


def test_the_same_teaching_twice_is_one_version(cpu: Path, documents: Path, base_folder: Path) -> None:
    for _ in range(2):
        imprint.teach(documents, name="tiny", base=str(base_folder), budget="2k tokens")
    assert [str(v) for v in Registry(cpu).versions("tiny")] == ["tiny@1"]


def test_nothing_is_spent_on_bad_input(cpu: Path, documents: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(NothingToTeach):
        imprint.teach(empty, name="tiny")
    with pytest.raises(BadSetting):
        imprint.teach(documents, name="tiny", budget="soon")
    assert not (cpu / "runs").exists()
