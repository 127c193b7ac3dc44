"""The share of the full run's arithmetic: planned, and counted in a run that went otherwise."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from block_models import OneStream, built, inputs, times
from toys import toy_dit

import l2c_rt as rt
from l2c_rt.comparison.arithmetic import Computed, Planned, counted
from l2c_rt.methods import DBPrune
from l2c_rt.notices import L2CWarning
from l2c_rt.plan.cost import cost
from l2c_rt.plan.program import Branch
from l2c_rt.policies import EveryN, Full
from l2c_rt.runtime.last_run import Act


@pytest.mark.parametrize(
    "options", [{"backend": "reference"}, {"backend": "fused"}, {"granularity": "block"}]
)
def test_a_run_that_goes_as_planned_costs_what_was_planned(options: dict[str, str]) -> None:
    fast = rt.compile(toy_dit(), EveryN(3), steps=6, **options)
    latents, done = counted([fast], lambda: fast.sample(torch.randn(1, 4, 8, 8), [1]))
    assert latents.shape == (1, 4, 8, 8)
    assert done.share == 1 / fast.cost.speedup_limit


def test_a_run_that_had_to_be_computed_in_full_costs_a_full_run() -> None:
    fast = rt.compile(toy_dit(), EveryN(2), steps=6)

    def unrelated_inputs() -> None:
        for step in range(6):
            fast(torch.randn(1, 4, 8, 8), torch.tensor([900 - step]), torch.tensor([1]))

    with pytest.warns(L2CWarning):
        _, done = counted([fast], unrelated_inputs)
    assert done == Computed(*2 * [sum(e.all_macs for e in fast.cost.full)])


def test_steps_that_were_decided_during_the_run_cost_what_they_did() -> None:
    fast = rt.compile(toy_dit(), EveryN(2), steps=6, calls_per_step=2)
    full, cached = 0, 1 - fast.plan.order[0]
    # As a method that decides has it: four of twelve calls are cached.
    variants = Counter({(full,): 8, (cached,): 4})
    _, done = counted([fast], lambda: fast.run.shared.counts.variants.update(variants))
    plan = replace(fast.plan, order=(full,) * 4 + (cached,) * 2, coefficients=())
    expected = cost(fast.bound_model.program, plan)
    assert done.share == pytest.approx(1 / expected.speedup_limit)


@torch.no_grad()
def test_blocks_that_were_decided_one_by_one_cost_what_they_did() -> None:
    fast = rt.compile(built(OneStream, 6), DBPrune(1, 0, 0.1, 1), steps=8, timesteps=times(8))

    def run() -> None:
        for step in range(8):
            given = inputs(0) | {"timestep": inputs(step)["timestep"]}
            fast(**given | {"hidden_states": given["hidden_states"] * (1 + 0.04 * step)})

    _, done = counted([fast], run)
    reused = (fast.last_run.acts[:, 0] == Act.REUSED).sum()
    assert 0 < reused < 7 * 5
    program = fast.run.shared.counted.program
    branches = [node for node in program.nodes if isinstance(node, Branch)]
    (block,) = {branch.macs + branch.attention_macs for branch in branches}
    assert done.full_macs - done.macs == reused * block


def test_a_model_that_runs_its_own_forward_is_counted_in_one_run_for_all_its_schedules() -> None:
    model, runs = toy_dit(), list[int]()
    whole = {"steps": 6, "granularity": "block"}
    shares = Planned(
        lambda method, options: (rt.compile(model, method, **whole, **options),),
        lambda models: runs.append(models[0].sample(torch.randn(1, 4, 8, 8), [1]).numel()),
    )
    assert shares.share(Full(), {}) == 1
    for n in (2, 3):
        fast = rt.compile(model, EveryN(n), **whole)
        fast.sample(torch.randn(1, 4, 8, 8), [1])
        assert shares.share(EveryN(n), {}) == pytest.approx(1 / fast.cost.speedup_limit)
    assert len(runs) == 1
