"""Learning in loops of users: ahead of random at equal compute, the rest left as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from own_loops import Case, pipeline_case, unet_case
from soft_oracle import SoftOracle
from toy_learning import toy_inputs, toy_loop, toy_loop_options
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.adapters.model_fingerprint import model_fingerprint
from l2c_rt.families import OWN_LOOP
from l2c_rt.learning.own_loop import guided, loop_seed, loop_task
from l2c_rt.learning.state import start
from l2c_rt.policies.router import Router

pytest.importorskip("diffusers", reason="the diffusers extra is not installed")


def flux_like() -> Case:
    return pipeline_case("FluxPipeline")


def wan_like() -> Case:
    return pipeline_case("WanPipeline", cfg_scale=5.0)


@pytest.mark.parametrize(
    ("case", "granularity"), [(flux_like, "block"), (wan_like, "branch"), (unet_case, "branch")]
)
def test_learned_is_ahead_of_random_at_equal_compute(
    case: Callable[[], Case], granularity: str
) -> None:
    setup = case()
    schedule = setup.learned(granularity=granularity).schedule()
    learned, *random = setup.errors([schedule, *setup.at_equal_compute(schedule, range(4))])
    assert learned < 0.75 * np.mean(random), (learned, random)


def test_learned_depths_of_a_unet_are_the_best_at_equal_compute() -> None:
    setup = unet_case()
    router = setup.learned(granularity="shell", iterations=40)
    schedule = router.schedule()
    macs = setup.macs(schedule)
    tables = []
    for depths in product(range(1, len(macs) + 1), repeat=3):
        compute = np.ones_like(schedule.compute)
        for row, depth in zip((1, 3, 5), depths, strict=True):
            compute[row, depth:] = False
        tables.append(compute)
    saved = (~schedule.compute * macs).sum()
    equal = [replace(schedule, compute=t) for t in tables if (~t * macs).sum() == saved]
    learned, *others = setup.errors([schedule, *equal])
    assert len(others) > 3
    assert learned == min(others) < 0.9 * max(others)
    for reuse in np.linspace(0, 1, 16):
        assert (np.diff(router.schedule(reuse=reuse).compute.astype(int), axis=1) <= 0).all()


@pytest.mark.parametrize("granularity", ["branch", "block"])
def test_a_router_brings_what_compiling_and_enabling_need(tmp_path: Path, granularity: str) -> None:
    setup = flux_like()
    setup.learned(granularity=granularity, iterations=2, out=tmp_path, report=0)
    router = Router.load(tmp_path / "router.safetensors")
    assert (router.family, router.granularity) == ("own", granularity)
    assert router.fingerprint == model_fingerprint(setup.model)
    assert router.timesteps == pytest.approx([1 - k / 6 for k in range(6)], rel=1e-5)
    assert router.branches[0] == "transformer_blocks.0" + (
        ".attn" if granularity == "branch" else ""
    )
    fast = rt.compile(setup.model, tmp_path / "router.safetensors")
    cached, full = setup.loop(fast, 1), setup.loop(setup.model, 1)
    assert 0 < float((cached - full).norm() / full.norm()) < 0.1


def test_a_router_learned_at_named_sites_loads_without_naming_them_again() -> None:
    setup = wan_like()
    router = setup.learned(iterations=2, sites=["blocks.*.attn?"])
    assert rt.compile(setup.model, router).schedule.branches == router.branches
    assert len(router.branches) == 4


def test_a_learned_router_is_enabled_in_the_pipeline() -> None:
    setup = wan_like()
    router = setup.learned(iterations=2)
    full = setup.loop(setup.model, 1)
    with rt.enable(setup.pipe, router):
        cached = setup.loop(setup.pipe.transformer, 1)
    assert 0 < float((cached - full).norm() / full.norm()) < 0.1


def test_the_loss_is_that_of_a_naive_mixture() -> None:
    model = toy_dit()
    source = loop_task(model, toy_loop, toy_loop_options(), False, False).source
    state = start(OWN_LOOP.valid_rows(4).values(), source.costs, toy_loop_options())
    sums = source.gather(state, 0)
    naive, slopes, errors = SoftOracle(model), [], []
    seed = loop_seed(0, 0, 0)
    for step in range(0, 4, 2):
        before, now = toy_inputs(step, seed), toy_inputs(step + 1, seed)
        with torch.no_grad():
            naive.record(*before)
            teacher = model(*now)
        weights = state.logits[step // 2].sigmoid().requires_grad_()
        loss = (naive.mixed(*now, weights) - teacher).square().mean()
        loss.backward()
        slopes.append(weights.grad)
        errors.append(float(loss.detach()))
    assert float(sums.error) == pytest.approx(sum(errors), rel=1e-4)
    torch.testing.assert_close(sums.slope.float(), torch.stack(slopes), rtol=1e-3, atol=1e-8)


def test_guidance_is_learned_after_it() -> None:
    cond, uncond = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])
    assert guided([cond, uncond], 4.0)[0].tolist() == [9.0, 1.0]
    assert guided([torch.cat([uncond, cond])], 4.0)[0].tolist() == [9.0, 1.0]
    assert guided([(cond, uncond), (uncond, uncond)], 4.0)[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("case", "granularity"), [(flux_like, "branch"), (unet_case, "shell")])
def test_checkpointing_changes_no_score(case: Callable[[], Case], granularity: str) -> None:
    given = {"iterations": 3, "granularity": granularity}
    plain, twice = (case().learned(checkpointing=value, **given) for value in (False, True))
    np.testing.assert_allclose(plain.logits, twice.logits, atol=1e-4)


def test_the_penalty_of_a_branch_is_what_it_computes() -> None:
    setup = flux_like()
    task = loop_task(setup.model, setup.loop, toy_loop_options(steps=6), False, False)
    macs = setup.macs(setup.learned(iterations=1).schedule())
    np.testing.assert_allclose(task.source.costs, macs / macs.mean())


def test_learning_leaves_the_model_and_the_generators_alone() -> None:
    setup = flux_like()
    model, before = setup.model, dict(vars(setup.model))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    setup.learned(iterations=2)
    assert torch.equal(torch.rand(3), expected)
    assert vars(model) == before
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_what_the_loop_was_given_is_the_model_when_learning_is_over() -> None:
    setup, given = flux_like(), []
    loop = replace(setup, loop=lambda m, seed: given.append(m) or setup.loop(m, seed))
    loop.learned(iterations=1)
    assert all(torch.equal(setup.loop(m, 3), setup.loop(setup.model, 3)) for m in given[-2:])
