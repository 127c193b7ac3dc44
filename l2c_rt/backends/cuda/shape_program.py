"""A plan made ready for one input shape: buffers, tables, configurations, graphs of its steps."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import FusableModel
from l2c_rt.backends.cuda.branch_launcher import BranchLauncher, BranchOperands
from l2c_rt.backends.cuda.buffers import Shape, allocate
from l2c_rt.backends.cuda.checking.compared_kernels import ComparedKernels
from l2c_rt.backends.cuda.checking.first_step import FirstStep
from l2c_rt.backends.cuda.composed_skips import ComposedSkips
from l2c_rt.backends.cuda.cuda_parts import FusedModel
from l2c_rt.backends.cuda.linears import Linears
from l2c_rt.backends.cuda.modulation_table import ModulationTable
from l2c_rt.backends.cuda.prediction_table import PredictionTable
from l2c_rt.backends.cuda.quantized_branches import QuantizedBranches
from l2c_rt.backends.cuda.request_tables import BatchTable, tables_for
from l2c_rt.backends.cuda.skip_linears import SkipLinears
from l2c_rt.backends.cuda.step_launcher import Finish, StepLauncher
from l2c_rt.backends.cuda.token_launcher import TokenLauncher
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.device.event_times import EventTimes
from l2c_rt.device.graph_sequence import GraphSequence
from l2c_rt.device.graphs import Eager, Graph, GraphStats, Recorder, Work
from l2c_rt.memory.slots import Slots
from l2c_rt.plan.kernel_counts import launch_kernels
from l2c_rt.plan.lowering import LoweredStep, buffers, can_be_one_kernel, lower


class ShapeProgram:
    """What calls, whole runs and batches of requests have in common.

    `variants[i]` are the launches of the plan's distinct step i.  Build, `capture`, then replay.
    `rows` are the labels' by image, or the table that several requests fill for themselves.
    """

    def __init__(
        self,
        fused: FusedModel,
        slots: Slots,
        shape: Shape,
        rows: Sequence[int] | BatchTable,
        *,
        guided: int,
        one_kernel: bool,
    ) -> None:
        model, plan, cuda = fused.model, fused.plan, fused.cuda
        fusable, outer = fused.fusable, fused.outer
        self.model, self.plan, self.options, self.outer = model, plan, fused.options, outer
        one_kernel = one_kernel and can_be_one_kernel(model.program)
        self.variants: tuple[LoweredStep, ...] = tuple(
            lower(step, model.program, plan.num_slots, one_kernel=one_kernel) for step in plan.steps
        )
        self.device = outer.linear.weight.device
        places = rows.places if isinstance(rows, BatchTable) else None
        self.buffers = allocate(shape, fused, slots, buffers(self.variants), places)
        self.tables, self.weights = tables_for(fused, self.buffers.counter, rows, guided)
        self.quantized = fused.quantized
        self._checked, self._tuner = cuda.checked, cuda.tuner
        self.kernels = cuda.kernels if cuda.checked is None else ComparedKernels(cuda.kernels)
        self._make_launchers(fusable, cuda.tuner)
        self.recorder: Recorder = cuda.recorder(self.device)
        self.replays = self.graphs = self.nodes = 0
        self.seconds = 0.0
        self.notes: list[str] = list(cuda.tuner.notes)
        self.times = EventTimes(self.device)

    def _make_launchers(self, fusable: FusableModel, tuner: Tuner) -> None:
        buffers, tables, kernels, plan = self.buffers, self.tables, self.kernels, self.plan
        of_batch = (plan, tables.steps, buffers.counter, buffers.h.shape)
        self.predictions = PredictionTable(*of_batch) if plan.coefficients else None
        self._linears = linears = Linears(kernels, tuner)
        operands = BranchOperands(fusable, buffers, self.weights, kernels, tuner, linears)
        self.branches = (
            BranchLauncher(operands) if self.quantized is None
            else QuantizedBranches(operands, self.quantized)
        )  # fmt: skip
        skip_linears = {} if fusable.outer is None else fusable.outer.skip_linears
        self.skips = SkipLinears(skip_linears, buffers, kernels, linears)
        self.composed = ComposedSkips(skip_linears, self.variants, buffers, kernels, linears)
        self.tokens = None
        if plan.tokens is not None:
            self.tokens = TokenLauncher(
                fusable, buffers, tables, plan, self.variants, kernels, linears
            )
        self.launcher = StepLauncher(
            fusable, buffers, tables, self.weights, self.branches, self.skips, self.composed,
            kernels, self.predictions, self.tokens,
        )  # fmt: skip

    def capture(self, finish: Finish, meaning: Callable[[], Tensor], result: Tensor) -> None:
        """Settle configurations, run everything once, capture the filling of tables and steps.

        Raises WrongResultError where that shows a kernel, or the first step, to be wrong: what
        `result` holds after it is `meaning` of the buffers before.
        """
        began = time.perf_counter()
        self.branches.tune()
        self.skips.tune(self._tuner)
        self.composed.tune(self._tuner)
        if self.tokens is not None:
            self.tokens.tune()
        for variant in self.variants:
            self.launcher.prepare(variant)
        fills: list[Work] = []
        if isinstance(self.tables, ModulationTable):
            fill, steps = self.tables.fill, self.tables.steps
            fills = [self._take_weights, partial(fill, steps), partial(fill, 1)]
        work: list[Work] = [partial(self.launcher.run, v, finish) for v in self.variants]
        # The kernels of every step, where they are Triton's: otherwise one after the other.
        self._tuner.compile_ahead(work)
        self._first_pass(fills, work, FirstStep(self.model, meaning, result, self._narrowest))
        graphs = self.record([*fills, *work])
        self._fills, self.variant_graphs = graphs[: len(fills)], tuple(graphs[len(fills) :])
        if self.recorder.captures:
            nodes = {node.name: node for node in self.model.program.nodes}
            launches = [launch for variant in self.variants for launch in variant]
            self.nodes = sum(launch_kernels(launch, nodes) for launch in launches)
            self.nodes += sum(map(self.branches.more_kernels, launches))
            self.nodes += sum(map(self.skips.more_kernels, launches))
            self.nodes += sum(map(self.composed.more_kernels, launches))
        self.seconds += time.perf_counter() - began

    def _first_pass(self, fills: list[Work], steps: list[Work], first: FirstStep) -> None:
        """Run everything once, checked where this was not yet on this machine."""
        # Every step counts an evaluation: left to add up, they would read behind the tables.
        counted = [item for step in steps for item in (self._count_anew, step)]
        checked, kernels = self._checked, self.kernels
        digest = self._digest()
        if checked is None or checked.passed(digest):
            self.recorder.warm([*fills, *counted])
            return
        # What later steps read was written by the first and those before them.
        computes_all, rest = counted[1], counted[2:]
        work = [
            self._seed, *fills, self.composed.check, kernels.begin, self._count_anew,
            first.before, computes_all, first.after, *rest,
        ]  # fmt: skip
        if self.recorder.captures:
            self.recorder.warm(work)
        else:
            for item in work:
                item()
        kernels.end()
        checked.remember(digest)
        self.notes += checked.notes

    @property
    def _narrowest(self) -> torch.dtype:
        """Of the dtypes that an evaluation rounds to."""
        return self.buffers.h.dtype if self.quantized is None else torch.float8_e4m3fn

    def _seed(self) -> None:
        """An input that no kernel can be right on by chance."""
        latents = self.buffers.latents
        latents.normal_(generator=torch.Generator(latents.device).manual_seed(0))
        # As the model, which is given them in its own dtype, reads them.
        latents.copy_(latents.to(self.buffers.h.dtype))
        self.tables.seed()

    def _digest(self) -> str:
        """What runs here, as far as kernels depend on it."""
        b = self.buffers
        tensors = {name: (tuple(x.shape), x.dtype) for name, x in (("h", b.h), *b.streams.items())}
        facts = (self.model.program, self.plan.steps, self.plan.tokens, self.variants, b.shape,
                 tensors, self.options.precision, b.places is not None,
                 sorted(map(repr, self.branches.choices.items())))  # fmt: skip
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def record(self, work: Sequence[Callable[[], None]]) -> list[Graph]:
        """Graphs of work that has been run before.

        Where capturing fails and `options.forgiving`, the work itself is run again each time, and
        the reason noted.  Raises RuntimeError otherwise.
        """
        try:
            graphs = [self._captured(item) for item in work]
        except RuntimeError as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            if not self.options.forgiving:
                raise RuntimeError(
                    f"capturing CUDA graphs failed ({why}); free memory, use a smaller batch, or "
                    'compile with graph="off"'
                ) from error
            self.notes.append(f"graphs not captured, kernels launched one by one: {why}")
            self.recorder = Eager(self.device)
            return [self.recorder.capture(item) for item in work]
        self.graphs += len(graphs) if self.recorder.captures else 0
        return graphs

    def _captured(self, work: Callable[[], None]) -> Graph:
        self._count_anew()
        return self.recorder.capture(work)

    def _take_weights(self) -> None:
        self.weights.refresh()
        self.composed.weights.refresh()
        if self.quantized is not None:
            self.quantized.refresh(self.kernels)

    def _count_anew(self) -> None:
        self.buffers.counter.zero_()

    def sequence(self, graphs: Sequence[Graph]) -> GraphSequence:
        """Graphs of this shape in the order of a run."""
        return GraphSequence(graphs, self.device, [self.buffers.memory.arena])

    def begin_run(self, lanes: Sequence[int]) -> None:
        """A run begins, its samples in these lanes: take the weights as they are now."""
        if self.predictions is not None:
            self.predictions.use(lanes)
        self._fills[0].replay()

    def fill(self, t: Sequence[float] | Tensor, y: Tensor | None, first: int) -> None:
        """Tabulate for the evaluations from `first` on, at timesteps t, and go back to the table's
        first.

        Shapes: t [w] with w = 1 or at most the window; y int64 [labels].
        """
        tables, count = self.tables, len(t)
        assert isinstance(tables, ModulationTable)
        tables.take(t)
        if self.predictions is not None:
            self.predictions.fill(first, count)
        if self.tokens is not None:
            self.tokens.fill(first, count)
        if tables.y is not None:
            if y is None:
                raise ValueError("y is missing: the model was made with labels")
            tables.y.copy_(y, non_blocking=True)
        self._fills[2 if count == 1 else 1].replay()

    @property
    def graph_stats(self) -> GraphStats:
        static = self.buffers.nbytes + self._linears.nbytes + self.composed.weights.nbytes
        static += self.weights.nbytes if isinstance(self.tables, ModulationTable) else 0
        static += 0 if self.tokens is None else self.tokens.nbytes
        return GraphStats(
            self.graphs, self.nodes, self.recorder.nbytes, static, self.seconds, self.replays,
            tuple(self.notes),
        )  # fmt: skip
