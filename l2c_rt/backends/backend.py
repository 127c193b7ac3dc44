"""The interface between the runtime and a backend.

A backend rewrites plans and makes workspaces.  A workspace belongs to one lane and one input
shape, and runs evaluations there; it may keep tables and graphs between calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel, State
from l2c_rt.device.graphs import GraphStats
from l2c_rt.memory.mixing import Operand
from l2c_rt.memory.slots import Slots
from l2c_rt.plan.cost import Cost
from l2c_rt.plan.mode_fit import ModeFit
from l2c_rt.plan.ops import Coefficients, Plan, Predict, StepPlan
from l2c_rt.plan.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan.prepare import Passes
from l2c_rt.plan.program import BlockProgram
from l2c_rt.plan.run_record import Done, RunRecord
from l2c_rt.sampling.solvers import PublishedSolver

MAX_SHAPES = 4
"""Kinds of inputs for which memory and graphs are kept; the least recently used one is dropped."""

Callback = Callable[[int, Tensor], None]
"""(evaluation, latents after it)."""


class WrongResultError(RuntimeError):
    """A backend computes something else than the model on this machine; no result was given."""


class Member(NamedTuple):
    """A request in a batch of several: its `samples` samples are from `first` on in the slots, and
    at evaluation `step`."""

    first: int
    samples: int
    step: int


class Evaluation(NamedTuple):
    """One evaluation of a run: its running values, its slots, and where in the run it is.

    `step` counts evaluations, `variant` is the plan's distinct step; `timesteps` [S] are those of
    the whole run, where they are known.  `coefficients` are those of the step's predictions, and
    `operands` their tensors by branch; sample b of the batch takes row `lanes[b]` of them, or all
    the first.  `record` has what the run did so far; `lane` is which call of the step this is;
    `sigma` is the noise level that the loop announced; with a `fit` predictions are by modes.  A
    batch of several requests has `members`, and `step` is the first one's.
    """

    state: State
    slots: Slots
    step: int
    variant: int
    timesteps: tuple[float, ...] | None
    coefficients: Coefficients = ()
    operands: Mapping[str, Operand] = {}
    record: RunRecord = RunRecord(0)
    lane: int = 0
    sigma: float | None = None
    lanes: tuple[int, ...] = ()
    members: tuple[Member, ...] = ()
    fit: ModeFit | None = None

    def numbers(self, op: Predict) -> Coefficients:
        """The coefficients of a prediction, a row for each lane."""
        at, stop = op.at, op.at + len(op.slots)
        return tuple([row[at:stop] for row in self.coefficients])


class Workspace(Protocol):
    """What a backend keeps for one lane and one input shape."""

    @property
    def nbytes(self) -> int:
        """Memory of the tables."""

    @property
    def graph_stats(self) -> GraphStats:
        """What was captured and replayed so far."""

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        """Run one evaluation and give the model's own return value."""

    def drop_tables(self) -> None:
        """A run begins, or the memory goes: nothing made from weights or labels may be used."""

    def step_seconds(self) -> Iterable[tuple[int, float]]:
        """(variant, seconds) of evaluations that the device has ended since the last time."""


class Decides(Workspace, Protocol):
    """A workspace that chooses among the plan's distinct steps itself, where it need not carry out
    step 0."""

    @property
    def done(self) -> Done:
        """What the last evaluation did."""


def carried_out(workspace: Workspace, variant: int) -> Done:
    """What a workspace has done that was asked for a distinct step."""
    # At every call: isinstance with a protocol takes as long as a product of a tiny model.
    done: Done | None = getattr(workspace, "done", None)
    return Done(variant) if done is None else done


@runtime_checkable
class WholeRuns(Workspace, Protocol):
    """A workspace that also does a published loop as a whole, guidance and solver included."""

    def whole_run(self, request: RunRequest, slots: Slots, callback: Callback | None) -> Tensor:
        """The latents after the run; `callback` is given float32 copies on the host."""

    def run_seconds(self) -> Iterable[tuple[float, float]]:
        """(seconds of the first evaluation, seconds in all) of runs that have ended."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The program of a call with the counts of its arithmetic, the plan that runs, its cost."""

    program: BlockProgram
    plan: Plan
    cost: Cost


@runtime_checkable
class CountsCalls(Workspace, Protocol):
    """A workspace that knows what its calls cost once it has seen what they are given."""

    @property
    def counted(self) -> Counted | None:
        """Of the run under way, or the last one."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A run of a published loop.  Shapes: noise [n, C, H, W]; labels int64 [n]."""

    noise: Tensor
    labels: Tensor | None
    cfg_scale: float
    guided: bool
    solver: PublishedSolver


class WeightCopies(Protocol):
    """Copies of weights that all workspaces of a backend use."""

    @property
    def nbytes(self) -> int:
        """Memory of the copies."""

    def begin_run(self) -> None:
        """Forget the copies of weights that were written to since."""

    def drop(self) -> None:
        """Give the memory back; copies are made again when they are wanted."""


@dataclass(frozen=True, slots=True)
class Backend:
    """How a described model is run.  `reasons` says why this backend and not a faster one.

    `extra_slots` are taken beside the plan's.  One that is `replaceable` gives way to the reference
    where its first run finds a wrong result.  `copies` are the backend's of the model's weights,
    `without_copies` is the same backend without them; `dtype` is that of its products, where the
    model has another.  `notes` are for `summary()` alone: nothing asked for is left undone.
    `batched(plan, requests, most)` makes a workspace whose evaluations have samples of several
    requests, each at a step of its own, of which `requests` have begun and at most `most` samples
    share an evaluation; None where the backend has none.  One that `fills_batches` up to the next
    power of two of samples also has the coefficients of predictions for each.  With `delta_form`
    its passes put evaluations into that form.
    """

    name: str
    passes: Passes
    workspace: Callable[[Plan], Workspace]
    reasons: tuple[str, ...] = ()
    extra_slots: int = 0
    replaceable: bool = False
    copies: WeightCopies | None = None
    without_copies: Backend | None = None
    notes: tuple[str, ...] = ()
    dtype: torch.dtype | None = None
    batched: Callable[[Plan, int, int], Workspace] | None = None
    fills_batches: bool = False
    delta_form: bool = False


OpTable = Mapping[type, Callable[[Any, Any, Evaluation], None]]
"""What to do for each type of op: (workspace, op, evaluation)."""


class OpByOp:
    """A workspace without tables and graphs: the ops of an evaluation, one after another."""

    ops: ClassVar[OpTable]

    def __init__(self, model: BoundModel) -> None:
        self.model = model

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        ops = self.ops
        for op in step:
            ops[type(op)](self, op, evaluation)
        return self.model.finish(evaluation.state)

    @property
    def nbytes(self) -> int:
        return 0

    @property
    def graph_stats(self) -> GraphStats:
        return GraphStats()

    def drop_tables(self) -> None:
        """There are none."""

    def step_seconds(self) -> Iterable[tuple[int, float]]:
        return ()


def refuse_autocast(device_type: str) -> None:
    """Raise ValueError under autocast, whose dtype a fused backend would not follow."""
    if torch.is_autocast_enabled(device_type):
        raise ValueError(
            "the fused backend does not run under autocast: cast the model, as in "
            'model.to(torch.bfloat16), or compile with backend="reference"'
        )


def unchanged(plan: Plan, program: BlockProgram) -> Plan:
    """The passes of a backend that takes the plan as it is."""
    return plan


def fused_passes(plan: Plan, program: BlockProgram) -> Plan:
    """The passes of every fused backend: modulation before the loop, reuses summed in one go."""
    return fuse_reuse_runs(hoist_conditioning(plan, program))
