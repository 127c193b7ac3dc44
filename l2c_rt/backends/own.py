"""The backend of models without a hand-written adapter: their own forward, cut at its sites.

Bitwise equal to the model where nothing is reused, and to a naive cached forward where something
is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.sites import Site
from l2c_rt.backends.backend import Backend, Counted, Evaluation, unchanged
from l2c_rt.backends.own_blocks import BlockCall, BlockVisits
from l2c_rt.backends.own_calls import CallPlans, LaneCalls
from l2c_rt.device.graphs import GraphStats
from l2c_rt.memory.kept_values import KeptValues, ValueKey
from l2c_rt.plan.ops import Compute, Plan, StepPlan, reuses


class Act(Enum):
    """What is done at a cut point."""

    KEEP = auto()
    REUSE = auto()
    SHAPE = auto()
    HOLLOW = auto()


class Action(NamedTuple):
    """`slot` is the branch's; cut points without an action just call their module."""

    act: Act
    slot: int


Row = Mapping[str, Action]
"""The path of a cut point -> what is done there in one distinct step of a plan."""


class OwnWorkspace:
    """One stage of the model, and what its cut points gave at evaluation 0 of the run."""

    def __init__(self, model: BoundModel, plan: Plan, plans: CallPlans) -> None:
        assert model.open_stage is not None
        sites = {site.name: site for site in model.sites}
        self._rows: tuple[Row, ...] = tuple(_row(step, sites) for step in plan.steps)
        self._slot_names = plan.slots
        self._alike = _alike([sites[name] for name in plan.slots])
        self._stage = model.open_stage(self._visit)
        self._lane = LaneCalls(plan, plans)
        self._blocks = BlockVisits(self._lane) if model.sites[0].is_block else None
        self._hollow: dict[tuple[str, int], Any] = {}
        self._calls: dict[str, int] = {}
        self._calls_at_first: dict[str, int] = {}
        self._row: Row = {}
        self._values = KeptValues()
        self._first = True

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        """The model's own return value.

        Raises ValueError naming the cut point where the forward does other calls, or gives other
        shapes, than at evaluation 0.
        """
        self._row = self._rows[evaluation.variant]
        self._values = evaluation.slots.values
        self._first = evaluation.step == 0
        self._calls = {}
        if self._first:
            self._lane.begin(evaluation.state, self._values)
        if self._blocks is not None:
            self._blocks.begin(evaluation.variant, self._values, is_first=self._first)
        out: object = self._lane.forward(self._stage, evaluation.state)
        if self._first:
            self._calls_at_first = self._calls
        elif self._calls != self._calls_at_first:
            raise ValueError(self._other_calls())
        return out

    def drop_tables(self) -> None:
        """A run begins: it may have other shapes, and the model's attributes other values."""
        self._hollow.clear()
        self._stage.refresh()

    @property
    def nbytes(self) -> int:
        return 0

    @property
    def graph_stats(self) -> GraphStats:
        return GraphStats(reasons=self._lane.reasons if self._blocks is not None else ())

    @property
    def counted(self) -> Counted | None:
        return None if self._lane.planned is None else self._lane.planned.counted

    def step_seconds(self) -> Iterable[tuple[int, float]]:
        return ()

    def _visit(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        if self._blocks is not None:
            if not self._first and call >= self._calls_at_first.get(path, 0):
                raise ValueError(self._other_calls())
            return self._blocks.visit(BlockCall(path, call, module, args, kwargs))
        action = self._row.get(path)
        if action is None:
            return self._lane.call(path, module, args, kwargs)
        act, slot = action
        if act is Act.REUSE or act is Act.HOLLOW:
            if call >= self._calls_at_first.get(path, 0):
                raise ValueError(self._other_calls())
            return self._kept(slot, call, path) if act is Act.REUSE else self._hollow[path, call]
        out = self._lane.call(path, module, args, kwargs)
        if act is Act.KEEP:
            self._keep(slot, call, path, out)
        elif (path, call) not in self._hollow:
            # On meta: what another module than the last child makes of it is an error, not a value.
            self._hollow[path, call] = tree_map(_on_meta, out)
        return out

    def _keep(self, slot: int, call: int, path: str, out: object) -> None:
        try:
            self._values.keep(ValueKey(slot, call), out, self._alike[slot], may_change=self._first)
        except (TypeError, ValueError) as error:
            raise type(error)(f"output of {path}: {error}") from None

    def _kept(self, slot: int, call: int, path: str) -> Any:
        try:
            return self._values.get(ValueKey(slot, call))
        except ValueError as error:
            raise ValueError(f"output of {path}: {error}") from None

    def _other_calls(self) -> str:
        paths = {**self._calls_at_first, **self._calls}
        for path in paths:
            now, first = self._calls.get(path, 0), self._calls_at_first.get(path, 0)
            if now != first:
                break
        times = f"{now} times" if now else "not"
        return (
            f"{path} was called {times}, and {first} times at evaluation 0 of the run; a compiled "
            "model's forward must make the same calls at every evaluation (are there arguments "
            "that skip layers?)"
        )


def own_backend(model: BoundModel, reasons: tuple[str, ...] = (), *, merge: bool = True) -> Backend:
    """The backend for a model described by its sites; with `merge`, blocks are merged."""
    plans = CallPlans(model, merge=merge)
    return Backend("own", unchanged, lambda plan: OwnWorkspace(model, plan, plans), reasons)


def _row(step: StepPlan, sites: Mapping[str, Site]) -> Row:
    actions: dict[str, Action] = {}
    for op in step:
        if isinstance(op, Compute) and op.slot is not None:
            _act(actions, sites[op.branch], op.slot, Act.KEEP, Act.SHAPE)
    for item in reuses(step):
        _act(actions, sites[item.branch], item.slot, Act.REUSE, Act.HOLLOW)
    return actions


def _act(actions: dict[str, Action], site: Site, slot: int, last: Act, earlier: Act) -> None:
    *others, kept = site.children
    actions[kept] = Action(last, slot)
    actions.update((path, Action(earlier, slot)) for path in others)


def _alike(sites: list[Site]) -> list[int]:
    """How many of the sites are the same child of a block of the same list, for each of them."""
    kinds = [re.sub(r"\d+", "*", site.children[-1]) for site in sites]
    counts = Counter(kinds)
    return [counts[kind] for kind in kinds]


def _on_meta(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value
