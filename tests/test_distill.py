"""The laws of learning from a teacher that has the document open."""

import contextlib
import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imprint
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine, passes
from imprint.engine.passes import Family, PassRow, Soft, forward_backward, likeliest, logprobs
from imprint.errors import BadInput, BadSetting, StaleRun
from imprint.recipe import Recipe, read
from imprint.registry import Registry
from imprint.training import distill
from imprint.training.batches import Row, each_row
from imprint.training.distill import Reading, opened, read_by_teacher, teacher_row
from imprint.training.row_file import RowFile
from imprint.training.sft import Job, train
from imprint.types import Adapter, Example, Passage, Turn
from test_engine import some_rows, strong
from test_pipeline import base_folder, cpu, documents  # noqa: F401 - fixtures

WEIGHT = "The Kestrel weighs 3 kilograms. What does it weigh? It comes in green, says Maren."
SHOP = "The shop is open from Tuesday to Saturday, from 10:00 to 16:30."
PASSAGES = [
    Passage("d", i * 100, i * 100 + len(t), t, "Tents", "Kestrel > Facts") for i, t in enumerate((WEIGHT, SHOP))
]


def example(question: str, answer: str, *passages: int, generator: str = "questions/short") -> Example:
    turns = (Turn("user", question), Turn("assistant", answer, learn=True))
    return Example(turns, tuple(PASSAGES[i].id for i in passages), generator)


EXAMPLES = [
    example("What does it weigh?", "3 kilograms", 0),  # which the passage asks, too
    example("What does the Kestrel weigh, and when is the shop open?", "3 kilograms; on Sunday never.", 0, 1),
    Example((Turn("text", "In short, it is green. Really.", learn=True),), (PASSAGES[0].id,), "rephrase"),
    Example(
        (Turn("system", "Be brief."), Turn("user", "Open?"), Turn("assistant", "open", True)),
        (PASSAGES[1].id,),
        "q",
    ),
    Example(
        (Turn("user", "Hi"), Turn("assistant", "Yes?"), Turn("user", "Why?"), Turn("assistant", "So.", True)),
        (),
        "r",
    ),
    example("Who sings?", "Nobody says so.", 1, generator="negatives/other"),
    Example((Turn("text", "Once there was a king.", learn=True),), (), "replay"),
]


def one_row(made: Example, base: Base, *, questions: bool = True, max_tokens: int = 1024) -> Row:
    (row,) = each_row([made], base, max_tokens=max_tokens, questions=questions)
    return row


def learnt(row: Row) -> list[int]:
    return [token for token, wanted in zip(row.ids[1:], row.learn[1:], strict=True) if wanted]


@pytest.fixture
def exact_base(tiny_base: Base) -> Base:
    """A copy in float64, where only what is wrong differs."""
    return replace(tiny_base, model=copy.deepcopy(tiny_base.model).double())


def softened(row: PassRow, k: int, vocabulary: int, seed: int) -> PassRow:
    """The row with a random teacher's k likeliest tokens."""
    draw = torch.Generator().manual_seed(seed)
    logits_LV = 2 * torch.randn(sum(row.learn[1:]), vocabulary, generator=draw, dtype=torch.float64)
    best = logits_LV.log_softmax(1).topk(k)
    return replace(row, soft=Soft(best.indices.numpy(), best.values.numpy()))


def by_autograd(base: Base, rows: list[PassRow]) -> torch.Tensor:
    """The weighted losses of the rows together, one row and token after another."""
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        logprobs_TV = base.model(torch.tensor([row.ids])).logits[0].log_softmax(1)
        learnt = 0
        for t in range(1, len(row.ids)):
            if not row.learn[t]:
                continue
            weight = row.weight * (row.weights[t] if row.weights else 1)
            if row.soft is None:
                nats = -logprobs_TV[t - 1, row.ids[t]]
            else:
                ids_K, teacher_K = torch.tensor(row.soft.ids_LK[learnt]), torch.tensor(row.soft.logprobs_LK[learnt])
                nats = -(teacher_K.exp() * logprobs_TV[t - 1, ids_K]).sum()
            total = total + weight * nats
            learnt += 1
    return total


def test_soft_and_hard_and_weighted_rows_have_the_gradients_of_autograd_in_one_pass(exact_base: Base) -> None:
    vocabulary = exact_base.model.config.vocab_size
    base = replace(exact_base, model=copy.deepcopy(exact_base.model))
    engine = Engine(base)
    seat = engine.load(strong(base, LoRA(rank=4, alpha=4, targets=("down_proj",)), 1), trainable=True)
    rows = some_rows([seat], 9)
    for i, k in ((1, 5), (4, vocabulary), (7, 1)):
        rows[i] = softened(rows[i], k, vocabulary, i)
    for i in (2, 4):
        rows[i] = replace(rows[i], weights=tuple(math.sin(t) for t in range(len(rows[i].ids))))
    losses = forward_backward(engine, rows)
    factors = {name: t.double().requires_grad_() for name, t in seat.adapter.tensors.items()}
    for name, layer in exact_base.model.named_modules():
        if name.endswith("down_proj"):
            down, up = (factors[f"base_model.model.{name}.lora_{ab}.weight"] for ab in "AB")
            layer.register_forward_hook(lambda _, x, y, down=down, up=up: y + x[0] @ down.T @ up.T)
    by_autograd(exact_base, rows).backward()
    for name, gradient in seat.tensors(seat.grads_P).items():
        torch.testing.assert_close(gradient, factors[name].grad, atol=1e-11, rtol=1e-9)
    with torch.no_grad():
        plain = [by_autograd(exact_base, [replace(row, weight=1.0, weights=None)]).item() for row in rows]
    assert losses == pytest.approx(plain, abs=1e-9)


def test_with_the_whole_vocabulary_the_gradient_is_that_of_the_divergence(exact_base: Base) -> None:
    hidden_LD = torch.randn(5, 32, dtype=torch.float64, requires_grad=True)
    head_VD = exact_base.model.lm_head.weight
    teacher_LV = torch.randn(5, len(head_VD), dtype=torch.float64).log_softmax(1)
    everything_LV = torch.arange(len(head_VD)).expand(5, -1).contiguous()
    passes._Nats.apply(hidden_LD, head_VD, everything_LV, teacher_LV.exp(), torch.ones(5)).sum().backward()
    found, hidden_LD.grad = hidden_LD.grad, None
    student_LV = (hidden_LD @ head_VD.T).log_softmax(1)
    torch.nn.functional.kl_div(student_LV, teacher_LV, reduction="sum", log_target=True).backward()
    torch.testing.assert_close(found, hidden_LD.grad, atol=1e-12, rtol=1e-10)


def test_a_soft_row_gone_wrong_never_touches_a_neighbour(exact_base: Base) -> None:
    engine = Engine(exact_base)
    seats = [engine.load(strong(exact_base, LoRA(rank=4), i), trainable=True) for i in range(2)]
    rows = [softened(row, 4, 400, i) for i, row in enumerate(some_rows(list(seats), 8))]
    forward_backward(engine, rows)
    sound = seats[0].grads_P.clone()
    for spoiler in (math.nan, 1e300):
        seats[0].grads_P.zero_()
        kept = seats[1].values_P.clone()
        seats[1].values_P.fill_(spoiler)
        losses = forward_backward(engine, rows)
        seats[1].values_P.copy_(kept)
        assert [math.isfinite(x) for x in losses] == [row.seat is seats[0] for row in rows]
        assert torch.equal(seats[0].grads_P, sound)


def test_what_a_token_is_worth_does_not_depend_on_the_teacher(exact_base: Base) -> None:
    engine = Engine(exact_base)
    rows = some_rows([None], 3)
    for hard, soft in zip(
        logprobs(engine, rows), logprobs(engine, [softened(r, 3, 400, 0) for r in rows]), strict=True
    ):
        assert torch.equal(hard, soft)


# --- what the teacher reads -------------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", [1024, 24])
@pytest.mark.parametrize("questions", [False, True])
@pytest.mark.parametrize("made", EXAMPLES, ids=lambda e: e.turns[-2 if len(e.turns) > 1 else 0].text[:12])
def test_the_teacher_learns_the_same_tokens_after_the_passages(
    tiny_base: Base, made: Example, questions: bool, max_tokens: int
) -> None:
    rows = list(each_row([made], tiny_base, max_tokens=max_tokens, questions=questions))
    text = opened([p for p in PASSAGES if p.id in made.passages])
    for row in rows:
        read = teacher_row(row, made, tiny_base, text, questions=questions)
        assert learnt(read) == learnt(row)
        first = read.learn.index(True)
        assert text in tiny_base.tokenizer.decode(read.ids[:first])
        if not text:  # a row of its own, up to its last learnt token
            assert row.ids[: len(read.ids)] == read.ids


def test_an_answer_after_a_passage_is_read_as_the_model_would_be_asked(tiny_base: Base) -> None:
    text = opened([PASSAGES[0]])
    ids, learn = tiny_base.training_ids(EXAMPLES[0].turns, before=text)
    asked = tiny_base.prompt_ids([Turn("user", f"{text}\n\n{EXAMPLES[0].turns[0].text}")])
    assert ids[: len(asked)] == asked
    assert learn.index(True) == len(asked)


@pytest.mark.parametrize("made", EXAMPLES[:4], ids=str)
def test_where_the_window_is_too_small_the_passage_loses_its_front(tiny_base: Base, made: Example) -> None:
    text = " ".join(f"word{i}" for i in range(200))
    row = one_row(made, tiny_base)
    read = teacher_row(row, made, tiny_base, text, questions=True)
    assert len(read.ids) <= tiny_base.window_tokens < tiny_base.count_tokens(text)
    assert learnt(read) == learnt(row)
    said = tiny_base.tokenizer.decode(read.ids)
    assert "word199\n\n" in said and "word0 " not in said
    assert len(read.ids) > tiny_base.window_tokens - 24  # and no more than it must


# --- its targets ------------------------------------------------------------------------------


def reading(examples: Sequence[Example], passages: Sequence[Passage] = PASSAGES) -> Reading:
    return Reading(lambda: iter(examples), passages, 1024, True)


def row_file(examples: Sequence[Example], base: Base, folder: Path) -> RowFile:
    return RowFile.write(each_row(examples, base, max_tokens=1024, questions=True), folder)


def test_the_targets_are_what_the_bare_base_holds_likely_with_the_passages_open(
    tiny_base: Base, tmp_path: Path
) -> None:
    engine = Engine(tiny_base)
    engine.load(strong(tiny_base, LoRA(rank=4), 1))  # an adapter that nobody wears now
    plain = row_file(EXAMPLES, tiny_base, tmp_path / "rows")
    taught = read_by_teacher(engine, tmp_path / "rows", reading(EXAMPLES), tmp_path / "teacher")
    assert list(taught) == list(plain)
    assert taught[-1].soft is not None
    for made, row in zip(EXAMPLES, taught, strict=True):
        text = opened([p for p in PASSAGES if p.id in made.passages])
        read = teacher_row(row, made, tiny_base, text, questions=True)
        with torch.no_grad():
            logprobs_TV = tiny_base.model(torch.tensor([read.ids])).logits[0].log_softmax(1)
        places = [t - 1 for t, wanted in enumerate(read.learn) if wanted]
        best = logprobs_TV[places].topk(20)
        assert row.soft is not None
        np.testing.assert_allclose(row.soft.logprobs_LK, best.values, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(row.soft.ids_LK[:, 0], best.indices[:, 0])


def test_a_row_that_shares_its_beginning_is_read_as_it_is_alone(exact_base: Base) -> None:
    engine = Engine(exact_base)
    rows = [
        replace(row, ids=row.ids[:1] * 6 + row.ids, learn=(False,) * 6 + row.learn) for row in some_rows([None], 9)
    ]
    begun = [tuple(range(20, 20 + n)) for n in (0, 1, 5)]
    families = [
        Family(b, tuple(replace(r, ids=b + r.ids, learn=(False,) * len(b) + r.learn) for r in rows[i::3]))
        for i, b in enumerate(begun)
    ]
    whole = exact_base.model.config.vocab_size
    told = iter(likeliest(engine, families, whole))
    for row in (row for family in families for row in family.rows):
        soft, tokens = next(told), [t for t, wanted in zip(row.ids[1:], row.learn[1:], strict=True) if wanted]
        found = soft.logprobs_LK[soft.ids_LK == np.array(tokens)[:, None]]
        np.testing.assert_allclose(found, logprobs(engine, [row])[0], atol=1e-11)


def test_a_passage_is_read_once_for_all_rows_about_it(tiny_base: Base, tmp_path: Path) -> None:
    many = [example(f"What is fact {i}?", "It is green.", 0) for i in range(12)]
    plain = row_file(many, tiny_base, tmp_path / "rows")
    (families,) = distill._passes(tiny_base, plain, reading(many))
    size = tiny_base.count_tokens(opened(PASSAGES[:1]))
    assert sum(family.tokens for family in families) < size + 20 + plain.lengths.sum()


def test_an_example_of_a_passage_that_is_not_there_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    row_file(EXAMPLES, tiny_base, tmp_path / "rows")
    with pytest.raises(BadInput, match="d:100-"):
        read_by_teacher(Engine(tiny_base), tmp_path / "rows", reading(EXAMPLES, PASSAGES[:1]), tmp_path / "teacher")


def test_a_reading_that_was_interrupted_goes_on_and_ends_the_same(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "_WINDOW", 5)
    monkeypatch.setattr(distill, "_PASS_TOKENS", 150)
    row_file(EXAMPLES, tiny_base, tmp_path / "rows")
    whole = read_by_teacher(Engine(tiny_base), tmp_path / "rows", reading(EXAMPLES), tmp_path / "whole")

    def stop(done: int, *_: Any) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    args = (Engine(tiny_base), tmp_path / "rows", reading(EXAMPLES), tmp_path / "teacher")
    with pytest.raises(KeyboardInterrupt):
        read_by_teacher(*args, progress=stop)
    with open(tmp_path / "teacher" / "ids.bin", "ab") as file:
        file.write(b"torn" * 50)  # a group that was being written
    told: list[int] = []
    resumed = read_by_teacher(*args, progress=lambda done, *_: told.append(done))
    assert told[0] > 4 and told[-1] == 7
    assert repr(resumed) == repr(whole)
    monkeypatch.setattr(distill, "likeliest", None)
    assert repr(read_by_teacher(*args)) == repr(whole)  # nothing is read again


def test_other_passages_are_read_anew(tiny_base: Base, tmp_path: Path) -> None:
    row_file(EXAMPLES, tiny_base, tmp_path / "rows")
    others = [replace(p, text="Nothing at all.") for p in PASSAGES]
    first, second = (
        read_by_teacher(Engine(tiny_base), tmp_path / "rows", reading(EXAMPLES, passages), tmp_path / "teacher")
        for passages in (PASSAGES, others)
    )
    assert first.hash == second.hash
    assert first.teacher_hash != second.teacher_hash


# --- training ---------------------------------------------------------------------------------


def job(rows: RowFile, tokens: int = 12_000) -> Job:
    return Job(LoRA(rank=8), rows, tokens, 1e-2, 256, seed=0)


def test_what_the_teacher_reads_the_student_comes_to_know(tiny_base: Base, tmp_path: Path) -> None:
    engine = Engine(tiny_base)
    row_file(EXAMPLES, tiny_base, tmp_path / "rows")
    taught = read_by_teacher(engine, tmp_path / "rows", reading(EXAMPLES), tmp_path / "teacher")
    trained = train(engine, job(taught), checkpoint=tmp_path / "checkpoint")
    entropy = -sum((np.exp(r.soft.logprobs_LK, dtype=float) * r.soft.logprobs_LK).sum() for r in taught if r.soft)

    def divergence(adapter: Adapter) -> float:
        seat = engine.load(adapter, trainable=True)
        return sum(forward_backward(engine, [PassRow(seat, r.ids, r.learn, soft=r.soft) for r in taught])) - entropy

    assert divergence(trained.adapter) < 0.3 * divergence(LoRA(rank=8).fresh(tiny_base, seed=0))


@pytest.mark.parametrize("hard", [0.0, 0.3, 1.0])
def test_hard_labels_are_the_teachers_loss_and_the_texts_in_their_parts(
    hard: float, exact_base: Base, tmp_path: Path
) -> None:
    engine = Engine(exact_base)
    plain = row_file(EXAMPLES, exact_base, tmp_path / "rows")
    soft = read_by_teacher(engine, tmp_path / "rows", reading(EXAMPLES), tmp_path / "teacher")
    both = read_by_teacher(engine, tmp_path / "rows", reading(EXAMPLES), tmp_path / "teacher", hard=hard)
    seat = engine.load(LoRA(rank=2).fresh(exact_base, seed=0), trainable=True)

    def losses(rows: Sequence[Row]) -> list[float]:
        return forward_backward(engine, [PassRow(seat, r.ids, r.learn, soft=r.soft) for r in rows])

    expected = [(1 - hard) * s + hard * t for s, t in zip(losses(soft), losses(plain), strict=True)]
    assert losses(both) == pytest.approx(expected, rel=1e-6)


def test_a_checkpoint_of_other_hard_labels_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    engine = Engine(tiny_base)
    row_file(EXAMPLES, tiny_base, tmp_path / "rows")
    for hard in (0.0, 0.5):
        taught = read_by_teacher(engine, tmp_path / "rows", reading(EXAMPLES), tmp_path / "teacher", hard=hard)
        with pytest.raises(StaleRun) if hard else contextlib.nullcontext():
            train(engine, job(taught, 600), checkpoint=tmp_path / "checkpoint")


def test_hard_labels_without_a_teacher_are_refused() -> None:
    with pytest.raises(BadSetting, match="hard_labels"):
        Recipe(hard_labels=0.5)


def test_a_checkpoint_of_another_objective_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    plain = row_file(EXAMPLES, tiny_base, tmp_path / "rows")
    taught = read_by_teacher(Engine(tiny_base), tmp_path / "rows", reading(EXAMPLES), tmp_path / "teacher")
    train(Engine(tiny_base), job(plain, 600), checkpoint=tmp_path / "checkpoint")
    with pytest.raises(StaleRun):
        train(Engine(tiny_base), job(taught, 600), checkpoint=tmp_path / "checkpoint")


# --- the whole --------------------------------------------------------------------------------


class Interrupting:
    """A watch that is torn away at the first group the teacher has read."""

    def stage(self, text: str) -> None: ...

    def say(self, text: str) -> None: ...

    def progress(self, unit: str, done: int, total: int, detail: str) -> None:
        if unit == "examples read" and done < total:
            raise KeyboardInterrupt


def test_documents_are_taught_by_distillation_and_an_interruption_changes_nothing(
    cpu: Path,  # noqa: F811
    documents: Path,  # noqa: F811
    base_folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('objective = "distill"\nrank = 4\n')
    call = {"name": "tiny", "base": str(base_folder), "budget": "6k tokens", "recipe": recipe}
    monkeypatch.setattr(distill, "_PASS_TOKENS", 400)
    whole = imprint.teach(documents, **call)
    monkeypatch.setenv("IMPRINT_HOME", str(tmp_path / "other"))
    with pytest.raises(KeyboardInterrupt):
        imprint.teach(documents, watch=Interrupting(), **call)
    assert Registry(tmp_path / "other").list() == []
    resumed = imprint.teach(documents, **call)
    assert resumed.version.recipe["objective"] == "distill"
    assert resumed.version.adapter_hash == whole.version.adapter_hash
    supervised = imprint.teach(documents, **(call | {"recipe": Recipe(rank=4)}))
    assert supervised.version.adapter_hash != whole.version.adapter_hash


def test_an_objective_that_there_is_not_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[training]\nobjective = "distil"\n')
    with pytest.raises(BadSetting, match="No objective 'distil'. There are: sft, distill"):
        read(tmp_path / "r.toml")
