"""Whole runs on this machine: cached against full, fused against reference, beside their limits.

One image without guidance, DiT of depth 28, width 384, 256 tokens, float32, the published DDIM
schedules.  Every ratio is measured within one run of this file.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, ClassVar

import pytest
import torch
from timed_runs import paired, record, run_inputs, sampler

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.api import build
from l2c_rt.backends import Backend, Options, select_backend
from l2c_rt.backends.backend import OpByOp, OpTable
from l2c_rt.measure.clocks import host_seconds
from l2c_rt.models import DiT
from l2c_rt.plan.ops import Compute, Reuse, ReuseRun, RunFixed
from l2c_rt.policies import Full, Random
from l2c_rt.presets import load

PRESETS = ("l2c/dit-xl-2-256/ddim-20", "l2c/dit-xl-2-256/ddim-50")
LEAST_SHARE_OF_LIMIT = 0.95


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("preset", PRESETS)
def bench_cached_against_full(
    benchmark: Any, model: Any, quick: bool, preset: str, backend: str
) -> None:
    schedule = load(preset)
    cached, run = sampler(model, schedule, backend=backend)
    _, run_full = sampler(model, Full(), steps=schedule.steps, backend=backend)
    ratios = paired(benchmark, run, run_full, rounds=1 if quick else 2)
    ratio, limit = median(ratios), cached.cost.speedup_limit
    record(
        benchmark, group="cached / full", preset=preset, backend=backend, ratios=ratios,
        ratio=ratio, bound=limit, share_of_bound=ratio / limit,
    )  # fmt: skip
    print(f"\n{preset} {backend}: {ratio:.3f}x of at most {limit:.3f}x ({ratio / limit:.1%})")
    assert quick or ratio >= LEAST_SHARE_OF_LIMIT * limit


@pytest.mark.parametrize("preset", PRESETS[:1])
def bench_fused_against_reference(benchmark: Any, model: Any, quick: bool, preset: str) -> None:
    schedule = load(preset)
    _, run = sampler(model, schedule, backend="fused")
    _, run_reference = sampler(model, schedule, backend="reference")
    difference = (run() - run_reference()).norm() / run_reference().norm()
    assert difference < 1e-4
    ratios = paired(benchmark, run, run_reference, rounds=1 if quick else 2)
    record(benchmark, group="fused / reference", preset=preset, ratios=ratios,
           ratio=median(ratios), relative_difference=difference)  # fmt: skip
    print(f"\n{preset}: fused is {median(ratios):.3f}x as fast as the reference")
    assert quick or median(ratios) >= 0.99


@pytest.mark.parametrize("backend", ["reference", "fused"])
def bench_runtime_python_per_evaluation(
    benchmark: Any, model: Any, quick: bool, backend: str
) -> None:
    """The session, the clock and the walk over the ops, with ops that do nothing."""
    schedule = load(PRESETS[1])
    _, run = sampler(model, schedule, backend=backend)
    run()
    evaluation = host_seconds(run) / schedule.steps
    # What computes nothing does not agree with the model.
    idle = build(model, schedule, partial(_without_work, backend), check="off")
    x, y = run_inputs(model)
    assert idle.timesteps is not None
    grid = [torch.full((1,), t) for t in idle.timesteps]
    labels = torch.tensor(y)

    def calls() -> None:
        for t in grid:
            idle(x, t, labels)

    benchmark.pedantic(calls, rounds=3 if quick else 20, warmup_rounds=1)
    own = benchmark.stats.stats.median / schedule.steps
    record(benchmark, group="runtime's own Python", backend=backend, seconds_per_evaluation=own,
           evaluation_seconds=evaluation, share=own / evaluation)  # fmt: skip
    print(f"\n{backend}: {own * 1e6:.0f} us of own Python per evaluation, {own / evaluation:.2%}")
    assert quick or own / evaluation < 0.01


class NoWork(OpByOp):
    """Walks the ops of an evaluation and does nothing for any."""

    ops: ClassVar[OpTable] = dict.fromkeys(
        (RunFixed, Compute, Reuse, ReuseRun), lambda workspace, op, evaluation: None
    )


def _without_work(name: str, described: BoundModel) -> Backend:
    backend = select_backend(name, Options(), described)
    return replace(backend, workspace=lambda plan: NoWork(described))


def bench_memory_over_200_runs(benchmark: Any, quick: bool) -> None:
    """Resident memory and arena counters after 200 runs and after 20."""
    toy = DiT(depth=3, hidden_size=32, num_heads=2, input_size=8, num_classes=10).eval()
    fast, run = sampler(toy, Random(0.5, seed=0), steps=10, backend="fused")
    x, y = torch.randn(2, 4, 8, 8), torch.arange(2)

    def runs(count: int) -> None:
        for _ in range(count):
            for k in range(10):
                fast(x, torch.full((2,), 990 - 7 * k), y)
            run()

    runs(2 if quick else 20)
    before, taken = _resident_bytes(), fast.summary().arena_allocations
    benchmark.pedantic(runs, args=(3 if quick else 180,), rounds=1)
    growth = _resident_bytes() - before
    record(benchmark, group="memory", growth_bytes=growth,
           arena_allocations=fast.summary().arena_allocations)  # fmt: skip
    print(f"\n{growth / 2**20:.1f} MiB more after 200 runs than after 20")
    assert fast.summary().arena_allocations == taken
    assert growth < 8 << 20


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
