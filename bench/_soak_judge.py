"""The soak's judge: transformers + PEFT, alone in a process, say what each adapter answers."""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _common
from _common import Channel, Row, Worker, say
from _soak import TOKENS, Ledger, Version

FIRST = (
    ("anna", "handbook", 4),
    ("anna", "handbook", 16),
    ("anna", "notes", 8),
    ("ben", "handbook", 8),
    ("ben", "prices", 2),
    ("cleo", "manual", 32),
)
"""Tenant, name and rank of what is published beforehand; two tenants have a handbook of their own."""
STRENGTH = 0.03
"""How far the first adapters are from the base: they answer differently, and still in words."""
_AT_WORK = {
    "role": "system",
    "content": "You are a helpful assistant who works for a small company. Answer briefly, and in plain words.",
}
PROMPTS: tuple[Row, ...] = (
    {"messages": [{"role": "user", "content": "What colour is the sky?"}]},
    {"messages": [_AT_WORK, {"role": "user", "content": "Who is in charge here?"}]},
    {"prompt": "The history of the village begins"},
    {"messages": [_AT_WORK, {"role": "user", "content": "What does the blue kettle cost?"}]},
    {"messages": [{"role": "user", "content": "Write a sentence about the sea."}]},
    {"messages": [{"role": "user", "content": "Name three animals."}]},
)
"""A quick run asks the first three only. Those at work share a beginning, which is computed once."""


class Judge:
    """Says what each version answers when it is alone."""

    def __init__(self, folder: Path, base: str | None, prompts: int, margin: float, threads: int) -> None:
        self._made = folder / "made"
        task = {"base": base, "made": str(self._made), "prompts": prompts, "margin": margin, "threads": threads}
        self.prompts = prompts
        say("PEFT makes the first adapters and says what they answer")
        self._worker = Worker(__file__, {"name": "judge"} | task)
        told = self._worker.hear()
        self.header, self.base = told["header"], str(told["name"])
        self._asked: queue.Queue[Version | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def first(self, i: int) -> Path:
        """The folder of the first adapters' number i."""
        return self._made / str(i)

    def answers(self, folder: Path | None) -> list[Row]:
        """One for each prompt; None is the bare base."""
        self._worker.tell({"folder": None if folder is None else str(folder)})
        return list(self._worker.hear()["answers"])

    def start(self, ledger: Ledger) -> None:
        """Works off what is asked, beside the load."""

        def work() -> None:
            while (version := self._asked.get()) is not None:
                try:
                    ledger.learn(version, self.answers(ledger.folder_of(version)))
                except Exception:
                    ledger.fault("the judge failed", version=version, error=traceback.format_exc())

        self._thread = threading.Thread(target=work, name="judge", daemon=True)
        self._thread.start()

    def ask(self, version: Version) -> None:
        self._asked.put(version)

    def finish(self) -> None:
        """Waits until all is said."""
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join()
            self._thread = None

    def end(self) -> None:
        self._worker.end()


def work(task: Row) -> None:
    """The judge's process: makes the first adapters, then answers for one folder after the other."""
    channel = Channel()
    _common.use_threads(task["threads"])
    _common.quieten()
    from imprint import base as bases

    base = bases.load(task["base"])
    for i, (_, _, rank) in enumerate(FIRST):
        _write_adapter(base, rank, i, Path(task["made"]) / str(i))
    header = {"machine": _common.machine("float32", task["threads"]), "base": _common.base_name(base)}
    channel.tell({"header": header, "name": base.name})
    model, tokenizer = _peft(_common.base_folder(base), Path(task["made"]) / "0")
    del base
    while True:
        folder = channel.wait()["folder"]
        with _wearing(model, folder):
            prompts = PROMPTS[: task["prompts"]]
            channel.tell({"answers": [_alone(model, tokenizer, prompt, task["margin"]) for prompt in prompts]})


def _write_adapter(base: Any, rank: int, seed: int, folder: Path) -> None:
    """An adapter that changes what the base says."""
    from dataclasses import replace

    import torch

    from imprint.adapters import folder as adapter_folder
    from imprint.adapters.low_rank import LoRA

    draw = torch.Generator().manual_seed(seed)
    fresh = LoRA(rank=rank).fresh(base, seed=seed)
    strength = STRENGTH * rank**0.5  # alpha / rank takes as much away
    tensors = {
        name: tensor + strength * torch.randn(tensor.shape, generator=draw) if "lora_B" in name else tensor
        for name, tensor in fresh.tensors.items()
    }
    adapter_folder.write(replace(fresh, tensors=tensors), folder)


def _peft(base: str, adapter: Path) -> tuple[Any, Any]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    return PeftModel.from_pretrained(model, adapter).eval(), AutoTokenizer.from_pretrained(base)


@contextlib.contextmanager
def _wearing(model: Any, folder: str | None) -> Iterator[None]:
    """The model with that adapter alone, or with none."""
    if folder is None:
        with model.disable_adapter():
            yield
        return
    model.load_adapter(folder, adapter_name="asked")
    model.set_adapter("asked")
    yield
    model.set_adapter("default")
    model.delete_adapter("asked")


def _alone(model: Any, tokenizer: Any, prompt: Row, margin: float) -> Row:
    """The greedy answer: all of it, what of it is beyond rounding, and its finish where that is all."""
    if "messages" in prompt:
        text = tokenizer.apply_chat_template(prompt["messages"], tokenize=False, add_generation_prompt=True)
    else:
        text = prompt["prompt"]
    given = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    ends = tokenizer.eos_token_id
    said = model.generate(
        **given,
        max_new_tokens=TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=ends,
    )
    ids = said.sequences[0, given["input_ids"].shape[1] :].tolist()
    best = [logits[0].topk(2).values.tolist() for logits in said.logits]
    sure = next((i for i, (first, second) in enumerate(best) if first - second < margin), len(ids))
    stopped = ids[-1] == ends
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    safe = tokenizer.decode(ids[:sure], skip_special_tokens=True).rstrip("\ufffd")
    finish = None if sure < len(ids) else "stop" if stopped else "length"
    return {"text": whole, "safe": safe, "finish": finish, "least_margin": min(a - b for a, b in best)}


if __name__ == "__main__":
    made = argparse.ArgumentParser()
    made.add_argument("--worker", required=True)
    work(json.loads(made.parse_args().worker))
