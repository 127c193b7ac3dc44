"""How many kernels an evaluation of a published schedule launches, and which."""

from __future__ import annotations

from typing import Any

import pytest
from launch_effects import effect
from launch_recorder import (
    Operator,
    span,
)
from recorded_runs import (
    TWENTY_STEPS,
    recorded,
    sampled,
)
from recording_driver import Launch, recorded_launches

from l2c_rt.plan.lowering import STREAM, Run, SkipLinear, Sum


@sampled
def test_a_sampled_evaluation_launches_the_kernels_that_cost_counts(name: str) -> None:
    record = recorded(name)
    for number, counted in enumerate(record.compiled.cost.cached):
        assert len(record.evaluation(number)) == counted.kernels
        assert all(isinstance(entry, Launch) for entry in record.evaluation(number))
    if name.endswith("full"):
        assert record.compiled.cost.cached == record.compiled.cost.full
    rows = range(len(record.compiled.plan.steps))
    assert record.shape_program.nodes == sum(len(record.variant(row)) for row in rows)


@sampled
def test_a_call_ends_in_three_launches_more_and_never_in_one_kernel(name: str) -> None:
    record = recorded(name, calls=True)
    for number, counted in enumerate(record.compiled.cost.cached):
        entries = record.evaluation(number)
        # Norm, linear, unpatchify and counter, where `sample` has one kernel; and an evaluation
        # that computes nothing begins with an embedding, which long skips need in any case.
        embedding = record.alone(number) and name.startswith("dit")
        assert len(entries) == counted.kernels + 3 + embedding
        operators_of = [entry.name for entry in entries if isinstance(entry, Operator)]
        assert operators_of == ["aten.addmm.out", "aten.copy_.default", "aten.add_.Tensor"]


@pytest.mark.parametrize("name", TWENTY_STEPS)
def test_products_of_the_library_add_the_gelu_that_they_do_not_have(name: str) -> None:
    # Tanh GELU is in cuBLASLt's epilogue on a GPU, but not on a CPU; erf GELU is not on either.
    record = recorded(name, products="library")
    for number, counted in enumerate(record.compiled.cost.cached):
        entries = record.evaluation(number)
        gelus = [e for e in entries if isinstance(e, Operator) and "gelu" in e.name]
        computed = [la.branch for la in record.lowered(number) if isinstance(la, Run)]
        assert len(gelus) == sum(branch.startswith("mlp") for branch in computed)
        assert len(entries) == counted.kernels + len(gelus)


@pytest.mark.parametrize("name", TWENTY_STEPS)
def test_split_products_add_a_sum_only_where_the_next_kernel_has_more_to_add(name: str) -> None:
    record = recorded(name, products="split")
    found = set()
    for number, counted in enumerate(record.compiled.cost.cached):
        entries = record.evaluation(number)
        sums = sum(isinstance(e, Launch) and e.kernel == "_split_sum_kernel" for e in entries)
        assert sums == unfused_sums(record.lowered(number))
        # A long skip's linear in halves is a product more.
        halves = sum(isinstance(launch, SkipLinear) for launch in record.lowered(number))
        assert len(entries) == counted.kernels + sums + halves
        found.add(sums)
    assert len(found) > 2


def unfused_sums(row: Any) -> int:
    """Outputs of a row that are not added as the only term by a kernel that norms the sum."""
    runs = sum(isinstance(launch, Run) for launch in row)
    written = {launch.slot for launch in row if isinstance(launch, Run)}
    return runs - sum(
        isinstance(launch, Sum)
        and launch.branch is not None
        and len(launch.terms) == 1
        and launch.terms[0].slot in written
        for launch in row
    )


def test_a_sum_of_nothing_into_another_buffer_is_a_copy_and_its_norm() -> None:
    # Where two long skips begin at one place, which no published model has.
    p = recorded("uvit-h-2-256/dpm-20").shape_program
    kept = next(name for name in p.buffers.streams if name.startswith("skip"))
    copied = (Sum(STREAM, kept, (), "attn-1"), Sum(STREAM, STREAM, (), "attn-1"))
    with recorded_launches() as log:
        p.launcher.run(copied, lambda launch, reuses: None)
    moved, normed = (effect(entry) for entry in log)
    assert moved.writes == (span(p.buffers.streams[kept]), span(p.buffers.h))
    assert normed.writes == (span(p.buffers.h),)
