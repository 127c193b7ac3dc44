"""Methods that decide before an evaluation begins, and check it at its last block, on the fused
backend of a CPU."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import Evaluation, OpTable
from l2c_rt.backends.cpu.attention import Attention
from l2c_rt.backends.cpu.branches import custom_forward
from l2c_rt.backends.cpu.fused import FusedCpu
from l2c_rt.backends.cpu.products import Products
from l2c_rt.backends.dynamic.decider import CHECKED, Decider
from l2c_rt.backends.dynamic.streams import first_tensor
from l2c_rt.plan.dynamic import RowPlans
from l2c_rt.plan.ops import Compute, Plan, Predict, Reuse, StepPlan
from l2c_rt.plan.program import Branch
from l2c_rt.plan.run_record import Done


def can_be_fused(model: BoundModel) -> bool:
    """Whether the method of a description is carried by this backend on the model's device: it
    looks at nothing but a block that is checked, between whose branches nothing else runs."""
    plain, dynamic = model.described, model.dynamic
    if plain is None or dynamic is None or plain.fusable is None:
        return False
    if model.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    if dynamic.cut.look.kind != "checked" or custom_forward(plain.fusable):
        return False
    nodes = plain.program.nodes
    places = [i for i, node in enumerate(nodes) if isinstance(node, Branch)]
    between = nodes[places[0] : places[-1]]
    return all(isinstance(node, Branch) or node.conditioning for node in between)


class DecidingFused(FusedCpu):
    """Evaluates the step it is given where that is step 0, else the one that the method chooses."""

    def __init__(
        self,
        model: BoundModel,
        plan: Plan,
        row_plans: RowPlans,
        products: Products,
        attention: Attention,
    ) -> None:
        described, dynamic = model.described, model.dynamic
        assert described is not None
        assert described.fusable is not None
        assert dynamic is not None
        super().__init__(described, described.fusable, products, attention, plan)
        self._plan, self._decider = plan, Decider(dynamic.parts[0], row_plans)
        inside = f"{dynamic.cut.look.path}."
        checked = [s.name for s in described.sites if s.children[-1].startswith(inside)]
        self._checked, self._entered = checked, torch.empty(0)

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        """The model's own return value."""
        decider, options = self._decider, evaluation.state.options
        decider.begin(evaluation)
        chosen = evaluation._replace(
            state=self.model.begin(*options["args"], **options["kwargs"]),
            variant=decider.variant, coefficients=decider.coefficients,
        )  # fmt: skip
        out = super().evaluate(self._plan.steps[decider.variant], chosen)
        decider.end(first_tensor("the model", out))
        return out

    @property
    def done(self) -> Done:
        """What the last evaluation did."""
        return self._decider.done

    def stand_in(self, op: Reuse | Predict, evaluation: Evaluation) -> None:
        """As without a method; around the branches of the block that is checked, the check."""
        checks = self._decider.row == CHECKED
        if checks and op.branch == self._checked[0]:
            self._pass(evaluation.state, None)
            # What waits is added in place.
            self._entered = evaluation.state.x.clone()
        FusedCpu.ops[type(op)](self, op, evaluation)
        if checks and op.branch == self._checked[-1]:
            self._pass(evaluation.state, None)
            self._decider.check(evaluation.state.x, self._block_of(evaluation))

    def _block_of(self, evaluation: Evaluation) -> Tensor:
        """What the block that is checked gives for the input that it has."""
        whole = evaluation.state
        predicted, whole.x = whole.x, self._entered
        for name in self._checked:
            self.compute(Compute(name, None), evaluation)
        self._pass(whole, None)
        computed, whole.x = whole.x, predicted
        return computed

    ops: ClassVar[OpTable] = {**FusedCpu.ops, Reuse: stand_in, Predict: stand_in}
