"""Calls on a GPU tabulate in products of one shape, whether or not the loop is known ahead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from taped_graphs import compile_taped
from torch import Tensor
from toys import call_inputs, count_branches, random_schedule, toy_dit, toy_uvit

STEPS = 8


def run(fast: Any, changed: int | None) -> list[Tensor]:
    """A loop with the same label tensor at every call, or with another one from step `changed`."""
    labels = torch.tensor([1, 2])
    results = []
    for step in range(STEPS):
        x, t, _ = call_inputs(step)
        if step == changed:
            labels = torch.tensor([3, 4])
        results.append(fast(x, t, labels))
    return results


@pytest.mark.parametrize("changed", [None, 3])
@pytest.mark.parametrize("window", [STEPS, 3, 1])
@pytest.mark.parametrize("model", [toy_dit(hidden_size=64, depth=4), toy_uvit()])
def test_the_first_run_of_a_loop_is_the_later_ones_to_the_bit(
    model: Any, window: int, changed: int | None
) -> None:
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    whole = compile_taped(model, schedule)
    run(whole, None)
    tables = whole.run.lanes.all()[0].workspace.programs[0].tables
    fast = compile_taped(model, schedule, table_bytes=window * tables.nbytes // tables.steps)
    first = run(fast, changed)
    assert fast.run.lanes.all()[0].workspace.programs[0].tables.steps == window
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(run(fast, changed), first, strict=True))
