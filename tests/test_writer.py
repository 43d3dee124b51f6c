"""The laws of writers: what a prompt gets hangs on the prompt and the seed, and nothing is written twice."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Scribe
from imprint import attention
from imprint.adapters.low_rank import LoRA
from imprint.base import Base
from imprint.engine import Engine
from imprint.errors import BadInput, BadSetting
from imprint.training.batches import Row
from imprint.training.loop import Loop, Settings
from imprint.types import Prompt, Text, Turn
from imprint.writers.cache import CachedWriter
from imprint.writers.local import LocalWriter, _Row

QUESTIONS = (
    "How many days?",
    "What does the Kestrel weigh, and in which colour does it come, and from where?",
    "Who?",
    "The shop is open from Tuesday to Saturday. When does it not open?",
    "Why is it green?",
)


def asked(**settings: Any) -> list[Prompt]:
    """Questions of several lengths, each with room for another number of tokens."""
    return [Prompt.ask(q, max_tokens=3 + 4 * i, **settings) for i, q in enumerate(QUESTIONS)]


def alone(base: Base, prompts: list[Prompt], seed: int = 0) -> list[Text]:
    return [LocalWriter(base).write([p], seed=seed)[0] for p in prompts]


@torch.no_grad()
def plainly(base: Base, prompt: Prompt) -> tuple[list[int], list[float]]:
    """The likeliest tokens one by one, each from a pass over the whole text so far; and their log-probabilities."""
    ids = base.prompt_ids(prompt.turns, prompt.begun)
    start, logprobs = len(ids), []
    for _ in range(prompt.max_tokens):
        logprobs_V = base.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        ids.append(int(logprobs_V.argmax()))
        logprobs.append(float(logprobs_V[ids[-1]]))
        if ids[-1] in base.stop_ids:
            break
    return ids[start:], logprobs


def test_a_batch_gives_each_prompt_what_it_gets_alone(tiny_base: Base) -> None:
    together = LocalWriter(tiny_base).write(asked(), seed=0)
    assert [t.text for t in together] == [t.text for t in alone(tiny_base, asked())]


def test_batches_of_any_size_give_the_same(tiny_base: Base) -> None:
    small = LocalWriter(tiny_base, batch_rows=2, batch_tokens=60).write(asked(), seed=0)
    assert [t.text for t in small] == [t.text for t in LocalWriter(tiny_base).write(asked(), seed=0)]


def test_a_shared_beginning_gives_what_each_prompt_gets_alone(tiny_base: Base) -> None:
    document = "The Kestrel weighs 3 kilograms, costs 85 euros and comes in green. " * 2
    prompts = [Prompt.ask(f"{document}\n{q}", max_tokens=8) for q in QUESTIONS]
    writer = LocalWriter(tiny_base)
    for _ in range(2):  # the second time, what is shared is in memory already
        assert [t.text for t in writer.write(prompts, seed=0)] == [t.text for t in alone(tiny_base, prompts)]


@pytest.mark.parametrize("rows", [3, 64])
def test_prompts_that_share_a_text_in_families_get_what_each_gets_alone(tiny_base: Base, rows: int) -> None:
    texts = ("The Kestrel weighs 3 kilograms, costs 85 euros and comes in green.", "Ana Petrov founded the shop.", "")
    prompts = [Prompt.ask(f"{t * 3}\n{q}", max_tokens=3 + i) for i, q in enumerate(QUESTIONS) for t in texts]
    together = LocalWriter(tiny_base, batch_rows=rows).write(prompts, seed=0)
    assert [t.text for t in together] == [t.text for t in alone(tiny_base, prompts)]


def test_a_shared_text_is_read_once(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    forward = tiny_base.model.model.forward

    def counting(*args: Any, **more: Any) -> Any:
        read.append(more["input_ids"].numel())
        return forward(*args, **more)

    texts = ("The Kestrel weighs 3 kilograms and costs 85 euros. ", "Ana Petrov founded the shop in 1987 by the sea. ")
    prompts = [Prompt.ask(f"{t * 4}\n{q}", max_tokens=1) for q in QUESTIONS for t in texts]
    counting.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(tiny_base.model.model, "forward", counting)
    LocalWriter(tiny_base).write(prompts, seed=0)
    assert sum(read) < sum(len(tiny_base.prompt_ids(p.turns)) for p in prompts) * 0.7


def test_what_is_drawn_hangs_on_the_seed_and_not_on_the_neighbours(tiny_base: Base) -> None:
    prompts = asked(temperature=1.0)
    drawn = [t.text for t in LocalWriter(tiny_base).write(prompts, seed=1)]
    assert drawn == [t.text for t in LocalWriter(tiny_base).write(prompts[::-1], seed=1)][::-1]
    assert drawn == [t.text for t in alone(tiny_base, prompts, seed=1)]
    assert drawn != [t.text for t in LocalWriter(tiny_base).write(prompts, seed=2)]


def test_a_text_ends_before_the_first_stop_string(tiny_base: Base) -> None:
    whole = LocalWriter(tiny_base).write([Prompt.ask("Who?", max_tokens=20)], seed=0)[0].text
    stop = whole[len(whole) // 2 :][:2]
    text = LocalWriter(tiny_base).write([Prompt.ask("Who?", max_tokens=20, stop=(stop,))], seed=0)[0].text
    assert text == whole.split(stop)[0].strip()


def test_texts_and_logprobs_are_those_of_plain_passes(tiny_base: Base) -> None:
    for prompt, text in zip(asked(), LocalWriter(tiny_base).write(asked(), seed=0), strict=True):
        ids, logprobs = plainly(tiny_base, prompt)
        assert text.text == tiny_base.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert text.logprobs == pytest.approx(logprobs, abs=1e-4)


def test_the_logprobs_written_are_those_that_the_trainer_computes(tiny_base: Base) -> None:
    prompt = Prompt.ask(QUESTIONS[1], max_tokens=12)
    ids, _ = plainly(tiny_base, prompt)
    before = tiny_base.prompt_ids(prompt.turns)
    row = Row((*before, *ids), (False,) * len(before) + (True,) * len(ids))
    engine = Engine(tiny_base)
    seat = engine.load(LoRA().fresh(tiny_base, seed=0), trainable=True)
    loss = Loop(engine, seat, Settings()).forward_backward([row, row])
    written = LocalWriter(tiny_base).write([prompt], seed=0)[0].logprobs
    assert written is not None
    assert -loss == pytest.approx(sum(written) / len(written), abs=1e-4)


@pytest.mark.parametrize("before", ["", "The Kestrel weighs 3 kilograms and costs 85 euros, and comes in green. "])
def test_likelihoods_are_those_of_plain_passes(tiny_base: Base, before: str) -> None:
    prompts = [Prompt((Turn("text", before + q),)) for q in QUESTIONS]
    texts = [" 85 euros\n", " green", " Maren Tollifax, a former tram driver", " 3", " no"]
    for prompt, text, told in zip(
        prompts, texts, LocalWriter(tiny_base, batch_rows=2).likelihoods(prompts, texts), strict=True
    ):
        ids, tail = tiny_base.prompt_ids(prompt.turns), tiny_base.tokenizer.encode(text)
        with torch.no_grad():
            logprobs_TV = tiny_base.model(torch.tensor([ids + tail])).logits[0].log_softmax(-1)
        picked = [float(logprobs_TV[len(ids) + i - 1, token]) for i, token in enumerate(tail)]
        assert told == pytest.approx(sum(picked) / len(picked), abs=1e-4)


def test_a_prompt_longer_than_the_window_is_refused(tiny_base: Base) -> None:
    with pytest.raises(BadInput, match="do not fit the 256 tokens of tiny"):
        LocalWriter(tiny_base).write([Prompt.ask("word " * 300)], seed=0)


def test_nothing_asked_is_nothing_written(tiny_base: Base) -> None:
    assert LocalWriter(tiny_base).write([], seed=0) == []


# --- the writer that remembers ----------------------------------------------------------------


def prompts(n: int) -> list[Prompt]:
    return [Prompt.ask(f"Question\nnumber {i}?") for i in range(n)]


def test_what_was_written_once_is_not_written_again(scribe: Scribe, tmp_path: Path) -> None:
    first = CachedWriter(scribe, tmp_path / "texts.jsonl", group=4)
    texts = first.write(prompts(10), seed=0)
    again = CachedWriter(scribe, tmp_path / "texts.jsonl", group=4)
    assert again.write(prompts(10), seed=0) == texts
    assert (first.written, again.written) == (10, 0)


def test_another_seed_is_written_anew(scribe: Scribe, tmp_path: Path) -> None:
    writer = CachedWriter(scribe, tmp_path / "texts.jsonl")
    assert writer.write(prompts(3), seed=0) != writer.write(prompts(3), seed=1)


@pytest.mark.parametrize("lost", [1, 5, 40])
def test_a_line_cut_short_by_a_kill_is_written_again_and_harms_no_other(
    scribe: Scribe, tmp_path: Path, lost: int
) -> None:
    file = tmp_path / "texts.jsonl"
    texts = CachedWriter(scribe, file, group=4).write(prompts(10), seed=0)
    file.write_bytes(file.read_bytes()[:-lost])
    torn = CachedWriter(scribe, file, group=4)
    assert torn.write(prompts(12), seed=0)[:10] == texts
    after = CachedWriter(scribe, file, group=4)
    assert after.write(prompts(12), seed=0)[:10] == texts
    assert after.written == 0


class Killed(Scribe):
    """A scribe that dies at its third call."""

    def write(self, prompts: Any, *, seed: int) -> list[Text]:
        if len(self.calls) == 2:
            raise KeyboardInterrupt
        return super().write(prompts, seed=seed)


def test_a_killed_run_meets_the_groups_it_would_have_met(scribe: Scribe, tmp_path: Path) -> None:
    killed, after = Killed(), Scribe()
    with pytest.raises(KeyboardInterrupt):
        CachedWriter(killed, tmp_path / "texts.jsonl", group=4).write(prompts(18), seed=0)
    CachedWriter(after, tmp_path / "texts.jsonl", group=4).write(prompts(18), seed=0)
    CachedWriter(scribe, tmp_path / "others.jsonl", group=4).write(prompts(18), seed=0)
    assert killed.calls + after.calls == scribe.calls


def test_a_token_is_drawn_as_often_as_it_is_likely(tiny_base: Base) -> None:
    writer = LocalWriter(tiny_base, top_k=3)
    logits_BV = torch.tensor([[0.0, 2.0, 1.0, -9.0]]).repeat(3000, 1)
    rows = [
        _Row(Prompt.ask("Say", temperature=0.5), torch.Generator().manual_seed(seed)) for seed in range(len(logits_BV))
    ]
    drawn = writer._draw(logits_BV, rows).bincount(minlength=4) / len(rows)
    wanted = (logits_BV[0] / 0.5)[:3].softmax(0)
    assert (drawn[:3] - wanted).abs().max() < 0.03
    assert drawn[3] == 0


def test_groups_folded_into_queries_attend_as_groups_do() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 6, 3, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    mask = torch.zeros(2, 1, 3, 5).masked_fill(torch.rand(2, 1, 3, 5) < 0.3, -1e4)
    folded = attention._folded(query, key, value, mask, 0.3)
    torch.testing.assert_close(folded, attention._plain(query, key, value, mask, 0.3))


# --- tokens and draws -------------------------------------------------------------------------


def test_the_tokens_told_are_those_written_with_the_one_that_ended_the_text(tiny_base: Base) -> None:
    prompts = asked(temperature=1.0)
    for prompt, text in zip(prompts, LocalWriter(tiny_base, top_k=None).write(prompts, seed=3), strict=True):
        assert text.ids is not None and text.logprobs is not None and len(text.ids) == len(text.logprobs)
        assert tiny_base.tokenizer.decode(text.ids, skip_special_tokens=True).strip() == text.text
        assert text.ids[-1] in tiny_base.stop_ids or len(text.ids) == prompt.max_tokens


def test_what_is_remembered_has_its_tokens(tiny_base: Base, tmp_path: Path) -> None:
    writer = CachedWriter(LocalWriter(tiny_base), tmp_path / "texts.jsonl")
    assert writer.write(asked(), seed=0) == writer.write(asked(), seed=0) == LocalWriter(tiny_base).write(asked(), seed=0)


def test_each_seed_draws_what_it_draws_alone(tiny_base: Base) -> None:
    prompt = Prompt.ask(QUESTIONS[0], max_tokens=8, temperature=1.0)
    together = LocalWriter(tiny_base).draw([prompt] * 3, seeds=range(3))
    assert [t.ids for t in together] == [LocalWriter(tiny_base).write([prompt], seed=s)[0].ids for s in range(3)]


def test_a_vocabulary_of_nothing_is_refused(tiny_base: Base) -> None:
    with pytest.raises(BadSetting, match="top_k"):
        LocalWriter(tiny_base, top_k=0)
