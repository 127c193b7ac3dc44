"""The launches of evaluations in the delta form, and of their bases."""

from __future__ import annotations

from typing import Any

import pytest
from delta_plans import PROGRAM, planned, table
from hypothesis import given, settings
from linear_symbols import meaning
from lowered_sums import LoweredSums
from random_programs import block, lowered, program_of
from symbolic_run import Symbols

from l2c_rt import presets
from l2c_rt.families import UVIT
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.cost import cost
from l2c_rt.plan.delta import in_delta_form
from l2c_rt.plan.kernel_counts import launch_kernels
from l2c_rt.plan.lowering import Composed, LoweredStep, SkipLinear, Sum, buffers
from l2c_rt.plan.ops import Plan
from l2c_rt.plan.passes import fuse_reuse_runs
from l2c_rt.plan.program import Fixed, linear_node
from l2c_rt.plan.published import published_program
from l2c_rt.plan.step_walk import slot_of_stream
from l2c_rt.schedule.cache_schedule import CacheSchedule


@settings(max_examples=150, deadline=None)
@given(planned())
def test_the_launches_give_every_branch_and_the_final_kernel_what_the_plan_gives(case: Any) -> None:
    program, _, plan = case
    delta = fuse_reuse_runs(in_delta_form(plan, program))
    rows = lowered(program, delta)
    evaluations = [rows[i] for i in delta.order]
    coefficients = [delta.coefficients_at(s) for s in range(delta.num_evaluations)]
    symbols = Symbols()
    done = LoweredSums(delta.num_slots, coefficients, symbols)
    assert list(done.run(evaluations)) == meaning(delta, program, symbols)


@settings(max_examples=100, deadline=None)
@given(planned())
def test_cost_counts_the_kernels_and_buffers_are_never_slots(case: Any) -> None:
    program, _, plan = case
    delta = fuse_reuse_runs(in_delta_form(plan, program))
    nodes = {node.name: node for node in program.nodes}
    rows = lowered(program, delta)
    for row, counted in zip(delta.order, cost(program, delta).cached, strict=True):
        assert counted.kernels == sum(launch_kernels(launch, nodes) for launch in rows[row])
    assert all(slot_of_stream(name) is None for name in buffers(rows))


def delta_of(*rows: str) -> Plan:
    return in_delta_form(build_plan(PROGRAM, CacheSchedule(table(*rows))), PROGRAM)


def launches(plan: Plan, evaluation: int) -> LoweredStep:
    return lowered(PROGRAM, fuse_reuse_runs(plan))[plan.order[evaluation]]


def names(row: LoweredStep) -> list[str]:
    return [type(launch).__name__ for launch in row]


def test_an_evaluation_that_reuses_everything_is_four_launches() -> None:
    plan = delta_of("##########", "..........")
    row = launches(plan, 1)
    assert names(row) == ["Embed", "Sum", "Composed", "Final"]
    composed = row[2]
    assert isinstance(composed, Composed)
    assert len(composed.sources) == 1


def test_a_computed_branch_costs_its_own_launches_and_a_sum_at_either_end() -> None:
    plan = delta_of("##########", "....#.....")
    row = launches(plan, 1)
    assert names(row) == ["Embed", "Sum", "Sum", "Run", "Sum", "Composed", "Final"]
    before, after = row[2], row[4]
    assert isinstance(before, Sum)
    assert isinstance(after, Sum)
    # The stream's norm in the launch that comes back to it; the output and the base in one.
    assert before.branch == "attn-2"
    assert (len(before.terms), len(after.terms)) == (1, 2)


def test_a_base_writes_what_it_keeps_in_the_launches_that_it_has_anyhow() -> None:
    ordinary = build_plan(PROGRAM, CacheSchedule(table("##########")))
    plan = delta_of("##########", "....#.....")
    base, plain = launches(plan, 0), lowered(PROGRAM, ordinary)[0]
    # But for the last sum, which the final kernel would have made.
    assert names(base)[:-1] == [*names(plain)[:-1], "Sum"]


def test_a_kept_stream_that_a_long_skip_reads_as_well_is_kept_once() -> None:
    nodes = [*block(0, gated=False), *(Fixed(f"save-{i}", role="skip_save") for i in range(4))]
    nodes += [*block(1, gated=False), linear_node("join-0", 16, 64, 32, role="skip_linear")]
    nodes += [Fixed("save-4", role="skip_save"), *block(2, gated=False)]
    nodes += [linear_node(f"join-{i}", 16, 64, 32, role="skip_linear") for i in range(1, 5)]
    program = program_of(nodes)
    schedule = CacheSchedule(table("######", "....#."), program.branch_names)
    delta = in_delta_form(build_plan(program, schedule), program)
    base, _ = rows = lowered(program, fuse_reuse_runs(delta))
    first, second, *_ = (launch for launch in base if isinstance(launch, SkipLinear))
    assert slot_of_stream(first.target) == delta.slots.index("x after join-0")
    assert second.skip == first.target
    symbols = Symbols()
    done = LoweredSums(delta.num_slots, [(), ()], symbols).run(rows)
    assert list(done) == meaning(delta, program, symbols)


@pytest.mark.parametrize(
    ("preset", "everything_reused", "whole_run"),
    [("dpm-50", (44, 4), (7388, 6561)), ("dpm-20", (44, 4), (3571, 3392))],
)
def test_kernels_of_the_published_schedules_before_and_after(
    preset: str, everything_reused: tuple[int, int], whole_run: tuple[int, int]
) -> None:
    program = published_program(UVIT, UVIT.published)
    plan = build_plan(program, presets.load(f"l2c/uvit-h-2-256/{preset}"))
    delta = fuse_reuse_runs(in_delta_form(plan, program))
    before, after = cost(program, fuse_reuse_runs(plan)), cost(program, delta)
    assert (before.cached[2].kernels, after.cached[2].kernels) == everything_reused
    assert (before.kernels, after.kernels) == whole_run
