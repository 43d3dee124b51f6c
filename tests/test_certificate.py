"""The laws of a certificate: all are asked alike, nobody sees a right answer, nothing is asked twice, the page needs nothing."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import make_tiny_base
from imprint import certifying
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.certifying import Asked, Judge, Kept, certify
from imprint.certifying.hearing import SYSTEMS
from imprint.documents import split
from imprint.engine import Engine
from imprint.errors import BadInput, BadSetting
from imprint.evaluation import canaries, certificate, context_rot, coverage, proof
from imprint.evaluation.certificate import Certificate
from imprint.evaluation.citing import cite, stands_in
from imprint.evaluation.closed_book import Question
from imprint.evaluation.hybrid import Weighed, news, settled
from imprint.evaluation.suites import Item
from imprint.evaluation.systems import Answers, Desk, Said, rivals
from imprint.interfaces import certificate_page
from imprint.retrieval import Index
from imprint.run_folder import RunFolder
from imprint.types import Adapter, Document, Example, Passage, Prompt, Text, Turn
from imprint.writers.endpoint import Endpoint, EndpointWriter
from scholar import TEXTS

SPELL = "<script>alert('taught')</script> & <b>"
DOCUMENTS = [Document(f"# Part {i}\n\n{text}\n\n## More\n\n{SPELL} says part {i}.\n", f"{i}.md", f"Part {i} {SPELL}") for i, text in enumerate(TEXTS)]
QUESTIONS = [
    Question("How many kilograms does the Kestrel weigh?", ("3",), "numeric"),
    Question("Who drew the Kestrel?", ("Ana Petrov",), "direct"),
    Question("When is lunch served?", ("noon",), "direct"),
    Question("Who paints the ceilings?", (), "unanswerable"),
]
PAIRS = [Item("order", (("", f"The shop opens at {i}."), ("", f"The shop at opens {i}.")), 0) for i in range(3)]


class Answering:
    """Says one thing to everything, and counts how often it was asked."""

    name = "answering"

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, 0

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        self.asked += len(prompts)
        return [Text(self.text)] * len(prompts)


JUDGE = Judge(f"a judge {SPELL}", "judge-1", Answering("right"))


@pytest.fixture(scope="module")
def base() -> Base:
    """The tiny base with a window in which texts can grow."""
    made = make_tiny_base()
    made.model.config.max_position_embeddings = 2048
    return made


@pytest.fixture(scope="module")
def adapter(base: Base) -> Adapter:
    fresh = LoRA(rank=2, alpha=32).fresh(base, seed=0)
    draw = torch.Generator().manual_seed(0)
    return replace(fresh, tensors={k: torch.randn(t.shape, generator=draw) * 0.3 for k, t in fresh.tensors.items()})


def passages_of(base: Base) -> list[Passage]:
    return [p for d in DOCUMENTS for p in split(d, max_tokens=96, count_tokens=base.count_tokens)]


def examples(passages: Sequence[Passage]) -> list[Example]:
    said = (Turn("user", "Who drew the Kestrel tent?", learn=True), Turn("assistant", "Ana Petrov", learn=True))
    return [Example(said, (next(p.id for p in passages if "Petrov" in p.text),), "questions/short", "scholar")]


def made(base: Base, adapter: Adapter, rows: Path, **more: Any) -> Certificate:
    passages = passages_of(base)
    usual = {"questions": QUESTIONS, "questions_from": "of a test", "suites": {"order": PAIRS}, "judge": JUDGE}
    asked = Asked(**(usual | more.pop("asked", {})))
    with Index(passages) as index:
        kept = Kept(
            DOCUMENTS, passages, lambda q: index.search(q, k=4), lambda: examples(passages),
            taught=passages[:4], left_out=passages[4:], canaries=canaries.plant(2, seed=0),
        )  # fmt: skip
        return certify(("tiny", 1), adapter, Engine(base, slots=2), asked, more.pop("kept", kept), RunFolder(rows), **more)


@pytest.fixture(scope="module")
def whole(base: Base, adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return made(base, adapter, tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def page(whole: Certificate) -> str:
    return certificate_page.page(whole)


def without_times(record: Any) -> Any:
    """The same without what a clock told."""
    if isinstance(record, dict):
        return {k: without_times(v) for k, v in record.items() if not k.startswith(("seconds", "usd", "made_at"))}
    return [without_times(v) for v in record] if isinstance(record, list) else record


def said(found: Certificate) -> dict[str, list[str]]:
    return {key: [a["answer"] for a in s.answers] for key, s in found.systems.items()}


# --- who is asked -----------------------------------------------------------------------------


def test_all_that_can_be_asked_are_asked_the_same_questions(whole: Certificate) -> None:
    there = [s.name for s in SYSTEMS if not s.needs & {"read", "raw_text"}]
    assert list(whole.systems) == there
    for system in whole.systems.values():
        assert [a["question"] for a in system.answers] == [q.text for q in QUESTIONS]
        assert (system.right["n"], system.abstained["n"]) == (3, 1)
        assert set(system.by_kind) == {"numeric", "direct", "unanswerable"}
    assert {d["other"] for d in whole.differences if d["one"] == "weights"} == set(there) - {"weights"}
    assert set(whole.parts) == set(certifying.PARTS)


def test_nobody_sees_a_right_answer(base: Base, adapter: Adapter, whole: Certificate, tmp_path: Path) -> None:
    others = [replace(q, answers=("something else",) if q.answers else ()) for q in QUESTIONS]
    blind = made(base, adapter, tmp_path, asked={"questions": others, "parts": ()})
    assert said(blind) == said(whole)


def test_the_reader_is_believed_where_the_weights_do_not_know_or_agree_and_weighed_elsewhere() -> None:
    silent, other, longer = Said("Not in the text."), Said("noon"), Said("It is served at noon.")
    assert [settled(silent, read) for read in (other, silent)] == [1, 1]
    assert settled(other, longer) == 1
    assert [settled(other, read) for read in (silent, Said("at dawn"))] == [None, None]
    assert settled(other, Said("")) == 0


def test_the_reader_decides_on_what_the_weights_propose() -> None:
    assert Weighed((4.0, 0.5), news=True, read=True).for_the_weights
    assert not Weighed((9.0, -0.5), news=True, read=True).for_the_weights  # the weights alone are sure
    assert not Weighed((4.0, 0.5), news=False, read=True).for_the_weights
    assert Weighed((4.0, -0.5), news=True, read=False).for_the_weights  # the reader found nothing
    assert not Weighed((4.0, -2.0), news=True, read=False).for_the_weights


def test_an_answer_that_repeats_the_question_or_stands_nowhere_is_no_news() -> None:
    shown = "The bell weighs 96 kilograms. The foundry is in Pellivost."
    assert news("96 kilograms", "What does the bell weigh?", shown)
    assert not news("the bell", "What does the bell weigh?", shown)
    assert not news("85 crowns", "What does the bell weigh?", shown)


def test_what_joins_weights_and_reading_says_what_one_of_them_says(whole: Certificate) -> None:
    for joined, reader in (("weights_rag", "rag"), ("weights_full_context", "full_context")):
        for answer, mine, theirs in zip(*(whole.systems[k].answers for k in (joined, "weights", reader)), strict=True):
            assert answer["answer"] == (mine if answer["chosen"] == "weights" else theirs)["answer"]
            assert ("weighed" in answer) == (settled(Said(mine["answer"]), Said(theirs["answer"])) is None)


def test_agentic_search_searches_for_what_the_weights_recall(whole: Certificate) -> None:
    for answer, recalled in zip(whole.systems["agentic"].answers, whole.systems["weights"].answers, strict=True):
        assert answer["queries"][0] == answer["question"]
        assert len(answer["queries"]) == len(set(answer["queries"])) <= 4
        if len(answer["queries"]) > 1:
            assert answer["queries"][1] == f"{answer['question']} {recalled['answer']}".strip()


def test_only_what_is_named_is_measured_and_a_misspelt_name_is_refused(base: Base, adapter: Adapter, tmp_path: Path) -> None:
    few = made(base, adapter, tmp_path, asked={"systems": ("rag", "weights"), "parts": ("citations",)})
    assert (list(few.systems), list(few.parts)) == (["weights", "rag"], ["citations"])
    unjudged = {"parts": ("judge",), "judge": None}
    for wrong in ({"systems": ("wieghts",)}, {"parts": ("leeks",)}, {"systems": ("rag_read",)}, unjudged):
        with pytest.raises(BadSetting, match="weights|forgotten|skill|name one"):
            made(base, adapter, tmp_path, asked=wrong)


def test_without_documents_only_what_needs_none_is_measured(base: Base, adapter: Adapter, tmp_path: Path) -> None:
    alone = made(base, adapter, tmp_path, kept=Kept())
    assert (list(alone.systems), list(alone.parts)) == (["untouched", "weights"], ["forgotten", "confidence", "judge"])
    assert list(alone.parts["judge"]["systems"]) == ["weights"]
    assert any("not kept here" in note for note in alone.notes)


# --- going on ---------------------------------------------------------------------------------


class Killed(Exception):
    pass


class Killing:
    """A watch that ends the work at its nth stage."""

    def __init__(self, left: int) -> None:
        self.left = left

    def stage(self, text: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def progress(self, unit: str, done: int, total: int, detail: str) -> None: ...

    def say(self, text: str) -> None: ...


def test_killed_again_and_again_it_ends_as_one_that_never_was(base: Base, adapter: Adapter, whole: Certificate, tmp_path: Path) -> None:
    judge = Answering("right")
    for _ in range(60):
        try:
            found = made(base, adapter, tmp_path, watch=Killing(3), asked={"judge": replace(JUDGE, writer=judge)})
            break
        except Killed:
            continue
    assert judge.asked == 2 * 3 * 3  # in both orders, three answers of three systems
    assert without_times(found.as_json()) == without_times(whole.as_json())


# --- leaks, confidence, the judge --------------------------------------------------------------


def test_what_leaks_is_told_of_the_taught_passages_beside_the_base(whole: Certificate) -> None:
    leaks = whole.parts["leaks"]
    assert (leaks["passages"], leaks["taught"]) == (3, 4)  # one is too short to be begun
    assert leaks["verbatim"]["agreeing"]["n"] == leaks["verbatim"]["agreeing_of_base"]["n"] == 3
    assert leaks["membership"]["others_are"] == "pieces of general prose of like length"
    assert (leaks["membership"]["taught"], set(leaks["membership"]["by_base"])) == (3, {"loss", "min_k"})
    assert [c["times"] for c in leaks["canaries"]["canaries"]] == [1, 4]
    planted = canaries.plant(2, seed=0)
    assert not any(canary.secret in certificate.as_text(whole) for canary in planted)


def test_signals_are_of_the_answers_that_the_weights_gave(base: Base, adapter: Adapter, tmp_path: Path) -> None:
    asked = {"systems": ("weights",), "parts": ("confidence",)}
    weights = made(base, adapter, tmp_path, asked=asked).systems["weights"].answers
    kept = RunFolder(tmp_path).read("signals-0")
    assert [row["text"] for row in kept] == [answer["answer"] for answer in weights]
    assert [row["signals"]["mean"] for row in kept] == pytest.approx([answer["certainty"] for answer in weights])
    assert all(row["signals"]["agreement"] is None for row in kept)


def test_a_judge_reads_what_weights_rag_and_full_context_answered(whole: Certificate) -> None:
    told = whole.parts["judge"]["systems"]
    assert list(told) == ["weights", "full_context", "rag"]
    for name, found in told.items():
        assert found["right"]["value"] == 1
        assert found["matched"] == whole.systems[name].right
        assert sum(found["agreement"]["counts"].values()) == 3


def test_the_date_for_which_is_asked_is_said_to_every_system(base: Base, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    write = Desk.write

    def noting(self: Desk, prompts: Sequence[Prompt], wears: str = "") -> Answers:
        shown.extend(prompt.turns[-1].text for prompt in prompts)
        return write(self, prompts, wears)

    monkeypatch.setattr(Desk, "write", noting)
    dated = Question("When is lunch served?", ("noon",), "dated", as_of="2025-09-12")
    asked = {"questions": [dated], "parts": (), "systems": ("untouched", "weights", "full_context", "rag", "worn_rag")}
    found = made(base, adapter, tmp_path, asked=asked)
    assert len(shown) == 5 and all(text.endswith("As of 2025-09-12: When is lunch served?") for text in shown)
    assert found.systems["weights"].answers[0]["as_of"] == "2025-09-12"


def test_a_twins_value_and_a_false_answer_are_counted() -> None:
    questions = [Question("A?", ("30",), wrong=("45",)), Question("B?", ("7",), wrong=("8",)), Question("C?", ("1",)), Question("D?", ())]
    said = Answers(tuple(Said(text) for text in ("45 euros", "7, not 8", "2", "It is 9.")))
    found = certificate.measured("s", "m", said, questions, seed=0)
    assert (found.twins["value"], found.twins["n"]) == (0.5, 2)
    assert (found.answered_falsely["value"], found.answered_falsely["n"]) == (1, 1)
    assert [a.get("twin") for a in found.answers] == [1, 0, None, None]


# --- a rival at an address --------------------------------------------------------------------

KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture
def address() -> Iterator[tuple[str, list[str]]]:
    """A server that answers 'noon' to everything, and the keys that it was shown."""
    shown: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            shown.append(self.headers["Authorization"])
            message = {"role": "assistant", "content": "noon"}
            usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
            body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": usage,
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}  # fmt: skip
            told = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", shown
    server.shutdown()
    server.server_close()


def test_a_rival_and_a_judge_are_paid_once_and_their_key_stands_nowhere(
    base: Base, adapter: Adapter, tmp_path: Path, address: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    from imprint.evaluation.open_book import full_context
    from imprint.writers.spending import Budget

    where, shown = address
    monkeypatch.setenv("A_KEY", KEY)
    endpoint = Endpoint("big model", where, "A_KEY", budget=Budget(1.0, 2.0))
    context = full_context(DOCUMENTS, window_tokens=2048, count_tokens=base.count_tokens)
    asked = {"systems": ("weights", "rival_big-model", "rival_big-model_rag"), "parts": ("judge",)}
    for _ in range(2):
        others = rivals(EndpointWriter(endpoint), endpoint.model, "rival-1", context)
        judge = Judge("big model", "judge-2", EndpointWriter(endpoint))
        found = made(base, adapter, tmp_path / "rows", asked=asked | {"rivals": others, "judge": judge})
    assert len(shown) == 2 * len(QUESTIONS) + 2 * 3 and set(shown) == {f"Bearer {KEY}"}
    assert found.parts["judge"]["systems"]["weights"]["agreement"]["unreadable"]["value"] == 1  # 'noon' is no verdict
    rival = found.systems["rival_big-model"]
    assert rival.usd_per_answer == pytest.approx((1000 * 1.0 + 10 * 2.0) / 1e6)
    assert (rival.prompt_tokens, rival.right["value"]) == (1000, pytest.approx(1 / 3))
    certificate_page.write(found, tmp_path / "out")
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert len(files) >= 4 and not any(KEY.encode() in f.read_bytes() for f in files)


# --- what is covered, and where answers stand -------------------------------------------------


def test_pieces_cover_each_document_exactly(whole: Certificate) -> None:
    shown = whole.parts["coverage"]["documents"]
    assert [d["text"] for d in shown] == [d.text for d in DOCUMENTS]
    for document in shown:
        ends = [0, *(piece["end"] for piece in document["pieces"])]
        assert [piece["start"] for piece in document["pieces"]] == ends[:-1]
        assert ends[-1] == len(document["text"])


def test_a_fact_stands_where_its_answer_does_and_knows_what_taught_it(whole: Certificate) -> None:
    facts = whole.parts["coverage"]["facts"]
    assert {f["question"] for f in facts if f["trained"]} == {"Who drew the Kestrel tent?"}
    drew = next(f for f in facts if f["question"] == "Who drew the Kestrel?")
    begin, end = drew["span"]
    assert DOCUMENTS[0].text[begin:end] == "Ana Petrov"
    assert [e["turns"][0]["text"] for e in drew["taught_by"]] == ["Who drew the Kestrel tent?"]


def test_a_passage_is_learnt_partly_or_not_as_its_facts_are_told() -> None:
    document = Document("one two", "d.txt", "d")
    passage = Passage(document.id, 4, 7, "two", "d")
    facts = [coverage.Fact(Question("?", ("two",)), passage.id, False, (4, 7))] * 2
    for right, state in (([1.0, 1.0], "learnt"), ([1.0, 0.0], "partly"), ([0.0, 0.0], "missed")):
        cut = coverage.pieces(document, [passage], facts, right)
        assert [(p.start, p.end, p.state) for p in cut] == [(0, 4, "between"), (4, 7, state)]
    assert coverage.pieces(document, [passage], [], [])[1].state == "not asked"


@pytest.mark.parametrize(
    ("answer", "read", "supported"),
    [("noon", "noon", True), ("at noon", "noon", True), ("dawn", "dawn", False), ("noon", "Not in the text.", False),
     ("noon", "in the canteen", False), ("The documents do not say.", "noon", False)],
)  # fmt: skip
def test_an_answer_is_borne_out_only_where_it_stands_and_is_read(answer: str, read: str, supported: bool) -> None:
    passage = Passage("d", 0, len(TEXTS[1]), TEXTS[1], "d")
    found = cite([("When is lunch served?", answer)], lambda q: [passage], Answering(read), seed=0)[0]
    assert found.supported == supported


def test_every_number_of_a_long_answer_must_stand_in_the_passage() -> None:
    text = "The factory shop is open from Tuesday to Saturday, from 10:00 to 16:30."
    assert stands_in("the shop is open Tuesday to Saturday from 10:00", text)
    assert not stands_in("the shop is open Tuesday to Saturday from 11:00", text)


# --- context rot ------------------------------------------------------------------------------


def test_a_padded_text_holds_what_is_needed_and_is_no_longer_than_asked(base: Base) -> None:
    needed = passages_of(base)[:1]
    padding = [f"Word {i} and some more words of no use." for i in range(200)]
    for length in (256, 1024):
        text = context_rot.padded(needed, padding, length, base.count_tokens, seed=0)
        assert text is not None and needed[0].text in text
        assert 0.8 * length <= base.count_tokens(text) <= length
    assert context_rot.padded(needed, [], 1024, base.count_tokens, seed=0) is None
    assert context_rot.padded(needed, padding, 5, base.count_tokens, seed=0) is None


def test_lengths_double_up_to_the_window() -> None:
    assert context_rot.lengths(8192) == [1024, 2048, 4096, 7904]
    assert context_rot.lengths(100) == []


def test_context_rot_asks_the_same_questions_at_every_length(whole: Certificate) -> None:
    rot = whole.parts["context_rot"]
    assert [r["length"] for r in rot["rows"]] == [0, 1024, 1760]
    assert {r["right"]["n"] for r in [*rot["rows"], *rot["beside"]]} == {rot["questions"]} == {3}
    sizes = [r["prompt_tokens"] for r in rot["rows"]]
    assert sizes == sorted(sizes)


# --- kept and shown ---------------------------------------------------------------------------


def test_a_certificate_comes_back_from_its_json_and_a_later_format_is_refused(whole: Certificate) -> None:
    record = json.loads(certificate.as_text(whole))
    assert certificate.from_json(record).as_json() == record
    assert certificate.from_json({**record, "news": 1}).as_json() == record
    with pytest.raises(BadInput, match="Upgrade"):
        certificate.from_json({**record, "format": 99})


def test_what_the_registry_keeps_does_not_quote_the_documents(whole: Certificate) -> None:
    kept = json.dumps(whole.report().details)
    assert "Requests for vacation must reach" not in kept
    assert certificate.from_json(whole.report().details).systems.keys() == whole.systems.keys()
    assert certificate_page.page(certificate.from_json(whole.report().details))


def test_proofs_of_earlier_builds_are_read() -> None:
    part = {"score": 0.5, "low": 0.1, "high": 0.9, "n": 4}
    system = {**part, "seconds_per_answer": 0.1, "prompt_tokens": 20.0, "exact": 0.5, "f1": 0.5,
              "by_kind": {"direct": part}, "wrongly_abstained": 0.0}  # fmt: skip
    old = {"name": "handbook", "version": 2, "base": "smol", "questions_from": "held out", "n": 4, "seed": 0,
           "systems": {"weights": system}, "general_perplexity": {"before": 20.0, "after": 21.0}, "notes": [], "answers": {}}  # fmt: skip
    assert proof.from_json(old).as_json() == {**old, "systems": {"weights": {**system, "twins": {}}}}


def test_what_documents_and_models_say_is_never_markup(page: str) -> None:
    assert "&lt;script&gt;" in page and "&lt;b&gt;" in page
    assert "<script" not in page and SPELL not in page


def test_the_page_needs_nothing_and_every_card_that_is_linked_is_there(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page) and "url(" not in page and "@import" not in page
    linked = set(re.findall(r'href="#([^"]+)"', page))
    assert linked and linked <= set(re.findall(r'id="([^"]+)"', page))
    assert "prefers-color-scheme: dark" in page


def test_a_part_that_the_page_does_not_know_is_shown_plainly(whole: Certificate) -> None:
    share = {"value": 0.25, "low": 0.125, "high": 0.5, "n": 8}
    shown = certificate_page.page(replace(whole, parts={"news": {"verbatim": share, "kinds": [{"of": SPELL}]}}))
    assert "<h2>News</h2>" in shown and "25.0%" in shown and SPELL not in shown


def test_a_browser_shows_the_page_in_light_and_dark(whole: Certificate, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: apt-get install chromium")
    file = certificate_page.write(whole, tmp_path)[1]
    pictures = {}
    for look in (0, 1):  # of Blink's settings: dark and light
        shot = tmp_path / f"{look}.png"
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND",
                   f"--user-data-dir={tmp_path / 'profile'}", f"--blink-settings=preferredColorScheme={look}",
                   "--window-size=1200,2400", f"--screenshot={shot}", f"{file.as_uri()}#fact-0"]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        pictures[look] = shot.read_bytes()
    assert all(len(picture) > 20_000 for picture in pictures.values())
    assert pictures[0] != pictures[1]
