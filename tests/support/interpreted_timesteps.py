"""The kernel that checks a timestep, in Triton's interpreter against PyTorch's operations; run by
test_interpreter.py."""

from __future__ import annotations

import pytest
import torch
from float64_bound import WARNINGS

from l2c_rt.kernels.check_timestep import check_timestep
from l2c_rt.runtime import timestep_check

pytestmark = WARNINGS


def runs() -> list[list[list[float]]]:
    """Timesteps [steps][batch]: falling, repeated early, rising, differing within a batch."""
    return [
        [[990.0] * 3, [500.0] * 3, [10.0] * 3],
        [[990.0] * 3, [990.0] * 3, [10.0] * 3],
        [[990.0] * 3, [500.0] * 3, [500.0] * 3],
        [[500.0] * 3, [10.0] * 3, [990.0] * 3],
        [[990.0] * 3, [500.0, 500.0, 400.0], [10.0] * 3],
        [[990.0] * 3, [600.0] * 3, [700.0] * 3],
    ]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.float64])
def test_a_timestep_is_judged_as_pytorch_judges_it(dtype: torch.dtype) -> None:
    expected = torch.tensor([990.0, 500.0, 10.0], dtype=torch.float64)
    verdicts = set()
    for run in runs():
        ours, pytorchs = (torch.full((3,), -1.0).double() for _ in range(2))
        for step, values in enumerate(run):
            t = torch.tensor(values).to(dtype)
            check_timestep(t, step, expected, ours)
            timestep_check.check_timestep(t, step, expected, pytorchs)
            assert torch.equal(ours, pytorchs), (run, step)
        verdicts.add(tuple(ours.tolist()))
    # None, and at least two ways to misfit.
    assert len(verdicts) >= 3
