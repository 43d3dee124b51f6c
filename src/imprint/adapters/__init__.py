"""What can be trained, by where it plugs into the model."""

from __future__ import annotations

from imprint.adapters.low_rank import LoRA

KINDS: dict[str, type[LoRA]] = {"lora": LoRA}
"""Every kind of adapter, by the name that recipes use."""
