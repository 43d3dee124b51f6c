"""Flower's rounds give what rounds through plain files give. Skipped where Flower is not installed."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from conftest import make_tiny_base
from imprint.adapters import folder
from imprint.base import Base
from imprint.continual import federated, flower
from imprint.continual.federated import update_of
from imprint.continual.shared_folder import RESULT, SharedFolder
from imprint.errors import MissingPackage
from imprint.training.sft import Job
from test_federated import SITES, federation_of, job, trained

INSTALLED = importlib.util.find_spec("flwr") is not None and importlib.util.find_spec("ray") is not None


def opened(site: str) -> tuple[Base, Job]:
    """A site in a process of its own."""
    torch.set_num_threads(1)
    base = make_tiny_base()
    return base, job(base, site)


@pytest.mark.skipif(not INSTALLED, reason="Flower is not installed: pip install 'imprint[flower]'")
@pytest.mark.parametrize("method", federated.METHODS)
def test_four_clients_of_flower_give_what_plain_files_give(
    method: str, tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # Flower changes it for its processes
    federation = federation_of(tiny_base, method)
    shared = SharedFolder.start(tmp_path / "shared", federation, tiny_base)
    for number in (1, 2):
        for site in SITES:  # each alone, as Flower's clients are: shared passes round otherwise
            told = shared.job(site, number, job(tiny_base, site))
            shared.hand_in(number, update_of(federation, site, trained(tiny_base, told)[0], told))
        shared.aggregate()
    result = folder.read(tmp_path / "shared" / RESULT)
    found = flower.simulate(federation, tiny_base, opened)
    assert set(found.tensors) == set(result.tensors)
    for name, tensor in result.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(INSTALLED, reason="Flower is installed here")
def test_without_flower_the_install_command_is_told(tiny_base: Base) -> None:
    with pytest.raises(MissingPackage, match=r"pip install 'imprint\[flower\]'"):
        flower.simulate(federation_of(tiny_base, "ffa"), tiny_base, opened)
