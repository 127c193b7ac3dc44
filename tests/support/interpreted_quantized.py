"""The kernel that quantises rows, in Triton's interpreter against PyTorch; run by
test_interpreter.py."""

from __future__ import annotations

import pytest
import torch
from float64_bound import DTYPES, WARNINGS

from l2c_rt.doctor.kernel_calls import arguments, kernel, truth
from l2c_rt.doctor.kernel_operands import Sizes
from l2c_rt.doctor.tensor_trees import cloned
from l2c_rt.kernels import reference
from l2c_rt.kernels.quantize_rows import quantize_rows

pytestmark = WARNINGS


@DTYPES
@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("width", [8, 72, 1152])
def test_rows_are_pytorchs_to_a_step_of_e4m3(
    width: int, gelu: str | None, dtype: torch.dtype
) -> None:
    x = 3 * torch.randn(2, 5, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[0, 0] = 0
    x[0, 1, 0] = 60.0
    poison = torch.full((2, 5, width), 7.0).to(torch.float8_e4m3fn)
    values, scales = quantize_rows(x, gelu, out=(poison, torch.full((10,), float("nan"))))
    expected, expected_scales = reference.quantize_rows(x.double(), gelu)
    torch.testing.assert_close(scales, expected_scales, rtol=1e-5, atol=1e-12)
    near(values, expected)
    assert values.float().abs().max() == 448


INPUTS = ("norm_modulate", "norm")
SUMS = (
    *("reuse_run", "gate_residual_norm_modulate", "split_gate_residual_norm_modulate"),
    *("reuse_run_norm", "residual_norm", "split_residual_norm"),
)


@pytest.mark.parametrize("op", INPUTS + SUMS)
def test_a_branchs_input_is_quantised_by_the_kernel_that_makes_it(op: str) -> None:
    operands = arguments(op, Sizes(grid=(1, 7), width=72, count=3))
    x = operands["x"]
    results = []
    for function in (kernel(op), truth(op)):
        rows = torch.full_like(x, 7.0).to(torch.float8_e4m3fn), torch.full((14,), float("nan"))
        out = rows if op in INPUTS else (torch.full_like(x, float("nan")), rows)
        function(**cloned(operands), out=out)
        results.append(rows)
    (values, scales), (expected, expected_scales) = results
    # The interpreter truncates to bfloat16, which the largest value may be just above.
    torch.testing.assert_close(scales, expected_scales, rtol=2**-7, atol=1e-12)
    near(values, expected)


def near(values: torch.Tensor, expected: torch.Tensor) -> None:
    """To a step of e4m3 in a few places: the interpreter rounds halves up, and forgets the carry
    into the exponent; the smallest step is 2^-9."""
    fraction = torch.frexp(expected.float())[0].abs()
    carried = (fraction == 0.5) | (fraction == 15 / 16)
    got, want = (t.float().masked_fill(carried, 0.0) for t in (values, expected))
    torch.testing.assert_close(got, want, rtol=2**-3, atol=2**-9)
    assert (got != want).float().mean() < 0.1
