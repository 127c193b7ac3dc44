"""Whole runs on a CPU, timed beside each other into pytest-benchmark's record."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import numpy as np
import torch

import l2c_rt as rt
from l2c_rt.measure.clocks import Run, host_seconds
from l2c_rt.measure.interleaved import Samples, ratios
from l2c_rt.models import DiT


def run_inputs(model: DiT) -> tuple[torch.Tensor, list[int]]:
    """One image and its label."""
    size = model.x_embedder.grid * model.patch_size
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 4, size, size)))
    return noise.float(), [3]


def sampler(
    model: DiT, schedule: Any, **options: Any
) -> tuple[rt.Compiled, Callable[[], torch.Tensor]]:
    """A compiled model and its whole run, without guidance."""
    fast = rt.compile(model, schedule, **options)
    noise, y = run_inputs(model)
    return fast, lambda: fast.sample(noise, y, cfg_scale=1.0)


def paired(benchmark: Any, run: Run, against: Run, rounds: int) -> list[float]:
    """Time `run` beside `against`, A B B A a round; how many times as fast `run` is, per round."""
    samples = beside(benchmark, run, {"against": against}, rounds)
    benchmark.extra_info["against_seconds"] = samples["against"]
    return ratios(samples["against"], benchmark.stats.stats.data)


def beside(benchmark: Any, run: Run, others: Mapping[str, Run], rounds: int) -> Samples:
    """Time `run`, which the benchmark keeps, beside others: A B C C B A a round for two, so that
    whatever else the machine does falls on all of them.

    Seconds of the others, two a round.  The record notes the load average at start and end.
    """
    run()
    for other in others.values():
        other()
    samples: Samples = {name: [] for name in others}
    number, before = count(), os.getloadavg()

    def time_others(*, backwards: bool) -> None:
        for name in reversed(others) if backwards else others:
            samples[name].append(host_seconds(others[name]))

    def between() -> None:
        """Before a round's first run; with it, after the last round's second."""
        at = next(number)
        if at % 2 == 0:
            if at:
                time_others(backwards=True)
            time_others(backwards=False)

    benchmark.pedantic(run, setup=between, rounds=2 * rounds, iterations=1)
    time_others(backwards=True)
    record(benchmark, load_before=before, load_after=os.getloadavg())
    return samples


def record(benchmark: Any, **facts: Any) -> None:
    """Keep facts with the benchmark's own samples."""
    benchmark.extra_info.update(json.loads(json.dumps(facts, default=float)))
