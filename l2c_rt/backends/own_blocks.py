"""What is done at a whole block: computed, or added from what it once gave.

What is kept of a group of blocks is what it adds to the tensors that go through it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from l2c_rt.adapters.own.block_sites import WHOLE_MODEL
from l2c_rt.adapters.own.observe import write_count
from l2c_rt.adapters.own.probe import streams_by_shape
from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.block_calls import (
    BlockCall,
    continued_arguments,
    parts_of,
    refuse_writes,
    sum_of,
    without_tensors,
)
from l2c_rt.backends.block_rows import BlockAction, BlockRow, Streams, block_rows
from l2c_rt.backends.keeping import ADDED, Keeping
from l2c_rt.backends.own_calls import CallPlan, LaneCalls
from l2c_rt.backends.own_rows import copy_of
from l2c_rt.backends.step_numbers import StepNumbers
from l2c_rt.memory.kept_values import KeptValues, ValueKey
from l2c_rt.plan.ops import Coefficients


@dataclass(slots=True)
class _Group:
    """The group that is being gone through: the tensors that go through it, by the arguments'
    names, and their counts of writes; what its last block so far has handed on."""

    entered: dict[str, Tensor]
    writes: dict[str, int]
    handed: dict[str, Any]
    last: str = "the block before"

    @staticmethod
    def of(arguments: dict[str, Tensor], *, copies: bool = False) -> _Group:
        entered = {n: t.clone() for n, t in arguments.items()} if copies else arguments
        return _Group(entered, {name: write_count(t) for name, t in entered.items()}, {})

    def written(self) -> list[str]:
        """The arguments that were written to in place since the group began."""
        return [n for n, count in self.writes.items() if write_count(self.entered[n]) != count]


class BlockVisits:
    """The blocks of one lane, gone through in the order of their calls."""

    def __init__(
        self, calls: LaneCalls, keeping: Mapping[str, Keeping], numbers: StepNumbers
    ) -> None:
        self._calls, self._numbers = calls, numbers
        self._has_exit = any(kept.at_exit for kept in keeping.values())
        self._keeping = keeping
        self._left: tuple[BlockCall, BlockAction] | None = None
        self._planned: CallPlan | None = None
        self._rows: tuple[BlockRow, ...] = ()
        self._row: BlockRow = {}
        self._values = KeptValues()
        self._returned: dict[str, Any] = {}
        self._structure: TreeSpec | None = None
        self._kept, self._group = set[ValueKey](), _Group.of({})

    def begin(self, evaluation: Evaluation, values: KeptValues) -> None:
        """An evaluation begins."""
        planned = self._calls.planned
        if planned is not self._planned:
            self._planned = planned
            self._rows = () if planned is None else tuple(block_rows(planned))
        self.switch(evaluation.variant)
        self._values, self._group, self._left = values, _Group.of({}), None
        if evaluation.step == 0:
            self._returned.clear()
            self._kept.clear()

    def coefficients_of(self, evaluation: Evaluation) -> Coefficients:
        """Those of merged blocks, which stand at other places than before merging."""
        planned = self._calls.planned
        merged = () if planned is None else planned.counted.plan.coefficients_at(evaluation.step)
        return merged or evaluation.coefficients

    def switch(self, variant: int, paths: Collection[str] | None = None) -> None:
        """From here on this distinct step of the plan is carried out, at these blocks or at all."""
        row = self._rows[variant] if self._rows else {}
        if paths is not None:
            row = {**self._row, **{path: row[path] for path in paths if path in row}}
        self._row = row

    def visit(self, call: BlockCall) -> Any:
        """What the block gives, or what stands for it.

        Raises ValueError where the model's code changes a tensor between two blocks of a group, or
        a block writes to an argument that it continues.
        """
        out = self._visited(call)
        if call.path != WHOLE_MODEL.name:
            return out
        assert self._structure is not None
        return tree_unflatten(out, self._structure)

    def _flat(self, call: BlockCall, out: Any) -> Any:
        """What a block gives; of a whole model, whatever holds its tensors, the tensors in it."""
        if call.path != WHOLE_MODEL.name:
            return out
        leaves, self._structure = tree_flatten(out)
        return tuple(leaves)

    def _visited(self, call: BlockCall) -> Any:
        if self._planned is None:
            return self._observed(call)
        action = self._row.get(call.path)
        if action is None:
            return self._flat(call, call.module(*call.args, **call.kwargs))
        arguments = continued_arguments(call, action.streams)
        if action.is_first:
            self._group = _Group.of(arguments, copies=action.computes and action.in_place)
        else:
            self._check_handed(call.path, arguments)
        out = self._computed(call, action) if action.computes else self._reused(call, action)
        if action.is_last and self._has_exit:
            self._left = call, action
        elif action.is_last:
            self._group = _Group.of({})
        else:
            pairs = zip(action.streams, parts_of(out), strict=True)
            self._group.handed = {s.name: part for s, part in pairs if s is not None}
            self._group.last = call.path
        return out

    def _observed(self, call: BlockCall) -> Any:
        """A call of an evaluation 0 that no probe has foreseen: each block is kept by itself."""
        out = self._flat(call, self._calls.call(call.path, call.module, call.args, call.kwargs))
        slot = self._calls.slot_of(call.path)
        if slot is not None:
            observed = self._calls.last_call
            streams = streams_by_shape(observed)
            self._group = _Group.of(continued_arguments(call, streams))
            refuse_writes(call.path, [n for n in observed.overwritten if n in self._group.entered])
            self._keep(call, slot, streams, out)
        return out

    def _computed(self, call: BlockCall, action: BlockAction) -> Any:
        out = self._flat(call, call.module(*call.args, **call.kwargs))
        if action.is_last and not self._has_exit:
            refuse_writes(call.path, self._group.written())
            self._keep(call, action.slot, action.streams, out)
        elif call.path not in self._returned:
            self._returned[call.path] = without_tensors(out)
        return out

    def _reused(self, call: BlockCall, action: BlockAction) -> Any:
        if not action.is_last or self._has_exit:
            return self._handed_through(self._returned[call.path], action.streams)
        return self._sums(call, action)

    def at_exit(self, entering: Tensor) -> Tensor:
        """What goes into the module before which the blocks' sum is added, in place of `entering`.

        Raises ValueError where the blocks hand on anything but one tensor.
        """
        if self._left is None:
            raise ValueError("the blocks do not hand one tensor on to the module after them")
        (call, action), self._left = self._left, None
        if not action.computes:
            out: Tensor = self._sums(call, action)
            return out
        refuse_writes(call.path, self._group.written())
        self._keep(call, action.slot, action.streams, entering)
        return entering

    def _sums(self, call: BlockCall, action: BlockAction) -> Any:
        kept = self._value(call, action)
        parts = [
            tree_map(copy_of, part)
            if s is None
            else sum_of(self._group.entered[s.name], part, in_place=action.in_place)
            for s, part in zip(self._added(call.path, action.streams), parts_of(kept), strict=True)
        ]
        return parts[0] if isinstance(kept, Tensor) else type(kept)(parts)

    def _value(self, call: BlockCall, action: BlockAction) -> Any:
        """What is added in place of the block: kept, or predicted from what was kept."""
        predict = action.predict
        try:
            if predict is None:
                return self._values.get(ValueKey(action.slot, call.number))
            kept = [self._values.get(ValueKey(slot, call.number)) for slot in predict.slots]
        except ValueError as error:
            raise ValueError(f"output of {call.path}: {error}") from None
        numbers = self._numbers
        operand, rows = numbers.operands.get(predict.branch), numbers.of(predict)
        keeping = self._keeping.get(call.path, ADDED)
        value = keeping.mixed(kept, rows, operand, numbers, action.streams)
        if predict.store is not None:
            self._values.keep(ValueKey(predict.store, call.number), value, 1, may_change=True)
        return value

    def _keep(self, call: BlockCall, slot: int, streams: Streams, out: object) -> None:
        added = self._added(call.path, streams)
        bases = [None if s is None else self._group.entered[s.name] for s in added]
        key = ValueKey(slot, call.number)
        try:
            self._values.keep(key, out, 1, may_change=key not in self._kept, bases=bases)
        except (TypeError, ValueError) as error:
            raise type(error)(f"output of {call.path}: {error}") from None
        self._kept.add(key)

    def _added(self, path: str, streams: Streams) -> Streams:
        return self._keeping.get(path, ADDED).added(streams)

    def _check_handed(self, path: str, arguments: Mapping[str, Any]) -> None:
        for name, tensor in arguments.items():
            if tensor is not self._group.handed.get(name):
                raise ValueError(
                    f"{path}: its {name} is not what {self._group.last} gave, "
                    "which was so when these blocks were merged; compile with merge=False or "
                    'granularity="branch"'
                )

    def _handed_through(self, returned: Any, streams: Streams) -> Any:
        """What an inner block of a group gives on reuse: only the next block of it is given it."""
        handed = [
            part if s is None else self._group.entered[s.name]
            for s, part in zip(streams, parts_of(returned), strict=True)
        ]
        return type(returned)(handed) if isinstance(returned, tuple | list) else handed[0]
