"""The numbers of the L2C paper, and what must hold for any schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import random_schedule, toy_program

from l2c_rt import adapters, presets
from l2c_rt.models import dit
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.cost import Cost, cost
from l2c_rt.plan.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan.program import BlockProgram, attention_branch, linear_node
from l2c_rt.schedule.cache_schedule import CacheSchedule


@pytest.fixture(scope="module")
def dit_xl() -> BlockProgram:
    with torch.device("meta"):
        return adapters.bind(dit("dit-xl-2").eval()).program


def fast_cost(program: BlockProgram, schedule: CacheSchedule) -> Cost:
    plan = fuse_reuse_runs(hoist_conditioning(build_plan(program, schedule), program))
    return cost(program, plan)


@pytest.mark.parametrize(
    ("preset", "full", "cached"),
    [("l2c/dit-xl-2-256/ddim-50", 5.72, 4.36), ("l2c/dit-xl-2-256/ddim-20", 2.29, 1.78)],
)
def test_macs_are_the_papers(dit_xl: BlockProgram, preset: str, full: float, cached: float) -> None:
    counted = fast_cost(dit_xl, presets.load(preset))
    assert round(counted.full_macs / 1e12, 2) == full
    assert round(counted.macs / 1e12, 2) == cached


def test_kernels_of_ddim_50_are_four_per_attention_three_per_mlp_and_one_end(
    dit_xl: BlockProgram,
) -> None:
    # The embedding carries the first norm; the three cached evaluations that compute nothing are
    # one kernel; those that begin with a reuse need their first sum.
    schedule = presets.load("l2c/dit-xl-2-256/ddim-50")
    counted = fast_cost(dit_xl, schedule)
    full, first = 28 * 7 + 1, schedule.compute[1::2, 0]
    rows = schedule.compute[1::2]
    none = int((~rows.any(axis=1)).sum())
    assert none == 3
    begins_with_reuse = int((~first & rows.any(axis=1)).sum())
    assert counted.kernels == 25 * full + 371 * 4 + 365 * 3 + 25 + begins_with_reuse


def test_slots_of_ddim_50_take_56_tensors_of_256_by_1152(dit_xl: BlockProgram) -> None:
    counted = fast_cost(dit_xl, presets.load("l2c/dit-xl-2-256/ddim-50"))
    assert counted.slot_bytes(batch=2, itemsize=2) == 56 * 256 * 1152 * 2 * 2


@given(st.integers(0, 10_000))
def test_computing_more_never_costs_less(seed: int) -> None:
    program = toy_program(3)
    schedule = random_schedule(6, 6, seed)
    rng = np.random.default_rng(seed)
    more = CacheSchedule(schedule.compute | (rng.random(schedule.compute.shape) < 0.3))
    less_cost, more_cost = fast_cost(program, schedule), fast_cost(program, more)
    assert less_cost.macs <= more_cost.macs <= more_cost.full_macs
    assert less_cost.kernels <= more_cost.kernels
    assert less_cost.speedup_limit >= more_cost.speedup_limit >= 1.0


def test_cost_does_not_depend_on_the_passes() -> None:
    program, schedule = toy_program(3), random_schedule(8, 6)
    plain = cost(program, build_plan(program, schedule))
    assert plain == fast_cost(program, schedule)


def test_the_floor_falls_with_faster_hardware_and_grows_with_the_batch() -> None:
    counted = fast_cost(toy_program(2), random_schedule(4, 4))
    ceilings = {"macs_per_second": 1e12, "bytes_per_second": 1e11}
    one = counted.floor_seconds(batch=1, itemsize=4, **ceilings)
    eight = counted.floor_seconds(batch=8, itemsize=4, **ceilings)
    faster = counted.floor_seconds(batch=1, itemsize=4, macs_per_second=1e15, bytes_per_second=1e14)
    assert faster < one < eight <= 8 * one


def test_more_tokens_cost_more_linearly_and_attention_quadratically() -> None:
    branch, wide = attention_branch(0, 16, 32, gated=True), attention_branch(0, 64, 32, gated=True)
    assert wide.macs == 4 * branch.macs
    assert wide.attention_macs == 16 * branch.attention_macs
    assert wide.weights == branch.weights


def test_bytes_are_weights_once_and_activations_per_image() -> None:
    program = toy_program(1)
    full = fast_cost(program, random_schedule(1, 2)).cached[0]
    row = 16 * 32
    linears = 10 * row + 2 * (row + 16 * 128)
    # Written: x and the first h; read, read, written, written between; read and read at the end.
    sums = 2 * row + 4 * row + 2 * row
    # Shift and scale of three norms, and two gates.
    assert full.activations == linears + sums + (3 * 2 + 2) * 32
    assert full.moved_bytes(batch=3, itemsize=2) == 2 * (full.weights + 3 * full.activations)


def test_a_reused_branch_costs_one_read_of_its_slot() -> None:
    program = toy_program(2)
    compute = np.array([[True] * 4, [False] * 4])
    reused = fast_cost(program, CacheSchedule(compute)).cached[1]
    assert reused.activations == 4 * 16 * 32 + (4 + 2) * 32
    assert reused.kernels == 1


def test_a_node_without_a_role_is_counted_as_it_says() -> None:
    program = toy_program(1)
    extra = linear_node("adapter", 16, 32, 32, kernels=3)
    more = BlockProgram("dit", (*program.nodes[:-1], extra, program.nodes[-1]), 16, 32)
    schedule = random_schedule(1, 2)
    with_it, without = (fast_cost(p, schedule).cached[0] for p in (more, program))
    # The stream has to be written for it, which the final kernel would have done on its way.
    assert with_it.kernels == without.kernels + 3 + 1
    assert with_it.weights == without.weights + extra.weights
