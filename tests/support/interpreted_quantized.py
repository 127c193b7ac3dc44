"""The kernel that quantises rows, in Triton's interpreter against PyTorch; run by
test_interpreter.py."""

from __future__ import annotations

import pytest
import torch
from float64_bound import DTYPES, WARNINGS

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
    # The interpreter rounds halves up, and forgets the carry into the exponent; the smallest step
    # is 2^-9.
    carried = torch.frexp(expected.float())[0].abs() == 0.5
    got, want = (t.float().masked_fill(carried, 0.0) for t in (values, expected))
    torch.testing.assert_close(got, want, rtol=2**-3, atol=2**-9)
    assert (got != want).float().mean() < 0.1
    assert values.float().abs().max() == 448
