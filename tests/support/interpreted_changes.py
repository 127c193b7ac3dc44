"""The kernel for the relative change, in Triton's interpreter against float64; run by
test_interpreter.py."""

from __future__ import annotations

import pytest
import torch
from float64_bound import DTYPES, WARNINGS

from l2c_rt.kernels import relative_change as module
from l2c_rt.kernels.reference import relative_change as truth
from l2c_rt.kernels.relative_change import relative_change

pytestmark = WARNINGS


# One element; less than a block; no multiple of one; several rounds in each program.
@DTYPES
@pytest.mark.parametrize(("shape", "most"), [((1,), 4), ((3, 7, 8), 4), ((5, 9, 409), 4)])
def test_a_change_is_that_of_float64_and_the_same_each_time(
    shape: tuple[int, ...], most: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_PARTS", most)
    torch.manual_seed(0)
    now, before = (torch.randn(shape).to(dtype) for _ in range(2))
    out = torch.full((), float("nan"))
    assert relative_change(now, before, out) is out
    expected = truth(now.double(), before.double())
    assert abs(float(out) - float(expected)) <= 2e-6 * float(expected)
    assert torch.equal(relative_change(now, before), out)
