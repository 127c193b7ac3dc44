"""A model's own forward, at whose observation point a method chooses what the rest of it does."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from l2c_rt.adapters.bound_model import BoundModel, State
from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.block_calls import image_stream
from l2c_rt.backends.cpu.packed_linears import PackedLinears
from l2c_rt.backends.dynamic.ahead import Ahead, ahead_paths
from l2c_rt.backends.dynamic.decider import CHECKED, Decider
from l2c_rt.backends.dynamic.gauge import Change
from l2c_rt.backends.dynamic.modes import Mode, ReusedBeforeError, SeenError
from l2c_rt.backends.dynamic.streams import (
    WholeCall,
    copied_arguments,
    first_tensor,
    part_of,
    streams_of,
    with_first,
)
from l2c_rt.backends.graphs.capture_watch import NotRepeatableError
from l2c_rt.backends.keeping import Keeping
from l2c_rt.backends.own import OwnWorkspace
from l2c_rt.backends.own_calls import CallPlans
from l2c_rt.plan.dynamic import RowPlans
from l2c_rt.plan.ops import Plan, StepPlan
from l2c_rt.plan.run_record import Done


class DecidingForward(OwnWorkspace):
    """`begin`, then one or more of `carry_out` and `look`, then `end`, for each evaluation.

    `decided`, where it is set, is called once the row is known that the rest of the blocks do.
    With `for_graphs` a forward can also be carried out in the modes LOOK and REST.
    """

    def __init__(
        self,
        model: BoundModel,
        plan: Plan,
        plans: CallPlans,
        row_plans: RowPlans,
        units: Collection[str] = (),
        *,
        change: Change | None = None,
        for_graphs: bool = False,
        linears: PackedLinears | None = None,
    ) -> None:
        assert model.dynamic is not None
        cut, self._model = model.dynamic.cut, model.model
        self._look, self._exit, self.has_exit = cut.look, cut.exit, bool(cut.exit)
        blocks = [path for site in model.sites for path in site.children]
        around = [path for path in blocks if cut.look.path.startswith(f"{path}.")]
        self._first_block = cut.look.start or blocks[0]
        self._around = around[0] if around else ""
        watched = {cut.look.path, cut.exit, self._around, self._first_block} - {""}
        paths = ahead_paths(model.model, model.sites, cut.look) if for_graphs else ()
        kept = Keeping(cut.keeps_outputs, bool(cut.exit), cut.plain)
        keeping = dict.fromkeys((site.name for site in model.sites), kept)
        also = watched | {*paths}
        super().__init__(model, plan, plans, units, also=also, keeping=keeping, linears=linears)
        reused = [site for site in model.sites if site.name in plan.slots]
        self._reused = {path for site in reused for path in site.children}
        self.decider = Decider(model.dynamic.parts[0], row_plans, change)
        self.mode, self.decided = Mode.ALL, _nothing
        self.ahead, self.always_looks_ahead = Ahead(paths), False
        self._entered, self._looking_ahead = dict[str, Tensor](), False
        self._passed = ""
        self._whole_call = WholeCall(all_images=self._look.measure == "output change")

    def begin(self, evaluation: Evaluation) -> None:
        """An evaluation begins."""
        self.mode, self._passed = Mode.ALL, ""
        self.decider.begin(evaluation)

    def chosen(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation of the distinct step that is carried out, as far as that is known."""
        decider = self.decider
        return evaluation._replace(
            variant=decider.variant, coefficients=decider.coefficients, fit=decider.fit
        )

    def carry_out(self, step: StepPlan, evaluation: Evaluation) -> object:
        """The model's own return value; of the mode REST, where a row is known.

        Raises as `OwnWorkspace.carry_out`, and ValueError where nothing could be observed.
        """
        if self.mode is Mode.ALL:
            self.look_at_call(evaluation)
            evaluation = self.chosen(evaluation)
            self.load(evaluation)
        self.ahead.begin()
        out = super().carry_out(self._plan.steps[evaluation.variant], evaluation)
        if self.decider.row is None:
            raise ValueError(self._not_observed())
        if self._look.measure == "output change":
            self._check_continued()
        return out

    def look_at_call(self, evaluation: Evaluation) -> None:
        """Decide, where that is known before the forward runs."""
        if self._look.kind == "call" and not self.decider.is_shown:
            self._measure_call(evaluation.state)
            self.decider.shown()

    def _measure_call(self, state: State) -> None:
        latents, options = self._look.latents, state.options
        if latents is None:
            self.decider.measure(self._whole_call.taken(state))
        else:
            made = latents(self._model, options["args"], options["kwargs"])
            self.decider.measure_latents(made)

    def look(self, evaluation: Evaluation) -> None:
        """Measure what is observed, and run no more of the forward than that needs.

        Raises NotRepeatableError where the rest could not take over from there.
        """
        if self._look.kind == "call":
            self._measure_call(evaluation.state)
            return
        self.mode = Mode.LOOK
        self.ahead.clear()
        try:
            self.start(self.chosen(evaluation))
            if self._lane.planned is None:
                raise NotRepeatableError("what the forward does is not known beforehand")
            self._lane.forward(self._stage, evaluation.state)
            raise ValueError(self._not_observed())
        except SeenError:
            return
        finally:
            self.mode = Mode.ALL

    def end(self, out: object) -> object:
        """The evaluation is done."""
        self.decided = _nothing
        self.decider.end(self._whole_call.given(out))
        return out

    @property
    def nbytes(self) -> int:
        return self.decider.gauge.nbytes

    def _not_observed(self) -> str:
        return (
            f"{type(self.decider.method).__name__}: the forward did not come to "
            f"{self._look.path}, so there was nothing to decide by; observe a module that it calls"
        )

    def _check_continued(self) -> None:
        if streams_of(self._lane, "model")[0] is None:
            raise ValueError(
                f"{type(self.decider.method).__name__}: the model's output does not have the shape "
                "of its first argument, but for channels; use a method that decides about blocks"
            )

    def _visit(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        look = self._look
        if self._exit and path == self._exit:
            assert self._blocks is not None
            args, kwargs = with_first(self._blocks.at_exit, module, args, kwargs)
        if self.mode is Mode.REST:
            out = super()._visit(path, self.ahead.instead(path, module), args, kwargs)
            return self._checked(path, out, args, kwargs)
        if path == look.path and look.kind == "input":
            self._observed(first_tensor(path, (args, kwargs)))
        if path == self._around and self._wants_ahead():
            self._look_ahead(module, args, kwargs)
        if self.mode is Mode.LOOK and path in self._reused:
            raise ReusedBeforeError(f"{path}, which may be reused, comes before what is observed")
        if path in self._reused and path not in (self._around, look.path):
            self._passed = self._passed or path
        if look.kind == "added" and path == self._first_block:
            self._entered = copied_arguments(module, args, kwargs)
        out = super()._visit(path, module, args, kwargs)
        if self.mode is Mode.LOOK:
            self.ahead.note(path, out)
        if path == look.path and look.kind == "output":
            self._observed(part_of(path, out, look.index))
        if path == look.path and look.kind == "added":
            self._observed(self._added(path, out))
        return self._checked(path, out, args, kwargs)

    def _checked(self, path: str, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """At the block that is checked: measure what stands for its output."""
        if path == self._look.path and self._look.kind == "checked" and self.decider.row == CHECKED:
            computed = self._model.get_submodule(path)(*args, **kwargs)
            self.decider.check(first_tensor(path, out), first_tensor(path, computed))
        return out

    def _observed(self, value: Tensor) -> None:
        decider = self.decider
        if self._passed and not decider.is_shown:
            raise ValueError(
                f"{type(decider.method).__name__}: {self._look.path} comes after {self._passed}, "
                "which may be reused; observe a module before it"
            )
        if not decider.is_shown or self.mode is Mode.LOOK:
            decider.measure(value)
        if self.mode is Mode.LOOK:
            raise SeenError
        if not decider.is_shown:
            decider.shown()
            self.numbers.load(decider.coefficients, {}, value.device, fit=decider.fit)
            self.switch(decider.variant)
            self.decided()
        if self._looking_ahead:
            raise SeenError

    def _wants_ahead(self) -> bool:
        if self.mode is Mode.LOOK:
            return True
        return not self.decider.is_shown and (self.decider.row is None or self.always_looks_ahead)

    def _look_ahead(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        # Up to what is observed inside the block; what the block is to do comes after.
        if self.mode is Mode.LOOK:
            module(*args, **kwargs)
            raise ValueError(self._not_observed())
        self._looking_ahead = True
        with suppress(SeenError):
            try:
                module(*args, **kwargs)
            finally:
                self._looking_ahead = False

    def _added(self, path: str, out: Any) -> Tensor:
        parts = tuple(out) if isinstance(out, tuple | list) else (out,)
        number, stream = image_stream(streams_of(self._lane, path))
        added: Tensor = parts[number] - self._entered[stream.name]
        return added

    @property
    def done(self) -> Done:
        """What the last evaluation did."""
        return self.decider.done


def _nothing() -> None:
    """Nobody waits for the decision."""
