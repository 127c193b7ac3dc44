"""The graphs of a forward in which a method takes several decisions: of the blocks in between."""

from __future__ import annotations

from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.dynamic.deciding_graphs import LOOK, DecisionGraphs
from l2c_rt.backends.dynamic.parts_forward import PartsForward
from l2c_rt.backends.graphs.captures import StepKey
from l2c_rt.backends.graphs.static_inputs import Arguments
from l2c_rt.plan.ops import StepPlan


class PartsGraphs(DecisionGraphs):
    """What stands between two decisions is computed where it first comes, captured at its second
    time, and replayed; no graph goes over a decision, which reads what a block has given."""

    forward: PartsForward
    _at: StepKey = LOOK

    def evaluate(self, step: StepPlan, evaluation: Evaluation, arguments: Arguments) -> object:
        """See `CallGraphs.evaluate`."""
        self.forward.begin(evaluation)
        if self._captures.moved(evaluation.slots.values):
            self._drop()
        self._at = LOOK
        if self.is_off:
            return self.forward.end(self.forward.carry_out(step, evaluation))
        self.forward.decided = self._switch
        return self.forward.end(self._in_parts(step, evaluation))

    def without_graphs(self, step: StepPlan, evaluation: Evaluation) -> object:
        return self.forward.evaluate(step, evaluation)

    def _switch(self, variant: int) -> None:
        """A decision is taken about the blocks that follow."""
        captures = self._captures
        self._at = variant, self.forward.numbers.structure
        if self._segments is not None:
            self._segments.key = self._at if self._at in captures.seen else None
        captures.seen.add(self._at)

    def _key(self, evaluation: Evaluation) -> StepKey:
        return self._at
