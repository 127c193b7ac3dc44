"""Whole runs on tapes: one graph or many, the solver's numbers, the table's windows."""

from __future__ import annotations

from typing import Any

import pytest
from published_outputs import relative
from taped_graphs import TapedKernels, compile_taped
from toys import (
    count_branches,
    noise,
    random_schedule,
    toy_dit,
    toy_uvit,
)

from l2c_rt.api import compile
from l2c_rt.runtime.compiled import Compiled

STEPS = 8


def fresh(model: Any = None, **options: Any) -> Compiled:
    """A toy of STEPS steps on tapes."""
    model = toy_dit() if model is None else model
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    return compile_taped(model, schedule, **options)


def test_a_run_in_one_graph_has_a_graph_more_and_no_callback() -> None:
    step, whole = fresh(), fresh(graph="trajectory")
    for fast in (step, whole):
        fast.sample(noise(), [1, 2])
    assert whole.summary().graphs.graphs == step.summary().graphs.graphs + 1
    with pytest.raises(ValueError, match='graph="step"'):
        whole.sample(noise(), [1, 2], callback=lambda step, latents: None)


@pytest.mark.parametrize("graph", ["step", "trajectory"])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_a_table_of_fewer_steps_than_the_run_is_filled_once_per_window(
    make: Any, graph: str
) -> None:
    model = make()
    whole = fresh(model)
    want = whole.sample(noise(), [1, 2])
    small = fresh(model, graph=graph, table_bytes=3 * whole.summary().table_bytes // STEPS)
    for _ in range(2):
        assert relative(small.sample(noise(), [1, 2]), want) < 1e-6
    assert small.summary().table_bytes == 3 * whole.summary().table_bytes // STEPS


def test_an_evaluation_that_computes_nothing_is_one_kernel() -> None:
    model, kernels = toy_dit(), TapedKernels()
    compute = random_schedule(4, 6).compute.copy()
    compute[2] = False
    schedule = type(random_schedule(4, 6))(compute)
    fast, reference = compile_taped(model, schedule, kernels=kernels), compile(model, schedule)
    got, want = (f.sample(noise(), [1, 2]) for f in (fast, reference))
    assert relative(got, want) < 1e-5
    assert "reuse_evaluation" in {name for name, _, _ in kernels.log}
    assert fast.cost.cached[2].kernels == 1


def test_the_solvers_table_keeps_its_address_whatever_the_guidance_scale() -> None:
    fast = fresh()
    fast.sample(noise(), [1, 2])
    (session,) = fast._idle
    (lane,) = session.run.lanes.all()
    (run,) = lane.workspace._runs.values()
    address = run._table.data_ptr()
    fast.sample(noise(), [1, 2], cfg_scale=2.0)
    assert run._table.data_ptr() == address
    assert run._table.any()
