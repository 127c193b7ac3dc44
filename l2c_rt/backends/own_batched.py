"""A model's own forward for batches of several requests, each at a step of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.own import OwnWorkspace
from l2c_rt.backends.own_calls import CallPlans
from l2c_rt.device.graphs import GraphStats
from l2c_rt.memory.slots import Slots
from l2c_rt.plan.ops import Plan, StepPlan

MAX_SHAPES = 64
"""Kinds of arguments for which a workspace is kept."""


class BatchedOwn:
    """A workspace for each kind of arguments, which an evaluation of their own has prepared.

    That one computes everything and is not used: what a forward calls at evaluation 0, later ones
    are compared with, and a batch of this size may never have an evaluation 0.
    """

    def __init__(self, model: BoundModel, plan: Plan, plans: CallPlans) -> None:
        self._model, self._plan, self._plans = model, plan, plans
        self._workspaces: dict[object, OwnWorkspace] = {}

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        """As `OwnWorkspace.evaluate`."""
        workspace = self._at(evaluation)
        # Never as the first of a run, which would be planned anew.
        return workspace.evaluate(step, evaluation._replace(step=max(1, evaluation.step)))

    def drop_tables(self) -> None:
        for workspace in self._workspaces.values():
            workspace.drop_tables()

    @property
    def nbytes(self) -> int:
        return 0

    @property
    def graph_stats(self) -> GraphStats:
        return GraphStats()

    def step_seconds(self) -> Iterable[tuple[int, float]]:
        return ()

    def _at(self, evaluation: Evaluation) -> OwnWorkspace:
        key = _kind_of(evaluation.state.options)
        if key not in self._workspaces:
            workspace = OwnWorkspace(self._model, self._plan, self._plans)
            first = self._plan.order[0]
            workspace.evaluate(
                self._plan.steps[first],
                evaluation._replace(step=0, variant=first, slots=Slots(self._plan.num_slots)),
            )
            self._workspaces[key] = workspace
            while len(self._workspaces) > MAX_SHAPES:
                del self._workspaces[next(iter(self._workspaces))]
        return self._workspaces[key]


def _kind_of(options: dict[str, Any]) -> object:
    leaves = tree_leaves((options["args"], options["kwargs"]))
    return tuple(
        (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in leaves
    )
