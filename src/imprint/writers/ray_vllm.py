"""The writer of many GPUs: Ray Data hands prompts to workers, each of which holds a vLLM, or asks a server.

The workers live as long as the writer: a kind of synthesis asks for a few hundred texts at a time, and a model
that is loaded anew for each of these calls would do little else."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import pickle
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imprint.errors import BadInput, BadSetting, ImprintError, MissingPackage, WriterFailed
from imprint.types import Prompt, Text, content_hash
from imprint.writers.cache import gathered
from imprint.writers.endpoint import Endpoint, EndpointWriter
from imprint.writers.spending import Spent

_FAILED = -1
"""The place of a row that holds an error in place of a text."""
_SAMPLE_BYTES = 65_536
_LOGS = "/tmp/ray/session_latest/logs"


@dataclass(frozen=True, slots=True)
class VllmModel:
    """A model that each worker loads into a vLLM of its own."""

    model: str
    """A folder that every machine of the cluster sees, or a hub name."""
    skills: Mapping[str, str] = field(default_factory=dict)
    """LoRA folders, by the skill that a prompt names."""
    lora_rank: int = 64
    """Room for the ranks of these: one that vLLM knows (8, 16, 32, 64, 128, ...)."""
    top_k: int = 40
    """Of how many of the likeliest tokens one is drawn, as the local writer does."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """vllm.LLM's own: dtype, max_model_len, gpu_memory_utilization, ..."""

    @property
    def name(self) -> str:
        """Tells models and skills apart by their content, so that a cache never mixes them up."""
        worn = "".join(f"+{skill}:{_print_of(Path(path))}" for skill, path in sorted(self.skills.items()))
        folder = Path(self.model)
        model = f"{folder.resolve().name}:{_print_of(folder)}" if folder.is_dir() else self.model
        return f"{model}@vllm{worn}"


@dataclass(frozen=True, slots=True)
class Workers:
    """How many write side by side, and with what."""

    count: int = 1
    gpus: float = 1.0
    """GPUs of each; above 1 its model is spread over them. 0 computes on CPUs, or asks a server."""
    cpus: float = 1.0
    """CPU cores that Ray sets aside for each."""
    batch_rows: int = 128
    """Prompts that a worker is handed at once. vLLM itself decides how many it computes together."""
    address: str | None = None
    """A running Ray cluster ('auto' finds it); None starts one on this machine, and ends it with the writer."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch_rows < 1 or self.gpus < 0 or self.cpus < 0:
            raise BadSetting("Workers: count and batch_rows are at least 1, gpus and cpus at least 0.")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise BadSetting(f"A worker has a share of one GPU, or whole ones; got {self.gpus}.")


class RayWriter:
    """Writes with several workers at once. Close it, or use it in a `with` block, so that they end."""

    def __init__(
        self, engine: VllmModel | Endpoint, workers: Workers | None = None, *, key: str | None = None
    ) -> None:
        """Nothing starts before the first text is asked for. `key` is an endpoint's; else the environment's is
        taken, here and not on the workers' machines. Raises MissingPackage without Ray."""
        self.engine, self.workers = engine, workers or Workers()
        if importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None:
            raise MissingPackage("Writing with many workers needs Ray. Install with: pip install 'imprint[ray]'")
        self.name = engine.name
        self._key = key
        self._desks: list[Any] = []
        self._own_cluster = False
        self._calls = 0
        self._spent_before = Spent()

    def __enter__(self) -> RayWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        """One text per prompt. What stops a worker is raised with the texts that came before."""
        return gathered(self.each(prompts, seed=seed), len(prompts))

    def each(self, prompts: Sequence[Prompt], *, seed: int) -> Iterator[tuple[int, Text]]:
        """Each text with the place of its prompt, as it comes. A worker that fails does not stop the others."""
        if not prompts:
            return
        import ray

        self._start()
        self._calls += 1
        failed: ImprintError | None = None
        try:
            for row in self._dataset(prompts, seed).iter_rows():
                came = pickle.loads(row["text"])
                if row["place"] == _FAILED:
                    failed = failed or came
                else:
                    yield int(row["place"]), came
        except ray.exceptions.RayError as error:
            raise WriterFailed(f"Ray could not go on: {_last_line(error)}. Its logs: {_LOGS}") from error
        if failed is not None:
            raise failed

    @property
    def spent(self) -> Spent:
        """What all workers have spent together. Waits for the batches they are at."""
        import ray

        return sum(ray.get([desk.spent.remote() for desk in self._desks]), self._spent_before)

    def close(self) -> None:
        """Ends the workers, and the cluster where it was started for them."""
        import ray

        for desk in self._desks:
            with contextlib.suppress(ray.exceptions.RayError):  # busy or dead: what it spent is not known
                self._spent_before += ray.get(desk.spent.remote(), timeout=2)
            ray.kill(desk)
        self._desks = []
        if self._own_cluster:
            ray.shutdown()
            self._own_cluster = False

    def _dataset(self, prompts: Sequence[Prompt], seed: int) -> Any:
        import ray

        batches = math.ceil(len(prompts) / self.workers.batch_rows)
        rows = [
            {"place": i, "desk": i * batches // len(prompts) % self.workers.count, "prompt": pickle.dumps(prompt)}
            for i, prompt in enumerate(prompts)
        ]
        data = ray.data.from_items(rows, override_num_blocks=batches).map_batches(
            _hand_in,
            batch_size=self.workers.batch_rows,
            fn_kwargs={"desks": self._desks, "seed": seed, "call": self._calls},
            num_cpus=0,  # it only waits for its worker, which may have taken the last core
            # Of each worker one batch is written, and the next lies ready.
            compute=ray.data.TaskPoolStrategy(min(batches, 2 * self.workers.count)),
        )
        data.context.enable_progress_bars = False
        return data

    def _start(self) -> None:
        """The cluster and its workers, at the first call."""
        if self._desks:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        if not ray.is_initialized():
            try:
                ray.init(**_cluster(self.workers), log_to_driver=False, logging_level="ERROR")
            except OSError:
                told = f"There is no Ray cluster at {self.workers.address!r}. Start one with: ray start --head"
                raise BadSetting(told) from None
            self._own_cluster = True
        try:
            self._check_room(ray.cluster_resources())
            engine = _share(self.engine, self.workers.count) if isinstance(self.engine, Endpoint) else self.engine
            key = self._key
            if isinstance(engine, Endpoint) and engine.key_env:
                key = key or os.environ.get(engine.key_env)
            # Started again, it would have forgotten what it spent of its budget.
            again = 0 if isinstance(engine, Endpoint) else 2
            made = ray.remote(_Desk).options(
                num_gpus=self.workers.gpus, num_cpus=self.workers.cpus, max_restarts=again, max_task_retries=again
            )
            self._desks = [made.remote(engine, self.workers.gpus, key) for _ in range(self.workers.count)]
            for unready in ray.get([desk.unready.remote() for desk in self._desks]):
                if unready is not None:
                    raise unready
        except ray.exceptions.RayError as error:
            self.close()
            raise WriterFailed(f"A worker could not start: {_last_line(error)}. Its logs: {_LOGS}") from None
        except ImprintError:
            self.close()
            raise

    def _check_room(self, there: Mapping[str, float]) -> None:
        """Ray would wait for ever for what a cluster does not have."""
        for kind, each in (("GPU", self.workers.gpus), ("CPU", self.workers.cpus)):
            needed, found = each * self.workers.count, there.get(kind, 0)
            if needed > found:
                raise BadSetting(
                    f"{self.workers.count} workers of {each:g} {kind} need {needed:g}, and the cluster has "
                    f"{found:g}. Ask for fewer workers, or give each {kind.lower()}s=0."
                )


def _cluster(workers: Workers) -> dict[str, Any]:
    """What ray.init() is told. Raises OSError where nobody listens at the address: Ray would try for minutes."""
    if workers.address is None:
        # Ray counts cores and does not bind them: workers that mostly wait may be more than there are.
        cores = max(os.cpu_count() or 1, math.ceil(workers.count * workers.cpus))
        return {"address": "local", "include_dashboard": False, "num_cpus": cores}
    host, colon, port = workers.address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
    return {"address": workers.address}


def _share(endpoint: Endpoint, count: int) -> Endpoint:
    """One worker's part of the budget and of what may be asked a minute."""
    budget = endpoint.budget
    return replace(
        endpoint,
        budget=replace(
            budget,
            max_usd=None if budget.max_usd is None else budget.max_usd / count,
            max_tokens=None if budget.max_tokens is None else budget.max_tokens // count,
        ),
        requests_per_minute=_part(endpoint.requests_per_minute, count),
        tokens_per_minute=_part(endpoint.tokens_per_minute, count),
    )


def _part(per_minute: int | None, count: int) -> int | None:
    if per_minute is not None and per_minute < count:
        raise BadSetting(f"{count} workers cannot share a limit of {per_minute} a minute. Ask for fewer workers.")
    return None if per_minute is None else per_minute // count


# --- on the workers' machines -----------------------------------------------------------------


def _hand_in(batch: Mapping[str, Any], desks: Sequence[Any], seed: int, call: int) -> dict[str, Any]:
    """A batch goes to its worker; what comes back are rows of place and text, and one of the error if any."""
    import numpy as np
    import ray

    prompts = [pickle.loads(prompt) for prompt in batch["prompt"]]
    texts, failed = ray.get(desks[int(batch["desk"][0])].write.remote(prompts, seed, call))
    rows = [(int(batch["place"][i]), text) for i, text in texts.items()]
    rows += [] if failed is None else [(_FAILED, failed)]
    places, things = zip(*rows, strict=True)
    return {"place": np.array(places), "text": np.array([pickle.dumps(thing) for thing in things], dtype=object)}


class _Desk:
    """One worker."""

    def __init__(self, engine: VllmModel | Endpoint, gpus: float, key: str | None) -> None:
        self._writer: EndpointWriter | _Vllm | None = None
        self._unready: ImprintError | None = None
        self._failure: tuple[int, ImprintError] | None = None
        try:
            self._writer = EndpointWriter(engine, key=key) if isinstance(engine, Endpoint) else _Vllm(engine, gpus)
        except ImprintError as error:
            self._unready = error

    def unready(self) -> ImprintError | None:
        """Answers once the model is loaded; with the error where it could not be."""
        return self._unready

    def write(
        self, prompts: list[Prompt], seed: int, call: int
    ) -> tuple[Mapping[int, Text], ImprintError | None]:
        """The texts by place, and what stopped them. After an error the rest of that call is not tried."""
        assert self._writer is not None
        if self._failure is not None and self._failure[0] == call:
            return {}, self._failure[1]
        try:
            return dict(enumerate(self._writer.write(prompts, seed=seed))), None
        except ImprintError as error:
            texts = getattr(error, "texts", {})
            self._failure = (call, type(error)(str(error)))
            return texts, self._failure[1]

    def spent(self) -> Spent:
        return self._writer.spent if self._writer is not None else Spent()


class _Vllm:
    """vLLM's LLM as a writer."""

    def __init__(self, model: VllmModel, gpus: float) -> None:
        try:
            import vllm
        except ImportError:
            raise MissingPackage("A worker's Python has no vLLM. How to install it: docs/vllm.md") from None
        import torch

        from imprint.base import Base
        from imprint.devices import Device

        spread = {"tensor_parallel_size": int(gpus), "distributed_executor_backend": "mp"} if gpus > 1 else {}
        lora = {"enable_lora": True, "max_lora_rank": model.lora_rank} if model.skills else {}
        self._llm = vllm.LLM(model.model, **{"seed": 0} | spread | lora | dict(model.options))
        self._model, self.spent = model, Spent()
        # A base without a model: prompts become the token ids that the local writer would read.
        self._base = Base(model.model, "", None, self._llm.get_tokenizer(), Device("cpu", torch.float32, "none"))

    def write(self, prompts: Sequence[Prompt], *, seed: int) -> list[Text]:
        """One text per prompt, those of one skill together: vLLM 0.32 on CPUs mixes up adapters and the base."""
        prompts = [p if p.skill in self._model.skills else p.plainly() for p in prompts]
        ids = [self._base.prompt_ids(p.turns, p.begun) for p in prompts]
        window = self._llm.llm_engine.model_config.max_model_len
        for prompt, row in zip(prompts, ids, strict=True):
            if len(row) + prompt.max_tokens > window:
                raise BadInput(
                    f"A prompt of {len(row)} tokens and an answer of {prompt.max_tokens} do not fit the {window} "
                    f"tokens of {self._model.model}. Shorten the prompt, or raise max_model_len in options."
                )
        texts: dict[int, Text] = {}
        skills = [p.skill if p.skill in self._model.skills else "" for p in prompts]
        for skill in dict.fromkeys(skills):
            chosen = [i for i, worn in enumerate(skills) if worn == skill]
            texts |= self._written(chosen, [prompts[i] for i in chosen], [ids[i] for i in chosen], skill, seed)
        return [texts[i] for i in range(len(prompts))]

    def _written(
        self, places: list[int], prompts: list[Prompt], ids: list[list[int]], skill: str, seed: int
    ) -> dict[int, Text]:
        outputs = self._llm.generate(
            [{"prompt_token_ids": row} for row in ids],
            [self._sampling(p, seed) for p in prompts],
            lora_request=self._lora(skill),
            use_tqdm=False,
        )
        written = sum(len(output.outputs[0].token_ids) for output in outputs)
        self.spent += Spent(len(ids), sum(map(len, ids)), written)
        return {i: _text(o.outputs[0], p.top_logprobs) for i, p, o in zip(places, prompts, outputs, strict=True)}

    def _sampling(self, prompt: Prompt, seed: int) -> Any:
        import vllm

        # Its own seed, so that what a prompt gets does not hang on its neighbours.
        own = int(content_hash(str(seed), repr(prompt)), 16) >> 1
        return vllm.SamplingParams(
            temperature=prompt.temperature,
            top_k=self._model.top_k,
            max_tokens=prompt.max_tokens,
            stop=list(prompt.stop) or None,
            seed=own,
            logprobs=prompt.top_logprobs,
        )

    def _lora(self, skill: str) -> Any:
        from vllm.lora.request import LoRARequest

        if not skill:
            return None
        return LoRARequest(skill, 1 + list(self._model.skills).index(skill), self._model.skills[skill])


def _text(output: Any, top_logprobs: int) -> Text:
    """vLLM tells at each place the likeliest tokens, and the one taken where it is not among them."""
    taken, top = [], []
    for token, there in zip(output.token_ids, output.logprobs or (), strict=False):
        taken.append(float(there[token].logprob))
        best = sorted(there.values(), key=lambda told: -told.logprob)[:top_logprobs]
        top.append(tuple((str(told.decoded_token), float(told.logprob)) for told in best))
    return Text(output.text.strip(), tuple(taken), tuple(top) if top_logprobs else None)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


def _print_of(folder: Path) -> str:
    """A few digits that differ where the weights or settings in the folder do."""
    parts: list[str | bytes] = []
    for file in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".bin")):
        with open(file, "rb") as data:
            size = data.seek(0, os.SEEK_END)
            data.seek(max(0, size - _SAMPLE_BYTES))
            parts += [f"{file.name}:{size}", data.read()]
    return content_hash(*parts)[:8]
