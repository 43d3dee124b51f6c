"""The laws of what was forgotten: likelihoods are the model's own, files become items, changes are paired."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from imprint.adapters import KINDS
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadInput
from imprint.evaluation import forgetting, likelihood, suites
from imprint.evaluation.likelihood import Row, judge
from imprint.evaluation.suites import Item, Rule, by_task, measure, paired, read_suite
from imprint.types import Adapter
from test_kinds import made

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"

LINES = {
    "arc_easy_100": {"query": "Question: What is green?", "choices": ["grass", "the cold sea"], "gold": 0},
    "copa_100": {"query": "It rained, therefore", "choices": ["it was wet.", "it was dry."], "gold": 1},
    "lambada_openai_100": {"context": "He gave it to", "continuation": "her"},
    "winogrande_100": {"context_options": ["Ann met Bo, because Ann", "Ann met Bo, because Bo"], "continuation": ".", "gold": 1},
    "svamp_100": {"context": "Ann has 7 pears and eats 4. How many?", "chain_of_thought": "( 7.0 - 4.0 )", "answer": "3"},
    "mmlu_5_per_subject": {"subject": "x", "question": "What is 1 + 1?", "choices": ["1", "2", "3", "4"], "answer": 1},
    "blimp_10_per_paradigm": {"sentence_good": "Ann sleeps.", "sentence_bad": "Ann sleep.", "UID": "x"},
}


def suite(folder: Path) -> Path:
    for name, record in LINES.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not in ../shared/data on this machine")
    return SHARED / name


def worn(base: Base, kind: str) -> Adapter:
    """An adapter that changes much."""
    moved = made(kind, base)
    return replace(moved, tensors={k: t.float() if t.is_floating_point() else t for k, t in moved.tensors.items()})


# --- likelihood -------------------------------------------------------------------------------


def random_rows(base: Base, n: int = 40) -> list[Row]:
    draw = random.Random(0)
    rows = [Row(tuple(draw.randrange(base.model.config.vocab_size) for _ in range(draw.randint(2, 60)))) for _ in range(n)]
    return [Row(row.ids, draw.randrange(1, len(row.ids))) for row in rows] + [Row((*rows[0].ids[:-1], 7), 1)]


def told_alone(base: Base, row: Row) -> list[float]:
    """The log-probabilities of a row's judged tokens as the model gives them, asked about nothing else."""
    logits = base.model(torch.tensor([row.ids])).logits[0, row.start - 1 : -1]
    picked: list[float] = logits.log_softmax(-1).gather(1, torch.tensor(row.ids[row.start :])[:, None])[:, 0].tolist()
    return picked


@pytest.mark.parametrize("pass_tokens", [50, 10_000])
def test_a_row_is_as_likely_among_others_as_alone(
    tiny_base: Base, monkeypatch: pytest.MonkeyPatch, pass_tokens: int
) -> None:
    monkeypatch.setattr(likelihood, "_PASS_TOKENS", pass_tokens)
    rows = random_rows(tiny_base)
    for row, judged in zip(rows, judge(tiny_base, rows), strict=True):
        assert judged.logprobs == pytest.approx(told_alone(tiny_base, row), abs=1e-4)
        greedy = tiny_base.model(torch.tensor([row.ids])).logits[0, row.start - 1 : -1].argmax(-1).tolist()
        assert judged.greedy == (greedy == list(row.ids[row.start :]))


def test_what_is_written_greedily_is_greedy(tiny_base: Base) -> None:
    ids = tiny_base.tokenizer.encode("The Kestrel")
    for _ in range(5):
        ids.append(int(tiny_base.model(torch.tensor([ids])).logits[0, -1].argmax()))
    one, other = judge(tiny_base, [Row(tuple(ids), len(ids) - 5), Row((*ids[:-1], ids[-1] ^ 1), len(ids) - 5)])
    assert one.greedy and not other.greedy


def test_rows_that_differ_in_their_last_token_are_read_once(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = Base.read_rows
    monkeypatch.setattr(Base, "read_rows", lambda base, rows: (read.append(len(rows)), real(base, rows))[1])
    judge(tiny_base, [Row((1, 2, 3, last), 3) for last in range(20)])
    assert read == [1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_worn_is_measured(tiny_base: Base, kind: str) -> None:
    rows, engine = random_rows(tiny_base, 5), Engine(tiny_base)
    bare = judge(tiny_base, rows)
    with engine.attached(worn(tiny_base, kind)):
        changed = judge(tiny_base, rows)
        alone = [told_alone(tiny_base, row) for row in rows]
    assert all(a.logprobs == pytest.approx(b, abs=1e-3) for a, b in zip(changed, alone, strict=True))
    assert any(a.logprobs != pytest.approx(b.logprobs, abs=0.01) for a, b in zip(changed, bare, strict=True))
    assert judge(tiny_base, rows) == bare


# --- suites -----------------------------------------------------------------------------------


def test_every_form_of_line_becomes_its_item(tmp_path: Path) -> None:
    items = {item.task: item for item in read_suite(suite(tmp_path))}
    assert items["arc_easy"].texts[0] == ("Question: What is green?\nAnswer:", " grass")
    assert (items["copa"].texts[1], items["copa"].right) == (("It rained, therefore", " it was dry."), 1)
    assert items["lambada_openai"] == Item("lambada_openai", (("He gave it to", " her"),), 0, Rule.GREEDY)
    assert items["winogrande"].texts[1] == ("Ann met Bo, because Bo", ".")
    assert items["mmlu"].texts[1] == ("Question: What is 1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", " B")
    assert items["blimp"].texts == (("", "Ann sleeps."), ("", "Ann sleep."))
    assert {item.rule for item in items.values()} == set(Rule)


def test_a_sum_has_four_numbers_of_which_one_is_right(tmp_path: Path) -> None:
    problems = [(f"Ann has {a} pears and Bo {b}. How many?", a + b) for a in range(9) for b in range(3)]
    lines = [json.dumps({"context": c, "chain_of_thought": "", "answer": str(r)}) for c, r in problems]
    (tmp_path / "svamp.jsonl").write_text("\n".join(lines))
    for item, (_, right) in zip(read_suite(tmp_path), problems, strict=True):
        numbers = [float(text) for _, text in item.texts]
        assert len(set(numbers)) == 4 and numbers[item.right] == right and min(numbers) >= 0
    assert read_suite(tmp_path) == read_suite(tmp_path / "svamp.jsonl")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2 is not JSON"),
        ('{"query": "x"}', "line 2: expected an object with the fields of one of"),
        ('["query"]', "line 2: expected an object"),
        ('{"query": "x", "choices": ["a"], "gold": 1}', "line 2: the right one is number 1 of 1, counted from 0"),
        ('{"query": "x", "choices": ["a", 3], "gold": 0}', "line 2: a field does not hold what it should"),
        ('{"query": "x", "choices": null, "gold": 0}', "line 2: a field does not hold what it should"),
        ('{"query": "x", "choices": ["a", " "], "gold": 0}', "line 2: one of the texts to judge is empty"),
        ('{"context": "x 1", "chain_of_thought": "", "answer": "many"}', "line 2: a field does not hold"),
    ],
)
def test_a_line_that_is_no_item_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text("\n".join([json.dumps(LINES["copa_100"]), line]))
    with pytest.raises(BadInput, match=f"odd.jsonl, {told}"):
        read_suite(tmp_path)


def test_a_folder_without_items_is_no_suite(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There is no suite"):
        read_suite(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(BadInput, match="hold no item"):
        read_suite(tmp_path)


def test_the_right_continuation_is_the_likelier_one(tiny_base: Base) -> None:
    before, one, other = "The Kestrel", " weighs 3 kilograms", " a"
    head, *tails = (tuple(tiny_base.tokenizer.encode(text)) for text in (before, one, other))
    scores = [sum(judged.logprobs) for judged in judge(tiny_base, [Row(head + tail, len(head)) for tail in tails])]
    whole = Item("t", ((before, one), (before, other)), 0, Rule.WHOLE)
    each = Item("t", ((before, one), (before, other)), 0, Rule.CHARACTERS)
    assert measure(tiny_base, [whole, each]) == [
        float(scores[0] > scores[1]),
        float(scores[0] / len(one.strip()) > scores[1] / len(other.strip())),
    ]


def test_of_two_that_are_alike_neither_is_preferred(tiny_base: Base) -> None:
    assert measure(tiny_base, [Item("t", (("It is", " so"), ("It is", " so")), 0, Rule.WHOLE)]) == [0.0]


def test_a_text_beyond_the_window_loses_its_beginning(tiny_base: Base) -> None:
    item = Item("t", (("x" * 2000, " a"), ("x" * 2000, " b")), 0)
    assert len(measure(tiny_base, [item, Item("t", (("", "y" * 2000),), 0)])) == 2


def test_all_tasks_are_measured(tiny_base: Base, tmp_path: Path) -> None:
    items = read_suite(suite(tmp_path))
    scores = by_task(items, measure(tiny_base, items), seed=0)
    assert list(scores) == [item.task for item in items] and all(s.n == 1 for s in scores.values())


@pytest.mark.parametrize(("name", "count"), [("general_gauntlet", 1000), ("blimp", 670), ("mmlu", 285)])
def test_the_real_suites_are_read_whole(name: str, count: int) -> None:
    items = read_suite(shared(name))
    assert len(items) == count and len({i.task for i in items}) == (10 if count == 1000 else 1)


@pytest.mark.base
def test_the_bundled_base_knows_grammar(bundled_base: Base) -> None:
    right = measure(bundled_base, read_suite(shared("blimp"))[::10])
    assert sum(right) / len(right) > 0.65


# --- changes ----------------------------------------------------------------------------------


def test_a_change_is_paired() -> None:
    before = [float(i % 2) for i in range(400)]
    after = [0.0, *before[1:-1], 0.0]
    change = paired(before, after, seed=0)
    assert (change.value, change.n) == (pytest.approx(-1 / 400), 400)
    assert -0.01 < change.low <= change.value <= change.high == 0.0
    assert paired(before, before, seed=0).low == 0.0 == paired(before, before, seed=0).high


def test_the_interval_of_a_change_is_the_normal_one_where_items_are_many() -> None:
    draw = np.random.default_rng(0)
    before, after = draw.integers(0, 2, 2000), draw.integers(0, 2, 2000)
    change = paired(before.tolist(), after.tolist(), seed=0)
    error = (after - before).std() / math.sqrt(2000)
    assert change.high - change.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_tasks_are_drawn_each_by_itself() -> None:
    before, after, tasks = [0.0] * 20, [1.0] * 10 + [0.0] * 10, ["a"] * 10 + ["b"] * 10
    assert paired(before, after, seed=0, tasks=tasks).low == 0.5 == paired(before, after, seed=0, tasks=tasks).high
    assert paired(before, after, seed=0).low < 0.5


def test_other_items_are_not_paired() -> None:
    with pytest.raises(BadInput, match="cannot be paired"):
        paired([1.0], [1.0, 0.0], seed=0)
    with pytest.raises(BadInput, match="cannot be compared"):
        forgetting.perplexity_ratio(forgetting.Perplexity((1.0,), (3,)), forgetting.Perplexity((1.0,), (4,)), seed=0)


def test_perplexity_is_the_models_own(tiny_base: Base) -> None:
    text = "Who founded the company in 1987? It was Maren Tollifax, a former tram driver." * 3
    told = forgetting.perplexity(tiny_base, text, window=50)
    ids = tiny_base.tokenizer.encode(text)
    losses = [tiny_base.model(torch.tensor([w]), labels=torch.tensor([w])).loss.item() for w in (ids[i : i + 50] for i in range(0, len(ids) - 1, 50))]
    assert [n / t for n, t in zip(told.nats, told.tokens, strict=True)] == pytest.approx(losses, abs=1e-4)
    assert told.value == pytest.approx(math.exp(sum(told.nats) / sum(told.tokens)))
    assert forgetting.general_perplexity(tiny_base, window=50) == forgetting.perplexity(tiny_base, forgetting.general_text(), window=50).value
    with pytest.raises(BadInput, match="two tokens or more"):
        forgetting.perplexity(tiny_base, "a")


def test_a_ratio_of_perplexities_is_paired_by_window() -> None:
    draw = np.random.default_rng(0)
    nats, tokens = draw.uniform(50, 150, 60), tuple([40] * 60)
    before = forgetting.Perplexity(tuple(nats), tokens)
    after = forgetting.Perplexity(tuple(nats + 0.4), tokens)
    ratio = forgetting.perplexity_ratio(before, after, seed=0)
    assert ratio.value == pytest.approx(after.value / before.value) == pytest.approx(math.exp(0.01))
    assert ratio.low == pytest.approx(ratio.high) == pytest.approx(ratio.value)


def test_every_rule_is_described() -> None:
    assert all(rule.name in (suites.__doc__ or "") for rule in Rule)
