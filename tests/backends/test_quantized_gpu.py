"""`precision="fp8"` on a GPU: the kernels, PyTorch's product, whole runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu_runs import fresh, noise
from toys import toy_dit, toy_uvit

from l2c_rt.kernels import reference
from l2c_rt.kernels.quantize_rows import quantize_rows
from l2c_rt.kernels.scaled_linear import scaled_linear

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _has_fp8() -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no products in fp8")


@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("shape", [(2, 18, 32), (2, 256, 1152), (3, 7, 4608)])
def test_rows_are_those_of_pytorch_to_a_step(shape: tuple[int, ...], gelu: str | None) -> None:
    x = 3 * torch.randn(shape, device="cuda").bfloat16()
    x[0, 0] = 0
    values, scales = quantize_rows(x, gelu)
    expected, expected_scales = reference.quantize_rows(x, gelu)
    torch.testing.assert_close(scales, expected_scales, rtol=1e-5, atol=1e-12)
    # Of a tanh that is off by 2^-11 of 1 next to nothing is left where the GELU is near 0.
    absolute = 0.5 if gelu == "tanh" else 2**-9
    torch.testing.assert_close(values.float(), expected.float(), rtol=2**-3, atol=absolute)
    assert (values.float() != expected.float()).float().mean() < 5e-2


# 36 and 21 rows: those of a product need not be a multiple of 16.
@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(36, 32, 96), (21, 64, 16), (512, 1152, 4608)]
)
@pytest.mark.parametrize("biased", [True, False])
def test_pytorchs_product_is_the_emulated_one(
    rows: int, inner: int, columns: int, biased: bool
) -> None:
    x, weight = torch.randn(1, rows, inner).cuda().bfloat16(), torch.randn(columns, inner).cuda()
    bias = torch.randn(columns).cuda().bfloat16() if biased else None
    operands = quantize_rows(x), quantize_rows(weight.bfloat16())
    out, expected = (torch.full((1, rows, columns), torch.nan).cuda().bfloat16() for _ in range(2))
    scaled_linear(*operands, bias, out=out)
    reference.scaled_linear(*operands, bias, out=expected)
    error = (out.double() - expected.double()).norm() / expected.double().norm()
    assert error < 5e-3


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_a_run_in_fp8_is_near_the_one_in_bfloat16_and_repeats_bitwise(
    make: Any, graph: str
) -> None:
    narrow = fresh(make().bfloat16(), graph=graph, precision="fp8")
    wide = fresh(make().bfloat16()).sample(noise(), [1, 2])
    first = narrow.sample(noise(), [1, 2])
    error = (first - wide).square().mean().sqrt()
    assert 20 * torch.log10(wide.abs().max() / error) > 30
    for _ in range(5):
        narrow.poison()
        assert torch.equal(narrow.sample(noise(), [1, 2]), first)
    assert "float8_e4m3fn" in str(narrow.summary())
