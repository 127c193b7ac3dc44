"""What a lane keeps on a GPU for a model that runs its own forward: graphs by kind of arguments."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from l2c_rt.adapters.bound_model import State
from l2c_rt.adapters.own.sites import Site
from l2c_rt.backends.backend import MAX_SHAPES, Counted, CountsCalls, Evaluation, carried_out
from l2c_rt.backends.graphs.call_graphs import CallGraphs
from l2c_rt.backends.graphs.forward import GraphParts
from l2c_rt.backends.graphs.static_inputs import Arguments
from l2c_rt.device.event_times import EventTimes
from l2c_rt.device.graphs import GraphStats
from l2c_rt.device.streams import StreamOrder, on, wait_for_current_stream
from l2c_rt.plan.ops import StepPlan


class GraphWorkspace:
    """Graphs for each of the last few kinds of arguments; all of one run are of the same kind.

    `open_graphs` gives those of one kind, with a forward of their own.
    """

    def __init__(
        self,
        device: torch.device,
        parts: GraphParts,
        open_graphs: Callable[[Arguments, State], CallGraphs],
    ) -> None:
        self._device, self._parts = device, parts
        self._open_graphs = open_graphs
        self._kinds: list[CallGraphs] = []
        self._order = StreamOrder(device)
        self._times = EventTimes(device)
        self._reason = ""
        # Graphs and buffers must outlive what was launched with them.
        self._drained = weakref.finalize(self, self._order.wait)
        self._drained.atexit = False

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        """The model's own return value; see `CallGraphs.evaluate` for what it raises."""
        options = evaluation.state.options
        arguments = Arguments.of(options["args"], options["kwargs"])
        with on(self._device), self._order():
            if evaluation.step == 0 or not self._kinds:
                self._begin(arguments, evaluation)
            graphs = self._kinds[-1]
            with self._times.around(lambda: carried_out(self, evaluation.variant).variant):
                difference = graphs.arguments.difference(arguments)
                if difference and not graphs.is_off:
                    self._note(difference)
                    return graphs.without_graphs(step, evaluation)
                return graphs.evaluate(step, evaluation, arguments)

    def drop_tables(self) -> None:
        """A run begins: what the last one noted of shapes no longer holds."""
        for graphs in self._kinds:
            graphs.forward.drop_tables()

    @property
    def nbytes(self) -> int:
        return 0

    @property
    def counted(self) -> Counted | None:
        """What the calls of the run under way, or the last one, cost."""
        forward: Any = self._kinds[-1].forward if self._kinds else None
        return forward.counted if isinstance(forward, CountsCalls) else None

    @property
    def graph_stats(self) -> GraphStats:
        notes = GraphStats(reasons=(self._reason,) if self._reason else ())
        return sum((graphs.stats for graphs in self._kinds), notes)

    def step_seconds(self) -> Iterable[tuple[int, float]]:
        return self._times.ended()

    def _begin(self, arguments: Arguments, evaluation: Evaluation) -> None:
        """A run begins: its kind of arguments comes last."""
        for graphs in self._kinds:
            if not graphs.arguments.difference(arguments):
                self._kinds.remove(graphs)
                self._kinds.append(graphs)
                graphs.begin()
                return
        if len(self._kinds) == MAX_SHAPES:
            wait_for_current_stream(self._device)
            del self._kinds[0]
        graphs = self._open_graphs(arguments, evaluation.state)
        self._kinds.append(graphs)
        reason = self._why_not(arguments, evaluation)
        if reason:
            graphs.refuse(reason)

    def _why_not(self, arguments: Arguments, evaluation: Evaluation) -> str:
        t = evaluation.state.t
        if isinstance(t, int | float):
            return (
                f"the timestep is a Python {type(t).__name__}, which a graph would hold on to; "
                "pass a tensor"
            )
        if opaque := arguments.opaque():
            return f"an argument is a {opaque}, whose contents cannot be followed"
        if torch.is_autocast_enabled(self._device.type):
            return "autocast makes copies of weights that a graph would outlive; cast the model"
        return ""

    def _note(self, difference: str) -> None:
        reason = (
            "evaluations whose arguments are not those of evaluation 0 are not captured: "
            f"{difference}"
        )
        if not self._parts.forgiving:
            raise RuntimeError(f'strict: {reason}; compile with graph="off"')
        # The first such difference is enough.
        self._reason = self._reason or reason


def unit_paths(model: nn.Module, sites: Iterable[Site]) -> tuple[str, ...]:
    """The modules that are asked for as a whole where only parts of the forward are captured: the
    blocks around the sites, or the sites where nothing that is called is around them."""
    paths: dict[str, None] = {}
    for site in sites:
        path = site.children[-1]
        above = path.rpartition(".")[0]
        if site.is_block or isinstance(model.get_submodule(above), nn.ModuleList | nn.ModuleDict):
            above = ""
        paths[above or path] = None
    parts = [path.split(".") for path in paths]
    heads = [{".".join(part[:i]) for i in range(1, len(part))} for part in parts]
    return tuple(path for path, above in zip(paths, heads, strict=True) if not above & paths.keys())
