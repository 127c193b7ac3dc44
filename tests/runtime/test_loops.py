"""Which runs may reuse: known loops, announced steps, latents that follow; the rest is full."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clocks import GRID, Latents, Notes, clock_for, reuses, run, steps
from toys import call_inputs, drive, random_schedule, timesteps, toy_dit

import l2c_rt as rt
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import Full
from l2c_rt.runtime.calls import StepError
from l2c_rt.runtime.known_loop import Source
from l2c_rt.sampling.solvers import ddim

YES, NO = [True] * 3, [False] * 3


@pytest.mark.parametrize("source", ["timesteps=", "the schedule", "earlier runs"])
def test_a_known_loop_reuses_whatever_its_latents_show(source: Source) -> None:
    assert reuses(run(clock_for(4, GRID, source=source), GRID)) == YES


def test_an_unknown_loop_reuses_where_its_latents_follow_and_is_computed_in_full_elsewhere() -> (
    None
):
    notes = Notes()
    assert reuses(run(clock_for(4, notes=notes), GRID, latents="follows")) == YES
    assert not notes.told
    assert reuses(run(clock_for(4, notes=notes), GRID)) == NO
    assert "computed in full from step 1 of 4" in notes.told["not proved"]


def test_there_is_no_way_back_from_the_first_evaluation_that_is_not_proved() -> None:
    clock = clock_for(4)
    shown = ["foreign", "follows", "foreign", "follows"]
    ticks = [clock.tick(t, latents=Latents(r)) for t, r in zip(GRID, shown, strict=True)]  # type: ignore[arg-type]
    assert reuses(ticks) == [True, False, False]


def test_one_complete_run_shows_the_loop() -> None:
    clock = clock_for(4)
    assert reuses(run(clock, GRID)) == NO
    assert reuses(run(clock, GRID)) == YES
    clock.reset(forget_timesteps=True)
    assert reuses(run(clock, GRID)) == NO


def test_announced_steps_reuse() -> None:
    clock = clock_for(4)
    ticks = [clock.tick(t, step=k, num_steps=4) for k, t in enumerate(GRID)]
    assert reuses(ticks) == YES


def test_announced_steps_of_another_loop_than_the_schedules_reuse_and_are_told_apart() -> None:
    notes = Notes()
    clock = clock_for(4, GRID, source="the schedule", notes=notes)
    ticks = [clock.tick(t - (k > 0), step=k) for k, t in enumerate(GRID)]
    assert reuses(ticks) == YES
    assert (
        "at step 1 it has timestep 699, the schedule's loop has 700" in notes.told["another loop"]
    )


def test_a_run_over_another_reuses_only_what_its_latents_show_and_says_both_numbers() -> None:
    notes = Notes()
    clock = clock_for(4, GRID, notes=notes)
    run(clock, GRID[:3])
    assert reuses(run(clock, GRID)) == NO
    assert "after 3 of 4 evaluations" in notes.told["restarted"]
    run(clock, GRID[:3])
    assert reuses(run(clock, GRID, latents="follows")) == YES


def test_a_run_after_a_reset_is_trusted_again() -> None:
    clock = clock_for(4, GRID)
    run(clock, GRID[:3])
    clock.reset()
    assert reuses(run(clock, GRID)) == YES


@pytest.mark.parametrize("source", ["the schedule", "earlier runs"])
def test_a_late_start_in_a_known_loop_is_computed_in_full(source: Source) -> None:
    notes = Notes()
    clock = clock_for(4, GRID, source=source, notes=notes)
    assert reuses(run(clock, GRID[2:], latents="follows")) == [False]
    assert "started at step 2 of 4 (strength, img2img)" in notes.told["late start"]
    assert reuses(run(clock, GRID, latents="follows")) == YES


def test_a_late_start_after_a_cancelled_run_is_a_run_of_its_own() -> None:
    clock = clock_for(4, GRID, source="earlier runs")
    run(clock, GRID[:1])
    ticks = run(clock, GRID[2:])
    assert steps(ticks) == [0, 1]
    assert reuses(ticks) == [False]


def test_a_loop_with_other_timesteps_than_the_schedules_is_named_and_learned() -> None:
    notes = Notes()
    clock = clock_for(4, GRID, source="the schedule", notes=notes)
    other = [900.0, 650.0, 400.0, 150.0]
    assert reuses(run(clock, other)) == NO
    assert (
        "at step 1 it has timestep 650, the schedule's loop has 700 (900 to 300)"
        in (notes.told["another loop"])
    )
    assert reuses(run(clock, other)) == YES


def test_a_loop_with_other_timesteps_than_an_earlier_run_is_no_error() -> None:
    clock = clock_for(4, GRID, source="earlier runs")
    other = [850.0, 650.0, 400.0, 150.0]
    assert reuses(run(clock, other, latents="follows")) == YES
    assert reuses(run(clock, other)) == YES


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("latents", ["foreign", "follows"])
def test_a_loop_longer_than_the_schedule_is_refused_at_its_first_extra_call(
    known: bool, latents: str
) -> None:
    clock = clock_for(4, GRID if known else None, source="the schedule")
    with pytest.raises(StepError, match="call 5: timestep 100 goes on after the 4 evaluations"):
        run(clock, [*GRID, 100.0], latents=latents)  # type: ignore[arg-type]
    # What looked like a complete run has shown nothing.
    assert (clock.known is None) == (not known)
    assert reuses(run(clock, [950.0, *GRID[1:]], latents="follows")) == YES


def test_a_shorter_loop_is_told_both_numbers_when_it_begins_again() -> None:
    notes = Notes()
    clock = clock_for(4, notes=notes)
    for _ in range(3):
        assert steps(run(clock, GRID[:3], latents="follows")) == [0, 1, 2]
    assert "after 3 of 4 evaluations" in notes.told["restarted"]
    assert "another number of steps than the schedule's 4" in notes.told["restarted"]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("t", [0.0, 900.0])
def test_any_number_of_warm_ups_of_one_step_leave_a_right_run(count: int, t: float) -> None:
    clock = clock_for(4)
    run(clock, [t] * count)
    assert steps(run(clock, GRID))[-4:] == [0, 1, 2, 3]
    assert reuses(run(clock, GRID)) == YES


def test_a_rising_loop_is_a_loop_where_its_latents_follow() -> None:
    rising = [0.0, 0.25, 0.5, 0.75]
    clock = clock_for(4)
    assert steps(run(clock, rising, latents="follows")) == [0, 1, 2, 3]
    assert reuses(run(clock, rising)) == YES


def test_a_solver_that_evaluates_a_timestep_twice_is_counted() -> None:
    assert steps(run(clock_for(4), [900.0, 700.0, 700.0, 500.0])) == [0, 1, 2, 3]
    heun = [900.0, 900.0, 700.0, 700.0]
    assert steps(run(clock_for(4), heun, latents="follows")) == [0, 1, 2, 3]


@pytest.mark.parametrize("latents", ["foreign", "again"])
def test_two_calls_per_step_without_lanes_are_refused(latents: str) -> None:
    with pytest.raises(StepError, match="every timestep comes twice.*calls_per_step=2"):
        run(clock_for(4), [t for t in GRID for _ in range(2)], latents=latents)  # type: ignore[arg-type]


def test_a_call_of_the_run_before_is_refused_as_two_requests() -> None:
    clock = clock_for(4)
    run(clock, GRID[:2], latents="follows")
    clock.tick(GRID[0], latents=Latents())
    with pytest.raises(StepError, match="timestep 500, goes on with the run before.*session"):
        clock.tick(GRID[2], latents=Latents("foreign", before="follows"))


def test_a_known_timestep_of_the_run_before_is_refused_as_two_requests() -> None:
    clock = clock_for(4, GRID, source="earlier runs")
    run(clock, GRID[:2])
    clock.tick(GRID[0])
    with pytest.raises(StepError, match="goes on with the run before this one: two requests"):
        clock.tick(GRID[2])


def test_a_call_that_goes_on_with_a_run_that_was_reset_is_refused() -> None:
    clock = clock_for(4)
    run(clock, GRID[:2], latents="follows")
    clock.reset()
    with pytest.raises(StepError, match="goes on with a run that was reset"):
        clock.tick(GRID[2], latents=Latents("follows"))
    clock.reset()
    assert clock.tick(GRID[0], latents=Latents("follows")).step == 0


@pytest.mark.parametrize(
    "header", [{"sampler": "ddim"}, {"timesteps": (900.0, 700.0, 500.0, 300.0)}]
)
def test_a_learned_schedule_knows_the_loop_that_it_was_learned_for(header: dict[str, Any]) -> None:
    fast = rt.compile(toy_dit(), random_schedule(4, 6, **header))
    assert fast.timesteps == header.get("timesteps", ddim(4).timesteps)
    x, _, y = call_inputs(0)
    fast(x, torch.full((2,), fast.timesteps[0]), y)
    with (
        pytest.warns(L2CWarning, match="not the one that the schedule was made for: at step 1"),
        pytest.warns(L2CWarning, match="computed in full from step 1 of 4"),
    ):
        fast(1.1 * x, torch.full((2,), fast.timesteps[0] - 3.0), y)
    with pytest.raises(ValueError, match="strict: the loop is not the one"):
        rt.compile(toy_dit(), random_schedule(4, 6, **header), strict=True)(*call_inputs(3))


def test_sessions_know_the_loop_that_another_one_has_shown() -> None:
    fast = rt.compile(toy_dit(), random_schedule(4, 6))
    drive(fast, 4)
    with fast.session() as session:
        assert session.run.clock.known == fast.run.clock.known
        assert session.run.clock.known is not None
    assert fast.timesteps == tuple(map(float, timesteps(4)))


def test_a_schedule_that_reuses_nothing_has_nothing_to_say_of_loops() -> None:
    fast = rt.compile(toy_dit(), Full(), steps=3, strict=True)
    for step, seed in enumerate((1, 2, 3)):
        fast(*call_inputs(step, seed))
    assert not fast.summary().reasons
