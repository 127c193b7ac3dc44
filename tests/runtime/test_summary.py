"""What the summary says, in numbers and in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from three_backends import STEPS, compiled, every_backend, fresh
from toys import call_inputs, drive, noise, random_schedule, timesteps, toy_dit, toy_uvit

from l2c_rt.api import compile
from l2c_rt.device.graphs import GraphStats
from l2c_rt.notices import L2CWarning
from l2c_rt.runtime.summary import Summary
from l2c_rt.schedule.cache_schedule import CacheSchedule

SUMMARY = Summary(
    model="DiT", source="a test", backend="fused", device="cpu", steps=4, branches=6,
    calls_per_step=1, distinct_steps=3, reused=6, runs=2, abandoned=1, calls=9, slots=5,
    checked="equal",
    slot_bytes=3 << 19, table_bytes=1 << 20, copied_bytes=0, arena_allocations=1, weight_changes=0,
    expected_speedup=1.25, estimated_speedup=None, graphs=GraphStats(), reasons=(),
)  # fmt: skip
LINES = """\
DiT with a test
  backend    fused on cpu
  plan       4 evaluations x 6 branches, 3 distinct steps
  reuse      6 of 24 branch calls (25.0%)
  memory     5 slots, 1.5 MiB, allocated once; tables 1.0 MiB
  runs       2 complete, 1 abandoned, 9 calls
  checked    against the model's own forward: equal
  speed-up   expected at most 1.250x, estimated not yet"""


def test_the_text_of_a_summary() -> None:
    assert str(SUMMARY) == LINES


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"source": ""}, "DiT with a schedule"),
        (
            {"calls_per_step": 2},
            "  plan       4 evaluations x 6 branches, 3 distinct steps, 2 calls per step",
        ),
        (
            {"arena_allocations": 3},
            "  memory     5 slots, 1.5 MiB, allocated 3 times; tables 1.0 MiB",
        ),
        (
            {"estimated_speedup": 1.2},
            "  speed-up   expected at most 1.250x, estimated 1.200x from the steps' times",
        ),
        ({"weight_changes": 1}, "  weights    changed once, noticed"),
        ({"weight_changes": 2}, "  weights    changed 2 times, noticed"),
        ({"reasons": ("no GPU",)}, "  note       no GPU"),
        ({"graphs": GraphStats(buffer_bytes=1)}, "  graphs     nothing captured"),
    ],
)  # fmt: skip
def test_a_line_of_the_text_follows_what_was_counted(change: dict[str, object], line: str) -> None:
    assert line in str(replace(SUMMARY, **change)).splitlines()  # type: ignore[arg-type]


@every_backend
def test_it_counts_plan_memory_and_runs(backend: str) -> None:
    compute = random_schedule(STEPS, 6).compute.copy()
    compute[4] = compute[2]
    fast = compiled(backend, toy_dit(), CacheSchedule(compute, source="a test"))
    assert fast.summary().slot_bytes == 0
    drive(fast, STEPS)
    drive(fast, 2)
    fast.reset()
    summary = fast.summary()
    assert summary.model == "DiT"
    assert summary.source == "a test"
    assert summary.reused == int((~fast.schedule.compute).sum())
    assert summary.distinct_steps == STEPS - 1
    assert summary.slot_bytes >= summary.slots * 2 * 16 * 32 * 4
    assert (summary.runs, summary.abandoned, summary.calls) == (1, 1, STEPS + 2)
    assert summary.estimated_speedup is not None
    assert summary.expected_speedup > 1


@every_backend
def test_calls_per_step_are_counted_and_said(backend: str) -> None:
    fast = compiled(backend, toy_uvit(), random_schedule(2, 6), calls_per_step=2)
    for step in range(2):
        for _ in range(2):
            fast(*call_inputs(step))
    summary = fast.summary()
    assert "2 calls per step" in str(summary)
    assert (summary.runs, summary.calls, summary.arena_allocations) == (1, 4, 2)


@every_backend
def test_asleep_it_has_no_slots_and_awake_it_has_taken_them_twice(backend: str) -> None:
    fast = fresh(backend, timesteps=timesteps(STEPS))
    drive(fast, STEPS)
    assert "allocated once" in str(fast.summary())
    fast.sleep()
    fast.wake()
    assert "allocated 2 times" in str(fast.summary())


def test_graphs_are_said_only_where_there_are_some() -> None:
    for backend, said in (("reference", False), ("fused", False), ("cuda", True)):
        fast = fresh(backend)
        fast.sample(noise(), [1, 2])
        assert ("graphs of" in str(fast.summary())) is said


def test_a_loop_that_begins_again_too_early_is_noted() -> None:
    fast = fresh(timesteps=timesteps(STEPS))
    drive(fast, STEPS - 1)
    with pytest.warns(L2CWarning, match="a run began after 5 of 6 evaluations"):
        drive(fast, STEPS)
    assert "a run began after 5 of 6 evaluations" in str(fast.summary())


def test_a_run_of_another_shape_does_not_enter_the_measured_speed_up() -> None:
    fast = compile(toy_dit(), random_schedule(4, 6))
    drive(fast, 4, batch=1)
    drive(fast, 4, batch=8)
    samples = fast.run.shared.counts.times[fast.run.shared.counts.latest]
    assert sum(map(len, samples.values())) == 4
