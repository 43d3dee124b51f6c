"""The laws of the simulated year: a folder that changes as its events say, and questions that hold in their months."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from imprint import documents
from imprint.continual import manifest
from imprint.continual.changes import compare
from imprint.evaluation.closed_book import grade, normalised
from imprint.types import Document

ROOT = Path(__file__).parents[1]
SHARED = ROOT / ".." / "shared" / "data"
READ = ("model_spec", "ty_docs", "contoso", "phonebook")
MONTHS = range(12)


@pytest.fixture(scope="module")
def year() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_year", ROOT / "bench" / "_year.py")
    assert spec and spec.loader
    module = sys.modules["_year"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def states(year: ModuleType) -> list[dict[str, str]]:
    if missing := [name for name in READ if not (SHARED / name).is_dir()]:
        pytest.skip(f"{', '.join(missing)} not in ../shared/data on this machine")
    return [year.state(month, SHARED) for month in MONTHS]


def body(file: str) -> str:
    """What is taught of a file: without its front matter."""
    return file.split("---\n", 2)[2]


def stands(value: str, text: str) -> bool:
    return f" {normalised(value)} " in f" {normalised(text)} "


def loaded(folder: Path) -> dict[str, Document]:
    found = documents.load(folder)
    assert not found.skipped and not found.ignored and not found.notes
    return {document.source: document for document in found.documents}


# --- the folder -------------------------------------------------------------------------------


def test_the_folder_changes_where_events_say_and_nowhere_else(
    year: ModuleType, states: list[dict[str, str]]
) -> None:
    assert not year.events(0)
    for month in MONTHS[1:]:
        before, now = states[month - 1], states[month]
        happened: dict[str, set[str]] = {}
        for event in year.events(month):
            happened.setdefault(event.document, set()).add(event.what)
        assert {d for d in before.keys() | now.keys() if before.get(d) != now.get(d)} == happened.keys()
        assert now.keys() - before.keys() == {d for d, what in happened.items() if "came" in what}
        assert before.keys() - now.keys() == {d for d, what in happened.items() if "withdrawn" in what}
        for document in happened.keys() & before.keys() & now.keys():
            assert body(before[document]) != body(now[document])


def test_most_months_change_one_to_three_documents_and_two_change_none(year: ModuleType) -> None:
    touched = [len({event.document for event in year.events(month)}) for month in MONTHS[1:]]
    assert touched.count(0) == 2 and max(touched) == 3
    what = [event.what for month in MONTHS for event in year.events(month)]
    assert set(what) == {"came", "withdrawn", "replaced", "edited"} and what.count("came") == 3


def test_a_section_is_replaced_by_the_newer_editions(year: ModuleType, states: list[dict[str, str]]) -> None:
    newer = normalised((SHARED / "model_spec" / "model_spec_2025-09-12.md").read_text("utf-8"))
    older = normalised((SHARED / "model_spec" / "model_spec_2025-02-12.md").read_text("utf-8"))
    replaced = [e for month in MONTHS for e in year.events(month) if e.what == "replaced"]
    assert len(replaced) >= 5
    for event in replaced:
        came = set(body(states[event.month][event.document]).split(". "))
        came -= set(body(states[event.month - 1][event.document]).split(". "))
        sentences = [normalised(sentence) for sentence in came]
        # Sentences without links stand in the edition word for word.
        assert any(s in newer and s not in older for s in sentences)
        assert not any(s in older and s not in newer for s in sentences)


def test_a_policy_that_flips_back_is_the_same_document_with_a_later_date(
    year: ModuleType, states: list[dict[str, str]], tmp_path: Path
) -> None:
    read = []
    for month in (0, 1, 6):
        year.write_state(month, tmp_path, SHARED)
        read.append(loaded(tmp_path)["contoso/perksplus.md"])
    assert read[0].id == read[2].id != read[1].id
    assert [d.valid_from for d in read] == ["2026-01-01", "2026-02-01", "2026-07-01"]


def test_what_is_written_is_read_with_title_and_date_of_its_last_change(
    year: ModuleType, states: list[dict[str, str]], tmp_path: Path
) -> None:
    since: dict[str, str] = {}
    for month in MONTHS:
        year.write_state(month, tmp_path, SHARED)
        changed = {event.document for event in year.events(month)}
        since |= {name: year.first_day(month) for name in states[month] if month == 0 or name in changed}
        read = loaded(tmp_path)
        assert read.keys() == states[month].keys()
        assert {name: d.valid_from for name, d in read.items()} == {name: since[name] for name in read}
        assert len({d.title for d in read.values()}) == len(read)


def test_the_year_is_small(states: list[dict[str, str]]) -> None:
    tokens = [sum(len(body(text).split()) for text in state.values()) * 1.3 for state in states]
    assert 5_000 <= tokens[0] <= 7_000 and max(tokens) <= 8_500
    assert all(14 <= len(state) <= 18 for state in states)
    assert all(80 <= len(body(text).split()) <= 640 for state in states for text in state.values())


def test_an_edit_replaces_the_words_it_quotes_or_is_refused(year: ModuleType) -> None:
    with pytest.raises(ValueError, match="stands there 2 times, not 1"):
        year.Edit(1, "a.md", "old", "new").applied("old and old")
    assert year.Edit(1, "a.md", "old…old", "new").applied("my old and old one") == "my new one"


# --- the questions ----------------------------------------------------------------------------


def test_every_answer_stands_in_its_document_then(year: ModuleType, states: list[dict[str, str]]) -> None:
    for fact in year.facts():
        for month in MONTHS:
            if answers := fact.answers(month):
                assert stands(answers[0], body(states[month][fact.document])), (month, fact.wordings[0])


def test_no_superseded_or_future_value_stands_in_its_document(
    year: ModuleType, states: list[dict[str, str]]
) -> None:
    for fact in year.facts():
        for month in MONTHS:
            text = body(states[month][fact.document]) if fact.document in states[month] else ""
            for value in fact.asked(month).wrong if fact.kind != "new" else ():
                if month >= fact.spans[0][0]:
                    assert not stands(value, text), (month, fact.wordings[0], value)


def test_a_fact_changes_in_a_month_in_which_its_document_does(year: ModuleType) -> None:
    for fact in year.facts():
        for since, _ in fact.spans:
            assert not since or fact.document in {event.document for event in year.events(since)}


def test_a_kind_says_how_a_fact_changes(year: ModuleType) -> None:
    for fact in year.facts():
        first, *later = fact.spans
        assert [since for since, _ in fact.spans] == sorted({since for since, _ in fact.spans}) and first[1]
        assert (first[0] > 0) == (fact.kind == "new")
        assert len(fact.wordings) == (2 if fact.kind == "flipped" else 1)
        assert bool(later and all(answers for _, answers in later)) == (fact.kind == "flipped")
        assert bool(later and not any(answers for _, answers in later)) == (fact.kind == "gone")


def test_there_are_facts_enough_of_each_kind_over_many_documents(year: ModuleType) -> None:
    of = {kind: [f for f in year.facts() if f.kind == kind] for kind in ("flipped", "untouched", "new", "gone")}
    assert 25 <= len(of["flipped"]) <= 30 and len(of["untouched"]) >= 40
    assert len(of["new"]) >= 8 and len(of["gone"]) >= 5
    assert len({f.document for f in of["untouched"]}) >= 12
    back = [f for f in of["flipped"] if len(f.spans) == 3]
    assert len(back) >= 3 and all(f.spans[0][1] == f.spans[2][1] != f.spans[1][1] for f in back)
    asked = [wording for f in year.facts() for wording in f.wordings]
    assert len(asked) == len(set(asked))


def test_counterfact_values_differ_between_months(year: ModuleType, states: list[dict[str, str]]) -> None:
    rows = (SHARED / "phonebook" / "counterfact_edit_1K.csv").read_text("utf-8")
    changed = [f for f in year.facts() if f.kind == "flipped" and f.document == "facts/register.md"]
    assert len(changed) == 5
    for fact in changed:
        values = [answers[0] for _, answers in fact.spans]
        assert values[0] in rows and all(a != b for a, b in zip(values, values[1:], strict=False))


def test_a_fact_is_asked_with_the_answer_of_its_month_and_the_others_wrong(year: ModuleType) -> None:
    for month, amount, other in ((0, 1000, 1500), (1, 1500, 1000), (5, 1500, 1000), (6, 1000, 1500)):
        (question,) = [q for q in year.questions_at(month)["flipped"] if "expense" in q.text]
        assert grade(question, f"It is up to ${amount}.").contains == 1
        assert grade(question, f"It is up to ${other}.").twin == 1


def test_nothing_is_superseded_before_it_changes(year: ModuleType) -> None:
    assert year.superseded(0) == []
    for month in MONTHS:
        for question in year.superseded(month):
            (fact,) = [f for f in year.facts() if f.wordings[0] == question.text]
            held = {a for since, answers in fact.spans if since < month for a in answers}
            assert question.wrong and set(question.wrong) <= held


def test_a_months_version_holds_from_its_first_day(year: ModuleType, tmp_path: Path, states: list[dict[str, str]]) -> None:
    """bench/year.py finds the version of a month by that day."""
    before, entries = list[Document](), list[manifest.Entry]()
    for month in MONTHS:
        year.write_state(month, tmp_path, SHARED)
        now = documents.load(tmp_path).documents
        changes = compare(before, now)
        entries = manifest.following(entries, changes, year.first_day(month), {})
        if month == 0 or year.events(month):
            assert changes.any and manifest.held_since(entries) == year.first_day(month)
        before = list(now)


def test_a_dated_question_is_right_about_its_day(year: ModuleType) -> None:
    for month in MONTHS:
        dated = year.questions_at(month)["as_of"]
        for question in dated:
            (fact,) = [f for f in year.facts() if f.wordings[0] == question.text]
            then = int(question.as_of[5:7]) - 1
            assert then <= month and question.answers == fact.answers(then)
        changed = [f for f in year.facts() if f.kind == "flipped" and f.spans[1][0] <= month]
        begun = [since for f in changed for since, _ in f.spans if since <= month]
        assert len(dated) == len({(q.text, q.as_of) for q in dated}) == len(begun)


def test_a_withdrawn_fact_is_asked_once_no_document_tells_it(year: ModuleType) -> None:
    assert year.questions_at(3)["gone"] == []
    asked = year.questions_at(11)["gone"]
    assert len(asked) == 5 and all(q.answers == () and q.wrong for q in asked)
