"""Floors, single operations and profiles of the GPU suite, on a CPU."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from cpu_suite import toy_rig
from gpu.floors import kernelwise_seconds
from gpu.idle import LAST_KERNELS, Span, idle, longest, step_seconds
from gpu.models import CASES, MAKERS, Case, compiled
from gpu.operations import attention_seconds, attention_shape
from gpu.row_kernels import row_kernel_rates
from toys import toy_uvit

from l2c_rt.measure.ceilings import Ceilings

CEILINGS = Ceilings(macs_per_second=790e12 / 2, bytes_per_second=4.3e12)
WORKED_OUT = ((25.8, 33.6), (10.5, 13.4), (22.0, 37.4), (11.0, 15.0), (112, 145))
"""Milliseconds of every case's floor by hand, cached and uncached, one image in bfloat16."""


@pytest.mark.parametrize(("case", "floors"), [*zip(CASES, WORKED_OUT, strict=True)])
def test_the_floors_of_one_image_are_those_worked_out_by_hand(
    case: Case, floors: tuple[float, float]
) -> None:
    with torch.device("meta"):
        model = MAKERS[case.model]().eval()
    schedule = case.schedule()
    for table, milliseconds in zip((schedule, None), floors, strict=True):
        fast = compiled(model, table, schedule.steps, backend="reference")
        seconds = sum(kernelwise_seconds(fast, 2, 2, CEILINGS))
        assert 1e3 * seconds == pytest.approx(milliseconds, rel=0.03)
        assert seconds >= fast.cost.floor_seconds(batch=2, itemsize=2, **asdict(CEILINGS))


def test_an_attention_that_is_not_to_be_had_has_its_reason() -> None:
    assert attention_shape(toy_uvit(), 3) == (6, 2, 18, 16)
    found = attention_seconds(toy_rig(), (2, 2, 16, 8))
    assert isinstance(found["MATH"], float)
    assert isinstance(found["CUDNN_ATTENTION"], str)


def test_row_kernels_are_held_against_their_byte_models(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from l2c_rt.kernels import gate_residual_norm_modulate, reference, reuse_run

    monkeypatch.setattr(reuse_run, "reuse_run", reference.reuse_run)
    active = "gate_residual_norm_modulate"
    monkeypatch.setattr(gate_residual_norm_modulate, active, getattr(reference, active))
    found = row_kernel_rates(toy_rig(), [2], counts=(0, 3), tokens=4, width=16)
    elements = 2 * 4 * 16
    expected = [4 * (n * elements + m * 2 * 16) for n, m in ((3, 2), (6, 5), (4, 3))]
    assert [rate["bytes"] for rate in found] == expected
    assert all(rate["bytes_per_second"] > 0 for rate in found)


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("dependent", [False, True])
def test_the_empty_kernel_is_empty(dependent: bool) -> None:
    triton = pytest.importorskip("triton")
    from aot import read_back
    from gpu.nodes import _empty_kernel
    from triton.backends.compiler import GPUTarget

    signature = {"x_ptr": "*fp32", "DEPENDENT": "constexpr"}
    source = triton.compiler.ASTSource(_empty_kernel, signature, {"DEPENDENT": dependent})
    options = {"num_warps": 4} | ({"launch_pdl": True} if dependent else {})
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    code = read_back(binary.asm["cubin"])
    assert code.count("LDG|STG") == 0
    assert code.count("ACQBULK") == code.count("PREEXIT") == int(dependent)


def test_idle_is_what_no_kernel_covers() -> None:
    spans = [Span("a", 0, 4), Span("b", 3, 5), Span("a", 6, 7), Span("c", 9, 10)]
    found = idle(spans)
    assert found["idle_share"] == pytest.approx(0.3)
    assert (found["kernels"], found["seconds"]) == (4, pytest.approx(10e-6))
    assert longest(spans)[0] == {"name": "a", "count": 2, "seconds": pytest.approx(5e-6)}


def test_steps_end_with_the_solvers_update() -> None:
    names = ["fill", "gemm", "_final_update_kernel", "gemm", "_guided_update_kernel"]
    spans = [Span(name, 2 * k, 2 * k + 1) for k, name in enumerate(names)]
    assert step_seconds(spans) == pytest.approx([5e-6, 4e-6])


def test_the_kernels_that_end_a_step_are_called_so() -> None:
    pytest.importorskip("triton")
    from l2c_rt.kernels import final_update, final_update_norm, guided_update

    ending = [
        f"{module.__name__}.{name}"
        for module in (final_update, final_update_norm, guided_update)
        for name, value in vars(module).items()
        if type(value).__module__.startswith("triton") and name.endswith("_kernel")
    ]
    assert len(ending) == 3
    assert all(LAST_KERNELS.search(name.rpartition(".")[2]) for name in ending)
