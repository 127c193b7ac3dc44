"""Whole runs on a CPU: one image without guidance, timed A B B A into pytest-benchmark's record."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import torch

import l2c_rt as rt
from l2c_rt.measure.clocks import host_seconds
from l2c_rt.measure.interleaved import ratios
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


def paired(
    benchmark: Any, run: Callable[[], object], against: Callable[[], object], rounds: int
) -> list[float]:
    """Time `run` beside `against`, A B B A a round; how many times as fast `run` is, per round."""
    run()
    against()
    others: list[float] = []
    number = count()

    def time_against() -> None:
        """Before a round's first run; with it, after the last round's second."""
        at = next(number)
        for _ in range(0 if at % 2 else 1 + (at > 0)):
            others.append(host_seconds(against))

    benchmark.pedantic(run, setup=time_against, rounds=2 * rounds, iterations=1)
    others.append(host_seconds(against))
    benchmark.extra_info["against_seconds"] = others
    return ratios(others, benchmark.stats.stats.data)


def record(benchmark: Any, **facts: Any) -> None:
    """Keep facts with the benchmark's own samples."""
    benchmark.extra_info.update(json.loads(json.dumps(facts, default=float)))
