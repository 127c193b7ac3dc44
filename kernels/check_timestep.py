# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Hold a timestep that lives on the GPU to what a run must pass, in one small kernel.

    got = t[0]      misfit where t differs within the batch, or got is not expected[step]

Writes (step, expected, got) to the verdict for the first misfit only.
Shapes: t [B] of any dtype; expected float64 [S]; verdict float64 [3], verdict[0] < 0 until there is
a misfit.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from l2c_rt.kernels._launch import RowTile
from l2c_rt.kernels._launcher import launched, row_options
from l2c_rt.kernels._row_math import wait_for_kernel_before

RELATIVE, ABSOLUTE = 1e-4, 1e-6


@triton.jit(
    do_not_specialize=["B", "step"],
    do_not_specialize_on_alignment=["t_ptr", "expected_ptr", "verdict_ptr"],
)
def _check_timestep_kernel(
    t_ptr, expected_ptr, verdict_ptr, B, step, relative, absolute, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait_for_kernel_before(PDL)
    # float64, which is exact for integer and for float32 timesteps alike.
    got = tl.load(t_ptr).to(tl.float64)
    differing = 0
    for first in tl.range(0, B, BLOCK):
        i = first + tl.arange(0, BLOCK)
        values = tl.load(t_ptr + i, mask=i < B, other=0).to(tl.float64)
        differing += tl.sum(((values != got) & (i < B)).to(tl.int32), axis=0)
    expected = tl.load(expected_ptr + step)
    apart = tl.abs(got - expected) > absolute + relative * tl.abs(expected)
    misfit = (apart | (differing > 0)) & (tl.load(verdict_ptr) < 0)
    tl.store(verdict_ptr + 1, expected, mask=misfit)
    tl.store(verdict_ptr + 2, got, mask=misfit)
    tl.store(verdict_ptr, step.to(tl.float64), mask=misfit)


def check_timestep(t: Tensor, step: int, expected: Tensor, verdict: Tensor) -> None:
    """Check one call.  Launches: _check_timestep_kernel."""
    flat = t.reshape(-1)
    block = min(1024, 1 << max(0, flat.numel() - 1).bit_length())
    launched(_check_timestep_kernel, 1)(
        flat, expected, verdict, flat.numel(), step, RELATIVE, ABSOLUTE, BLOCK=block,
        **row_options(_check_timestep_kernel, RowTile(warps=1)),
    )  # fmt: skip
