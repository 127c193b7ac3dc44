"""Graphs under a method that decides: of the forward up to the observation, and of the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from l2c_rt.adapters.bound_model import State
from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.dynamic.deciding_forward import DecidingForward
from l2c_rt.backends.dynamic.modes import Mode, ReusedBeforeError
from l2c_rt.backends.dynamic.parts_forward import PartsForward
from l2c_rt.backends.graphs.call_graphs import CallGraphs
from l2c_rt.backends.graphs.capture_watch import NotRepeatableError
from l2c_rt.backends.graphs.captures import StepKey, WholeForward
from l2c_rt.backends.graphs.forward import GraphParts
from l2c_rt.backends.graphs.static_inputs import Arguments
from l2c_rt.backends.graphs.unit_calls import RunUnit
from l2c_rt.backends.graphs.workspace import GraphWorkspace
from l2c_rt.device.graphs import GraphStats
from l2c_rt.plan.ops import StepPlan
from l2c_rt.plan.run_record import Done

LOOK: StepKey = (-1, ())
"""What is done up to the observation, whatever row follows."""


class DecisionGraphs(CallGraphs):
    """Those of a forward in which a method decides."""

    forward: DecidingForward | PartsForward

    @property
    def stats(self) -> GraphStats:
        return super().stats + GraphStats(buffer_bytes=self.forward.nbytes)


class DecidingGraphs(DecisionGraphs):
    """The first evaluation is computed as it would be without graphs; later ones look, decide, and
    do the rest, where each of the two is computed once, captured at its second time, and replayed.

    Where the forward cannot be captured as a whole, its blocks are, with the decision between two
    of their graphs.
    """

    forward: DecidingForward

    def __init__(
        self,
        forward: DecidingForward,
        model: nn.Module,
        device: torch.device,
        parts: GraphParts,
        arguments: Arguments,
        state: State,
    ) -> None:
        super().__init__(forward, model, device, parts, arguments, state)
        look = forward.decider.look
        # A check is a part of its row.
        self._looks = look.kind != "checked"
        # The noise level is another at each evaluation, and a number of the host.
        self._look_is_captured = look.spectrum is None
        self._takes_parts = self._looks and not forward.has_exit
        self._is_plain = False

    def evaluate(self, step: StepPlan, evaluation: Evaluation, arguments: Arguments) -> object:
        """See `CallGraphs.evaluate`."""
        self.forward.begin(evaluation)
        return self.forward.end(self._evaluated(step, evaluation, arguments))

    def without_graphs(self, step: StepPlan, evaluation: Evaluation) -> object:
        self.forward.begin(evaluation)
        return self.forward.end(self.forward.carry_out(step, evaluation))

    def _evaluated(self, step: StepPlan, evaluation: Evaluation, arguments: Arguments) -> object:
        forward = self.forward
        if self._captures.moved(evaluation.slots.values):
            self._drop()
        if self.is_off:
            return forward.carry_out(step, evaluation)
        if self._only_parts:
            return self._in_parts(step, evaluation)
        self._inputs.load(arguments)
        static = self._static(evaluation)
        if not self._captures.seen:
            out = self._computed(step, static, evaluation, arguments)
            self._captures.seen.add(self._key(evaluation))
            return out
        if self._looks:
            problem = self._look(static)
            if problem:
                self._give_up_whole(problem)
                return self._in_parts(step, evaluation)
            forward.decider.shown()
        chosen = forward.chosen(evaluation)
        forward.load(chosen)
        forward.mode = Mode.REST
        try:
            return self._whole(step, chosen, arguments)
        finally:
            forward.mode = Mode.ALL

    def _look(self, static: Evaluation) -> str:
        """Measure what is observed; why the rest cannot take over from there, or ""."""
        captures, forward = self._captures, self.forward
        if LOOK in captures.whole:
            captures.whole[LOOK].graph.launch()
            return ""
        try:
            if self._look_is_captured and LOOK in captures.seen and forward.decider.gauge.is_warm:
                graph = captures.capture(lambda: forward.look(static), static.slots.values)
                captures.whole[LOOK] = WholeForward(graph, None)
                graph.launch()
            else:
                forward.look(static)
                captures.seen.add(LOOK)
        except NotRepeatableError as error:
            self._takes_parts &= not isinstance(error, ReusedBeforeError)
            return str(error)
        written = forward.ahead.written()
        return f"what {written} gave is written to" if written else ""

    def _whole(self, step: StepPlan, evaluation: Evaluation, arguments: Arguments) -> object:
        if self._looks and self._look_is_captured and LOOK not in self._captures.whole:
            # A graph of the rest holds the addresses of what that of the look leaves.
            static = self._static(evaluation)
            out = self._computed(step, static, evaluation, arguments)
            self._captures.seen.add(self._key(evaluation))
            return out
        return super()._whole(step, evaluation, arguments)

    def _computed(
        self, step: StepPlan, static: Evaluation, evaluation: Evaluation, arguments: Arguments
    ) -> object:
        out = super()._computed(step, static, evaluation, arguments)
        written = self.forward.ahead.written()
        if self.forward.mode is Mode.REST and written:
            self._give_up_whole(f"what {written} gave is written to")
        return out

    def _give_up_whole(self, problem: str) -> None:
        self.forward.ahead.clear()
        if not self._takes_parts:
            self.refuse(problem)
            return
        super()._give_up_whole(problem)

    def _in_parts(self, step: StepPlan, evaluation: Evaluation) -> object:
        forward = self.forward
        forward.mode = Mode.ALL
        if self.is_off:
            return forward.carry_out(step, evaluation)
        forward.look_at_call(evaluation)
        forward.load(forward.chosen(evaluation))
        self._is_plain = False
        forward.decided = partial(self._switch, evaluation)
        return super()._in_parts(step, evaluation)

    def _switch(self, evaluation: Evaluation) -> None:
        """The row is known that the other blocks do."""
        captures, key = self._captures, self._key(evaluation)
        self._is_plain = key not in captures.seen
        captures.seen.add(key)
        if self._segments is not None:
            self._segments.key = key

    def _visit_unit(
        self, path: str, run: RunUnit, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._is_plain:
            return run(*args, **kwargs)
        return super()._visit_unit(path, run, args, kwargs)

    def _key(self, evaluation: Evaluation) -> StepKey:
        decider = self.forward.decider
        if self._only_parts and decider.look.is_inside and not decider.is_shown:
            return LOOK
        return super()._key(self.forward.chosen(evaluation))

    def _fixed_addresses(self) -> set[int]:
        return super()._fixed_addresses() | self.forward.ahead.addresses()


class DecidingGraphWorkspace(GraphWorkspace):
    """Those of one lane."""

    @property
    def done(self) -> Done:
        """What the last evaluation did."""
        graphs = self._kinds[-1]
        assert isinstance(graphs, DecisionGraphs)
        return graphs.forward.done
