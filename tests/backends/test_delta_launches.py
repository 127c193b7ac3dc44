"""What evaluations of published schedules launch in the delta form, and on which memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from launch_effects import Memory, effect
from launch_recorder import Entry, Operator, fixed_arguments, span
from recorded_runs import FILLS, TAKE, Record, recorded
from recording_driver import Launch

from l2c_rt.plan.delta import is_delta
from l2c_rt.plan.lowering import Composed, SkipLinear

NAMES = ("uvit-h-2-256/dpm-50", "uvit-h-2-256/dpm-20")
WAYS: dict[str, dict[str, Any]] = {
    "sample": {},
    "sample, split products": {"products": "split"},
    "sample, library products": {"products": "library"},
    "calls": {"calls": True},
    "trajectory": {"graph": "trajectory"},
}
every_run = pytest.mark.parametrize("name", NAMES)
every_way = pytest.mark.parametrize(("name", "way"), [(NAMES[0], way) for way in WAYS])


def record_of(name: str, way: str = "sample") -> Record:
    return recorded(name, delta_form=True, **WAYS[way])


def deltas(record: Record) -> list[int]:
    return [s for s in record.evaluations if is_delta(record.compiled.plan.at(s))]


@every_run
def test_an_evaluation_launches_the_kernels_that_cost_counts(name: str) -> None:
    record = record_of(name)
    for number, counted in enumerate(record.compiled.cost.cached):
        assert len(record.evaluation(number)) == counted.kernels
    rows = range(len(record.compiled.plan.steps))
    assert record.shape_program.nodes == sum(len(record.variant(row)) for row in rows)


@every_run
def test_a_product_in_halves_is_a_kernel_more(name: str) -> None:
    record, splits = recorded(name, delta_form=True, products="split"), "_split_sum_kernel"
    for number, counted in enumerate(record.compiled.cost.cached):
        entries, row = record.evaluation(number), record.lowered(number)
        sums = sum(isinstance(e, Launch) and e.kernel == splits for e in entries)
        halves = sum(isinstance(launch, SkipLinear) for launch in row)
        halves += sum(isinstance(la, Composed) and len(la.sources) > 1 for la in row)
        assert len(entries) == counted.kernels + sums + halves
    launched = [e for row in range(len(record.compiled.plan.steps)) for e in record.variant(row)]
    # Whether a split product is summed by a kernel of its own is seen when it is launched.
    nodes = [e for e in launched if not (isinstance(e, Launch) and e.kernel == splits)]
    assert record.shape_program.nodes == len(nodes)


def test_kernels_of_the_published_run_before_and_after() -> None:
    ordinary, delta = recorded(NAMES[0]), record_of(NAMES[0])
    totals = [
        sum(len(record.evaluation(s)) for s in record.evaluations) for record in (ordinary, delta)
    ]
    assert totals == [7388, 6561]
    kinds = Counter(map(_name, delta.evaluation(2)))
    assert kinds == {
        "_patch_embed_kernel": 1, "_reuse_run_norm_kernel": 1, "_linear_kernel": 1,
        "_final_update_norm_kernel": 1,
    }  # fmt: skip
    assert len(ordinary.evaluation(2)) == 44


@every_run
def test_no_kernel_is_compiled_that_runs_with_predictions_have_not(name: str) -> None:
    """The two factors are those of a list with weights."""
    ordinary, delta = recorded(name), record_of(name)
    assert _kernels(delta) <= _kernels(ordinary) | {"_linear_kernel"}
    flagged = [e for s in deltas(delta) for e in delta.evaluation(s) if _is_weighted(e)]
    assert flagged
    assert not any(_is_weighted(e) for s in ordinary.evaluations for e in ordinary.evaluation(s))


@every_way
def test_captured_work_never_waits_and_holds_what_was_warmed(name: str, way: str) -> None:
    recorder = record_of(name, way).recorder
    assert recorder.waits == []
    begin = recorder.captured[0][0]
    before, after = _code(recorder.log[:begin]), _code(recorder.log[begin:])
    assert after
    assert after <= before
    record = record_of(name, way)
    steps = len(record.compiled.plan.steps)
    parts = [part for part in (recorder.log[a:b] for a, b in recorder.warmed) if _code(part)]
    # Before the steps, the weights were composed.
    for number, part in enumerate(parts[-steps:]):
        once = [fixed_arguments(entry) for entry in part]
        assert once == [fixed_arguments(entry) for entry in record.variant(number)]


@every_way
def test_every_byte_is_written_before_it_is_read(name: str, way: str) -> None:
    record = record_of(name, way)
    p, b = record.shape_program, record.shape_program.buffers
    work = [*b.streams.values(), b.h, b.qkv, b.mixed, b.hidden, *p.branches._splits.values()]
    if way == "calls":
        output = record.program._output  # type: ignore[union-attr]
        work += [output._tokens, output._image]
    memory = Memory([b.memory.all_slots, b.latents, b.anchor, b.counter, *work])
    for tensor in (b.latents, b.counter):
        memory.write(span(tensor))
    constants = Memory(_constants(record))
    for number in record.evaluations:
        for tensor in (*work, b.memory.slots[b.scratch]):
            memory.poison(span(tensor))
        for entry in record.evaluation(number):
            made = effect(entry)
            for at in made.reads:
                held = memory.has(at) and memory.holds(at)
                assert held or constants.has(at), f"evaluation {number}: {_name(entry)}"
            assert all(constants.has(at) for at in made.constants)
            for at in made.writes:
                memory.write(at)


@every_run
def test_composed_weights_are_written_by_the_graph_that_takes_the_weights(name: str) -> None:
    record = record_of(name)
    composed = record.shape_program.composed.weights.copies
    parts = [p for group, room in composed.items() for p in room.chunk(len(group), 1)]
    first, end = record.recorder.captured[TAKE]
    written = {at for entry in record.recorder.log[first:end] for at in effect(entry).writes}
    assert parts
    assert {span(part) for part in parts} <= written


def test_a_trajectory_is_the_steps_in_the_plans_order() -> None:
    record = record_of(NAMES[0], "trajectory")
    first, end = record.recorder.captured[-1]
    assert len(record.recorder.captured) == FILLS + len(record.compiled.plan.steps) + 1
    whole = [fixed_arguments(entry) for entry in record.recorder.log[first:end]]
    assert whole == [fixed_arguments(e) for s in record.evaluations for e in record.evaluation(s)]


def _constants(record: Record) -> list[torch.Tensor]:
    """What is the same for a whole run."""
    p = record.shape_program
    found = [*p.model.model.parameters(), p.tables.modulation.table, p.tables.modulation.rows]
    found += [p.weights.embedding.weight, p.weights.embedding.positions, p.weights.final.bias]
    found += p.composed.weights.copies.values()
    for reuses in p.launcher.lists.all:
        found.append(reuses.slots)
        if reuses.weights is not None:
            found += [reuses.weights.table, reuses.weights.columns]
    if hasattr(record.program, "_coefficients"):
        found.append(record.program._coefficients)
    return [tensor for tensor in found if tensor.numel()]


def _name(entry: Entry) -> str:
    return entry.name if isinstance(entry, Operator) else entry.kernel


def _kernels(record: Record) -> set[str]:
    return {
        _name(e) for s in record.evaluations for e in record.evaluation(s) if isinstance(e, Launch)
    }


def _is_weighted(entry: Entry) -> bool:
    return isinstance(entry, Launch) and bool(entry.arguments.get("WEIGHTED"))


def _code(entries: list[Entry]) -> set[bytes]:
    return {entry.cubin for entry in entries if isinstance(entry, Launch)}
