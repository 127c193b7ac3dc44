"""Runs every kernel once on a GPU and compares it with its meaning; for compute-sanitizer.

compute-sanitizer --tool memcheck python tests/support/every_kernel.py
"""

from __future__ import annotations

import torch

from l2c_rt.doctor.kernel_calls import OPS
from l2c_rt.doctor.kernels import kernels
from l2c_rt.kernels import reference
from l2c_rt.kernels.check_timestep import check_timestep
from l2c_rt.kernels.composed_product import composed_product, weight_bits
from l2c_rt.kernels.relative_change import relative_change


def main() -> None:
    wrong = [finding for finding in kernels(torch.device("cuda")) if finding.status != "OK"]
    assert not wrong, wrong
    judge_timesteps()
    measure_changes()
    compose_weights()
    torch.cuda.synchronize()
    print(f"{len(OPS) + 4} kernels ran")


def measure_changes() -> None:
    now, before = (torch.randn(3, 4097, 72, device="cuda") for _ in range(2))
    expected = reference.relative_change(now.double(), before.double())
    assert abs(relative_change(now, before) - expected) < 1e-5 * expected


def compose_weights() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        weight = (torch.randn(136, 272, device="cuda") / 12).to(dtype)
        first, second = weight.chunk(2, 1)
        before, out = (torch.randn(136, 136, device="cuda") for _ in range(2))
        now, known = (torch.zeros(1, dtype=torch.int64, device="cuda") for _ in range(2))
        expected = reference.weight_bits(weight, known.clone(), 0)
        assert torch.equal(weight_bits(weight, now, 0), expected)
        rounded = torch.zeros_like(weight)[:, 136:]
        composed_product(first, before, second, now, known, out, rounded)
        exact = first.double() @ before.double() + second
        assert (out - exact).abs().max() < 2**-14 * exact.abs().max()
        assert torch.equal(rounded, out.to(dtype))
        composed_product(second, before, None, now, now.clone(), out)
        assert (out - exact).abs().max() < 2**-14 * exact.abs().max()


def judge_timesteps() -> None:
    expected = torch.tensor([9.0, 8.0], dtype=torch.float64, device="cuda")
    verdict = torch.full((3,), -1.0, dtype=torch.float64, device="cuda")
    for step in range(2):
        check_timestep(torch.full((3,), 9 - step, device="cuda"), step, expected, verdict)
    assert verdict[0] < 0


if __name__ == "__main__":
    main()
