"""A model's own forward under a method that decides: the rest of the forward is what it chose."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.observe import Stream, named_arguments
from l2c_rt.adapters.own.probe import streams_by_shape
from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.cpu.packed_linears import PackedLinears
from l2c_rt.backends.dynamic.decider import Decider
from l2c_rt.backends.own import OwnWorkspace
from l2c_rt.backends.own_blocks import Keeping
from l2c_rt.backends.own_calls import CallPlans
from l2c_rt.plan.dynamic import RowPlans
from l2c_rt.plan.ops import Plan, StepPlan
from l2c_rt.plan.run_record import Done


class _Seen(BaseException):
    """What was to be observed has been, and no more of a block is needed.

    No Exception, which the model's code may catch.
    """


class DecidingWorkspace(OwnWorkspace):
    """Evaluates the step it is given where that is step 0, else the one that the method chooses."""

    def __init__(
        self,
        model: BoundModel,
        plan: Plan,
        plans: CallPlans,
        row_plans: RowPlans,
        linears: PackedLinears | None = None,
    ) -> None:
        assert model.dynamic is not None
        cut, self._plan, self._model = model.dynamic.cut, plan, model.model
        self._look, self._exit = cut.look, cut.exit
        look, keeping = cut.look, Keeping(cut.keeps_outputs, bool(cut.exit))
        blocks = [path for site in model.sites for path in site.children]
        around = [path for path in blocks if look.path.startswith(f"{path}.")]
        self._first_block = blocks[0]
        self._around = around[0] if around else ""
        watched = {look.path, self._exit, self._around, blocks[0]} - {""}
        super().__init__(model, plan, plans, watched, keeping=keeping, linears=linears)
        self._decider = Decider(model.dynamic, row_plans)
        self._entered: dict[str, Tensor] = {}
        self._ahead = False

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        """See `OwnWorkspace.evaluate`.  Raises ValueError where nothing can be observed as well."""
        decider = self._decider
        decider.begin(evaluation)
        if self._look.kind == "call":
            self._observed(evaluation.state.x)
        self._ahead = False
        self._entered.clear()
        variant, coefficients = decider.variant, decider.coefficients
        chosen = evaluation._replace(variant=variant, coefficients=coefficients)
        out = super().evaluate(self._plan.steps[variant], chosen)
        if decider.row is None:
            raise ValueError(
                f"{type(decider.method).__name__}: the forward did not come to {self._look.path}, "
                "so there was nothing to decide by; observe a module that it calls"
            )
        if self._look.measure == "output change":
            self._check_continued()
        decider.end(_first_tensor("the model", out))
        return out

    @property
    def done(self) -> Done:
        """What the last evaluation did."""
        return self._decider.done

    @property
    def nbytes(self) -> int:
        return self._decider.gauge.nbytes

    def _check_continued(self) -> None:
        if self._streams_of("model")[0] is None:
            raise ValueError(
                f"{type(self._decider.method).__name__}: the model's output does not have the "
                "shape of its input, or is no plain tuple (return_dict=False), so what a call adds "
                "to its input is not known; use a method that decides about blocks"
            )

    def _visit(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        look = self._look
        if self._exit and path == self._exit:
            args, kwargs = self._at_exit(module, args, kwargs)
        if path == look.path and look.kind == "input":
            self._observed(_first_tensor(path, (args, kwargs)))
        if path == self._around and self._decider.row is None:
            self._look_ahead(module, args, kwargs)
        if look.kind == "added" and path == self._first_block:
            self._entered = {
                stream.name: value.clone()
                for stream, value in named_arguments(type(module), args, kwargs)
                if isinstance(value, Tensor)
            }
        out = super()._visit(path, module, args, kwargs)
        if path == look.path and look.kind == "checked" and self._decider.row == 2:
            computed = self._model.get_submodule(path)(*args, **kwargs)
            self._decider.check(_first_tensor(path, out), _first_tensor(path, computed))
        if path == look.path and look.kind == "output":
            self._observed(_part(path, out, look.index))
        if path == look.path and look.kind == "added":
            self._observed(self._added(path, out))
        return out

    def _observed(self, value: Tensor) -> None:
        decider = self._decider
        decider.observe(value)
        if decider.row is None:
            decider.decide()
            if self._look.kind != "call":
                self.switch(decider.variant, decider.coefficients)
        if self._ahead:
            raise _Seen

    def _look_ahead(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        """Run a block up to what is observed inside it; what the block is to do comes after."""
        self._ahead = True
        try:
            module(*args, **kwargs)
        except _Seen:
            pass
        finally:
            self._ahead = False

    def _added(self, path: str, out: Any) -> Tensor:
        parts = tuple(out) if isinstance(out, tuple | list) else (out,)
        number, stream = _image_stream(self._streams_of(path))
        added: Tensor = parts[number] - self._entered[stream.name]
        return added

    def _streams_of(self, path: str) -> tuple[Stream | None, ...]:
        planned = self._lane.planned
        if planned is None:
            return streams_by_shape(self._lane.last_call)
        return planned.probe.sites[path].streams

    def _at_exit(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        assert self._blocks is not None
        stream, value = next(iter(named_arguments(type(module), args, kwargs)))
        value = self._blocks.at_exit(value)
        if stream.name in kwargs:
            return args, kwargs | {stream.name: value}
        return (value, *args[1:]), kwargs


def _image_stream(streams: tuple[Stream | None, ...]) -> tuple[int, Stream]:
    """The output that continues the image, and what it continues."""
    known = [(j, stream) for j, stream in enumerate(streams) if stream is not None]
    if not known:
        raise ValueError("a block's outputs continue none of its arguments, so nothing is added")
    named = [pair for pair in known if pair[1].name in ("hidden_states", "x")]
    return (named or sorted(known, key=lambda pair: pair[1].position))[0]


def _first_tensor(path: str, value: object) -> Tensor:
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            return leaf
    raise ValueError(f"{path} has no tensor, so there is nothing to observe")


def _part(path: str, out: object, index: int) -> Tensor:
    tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    if index >= len(tensors):
        raise ValueError(f"{path} gives {len(tensors)} tensors, and tensor {index} is observed")
    return tensors[index]
