"""Whole runs of a published loop on the device: guidance and solver are part of the graphs."""

from __future__ import annotations

from collections import deque
from functools import partial

import numpy as np
import torch
from torch import Tensor

from l2c_rt.backends.backend import Callback, RunRequest
from l2c_rt.backends.cuda.buffers import Shape
from l2c_rt.backends.cuda.checking.first_step import model_output
from l2c_rt.backends.cuda.checking.nan_check import NanCheck
from l2c_rt.backends.cuda.cuda_parts import FusedModel
from l2c_rt.backends.cuda.model_output import unpatchify_into
from l2c_rt.backends.cuda.shape_program import ShapeProgram
from l2c_rt.device.graph_sequence import GraphSequence
from l2c_rt.device.host_tensors import host_tensor
from l2c_rt.kernels import reference
from l2c_rt.kernels.operands import Reuses, Solver
from l2c_rt.memory.slots import Slots
from l2c_rt.plan.lowering import Final

AHEAD = 3
"""Evaluations that the host may be ahead of a callback: enough to keep the device busy, few enough
to stop soon."""

WHOLE = -1
"""What a run as a whole is timed under, beside the evaluations that begin a window."""


class RunProgram:
    """n images, with or without guidance, from noise to latents."""

    def __init__(self, fused: FusedModel, slots: Slots, request: RunRequest) -> None:
        loop, solver, guided = fused.model.sampling, request.solver, request.guided
        assert loop is not None
        n, channels, height, width = request.noise.shape
        shape = Shape(n, 2 * n if guided else n, channels, height, width)
        # Label i is that of image i; all images share the one that stands for no label.
        label_rows = [*range(n), *([n] * n if guided else [])]
        self._loop, self._solver, self._guided = loop, solver, guided
        self.shape_program = ShapeProgram(
            fused, slots, shape, label_rows, guided=loop.guided_channels, one_kernel=True
        )
        plan = fused.plan
        buffers, outer = self.shape_program.buffers, self.shape_program.outer
        anchor = buffers.anchor if solver.evaluations_per_step > 1 else None
        self._coefficients = _coefficients(self.shape_program.tables.steps, buffers.latents, anchor)
        self._state = Solver(self._coefficients, buffers.counter, anchor)
        self._tokens = self._image = buffers.h[:0]
        if outer.after is not None:
            self._tokens = buffers.h.new_zeros(*buffers.h.shape[:2], outer.linear.out_features)
            self._image = buffers.h.new_zeros(shape.batch, outer.channels, height, width)
        self.shape_program.capture(self._finish, self._meaning, buffers.latents)
        self._windows = self._cut(plan.num_evaluations)
        self._runs = self._whole_windows() if fused.options.graph == "trajectory" else None
        order = [self.shape_program.variant_graphs[variant] for variant in plan.order]
        self._steps = self.shape_program.sequence(order)
        self._nan = NanCheck(buffers.latents.device, self.shape_program.notes)
        self._scale: float | None = None
        # Kept, and written in place: a run on another stream may still be reading it.
        self._table = buffers.latents.new_zeros(plan.num_evaluations, 8)

    def run(self, request: RunRequest, callback: Callback | None) -> Tensor:
        """The latents after the run, in the noise's dtype; work is queued, not waited for.

        `callback(step, latents)` is given copies on the host, in order, as evaluations end; the
        latents are float32.
        """
        if callback is not None and self._runs is not None:
            raise ValueError(
                'sample: graph="trajectory" launches a run as a whole and cannot call back between '
                'steps; compile with graph="step"'
            )
        p = self.shape_program
        p.buffers.latents.copy_(request.noise, non_blocking=True)
        y = self._labels(request.labels)
        self._set_scale(request.cfg_scale)
        # Cond and uncond are the halves of the batch.
        p.begin_run([0] * len(request.noise) + [1] * len(request.noise) * self._guided)
        with p.times.around(WHOLE):
            self._launch(y, callback)
        p.replays += p.plan.num_evaluations
        self._nan.queue(p.buffers.latents)
        return p.buffers.latents.to(request.noise.dtype, copy=True)

    def _launch(self, y: Tensor | None, callback: Callback | None) -> None:
        p = self.shape_program
        reports = None if callback is None else _Reports(p.buffers.latents, callback)
        for i, window in enumerate(self._windows):
            p.fill(self._solver.timesteps[window.start : window.stop], y, window.start)
            self._coefficients[: len(window)].copy_(self._table[window.start : window.stop])
            if self._runs is not None:
                self._runs.launch(i, 1)
            elif reports is None:
                with p.times.around(window.start):
                    self._steps.launch(window.start, 1)
                if len(window) > 1:
                    self._steps.launch(window.start + 1, len(window) - 1)
            else:
                for step in window:
                    self._steps.launch(step, 1)
                    reports.queue(step)
        if reports is not None:
            reports.finish()

    def ended(self) -> list[tuple[float, float]]:
        """(seconds of the first evaluation, seconds in all) of runs that have ended."""
        runs, first = [], 0.0
        for label, seconds in self.shape_program.times.ended():
            if label == 0:
                first = seconds
            elif label == WHOLE and first:
                runs.append((first, seconds))
                first = 0.0
        return runs

    def _labels(self, labels: Tensor | None) -> Tensor | None:
        if labels is None:
            return None
        if not self._guided:
            return labels
        assert self._loop.null_label is not None
        return torch.cat([labels, labels.new_full((1,), self._loop.null_label)])

    def _set_scale(self, scale: float) -> None:
        if scale == self._scale:
            return
        table = np.zeros((len(self._table), 8), np.float32)
        table[:, :4] = self._solver.coefficients()
        table[:, 4] = self._loop.guidance.scale_from_uncond(scale)
        host = host_tensor(table.ravel().tolist(), torch.float32, self._table.device)
        self._table.copy_(host.view(-1, 8), non_blocking=True)
        self._scale = scale

    def _cut(self, evaluations: int) -> tuple[range, ...]:
        size = self.shape_program.tables.steps
        starts = range(0, evaluations, size)
        return tuple(range(first, min(first + size, evaluations)) for first in starts)

    def _whole_windows(self) -> GraphSequence:
        work = [partial(self._window, window) for window in self._windows]
        return self.shape_program.sequence(self.shape_program.record(work))

    def _window(self, window: range) -> None:
        p = self.shape_program
        for step in window:
            p.launcher.run(p.variants[p.plan.order[step]], self._finish)

    def _finish(self, launch: Final, reuses: Reuses) -> None:
        p, k, norm = self.shape_program, self.shape_program.kernels, self.shape_program.outer.norm
        latents, final = p.buffers.latents, p.weights.final
        if p.outer.modulation is not None:
            chunks = (p.tables.final, p.tables.final + 1)
            end = (final, latents, self._state, norm.eps)
            modulation = p.tables.modulation
            if launch.source is None:
                k.reuse_evaluation(
                    latents, p.weights.embedding, reuses, modulation, *chunks, final, self._state,
                    norm.eps, out=latents,
                )  # fmt: skip
                return
            x = p.buffers.stream(launch.source)
            k.final_update(x, reuses, modulation, *chunks, *end, out=latents)
            return
        assert launch.source is not None
        x, affine = p.buffers.stream(launch.source), (norm.weight.detach(), norm.bias.detach())
        if p.outer.after is None:
            end = (final, latents, self._state, norm.eps)
            k.final_update_norm(x, reuses, *affine, *end, out=latents)
            return
        self._finish_image(launch.source, reuses, affine)

    def _meaning(self) -> Tensor:
        """The latents after an evaluation that computes everything."""
        p = self.shape_program
        latents, counter = p.buffers.latents.clone(), p.buffers.counter.clone()
        x = latents.to(p.buffers.h.dtype).repeat(p.buffers.shape.batch // len(latents), 1, 1, 1)
        eps = model_output(p.model, x, p.tables.t[:1].expand(len(x)), p.tables.of_images())
        solver = Solver(self._coefficients, counter, p.buffers.anchor.clone())
        return reference.guided_update(eps, latents, solver, self._loop.guided_channels)

    def _finish_image(self, source: str, reuses: Reuses, affine: tuple[Tensor, Tensor]) -> None:
        """Where the model's own last layers run between the final linear and the update."""
        p, k = self.shape_program, self.shape_program.kernels
        outer, h, latents = p.outer, p.buffers.h, p.buffers.latents
        assert outer.after is not None
        x = p.buffers.stream(source)
        k.reuse_run_norm(
            x, reuses, *affine, outer.norm.eps, out=(p.buffers.written_over(source), h)
        )
        weight, bias = outer.linear.weight.detach(), p.weights.final.bias
        out = self._tokens.view(-1, outer.linear.out_features)
        torch.addmm(bias, h.view(-1, h.shape[-1]), weight.t(), out=out)
        unpatchify_into(
            self._image, self._tokens[:, outer.prefix_tokens :], outer.patches.kernel_size[0]
        )
        guided = self._loop.guided_channels
        k.guided_update(outer.after(self._image), latents, self._state, guided, out=latents)


def _coefficients(steps: int, like: Tensor, anchor: Tensor | None) -> Tensor:
    """Every run brings its own; these are for the first pass, where each takes part."""
    row = [0.9, -0.3, 0.0, 0.0, 1.5] if anchor is None else [0.9, -0.3, 0.4, 1.0, 1.5]
    table = torch.tensor([[*row, 0.0, 0.0, 0.0]], dtype=torch.float32, device="cpu")
    return table.to(like.device).repeat(steps, 1)


class _Reports:
    """Copies of the latents on their way to the host, and the callback that waits for them."""

    def __init__(self, latents: Tensor, callback: Callback) -> None:
        self._latents, self._callback = latents, callback
        cuda = latents.device.type == "cuda"
        self._free = [
            torch.empty(latents.shape, dtype=latents.dtype, device="cpu", pin_memory=cuda)
            for _ in range(AHEAD + 1)
        ]
        self._queued: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def queue(self, step: int) -> None:
        """Copy behind the evaluation just launched; wait only for one that is AHEAD behind."""
        host, event = self._free.pop(), None
        host.copy_(self._latents, non_blocking=True)
        if self._latents.device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._queued.append((step, host, event))
        while len(self._queued) > AHEAD or (self._queued and _is_done(self._queued[0][2])):
            self._report()

    def finish(self) -> None:
        while self._queued:
            self._report()

    def _report(self) -> None:
        step, host, event = self._queued.popleft()
        if event is not None:
            event.synchronize()
        # A copy of its own: the callback may keep it.
        self._callback(step, host.clone())
        self._free.append(host)


def _is_done(event: torch.cuda.Event | None) -> bool:
    return event is None or bool(event.query())  # type: ignore[no-untyped-call]
