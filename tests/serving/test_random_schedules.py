"""Random schedules of arrivals, cancels and faults: nothing is lost, nothing is mixed."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
import torch
from published_outputs import relative
from served import STEPS, at_ticks, compiled, image, solo
from torch import Tensor

import l2c_rt as rt
from l2c_rt.serving.request import DeadlineError

SEEDS = 4
BOUND = 2e-5
ERRORS: dict[str, type[BaseException]] = {
    "raises": ZeroDivisionError, "cancelled": CancelledError, "late": DeadlineError,
    "nan": FloatingPointError,
}  # fmt: skip


class Schedule:
    """Up to eight requests with what becomes of each, drawn from a number."""

    def __init__(self, number: int) -> None:
        draw = random.Random(number)
        self.arrivals = [draw.randrange(STEPS) for _ in range(draw.randint(1, 8))]
        self.fates = [draw.choice(("ends", "ends", *ERRORS)) for _ in self.arrivals]
        self.seeds = [draw.randrange(SEEDS) for _ in self.arrivals]
        self.at = [draw.randrange(STEPS) for _ in self.arrivals]
        limits = {"max_batch": (1, 4), "max_running": (1, 6), "max_age": (1, 20)}
        self.limits = {name: draw.randint(*both) for name, both in limits.items()}

    def submit(self, engine: rt.Engine, i: int) -> Future[Tensor]:
        seed, fate = self.seeds[i], self.fates[i]
        futures: list[Future[Tensor]] = []

        def interfere(step: int, latents: Tensor) -> None:
            if step == self.at[i] and fate == "raises":
                raise ZeroDivisionError
            if step == self.at[i]:
                futures[0].cancel()

        options: dict[str, Any] = {"deadline": 1e-9} if fate == "late" else {}
        if fate in ("raises", "cancelled"):
            options["callback"] = interfere
        noise = torch.full_like(image(seed), torch.nan) if fate == "nan" else image(seed)
        futures.append(engine.submit(noise, seed, **options))
        return futures[0]


def check(number: int, fast: rt.Compiled, expected: list[Tensor]) -> Counter[str]:
    """Every request of a schedule has its own end; counts of these."""
    schedule = Schedule(number)
    with rt.Engine(fast, **schedule.limits) as engine:
        _, futures = at_ticks(engine, schedule.arrivals, lambda i: schedule.submit(engine, i))
        stats, longest = engine.stats(), engine.max_wait_ticks
    # Those that arrive at one step are submitted in their order.
    order = sorted(range(len(futures)), key=lambda i: (schedule.arrivals[i], i))
    for i, future in zip(order, futures, strict=True):
        if fate := ERRORS.get(schedule.fates[i]):
            with pytest.raises(fate):
                future.result(0)
        else:
            assert relative(future.result(0), expected[schedule.seeds[i]]) < BOUND, number
    assert stats.longest_wait_ticks <= longest
    assert stats.submitted == sum(stats.outcomes.values()) == len(futures) + 1
    return Counter(schedule.fates)


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("schedules", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_schedules_lose_nothing_and_mix_nothing(backend: str, schedules: int) -> None:
    fast = compiled("DiT", backend)
    expected = [solo(fast, seed, seed) for seed in range(SEEDS)]
    fates = sum((check(number, fast, expected) for number in range(schedules)), Counter[str]())
    assert min(fates[fate] for fate in ("ends", *ERRORS)) > 0
