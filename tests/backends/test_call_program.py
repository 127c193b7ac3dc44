"""Calls of a user's own loop on tapes: what is tabulated when, and what a call refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from taped_graphs import compile_taped
from three_backends import assert_near
from toys import (
    call_inputs,
    count_branches,
    drive,
    random_schedule,
    timesteps,
    toy_dit,
    toy_uvit,
)

from l2c_rt.api import compile
from l2c_rt.backends.cuda.call_program import _timestep
from l2c_rt.runtime.compiled import Compiled

STEPS = 8


def fresh(model: Any = None, **options: Any) -> Compiled:
    """A toy of STEPS steps on tapes."""
    model = toy_dit() if model is None else model
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    return compile_taped(model, schedule, **options)


@pytest.mark.parametrize("steps_at_a_time", [1, 3])
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_a_table_of_fewer_steps_than_the_run_is_filled_once_per_window(
    make: Any, steps_at_a_time: int
) -> None:
    model = make()
    whole = fresh(model, timesteps=timesteps(STEPS))
    want = drive(whole, STEPS)
    per_step = whole.summary().table_bytes // STEPS
    small = fresh(model, timesteps=timesteps(STEPS), table_bytes=steps_at_a_time * per_step)
    for run in range(2):
        got = drive(small, STEPS)
        assert run or small.summary().table_bytes == steps_at_a_time * per_step
        assert_near(got, want)


def test_a_timestep_on_the_host_goes_to_the_device_without_a_copy_that_waits() -> None:
    like = torch.empty(1, device="meta")
    for t in (5, 5.0, torch.tensor([5, 5]), torch.tensor(5.0)):
        assert (_timestep(t, like).device.type, _timestep(t, like).shape) == ("meta", (1,))
    there = torch.empty(2, device="meta")
    assert _timestep(there, like)._base is there


def test_diffusers_transformer_keeps_its_signature_and_numbers() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=3,
        sample_size=8, patch_size=2, num_embeds_ada_norm=10, norm_num_groups=1,
    ).eval()  # fmt: skip
    schedule = random_schedule(STEPS, 6, seed=3)
    fast, reference = compile_taped(model, schedule), compile(model, schedule)
    for step in range(STEPS):
        x, t, y = call_inputs(step)
        got = fast(x, timestep=t, class_labels=y)
        want = reference(x, timestep=t, class_labels=y)
        assert_near([got.sample], [want.sample])
    assert isinstance(
        fast(x, timestep=timesteps(1)[0] + 0 * t, class_labels=y, return_dict=False), tuple
    )


def test_labels_that_are_missing_are_asked_for() -> None:
    fast = fresh(toy_uvit())
    x, t, _ = call_inputs(0)
    with pytest.raises(ValueError, match="y is missing"):
        fast(x, t)
