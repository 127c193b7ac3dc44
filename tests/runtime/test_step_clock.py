"""Counting evaluations: what starts a run, what continues it, what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from clocks import GRID, clock_for, run, steps
from hypothesis import given
from hypothesis import strategies as st

from l2c_rt.runtime.calls import StepError, Tick
from l2c_rt.runtime.known_loop import checked_loop
from l2c_rt.runtime.step_clock import StepClock


def test_calls_are_counted_and_start_over_after_the_last() -> None:
    clock = clock_for(4)
    assert steps(run(clock, GRID + GRID)) == [0, 1, 2, 3, 0, 1, 2, 3]
    assert clock.completed == 2


def test_lanes_alternate_within_a_step() -> None:
    ticks = run(clock_for(2, lanes=2), [900.0, 700.0], lanes=2)
    assert [(t.step, t.lane) for t in ticks] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [t.first for t in ticks] == [True, False, False, False]


@given(st.integers(1, 3), st.booleans())
def test_a_run_abandoned_at_any_step_is_followed_by_a_right_one(at: int, known: bool) -> None:
    clock = clock_for(4, GRID if known else None)
    run(clock, GRID[:at])
    assert steps(run(clock, GRID)) == [0, 1, 2, 3]
    assert clock.abandoned == 1


@pytest.mark.parametrize("calls", range(2, 8))
def test_with_two_lanes_a_run_abandoned_after_any_whole_or_half_step_is_followed_by_a_right_one(
    calls: int,
) -> None:
    clock = clock_for(4, lanes=2)
    for t in [t for t in GRID for _ in range(2)][:calls]:
        clock.tick(t)
    ticks = run(clock, GRID, lanes=2)
    assert [(t.step, t.lane) for t in ticks] == [(s, lane) for s in range(4) for lane in range(2)]


def test_with_two_lanes_a_run_abandoned_inside_the_first_step_is_noticed() -> None:
    clock = clock_for(4, lanes=2)
    clock.tick(900.0)
    with pytest.raises(StepError):
        run(clock, GRID, lanes=2)


def test_a_wrong_timestep_names_step_expected_and_got_and_resets() -> None:
    clock = clock_for(4, GRID)
    clock.tick(900.0)
    with pytest.raises(StepError, match="step 1: expected timestep 700 .*, got 650"):
        clock.tick(650.0)
    assert not clock.mid_run
    assert clock.abandoned == 1
    assert steps(run(clock, GRID)) == [0, 1, 2, 3]


def test_given_timesteps_are_not_forgotten() -> None:
    clock = clock_for(4, GRID)
    clock.reset(forget_timesteps=True)
    with pytest.raises(StepError, match=r"expected timestep 900 \(from timesteps=\), got 850"):
        clock.tick(850.0)


def test_repeated_timesteps_are_fine_when_given() -> None:
    grid = [900.0, 900.0, 700.0, 700.0]
    assert steps(run(clock_for(4, grid), grid + grid)) == [0, 1, 2, 3] * 2


def test_an_explicit_lane_may_come_in_any_order_but_not_twice() -> None:
    clock = clock_for(3, lanes=2)
    assert clock.tick(900.0, lane=1).lane == 1
    assert clock.tick(900.0, lane=0) == Tick(0, 0, False, True)
    clock.tick(700.0, lane=0)
    with pytest.raises(StepError, match="lane 0 was called again before lane 1"):
        clock.tick(500.0, lane=0)


def test_a_lane_that_was_not_compiled_is_refused() -> None:
    with pytest.raises(StepError, match="lane 1 of 1: compile with calls_per_step=2"):
        clock_for(3).tick(900.0, lane=1)


def test_an_announced_step_is_checked_and_step_zero_starts_a_run() -> None:
    clock = clock_for(3)
    clock.tick(None, step=0)
    clock.tick(None, step=1)
    assert clock.tick(None, step=0).first
    with pytest.raises(StepError, match="step 2 was announced, but lane 0 is at step 1"):
        clock.tick(None, step=2)


def test_an_announced_number_of_steps_is_checked() -> None:
    with pytest.raises(StepError, match="this loop has 28 steps, but the schedule was made for 3"):
        clock_for(3).tick(None, num_steps=28)


def test_as_many_timesteps_as_evaluations_are_needed_and_finite_ones() -> None:
    with pytest.raises(ValueError, match="got 2, but the schedule has 3 evaluations"):
        checked_loop(3, [2.0, 1.0], "timesteps=")
    with pytest.raises(ValueError, match="wanted finite numbers"):
        checked_loop(2, [2.0, float("nan")], "timesteps=")


@pytest.mark.parametrize("lanes", [0, 2.5, True])
def test_lanes_are_a_whole_number_of_at_least_one(lanes: object) -> None:
    with pytest.raises(ValueError, match="calls_per_step: got"):
        StepClock(3, lanes)  # type: ignore[arg-type]


def test_float32_rounding_of_a_timestep_is_not_a_mismatch() -> None:
    assert clock_for(2, [500.5, 100.0]).tick(500.49997).step == 0


@given(st.lists(st.sampled_from([*GRID, 950.0]), max_size=30), st.booleans())
def test_after_any_calls_and_a_reset_a_complete_run_is_right(
    calls: list[float], known: bool
) -> None:
    assert complete_run_after(calls, known) == [0, 1, 2, 3]


@pytest.mark.parametrize("known", [False, True])
def test_the_same_after_every_sequence_of_up_to_five_calls(known: bool) -> None:
    for length in range(6):
        for calls in itertools.product([*GRID, 950.0], repeat=length):
            assert complete_run_after(calls, known) == [0, 1, 2, 3], calls


def complete_run_after(calls: Sequence[float], known: bool) -> list[int]:
    """The steps of a complete run after some calls and a reset."""
    clock = clock_for(4, GRID if known else None)
    for t in calls:
        try:
            clock.tick(t)
            clock.done()
        except StepError:
            pass
    clock.reset()
    return steps(run(clock, GRID))


def test_a_known_loop_that_rises_starts_over_at_its_start() -> None:
    rising = [0.0, 0.25, 0.5, 0.75]
    clock = clock_for(4, rising)
    run(clock, rising[:2])
    run(clock, rising)
    assert (clock.completed, clock.abandoned) == (1, 1)


@pytest.mark.parametrize(
    ("calls", "cause"),
    [
        ([-300.0], r"more calls than the 4 evaluations.*calls_per_step=2"),
        ([300.0], "more calls than the 4 evaluations"),
        ([700.0], r"starts at step 1 of 4 \(strength, img2img\)"),
        ([900.0, 500.0], "two requests on one session"),
        ([900.0, 650.0], r"got 650\. The run was reset"),
    ],
)
def test_a_misfit_with_given_timesteps_names_its_likely_cause(
    calls: list[float], cause: str
) -> None:
    clock = clock_for(4, GRID)
    run(clock, GRID)
    with pytest.raises(StepError, match=cause):
        run(clock, calls)


def test_a_run_after_one_that_was_left_is_placed_fast_by_nobody() -> None:
    clock = clock_for(4)
    run(clock, GRID + GRID[:2])
    clock.tick(GRID[0])
    assert clock.tick_known(GRID[1]) is None
    assert not clock.trusted


def test_a_lane_out_of_turn_is_placed_fast_by_nobody() -> None:
    clock = clock_for(4, GRID, lanes=2)
    clock.tick(GRID[0], lane=1)
    assert clock.tick_known(GRID[0]) is None
    assert clock.tick(GRID[0], lane=0) == Tick(0, 0, False, True)


def test_a_run_of_announced_steps_is_trusted_but_after_one_that_was_left() -> None:
    clock, trusted = clock_for(4), []
    for step in (0, 1, 0):
        clock.tick(GRID[step], step=step)
        clock.done()
        trusted.append(clock.trusted)
    assert trusted == [True, True, False]


def test_a_loop_that_repeats_its_last_timestep_once_more_is_too_long() -> None:
    clock = clock_for(4)
    run(clock, GRID)
    with pytest.raises(StepError, match="4 evaluations"):
        clock.tick(GRID[-1])


def test_a_loop_that_goes_back_and_whose_latents_follow_goes_on() -> None:
    assert steps(run(clock_for(4), [900.0, 500.0, 700.0, 300.0], latents="follows")) == [0, 1, 2, 3]


def test_a_known_loop_at_an_earlier_timestep_begins_anew_whatever_its_latents() -> None:
    clock = clock_for(4)
    run(clock, GRID)
    assert steps(run(clock, [*GRID[:3], GRID[1]], latents="follows")) == [0, 1, 2, 0]
