"""U-ViT with and without the delta form on a CPU: whole runs, and the evaluations that are in it.

One image without guidance, depth 28, width 384, 258 tokens, float32, a published schedule; every
ratio is measured within one run of this file.
"""

from __future__ import annotations

import time
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
from l2c_rt.plan.ops import Compute
from l2c_rt.presets import load

PRESETS = ("l2c/uvit-h-2-256/dpm-50", "l2c/uvit-h-2-256/dpm-20")
WIDTH = 384


@pytest.mark.parametrize("preset", PRESETS)
def bench_delta_form(benchmark: Any, quick: bool, preset: str) -> None:
    model, schedule = uvit(WIDTH, quick), load(preset)
    plain, delta = (rt.compile(model, schedule, delta_form=form) for form in (False, True))
    side = 8 if quick else 32
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 4, side, side))).float()

    def run(fast: rt.Compiled) -> torch.Tensor:
        return fast.sample(noise, [3], cfg_scale=0.0)

    difference = (run(delta) - run(plain)).norm() / run(plain).norm()
    rounds = 1 if quick else 5
    whole = paired(benchmark, lambda: run(delta), lambda: run(plain), rounds)
    times: dict[str, list[list[float]]] = {"plain": [], "delta": []}
    for names in [("plain", "delta"), ("delta", "plain")] * rounds:
        for name in names:
            times[name].append(evaluations(delta if name == "delta" else plain, noise))
    facts = by_evaluation(delta, times)
    record(benchmark, group="delta form", preset=preset, ratios=whole, ratio=median(whole),
           relative_difference=difference, slots=[plain.summary().slots, delta.summary().slots],
           composed_bytes=delta.summary().copied_bytes - plain.summary().copied_bytes,
           **facts)  # fmt: skip
    print(f"\n{preset}: whole runs {median(whole):.3f}x as fast; " + ", ".join(
        f"{key} {value}" for key, value in facts.items() if key != "evaluations"))  # fmt: skip
    assert difference < 1e-4


def evaluations(fast: rt.Compiled, noise: torch.Tensor) -> list[float]:
    """Seconds of each evaluation of a run but the first, from callback to callback."""
    ends: list[float] = []
    fast.sample(noise, [3], cfg_scale=0.0, callback=lambda *_: ends.append(time.perf_counter()))
    return [after - before for before, after in pairwise(ends)]


def by_evaluation(delta: rt.Compiled, times: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Of the evaluations in the delta form, together and one by one: milliseconds and ratios."""
    plan = delta.run.version.plan
    least = {name: np.min(np.array(runs), axis=0) for name, runs in times.items()}
    in_form = [s for s in range(1, plan.num_evaluations) if is_delta(plan.at(s))]
    empty = [s for s in in_form if not any(isinstance(op, Compute) for op in plan.at(s))]
    sums = {name: [float(least[name][s - 1]) for s in in_form] for name in least}
    return {
        "deltas": len(in_form),
        "deltas_plain_ms": round(1e3 * sum(sums["plain"]), 3),
        "deltas_ms": round(1e3 * sum(sums["delta"]), 3),
        "deltas_ratio": round(sum(sums["plain"]) / sum(sums["delta"]), 3),
        "one_product_plain_ms": _least(least["plain"], empty),
        "one_product_ms": _least(least["delta"], empty),
        "evaluations": {s: [float(least[name][s - 1]) for name in least] for s in in_form},
    }


def _least(seconds: Any, where: list[int]) -> float:
    return round(1e3 * float(np.median([seconds[s - 1] for s in where])), 3)
