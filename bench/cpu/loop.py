"""DDIM without guidance, for programs that have no loop of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from l2c_rt.adapters import bind
from l2c_rt.models import DiT
from l2c_rt.sampling.solvers import solver_for


def ddim_tables(steps: int, model: DiT) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The timestep [1] of every step, and (a, b) of its update x' = a x + b eps, in the model's
    dtype: tensors, so that compiled code serves every step."""
    published = bind(model).sampling
    assert published is not None
    solver = solver_for(published.sampler, steps)
    updates = torch.from_numpy(solver.coefficients())[:, :2].to(model.pos_embed.dtype)
    return torch.tensor(solver.timesteps)[:, None].unbind(), updates.unbind()


def run_of(
    forward: Callable[[Tensor, Tensor, Tensor], Tensor],
    tables: tuple[Sequence[Tensor], Sequence[Tensor]],
    begin: Callable[[], object] = lambda: None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """A whole run (noise, y) -> latents of a model's forward (x, t, y)."""

    @torch.no_grad()
    def run(noise: Tensor, y: Tensor) -> Tensor:
        begin()
        x = noise
        for t, update in zip(*tables, strict=True):
            eps = forward(x, t.expand(len(y)), y)[:, : x.shape[1]]
            x = update[0] * x + update[1] * eps
        return x

    return run
