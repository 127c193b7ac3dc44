"""TaylorSeer, HiCache and diffusers' TaylorSeer: full evaluations, predictions, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from method_goldens import DitGolden, dit_28
from small_diffusers import cogvideox, dit, flux, wan

import l2c_rt as rt
from l2c_rt.correctors import HiCache as HermiteCorrector
from l2c_rt.correctors import Taylor
from l2c_rt.methods import DiffusersTaylorSeer, HiCache, TaylorSeer

BRANCHES = ("attn-0", "mlp-0")


def full(schedule):
    return np.flatnonzero(schedule.compute.all(axis=1)).tolist()


@torch.no_grad()
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_taylor_seer_is_its_published_program(backend):
    golden = DitGolden.load("taylorseer_ddim50_i4_o2")
    model = dit_28(golden.size)
    fast = rt.compile(
        model, TaylorSeer(4, 2), steps=50, timesteps=golden.timesteps, backend=backend
    )
    assert (fast.schedule.compute == golden.compute).all()
    assert golden.worst_error(fast.forward_with_cfg) < 1e-5
    other = rt.compile(model, TaylorSeer(4, 1), steps=50, timesteps=golden.timesteps)
    assert golden.worst_error(other.forward_with_cfg) > 1e-3


def test_the_first_evaluations_and_every_nth_after_them_are_full():
    assert full(TaylorSeer(4, 2).schedule(50, BRANCHES)) == [0, *range(1, 50, 4)]
    assert full(TaylorSeer(3, 1).schedule(20, BRANCHES)) == [0, *range(1, 20, 3)]
    assert full(HiCache(5, first_enhance=1).schedule(12, BRANCHES)) == [0, 5, 10]


def test_the_predictions_are_those_of_the_correctors():
    for method, corrector in (
        (TaylorSeer(3, 2), Taylor(2)),
        (HiCache(3, 2, 0.4), HermiteCorrector(2, 0.4)),
        (DiffusersTaylorSeer(3, 2, max_order=1), Taylor(1, "bfloat16")),
        (DiffusersTaylorSeer(3, 2, max_order=1, taylor_factors_dtype=torch.float32), Taylor(1)),
    ):
        schedule = method.schedule(11, BRANCHES)
        plain = rt.CacheSchedule(schedule.compute, BRANCHES)
        assert schedule.predictions == corrector.predictions(plain)


def test_diffusers_computes_the_fourth_evaluation_but_not_the_third():
    """Its defaults: 0, 1, 2, and then 4, 9, 14."""
    assert full(DiffusersTaylorSeer().schedule(16, BRANCHES)) == [0, 1, 2, 4, 9, 14]
    cooled = DiffusersTaylorSeer(disable_cache_after_step=13).schedule(16, BRANCHES)
    assert full(cooled) == [0, 1, 2, 4, 9, 13, 14, 15]


def test_the_lite_mode_is_one_site_of_all_blocks_and_the_last_linear():
    (site,) = DiffusersTaylorSeer(use_lite_mode=True).sites(flux())
    assert site[0] == "transformer_blocks.0"
    assert site[-1] == "proj_out"
    assert len(site) == 7
    fast = rt.compile(flux(), DiffusersTaylorSeer(use_lite_mode=True), steps=8)
    assert fast.schedule.branches == ("proj_out",)


@pytest.mark.parametrize("make", [wan, cogvideox, dit])
def test_patterns_that_name_nothing_are_refused_where_diffusers_caches_nothing(make):
    with pytest.raises(ValueError, match=r"match no module of .*cache_identifiers="):
        rt.compile(make(), DiffusersTaylorSeer(), steps=10)


def test_patterns_that_match_a_module_and_one_inside_of_it_are_refused_with_what_to_name():
    patterns = [r"transformer_blocks\.\d+", r"transformer_blocks\.\d+\.attn1"]
    message = r"blocks\.0\.attn1 and transformer_blocks\.0, which it lies in, .* name one"
    with pytest.raises(ValueError, match=message):
        rt.compile(dit(2), DiffusersTaylorSeer(cache_identifiers=patterns), steps=10)


def test_identifiers_of_some_branches_of_a_known_model_leave_the_others_alone():
    """A list, which is never called, counts for nothing, as in diffusers."""
    method = DiffusersTaylorSeer(cache_identifiers=[r"transformer_blocks(\.\d+\.attn1)?"])
    fast = rt.compile(dit(2), method, steps=10)
    assert fast.schedule.branches == ("transformer_blocks.0.attn1", "transformer_blocks.1.attn1")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaylorSeer(0), "TaylorSeer: interval is 0"),
        (lambda: TaylorSeer(4, 9), "order is 9"),
        (lambda: TaylorSeer(4, 2, 0), "first_enhance is 0"),
        (lambda: HiCache(4, 2, 1.5), "sigma is 1.5"),
        (lambda: HiCache(True), "interval is True"),
        (lambda: DiffusersTaylorSeer(0), "cache_interval is 0"),
        (lambda: DiffusersTaylorSeer(5, 0), "disable_cache_before_step is 0"),
        (lambda: DiffusersTaylorSeer(disable_cache_after_step=-1), "after_step is -1"),
        (lambda: DiffusersTaylorSeer(max_order=-1), "order is -1"),
        (lambda: DiffusersTaylorSeer(taylor_factors_dtype="int8"), "wanted one of bfloat16"),
        (lambda: Taylor(1, "float32"), "wanted None or one of bfloat16"),
        (lambda: DiffusersTaylorSeer(cache_identifiers=["("]), r"cache_identifiers: '\('"),
        (lambda: DiffusersTaylorSeer(use_lite_mode=True).sites(torch.nn.Linear(1, 1)), "0 blocks"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    with pytest.raises(TypeError, match="wanted a list of regular expressions"):
        DiffusersTaylorSeer(cache_identifiers="attn")
