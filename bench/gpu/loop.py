"""A published sampling loop whose every changing number lives on the device, and graph capture.

One captured evaluation then serves every step that computes the same branches: peers need that at
their best.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import PublishedLoop
from l2c_rt.device.graphs import CudaRecorder
from l2c_rt.sampling.solvers import solver_for

Capture = Callable[[Callable[[], object]], Callable[[], object]]
"""Turns a function of static tensors into one that does the same again."""


def solver_tables(loop: PublishedLoop, steps: int) -> tuple[Tensor, Tensor]:
    """The timestep of every step, and (a, b, c, save, scale) of its update
    `x' = a x + b eps + c anchor`, after which x is the anchor where save is 1; the prediction is
    `uncond + scale (cond - uncond)`.  Shapes: [S]; float32 [S, 5]."""
    solver = solver_for(loop.sampler, steps)
    update = torch.from_numpy(solver.coefficients())
    scale = torch.full((steps, 1), loop.guidance.scale_from_uncond(loop.cfg_scale))
    return torch.tensor(solver.timesteps), torch.cat([update, scale], dim=1).float()


class GuidedLoop:
    """Latents, labels and step of a run with guidance, and the solver's update.

    Shapes: x, anchor float32 [n, C, H, W]; labels int64 [2 n], conditional ones first; step [1].
    """

    def __init__(self, loop: PublishedLoop, steps: int, images: int, device: torch.device) -> None:
        self.loop = loop
        self.timesteps, self.table = (t.to(device) for t in solver_tables(loop, steps))
        self.x = torch.zeros(images, loop.channels, loop.size, loop.size, device=device)
        self.anchor = torch.zeros_like(self.x)
        self.labels = torch.full((2 * images,), loop.null_label or 0, device=device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)

    def start(self, noise: Tensor, y: Tensor) -> None:
        """Begin a run.  Shapes: noise [n, C, H, W]; y [n]."""
        self.x.copy_(noise)
        self.labels[: len(y)].copy_(y)
        self.step.zero_()

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """What the model is called with: latents twice, timestep of every row, labels."""
        x = self.x.to(dtype)
        t = self.timesteps.index_select(0, self.step).expand(len(self.labels))
        return torch.cat([x, x]), t, self.labels

    def advance(self, out: Tensor) -> None:
        """Guidance and the solver's update.  Shapes: out [2 n, at least C, H, W]."""
        cond, uncond = out[:, : self.loop.channels].float().chunk(2)
        a, b, c, save, scale = self.table.index_select(0, self.step)[0, :5].unbind()
        g = self.loop.guided_channels
        guided = uncond[:, :g] + scale * (cond[:, :g] - uncond[:, :g])
        eps = torch.cat([guided, cond[:, g:]], dim=1)
        before = self.x.clone()
        self.x.copy_(a * before + b * eps + c * self.anchor)
        self.anchor.copy_(torch.where(save != 0, before, self.anchor))
        self.step.add_(1)


def capture_on(device: torch.device) -> Capture:
    """Graphs that share a pool of their own; on a CPU work is run again each time.

    What is captured runs twice before, to warm up and compile.
    """
    if device.type != "cuda":
        return lambda run: run
    recorder = CudaRecorder(device)

    def capture(run: Callable[[], object]) -> Callable[[], object]:
        def work() -> None:
            run()

        recorder.warm([work, work])
        return recorder.capture(work).replay

    return capture
