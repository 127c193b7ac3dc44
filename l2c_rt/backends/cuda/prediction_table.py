"""The coefficients of predictions, and their tensors, where kernels look them up.

Like the modulation they are of a window of evaluations, the one under way by its counter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from l2c_rt.kernels.operands import OperandBank, Weights
from l2c_rt.plan.ops import Compute, Plan, Predict, reuses


class PredictionTable:
    """Coefficients [window, W] by their numbers in the plan; the last of the W is one, for slots
    that are only reused."""

    def __init__(self, plan: Plan, window: int, counter: Tensor, shape: Sequence[int]) -> None:
        """`shape` is [T, D]."""
        self._counter = counter
        width = 1 + max(map(len, plan.coefficients))
        rows = np.zeros((plan.num_evaluations, width), np.float32)
        for row, numbers in zip(rows, plan.coefficients, strict=True):
            row[: len(numbers)] = numbers
        rows[:, -1] = 1.0
        self._rows = torch.from_numpy(rows).to(counter.device)
        self._table = self._rows[:window].clone()
        self._index_rows = self._index = self._bank = None
        predictions = plan.predictions
        if predictions is not None and (predictions.scale or predictions.shift):
            index, bank = _operands(plan, width, shape)
            self._index_rows = torch.from_numpy(index).to(counter.device)
            self._index = self._index_rows[:window].clone()
            self._bank = torch.from_numpy(bank).to(counter.device)

    @property
    def nbytes(self) -> int:
        tensors = (self._rows, self._table, self._index_rows, self._index, self._bank)
        return sum(t.nbytes for t in tensors if t is not None)

    def fill(self, first: int, count: int) -> None:
        """Take the window of `count` evaluations from `first` on."""
        self._table[:count].copy_(self._rows[first : first + count])
        if self._index is not None and self._index_rows is not None:
            self._index[:count].copy_(self._index_rows[first : first + count])

    def weights(self, columns: list[int | None]) -> Weights:
        """The factors at these numbers; None is one."""
        last = self._table.shape[1] - 1
        listed = [last if column is None else column for column in columns]
        numbers = torch.tensor(listed, dtype=torch.int32, device="cpu").to(self._counter.device)
        return Weights(self._table, numbers, self._counter)

    def operand(self, at: int) -> OperandBank:
        """The tensors of the prediction whose coefficients begin at a number."""
        assert self._bank is not None
        assert self._index is not None
        return OperandBank(self._bank, self._index, at)


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
