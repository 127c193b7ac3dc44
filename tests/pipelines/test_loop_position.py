"""Where a pipeline's loop is, from the calls of its model and the scheduler's timesteps."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from l2c_rt.pipelines.loop_position import LoopPosition, Part, Place
from l2c_rt.runtime.calls import StepError

Name = str | None


class Pipe:
    """A pipeline's scheduler; `counts` says whether it counts its own steps."""

    def __init__(self, timesteps: list[float], counts: bool = False) -> None:
        self.scheduler = SimpleNamespace()
        self.set(timesteps)
        if counts:
            self.scheduler.step_index = None

    def set(self, timesteps: list[float]) -> None:
        self.scheduler.timesteps = torch.tensor(timesteps)


FALLING = [900.0, 600.0, 300.0]


def position(pipe: Pipe, steps: int = 3, **options: Any) -> LoopPosition:
    return LoopPosition(pipe, Part("unet", steps, steps, **options))


def loop(at: LoopPosition, calls: list[tuple[Name, float]]) -> list[tuple[int, int | None]]:
    """The places of (context name, timestep)."""
    places: list[Place] = []
    for name, t in calls:
        if at.begins:
            at.begin()
        places.append(at.place(name, lambda t=t: t))
    return [tuple(place) for place in places]


def test_one_call_per_step_is_one_lane() -> None:
    pipe = Pipe(FALLING)
    at = position(pipe)
    expected = [(0, 0), (0, 1), (0, 2)]
    assert loop(at, [(None, t) for t in FALLING]) == expected
    assert loop(at, [(None, t) for t in FALLING]) == expected
    assert (at.lanes, at.runs, at.abandoned) == (1, 2, 0)


@pytest.mark.parametrize("calls", [2, 3])
def test_unnamed_calls_at_the_first_timestep_are_lanes_in_their_order(calls: int) -> None:
    pipe = Pipe(FALLING)
    at = position(pipe)
    places = loop(at, [(None, t) for t in FALLING for _ in range(calls)])
    assert places == [(lane, step) for step in range(3) for lane in range(calls)]
    assert (at.lanes, at.runs) == (calls, 1)


def test_a_scheduler_that_counts_is_asked_and_no_timestep_is_read() -> None:
    pipe = Pipe(FALLING, counts=True)
    at = position(pipe)
    at.begin()
    places = []
    for step in range(3):
        pipe.scheduler.step_index = step or None
        places += [at.place(None, lambda: 1 / 0) for _ in range(2)]
    assert places == [(lane, step) for step in range(3) for lane in range(2)]


def test_a_timestep_that_is_repeated_later_is_another_step() -> None:
    timesteps = [900.0, 600.0, 600.0]  # PNDM, Heun
    pipe = Pipe(timesteps)
    assert loop(position(pipe), [(None, t) for t in timesteps]) == [(0, 0), (0, 1), (0, 2)]


def test_names_are_lanes_in_the_order_of_their_first_call() -> None:
    pipe = Pipe(FALLING)
    at = position(pipe)
    calls = [(name, t) for t in FALLING for name in ("pos", "neg")]
    assert loop(at, calls) == [(lane, step) for step in range(3) for lane in range(2)]
    assert loop(at, calls[:1]) == [(0, 0)]


def test_guidance_that_ends_early_ends_its_lane_and_the_next_run_has_it_again() -> None:
    pipe = Pipe(FALLING)
    at = position(pipe)
    calls = [("cond", 900.0), ("uncond", 900.0), ("cond", 600.0), ("cond", 300.0)]
    assert loop(at, calls) == [(0, 0), (1, 0), (0, 1), (0, 2)]
    pipe.set(FALLING)
    assert loop(at, calls) == [(0, 0), (1, 0), (0, 1), (0, 2)]
    assert (at.runs, at.abandoned) == (2, 0)


def test_guidance_that_comes_late_or_back_is_computed_in_full() -> None:
    pipe = Pipe(FALLING)
    at = position(pipe)
    late = [("cond", 900.0)] + [(name, t) for t in (600.0, 300.0) for name in ("cond", "uncond")]
    assert loop(at, late) == [(0, 0), (0, 1), (1, None), (0, 2), (1, None)]
    pipe.set(FALLING)
    back = [(name, t) for t in FALLING for name in ("cond", "uncond") if (name, t) != late[2]]
    assert loop(at, back) == [(0, 0), (1, 0), (0, 1), (0, 2), (1, None)]
    assert at.full_calls == 3


def test_new_timesteps_begin_a_run_whatever_the_last_one_did() -> None:
    pipe = Pipe(FALLING)
    at = position(pipe)
    loop(at, [(None, 900.0), (None, 600.0)])
    pipe.set(FALLING)
    assert loop(at, [(None, t) for t in FALLING]) == [(0, 0), (0, 1), (0, 2)]
    assert (at.runs, at.abandoned) == (1, 1)


def test_another_number_of_timesteps_is_refused_with_both() -> None:
    pipe = Pipe([900.0, 800.0, 700.0, 600.0])
    with pytest.raises(ValueError, match=r"makes 4 evaluations, but unet was enabled for 3; .*s=4"):
        position(pipe).begin()


@pytest.mark.parametrize("how", ["begin index", "fewer timesteps"])
def test_a_loop_that_starts_late_is_computed_in_full_and_says_so(how: str) -> None:
    pipe = Pipe(FALLING)
    if how == "begin index":
        pipe.scheduler.begin_index = 1
    else:
        pipe._num_timesteps = 2
    at = position(pipe)
    assert "2 of the scheduler's 3 timesteps" in at.begin()
    assert [at.place(None, float) for _ in range(4)] == [(0, None)] * 4


@pytest.mark.parametrize(("above", "own"), [(True, 2), (False, 1)])
def test_an_expert_has_the_timesteps_on_its_side_of_the_boundary(above: bool, own: int) -> None:
    pipe = Pipe(FALLING)
    part = Part("transformer", own, 3, 600.0, above)
    assert LoopPosition(pipe, part).begin() == ""
    wrong = Part("transformer", own + 1, 3, 600.0, above)
    with pytest.raises(ValueError, match=rf"gives {own} of its 3 .* enabled for {own + 1}; "):
        LoopPosition(pipe, wrong).begin()


def test_more_calls_than_evaluations_are_refused() -> None:
    pipe = Pipe([900.0, 900.0])
    at = position(pipe, steps=2)
    calls: list[tuple[Name, float]] = [("a", 900.0), ("b", 900.0), ("a", 900.0)]
    loop(at, calls)
    with pytest.raises(StepError, match="unet was called more than 2 times"):
        loop(at, [("a", 900.0)])


def test_a_pipeline_that_is_gone_is_named() -> None:
    at = position(Pipe(FALLING))
    gc.collect()
    with pytest.raises(RuntimeError, match="pipeline whose unet this was is gone"):
        at.begin()
