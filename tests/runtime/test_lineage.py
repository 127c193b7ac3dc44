"""What latents show: what a solver makes of a run belongs to it, another image does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l2c_rt.runtime.lineage import HISTORY, MAX_ELEMENTS, Lineage


def random(seed: int, shape: tuple[int, ...] = (2, 4, 8, 8)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(x: Tensor) -> Tensor:
    """Stands for a model: nothing linear."""
    return torch.sin(3.0 * x + x.roll(1, -1))


def euler(x: Tensor, outs: list[Tensor]) -> Tensor:
    return x + 0.1 * outs[-1]


def multistep(x: Tensor, outs: list[Tensor]) -> Tensor:
    return 0.9 * x + 0.3 * outs[-1] - (0.2 * outs[-2] if len(outs) > 1 else 0.0)


def rescaled(x: Tensor, outs: list[Tensor]) -> Tensor:
    """Guidance rescale: each image has a factor of its own."""
    return x - 0.1 * outs[-1] * outs[-1].std(dim=(1, 2, 3), keepdim=True)


SOLVERS = (euler, multistep, rescaled)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (1, 77, 32), (1, 4, 3, 16, 16), (3, 4, 64, 64)])
def test_every_input_that_a_solver_makes_follows(
    solver: Callable[..., Tensor], dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    if solver is rescaled and len(shape) != 4:
        pytest.skip("written for images")
    lineage, x, outs = Lineage(), random(0, shape), []
    for step in range(2 * HISTORY):
        if step:
            assert lineage.relation(x.to(dtype)) == "follows", step
        outs.append(network(x.to(dtype).float()))
        lineage.add(step, x.to(dtype), outs[-1].to(dtype))
        x = solver(x, outs)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_a_guided_batch_counts_each_image_once(images: int) -> None:
    lineage, x = Lineage(), random(0, (images, 4, 8, 8))
    for step in range(6):
        batch = torch.cat([x, x])
        if step:
            assert lineage.relation(batch) == "follows"
        out = network(torch.cat([x, x + 1.0]))
        lineage.add(step, batch, out)
        cond, uncond = out.chunk(2)
        x = x + 0.1 * (uncond + 4.0 * (cond - uncond))


def test_guidance_on_some_channels_only_is_a_combination_for_each_channel() -> None:
    """DiT's published forward_with_cfg guides three of four."""
    lineage, x = Lineage(), random(0)
    for step in range(6):
        batch = torch.cat([x, x])
        if step:
            assert lineage.relation(batch) == "follows"
        out = network(torch.cat([x, x + 1.0]))
        lineage.add(step, batch, out)
        cond, uncond = out.chunk(2)
        guided = uncond + 4.0 * (cond - uncond)
        x = x + 0.1 * torch.cat([guided[:, :3], cond[:, 3:]], dim=1)


@settings(deadline=None)
@given(st.integers(1, 2 * HISTORY), st.sampled_from([(1, 4, 8, 8), (2, 3, 32, 32)]))
def test_another_image_is_foreign_after_any_number_of_evaluations(
    steps: int, shape: tuple[int, ...]
) -> None:
    lineage, x = Lineage(), random(0, shape)
    for step in range(steps):
        out = network(x)
        lineage.add(step, x, out)
        x = x + 0.1 * out
    assert lineage.relation(x) == "follows"
    assert lineage.relation(random(1, shape)) == "foreign"
    # img2img from the same noise: only the image's share tells.
    assert lineage.relation(x + 0.01 * random(2, shape)) == "foreign"
    other = x.clone()
    other[-1] = random(3, shape)[-1]
    assert lineage.relation(other) == "foreign"


def test_noise_proves_nothing() -> None:
    lineage, x = Lineage(), random(0)
    out = network(x)
    lineage.add(0, x, out)
    assert lineage.relation(x + 0.1 * out + 0.05 * random(1)) == "foreign"


@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("least", [0.02, 0.5, 0.98])
def test_a_step_that_clips_its_prediction_follows_and_another_image_does_not(
    guidance: float, images: int, least: float
) -> None:
    """DDIM with clip_sample, from nearly everything clipped to nearly nothing; 0.02 to 0.98 is
    sqrt(alpha)."""
    x = random(0, (images, 4, 8, 8))
    batch = torch.cat([x, x]) if guidance else x
    out = random(1, batch.shape) * 0.5 + 0.3 * batch
    lineage = Lineage()
    lineage.add(0, batch, out)
    eps = out if not guidance else out.chunk(2)[1] + guidance * (out.chunk(2)[0] - out.chunk(2)[1])
    clean = ((x - (1 - least**2) ** 0.5 * eps) / least).clamp(-1, 1)
    share = least * 1.02
    stepped = share * clean + (1 - share**2) ** 0.5 * eps
    again = torch.cat([stepped, stepped]) if guidance else stepped
    assert lineage.relation(again) == "follows"
    assert lineage.relation(again + 0.01 * random(2, again.shape)) == "foreign"
    assert lineage.relation(random(3, again.shape)) == "foreign"
    if images > 1 and not guidance:
        assert lineage.relation(torch.cat([again[:1], random(4, again[1:].shape)])) == "foreign"


def test_a_clipping_step_with_guidance_on_some_channels_follows() -> None:
    x = random(0)
    out = random(1, (4, 4, 8, 8)) * 0.5
    lineage = Lineage()
    lineage.add(0, torch.cat([x, x]), out)
    cond, uncond = out.chunk(2)
    eps = torch.cat([(uncond + 4 * (cond - uncond))[:, :3], cond[:, 3:]], dim=1)
    stepped = 0.3 * (3 * x - 2 * eps).clamp(-1, 1) + 0.9 * eps
    assert lineage.relation(torch.cat([stepped, stepped])) == "follows"


def test_an_input_that_the_run_had_before_is_known_again() -> None:
    lineage, x = Lineage(), random(0)
    lineage.add(0, x, network(x))
    y = euler(x, [network(x)])
    lineage.add(1, y, network(y))
    assert [lineage.relation(value) for value in (x, y, 2 * y)] == ["again", "again", "follows"]


def test_more_channels_on_one_side_are_left_out() -> None:
    """A model that predicts variances gives twice the channels; inpainting takes more of them."""
    lineage, x = Lineage(), random(0)
    out = torch.cat([network(x), random(1)], dim=1)
    lineage.add(0, x, out)
    assert lineage.relation(x + 0.1 * out[:, :4]) == "follows"
    lineage, mask = Lineage(), random(2)
    lineage.add(0, torch.cat([x, mask], dim=1), network(x))
    assert lineage.relation(torch.cat([x + 0.1 * network(x), mask], dim=1)) == "follows"


@pytest.mark.parametrize(
    "x", [random(0, (2, 4, 8)), random(0, (3, 4, 8, 8)), random(0, (2, 4, 4, 8))]
)
def test_an_input_of_another_shape_is_foreign(x: Tensor) -> None:
    lineage = Lineage()
    assert lineage.relation(x) == "foreign"
    lineage.add(0, random(0), network(random(0)))
    assert lineage.relation(x) == "foreign"


def test_what_cannot_be_compared_shows_nothing() -> None:
    lineage, x = Lineage(), random(0)
    lineage.add(0, x, random(1, (2, 64)))
    assert lineage.relation(x) == "foreign"
    lineage.add(1, x, torch.full_like(x, float("nan")))
    assert lineage.relation(2 * x) == "foreign"
    small = random(0, (1, 1, 1, 3))
    lineage = Lineage()
    lineage.add(0, small, network(small))
    assert lineage.relation(2 * small) == "foreign"


def test_large_latents_are_looked_at_in_part() -> None:
    lineage, x = Lineage(), random(0, (1, 4, 128, 128))
    for step in range(2 * HISTORY):
        lineage.add(step, x + step, x)
    held = sum(kept.numel() for _, kept in lineage._steps)
    assert held <= HISTORY * 2 * MAX_ELEMENTS
