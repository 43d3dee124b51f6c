"""What can be trained, by where it plugs into the model."""

from __future__ import annotations

from typing import Any

from imprint.adapters.frames import LoRAXS, TinyLoRA
from imprint.adapters.full import Full
from imprint.adapters.low_rank import LoRA

KINDS: dict[str, Any] = {
    "lora": LoRA,
    "lora_xs": LoRAXS,
    "tiny_lora": TinyLoRA,
    "full": Full,
}
"""Every kind of adapter, by the name that recipes use."""
