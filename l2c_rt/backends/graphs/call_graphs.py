"""The graphs of calls with one kind of arguments: one per distinct step, or one per segment."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from l2c_rt.adapters.bound_model import State
from l2c_rt.adapters.own.modes import run_observed
from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.graphs.capture_watch import NotRepeatableError
from l2c_rt.backends.graphs.captures import Captures, StepKey, WholeForward
from l2c_rt.backends.graphs.forward import Forward, GraphParts, VisitUnit
from l2c_rt.backends.graphs.segments import ChangedError, Segments
from l2c_rt.backends.graphs.static_inputs import Arguments, StaticInputs, index_of
from l2c_rt.backends.graphs.unit_calls import CallObserver, RunUnit
from l2c_rt.device.graphs import GraphStats
from l2c_rt.device.streams import wait_for_current_stream
from l2c_rt.plan.ops import StepPlan


class CallGraphs:
    """A distinct step is computed at its first occurrence, captured at its second, then replayed.

    `reasons` say what is not captured and why.
    """

    def __init__(
        self,
        forward: Forward,
        model: nn.Module,
        device: torch.device,
        parts: GraphParts,
        arguments: Arguments,
        state: State,
    ) -> None:
        self.forward, self._model, self._device, self._parts = forward, model, device, parts
        self.arguments = arguments.without_tensors()
        self.reasons: dict[str, None] = {}
        self._x = index_of(state.x, arguments.leaves)
        changing = [i for i in (self._x, index_of(state.t, arguments.leaves)) if i is not None]
        self._inputs = StaticInputs(self.arguments, device, changing)
        self._volatile: set[str] = set()
        self.is_off = self._only_parts = False
        self._replays = 0
        # Not with the captures, which it refers to: what is dropped must not wait for a collection.
        self._segments: Segments | None = None
        self._captures = self._begin_anew()

    def begin(self) -> None:
        """A run begins: what was captured of another state of the model is dropped."""
        if self._captures.outdated():
            self._drop()

    def evaluate(self, step: StepPlan, evaluation: Evaluation, arguments: Arguments) -> object:
        """Run one evaluation, by graphs where there are any.

        Raises RuntimeError for what cannot be captured, if the parts are not forgiving.
        """
        if self._captures.moved(evaluation.slots.values):
            self._drop()
        self.forward.load(evaluation)
        if self.is_off:
            return self.forward.carry_out(step, evaluation)
        if self._only_parts:
            return self._in_parts(step, evaluation)
        self._inputs.load(arguments)
        return self._whole(step, evaluation, arguments)

    def without_graphs(self, step: StepPlan, evaluation: Evaluation) -> object:
        """Run one evaluation."""
        self.forward.load(evaluation)
        return self.forward.carry_out(step, evaluation)

    def refuse(self, reason: str) -> None:
        """From now on nothing is captured."""
        self._note(f"no CUDA graphs: {reason}")
        self._drop()
        self.is_off = True

    def _whole(self, step: StepPlan, evaluation: Evaluation, arguments: Arguments) -> object:
        captures, key = self._captures, self._key(evaluation)
        if key in captures.whole:
            return self._replay(captures.whole[key])
        static = self._static(evaluation)
        if key not in captures.seen:
            out = self._computed(step, static, evaluation, arguments)
            self._captures.seen.add(key)
            return out
        problem = self._capture_whole(step, static)
        if not problem:
            return self._replay(captures.whole[key])
        self._give_up_whole(problem)
        self._captures.seen.add(key)
        return self._in_parts(step, evaluation)

    def _give_up_whole(self, problem: str) -> None:
        self._note(f"the forward is captured in parts, not as a whole: {problem}")
        self._drop()
        self._only_parts = True

    def _key(self, evaluation: Evaluation) -> StepKey:
        return evaluation.variant, self.forward.numbers.structure

    def _in_parts(self, step: StepPlan, evaluation: Evaluation) -> object:
        captures, key = self._captures, self._key(evaluation)
        if key not in captures.seen:
            captures.seen.add(key)
            return self.forward.carry_out(step, evaluation)
        if self._segments is None:
            return self._observe(step, evaluation)
        segments = self._segments
        segments.begin(key)
        try:
            out = self._visited(self._visit_unit, step, evaluation)
        except ChangedError as error:
            # Nothing that an evaluation keeps is read by it, so that it may be done again.
            if captures.moved(evaluation.slots.values):
                self._drop()
                return self._in_parts(step, evaluation)
            self.refuse(f"the forward did other calls than before: {error}")
            return self.forward.carry_out(step, evaluation)
        for problem in segments.problems:
            self._note(f"not captured: {problem}")
        self._replays += segments.replayed
        return _copied(out, segments.addresses())

    def _visit_unit(
        self, path: str, run: RunUnit, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        assert self._segments is not None
        return self._segments.visit(path, run, args, kwargs)

    def _visited(self, visit: VisitUnit, step: StepPlan, evaluation: Evaluation) -> object:
        self.forward.visit_unit = visit
        try:
            return self.forward.carry_out(step, evaluation)
        finally:
            self.forward.visit_unit = None

    def _observe(self, step: StepPlan, evaluation: Evaluation) -> object:
        observer = CallObserver(self.forward.continues)
        out = run_observed(observer, partial(self._visited, observer.visit, step, evaluation))
        captures, forward, values = self._captures, self.forward, evaluation.slots.values
        self._segments = Segments(
            observer.finish(out),
            partial(captures.capture, values=values),
            lambda: forward.calls,
            lambda: captures.moved(values),
        )
        return out

    def _computed(
        self, step: StepPlan, static: Evaluation, evaluation: Evaluation, arguments: Arguments
    ) -> object:
        """An evaluation without a graph, on the buffers that one would read."""
        try:
            out = self.forward.carry_out(step, static)
        except Exception as error:
            if not self._inputs.from_host:
                raise
            out = self.forward.carry_out(step, evaluation)
            self.refuse(f"arguments on the host cannot be moved to {self._device}: {error}")
            return out
        written = self._inputs.written()
        for i in written:
            arguments.leaves[i].copy_(self._inputs.buffer(i))
        if written:
            self.refuse("the forward writes to its arguments")
        return _copied(out, self._fixed_addresses())

    def _fixed_addresses(self) -> set[int]:
        """Those of memory that the next evaluation writes to, but for that of segments."""
        return self._inputs.addresses()

    def _capture_whole(self, step: StepPlan, static: Evaluation) -> str:
        """Capture an evaluation; why that cannot be, or ""."""
        result: list[object] = [None]

        def work() -> None:
            result[0] = self.forward.carry_out(step, static)

        try:
            graph = self._captures.capture(work, static.slots.values)
        except NotRepeatableError as error:
            return str(error)
        opaque = Arguments.of((result[0],), {}).opaque()
        if opaque:
            return f"the forward gives a {opaque}, whose tensors cannot be copied"
        self._captures.whole[self._key(static)] = WholeForward(graph, result[0])
        return ""

    def _replay(self, whole: WholeForward) -> object:
        whole.graph.launch()
        self._replays += 1
        return tree_map(_clone, whole.out)

    def _static(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation on the inputs' buffers."""
        state = evaluation.state
        args, kwargs = self._inputs.call()
        options = state.options | {"args": args, "kwargs": kwargs}
        x = state.x if self._x is None else self._inputs.buffer(self._x)
        return evaluation._replace(state=replace(state, x=x, options=options))

    def _drop(self) -> None:
        """Forget graphs; distinct steps are computed once more before they are captured."""
        wait_for_current_stream(self._device)
        self._segments = None
        self._captures = self._begin_anew()

    def _begin_anew(self) -> Captures:
        recorder = self._parts.recorder(self._device)
        models = (self._model, self.forward.root)
        return Captures(models, self._device, recorder, self._volatile)

    def _note(self, reason: str) -> None:
        if not self._parts.forgiving:
            raise RuntimeError(f'strict: {reason}; compile with graph="off"')
        self.reasons[reason] = None

    @property
    def stats(self) -> GraphStats:
        """What was captured and replayed."""
        graphs, recorder = len(self._captures.whole), self._captures.recorder
        buffers = self._inputs.nbytes + self.forward.numbers.nbytes
        if self._segments is not None:
            graphs += self._segments.graphs
            buffers += self._segments.nbytes
        return GraphStats(
            graphs, 0, recorder.nbytes, buffers, recorder.seconds, self._replays,
            tuple(self.reasons),
        )  # fmt: skip


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _copied(out: object, addresses: set[int]) -> object:
    """What a forward gives, copied where it is in memory that the next evaluation writes to."""
    tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    if not any(tensor.untyped_storage().data_ptr() in addresses for tensor in tensors):
        return out
    return tree_map(_clone, out)
