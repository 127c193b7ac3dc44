"""Kernels of lowered steps, counted by `cost` and by hand, for random and published schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import (
    lowered,
    planned,
    skip_program,
)
from toys import toy_program

from l2c_rt import adapters, presets
from l2c_rt.models import dit, uvit
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.cost import cost
from l2c_rt.plan.kernel_counts import launch_kernels
from l2c_rt.plan.lowering import Run, SkipLinear
from l2c_rt.plan.ops import Compute, Plan, Predict, StepPlan, reuses
from l2c_rt.plan.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan.program import (
    BlockProgram,
    Branch,
    Fixed,
)
from l2c_rt.schedule.cache_schedule import CacheSchedule

FULL_DIT = 28 * (4 + 3) + 1


@settings(max_examples=100, deadline=None)
@given(planned())
def test_cost_counts_the_launches_of_a_lowered_step(drawn: Any) -> None:
    program, plan = drawn
    nodes = {node.name: node for node in program.nodes}
    rows = lowered(program, plan)
    for row, counted in zip(plan.order, cost(program, plan).cached, strict=True):
        assert counted.kernels == sum(launch_kernels(launch, nodes) for launch in rows[row])
        computed = [op.branch for op in plan.steps[row] if isinstance(op, Compute)]
        assert [la.branch for la in rows[row] if isinstance(la, Run)] == computed
        called = [n.name for n in program.nodes if isinstance(n, Fixed) and n.role == "skip_linear"]
        assert [la.node for la in rows[row] if isinstance(la, SkipLinear)] == called


@settings(max_examples=100, deadline=None)
@given(planned(st.integers(1, 5).map(toy_program)))
def test_a_gated_step_is_four_kernels_per_attention_three_per_mlp_and_the_ends(drawn: Any) -> None:
    program, plan = drawn
    for row, counted in zip(plan.order, cost(program, plan).cached, strict=True):
        assert counted.kernels == gated_kernels(program, plan.steps[row])


@settings(max_examples=100, deadline=None)
@given(planned(st.builds(skip_program, st.integers(1, 4), st.just(1))))
def test_a_step_with_long_skips_sums_at_both_ends_of_each(drawn: Any) -> None:
    program, plan = drawn
    for row, counted in zip(plan.order, cost(program, plan).cached, strict=True):
        assert counted.kernels == skip_kernels(program, plan.steps[row])


def computed_branches(program: BlockProgram, step: StepPlan) -> list[Branch]:
    names = {op.branch for op in step if isinstance(op, Compute)}
    return [branch for branch in program.branches if branch.name in names]


def gated_kernels(program: BlockProgram, step: StepPlan) -> int:
    """By hand: a branch's own and a sum before it, which the embedding is for the first branch;
    the embedding and the end; nothing but the end where nothing is computed."""
    branches = computed_branches(program, step)
    if not branches:
        return 1 + kept_predictions(step)
    first = branches[0] is program.branches[0]
    return sum(b.kernels + 1 for b in branches) - first + 2 + kept_predictions(step)


def skip_kernels(program: BlockProgram, step: StepPlan) -> int:
    """By hand, for U-ViT: a sum at both ends of a skip and the join itself, whatever is computed.

    The sum that is kept is also the norm of the attention behind it, as the embedding is of the
    first.
    """
    branches = computed_branches(program, step)
    pairs = sum(isinstance(n, Fixed) and n.role == "skip_linear" for n in program.nodes)
    free = sum(branch.kind == "attn" and branch.block <= pairs for branch in branches)
    sums = 3 * pairs + sum(b.kernels + 1 for b in branches) - free + 2
    return sums + kept_predictions(step)


def kept_predictions(step: StepPlan) -> int:
    """Each is made in its slot by a kernel of its own."""
    return sum(isinstance(op, Predict) and op.store is not None for op in reuses(step))


def preset_plan(name: str) -> tuple[BlockProgram, Plan, CacheSchedule]:
    schedule = presets.load(f"l2c/{name}")
    with torch.device("meta"):
        model = dit("dit-xl-2") if schedule.family == "dit" else uvit("uvit-h-2")
        program = adapters.bind(model.eval()).program
    plan = build_plan(program, schedule)
    return program, fuse_reuse_runs(hoist_conditioning(plan, program)), schedule


DDIM_50 = [197, 197, 193, 193, 197, 193, 193, 193, 193, 189, 189, 130, 106, 97, 39, 28, 25, 21, 8,
           4, 12, 1, 1, 4, 1]  # fmt: skip
"""Kernels of the cached evaluations by the router's rows, so from the clean end, where the
embedding belongs to the end of the evaluation before."""


def test_the_cached_evaluations_of_ddim_50_are_the_estimated_ones_and_first_sums() -> None:
    program, plan, schedule = preset_plan("dit-xl-2-256/ddim-50")
    counted = [e.kernels for e in cost(program, plan).cached]
    assert counted[0::2] == [FULL_DIT] * 25
    # An embedding of its own carries the first norm, unless something is reused before.
    rows = schedule.compute[1::2]
    first_sums = [int(row.any() and not row[0]) for row in rows]
    assert sum(first_sums) > 0
    assert counted[1::2] == [k + more for k, more in zip(DDIM_50[::-1], first_sums, strict=True)]


PRESETS = {
    "dit-xl-2-256/ddim-50": (FULL_DIT, 1, 14, 56),
    "dit-xl-2-256/ddim-20": (FULL_DIT, 1, 7, 56),
    "uvit-h-2-256/dpm-50": (29 * 7 + 29, 44, 15, 58),
    "uvit-h-2-256/dpm-20": (29 * 7 + 29, 44, 10, 58),
}
"""Kernels of a full evaluation and of one that computes nothing, distinct rows, slots."""


@pytest.mark.parametrize("name", PRESETS)
def test_kernels_of_a_published_schedule(name: str) -> None:
    full, nothing, distinct, slots = PRESETS[name]
    program, plan, schedule = preset_plan(name)
    counted = cost(program, plan)
    assert (len(plan.steps), plan.num_slots) == (distinct, slots)
    assert {e.kernels for e in counted.full} == {full}
    by_hand = gated_kernels if schedule.family == "dit" else skip_kernels
    for s, evaluation in enumerate(counted.cached):
        assert evaluation.kernels == by_hand(program, plan.at(s))
        if not schedule.compute[s].any():
            assert evaluation.kernels == nothing
    empty = int((~schedule.compute.any(axis=1)).sum())
    assert [e.kernels for e in counted.cached].count(nothing) == empty


def test_launches_of_the_published_dit_schedules_in_all() -> None:
    # Estimated as 7579 and 3093 with two kernels at the ends of every evaluation; a full one has
    # one less, for the norm in its embedding, and one that computes nothing is one kernel.
    totals = {}
    for name, estimate in (("ddim-50", 7579), ("ddim-20", 3093)):
        program, plan, schedule = preset_plan(f"dit-xl-2-256/{name}")
        rows = schedule.compute
        merged = int(rows[:, 0].sum()) + int((~rows.any(axis=1)).sum())
        totals[name] = cost(program, plan).kernels
        assert totals[name] == estimate - merged
    assert totals["ddim-20"] < totals["ddim-50"]
