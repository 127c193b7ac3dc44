"""A model that changes between runs: noticed before the next one, or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from three_backends import STEPS, again, assert_near, assert_same, every_backend, fresh
from torch import Tensor, nn
from toys import call_inputs, drive, noise, timesteps, toy_dit

GRID = timesteps(STEPS)


def counted(model: nn.Module) -> None:
    """As an optimizer's step."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)


def uncounted(model: nn.Module) -> None:
    """Through `.data`, which leaves no mark in PyTorch."""
    for parameter in model.parameters():
        parameter.data.mul_(1.1)


def replaced(model: Any) -> None:
    model.blocks[1] = copy.deepcopy(model.blocks[0])


CHANGES = [(counted, 1), (uncounted, 0), (replaced, 1)]


@every_backend
@pytest.mark.parametrize(("change", "noticed"), CHANGES)
def test_the_next_run_uses_what_changed(
    backend: str, change: Callable[[nn.Module], None], noticed: int
) -> None:
    fast = fresh(backend, timesteps=GRID)
    before = drive(fast, STEPS)
    change(fast.bound_model.model)
    after = drive(fast, STEPS)
    assert_same(after, drive(again(backend, fast, timesteps=GRID), STEPS))
    assert not torch.equal(after[0], before[0])
    assert fast.summary().weight_changes == noticed
    assert ("changed once, noticed" in str(fast.summary())) == bool(noticed)


@every_backend
@pytest.mark.parametrize(("change", "noticed"), CHANGES)
def test_the_next_sample_uses_what_changed(
    backend: str, change: Callable[[nn.Module], None], noticed: int
) -> None:
    fast = fresh(backend)
    fast.sample(noise(), [1, 2])
    change(fast.bound_model.model)
    latents = fast.sample(noise(), [1, 2])
    assert torch.equal(latents, again(backend, fast).sample(noise(), [1, 2]))
    assert fast.summary().weight_changes == noticed


@every_backend
def test_a_model_that_was_cast_has_slots_of_its_new_dtype(backend: str) -> None:
    fast = fresh(backend)
    fast.sample(noise(), [1, 2])
    single = fast.summary().slot_bytes
    fast.to(torch.bfloat16)
    latents = fast.sample(noise(), [1, 2])
    assert torch.equal(latents, again(backend, fast).sample(noise(), [1, 2]))
    assert fast.summary().weight_changes == 1
    assert fast.summary().slot_bytes != single


@every_backend
def test_strict_refuses_changed_weights_every_time(backend: str) -> None:
    fast = fresh(backend, strict=True)
    drive(fast, STEPS)
    fast.bound_model.model.load_state_dict(toy_dit().state_dict())
    for _ in range(2):
        with pytest.raises(ValueError, match="weights changed since compile"):
            fast(*call_inputs(0))
        with pytest.raises(ValueError, match="weights changed since compile"):
            fast.sample(noise(), [1, 2])


@pytest.mark.parametrize("backend", ["fused", "cuda"])
def test_a_layer_that_can_no_longer_be_fused_is_refused_at_the_next_run(backend: str) -> None:
    fast = fresh(backend)
    drive(fast, STEPS)
    block = fast.bound_model.model.blocks[0]
    block.mlp.fc1 = nn.Sequential(block.mlp.fc1)
    with pytest.raises(ValueError, match=r"blocks.0.mlp.fc1 is Sequential"):
        fast(*call_inputs(0))


@every_backend
def test_a_model_of_another_structure_or_mode_is_refused_at_the_next_run(backend: str) -> None:
    fast, dropping = fresh(backend), fresh(backend)
    del fast.bound_model.model.blocks[2]
    with pytest.raises(ValueError, match="structure changed since compile"):
        fast(*call_inputs(0))
    dropping.bound_model.model.train()
    with pytest.raises(ValueError, match="drops at random"):
        dropping(*call_inputs(0))
    dropping.bound_model.model.eval()
    assert_same(drive(dropping, STEPS), drive(fresh(backend), STEPS))


@every_backend
def test_one_change_seen_by_two_sessions_is_counted_once(backend: str) -> None:
    fast = fresh(backend)
    with fast.session() as a, fast.session() as b:
        drive(a, STEPS)
        drive(b, STEPS)
        fast.bound_model.model.load_state_dict(toy_dit().state_dict())
        outputs: list[list[Tensor]] = [drive(session, STEPS) for session in (a, b)]
    assert_near(outputs[0], outputs[1])
    assert fast.summary().weight_changes == 1


@every_backend
def test_a_change_inside_a_run_waits_for_the_next_run(backend: str) -> None:
    fast = fresh(backend)
    drive(fast, 3)
    fast.bound_model.model.load_state_dict(toy_dit().state_dict())
    drive(fast, STEPS, start=3)
    assert fast.summary().weight_changes == 0
    drive(fast, 1)
    assert fast.summary().weight_changes == 1
