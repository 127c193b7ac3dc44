"""The guidance branch, step and number of steps that a loop announces, as diffusers does."""

from __future__ import annotations

import contextlib

import pytest
from three_backends import assert_same, compiled, every_backend, fresh
from toys import call_inputs, random_schedule, toy_uvit

from l2c_rt.api import compile
from l2c_rt.runtime.cache_context import StepHint, StepHints


@every_backend
def test_calls_may_be_named_cond_and_uncond_in_any_order(backend: str) -> None:
    model, schedule = toy_uvit(), random_schedule(3, 6, seed=2)
    named, in_order = (compiled(backend, model, schedule, calls_per_step=2) for _ in range(2))
    for step in range(3):
        x, t, y = call_inputs(step)
        with named.cache_context("uncond", step=step, num_steps=3):
            uncond = named(x, t, y + 1)
        with named.cache_context("cond", step=step, sigma=0.5):
            cond = named(x, t, y)
        assert_same([cond, uncond], [in_order(x, t, y), in_order(x, t, y + 1)])


def test_another_name_or_number_of_steps_is_refused() -> None:
    fast = fresh()
    match = "'pag', wanted one of cond, uncond"
    with pytest.raises(ValueError, match=match), fast.cache_context("pag"):
        pass
    with fast.cache_context("cond", num_steps=50), pytest.raises(ValueError, match="has 50 steps"):
        fast(*call_inputs(0))


def test_a_lane_is_not_called_inside_the_context_of_another() -> None:
    fast = compile(toy_uvit(), random_schedule(3, 6), calls_per_step=2)
    with fast.cache_context("cond"), pytest.raises(ValueError, match="inside the context of lane"):
        fast(*call_inputs(0), lane=1)


def test_the_innermost_context_holds_and_ends_with_an_error_too() -> None:
    hints = StepHints()
    with hints.context("cond", 2, 4, None):
        with contextlib.suppress(IndexError), hints.context("uncond", 2, 5, 9):
            assert hints.current(None) == StepHint(1, 5, 9)
            raise IndexError
        assert hints.current(0) == StepHint(0, 4, None)
    assert hints.current(1) == StepHint(1)


def test_with_one_call_per_step_both_names_are_the_same() -> None:
    hints = StepHints()
    for name in ("cond", "uncond"):
        with hints.context(name, 1, None, None):
            assert hints.current(None) == StepHint(0)
