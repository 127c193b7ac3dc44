"""Plain attributes that a fused backend has taken over are compared before every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from toys import drive, toy_dit

import l2c_rt as rt
from l2c_rt.policies import EveryN
from l2c_rt.runtime.fingerprint import PlainAttributes

CHANGES: dict[str, Callable[[Any], None]] = {
    "gelu": lambda m: setattr(m.blocks[1].mlp.act, "approximate", "none"),
    "heads": lambda m: setattr(m.blocks[0].attn, "num_heads", 4),
    "eps": lambda m: setattr(m.blocks[2].norm1, "eps", 1e-1),
    "final eps": lambda m: setattr(m.final_layer.norm_final, "eps", 1e-1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_an_attribute_changed_in_place_is_followed_by_the_next_run(
    change: str, backend: str
) -> None:
    model = toy_dit()
    fast = rt.compile(model, EveryN(2), steps=4, backend=backend)
    before = drive(fast, 4)
    CHANGES[change](model)
    after = drive(fast, 4)
    fresh = drive(rt.compile(model, EveryN(2), steps=4, backend=backend), 4)
    assert all(torch.equal(a, b) for a, b in zip(after, fresh, strict=True))
    assert not torch.equal(after[-1], before[-1])
    assert fast.summary().weight_changes == 1


def test_strict_refuses_a_changed_attribute() -> None:
    model = toy_dit()
    fast = rt.compile(model, EveryN(2), steps=4, strict=True)
    model.blocks[0].attn.num_heads = 4
    with pytest.raises(ValueError, match="strict=True refuses"):
        drive(fast, 4)


def test_equal_numbers_are_no_change_and_new_objects_are() -> None:
    module = nn.Linear(2, 2)
    module.scale, module.processor = 0.1 + 0.2, object()
    attributes = PlainAttributes([module])
    module.scale = float(str(module.scale))
    module.training = not module.training
    assert attributes.unchanged()
    module.processor = object()
    assert not attributes.unchanged()
    attributes = PlainAttributes([module])
    module.window = 3
    assert not attributes.unchanged()
