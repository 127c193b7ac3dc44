"""A fingerprint is the model's: the same wherever and however it is held, another when trained."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from toys import toy_dit, toy_uvit

from l2c_rt.adapters.model_fingerprint import (
    MAX_VALUES,
    fingerprint_difference,
    model_fingerprint,
    weights_digest,
)
from l2c_rt.schedule.checks import check_fingerprint


def of(model: nn.Module) -> str:
    fingerprint = model_fingerprint(model)
    check_fingerprint(fingerprint)
    return fingerprint


def changed(model: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model


def test_it_is_the_same_every_time_and_for_a_copy() -> None:
    model = toy_dit()
    assert of(model) == of(model) == of(toy_dit())
    copy = toy_dit()
    copy.load_state_dict(changed(toy_dit(), 3.0).state_dict())
    assert of(copy) != of(model)


@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
@pytest.mark.parametrize("there", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_model_is_taken_for_the_same_one(make, there) -> None:
    fingerprint = of(make())
    cast = of(make().to(there))
    assert not fingerprint_difference(fingerprint, cast)
    assert not fingerprint_difference(cast, of(make().to(there).float()))


def test_two_casts_from_bfloat16_are_taken_for_the_same_one() -> None:
    model = toy_dit().to(torch.bfloat16)
    assert not fingerprint_difference(of(model), of(model.to(torch.float16)))


def test_a_trained_model_is_another() -> None:
    before, model = of(toy_dit()), toy_dit()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    out = model(torch.randn(2, 4, 8, 8), torch.tensor([3, 500]), torch.tensor([1, 2]))
    out.square().sum().backward()
    optimizer.step()
    assert fingerprint_difference(before, of(model)) == "weights"


def test_a_change_of_any_one_weight_tensor_shows() -> None:
    before = of(toy_dit())
    names = [name for name, value in toy_dit().named_parameters() if value.numel() > 1]
    for name in names:
        model = toy_dit()
        with torch.no_grad():
            model.get_parameter(name).add_(0.5)
        assert fingerprint_difference(before, of(model)) == "weights", name


def test_other_shapes_are_told_from_other_weights() -> None:
    assert "shapes" in fingerprint_difference(of(toy_dit()), of(toy_dit(depth=2)))
    assert "shapes" in fingerprint_difference(of(toy_dit()), of(toy_uvit()))


def test_wrappers_of_names_and_the_layout_of_tensors_make_no_difference() -> None:
    model = toy_dit()
    before = of(model)
    model.blocks[0] = nn.Sequential()  # Replaced below by what torch.compile calls it.
    wrapper = nn.Module()
    wrapper._orig_mod = toy_dit().blocks[0]
    model.blocks[0] = wrapper
    assert of(model) == before
    sideways = toy_dit()
    weight = sideways.blocks[0].attn.qkv.weight
    weight.data = weight.data.T.contiguous().T
    assert of(sideways) == before


def test_a_model_without_values_has_the_shapes_only() -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 3)
    assert fingerprint_difference(of(model), of(nn.Linear(3, 3))) == "weights"
    of(nn.Identity())


def test_a_large_model_is_sampled_and_not_read() -> None:
    large = nn.Linear(4096, 8192)
    start = time.perf_counter()
    of(large)
    assert time.perf_counter() - start < 0.5
    assert large.weight.numel() > 100 * MAX_VALUES


def test_the_digest_of_weights_is_of_every_bit_and_of_the_dtype() -> None:
    model = toy_dit()
    digest = weights_digest(model)
    assert digest == weights_digest(toy_dit())
    with torch.no_grad():
        # The last bit of one value.
        model.blocks[1].mlp.fc1.weight.view(torch.int32)[3, 5] ^= 1
    assert weights_digest(model) != digest
    assert weights_digest(toy_dit().double()) != digest
