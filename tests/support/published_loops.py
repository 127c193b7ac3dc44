"""Sampling loops of the published kind: the order of calls, dtypes and rounding are theirs.

Each takes the model as a callable, so that anything with the model's signature can be dropped in.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


def spaced_timesteps(steps: int, of: int = 1000) -> list[int]:
    """Ascending; the stride is added up and each sum rounded half to even."""
    stride = (of - 1) / (steps - 1) if steps > 1 else 1.0
    kept, at = [], 0.0
    for _ in range(steps):
        kept.append(round(at))
        at += stride
    return kept


def ddim_sample_loop(
    forward_with_cfg: Callable[..., Tensor],
    noise: Tensor,
    labels: Tensor,
    null_label: int,
    steps: int,
    cfg_scale: float,
    on_output: Callable[[int, Tensor], None] = lambda step, out: None,
) -> Tensor:
    """DiT's: both halves of the batch walk along, float64 tables are rounded at each use.

    Shapes: noise [n, C, H, W], labels [n] -> [n, C, H, W].
    """
    kept = spaced_timesteps(steps)
    bar = np.cumprod(1.0 - np.linspace(0.0001, 0.02, 1000, dtype=np.float64))[kept]
    betas = 1.0 - bar / np.append(1.0, bar[:-1])
    bar = np.cumprod(1.0 - betas)
    x = torch.cat([noise, noise])
    y = torch.cat([labels, torch.full_like(labels, null_label)])
    for i in reversed(range(steps)):
        t = torch.full((len(x),), kept[i])
        out = forward_with_cfg(x, t, y, cfg_scale=cfg_scale)
        on_output(steps - 1 - i, out)
        eps = out[:, : x.shape[1]]
        scale, shift = _f32(np.sqrt(1.0 / bar[i])), _f32(np.sqrt(1.0 / bar[i] - 1))
        x0 = scale * x - shift * eps
        eps = (scale * x - x0) / shift
        before = _f32(np.append(1.0, bar)[i])
        x = x0 * torch.sqrt(before) + torch.sqrt(1 - before) * eps
    return x[: len(noise)]


def dpm_solver_loop(
    model: Callable[..., Tensor],
    noise: Tensor,
    labels: Tensor,
    null_label: int,
    nfe: int,
    scale: float,
    on_output: Callable[[int, Tensor], None] = lambda step, out: None,
) -> Tensor:
    """U-ViT's: DPM-Solver++ singlestep order 2; the conditional call comes first, then the other.

    Shapes: noise [n, C, H, W], labels [n] -> [n, C, H, W].
    """
    schedule = DiscreteNoise()
    evaluation = 0

    def x0_at(x: Tensor, t: Tensor) -> Tensor:
        nonlocal evaluation
        timesteps = torch.ones(len(x)) * t * 1000
        cond = model(x, timesteps, labels)
        eps = cond + scale * (cond - model(x, timesteps, torch.full_like(labels, null_label)))
        on_output(evaluation, eps)
        evaluation += 1
        return (x - schedule.sigma(t) * eps) / schedule.alpha(t)

    x, grid = noise, torch.linspace(1.0, 1.0 / 1000, nfe // 2 + 1)
    for s, t in pairwise(grid):
        x = _second_order_step(schedule, x0_at, x, s, t)
    return x


def _second_order_step(
    schedule: DiscreteNoise, x0_at: Callable[[Tensor, Tensor], Tensor], x: Tensor, s: Tensor,
    t: Tensor,
) -> Tensor:  # fmt: skip
    """From time s to time t, with an evaluation at s and one half way."""
    h = schedule.lam(t) - schedule.lam(s)
    mid = schedule.time(schedule.lam(s) + 0.5 * h)
    at_s = x0_at(x, s)
    x_mid = (schedule.sigma(mid) / schedule.sigma(s)) * x
    x_mid = x_mid - (schedule.alpha(mid) * torch.expm1(-0.5 * h)) * at_s
    at_mid = x0_at(x_mid, mid)
    slope = schedule.alpha(t) * torch.expm1(-h)
    return (schedule.sigma(t) / schedule.sigma(s)) * x - slope * at_s - slope * (at_mid - at_s)


class DiscreteNoise:
    """Stable diffusion's betas; log alpha linear between the 1000 times, all in float32."""

    def __init__(self) -> None:
        betas = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000, dtype=torch.float64) ** 2
        self.times = torch.linspace(1.0 / 1000, 1.0, 1000)
        self.log_alphas = 0.5 * torch.log(1 - betas.float()).cumsum(0)

    def log_alpha(self, t: Tensor) -> Tensor:
        return _interpolate(t, self.times, self.log_alphas)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self.log_alpha(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(1.0 - torch.exp(2.0 * self.log_alpha(t)))

    def lam(self, t: Tensor) -> Tensor:
        return self.log_alpha(t) - 0.5 * torch.log(1.0 - torch.exp(2.0 * self.log_alpha(t)))

    def time(self, lam: Tensor) -> Tensor:
        log_alpha = -0.5 * torch.logaddexp(torch.zeros(()), -2.0 * lam)
        return _interpolate(log_alpha, self.log_alphas.flip(0), self.times.flip(0))


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    i = int(torch.searchsorted(xs, x).clamp(1, len(xs) - 1))
    return ys[i - 1] + (x - xs[i - 1]) * (ys[i] - ys[i - 1]) / (xs[i] - xs[i - 1])


def _f32(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)
