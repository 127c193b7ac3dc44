"""Evaluations one by one, for a loop of the user's own: the model's output for (x, t, y)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import State
from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.cuda.buffers import Shape
from l2c_rt.backends.cuda.cuda_parts import FusedModel
from l2c_rt.backends.cuda.model_output import ModelOutput
from l2c_rt.backends.cuda.shape_program import ShapeProgram
from l2c_rt.kernels.operands import Reuses
from l2c_rt.memory.slots import Slots
from l2c_rt.plan.lowering import Final


class CallProgram:
    """A captured graph per distinct step, between a copy of x and a copy of the output.

    Timesteps that are known ahead are tabulated a window at a time.  Others, and labels that
    change inside a run, are tabulated evaluation by evaluation, in products of the same shape.
    """

    def __init__(self, fused: FusedModel, slots: Slots, state: State) -> None:
        batch, channels, height, width = state.x.shape
        shape = Shape(batch, batch, channels, height, width)
        self.shape_program = ShapeProgram(
            fused, slots, shape, range(batch), guided=0, one_kernel=False
        )
        self._output = output = ModelOutput(self.shape_program)
        self.shape_program.capture(self._finish, output.meaning, output.out)
        self._variants = self.shape_program.sequence(self.shape_program.variant_graphs)
        self._labels: Tensor | None = None
        self._begun = False
        self._version: int | None = None
        self._window = range(0)

    def drop_tables(self) -> None:
        """A run begins: nothing is tabulated."""
        self._labels, self._window, self._begun = None, range(0), False

    def evaluate(self, evaluation: Evaluation) -> Tensor:
        """The model's output."""
        p, state = self.shape_program, evaluation.state
        if not self._begun:
            p.begin_run(evaluation.lanes)
            self._begun = True
        self._tabulate(state, evaluation.step, evaluation.timesteps)
        with p.times.around(evaluation.variant):
            p.buffers.latents.copy_(state.x, non_blocking=True)
            self._variants.launch(evaluation.variant, 1)
            out = self._output.out.clone()
        p.replays += 1
        return out

    def _tabulate(self, state: State, step: int, timesteps: Sequence[float] | None) -> None:
        p, y = self.shape_program, state.y if isinstance(state.y, Tensor) else None
        begins = step % p.tables.steps == 0
        if begins:
            self._window = range(step, min(step + p.tables.steps, p.plan.num_evaluations))
            self._labels, self._version = y, _version(y)
        elif step not in self._window or not self._same_labels(y):
            self._window = range(0)
        window = self._window
        if step in window and timesteps is not None:
            if begins:
                p.fill(timesteps[window.start : window.stop], y, window.start)
            return
        t = _timestep(state.t, p.tables.t)
        if step not in window:
            p.fill(t, y, step)
            return
        # The very product of a loop that is known, whose last bits depend on its shape.
        p.fill(t.expand(len(window)), y, window.start)
        p.buffers.counter[:1].fill_(step - window.start)

    def _same_labels(self, y: Tensor | None) -> bool:
        """The very tensor that was tabulated, not written to since."""
        version = _version(y)
        return version is not None and y is self._labels and version == self._version

    def _finish(self, launch: Final, reuses: Reuses) -> None:
        self._output.finish(launch, reuses)
        self.shape_program.buffers.counter[:1].add_(1)


def _timestep(t: Tensor | float, like: Tensor) -> Tensor:
    """Shape [1], on the device already or a number of the host in a launch; a copy would wait."""
    if isinstance(t, Tensor) and t.device == like.device:
        return t.reshape(-1)[:1]
    return torch.full((1,), _number(t), dtype=like.dtype, device=like.device)


def _number(t: Tensor | float) -> float:
    return float(t.reshape(-1)[0]) if isinstance(t, Tensor) else float(t)


def _version(y: Tensor | None) -> int | None:
    """The count of writes to y; None for tensors of torch.inference_mode, which keep none."""
    if y is None:
        return 0
    return None if y.is_inference() else y._version
