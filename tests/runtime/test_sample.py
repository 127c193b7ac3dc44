"""`sample`: whole runs of the published loop; the same on every backend."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from published_outputs import relative
from three_backends import (
    STEPS,
    again,
    assert_near,
    assert_same,
    compiled,
    every_backend,
    fresh,
)
from torch import Tensor
from toys import drive, noise, random_schedule, toy_dit, toy_uvit

from l2c_rt.api import compile
from l2c_rt.policies import Full


@every_backend
def test_labels_scales_and_noise_change_from_run_to_run_without_a_capture(backend: str) -> None:
    fast = fresh(backend)
    reference = again("reference", fast)
    fast.sample(noise(), [1, 2])
    captured = fast.summary().graphs.graphs
    for seed, (labels, scale) in enumerate([([3, 4], 4.0), ([5, 5], 1.5), ([3, 4], 7.0)]):
        latents, expected = (
            f.sample(noise(seed), labels, cfg_scale=scale) for f in (fast, reference)
        )
        assert_near([latents], [expected])
    assert fast.summary().graphs.graphs == captured


@every_backend
def test_a_sample_counts_as_a_run_of_all_its_steps(backend: str) -> None:
    fast = fresh(backend)
    for seed in range(2):
        fast.sample(noise(seed), [1, 2])
    summary = fast.summary()
    assert (summary.runs, summary.calls, summary.abandoned) == (2, 2 * STEPS, 0)


@every_backend
def test_a_sample_of_the_model_leaves_the_run_of_its_calls_as_it_is(backend: str) -> None:
    fast = fresh(backend)
    outputs = drive(fast, 3)
    fast.sample(noise(), [1, 2])
    outputs += drive(fast, STEPS, start=3)
    assert_same(outputs, drive(fresh(backend), STEPS))


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_latents_keep_their_dtype_where_the_model_is_narrower(
    backend: str, dtype: torch.dtype
) -> None:
    fast = fresh(backend, toy_dit().to(torch.bfloat16))
    assert fast.sample(noise().to(dtype), [1, 2]).dtype == dtype


@every_backend
def test_a_callback_sees_every_evaluation_in_order_and_may_keep_what_it_sees(backend: str) -> None:
    fast = fresh(backend)
    reference = again("reference", fast)
    steps: list[int] = []
    seen: list[Tensor] = []
    expected: list[Tensor] = []
    latents = fast.sample(
        noise(), [1, 2], callback=lambda step, x: (steps.append(step), seen.append(x))
    )
    reference.sample(noise(), [1, 2], callback=lambda step, x: expected.append(x))
    assert steps == list(range(STEPS))
    assert_near(seen, expected)
    assert torch.equal(seen[-1], latents)
    assert len({x.data_ptr() for x in seen}) == STEPS


@every_backend
def test_any_number_of_images_in_any_order(backend: str) -> None:
    fast = fresh(backend)
    reference = again("reference", fast)
    for images in (1, 3, 2, 1, 5, 4, 1):
        labels = list(range(images))
        latents, expected = (f.sample(noise(images, images), labels) for f in (fast, reference))
        assert_near([latents], [expected])


@every_backend
def test_more_images_do_not_move_those_that_were_there(backend: str) -> None:
    fast = fresh(backend)
    outputs = [fast.sample(noise(0, 4)[:n], list(range(n))) for n in (1, 2, 4)]
    for fewer, more in pairwise(outputs):
        assert relative(more[: len(fewer)], fewer) < 1e-4


@every_backend
def test_without_guidance_a_model_needs_no_null_label(backend: str) -> None:
    fast = fresh(backend, toy_dit(class_dropout_prob=0.0))
    latents = fast.sample(noise(), [1, 2], cfg_scale=1.0)
    assert_near([latents], [again("reference", fast).sample(noise(), [1, 2], cfg_scale=1.0)])
    with pytest.raises(ValueError, match="needs a null label"):
        fast.sample(noise(), [1, 2], cfg_scale=4.0)


@every_backend
def test_a_model_without_labels_samples_without_labels(backend: str) -> None:
    fast = compiled(backend, toy_uvit(num_classes=-1), random_schedule(4, 6))
    assert_near([fast.sample(noise())], [again("reference", fast).sample(noise())])
    with pytest.raises(ValueError, match="y must be 2 integer labels"):
        compiled(backend, toy_uvit(), random_schedule(4, 6)).sample(noise())


@every_backend
def test_labels_of_any_integer_type_are_the_same_labels(backend: str) -> None:
    fast = fresh(backend)
    expected = fast.sample(noise(), [1, 2])
    for dtype in (torch.int64, torch.int32):
        assert torch.equal(fast.sample(noise(), torch.tensor([1, 2], dtype=dtype)), expected)


@pytest.mark.parametrize(
    ("noise", "y", "match"),
    [
        (torch.zeros(2, 3, 8, 8), [1, 2], r"noise must be \[n, 4, 8, 8\].*got \[2, 3, 8, 8\]"),
        (torch.zeros(4, 8, 8), [1], r"noise must be"),
        (torch.zeros(1, 4, 8, 8).long(), [1], r"noise must be floating"),
        (torch.zeros(0, 4, 8, 8), [], r"noise must be .* n of at least 1"),
        (torch.zeros(2, 4, 8, 8), [1], "y must be 2 integer labels"),
        (torch.zeros(2, 4, 8, 8), [0.5, 1.0], "y must be 2 integer labels"),
    ],
)
def test_noise_and_labels_that_do_not_fit_are_refused(noise: Tensor, y: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        compile(toy_dit(), Full(), steps=2).sample(noise, y)


def test_a_schedule_of_another_loop_is_refused() -> None:
    fast = compile(toy_dit(), random_schedule(4, 6, sampler="dpm-solver"))
    with pytest.raises(ValueError, match="made for dpm-solver, the model's published loop is ddim"):
        fast.sample(noise(), [1, 2])


def test_timesteps_that_are_not_the_published_loops_are_refused() -> None:
    fast = compile(toy_dit(), Full(), steps=3, timesteps=[990, 500, 3])
    with pytest.raises(ValueError, match="timestep 0 of the published loop is 999, but 990"):
        fast.sample(noise(), [1, 2])
