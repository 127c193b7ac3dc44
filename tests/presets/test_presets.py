"""The four published schedules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from l2c_rt import presets
from l2c_rt.families import cached_evaluations
from l2c_rt.schedule.cache_schedule import CacheSchedule

# (steps, branches), cells of cached evaluations, computed of them, attn, mlp, distinct rows
FACTS = {
    "l2c/dit-xl-2-256/ddim-20": ((20, 56), 560, 312, 157, 155, 7),
    "l2c/dit-xl-2-256/ddim-50": ((50, 56), 1400, 736, 371, 365, 14),
    "l2c/uvit-h-2-256/dpm-20": ((20, 58), 522, 189, 103, 86, 10),
    "l2c/uvit-h-2-256/dpm-50": ((50, 58), 1392, 88, 47, 41, 15),
}
ROWS = {
    "l2c/dit-xl-2-256/ddim-20": [0, 0, 4, 8, 26, 53, 55, 55, 55, 56],
    "l2c/uvit-h-2-256/dpm-20": [0, 2, 6, 6, 8, 16, 49, 52, 50],
}


def test_the_four_published_schedules_are_there():
    assert presets.names() == tuple(FACTS)


@pytest.mark.parametrize("name", FACTS)
def test_a_preset_has_the_published_counts(name):
    shape, cells, computed, attn, mlp, distinct = FACTS[name]
    schedule = presets.load(name)
    cached = list(cached_evaluations(schedule.steps, schedule.family))
    assert schedule.compute.shape == shape
    assert schedule.compute[cached].size == cells
    assert schedule.compute[cached].sum() == computed == attn + mlp
    assert schedule.compute[cached][:, 0::2].sum() == attn
    assert schedule.compute[cached][:, 1::2].sum() == mlp
    assert np.delete(schedule.compute, cached, axis=0).all()
    assert len(schedule.distinct_rows()) == distinct


@pytest.mark.parametrize("name", ROWS)
def test_a_preset_has_the_published_counts_per_evaluation(name):
    schedule = presets.load(name)
    cached = list(cached_evaluations(schedule.steps, schedule.family))
    assert schedule.compute[cached].sum(axis=1).tolist() == ROWS[name]


@pytest.mark.parametrize("name", FACTS)
def test_a_preset_says_where_it_comes_from(name):
    schedule = presets.load(name)
    published = {"dit": ("ddim", 1, 0.1), "uvit": ("dpm-solver", 2, 0.9)}[schedule.family]
    assert (schedule.sampler, schedule.calls_per_step, schedule.threshold) == published
    assert "arXiv 2406.01733" in schedule.source
    assert "_router.pt" in schedule.source


def test_an_unknown_preset_lists_the_names():
    with pytest.raises(
        ValueError, match="'l2c/none' is not a preset; there are l2c/dit-xl-2-256/ddim"
    ):
        presets.load("l2c/none")


def test_presets_are_files_that_the_public_loader_reads():
    folder = Path(presets.__file__).parent
    loaded = [CacheSchedule.load(path) for path in sorted(folder.glob("*.json"))]
    assert loaded == [presets.load(name) for name in presets.names()]
