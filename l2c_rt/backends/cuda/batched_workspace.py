"""Evaluations of several requests on a GPU, each at a step of its own: a graph for every distinct
step and every power of two of samples."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from l2c_rt.backends.backend import Evaluation, refuse_autocast
from l2c_rt.backends.cuda.buffers import Shape
from l2c_rt.backends.cuda.cuda_parts import FusedModel
from l2c_rt.backends.cuda.model_output import ModelOutput
from l2c_rt.backends.cuda.request_tables import BatchTable, RequestTables
from l2c_rt.backends.cuda.shape_program import ShapeProgram
from l2c_rt.device.graphs import GraphStats
from l2c_rt.device.streams import StreamOrder, on
from l2c_rt.kernels._launch import power_of_2
from l2c_rt.memory.request_slots import BatchSlots
from l2c_rt.memory.slots import Slots
from l2c_rt.plan.ops import StepPlan


class BatchProgram:
    """The graphs of batches of as many samples as `shape` has images, or fewer."""

    def __init__(
        self, fused: FusedModel, slots: Slots, shape: Shape, requests: RequestTables
    ) -> None:
        self._table = BatchTable(requests, shape.batch)
        self.shape_program = ShapeProgram(
            fused, slots, shape, self._table, guided=0, one_kernel=False
        )
        self._output = output = ModelOutput(self.shape_program)
        # The first pass is of samples apart, each of which writes to slots of its own.
        self._table.point_at(range(shape.batch), [0] * shape.batch)
        self.shape_program.capture(output.finish, output.meaning, output.out)
        self._variants = self.shape_program.sequence(self.shape_program.variant_graphs)

    def evaluate(
        self, variant: int, x: Tensor, samples: Sequence[int], steps: Sequence[int],
        lanes: Sequence[int],
    ) -> Tensor:  # fmt: skip
        """The model's output.  Shapes: x and the result [n, C, H, W], n samples and steps."""
        p = self.shape_program
        if p.predictions is not None:
            p.predictions.use(lanes)
        p.buffers.latents[: len(x)].copy_(x, non_blocking=True)
        self._table.point_at(samples, steps)
        self._variants.launch(variant, 1)
        p.replays += 1
        return self._output.out[: len(x)].clone()


class BatchedWorkspace:
    """Of at most `most` samples at a time.  All is captured at the first evaluation."""

    def __init__(self, fused: FusedModel, most: int) -> None:
        self._fused, self._most = fused, most
        self._device = fused.model.device
        self._requests: RequestTables | None = None
        self._programs: dict[int, BatchProgram] = {}
        self._begun = False
        self._order = StreamOrder(self._device, replays=fused.options.graph != "off")
        # Graphs and buffers must outlive what was launched with them.
        self._drained = weakref.finalize(self, self._order.wait)
        self._drained.atexit = False

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        """Shapes: the state's x [n, C, H, W] and y [n], for the n samples of the members."""
        refuse_autocast(self._device.type)
        state, members = evaluation.state, evaluation.members
        samples = [s for m in members for s in range(m.first, m.first + m.samples)]
        steps = [m.step for m in members for _ in range(m.samples)]
        with on(self._device), self._order():
            requests = self._requests or self._captured(evaluation)
            if not self._begun:
                requests.take_weights()
                self._begun = True
            self._tabulate(requests, evaluation)
            program = self._programs[power_of_2(len(samples))]
            state.x = program.evaluate(
                evaluation.variant, state.x, samples, steps, evaluation.lanes
            )
        return self._fused.model.finish(state)

    def _tabulate(self, requests: RequestTables, evaluation: Evaluation) -> None:
        """The rows of those that begin."""
        y, at = evaluation.state.y, 0
        for member in evaluation.members:
            if member.step == 0:
                labels = y[at : at + member.samples] if isinstance(y, Tensor) else None
                requests.tabulate(member.first, labels, member.samples)
            at += member.samples

    def drop_tables(self) -> None:
        self._begun = False

    @property
    def nbytes(self) -> int:
        return 0 if self._requests is None else self._requests.nbytes

    @property
    def graph_stats(self) -> GraphStats:
        # A copy: other threads ask.
        programs = [program.shape_program for program in list(self._programs.values())]
        return sum((program.graph_stats for program in programs), GraphStats())

    def step_seconds(self) -> tuple[tuple[int, float], ...]:
        return ()

    def _captured(self, evaluation: Evaluation) -> RequestTables:
        """All sizes at once, while the slots are nobody's: the first pass writes to them."""
        state, slots = evaluation.state, evaluation.slots
        assert evaluation.timesteps is not None
        assert isinstance(slots, BatchSlots)
        samples = slots.samples
        requests = RequestTables(self._fused, samples, evaluation.timesteps)
        requests.take_weights()
        zeros = torch.zeros(1, dtype=torch.int64, device=self._device)
        for sample in range(samples):
            requests.tabulate(sample, zeros if requests.has_labels else None, 1)
        self._programs = {}
        for exponent in range(power_of_2(self._most).bit_length()):
            channels, height, width = state.x.shape[1:]
            shape = Shape(1 << exponent, 1 << exponent, channels, height, width)
            self._programs[1 << exponent] = BatchProgram(self._fused, slots, shape, requests)
        self._requests = requests
        return requests
