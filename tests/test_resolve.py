"""The second argument of rt.compile: everything that stands for a schedule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from router_files import archive, dit_pickle, drawn_logits

from l2c_rt import presets
from l2c_rt.policies import EveryN, Full
from l2c_rt.policies.router import Router
from l2c_rt.resolve import resolve_schedule

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
    schedule = resolve_schedule(EveryN(2), steps=6, branches=("a", "b"))
    assert schedule == EveryN(2).schedule(6, ("a", "b"))
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

    with pytest.raises(TypeError, match=r"Odd\.schedule returned a list"):
        resolve_schedule(Odd(), steps=2, branches=("a", "b"))


@pytest.mark.parametrize(
    ("spec", "known", "message"),
    [
        ("l2c/dit-xl-2-256/ddim-51", {}, "is not a preset .l2c/dit-xl-2-256/ddim-20"),
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
