"""shift, scale and gate of every block, and of the final norm, for many steps at once.

They depend on (timestep, label) only, so that the rows of a whole run are one product per block
instead of one per block and step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import FusableModel
from l2c_rt.backends.cpu.few_rows import can_tabulate, tabulated


class ModulationTable:
    """Rows [steps, labels, 6 * blocks + 2, D] for the run under way; the last two are of the final
    norm, where the model's own code does not compute them.

    Known timesteps are tabulated ahead, a window of as many as `cap_bytes` allows.  An unknown one
    is the same product as its window would be, of which one step is kept: a row's last bits depend
    on the shape of the product, and a run must not depend on what runs before it have shown.
    Rebuilt when the labels change.
    """

    def __init__(self, fusable: FusableModel, evaluations: int, cap_bytes: int = 256 << 20) -> None:
        assert fusable.condition is not None
        assert fusable.modulation is not None
        self._condition, self._modulation = fusable.condition, fusable.modulation
        self._final = None if fusable.outer is None else fusable.outer.modulation
        self._linears = fusable.modulation_linears
        self._blocks = 1 + max(part.block for part in fusable.branches.values())
        self._evaluations, self._cap_bytes = evaluations, cap_bytes
        self.drop()

    def drop(self) -> None:
        """Forget every row; the next call tabulates anew."""
        self._now = torch.empty(0, device="cpu")
        self._dtype_now: torch.dtype | None = None
        self._forget_labels()

    def _forget_labels(self) -> None:
        self._table = torch.empty(0, device="cpu")
        self._t: list[float] = []
        self._window = range(0)
        self._y: Tensor | None = None
        self._dtype: torch.dtype | None = None
        self._labels = self._inverse = torch.empty(0, device="cpu")

    @property
    def nbytes(self) -> int:
        return self._table.nbytes

    def begin(self, t: Tensor, y: Tensor, step: int, timesteps: Sequence[float] | None) -> Tensor:
        """The rows of this step, [B, 6 * blocks + 2, D]: of a batch always the same tensor, so that
        addresses in it hold.  Shapes: t [B] or [1], all equal; y [B]."""
        value = float(t.reshape(-1)[0])
        self._set_labels(y, t.dtype)
        if step not in self._window:
            self._open_window(step, timesteps, t)
        row = step - self._window.start
        if not (self._t and self._t[row] == value):
            if timesteps is None:
                one_step = slice(row, row + 1)
                self._table = self._rows_of([value] * len(self._window), t, one_step)
            else:
                # Not quite the timestep that was said: alone, and a new window behind it.
                self._table, self._window = self._rows_of([value], t), range(0)
            self._t, row = [], 0
        return self._of_batch(self._table[row])

    def _of_batch(self, rows: Tensor) -> Tensor:
        shape = (len(self._inverse), *rows.shape[1:])
        if self._now.shape != shape or self._dtype_now is not rows.dtype:
            # Passes read float32; float64 has operators of its own.
            wide = torch.float64 if rows.dtype is torch.float64 else torch.float32
            self._now, self._dtype_now = rows.new_empty(shape, dtype=wide), rows.dtype
        return self._now.copy_(rows.index_select(0, self._inverse))

    def _set_labels(self, y: Tensor, dtype: torch.dtype) -> None:
        if self._y is not None and torch.equal(self._y, y) and self._dtype == dtype:
            return
        self._forget_labels()
        self._y, self._dtype = y.clone(), dtype
        self._labels, self._inverse = torch.unique(y, return_inverse=True)

    def _open_window(self, step: int, timesteps: Sequence[float] | None, like: Tensor) -> None:
        per_step = self._step_bytes(like)
        end = min(step + max(1, self._cap_bytes // per_step), self._evaluations)
        self._window, self._t = range(step, end), []
        if timesteps is not None:
            self._t = _in_dtype_of(like, timesteps[step:end]).tolist()
            self._table = self._rows_of(self._t, like)

    def _rows_of(
        self, timesteps: Sequence[float], like: Tensor, kept: slice = slice(None)
    ) -> Tensor:
        """Rows of the `kept` ones among `timesteps`."""
        steps, count = len(timesteps), len(self._labels)
        t = _in_dtype_of(like, timesteps)
        c = self._condition(t.repeat_interleave(count), self._labels.repeat(steps))
        return self._rows_for(c, steps, count, kept)

    def _step_bytes(self, like: Tensor) -> int:
        """Of the rows of one step, from those of one block."""
        c = self._condition(_in_dtype_of(like, [0.0] * len(self._labels)), self._labels)
        return self._modulation(0, c).nbytes // 6 * self._chunks

    @property
    def _chunks(self) -> int:
        return 6 * self._blocks + (0 if self._final is None else 2)

    def _rows_for(self, c: Tensor, steps: int, count: int, kept: slice) -> Tensor:
        """Rows [kept steps, count, chunks, D] for conditions [steps * count, D]."""
        if can_tabulate(self._linears, c):
            some = c.view(steps, count, -1)[kept]
            table = tabulated(self._linears, some.flatten(0, 1))
            return table.view(len(some), count, self._chunks, -1)
        table = torch.empty(0)
        for block in range(self._blocks):
            rows = self._modulation(block, c).view(steps, count, 6, -1)[kept]
            if block == 0:
                table = rows.new_empty(len(rows), count, self._chunks, rows.shape[-1])
            table[:, :, 6 * block : 6 * block + 6] = rows
        if self._final is not None:
            table[:, :, -2:] = self._final(c).view(steps, count, 2, -1)[kept]
        return table


def _in_dtype_of(like: Tensor, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device).to(like.dtype)
