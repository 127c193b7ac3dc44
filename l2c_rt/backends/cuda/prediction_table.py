"""The coefficients of predictions, and their tensors, where kernels look them up.

Like the modulation they are of a window of evaluations, the one under way by its counter.  Of lanes
that have their own the rows lie side by side, and each image's is found by its offset.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from l2c_rt.kernels.operands import OperandBank, Weights
from l2c_rt.plan.ops import Compute, Plan, Predict, reuses

MOST_KNOWN = 256
"""Distributions of the lanes over a batch whose offsets are kept."""


class PredictionTable:
    """Coefficients [window, lanes W] by their numbers in the plan; the last of the W is one, for
    slots that are only reused."""

    def __init__(self, plan: Plan, window: int, counter: Tensor, shape: Sequence[int]) -> None:
        """`shape` is [B, T, D]."""
        self._counter = counter
        rows = _coefficients(plan)
        self._width = rows.shape[2]
        self._rows = torch.from_numpy(rows).flatten(1).to(counter.device)
        self._table = self._rows[:window].clone()
        self._offsets = None if plan.lanes == 1 else counter.new_zeros(shape[0])
        self._known: dict[tuple[int, ...], Tensor] = {}
        self._index_rows = self._index = self._bank = None
        predictions = plan.predictions
        if predictions is not None and (predictions.scale or predictions.shift):
            index, bank = _operands(plan, self._rows.shape[1], shape[1:])
            self._index_rows = torch.from_numpy(index).to(counter.device)
            self._index = self._index_rows[:window].clone()
            self._bank = torch.from_numpy(bank).to(counter.device)

    @property
    def nbytes(self) -> int:
        tensors = (self._rows, self._table, self._index_rows, self._index, self._bank,
                   self._offsets, *self._known.values())  # fmt: skip
        return sum(t.nbytes for t in tensors if t is not None)

    def fill(self, first: int, count: int) -> None:
        """Take the window of `count` evaluations from `first` on."""
        self._table[:count].copy_(self._rows[first : first + count])
        if self._index is not None and self._index_rows is not None:
            self._index[:count].copy_(self._index_rows[first : first + count])

    def use(self, lanes: Sequence[int]) -> None:
        """The samples of the batch are in these lanes, those that are not named in the first."""
        if self._offsets is None:
            return
        known, key = self._known, tuple(lanes)
        if key not in known:
            if len(known) == MOST_KNOWN:
                known.clear()
            missing = len(self._offsets) - len(lanes)
            numbers = [self._width * lane for lane in (*lanes, *[0] * missing)]
            tensor = torch.tensor(numbers, dtype=torch.int32, device="cpu")
            known[key] = tensor.to(self._offsets.device)
        self._offsets.copy_(known[key])

    def weights(self, columns: list[int | None]) -> Weights:
        """The factors at these numbers; None is one."""
        last = self._width - 1
        listed = [last if column is None else column for column in columns]
        numbers = torch.tensor(listed, dtype=torch.int32, device="cpu").to(self._counter.device)
        return Weights(self._table, numbers, self._counter, self._offsets)

    def operand(self, at: int) -> OperandBank:
        """The tensors of the prediction whose coefficients begin at a number."""
        assert self._bank is not None
        assert self._index is not None
        return OperandBank(self._bank, self._index, at)


def _coefficients(plan: Plan) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """[S, lanes, W], the last of the W one."""
    width = 1 + max(len(numbers) for rows in plan.coefficients for numbers in rows)
    table = np.zeros((plan.num_evaluations, plan.lanes, width), np.float32)
    for s, rows in enumerate(plan.coefficients):
        for lane, numbers in enumerate(rows):
            table[s, lane, : len(numbers)] = numbers
    table[:, :, -1] = 1.0
    return table


def _operands(
    plan: Plan, width: int, shape: Sequence[int]
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int32]],
           np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:  # fmt: skip
    """index [S, W, 2] into bank [M, T, D]: scale and shift of each prediction; bank 0 is zero."""
    assert plan.predictions is not None
    # Evaluation 0 computes every branch, in their order.
    names = [op.branch for op in plan.at(0) if isinstance(op, Compute)]
    index = np.zeros((plan.num_evaluations, width, 2), np.int32)
    bank = [np.zeros(shape, np.float32)]
    for s in range(plan.num_evaluations):
        for op in reuses(plan.at(s)):
            if not isinstance(op, Predict) or not op.has_operand:
                continue
            cell = (s, names.index(op.branch))
            for which, arrays in enumerate((plan.predictions.scale, plan.predictions.shift)):
                if cell in arrays:
                    index[s, op.at, which] = len(bank)
                    bank.append(np.broadcast_to(arrays[cell], shape).astype(np.float32))
    return index, np.stack(bank)
