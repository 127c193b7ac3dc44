"""What the delta form should save of a measured run: an estimate, to be replaced by a measurement.

python bench/delta_estimate.py       for run-uvit-h-2-256.dpm-50-n1.json in bench/results/gpu/

Every launch that a run has more or fewer in the delta form counts with what its kind took in the
profile of that run, and with that run's mean time between two kernels.  Sums are taken at their
mean, though those that are left add up less.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from l2c_rt import presets
from l2c_rt.families import UVIT
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.cost import cost
from l2c_rt.plan.delta import delta_evaluations, in_delta_form
from l2c_rt.plan.lowering import Composed, SkipLinear, Sum, lower
from l2c_rt.plan.ops import Plan
from l2c_rt.plan.passes import fuse_reuse_runs
from l2c_rt.plan.program import BlockProgram
from l2c_rt.plan.published import published_program

MEASURED = Path(__file__).parent / "results" / "gpu" / "run-uvit-h-2-256.dpm-50-n1.json"
KERNELS = {
    "first product": "64x80_64x11_2x1_v_bz_bias_TNT",
    "added product": "64x80_64x11_2x1_v_badd_TNT",
    "sum": "_reuse_run_norm_kernel",
    "added branch": "_residual_norm_kernel",
}
"""Kinds of launches, by the kernels that they were on the GPU of that run."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of a run; `launches` in both forms by kind."""

    ordinary: float
    delta: float
    launches: tuple[Counter[str], Counter[str]]
    kernels: tuple[int, int]
    slots: tuple[int, int]
    evaluations: int


def launches(program: BlockProgram, plan: Plan) -> Counter[str]:
    """Launches of a run whose number depends on the form, by kind."""
    counts: Counter[str] = Counter()
    for step in map(plan.at, range(plan.num_evaluations)):
        for launch in lower(step, program, plan.num_slots):
            if isinstance(launch, SkipLinear):
                counts.update(("first product", "added product"))
            elif isinstance(launch, Composed):
                counts["first product"] += 1
                counts["added product"] += len(launch.sources) - 1
            elif isinstance(launch, Sum):
                counts["added branch" if _is_plain(launch) else "sum"] += 1
    return counts


def estimate(result: Mapping[str, Any]) -> Estimate:
    """The run of a result file in both forms."""
    program = published_program(UVIT, UVIT.published)
    built = build_plan(program, presets.load(result["preset"]))
    plans = [fuse_reuse_runs(plan) for plan in (built, in_delta_form(built, program))]
    before, after = (launches(program, plan) for plan in plans)
    profile = result["profile"]
    between = (profile["seconds"] - profile["busy_seconds"]) / profile["kernels"]
    saved = sum((before[k] - after[k]) * (_seconds(profile, k) + between) for k in KERNELS)
    ordinary = median(result["samples"]["cached"])
    kernels = [cost(program, plan).kernels for plan in plans]
    return Estimate(
        ordinary, ordinary - saved, (before, after), (kernels[0], kernels[1]),
        (built.num_slots, plans[1].num_slots), delta_evaluations(plans[1]),
    )  # fmt: skip


def _seconds(profile: Mapping[str, Any], kind: str) -> float:
    """Of one launch of a kind, on average."""
    (found,) = (entry for entry in profile["longest"] if KERNELS[kind] in entry["name"])
    return float(found["seconds"] / found["count"])


def _is_plain(launch: Sum) -> bool:
    """Whether it adds one tensor as it is and norms the sum."""
    if launch.branch is None or len(launch.terms) != 1:
        return False
    (term,) = launch.terms
    return getattr(term, "at", None) is None and getattr(term, "sign", 1) == 1


def main() -> None:
    found = estimate(json.loads(MEASURED.read_text()))
    before, after = found.launches
    print(f"{found.evaluations} evaluations in the delta form")
    for kind in KERNELS:
        print(f"{kind}: {before[kind]} -> {after[kind]}")
    print("kernels by the plan: {} -> {}".format(*found.kernels))
    print("slots: {} -> {}".format(*found.slots))
    print(f"{1e3 * found.ordinary:.1f} ms measured -> {1e3 * found.delta:.1f} ms estimated")


if __name__ == "__main__":
    main()
