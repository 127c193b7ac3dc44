"""A plan made ready for one input shape: buffers, tables, choices, and graphs of its rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel, FusableModel, OuterLayers
from l2c_rt.backends.cuda.branch_launcher import BranchLauncher
from l2c_rt.backends.cuda.buffers import Shape, allocate, tokens_of
from l2c_rt.backends.cuda.cuda_parts import CudaParts
from l2c_rt.backends.cuda.modulation_table import ModulationTable
from l2c_rt.backends.cuda.step_launcher import Finish, StepLauncher
from l2c_rt.backends.cuda.weight_copies import WeightCopies
from l2c_rt.backends.options import Options
from l2c_rt.device.event_times import EventTimes
from l2c_rt.device.graphs import Eager, Graph, Launches, Recorder, Work
from l2c_rt.memory.slots import Slots
from l2c_rt.plan.cost import can_be_one_kernel, launch_kernels
from l2c_rt.plan.lowering import Row, buffers, lower
from l2c_rt.plan.ops import Plan
from l2c_rt.runtime.summary import GraphStats


class ShapeProgram:
    """What calls and whole runs have in common.

    `rows[i]` are the launches of the plan's distinct row i.  Build, `tune`, `capture`, then replay.
    """

    def __init__(
        self,
        bound_model: BoundModel,
        plan: Plan,
        cuda: CudaParts,
        options: Options,
        slots: Slots,
        shape: Shape,
        label_rows: Sequence[int],
        *,
        guided: int,
        one_kernel: bool,
    ) -> None:
        fusable, outer = fusable_and_outer(bound_model)
        self.bound_model, self.plan, self.options = bound_model, plan, options
        self.outer = outer
        one_kernel = one_kernel and can_be_one_kernel(bound_model.program)
        self.rows: tuple[Row, ...] = tuple(
            lower(step, bound_model.program, plan.num_slots, one_kernel=one_kernel)
            for step in plan.steps
        )
        like = outer.linear.weight
        tokens, width = tokens_of(outer, shape), outer.norm.normalized_shape[0]
        memory = slots.reserve((shape.batch, tokens, width), like.dtype, like.device)
        streams = buffers(self.rows)
        self.buffers = allocate(shape, fusable, memory, streams, options.residual_dtype)
        has_labels = bound_model.sampling is None or bound_model.sampling.classes > 0
        self.tables = ModulationTable(
            fusable, outer, self.buffers.counter, label_rows, plan.num_evaluations,
            options.table_bytes, has_labels=has_labels,
        )  # fmt: skip
        self.weights = WeightCopies(fusable, outer, guided)
        self.kernels = cuda.kernels
        self.branches = BranchLauncher(
            fusable, self.buffers, self.weights, cuda.kernels, cuda.tuner
        )
        self.runner = StepLauncher(
            fusable, self.buffers, self.tables, self.weights, self.branches, cuda.kernels
        )
        self.device = like.device
        self.recorder: Recorder = cuda.recorder(self.device)
        self.replays = self.graphs = self.nodes = 0
        self.seconds = 0.0
        self.notes: list[str] = list(cuda.tuner.notes)
        self.times = EventTimes(self.device)

    def capture(self, finish: Finish) -> None:
        """Settle choices, run everything once, capture the filling of tables and every row."""
        began = time.perf_counter()
        self.branches.tune()
        for row in self.rows:
            self.runner.prepare(row)
        fill = self.tables.fill
        fills: list[Work] = [self.weights.refresh, partial(fill, self.tables.steps),
                             partial(fill, 1)]  # fmt: skip
        work: list[Work] = [partial(self.runner.run, row, finish) for row in self.rows]
        # Every row counts an evaluation: left to add up, they would read behind the tables.
        counted = [step for each in work for step in (self._count_anew, each)]
        self.recorder.warm([*fills, *counted])
        self._refresh, self._fill_all, self._fill_one, *graphs = self.record([*fills, *work])
        self.row_graphs = tuple(graphs)
        if self.recorder.captures:
            nodes = {node.name: node for node in self.bound_model.program.nodes}
            self.nodes = sum(launch_kernels(launch, nodes) for row in self.rows for launch in row)
        self.seconds += time.perf_counter() - began

    def record(self, work: Sequence[Callable[[], None]]) -> list[Graph]:
        """Graphs of work that has been run before.

        Where capturing fails and `options.forgiving`, the work itself is run again each time, and
        the reason noted.  Raises RuntimeError otherwise.
        """
        try:
            found = [self._captured(each) for each in work]
        except RuntimeError as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            if not self.options.forgiving:
                raise RuntimeError(
                    f"capturing CUDA graphs failed ({why}); free memory, use a smaller batch, or "
                    'compile with graph="off"'
                ) from error
            self.notes.append(f"graphs not captured, kernels launched one by one: {why}")
            self.recorder = Eager(self.device)
            return [self.recorder.capture(each) for each in work]
        self.graphs += len(found) if self.recorder.captures else 0
        return found

    def _captured(self, work: Callable[[], None]) -> Graph:
        self._count_anew()
        return self.recorder.capture(work)

    def _count_anew(self) -> None:
        self.buffers.counter.zero_()

    def launches(self, graphs: Sequence[Graph]) -> Launches:
        """Graphs of this shape in the order of a run."""
        return Launches(graphs, self.device, [self.buffers.memory.arena])

    def begin(self) -> None:
        """A run begins: take the weights as they are now."""
        self._refresh.replay()

    def fill(self, t: Sequence[float] | Tensor, y: Tensor | None) -> None:
        """Tabulate for the evaluations at timesteps t, and go back to the table's first.

        Shapes: t [w] with w = 1 or at most the window; y int64 [labels].
        """
        tables = self.tables
        if isinstance(t, Tensor):
            tables.t[:1].copy_(t.reshape(-1)[:1])
            count = 1
        elif self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            # A user's capture would read the numbers again, in memory that is others' by then.
            count = len(t)
            for k, value in enumerate(t):
                tables.t[k].fill_(value)
        else:
            count = len(t)
            tables.t[:count].copy_(host_tensor(t, tables.t), non_blocking=True)
        if tables.y is not None:
            if y is None:
                raise ValueError("y is missing: the model was made with labels")
            tables.y.copy_(y, non_blocking=True)
        (self._fill_one if count == 1 else self._fill_all).replay()

    @property
    def captured(self) -> GraphStats:
        return GraphStats(
            self.graphs, self.nodes, self.recorder.nbytes,
            self.buffers.nbytes + self.weights.nbytes, self.seconds, self.replays,
            tuple(self.notes),
        )  # fmt: skip


def fusable_and_outer(bound_model: BoundModel) -> tuple[FusableModel, OuterLayers]:
    assert bound_model.fusable is not None
    assert bound_model.fusable.outer is not None
    return bound_model.fusable, bound_model.fusable.outer


def host_tensor(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers on the host, in memory that a copy to the device need not wait for."""
    made = torch.tensor([float(v) for v in values], dtype=like.dtype)
    return made.pin_memory() if like.device.type == "cuda" else made
