"""Router: which row is whose, what a threshold and a share make of scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_files import drawn_logits
from strategies import routers

from l2c_rt.families import FAMILIES, rules_named
from l2c_rt.policies.router import Router

LOGITS = drawn_logits()


def test_rows_of_dit_count_from_the_clean_end():
    assert Router(np.zeros((4, 2)), "dit", 4).valid_rows() == {1: 2, 3: 0}
    assert Router(np.zeros((5, 2)), "dit", 5).valid_rows() == {2: 2, 4: 0}


def test_rows_of_uvit_count_solver_steps_from_the_noisy_end():
    assert Router(np.zeros((8, 2)), "uvit", 8).valid_rows() == {2: 1, 4: 2, 6: 3}
    assert Router(np.zeros((4, 2)), "uvit", 8).valid_rows() == {2: 1, 4: 2, 6: 3}


def test_rows_of_a_router_for_an_own_loop_are_its_evaluations():
    assert Router(np.zeros((5, 2)), "own", 5).valid_rows() == {1: 1, 3: 3}


def test_a_score_above_the_threshold_computes():
    logits = np.full((4, 2), 7.0, np.float32)
    logits[2] = [0.0, 1e-4]
    schedule = Router(logits, "dit", 4).schedule(threshold=0.5)
    assert schedule.row(1) == (False, True)
    assert schedule.row(3) == (True, True)


@given(router=routers())
def test_unused_rows_change_nothing(router):
    logits = np.array(router.logits)
    logits[sorted(set(range(len(logits))) - set(router.valid_rows().values()))] = 5.0
    other = Router(logits, router.family, router.steps)
    assert other.schedule() == router.schedule()
    assert other.schedule(reuse=0.5) == router.schedule(reuse=0.5)


@given(router=routers(), reuse=st.floats(0, 1))
def test_a_reuse_share_is_met_exactly_and_takes_the_lowest_scores(router, reuse):
    schedule = router.schedule(reuse=reuse)
    rows = router.valid_rows()
    cells = len(rows) * len(router.branches)
    reused = ~schedule.compute[list(rows)]
    assert reused.sum() == (~schedule.compute).sum() == round(reuse * cells)
    used = router.logits[list(rows.values())]
    if reused.any() and not reused.all():
        assert used[reused].max() <= used[~reused].min()
    if schedule.threshold is not None:
        assert router.schedule(schedule.threshold) == schedule


def test_ties_go_by_evaluation_and_then_by_branch():
    schedule = Router(np.zeros((6, 2)), "dit", 6).schedule(reuse=0.5)
    assert [schedule.row(n) for n in (1, 3, 5)] == [(False,) * 2, (False, True), (True, True)]
    assert schedule.threshold is None
    logits = np.random.default_rng(0).integers(0, 3, (40, 40)).astype(np.float32)
    compute = Router(logits, "dit", 40).schedule(reuse=0.5).compute[1::2].ravel()
    values = logits[38::-2].ravel().tolist()
    lowest = sorted(range(800), key=lambda k: values[k])[:400]
    assert np.flatnonzero(~compute).tolist() == sorted(lowest)


@given(router=routers())
def test_a_schedule_carries_where_it_comes_from(router):
    schedule, rules = router.schedule(), rules_named(router.family)
    assert schedule.family == (router.family if router.family in FAMILIES else "")
    assert (schedule.calls_per_step, schedule.source) == (rules.calls_per_step, "drawn")
    assert schedule.threshold == rules.threshold
    for field in ("branches", "granularity", "sampler", "timesteps"):
        assert getattr(schedule, field) == getattr(router, field)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "sdxl"}, "family is 'sdxl', wanted one of"),
        ({"steps": 12}, "a DiT router for 12 steps has 12 rows, not 10"),
        ({"steps": 0}, "0 steps"),
        ({"steps": 10.0}, r"steps is 10\.0, wanted an int"),
        ({"family": "uvit", "steps": 9}, "whole solver steps of 2 evaluations, not for 9"),
        ({"family": "uvit", "steps": 8}, r"8 steps has 4\.\.8 rows, not 10"),
        ({"family": "uvit", "steps": 22}, r"22 steps has 11\.\.22 rows, not 10"),
        ({"logits": np.zeros((10, 8), int)}, "logits are int64"),
        ({"logits": np.zeros(10)}, r"float64 \(10,\)"),
        ({"branches": ("a",)}, "1 branch names for 8"),
        ({"source": "\x1b"}, "source is"),
        ({"training": "{"}, "training is not a JSON"),
        ({"granularity": "layer"}, "granularity: got 'layer', wanted 'branch', 'block' or 'shell'"),
        ({"timesteps": (1.0,)}, "1 timesteps for 10 steps"),
    ],
)
def test_a_bad_router_is_rejected_by_name(fields, message):
    good = {"logits": LOGITS, "family": "dit", "steps": 10}
    with pytest.raises(ValueError, match=message):
        Router(**{**good, **fields})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_used_score_must_be_finite(value):
    logits = LOGITS.copy()
    logits[2, 3] = value
    with pytest.raises(ValueError, match=r"row 2 \(evaluation 7\), mlp-1: the score is"):
        Router(logits, "dit", 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.5, "reuse": 0.5}, "not both"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"reuse": -0.1}, "reuse is -0.1"),
        ({"reuse": float("nan")}, "reuse is nan"),
    ],
)
def test_a_bad_cut_is_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        Router(LOGITS, "dit", 10).schedule(**options)


def test_scores_are_sigmoids_without_warnings():
    logits = np.array([[-800.0, 0.0], [np.nan, np.inf]])
    scores = Router(logits, "dit", 2).scores
    np.testing.assert_array_equal(scores, [[0.0, 0.5], [np.nan, 1.0]])
