"""What happens before a run: planning and importing."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from timed_runs import record

import l2c_rt as rt
from l2c_rt.adapters import bind
from l2c_rt.backends.backend import fused_passes
from l2c_rt.measure.clocks import host_seconds
from l2c_rt.models import DiT
from l2c_rt.plan.prepare import prepare
from l2c_rt.plan.published import dit_program
from l2c_rt.policies import Random

PLAN_SECONDS = {(50, 56): 0.005, (50, 400): 0.025, (1000, 400): 0.5}
"""By steps and branches."""
WIDTH = 64
IMPORT_SECONDS = 0.250
"""A collection of all objects of torch, a tenth of a second, falls into it."""


@pytest.mark.parametrize(("steps", "branches"), PLAN_SECONDS)
def bench_planning(benchmark: Any, quick: bool, steps: int, branches: int) -> None:
    """All that compile does with a schedule: planned, rewritten, verified, counted."""
    hidden = (4 * WIDTH,) * (branches // 2)
    program = dit_program(hidden, width=WIDTH, tokens=256)
    # Half of the branches reused at every step but the first: so many distinct steps.
    rule = Random(0.5, seed=0, evaluations=tuple(range(1, steps)))
    schedule = rule.schedule(steps, program.branch_names)
    bound = PLAN_SECONDS[steps, branches]
    benchmark.pedantic(
        prepare, args=(program, schedule, fused_passes), rounds=3 if quick else 20, warmup_rounds=1
    )
    median = benchmark.stats.stats.median
    cell = median / (steps * branches)
    record(benchmark, group="planning", bound_seconds=bound, seconds_per_cell=cell)
    print(f"\n{median * 1e3:.2f} ms of at most {bound * 1e3:.0f} ms, {cell * 1e6:.2f} us a cell")
    assert quick or median < bound


def bench_compile(benchmark: Any, quick: bool) -> None:
    """The whole of rt.compile for 50 steps of 56 branches, and what planning is of it."""
    model = DiT(depth=28, hidden_size=32, num_heads=2, input_size=8).eval()
    rule = Random(0.5, seed=0, evaluations=tuple(range(1, 50)))
    program = bind(model).program
    schedule = rule.schedule(50, program.branch_names)
    benchmark.pedantic(
        rt.compile, args=(model, schedule), rounds=3 if quick else 20, warmup_rounds=1
    )
    planned = host_seconds(lambda: prepare(program, schedule, fused_passes))
    described = host_seconds(lambda: bind(model))
    record(benchmark, group="planning", prepare_seconds=planned, describe_seconds=described)
    print(f"\n{benchmark.stats.stats.median * 1e3:.2f} ms, of which planning {planned * 1e3:.2f}, "
          f"describing {described * 1e3:.2f}")  # fmt: skip


def bench_import(benchmark: Any, quick: bool) -> None:
    """`import l2c_rt` with everything that compile needs, beyond torch's own import."""
    rounds = 2 if quick else 7
    alone, ours = [], []
    for _ in range(rounds):
        alone.append(_import_seconds("torch"))
        ours.append(_import_seconds("l2c_rt; l2c_rt.compile"))
    lazy = [_import_seconds("l2c_rt") for _ in range(rounds)]
    benchmark.pedantic(_import_seconds, args=("l2c_rt; l2c_rt.compile",), rounds=1)
    extra = float(np.median(np.array(ours) - np.array(alone)))
    record(benchmark, group="import", torch_seconds=alone, with_compile_seconds=ours,
           lazy_seconds=lazy, extra_seconds=extra, bound_seconds=IMPORT_SECONDS)  # fmt: skip
    print(f"\nimport l2c_rt {np.median(lazy) * 1e3:.0f} ms; with compile {extra * 1e3:.0f} ms more "
          f"than torch ({np.median(alone) * 1e3:.0f} ms)")  # fmt: skip
    assert quick or extra < IMPORT_SECONDS


def _import_seconds(what: str) -> float:
    code = f"import time; t = time.perf_counter(); import {what}; print(time.perf_counter() - t)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(out.stdout)
