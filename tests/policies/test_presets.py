from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from router_files import archive, dit_pickle, drawn_logits

from l2c_rt import presets
from l2c_rt.families import cached_evaluations
from l2c_rt.policies import EveryN, Full
from l2c_rt.policies.router import Router
from l2c_rt.resolve import resolve_schedule
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
    assert (schedule.sampler, schedule.lanes, schedule.threshold) == published
    assert "arXiv 2406.01733" in schedule.source
    assert "_router.pt" in schedule.source


def test_an_unknown_preset_lists_the_names():
    with pytest.raises(ValueError, match="no preset 'l2c/none'; there are l2c/dit-xl-2-256/ddim"):
        presets.load("l2c/none")


LOGITS = drawn_logits(10, 8)
ROUTER = Router(LOGITS, "dit", 10)
SCHEDULE = ROUTER.schedule()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SCHEDULE.save(tmp_path / "schedule.json")
    ROUTER.save(tmp_path / "router.safetensors")
    (tmp_path / "router.pt").write_bytes(archive(dit_pickle(LOGITS), LOGITS))
    return tmp_path


def test_a_schedule_and_a_router_resolve_to_a_schedule():
    assert resolve_schedule(SCHEDULE) is SCHEDULE
    assert resolve_schedule(ROUTER, steps=10, branches=SCHEDULE.branches) == SCHEDULE


@pytest.mark.parametrize("name", ["schedule.json", "router.safetensors", "router.pt"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_resolves_to_a_schedule(folder, name, kind):
    assert resolve_schedule(kind(folder / name)) == SCHEDULE


def test_a_preset_name_resolves_to_a_schedule():
    name = "l2c/dit-xl-2-256/ddim-50"
    assert resolve_schedule(name, steps=50) == presets.load(name)


def test_a_policy_resolves_for_a_run():
    made = resolve_schedule(EveryN(2), steps=6, branches=("a", "b"))
    assert made == EveryN(2).schedule(6, ("a", "b"))
    for known in ({}, {"steps": 6}, {"branches": ("a",)}):
        with pytest.raises(ValueError, match=r"EveryN is a policy.*give steps="):
            resolve_schedule(EveryN(2), **known)


@pytest.mark.parametrize("spec", [None, 3, EveryN, Full, object(), np.ones((2, 2))])
def test_anything_else_is_a_type_error_that_lists_what_is_accepted(spec):
    with pytest.raises(TypeError, match=r"wanted a CacheSchedule, a Router, a policy.*preset name"):
        resolve_schedule(spec, steps=2, branches=("a", "b"))


def test_a_policy_that_makes_something_else_is_a_type_error():
    class Odd:
        def schedule(self, steps, branches):
            return [steps, branches]

    with pytest.raises(TypeError, match=r"Odd\.schedule made a list"):
        resolve_schedule(Odd(), steps=2, branches=("a", "b"))


@pytest.mark.parametrize(
    ("spec", "known", "message"),
    [
        ("l2c/dit-xl-2-256/ddim-51", {}, "is no preset .l2c/dit-xl-2-256/ddim-20"),
        (SCHEDULE, {"steps": 20}, "CacheSchedule is for 10 steps, the run has 20"),
        ("l2c/uvit-h-2-256/dpm-20", {"steps": 50}, "'l2c/uvit.* is for 20 steps"),
        (SCHEDULE, {"branches": ("a",) * 4}, "8 branches, the model has 4; use a schedule"),
        (SCHEDULE, {"branches": tuple("abcdefgh")}, "branch 0 is 'attn-0', the model's is 'a'"),
    ],
)
def test_what_does_not_fit_is_rejected_by_name(spec, known, message):
    with pytest.raises(ValueError, match=message):
        resolve_schedule(spec, **known)


def test_a_missing_file_is_a_missing_file():
    with pytest.raises(FileNotFoundError):
        resolve_schedule("missing.json")


def test_presets_are_files_that_the_public_loader_reads():
    folder = Path(presets.__file__).parent
    loaded = [CacheSchedule.load(path) for path in sorted(folder.glob("*.json"))]
    assert loaded == [presets.load(name) for name in presets.names()]
