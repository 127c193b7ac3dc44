"""What a user meets first: the first run, the cost of a call, and a family that runs its own
forward.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import pytest
import torch
from cpu.cases import Case
from cpu.flux_like import flux_like, flux_run
from cpu.programs import ours
from timed_runs import paired, record

import l2c_rt as rt
from l2c_rt.models import DiT
from l2c_rt.policies import EveryN, Full


def bench_first_run(benchmark: Any, quick: bool) -> None:
    """rt.compile and its first run, beside a later run; the choices of products are remembered."""
    case = Case(384, torch.float32, 1, quick)
    later = ours(case, backend="fused")
    first = paired(
        benchmark, later, lambda: ours(case, backend="fused")(), rounds=1 if quick else 3
    )
    record(benchmark, group="first run", ratios=first, ratio=median(first))
    print(f"\ncompile and first run take {median(first):.3f}x a later run")


def bench_call_of_a_tiny_model(benchmark: Any, quick: bool) -> None:
    """All branches computed, in a loop of calls, beside the model's own calls."""
    model = DiT(depth=3, hidden_size=64, num_heads=1, input_size=16, num_classes=10).eval()
    steps = 20
    times = [float(999 - 50 * k) for k in range(steps)]
    fast = rt.compile(model, Full(), steps=steps, timesteps=times, backend="fused")
    x, y = torch.randn(1, 4, 16, 16), torch.tensor([3])
    grid = [torch.tensor([t]) for t in times]

    def calls(call: Any) -> None:
        with torch.no_grad():
            for t in grid:
                call(x, t, y)

    against = paired(
        benchmark, lambda: calls(fast), lambda: calls(model), rounds=3 if quick else 40
    )
    overhead = 1 / median(against)
    record(benchmark, group="call", ratios=against, ratio=median(against), overhead=overhead)
    print(f"\na call takes {overhead:.3f}x the model's own, {steps} calls a run")


def bench_packed_own_forward(benchmark: Any, quick: bool) -> None:
    """A FLUX-like model of diffusers, every second step computed, packed and not."""
    pytest.importorskip("diffusers")
    model, steps = flux_like(quick), 4
    packed, plain = (
        flux_run(rt.compile(model, EveryN(2), steps=steps, pack=pack), steps, quick)
        for pack in (True, False)
    )
    expected = plain()
    difference = (packed() - expected).norm() / expected.norm()
    assert difference < 1e-4
    found = paired(benchmark, packed, plain, rounds=1 if quick else 3)
    record(benchmark, group="own forward", ratios=found, ratio=median(found),
           relative_difference=difference)  # fmt: skip
    print(f"\nFLUX-like: packed is {median(found):.3f}x as fast as not packed")
