"""What a distinct step reads that differs between its evaluations, at fixed addresses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from l2c_rt.memory.mixing import Operand
from l2c_rt.plan.mode_fit import ModeFit
from l2c_rt.plan.ops import Coefficients, Predict

MOST_FILLED = 8
"""Coefficients that the device fills in one by one; more are copied from a table."""

MOST_KEPT = 256
"""Rows of that table."""


class StepNumbers:
    """The coefficients of predictions and the tensors of a corrector: graphs hold their addresses.

    A distinct step has the same number of coefficients at each of its evaluations.
    """

    def __init__(self) -> None:
        self.coefficients: tuple[tuple[Tensor, ...], ...] = ()
        self.lanes: tuple[int, ...] = ()
        self.fit: ModeFit | None = None
        self.operands: Mapping[str, Operand] = {}
        self._rows: dict[int, tuple[Tensor, tuple[Tensor, ...]]] = {}
        self._table: dict[tuple[float, ...], Tensor] = {}
        self._tensors: dict[tuple[str, int, torch.Size], Tensor] = {}

    def load(
        self, coefficients: Coefficients, operands: Mapping[str, Operand],
        device: torch.device, lanes: tuple[int, ...] = (), fit: ModeFit | None = None,
    ) -> None:  # fmt: skip
        """Bring those of an evaluation to their places; `lanes` are the rows that samples take."""
        self.lanes, self.fit = lanes if len(coefficients) > 1 else (), fit
        numbers = tuple(number for row in coefficients for number in row)
        cells = self._loaded(numbers, device) if numbers else ()
        count = len(numbers) // max(1, len(coefficients))
        self.coefficients = tuple(
            cells[row * count : (row + 1) * count] for row in range(len(coefficients))
        )
        self.operands = {
            name: Operand(
                self._copied(name, 0, operand.scale),
                self._copied(name, 1, operand.shift),
                operand.rounding,
            )
            for name, operand in operands.items()
        }

    @property
    def structure(self) -> tuple[object, ...]:
        """What evaluations share whose graph may be the same one."""
        # What a rounded series is of is no tensor: a graph holds the numbers themselves.
        shapes = [
            (
                name,
                *(None if t is None else t.shape for t in (operand.scale, operand.shift)),
                operand.rounding,
            )
            for name, operand in self.operands.items()
        ]
        return (*map(len, self.coefficients), self.lanes, self.fit, *sorted(shapes, key=str))

    def of(self, op: Predict) -> tuple[tuple[Tensor, ...], ...]:
        """The coefficients of a prediction, a row for each lane."""
        return tuple(row[op.at : op.at + len(op.slots)] for row in self.coefficients)

    @property
    def nbytes(self) -> int:
        """Memory of the places."""
        rows = [row for row, _ in self._rows.values()]
        return sum(t.nbytes for t in (*rows, *self._table.values(), *self._tensors.values()))

    def _loaded(self, numbers: tuple[float, ...], device: torch.device) -> tuple[Tensor, ...]:
        count = len(numbers)
        if count not in self._rows:
            row = torch.empty(count, dtype=torch.float64, device=device)
            self._rows[count] = row, row.unbind()
        row, cells = self._rows[count]
        if count <= MOST_FILLED:
            for cell, number in zip(cells, numbers, strict=True):
                cell.fill_(number)
            return cells
        if numbers not in self._table:
            if len(self._table) == MOST_KEPT:
                self._table.clear()
            self._table[numbers] = torch.tensor(numbers, dtype=torch.float64, device=device)
        row.copy_(self._table[numbers])
        return cells

    def _copied(self, name: str, part: int, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        key = name, part, tensor.shape
        if key not in self._tensors:
            self._tensors[key] = torch.empty_like(tensor)
        return self._tensors[key].copy_(tensor)
