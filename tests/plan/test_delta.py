"""The delta form means what the ordinary plan means, with fewer products and no slot too many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from delta_plans import PROGRAM, planned, table
from hypothesis import given
from linear_symbols import meaning
from random_programs import skip_program
from symbolic_run import Symbols
from toys import toy_program

from l2c_rt import presets
from l2c_rt.families import UVIT
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.cost import cost
from l2c_rt.plan.delta import (
    delta_evaluations,
    in_delta_form,
    is_delta,
    products,
)
from l2c_rt.plan.delta_ops import FromDelta, KeepAt, LinearParts, ToDelta, Unchanged
from l2c_rt.plan.ops import Compute, Plan, Predict, Reuse, RunFixed, reuses
from l2c_rt.plan.passes import fuse_reuse_runs, with_iterations
from l2c_rt.plan.program import BlockProgram, Fixed
from l2c_rt.plan.published import published_program
from l2c_rt.schedule.cache_schedule import CacheSchedule


@given(planned())
def test_every_branch_and_the_final_layer_are_given_what_they_were(case: Any) -> None:
    program, _, plan = case
    delta = in_delta_form(plan, program)
    symbols = Symbols()
    expected = meaning(plan, program, symbols)
    assert meaning(delta, program, symbols) == expected
    assert meaning(fuse_reuse_runs(delta), program, symbols) == expected


@given(planned())
def test_equal_evaluations_share_a_step_and_no_slot_is_idle(case: Any) -> None:
    program, _, plan = case
    delta = in_delta_form(plan, program)
    assert len(set(delta.steps)) == len(delta.steps) == len(set(delta.order))
    assert len(delta.steps) <= 3 * len(plan.steps)
    read = {op.slot for step in delta.steps for op in step if isinstance(op, ToDelta | FromDelta)}
    kept = {op.slot for step in delta.steps for op in step if isinstance(op, KeepAt)}
    assert read == kept
    summed = {op.slot for step in delta.steps for op in step if isinstance(op, Reuse)}
    mixed = {i for step in delta.steps for op in step if isinstance(op, Predict) for i in op.slots}
    assert {slot for slot, owner in enumerate(delta.slots) if owner.startswith("x after")} == kept
    if plan.predictions is None:
        assert read | summed | mixed == set(range(delta.num_slots))


@given(planned())
def test_only_evaluations_that_save_products_are_in_the_delta_form(case: Any) -> None:
    program, _, plan = case
    delta = in_delta_form(plan, program)
    linears = sum(node.role == "skip_linear" for node in program.fixed_of.values())
    for s in range(plan.num_evaluations):
        step = delta.at(s)
        if is_delta(step):
            assert products(step) < 2 * linears
            assert not reuses(step)
            unchanged = {op.branch for op in step if isinstance(op, Unchanged)}
            assert unchanged == {op.branch for op in plan.at(s) if isinstance(op, Reuse)}


def test_an_evaluation_with_a_kernel_less_and_no_product_less_stays_as_it_is() -> None:
    plan = delta_of("##########", ".....#.##.", ".....#.##.")
    assert delta_evaluations(plan) == 0


@given(planned())
def test_every_output_that_is_kept_is_read_once_at_least(case: Any) -> None:
    program, _, plan = case
    delta = in_delta_form(plan, program)
    by_slot: dict[int, tuple[int, str]] = {}
    kept, read = set(), set()
    for i in delta.order:
        for op in delta.steps[i]:
            slots = op.slots if isinstance(op, Predict) else (op.slot,) if type(op) is Reuse else ()
            read |= {by_slot[slot] for slot in slots if slot in by_slot}
            if isinstance(op, Compute) and op.slot is not None:
                by_slot[op.slot] = (i, op.branch)
                kept.add(by_slot[op.slot])
    assert read == kept


@pytest.mark.parametrize(("preset", "products_less"), [("dpm-50", 568), ("dpm-20", 120)])
def test_the_cost_counts_composed_products_in_the_place_of_long_skips(
    preset: str, products_less: int
) -> None:
    program = published_program(UVIT, UVIT.published)
    plan = build_plan(program, presets.load(f"l2c/uvit-h-2-256/{preset}"))
    delta = in_delta_form(plan, program)
    before, after = cost(program, plan), cost(program, delta)
    product = program.tokens * program.width**2
    assert before.macs - after.macs == products_less * product
    assert after.full == before.full
    for s in range(plan.num_evaluations):
        less = before.cached[s].weights - after.cached[s].weights
        saved = 28 - products(delta.at(s)) if is_delta(delta.at(s)) else 0
        # Of every long skip the bias too.
        assert less == saved * program.width**2 + 14 * program.width * is_delta(delta.at(s))


@pytest.mark.parametrize(
    ("preset", "deltas", "before", "after", "slots"),
    [("dpm-50", 24, 672, 104, 34), ("dpm-20", 6, 252, 132, 34)],
)
def test_products_and_slots_of_the_published_schedules(
    preset: str, deltas: int, before: int, after: int, slots: int
) -> None:
    program = published_program(UVIT, UVIT.published)
    plan = build_plan(program, presets.load(f"l2c/uvit-h-2-256/{preset}"))
    delta = in_delta_form(plan, program)
    cached = [s for s in range(plan.num_evaluations) if reuses(plan.at(s))]
    counts = [products(step) if is_delta(step) else 28 for step in map(delta.at, cached)]
    assert (28 * len(cached), sum(counts)) == (before, after)
    assert delta_evaluations(delta) == deltas
    assert (plan.num_slots, delta.num_slots) == (58, slots)
    assert len(delta.steps) == len(plan.steps)


def test_an_evaluation_that_reuses_everything_is_one_product() -> None:
    plan = delta_of("##########", "..........")
    step = plan.at(1)
    assert [type(op) for op in step if not isinstance(op, Unchanged)] == [
        RunFixed, ToDelta, RunFixed, RunFixed, LinearParts, FromDelta, RunFixed,
    ]  # fmt: skip
    (linears,) = (op for op in step if isinstance(op, LinearParts))
    assert linears == LinearParts(
        ("skip-linear-3", "skip-linear-4"), ("skip-save-0", "skip-save-0"), "skip-save-0"
    )
    assert plan.slots == ("x after embed", "x after mlp-4")


def test_a_computed_branch_between_splits_the_products() -> None:
    between_saves = delta_of("##########", "..#.....#.")
    between_linears = delta_of("##########", "......#.#.")
    deltas = [
        [op.deltas for op in plan.at(1) if isinstance(op, LinearParts)]
        for plan in (between_saves, between_linears)
    ]
    assert deltas == [
        [("skip-save-1", "skip-save-0")],
        [("skip-save-0",), (None, "skip-save-0")],
    ]


def test_what_an_ordinary_evaluation_reads_is_kept_in_the_delta_form_too() -> None:
    plan = delta_of("##########", "#.........", ".#########")
    assert list(map(is_delta, map(plan.at, range(3)))) == [False, True, False]
    kept = [(op.branch, s) for s in range(3) for op in plan.at(s)
            if isinstance(op, Compute) and op.slot is not None]  # fmt: skip
    assert kept == [("attn-0", 1)]


def test_a_base_between_another_and_its_reader_would_write_over_it() -> None:
    plan = delta_of("##########", "########..", "........##", "..........", "........##")
    assert list(map(is_delta, map(plan.at, range(5)))) == [False, False, True, False, True]


def test_a_row_that_was_a_base_keeps_nothing_where_another_base_is_still_read() -> None:
    rows = ["##########", ".........#", "..........", "########..", "........#.", ".........#",
            "........##"]  # fmt: skip
    plan = delta_of(*rows)
    kept = [any(isinstance(op, KeepAt) for op in plan.at(s)) for s in range(7)]
    assert kept == [False, True, False, True, False, False, False]
    ordinary = build_plan(PROGRAM, CacheSchedule(table(*rows)))
    symbols = Symbols()
    assert meaning(plan, PROGRAM, symbols) == meaning(ordinary, PROGRAM, symbols)


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (toy_program(2), "have gates"),
        (skip_program(0, 2), "no long skips"),
        (replace(PROGRAM, nodes=PROGRAM.nodes[:-1]), "no last layer"),
        (replace(PROGRAM, nodes=(*PROGRAM.nodes[:3], Fixed("adapter"), *PROGRAM.nodes[3:])),
         "adapter is no linear map"),
        (replace(PROGRAM, nodes=(*PROGRAM.nodes[:1], replace(PROGRAM.branches[0], iterations=(2,)),
                                 *PROGRAM.nodes[2:])), "iterated"),
    ],
)  # fmt: skip
def test_what_has_no_delta_form_is_refused_with_the_reason(
    program: BlockProgram, match: str
) -> None:
    rows = np.array([[True], [False]]).repeat(len(program.branches), axis=1)
    plan = with_iterations(build_plan(program, CacheSchedule(rows, program.branch_names)), program)
    with pytest.raises(ValueError, match=match):
        in_delta_form(plan, program)


def delta_of(*rows: str) -> Plan:
    return in_delta_form(build_plan(PROGRAM, CacheSchedule(table(*rows))), PROGRAM)
