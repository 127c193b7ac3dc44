"""Launches of published schedules on memory: written before read, every branch added once."""

from __future__ import annotations

from launch_effects import Memory, effect
from launch_recorder import (
    span,
)
from launch_simulation import OnMemory
from recorded_runs import (
    ALL,
    ONE,
    TAKE,
    WAYS,
    every_way,
    recorded,
)

from l2c_rt.plan.lowering import Run


@every_way
def test_every_byte_is_written_before_it_is_read_and_every_branch_added_once(
    name: str, way: str
) -> None:
    record = recorded(name, **WAYS[way])
    run = OnMemory(record)
    computed = {name: -1 for name in record.compiled.bound_model.program.branch_names}
    for number in record.evaluations:
        added = run.evaluation(number)
        for launch in record.lowered(number):
            if isinstance(launch, Run):
                computed[launch.branch] = number
        # In order, each once, and as the latest evaluation that ran it left it: what somebody
        # still has to read was not overwritten.
        assert added == list(computed.items())
    assert run.reused == record.compiled.plan.reuse_count


@every_way
def test_what_the_tables_hold_is_written_by_the_graph_that_fills_them(name: str, way: str) -> None:
    record = recorded(name, **WAYS[way])
    p = record.shape_program
    table, counter = p.tables.modulation.table, p.buffers.counter
    taken = [p.weights.embedding.weight, p.weights.embedding.positions]
    for graph, filled in (
        (TAKE, taken),
        (ALL, [table[: p.tables.steps], counter]),
        (ONE, [table[:1], counter]),
    ):
        memory = Memory([table, *taken, counter])
        first, end = record.recorder.captured[graph]
        for entry in record.recorder.log[first:end]:
            for at in effect(entry).writes:
                if memory.has(at):
                    memory.write(at)
        for tensor in filled:
            assert memory.holds(span(tensor))
