"""DeepCache's full steps and depths: the published ones, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from l2c_rt.policies import DeepCache, EveryN, nonuniform
from l2c_rt.resolve import evaluations, resolve_schedule
from l2c_rt.schedule.cache_schedule import default_branches
from l2c_rt.schedule.shells import is_of_shells, shell_names

SHELLS = shell_names(12, mid=True)
PNDM = (951.0, 901.0, 901.0, 851.0, 801.0, 751.0, 701.0)

PUBLISHED = {
    (50, 2, 15, 1.5): "0 2 4 5 7 9 10 12 14 15 16 18 20 22 24 26 28 30 32 34 37 39 42 44 47",
    (50, 3, 15, 1.3): "0 3 6 8 11 13 15 17 20 23 26 29 32 35 39 42 46",
    (50, 4, 15, 1.4): "0 4 7 10 14 16 19 23 27 31 35 40 45",
    (50, 5, 15, 1.4): "0 5 9 13 17 21 26 31 37 43",
    (50, 5, 10, 1.5): "0 4 7 10 14 19 24 30 36 43",
    (50, 6, 15, 1.3): "0 6 10 15 19 24 30 36 43",
    (50, 8, 10, 1.4): "0 6 10 16 23 31 40",
    (20, 5, 6, 1.4): "0 5 8 13",
    (100, 5, 30, 1.2): "0 5 10 15 19 24 28 31 36 40 45 50 55 60 65 71 76 82 88 94",
    (250, 10, 110, 1.2): "0 11 22 32 43 53 62 72 81 91 99 108 116 125 134 144 153 163 173 184 194 "
                         "205 216 227 238",
}  # fmt: skip
"""(steps, interval, center, power) -> the published program's full steps."""


@pytest.mark.parametrize("case", PUBLISHED, ids=str)
def test_non_uniform_steps_are_the_published_ones(case: tuple[Any, ...]) -> None:
    steps, interval, center, power = case
    policy = DeepCache(interval, 0, nonuniform(center, power))
    assert policy.full_steps(steps) == tuple(map(int, PUBLISHED[case].split()))


def test_the_defaults_are_the_published_ones() -> None:
    assert DeepCache() == DeepCache(interval=1, branch=0, steps=None)
    assert nonuniform() == nonuniform(center=15, power=1.4)
    assert DeepCache().full_steps(7) == DeepCache(1, 0, nonuniform()).full_steps(7) == (*range(7),)


@pytest.mark.parametrize("branch", [0, 5, 11])
def test_a_cached_row_computes_the_shells_up_to_the_branch(branch: int) -> None:
    compute = DeepCache(3, branch).schedule(7, SHELLS).compute
    assert np.flatnonzero(compute.all(axis=1)).tolist() == [0, 3, 6]
    assert compute[1].tolist() == [q <= branch for q in range(13)]


def test_an_interval_counts_the_first_evaluation_of_each_timestep() -> None:
    assert DeepCache(2).full_steps(7, PNDM) == (0, 4, 6)
    assert DeepCache(3).full_steps(7, PNDM) == (0, 3, 6)
    assert DeepCache(2).full_steps(7) == (0, 2, 4, 6)


def test_a_list_counts_evaluations_in_any_order() -> None:
    assert DeepCache(steps=[4, 0, 2]).full_steps(7, PNDM) == (0, 2, 4)
    assert DeepCache(steps=np.array([0, 5])).full_steps(7) == (0, 5)


def test_the_timesteps_say_how_many_evaluations_there_are() -> None:
    for steps in (None, 6, 7):
        count = evaluations(DeepCache(2, 3), steps, PNDM)
        schedule = resolve_schedule(DeepCache(2, 3), steps=count, branches=SHELLS, timesteps=PNDM)
        assert (schedule.steps, schedule.timesteps) == (7, PNDM)
        assert np.flatnonzero(schedule.compute.all(axis=1)).tolist() == [0, 4, 6]
    assert evaluations(EveryN(2), 5, PNDM) == 5
    assert evaluations(schedule, 6, PNDM) == 6


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: DeepCache(0), "interval is 0, wanted an int of at least 1"),
        (lambda: DeepCache(2.0), "interval is 2.0"),  # type: ignore[arg-type]
        (lambda: DeepCache(3, -1), "branch is -1, wanted an int of at least 0"),
        (lambda: DeepCache(3, True), "branch is True"),
        (lambda: DeepCache(3, steps=[]), "wanted 0 as the first"),
        (lambda: DeepCache(3, steps=[1, 2]), "wanted 0 as the first: evaluation 0 has nothing"),
        (lambda: DeepCache(3, steps=[0, -2]), "wanted 0 as the first"),
        (lambda: nonuniform(0), "center is 0, wanted an int of at least 1"),
        (lambda: nonuniform(15, 1.0), "power is 1.0, wanted a number above 1"),
        (lambda: nonuniform(15, float("nan")), "power is nan, wanted a number above 1"),
        (lambda: nonuniform("15"), "center is '15', wanted an int"),  # type: ignore[arg-type]
        (lambda: DeepCache(steps=[0, 9]).schedule(7, SHELLS), "has 9, but the run is 0..6"),
        (lambda: DeepCache(3, 12).schedule(7, SHELLS), "branch is 12, and this U-Net has 0..11"),
        (lambda: DeepCache(3).schedule(7, default_branches(4)), "are attn-0 .. mlp-1, wanted the"),
        (lambda: nonuniform(1, 1.1).full_steps(9, 1), "no 9 different steps of 9; give a larger"),
        (lambda: DeepCache(5, 0, nonuniform()).schedule(10, SHELLS), "15, and the run is 0..9"),
    ],
)
def test_values_that_no_run_has_are_refused(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("steps", ["uniform", 3, [0, 1.5], [0, True]])
def test_steps_that_are_no_list_of_evaluations_are_a_type_error(steps: Any) -> None:
    with pytest.raises(TypeError, match="wanted None, nonuniform"):
        DeepCache(3, 0, steps)


def test_the_names_of_shells_are_known_again() -> None:
    assert is_of_shells(SHELLS)
    assert is_of_shells(shell_names(3, mid=False))
    for names in ((), ("mid",), SHELLS[1:], ("attn-0", "mlp-0"), (*SHELLS, "mid-2")):
        assert not is_of_shells(names)
