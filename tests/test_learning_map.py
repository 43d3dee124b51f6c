"""The laws of a map: all are taught and asked alike, a row that is there is not made again, and the page needs nothing."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import imprint
from imprint import adapters, learning_map, writing
from imprint.adapters import folder as adapter_folder
from imprint.base import Base
from imprint.engine import Engine, choice
from imprint.errors import BadQuestions, BadSetting, Diverged, MissingPackage, StaleRun
from imprint.evaluation import trade_off
from imprint.evaluation.closed_book import Question
from imprint.evaluation.examination import Examination, cost, examine
from imprint.evaluation.questions import read_strangers
from imprint.interfaces import cli, map_page, map_plots, teaching_commands
from imprint.learning_map import LearningMap, MapSettings, each_spec
from imprint.recipe import Recipe
from imprint.run_folder import RunFolder
from scholar import TEXTS, Scholar

RECIPE = Recipe(mix={"questions": 1.0, "cloze": 2.0}, text_tokens=600, passage_tokens=64)
ASKED = [
    Question("How many kilograms does the Kestrel weigh?", ("3",), "number"),
    Question("Who drew the Kestrel?", ("Ana Petrov",), "name"),
    Question("When is lunch served?", ("noon",), "name"),
    Question("Who paints the ceilings?", (), "unanswerable"),
]
SETTINGS = MapSettings(kinds=("lora", "lora_xs"), sizes=("small",), tokens=300, tune=False)


@pytest.fixture(autouse=True)
def scholar(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_writer", lambda *_: Scholar())


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i}.txt").write_text(text)
    return folder


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    pairs = [{"sentence_good": f"The shop opens at {i}.", "sentence_bad": f"The shop at opens {i}."} for i in range(6)]
    (folder / "order.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return folder


def drawn(documents: Path, base: Base, folder: Path, settings: MapSettings = SETTINGS, **more: Any) -> LearningMap:
    given: dict[str, Any] = {"recipe": RECIPE, "questions": ASKED, "work": folder} | more
    return imprint.draw_map(documents, base=base, settings=settings, **given)


def rows(found: LearningMap) -> dict[str, Any]:
    return {row["row"]: row for row in found.rows}


def test_every_kind_and_rival_has_a_row_and_is_asked_the_same(
    tiny_base: Base, documents: Path, suite: Path, tmp_path: Path
) -> None:
    strange = tmp_path / "strange.txt"
    strange.write_text("Who won the cup?\nWhere is Oslo?\n")
    found = rows(drawn(documents, tiny_base, tmp_path / "map", suites=[suite], strangers=strange))
    assert list(found) == ["untouched", "full_context", "rag", "lora-small", "lora_xs-small"]
    assert {row["learnt"]["n"] for row in found.values()} == {3}
    for name in ("lora-small", "lora_xs-small"):
        row = found[name]
        assert row["suites"]["pairs"]["n"] == 6
        assert row["abstention"]["n"] == 3
        assert row["perplexity"]["general"]["value"] > 1
        assert (row["device"], row["dtype"]) == ("a test's CPU", "float32")
        assert row["parameters"] > 0 and row["bytes"] > 0 and row["seconds"]["training"] > 0
        assert row["cost"]["ratio"] > 0
        assert row["routed"]["learnt"]["n"] == 3
        assert row["routed"]["accepted"].keys() == {"questions", "strangers", "unrelated", "pairs", "general"}
    assert found["lora-small"]["tokens"] == found["lora_xs-small"]["tokens"]


def test_with_a_router_only_what_it_lets_through_is_the_adapters(
    tiny_base: Base, documents: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, same in ((math.inf, "untouched"), (-math.inf, "lora-small")):
        monkeypatch.setattr(choice, "threshold", lambda engine, seat, limit=limit: limit)
        found = rows(drawn(documents, tiny_base, tmp_path / str(limit), suites=[suite]))
        mixed, whole = found["lora-small"]["routed"], found[same]
        assert mixed["suites"]["pairs"]["right"] == whole["suites"]["pairs"]["right"]
        assert mixed["perplexity"]["general"]["nats"] == whole["perplexity"]["general"]["nats"]
        assert mixed["learnt"]["score"] == whole["learnt"]["score"]
        assert {s["value"] for s in mixed["accepted"].values() if s["n"]} == {float(limit < 0)}


def test_a_row_that_was_made_before_there_were_routers_gets_one(
    tiny_base: Base, documents: Path, tmp_path: Path
) -> None:
    found = drawn(documents, tiny_base, tmp_path)
    measured = RunFolder(found.folder / "measured")
    row = measured.read("lora-small")
    measured.write("lora-small", {k: v for k, v in row.items() if k != "routed"})
    assert rows(drawn(documents, tiny_base, tmp_path))["lora-small"] == row


def test_an_adapter_is_kept_with_its_row(tiny_base: Base, documents: Path, tmp_path: Path) -> None:
    found = drawn(documents, tiny_base, tmp_path)
    kept = adapter_folder.read(found.folder / "adapters" / "lora-small")
    assert sum(t.numel() for t in kept.tensors.values()) == rows(found)["lora-small"]["parameters"]


def test_a_map_that_was_stopped_goes_on_and_makes_no_row_again(
    tiny_base: Base, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "map"
    with monkeypatch.context() as patch:
        seen: list[str] = []

        def stopped(*given: Any, **more: Any) -> dict[str, Any]:
            seen.append("x")
            if len(seen) == 3:  # the base, the first adapter, and in the second
                raise KeyboardInterrupt
            return examine(*given, **more)

        patch.setattr(learning_map, "examine", stopped)
        with pytest.raises(KeyboardInterrupt):
            drawn(documents, tiny_base, folder)
    before = {file.name: file.read_bytes() for file in (folder / "measured").iterdir()}
    assert set(before) == {"untouched.json", "full_context.json", "rag.json", "lora-small.json"}
    assert (folder / "checkpoints" / "lora_xs-small").exists()
    again = drawn(documents, tiny_base, folder)
    assert {name: (folder / "measured" / name).read_bytes() for name in before} == before
    assert rows(again)["lora_xs-small"]["resumed"]
    monkeypatch.setattr(learning_map, "examine", lambda *_: pytest.fail("it was measured again"))
    assert drawn(documents, tiny_base, folder) == again
    assert not list((folder / "checkpoints").iterdir())


def test_a_folder_holds_one_map(tiny_base: Base, documents: Path, tmp_path: Path) -> None:
    none = replace(SETTINGS, kinds=("lora",))
    drawn(documents, tiny_base, tmp_path / "map", none)
    for other in (replace(none, tokens=900), replace(none, tune=True)):
        with pytest.raises(StaleRun, match=r"was drawn with other (tokens|tuned)\. .* --work"):
            drawn(documents, tiny_base, tmp_path / "map", other)
    with pytest.raises(StaleRun, match="other .*asked"):
        drawn(documents, tiny_base, tmp_path / "map", none, questions=ASKED[:2] + ASKED[3:] + ASKED[2:3])


def test_the_learning_rate_whose_right_answers_cost_least_is_taken(
    tiny_base: Base, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worth = {"0.00667": 2.0, "0.002": 2.005, "0.006": 1.5, "0.018": 1.495, "0.000667": 3.0}
    tried: list[str] = []

    def nats(self: Any, grids: Any, *_: Any) -> None:
        for lr in grids["lora"]:
            name = f"{lr:.3g}"
            if name not in tried:
                tried.append(name)
                self.rows.write(f"tune-lora-{name}", {"row": f"tune-lora-{name}", "what": "tuning", "kind": "lora", "size": "middle", "lr": lr, "nats": worth[name]})

    monkeypatch.setattr(learning_map._Drawing, "_try", nats)
    found = rows(drawn(documents, tiny_base, tmp_path / "map", replace(SETTINGS, kinds=("lora",), tune=True)))
    assert tried == ["0.000667", "0.002", "0.006", "0.018"]  # the best was the largest: one more beyond it
    assert found["lora-small"]["lr"] == pytest.approx(0.006)  # 0.018 is as good; the smaller is taken


def test_learning_rates_are_tried_on_a_tenth_of_the_tokens_and_kept_as_rows(
    tiny_base: Base, documents: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, kinds=("tiny_lora",), tokens=3_000, tune=True)
    found = rows(drawn(documents, tiny_base, tmp_path / "map", settings))
    tried = [row for row in found.values() if row["what"] == "tuning"]
    assert len(tried) >= 3
    assert all(300 <= row["tokens"] < 700 and row["nats"] > 0 for row in tried)
    assert found["tiny_lora-small"]["lr"] in [row["lr"] for row in tried]


def test_what_diverges_has_a_row_that_says_so_and_the_others_go_on(
    tiny_base: Base, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imprint.training.loop import Loop

    step = Loop.step

    def first_fails(loop: Loop) -> float:
        if loop.data and loop.seat.adapter.spec["kind"] == "lora":
            raise Diverged("In step 1 the loss was nan.")
        return step(loop)

    monkeypatch.setattr(Loop, "step", first_fails)
    found = drawn(documents, tiny_base, tmp_path / "map")
    assert [row["row"] for row in trade_off.failed(found.rows)] == ["lora-small"]
    assert [p.name for p in trade_off.read(found.rows).placed] == ["lora_xs-small"]


def test_a_size_that_the_base_is_too_small_for_has_a_row_that_says_so(
    tiny_base: Base, documents: Path, tmp_path: Path
) -> None:
    found = drawn(documents, tiny_base, tmp_path / "map", replace(SETTINGS, kinds=("lora_xs",), sizes=("large", "small")))
    assert "wider than" in rows(found)["lora_xs-large"]["error"]
    assert rows(found)["lora_xs-small"]["learnt"]["n"] == 3


def test_full_fine_tuning_is_left_out_where_memory_does_not_hold_it(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Listener:
        say = said.append

    watch: Any = Listener()
    assert "full" in learning_map._usual_kinds(Engine(tiny_base), watch) and not said
    monkeypatch.setattr(learning_map.devices, "free_bytes", lambda _: 1_000)
    assert "full" not in learning_map._usual_kinds(Engine(tiny_base), watch)
    assert "Full fine-tuning is left out" in said[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("lora", "lorax")}, "No kind 'lorax' of adapters. There are: lora, "),
        ({"sizes": ("huge",)}, "No size 'huge' of adapters. There are: small, middle, large"),
        ({"sizes": ()}, "at least one kind and one size"),
        ({"tokens": 0}, "must be 1 or more; got 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=re.escape(message)):
        MapSettings(**settings)


def test_every_kind_has_three_sizes() -> None:
    named = [(kind, size) for kind, size, _ in each_spec(tuple(adapters.KINDS), learning_map.SIZES)]
    assert named == [(kind, size) for kind in adapters.KINDS for size in learning_map.SIZES]


def test_an_untouched_base_loses_nothing_against_itself(tiny_base: Base, suite: Path) -> None:
    from imprint.evaluation.suites import read_suite

    examination = Examination(ASKED, suites={"pairs": read_suite(suite)}, texts={"text": TEXTS[0] * 20})
    base = {"row": "untouched", "what": "rival"} | examine(Engine(tiny_base), None, examination)
    same = base | {"row": "lora-small", "what": "adapter", "kind": "lora", "size": "small", "parameters": 1}
    placed = trade_off.read([base, same]).placed[0]
    assert (placed.rises["text"].value, placed.lost["pairs"].value) == (0, 0)


def test_the_bare_base_costs_as_much_as_itself(tiny_base: Base) -> None:
    assert 0.2 < cost(Engine(tiny_base), None, ASKED)["ratio"] < 5


def row(name: str, right: float, rise: float, lost: int, parameters: int = 100) -> dict[str, Any]:
    """A row of an adapter that learnt so much and lost so many of 100 items."""
    suite = {"right": [0.0] * lost + [1.0] * (100 - lost), "tasks": ["t"] * 100}
    text = {"nats": [100.0 + 50 * rise] * 4, "tokens": [50] * 4}
    learnt = {"score": right, "low": right - 0.1, "high": right + 0.1, "n": 40, "by_kind": {}}
    kind, _, size = name.partition("-")
    told = {"row": name, "what": "adapter" if size else "rival", "kind": kind, "size": size, "parameters": parameters}
    costs = {"cost": {"seconds_per_answer": 0.1, "ratio": 1.0}}
    return told | costs | {"learnt": learnt, "perplexity": {"general": text}, "suites": {"s": suite}}


BASE = row("untouched", 0.0, 0.0, 0)


def test_the_goal_is_met_by_what_learns_nearly_as_much_as_the_best_and_forgets_little() -> None:
    reading = trade_off.read(
        [
            BASE, row("best-large", 0.8, 0.5, 20), row("good-small", 0.77, 0.01, 1, 50), row("good-large", 0.78, 0.01, 1, 90),
            row("less-small", 0.5, 0.0, 0), row("forgets-small", 0.8, 0.03, 0), row("loses-small", 0.8, 0.01, 2),
        ]
    )  # fmt: skip
    assert [p.name for p in reading.good] == ["good-small", "good-large"]
    assert reading.best is not None and reading.best.name == "best-large"
    assert reading.kept is not None and reading.kept.name == "less-small"
    told = " ".join(trade_off.sentences(reading))
    assert "best-large learnt most: 80.0%" in told and "good-small meets the goal" in told and "So do good-large" in told


def test_where_none_meets_the_goal_it_is_said() -> None:
    assert trade_off.sentences(trade_off.read([BASE, row("lora-small", 0.8, 0.5, 0)]))[-1].startswith("None meets the goal")
    assert trade_off.sentences(trade_off.read([BASE])) == ["No adapter has been measured yet."]


def a_map(folder: Path, *more: dict[str, Any]) -> LearningMap:
    about = {
        "base": "tiny", "dtype": "float32", "device": "CPU", "documents": ["<b>Handbook</b>"], "questions": 40,
        "questions_from": "of q.jsonl", "text_tokens": 900, "tokens": 3000, "tuned": True, "seed": 0,
    }  # fmt: skip
    RunFolder(folder).write("map", about)
    for each in (BASE, row("lora-small", 0.8, 0.5, 3), *more):
        RunFolder(folder / "measured").write(each["row"], each)
    return learning_map.kept(folder)


def test_a_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    tuning = {"row": "tune-lora-1", "what": "tuning", "kind": "lora", "size": "middle", "lr": 1.0, "error": "nan"}
    page, *plots = map_page.write(a_map(tmp_path, tuning), tmp_path)
    text = page.read_text()
    assert [plot.read_bytes()[:4] for plot in plots] == [b"\x89PNG"] * 2
    assert not re.findall(r"(?:src|href|srcset)=\"(?!data:)", text) and "http" not in text
    assert "&lt;b&gt;Handbook&lt;/b&gt;" in text and "<b>Handbook" not in text
    assert "lora-small learnt most" in text and "diverged" in text


def test_rows_of_two_machines_are_told_apart(tmp_path: Path) -> None:
    one = map_page.caveats(a_map(tmp_path / "one"))
    assert len(one) == 1 and "chosen by some of the same questions" in one[0]
    other = row("lora-large", 0.5, 0.0, 0) | {"device": "a GPU", "dtype": "bfloat16"}
    found = a_map(tmp_path / "two", other)
    assert found.measured_on == {"CPU, float32": ["untouched", "lora-small"], "a GPU, bfloat16": ["lora-large"]}
    page = map_page.write(found, tmp_path)[0].read_text()
    assert "not measured on one machine" in page and "lora-large on a GPU, bfloat16" in page


def run(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["map", *words])


def test_a_map_that_stands_is_told_without_a_model(tmp_path: Path) -> None:
    a_map(tmp_path)
    done = run("nowhere", "--only-report", "--work", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "lora-small" in done.stdout and "80.0%" in done.stdout
    assert (tmp_path / map_page.PAGE).exists()
    told = json.loads(run("nowhere", "--only-report", "--work", str(tmp_path), "--json").stdout)
    assert {r["row"] for r in told["rows"]} == {"untouched", "lora-small"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only-report"], "--only-report needs the folder of a map: --work FOLDER."),
        (["--only-report", "--work", "nowhere"], "There is no map in nowhere yet."),
        (["--kinds", "lora,lorax"], "No kind 'lorax' of adapters."),
        (["--tokens", "many"], "--tokens is 'many'. Say a number of tokens, such as 20000, 20k or 2M."),
        (["--suite", "nowhere"], "There is no suite at nowhere."),
        (["--strangers", "nowhere.txt"], "There is no questions file at nowhere.txt."),
        (["--general-text", "nowhere.txt"], "nowhere.txt cannot be read as UTF-8 text"),
    ],
)
def test_options_that_cannot_be_followed_are_refused_in_one_line(words: list[str], message: str, documents: Path) -> None:
    done = run(str(documents), *words)
    assert done.exit_code == 2
    assert message in done.stderr


def test_counts_are_read_with_their_units(tmp_path: Path) -> None:
    assert [teaching_commands._count(text, "--tokens") for text in ("20000", "20k", "1.5M")] == [20_000, 20_000, 1_500_000]


def test_without_matplotlib_nothing_begins(monkeypatch: pytest.MonkeyPatch, documents: Path) -> None:
    monkeypatch.setattr(map_plots.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingPackage, match=re.escape("pip install 'imprint[plots]'")):
        map_plots.check()
    assert "pip install 'imprint[plots]'" in run(str(documents)).stderr


def test_strangers_are_read_from_lines_or_records_and_have_no_answer(tmp_path: Path) -> None:
    lines, records = tmp_path / "a.txt", tmp_path / "b.jsonl"
    lines.write_text("Who won?\n\nWhere?\n")
    records.write_text('{"question": "Who won?", "answer": "Ana"}\n{"question": "Where?"}')
    assert read_strangers(lines) == read_strangers(records)
    assert [q.answers for q in read_strangers(lines)] == [(), ()]
    lines.write_text("\n")
    with pytest.raises(BadQuestions, match="holds no question"):
        read_strangers(lines)


def test_two_texts_or_suites_of_one_name_are_refused(documents: Path, tiny_base: Base, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "wiki.txt").write_text("The shop opens at noon. " * 20)
    with pytest.raises(BadSetting, match="Two general texts are called 'wiki'"):
        drawn(documents, tiny_base, tmp_path / "map", texts=[tmp_path / f / "wiki.txt" for f in ("a", "b")])
