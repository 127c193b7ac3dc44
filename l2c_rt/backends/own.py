"""The backend of models without a hand-written adapter: their own forward, cut at its sites.

Bitwise equal to the model where nothing is reused, and to a naive cached forward where something
is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.sites import Site
from l2c_rt.backends.backend import Backend, Evaluation, unchanged
from l2c_rt.device.graphs import GraphStats
from l2c_rt.memory.kept_values import KeptValues, ValueKey
from l2c_rt.plan.ops import Compute, LeaveOut, Plan, Reuse, StepPlan


class Act(Enum):
    """What is done at a cut point."""

    KEEP = auto()
    REUSE = auto()
    SHAPE = auto()
    HOLLOW = auto()


class Action(NamedTuple):
    """`slot` is the branch's, -1 for none; cut points without an action just call their module."""

    act: Act
    slot: int


READS_HOLLOW = (
    "the model's forward reads an output that this step of the schedule does not compute: it is "
    "not made of the branches that it was cut into; name others with sites="
)

Row = Mapping[str, Action]
"""The path of a cut point -> what is done there in one distinct step of a plan."""


class OwnWorkspace:
    """One stage of the model, and what its cut points gave at evaluation 0 of the run."""

    def __init__(self, model: BoundModel, plan: Plan) -> None:
        assert model.open_stage is not None
        sites = {site.name: site for site in model.sites}
        self._rows = _rows(plan, sites)
        self._slot_names = plan.slots
        self._inside = _inside([path for site in model.sites for path in site.children])
        self._alike = _alike([sites[name] for name in plan.slots])
        self._stage = model.open_stage(self._visit)
        self._hollow: dict[tuple[str, int], Any] = {}
        self._calls: dict[str, int] = {}
        self._calls_at_first: dict[str, int] = {}
        self._row: Row = {}
        self._values = KeptValues()
        self._first = True
        self._reads_hollow = self._writes_kept = False
        self._device = model.device
        self._nan: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        """The model's own return value.

        Raises ValueError naming the cut point where the forward does other calls, or gives other
        shapes, than at evaluation 0.
        """
        self._row = self._rows[evaluation.variant]
        self._values = evaluation.slots.values
        self._first = evaluation.step == 0
        self._calls = {}
        options = evaluation.state.options
        self._device = evaluation.state.x.device
        self._reads_hollow = options.get("reads_hollow", False)
        self._writes_kept = options.get("writes_kept", False)
        try:
            out: object = self._stage(*options["args"], **options["kwargs"])
        except (RuntimeError, NotImplementedError) as error:
            if "meta" in str(error):
                raise ValueError(READS_HOLLOW) from error
            raise
        if not self._first and self._device.type != "meta" and any(map(_is_meta, tree_leaves(out))):
            raise ValueError(READS_HOLLOW)
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
        return GraphStats()

    def step_seconds(self) -> Iterable[tuple[int, float]]:
        return ()

    def _visit(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        action = self._row.get(path)
        if action is None:
            return module(*args, **kwargs)
        act, slot = action
        if act is Act.REUSE or act is Act.HOLLOW:
            if call >= self._calls_at_first.get(path, 0):
                raise ValueError(self._other_calls())
            for inner in self._inside.get(path, ()):
                self._calls[inner] = self._calls_at_first.get(inner, 0)
            if act is Act.REUSE:
                return self._kept(slot, call, path)
            hollow = self._hollow[path, call]
            return tree_map(self._filled, hollow) if self._reads_hollow else hollow
        out = module(*args, **kwargs)
        if act is Act.KEEP:
            self._keep(slot, call, path, out)
        if (path, call) not in self._hollow:
            # On meta: what another module than the last child makes of it is an error, not a value.
            self._hollow[path, call] = tree_map(_on_meta, out)
        return out

    def _filled(self, value: Any) -> Any:
        """NaN of that shape without memory of its own, for code that does arithmetic with it."""
        if not isinstance(value, Tensor):
            return value
        kind = (value.dtype, self._device)
        if kind not in self._nan:
            self._nan[kind] = torch.full((), torch.nan, dtype=kind[0], device=kind[1])
        return self._nan[kind].expand(value.shape)

    def _keep(self, slot: int, call: int, path: str, out: object) -> None:
        try:
            self._values.keep(ValueKey(slot, call), out, self._alike[slot], may_change=self._first)
        except (TypeError, ValueError) as error:
            raise type(error)(f"output of {path}: {error}") from None

    def _kept(self, slot: int, call: int, path: str) -> Any:
        try:
            value = self._values.get(ValueKey(slot, call))
            return tree_map(_clone, value) if self._writes_kept else value
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


def own_backend(model: BoundModel, reasons: tuple[str, ...] = ()) -> Backend:
    """The backend for a model described by its sites."""
    return Backend("own", unchanged, lambda plan: OwnWorkspace(model, plan), reasons)


def _rows(plan: Plan, sites: Mapping[str, Site]) -> tuple[Row, ...]:
    """What the distinct steps do at the sites that are not computed in all of them."""
    always = set(sites)
    for step in plan.steps:
        always &= {op.branch for op in step if isinstance(op, Compute)}
    left = {name: site for name, site in sites.items() if name not in always}
    return tuple(_row(step, left) for step in plan.steps)


def _row(step: StepPlan, sites: Mapping[str, Site]) -> Row:
    actions: dict[str, Action] = {}
    for op in step:
        if isinstance(op, Compute | Reuse | LeaveOut) and op.branch in sites:
            earlier, last = _acts(op)
            actions |= dict.fromkeys(sites[op.branch].children, earlier)
            actions[sites[op.branch].children[-1]] = last
    return actions


def _acts(op: Compute | Reuse | LeaveOut) -> tuple[Action, Action]:
    """What is done at the earlier children of a site, and at the last."""
    shape, hollow = Action(Act.SHAPE, -1), Action(Act.HOLLOW, -1)
    if isinstance(op, Compute):
        return shape, shape if op.slot is None else Action(Act.KEEP, op.slot)
    return hollow, Action(Act.REUSE, op.slot) if isinstance(op, Reuse) else hollow


def _inside(paths: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The cut points inside of each that has any: they are not called where it is not."""
    inside = {path: tuple(p for p in paths if p.startswith(f"{path}.")) for path in paths}
    return {path: inner for path, inner in inside.items() if inner}


def _alike(sites: list[Site]) -> list[int]:
    """How many of the sites are the same child of a block of the same list, for each of them."""
    kinds = [re.sub(r"\.\d+(?!.*\.\d)", ".*", site.children[-1]) for site in sites]
    counts = Counter(kinds)
    return [counts[kind] for kind in kinds]


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _is_meta(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _on_meta(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value
