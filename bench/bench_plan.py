"""What happens before a run: planning and importing."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
from timed_runs import record

from l2c_rt.adapters import bind
from l2c_rt.backends.backend import fused_passes
from l2c_rt.measure.clocks import host_seconds
from l2c_rt.models import DiT
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.prepare import prepare
from l2c_rt.plan.verify import verify
from l2c_rt.policies import Random

PLAN_SECONDS = 0.005
IMPORT_SECONDS = 0.150


def bench_planning_50_by_56(benchmark: Any, quick: bool) -> None:
    program = bind(DiT(depth=28, hidden_size=32, num_heads=2, input_size=8).eval()).program
    # Half of the branches reused at every step but the first: 50 distinct steps.
    rule = Random(0.5, seed=0, evaluations=tuple(range(1, 50)))
    schedule = rule.schedule(50, program.branch_names)

    def plan() -> None:
        built = build_plan(program, schedule)
        verify(built, program)
        fused_passes(built, program)

    benchmark.pedantic(plan, rounds=5 if quick else 50, warmup_rounds=2)
    # All that compile does with a plan: verified twice, against the schedule too, and counted.
    whole = host_seconds(lambda: prepare(program, schedule, fused_passes))
    record(benchmark, group="planning", bound_seconds=PLAN_SECONDS, prepare_seconds=whole)
    print(f"\n{benchmark.stats.stats.median * 1e3:.2f} ms of at most {PLAN_SECONDS * 1e3:.0f} ms")
    assert quick or benchmark.stats.stats.median < PLAN_SECONDS


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
