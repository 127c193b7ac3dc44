"""What a schedule refuses to hold, each by name."""

from __future__ import annotations

import numpy as np
import pytest

from l2c_rt.schedule.cache_schedule import CacheSchedule

SMALL = np.array([[1, 1, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 0, 1]], bool)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (np.ones((3, 2, 2), bool), r"shape \(3, 2, 2\), wanted \[steps, branches\].*from_blocks"),
        (np.ones((0, 4), bool), r"0 steps, wanted 1\.\.10000"),
        (np.ones((4, 0), bool), r"0 branches, wanted 1\.\.10000"),
        (np.ones((10_001, 2), bool), "10001 steps"),
        (np.ones((1, 10_002), bool), "10002 branches"),
        (np.broadcast_to(np.True_, (9_000, 9_000)), "more than 4194304 cells"),
        (np.full((2, 2), np.nan), "dtype float64 with 4 NaN, wanted bool"),
        (np.ones((2, 2), np.float32), "dtype float32, wanted bool.*scores > threshold"),
        (np.array([["1", "0"]]), "wanted bool"),
        (np.array([[1, 1], [1, 2]]), r"compute\[1, 1\] is 2, wanted 1 \(compute\) or 0"),
        (np.array([[1, 1], [-1, 0]]), r"compute\[1, 0\] is -1"),
        (~np.eye(2, dtype=bool), r"step 0 reuses branch 0 \(attn-0\).*set compute\[0, 0\] = True"),
        (np.ones((2, 3), bool), "3 branches are not pairs of attn and mlp; name them"),
    ],
)
def test_bad_compute_is_rejected_by_name(compute, message):
    with pytest.raises(ValueError, match=message):
        CacheSchedule(compute)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"branches": ("a", "b", "c")}, "3 branch names for 4 columns"),
        ({"branches": ("a", "b", "c", "b")}, "'b' occurs twice"),
        ({"branches": ("a", "b", "c", "")}, "branch name ''"),
        ({"branches": ("a", "b", "c", "d e")}, "'d e' is empty"),
        ({"branches": ("a", "b", "c", "d\x1b[2J")}, "plain ASCII"),
        ({"branches": ("a", "b", "c", "d" * 101)}, "over 100"),
        ({"branches": "abcd"}, "wanted a tuple of 4 names"),
        ({"branches": (1, 2, 3, 4)}, "wanted a tuple of 4 names"),
        ({"family": None}, "family is None"),
        ({"source": "x\n"}, "source is .* printable"),
        ({"source": "x" * 1001}, "at most 1000"),
        ({"calls_per_step": 0}, "calls_per_step is 0"),
        ({"calls_per_step": 1.5}, "calls_per_step is 1.5"),
        ({"calls_per_step": True}, "calls_per_step is True"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": "0.1"}, "threshold is '0.1'"),
        ({"timesteps": (1.0,)}, "1 timesteps for 5 steps"),
        ({"timesteps": (5, 4, 3, float("nan"), 1)}, r"timesteps\[3\] is nan"),
        ({"timesteps": (5, 4, 3, 10**400, 1)}, r"timesteps\[3\]"),
        ({"timesteps": (5, 4, "3", 2, 1)}, r"timesteps\[2\] is '3'"),
        ({"timesteps": 7}, "timesteps is 7"),
    ],
)
def test_bad_fields_are_rejected_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        CacheSchedule(SMALL, **fields)
