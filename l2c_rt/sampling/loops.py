"""The two published sampling loops over a guided model call."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import PublishedLoop
from l2c_rt.sampling.solvers import PublishedSolver, starts_step

Call = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A model call (x, t, y) -> tensor."""


def run(
    solver: PublishedSolver, guided: Callable[[Tensor, float], Tensor], noise: Tensor
) -> Iterator[Tensor]:
    """The latents after every evaluation; `guided(x, timestep)` predicts the noise.

    Shapes: noise and every result [n, C, H, W], in the dtype of `noise`.
    """
    x = anchor = noise
    for k, t in enumerate(solver.timesteps):
        if starts_step(solver, k):
            anchor = x
        x = solver.update(k, x, guided(x, t), anchor)
        yield x


def guided_call(
    call: Call, loop: PublishedLoop, y: Tensor | None, cfg_scale: float
) -> Callable[[Tensor, float], Tensor]:
    """The loop's guidance around `call`, with both labels in one batch.

    DiT: uncond + s (cond - uncond) on the first channels, off at s <= 1.
    U-ViT: cond + w (cond - uncond), off at w <= 0.
    """
    if not is_guided(loop, y, cfg_scale):
        return lambda x, t: call(x, timestep_tensor(t, x), y)[:, : loop.channels]
    assert y is not None
    assert loop.null_label is not None
    labels = torch.cat([y, torch.full_like(y, loop.null_label)])

    def both(x: Tensor, t: float) -> Tensor:
        twice = torch.cat([x, x])
        out = call(twice, timestep_tensor(t, twice), labels)
        cond, uncond = out[:, : loop.channels].chunk(2)
        return guide(loop, cond, uncond, cfg_scale)

    return both


def is_guided(loop: PublishedLoop, y: Tensor | None, cfg_scale: float) -> bool:
    """Whether a run has both labels in its batch.

    Raises ValueError where guidance is wanted of a model without a null label.
    """
    neutral = loop.guidance.neutral
    if y is None or cfg_scale <= neutral:
        return False
    if loop.null_label is None:
        raise ValueError(
            f"sample: guidance {cfg_scale:g} needs a null label, and this model was made without "
            f"one; pass cfg_scale={neutral:g}"
        )
    return True


def guide(loop: PublishedLoop, cond: Tensor, uncond: Tensor, scale: float | Tensor) -> Tensor:
    """The loop's guidance.  Shapes: cond, uncond and the result [n, C, H, W]; scale [n, 1, 1, 1]
    where each has its own."""
    base, g = cond if loop.guidance.base == "cond" else uncond, loop.guided_channels
    guided = base[:, :g] + scale * (cond[:, :g] - uncond[:, :g])
    return guided if g == loop.channels else torch.cat([guided, cond[:, g:]], dim=1)


def timestep_tensor(t: float, x: Tensor) -> Tensor:
    """One timestep per image, in the dtype that the published loop passes: int64 for an int.

    Shapes: x [n, ...] -> [n].
    """
    dtype = torch.int64 if isinstance(t, int) else torch.float32
    return torch.full((len(x),), t, dtype=dtype, device=x.device)
