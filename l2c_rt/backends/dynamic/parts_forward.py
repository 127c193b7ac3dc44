"""A model's own forward in which a method takes several decisions, each when it comes to it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.observe import Stream
from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.block_calls import image_stream, parts_of
from l2c_rt.backends.cpu.packed_linears import PackedLinears
from l2c_rt.backends.dynamic.gauge import Change
from l2c_rt.backends.dynamic.part_decider import PartDecider, deciders_of
from l2c_rt.backends.dynamic.streams import copied_arguments, streams_of
from l2c_rt.backends.keeping import Keeping
from l2c_rt.backends.own import OwnWorkspace
from l2c_rt.backends.own_calls import CallPlans
from l2c_rt.plan.ops import Plan, StepPlan
from l2c_rt.plan.part_plans import PartPlans
from l2c_rt.plan.run_record import Done


class PartsForward(OwnWorkspace):
    """Evaluates the step it is given where that is step 0, else what the method decides.

    `decided`, where it is set, is called with the distinct step of every decision.
    """

    def __init__(
        self,
        model: BoundModel,
        plan: Plan,
        plans: CallPlans,
        part_plans: PartPlans,
        units: Collection[str] = (),
        *,
        change: Change | None = None,
        linears: PackedLinears | None = None,
    ) -> None:
        dynamic = model.dynamic
        assert dynamic is not None
        keeping = {
            path: Keeping(part.cut.keeps_outputs, plain=part.cut.plain)
            for part in dynamic.parts
            for path in part.blocks
        }
        super().__init__(model, plan, plans, units, keeping=keeping, linears=linears)
        self.decided: Callable[[int], None] = _nothing
        self.deciders = deciders_of(dynamic, part_plans.plans, change)
        self._all_reused = part_plans.all_reused
        self._first_steps = [part_plans.first(p) for p in range(len(self.deciders))]
        looks = [(p, decider.look) for p, decider in enumerate(self.deciders)]
        self._starts = {look.start: p for p, look in looks if look.kind == "added"}
        self._behind = {look.path: p for p, look in looks if look.kind == "added"}
        self._before = {look.path: p for p, look in looks if look.kind == "entering"}
        self._entered: dict[str, Tensor] = {}
        self._done = Done(0)

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        """The model's own return value; see `OwnWorkspace.carry_out` for what it raises, and
        ValueError where the forward does not come to one of the decisions."""
        self.begin(evaluation)
        return self.end(self.carry_out(step, evaluation))

    def begin(self, evaluation: Evaluation) -> None:
        """An evaluation begins."""
        for decider in self.deciders:
            decider.begin(evaluation)

    def load(self, evaluation: Evaluation) -> None:
        """What an evaluation reads is loaded at its decisions."""

    def carry_out(self, step: StepPlan, evaluation: Evaluation) -> object:
        """The model's own return value."""
        # Each decision says what is done at its own blocks.
        return super().carry_out(self._plan.steps[0], evaluation._replace(variant=0))

    def end(self, out: object) -> object:
        """The evaluation is done."""
        self.decided = _nothing
        dones: list[Done] = []
        for first, decider in zip(self._first_steps, self.deciders, strict=True):
            if not any(path in self.calls for path in decider.part.blocks):
                decider.row = 0  # What this forward never calls is not decided about.
            if decider.row is None:
                raise ValueError(
                    f"{type(decider.method).__name__}: the forward did not come to "
                    f"{decider.look.path}, so there was nothing to decide by"
                )
            decider.note()
            dones.append(decider.done._replace(variant=first + decider.done.variant))
        self._done = Done.of_parts(tuple(dones), self._all_reused)
        return out

    @property
    def done(self) -> Done:
        """What the last evaluation did."""
        return self._done

    @property
    def nbytes(self) -> int:
        return sum(decider.gauge.nbytes for decider in self.deciders)

    def _visit(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        number, known = self._before.get(path), self._lane.planned is not None
        if path in self._starts or (number is not None and not known):
            self._entered = copied_arguments(module, args, kwargs)
        if number is not None and known:
            self._decide(number, self._image(path).of(args, kwargs))
        out = super()._visit(path, module, args, kwargs)
        if number is not None and not known:
            # While an evaluation 0 is observed, which reuses nothing.
            self._decide(number, self._entered[self._image(path).name])
        if path in self._behind:
            place, stream = image_stream(streams_of(self._lane, path))
            self._decide(self._behind[path], parts_of(out)[place] - self._entered[stream.name])
        return out

    def _decide(self, number: int, value: Tensor) -> None:
        decider: PartDecider = self.deciders[number]
        if decider.row is None:
            # A forward that graphs had begun may be run again.
            decider.decide(value)
        self.numbers.load(decider.coefficients, {}, value.device, fit=decider.fit)
        variant = self._first_steps[number] + decider.variant
        self.switch(variant, decider.part.blocks)
        self.decided(variant)

    def _image(self, path: str) -> Stream:
        return image_stream(streams_of(self._lane, path))[1]


def _nothing(variant: int) -> None:
    """Nobody waits for the decisions."""
