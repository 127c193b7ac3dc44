"""What changes a model's fingerprint, and what does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from toys import call_inputs, toy_dit

from l2c_rt.runtime.fingerprint import fingerprint


def add_in_place(model: Any) -> None:
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.add_(1)


def write_a_buffer(model: Any) -> None:
    model.register_buffer("mean", torch.zeros(1))


def share_a_module(model: Any) -> None:
    model.blocks[1].mlp = model.blocks[0].mlp


CHANGES: dict[str, Callable[[Any], object]] = {
    "an in-place write": add_in_place,
    "load_state_dict": lambda model: model.load_state_dict(toy_dit().state_dict()),
    "to": lambda model: model.to(torch.float64),
    "train": lambda model: model.train(),
    "a replaced module": lambda model: model.blocks.insert(1, copy.deepcopy(model.blocks.pop(1))),
    "a shared module": share_a_module,
    "a hook": lambda model: model.blocks[0].register_forward_hook(lambda *_: None),
    "a forward of its own": lambda model: setattr(model.blocks[0], "forward", lambda x, c: x),
    "a buffer": write_a_buffer,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change: str) -> None:
    model = toy_dit()
    before = fingerprint(model)
    CHANGES[change](model)
    assert fingerprint(model) != before


def test_running_a_model_changes_nothing() -> None:
    model = toy_dit()
    before = fingerprint(model)
    with torch.no_grad():
        model(*call_inputs(0))
    model.state_dict()
    list(model.named_modules())
    assert fingerprint(model) == before


def test_a_write_through_data_leaves_no_mark() -> None:
    model = toy_dit()
    before = fingerprint(model)
    model.blocks[0].attn.qkv.weight.data.add_(1)
    assert fingerprint(model) == before


def test_a_model_made_in_inference_mode_has_one_too() -> None:
    with torch.inference_mode():
        model = toy_dit()
    assert fingerprint(model) == fingerprint(model)
