"""What is done at the sites of a model whose own forward runs: as a naive cached one, bitwise."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.utils._pytree import tree_map

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.block_sites import WHOLE_MODEL
from l2c_rt.backends.backend import Counted, Evaluation
from l2c_rt.backends.block_calls import BlockCall
from l2c_rt.backends.cpu.packed_linears import PackedLinears
from l2c_rt.backends.graphs.forward import VisitUnit
from l2c_rt.backends.keeping import Keeping
from l2c_rt.backends.own_blocks import BlockVisits
from l2c_rt.backends.own_calls import CallPlans, LaneCalls
from l2c_rt.backends.own_rows import (
    STAND_INS,
    Act,
    Row,
    alike_of,
    copy_of,
    hollow_like,
    inside_of,
    other_calls,
    row_of,
)
from l2c_rt.backends.step_numbers import StepNumbers
from l2c_rt.device.graphs import GraphStats
from l2c_rt.memory.kept_values import KeptValues, ValueKey
from l2c_rt.memory.mixing import mixed_values
from l2c_rt.plan.ops import LeaveOut, Plan, Predict, StepPlan, reuses


class OwnWorkspace:
    """One stage of the model, and what its cut points gave at evaluation 0 of the run; where it is
    set, `visit_unit` is called in place of the blocks `units`.  At the paths `also` the forward is
    cut too; `keeping` is by path, for blocks of which not all that they add is kept."""

    def __init__(
        self,
        model: BoundModel,
        plan: Plan,
        plans: CallPlans,
        units: Collection[str] = (),
        *,
        also: Collection[str] = (),
        keeping: Mapping[str, Keeping] = {},
        linears: PackedLinears | None = None,
    ) -> None:
        assert model.open_stage is not None
        self.visit_unit: VisitUnit | None = None
        self.numbers = StepNumbers()
        self._plan, self._linears, self._units = plan, linears, frozenset(units)
        paths = self._units if linears is None else self._units | linears.paths
        sites = {site.name: site for site in model.sites}
        left_out = {op.branch for step in plan.steps for op in step if isinstance(op, LeaveOut)}
        self._left_out = frozenset(sites[name].children[-1] for name in left_out)
        self._rows: tuple[Row, ...] = tuple(row_of(step, sites, left_out) for step in plan.steps)
        self._reuses = tuple(bool(reuses(step)) for step in plan.steps)
        self._sites = model.sites
        self._cut = {path for site in model.sites for path in site.children}
        self._inside = inside_of(sorted(self._cut))
        self._alike = alike_of([sites[name] for name in plan.slots])
        self._open_stage = model.open_stage
        self._stage = self._open_stage(self._visit, sorted((paths | {*also}) - self._cut))
        self._lane = LaneCalls(plan, plans)
        self._blocks: BlockVisits | None = None
        if model.sites[0].is_block:
            self._blocks = BlockVisits(self._lane, keeping, self.numbers)
        self._hollow, self._written = dict[tuple[str, int], Any](), set[tuple[str, int]]()
        self.calls, self._calls_at_first = dict[str, int](), dict[str, int]()
        self._row: Row = {}
        self._values = KeptValues()
        self._first, self._variant, self._writes = True, 0, False

    def evaluate(self, step: StepPlan, evaluation: Evaluation) -> object:
        """The model's own return value; see `carry_out` for what it raises."""
        self.load(evaluation)
        return self.carry_out(step, evaluation)

    def load(self, evaluation: Evaluation) -> None:
        """Bring the coefficients and tensors of its predictions to where `carry_out` reads them."""
        blocks = self._blocks
        numbers = evaluation.coefficients if blocks is None else blocks.coefficients_of(evaluation)
        device = evaluation.state.x.device
        self.numbers.load(numbers, evaluation.operands, device, evaluation.lanes, evaluation.fit)

    def carry_out(self, step: StepPlan, evaluation: Evaluation) -> object:
        """The model's own return value, with the coefficients that were loaded.

        Raises ValueError naming the cut point where the forward does other calls, or gives other
        shapes, than at evaluation 0.
        """
        self.start(evaluation)
        out: object = self._lane.forward(self._stage, evaluation.state)
        if self._first:
            self._check_called()
            self._calls_at_first = self.calls
        elif self.calls != self._calls_at_first:
            raise ValueError(self._other_calls(self._first_difference()))
        # A branch may be the last module: what the user is given must not be our memory.
        return tree_map(self._values.not_kept, out) if self._reuses[self._variant] else out

    def start(self, evaluation: Evaluation) -> None:
        """Before the forward of an evaluation runs."""
        self._row = self._rows[evaluation.variant]
        self._values = evaluation.slots.values
        self._first, self._variant = evaluation.step == 0, evaluation.variant
        self.calls = {}
        self._writes = evaluation.state.options.get("writes_kept", False)
        if self._first:
            self._lane.begin(evaluation.state, self._values)
        if self._blocks is not None:
            self._blocks.begin(evaluation, self._values)

    def switch(self, variant: int, paths: Collection[str] | None = None) -> None:
        """From here on another distinct step is carried out, at these blocks or at all."""
        if paths is None:
            self._variant, self._row = variant, self._rows[variant]
        elif self._reuses[variant]:
            self._variant = variant
        if self._blocks is not None:
            self._blocks.switch(variant, paths)

    def drop_tables(self) -> None:
        """A run begins: shapes may be others, and the attributes of the model's modules."""
        self._written.clear()
        self._stage.refresh()

    @property
    def nbytes(self) -> int:
        return 0

    @property
    def graph_stats(self) -> GraphStats:
        return GraphStats(reasons=self._lane.reasons if self._blocks is not None else ())

    @property
    def counted(self) -> Counted | None:
        return None if self._lane.planned is None else self._lane.planned.counted

    def step_seconds(self) -> Iterable[tuple[int, float]]:
        return ()

    @property
    def root(self) -> nn.Module:
        return self._stage.root

    def continues(self, path: str) -> bool:
        """Whether a block is kept as one with the block before it."""
        planned = self._lane.planned
        if self._blocks is None or planned is None:
            return False
        return any(path in group[1:] for group in planned.groups)

    def _visit(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        linears = self._linears
        if linears is not None and path in linears.paths and path not in self._cut:
            return self._lane.product(module, partial(linears.call, module, args, kwargs))
        inside = module if path not in self._cut else partial(self._at_site, path, module)
        if self.visit_unit is not None and path in self._units:
            return self.visit_unit(path, inside, args, kwargs)
        return inside(*args, **kwargs)

    def _at_site(self, path: str, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        call = self.calls.get(path, 0)
        self.calls[path] = call + 1
        if self._blocks is not None:
            if not self._first and call >= self._calls_at_first.get(path, 0):
                raise ValueError(self._other_calls(path))
            return self._blocks.visit(
                BlockCall(path or WHOLE_MODEL.name, call, module, args, kwargs)
            )
        action = self._row.get(path)
        if action is None:
            return self._call(path, module, args, kwargs)
        act, slot, predict = action
        if act in STAND_INS:
            if call >= self._calls_at_first.get(path, 0):
                raise ValueError(self._other_calls(path))
            for inner in self._inside.get(path, ()):
                self.calls[inner] = self._calls_at_first.get(inner, 0)
            if predict is not None:
                return self._predicted(predict, call, path)
            value = self._kept(slot, call, path) if act is Act.REUSE else self._hollow[path, call]
            return tree_map(copy_of, value) if self._writes else value
        out = self._call(path, module, args, kwargs)
        new = (path, call) not in self._written
        self._written.add((path, call))
        if act is Act.KEEP:
            self._keep(slot, call, path, out, new)
        if new and (act is not Act.KEEP or path in self._left_out):
            before = self._hollow.get((path, call))
            self._hollow[path, call] = hollow_like(out, before, narrow=act is Act.NARROW)
        return out

    def _call(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        linears = self._linears
        # While a first evaluation is observed, PyTorch's own products are counted.
        if linears is None or path not in linears.paths or self._lane.planned is None:
            return self._lane.call(path, module, args, kwargs)
        return linears.call(module, args, kwargs)

    def _keep(self, slot: int, call: int, path: str, out: object, new: bool) -> None:
        try:
            self._values.keep(ValueKey(slot, call), out, self._alike[slot], may_change=new)
        except (TypeError, ValueError) as error:
            raise type(error)(f"output of {path}: {error}") from None

    def _kept(self, slot: int, call: int, path: str) -> Any:
        try:
            return self._values.get(ValueKey(slot, call))
        except ValueError as error:
            raise ValueError(f"output of {path}: {error}") from None

    def _predicted(self, op: Predict, call: int, path: str) -> Any:
        kept = [self._kept(slot, call, path) for slot in op.slots]
        numbers = self.numbers
        value = mixed_values(kept, numbers.of(op), numbers.operands.get(op.branch), numbers.lanes)
        if op.store is not None:
            self._keep(op.store, call, path, value, True)
        return value

    def _check_called(self) -> None:
        """At evaluation 0: some branches of a model may have nothing to do, but not all of them."""
        missing = [site for site in self._sites if site.children[-1] not in self.calls]
        required = [site.name for site in missing if site.required]
        if required or len(missing) == len(self._sites):
            names = required or [site.name for site in missing]
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise ValueError(
                f"{', '.join(names[:4])}{more}: not called by the model's forward at evaluation 0, "
                "so nothing can be kept there; name modules that it calls: sites=[...]"
            )

    def _first_difference(self) -> str:
        paths = {**self._calls_at_first, **self.calls}
        return next(p for p in paths if self.calls.get(p) != self._calls_at_first.get(p))

    def _other_calls(self, path: str) -> str:
        return other_calls(path, self.calls.get(path, 0), self._calls_at_first.get(path, 0))
