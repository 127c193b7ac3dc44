"""What is measured in uncached runs: errors of reuse, ratios of norms, mean outputs.

Sums stay on the model's device; of outputs, no more is held than a measure compares.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from l2c_rt.calibration.recorder import Seen
from l2c_rt.correctors.eoc import EOC
from l2c_rt.runtime.loop_model import Place

Outputs = tuple[Tensor, ...]


class ReuseErrors:
    """sum|F_i - F_j| / sum|F_j| of every branch, j = i + 1 + k, averaged over calls and runs."""

    def __init__(self, branches: int, lookback: int, steps: int) -> None:
        self._sums = np.zeros((branches, lookback, steps - 1))
        self._counts = np.zeros((branches, lookback, steps - 1), np.int64)
        self._pending: list[tuple[tuple[int, int, int], Tensor]] = []
        self._before: dict[tuple[int, int, int], deque[Outputs]] = {}
        self._lookback = lookback

    def see(self, seen: Seen) -> None:
        (branch, number), step = seen.call, seen.place.step
        key = (seen.place.lane, branch, number)
        if step == 0:
            self._before[key] = deque(maxlen=self._lookback)
        before = self._before[key]
        norm = sum(float_sum(part) for part in seen.outputs)
        for k, earlier in enumerate(reversed(before)):
            pairs = zip(earlier, seen.outputs, strict=True)
            distance = sum(float_sum(a - b) for a, b in pairs)
            self._pending.append(((branch, k, step - 1 - k), torch.as_tensor(distance / norm)))
        before.append(tuple(part.detach().clone() for part in seen.outputs))

    def end_evaluation(self, place: Place) -> None:
        """One copy to the host for all branches."""
        if not self._pending:
            return
        values = torch.stack([value for _, value in self._pending]).tolist()
        for (cell, _), value in zip(self._pending, values, strict=True):
            self._sums[cell] += value
            self._counts[cell] += 1
        self._pending.clear()

    def result(self) -> npt.NDArray[np.float64]:
        """[branches, lookback, steps - 1], NaN where nothing was compared."""
        return np.where(self._counts > 0, self._sums / np.maximum(self._counts, 1), np.nan)


class Magnitudes:
    """mean over tokens of |r_n| / (|r_n-1| + 1e-8), r what all blocks add to their main stream."""

    def __init__(self, calls_per_step: int, steps: int) -> None:
        self._sums = np.zeros((calls_per_step, steps))
        self._runs = 0
        self._residual: Tensor | None = None
        self._before: dict[int, Tensor] = {}
        self._possible = True

    def see(self, seen: Seen) -> None:
        added = seen.main
        if added is None or (self._residual is not None and self._residual.shape != added.shape):
            # No block, or a stream that changes its shape: there is no residual of all blocks.
            self._possible = False
            return
        self._residual = added if self._residual is None else self._residual + added

    def end_evaluation(self, place: Place) -> None:
        residual, self._residual = self._residual, None
        if not self._possible or residual is None:
            return
        norms = torch.linalg.vector_norm(residual.float(), dim=-1)
        ratio = 1.0
        if place.step:
            ratio = (norms / (self._before[place.lane] + 1e-8)).mean().item()
        self._before[place.lane] = norms
        self._sums[place.lane, place.step] += ratio
        self._runs += place.lane == 0 and place.step == 0

    def result(self) -> npt.NDArray[np.float64]:
        """[calls per step, steps], or [0, 0] where there is no such residual."""
        return self._sums / self._runs if self._possible and self._runs else np.zeros((0, 0))


class MeanOutputs:
    """The mean output of every branch over the rows with a condition: EOC's prior.

    Those are the first half of a batch with `halves`, or all rows of the first call.
    """

    def __init__(self, branches: int, steps: int, *, halves: bool) -> None:
        self._branches, self._steps, self._halves = branches, steps, halves
        self._sums: dict[tuple[int, int], Tensor] = {}
        self._count = 0

    def see(self, seen: Seen) -> None:
        if seen.place.lane:
            return
        cell = (seen.place.step, seen.call[0])
        if len(seen.outputs) != 1:
            raise ValueError(
                f"calibrate: a branch gives {len(seen.outputs)} tensors, and a prior is of one; "
                "calibrate with prior=False"
            )
        rows = seen.outputs[0].float()
        rows = rows[: len(rows) // 2] if self._halves else rows
        total = rows.sum(dim=0).cpu()
        self._sums[cell] = self._sums[cell] + total if cell in self._sums else total
        self._count += len(rows) if cell == (0, 0) else 0

    def end_evaluation(self, place: Place) -> None:
        """Nothing is left to do."""

    def result(self) -> npt.NDArray[np.float32]:
        """[steps, branches, T, D]."""
        cells = [[self._sums[s, k] for k in range(self._branches)] for s in range(self._steps)]
        table = torch.stack([torch.stack(row) for row in cells]) / self._count
        prior: npt.NDArray[np.float32] = table.numpy()
        return prior


class Judgement:
    """Where EOC's correction by a prior is nearer to what a branch gives than plain reuse is.

    In runs that the prior is not from, F_n-1 and F_n-1 (1 + theta trend) are compared with F_n.
    """

    def __init__(self, corrector: EOC, branches: int, steps: int) -> None:
        self._corrector = corrector
        self._gains = np.zeros((steps, branches))
        self._before: dict[tuple[int, int], Tensor] = {}

    def see(self, seen: Seen) -> None:
        (branch, _), (lane, step) = seen.call, seen.place
        now = seen.outputs[0].float()
        if step:
            kept = self._before[lane, branch]
            trend = torch.from_numpy(self._corrector.trend(step, branch)).to(now)
            corrected = kept * (1 + self._corrector.theta * trend)
            gain = (kept - now).square().sum() - (corrected - now).square().sum()
            self._gains[step, branch] += gain.item()
        self._before[lane, branch] = now.clone()

    def end_evaluation(self, place: Place) -> None:
        """Nothing is left to do."""

    def result(self) -> npt.NDArray[np.bool_]:
        """[steps, branches], True where the correction lowers the error."""
        return self._gains > 0


def float_sum(tensor: Tensor) -> Tensor:
    """The sum of absolute values, in float32 at least."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    total: Tensor = torch.linalg.vector_norm(tensor, 1, dtype=wide)
    return total
