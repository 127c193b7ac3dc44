"""Fit reports of loops of users: what counts as images, and errors against a naive cached run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Oracle
from torch import Tensor
from toy_learning import toy_inputs, toy_loop
from toys import random_schedule, toy_dit

from l2c_rt.comparison.fit import fit_report
from l2c_rt.comparison.loop_runs import images_of


class Picture:
    """As PIL's images are: read as an array of bytes, without dimensions of a batch."""

    def __init__(self, values: Any) -> None:
        self.__array_interface__ = np.asarray(values, np.uint8).__array_interface__
        self.values = values


LATENTS = torch.arange(24.0).reshape(2, 3, 4)
PICTURE = Picture(np.arange(12).reshape(2, 2, 3))


@pytest.mark.parametrize(
    ("result", "shapes"),
    [
        (LATENTS, [(2, 3, 4)]),
        (LATENTS.numpy(), [(2, 3, 4)]),
        ((LATENTS, "a prompt", None), [(2, 3, 4)]),
        ({"video": LATENTS, "audio": LATENTS[0]}, [(2, 3, 4), (3, 4)]),
        (SimpleNamespace(images=[PICTURE, PICTURE], nsfw=None), 2 * [(1, 2, 2, 3)]),
        (SimpleNamespace(images=None, frames=[[PICTURE]]), [(1, 2, 2, 3)]),
        (SimpleNamespace(sample=LATENTS.half()), [(2, 3, 4)]),
    ],
)
def test_tensors_arrays_pictures_and_outputs_of_pipelines_are_compared(
    result: Any, shapes: list[tuple[int, ...]]
) -> None:
    images = images_of(result)
    assert sorted(tuple(image.shape) for image in images) == sorted(shapes)
    assert all(image.dtype == torch.float32 for image in images)


@pytest.mark.parametrize("result", [None, "done", 3, []])
def test_a_result_without_images_is_refused_with_its_type(result: Any) -> None:
    with pytest.raises(TypeError, match=f"returned a {type(result).__name__}, wanted"):
        images_of(result)


@pytest.mark.parametrize("calls", [1, 2])
def test_errors_are_those_of_a_naive_cached_run(calls: int) -> None:
    model, schedule = toy_dit(), random_schedule(4, 6)

    def loop(m: Any, seed: int) -> Tensor:
        ends = [m(*toy_inputs(step, seed + lane)) for step in range(4) for lane in range(calls)]
        return torch.cat(ends[-calls:])

    report = fit_report(model, schedule, loop=loop, images=2, seed=3, calls_per_step=calls)
    expected: list[Tensor] = []
    for compute in (schedule.compute, np.ones_like(schedule.compute)):
        ends = []
        for seed in (3, 4):
            # A naive run has one call per evaluation.
            lanes = [Oracle(model, compute) for _ in range(calls)]
            with torch.no_grad():
                ends.append(loop(lambda *given, lanes=lanes: _turn(lanes, *given), seed))
        expected.append(torch.cat(ends))
    cached, full = expected
    assert report.images == 4 * calls
    assert report.fits[0].error[-1] == pytest.approx(
        float((cached - full).norm() / full.norm()), rel=1e-3
    )
    # These inputs do not depend on what the model gave.
    assert report.fits[0].error[:-1] == (0.0, 0.0, 0.0)


def _turn(lanes: list[Oracle], *given: Tensor) -> Tensor:
    lanes.append(lanes.pop(0))
    out: Tensor = lanes[-1](*given)
    return out


def test_guidance_is_the_loops_own_matter() -> None:
    report = fit_report(toy_dit(), random_schedule(4, 6), loop=toy_loop, images=1)
    assert "guidance" not in str(report)
    assert report.as_dict()["cfg_scale"] is None
    with pytest.raises(ValueError, match="got loop= and cfg_scale=4"):
        fit_report(toy_dit(), random_schedule(4, 6), loop=toy_loop, cfg_scale=4.0)
