"""What can be trained, by where it plugs into the model."""

from __future__ import annotations

from typing import Any

from imprint.adapters.expert import Expert
from imprint.adapters.frames import LoRAXS, TinyLoRA
from imprint.adapters.full import Full
from imprint.adapters.low_rank import LoRA
from imprint.adapters.memory import Memory
from imprint.adapters.prefix import Cartridge

KINDS: dict[str, Any] = {
    "lora": LoRA,
    "lora_xs": LoRAXS,
    "tiny_lora": TinyLoRA,
    "cartridge": Cartridge,
    "memory": Memory,
    "expert": Expert,
    "full": Full,
}
"""Every kind of adapter, by the name that recipes use."""
