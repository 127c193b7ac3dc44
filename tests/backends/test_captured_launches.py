"""What graphs of published schedules hold, in which order they replay, and what no capture does."""

from __future__ import annotations

import pytest
import torch
from launch_effects import Memory
from launch_recorder import (
    Entry,
    fixed_arguments,
    operators,
)
from recorded_runs import (
    ALL,
    DISTINCT,
    FILLS,
    IMAGES,
    SOME,
    TAKE,
    TOKEN_RUNS,
    TWENTY_STEPS,
    WAYS,
    Record,
    call_all,
    recorded,
)
from recording_driver import Launch

every_capture = pytest.mark.parametrize(("name", "way"), [*SOME, *TOKEN_RUNS])


@pytest.mark.parametrize("calls", [False, True])
@pytest.mark.parametrize("name", DISTINCT)
def test_a_graph_per_distinct_step_is_launched_in_the_plans_order(name: str, calls: bool) -> None:
    record = recorded(name, calls=calls)
    plan, replays = record.compiled.plan, record.recorder.replays
    assert len(plan.steps) == DISTINCT[name]
    assert len(record.recorder.captured) == record.shape_program.graphs == FILLS + DISTINCT[name]
    rows = [FILLS + row for row in plan.order]
    # A preset knows the timesteps of its loop, so that calls too have one table for the whole run.
    assert replays[: 2 + len(rows)] == [TAKE, ALL, *rows]


@pytest.mark.parametrize("name", TWENTY_STEPS)
def test_a_trajectory_is_one_graph_of_the_steps_in_the_plans_order(name: str) -> None:
    record, steps = recorded(name, graph="trajectory"), recorded(name)
    first, end = record.recorder.captured[-1]
    assert len(record.recorder.captured) == FILLS + DISTINCT[name] + 1
    assert record.recorder.replays[:3] == [TAKE, ALL, FILLS + DISTINCT[name]]
    whole = [fixed_arguments(entry) for entry in record.recorder.log[first:end]]
    assert whole == [fixed_arguments(e) for s in record.evaluations for e in record.evaluation(s)]
    assert len(whole) == sum(len(steps.evaluation(s)) for s in steps.evaluations)


@every_capture
def test_captured_work_never_waits_for_the_device(name: str, way: str) -> None:
    assert recorded(name, **WAYS[way]).recorder.waits == []


@every_capture
def test_every_kernel_was_compiled_before_the_first_capture(name: str, way: str) -> None:
    recorder = recorded(name, **WAYS[way]).recorder
    begin = recorder.captured[0][0]
    before, after = code(recorder.log[:begin]), code(recorder.log[begin:])
    assert after
    assert after <= before


def code(entries: list[Entry]) -> set[bytes]:
    return {entry.cubin for entry in entries if isinstance(entry, Launch)}


@every_capture
def test_a_step_is_captured_with_the_addresses_and_numbers_it_was_warmed_with(
    name: str, way: str
) -> None:
    record = recorded(name, **WAYS[way])
    parts = [record.recorder.log[first:end] for first, end in record.recorder.warmed]
    warmed = [part for part in parts if code(part)]
    for number in range(len(record.compiled.plan.steps)):
        once = [fixed_arguments(entry) for entry in warmed[number]]
        assert once == [fixed_arguments(entry) for entry in record.variant(number)]


@pytest.mark.parametrize("way", ["sample", "trajectory"])
@pytest.mark.parametrize("name", TWENTY_STEPS)
def test_another_run_with_other_inputs_only_copies_them_and_replays(name: str, way: str) -> None:
    record = recorded(name, **WAYS[way])
    log, captured = len(record.recorder.log), len(record.recorder.captured)
    evaluations = 1 if way == "trajectory" else len(record.evaluations)
    first = record.recorder.replays[: 2 + evaluations]
    noise, labels, before = torch.randn(IMAGES, 4, 8, 8), torch.ones(IMAGES).long(), replays(record)
    # Outside the recording driver: a kernel that is launched by itself would raise.
    with operators() as (launched, waits):
        record.compiled.sample(noise, labels, 2.5)
    assert record.recorder.replays[before:] == first
    assert (len(record.recorder.log), len(record.recorder.captured)) == (log, captured)
    # Numbers of the host go to the device; nothing comes back from there.
    static = static_memory(record)
    assert [name for name, at in waits if static.has(at)] == []
    # Labels with the null label, and copies into static buffers: nothing that a model computes.
    names = {entry.name.split(".")[1] for entry in launched}
    copies = {"copy_", "_to_copy", "clone", "cat", "full", "new_full", "fill_"}
    # Whether the run ended in NaN is read from a copy on the host.
    assert names <= copies | {"isnan", "any", "_local_scalar_dense"}


@pytest.mark.parametrize("name", TWENTY_STEPS)
def test_calls_whose_timesteps_are_known_fill_the_tables_once_a_run(name: str) -> None:
    record = recorded(name, calls=True)
    before = replays(record)
    call_all(record.compiled)
    rows = [FILLS + row for row in record.compiled.plan.order]
    assert record.recorder.replays[before:] == [TAKE, ALL, *rows]


def replays(record: Record) -> int:
    return len(record.recorder.replays)


def static_memory(record: Record) -> Memory:
    """All that graphs write, and what they are given for a run."""
    p, b = record.shape_program, record.shape_program.buffers
    given = [p.tables.t, p.tables.modulation.table, record.program._coefficients]
    work = [b.h, b.qkv, b.mixed, b.hidden, b.latents, b.anchor, b.counter, b.memory.all_slots]
    labels = [] if p.tables.y is None else [p.tables.y]
    return Memory([*given, *labels, *work, *b.streams.values()])
