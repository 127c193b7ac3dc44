"""The key of this CPU, as far as measured times depend on it, and the time of a call on it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from l2c_rt.measure.machine import processor_name

CALLS = (2, 8)
BUDGET_S = 0.004
"""Spent on one candidate in a round, within the least and the most CALLS; the first warms up."""
ROUNDS = 5


def machine_key() -> str:
    """What a product's time depends on: the processor, what PyTorch uses of it, the threads."""
    capability: Callable[[], str] = torch.backends.cpu.get_cpu_capability
    return (
        f"{processor_name()}, {capability()}, {torch.get_num_threads()} threads | "
        f"torch {torch.__version__}"
    )


def cpu_measure(call: Callable[[], None]) -> float:
    """Seconds of a call: the least of a few, since whatever else runs here only adds to them."""
    seconds: list[float] = []
    while len(seconds) < CALLS[0] or (len(seconds) < CALLS[1] and sum(seconds) < BUDGET_S):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    # Below what the clock resolves, all are equally fast.
    return max(min(seconds), 1e-7)
