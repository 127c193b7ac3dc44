"""Guidance-distilled models: one call per step, whose guidance is an input like any other."""

from __future__ import annotations

import torch
from cached_oracle import Oracle
from composed_flux import FLUX, STEPS, compiled, flux_loop
from small_models import all_equal

from l2c_rt.policies import EveryN, Full


def test_each_run_uses_the_guidance_that_it_is_given() -> None:
    model = FLUX.build()
    assert model.config.guidance_embeds
    full, fast = compiled(model, Full()), compiled(model, EveryN(2))
    assert fast.calls_per_step == 1
    paths = {site.name: site.children[-1] for site in fast.bound_model.sites}
    runs = []
    for guidance in (1.0, 3.5, 7.0):
        inputs = {"guidance": torch.full((2,), guidance)}
        assert all_equal(flux_loop(full, **inputs), flux_loop(model, **inputs))
        runs.append(flux_loop(fast, **inputs))
        oracle = Oracle(model, fast.schedule, paths)
        assert all_equal(runs[-1], flux_loop(oracle, **inputs))
    assert not torch.equal(runs[0][2], runs[1][2])
    assert fast.summary().runs == 3


def test_guidance_may_change_within_a_run_at_what_is_computed() -> None:
    model = FLUX.build()
    fast = compiled(model, EveryN(2))
    calls = [
        FLUX.at(step) | {"guidance": torch.full((2,), 1.0 + step)} for step in range(STEPS)
    ]  # fmt: skip
    with torch.no_grad():
        outputs = [fast(**call)[0] for call in calls]
        own = [model(**call)[0] for call in calls]
    assert [torch.equal(a, b) for a, b in zip(outputs, own, strict=True)] == [
        True, True, False, True
    ]  # fmt: skip
