"""The model's own guided call, over the compiled forward."""

from __future__ import annotations

import pytest
import torch
from oracle import Oracle
from three_backends import STEPS, assert_near, assert_same, every_backend, fresh
from toys import call_inputs, timesteps, toy_dit, toy_uvit

from l2c_rt.api import compile
from l2c_rt.policies import Full


def test_where_everything_is_computed_it_is_the_models_own_bitwise() -> None:
    model = toy_dit()
    x, t, y = call_inputs(0, batch=4)
    with torch.no_grad():
        expected = model.forward_with_cfg(x, t, y, 1.5)
    fast = compile(model, Full(), steps=3, backend="reference")
    assert torch.equal(fast.forward_with_cfg(x, t, y, 1.5), expected)


@every_backend
def test_a_run_of_guided_calls_is_the_naive_cached_ones(backend: str) -> None:
    fast = fresh(backend, timesteps=timesteps(STEPS))
    oracle = Oracle(fast.bound_model.model, fast.schedule.compute)
    for step in range(STEPS):
        inputs = call_inputs(step, batch=4)
        with torch.no_grad():
            expected = oracle.forward_with_cfg(*inputs, cfg_scale=1.5)
        output = fast.forward_with_cfg(*inputs, cfg_scale=1.5)
        (assert_same if backend == "reference" else assert_near)([output], [expected])
    assert fast.summary().runs == 1


def test_a_model_that_has_none_is_refused() -> None:
    with pytest.raises(AttributeError, match="UViT has no forward_with_cfg"):
        fresh("reference", toy_uvit()).forward_with_cfg(*call_inputs(0), 1.5)


def test_the_guided_call_of_a_subclass_is_its_own() -> None:
    class Half(type(toy_dit())):  # type: ignore[misc]
        def forward_with_cfg(self, x: torch.Tensor, t: object, y: object) -> torch.Tensor:
            return self.forward(x, t, y) / self.in_channels

    model = toy_dit()
    model.__class__ = Half
    x, t, y = call_inputs(0)
    with torch.no_grad():
        expected = model(x, t, y) / 4
    fast = compile(model, Full(), steps=2, backend="reference")
    assert torch.equal(fast.forward_with_cfg(x, t, y), expected)
