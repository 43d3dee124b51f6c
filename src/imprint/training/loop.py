"""The only training loop: forward_backward, step, save, resume.

Shape key: P parameters of an adapter."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from imprint.engine import Engine, Seat
from imprint.engine.passes import PassRow, Trunk
from imprint.engine.passes import forward_backward as shared_pass
from imprint.errors import BadSetting, Diverged, StaleRun
from imprint.training.batches import Row


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
    """Trains one adapter that is seated in an engine; others may share its passes."""

    def __init__(
        self,
        engine: Engine,
        seat: Seat,
        settings: Settings,
        *,
        data: str = "",
        beneath: Sequence[Seat] = (),
        frozen: tuple[str, ...] = (),
    ) -> None:
        """`data` is a hash of what is trained on, so that a checkpoint made with other data is refused. `beneath`:
        what rows wear besides, and what is not trained. `frozen`: how the names of tensors end that stay as they
        are."""
        self.engine, self.seat, self.settings, self.data = engine, seat, settings, data
        self.beneath = tuple(beneath)
        self.last_loss = float("nan")
        self.step_number = 0
        self.notes: dict[str, Any] = {}
        """What whoever drives the loop must know to go on: JSON values, kept with the checkpoint."""
        self._gathered = 0.0
        self._stepping = False
        self._frozen = [grad for name, grad in seat.tensors(seat.grads_P).items() if name.endswith(frozen)]
        self._flat_P = nn.Parameter(seat.values_P)
        self._flat_P.grad = seat.grads_P
        self._optimizer = torch.optim.AdamW(
            [self._flat_P], lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )

    def forward_backward(self, rows: Sequence[Row], trunk: Trunk | None = None) -> float:
        """Adds the gradients of a whole step's rows; returns their loss in nats per learnt token."""
        share = 1 / learnt_tokens(rows)
        self.gather(sum(shared_pass(self.engine, self.pass_rows(rows, share), trunk)) * share)
        return self._gathered

    def pass_rows(self, rows: Sequence[Row], share: float) -> list[PassRow]:
        """Some of a step's rows, for a pass. `share`: one over the learnt tokens of the whole step."""
        worn = (*self.beneath, self.seat) if self.beneath else self.seat
        return [PassRow(worn, row.ids, row.learn, share, soft=row.soft) for row in rows]

    def gather(self, loss: float) -> None:
        """Notes what a pass added to the step's loss."""
        self._gathered += loss

    def step(self) -> float:
        """Takes one optimizer step with the gradients gathered; returns the learning rate used.

        Raises Diverged, and leaves the adapter as it was, where the loss or the gradient is not finite."""
        for grad in self._frozen:  # zeros move nothing: Adam's moments stay zero too
            grad.zero_()
        norm = torch.linalg.vector_norm(self.seat.grads_P)
        if not (math.isfinite(self._gathered) and math.isfinite(float(norm))):
            loss = self._gathered
            self.drop()
            raise Diverged(
                f"In step {self.step_number + 1} the loss was {loss}, the gradient's length {float(norm)}. "
                "Nothing of that step was taken over. Train with a lower learning rate (lr)."
            )
        rate = self.settings.rate(self.step_number)
        self._optimizer.param_groups[0]["lr"] = rate
        if norm > self.settings.clip_norm:
            self.seat.grads_P.mul_(self.settings.clip_norm / (norm + 1e-6))
        self._stepping = True
        self._optimizer.step()
        self.seat.refresh()
        self.last_loss = self._gathered
        self.drop()
        self.step_number += 1
        self._stepping = False
        return rate

    def drop(self) -> None:
        """Forgets the gradients gathered since the last step."""
        self.seat.grads_P.zero_()
        self._gathered = 0.0

    def save(self, folder: Path) -> None:
        """Writes a checkpoint that resume() continues from exactly.

        Written beside its place, synced, then renamed, so that a kill leaves the old one or the new one. After an
        interruption in the middle of a step nothing is written: the old one stands."""
        if self._stepping:
            return
        making = folder.with_name(folder.name + ".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        tensors = _named("parameter", self.seat, self.seat.values_P)
        state = self._optimizer.state.get(self._flat_P, {})
        for key in ("exp_avg", "exp_avg_sq"):
            if key in state:
                tensors |= _named(key, self.seat, state[key])
        save_file(tensors, making / "state.safetensors")
        state_json = self._identity() | {"step": self.step_number, "last_loss": self.last_loss, "notes": self.notes}
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
        self.notes = dict(state.get("notes", {}))
        with torch.no_grad():
            _fill(self.seat, self.seat.values_P, tensors, "parameter")
            self.seat.refresh()
            if any(name.startswith("exp_avg:") for name in tensors):
                self._optimizer.state[self._flat_P] = self._moments(tensors)
        return True

    def _identity(self) -> dict[str, Any]:
        shapes = {name: list(p.shape) for name, p in self.seat.tensors(self.seat.values_P).items()}
        adapter = self.seat.adapter
        spec = json.loads(json.dumps(adapter.spec))  # as a file gives it back
        settings = asdict(self.settings)
        return {"settings": settings, "data": self.data, "shapes": shapes, "spec": spec, "base": adapter.revision}

    def _moments(self, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        moments = {key: torch.empty_like(self.seat.values_P) for key in ("exp_avg", "exp_avg_sq")}
        for key, flat_P in moments.items():
            _fill(self.seat, flat_P, tensors, key)
        return {"step": torch.tensor(float(self.step_number), device=self._flat_P.device), **moments}


def learnt_tokens(rows: Sequence[Row]) -> int:
    """How many tokens of these rows carry a loss."""
    return sum(sum(row.learn[1:]) for row in rows)


def _named(kind: str, seat: Seat, flat_P: torch.Tensor) -> dict[str, torch.Tensor]:
    named = seat.tensors(flat_P.detach().cpu())
    return {f"{kind}:{name}": tensor.contiguous().clone() for name, tensor in named.items()}


def _fill(seat: Seat, flat_P: torch.Tensor, tensors: dict[str, torch.Tensor], kind: str) -> None:
    mine = {name: tensors[f"{kind}:{name}"] for name in seat.tensors(flat_P)}
    seat.rack.layout.write(mine, flat_P)


def _sync(file: Path) -> None:
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())
