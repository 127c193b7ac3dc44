"""A tiny FLUX with something of another package on it, run with and without a cache."""

from __future__ import annotations

from typing import Any

import torch
from cached_oracle import Oracle
from diffusers_families import first_tensor
from diffusers_image_families import IMAGE_FAMILIES
from small_models import all_equal
from torch import Tensor

import l2c_rt as rt
from l2c_rt.policies import EveryN, Full
from l2c_rt.policies.policy import Policy
from l2c_rt.runtime.compiled import Compiled

STEPS = 4
FLUX = IMAGE_FAMILIES["Flux"]
TIMES = [float(FLUX.at(step)["timestep"][0]) for step in range(STEPS)]


def flux_loop(model: Any, **more: Any) -> list[Tensor]:
    """What the evaluations of a run give; `more` are further arguments of the forward."""
    with torch.no_grad():
        return [first_tensor(model(**(FLUX.at(step) | more))) for step in range(STEPS)]


def compiled(model: Any, policy: Policy, **options: Any) -> Compiled:
    """`compile` for `flux_loop`."""
    return rt.compile(model, policy, steps=STEPS, timesteps=TIMES, **options)


def check_composes(model: Any, **more: Any) -> None:
    """All computed is bitwise the model, cached bitwise a naive cache around the same modules."""
    own = flux_loop(model, **more)
    full, fast = (compiled(model, policy) for policy in (Full(), EveryN(2)))
    assert (full.backend.name, fast.backend.name) == ("own", "own")
    assert all_equal(flux_loop(full, **more), own)
    cached = flux_loop(fast, **more)
    assert [torch.equal(a, b) for a, b in zip(cached, own, strict=True)] == [
        True, True, False, True
    ]  # fmt: skip
    paths = {site.name: site.children[-1] for site in fast.bound_model.sites}
    oracle = Oracle(model, fast.schedule, paths, copied=False)
    assert all_equal(cached, flux_loop(oracle, **more))
    oracle.remove()
    assert all_equal(cached, flux_loop(fast, **more))
