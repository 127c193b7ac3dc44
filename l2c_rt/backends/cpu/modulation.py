"""shift, scale and gate of every block for many steps at once.

They depend on (timestep, label) only, so that the rows of a whole run are one product per block
instead of one per block and step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import FusableModel


class ModulationTable:
    """Rows [steps, labels, 6 D] per block for the run under way.

    Known timesteps are tabulated ahead, a window of as many as `cap_bytes` allows.  An unknown one
    is the same product as its window would be, of which one step is kept: a row's last bits depend
    on the shape of the product, and a run must not depend on what runs before it have shown.
    Rebuilt when the labels change.
    """

    def __init__(self, fusable: FusableModel, evaluations: int, cap_bytes: int = 256 << 20) -> None:
        assert fusable.condition is not None
        assert fusable.modulation is not None
        self._condition, self._modulation = fusable.condition, fusable.modulation
        self._blocks = 1 + max(part.block for part in fusable.branches.values())
        self._evaluations, self._cap_bytes = evaluations, cap_bytes
        self.drop()

    def drop(self) -> None:
        """Forget every row; the next call tabulates anew."""
        self._table: list[Tensor] = []
        self._t: list[float] = []
        self._window = range(0)
        self._y: Tensor | None = None
        self._dtype: torch.dtype | None = None
        self._labels = self._inverse = torch.empty(0, device="cpu")
        self._now: dict[int, tuple[Tensor, ...]] = {}
        self._row = 0

    @property
    def nbytes(self) -> int:
        return sum(rows.numel() * rows.element_size() for rows in self._table)

    def begin(self, t: Tensor, y: Tensor, step: int, timesteps: Sequence[float] | None) -> None:
        """Make the rows of this step ready.  Shapes: t [B] or [1], all equal; y [B]."""
        self._now = {}
        value = float(t.reshape(-1)[0])
        self._set_labels(y, t.dtype)
        if step not in self._window:
            self._open_window(step, timesteps, t)
        row = step - self._window.start
        if self._t and self._t[row] == value:
            self._row = row
            return
        if timesteps is None:
            self._table = self._rows_of([value] * len(self._window), t, slice(row, row + 1))
        else:
            # Not quite the timestep that was said: on its own, and a new window behind it.
            self._table, self._window = self._rows_of([value], t), range(0)
        self._t, self._row = [], 0

    def rows(self, block: int, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """shift, scale, gate [B, 1, D] from chunk `first` of the block's six."""
        if block not in self._now:
            rows = self._table[block][self._row].index_select(0, self._inverse)
            self._now[block] = rows.unsqueeze(1).chunk(6, dim=2)
        shift, scale, gate = self._now[block][first : first + 3]
        return shift, scale, gate

    def _set_labels(self, y: Tensor, dtype: torch.dtype) -> None:
        if self._y is not None and torch.equal(self._y, y) and self._dtype == dtype:
            return
        self.drop()
        self._y, self._dtype = y.clone(), dtype
        self._labels, self._inverse = torch.unique(y, return_inverse=True)

    def _open_window(self, step: int, timesteps: Sequence[float] | None, like: Tensor) -> None:
        one = self._rows_of([0.0], like)
        per_step = sum(rows.numel() * rows.element_size() for rows in one)
        end = min(step + max(1, self._cap_bytes // per_step), self._evaluations)
        self._window, self._t = range(step, end), []
        if timesteps is not None:
            self._t = _in_dtype_of(like, timesteps[step:end]).tolist()
            self._table = self._rows_of(self._t, like)

    def _rows_of(
        self, timesteps: Sequence[float], like: Tensor, kept: slice = slice(None)
    ) -> list[Tensor]:
        """Rows of the `kept` ones among `timesteps`, per block."""
        count = len(self._labels)
        t = _in_dtype_of(like, timesteps)
        c = self._condition(t.repeat_interleave(count), self._labels.repeat(len(timesteps)))
        shape = (len(timesteps), count, -1)
        rows = (self._modulation(block, c).view(shape)[kept] for block in range(self._blocks))
        return [row if len(row) == len(timesteps) else row.clone() for row in rows]


def _in_dtype_of(like: Tensor, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device).to(like.dtype)
