"""Rung 4: replayed graphs are bitwise the launches one by one, over poisoned slots."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from taped_graphs import compile_taped
from three_backends import assert_same
from toys import (
    count_branches,
    drive,
    noise,
    random_schedule,
    toy_dit,
    toy_uvit,
)

from l2c_rt.device.graphs import Eager
from l2c_rt.runtime.compiled import Compiled

STEPS = 8


def fresh(model: Any = None, **options: Any) -> Compiled:
    """A toy of STEPS steps on tapes."""
    model = toy_dit() if model is None else model
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    return compile_taped(model, schedule, **options)


@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_rung_4_replayed_calls_are_bitwise_the_launches_one_by_one(make: Any) -> None:
    model = make()
    eager, replayed = fresh(model, recorder=Eager, graph="off"), fresh(model)
    for run in range(4):
        replayed.poison()
        want = drive(eager, STEPS, run)
        assert_same(drive(replayed, STEPS, run), want)
        assert not any(out.isnan().any() for out in want)
    assert replayed.summary().graphs.replays == 4 * STEPS
    assert eager.summary().graphs.graphs == 0


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_rung_4_replayed_runs_are_bitwise_the_launches_one_by_one(make: Any, graph: str) -> None:
    model = make()
    eager, replayed = fresh(model, recorder=Eager, graph="off"), fresh(model, graph=graph)
    for seed in range(3):
        replayed.poison()
        want = eager.sample(noise(seed), [1, 2])
        assert not want.isnan().any()
        assert torch.equal(replayed.sample(noise(seed), [1, 2]), want)
