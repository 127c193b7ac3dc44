"""Runs every kernel once on a GPU and compares it with its meaning; for compute-sanitizer.

compute-sanitizer --tool memcheck python tests/support/every_kernel.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from kernel_calls import OPS, arguments, kernel, truth
from kernel_operands import Arguments, Sizes
from tensor_trees import cloned, mapped, tensors

from l2c_rt.kernels.check_timestep import check_timestep

# A grid that is no square, tokens that fill no block, a width that is no power of two.  One head,
# of 72 = 64 + 16 columns in bf16: two would have 36, which attention refuses.
SIZES = (
    Sizes(torch.bfloat16, 2, grid=(3, 7), width=72, count=3, heads=1),
    Sizes(torch.float32, count=5, heads=1),
)
TOLERANCES = {torch.bfloat16: 0.1, torch.float32: 2e-4}


def calls() -> Iterator[tuple[str, torch.dtype, Arguments]]:
    """Every function with the arguments that it is run with."""
    for sizes in SIZES:
        for op in OPS:
            yield op, sizes.dtype, arguments(op, sizes)


def main() -> None:
    for op, dtype, operands in calls():
        operands = mapped(operands, lambda t: t.cuda(), {})
        eager = cloned(operands)
        got, want = kernel(op)(**operands), truth(op)(**eager)
        if op == "split_linear":
            # Where the cuts lie is the kernel's business.
            got, want = got.sum(0), want.float().sum(0)
        compare(op, dtype, got, want)
    judge_timesteps()
    torch.cuda.synchronize()
    print(f"{len(OPS) + 1} kernels ran")


def compare(op: str, dtype: torch.dtype, got: Any, want: Any) -> None:
    for (path, a), (_, b) in zip(tensors({"": got}), tensors({"": want}), strict=True):
        error = (a.double() - b.double()).abs().max().item()
        tolerance = TOLERANCES[dtype] * max(1.0, b.abs().max().item())
        assert error <= tolerance, f"{op}{path}: {error} > {tolerance}"


def judge_timesteps() -> None:
    expected = torch.tensor([9.0, 8.0], dtype=torch.float64, device="cuda")
    verdict = torch.full((3,), -1.0, dtype=torch.float64, device="cuda")
    for step in range(2):
        check_timestep(torch.full((3,), 9 - step, device="cuda"), step, expected, verdict)
    assert verdict[0] < 0


if __name__ == "__main__":
    main()
