"""The two published sampling loops over a guided model call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import PublishedLoop
from l2c_rt.sampling.solvers import DDIM, DPMSolver, ddim, dpm_solver

Call = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A model call (x, t, y) -> tensor."""

SAMPLERS = ("ddim", "dpm-solver")


def solver_for(sampler: str, steps: int) -> DDIM | DPMSolver:
    """The table of a published solver for a schedule of `steps` evaluations."""
    if sampler == "ddim":
        return ddim(steps)
    if sampler == "dpm-solver":
        if steps % 2:
            raise ValueError(
                f"sample: DPM-Solver of order 2 takes an even number of evaluations, the schedule "
                f"has {steps}"
            )
        return dpm_solver(steps)
    raise ValueError(f"sample: sampler {sampler!r} is not one of {', '.join(SAMPLERS)}")


def run(
    solver: DDIM | DPMSolver, guided: Callable[[Tensor, float], Tensor], noise: Tensor
) -> Iterator[Tensor]:
    """The latents after every evaluation; `guided(x, timestep)` predicts the noise.

    Shapes: noise and every result [n, C, H, W], in the dtype of `noise`.
    """
    if isinstance(solver, DDIM):
        return _run_ddim(solver, guided, noise)
    return _run_dpm_solver(solver, guided, noise)


def _run_ddim(
    solver: DDIM, guided: Callable[[Tensor, float], Tensor], x: Tensor
) -> Iterator[Tensor]:
    for k, t in enumerate(solver.timesteps):
        eps = guided(x, t)
        x = float(solver.a[k]) * x + float(solver.b[k]) * eps
        yield x


def _run_dpm_solver(
    solver: DPMSolver, guided: Callable[[Tensor, float], Tensor], x: Tensor
) -> Iterator[Tensor]:
    anchor = x
    for e, t in enumerate(solver.timesteps):
        if e % 2 == 0:
            anchor = x
        clean = (x - float(solver.sigma[e]) * guided(x, t)) / float(solver.alpha[e])
        x = float(solver.keep[e]) * anchor + float(solver.weight[e]) * clean
        yield x


def guided_call(
    call: Call, how: PublishedLoop, y: Tensor | None, cfg_scale: float
) -> Callable[[Tensor, float], Tensor]:
    """The family's guidance around `call`, with both labels in one batch.

    DiT: uncond + s (cond - uncond) on the first channels, off at s <= 1.
    U-ViT: cond + w (cond - uncond), off at w <= 0.
    """
    if not is_guided(how, y, cfg_scale):
        return lambda x, t: call(x, _timestep(how, t, x), y)[:, : how.channels]
    assert y is not None
    assert how.null_label is not None
    labels = torch.cat([y, torch.full_like(y, how.null_label)])

    def both(x: Tensor, t: float) -> Tensor:
        twice = torch.cat([x, x])
        out = call(twice, _timestep(how, t, twice), labels)
        cond, uncond = out[:, : how.channels].chunk(2)
        return _guide(how, cond, uncond, cfg_scale)

    return both


def is_guided(how: PublishedLoop, y: Tensor | None, cfg_scale: float) -> bool:
    """Whether a run has both labels in its batch.

    Raises ValueError where guidance is wanted of a model without a null label.
    """
    neutral = 1.0 if how.sampler == "ddim" else 0.0
    if y is None or cfg_scale <= neutral:
        return False
    if how.null_label is None:
        raise ValueError(
            f"sample: guidance {cfg_scale:g} needs a null label, and this model was made without "
            f"one; pass cfg_scale={neutral:g}"
        )
    return True


def _guide(how: PublishedLoop, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    if how.sampler != "ddim":
        return cond + scale * (cond - uncond)
    g = how.guided_channels
    guided = uncond[:, :g] + scale * (cond[:, :g] - uncond[:, :g])
    return torch.cat([guided, cond[:, g:]], dim=1)


def _timestep(how: PublishedLoop, t: float, x: Tensor) -> Tensor:
    """The dtype that the published loop passes: whole for DDIM, float32 for DPM-Solver."""
    dtype = torch.int64 if how.sampler == "ddim" else torch.float32
    return torch.full((len(x),), t, dtype=dtype, device=x.device)


def check_inputs(noise: Any, y: Any, how: PublishedLoop) -> Tensor | None:
    """The labels as int64 beside the noise; None for a model without labels.

    Raises ValueError where they do not fit.
    """
    shaped = isinstance(noise, Tensor) and noise.dim() == 4 and noise.shape[1] == how.channels
    if not shaped or not noise.is_floating_point() or len(noise) == 0:
        got = type(noise).__name__
        if isinstance(noise, Tensor):
            got = f"{tuple(noise.shape)} {noise.dtype}"
        raise ValueError(f"sample: noise must be floating [n, {how.channels}, H, W], got {got}")
    if y is None and how.classes == 0:
        return None
    labels = torch.as_tensor(() if y is None else y)
    if labels.device != noise.device:
        # From pinned memory, or the copy would wait for what the device still has to do.
        pinned = labels.pin_memory() if noise.is_cuda and not labels.is_cuda else labels
        labels = pinned.to(noise.device, non_blocking=True)
    is_integer = not (
        labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool
    )
    if not is_integer or labels.shape != noise.shape[:1]:
        raise ValueError(
            f"sample: y must be {len(noise)} integer labels, got {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    return labels.long()
