"""What `compile` hands back: a stand-in for the model that leaves the model alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from three_backends import STEPS, every_backend, fresh
from toys import drive, noise, toy_dit

from l2c_rt.api import compile
from l2c_rt.policies import Full


@every_backend
def test_the_users_model_is_left_as_it_was(backend: str) -> None:
    model = toy_dit()
    modules = {name: id(module) for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fast = fresh(backend, model)
    drive(fast, STEPS)
    fast.sample(noise(), [1, 2])
    assert modules == {name: id(module) for name, module in model.named_modules()}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_attributes_are_the_models() -> None:
    fast = compile(toy_dit(), Full(), steps=2)
    assert fast.in_channels == 4
    assert fast.eval() is fast
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = fast.no_such_thing


def test_it_is_neither_copied_nor_pickled() -> None:
    fast = compile(toy_dit(), Full(), steps=2)
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="compile a copy of the model"):
            attempt(fast)


def test_its_repr_says_how_much_is_computed_and_how() -> None:
    fast = fresh("fused")
    computed = int(fast.schedule.compute.sum())
    text = f"Compiled(DiT, 6 evaluations, {computed} of 36 branch calls computed, backend='fused')"
    assert repr(fast) == text
