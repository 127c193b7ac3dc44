"""Every kernel at two odd sizes against float64."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from l2c_rt.doctor.finding import Finding
from l2c_rt.doctor.kernel_calls import OPS, arguments, kernel, truth
from l2c_rt.doctor.kernel_operands import Arguments, Sizes
from l2c_rt.doctor.placed_operands import PLACED_OPS, placed_arguments
from l2c_rt.doctor.tensor_trees import float64, mapped, tensors

# A grid that is no square, tokens that fill no block, a width that is no power of two.  One head,
# of 72 = 64 + 16 columns in bf16: two would have 36, which attention refuses.
SIZES = (
    Sizes(torch.bfloat16, 2, grid=(3, 7), width=72, count=3, heads=1),
    Sizes(torch.float32, count=5, heads=1),
)
TOLERANCES = {torch.bfloat16: 0.1, torch.float32: 2e-4}


def kernels(device: torch.device) -> Iterator[Finding]:
    """One finding for all that are right, and one for each that is not."""
    if device.type != "cuda":
        yield Finding("kernels", "WARN", f"{len(OPS)} kernels not run: no GPU")
        return
    right = 0
    for op, dtype, operands in calls():
        try:
            error = largest_error(op, mapped(operands, lambda t: t.to(device), {}))
            problem = "" if error <= TOLERANCES[dtype] else f"differs from float64 by {error:.2g}"
        except Exception as failure:
            problem = f"{type(failure).__name__}: {failure}".splitlines()[0]
        if problem:
            text = f"in {str(dtype)[6:]} it {problem}"
            yield Finding(op, "FAIL", text, 'backend="reference" runs; report this line')
        else:
            right += 1
    total = len(SIZES) * (len(OPS) + len(PLACED_OPS))
    yield Finding("kernels", "OK" if right == total else "FAIL", f"{right} of {total} are right")


def calls() -> Iterator[tuple[str, torch.dtype, Arguments]]:
    """Every function with the arguments that it is run with."""
    for sizes in SIZES:
        for op in OPS:
            yield op, sizes.dtype, arguments(op, sizes)
        for op in PLACED_OPS:
            yield op, sizes.dtype, placed_arguments(op, sizes)


def largest_error(op: str, operands: Arguments) -> float:
    """Of everything that a kernel gives, as a share of the largest value or of 1."""
    exact = float64(operands)
    got, expected = kernel(op)(**operands), truth(op)(**exact)
    if op == "split_linear":
        # Where the cuts lie is the kernel's business.
        got, expected = got.sum(0), expected.sum(0)
    pairs = zip(tensors({"": got}), tensors({"": expected}), strict=True)
    shares = [
        float((a.double() - b.double()).abs().nan_to_num(torch.inf).max())
        / max(1.0, float(b.abs().max()))
        for (_, a), (_, b) in pairs
    ]
    return max(shares)
