"""The schedule as a value: names, rows, equality, copies."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from l2c_rt.schedule.cache_schedule import CacheSchedule, default_branches

SMALL = np.array([[1, 1, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 0, 1]], bool)


def test_branches_are_named_as_smoothcache_names_them():
    assert CacheSchedule(SMALL).branches == ("attn-0", "mlp-0", "attn-1", "mlp-1")
    assert default_branches(2) == ("attn-0", "mlp-0")


def test_counts_and_shares():
    schedule = CacheSchedule(SMALL)
    assert (schedule.steps, schedule.num_branches) == (5, 4)
    assert schedule.reuse_share == pytest.approx(8 / 20)


def test_a_row_is_hashable_and_bounded():
    schedule = CacheSchedule(SMALL)
    assert schedule.row(1) == (False, True, False, False)
    assert all(type(c) is bool for c in schedule.row(1))
    for step in (-1, 5):
        with pytest.raises(ValueError, match=rf"step {step} is outside 0\.\.4"):
            schedule.row(step)


def test_distinct_rows_come_in_order_of_first_use():
    rows = CacheSchedule(SMALL).distinct_rows()
    assert rows == ((True,) * 4, (False, True, False, False), (True, False, False, True))


def test_equality_and_hash_are_by_what_is_computed_and_by_name():
    schedule = CacheSchedule(SMALL)
    assert schedule == CacheSchedule(SMALL.astype(int), source="elsewhere", threshold=0.5)
    assert hash(schedule) == hash(CacheSchedule(SMALL, calls_per_step=2))
    assert schedule != replace(schedule, branches=("a", "b", "c", "d"))
    assert schedule != CacheSchedule(SMALL[:4])
    assert schedule != "schedule"
    assert len({schedule, CacheSchedule(SMALL)}) == 1


def test_the_schedule_owns_a_read_only_copy():
    mine = SMALL.copy()
    schedule = CacheSchedule(mine)
    mine[1] = True
    assert schedule == CacheSchedule(SMALL)
    with pytest.raises(ValueError, match="read-only"):
        schedule.compute[1, 1] = False
    with pytest.raises(FrozenInstanceError):
        schedule.calls_per_step = 2


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_is_equal_and_read_only_too(duplicate):
    schedule = CacheSchedule(SMALL, tuple("abcd"), source="x", timesteps=(5, 4, 3, 2, 1))
    other = duplicate(schedule)
    assert other == schedule
    assert (other.source, other.timesteps) == ("x", (5.0, 4.0, 3.0, 2.0, 1.0))
    assert not other.compute.flags.writeable


def test_blocks_become_attn_and_mlp_columns():
    blocks = np.ones((3, 2, 2), bool)
    blocks[1, 1, 0] = False
    schedule = CacheSchedule.from_blocks(blocks, family="dit")
    assert schedule.branches[np.argmin(schedule.compute[1])] == "attn-1"
    assert schedule.family == "dit"
    with pytest.raises(ValueError, match=r"\(3, 4\), wanted \[steps, blocks, 2\]"):
        CacheSchedule.from_blocks(np.ones((3, 4), bool))


def test_repr_is_short():
    assert repr(CacheSchedule(SMALL)) == "<CacheSchedule 5 steps x 4 branches, 40.0 % reused>"


def test_lanes_is_the_old_name_of_calls_per_step():
    with pytest.warns(DeprecationWarning, match="lanes= is now calls_per_step="):
        schedule = CacheSchedule(SMALL, lanes=2)
    with pytest.warns(DeprecationWarning, match=r"CacheSchedule\.lanes is now calls_per_step"):
        assert schedule.lanes == schedule.calls_per_step == 2
