"""The only training loop: forward_backward, step, save, resume.

Shape key: B rows, T tokens, L tokens with loss, D width, V vocabulary."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from imprint.base import Base
from imprint.errors import BadSetting, StaleRun
from imprint.training.batches import Batch


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train."""

    lr: float = 1e-3
    """Highest learning rate, reached after the warm-up."""
    steps: int = 100
    """Optimizer steps in all; decides the decay."""
    warmup_share: float = 0.05
    """Share of the steps in which the rate rises from 0."""
    final_share: float = 0.05
    """The rate falls along a cosine to this share of the highest."""
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    """Gradients are scaled down to this length."""

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.steps > 0):
            raise BadSetting(f"Training needs lr > 0 and steps > 0; got lr {self.lr}, steps {self.steps}.")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warmup = max(1, round(self.warmup_share * self.steps))
        if step < warmup:
            return self.lr * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.steps - warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.lr * (self.final_share + (1 - self.final_share) * cosine)


class Loop:
    """Trains named parameters that are attached to a base model."""

    def __init__(
        self, base: Base, parameters: dict[str, nn.Parameter], settings: Settings, *, data: str = ""
    ) -> None:
        """`data` is a hash of what is trained on, so that a checkpoint made with other data is refused."""
        self.base, self.parameters, self.settings, self.data = base, parameters, settings, data
        self.last_loss = float("nan")
        self.step_number = 0
        self._optimizer = torch.optim.AdamW(
            list(parameters.values()), lr=settings.lr, weight_decay=settings.weight_decay, foreach=True
        )

    def forward_backward(self, batch: Batch) -> float:
        """Adds the gradients of a batch; returns its loss in nats per learnt token.

        Logits are computed only where there is a loss: a vocabulary of 49,152 makes them the largest tensor."""
        device = self.base.device.torch
        tokens_BT = batch.tokens_BT.to(device)
        hidden_BTD = self.base.model.model(input_ids=tokens_BT, use_cache=False).last_hidden_state
        learn_BT = batch.learn_BT[:, 1:].to(device)
        hidden_LD = hidden_BTD[:, :-1][learn_BT]
        logits_LV = self.base.model.lm_head(hidden_LD).float()
        loss = nn.functional.cross_entropy(logits_LV, tokens_BT[:, 1:][learn_BT])
        loss.backward()
        self.last_loss = float(loss.detach())
        return self.last_loss

    def step(self) -> float:
        """Takes one optimizer step with the gradients gathered; returns the learning rate used."""
        rate = self.settings.rate(self.step_number)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip_norm, foreach=True)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step_number += 1
        return rate

    def save(self, folder: Path) -> None:
        """Writes a checkpoint that resume() continues from exactly.

        Written beside its place, synced, then renamed, so that a kill leaves the old one or the new one."""
        making = folder.with_name(folder.name + ".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        tensors = {f"parameter:{k}": p.detach().cpu() for k, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            state = self._optimizer.state.get(parameter, {})
            for key in ("exp_avg", "exp_avg_sq"):
                if key in state:
                    tensors[f"{key}:{name}"] = state[key].cpu()
        save_file({k: t.contiguous() for k, t in tensors.items()}, making / "state.safetensors")
        state_json = self._identity() | {"step": self.step_number, "last_loss": self.last_loss}
        (making / "state.json").write_text(json.dumps(state_json))
        for file in making.iterdir():
            _sync(file)
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(making, folder)
        shutil.rmtree(old, ignore_errors=True)

    def resume(self, folder: Path) -> bool:
        """Takes up a checkpoint; False where there is none. Raises StaleRun for one of other settings."""
        if not folder.exists():  # killed between the two renames of save()
            folder = folder.with_name(folder.name + ".old")
        if not folder.exists():
            return False
        state = json.loads((folder / "state.json").read_text())
        if any(state.get(key) != value for key, value in self._identity().items()):
            raise StaleRun(
                f"The checkpoint in {folder} was made with other training settings or data. "
                "Remove the folder to start again, or go back to the settings it was made with."
            )
        tensors = load_file(folder / "state.safetensors")
        self.step_number, self.last_loss = int(state["step"]), float(state["last_loss"])
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameter:{name}"])
                if f"exp_avg:{name}" in tensors:
                    self._optimizer.state[parameter] = self._moments(tensors, name, parameter)
        return True

    def _identity(self) -> dict[str, Any]:
        shapes = {name: list(p.shape) for name, p in self.parameters.items()}
        return {"settings": asdict(self.settings), "data": self.data, "shapes": shapes}

    def _moments(self, tensors: dict[str, torch.Tensor], name: str, parameter: nn.Parameter) -> dict[str, Any]:
        return {
            "step": torch.tensor(float(self.step_number)),
            "exp_avg": tensors[f"exp_avg:{name}"].to(parameter.device),
            "exp_avg_sq": tensors[f"exp_avg_sq:{name}"].to(parameter.device),
        }


def _sync(file: Path) -> None:
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())
