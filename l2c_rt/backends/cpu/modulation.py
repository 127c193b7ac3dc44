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

    Known timesteps are tabulated ahead, as many steps at a time as `cap_bytes` allows; otherwise
    one step at a time.  Rebuilt when the labels change.
    """

    def __init__(self, fusable: FusableModel, cap_bytes: int = 256 << 20) -> None:
        assert fusable.condition is not None
        assert fusable.modulation is not None
        self._condition, self._modulation = fusable.condition, fusable.modulation
        self._blocks = 1 + max(part.block for part in fusable.branches.values())
        self._cap_bytes = cap_bytes
        self.drop()

    def drop(self) -> None:
        """Forget every row; the next call tabulates anew."""
        self._table: list[Tensor] = []
        self._t: tuple[float, ...] = ()
        self._y: Tensor | None = None
        self._dtype: torch.dtype | None = None
        self._labels = self._inverse = torch.empty(0)
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
        if value in self._t:
            self._row = self._t.index(value)
            return
        ahead: Sequence[float] = ()
        if timesteps is not None and float(timesteps[step]) == value:
            ahead = timesteps[step:]
        self._build(list(ahead) or [value], t)

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

    def _build(self, timesteps: list[float], like: Tensor) -> None:
        first = self._rows_of(timesteps[:1], like)
        per_step = sum(rows.numel() * rows.element_size() for rows in first)
        ahead = timesteps[: max(1, self._cap_bytes // per_step)]
        self._table = first if len(ahead) == 1 else self._rows_of(ahead, like)
        self._t, self._row = tuple(ahead), 0

    def _rows_of(self, timesteps: list[float], like: Tensor) -> list[Tensor]:
        count = len(self._labels)
        t = torch.tensor(timesteps, dtype=torch.float64, device=like.device).to(like.dtype)
        c = self._condition(t.repeat_interleave(count), self._labels.repeat(len(timesteps)))
        rows = [self._modulation(block, c) for block in range(self._blocks)]
        return [row.view(len(timesteps), count, -1) for row in rows]
