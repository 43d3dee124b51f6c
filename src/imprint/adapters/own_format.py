"""adapter_config.json of methods that PEFT does not know: their settings stand in it under 'imprint'.

docs/adapter-format.md has all of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, ClassVar, Self, cast

import torch

from imprint.errors import BadInput
from imprint.types import Adapter


class OwnFormat:
    """What the settings of such a method, a dataclass, say and read of themselves."""

    __slots__ = ()
    PEFT_TYPE: ClassVar[str]

    def config(self, adapter: Adapter) -> dict[str, Any]:
        """What adapter_config.json says of the adapter."""
        return {
            "peft_type": self.PEFT_TYPE,
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": adapter.base,
            "imprint": asdict(cast(Any, self)),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Self:
        """The settings that such a file tells. Raises BadInput where it tells others."""
        return cls(**own_settings(config, cls))


def own_settings(config: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """The settings in such a file, as a spec of this kind takes them. Raises BadInput where one is of another
    type, or is none."""
    told = config.get("imprint")
    if not isinstance(told, Mapping):
        raise BadInput("Its adapter_config.json has no table 'imprint' of the kind's settings.")
    declared = {field.name: str(field.type) for field in fields(kind)}
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items() if k != "kind"}
    for key, value in settings.items():
        if key not in declared:
            raise BadInput(f"Its adapter_config.json tells a setting '{key}' that this kind does not have.")
        if not _is_a(value, declared[key]):
            raise BadInput(f"Its adapter_config.json tells {key} = {value!r:.80}; that must be {declared[key]}.")
    return settings


def _is_a(value: Any, declared: str) -> bool:
    if value is None:
        return "None" in declared
    if declared.startswith("tuple[str"):
        return isinstance(value, tuple) and all(isinstance(v, str) for v in value)
    if declared.startswith("float"):
        return type(value) in (int, float) and math.isfinite(value)
    return type(value).__name__ == declared.split(" ")[0]
