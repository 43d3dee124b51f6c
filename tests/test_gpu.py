"""On a GPU every kind of adapter, every objective and every measure gives what it gives on a CPU."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import make_tiny_base
from imprint import adapters, attention
from imprint.base import Base
from imprint.devices import Device
from imprint.engine import Engine
from imprint.engine.choice import choose
from imprint.engine.passes import PassRow, forward_backward, logprobs
from imprint.evaluation.closed_book import Question
from imprint.evaluation.examination import Examination, examine
from imprint.evaluation.suites import Item, measure
from imprint.training.batches import Row
from imprint.training.distill import read_by_teacher
from imprint.training.grpo import train as grpo
from imprint.training.service import Service
from imprint.training.sft import Job
from imprint.types import Prompt
from imprint.writers.local import LocalWriter
from test_distill import EXAMPLES, reading, row_file
from test_grpo import SMALL, Lengths, adapter_of
from test_kinds import SETTINGS, TEXTS, made

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
KINDS = list(adapters.KINDS)


def on(device: str, dtype: torch.dtype = torch.float32) -> Base:
    tiny = make_tiny_base()
    model = copy.deepcopy(tiny.model).to(device, dtype)
    attention.use(model)
    return replace(tiny, model=model, device=Device(device, dtype, "a test's device"))


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def gpu(request: pytest.FixtureRequest) -> Iterator[Base]:
    yield on("cuda", request.param)


def item(i: int = 0) -> Item:
    return Item("t", ((f"It is {i}", " so"), (f"It is {i}", " not the case")), i % 2)


def close_enough(gpu: Base) -> float:
    return 0.3 if gpu.model.dtype == torch.bfloat16 else 2e-3


def test_rows_of_every_kind_have_the_losses_and_gradients_of_a_cpu(gpu: Base) -> None:
    found = []
    cpu = on("cpu")
    kinds = [k for k in KINDS for _ in range(1 if k == "full" else 2)]
    of_kind = [made(k, cpu, seed=i) for i, k in enumerate(kinds)]
    for base in (cpu, gpu):
        engine = Engine(base, slots=4)
        seats = [engine.load(adapter, trainable=True) for adapter in of_kind]
        rows = [
            PassRow(seat, TEXTS[i % 5], (False, *[True] * (len(TEXTS[i % 5]) - 1)))
            for i, seat in enumerate([*seats, None])
        ]
        losses = forward_backward(engine, rows)
        found.append((losses, [seat.grads_P.float().cpu() for seat in seats], logprobs(engine, rows)))
    for (loss, ids), other in zip(zip(found[0][0], rows, strict=True), found[1][0], strict=True):
        assert abs(loss - other) / len(ids.ids) < close_enough(gpu)
    for kind, one, other_P in zip(kinds, found[0][1], found[1][1], strict=True):
        cosine = torch.nn.functional.cosine_similarity(one, other_P, dim=0)
        assert cosine > (0.9 if gpu.model.dtype == torch.bfloat16 else 0.999), kind


def test_every_kind_trains_in_shared_passes_and_answers(gpu: Base) -> None:
    data = [Row(ids, (False, *[True] * (len(ids) - 1))) for ids in TEXTS]
    service = Service(Engine(gpu, slots=2))
    tickets = [
        service.submit(Job(adapters.KINDS[k](**SETTINGS.get(k, {})), data, 600, 1e-2, 64, i, TEXTS[:2]))
        for i, k in enumerate(KINDS)
    ]
    service.run_all()
    engine = Engine(gpu)
    seats = [engine.load(ticket.result().adapter) for ticket in tickets]
    for ticket, seat in zip(tickets, seats, strict=True):
        assert math.isfinite(ticket.result().last_loss)
        with engine.wearing(seat):
            texts = LocalWriter(gpu).write([Prompt.ask(f"Who is {i}?", max_tokens=4) for i in range(5)], seed=0)
        assert len(texts) == 5
    with engine.wearing(seats):
        LocalWriter(gpu).write([Prompt.ask("Who?", max_tokens=4)], seed=0)
    assert len(choose(engine, seats, ["Who is it?", "What?"])) == 2


def test_every_kind_is_examined(gpu: Base) -> None:
    engine, cpu = Engine(gpu), on("cpu")
    asked = [Question(f"What is {i}?", (f"number {i}",)) for i in range(6)]
    examination = Examination(
        asked, [Question("Who sings?", ())], ["The Kestrel weighs 3 kilograms."], {"s": [item()]},
        {"general": "The mill is old. " * 40},
    )  # fmt: skip
    bare = examine(engine, None, examination)["unrelated"]
    for kind in KINDS:
        adapter = made(kind, cpu)
        adapter = replace(adapter, tensors={k: t.float() for k, t in adapter.tensors.items()})
        seat = engine.load(adapter)
        row = examine(engine, seat, examination, untouched=bare)
        assert row["cost"]["ratio"] > 0 and row["perplexity"]["general"]["value"] > 0
        engine.unload(seat)


def test_a_teacher_reads_what_it_reads_on_a_cpu(gpu: Base, tmp_path: Path) -> None:
    found = []
    for name, base in (("cpu", on("cpu")), ("gpu", gpu)):
        row_file(EXAMPLES, base, tmp_path / name / "rows")
        engine = Engine(base)
        taught = read_by_teacher(engine, tmp_path / name / "rows", reading(EXAMPLES), tmp_path / name / "teacher")
        found.append([torch.tensor(row.soft.logprobs_LK[:, 0]) for row in taught if row.soft is not None])
        service = Service(engine)
        ticket = service.submit(Job(adapters.KINDS["lora"](rank=2), taught, 400, 1e-2, 200, 0))
        service.run_all()
        assert math.isfinite(ticket.result().last_loss)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=close_enough(gpu), rtol=0)


def test_grpo_takes_its_rounds(gpu: Base, tmp_path: Path) -> None:
    learnt = grpo(Engine(gpu), adapter_of(on("cpu")), Lengths(), SMALL, seed=0)
    assert len(learnt.rounds) == SMALL.rounds


def test_suites_agree(gpu: Base) -> None:
    items = [item(i) for i in range(12)]
    alike = [a == b for a, b in zip(measure(gpu, items), measure(on("cpu"), items), strict=True)]
    assert sum(alike) >= (9 if gpu.model.dtype == torch.bfloat16 else 12)
