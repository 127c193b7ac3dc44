"""U-ViT with and without the delta form on a CPU: whole runs, and the evaluations that are in it.

One image without guidance, depth 28, width 384, 258 tokens, float32, a published schedule; every
ratio is measured within one run of this file.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from cpu.cases import uvit
from timed_runs import paired, record

import l2c_rt as rt
from l2c_rt.plan.delta import is_delta
from l2c_rt.plan.ops import Compute, Plan
from l2c_rt.presets import load

PRESETS = ("l2c/uvit-h-2-256/dpm-50", "l2c/uvit-h-2-256/dpm-20")
WIDTH = 384


@pytest.mark.parametrize("preset", PRESETS)
def bench_delta_form(benchmark: Any, quick: bool, preset: str) -> None:
    model, schedule = uvit(WIDTH, quick), load(preset)
    plain, delta = (TimedRuns(model, schedule, quick, delta_form=form) for form in (False, True))
    difference = (delta.run() - plain.run()).norm() / plain.run().norm()
    ratios = paired(benchmark, delta.run, plain.run, rounds=1 if quick else 3)
    plan = delta.fast.run.version.plan
    inside = [s for s in range(plan.num_evaluations) if is_delta(plan.at(s))]
    nothing = [s for s in inside if not any(isinstance(op, Compute) for op in plan.at(s))]
    facts = {
        "inside": together(plain, delta, inside),
        "nothing computed": together(plain, delta, nothing),
        "slots": [runs.fast.summary().slots for runs in (plain, delta)],
        "copied_bytes": [runs.fast.summary().copied_bytes for runs in (plain, delta)],
    }
    record(benchmark, group="delta form", preset=preset, ratios=ratios, ratio=median(ratios),
           relative_difference=difference, computed=computed_by(plan, inside), **facts)  # fmt: skip
    print(f"\n{preset}: whole runs {median(ratios):.3f}x as fast; {facts}")
    assert difference < 1e-4


class TimedRuns:
    """A compiled model, and the seconds of every evaluation of its runs."""

    def __init__(self, model: Any, schedule: Any, quick: bool, **options: bool) -> None:
        self.fast = rt.compile(model, schedule, **options)
        side = 8 if quick else 32
        drawn = np.random.default_rng(0).standard_normal((1, 4, side, side))
        self._noise = torch.from_numpy(drawn).float()
        self.seconds: list[list[float]] = []

    def run(self) -> torch.Tensor:
        """A whole run without guidance, timed from callback to callback."""
        ends = [time.perf_counter()]
        out = self.fast.sample(self._noise, [3], cfg_scale=0.0, callback=partial(_note, ends))
        self.seconds.append([after - before for before, after in pairwise(ends)])
        return out

    def least(self, evaluations: Sequence[int]) -> list[float]:
        """The least seconds that each of these evaluations took, the first two runs left out."""
        return [min(run[s] for run in self.seconds[2:]) for s in evaluations]


def _note(ends: list[float], _step: int, _latents: torch.Tensor) -> None:
    ends.append(time.perf_counter())


def together(plain: TimedRuns, delta: TimedRuns, evaluations: Sequence[int]) -> dict[str, Any]:
    """Some evaluations in both forms: how many, milliseconds in all, by evaluation, the ratio."""
    before, after = plain.least(evaluations), delta.least(evaluations)
    return {
        "evaluations": list(evaluations), "plain_ms": [1e3 * t for t in before],
        "delta_ms": [1e3 * t for t in after], "ratio": sum(before) / sum(after),
    }  # fmt: skip


def computed_by(plan: Plan, evaluations: Sequence[int]) -> list[int]:
    """The branches that each of the evaluations computes."""
    return [sum(isinstance(op, Compute) for op in plan.at(s)) for s in evaluations]
