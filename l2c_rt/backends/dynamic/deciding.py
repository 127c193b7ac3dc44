"""A model's own forward under a method that decides, without graphs."""

from __future__ import annotations

from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.dynamic.deciding_forward import DecidingForward
from l2c_rt.plan.ops import StepPlan


class DecidingWorkspace(DecidingForward):
    """Evaluates the step it is given where that is step 0, else the one that the method chooses."""

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        """See `DecidingForward.carry_out`."""
        self.begin(evaluation)
        return self.end(self.carry_out(step, evaluation))
