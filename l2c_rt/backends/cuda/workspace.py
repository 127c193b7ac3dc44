"""What a lane keeps for one input shape on a GPU: programs, made at the first call or run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.cuda.call_program import CallProgram
from l2c_rt.backends.cuda.cuda_parts import CudaParts
from l2c_rt.backends.cuda.run_program import RunProgram
from l2c_rt.backends.cuda.shape_program import ShapeProgram
from l2c_rt.backends.options import Options
from l2c_rt.device.graphs import drain
from l2c_rt.device.streams import StreamOrder, on
from l2c_rt.memory.slots import Slots
from l2c_rt.plan.ops import Plan, StepPlan
from l2c_rt.runtime.summary import GraphStats
from l2c_rt.sampling.solvers import DDIM, DPMSolver


class Workspace:
    """Calls and whole runs share slots, and never a run; one order of streams holds for all."""

    def __init__(
        self, bound_model: BoundModel, plan: Plan, cuda: CudaParts, options: Options
    ) -> None:
        self._bound, self._plan, self._tools, self._options = bound_model, plan, cuda, options
        self._call: CallProgram | None = None
        self._runs: dict[tuple[int, bool], RunProgram] = {}
        self._timesteps: Sequence[float] | None = None
        self._order = StreamOrder(bound_model.device, replays=options.graph != "off")
        # Graphs and buffers must outlive what was launched with them.
        self._drained = weakref.finalize(self, drain, bound_model.device)
        self._drained.atexit = False

    def begin(self, evaluation: Evaluation, timesteps: Sequence[float] | None) -> None:
        """Make ready for one evaluation of a run with these timesteps, if they are known."""
        device = self._bound.device
        if torch.is_autocast_enabled(device.type):
            raise ValueError(
                "the fused backend does not run under autocast: cast the model, as in "
                'model.to(torch.bfloat16), or compile with backend="reference"'
            )
        x, y = evaluation.state.x, evaluation.state.y
        for name, got in (("x", x), ("y", y)):
            if isinstance(got, Tensor) and got.device != device:
                raise ValueError(
                    f"{name} is on {got.device}, the model on {device}: move {name} there"
                )
        evaluation.prepared, self._timesteps = self, timesteps

    def evaluate(self, evaluation: Evaluation) -> Tensor:
        """The model's output for one call."""
        with on(self._bound.device), self._order():
            if self._call is None:
                self._call = CallProgram(
                    self._bound,
                    self._plan,
                    self._tools,
                    self._options,
                    evaluation.slots,
                    evaluation.state,
                )
            return self._call.evaluate(
                evaluation.state, evaluation.step, evaluation.row, self._timesteps
            )

    def sample(
        self,
        slots: Slots,
        noise: Tensor,
        labels: Tensor | None,
        scale: float,
        solver: DDIM | DPMSolver,
        callback: Callable[[int, Tensor], None] | None,
        *,
        guided: bool,
    ) -> Tensor:
        """A whole run; see `RunProgram.run`."""
        key = (len(noise), guided)
        with on(self._bound.device), self._order():
            if key not in self._runs:
                self._runs[key] = RunProgram(
                    self._bound, self._plan, self._tools, self._options, slots, noise, solver,
                    guided=guided,
                )  # fmt: skip
            return self._runs[key].run(noise, labels, scale, callback)

    def forget(self) -> None:
        """A run begins, or the memory goes: nothing that was tabulated may be used."""
        if self._call is not None:
            self._call.forget()

    @property
    def programs(self) -> list[ShapeProgram]:
        runs = [run.prepared for run in self._runs.values()]
        return runs if self._call is None else [self._call.prepared, *runs]

    @property
    def nbytes(self) -> int:
        """Memory of the tables."""
        return sum(p.tables.nbytes for p in self.programs)

    @property
    def captured(self) -> GraphStats:
        """What was captured and replayed, for the summary."""
        return sum((p.captured for p in self.programs), GraphStats())

    def times(self) -> list[tuple[int, float]]:
        """(row, seconds) of evaluations that have ended since the last time."""
        return [] if self._call is None else self._call.prepared.times.ended()

    def run_times(self) -> list[tuple[float, float]]:
        """(seconds of the first evaluation, seconds in all) of whole runs that have ended."""
        return [pair for run in self._runs.values() for pair in run.ended()]


def run(step: StepPlan, evaluation: Evaluation) -> Any:
    """Run one evaluation and give the model's own return value."""
    evaluation.state.x = evaluation.prepared.evaluate(evaluation)
    return evaluation.bound_model.finish(evaluation.state)
