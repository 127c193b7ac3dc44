"""The two published sampling loops over a guided model call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound import Bound, Sampling
from l2c_rt.samplers import DDIM, DPMSolver, ddim, dpm_solver

Call = Callable[[Tensor, Tensor, Tensor], Tensor]
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
    call: Call, how: Sampling, y: Tensor, cfg_scale: float
) -> Callable[[Tensor, float], Tensor]:
    """The family's guidance around `call`, with both labels in one batch.

    DiT: uncond + s (cond - uncond) on the first channels, off at s <= 1.
    U-ViT: cond + w (cond - uncond), off at w <= 0.
    """
    integral = how.sampler == "ddim"
    off = cfg_scale <= (1.0 if integral else 0.0)

    def timestep(value: float, count: int, device: torch.device) -> Tensor:
        dtype = torch.int64 if integral else torch.float32
        return torch.full((count,), value, dtype=dtype, device=device)

    def plain(x: Tensor, t: float) -> Tensor:
        return call(x, timestep(t, len(x), x.device), y)[:, : how.channels]

    if off:
        return plain
    if how.null_label is None:
        raise ValueError(
            f"sample: guidance {cfg_scale:g} needs a null label, and this model was made without "
            f"one; pass cfg_scale={1.0 if integral else 0.0:g}"
        )
    labels = torch.cat([y, torch.full_like(y, how.null_label)])

    def both(x: Tensor, t: float) -> Tensor:
        out = call(torch.cat([x, x]), timestep(t, 2 * len(x), x.device), labels)
        cond, uncond = out[:, : how.channels].chunk(2)
        if not integral:
            return cond + cfg_scale * (cond - uncond)
        g = how.guided_channels
        guided = uncond[:, :g] + cfg_scale * (cond[:, :g] - uncond[:, :g])
        return torch.cat([guided, cond[:, g:]], dim=1)

    return both


def tensor_call(bound: Bound, session: Any) -> Call:
    """A session as a function (x, t, y) -> tensor, whatever the model's own signature.

    The latents keep their dtype between calls, also where the model is narrower.
    """
    dtype = next(bound.model.parameters()).dtype

    def call(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        out = bound.to_tensor(session(**bound.arguments(x.to(dtype), t, y)))
        return out.to(x.dtype)

    return call


def check_inputs(noise: Any, y: Any, how: Sampling) -> Tensor:
    """The labels as a tensor beside the noise.  Raises TypeError or ValueError."""
    if not isinstance(noise, Tensor) or noise.dim() != 4 or noise.shape[1] != how.channels:
        got = tuple(noise.shape) if isinstance(noise, Tensor) else type(noise).__name__
        raise ValueError(f"sample: noise must be [n, {how.channels}, H, W], got {got}")
    labels = torch.as_tensor(y, device=noise.device)
    if labels.dtype != torch.int64 or labels.shape != noise.shape[:1]:
        raise ValueError(
            f"sample: y must be {len(noise)} integer labels (int64), got {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    return labels
