"""A published sampling loop whose every changing number lives on the device, and graph capture.

One captured evaluation then serves every step that has its row: peers need that at their best.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import PublishedLoop
from l2c_rt.device.graphs import CudaRecorder
from l2c_rt.kernels.operands import ddim_coefficients, dpm_solver_coefficients
from l2c_rt.sampling.solvers import DDIM, solver_for

Capture = Callable[[Callable[[], object]], Callable[[], object]]
"""Turns a function of static tensors into one that does the same again."""


class GuidedLoop:
    """Latents, labels and step of a run with guidance, and the solver's update.

    Shapes: x, anchor float32 [n, C, H, W]; labels int64 [2 n], conditional ones first; step [1].
    """

    def __init__(self, how: PublishedLoop, steps: int, images: int, device: torch.device) -> None:
        solver, scale = solver_for(how.sampler, steps), how.cfg_scale
        if isinstance(solver, DDIM):
            table = ddim_coefficients(solver.a.tolist(), solver.b.tolist(), scale)
            dtype = torch.int64
        else:
            tables = (solver.alpha, solver.sigma, solver.keep, solver.weight)
            # Its guidance is cond + w (cond - uncond), which is uncond + (1 + w) (cond - uncond).
            table = dpm_solver_coefficients(*(t.tolist() for t in tables), 1.0 + scale)
            dtype = torch.float32
        self.how, self.steps = how, steps
        self.table = table.to(device)
        self.timesteps = torch.tensor(solver.timesteps, dtype=dtype, device=device)
        self.x = torch.zeros(images, how.channels, how.size, how.size, device=device)
        self.anchor = torch.zeros_like(self.x)
        self.labels = torch.full((2 * images,), how.null_label or 0, device=device)
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
        cond, uncond = out[:, : self.how.channels].float().chunk(2)
        row = self.table.index_select(0, self.step)[0]
        g = self.how.guided_channels
        guided = uncond[:, :g] + row[4] * (cond[:, :g] - uncond[:, :g])
        eps = torch.cat([guided, cond[:, g:]], dim=1)
        before = self.x.clone()
        self.x.copy_(row[0] * before + row[1] * eps + row[2] * self.anchor)
        self.anchor.copy_(torch.where(row[3] != 0, before, self.anchor))
        self.step.add_(1)


class CudaCapture:
    """Graphs that share one pool; runs what it captures twice first, to warm up and compile."""

    def __init__(self, device: torch.device) -> None:
        self._recorder = CudaRecorder(device)

    def __call__(self, run: Callable[[], object]) -> Callable[[], object]:
        def work() -> None:
            run()

        self._recorder.warm([work, work])
        return self._recorder.capture(work).replay


def uncaptured(run: Callable[[], object]) -> Callable[[], object]:
    """Stands for a capture where there are no graphs."""
    return run


def capture_on(device: torch.device) -> Capture:
    """A capture with a pool of its own."""
    return CudaCapture(device) if device.type == "cuda" else uncaptured
