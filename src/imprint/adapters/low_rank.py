"""Adapters inside a linear layer: LoRA.

Shape key: I inputs, O outputs, R rank; `...` any leading dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from imprint.base import Base
from imprint.errors import BadSetting, WrongBase
from imprint.types import Adapter

_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class LoRA:
    """y = W x + alpha / rank * B (A x), with W frozen (Hu et al. 2021, arXiv 2106.09685, section 4.1)."""

    rank: int = 16
    """Width of the bottleneck."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Last names of the linear layers; by default all of a Llama-like block, for the MLP stores facts."""
    top_layers: int | None = None
    """Only so many of the uppermost blocks; None takes all."""
    kind: str = "lora"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadSetting(f"The rank of a LoRA must be 1 or more; got {self.rank}.")
        if not self.targets:
            raise BadSetting("A LoRA needs at least one target layer, such as 'q_proj'.")

    def fresh(self, base: Base, *, seed: int) -> Adapter:
        """An untrained adapter: A as PEFT starts it (Kaiming uniform), B zero, so that nothing changes yet."""
        draw = torch.Generator().manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {}
        for name, linear in self._linears(base.model):
            bound = math.sqrt(1 / linear.in_features)  # Kaiming uniform with a = sqrt(5)
            down_RI = torch.empty(self.rank, linear.in_features).uniform_(-bound, bound, generator=draw)
            tensors[f"{_PEFT_PREFIX}{name}.lora_A.weight"] = down_RI
            tensors[f"{_PEFT_PREFIX}{name}.lora_B.weight"] = torch.zeros(linear.out_features, self.rank)
        if not tensors:
            raise BadSetting(
                f"{base.name} has no linear layer named {' or '.join(self.targets)}. "
                "Set [adapter] targets to names that it has."
            )
        return Adapter(base.name, base.revision, asdict(self), tensors)

    def attach(self, base: Base, adapter: Adapter) -> Attached:
        """Puts the adapter into the model; its tensors become trainable parameters there."""
        refuse_other_base(base, adapter)
        modules = dict(base.model.named_modules())
        layers: dict[str, LowRankLinear] = {}
        for key, down_RI in adapter.tensors.items():
            if not key.endswith(".lora_A.weight"):
                continue
            name = key.removeprefix(_PEFT_PREFIX).removesuffix(".lora_A.weight")
            up_OR = adapter.tensors[key.replace(".lora_A.", ".lora_B.")]
            layers[name] = LowRankLinear(modules[name], down_RI, up_OR, self.alpha / self.rank)
        for name, layer in layers.items():
            _put(base.model, name, layer)
        return Attached(base, adapter, layers)

    def peft_config(self, base_name: str, layers: Sequence[int]) -> dict[str, Any]:
        """What PEFT's adapter_config.json says of this adapter, which sits in these blocks."""
        config: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_name,
            "r": self.rank,
            "lora_alpha": float(self.alpha),
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "target_modules": sorted(self.targets),
        }
        if self.top_layers is not None:
            config |= {"layers_to_transform": list(layers), "layers_pattern": "layers"}
        return config

    def _linears(self, model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
        """The linear layers that take part, in the model's order."""
        blocks = int(model.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
        first = 0 if self.top_layers is None else blocks - self.top_layers
        for name, module in model.named_modules():
            block = next((int(part) for part in name.split(".") if part.isdigit()), 0)
            if isinstance(module, nn.Linear) and name.split(".")[-1] in self.targets and block >= first:
                yield name, module


class LowRankLinear(nn.Module):
    """A frozen linear layer with a low-rank update beside it."""

    def __init__(self, linear: nn.Linear, down_RI: torch.Tensor, up_OR: torch.Tensor, scale: float) -> None:
        super().__init__()
        if down_RI.shape[1] != linear.in_features or up_OR.shape[0] != linear.out_features:
            raise WrongBase(
                f"The adapter's tensors are made for {down_RI.shape[1]} inputs and {up_OR.shape[0]} outputs; "
                f"this base's layer has {linear.in_features} and {linear.out_features}."
            )
        device = linear.weight.device
        self.linear, self.scale = linear, scale
        # The trained tensors stay in float32 even under a bfloat16 base: small steps would be rounded away.
        self.down_RI = nn.Parameter(down_RI.to(device, torch.float32, copy=True))
        self.up_OR = nn.Parameter(up_OR.to(device, torch.float32, copy=True))

    def forward(self, x_I: torch.Tensor) -> torch.Tensor:
        down_RI, up_OR = self.down_RI.to(x_I.dtype), self.up_OR.to(x_I.dtype) * self.scale
        return _LowRankUpdate.apply(x_I, self.linear.weight, self.linear.bias, down_RI, up_OR)


class _LowRankUpdate(torch.autograd.Function):
    """x W' + b + (x A') B', with gradients for x, A and B only; the sums are made inside the products.

    Written out because autograd's own version keeps and adds tensors as wide as the layer, which on CPUs
    costs as much as the products. N rows in all."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        down_RI: torch.Tensor,
        up_OR: torch.Tensor,
    ) -> torch.Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        low_NR = x_NI @ down_RI.t()
        y_NO = nn.functional.linear(x_NI, weight_OI, bias_O)
        y_NO.addmm_(low_NR, up_OR.t())
        ctx.save_for_backward(x_NI, weight_OI, down_RI, up_OR, low_NR)
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_NI, weight_OI, down_RI, up_OR, low_NR = ctx.saved_tensors
        grad = grads[0]
        grad_NO = grad.reshape(-1, grad.shape[-1])
        grad_low_NR = grad_NO @ up_OR
        grad_down_RI = grad_low_NR.t() @ x_NI
        grad_up_OR = grad_NO.t() @ low_NR
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_NI = grad_NO @ weight_OI
            grad_NI.addmm_(grad_low_NR, down_RI)
            grad_x = grad_NI.view(*grad.shape[:-1], -1)
        return grad_x, None, None, grad_down_RI, grad_up_OR


class Attached:
    """An adapter that is in a model now. Use as a context, or call detach()."""

    def __init__(self, base: Base, adapter: Adapter, layers: Mapping[str, LowRankLinear]) -> None:
        self.base, self.adapter, self._layers = base, adapter, dict(layers)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable tensors, by PEFT's names."""
        named: dict[str, nn.Parameter] = {}
        for name, layer in self._layers.items():
            named[f"{_PEFT_PREFIX}{name}.lora_A.weight"] = layer.down_RI
            named[f"{_PEFT_PREFIX}{name}.lora_B.weight"] = layer.up_OR
        return named

    def snapshot(self) -> Adapter:
        """The adapter as it is trained by now: copies, in float32, on the CPU."""
        tensors = {k: p.detach().to("cpu", torch.float32, copy=True) for k, p in self.parameters().items()}
        return Adapter(self.adapter.base, self.adapter.revision, self.adapter.spec, tensors)

    def detach(self) -> None:
        """Takes the adapter out; the base is then as it was."""
        for name, layer in self._layers.items():
            _put(self.base.model, name, layer.linear)
        self._layers.clear()

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


def refuse_other_base(base: Base, adapter: Adapter) -> None:
    """Raises WrongBase unless the adapter was made for this base."""
    if adapter.revision and adapter.revision != base.revision:
        raise WrongBase(
            f"The adapter was trained on {adapter.base} ({adapter.revision}), but the base in memory is "
            f"{base.name} ({base.revision}). Load that base, or teach the documents again on this one."
        )


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
