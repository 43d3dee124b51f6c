"""The fused kernels give what autograd gives in float64, group by group, and what the reference gives.

On a machine with a CUDA GPU they run there, elsewhere in Triton's interpreter.
Shape key: N rows, I inputs, O outputs, R rank, S slots."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from imprint.engine.kernels import reference
from imprint.engine.kernels.reference import Bundle
from imprint.errors import MissingPackage

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

with pytest.MonkeyPatch.context() as patch:
    if DEVICE.type == "cpu":
        patch.setenv("TRITON_INTERPRET", "1")  # read when the kernels are made, and never again
    from imprint.engine.kernels import fused

N, I, O, S = 96, 33, 70, 5  # noqa: E741
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Of the largest value. Triton's interpreter cuts bfloat16 off where a GPU rounds it."""

BUNDLES = {
    "two groups": Bundle((3, 0), (0, 50), (50, 46)),
    "one giant and many tiny": Bundle((1, 0, 2, 3, 4), (2, 0, 90, 94, 95), (85, 1, 3, 1, 1)),
    "empty ones between": Bundle((0, 4, 1, 2), (0, 10, 10, 30), (10, 0, 20, 0)),
    "one slot in several groups": Bundle((2, 1, 2, 2), (0, 20, 25, 90), (20, 5, 3, 6)),
    "single rows": Bundle((4, 3, 2), (7, 40, 8), (1, 1, 1)),
}
EVERY_BUNDLE = pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES)
MIXED = BUNDLES["one slot in several groups"]


@dataclass
class Case:
    """What goes in, and what is added to."""

    x_NI: torch.Tensor
    grad_NO: torch.Tensor
    down_SRI: torch.Tensor
    up_SOR: torch.Tensor
    scale_S: torch.Tensor
    y_NO: torch.Tensor
    grad_x_NI: torch.Tensor | None
    grad_down_SRI: torch.Tensor
    grad_up_SOR: torch.Tensor

    def results(self) -> dict[str, torch.Tensor]:
        found = {
            "y": self.y_NO, "grad_x": self.grad_x_NI, "grad_down": self.grad_down_SRI, "grad_up": self.grad_up_SOR,
        }  # fmt: skip
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def made(
    rank: int, dtype: torch.dtype = torch.float32, factors: torch.dtype | None = None, inputs: int = I, outputs: int = O
) -> Case:
    """Random numbers; the racks are parts of flat ones, as they are in an engine."""
    draw = torch.Generator().manual_seed(rank)
    factors = factors or dtype

    def rows(width: int) -> torch.Tensor:
        return torch.randn(N, width, generator=draw).to(DEVICE, dtype)

    def rack() -> tuple[torch.Tensor, torch.Tensor]:
        flat_SP = torch.randn(S, 7 + rank * (inputs + outputs) + 4, generator=draw).to(DEVICE, factors)
        down, up = flat_SP[:, 7:-4].split([rank * inputs, rank * outputs], dim=1)
        return down.view(S, rank, inputs), up.view(S, outputs, rank)

    scale_S = torch.rand(S, generator=draw).to(DEVICE, factors) + 0.5
    return Case(rows(inputs), rows(outputs), *rack(), scale_S, rows(outputs), rows(inputs), *rack())


def copied(case: Case) -> Case:
    """The same, adding to copies; a view of a rack stays one."""

    def copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else torch.empty_strided(
            tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device
        ).copy_(tensor)  # fmt: skip

    names = ("y_NO", "grad_x_NI", "grad_down_SRI", "grad_up_SOR")
    return replace(case, **{name: copy(getattr(case, name)) for name in names})


def computed(kernels: object, given: Case, bundle: Bundle) -> dict[str, torch.Tensor]:
    """What the kernels of a file leave behind."""
    case = copied(given)
    parts = (case.down_SRI, case.up_SOR, case.scale_S, bundle)
    low = kernels.add_update(case.y_NO, case.x_NI, *parts)
    kernels.add_gradients(
        case.grad_NO, case.x_NI, low, *parts, case.grad_x_NI, case.grad_down_SRI, case.grad_up_SOR
    )
    return case.results()


def by_autograd(given: Case, bundle: Bundle) -> dict[str, torch.Tensor]:
    """The same in float64 by autograd, one group after another."""
    leaves = (given.x_NI, given.down_SRI, given.up_SOR)
    x_NI, down_SRI, up_SOR = (tensor.double().requires_grad_() for tensor in leaves)
    update_NO = torch.zeros_like(given.y_NO, dtype=torch.float64)
    for slot, start, count in zip(bundle.slots, bundle.starts, bundle.counts, strict=True):
        rows = slice(start, start + count)
        low = given.scale_S[slot].double() * x_NI[rows] @ down_SRI[slot].T
        update_NO[rows] += low @ up_SOR[slot].T
    update_NO.backward(given.grad_NO.double())
    added = {"y": update_NO.detach(), "grad_x": x_NI.grad, "grad_down": down_SRI.grad, "grad_up": up_SOR.grad}
    return {name: tensor.double() + added[name] for name, tensor in given.results().items()}


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        atol = tolerance * float(wanted[name].abs().max())
        torch.testing.assert_close(found[name].double(), wanted[name].double(), atol=atol, rtol=0, msg=name)


def test_the_kernels_run_on_this_machine() -> None:
    assert fused.runs_on(DEVICE)


@EVERY_BUNDLE
@pytest.mark.parametrize("rank", [1, 3, 8, 16])
def test_a_row_and_a_slot_get_what_autograd_gives(rank: int, bundle: Bundle) -> None:
    case = made(rank)
    same(computed(fused, case, bundle), by_autograd(case, bundle), TOLERANCE[torch.float32])


@pytest.mark.parametrize("rank", [1, 3, 8, 16])
@pytest.mark.parametrize(
    ("dtype", "factors"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16),
    ],
)
def test_the_fused_kernel_gives_what_the_reference_gives(
    rank: int, dtype: torch.dtype, factors: torch.dtype
) -> None:
    case = made(rank, dtype, factors)
    coarser = max(TOLERANCE[dtype], TOLERANCE[factors])
    same(computed(fused, case, MIXED), computed(reference, case, MIXED), coarser)


@pytest.mark.parametrize("rank", [20, 128])
def test_wide_layers_and_high_ranks_are_worked_off_in_steps(rank: int) -> None:
    case = made(rank, inputs=200, outputs=300)
    same(computed(fused, case, MIXED), by_autograd(case, MIXED), TOLERANCE[torch.float32])


def test_rows_that_do_not_lie_one_after_another_are_found() -> None:
    case = made(3)
    sliced = replace(
        case,
        x_NI=torch.cat([case.x_NI, case.x_NI], dim=1)[:, 10 : 10 + I],
        grad_NO=case.grad_NO[:1].expand(N, O),  # as the gradient of a sum comes
        y_NO=case.y_NO.T.contiguous().T,
    )
    same(computed(fused, sliced, MIXED), by_autograd(sliced, MIXED), TOLERANCE[torch.float32])


def test_rows_of_no_group_and_slots_without_rows_are_left_alone() -> None:
    case, bundle = made(8), Bundle((1, 3), (10, 50), (5, 0))
    found, others = computed(fused, case, bundle), torch.ones(N, dtype=torch.bool)
    others[10:15] = False
    assert torch.equal(found["y"][others], case.y_NO[others])
    assert case.grad_x_NI is not None and torch.equal(found["grad_x"][others], case.grad_x_NI[others])
    assert torch.equal(found["grad_down"][[0, 2, 3, 4]], case.grad_down_SRI[[0, 2, 3, 4]])
    assert torch.equal(found["grad_up"][[0, 2, 3, 4]], case.grad_up_SOR[[0, 2, 3, 4]])


@pytest.mark.parametrize("bundle", [Bundle((), (), ()), Bundle((2, 0), (5, 9), (0, 0))])
def test_a_bundle_without_rows_changes_nothing(bundle: Bundle) -> None:
    case = made(8)
    found = computed(fused, case, bundle)
    assert all(torch.equal(tensor, found[name]) for name, tensor in case.results().items())


def test_gradients_of_x_are_made_only_where_they_are_asked_for() -> None:
    case = made(3)
    found = computed(fused, replace(case, grad_x_NI=None), MIXED)
    wanted = {name: tensor for name, tensor in by_autograd(case, MIXED).items() if name != "grad_x"}
    same(found, wanted, TOLERANCE[torch.float32])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_group_of_nans_touches_no_neighbour(dtype: torch.dtype, poison: float) -> None:
    bundle = Bundle((0, 1, 2), (0, 5, 75), (5, 70, 3))  # rows of several blocks, with neighbours before and after
    case = made(3, dtype)
    healthy = computed(fused, case, bundle)
    case.x_NI[5:75] = case.grad_NO[5:75] = poison
    case.down_SRI[1] = case.up_SOR[1] = case.scale_S[1] = poison
    ill = computed(fused, case, bundle)
    for name in ("y", "grad_x"):
        assert torch.equal(torch.cat([ill[name][:5], ill[name][75:]]), torch.cat([healthy[name][:5], healthy[name][75:]]))
    for name in ("grad_down", "grad_up"):
        assert torch.equal(ill[name][[0, 2, 3, 4]], healthy[name][[0, 2, 3, 4]])
        assert not ill[name][1].isfinite().any()


def test_what_lies_between_the_parts_of_a_rack_is_never_read() -> None:
    case, flat_SP = made(3), torch.full((S, 3 * (I + O) + 11), float("nan"), device=DEVICE)
    down, up = flat_SP[:, 7:-4].split([3 * I, 3 * O], dim=1)
    down_SRI, up_SOR = down.view(S, 3, I).copy_(case.down_SRI), up.view(S, O, 3).copy_(case.up_SOR)
    lined = replace(case, down_SRI=down_SRI, up_SOR=up_SOR)
    same(computed(fused, lined, MIXED), by_autograd(case, MIXED), TOLERANCE[torch.float32])


def test_a_row_gets_to_the_bit_what_it_gets_in_any_other_company_of_that_size() -> None:
    case, bundle = made(8), Bundle((2, 0, 1), (0, 20, 60), (20, 40, 36))
    alone = Bundle((0,), (20,), (40,))
    assert torch.equal(computed(fused, case, bundle)["y"][20:60], computed(fused, case, alone)["y"][20:60])


def test_a_pass_can_be_repeated_to_the_bit() -> None:
    case = made(16)
    first, second = computed(fused, case, MIXED), computed(fused, case, MIXED)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_slot_is_summed_by_one_program_however_many_groups_it_has() -> None:
    """Two at once would lose each other's part on a GPU; the interpreter runs one after another."""
    runs_U3 = fused._plan_on(MIXED, DEVICE).runs_U3
    assert runs_U3[:, 0].tolist() == [1, 2]
    assert runs_U3[:, 2].sum() == len(fused._plan_on(MIXED, DEVICE).blocks_B4)


def test_the_layers_of_a_pass_share_one_plan() -> None:
    bundle = Bundle((4, 1), (1, 60), (9, 11))
    assert fused._plan_on(bundle, DEVICE) is fused._plan_on(Bundle((4, 1), (1, 60), (9, 11)), DEVICE)


def test_without_triton_the_error_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location("fused_again", Path(fused.__file__))
    assert spec is not None and spec.loader is not None
    with pytest.raises(MissingPackage, match="pip install triton"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


COMPILING = """
import torch, triton
from triton.backends.compiler import GPUTarget
from imprint.engine.kernels import fused
from imprint.engine.kernels.reference import Bundle

class Absent:  # answers like a GPU's driver, which is enough to compile for that GPU
    def get_current_target(self): return GPUTarget("cuda", 80, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0

triton.runtime.driver.set_active(Absent())
sizes = []
for kernel in (fused._shrink_kernel, fused._expand_kernel, fused._collect_kernel):
    def compile(*given, run=kernel.run, warmup, **named):
        sizes.append(run(*given, warmup=True, **named).metadata.shared)
    kernel.run = compile

for R, dtype in ((1, torch.float32), (16, torch.bfloat16)):
    x, y, scale = torch.zeros(100, 64, dtype=dtype), torch.zeros(100, 33, dtype=dtype), torch.ones(2)
    parts, bundle = (torch.zeros(2, R, 64), torch.zeros(2, 33, R)), Bundle((0, 1), (0, 3), (3, 97))
    low = fused.add_update(y, x, *parts, scale, bundle)
    fused.add_gradients(y, x, low, *parts, scale, bundle, x, *parts)
print(len(sizes), max(sizes))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton brings the compiler for NVIDIA's GPUs on Linux only")
def test_the_kernels_compile_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    """The interpreter lets much pass that the compiler refuses. About 100 kB of shared memory are there."""
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", COMPILING]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    launches, shared_bytes = map(int, run.stdout.split())
    assert launches == 12
    assert shared_bytes <= 99 * 1024
