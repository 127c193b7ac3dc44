"""The map that print(schedule) shows."""

from __future__ import annotations

import numpy as np
import pytest

from l2c_rt.schedule.cache_schedule import CacheSchedule


def test_the_map_of_50_by_56_fits_100_columns():
    compute = np.random.default_rng(0).random((50, 56)) > 0.3
    compute[0] = True
    schedule = CacheSchedule(compute, family="dit", sampler="ddim", threshold=0.1, source="a file")
    lines = str(schedule).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) == 2 + 1 + 50 + 1
    for step, line in enumerate(lines[3:-1]):
        marks = "".join("#" if c else "." for c in compute[step])
        assert line.split() == [str(step), marks, *line.split()[2:]]
        assert line.endswith(f"{compute[step].sum()}/56")
    assert lines[-1].endswith(f"{compute.sum()}/2800")
    assert f"{len(schedule.distinct_rows())} distinct rows" in lines[-1]


@pytest.mark.parametrize("branches", [70, 72, 74, 144, 146, 1_000])
def test_the_map_of_50_steps_fits_100_columns_for_any_depth(branches):
    lines = str(CacheSchedule(np.ones((50, branches), bool))).splitlines()
    assert max(map(len, lines[:-1])) <= 100
    assert len({line.index("%") for line in lines[2:]}) == 1


def test_the_map_folds_many_branches_into_100_columns():
    compute = np.ones((3, 200), bool)
    compute[1, :7] = False
    lines = str(CacheSchedule(compute)).splitlines()
    assert "3 branches each" in lines[0]
    assert lines[3].split()[1].startswith("..+#")
    assert max(map(len, lines)) <= 100


def test_the_map_of_one_cell():
    lines = str(CacheSchedule(np.ones((1, 1), bool), ("a",))).splitlines()
    assert lines[2].split() == ["0", "#", "100.0", "%", "1/1"]


def test_the_title_says_what_the_schedule_is_for():
    plain = CacheSchedule(np.ones((2, 2), bool))
    assert str(plain).splitlines()[0] == "2 steps x 2 branches, # compute . reuse"
    full = CacheSchedule(
        np.ones((2, 2), bool), family="uvit", sampler="dpm-solver", calls_per_step=2,
        threshold=0.9, source="a file",
    )  # fmt: skip
    assert str(full).splitlines()[:2] == [
        "2 steps x 2 branches, uvit, dpm-solver, 2 calls per step, threshold 0.9, "
        "# compute . reuse",
        "a file",
    ]
