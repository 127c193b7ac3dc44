"""Runs every kernel once on a GPU and compares it with its meaning; for compute-sanitizer.

compute-sanitizer --tool memcheck python tests/every_kernel.py
"""

from __future__ import annotations

import torch
from kernel_calls import OPS, Sizes, arguments, cloned, kernel, mapped, tensors, truth

from l2c_rt.kernels.check_timestep import check_timestep

# A grid that is no square, tokens that fill no block, a width that is no power of two.
SIZES = (Sizes(torch.bfloat16, 2, grid=(3, 7), width=72, count=3), Sizes(torch.float32, count=5))


def main() -> None:
    for sizes in SIZES:
        for op in OPS:
            given = mapped(arguments(op, sizes), lambda t: t.cuda(), {})
            if op == "attention" and sizes.dtype == torch.float32:
                given["heads"] = 1
            eager = cloned(given)
            got, want = kernel(op)(**given), truth(op)(**eager)
            if op == "split_linear":
                got, want = got.sum(0), want.float().sum(0)
            for (path, a), (_, b) in zip(tensors({"": got}), tensors({"": want}), strict=True):
                error = (a.double() - b.double()).abs().max().item()
                tolerance = (2e-4 if sizes.dtype == torch.float32 else 0.1) * max(
                    1.0, b.abs().max()
                )
                assert error <= tolerance, f"{op}{path}: {error} > {tolerance}"
    seen = torch.zeros(2, dtype=torch.float64, device="cuda")
    verdict = torch.full((3,), -1.0, dtype=torch.float64, device="cuda")
    for step in range(2):
        check_timestep(torch.full((3,), 9 - step, device="cuda"), step, None, seen, verdict)
    assert verdict[0] < 0
    torch.cuda.synchronize()
    print(f"{len(OPS) + 1} kernels ran")


if __name__ == "__main__":
    main()
