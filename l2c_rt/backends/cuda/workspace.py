"""What a lane keeps for one input shape on a GPU: programs, made at the first call or run."""

from __future__ import annotations

import weakref

from torch import Tensor

from l2c_rt.backends.backend import Callback, Evaluation, RunRequest, refuse_autocast
from l2c_rt.backends.cuda.call_program import CallProgram
from l2c_rt.backends.cuda.cuda_parts import FusedModel
from l2c_rt.backends.cuda.run_program import RunProgram
from l2c_rt.backends.cuda.shape_program import ShapeProgram
from l2c_rt.device.graphs import GraphStats
from l2c_rt.device.streams import StreamOrder, on
from l2c_rt.memory.slots import Slots
from l2c_rt.plan.ops import StepPlan


class CudaWorkspace:
    """Calls and whole runs share slots, and never a run; one order of streams holds for all."""

    def __init__(self, fused: FusedModel) -> None:
        self._fused = fused
        self._device = fused.model.device
        self._call: CallProgram | None = None
        self._runs: dict[tuple[int, bool], RunProgram] = {}
        self._order = StreamOrder(self._device, replays=fused.options.graph != "off")
        # Graphs and buffers must outlive what was launched with them.
        self._drained = weakref.finalize(self, self._order.wait)
        self._drained.atexit = False

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        state = evaluation.state
        refuse_autocast(self._device.type)
        self._refuse_elsewhere("x", state.x)
        self._refuse_elsewhere("y", state.y)
        with on(self._device), self._order():
            if self._call is None:
                self._call = CallProgram(self._fused, evaluation.slots, state)
            state.x = self._call.evaluate(evaluation)
        return self._fused.model.finish(state)

    def whole_run(self, request: RunRequest, slots: Slots, callback: Callback | None) -> Tensor:
        """See `WholeRuns`; work is queued, not waited for."""
        refuse_autocast(self._device.type)
        self._refuse_elsewhere("noise", request.noise)
        key = (len(request.noise), request.guided)
        with on(self._device), self._order(), slots.in_use():
            if key not in self._runs:
                self._runs[key] = RunProgram(self._fused, slots, request)
            return self._runs[key].run(request, callback)

    def drop_tables(self) -> None:
        if self._call is not None:
            self._call.drop_tables()

    @property
    def programs(self) -> list[ShapeProgram]:
        """Those of calls and of whole runs."""
        runs = [run.shape_program for run in self._runs.values()]
        return runs if self._call is None else [self._call.shape_program, *runs]

    @property
    def nbytes(self) -> int:
        return sum(program.tables.nbytes for program in self.programs)

    @property
    def graph_stats(self) -> GraphStats:
        stats = sum((program.graph_stats for program in self.programs), GraphStats())
        quantized = self._fused.quantized
        return stats if quantized is None else stats + GraphStats(buffer_bytes=quantized.nbytes)

    def step_seconds(self) -> list[tuple[int, float]]:
        return [] if self._call is None else self._call.shape_program.times.ended()

    def run_seconds(self) -> list[tuple[float, float]]:
        return [pair for run in self._runs.values() for pair in run.ended()]

    def _refuse_elsewhere(self, name: str, value: object) -> None:
        if isinstance(value, Tensor) and value.device != self._device:
            device = self._device
            raise ValueError(
                f"{name} is on {value.device}, the model on {device}: pass {name}.to({device})"
            )
