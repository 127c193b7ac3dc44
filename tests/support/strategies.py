"""Hypothesis strategies for schedules and routers, for every test that needs any one of them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from l2c_rt.policies.router import Router
from l2c_rt.schedule.cache_schedule import CacheSchedule

GRANULARITY = st.sampled_from(["branch", "block", "shell"])


def timesteps(steps: int) -> st.SearchStrategy[tuple[float, ...] | None]:
    """Any timesteps of a run, or none."""
    return st.none() | st.lists(st.floats(-1e6, 1e6), min_size=steps, max_size=steps).map(tuple)


@st.composite
def schedules(
    draw: st.DrawFn, max_steps: int = 12, max_blocks: int = 6, blocks: int | None = None
) -> CacheSchedule:
    """Any schedule of attn and mlp branches, dense and sparse ones alike."""
    steps = draw(st.integers(1, max_steps))
    num_blocks = blocks or draw(st.integers(1, max_blocks))
    compute = draw(npst.arrays(np.bool_, (steps, 2 * num_blocks)))
    compute[0] = True
    return CacheSchedule(
        compute,
        family=draw(st.sampled_from(["", "dit", "uvit"])),
        calls_per_step=draw(st.integers(1, 2)),
        threshold=draw(st.none() | st.floats(0, 1)),
        source=draw(st.text('abc _\u00e9\u4e2d"\\', max_size=8)),
        timesteps=draw(timesteps(steps)),
        granularity=draw(GRANULARITY),
    )


@st.composite
def routers(draw: st.DrawFn, max_steps: int = 10, max_blocks: int = 4) -> Router:
    """Any router: few distinct logits, so that ties occur, and anything in the unused rows."""
    family = draw(st.sampled_from(["dit", "uvit", "own"]))
    steps = draw(st.integers(1, max_steps // 2)) * 2
    if family != "uvit":
        steps -= draw(st.integers(0, 1))
    branches = 2 * draw(st.integers(1, max_blocks))
    scores = st.sampled_from([-60.0, -2.5, -2.0, 0.0, 0.25, 3.0, 60.0])
    logits = draw(npst.arrays(np.float32, (steps, branches), elements=scores))
    used = list(Router(np.zeros_like(logits), family, steps).valid_rows().values())
    unused = sorted(set(range(steps)) - set(used))
    logits[unused] = draw(st.sampled_from([0.0, np.nan, np.inf, -np.inf]))
    return Router(
        logits, family, steps, source="drawn", timesteps=draw(timesteps(steps)),
        granularity=draw(GRANULARITY),
    )  # fmt: skip
